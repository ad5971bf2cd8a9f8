//! Monitoring: being told what happens in the broker, as it happens.
//!
//! ```text
//!   Monitor ──Done──► Event, Event, Event .. until the connection ends
//! ```
//!
//! Events are told on the connection that asked, between its answers, and kept until somebody takes them: at most
//! 4096. The broker does not wait for a client that does not read, nor does this library: what found no room is counted in
//! the next event's `lost`. There is no end but that of the connection, so monitor on one of its own.

use std::sync::Arc;

use vgem_proto::message::client::{ClientMessage, Event};
use vgem_proto::snapshot::EventEntry;

use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::exchange::Reply;
use crate::link::unexpected;

/// Most events that are kept until somebody takes them.
pub(crate) const KEPT: usize = 4096;

/// Events of the broker, from the moment it was asked for.
#[derive(Debug)]
pub struct Monitor {
    core: Arc<Core>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Told {
    /// Events left out since the one before.
    pub lost: u64,
    /// The event as the broker sent it: one JSON object.
    pub json: String,
    /// The same, if this version knows the event.
    pub entry: Option<EventEntry>,
}

impl Monitor {
    /// Understands that monitoring has begun.
    pub(crate) fn begun(core: &Arc<Core>, reply: &Reply) -> Result<Self> {
        match reply.message {
            ClientMessage::Done(_) => Ok(Self { core: Arc::clone(core) }),
            _ => Err(unexpected(reply)),
        }
    }

    /// The next event; nothing if none came by the deadline.
    ///
    /// # Errors
    /// [`Error::BrokerLost`], when everything told before it has been taken.
    pub fn next(&mut self, deadline: impl Into<Deadline>) -> Result<Option<Told>> {
        self.core.link.event(deadline.into())?.map(Told::of).transpose()
    }

    #[cfg(feature = "tokio")]
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Told {
    pub(crate) fn of(event: Event) -> Result<Self> {
        let json = String::from_utf8(event.json)
            .map_err(|error| Error::Protocol(format!("an event that is no text: {error}")))?;
        let entry = serde_json::from_str(&json).ok();
        Ok(Self { lost: event.lost, json, entry })
    }
}
