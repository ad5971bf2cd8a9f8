//! Single entries: how they run, how they fail, and what comes after a failure.

use vgem_os::fence::PointState;
use vgem_proto::layout::result_cell;
use vgem_proto::user_queue::FaultReason;

use super::*;

// M-153
#[test]
fn an_entry_runs_where_it_says_and_its_completion_says_what_came_of_it() {
    let (rig, mut client) = Rig::new();
    rig.put(BASE + 100, b"through the ring");
    let done = client.run_one(Entry { user: 5, ..copy(BASE + 100, BASE + 5000, 16) });
    assert_eq!(rig.bytes(BASE + 5000, 17), b"through the ring\0");
    assert_eq!((done.user, done.point, done.failure), (5, Point(1), None));
    assert_eq!((done.produced, done.value, done.address), (16, 16, 0));
    assert!(done.ended.0 <= clock::now());
    assert_eq!(rig.heard(), [], "the broker is not bothered");
}

// M-164
#[test]
fn the_points_of_the_timeline_are_the_entries_also_those_that_fail() {
    let (_rig, mut client) = Rig::new();
    let done = client.run(&[good(), bare(op::FAIL), good(), good()]);
    wait_for(|| client.timeline.value() == Point(4));
    let states = [1, 2, 3, 4].map(|point| match client.timeline.state(Point(point)) {
        PointState::Ok { .. } => None,
        PointState::Failed { code, cause, .. } => Some((code, cause)),
        other => panic!("{other:?}"),
    });
    let failure = done[1].failure.map(|f| (f.code.number(), f.cause.0));
    assert_eq!((states, failure.is_some()), ([None, failure, None, None], true));
}

#[test]
fn a_result_cell_is_written_as_a_jobs_is() {
    let (rig, mut client) = Rig::new();
    let cell = VaOperand { address: BASE + 0x800, len: 64, cell: 0, number: 2, cell_word: 0, reserved: Zero };
    let arguments = rig.block(BASE + 0x400, &[cell], &[]);
    let call = call(op::COPY, [Some((BASE, 24)), Some((BASE + 64, 30))], arguments);
    assert_eq!(code(&client.run_one(entry(Work::Call(call)))), None);
    let span = rig.memory.span();
    let word = |word: usize| span.read_u64(0x800 + 8 * word).expect("inside");
    assert_eq!((word(result_cell::PRODUCED), word(result_cell::VALUE)), (24, 24));
    assert_eq!(word(result_cell::DIGEST), 0, "in place");
    assert!(0 < word(result_cell::STARTED) && word(result_cell::STARTED) <= word(result_cell::ENDED));
}

// M-108
#[test]
fn the_cause_of_a_failure_is_told_before_its_completion_is_there() {
    let (rig, mut client) = Rig::new();
    let done = client.run_one(bare(op::FAIL));
    let [DriverMessage::Cause(told)] = &rig.heard()[..] else { panic!("not one cause") };
    assert_eq!(done.failure, Some(Failure { code: ErrorCode::Io, cause: told.cause }));
    assert_eq!((told.timeline, told.point, told.text.as_slice()), (QUEUE, Point(1), b"nine".as_slice()));
    assert_eq!((done.produced, done.value), (5, 9), "what the engine said before it failed");
}

#[test]
fn a_panic_in_the_engine_is_that_entrys_failure() {
    let (rig, mut client) = Rig::new();
    let done = client.run(&[bare(op::PANIC), good()]);
    assert_eq!([code(&done[0]), code(&done[1])], [Some(ErrorCode::DriverFault), None]);
    assert!(String::from_utf8_lossy(&rig.hear_cause().text).contains("as it is told"));
}

// M-152
#[test]
fn an_entry_that_is_not_right_is_refused_and_the_queue_goes_on() {
    let (rig, mut client) = Rig::new();
    rig.put(BASE + 0x100, &[0xff; 64]);
    let block = |address, len| {
        let arguments = Arguments::Block(VaRange::new(address, len).expect("addresses"));
        entry(Work::Call(call(op::COPY, [None; 2], arguments)))
    };
    let extra = Arguments::Inline { first: Some(1), second: None };
    let cases = [
        (bare(op::NONE), ErrorCode::NoSuchOperation, u64::from(op::NONE)),
        (bare(op::COPY), ErrorCode::BadOperand, 0),
        (block(BASE + 0x100, 7), ErrorCode::OutOfRange, 7),
        (block(BASE + 0x100, 64), ErrorCode::Malformed, 0xffff),
        (entry(Work::Call(call(op::GATE, [None; 2], extra))), ErrorCode::BadParameter, 0),
    ];
    for (entry, wanted, value) in cases {
        let done = client.run(&[entry, good()]);
        assert_eq!((code(&done[0]), done[0].value), (Some(wanted), value), "{entry:?}");
        assert_eq!(code(&done[1]), None);
        let told = rig.hear_cause();
        assert_eq!((told.code, Some(told.cause)), (wanted, done[0].failure.map(|f| f.cause)));
    }
    assert_eq!(rig.ran(), 5);
}

// M-167
#[test]
fn an_address_that_cannot_be_reached_is_said_with_why_and_the_queue_goes_on() {
    let (mut rig, mut client) = Rig::new();
    let (offset, len, access) = (0, 0x1000, Access::Read);
    let read_only = Bind { address: 0x5000, offset, len, access, ..bind(QUEUE) };
    assert_eq!(rig.bind(&read_only), Ok(()));
    let block = Arguments::Block(VaRange::new(0x99, 8).expect("addresses"));
    let no_block = entry(Work::Call(call(op::COPY, [None; 2], block)));
    for (entry, address, reason) in [
        (copy(BASE + LEN - 4, BASE, 8), BASE + LEN, FaultReason::Unbound),
        (copy(BASE, 0x5ffc, 8), 0x5ffc, FaultReason::ReadOnly),
        (copy(0x5ffc, BASE, 8), 0x6000, FaultReason::Unbound),
        (no_block, 0x99, FaultReason::Unbound),
    ] {
        let done = client.run(&[entry, good()]);
        assert_eq!(code(&done[0]), Some(ErrorCode::AddressFault), "{entry:?}");
        assert_eq!((done[0].address, FaultReason::from_number(done[0].value)), (address, reason));
        assert_eq!(code(&done[1]), None);
    }
}

// M-158
#[test]
fn a_chain_runs_on_after_what_ended_ok_and_is_cancelled_after_what_did_not() {
    let (rig, mut client) = Rig::new();
    let done = client.run(&[chained(good()), chained(good()), bare(op::FAIL), chained(good())]);
    // In another turn.
    let more = client.run(&[chained(bare(op::FAIL)), good(), chained(good())]);
    let failure = done[2].failure.expect("it fails");
    let cancelled = Some(Failure { code: ErrorCode::Cancelled, ..failure });
    assert_eq!([done[0].failure, done[1].failure, done[3].failure], [None, None, cancelled]);
    assert_eq!([more[0].failure, more[1].failure, more[2].failure], [cancelled, None, None]);
    assert_eq!((rig.ran(), rig.heard().len()), (5, 1));
}

// M-158
#[test]
fn a_chain_behind_a_refused_entry_is_cancelled_with_its_cause() {
    let (_rig, mut client) = Rig::new();
    let done = client.run(&[bare(op::NONE), chained(good())]);
    let cause = |at: usize| done[at].failure.map(|f: Failure| f.cause);
    assert_eq!((code(&done[1]), cause(1)), (Some(ErrorCode::Cancelled), cause(0)));
}

// M-159
#[test]
fn entries_run_one_after_another_so_a_barrier_asks_for_nothing_more() {
    let (rig, mut client) = Rig::new();
    client.push(&[bare(op::GATE), Entry { order: Order::BARRIER, ..good() }, good()]);
    rig.wait_at_gate();
    assert_eq!((client.reaper.reap(), rig.ran()), (Ok(None), 1));
    rig.open_gate();
    assert_eq!([1, 2, 3].map(|_| client.reap().point), [Point(1), Point(2), Point(3)]);
}

#[test]
fn what_was_done_is_told_before_what_may_take_long_begins() {
    let (rig, mut client) = Rig::new();
    client.push(&[good(), bare(op::GATE)]);
    rig.wait_at_gate();
    assert_eq!((client.reap().point, client.timeline.value()), (Point(1), Point(1)));
    rig.open_gate();
    assert_eq!(client.reap().point, Point(2));
}

#[test]
fn a_storm_of_failures_costs_the_broker_a_few_messages_and_every_one_has_a_cause_it_knows() {
    let (rig, mut client) = Rig::new();
    let mut causes = Vec::new();
    for _ in 0..100 {
        causes.extend(client.run(&[bare(op::NONE); 20]).iter().map(|done| done.failure.map(|f| f.cause)));
    }
    let told: Vec<_> = rig
        .heard()
        .into_iter()
        .map(|message| match message {
            DriverMessage::Cause(cause) => Some(cause.cause),
            other => panic!("{other:?}"),
        })
        .collect();
    // One more for every 10 ms that the machine took.
    assert!((32..500).contains(&told.len()), "{}", told.len());
    assert!(causes.iter().all(|cause| told.contains(cause)));
}

#[test]
fn a_bound_range_that_is_foreign_goes_through_windows() {
    let (mut rig, mut client) = Rig::new();
    let (cell, reserved) = (0, Zero);
    let cell = VaOperand { address: BASE + 64, len: 64, cell, number: 2, cell_word: 0, reserved };
    for foreign in [0, 1, 0] {
        assert_eq!(rig.bind(&Bind { foreign, ..bind(QUEUE) }), Ok(()));
        let arguments = rig.block(BASE + 0x400, &[cell], &[]);
        let call = call(op::COPY, [Some((BASE, 8)), Some((BASE + 0x200, 8))], arguments);
        assert_eq!(code(&client.run_one(entry(Work::Call(call)))), None);
        assert_eq!(rig.bytes(BASE + 64 + 8 * result_cell::DIGEST as u64, 1), [foreign]);
    }
}
