//! What driver instances say.
//!
//! A driver is not trusted: every key in its messages is looked up, must belong to that very instance and must
//! come in the right state. One that breaks the protocol is killed, and everything of it ends as if it had died.

use vgem_proto::ids::{InstanceId, ObjectKey, Time, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::driver::{self, DriverMessage};

use crate::broker::Broker;
use crate::causes::Cause;
use crate::deadlines::Timer;
use crate::devices::{InstanceState, Verdict};
use crate::objects::MappingState;
use crate::queues::QueueState;
use crate::text::harmless;

impl Broker {
    /// An instance sent a message.
    pub(crate) fn driver_message(&mut self, now: Time, id: InstanceId, message: DriverMessage) {
        let Some(instance) = self.instances.get(&id) else { return };
        let ready = match instance.state {
            InstanceState::Gone => return,
            InstanceState::Pausing | InstanceState::Starting | InstanceState::Greeting => false,
            InstanceState::Ready => true,
            InstanceState::Ending => match instance.verdict {
                Some(Verdict::Broke(_)) => return,
                Some(
                    Verdict::TimedOut { .. }
                    | Verdict::Silent
                    | Verdict::Idle
                    | Verdict::Stalled { .. }
                    | Verdict::Stuck { .. },
                )
                | None => true,
            },
        };
        let outcome = match message {
            DriverMessage::Ready(message) => {
                self.instance_ready(now, id, &message);
                Ok(())
            }
            _ if !ready => Err("spoke before it said Ready".to_owned()),
            DriverMessage::Mapped(message) => self.mapped(id, message.object),
            DriverMessage::NotMapped(message) => self.not_mapped(id, message.object),
            DriverMessage::Unmapped(message) => self.unmapped(now, id, message.object),
            DriverMessage::TimelineClosed(message) => self.timeline_closed(now, id, message.timeline),
            DriverMessage::Complete(message) => self.completed(now, id, &message.completions),
            DriverMessage::Cause(message) => self.cause_told(id, &message),
            DriverMessage::Unblocked(message) => self.unblocked(now, id, message.timeline, message.point),
            DriverMessage::RingReady(message) => self.ring_ready(now, id, message.timeline, message.errno),
            DriverMessage::Bound(m) => self.bound(now, id, (m.timeline, m.address), m.code),
            DriverMessage::Unbound(m) => self.unbound(now, id, m.timeline, m.address),
            DriverMessage::WindowsSet(message) => self.windows_set(now, id, message.timeline),
            DriverMessage::Stalled(message) => self.stalled(now, id, &message),
            DriverMessage::AskPoint(message) => {
                self.point_asked(id, message.timeline, message.point);
                Ok(())
            }
            DriverMessage::Start(_)
            | DriverMessage::Forbid(_)
            | DriverMessage::Map(_)
            | DriverMessage::Unmap(_)
            | DriverMessage::SignalPage(_)
            | DriverMessage::ObservePage(_)
            | DriverMessage::DropSignalPage(_)
            | DriverMessage::DropObservePage(_)
            | DriverMessage::OpenTimeline(_)
            | DriverMessage::CloseTimeline(_)
            | DriverMessage::Publish(_)
            | DriverMessage::Retire(_)
            | DriverMessage::Run(_)
            | DriverMessage::CancelJob(_)
            | DriverMessage::Boost(_)
            | DriverMessage::AttachRing(_)
            | DriverMessage::Bind(_)
            | DriverMessage::Unbind(_)
            | DriverMessage::AttachMemory(_)
            | DriverMessage::SetWindows(_)
            | DriverMessage::PointEnded(_) => Err("sent a message that only the broker sends".to_owned()),
        };
        if let Err(why) = outcome {
            self.kill_instance(id, Verdict::Broke(why));
        }
    }

    fn mapped(&mut self, id: InstanceId, key: ObjectKey) -> Result<(), String> {
        self.answer_map(id, key, MappingState::Mapped)
    }

    fn not_mapped(&mut self, id: InstanceId, key: ObjectKey) -> Result<(), String> {
        self.answer_map(id, key, MappingState::Failed)
    }

    fn answer_map(&mut self, id: InstanceId, key: ObjectKey, answer: MappingState) -> Result<(), String> {
        let mapping = self
            .objects
            .get_mut(key)
            .and_then(|object| object.mappings.iter_mut().find(|mapping| mapping.instance == id));
        let Some(mapping) = mapping else { return Err(format!("answered for {key}, which it was not sent")) };
        match mapping.state {
            MappingState::Asked => {
                mapping.state = answer;
                self.writer_answered(id, key, answer);
            }
            MappingState::Mapped | MappingState::Failed | MappingState::Unmapping => {}
        }
        Ok(())
    }

    fn unmapped(&mut self, now: Time, id: InstanceId, key: ObjectKey) -> Result<(), String> {
        let is_asked = self
            .objects
            .get(key)
            .and_then(|object| object.mapping(id))
            .is_some_and(|mapping| mapping.state == MappingState::Unmapping);
        if !is_asked {
            return Err(format!("unmapped {key}, which it was not told to"));
        }
        self.answered(now, id);
        self.lose_mapping(id, key);
        Ok(())
    }

    fn timeline_closed(&mut self, now: Time, id: InstanceId, key: TimelineKey) -> Result<(), String> {
        let is_due = self.queues.get(key).is_some_and(|queue| {
            queue.instance == id && queue.state == QueueState::Closing && queue.jobs.is_empty()
        });
        if !is_due {
            return Err(format!("closed {key}, which is not closing there or has jobs"));
        }
        self.answered_close(now, id, key);
        self.remove_queue(now, key);
        Ok(())
    }

    fn cause_told(&mut self, id: InstanceId, told: &driver::Cause) -> Result<(), String> {
        if told.cause.issuer() != id {
            return Err(format!("issued {}, which is not its own", told.cause));
        }
        let Some(instance) = self.instances.get(&id) else { return Ok(()) };
        let device = self.devices.get(instance.device).map(|d| d.name().to_owned()).unwrap_or_default();
        let (domain, text) = (instance.domain, harmless(&told.text, limits::TEXT_LEN));
        let mut cause = Cause::new(told.at, told.code, text).on(device).by(0, instance.pid);
        let is_own = self.queues.get(told.timeline).is_some_and(|queue| queue.instance == id);
        if is_own {
            let (client, object) = self.about_job(told.timeline, told.point);
            let pid = cause.pid;
            cause = cause.to(told.timeline, told.point).by(client, pid).writing(object);
        }
        self.causes.remember(domain, told.cause, cause);
        if is_own {
            self.failure_shown(told.timeline, told.cause);
        }
        Ok(())
    }

    /// An instance owes one more answer at once.
    pub(crate) fn owes(&mut self, now: Time, id: InstanceId) {
        let by = now.after(self.config.times.greeting_ns);
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.owes += 1;
        if instance.answer_by.is_none() {
            self.timers.arm(Timer::Answer(id), &mut instance.answer_by, by);
        }
    }

    /// An instance gave an answer that it owed.
    pub(crate) fn answered(&mut self, now: Time, id: InstanceId) {
        let by = now.after(self.config.times.greeting_ns);
        let Some(instance) = self.instances.get_mut(&id) else { return };
        instance.owes = instance.owes.saturating_sub(1);
        if instance.owes == 0 || instance.state != InstanceState::Ready {
            self.timers.disarm(Timer::Answer(id), &mut instance.answer_by);
        } else {
            self.timers.arm(Timer::Answer(id), &mut instance.answer_by, by);
        }
    }
}
