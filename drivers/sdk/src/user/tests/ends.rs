//! How rings begin and end, each for itself.

use std::os::fd::AsFd as _;

use vgem_os::memory::identity;
use vgem_os::ring::Reason;
use vgem_proto::jobs::DriverJob;
use vgem_proto::layout::user_queue as u;
use vgem_proto::message::driver::Run;

use super::*;
use crate::schedule::split;
use crate::testing::traces_of;

/// Writes a word of a ring's memory behind everybody's back.
fn scribble(client: &Client, at: usize, value: u64) {
    let fd = client.keeper.export().expect("an fd");
    let len = client.keeper.depth().memory_len();
    let mapping = Mapping::map(fd.as_fd(), len, Access::Write, vgem_os::mapping::Populate::Lazy);
    mapping.expect("a mapping").span_mut().expect("writable").write_u64(at, value).expect("inside");
}

/// The ticket of the sleep of the ring's thread; 0 is awake.
fn ticket(client: &Client) -> u64 {
    let fd = client.keeper.export().expect("an fd");
    let mapping = Mapping::map(fd.as_fd(), 4096, Access::Read, vgem_os::mapping::Populate::Lazy);
    let word = mapping.expect("a mapping").span().read_u64(u::D_DOORBELL).expect("inside");
    assert_eq!(u::D_ASLEEP, u::D_DOORBELL + 4);
    word >> 32
}

/// How many mappings of the ring's memory this process has: one is the client's.
fn mappings(client: &Client) -> usize {
    let fd = client.keeper.export().expect("an fd");
    traces_of(identity(fd.as_fd()).expect("an inode")).writable
}

fn job(queue: TimelineKey, point: u64) -> Run {
    let job = DriverJob {
        queue,
        point: Point(point),
        run_ns: 0,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op: op::FAIL,
        flags: 0,
        operands: 0,
        params: 0,
        waits: 0,
        reserved: Zero,
    };
    Run { jobs: vec![job], operands: vec![], params: vec![], waits: vec![], bytes: vec![] }
}

#[test]
fn a_queue_that_closes_while_its_ring_sleeps_lets_go_of_it_and_says_so_last() {
    let (mut rig, mut client) = Rig::new();
    assert_eq!(code(&client.run_one(good())), None);
    let with_driver = mappings(&client);
    rig.closes(QUEUE);
    assert_eq!(mappings(&client), with_driver - 1);
    let end = client.reap_or_end().expect_err("the ring is over");
    assert!(matches!(end, ReapError::Over(over) if over.failure.code == ErrorCode::Gone), "{end}");
    assert!(rig.instance.schedule().timeline(QUEUE).is_none());
    assert!(!rig.rings.close(QUEUE), "it is closed already");
}

#[test]
fn a_ring_that_has_nothing_to_do_sleeps_while_others_work() {
    let (mut rig, mut client) = Rig::new();
    let mut other = rig.attach(OTHER);
    assert_eq!(rig.bind(&bind(OTHER)), Ok(()));
    assert_eq!(code(&client.run_one(good())), None);
    wait_for(|| ticket(&client) != 0);
    let asleep = ticket(&client);
    for _ in 0..300 {
        assert_eq!(code(&other.run_one(good())), None);
    }
    assert_eq!(ticket(&client), asleep, "it is the same sleep");
    assert_eq!(code(&client.run_one(good())), None);
}

#[test]
fn a_queue_that_closes_ends_the_entry_that_runs_and_takes_no_other() {
    let (mut rig, mut client) = Rig::new();
    client.push(&[bare(op::GATE), good(), good()]);
    rig.wait_at_gate();
    assert!(rig.rings.close(QUEUE));
    assert_eq!(rig.heard(), []);
    assert_eq!(rig.bind(&bind(QUEUE)), Err(ErrorCode::Gone));
    assert_eq!(rig.rings.unbind(QUEUE, BASE), Unbinding::UnderWay, "the entry may use it");
    rig.open_gate();
    assert_eq!(code(&client.reap()), None);
    assert!(client.reap_or_end().is_err());
    assert!(matches!(rig.hear(), DriverMessage::Unbound(_)));
    assert!(matches!(rig.hear(), DriverMessage::TimelineClosed(_)));
    assert_eq!(rig.ran(), 1);
}

// M-161
#[test]
fn a_client_that_breaks_its_ring_learns_why_and_harms_no_other() {
    let (mut rig, mut client) = Rig::new();
    let mut other = rig.attach(OTHER);
    assert_eq!(rig.bind(&bind(OTHER)), Ok(()));
    client.push(&[bare(op::GATE)]);
    rig.wait_at_gate();
    client.push(&[good()]);
    scribble(&client, u::SUBMISSIONS + u::SLOT_LEN, 77 << 32);
    rig.open_gate();
    assert_eq!(code(&client.reap()), None, "what was taken before is completed");
    let ReapError::Over(over) = client.reap_or_end().expect_err("the ring is over") else {
        panic!("not over")
    };
    let found = over.corruption.map(|c| (c.reason, c.at, c.found));
    assert_eq!(found, Some((Reason::Sequence, Point(2), 77)));
    let told = rig.hear_cause();
    assert_eq!((told.timeline, told.point, told.code), (QUEUE, Point(2), ErrorCode::Malformed));
    assert_eq!(over.failure, Failure { code: told.code, cause: told.cause });
    assert_eq!(code(&other.run_one(good())), None);
    // The broker's messages are answered as before.
    assert_eq!(rig.rings.unbind(QUEUE, BASE), Unbinding::UnderWay);
    assert!(matches!(rig.hear(), DriverMessage::Unbound(_)));
    rig.closes(QUEUE);
    assert_eq!(code(&other.run_one(good())), None);
}

#[test]
fn an_instance_has_as_many_rings_as_it_may_and_room_for_another_when_one_is_closed() {
    let (mut rig, _client) = Rig::new();
    let key = |index| TimelineKey { index, generation: 1 };
    let _clients: Vec<_> = (1..64).map(|index| rig.attach(key(index))).collect();
    let timeline = rig.open(key(64));
    let refused = rig.attach_to(key(64), Arc::clone(&timeline)).err().map(|e| e.errno());
    assert_eq!(refused, Some(Errno::AGAIN));
    rig.closes(QUEUE);
    let mut last = rig.attach_to(key(64), timeline).expect("there is room");
    assert_eq!(rig.bind(&bind(key(64))), Ok(()));
    assert_eq!(code(&last.run_one(good())), None);
}

#[test]
fn memory_that_is_no_ring_or_not_the_one_that_was_said_is_refused() {
    let (mut rig, _client) = Rig::new();
    rig.open(OTHER);
    let keeper = KeeperRing::create(Depth::new(64).expect("a depth")).expect("memory");
    let mut attach = |depth, fd| {
        let attach = AttachRing { timeline: OTHER, depth, reserved: Zero };
        rig.rings.attach(&rig.instance, &attach, fd).map_err(|e| e.errno())
    };
    assert_eq!(attach(32, keeper.export().expect("an fd")), Err(Errno::INVAL));
    let memory = vgem_os::memory::ObjectMemory::create(8192, vgem_os::memory::HugePages::None, "none");
    let fd = memory.expect("memory").export(Access::Write).expect("an fd");
    assert_eq!(attach(8, fd), Err(Errno::INVAL));
    assert_eq!(attach(64, keeper.export().expect("an fd")), Ok(()));
}

#[test]
fn points_are_those_of_the_ring_or_those_of_jobs() {
    let (mut rig, mut client) = Rig::new();
    assert_eq!(code(&client.run_one(good())), None);
    let refused = rig.instance.accept(job(QUEUE, 2)).map_err(|not| not.to_string());
    assert!(refused.is_err_and(|text| text.contains("ring")));
    // A queue that has had a job.
    let timeline = rig.open(OTHER);
    let pending = split(job(OTHER, 1)).next().expect("a job");
    rig.instance.schedule().push(pending).expect("its queue takes it");
    let mut other = rig.attach_to(OTHER, timeline).expect("a ring");
    assert_eq!(rig.bind(&bind(OTHER)), Ok(()));
    assert!(other.run(&[good(), bare(op::FAIL)]).iter().any(|done| done.failure.is_some()));
    assert_eq!(other.timeline.value(), Point(0), "the entries are no points");
}
