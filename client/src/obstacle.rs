//! What a guard may have to wait for but did not submit: points of others' jobs, which the broker names when it is asked
//! (Observe). Each stands for a whole object, with a kind.
//!
//! A point that has failed is named until the broker has taken note of it; from then on the ranges that it leaves are
//! told as poison ([`crate::poison`]), and that is the truth of it. Meanwhile its failure counts for the whole object.
//!
//! The broker shows a point of another domain in a page that it may have to make first: then it refuses once, and the question
//! is asked again a moment later.
//!
//! A seen point is looked at in a fence page of this client, as own jobs are; nobody is asked to wait. Its timeline may
//! go while nobody looks, and then its slot is retired: a point that stays pending for long is asked for again, and
//! one the broker does not name any more has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use vgem_os::fence::{PointState, Slot};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Handle, Point, TimelineKey};
use vgem_proto::message::client::{ClientMessage, Observe, Observed};
use vgem_proto::rights::{Access, WaitKind};

use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::{Error, FenceError, JobFailure, Result};
use crate::exchange::Reply;
use crate::explain::Explanation;
use crate::link::unexpected;
use crate::pages::{Observer, Outcome, Target};
use crate::poison::Poison;
use crate::waitable::{PointKind, Whose, verdict};
use crate::watch::Watch;

/// Who failed, where the broker did not say which device.
pub(crate) const OTHERS: &str = "another client";

/// How long the broker may take to say whether a point is still to come.
const ASK: Duration = Duration::from_secs(1);

/// A point of another's that an access to an object has to wait for.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    core: Arc<Core>,
    observer: Arc<Observer>,
    target: Target,
    timeline: TimelineKey,
    object: Handle,
    /// The access for which the broker named it.
    access: Access,
    /// The broker was asked and does not name it any more.
    over: Arc<AtomicBool>,
}

/// A point and what its failure means.
pub(crate) type SeenPoint = (Seen, WaitKind);

/// What the broker said of an object.
#[derive(Debug)]
pub(crate) struct Told {
    /// Others' points that it named.
    pub(crate) points: Vec<SeenPoint>,
    /// What failed jobs have left, whoever's.
    pub(crate) poison: Vec<Poison>,
    /// When it said so, among all that it said.
    pub(crate) order: u64,
}

impl Seen {
    pub(crate) fn look(&self) -> PointState {
        match self.observer.state(self.target) {
            PointState::Pending if self.over.load(Ordering::Acquire) => PointState::Ok { time_ns: 0 },
            state => state,
        }
    }

    /// Whether both name the same point.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.timeline == other.timeline && self.target.point == other.target.point
    }

    /// Whether `other`, being named, says that this one's slot still is what it was.
    pub(crate) fn is_behind(&self, other: &Self) -> bool {
        self.timeline == other.timeline && self.target.point <= other.target.point
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn whose(&self) -> Whose {
        Whose { name: OTHERS.into(), kind: PointKind::Job, point: Point(self.target.point) }
    }

    pub(crate) fn watch(&self) -> Watch {
        self.observer.watch(self.target)
    }

    pub(crate) fn wait_out(&self, deadline: Deadline) -> Outcome {
        self.observer.wait(self.target, deadline, &self.core.counters, || self.ask())
    }

    /// Between long sleeps: is it still to come?
    pub(crate) fn ask(&self) -> Option<Outcome> {
        self.core.refresh();
        if self.core.link.check().is_err() {
            return Some(Outcome::Lost);
        }
        if self.is_still_named() {
            return None;
        }
        // Not seen to end: its slot is gone.
        self.over.store(true, Ordering::Release);
        Some(Outcome::Ended(self.look()))
    }

    fn is_still_named(&self) -> bool {
        let asked = self.core.link.call(observe(self.object, self.access), Deadline::after(ASK));
        match asked.and_then(|reply| self.core.observed(self.object, self.access, reply)) {
            Ok(told) => told.points.iter().any(|(seen, _)| self.is_behind(seen)),
            // Who cannot tell does not end a wait.
            Err(_) => true,
        }
    }

    pub(crate) fn verdict(
        &self,
        state: PointState,
        explain: impl FnOnce(CauseId) -> Option<Arc<Explanation>>,
    ) -> Result<(), FenceError> {
        let mut whose = self.whose();
        let mut explanation = None;
        if let PointState::Failed { cause, .. } = state {
            explanation = explain(CauseId(cause));
            if let Some(device) = explanation.as_ref().and_then(|told| told.device.as_deref()) {
                whose.name = device.into();
            }
        }
        verdict(whose, state, |_| explanation)
    }
}

/// Whether the broker has to make room to show a point first, and says that another try will do.
pub(crate) fn has_no_room_yet(error: &Error) -> bool {
    error.code() == Some(ErrorCode::Exhausted)
}

/// How often a question is asked again when the broker has no room to answer it, and after how long.
pub(crate) const TRIES: u32 = 20;
/// Between two of them.
pub(crate) const AGAIN: Duration = Duration::from_millis(5);

/// The failure that left poison, with what is known without asking.
pub(crate) fn left_by(poison: &Poison) -> Error {
    let Poison { code, cause, .. } = *poison;
    let (device, kind, point) = (OTHERS.into(), PointKind::Job, Point(0));
    let failure = JobFailure { device, kind, point, code, cause, explanation: None };
    Error::Job(Box::new(failure))
}

/// The question what an access to an object has to wait for.
pub(crate) fn observe(object: Handle, access: Access) -> Observe {
    Observe { object, access, reserved: Zero }
}

impl Core {
    /// Understands what an access has to wait for: maps new pages. Jobs of this client are left out, for its ledgers know
    /// them better.
    pub(crate) fn observed(self: &Arc<Self>, object: Handle, access: Access, reply: Reply) -> Result<Told> {
        let ClientMessage::Observed(Observed { points, poison, .. }) = &reply.message else {
            return Err(unexpected(&reply));
        };
        let others = points.iter().filter(|point| !self.is_ours(point.timeline));
        let seen = others.map(|point| {
            let slot = Slot::new(point.slot)
                .ok_or_else(|| Error::Protocol(format!("slot {} of a page", point.slot)))?;
            let observer = self.page(point.page)?;
            let target = Target { slot, generation: point.timeline.generation, point: point.point.0 };
            let (core, timeline) = (Arc::clone(self), point.timeline);
            let over = Arc::default();
            Ok((Seen { core, observer, target, timeline, object, access, over }, point.kind))
        });
        let points = seen.collect::<Result<_>>()?;
        Ok(Told { points, poison: poison.iter().map(Poison::from_wire).collect(), order: reply.order })
    }
}
