//! What the driver tells the broker: causes at once, completions gathered.
//!
//! Completions release credits, charges and reservations; no other job waits for them. So they are sent up to 64
//! at a time, and at the latest one millisecond after the first: whoever adds the first has an alarm set, whoever adds
//! one late in the millisecond sends them all, and whoever starts a long job sends them before. When they are sent
//! before it rings, the alarm is not put out but moved, now and then: while jobs keep coming it never rings, and after
//! the last one once at most. Without completions it is not set, so an idle instance does nothing at all.
//!
//! Completions of one queue leave in the order of their points, because a job's completion is put here before
//! the queue's next job may be claimed.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vgem_os::seqpacket::Socket;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, InstanceId, Point, Time, TimelineKey};
use vgem_proto::jobs::Completion;
use vgem_proto::limits;
use vgem_proto::message::driver::{Cause, Complete, DriverMessage};

/// A completion that comes so long after the first one unsent has all of them sent, nanoseconds.
const LATE_NS: u64 = limits::COMPLETION_DELAY_NS / 4 * 3;
/// The alarm is moved if it would ring this much too early, nanoseconds.
const MOVE_NS: u64 = limits::COMPLETION_DELAY_NS / 2;

#[derive(Debug, Default)]
struct Unsent {
    completions: Vec<Completion>,
    /// When the first of them ended.
    since: Time,
    /// When the alarm rings; nothing if it is not set.
    alarm: Option<Time>,
}

/// The sending side of the link to the broker.
#[derive(Debug)]
pub(crate) struct Outbox {
    link: Arc<Socket>,
    unsent: Mutex<Unsent>,
    issuer: AtomicU32,
    causes: AtomicU32,
}

impl Outbox {
    pub(crate) fn new(link: Arc<Socket>) -> Self {
        Self { link, unsent: Mutex::default(), issuer: AtomicU32::new(0), causes: AtomicU32::new(0) }
    }

    /// Says who issues causes, as the broker told us.
    pub(crate) fn set_issuer(&self, instance: InstanceId) {
        self.issuer.store(instance.0, Ordering::Relaxed);
    }

    /// Sends a message now.
    pub(crate) fn send(&self, message: &DriverMessage) {
        self.send_bytes(&message.encode(0, Time(0), 0));
    }

    fn send_bytes(&self, bytes: &[u8]) {
        // A broker that is gone is noticed where the link is read; there is nothing to do about it here.
        let _gone = self.link.send(bytes, &[]).is_err();
    }

    /// Tells the broker where a failure began; returns the failure with its new identity.
    pub(crate) fn cause(
        &self,
        timeline: TimelineKey,
        point: Point,
        at: Time,
        code: ErrorCode,
        text: &str,
    ) -> Failure {
        let counter = self.causes.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let cause = CauseId::new(InstanceId(self.issuer.load(Ordering::Relaxed)), counter);
        let text = cut(text).as_bytes().to_vec();
        let reserved = vgem_proto::codec::Zero;
        self.send(&DriverMessage::Cause(Cause { cause, timeline, point, at, code, reserved, text }));
        Failure { code, cause }
    }

    /// Adds a completion; sends when there are enough. When the alarm has to ring, if it must be set.
    #[must_use]
    pub(crate) fn complete(&self, completion: Completion) -> Option<Time> {
        let mut unsent = self.lock();
        let is_first = unsent.completions.is_empty();
        if is_first {
            unsent.since = completion.ended;
        }
        unsent.completions.push(completion);
        let late = unsent.since.after(LATE_NS);
        if unsent.completions.len() >= limits::COMPLETIONS || completion.ended >= late {
            self.send_all(&mut unsent);
            return None;
        }
        let due = unsent.since.after(limits::COMPLETION_DELAY_NS);
        let soon = unsent.alarm.is_some_and(|alarm| due < alarm.after(MOVE_NS));
        if !is_first || soon {
            return None;
        }
        unsent.alarm = Some(due);
        unsent.alarm
    }

    /// Sends what there is.
    pub(crate) fn flush(&self) {
        self.send_all(&mut self.lock());
    }

    /// The alarm rang: sends what there is.
    pub(crate) fn alarm_rang(&self) {
        let mut unsent = self.lock();
        unsent.alarm = None;
        self.send_all(&mut unsent);
    }

    fn send_all(&self, unsent: &mut Unsent) {
        if unsent.completions.is_empty() {
            return;
        }
        let message = Complete { completions: std::mem::take(&mut unsent.completions) };
        self.send_bytes(&message.encode(0, Time(0), 0));
        unsent.completions = message.completions;
        unsent.completions.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Unsent> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest prefix that fits a cause's text.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(limits::TEXT_LEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgem_os::seqpacket::Packet;
    use vgem_proto::message::Sender;

    fn completion(point: u64, ended: u64) -> Completion {
        Completion {
            timeline: TimelineKey { index: 0, generation: 1 },
            point: Point(point),
            started: Time(1),
            ended: Time(ended),
            bytes: 0,
            staged: 0,
            cause: CauseId::NONE,
            code: 0,
            reserved: vgem_proto::codec::Zero,
        }
    }

    fn received(socket: &Socket) -> Option<DriverMessage> {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        match socket.recv_plain(&mut buf) {
            Ok(Packet::Data { len }) => {
                Some(DriverMessage::decode(&buf[..len], Sender::Driver, 0).expect("own messages decode").1)
            }
            _ => None,
        }
    }

    fn outbox() -> (Outbox, Socket) {
        let (ours, theirs) = Socket::pair().expect("a socket pair");
        theirs.set_nonblocking(true).expect("a socket of ours");
        (Outbox::new(Arc::new(ours)), theirs)
    }

    // M-109
    #[test]
    fn completions_wait_for_the_alarm_that_the_first_has_set() {
        let (outbox, broker) = outbox();
        let (first, second) = (completion(1, 1_000), completion(2, 2_000));
        assert_eq!(outbox.complete(first), Some(Time(1_000 + limits::COMPLETION_DELAY_NS)));
        assert_eq!(outbox.complete(second), None);
        assert_eq!(received(&broker), None);
        outbox.alarm_rang();
        let both = Complete { completions: vec![first, second] };
        assert_eq!(received(&broker), Some(DriverMessage::Complete(both)));
    }

    // M-109
    #[test]
    fn an_alarm_is_set_again_once_it_has_rung_or_would_ring_far_too_early() {
        let (outbox, _broker) = outbox();
        for (point, ended, is_set) in [(1, 5, true), (2, 6, false), (3, 5 + MOVE_NS, true)] {
            let due = Time(ended + limits::COMPLETION_DELAY_NS);
            assert_eq!(outbox.complete(completion(point, ended)), is_set.then_some(due));
            outbox.flush();
        }
        outbox.alarm_rang();
        assert!(outbox.complete(completion(4, 6 + MOVE_NS)).is_some());
    }

    #[test]
    fn a_completion_that_comes_late_has_all_of_them_sent() {
        let (outbox, broker) = outbox();
        let all = [completion(1, 5), completion(2, 6), completion(3, 5 + LATE_NS)];
        assert_eq!(all.map(|c| outbox.complete(c).is_some()), [true, false, false]);
        let sent = Complete { completions: all.to_vec() };
        assert_eq!(received(&broker), Some(DriverMessage::Complete(sent)));
    }

    // M-109
    #[test]
    fn sixty_four_completions_leave_at_once() {
        let (outbox, broker) = outbox();
        for point in 1..=64 {
            assert_eq!(outbox.complete(completion(point, 5)).is_some(), point == 1);
        }
        let Some(DriverMessage::Complete(sent)) = received(&broker) else { panic!("nothing was sent") };
        assert_eq!(sent.completions.len(), 64);
    }

    #[test]
    fn a_cause_is_cut_at_a_character_and_keeps_its_identity() {
        let (outbox, broker) = outbox();
        outbox.set_issuer(InstanceId(9));
        let text = "ü".repeat(limits::TEXT_LEN);
        let failure = outbox.cause(TimelineKey::default(), Point(3), Time(4), ErrorCode::Io, &text);
        let Some(DriverMessage::Cause(cause)) = received(&broker) else { panic!("nothing was sent") };
        assert_eq!((cause.cause, cause.text.len()), (failure.cause, limits::TEXT_LEN));
        assert_eq!(failure.cause.issuer(), InstanceId(9));
    }
}
