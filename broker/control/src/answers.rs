//! Answers that are told again: a user that asks without end is told what the broker said a moment ago.
//!
//! ```text
//!   question ─► few of late, or the answer is old? ─► ask the broker ─► keep the answer
//!                └─ no ─► what is kept
//! ```
//!
//! So what the broker is asked does not grow with the calls: of one user [`FRESH`] questions a second, and each question
//! at most once in [`OLD`] beyond that. Who asks now and then always has an answer of that moment; whoever has done
//! something over the bus sees it in the next answer. All callers of one user are told the same, because all see the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vgem::snapshot::{ClientEntry, DeviceEntry, DomainEntry, ObjectEntry, Status};

use crate::error::Result;
use crate::pace::{Bucket, Pace};

/// Questions of one user that reach the broker, whatever was asked before.
const FRESH: Pace = Pace { rate: 50.0, burst: 100.0 };
/// How long an answer will do.
const OLD: Duration = Duration::from_millis(100);

/// What users were told last.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    users: Mutex<HashMap<u32, User>>,
}

#[derive(Debug)]
struct User {
    fresh: Bucket,
    told: Told,
}

/// The questions there are.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) status: Option<Answer<Status>>,
    pub(crate) devices: Option<Answer<Vec<DeviceEntry>>>,
    pub(crate) clients: Option<Answer<Vec<ClientEntry>>>,
    pub(crate) objects: Option<Answer<Vec<ObjectEntry>>>,
    pub(crate) domains: Option<Answer<Vec<DomainEntry>>>,
}

/// An answer, and when it was given.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    is: Arc<T>,
    at: Instant,
}

impl Answers {
    /// The answer to a question of a user: what is kept, or what `ask` is told.
    ///
    /// # Errors
    /// Those of `ask`; they are not kept.
    pub(crate) async fn of<T>(
        &self,
        uid: u32,
        question: fn(&mut Told) -> &mut Option<Answer<T>>,
        ask: impl Future<Output = vgem::Result<T>>,
    ) -> Result<Arc<T>> {
        if let Some(kept) = self.kept(uid, question, Instant::now()) {
            return Ok(kept);
        }
        let is = Arc::new(ask.await?);
        if let Some(user) = self.users().get_mut(&uid) {
            *question(&mut user.told) = Some(Answer { is: Arc::clone(&is), at: Instant::now() });
        }
        Ok(is)
    }

    /// A user has done something: what is kept is not true any more.
    pub(crate) fn changed(&self, uid: u32) {
        if let Some(user) = self.users().get_mut(&uid) {
            user.told = Told::default();
        }
    }

    /// Nobody of this user is there any more.
    pub(crate) fn gone(&self, uid: u32) {
        self.users().remove(&uid);
    }

    fn kept<T>(
        &self,
        uid: u32,
        question: fn(&mut Told) -> &mut Option<Answer<T>>,
        now: Instant,
    ) -> Option<Arc<T>> {
        let mut users = self.users();
        let new = || User { fresh: Bucket::full(FRESH, now), told: Told::default() };
        let user = users.entry(uid).or_insert_with(new);
        if user.fresh.take(FRESH, 1.0, now) {
            return None;
        }
        let answer = question(&mut user.told).as_ref();
        answer.filter(|answer| now.saturating_duration_since(answer.at) < OLD).map(|a| Arc::clone(&a.is))
    }

    fn users(&self) -> MutexGuard<'_, HashMap<u32, User>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How often the broker is asked when a user asks `count` times at this moment.
    fn asked(answers: &Answers, uid: u32, count: usize) -> usize {
        let asked = Cell::new(0);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for _ in 0..count {
            let ask = async {
                asked.set(asked.get() + 1);
                Ok(Vec::new())
            };
            let told = runtime.block_on(answers.of(uid, |told| &mut told.objects, ask));
            assert!(told.expect("told").is_empty());
        }
        asked.get()
    }

    #[test]
    fn who_asks_now_and_then_is_told_what_is_so_now() {
        assert_eq!(asked(&Answers::default(), 1, 100), 100);
    }

    #[test]
    fn a_flood_of_questions_does_not_reach_the_broker() {
        let answers = Answers::default();
        let asked = asked(&answers, 1, 20_000);
        // However long that took here: at its rate, and at least not for each.
        assert!((100..2000).contains(&asked), "{asked}");
    }

    #[test]
    fn a_user_that_floods_makes_nobody_elses_answers_old() {
        let answers = Answers::default();
        asked(&answers, 1, 1000);
        assert_eq!(asked(&answers, 2, 10), 10);
    }

    #[test]
    fn who_has_done_something_sees_it_in_the_next_answer() {
        let answers = Answers::default();
        asked(&answers, 1, 1000);
        answers.changed(1);
        assert!(asked(&answers, 1, 1) == 1);
    }

    #[test]
    fn an_answer_that_is_old_is_not_told_again() {
        let answers = Answers::default();
        asked(&answers, 1, 1000);
        let question: fn(&mut Told) -> &mut Option<Answer<Vec<ObjectEntry>>> = |told| &mut told.objects;
        let begin = Instant::now();
        answers.users().get_mut(&1).expect("known").fresh = Bucket::empty(begin + OLD);
        *question(&mut answers.users().get_mut(&1).expect("known").told) =
            Some(Answer { is: Arc::default(), at: begin });
        assert!(answers.kept(1, question, begin + OLD / 2).is_some());
        assert!(answers.kept(1, question, begin + OLD).is_none());
    }
}
