//! A user queue in real memory: what the broker hands out, what each side accepts, and two processes over it.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::AsFd as _;

use rustix::fs::SealFlags;
use rustix::io::Errno;
use support::{Peer, Side, patience};
use vgem_os::clock;
use vgem_os::futex::{Wake, wait_any};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory};
use vgem_os::ring::{
    Completer, Consumer, Done, KeeperRing, Over, Popped, Producer, PushError, ReapError, Reaper, map_client,
    map_driver,
};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Point, Time};
use vgem_proto::layout::user_queue as u;
use vgem_proto::user_queue::{Arguments, Call, Depth, Entry, Order, VaRange, Work};

const LOST: Failure = Failure { code: ErrorCode::DeviceLost, cause: CauseId(5) };
const OVER: Over = Over { failure: LOST, corruption: None };

fn depth(entries: u32) -> Depth {
    Depth::new(entries).unwrap()
}

fn entry(user: u64) -> Entry {
    let range = VaRange::new(0x1000, 64).ok();
    let call = Call { op: 0, operands: [range, None], arguments: Arguments::NONE };
    Entry { user, order: Order::empty(), work: Work::Call(call) }
}

fn client_of(keeper: &KeeperRing) -> (Producer, Reaper) {
    map_client(keeper.export().unwrap().as_fd()).unwrap()
}

fn driver_of(keeper: &KeeperRing) -> (Consumer, Completer) {
    map_driver(keeper.export().unwrap().as_fd()).unwrap()
}

/// Takes entries and completes them with three times their number, until told to stop or the deadline.
fn serve(consumer: &mut Consumer, completer: &mut Completer, entries: u64) {
    let mut served = 0;
    while served < entries {
        assert!(consumer.wait(patience()).unwrap(), "entries come");
        for popped in consumer.turn(16) {
            let Popped { owed, entry } = popped.unwrap();
            let value = 3 * entry.unwrap().user;
            completer.put(owed, Done { value, ..Done::OK }, Time(clock::now()));
            served += 1;
        }
        completer.ring();
    }
}

#[test]
fn the_memory_can_neither_change_its_length_nor_be_sealed() {
    let keeper = KeeperRing::create(depth(8)).unwrap();
    let fd = keeper.export().unwrap();
    let seals = rustix::fs::fcntl_get_seals(&fd).unwrap();
    assert!(seals.contains(SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL)));
    assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE), Err(Errno::PERM));
}

#[test]
fn an_entry_and_its_completion_pass_between_two_mappings() {
    let keeper = KeeperRing::create(depth(64)).unwrap();
    let (mut producer, mut reaper) = client_of(&keeper);
    let (mut consumer, mut completer) = driver_of(&keeper);
    for user in 1..=200 {
        producer.push(&entry(user)).unwrap();
        serve(&mut consumer, &mut completer, 1);
        let completion = reaper.reap().unwrap().unwrap();
        assert_eq!((completion.point, completion.value), (Point(user), 3 * user));
    }
    assert_eq!((producer.depth(), consumer.depth(), keeper.depth()), (depth(64), depth(64), depth(64)));
}

/// What is written into a header, and whether it is a user queue then.
fn accepted(len: u64, first: u64, entries: u32) -> bool {
    let memory = ObjectMemory::create(len, HugePages::None, "ring").unwrap();
    let fd = memory.export(Access::Write).unwrap();
    let mapping = Mapping::map(fd.as_fd(), 4096, Access::Write, Populate::Now).unwrap();
    let span = mapping.span_mut().unwrap();
    span.write_u64(u::H_MAGIC, first).unwrap();
    span.write_u64(u::H_DEPTH, entries.into()).unwrap();
    let [client, driver] = [map_client(fd.as_fd()).err(), map_driver(fd.as_fd()).err()];
    assert_eq!(client.as_ref().map(|e| e.errno()), driver.as_ref().map(|e| e.errno()));
    client.is_none()
}

#[test]
fn only_a_user_queue_as_long_as_its_depth_asks_for_is_mapped() {
    const FIRST: u64 = 0x0040_0001_5155_4756;
    assert!(accepted(8192, FIRST, 8) && accepted(8192, FIRST, 32) && accepted(12288, FIRST, 64));
    assert!(!accepted(8192, FIRST ^ 1, 8), "magic");
    assert!(!accepted(8192, FIRST ^ 1 << 32, 8), "version");
    assert!(!accepted(8192, FIRST ^ 1 << 55, 8), "slot length");
    for (len, entries) in
        [(8192, 0), (8192, 4), (8192, 12), (8192, 64), (12288, 32), (4096, 8), (1 << 20, 8192)]
    {
        assert!(!accepted(len, FIRST, entries), "{entries} entries in {len} bytes");
    }
}

#[test]
fn memory_that_can_shrink_is_not_mapped() {
    let fd = rustix::fs::memfd_create("bare", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, 8192).unwrap();
    assert_eq!(map_driver(fd.as_fd()).err().map(|e| e.errno()), Some(Errno::PERM));
}

#[test]
fn the_broker_touches_the_header_alone() {
    let keeper = KeeperRing::create(depth(4096)).unwrap();
    let blocks = rustix::fs::fstat(keeper.export().unwrap()).unwrap().st_blocks;
    assert_eq!(blocks * 512, 4096);
}

#[test]
fn a_driver_sleeps_on_a_ring_and_on_a_word_of_its_own() {
    let keeper = KeeperRing::create(depth(8)).unwrap();
    let (mut producer, _reaper) = client_of(&keeper);
    let (mut consumer, _completer) = driver_of(&keeper);
    let own = vgem_os::futex::Word::new(0);
    std::thread::scope(|threads| {
        let asleep = consumer.fall_asleep().unwrap();
        let words = [(own.futex(), 0), asleep.word()];
        threads.spawn(|| producer.push(&entry(1)).unwrap());
        assert_eq!(wait_any(&words, patience()), Ok(Some(1)));
    });
    assert!(consumer.is_ready());
}

#[test]
fn a_driver_that_waits_beside_a_word_of_its_own_is_woken_by_either() {
    let keeper = KeeperRing::create(depth(8)).unwrap();
    let (mut producer, _reaper) = client_of(&keeper);
    let (mut consumer, _completer) = driver_of(&keeper);
    let own = vgem_os::futex::Word::new(0);
    std::thread::scope(|threads| {
        let driver = threads.spawn(|| consumer.wait_beside((own.futex(), 0), patience()));
        own.bump();
        vgem_os::futex::wake(own.futex(), 1).unwrap();
        assert_eq!(driver.join().unwrap(), Ok(false));
    });
    std::thread::scope(|threads| {
        let driver = threads.spawn(|| consumer.wait_beside((own.futex(), 1), patience()));
        producer.push(&entry(1)).unwrap();
        assert_eq!(driver.join().unwrap(), Ok(true));
    });
}

// M-163
#[test]
fn a_client_that_sleeps_is_woken_by_the_brokers_verdict() {
    let keeper = KeeperRing::create(depth(8)).unwrap();
    let (mut producer, mut reaper) = client_of(&keeper);
    std::thread::scope(|threads| {
        let client = threads.spawn(|| reaper.wait(patience()));
        keeper.kill(LOST);
        assert_eq!(client.join().unwrap(), Err(ReapError::Over(OVER)));
    });
    assert_eq!(producer.push(&entry(1)), Err(PushError::Over(OVER)));
}

#[test]
fn a_ring_taken_back_after_a_restart_can_still_be_ended() {
    let keeper = KeeperRing::create(depth(8)).unwrap();
    let (_, mut reaper) = client_of(&keeper);
    let kept = keeper.duplicate().unwrap();
    drop(keeper);
    let again = KeeperRing::from_kept(kept).unwrap();
    assert_eq!(again.depth(), depth(8));
    again.kill(LOST);
    assert_eq!(reaper.reap(), Err(ReapError::Over(OVER)));
}

/// A driver in a process of its own: serves, until it is killed.
fn drive(side: &Side) {
    let (mut consumer, mut completer) = map_driver(support::given(0).as_fd()).unwrap();
    side.say("mapped");
    serve(&mut consumer, &mut completer, u64::MAX);
}

fn started(test: &str, keeper: &KeeperRing) -> Peer {
    let peer = support::start_peer(test, vec![keeper.export().unwrap()]);
    assert_eq!(peer.hear(), "mapped");
    peer
}

#[test]
fn two_processes_sleep_for_each_other_and_lose_nothing() {
    if let Some(side) = support::peer_side() {
        return drive(&side);
    }
    let keeper = KeeperRing::create(depth(16)).unwrap();
    let (mut producer, mut reaper) = client_of(&keeper);
    let _driver = started("two_processes_sleep_for_each_other_and_lose_nothing", &keeper);
    let (mut next, mut reaped) = (1, 0);
    while reaped < 5000 {
        let burst: Vec<_> = (next..next + next % 7 + 1).map(entry).collect();
        match producer.push_many(&burst) {
            Ok(pushed) => next += pushed.count as u64,
            Err(error) => assert_eq!(error, PushError::Full),
        }
        while let Some(completion) = reaper.wait(if reaped + 8 < next { patience() } else { 0 }).unwrap() {
            reaped += 1;
            assert_eq!((completion.point, completion.value), (Point(reaped), 3 * reaped));
        }
    }
}

#[test]
fn l4_a_client_whose_driver_was_killed_does_not_wait_for_ever() {
    const TEST: &str = "l4_a_client_whose_driver_was_killed_does_not_wait_for_ever";
    if let Some(side) = support::peer_side() {
        return drive(&side);
    }
    let keeper = KeeperRing::create(depth(8)).unwrap();
    let (mut producer, mut reaper) = client_of(&keeper);
    let mut driver = started(TEST, &keeper);
    producer.push(&entry(1)).unwrap();
    assert_eq!(reaper.wait(patience()).unwrap().map(|completion| completion.value), Some(3));
    driver.kill();
    producer.push(&entry(2)).unwrap();
    std::thread::scope(|threads| {
        let client = threads.spawn(|| reaper.wait(patience()));
        keeper.kill(LOST);
        assert_eq!(client.join().unwrap(), Err(ReapError::Over(OVER)));
    });
}

/// A client that only ever rings costs a driver looks, and never holds it beyond its deadline.
// M-160
#[test]
fn t40_a_client_that_rings_for_nothing_does_not_keep_a_driver() {
    let keeper = KeeperRing::create(depth(8)).unwrap();
    let (mut consumer, _completer) = driver_of(&keeper);
    let fd = keeper.export().unwrap();
    let mapping = Mapping::map(fd.as_fd(), 4096, Access::Write, Populate::Now).unwrap();
    let bell = vgem_os::futex::SharedWord::of(mapping.span_mut().unwrap(), u::C_DOORBELL).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                bell.atomic().fetch_add(1, std::sync::atomic::Ordering::Release);
                vgem_os::futex::wake(bell.futex(), 1).unwrap();
            }
        });
        let deadline_ns = clock::deadline_in(20_000_000);
        assert_eq!(consumer.wait(deadline_ns), Ok(false));
        let asleep = consumer.fall_asleep().unwrap();
        let (word, seen) = asleep.word();
        let woken = vgem_os::futex::wait(word, seen, patience()).unwrap();
        assert_eq!(woken, Wake::Rung);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
