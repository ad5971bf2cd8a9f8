//! Timelines of clients whose parties come, go and lie in every order.

use vgem_core::io::{Effect, Input, InstanceEnd};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point, TimelineHandle};
use vgem_proto::message::client::{ClientMessage, FailPoint, ObserveTimeline, QueryPoint};
use vgem_proto::rights::{TimelineRights, WaitKind};

use crate::batch::Batch;
use crate::signals::Line;
use crate::world::{COPY, MS, World, ZIP};

const WAIT: TimelineRights = TimelineRights::WAIT;
const DATA: WaitKind = WaitKind::Data;

fn stage() -> (World, Line) {
    let mut world = World::new();
    let client = world.client();
    let line = world.timeline(client);
    (world, line)
}

fn fail(line: Line, point: u64) -> FailPoint {
    let (timeline, point, code) = (line.handle, Point(point), ErrorCode::CorruptInput);
    FailPoint { timeline, point, code, reserved: Zero, text: b"bad frame".to_vec() }
}

#[test]
fn a_client_with_two_handles_of_a_timeline_goes_on_seeing_it_when_it_closes_one() {
    let (mut world, line) = stage();
    let other = world.client();
    let (first, second) = (world.pass_line(line, other, WAIT), world.pass_line(line, other, WAIT));
    world.observe_line(first);
    world.take_shown(line.link);
    world.close_line(second);
    assert_eq!(world.take_shown(line.link).places, [], "told to stop");
    world.close_line(first);
    assert_eq!(world.take_shown(line.link).places.len(), 1);
}

#[test]
fn a_page_that_is_spent_while_jobs_look_at_it_is_dropped_once() {
    let (mut world, first) = stage();
    let client = first.link;
    let queue = world.open(client, COPY);
    let mut lines = vec![first];
    lines.extend((1..15).map(|_| world.timeline(client)));
    for (point, line) in (1..).zip(&lines) {
        world.promise(*line, 1, 1_000);
        world.submit(client, Batch::new().job(queue.queue, point).waits_for(line.handle, 1, DATA, None));
    }
    world.take_shown(client);
    lines.iter().for_each(|line| world.close_line(*line));
    let instance = world.instance(COPY);
    world.die(instance, InstanceEnd::Exited(1));
    let shown = world.take_shown(client);
    assert_eq!((shown.dropped.len(), shown.more), (2, 0), "the page of the instance, and the primary one");
    assert_eq!(world.take_shown(client).dropped, []);
}

#[test]
fn a_page_goes_when_its_observer_has_seen_enough_of_every_timeline_in_it() {
    let (mut world, first) = stage();
    let other = world.client();
    let owed = |world: &World| {
        let ledger = world.broker.ledger();
        (ledger.pairs, ledger.domains.values().map(|usage| usage.pages).sum::<u64>())
    };
    let before = owed(&world);
    let mut lines = vec![first];
    lines.extend((1..15).map(|_| world.timeline(first.link)));
    let theirs: Vec<Line> = lines.iter().map(|line| world.pass_line(*line, other, WAIT)).collect();
    for line in &theirs {
        world.observe_line(*line);
    }
    world.take_shown(first.link);
    theirs.iter().for_each(|line| world.close_line(*line));
    assert_eq!(world.take_shown(first.link).dropped.len(), 1);
    assert_eq!(owed(&world), before);
}

#[test]
fn atk_who_never_asks_what_to_forget_owes_for_it() {
    let mut config = crate::world::config();
    config.policy.defaults.quotas.pages = 3;
    let mut world = World::with(config);
    let client = world.client();
    let ledger = world.broker.ledger();
    let refused = (0..100).find_map(|_| {
        let name = b"stage".to_vec();
        match world.ask(client, vgem_proto::message::client::CreateTimeline { name }) {
            Some(ClientMessage::TimelineOpened(opened)) => {
                world.close_line(Line { link: client, handle: opened.timeline, key: opened.key });
                None
            }
            Some(ClientMessage::Refused(refused)) => Some(refused),
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(refused.map(|refused| (refused.code, refused.limit)), Some((ErrorCode::Exhausted, 3)));
    assert_eq!(world.take_shown(client).dropped.len(), 3);
    assert_eq!(world.broker.ledger(), ledger);
}

#[test]
fn a_signaller_is_told_a_place_with_or_after_its_page() {
    let (mut world, line) = stage();
    let pages = vgem_proto::limits::SHOWN_PAGES + 8;
    let others: Vec<_> = (0..pages).map(|_| world.client()).collect();
    let second = world.timeline(line.link);
    for line in [line, second] {
        for other in &others {
            let theirs = world.pass_line(line, *other, WAIT);
            world.observe_line(theirs);
        }
    }
    let mut told = (0, 0);
    loop {
        let shown = world.take_shown(line.link);
        told = (told.0 + shown.pages.len(), told.1 + shown.places.len());
        if shown.more == 0 {
            break;
        }
    }
    assert_eq!(told, (pages, 2 * pages));
}

#[test]
fn news_are_new_once_until_they_are_asked_for() {
    let (mut world, line) = stage();
    let news = |world: &World| world.signals.news.values().copied().max();
    let mut seen = vec![news(&world)];
    for _ in 0..3 {
        let other = world.client();
        let theirs = world.pass_line(line, other, WAIT);
        world.observe_line(theirs);
        seen.push(news(&world));
    }
    assert_eq!(seen, [0, 1, 1, 1].map(Some));
    assert_eq!((world.take_shown(line.link).news, world.signals.untold.len()), (1, 0));
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    world.observe_line(theirs);
    assert_eq!(news(&world), Some(2));
}

#[test]
fn atk_a_queue_that_is_being_closed_is_shown_to_nobody_new() {
    let (mut world, line) = stage();
    let queue = world.open(line.link, COPY);
    let other = world.client();
    let token = world.export_line(line.link, TimelineHandle(queue.queue.0), WAIT);
    let theirs = world.import_line(other, token);
    world.close_queue(line.link, queue.queue);
    // The driver was told to close it, and has: it would break the protocol to show it.
    let instance = world.instance(COPY);
    let closed = world.drivers.get_mut(&instance).expect("an instance").flush();
    let answer = world.ask(other, ObserveTimeline { timeline: theirs.handle });
    assert!(
        matches!(&answer, Some(ClientMessage::Refused(refused)) if refused.code == ErrorCode::Gone),
        "{answer:?}"
    );
    closed.into_iter().for_each(|message| world.say(instance, message));
}

#[test]
fn atk_a_signaller_that_claims_the_last_point_of_all_breaks_nothing() {
    let (mut world, line) = stage();
    world.promise(line, 1, 100);
    world.signal(line, u64::MAX);
    world.let_ms_pass(200);
    assert_eq!(world.refused(line.link, fail(line, 7)).code, ErrorCode::BadPoint);
    assert_eq!(world.query(line, u64::MAX).state, 2);
    world.hang_up(line.link);
}

#[test]
fn a_timeline_that_is_closed_just_before_its_client_goes_ends_for_whoever_looks() {
    let (mut world, line) = stage();
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    world.observe_line(theirs);
    world.hold = |effect| matches!(effect, Effect::Look { .. });
    world.close_line(line);
    world.hang_up(line.link);
    world.hold = |_| false;
    for effect in std::mem::take(&mut world.held) {
        if let Some(input) = world.carry_out(effect) {
            world.apply(input);
        }
    }
    let failure = world.truth.look(line.key, Point(1)).expect("not pending").unwrap_err();
    assert_eq!(failure.code, ErrorCode::Cancelled);
    assert_eq!(world.query(theirs, 1).state, 3);
}

#[test]
fn what_was_signalled_after_an_earlier_look_counts_when_the_signaller_goes() {
    let (mut world, line) = stage();
    world.promise(line, 1, 100);
    world.signal(line, 1);
    world.hold = |effect| matches!(effect, Effect::Look { .. });
    world.let_ms_pass(100);
    // The shell has read point 1 and not said so yet.
    let early = world.settled(line.key);
    world.signal(line, 2);
    let other = world.client();
    world.hold = |_| false;
    let theirs = world.pass_line(line, other, WAIT);
    world.hold = |effect| matches!(effect, Effect::Look { .. });
    world.hang_up(line.link);
    world.held.clear();
    for settled in [early, world.settled(line.key)] {
        let (timeline, value, failures) = (line.key, settled.value, settled.failures);
        world.apply(Input::Looked { timeline, value, failures });
    }
    assert_eq!([2, 3].map(|point| world.query(theirs, point).state), [2, 3]);
}

#[test]
fn a_promise_that_an_earlier_look_finds_kept_has_no_timer() {
    let (mut world, line) = stage();
    world.hold = |effect| matches!(effect, Effect::Look { .. });
    for ms in [1, 2] {
        world.query_later(line, 9);
        world.now = world.now.after(ms * MS);
    }
    world.promise(line, 1, 100);
    world.signal(line, 1);
    let early = world.held.remove(0);
    let looked = world.carry_out(early).expect("an answer");
    world.apply(looked);
    assert_eq!(world.broker.next_deadline(), None);
}

#[test]
fn a_job_that_waits_for_a_point_signalled_without_a_promise_is_not_failed() {
    let (mut world, line) = stage();
    let queue = world.open(line.link, COPY);
    let until = Some(world.now.after(100 * MS));
    let waits = |point, job: Batch| job.waits_for(line.handle, point, DATA, until);
    world.submit(line.link, waits(1, Batch::new().job(queue.queue, 1)));
    world.submit(line.link, waits(2, Batch::new().job(queue.queue, 2)));
    world.signal(line, 1);
    world.let_ms_pass(200);
    world.run_all();
    let ends = [1, 2].map(|point| world.truth.look(queue.timeline, Point(point)));
    assert_eq!(ends[0], Some(Ok(())));
    assert!(matches!(ends[1], Some(Err(failure)) if failure.code == ErrorCode::TimedOut), "{ends:?}");
}

#[test]
fn f8_the_clock_of_a_job_that_waits_for_the_last_point_of_all_starts_when_the_timeline_ends() {
    let (mut world, line) = stage();
    let queue = world.open(line.link, COPY);
    world.promise(line, u64::MAX, 10_000);
    let gated = Batch::new().job(queue.queue, 1).waits_for(line.handle, u64::MAX, DATA, None);
    world.submit(line.link, gated);
    world.close_line(line);
    assert_eq!(world.broker.next_deadline(), Some(world.now.after(6_000 * MS)));
}

#[test]
fn f8_only_the_heads_whose_points_passed_get_their_clocks() {
    let (mut world, line) = stage();
    let queues = [COPY, ZIP].map(|device| world.open(line.link, device));
    for (point, queue) in (1..).zip(&queues) {
        world.promise(line, point, 100 * point);
        let gated = Batch::new().job(queue.queue, 1).waits_for(line.handle, point, DATA, None);
        world.submit(line.link, gated);
    }
    world.signal(line, 1);
    world.let_ms_pass(100);
    world.signal(line, 2);
    world.let_ms_pass(100);
    world.let_ms_pass(5_900);
    let ended = [0, 1].map(|place: usize| world.truth.look(queues[place].timeline, Point(1)).is_some());
    assert_eq!(ended, [true, false]);
    world.let_ms_pass(100);
    assert!(world.truth.look(queues[1].timeline, Point(1)).is_some());
}

#[test]
fn a_timeline_that_ends_fails_no_job_that_waits_for_what_was_signalled() {
    let (mut world, line) = stage();
    let queue = world.open(line.link, COPY);
    let until = Some(world.now.after(100 * MS));
    world.submit(line.link, Batch::new().job(queue.queue, 1).waits_for(line.handle, 1, DATA, until));
    world.signal(line, 1);
    world.close_line(line);
    world.run_all();
    assert_eq!(world.truth.look(queue.timeline, Point(1)), Some(Ok(())));
}

#[test]
fn what_a_job_awaited_counts_no_more_once_the_job_has_ended() {
    let mut config = crate::world::config();
    config.bounds.futures = 2;
    let mut world = World::with(config);
    let client = world.client();
    let (copy, zip) = (world.open(client, COPY), world.open(client, ZIP));
    for point in 1..9 {
        let until = Some(world.now.after(50_000 * MS));
        let timeline = TimelineHandle(zip.queue.0);
        let early = Batch::new().job(copy.queue, point).waits_for(timeline, 1, DATA, until);
        world.submit(client, early);
        world.ask(client, vgem_proto::message::client::Cancel { queue: copy.queue, point: Point(point) });
        world.run_all();
    }
    assert_eq!(world.broker.next_deadline(), None, "a timer for nothing");
}

#[test]
fn t5_an_error_that_is_too_old_to_be_remembered_is_not_forgotten_to_have_been() {
    let (mut world, line) = stage();
    for point in 1..=200 {
        let issued = world.ask(line.link, fail(line, point));
        assert!(matches!(issued, Some(ClientMessage::CauseIssued(_))), "{issued:?}");
    }
    world.promise(line, 210, 100);
    world.signal(line, 210);
    world.let_ms_pass(100);
    assert_eq!([1, 200, 201].map(|point| world.query(line, point).state), [3, 3, 2]);
    let forgotten = world.query(line, 1);
    assert_eq!((forgotten.code, forgotten.cause), (ErrorCode::Poisoned.number(), CauseId::NONE));
}

#[test]
fn a_token_that_could_not_be_drawn_is_refused() {
    let (mut world, line) = stage();
    world.hold = |effect| matches!(effect, Effect::DrawToken { .. });
    let export = vgem_proto::message::client::ExportTimeline {
        timeline: line.handle,
        rights: TimelineRights::SIGNAL,
        reserved: Zero,
    };
    let asked = world.send(line.link, export, 0, world.now);
    world.let_ms_pass(11_000);
    let answer = world.answer_to(asked).map(|reply| reply.message);
    assert!(matches!(answer, Some(ClientMessage::Refused(_))), "{answer:?}");
    assert_eq!(world.query(line, 1).state, 3);
}

#[test]
fn a_client_that_goes_is_answered_nothing_about_what_goes_with_it() {
    let (mut world, line) = stage();
    world.export_line(line.link, line.handle, TimelineRights::SIGNAL);
    let query = QueryPoint { timeline: line.handle, point: Point(1) };
    world.send(line.link, query, 0, world.now.after(5_000 * MS));
    world.hang_up(line.link);
}

// T2
#[test]
fn how_a_point_ended_that_a_page_has_forgotten_can_be_asked() {
    let (mut world, line) = stage();
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    world.ask(line.link, fail(line, 1));
    world.promise(line, 5, 1_000);
    world.signal(line, 4);
    assert_eq!([1, 4, 5, 6].map(|point| world.query(theirs, point).state), [3, 2, 1, 0]);
}

#[test]
fn t3_a_timeline_that_somebody_once_saw_keeps_its_signaller() {
    let (mut world, line) = stage();
    let other = world.client();
    let theirs = world.pass_line(line, other, WAIT);
    world.observe_line(theirs);
    world.signal(line, 5);
    world.close_line(theirs);
    let export = vgem_proto::message::client::ExportTimeline {
        timeline: line.handle,
        rights: TimelineRights::SIGNAL,
        reserved: Zero,
    };
    assert_eq!(world.refused(line.link, export).code, ErrorCode::Busy);
}
