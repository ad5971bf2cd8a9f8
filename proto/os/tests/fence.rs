//! The three faces of a fence page, in one process and over two.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::io::Errno;
use vgem_os::clock;
use vgem_os::fence::{
    Failure, KeeperFace, NotNewer, ObserverFace, ObserverFds, PagePair, PointState, SignallerFace,
    SignallerFds, Slot, Woke,
};
use vgem_os::futex::{Wake, wait_any};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, ObjectMemory};

const GENERATION: u32 = 7;
const TIME: u64 = 1234;
const OK: PointState = PointState::Ok { time_ns: TIME };

struct Faces {
    keeper: KeeperFace,
    signaller: SignallerFace,
    observer: ObserverFace,
}

fn slot(index: u16) -> Slot {
    Slot::new(index).unwrap()
}

fn faces() -> Faces {
    let keeper = PagePair::create().unwrap();
    let signaller = SignallerFace::map(keeper.signaller_fds().unwrap()).unwrap();
    let observer = ObserverFace::map(keeper.observer_fds().unwrap()).unwrap();
    Faces { keeper, signaller, observer }
}

/// Faces with a timeline in slot 0.
fn published() -> Faces {
    let faces = faces();
    faces.signaller.publish(slot(0), GENERATION, 0, 0, &[]);
    faces
}

fn failure(point: u64) -> Failure {
    Failure { point, code: 5, cause: 1000 + point }
}

fn failed(point: u64) -> PointState {
    PointState::Failed { code: 5, cause: 1000 + point, time_ns: TIME }
}

impl Faces {
    fn signal(&self, point: u64, failure: Option<Failure>) -> Result<Woke, NotNewer> {
        self.signaller.signal(slot(0), point, TIME, failure)
    }

    fn state(&self, point: u64) -> PointState {
        self.observer.state(slot(0), GENERATION, point)
    }

    /// Points `1..=last`, all of which failed.
    fn fail_up_to(&self, last: u64) {
        for point in 1..=last {
            self.signal(point, Some(failure(point))).unwrap();
        }
    }
}

#[test]
fn f2_a_point_is_pending_until_it_is_signalled() {
    let faces = published();
    assert_eq!(faces.state(1), PointState::Pending);
    faces.signal(1, None).unwrap();
    assert_eq!((faces.state(1), faces.state(2)), (OK, PointState::Pending));
}

#[test]
fn a_signal_completes_every_point_below_it() {
    let faces = published();
    faces.signal(9, None).unwrap();
    assert!((1..=9).all(|point| faces.state(point) == OK));
}

// M-080
#[test]
fn a_timeline_only_grows() {
    let faces = published();
    faces.signal(5, None).unwrap();
    for point in [0, 4, 5] {
        assert_eq!(faces.signal(point, None), Err(NotNewer::Point { point, value: 5 }));
    }
    assert_eq!(faces.signaller.value(slot(0)), 5);
}

#[test]
fn a_failure_outside_of_its_signal_is_refused_and_changes_nothing() {
    let faces = published();
    faces.signal(5, None).unwrap();
    for point in [5, 7] {
        let refused = faces.signal(6, Some(failure(point)));
        assert_eq!(refused, Err(NotNewer::Failure { failed: point, point: 6, value: 5 }));
    }
    assert_eq!(faces.keeper.slot(slot(0)).fail_count, 0);
}

#[test]
fn t5_a_later_success_does_not_hide_an_earlier_failure() {
    let faces = published();
    faces.signal(1, Some(failure(1))).unwrap();
    faces.signal(2, None).unwrap();
    assert_eq!((faces.state(1), faces.state(2)), (failed(1), OK));
}

#[test]
fn the_last_eight_failures_are_known_and_nothing_below_is_called_ok() {
    let faces = published();
    faces.fail_up_to(20);
    assert!((13..=20).all(|point| faces.state(point) == failed(point)));
    assert!((1..=12).all(|point| faces.state(point) == PointState::Overrun));
}

#[test]
fn eight_failures_lose_nothing() {
    let faces = published();
    faces.signal(1, None).unwrap();
    for point in 2..=9 {
        faces.signal(point, Some(failure(point))).unwrap();
    }
    assert_eq!(faces.state(1), OK);
    assert!((2..=9).all(|point| faces.state(point) == failed(point)));
}

#[test]
fn a_success_among_the_retained_failures_is_ok() {
    let faces = published();
    faces.fail_up_to(20);
    faces.signal(21, None).unwrap();
    faces.signal(22, Some(failure(22))).unwrap();
    assert_eq!(faces.state(21), OK);
}

// M-073
#[test]
fn a_slot_that_is_not_published_yet_is_pending_and_an_older_timeline_is_overrun() {
    let faces = published();
    let ask = |generation| faces.observer.state(slot(0), generation, 1);
    assert_eq!(ask(GENERATION + 1), PointState::Pending);
    assert_eq!(ask(GENERATION - 1), PointState::Overrun);
    assert_eq!(faces.observer.state(slot(1), GENERATION, 1), PointState::Pending);
}

#[test]
fn a_retired_slot_is_pending_for_its_timeline() {
    let faces = published();
    faces.signal(3, None).unwrap();
    faces.signaller.retire(slot(0));
    assert_eq!(faces.state(3), PointState::Pending);
}

// M-082
#[test]
fn a_slot_that_is_published_late_brings_its_history() {
    let faces = faces();
    faces.signaller.publish(slot(0), GENERATION, 6, TIME, &[failure(2), failure(4)]);
    let states = [2, 3, 4, 6, 7].map(|point| faces.state(point));
    assert_eq!(states, [failed(2), OK, failed(4), OK, PointState::Pending]);
}

// M-082
#[test]
fn a_history_of_more_than_eight_failures_says_that_older_points_are_overrun() {
    let faces = faces();
    let history: Vec<Failure> = (2..=10).map(failure).collect();
    faces.signaller.publish(slot(0), GENERATION, 10, TIME, &history);
    assert_eq!(
        (faces.state(1), faces.state(2), faces.state(3)),
        (PointState::Overrun, PointState::Overrun, failed(3))
    );
}

#[test]
fn a_slot_used_again_has_no_failures_of_its_former_timeline() {
    let faces = published();
    faces.fail_up_to(10);
    faces.signaller.publish(slot(0), GENERATION + 1, 3, TIME, &[]);
    assert_eq!(faces.observer.state(slot(0), GENERATION + 1, 2), OK);
}

// M-072
#[test]
fn a_verdict_on_a_slot_holds_whatever_an_undead_signaller_signals() {
    let faces = published();
    faces.signal(3, None).unwrap();
    faces.keeper.kill_slot(slot(0), 4, 9, 77);
    faces.signal(10, None).unwrap();
    assert_eq!(faces.state(3), OK);
    assert_eq!(faces.state(4), PointState::Failed { code: 9, cause: 77, time_ns: TIME });
}

// M-072
// M-082
#[test]
fn a_slot_that_shows_all_of_it_already_is_left_as_it_is() {
    for (last, told) in [(0, 0..0), (3, 0..3), (8, 0..8), (12, 3..12)] {
        let faces = published();
        faces.fail_up_to(last);
        let history: Vec<Failure> = told.map(|n| failure(n + 1)).collect();
        let heir = SignallerFace::map(faces.keeper.signaller_fds().unwrap()).unwrap();

        heir.publish(slot(0), GENERATION, last, TIME + 1, &history);

        let untouched = if last == 0 { 0 } else { TIME };
        assert_eq!(faces.keeper.slot(slot(0)).time_ns, untouched, "{last} failures");
        heir.signal(slot(0), last + 1, TIME, None).unwrap();
        assert_eq!((faces.state(last + 1), faces.state(last + 2)), (OK, PointState::Pending));
    }
}

// M-082
#[test]
fn a_slot_that_shows_anything_else_is_written_anew() {
    for (value, history) in [(2, vec![1]), (4, vec![1]), (3, vec![]), (3, vec![2]), (3, vec![1, 2])] {
        let faces = published();
        for point in 1..=3 {
            faces.signal(point, (point == 1).then(|| failure(1))).unwrap();
        }
        let history: Vec<Failure> = history.into_iter().map(failure).collect();
        faces.signaller.publish(slot(0), GENERATION, value, TIME + 1, &history);
        let shown = faces.keeper.slot(slot(0));
        assert_eq!((shown.value, shown.time_ns, shown.failures), (value, TIME + 1, history));
    }
}

#[test]
fn a_verdict_may_come_before_the_slot_is_published() {
    let faces = faces();
    faces.keeper.kill_slot(slot(2), 1, 9, 77);
    let state = faces.observer.state(slot(2), GENERATION, 1);
    assert_eq!(state, PointState::Failed { code: 9, cause: 77, time_ns: 0 });
}

#[test]
fn a_later_verdict_can_only_take_more_points() {
    let faces = published();
    faces.keeper.kill_slot(slot(0), 4, 9, 77);
    faces.keeper.kill_slot(slot(0), 6, 1, 1);
    assert_eq!(faces.state(4), PointState::Failed { code: 9, cause: 77, time_ns: 0 });
    faces.keeper.kill_slot(slot(0), 2, 8, 66);
    assert_eq!(faces.state(2), PointState::Failed { code: 8, cause: 66, time_ns: 0 });
}

#[test]
fn a_slot_that_was_revived_serves_another_timeline() {
    let faces = published();
    faces.keeper.kill_slot(slot(0), 1, 9, 77);
    faces.keeper.revive_slot(slot(0));
    faces.signaller.publish(slot(0), GENERATION + 1, 0, 0, &[]);
    assert_eq!(faces.observer.state(slot(0), GENERATION + 1, 1), PointState::Pending);
}

#[test]
fn the_death_of_a_page_fails_what_was_not_signalled_in_every_slot() {
    let faces = published();
    faces.signal(3, None).unwrap();
    faces.keeper.kill_page(9, 77);
    let dead = |time_ns| PointState::Failed { code: 9, cause: 77, time_ns };
    assert_eq!((faces.state(3), faces.state(4)), (OK, dead(TIME)));
    assert_eq!(faces.observer.state(slot(5), GENERATION, 1), dead(0), "also where none was published");
}

#[test]
fn a_lagging_slot_is_settled_to_what_other_pages_show() {
    let faces = published();
    faces.signal(1, Some(failure(1))).unwrap();
    faces.keeper.settle(slot(0), GENERATION, 4, TIME, &[failure(1), failure(3)]);
    faces.keeper.kill_page(9, 77);
    let states = [1, 2, 3, 4].map(|point| faces.state(point));
    assert_eq!(states, [failed(1), OK, failed(3), OK]);
    assert_eq!(faces.keeper.slot(slot(0)).failures, [failure(1), failure(3)]);
}

#[test]
fn a_slot_that_the_dead_had_yet_to_publish_shows_what_was_signalled() {
    let faces = published();
    let other = slot(3);
    let state = |point| faces.observer.state(other, GENERATION, point);
    assert_eq!(state(1), PointState::Pending);
    faces.keeper.settle(other, GENERATION, 3, TIME, &[failure(2)]);
    faces.keeper.kill_slot(other, 4, 9, 77);
    faces.keeper.kill_page(9, 77);
    let dead = |time_ns| PointState::Failed { code: 9, cause: 77, time_ns };
    assert_eq!([1, 2, 3].map(state), [OK, failed(2), OK]);
    assert!([dead(0), dead(TIME)].contains(&state(4)), "{:?}", state(4));
}

#[test]
fn settling_does_not_record_twice_what_a_signaller_recorded_before_it_died() {
    let faces = published();
    // Dead between the entry and the value: one failure at point 1, and the value is still 0.
    let page = faces.keeper.signaller_fds().unwrap().page;
    let page = Mapping::map(page.as_fd(), 4096, Access::Write, Populate::Lazy).unwrap();
    let words = page.span_mut().unwrap().sub(256, 256).unwrap();
    words.write_u64(0, u64::from(GENERATION) | 1 << 32).unwrap();
    for (at, word) in [(64, 1), (72, 1001), (80, 5)] {
        words.write_u64(at, word).unwrap();
    }
    faces.keeper.settle(slot(0), GENERATION, 1, TIME, &[failure(1)]);
    assert_eq!(faces.keeper.slot(slot(0)).failures, [failure(1)]);
}

#[test]
fn settling_never_takes_a_slot_back() {
    let faces = published();
    faces.signal(5, None).unwrap();
    faces.keeper.settle(slot(0), GENERATION, 3, TIME, &[failure(2)]);
    assert_eq!((faces.keeper.slot(slot(0)).value, faces.state(2)), (5, OK));
}

#[test]
fn a_levelled_slot_goes_on_and_forgets_a_failure_that_was_never_signalled() {
    let faces = published();
    faces.signal(1, Some(failure(1))).unwrap();
    // Dead between the entry and the value: a failure at point 2, and the value is still 1.
    let page = faces.keeper.signaller_fds().unwrap().page;
    let page = Mapping::map(page.as_fd(), 4096, Access::Write, Populate::Lazy).unwrap();
    let words = page.span_mut().unwrap().sub(256, 256).unwrap();
    for (at, word) in [(88, 2), (96, 1002), (104, 5)] {
        words.write_u64(at, word).unwrap();
    }
    faces.keeper.level(slot(0), GENERATION, 1, TIME, &[failure(1)]);
    assert_eq!([1, 2].map(|point| faces.state(point)), [failed(1), PointState::Pending]);
    faces.signal(2, None).unwrap();
    assert_eq!([1, 2].map(|point| faces.state(point)), [failed(1), OK]);
}

#[test]
fn levelling_brings_a_lagging_slot_to_the_others_and_kills_nothing() {
    let faces = published();
    faces.keeper.level(slot(0), GENERATION, 3, TIME, &[failure(2)]);
    let states = [1, 2, 3, 4].map(|point| faces.state(point));
    assert_eq!(states, [OK, failed(2), OK, PointState::Pending]);
}

#[test]
fn levelling_shows_a_timeline_that_a_dead_signaller_had_yet_to_show() {
    let faces = published();
    faces.signal(9, Some(failure(9))).unwrap();
    let next = |point| faces.observer.state(slot(0), GENERATION + 1, point);
    assert_eq!(next(3), PointState::Pending, "it was told to, and died");
    faces.keeper.level(slot(0), GENERATION + 1, 3, TIME, &[failure(2)]);
    assert_eq!([1, 2, 3, 9].map(next), [OK, failed(2), OK, PointState::Pending]);
    assert_eq!(faces.state(1), PointState::Overrun, "the timeline before it is retired there");
    let many: Vec<Failure> = (2..10).map(failure).collect();
    faces.keeper.level(slot(1), GENERATION, 20, TIME, &many);
    let other = |point| faces.observer.state(slot(1), GENERATION, point);
    assert_eq!([1, 2, 20].map(other), [PointState::Overrun, failed(2), OK]);
}

// M-081
#[test]
fn nobody_is_woken_unless_the_point_is_wanted() {
    let faces = published();
    assert_eq!(faces.signal(1, None), Ok(Woke::Nobody), "no interest");
    faces.observer.set_interest(slot(0), 3);
    assert_eq!(faces.signal(2, None), Ok(Woke::Nobody), "an earlier point");
    let before = faces.observer.doorbell();
    assert_eq!(faces.signal(3, None), Ok(Woke::Sleeper));
    assert_ne!(faces.observer.doorbell(), before);
    faces.observer.clear_interest(slot(0));
    assert_eq!(faces.signal(4, None), Ok(Woke::Nobody));
}

#[test]
fn f4_interest_in_what_is_signalled_already_is_answered_at_once_and_nobody_is_woken_for_it_later() {
    let faces = published();
    assert_eq!(faces.signal(3, None), Ok(Woke::Nobody));
    let before = faces.observer.doorbell();
    faces.observer.set_interest(slot(0), 2);
    assert_eq!((faces.state(2), faces.observer.doorbell()), (OK, before));
    faces.observer.clear_interest(slot(0));
    assert_eq!((faces.signal(4, None), faces.observer.doorbell()), (Ok(Woke::Nobody), before));
}

#[test]
fn the_interest_of_one_slot_does_not_ring_for_another() {
    let faces = published();
    faces.signaller.publish(slot(14), GENERATION, 0, 0, &[]);
    faces.observer.set_interest(slot(14), 1);
    assert_eq!(faces.signal(1, None), Ok(Woke::Nobody));
    assert_eq!(faces.signaller.signal(slot(14), 1, TIME, None), Ok(Woke::Sleeper));
}

#[test]
fn a_sleeper_that_saw_the_old_doorbell_does_not_fall_asleep() {
    let faces = published();
    let seen = faces.observer.doorbell();
    faces.observer.set_interest(slot(0), 1);
    faces.signal(1, None).unwrap();
    assert_eq!(faces.observer.sleep(seen, support::patience()), Ok(Wake::Rung));
}

#[test]
fn a_sleep_ends_at_its_deadline() {
    let faces = published();
    let deadline = clock::deadline_in(2_000_000);
    let seen = faces.observer.doorbell();
    assert_eq!(faces.observer.sleep(seen, deadline), Ok(Wake::TimedOut));
    assert!(clock::now() >= deadline);
}

#[test]
fn one_wake_up_reaches_every_sleeper_of_a_process() {
    let faces = published();
    std::thread::scope(|threads| {
        for _ in 0..8 {
            threads.spawn(|| wait_for(&faces.observer, 1));
        }
        support::until("somebody waits", || faces.observer.interest(slot(0)) == 1);
        faces.signal(1, None).unwrap();
    });
    assert_eq!(faces.state(1), OK);
}

#[test]
fn a_signal_wakes_a_sleeping_observer_in_another_process() {
    if let Some(side) = support::peer_side() {
        let fds = ObserverFds { page: support::given(0), interest: support::given(1) };
        let state = wait_for(&ObserverFace::map(fds).unwrap(), 1);
        return side.say(&format!("{state:?}"));
    }
    let faces = published();
    let ObserverFds { page, interest } = faces.keeper.observer_fds().unwrap();
    let test = "a_signal_wakes_a_sleeping_observer_in_another_process";
    let peer = support::start_peer(test, vec![page, interest]);
    support::until("the peer says it sleeps", || faces.observer.interest(slot(0)) == 1);
    assert_eq!(faces.signal(1, None), Ok(Woke::Sleeper));
    assert_eq!(peer.hear(), format!("{OK:?}"));
}

#[test]
fn an_observer_of_a_signaller_that_was_killed_is_woken_by_the_verdict() {
    if let Some(side) = support::peer_side() {
        let fds = SignallerFds { page: support::given(0), interest: support::given(1) };
        SignallerFace::map(fds).unwrap().publish(slot(0), GENERATION, 0, 0, &[]);
        side.say("published");
        return side.wait_for_the_end();
    }
    let faces = faces();
    let SignallerFds { page, interest } = faces.keeper.signaller_fds().unwrap();
    let test = "an_observer_of_a_signaller_that_was_killed_is_woken_by_the_verdict";
    let mut peer = support::start_peer(test, vec![page, interest]);
    assert_eq!(peer.hear(), "published");
    let state = std::thread::scope(|threads| {
        let waiter = threads.spawn(|| wait_for(&faces.observer, 1));
        peer.kill();
        faces.keeper.kill_page(9, 77);
        waiter.join().unwrap()
    });
    assert_eq!(state, PointState::Failed { code: 9, cause: 77, time_ns: 0 });
}

#[test]
fn a_doorbell_can_be_waited_for_among_others() {
    let (quiet, rung) = (published(), published());
    let words = [&quiet, &rung].map(|faces| (faces.observer.word(), faces.observer.doorbell()));
    rung.observer.set_interest(slot(0), 1);
    std::thread::scope(|threads| {
        threads.spawn(|| rung.signal(1, None).unwrap());
        assert_eq!(wait_any(&words, support::patience()), Ok(Some(1)));
    });
}

#[test]
fn an_observers_fd_of_the_page_and_a_signallers_of_the_interest_are_read_only() {
    let keeper = PagePair::create().unwrap();
    let denied = |fd: OwnedFd| {
        let mapped = Mapping::map(fd.as_fd(), 4096, Access::Write, Populate::Lazy);
        mapped.map(drop).map_err(|error| error.errno())
    };
    assert_eq!(denied(keeper.observer_fds().unwrap().page), Err(Errno::ACCESS));
    assert_eq!(denied(keeper.signaller_fds().unwrap().interest), Err(Errno::ACCESS));
}

#[test]
fn a_pair_survives_the_restart_of_its_keeper() {
    let faces = published();
    faces.signal(2, None).unwrap();
    let (page, interest) = faces.keeper.duplicates().unwrap();
    drop(faces.keeper);
    let again = KeeperFace::from_kept(page, interest).unwrap();
    again.kill_slot(slot(0), 3, 9, 77);
    assert_eq!(again.slot(slot(0)).value, 2);
    let state = faces.observer.state(slot(0), GENERATION, 3);
    assert_eq!(state, PointState::Failed { code: 9, cause: 77, time_ns: TIME });
}

#[test]
fn memory_that_is_no_fence_page_is_refused() {
    let keeper = PagePair::create().unwrap();
    let other = ObjectMemory::create(4096, vgem_os::memory::HugePages::None, "other").unwrap();
    let page = other.export(Access::Read).unwrap();
    let interest = keeper.observer_fds().unwrap().interest;
    let refused = ObserverFace::map(ObserverFds { page, interest }).unwrap_err();
    assert_eq!(refused.errno(), Errno::INVAL);
}

#[test]
fn a_page_has_fifteen_slots() {
    assert_eq!((Slot::all().count(), Slot::new(14).is_some(), Slot::new(15)), (15, true, None));
}

// M-070
#[test]
fn an_observer_never_reads_a_mixture_while_failures_pour_in() {
    let faces = published();
    const LAST: u64 = 20_000;
    std::thread::scope(|threads| {
        // Both halves of a cause say the point: one that is read in two accesses is found by its halves.
        threads.spawn(|| {
            for point in 1..=LAST {
                faces.signal(point, Some(Failure { point, code: 5, cause: point << 32 | point })).unwrap();
            }
        });
        let mut point = 1;
        while point <= LAST {
            match faces.state(point) {
                PointState::Pending => std::hint::spin_loop(),
                PointState::Failed { code, cause, .. } => {
                    assert_eq!((code, cause), (5, point << 32 | point));
                    point += 1;
                }
                PointState::Overrun => point += 1,
                PointState::Ok { .. } => panic!("point {point} failed and reads ok"),
            }
        }
    });
}

// M-071
#[test]
fn whatever_a_signaller_writes_is_read_as_the_state_of_a_point_and_as_nothing_else() {
    let faces = published();
    let page = faces.keeper.signaller_fds().unwrap().page;
    let page = Mapping::map(page.as_fd(), 4096, Access::Write, Populate::Lazy).unwrap();
    let words = page.span_mut().unwrap();
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..2000 {
        for at in (0..4096).step_by(8) {
            number = number.rotate_left(23).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ at as u64;
            // Also numbers that are nearly right: small points, no generation, no number of slots at all.
            let word = match number >> 62 {
                0 => number,
                1 => number & 7,
                2 => 0,
                _ => u64::MAX,
            };
            words.write_u64(at, word).unwrap();
        }
        for slot in Slot::all() {
            for (generation, point) in [(0, 0), (GENERATION, 1), (u32::MAX, u64::MAX), (1, round)] {
                // Each look ends, and it ends in one of the four states.
                let _state = faces.observer.state(slot, generation, point);
            }
            assert!(faces.keeper.slot(slot).failures.len() <= 8);
        }
        let seen = faces.observer.doorbell();
        assert_eq!(faces.observer.sleep(seen, 1), Ok(Wake::TimedOut), "and a sleep has its own deadline");
    }
}

/// The observer's loop, as a client library runs it.
fn wait_for(observer: &ObserverFace, point: u64) -> PointState {
    loop {
        let seen = observer.doorbell();
        observer.set_interest(slot(0), point);
        match observer.state(slot(0), GENERATION, point) {
            PointState::Pending => {}
            done => return done,
        }
        assert_eq!(observer.sleep(seen, support::patience()), Ok(Wake::Rung), "woken in time");
    }
}
