//! Jobs that wait for what is not a device's doing, or is not submitted yet: promises of clients, and futures.
//!
//! Neither is in a reservation. A **gate** is a point of a client's timeline; the job's instance sees it in a page of the
//! pair (that client, that instance), which is given at need. A **future** is a point that nobody has promised before
//! this batch; if the batch does not promise it either, its moment is looked after in [`crate::awaiting`].

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, DomainId, InstanceId, Point, Time, TimelineKey};
use vgem_proto::jobs::{DriverWait, WAIT_PROMISE};
use vgem_proto::rights::WaitKind;

use crate::accounts::Resource;
use crate::batch::{Batch, take};
use crate::broker::Broker;
use crate::cycles::{NewJob, Search};
use crate::pairs::{Party, is_done};
use crate::queues::Waiters;
use crate::requests::Outcome;
use crate::spares::Sight;

/// A job's wait for a promise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    pub(crate) timeline: TimelineKey,
    pub(crate) point: Point,
    pub(crate) kind: WaitKind,
}

/// A job's wait for a point that nobody had promised.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewFuture {
    /// Place of the job in the batch.
    pub(crate) job: usize,
    pub(crate) awaited: (TimelineKey, Point),
    pub(crate) until: Time,
}

impl Broker {
    /// Whether a batch has to be looked at for cycles: it waits for what is to come, or submits what is awaited.
    pub(crate) fn may_close_a_cycle(&self, batch: &Batch) -> bool {
        !batch.futures.is_empty()
            || !self.futures.is_empty() && batch.timelines().any(|timeline| self.futures.names(timeline))
    }

    /// Refuses a batch whose waits would close a cycle.
    pub(crate) fn find_cycle(&self, domain: DomainId, batch: &Batch) -> Outcome {
        let mut waits = batch.waits.as_slice();
        let mut jobs = Vec::with_capacity(batch.jobs.len());
        for (place, (job, planned)) in batch.points().zip(&batch.jobs).enumerate() {
            let own = take(&mut waits, planned.waits);
            let awaits = batch.futures.iter().filter(|future| future.job == place);
            jobs.push(NewJob {
                number: u16::try_from(place).unwrap_or(u16::MAX),
                job,
                waits: own.iter().map(|wait| (wait.fence.timeline, wait.fence.point)).collect(),
                awaits: awaits.map(|future| future.awaited).collect(),
            });
        }
        let (queues, devices, futures) = (&self.queues, self.devices.as_slice(), &self.futures);
        Search { queues, devices, futures, domain, batch: &jobs }.find_cycle()
    }

    /// Whether a domain may have so many jobs wait for what is to come.
    pub(crate) fn find_future_room(&self, domain: DomainId, batch: &Batch) -> Outcome {
        let is_own = |timeline| self.queues.get(timeline).is_some_and(|queue| queue.domain == domain);
        let open = self.futures.live.values().filter(|future| is_own(future.waiter.0)).count();
        let (wanted, bound) = (open + batch.futures.len(), self.config.bounds.futures);
        if wanted > bound {
            let text = "points not promised yet that jobs of one domain may wait for";
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(wanted as u64, bound as u64));
        }
        Ok(())
    }

    /// Gives the pairs in which the batch's instances see the promises that its jobs wait for.
    pub(crate) fn prepare_gates(&mut self, client: ClientKey, domain: DomainId, batch: &Batch) -> Outcome {
        let mut gates = batch.gates.as_slice();
        let mut wanted = Vec::with_capacity(gates.len());
        for planned in &batch.jobs {
            let Some(instance) = batch.instance_of(planned) else { continue };
            let observer = Party::Instance(instance);
            for gate in take(&mut gates, planned.gates) {
                let signaller = self.promises.get(gate.timeline).and_then(|promises| promises.signaller);
                if let Some(signaller) = signaller.map(Party::Client) {
                    wanted.push(Sight { timeline: gate.timeline, signaller, observer });
                }
            }
        }
        let lacking = self.lacking_for(wanted.into_iter());
        self.find_spares(client, &lacking)?;
        let charge = self.accounts.charge(domain, Resource::Pages, lacking.len() as u64)?;
        self.give_spares(lacking, Some(charge));
        Ok(())
    }

    /// Where an instance sees the promise that its job (`timeline`, `point`) waits for.
    pub(crate) fn place_of_gate(
        &mut self,
        gate: &Gate,
        instance: InstanceId,
        (timeline, point): (TimelineKey, Point),
    ) -> Option<DriverWait> {
        let observer = Party::Instance(instance);
        let is_shown = self.shown_places(gate.timeline)?.iter().any(|shown| shown.observer == observer);
        if !is_shown {
            self.publish(gate.timeline, observer)?;
        }
        let shown = &mut self.promises.get_mut(gate.timeline)?.shown;
        let shown = shown.iter_mut().find(|shown| shown.observer == observer)?;
        let (page, slot) = (shown.page, shown.slot);
        note_waiter(&mut shown.waiters, &self.queues, (timeline, point));
        let (awaited, until, kind) = (gate.timeline, gate.point, gate.kind);
        Some(DriverWait {
            timeline: awaited,
            point: until,
            page,
            slot,
            kind,
            flags: WAIT_PROMISE,
            reserved: Zero,
        })
    }

    /// Looks after the points that jobs of an accepted batch wait for and that are still not promised.
    pub(crate) fn await_futures(&mut self, batch: &Batch) {
        for future in &batch.futures {
            let (timeline, point) = future.awaited;
            let of_queue = self.queues.get(timeline).map(|queue| queue.promised);
            let promised = of_queue.or_else(|| self.promises.get(timeline).map(|promises| promises.promised));
            if let Some(waiter) = batch.points().nth(future.job)
                && promised.is_some_and(|promised| promised < point)
            {
                self.await_promise(future.awaited, waiter, future.until);
            }
        }
    }
}

/// Notes the last job of a queue that waits in some slot.
fn note_waiter(
    waiters: &mut Waiters,
    queues: &crate::tables::Table<TimelineKey, crate::queues::Queue>,
    (timeline, point): (TimelineKey, Point),
) {
    match waiters.iter_mut().find(|(waiter, _)| *waiter == timeline) {
        Some((_, last)) => *last = point,
        None => {
            waiters.retain(|(waiter, last)| !is_done(queues, *waiter, *last));
            waiters.push((timeline, point));
        }
    }
}
