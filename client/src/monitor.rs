//! Monitoring: being told what happens in the broker, as it happens.
//!
//! ```text
//!   Monitor ──Done──► Event, Event, Event .. until the connection ends
//! ```
//!
//! Events are told on the connection that asked, between its answers, and kept until somebody takes them: at most
//! 4096. The broker does not wait for a client that does not read, nor does this library: what found no room is counted in
//! the next event's `lost`. There is no end but that of the connection, so monitor on one of its own.

use std::fmt;
use std::sync::Arc;

use vgem_proto::message::client::{ClientMessage, Event};
use vgem_proto::snapshot::{Event as Happened, EventEntry};

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

impl Told {
    /// Whether it is about something that was owed and came late, or never: a job that took too long and what became of
    /// the others of its driver, a promise that was broken or never made.
    #[must_use]
    pub fn is_late(&self) -> bool {
        let Some(entry) = &self.entry else { return false };
        match &entry.event {
            Happened::JobTimedOut { .. }
            | Happened::PromiseBroken { .. }
            | Happened::NeverPromised { .. }
            | Happened::EntryLate { .. }
            | Happened::JobsRunAgain { .. } => true,
            Happened::ClientConnected { .. }
            | Happened::ClientGone { .. }
            | Happened::ObjectCreated { .. }
            | Happened::ObjectReady { .. }
            | Happened::ObjectExported { .. }
            | Happened::ObjectImported { .. }
            | Happened::HandleClosed { .. }
            | Happened::ObjectReleased { .. }
            | Happened::ObjectOrphaned { .. }
            | Happened::ObjectFreed { .. }
            | Happened::ObjectTampered { .. }
            | Happened::PorterStalled { .. }
            | Happened::InstanceReady { .. }
            | Happened::InstanceLost { .. }
            | Happened::InstanceReleased { .. }
            | Happened::Refused { .. }
            | Happened::PolicyChanged { .. }
            | Happened::Administered { .. }
            | Happened::DomainGone { .. }
            | Happened::DomainEnds { .. }
            | Happened::Bug { .. } => false,
        }
    }
}

impl fmt::Display for Told {
    /// One line for people: when, whom it concerns, what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(entry) = &self.entry else { return f.write_str(&self.json) };
        let (s, us) = (entry.at_ns / 1_000_000_000, entry.at_ns / 1_000 % 1_000_000);
        write!(f, "{s}.{us:06}  ")?;
        match entry.domain {
            Some(domain) => write!(f, "domain {domain}  ")?,
            None => f.write_str("broker  ")?,
        }
        f.write_str(&words(&entry.event))
    }
}

/// Whole milliseconds.
fn ms(ns: u64) -> u64 {
    ns / 1_000_000
}

/// An event in words.
fn words(event: &Happened) -> String {
    match event {
        Happened::ClientConnected { client, uid, pid } => {
            format!("client {client} connected: process {pid} of user {uid}")
        }
        Happened::ClientGone { client } => format!("client {client} is gone"),
        Happened::ObjectCreated { object, name, len, client } => {
            format!("{object} {name:?} created by client {client}: {len} bytes")
        }
        Happened::ObjectReady { object, pinned } => format!("{object} is ready: {pinned} bytes pinned"),
        Happened::ObjectExported { object, client, access } => {
            format!("{object} exported to client {client} for {access}")
        }
        Happened::ObjectImported { object, client, access } => {
            format!("{object} imported by client {client} for {access}")
        }
        Happened::HandleClosed { object, client } => format!("{object} given up by client {client}"),
        Happened::ObjectReleased { object } => format!("{object} is named by nobody, devices let go of it"),
        Happened::ObjectOrphaned { object } => {
            format!("{object} is orphaned: an fd or a mapping of it is left somewhere")
        }
        Happened::ObjectFreed { object, len, after_ns } => {
            let us = after_ns / 1_000;
            format!("{object} freed: {len} bytes, {us} us after its last handle and use")
        }
        Happened::ObjectTampered { object, what } => {
            format!("{object} was tampered with, its content destroyed: {what}")
        }
        Happened::PorterStalled { client, pid } => {
            format!("the porter {pid} of client {client} stalled and was killed")
        }
        Happened::InstanceReady { instance, device } => {
            format!("driver {device} is ready (instance {instance})")
        }
        Happened::InstanceLost { instance, device, why, jobs } => {
            format!("driver {device} is lost (instance {instance}), {jobs} jobs with it: {why}")
        }
        Happened::InstanceReleased { instance, device, pid } => {
            format!(
                "the process {pid} of driver {device} (instance {instance}), which was held up, has ended"
            )
        }
        Happened::JobTimedOut { device, timeline, point, client, pid, ran_ns, allowed_ns } => {
            let (ran, allowed) = (ms(*ran_ns), ms(*allowed_ns));
            format!(
                "job {point} of {timeline} on {device}, of client {client}, took too long: {ran} of {allowed} ms in process {pid}"
            )
        }
        Happened::PromiseBroken { client, pid, timeline, point, age_ns, late_ns } => {
            let (age, late) = (ms(*age_ns), ms(*late_ns));
            format!(
                "client {client} (process {pid}) has not kept its promise of point {point} of {timeline}, {age} ms old and \
                 {late} ms late"
            )
        }
        Happened::NeverPromised { client, timeline, point, waiter, waiter_point, waited_ns } => {
            let waited = ms(*waited_ns);
            format!(
                "client {client} never promised point {point} of {timeline}: job {waiter_point} of {waiter} waited for \
                 it, {waited} ms"
            )
        }
        Happened::EntryLate { client, timeline, point, waiter, waiter_point, waited_ns } => {
            let waited = ms(*waited_ns);
            format!(
                "entry {point} of the user queue {timeline} of client {client} had not ended in time: job {waiter_point} of \
                 {waiter} waited for it, {waited} ms"
            )
        }
        Happened::JobsRunAgain { instance, device, jobs, cancelled } => {
            format!("driver {device} (instance {instance}) runs {jobs} jobs again, {cancelled} could not be")
        }
        Happened::PolicyChanged { domains } => {
            format!("another configuration is in force: {domains} domains with a name")
        }
        Happened::Administered { client, uid, what } => format!("client {client} of user {uid} {what}"),
        Happened::DomainGone { name } => format!("domain {name} is gone"),
        Happened::DomainEnds { name, how } => format!("domain {name} is {how}"),
        Happened::Refused { client, why } => format!("client {client} was refused: {why}"),
        Happened::Bug { what } => format!("a bug of vgemd, without harm: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(json: &str) -> String {
        let event = Event { lost: 0, json: json.as_bytes().to_vec() };
        Told::of(event).expect("a text").to_string()
    }

    #[test]
    fn an_event_is_one_line_with_its_moment_and_its_domain() {
        let json = r#"{"at_ns":5000007000,"domain":4,"event":"object_orphaned","object":"object:3.1"}"#;
        let line = "5.000007  domain 4  object:3.1 is orphaned: an fd or a mapping of it is left somewhere";
        assert_eq!(told(json), line);
        assert!(told(r#"{"at_ns":1,"domain":null,"event":"client_gone","client":7}"#).contains("  broker  "));
    }

    #[test]
    fn a_job_that_is_late_says_whose_it_was_where_it_ran_and_for_how_long() {
        let json = r#"{"at_ns":1,"domain":4,"event":"job_timed_out","device":"zip","timeline":"timeline:1.4","point":7,
            "client":4,"pid":4711,"ran_ns":5100000000,"allowed_ns":5100000000}"#;
        let said =
            "job 7 of timeline:1.4 on zip, of client 4, took too long: 5100 of 5100 ms in process 4711";
        assert!(told(json).ends_with(said), "{}", told(json));
    }

    #[test]
    fn what_is_late_is_told_from_the_rest() {
        let late = |event: &str| {
            let json = format!(r#"{{"at_ns":1,"domain":4,{event}}}"#);
            Told::of(Event { lost: 0, json: json.into_bytes() }).expect("a text").is_late()
        };
        let timeline = r#""timeline":"timeline:1.4","point":7"#;
        assert!(late(&format!(r#""event":"job_timed_out","device":"zip",{timeline}"#)));
        assert!(late(&format!(r#""event":"promise_broken","client":4,"pid":1,"age_ns":5,{timeline}"#)));
        assert!(late(r#""event":"jobs_run_again","instance":4,"device":"zip","jobs":1,"cancelled":0"#));
        assert!(!late(r#""event":"client_gone","client":7"#) && !late(r#""event":"moon_landed""#));
    }

    #[test]
    fn an_event_of_a_newer_version_is_told_as_it_came() {
        let json = r#"{"at_ns":5,"domain":4,"event":"moon_landed"}"#;
        assert_eq!(told(json), json);
    }
}
