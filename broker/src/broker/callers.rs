//! Who comes to the door of everybody, user by user: so that one who connects without end is no wait for others.
//!
//! ```text
//!   accepted ──► whose? ──┬── has a share, and nobody of that user waits ──► let in
//!                         ├── [`EACH`] of the user wait, or [`MOST`] of all ──► refused
//!                         └── else ──► waits for that user's next share ──► let in
//! ```
//!
//! Whose a connection is, the kernel says only once it is accepted. So all are, as fast as they come, and the rate is
//! that of the user ([`OF_ONE`]): who is beyond it waits here and not in the backlog, where others would wait behind it.
//! One process that connects again and again is slowed down and never refused; who opens more at once than may wait is
//! refused. Only those who are let in take a share of the door, which lets in those of many users.
//!
//! A user is remembered while connections wait or the bucket is not full. A bucket that is not full was taken from less
//! than a burst's time ago, through the door: so they are as many at most as come through it in that time.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::gate::{Bucket, OF_ALL, OF_ONE};

/// Connections of one user that may wait.
pub(super) const EACH: usize = 256;
/// Of all.
const MOST: usize = 4 * EACH;
/// Users that may be remembered before it is looked who need not be.
const USERS: usize = 256;
/// Users that can be remembered: all that come through the door at once, and while a bucket fills.
const _: () =
    assert!(OF_ALL.burst + OF_ONE.burst * OF_ONE.each_ns / OF_ALL.each_ns < 1 << 12, "they are few");

/// Connections, and who they are of.
#[derive(Debug)]
pub(super) struct Callers<T> {
    users: HashMap<u32, User<T>>,
    /// The users of whom some wait, by when the next of them may come in.
    next: BTreeSet<(u64, u32)>,
    /// Connections that wait.
    waiting: usize,
    /// Users at which it forgets again.
    forget_at: usize,
}

#[derive(Debug)]
struct User<T> {
    bucket: Bucket,
    waits: VecDeque<T>,
}

/// What becomes of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<T> {
    /// It comes in.
    Now(T),
    /// It waits.
    Later,
    /// So many wait, and there may be no more.
    Full { connection: T, most: usize },
}

impl<T> Default for Callers<T> {
    fn default() -> Self {
        Self { users: HashMap::new(), next: BTreeSet::new(), waiting: 0, forget_at: USERS }
    }
}

impl<T> Callers<T> {
    /// A connection of a user has come.
    pub(super) fn come(&mut self, uid: u32, connection: T, now: u64) -> Entry<T> {
        if self.users.len() >= self.forget_at {
            self.forget(now);
        }
        let user = self.users.entry(uid).or_insert_with(User::new);
        let at = user.bucket.share_at(OF_ONE);
        if user.waits.is_empty() && at <= now {
            user.bucket.take(OF_ONE, now);
            return Entry::Now(connection);
        }
        for (count, most) in [(user.waits.len(), EACH), (self.waiting, MOST)] {
            if count >= most {
                return Entry::Full { connection, most };
            }
        }
        if user.waits.is_empty() {
            self.next.insert((at, uid));
        }
        user.waits.push_back(connection);
        self.waiting += 1;
        Entry::Later
    }

    /// When the next that waits may come in.
    pub(super) fn due(&self) -> Option<u64> {
        self.next.first().map(|(at, _)| *at)
    }

    /// The next that waited and may come in now.
    pub(super) fn next(&mut self, now: u64) -> Option<T> {
        let (at, uid) = *self.next.first().filter(|(at, _)| *at <= now)?;
        self.next.remove(&(at, uid));
        let user = self.users.get_mut(&uid)?;
        let connection = user.waits.pop_front()?;
        self.waiting -= 1;
        user.bucket.take(OF_ONE, now);
        if !user.waits.is_empty() {
            self.next.insert((user.bucket.share_at(OF_ONE), uid));
        }
        Some(connection)
    }

    fn forget(&mut self, now: u64) {
        self.users.retain(|_, user| !user.waits.is_empty() || !user.bucket.is_full(now));
        self.forget_at = USERS.max(2 * self.users.len());
    }
}

impl<T> User<T> {
    fn new() -> Self {
        Self { bucket: Bucket::default(), waits: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREEDY: u32 = 7;
    const HONEST: u32 = 8;

    /// Of so many that come at once: how many come in, wait, are refused.
    fn come(callers: &mut Callers<u32>, uid: u32, count: u32, now: u64) -> (usize, usize, usize) {
        let entries: Vec<Entry<u32>> = (0..count).map(|number| callers.come(uid, number, now)).collect();
        let of = |is: fn(&Entry<u32>) -> bool| entries.iter().filter(|entry| is(entry)).count();
        (
            of(|entry| matches!(entry, Entry::Now(_))),
            of(|entry| *entry == Entry::Later),
            of(|entry| matches!(entry, Entry::Full { .. })),
        )
    }

    #[test]
    fn an_honest_burst_comes_in_at_once() {
        assert_eq!(come(&mut Callers::default(), HONEST, 250, 5), (250, 0, 0));
    }

    // M-270
    #[test]
    fn atk_who_connects_without_end_is_slowed_down_and_then_refused_and_others_come_in() {
        let mut callers = Callers::default();
        assert_eq!(come(&mut callers, GREEDY, 1000, 5), (256, EACH, 1000 - 256 - EACH));
        assert_eq!(come(&mut callers, HONEST, 250, 5), (250, 0, 0));
        let full = callers.come(GREEDY, 9, 6);
        assert_eq!(full, Entry::Full { connection: 9, most: EACH });
    }

    // M-270
    #[test]
    fn atk_many_users_make_no_more_wait_than_may_and_others_come_in() {
        let mut callers = Callers::default();
        let waits = (0..100).map(|uid| come(&mut callers, 100 + uid, 600, 5).1).sum::<usize>();
        assert_eq!((waits, callers.waiting), (MOST, MOST));
        assert_eq!(callers.come(100, 9, 5), Entry::Full { connection: 9, most: EACH });
        assert_eq!(callers.come(199, 9, 5), Entry::Full { connection: 9, most: MOST });
        assert_eq!(come(&mut callers, HONEST, 250, 5), (250, 0, 0));
    }

    #[test]
    fn those_who_wait_come_in_one_after_the_other_in_the_order_in_which_they_came() {
        let mut callers = Callers::default();
        come(&mut callers, GREEDY, 256, 5);
        assert_eq!(callers.due(), None);
        assert_eq!(come(&mut callers, GREEDY, 3, 5), (0, 3, 0));
        for number in 0..3 {
            let due = callers.due().expect("some wait");
            assert_eq!(due, 5 + (u64::from(number) + 1) * OF_ONE.each_ns);
            assert_eq!((callers.next(due - 1), callers.next(due)), (None, Some(number)));
        }
        assert_eq!((callers.due(), callers.next(u64::MAX)), (None, None));
    }

    #[test]
    fn nobody_overtakes_who_waits() {
        let mut callers = Callers::default();
        come(&mut callers, GREEDY, 257, 5);
        let due = callers.due().expect("one waits");
        assert_eq!(callers.come(GREEDY, 9, due), Entry::Later);
        assert_eq!((callers.next(due), callers.next(due + OF_ONE.each_ns)), (Some(256), Some(9)));
    }

    #[test]
    fn of_several_users_each_has_its_own_rate() {
        let mut callers = Callers::default();
        for uid in 0..4 {
            assert_eq!(come(&mut callers, uid, 300, 5), (256, 44, 0));
        }
        let later = 5 + 10 * OF_ONE.each_ns;
        assert_eq!(std::iter::from_fn(|| callers.next(later)).count(), 40);
    }

    #[test]
    fn atk_users_are_remembered_only_while_it_matters() {
        let mut callers = Callers::default();
        let mut now = 5;
        for uid in 0..100_000 {
            assert_eq!(callers.come(uid, 0, now), Entry::Now(0));
            // As fast as the door lets in.
            now += OF_ALL.each_ns;
        }
        assert!(callers.users.len() <= 2 * USERS, "{}", callers.users.len());
    }
}
