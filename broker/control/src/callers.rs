//! Callers: who they are, and how often they may call.
//!
//! The bus is asked once for each of its connections (M-208); what it said is forgotten when that connection goes. A caller
//! that calls too often is refused here, so that a flood ends in this process: of one user [`RATE`] calls a second on
//! average, [`BURST`] at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use vgem::ErrorCode;
use zbus::fdo::DBusProxy;
use zbus::message::Header;
use zbus::names::{BusName, OwnedUniqueName};

use crate::error::{Error, Result};
use crate::link::Identity;

/// Calls a second of one user.
const RATE: f64 = 500.0;
/// Calls of one user at once.
const BURST: f64 = 1000.0;
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

/// What a user may still call.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
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
        state.pace(whose.uid, Instant::now())?;
        Ok((name, whose))
    }

    /// A connection has left the bus.
    pub(crate) fn gone(&self, name: &OwnedUniqueName) {
        let mut state = self.state();
        if let Some(whose) = state.known.remove(name)
            && state.known.values().all(|other| other.uid != whose.uid)
        {
            // A full bucket is none: who comes back at once finds what it left.
            state.buckets.retain(|_, bucket| bucket.refilled(Instant::now()) < BURST);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pace(&mut self, uid: u32, now: Instant) -> Result<()> {
        let bucket = self.buckets.entry(uid).or_insert(Bucket { left: BURST, at: now });
        *bucket = Bucket { left: bucket.refilled(now), at: now };
        if bucket.left < 1.0 {
            let text = format!("more calls than a user may make: {BURST} at once, {RATE} a second");
            return Err(Error::new(ErrorCode::Exhausted, text));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

impl Bucket {
    fn refilled(self, now: Instant) -> f64 {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * RATE;
        (self.left + gained).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// How many of `count` calls at this moment are let through.
    fn through(state: &mut State, uid: u32, now: Instant, count: usize) -> usize {
        (0..count).filter(|_| state.pace(uid, now).is_ok()).count()
    }

    #[test]
    fn a_user_may_call_so_often_at_once_and_then_at_a_rate() {
        let (mut state, start) = (State::default(), Instant::now());
        assert_eq!(through(&mut state, 1, start, 3000), 1000);
        assert_eq!(through(&mut state, 1, start + Duration::from_secs(1), 3000), 500);
        let refused = state.pace(1, start + Duration::from_secs(1)).expect_err("too often");
        assert_eq!(refused.code(), ErrorCode::Exhausted);
    }

    #[test]
    fn a_user_that_floods_takes_nothing_from_another() {
        let (mut state, now) = (State::default(), Instant::now());
        through(&mut state, 1, now, 3000);
        assert_eq!(through(&mut state, 2, now, 3000), 1000);
    }
}
