//! What happened, for those who want to know: the log, and clients that monitor.
//!
//! ```text
//!   Effect::Log ─┬─► the log        at most so many lines of one domain; what is left out is counted
//!                └─► each monitor   whose scope it is in; one that does not read loses events and is told how many
//! ```
//!
//! A domain cannot flood the log (T49): its lines come out of a bucket that fills slowly, one for what an operator
//! should see and one for details, so that noise does not drown news. Monitors are not limited so: each sees what
//! happens, as fast as it reads, and what it does not read waits in its own socket up to [`UNREAD`].
//!
//! Without a monitor an event costs nothing but its line. With some it is made into JSON once.
//!
//! Jobs that end are no events of these: there are too many. Clients that trace are told of them, in records and many at a
//! time ([`Effect::Traced`](vgem_core::io::Effect::Traced)), and lose what they do not read as monitors do.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use tracing::{Level, debug, error, info, trace, warn};
use vgem_core::io::{Event, LinkId, Scope};
use vgem_os::clock;
use vgem_proto::ids::{DomainId, Point, Time, TimelineKey};
use vgem_proto::jobs::TracedWait;
use vgem_proto::limits;
use vgem_proto::message::client::{Event as EventMessage, Traced};
use vgem_proto::snapshot::EventEntry;

use super::outbox::Packet;
use super::shell::Shell;

/// Most that a monitor may have unread in its socket when it is sent one more event, bytes as the kernel counts them: a
/// sixth of what a socket holds, so that answers always find room.
const UNREAD: usize = 32 * 1024;
/// Lines of one domain at once.
const BURST: u64 = 50;
/// One more line after this long, nanoseconds: ten per second.
const EACH_NS: u64 = 100_000_000;
/// Domains that are remembered.
const DOMAINS: usize = 1024;
/// Longest text in an event that would be too long for a message, characters.
const SHORT: usize = 96;

/// Clients that are told of events.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    all: BTreeMap<LinkId, Monitor>,
    tracers: BTreeMap<LinkId, Monitor>,
}

#[derive(Debug)]
struct Monitor {
    scope: Scope,
    /// Events, or jobs, left out since the last that was sent.
    lost: u64,
}

/// How many lines each domain may still write into the log.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    buckets: HashMap<(Option<DomainId>, bool), Bucket>,
    /// Buckets at which it forgets again.
    forget_at: usize,
}

#[derive(Debug, Default)]
struct Bucket {
    /// When it will be full again.
    full_at: u64,
    suppressed: u64,
}

impl Monitors {
    /// Forgets a connection.
    pub(super) fn forget(&mut self, link: LinkId) {
        self.all.remove(&link);
        self.tracers.remove(&link);
    }
}

impl Limiter {
    /// Whether a line of this domain may be written, and if so how many were not since the last that was.
    pub(super) fn admit(&mut self, domain: Option<DomainId>, is_news: bool, now: u64) -> Option<u64> {
        if self.buckets.len() >= self.forget_at.max(DOMAINS) {
            self.forget(now);
        }
        let bucket = self.buckets.entry((domain, is_news)).or_default();
        let after = bucket.full_at.max(now).saturating_add(EACH_NS);
        if after > now.saturating_add(BURST * EACH_NS) {
            bucket.suppressed += 1;
            return None;
        }
        bucket.full_at = after;
        Some(std::mem::take(&mut bucket.suppressed))
    }

    /// Forgets domains that are quiet. What was left out of theirs is told with what is left out of the broker's own, so a
    /// user of many users makes neither many buckets nor a search of many with each line.
    fn forget(&mut self, now: u64) {
        let mut suppressed = [0, 0];
        self.buckets.retain(|(_, is_news), bucket| {
            let is_quiet = bucket.full_at <= now;
            if is_quiet && let Some(sum) = suppressed.get_mut(usize::from(*is_news)) {
                *sum += bucket.suppressed;
            }
            !is_quiet
        });
        for (is_news, sum) in [false, true].into_iter().zip(suppressed).filter(|(_, sum)| *sum > 0) {
            self.buckets.entry((None, is_news)).or_default().suppressed += sum;
        }
        self.forget_at = 2 * self.buckets.len();
    }
}

impl Shell {
    /// Tells a client of events from now on.
    pub(super) fn monitor(&mut self, link: LinkId, scope: Scope) {
        if self.clients.contains_key(&link) {
            self.monitors.all.insert(link, Monitor { scope, lost: 0 });
        }
    }

    /// Tells a client of jobs that end from now on.
    pub(super) fn trace(&mut self, link: LinkId, scope: Scope) {
        if self.clients.contains_key(&link) {
            self.monitors.tracers.entry(link).or_insert(Monitor { scope, lost: 0 });
        }
    }

    /// Tells those who trace of jobs of a domain that have ended; whoever sees no other domain is not told which points of
    /// others they waited for.
    pub(super) fn traced(&mut self, domain: DomainId, traced: &Traced, abroad: &[usize]) {
        let sees_it = |monitor: &Monitor| sees(monitor.scope, Some(domain));
        let tracers = self.monitors.tracers.iter().filter(|(_, monitor)| sees_it(monitor));
        let links: Vec<(LinkId, Scope)> = tracers.map(|(link, monitor)| (*link, monitor.scope)).collect();
        for (link, scope) in links {
            match scope {
                Scope::Domain(_) if !abroad.is_empty() => {
                    self.tell_tracer(link, &within(traced, abroad));
                }
                Scope::Domain(_) | Scope::All => self.tell_tracer(link, traced),
            }
        }
    }

    /// Sends what jobs did, or counts them as lost.
    fn tell_tracer(&mut self, link: LinkId, traced: &Traced) {
        let unread = self.clients.get(&link).map_or(Ok(usize::MAX), |client| client.unread());
        let (Ok(unread), Some(tracer)) = (unread, self.monitors.tracers.get_mut(&link)) else { return };
        if unread > UNREAD {
            tracer.lost += traced.jobs.len() as u64;
            return;
        }
        let Traced { jobs, waits, .. } = traced.clone();
        let message = Traced { lost: std::mem::take(&mut tracer.lost), jobs, waits };
        self.settle(link);
        self.send_client(link, Packet::plain(message.encode(0, Time(0), 0)));
    }

    /// Tells the log and the monitors of an event.
    pub(super) fn event(&mut self, domain: Option<DomainId>, event: Event) {
        let level = level(&event);
        // A bug of ours is always told, and so is who used a right that others do not have.
        let is_audit = matches!(event, Event::Administered { .. });
        if level == Level::ERROR || is_audit || self.may_log(domain, level) {
            log(&event);
        }
        if !self.monitors.all.is_empty() {
            self.tell_monitors(domain, event);
        }
    }

    /// Whether a line of a domain may be written; says how many were not.
    pub(super) fn may_log(&mut self, domain: Option<DomainId>, level: Level) -> bool {
        let enabled = match level {
            Level::TRACE => tracing::enabled!(Level::TRACE),
            Level::DEBUG => tracing::enabled!(Level::DEBUG),
            Level::INFO => tracing::enabled!(Level::INFO),
            _ => tracing::enabled!(Level::WARN),
        };
        if !enabled {
            return false;
        }
        let is_news = level <= Level::INFO;
        match self.limiter.admit(domain, is_news, clock::now()) {
            Some(0) => true,
            Some(suppressed) => {
                let whom = domain.map_or_else(
                    || "the broker, and domains that are quiet since,".to_owned(),
                    |domain| domain.to_string(),
                );
                warn!("{suppressed} lines about {whom} were left out: more than ten per second");
                true
            }
            None => false,
        }
    }

    fn tell_monitors(&mut self, domain: Option<DomainId>, event: Event) {
        let links: Vec<LinkId> = self
            .monitors
            .all
            .iter()
            .filter(|(_, monitor)| sees(monitor.scope, domain))
            .map(|(link, _)| *link)
            .collect();
        if links.is_empty() {
            return;
        }
        let entry = EventEntry { at_ns: clock::now(), domain: domain.map(|domain| domain.0), event };
        let json = json(&entry);
        for link in links {
            self.tell_monitor(link, json.as_deref());
        }
    }

    /// Sends an event, or counts it as lost.
    fn tell_monitor(&mut self, link: LinkId, json: Option<&[u8]>) {
        let unread = self.clients.get(&link).map_or(Ok(usize::MAX), |client| client.unread());
        let (Ok(unread), Some(monitor)) = (unread, self.monitors.all.get_mut(&link)) else { return };
        let Some(json) = json.filter(|_| unread <= UNREAD) else {
            monitor.lost += 1;
            return;
        };
        let message = EventMessage { lost: std::mem::take(&mut monitor.lost), json: json.to_vec() };
        // From here on it would take longer until what it has read could be told.
        self.settle(link);
        self.send_client(link, Packet::plain(message.encode(0, Time(0), 0)));
    }
}

/// The same without the points of other domains.
fn within(traced: &Traced, abroad: &[usize]) -> Traced {
    let mut traced = traced.clone();
    for place in abroad {
        if let Some(wait) = traced.waits.get_mut(*place) {
            *wait = TracedWait { timeline: TimelineKey::default(), point: Point(0) };
        }
    }
    traced
}

/// Whether what concerns a domain, or the broker as a whole, is in a scope.
fn sees(scope: Scope, domain: Option<DomainId>) -> bool {
    match scope {
        Scope::All => true,
        Scope::Domain(own) => Some(own) == domain,
    }
}

/// An event as JSON that fits a message; nothing if it cannot be.
fn json(entry: &EventEntry) -> Option<Vec<u8>> {
    let made = serde_json::to_vec(entry).and_then(|json| {
        if json.len() <= limits::TEXT_LEN {
            return Ok(json);
        }
        let mut value = serde_json::to_value(entry)?;
        shorten(&mut value);
        serde_json::to_vec(&value)
    });
    match made {
        Ok(json) if json.len() <= limits::TEXT_LEN => Some(json),
        Ok(json) => {
            error!("a bug of ours: an event of {} bytes", json.len());
            None
        }
        Err(e) => {
            error!("a bug of ours: {entry:?} is no JSON: {e}");
            None
        }
    }
}

/// Cuts the texts of an event.
fn shorten(value: &mut Value) {
    if let Value::Object(fields) = value {
        for text in fields.values_mut() {
            if let Value::String(text) = text
                && let Some((end, _)) = text.char_indices().nth(SHORT)
            {
                text.truncate(end);
                text.push_str("...");
            }
        }
    }
}

/// How loud an event is in the log.
fn level(event: &Event) -> Level {
    match event {
        Event::HandleClosed { .. } => Level::TRACE,
        Event::ClientConnected { .. }
        | Event::ClientGone { .. }
        | Event::ObjectCreated { .. }
        | Event::ObjectReady { .. }
        | Event::ObjectExported { .. }
        | Event::ObjectImported { .. }
        | Event::ObjectReleased { .. }
        | Event::ObjectOrphaned { .. }
        | Event::ObjectFreed { .. }
        | Event::Refused { .. } => Level::DEBUG,
        Event::InstanceReady { .. }
        | Event::PolicyChanged { .. }
        | Event::Administered { .. }
        | Event::DomainGone { .. }
        | Event::DomainEnds { .. } => Level::INFO,
        Event::ObjectTampered { .. }
        | Event::PorterStalled { .. }
        | Event::InstanceLost { .. }
        | Event::InstanceReleased { .. }
        | Event::JobsRunAgain { .. }
        | Event::PromiseBroken { .. }
        | Event::NeverPromised { .. }
        | Event::EntryLate { .. }
        | Event::JobTimedOut { .. } => Level::WARN,
        Event::Bug { .. } => Level::ERROR,
    }
}

/// Writes an event into the log. Texts that peers chose are quoted.
fn log(event: &Event) {
    match event {
        Event::ClientConnected { client, uid, pid } => {
            debug!("client {client} of uid {uid} is here, process {pid}");
        }
        Event::ClientGone { client } => debug!("client {client} is gone"),
        Event::ObjectCreated { object, name, len, client } => {
            debug!("{object} {name:?} of {len} bytes is made by client {client}");
        }
        Event::ObjectReady { object, pinned } => debug!("{object} is ready, {pinned} bytes are pinned"),
        Event::ObjectExported { object, client, access } => {
            debug!("{object} is exported to client {client} for {access}");
        }
        Event::ObjectImported { object, client, access } => {
            debug!("{object} is imported by client {client} for {access}");
        }
        Event::HandleClosed { object, client } => trace!("client {client} closed {object}"),
        Event::ObjectReleased { object } => debug!("nobody names {object} any more"),
        Event::ObjectOrphaned { object } => debug!("{object} is still open somewhere"),
        Event::ObjectFreed { object, len, after_ns } => {
            debug!("{object} of {len} bytes is free, {after_ns} ns after its last use");
        }
        Event::ObjectTampered { object, what } => {
            warn!("{object} was tampered with and its content is destroyed: {what:?}");
        }
        Event::PromiseBroken { client, pid, timeline, point, age_ns, late_ns } => {
            warn!(
                "client {client}, process {pid}, promised point {point} of {timeline} {age_ns} ns ago: not kept, \
                 {late_ns} ns late"
            );
        }
        Event::NeverPromised { client, timeline, point, waiter, waiter_point, waited_ns } => {
            warn!(
                "client {client} never promised point {point} of {timeline}: job {waiter_point} of {waiter} waited \
                 {waited_ns} ns"
            );
        }
        Event::EntryLate { client, timeline, point, waiter, waiter_point, waited_ns } => {
            warn!(
                "entry {point} of the user queue {timeline} of client {client} had not ended in time: job {waiter_point} of \
                 {waiter} waited {waited_ns} ns"
            );
        }
        Event::JobsRunAgain { instance, device, jobs, cancelled } => {
            warn!("instance {instance} of {device} runs {jobs} jobs again, {cancelled} are cancelled");
        }
        Event::PorterStalled { client, pid } => {
            warn!("process {pid}, the porter of client {client}, is held by what it was handed: killed");
        }
        Event::Administered { client, uid, what } => {
            info!(audit = true, client, uid, "audit: client {client} of uid {uid} {what}");
        }
        Event::DomainGone { name } => info!("domain {name} is gone"),
        Event::DomainEnds { name, how } => info!("domain {name} is {how}"),
        Event::PolicyChanged { domains } => {
            info!("another policy is in force, with {domains} domains of its own")
        }
        Event::InstanceReady { instance, device } => info!("instance:{instance} of {device:?} is ready"),
        Event::InstanceLost { instance, device, why, jobs } => {
            warn!("instance:{instance} of {device:?} is lost with {jobs} jobs: {why:?}");
        }
        Event::InstanceReleased { instance, device, pid } => {
            warn!("process {pid}, instance:{instance} of {device:?}, was held up and has ended");
        }
        Event::JobTimedOut { device, timeline, point, client, pid, ran_ns, allowed_ns } => {
            warn!(
                "a job of {device:?} took too long: point {point} of {timeline}, of client {client}, in process {pid}, \
                 {ran_ns} ns of {allowed_ns}"
            );
        }
        Event::Refused { client, why } => debug!("client {client} is refused: {why:?}"),
        Event::Bug { what } => error!("a bug of ours: {what:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: Option<DomainId> = Some(DomainId(1000));

    #[test]
    fn a_domain_that_floods_the_log_is_cut_off_and_the_rest_is_counted() {
        let mut limiter = Limiter::default();
        let written = (0..1000).filter(|_| limiter.admit(DOMAIN, false, 7).is_some()).count();
        assert_eq!(written as u64, BURST);
        let later = 7 + EACH_NS;
        assert_eq!(
            (limiter.admit(DOMAIN, false, later), limiter.admit(DOMAIN, false, later)),
            (Some(950), None)
        );
    }

    #[test]
    fn a_flood_leaves_news_and_other_domains_alone() {
        let mut limiter = Limiter::default();
        while limiter.admit(DOMAIN, false, 7).is_some() {}
        assert_eq!(limiter.admit(DOMAIN, true, 7), Some(0));
        assert_eq!(limiter.admit(Some(DomainId(1)), false, 7), Some(0));
    }

    #[test]
    fn atk_domains_that_were_cut_off_are_forgotten_too_and_what_was_left_out_is_told() {
        const MANY: u32 = 3000;
        let mut limiter = Limiter::default();
        for domain in (0..MANY).map(|uid| Some(DomainId(uid))) {
            while limiter.admit(domain, true, 7).is_some() {}
        }
        let later = 7 + BURST * EACH_NS;
        // As many others as make it look.
        assert!((MANY..3 * MANY).all(|uid| limiter.admit(Some(DomainId(uid)), true, later).is_some()));
        assert!(limiter.buckets.len() <= 2 * MANY as usize + 1, "{}", limiter.buckets.len());
        assert_eq!(limiter.admit(None, true, later), Some(MANY.into()));
    }

    #[test]
    fn quiet_domains_are_forgotten() {
        let mut limiter = Limiter::default();
        for domain in 0..10 * u32::try_from(DOMAINS).expect("small") {
            limiter.admit(Some(DomainId(domain)), false, u64::from(domain) * BURST * EACH_NS);
        }
        assert!(limiter.buckets.len() <= DOMAINS);
    }

    #[test]
    fn a_domain_sees_what_is_its_own_and_nothing_of_others_or_the_whole() {
        let own = Scope::Domain(DomainId(1000));
        assert!(sees(own, DOMAIN) && !sees(own, Some(DomainId(1001))) && !sees(own, None));
        assert!(sees(Scope::All, DOMAIN) && sees(Scope::All, None));
    }

    fn entry(text: String) -> EventEntry {
        EventEntry {
            at_ns: u64::MAX,
            domain: Some(u32::MAX),
            event: Event::Refused { client: u64::MAX, why: text },
        }
    }

    #[test]
    fn an_event_comes_back_from_its_json() {
        let entry = entry("no \u{7}".to_owned());
        let json = json(&entry).expect("short");
        assert_eq!(serde_json::from_slice::<EventEntry>(&json).expect("an entry"), entry);
    }

    #[test]
    fn a_text_that_is_too_long_for_a_message_is_cut() {
        let json = json(&entry("\u{1}".repeat(limits::TEXT_LEN))).expect("cut");
        let back: EventEntry = serde_json::from_slice(&json).expect("an entry");
        assert!(matches!(back.event, Event::Refused { why, .. } if why.len() == SHORT + 3));
    }
}
