//! The invariants of rings and ranges.
//!
//! Part of [`Broker::check_invariants`].

use vgem_proto::ids::{InstanceId, TimelineKey};
use vgem_proto::limits;
use vgem_proto::rights::Access;

use super::{Range, RangeState, Ring, RingState};
use crate::broker::Broker;
use crate::devices::InstanceState;
use crate::invariants::{Check, ensure};
use crate::objects::{Kind, MappingState};
use crate::queues::{Queue, QueueState};

impl Broker {
    /// A ring's states, who waits for it, and what is bound to it.
    pub(crate) fn ring_fits(&self, key: TimelineKey, queue: &Queue) -> Check {
        let Some(ring) = &queue.ring else { return Ok(()) };
        let state = ring.state;
        ensure((state == RingState::Over) == (queue.state == QueueState::Gone), || {
            format!("{key}: its ring is {state:?} while it is {:?}", queue.state)
        })?;
        ensure(queue.jobs.is_empty(), || format!("{key}: a ring and jobs"))?;
        let waits = |wanted: bool| wanted && queue.state == QueueState::Open;
        ensure(ring.opening.is_some() == waits(state == RingState::Making), || {
            format!("{key}: {:?} wait for the memory of a ring that is {state:?}", ring.opening)
        })?;
        let is_committing = matches!(state, RingState::Checking | RingState::Attaching);
        ensure(ring.committing.is_some() == waits(is_committing), || {
            format!("{key}: {:?} waits for a ring that is {state:?}", ring.committing)
        })?;
        ensure(ring.memory.is_none() || matches!(state, RingState::Attached | RingState::Over), || {
            format!("{key}: its client's own memory at a ring that is {state:?}")
        })?;
        ensure(ring.ranges.is_empty() || state == RingState::Attached, || {
            format!("{key}: bound to a ring that is {state:?}")
        })?;
        ensure(ring.ranges.len() <= limits::RING_BINDS, || format!("{key}: too many ranges"))?;
        let serves = self.instances.get(&queue.instance).is_some_and(|i| i.state == InstanceState::Ready);
        let (owed, owes) = (ring.owed_by_thread(), ring.owes as usize);
        ensure(owed == owes && (owed > 0 && serves) == ring.answer_by.is_some(), || {
            format!("{key}: its thread owes {owed} answers by {:?}, {owes} are counted", ring.answer_by)
        })?;
        let mut end = 1;
        for (address, range) in &ring.ranges {
            ensure(range.len > 0 && *address >= end, || {
                format!("{key}: the range at {address:#x} begins before {end:#x}")
            })?;
            end = address.saturating_add(range.len);
            self.range_fits(queue, range).map_err(|why| format!("{key}, {address:#x}: {why}"))?;
        }
        Ok(())
    }

    /// The driver has what a range needs, and knows who else may write there.
    fn range_fits(&self, queue: &Queue, range: &Range) -> Check {
        let waits = matches!(range.state, RangeState::Asked | RangeState::Leaving);
        ensure(range.asker.is_some() == waits, || format!("{:?} waits for {range:?}", range.asker))?;
        let Some(object) = self.objects.get(range.object) else { return Err("bound to no object".into()) };
        let is_inside = range.offset.checked_add(range.len).is_some_and(|end| end <= object.len);
        ensure(is_inside, || format!("{range:?} of {} bytes", object.len))?;
        let is_sealed = matches!(object.kind, Kind::Sealed(_));
        ensure(!is_sealed || range.access == Access::Read, || "a sealed result is bound for writing".into())?;
        let mapping = object.mapping(queue.instance);
        let fits = mapping.is_some_and(|mapping| match mapping.state {
            MappingState::Asked | MappingState::Mapped => mapping.access >= range.access,
            // It is refused when the driver says so for the range, too.
            MappingState::Failed => range.state == RangeState::Asked,
            MappingState::Unmapping => false,
        });
        ensure(fits, || format!("{range:?} is mapped as {mapping:?}"))?;
        let must_be_told = range.state == RangeState::Bound && queue.state == QueueState::Open;
        ensure(!must_be_told || range.foreign || !object.is_foreign_to(queue.domain), || {
            format!("others write {range:?}, and its driver does not know")
        })?;
        ensure(!range.retold || range.foreign, || format!("told again for nothing: {range:?}"))
    }

    /// The answers that an instance owes for its rings.
    pub(crate) fn owed_for_rings(&self, id: InstanceId) -> usize {
        let queues = self.instances.get(&id).into_iter().flat_map(|instance| &instance.queues);
        queues.filter_map(|key| self.queues.get(*key)?.ring.as_deref()).map(Ring::owed).sum()
    }

    /// An instance that serves owes an answer for each message that asks for one.
    pub(crate) fn answers_fit(&self, id: InstanceId) -> Check {
        let Some(instance) = self.instances.get(&id).filter(|i| i.state == InstanceState::Ready) else {
            return Ok(());
        };
        let leaves = |state| state == MappingState::Unmapping;
        let mapped = instance.mapped.iter().filter_map(|key| self.objects.get(*key)?.mapping(id));
        let unmapping = mapped.filter(|mapping| leaves(mapping.state)).count();
        let queues = instance.queues.iter().filter_map(|key| self.queues.get(*key));
        // Before it is told to close, it may be looked which entries have ended.
        let by_thread =
            |queue: &Queue| queue.ring.as_ref().is_some_and(|ring| ring.closing || ring.sighted.leaving);
        let closes =
            |queue: &&Queue| queue.state == QueueState::Closing && queue.jobs.is_empty() && !by_thread(queue);
        let owed = unmapping + queues.filter(closes).count() + self.owed_for_rings(id);
        ensure(owed == instance.owes as usize, || {
            format!("{id}: owes {owed} answers, {} are counted", instance.owes)
        })?;
        ensure((owed > 0) == instance.answer_by.is_some(), || format!("{id}: owes {owed} answers by no time"))
    }
}

impl Ring {
    /// Answers that the control thread of its driver owes.
    fn owed(&self) -> usize {
        let of_range =
            |range: &Range| usize::from(range.state == RangeState::Asked) + usize::from(range.retold);
        usize::from(self.state == RingState::Attaching) + self.ranges.values().map(of_range).sum::<usize>()
    }

    /// Answers that its own thread owes.
    fn owed_by_thread(&self) -> usize {
        let sets = self.memory.as_ref().is_some_and(|memory| memory.setting.is_some());
        let leaving = self.ranges.values().filter(|range| range.state == RangeState::Leaving).count();
        let owed = leaving + usize::from(sets) + usize::from(self.closing);
        if self.state == RingState::Attached { owed } else { 0 }
    }
}
