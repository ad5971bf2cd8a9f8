//! Jobs that wait for what is not a device's doing, or is not submitted yet: promises of clients, entries of user queues,
//! and futures.
//!
//! None is in a reservation. A **gate** is a point of a client's timeline; the job's instance sees it in a page of the
//! pair (that client, that instance), which is given at need. Or it is an entry of a user queue ([`crate::host_waits`]),
//! which the instance sees as it sees jobs of that queue's instance. A **future** is a point that nobody has promised
//! before this batch; if the batch does not promise it either, its moment is looked after in [`crate::awaiting`]. So is
//! that of an entry.

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{ClientKey, DomainId, InstanceId, Point, Time, TimelineKey};
use vgem_proto::jobs::{DriverWait, PAGE_LOCAL, WAIT_PROMISE};
use vgem_proto::rights::WaitKind;

use crate::accounts::Resource;
use crate::batch::{Batch, take};
use crate::broker::Broker;
use crate::cycles::Search;
use crate::pairs::{Party, is_done};
use crate::queues::{Places, Waiters};
use crate::requests::Outcome;
use crate::spares::Sight;
use crate::timelines::is_of_client;

/// A job's wait for a promise, or for an entry of a user queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    pub(crate) timeline: TimelineKey,
    pub(crate) point: Point,
    pub(crate) kind: WaitKind,
}

/// A job's wait for a point that nobody had promised, or for an entry of a user queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewFuture {
    /// Place of the job in the batch.
    pub(crate) job: usize,
    pub(crate) awaited: (TimelineKey, Point),
    pub(crate) until: Time,
}

impl Broker {
    /// Whether somebody awaits jobs of a batch's queues.
    pub(crate) fn is_awaited(&self, batch: &Batch) -> bool {
        !self.futures.is_empty() && batch.timelines().any(|timeline| self.futures.names(timeline))
    }

    /// Refuses a batch whose waits would close a cycle: one that others await, or its own jobs.
    pub(crate) fn find_cycle(&self, domain: DomainId, batch: &Batch) -> Outcome {
        let is_own = |future: &NewFuture| batch.timelines().any(|timeline| timeline == future.awaited.0);
        if !self.is_awaited(batch) && !batch.futures.iter().any(is_own) {
            return Ok(());
        }
        let search = Search::of(&self.queues, batch, self.config.bounds.cycle_steps);
        search.find_cycle(batch, &self.devices, domain)
    }

    /// Whether a domain may have so many jobs wait for what is to come.
    pub(crate) fn find_future_room(&self, domain: DomainId, batch: &Batch) -> Outcome {
        let open = self.futures.count_of(domain);
        let (wanted, bound) = (open + batch.futures.len(), self.config.bounds.futures);
        if wanted > bound {
            let text = "points not promised yet, and entries, that jobs of one domain may wait for";
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(wanted as u64, bound as u64));
        }
        Ok(())
    }

    /// Who signals a timeline, if anybody does.
    fn signaller_of(&self, timeline: TimelineKey) -> Option<Party> {
        let of_queue = self.queues.get(timeline).map(|queue| Party::Instance(queue.instance));
        let of_client = || self.promises.get(timeline).and_then(|promises| promises.signaller);
        of_queue.or_else(|| of_client().map(Party::Client))
    }

    /// Gives the pairs in which the batch's instances see the promises and entries that its jobs wait for. To the entries of
    /// an instance of a client's own there is no route before.
    pub(crate) fn prepare_gates(&mut self, client: ClientKey, domain: DomainId, batch: &Batch) -> Outcome {
        let mut gates = batch.gates.as_slice();
        let mut wanted = Vec::with_capacity(gates.len());
        for planned in &batch.jobs {
            let Some(instance) = batch.instance_of(planned) else { continue };
            let observer = Party::Instance(instance);
            for gate in take(&mut gates, planned.gates) {
                if let Some(signaller) = self.signaller_of(gate.timeline) {
                    wanted.push(Sight { timeline: gate.timeline, signaller, observer });
                }
            }
        }
        let lacking = self.lacking_for(wanted.into_iter());
        // Before any are made for it.
        let charge = self.accounts.charge(domain, Resource::Pages, lacking.len() as u64)?;
        if let Err(refusal) = self.find_spares(client, &lacking) {
            self.accounts.give_back(charge);
            return Err(refusal);
        }
        self.give_spares(lacking, Some(charge));
        Ok(())
    }

    /// Where an instance sees the promise, or the entry, that its job waits for.
    pub(crate) fn place_of_gate(
        &mut self,
        gate: &Gate,
        instance: InstanceId,
        waiter: (TimelineKey, Point),
    ) -> Option<DriverWait> {
        let &Gate { timeline, point, kind } = gate;
        let is_here = self.queues.get(timeline).is_some_and(|queue| queue.instance == instance);
        let (page, slot) = match is_here {
            true => (PAGE_LOCAL, 0),
            false => self.place_in_page(timeline, Party::Instance(instance), waiter)?,
        };
        Some(DriverWait { timeline, point, page, slot, kind, flags: WAIT_PROMISE, reserved: Zero })
    }

    /// The page and the slot in which an observer sees a timeline, from now on if it did not before; a job waits there.
    fn place_in_page(
        &mut self,
        timeline: TimelineKey,
        observer: Party,
        waiter: (TimelineKey, Point),
    ) -> Option<(u16, u16)> {
        if self.shown_places(timeline)?.of(observer).is_none() {
            self.publish(timeline, observer)?;
        }
        let shown = self.shown_places_mut(timeline)?.of_mut(observer)?;
        let (place, mut waiters) = ((shown.page, shown.slot), std::mem::take(&mut shown.waiters));
        note_waiter(&mut waiters, &self.queues, waiter);
        self.shown_places_mut(timeline)?.of_mut(observer)?.waiters = waiters;
        Some(place)
    }

    fn shown_places_mut(&mut self, timeline: TimelineKey) -> Option<&mut Places> {
        match is_of_client(timeline) {
            true => self.promises.get_mut(timeline).map(|promises| &mut promises.shown),
            false => self.queues.get_mut(timeline).map(|queue| &mut queue.shown),
        }
    }

    /// Looks after the points that jobs of an accepted batch wait for and that are still not promised.
    pub(crate) fn await_futures(&mut self, batch: &Batch) {
        if batch.futures.is_empty() {
            return;
        }
        let jobs: Vec<(TimelineKey, Point)> = batch.points().collect();
        for future in &batch.futures {
            let (timeline, point) = future.awaited;
            let of_queue = self.queues.get(timeline).map(|queue| queue.promised);
            let promised = of_queue.or_else(|| self.promises.get(timeline).map(|promises| promises.promised));
            if let Some(waiter) = jobs.get(future.job).copied()
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
