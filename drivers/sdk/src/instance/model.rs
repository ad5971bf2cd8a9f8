//! The instance itself on threads whose every step the test chooses: control thread, executors, and signallers of
//! other processes, in thousands of orders.
//!
//! What runs is the code of [`Instance`] and [`Schedule`], over a [`Platform`] of `shuttle`'s locks and of a model of
//! futexes. The model never wakes anybody for no reason and has no time-outs, and its alarm rings at any
//! time: so whoever sleeps while there is
//! something to do sleeps for ever, all others end, and shuttle calls it a deadlock. Orders of memory are not tried
//! here: pages and private slots follow the protocol that loom runs (`proto/os/tests/loom_fence.rs`), and everything
//! else is under the lock.
//!
//! The engine checks, job by job: nothing runs before what it waits for, twice, out of order, or beside another job of
//! its queue; what waited for a promise was told before.

mod futexes;
mod rings;
mod world;

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use vgem_proto::jobs::WAIT_PROMISE;

use self::world::{Plan, World};

/// Bytes of a job that the control thread leaves to an executor.
const LONG: u64 = 8;

/// Runs a scenario in many orders: chosen at random, and with a few changes of who goes first.
fn in_many_orders(rounds: usize, scenario: impl Fn() + Send + Sync + Copy + 'static) {
    let config = || {
        let mut config = shuttle::Config::new();
        config.stack_size = 512 * 1024;
        config.failure_persistence = shuttle::FailurePersistence::Print;
        config
    };
    shuttle::Runner::new(RandomScheduler::new(rounds), config()).run(scenario);
    shuttle::Runner::new(PctScheduler::new(3, rounds), config()).run(scenario);
}

#[test]
fn whatever_the_order_every_job_ends_once_and_in_its_turn() {
    in_many_orders(400, || {
        let plan = Plan::any(&mut thread_rng());
        World::start(2, plan).finish();
    });
}

#[test]
fn jobs_that_are_cancelled_boosted_and_closed_meanwhile_end_once() {
    in_many_orders(400, || {
        let mut random = thread_rng();
        let plan = Plan::any(&mut random);
        let (jobs, world) = (plan.jobs.len(), World::start(2, plan));
        for _ in 0..3 {
            match random.gen_range(0..3) {
                0 => world.cancel(random.gen_range(0..jobs)),
                1 => world.boost(random.gen_range(0..jobs), random.gen_range(0..8)),
                _ => world.observe_one_more_page(),
            }
        }
        world.finish();
    });
}

#[test]
fn a_parked_job_holds_up_no_other_queue() {
    in_many_orders(300, || {
        // The first queue waits for a point that comes when the others have ended.
        let mut plan = Plan::default();
        plan.job(0, LONG).far(1, 0);
        plan.job(0, LONG);
        for queue in [1, 2] {
            for len in [LONG, 0, LONG] {
                plan.job(queue, len);
            }
        }
        plan.signal_after = vec![6];
        World::start(1, plan).finish();
    });
}

#[test]
fn a_long_job_does_not_keep_an_idle_executor_from_the_next() {
    in_many_orders(300, || {
        // The first job ends when one behind it in no queue has begun: so a second executor must come.
        let mut plan = Plan { at_once: true, ..Plan::default() };
        plan.job(0, LONG).meets(1);
        plan.job(1, LONG).meets(0);
        plan.job(2, LONG);
        World::start(2, plan).finish();
    });
}

#[test]
fn a_watcher_that_gets_work_passes_the_watch_on() {
    in_many_orders(300, || {
        // Two heads wait elsewhere. Whoever is woken for the first is busy until the second has begun.
        let mut plan = Plan::default();
        plan.job(0, LONG).far(1, 0).meets(1);
        plan.job(1, LONG).far(2, 0).meets(0);
        World::start(2, plan).finish();
    });
}

#[test]
fn who_waits_for_an_earlier_point_of_a_timeline_is_woken_for_that() {
    in_many_orders(300, || {
        // The second point comes when the job that waits for the first has run.
        let mut plan = Plan { signal_after: vec![0, 1], ..Plan::default() };
        plan.job(0, LONG).far(2, 0);
        plan.job(1, LONG).far(1, 0);
        World::start(1, plan).finish();
    });
}

#[test]
fn what_waits_in_vain_ends_when_it_is_cancelled_though_everybody_sleeps() {
    in_many_orders(300, || {
        let mut plan = Plan { silent: true, ..Plan::default() };
        plan.job(0, LONG).far(1, WAIT_PROMISE);
        plan.job(1, LONG).after(0);
        let world = World::start(1, plan);
        world.cancel(0);
        world.finish();
    });
}

#[test]
fn what_waits_for_promises_is_told_before_it_begins() {
    in_many_orders(300, || {
        let mut plan = Plan::default();
        plan.job(0, LONG).far(1, WAIT_PROMISE);
        plan.job(1, 0).far(2, WAIT_PROMISE);
        plan.job(2, LONG).far(1, WAIT_PROMISE).after(0);
        plan.job(0, LONG).far(2, WAIT_PROMISE);
        World::start(2, plan).finish();
    });
}

// M-109
#[test]
fn completions_leave_though_everybody_sleeps() {
    in_many_orders(300, || {
        let mut plan = Plan::default();
        for queue in [0, 1, 0, 2] {
            plan.job(queue, LONG);
            plan.job(queue, 0);
        }
        let world = World::start(2, plan);
        world.hear_of_all();
        world.finish();
    });
}
