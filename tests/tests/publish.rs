//! Entries of a user queue that are published, against a real broker and the drivers that ship: who uses the same memory by
//! jobs waits for them, another user too, and hears why one failed; an entry that never comes harms nobody.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use vgem::{
    Access, AddressRange, Binding, Buffer, Client, ClientOptions, Deadline, ErrorCode, Fence, FenceError,
    JobFailure, Point, Queue, Slice, Sva, UserQueue, UserQueueOptions,
};
use vgem_tests::daemon::{Daemon, Serving, USERS};
use vgem_tests::processes;
use vgem_tests::stranger::Stranger;

const LEN: u64 = 4 << 20;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// Somebody who fills memory through a user queue of `copy`, and another user who packs it with `zip`, by jobs.
struct Pair {
    daemon: Serving,
    consumer: Client,
    ring: UserQueue,
    filled: Buffer,
    bound: Binding,
    /// The same memory, as the other has it.
    theirs: Buffer,
    zip: Queue,
}

fn client_of(daemon: &Serving, uid: u32) -> Client {
    let socket = Stranger::of_uid(uid).connect(&daemon.socket());
    ClientOptions::new().name("publishes").over(socket).expect("a client")
}

impl Pair {
    fn new() -> Self {
        Self::with(Sva::Off)
    }

    fn with(sva: Sva) -> Self {
        let daemon = Daemon::system().start();
        let [producer, consumer] = USERS.map(|uid| client_of(&daemon, uid));
        let options = UserQueueOptions::new().depth(64).sva(sva);
        let ring =
            producer.device("copy").and_then(|copy| copy.user_queue_with(options)).expect("a user queue");
        let filled = producer.create(LEN).expect("memory");
        let bound = ring.bind(&filled, Access::Write).expect("bound");
        let export = filled.export(Access::Read).expect("ours");
        let theirs = consumer.import_fd(export).expect("an export");
        let zip = consumer.device("zip").and_then(|zip| zip.queue(0)).expect("a queue");
        Self { daemon, consumer, ring, filled, bound, theirs, zip }
    }

    fn all(&self) -> [(Slice<'_>, Access); 1] {
        [(self.filled.slice(..), Access::Write)]
    }

    fn publish(&self, point: u64, until: impl Into<Deadline>) -> Fence {
        self.ring.publish(Point(point), &self.all(), until).expect("accepted")
    }

    fn fill(&self, to: impl Into<AddressRange>, byte: u64) -> vgem::Ticket {
        let entry = self.ring.entry("fill").output(to.into()).param("byte", byte);
        entry.push(soon()).expect("pushed")
    }

    /// Has the other user pack what is filled, and unpack it again.
    fn packs(&self) -> (Fence, Buffer) {
        let [packed, back] = [2 * LEN, LEN].map(|len| self.consumer.create(len).expect("memory"));
        let cells = self.consumer.cells(1).expect("a cell");
        let mut batch = self.consumer.batch();
        batch.job(&self.zip, "compress").input(&self.theirs).output(&packed).result(cells.at(0));
        let produced = vgem::CellWord::Produced;
        batch.job(&self.zip, "decompress").input_from(&packed, cells.at(0), produced).output(&back);
        (batch.submit_acknowledged().expect("accepted").last().clone(), back)
    }

    fn lost(&self) -> u64 {
        let root = Client::connect(self.daemon.socket()).expect("a client");
        root.status().expect("a status").counters.instances_lost
    }
}

fn failure(fence: &Fence) -> JobFailure {
    match fence.wait(soon()) {
        Err(FenceError::Failed(failure)) => *failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn r7_another_users_job_on_another_device_waits_for_a_published_entry_and_reads_what_it_wrote() {
    let pair = Pair::new();
    for (round, byte) in (1..=20).zip([7, 0, 255, 41].into_iter().cycle()) {
        let published = pair.publish(round, soon());
        let (packed, back) = pair.packs();
        assert!(!packed.has_ended() && !published.has_ended(), "nothing was pushed yet");
        pair.fill(pair.bound, byte);
        packed.wait(soon()).expect("it read what was filled");
        published.wait(soon()).expect("it ended well");
        let read = back.read(.., soon()).expect("ours");
        assert!(read.iter().all(|found| u64::from(*found) == byte), "round {round}");
        pair.ring.wait_all(soon()).expect("all are well");
    }
}

/// The ring is served by a process of the producer's own, and the job that publishes by another one.
#[test]
fn an_entry_that_reaches_memory_of_its_process_is_published_as_any_other() {
    let pair = Pair::with(Sva::Read);
    let published = pair.publish(2, soon());
    let (packed, back) = pair.packs();
    let own = vec![0x5a_u8; usize::try_from(LEN).expect("it fits")];
    pair.fill(pair.bound, 1);
    let from = AddressRange::new(own.as_ptr().addr() as u64, LEN);
    pair.ring.entry("copy").input(from).output(pair.bound).push(soon()).expect("pushed");
    published.wait(soon()).expect("it ended well");
    packed.wait(soon()).expect("it read what was copied");
    assert!(back.read(.., soon()).expect("ours").iter().all(|byte| *byte == 0x5a));
    pair.ring.wait_all(soon()).expect("all are well");
}

#[test]
fn whoever_is_quicker_entry_or_publication_the_reader_has_the_bytes() {
    let pair = Pair::new();
    for round in 1..=200 {
        let bytes = pair.bound.range(..4096);
        pair.fill(bytes, round % 256);
        let published = pair.publish(round, soon());
        published.wait(soon()).expect("it ended well");
        assert_eq!(u64::from(pair.theirs.read(..4096, soon()).expect("shared")[4095]), round % 256);
        pair.ring.wait_all(soon()).expect("all are well");
    }
}

#[test]
fn r5_who_reads_what_a_failed_entry_was_to_write_fails_with_the_same_cause() {
    let pair = Pair::new();
    let published = pair.publish(1, soon());
    let (packed, _back) = pair.packs();
    let (long, short) = (pair.bound.range(..8192), pair.bound.range(8192..8200));
    let bad = pair.ring.entry("copy").input(long).output(short).push(soon()).expect("pushed");
    let told = pair.ring.wait(bad, soon()).expect_err("it does not fit");
    let [first, second] = [failure(&published), failure(&packed)];
    assert_eq!((first.code, told.code()), (ErrorCode::OutputTooSmall, Some(ErrorCode::OutputTooSmall)));
    assert_eq!(second.cause, first.cause);
    // Of another user's, and still it is said what it was.
    let explained = second.explanation.expect("it is explained").to_string();
    assert!(explained.contains("copy"), "{explained}");
    // What is written anew is good again.
    pair.fill(pair.bound, 9);
    pair.publish(2, soon()).wait(soon()).expect("it ended well");
    let (packed, back) = pair.packs();
    packed.wait(soon()).expect("it was filled");
    assert_eq!((back.read(..1, soon()).expect("ours")[0], pair.lost()), (9, 0));
}

#[test]
fn t44_an_entry_that_never_comes_fails_who_waits_for_it_at_its_deadline_and_resets_nothing() {
    let pair = Pair::new();
    let begun = Instant::now();
    let published = pair.publish(9, Duration::from_millis(300));
    let (packed, _back) = pair.packs();
    let failed = failure(&published);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(failed.code, ErrorCode::TimedOut);
    let said = failed.to_string();
    assert!(said.contains("entry 9 of the user queue") && said.contains("on device copy"), "{said}");
    assert_eq!((failure(&packed).cause, pair.lost()), (failed.cause, 0));
    // Everybody goes on.
    pair.fill(pair.bound, 5);
    pair.publish(1, soon()).wait(soon()).expect("the queue goes on");
    let (packed, back) = pair.packs();
    packed.wait(soon()).expect("it was filled");
    assert_eq!((back.read(..1, soon()).expect("ours")[0], pair.lost()), (5, 0));
}

#[test]
fn l4_the_driver_dies_and_who_waits_for_its_entries_hears_it_at_once() {
    let pair = Pair::new();
    let published = pair.publish(1000, soon());
    let (packed, _back) = pair.packs();
    let root = Client::connect(pair.daemon.socket()).expect("a client");
    let entries = root.device_entries().expect("devices");
    let copy = entries.into_iter().find(|device| device.name == "copy").expect("it is there");
    let pid = copy.instances.iter().find(|one| one.domain == USERS[0]).expect("it runs").pid;
    processes::signal(pid, "KILL");
    let begun = Instant::now();
    let [first, second] = [failure(&published), failure(&packed)];
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((first.code, second.cause), (ErrorCode::DeviceLost, first.cause));
    let refused = pair.ring.publish(Point(1), &pair.all(), soon()).expect_err("it is over");
    assert_eq!(refused.code(), Some(ErrorCode::Gone), "{refused}");
}

#[test]
fn a_queue_that_is_dropped_cancels_what_has_not_ended_of_what_it_published() {
    let pair = Pair::new();
    pair.fill(pair.bound, 1);
    let [done, never] = [1, 2].map(|point| pair.publish(point, soon()));
    done.wait(soon()).expect("it ended well");
    drop(pair.ring);
    assert_eq!(failure(&never).code, ErrorCode::Cancelled);
}

#[test]
fn what_cannot_be_published_is_refused_with_the_value_and_nothing_is_left() {
    let pair = Pair::new();
    let hour = Deadline::after(Duration::from_secs(3600));
    let far = pair.ring.publish(Point(1), &pair.all(), hour).expect_err("too far").to_string();
    assert!(far.contains("a point of a user queue is to pass within 60000 ms from now"), "{far}");
    let late = pair.ring.publish(Point(1), &pair.all(), Deadline::after(Duration::ZERO));
    assert_eq!(late.expect_err("it has passed").code(), Some(ErrorCode::OutOfRange));
    // The other may only read it.
    let theirs = pair.consumer.device("copy").and_then(|copy| copy.user_queue(8)).expect("a ring");
    let denied = theirs.publish(Point(1), &[(pair.theirs.slice(..), Access::Write)], soon());
    assert!(denied.is_err());
    let (packed, _back) = pair.packs();
    packed.wait(soon()).expect("nobody is waited for");
}
