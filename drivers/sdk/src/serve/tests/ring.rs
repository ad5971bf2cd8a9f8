//! Rings, as the broker and the client of one see them: by messages, in shared memory, and in fence pages.

use vgem_os::ring::{KeeperRing, Producer, Reaper, map_client};
use vgem_proto::describe::PUBLISH;
use vgem_proto::jobs::WAIT_PROMISE;
use vgem_proto::message::driver::{CancelJob, Forbid, Unbind};
use vgem_proto::user_queue::{Arguments, Call, Completion, Depth, Entry, Order, VaRange, Work};

use super::*;
use crate::testing::traces_of;

/// Where the client has the object.
const BASE: u64 = 0x7f00_0000_0000;

/// A client's end of a ring.
struct Ring {
    producer: Producer,
    reaper: Reaper,
    /// The ring's memory.
    identity: vgem_os::memory::Identity,
}

fn unbound(message: &DriverMessage) -> Option<u64> {
    match message {
        DriverMessage::Unbound(unbound) => Some(unbound.address),
        _ => None,
    }
}

fn bind(object: ObjectKey) -> Bind {
    let (access, reserved, timeline) = (Access::Write, Zero, QUEUE);
    Bind { timeline, object, offset: 0, len: 4096, address: BASE, access, foreign: 0, reserved }
}

/// Adds a number to the bytes from an address on.
fn add(address: u64, len: u64, by: u64) -> Entry {
    let range = VaRange::new(address, len).expect("addresses");
    let arguments = Arguments::Inline { first: Some(by), second: None };
    let call = Call { op: 0, operands: [Some(range), None], arguments };
    Entry { user: by, order: Order::empty(), work: Work::Call(call) }
}

impl Rig {
    fn attach_with(&mut self, depth: u32) -> (Ring, i32) {
        let keeper = KeeperRing::create(Depth::new(64).expect("a depth")).expect("memory");
        let fd = keeper.export().expect("an fd");
        let (producer, reaper) = map_client(fd.as_fd()).expect("a ring");
        let identity = identity(fd.as_fd()).expect("an inode");
        let theirs = keeper.export().expect("an fd");
        self.tell(AttachRing { timeline: QUEUE, depth, reserved: Zero }, &[theirs.as_fd()]);
        let errno = self.hear(|m| match m {
            DriverMessage::RingReady(ready) if ready.timeline == QUEUE => Some(ready.errno),
            _ => None,
        });
        (Ring { producer, reaper, identity }, errno)
    }

    fn attach(&mut self) -> Ring {
        let (ring, errno) = self.attach_with(64);
        assert_eq!(errno, 0);
        ring
    }

    /// Forbids, and waits until that is so: what is told later has been answered.
    fn forbid(&mut self, operations: Vec<u16>) {
        self.tell(Forbid { operations }, &[]);
        self.tell(Bind { address: 1, ..bind(ObjectKey::default()) }, &[]);
        self.hear(|m| matches!(m, DriverMessage::Bound(bound) if bound.address == 1).then_some(()));
    }

    /// Binds, and answers the code.
    fn bind(&mut self, bind: Bind) -> u32 {
        let at = bind.address;
        self.tell(bind, &[]);
        self.hear(|m| match m {
            DriverMessage::Bound(bound) if (bound.timeline, bound.address) == (QUEUE, at) => Some(bound.code),
            _ => None,
        })
    }
}

impl Ring {
    fn push(&mut self, entry: Entry) {
        self.producer.push(&entry).expect("there is room");
    }

    fn reap(&mut self) -> Completion {
        let completion = self.reaper.wait(clock::deadline_in(10_000_000_000)).expect("the ring goes on");
        completion.expect("it never came")
    }

    fn run(&mut self, entry: Entry) -> Option<ErrorCode> {
        self.push(entry);
        self.reap().failure.map(|failure| failure.code)
    }
}

// M-153, M-164, M-167
#[test]
fn a_client_schedules_on_a_ring_from_attach_to_close() {
    let mut rig = Rig::new(FAR);
    let mut ring = rig.attach();
    assert_eq!(rig.bind(bind(DATA)), 0);
    assert_eq!(ring.run(add(BASE + 8, 8, 3)), None);
    assert_eq!(rig.read(7, 10), [0, 3, 3, 3, 3, 3, 3, 3, 3, 0]);
    assert!(matches!(rig.outcome(QUEUE, 1), PointState::Ok { .. }));
    rig.tell(Unbind { timeline: QUEUE, address: BASE }, &[]);
    assert_eq!(rig.hear(unbound), BASE);
    assert_eq!(ring.run(add(BASE + 8, 8, 3)), Some(ErrorCode::AddressFault));
    assert!(is(rig.outcome(QUEUE, 2), ErrorCode::AddressFault));
    // A tracked job of another queue of the same instance meanwhile.
    rig.tell(run(OTHER, 1, vec![operand(0, 8)], vec![], vec![]), &[]);
    assert!(matches!(rig.outcome(OTHER, 1), PointState::Ok { .. }));
    rig.tell(CloseTimeline { timeline: QUEUE }, &[]);
    rig.hear(|m| matches!(m, DriverMessage::TimelineClosed(c) if c.timeline == QUEUE).then_some(()));
    assert_eq!(traces_of(ring.identity).writable, 1, "the client's");
    rig.ends();
}

// M-193
#[test]
fn an_operation_that_is_forbidden_fails_entries_until_it_is_not() {
    let mut rig = Rig::new(FAR);
    let mut ring = rig.attach();
    assert_eq!(rig.bind(bind(DATA)), 0);
    rig.forbid(vec![0]);
    assert_eq!(ring.run(add(BASE + 8, 8, 3)), Some(ErrorCode::Denied));
    assert_eq!(rig.read(8, 1), [0]);
    rig.forbid(vec![]);
    assert_eq!(ring.run(add(BASE + 8, 8, 3)), None);
    rig.tell(CloseTimeline { timeline: QUEUE }, &[]);
    rig.hear(|m| matches!(m, DriverMessage::TimelineClosed(c) if c.timeline == QUEUE).then_some(()));
    rig.ends();
}

#[test]
fn a_client_waits_in_its_fence_page_for_an_entry_and_is_woken() {
    let mut rig = Rig::new(0);
    let mut ring = rig.attach();
    assert_eq!(rig.bind(bind(DATA)), 0);
    ring.push(add(BASE, 8, 15));
    wait_for(&rig.gate.begun);
    std::thread::scope(|threads| {
        let waiter = threads.spawn(|| rig.outcome(QUEUE, 1));
        rig.gate.open.store(true, Ordering::Release);
        assert!(matches!(waiter.join().expect("no panic"), PointState::Ok { .. }));
    });
    assert_eq!(ring.reap().point, Point(1), "its completion is there");
    rig.ends();
}

/// A job of another queue that publishes an entry of the ring, and names an object that is not even mapped.
fn publish(point: u64, entry: u64) -> Run {
    let nowhere = ObjectKey { index: 99, generation: 1 };
    let (timeline, kind, flags) = (QUEUE, WaitKind::Data, WAIT_PROMISE);
    let wait =
        DriverWait { timeline, point: Point(entry), page: PAGE_LOCAL, slot: 0, kind, flags, reserved: Zero };
    let written = DriverOperand { object: nowhere, ..operand(0, 8) };
    let mut run = run(OTHER, point, vec![written], vec![], vec![wait]);
    run.jobs[0].op = PUBLISH;
    run
}

// M-111, M-182
#[test]
fn r7_a_publication_ends_with_its_entry_and_as_it_does_and_no_engine_hears_of_it() {
    let mut rig = Rig::new(0);
    let mut ring = rig.attach();
    assert_eq!(rig.bind(bind(DATA)), 0);
    rig.tell(publish(1, 2), &[]);
    rig.tell(publish(2, 3), &[]);
    assert_eq!(ring.run(add(BASE, 8, 1)), None);
    let slot = Slot::new(1).expect("a slot");
    assert_eq!(rig.client.state(slot, OTHER.generation, 1), PointState::Pending);
    assert_eq!(ring.run(add(BASE, 8, 2)), None);
    assert!(matches!(rig.outcome(OTHER, 1), PointState::Ok { .. }));
    let told = |m: &DriverMessage| match m {
        DriverMessage::Unblocked(unblocked) => Some((unblocked.timeline, unblocked.point)),
        DriverMessage::Complete(_) => panic!("it ended before it was told of"),
        _ => None,
    };
    assert_eq!(rig.hear(told), (OTHER, Point(1)));
    assert_eq!(ring.run(add(BASE, 8, 13)), Some(ErrorCode::Io));
    let failed = |queue, point| match rig.outcome(queue, point) {
        PointState::Failed { code, cause, .. } => (code, cause),
        other => panic!("{other:?}"),
    };
    assert_eq!(failed(OTHER, 2), failed(QUEUE, 3));
    let completed = rig.hear(|m| match m {
        DriverMessage::Complete(complete) => {
            complete.completions.last().copied().filter(|c| c.point == Point(2))
        }
        _ => None,
    });
    assert_eq!((completed.bytes, completed.code), (0, ErrorCode::Io.number()));
    rig.ends();
}

#[test]
fn no_publication_is_lost_whether_it_or_its_entry_comes_first() {
    let mut rig = Rig::new(0);
    let mut ring = rig.attach();
    assert_eq!(rig.bind(bind(DATA)), 0);
    for point in 1..=1000 {
        rig.tell(publish(point, point), &[]);
        for _ in 0..(point % 64) * 16 {
            std::hint::spin_loop();
        }
        ring.push(add(BASE, 8, 1));
        assert!(matches!(rig.outcome(OTHER, point), PointState::Ok { .. }), "{point}");
        rig.hear(|m| matches!(m, DriverMessage::Unblocked(u) if u.point == Point(point)).then_some(()));
        assert_eq!(ring.reap().failure, None);
    }
    rig.ends();
}

#[test]
fn t44_a_publication_whose_moment_came_is_cancelled_and_the_ring_goes_on() {
    let mut rig = Rig::new(0);
    let mut ring = rig.attach();
    assert_eq!(rig.bind(bind(DATA)), 0);
    rig.tell(publish(1, 2), &[]);
    let (code, cause) = (ErrorCode::TimedOut, CauseId::new(InstanceId(1), 8));
    rig.tell(CancelJob { timeline: OTHER, point: Point(1), cause, code, reserved: Zero }, &[]);
    assert!(is(rig.outcome(OTHER, 1), ErrorCode::TimedOut));
    for point in 1..=2 {
        assert_eq!(ring.run(add(BASE, 8, 1)), None);
        assert!(matches!(rig.outcome(QUEUE, point), PointState::Ok { .. }));
    }
    rig.ends();
}

// M-103
#[test]
fn an_object_is_unmapped_when_it_is_unbound_and_no_entry_uses_it() {
    let mut rig = Rig::new(0);
    let mut ring = rig.attach();
    assert_eq!(rig.bind(bind(DATA)), 0);
    ring.push(add(BASE, 8, 15));
    wait_for(&rig.gate.begun);
    rig.tell(Unbind { timeline: QUEUE, address: BASE }, &[]);
    rig.tell(Unmap { object: DATA }, &[]);
    // What comes after it on the link is answered while the entry runs.
    let (another, key) = (memory(4096), ObjectKey { index: 8, generation: 8 });
    rig.map(key, &another, Access::Read);
    rig.hear(|m| match m {
        DriverMessage::Unmapped(_) | DriverMessage::Unbound(_) => panic!("{m:?}: it is in use"),
        DriverMessage::Mapped(mapped) if mapped.object == key => Some(()),
        _ => None,
    });
    assert_eq!(rig.memory.probe(), Ok(Probe::Busy));
    rig.gate.open.store(true, Ordering::Release);
    rig.hear(|m| matches!(m, DriverMessage::Unmapped(u) if u.object == DATA).then_some(()));
    assert_eq!(rig.memory.probe(), Ok(Probe::Free));
    assert_eq!(rig.hear(unbound), BASE);
    assert_eq!(ring.reap().failure, None);
    rig.ends();
}

#[test]
fn what_is_not_mapped_or_not_for_writing_is_not_bound() {
    let mut rig = Rig::new(0);
    let _ring = rig.attach();
    let (other, key) = (memory(4096), ObjectKey { index: 8, generation: 8 });
    rig.map(key, &other, Access::Read);
    let failed = ErrorCode::MapFailed.number();
    assert_eq!(rig.bind(bind(ObjectKey { index: 9, generation: 9 })), failed);
    assert_eq!(rig.bind(bind(key)), failed);
    assert_eq!(rig.bind(Bind { access: Access::Read, ..bind(key) }), 0);
    // Mapped anew for writing, and bound again at the same address.
    rig.map(key, &other, Access::Write);
    assert_eq!(rig.bind(bind(key)), 0);
    rig.ends();
}

// M-110
#[test]
fn what_becomes_foreign_goes_through_windows_from_the_next_entry_on() {
    let mut rig = Rig::new(0);
    let mut ring = rig.attach();
    for foreign in [0, 1] {
        assert_eq!(rig.bind(Bind { foreign, ..bind(DATA) }), 0);
        let cell = VaRange::new(BASE + 1024, 64).ok();
        let arguments = Arguments::NONE;
        let call = Call { op: 0, operands: [VaRange::new(BASE, 8).ok(), cell], arguments };
        assert_eq!(ring.run(Entry { user: 0, order: Order::empty(), work: Work::Call(call) }), None);
        assert_eq!(rig.read(1024 + 8 * result_cell::DIGEST, 1), [foreign]);
    }
    rig.ends();
}

#[test]
fn a_ring_that_cannot_be_mapped_is_said_and_the_queue_takes_jobs_as_before() {
    let mut rig = Rig::new(0);
    let (_, errno) = rig.attach_with(32);
    assert_eq!(errno, vgem_os::Errno::INVAL.raw_os_error(), "it is 64 deep");
    assert_eq!(rig.bind(bind(DATA)), ErrorCode::Gone.number());
    rig.tell(Unbind { timeline: QUEUE, address: BASE }, &[]);
    assert_eq!(rig.hear(unbound), BASE);
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![]), &[]);
    assert!(matches!(rig.outcome(QUEUE, 1), PointState::Ok { .. }));
    rig.ends();
}

// M-101
#[test]
fn a_broker_that_gives_a_queue_two_rings_or_a_ring_and_jobs_is_left() {
    let nobody = TimelineKey { index: 9, generation: 9 };
    for timeline in [QUEUE, nobody] {
        let mut rig = Rig::new(0);
        let _ring = rig.attach();
        let keeper = KeeperRing::create(Depth::new(64).expect("a depth")).expect("memory");
        let fd = keeper.export().expect("an fd");
        rig.tell(AttachRing { timeline, depth: 64, reserved: Zero }, &[fd.as_fd()]);
        assert!(matches!(rig.leaves(), Fault::Broke(_)));
    }
    let mut rig = Rig::new(0);
    let _ring = rig.attach();
    rig.tell(run(QUEUE, 1, vec![operand(0, 8)], vec![], vec![]), &[]);
    assert!(matches!(rig.leaves(), Fault::Broke(_)));
}

#[test]
fn a_ring_ends_with_the_link() {
    let mut rig = Rig::new(0);
    let mut ring = rig.attach();
    assert_eq!(rig.bind(bind(DATA)), 0);
    assert_eq!(ring.run(add(BASE, 8, 1)), None);
    rig.ends();
    let deadline = clock::now() + 10_000_000_000;
    while traces_of(ring.identity).writable > 1 {
        assert!(clock::now() < deadline, "its thread is still there");
        std::thread::yield_now();
    }
}
