//! Waiting for several fences at once, over any devices.
//!
//! One thread sleeps on all bells involved (`futex_waitv`), beside whoever leads a page alone; pages pass wake-ups on.

use std::time::Duration;

use crate::counters::Counters;
use crate::deadline::Deadline;
use crate::error::{FenceError, NthError};
use crate::fence::Fence;
use crate::pages::{Lookout, Outcome};
use crate::watch::{Bells, Watch};

/// How long a wait for several sleeps before it asks again where one of them is to be seen.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Sleeps until every fence has ended, at most until the deadline.
///
/// # Errors
/// The place and the failure of the first of `fences` that failed, after all have ended (all failures: [`crate::Merged`]);
/// those of the first that had not ended, [`FenceError::Timeout`]; [`FenceError::BrokerLost`].
pub fn wait_all<'a>(
    fences: impl IntoIterator<Item = &'a Fence>,
    deadline: impl Into<Deadline>,
) -> Result<(), NthError> {
    let deadline = deadline.into();
    let mut failure = None;
    for (index, fence) in fences.into_iter().enumerate() {
        match fence.wait(deadline) {
            Ok(()) => {}
            Err(error @ FenceError::Failed(_)) => failure = failure.or(Some(NthError { index, error })),
            Err(error) => return Err(NthError { index, error }),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Sleeps until one of the fences has ended, well or not, and says which: its place in `fences`. The lowest, if
/// several have. [`Fence::wait`] tells how it ended.
///
/// # Errors
/// [`FenceError::Timeout`] of the first; [`FenceError::BrokerLost`]; [`FenceError::Request`] of one that cannot be waited
/// for, as nobody has promised it. No fence at all is a time-out of nothing: `Ok(None)`.
pub fn wait_any(fences: &[Fence], deadline: impl Into<Deadline>) -> Result<Option<usize>, NthError> {
    let deadline = deadline.into();
    let Some(first) = fences.first() else { return Ok(None) };
    let ended = || fences.iter().position(Fence::has_ended);
    if let Some(place) = ended() {
        return Ok(Some(place));
    }
    if let [only] = fences {
        // Whatever came of it, the caller asks the fence itself.
        return match only.on().wait_out(deadline) {
            Ok(_) => Ok(Some(0)),
            Err(error) => Err(NthError { index: 0, error }),
        };
    }
    let core = first.on().core();
    let ask = || fences.iter().find_map(|fence| fence.on().ask());
    loop {
        let mut watches: Vec<Watch> = Vec::with_capacity(fences.len());
        for (index, fence) in fences.iter().enumerate() {
            let until = deadline.min(core.deadline());
            if fence.on().ask_first(until).map_err(|error| NthError { index, error })? {
                watches.push(fence.on().watch());
            }
        }
        let all = watches.len() == fences.len();
        let until = if all { deadline } else { deadline.min(Deadline::after(ASK_AGAIN)) };
        match sleep_until(&watches, &core.counters, until, ended, ask) {
            Ok(place) => return Ok(Some(place)),
            Err(Outcome::TimedOut) if !deadline.passed() => {}
            Err(Outcome::TimedOut) => return Err(NthError { index: 0, error: first.on().timeout() }),
            Err(_) => return Err(NthError { index: 0, error: first.on().lost() }),
        }
    }
}

/// Sleeps on the bells of all watches until `look` finds something. Ten times a second `ask` may end the wait.
pub(crate) fn sleep_until<T>(
    watches: &[Watch],
    counters: &Counters,
    deadline: Deadline,
    mut look: impl FnMut() -> Option<T>,
    ask: impl Fn() -> Option<Outcome>,
) -> Result<T, Outcome> {
    let (mut slept, mut lookout) = (false, Lookout::new());
    loop {
        let bells = Bells::of(watches.iter());
        if let Some(found) = look() {
            return Ok(found);
        }
        if deadline.passed() {
            return Err(Outcome::TimedOut);
        }
        if !std::mem::replace(&mut slept, true) {
            counters.slept();
        }
        if bells.sleep(None, lookout.or(deadline)) {
            counters.woke();
        }
        if lookout.is_due()
            && let Some(outcome) = ask()
        {
            return look().ok_or(outcome);
        }
    }
}
