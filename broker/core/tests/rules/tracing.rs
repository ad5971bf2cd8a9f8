//! What clients that trace are told of jobs that end.

use vgem_core::io::{Effect, InstanceEnd, LinkId, Scope};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DomainId, Point, Time};
use vgem_proto::jobs::{TracedJob, TracedWait};
use vgem_proto::message::client::{ClientMessage, Trace, Traced};

use crate::batch::Batch;
use crate::reservations::{Stage, stage};
use crate::world::{COPY, DOMAIN, ONCE, OTHER_DOMAIN, WRITE, World, ZIP};

fn trace(world: &mut World, link: LinkId) {
    assert!(matches!(world.ask(link, Trace {}), Some(ClientMessage::Done(_))));
}

/// Everything that was told, with whose it is and the places of waits for points of others.
fn told(world: &World) -> Vec<(DomainId, Traced, Vec<usize>)> {
    let told = world.said.iter().filter_map(|effect| match effect {
        Effect::Traced { domain, traced, abroad } => Some((*domain, traced.clone(), abroad.clone())),
        _ => None,
    });
    told.collect()
}

fn jobs(world: &World) -> Vec<TracedJob> {
    told(world).into_iter().flat_map(|(_, traced, _)| traced.jobs).collect()
}

/// A stage whose client traces.
fn traced() -> Stage {
    let mut s = stage();
    trace(&mut s.world, s.client);
    s
}

#[test]
fn a_job_is_told_when_it_has_ended_with_its_times_and_what_it_waited_for() {
    let mut s = traced();
    let submitted = s.world.now;
    let batch = Batch::new().job(s.queues[0], 1).writes(s.object, 0..64);
    s.submit(batch.job(s.queues[1], 1).reads(s.object, 0..64));
    assert_eq!(jobs(&s.world), []);
    s.world.let_ms_pass(2);
    let first_run = s.world.now;
    s.world.run(s.lines[0], None);
    s.world.let_ms_pass(3);
    let second_run = s.world.now;
    s.world.run(s.lines[1], None);
    let jobs = jobs(&s.world);
    let times = |job: &TracedJob| (job.submitted, job.ready, job.started, job.ended);
    let whose = |job: &TracedJob| (job.timeline, job.point, job.client, job.device, job.instance);
    let instances = [COPY, ZIP].map(|device| s.world.instance(device));
    assert_eq!(whose(&jobs[0]), (s.lines[0], Point(1), 1, COPY, instances[0]));
    assert_eq!(whose(&jobs[1]), (s.lines[1], Point(1), 1, ZIP, instances[1]));
    assert_eq!(times(&jobs[0]), (submitted, submitted, first_run, first_run.after(10)));
    assert_eq!(times(&jobs[1]), (submitted, first_run, second_run, second_run.after(10)));
    assert_eq!((jobs[0].bytes, jobs[0].staged, jobs[0].code, jobs[0].waits), (100, 1, 0, 0));
    let all = told(&s.world);
    let waits: Vec<TracedWait> = all.iter().flat_map(|(_, traced, _)| traced.waits.clone()).collect();
    assert_eq!((waits, jobs[1].waits), (vec![TracedWait { timeline: s.lines[0], point: Point(1) }], 1));
    assert!(all.iter().all(|(domain, _, abroad)| *domain == DOMAIN && abroad.is_empty()));
}

#[test]
fn a_job_says_which_operation_it_was_and_how_it_failed() {
    let mut s = traced();
    s.submit(Batch::new().job(s.queues[0], 1).op(ONCE));
    s.world.run(s.lines[0], Some(ErrorCode::CorruptInput));
    let failed = s.world.truth.look(s.lines[0], Point(1)).expect("ended").expect_err("failed");
    let job = jobs(&s.world)[0];
    assert_eq!((job.op, job.code, job.cause), (ONCE, failed.code.number(), failed.cause));
}

// M-222
#[test]
fn a_driver_that_says_impossible_times_moves_no_end_before_the_submission() {
    let mut s = traced();
    s.world.let_ms_pass(5);
    s.submit(Batch::new().job(s.queues[0], 1));
    let submitted = s.world.now;
    assert!(s.world.try_run(s.lines[0], None));
    let driver = s.world.driver(COPY);
    let completion = driver.completions.last_mut().expect("one");
    (completion.started, completion.ended) = (Time(u64::MAX), Time(1));
    let id = s.world.instance(COPY);
    s.world.flush(id);
    let job = jobs(&s.world)[0];
    assert_eq!((job.submitted, job.started, job.ended), (submitted, submitted, submitted));
}

#[test]
fn jobs_of_a_driver_that_dies_are_told_as_settled() {
    let mut s = traced();
    s.submit(Batch::new().job(s.queues[0], 1).job(s.queues[0], 2));
    s.world.let_ms_pass(1);
    let id = s.world.instance(COPY);
    s.world.die(id, InstanceEnd::Exited(-9));
    let jobs = jobs(&s.world);
    let said: Vec<_> = jobs.iter().map(|job| (job.point.0, job.started, job.ended, job.code != 0)).collect();
    assert_eq!(said, [(1, Time(0), s.world.now, true), (2, Time(0), s.world.now, true)]);
}

// M-221
#[test]
fn whoever_sees_one_domain_is_told_of_no_other_and_which_points_are_of_another_is_marked() {
    let mut world = World::new();
    world.close_exports = false;
    let (theirs, ours) = (world.client_of(OTHER_DOMAIN), world.client());
    trace(&mut world, ours);
    let object = world.object(theirs, 4096);
    let key = world.last_object();
    let porter = world.porter(ours);
    let imported = world.import(ours, porter, key, WRITE).object;
    let (first, second) = (world.queue(theirs, COPY), world.queue(ours, COPY));
    world.submit(theirs, Batch::new().job(first, 1).writes(object, 0..64));
    world.submit(ours, Batch::new().job(second, 1).reads(imported, 0..64));
    world.run_all();
    let told = told(&world);
    let [(domain, traced, abroad)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((*domain, traced.jobs.len(), abroad.as_slice()), (DOMAIN, 1, [0].as_slice()));
    let scope = world.said.iter().find_map(|effect| match effect {
        Effect::Trace { scope, .. } => Some(*scope),
        _ => None,
    });
    assert_eq!(scope, Some(Scope::Domain(DOMAIN)));
}

#[test]
fn nothing_is_told_before_somebody_traces_nor_after_the_last_who_did_is_gone() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.world.run_all();
    let tracers = [(); 2].map(|()| s.world.client());
    for tracer in tracers {
        trace(&mut s.world, tracer);
        trace(&mut s.world, tracer);
    }
    s.world.hang_up(tracers[0]);
    s.submit(Batch::new().job(s.queues[0], 2));
    s.world.run_all();
    s.world.hang_up(tracers[1]);
    s.submit(Batch::new().job(s.queues[0], 3));
    s.world.run_all();
    let points: Vec<u64> = jobs(&s.world).iter().map(|job| job.point.0).collect();
    assert_eq!(points, [2]);
}

#[test]
fn who_traces_counts_as_one_who_monitors() {
    let mut config = crate::world::config();
    config.policy.defaults.quotas.monitors = 1;
    let mut world = World::with(config);
    let [first, second] = [(); 2].map(|()| world.client());
    trace(&mut world, first);
    let refused = world.refused(second, Trace {});
    assert_eq!((refused.code, refused.limit), (ErrorCode::Exhausted, 1));
    world.hang_up(first);
    trace(&mut world, second);
}
