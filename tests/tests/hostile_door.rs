//! Who comes to the socket of everybody, and connects without end: others come in as before.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use serde_json::json;
use vgem_tests::daemon::{Daemon, USERS};
use vgem_tests::honest::percentile;
use vgem_tests::raw::Raw;
use vgem_tests::stranger::Stranger;

/// Connections of the honest user.
const TIMES: usize = 100;
/// What half of them take at most: what one look at many connections may take, many times. With one rate for all, each would
/// wait for all that the backlog holds, more than 100 ms.
const SOON: Duration = Duration::from_millis(30);

// M-270
#[test]
fn atk_one_user_who_connects_without_end_is_no_wait_for_others() {
    let daemon = Daemon::system().start();
    let mut flood = Stranger::of_uid(USERS[0]);
    let path = daemon.socket();
    flood.begin(&json!({ "do": "flood", "path": path, "ms": 3000, "open": 600 }), &[]);
    // Once its own burst is in.
    std::thread::park_timeout(Duration::from_millis(500));
    let begun = Instant::now();
    let mut times = Vec::new();
    while times.len() < TIMES && begun.elapsed() < Duration::from_secs(2) {
        let asked = Instant::now();
        drop(Raw::greeted(&path));
        times.push(asked.elapsed());
    }
    let (answer, _) = flood.answer().expect("it lives");
    let (half, worst) = (percentile(times.clone(), 50), percentile(times.clone(), 100));
    eprintln!("{} connections beside {answer}: median {half:?}, worst {worst:?}", times.len());
    let tries = ["often", "full"].iter().filter_map(|word| answer[word].as_u64()).sum::<u64>();
    assert!(tries > 10_000, "that is no flood: {answer}");
    assert!(half <= SOON, "median {half:?}, worst {worst:?}");
}

/// Many connections of one user at once are all let in.
#[test]
fn a_burst_of_one_user_is_let_in() {
    let daemon = Daemon::system().start();
    let links: Vec<Raw> = (0..250).map(|_| Raw::stranger(&daemon.socket())).collect();
    let welcomed = links.into_iter().filter_map(|link| Raw::welcomed(link.socket)).count();
    assert_eq!(welcomed, 250);
}
