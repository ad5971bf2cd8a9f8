//! Callers: who they are, and how often they may call.
//!
//! The bus is asked once for each of its connections (M-208); what it said is forgotten when that connection goes. A caller
//! that calls too often is refused here, so that a flood ends in this process: of one user so many as [`CALLS`] says. A call
//! that is much work for the broker counts for several ([`Cost`]).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use vgem::ErrorCode;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::{BusName, OwnedUniqueName};

use crate::error::{Error, Result};
use crate::link::Identity;
use crate::pace::{Bucket, Pace};

/// Calls of one user.
const CALLS: Pace = Pace { rate: 500.0, burst: 1000.0 };
/// Connections that are remembered.
const KNOWN: usize = 4096;

/// Those who have called.
#[derive(Debug, Default)]
pub(crate) struct Callers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<OwnedUniqueName, Identity>,
    buckets: HashMap<u32, Bucket>,
}

/// What a call counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    /// It is answered from what is known, or by one question.
    Plain,
    /// It makes or changes something.
    Work,
    /// It makes a connection.
    Session,
}

impl Cost {
    const fn calls(self) -> f64 {
        match self {
            Self::Plain => 1.0,
            Self::Work => 2.0,
            Self::Session => 20.0,
        }
    }
}

impl Callers {
    /// Who sent this call, if it may.
    ///
    /// # Errors
    /// Denied without a sender or if the bus does not know its user; Exhausted for one that calls too often.
    pub(crate) async fn identify(
        &self,
        bus: &DBusProxy<'_>,
        header: &Header<'_>,
        cost: Cost,
    ) -> Result<(OwnedUniqueName, Identity)> {
        let denied = |text: &str| Error::new(ErrorCode::Denied, text);
        let sender = header.sender().ok_or_else(|| denied("a call without a sender"))?;
        let name = OwnedUniqueName::from(sender.to_owned());
        let known = self.state().known.get(&name).copied();
        let whose = match known {
            Some(known) => known,
            None => {
                let said = bus.get_connection_credentials(BusName::Unique(sender.clone())).await;
                let said = said.map_err(|e| denied(&format!("the bus does not know the caller: {e}")))?;
                let uid =
                    said.unix_user_id().ok_or_else(|| denied("the bus does not know the caller's user"))?;
                Identity { uid, pid: said.process_id().unwrap_or(0) }
            }
        };
        let mut state = self.state();
        if state.known.len() < KNOWN {
            state.known.insert(name.clone(), whose);
        }
        state.pace(whose.uid, cost, Instant::now())?;
        Ok((name, whose))
    }

    /// Whether this user, whoever says so, may call once more.
    ///
    /// # Errors
    /// Exhausted.
    pub(crate) fn pace(&self, uid: u32, cost: Cost) -> Result<()> {
        self.state().pace(uid, cost, Instant::now())
    }

    /// A connection has left the bus; the user, if it was the last that had called.
    pub(crate) fn gone(&self, name: &OwnedUniqueName) -> Option<u32> {
        let mut state = self.state();
        let uid = state.known.remove(name)?.uid;
        if state.known.values().any(|other| other.uid == uid) {
            return None;
        }
        // A full bucket is none: who comes back at once finds what it left.
        let now = Instant::now();
        state.buckets.retain(|_, bucket| !bucket.is_full(CALLS, now));
        Some(uid)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pace(&mut self, uid: u32, cost: Cost, now: Instant) -> Result<()> {
        let bucket = self.buckets.entry(uid).or_insert(Bucket::full(CALLS, now));
        if bucket.take(CALLS, cost.calls(), now) {
            return Ok(());
        }
        let Pace { rate, burst } = CALLS;
        let text = format!("more calls than a user may make: {burst} at once, {rate} a second");
        Err(Error::new(ErrorCode::Exhausted, text))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many of `count` calls at this moment are let through.
    fn through(state: &mut State, uid: u32, cost: Cost, now: Instant, count: usize) -> usize {
        (0..count).filter(|_| state.pace(uid, cost, now).is_ok()).count()
    }

    #[test]
    fn a_user_may_call_so_often_at_once_and_then_at_a_rate() {
        let (mut state, start) = (State::default(), Instant::now());
        assert_eq!(through(&mut state, 1, Cost::Plain, start, 3000), 1000);
        let later = start + Duration::from_secs(1);
        assert_eq!(through(&mut state, 1, Cost::Plain, later, 3000), 500);
        let refused = state.pace(1, Cost::Plain, later).expect_err("too often");
        assert_eq!(refused.code(), ErrorCode::Exhausted);
    }

    #[test]
    fn what_is_more_work_for_the_broker_is_done_less_often() {
        let (mut state, now) = (State::default(), Instant::now());
        assert_eq!(through(&mut state, 1, Cost::Session, now, 3000), 50);
        assert_eq!(through(&mut state, 2, Cost::Work, now, 3000), 500);
    }

    #[test]
    fn a_user_that_floods_takes_nothing_from_another() {
        let (mut state, now) = (State::default(), Instant::now());
        through(&mut state, 1, Cost::Plain, now, 3000);
        assert_eq!(through(&mut state, 2, Cost::Plain, now, 3000), 1000);
    }
}
