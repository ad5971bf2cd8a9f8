//! What the driver tells the broker: causes at once, completions gathered.
//!
//! Completions release credits, charges and reservations; no other job waits for them. So they are sent up to 64
//! at a time, and at the latest one millisecond after the first: whoever goes to sleep with completions unsent
//! sleeps no longer than that, and whoever starts a long job sends them first. Without completions nobody has a
//! time-out, so an idle instance does nothing at all.
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

#[derive(Debug, Default)]
struct Unsent {
    completions: Vec<Completion>,
    since: Time,
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

    /// Adds a completion; sends when there are enough.
    pub(crate) fn complete(&self, completion: Completion) {
        let mut unsent = self.lock();
        if unsent.completions.is_empty() {
            unsent.since = completion.ended;
        }
        unsent.completions.push(completion);
        if unsent.completions.len() >= limits::COMPLETIONS {
            self.send_all(&mut unsent);
        }
    }

    /// Sends what there is.
    pub(crate) fn flush(&self) {
        self.send_all(&mut self.lock());
    }

    /// Sends what there is if its time has come.
    pub(crate) fn flush_due(&self, now: Time) {
        let mut unsent = self.lock();
        if !unsent.completions.is_empty() && now >= unsent.since.after(limits::COMPLETION_DELAY_NS) {
            self.send_all(&mut unsent);
        }
    }

    /// When unsent completions must leave; nothing if there are none.
    pub(crate) fn due(&self) -> Option<Time> {
        let unsent = self.lock();
        (!unsent.completions.is_empty()).then(|| unsent.since.after(limits::COMPLETION_DELAY_NS))
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
    fn completions_wait_until_they_are_due() {
        let (outbox, broker) = outbox();
        outbox.complete(completion(1, 1_000));
        assert_eq!(outbox.due(), Some(Time(1_000 + limits::COMPLETION_DELAY_NS)));
        outbox.flush_due(Time(limits::COMPLETION_DELAY_NS));
        assert_eq!(received(&broker), None);
        outbox.flush_due(Time(1_000 + limits::COMPLETION_DELAY_NS));
        assert_eq!(
            received(&broker),
            Some(DriverMessage::Complete(Complete { completions: vec![completion(1, 1_000)] }))
        );
        assert_eq!(outbox.due(), None);
    }

    // M-109
    #[test]
    fn sixty_four_completions_leave_at_once() {
        let (outbox, broker) = outbox();
        for point in 1..=64 {
            outbox.complete(completion(point, 5));
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
