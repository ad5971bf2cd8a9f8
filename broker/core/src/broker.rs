//! The broker's state and its only way in and out.

use vgem_proto::ids::Time;
use vgem_proto::snapshot::{Counters, Status, Topic};

use crate::config::Config;
use crate::io::{Effects, Input, Scope};
use crate::snapshot::{Entries, Snapshot};

/// The rules of the broker: what it knows, and how that changes.
#[derive(Debug)]
pub struct Broker {
    config: Config,
    counters: Counters,
}

impl Broker {
    /// A broker that has nothing yet but its devices.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, counters: Counters::default() }
    }

    /// Lets `input` happen at `now` and says what is to be done, in order.
    pub fn apply(&mut self, now: Time, input: Input) -> Effects {
        let mut effects = Effects::new();
        self.apply_into(now, input, &mut effects);
        effects
    }

    /// As [`Self::apply`], appending to `effects`.
    pub fn apply_into(&mut self, now: Time, input: Input, effects: &mut Effects) {
        let _ = (now, input, effects, &self.config);
    }

    /// When the broker wants [`Input::Tick`] next; `None` while nothing is under way.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// At most `max` entries of `topic` from `cursor` on.
    #[must_use]
    pub fn snapshot(&self, scope: Scope, topic: Topic, cursor: u64, max: usize) -> Snapshot {
        let _ = (scope, topic, cursor, max);
        Snapshot { entries: Entries::Status(Box::<Status>::default()), next: 0 }
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Holds every table against every other.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        Ok(())
    }
}
