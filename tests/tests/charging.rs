//! Who pays: the client's control group for every page, whoever else maps, locks, reads or writes it.
//!
//! The daemon, all of it, is in one control group of memory, clients are in others. What is compared is what the kernel
//! charged to each, page tables and kernel memory included.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vgem::Client;
use vgem_tests::cgroups::MemoryGroup;
use vgem_tests::daemon::{Daemon, Serving};
use vgem_tests::honest::Honest;
use vgem_tests::{processes, programs};

const MIB: u64 = 1 << 20;
/// What the daemon may grow by while a client fills 1 GiB: its tables, and page tables of what it maps.
const FLAT: u64 = 8 * MIB;

/// Memory of the machine is what these tests are about, so one at a time runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client that fills buffers, in a control group.
struct Filler {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Filler {
    fn start(daemon: &Serving, group: &MemoryGroup, mib: u64, count: u64) -> Self {
        let mut command = Command::new(programs::own("vgem-test-filler"));
        command.arg(daemon.socket()).arg(group.procs()).arg(mib.to_string()).arg(count.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines }
    }

    /// What it says next; empty when it has ended.
    fn says(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a pipe");
        line.trim().to_owned()
    }

    fn fills(&mut self) {
        loop {
            match &self.says()[..] {
                "filled" => return,
                "" => panic!("it ended before it had filled everything"),
                _ => {}
            }
        }
    }

    fn ends(mut self) -> std::process::ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("a child of ours")
    }
}

fn quiet(client: &Client) -> bool {
    let status = client.status().expect("a status");
    (status.objects, status.object_bytes, status.pinned_bytes) == (1, 4096, 4096)
}

#[test]
fn a_gibibyte_is_charged_to_the_client_that_fills_it_and_the_daemon_stays_flat() {
    let _alone = alone();
    let ours = MemoryGroup::new("daemon");
    let daemon = Daemon::system().cgroup(&ours.procs()).start();
    let client = Client::connect(daemon.socket()).expect("a client");
    let honest = Honest::new(Client::connect(daemon.socket()).expect("a client"));
    // Once round everything, so that programs and first pages are there.
    let warm = MemoryGroup::new("warm");
    let mut filler = Filler::start(&daemon, &warm, 16, 2);
    filler.fills();
    assert!(filler.ends().success());
    drop(warm);
    honest.round();
    processes::until(Duration::from_secs(5), "the first round is over", || quiet(&client));
    let (before, shared_before) = (ours.charged(), ours.shared());

    let theirs = MemoryGroup::new("client");
    let mut filler = Filler::start(&daemon, &theirs, 64, 16);
    filler.fills();
    let (during, shared) = (ours.charged(), ours.shared());
    let charged = theirs.charged();
    let status = client.status().expect("a status");
    eprintln!(
        "client charged {charged}, of that shared {}; daemon {before} before and {during} with it, grown by {}, \
         of that shared {}",
        theirs.shared(),
        during.saturating_sub(before),
        shared.saturating_sub(shared_before),
    );
    assert!(theirs.shared() >= 1024 * MIB, "the client is charged for its pages");
    assert!(during.saturating_sub(before) <= FLAT, "the daemon grew from {before} to {during} bytes");
    // Fence pages are the daemon's own.
    assert!(shared.saturating_sub(shared_before) < MIB, "pages of objects are charged to the daemon");
    assert_eq!(status.object_bytes, 1024 * MIB + 4096);
    assert_eq!(status.pinned_bytes, 1024 * MIB + 4096, "the keeper locks all of it");

    assert!(filler.ends().success());
    processes::until(Duration::from_secs(5), "its objects are freed", || quiet(&client));
    processes::until(Duration::from_secs(5), "its pages are given back", || theirs.charged() < 32 * MIB);
    let after = ours.charged();
    eprintln!("daemon {after} afterwards");
    assert!(after.saturating_sub(before) <= FLAT, "the daemon kept {before} to {after} bytes");
}

#[test]
fn f9_a_client_over_its_limit_is_the_one_that_is_killed_and_its_objects_are_retired() {
    let _alone = alone();
    let ours = MemoryGroup::new("daemon");
    let daemon = Daemon::system().cgroup(&ours.procs()).start();
    let client = Client::connect(daemon.socket()).expect("a client");
    let honest = Honest::new(Client::connect(daemon.socket()).expect("a client"));
    honest.round();
    let pids = processes::tree(daemon.pid());
    let theirs = MemoryGroup::new("client");
    theirs.limit(128 * MIB);
    let mut filler = Filler::start(&daemon, &theirs, 16, 64);
    let mut made = 0;
    loop {
        let said = filler.says();
        assert_ne!(said, "filled", "it had 1 GiB in 128 MiB: its pages are charged to somebody else");
        if said.is_empty() {
            break;
        }
        made += 1;
        honest.round();
    }
    let status = filler.ends();
    assert_eq!(status.signal(), Some(9), "{status}");
    assert!(theirs.killed() >= 1, "by the kernel, for its memory");
    assert!((2..8).contains(&made), "{made} of 16 MiB each within 128 MiB");
    assert_eq!(ours.killed(), 0, "nobody of the daemon");
    honest.round();
    processes::until(Duration::from_secs(5), "its objects are retired", || quiet(&client));
    let now = processes::tree(daemon.pid());
    assert!(pids.iter().all(|pid| now.contains(pid)), "every process of the daemon is the one it was");
}

/// A page that a stranger touches first is charged to the stranger (T29), and a punched one to who fills it again.
#[test]
fn t29_who_fills_a_page_pays_for_it_not_who_owns_the_object() {
    use serde_json::json;
    use std::os::fd::AsFd as _;
    use vgem_tests::raw::Raw;
    use vgem_tests::stranger::{Stranger, Who};

    let _alone = alone();
    let ours = MemoryGroup::new("daemon");
    let daemon = Daemon::system().cgroup(&ours.procs()).start();
    let theirs = MemoryGroup::new("stranger");
    let mut stranger = Stranger::start_as(&Who { cgroup: Some(theirs.procs()), ..Who::default() });
    let mut raw = Raw::greeted(&daemon.socket());
    let before = (ours.shared(), theirs.shared());
    let (objects, fds) = raw.several(64 * MIB, 1);
    stranger.must(json!({ "do": "touch", "len": 64 * MIB }), &[fds[0].as_fd()]);
    raw.commit(&objects);
    assert_eq!(ours.shared(), before.0, "commit touches nothing");
    assert_eq!(theirs.shared() - before.1, 64 * MIB);
    // It stays so when the one that paid is gone.
    stranger.kill();
    assert_eq!(theirs.shared() - before.1, 64 * MIB);
    drop(fds);
    raw.close(objects[0]);
    processes::until(Duration::from_secs(5), "freed", || raw.status().objects == 0);
    assert_eq!(theirs.shared(), before.1);
}

// M-176
/// A ring is charged to the client that it is for, but for the page that the broker writes its header to.
#[test]
fn t29_a_client_pays_for_its_rings() {
    use serde_json::json;
    use std::os::fd::AsFd as _;
    use vgem_proto::codec::Zero;
    use vgem_proto::layout::user_queue;
    use vgem_proto::message::client::{AttachRing, ClientMessage, CommitRing, Done};
    use vgem_tests::raw::Raw;
    use vgem_tests::stranger::{Stranger, Who};

    let _alone = alone();
    let ours = MemoryGroup::new("daemon");
    let daemon = Daemon::system().cgroup(&ours.procs()).start();
    let theirs = MemoryGroup::new("stranger");
    let mut stranger = Stranger::start_as(&Who { cgroup: Some(theirs.procs()), ..Who::default() });
    let mut raw = Raw::greeted(&daemon.socket());
    let device = raw.device("copy");
    let queue = raw.queue(device, 0);
    let before = (ours.shared(), theirs.shared());
    let answer = raw.ask(AttachRing { queue, depth: 4096, reserved: Zero });
    assert!(matches!(answer, ClientMessage::RingAttached(_)), "{answer:?}");
    let ring = raw.fds.pop().expect("the ring");
    let len = user_queue::len(4096) as u64;
    stranger.must(json!({ "do": "touch", "len": len }), &[ring.as_fd()]);
    assert_eq!(raw.ask(CommitRing { queue }), Done {}.into());
    assert_eq!(theirs.shared() - before.1, len - 4096);
    assert!(ours.shared() - before.0 <= 4096, "the header at most");
}
