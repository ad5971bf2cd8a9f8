//! Whoever owes something and dies, stops or forgets: it is settled, by name, and by the moment it was owed.
//!
//! | owed | by | killed | stopped |
//! |---|---|---|---|
//! | a job | a driver | `DeviceLost`, at once | `TimedOut`, 100 ms after it was ready |
//! | a promised point | a client | `OwnerDied`, at once | `TimedOut`, at the promise's end |
//! | a point that a job waits for, not promised yet | whoever signals | `OwnerDied`, at once | `TimedOut`, at the wait's own end |
//! | an import | a porter | `Gone`, at once | `Late`, after 100 ms |
//!
//! The broker knows all of them before they are late ([`every_obligation_has_an_owner_and_a_deadline`]); and who merely
//! closes what it owes has broken no promise, but nobody waits for it in vain either.
//! `vgem_tests::chaos` plays all of this at random; here it is one at a time, each with its bound.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use vgem::{
    Buffer, Client, ClientOptions, Deadline, Error, ErrorCode, Explanation, Fence, Queue, Timeline,
    TimelineRights, TimelineToken,
};
use vgem_tests::chaos::actor::Actor;
use vgem_tests::chaos::pressure;
use vgem_tests::chaos::words::{Order, Role};
use vgem_tests::daemon::{Daemon, Serving, USERS};
use vgem_tests::processes;
use vgem_tests::stranger::Stranger;

/// What a job, a promise or an import may take.
const OWED: Duration = Duration::from_millis(100);
/// How late its settlement may be.
const SLACK: Duration = Duration::from_millis(50);
/// Nobody waits for so long.
const NEVER: Duration = Duration::from_secs(10);

/// A daemon with short deadlines, a client of it, and somebody of the same domain who owes.
struct Rig {
    owner: Actor,
    client: Client,
    queue: Queue,
    buffer: Buffer,
    daemon: Serving,
}

impl Rig {
    fn new() -> Self {
        let daemon = Daemon::system().config("[times]\nscheduling_ms = 20\nimport_ms = 100").start();
        let client = Client::connect(daemon.socket()).expect("a client");
        let queue = client.device("copy").and_then(|copy| copy.queue(0)).expect("a queue");
        let buffer = client.create(4096).expect("a buffer");
        // Root, as this process: only who signals in one's own domain may hold up one's jobs.
        let owner = Actor::start(Role::Stage, 0);
        owner.connect(&daemon.socket());
        Self { owner, client, queue, buffer, daemon }
    }

    /// The owner's timeline, seen by this client.
    fn line(&self, client: &Client) -> Timeline {
        client.import_timeline(TimelineToken::from_bytes(self.owner.offer())).expect("a timeline")
    }

    fn driver(&self) -> u32 {
        let devices = self.client.device_entries().expect("devices");
        let copy = devices.iter().find(|device| device.name == "copy").expect("it is there");
        copy.instances.first().expect("it runs").pid
    }

    /// A job that a device would do at once.
    fn job(&self, gate: Option<Fence>) -> Fence {
        let mut batch = self.client.batch();
        let job = batch.job(&self.queue, "fill").output(&self.buffer).timeout(Duration::from_millis(80));
        if let Some(gate) = &gate {
            drop(job.after(gate));
        }
        batch.submit_acknowledged().expect("accepted").last().clone()
    }
}

/// Strikes, and sees how each of these waits ends; within which time.
fn settled(pid: u32, signal: &str, within: Duration, waits: &[Fence]) -> Vec<(ErrorCode, Explanation)> {
    let (begun, waited) = (Instant::now(), pressure::waited());
    processes::signal(pid, signal);
    let ends = waits.iter().map(|fence| match fence.wait(NEVER).map_err(Error::from) {
        Err(Error::Job(failure)) => {
            let told = failure.explanation.as_deref().unwrap_or_else(|| panic!("{failure} is not explained"));
            (failure.code, told.clone())
        }
        other => panic!("{other:?} instead of a failure"),
    });
    let ends = ends.collect();
    let crowded = pressure::waited().saturating_sub(waited);
    let bound = within + SLACK + crowded;
    assert!(begun.elapsed() <= bound, "{:?}, {bound:?} is the bound", begun.elapsed());
    ends
}

/// All waits ended with this code, and their explanations are one and the same, which names the process.
fn named(ends: &[(ErrorCode, Explanation)], code: ErrorCode, pid: u32) {
    for (found, told) in ends {
        assert_eq!((*found, told.pid), (code, Some(pid)), "{told}");
        assert_eq!(told.cause, ends[0].1.cause, "one cause");
    }
}

#[test]
fn l4_what_a_killed_driver_owed_is_lost_at_once_with_its_name() {
    let rig = Rig::new();
    let driver = rig.driver();
    processes::signal(driver, "STOP");
    let waits = [rig.job(None), rig.job(None)];
    let ends = settled(driver, "KILL", Duration::ZERO, &waits);
    named(&ends, ErrorCode::DeviceLost, driver);
    assert_eq!(ends[0].1.device.as_deref(), Some("copy"));
}

#[test]
fn f7_what_a_stopped_driver_owes_is_late_at_its_deadline_and_the_driver_is_ended() {
    let rig = Rig::new();
    let driver = rig.driver();
    processes::signal(driver, "STOP");
    let ends = settled(driver, "STOP", OWED, &[rig.job(None)]);
    named(&ends, ErrorCode::TimedOut, driver);
    processes::until(Duration::from_secs(5), "the driver is ended", || !processes::is_alive(driver));
}

#[test]
fn l3_what_a_killed_client_promised_fails_with_owner_died_at_once() {
    let rig = Rig::new();
    let line = rig.line(&rig.client);
    rig.owner.must(&Order::Owe(5_000), &[]);
    let point = line.point(vgem::Point(1));
    let waits = [point.clone(), rig.job(Some(point))];
    let ends = settled(rig.owner.pid(), "KILL", Duration::ZERO, &waits);
    named(&ends, ErrorCode::OwnerDied, rig.owner.pid());
}

#[test]
fn another_domain_that_waits_for_a_dead_client_learns_that_it_died_and_no_more() {
    let rig = Rig::new();
    let mut line = rig.line(&rig.client);
    let mut stranger = Stranger::of_uid(USERS[0]);
    let guest = ClientOptions::new().over(stranger.connect(&rig.daemon.socket())).expect("a client");
    let theirs =
        guest.import_timeline(line.export(TimelineRights::WAIT).expect("a token")).expect("a timeline");
    rig.owner.must(&Order::Owe(5_000), &[]);
    processes::signal(rig.owner.pid(), "KILL");
    let ended = theirs.point(vgem::Point(1)).wait(NEVER).map_err(Error::from);
    let Err(Error::Job(failure)) = ended else { panic!("{ended:?}") };
    assert_eq!(failure.code, ErrorCode::OwnerDied, "{failure}");
    // Who that was is the business of its own domain.
    let pid = rig.owner.pid().to_string();
    assert!(!failure.to_string().contains("stage") && !failure.to_string().contains(&pid), "{failure}");
}

#[test]
fn t43_a_client_that_stands_still_breaks_its_promise_at_the_promises_end() {
    let rig = Rig::new();
    let line = rig.line(&rig.client);
    rig.owner.must(&Order::Owe(100), &[]);
    let point = line.point(vgem::Point(1));
    let waits = [point.clone(), rig.job(Some(point))];
    let ends = settled(rig.owner.pid(), "STOP", OWED, &waits);
    named(&ends, ErrorCode::TimedOut, rig.owner.pid());
    assert!(ends[0].1.text.contains("promised point 1"), "{}", ends[0].1);
}

#[test]
fn who_closes_what_it_promised_says_so() {
    let rig = Rig::new();
    let line = rig.line(&rig.client);
    rig.owner.must(&Order::Owe(5_000), &[]);
    let point = line.point(vgem::Point(1));
    let waits = [point.clone(), rig.job(Some(point))];
    // Another timeline takes the place of this one.
    let _other = rig.owner.offer();
    for wait in &waits {
        let Err(Error::Job(failure)) = wait.wait(NEVER).map_err(Error::from) else { panic!("it is closed") };
        let told = failure.explanation.as_ref().expect("explained");
        assert_eq!((failure.code, told.pid), (ErrorCode::Cancelled, Some(rig.owner.pid())), "{failure}");
        assert!(told.text.contains("closed its timeline"), "{told}");
    }
}

#[test]
fn t1_a_point_that_nobody_promises_is_waited_for_until_the_waits_own_end() {
    let rig = Rig::new();
    let line = rig.line(&rig.client);
    let begun = Instant::now();
    let job = rig.job(Some(line.point(vgem::Point(1)).promised_by(Deadline::after(OWED))));
    let ends = settled(rig.owner.pid(), "STOP", OWED, &[job]);
    assert!(begun.elapsed() >= OWED, "{:?}", begun.elapsed());
    named(&ends, ErrorCode::TimedOut, rig.owner.pid());
}

#[test]
fn a_point_that_nobody_promised_fails_at_once_when_its_signaller_dies() {
    let rig = Rig::new();
    let line = rig.line(&rig.client);
    let job = rig.job(Some(line.point(vgem::Point(1)).promised_by(Deadline::after(NEVER))));
    let ends = settled(rig.owner.pid(), "KILL", Duration::ZERO, &[job]);
    named(&ends, ErrorCode::OwnerDied, rig.owner.pid());
}

/// The process of the only porter there is, once there is one.
fn porter(rig: &Rig) -> u32 {
    drop(rig.client.import_fd(rig.buffer.export(vgem::Access::Read).expect("an export")).expect("our own"));
    let is_porter = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("porter")
    };
    processes::tree(rig.daemon.pid()).into_iter().find(is_porter).expect("a porter")
}

#[test]
fn t10_an_import_whose_porter_stands_still_is_late_after_its_time() {
    let rig = Rig::new();
    let porter = porter(&rig);
    let export = rig.buffer.export(vgem::Access::Read).expect("an export");
    processes::signal(porter, "STOP");
    let (begun, waited) = (Instant::now(), pressure::waited());
    let refused = rig.client.import_fd(export).expect_err("nobody looks at it");
    let crowded = pressure::waited().saturating_sub(waited);
    assert!(begun.elapsed() < OWED + SLACK + crowded, "{:?}", begun.elapsed());
    assert_eq!(refused.code(), Some(ErrorCode::Late));
    assert!(refused.to_string().contains("porter"), "{refused}");
    processes::until(Duration::from_secs(5), "the porter is ended", || !processes::is_alive(porter));
}

#[test]
fn an_import_whose_porter_dies_is_refused_at_once_and_the_next_has_another_porter() {
    let rig = Rig::new();
    let porter = porter(&rig);
    let export = || rig.buffer.export(vgem::Access::Read).expect("an export");
    processes::signal(porter, "STOP");
    std::thread::scope(|scope| {
        let import = scope.spawn(|| rig.client.import_fd(export()));
        std::thread::park_timeout(Duration::from_millis(20));
        processes::signal(porter, "KILL");
        // It goes to another porter, or is refused by the name of the first one.
        if let Err(refused) = import.join().expect("no panic") {
            assert!(refused.to_string().contains("porter"), "{refused}");
        }
    });
    rig.client.import_fd(export()).expect("another porter");
}

/// Before anything is late: who owes what, since when, until when.
#[test]
fn every_obligation_has_an_owner_and_a_deadline() {
    let rig = Rig::new();
    let line = rig.line(&rig.client);
    rig.owner.must(&Order::Owe(5_000), &[]);
    let driver = rig.driver();
    processes::signal(driver, "STOP");
    let promised = rig.job(Some(line.point(vgem::Point(1))));
    let awaited = rig.job(Some(line.point(vgem::Point(2)).promised_by(Deadline::after(OWED))));
    let obligations = rig.client.obligation_entries().expect("obligations");
    let now = vgem_os::clock::now();
    let mut kinds: Vec<(&str, u32)> = obligations.iter().map(|one| (&one.kind[..], one.pid)).collect();
    kinds.sort_unstable();
    let owner = rig.owner.pid();
    assert_eq!(
        kinds,
        [("job", driver), ("job", driver), ("promise", owner), ("submission", owner)],
        "{obligations:#?}"
    );
    for one in &obligations {
        assert!(one.since_ns > 0 && one.since_ns <= now, "{one:?}");
        // What only waits for others has no clock of its own yet: it is theirs that runs.
        assert!(one.due_ns > one.since_ns || !one.waits.is_empty() || one.state == "queued", "{one:?}");
    }
    processes::signal(driver, "CONT");
    drop((promised, awaited));
}
