//! Batches: accepted whole or refused whole (J1).
//!
//! 1. **Find** the queues and hold the points against those expected. What fails here consumes no points; a queue
//!    whose instance is gone is found, and its batch refused after the charge, so that nobody waits for ever for
//!    the points on the other queues.
//! 2. **Authorise**, then **charge** credits on every queue and link involved, so that an accepted batch can
//!    always be delivered. What fails here consumes no points either.
//! 3. **Check** every job ([`crate::check`]). What fails from here on consumes the points: the drivers get the
//!    same jobs as already failed, so that later batches, which the client may have sent meanwhile, go on.
//! 4. **Plan**: for each job in order, what it waits for, then its own entries in the reservations (R6).
//!    Planning can only fail when a job would wait for more points than one may; whether it might is estimated
//!    first, and if so the reservations are put back as they were.
//! 5. **Change**: rings, mappings, slots, one `Run` per instance. Nothing can fail any more.
//!
//! Storage for all of this lives in [`Batch`].

use std::collections::BTreeSet;

use vgem_proto::codec::Zero;
use vgem_proto::describe::PUBLISH;
use vgem_proto::error::{ErrorCode, Failure, Refusal};
use vgem_proto::ids::{
    CauseId, ClientKey, DomainId, InstanceId, ObjectKey, Point, QueueHandle, Time, TimelineKey,
};
use vgem_proto::jobs::{DriverJob, DriverWait, JOB_EXPLICIT, JOB_RUN_ANYWAY, PAGE_LOCAL};
use vgem_proto::message::SUBMIT_REPLY;
use vgem_proto::message::client::{Accepted, Submit};
use vgem_proto::message::driver::Map;
use vgem_proto::rights::Access;

use crate::accounts::{Charge, Resource};
use crate::batch::{Batch, BatchQueue, Life, PlannedJob, take};
use crate::broker::{Broker, client_number};
use crate::causes::Cause;
use crate::check::{Checker, Parts};
use crate::config::Bounds;
use crate::devices::{Instance, InstanceState};
use crate::io::Attach;
use crate::objects::{Awaiting, Mapping, MappingState, Object};
use crate::pairs::{Party, is_done};
use crate::policy::{self, Action, Grant};
use crate::queues::{Job, Queue, QueueState, Use};
use crate::requests::{Outcome, no_such_queue};
use crate::reservation::{Failures, Fence, Inherited, JobWaits, PlannedWait, Reservation};
use crate::sent::Room;
use crate::spares::Sight;
use crate::tables::Table;

/// A refusal, and whether the batch's points are consumed.
enum Refused {
    Nothing(Refusal),
    Points(Refusal, Charge),
}

impl Broker {
    /// A client submits a batch.
    pub(crate) fn submit(&mut self, now: Time, asker: Awaiting, flags: u16, submit: &Submit) -> Outcome {
        let mut batch = std::mem::take(&mut self.batch);
        let before = self.out.len();
        let outcome = self.submit_with(now, asker.client, submit, &mut batch);
        for used in &batch.uses {
            if let Some(object) = self.objects.get_mut(used.object) {
                object.planned = 0;
            }
        }
        let refused = match outcome {
            Ok(()) => {
                self.counters.batches += 1;
                self.counters.jobs += submit.jobs.len() as u64;
                if flags & SUBMIT_REPLY != 0 {
                    self.reply(asker.link, asker.request, Accepted {});
                    // Said before the drivers are woken: nothing can fail any more, and who asked is waiting.
                    if let Some(effects) = self.out.get_mut(before..) {
                        effects.rotate_right(1);
                    }
                }
                Ok(())
            }
            Err(Refused::Nothing(refusal)) => {
                self.counters.batches_refused += 1;
                Err(refusal)
            }
            Err(Refused::Points(refusal, charge)) => {
                self.counters.batches_refused += 1;
                self.consume_points(now, asker, submit, &refusal, charge, &mut batch);
                Ok(())
            }
        };
        batch.clear();
        self.batch = batch;
        refused
    }

    fn submit_with(
        &mut self,
        now: Time,
        client: ClientKey,
        submit: &Submit,
        batch: &mut Batch,
    ) -> Result<(), Refused> {
        self.find_queues(client, submit, batch).map_err(Refused::Nothing)?;
        let subject = self.find_client(client).map_err(Refused::Nothing)?.subject();
        let grant = policy::authorise(subject, Action::Submit).map_err(Refused::Nothing)?;
        let charge = self.charge_batch(&grant, batch, submit.jobs.len()).map_err(Refused::Nothing)?;
        if let Some(refusal) = batch.gone.take() {
            return Err(Refused::Points(refusal, charge));
        }
        let checked = self
            .check_jobs(now, client, grant.domain(), submit, batch)
            .and_then(|weight| self.plan(client, grant.domain(), batch, weight));
        match checked {
            Ok(()) => self.change(now, submit, charge, batch),
            Err(refusal) => return Err(Refused::Points(refusal, charge)),
        }
        Ok(())
    }

    fn find_queues(&self, client: ClientKey, submit: &Submit, batch: &mut Batch) -> Outcome {
        let client = self.find_client(client)?;
        let mut last = 0;
        for (number, job) in (0u16..).zip(&submit.jobs) {
            if batch.queues.get(last).is_none_or(|queue| queue.handle != job.queue) {
                last = match batch.queues.iter().position(|queue| queue.handle == job.queue) {
                    Some(place) => place,
                    None => {
                        let key = client.queues.get(job.queue.0);
                        let found = key.and_then(|key| self.find_open_queue(*key, job.queue));
                        let found = found.unwrap_or_else(|| Err(no_such_queue(job.queue)));
                        let found = found.map_err(|refused| refused.in_job(number))?;
                        if matches!(found.life, Life::Ends | Life::Gone) {
                            batch.gone.get_or_insert_with(|| self.gone(&found).in_job(number));
                            let queue = self.queues.get(found.timeline);
                            batch.loss =
                                batch.loss.or(queue.and_then(|queue| Some(queue.lost.as_ref()?.cause)));
                        }
                        batch.queues.push(found);
                        batch.queues.len() - 1
                    }
                };
            }
            let Some(queue) = batch.queues.get_mut(last) else { continue };
            queue.count += 1;
            let expected = queue.promised.0.saturating_add(u64::from(queue.count));
            if job.point.0 != expected {
                let text = format!("the next point of {} is {expected}", job.queue);
                return Err(Refusal::new(ErrorCode::BadPoint, text)
                    .with(job.point.0, expected)
                    .in_job(number));
            }
            batch.jobs.push(PlannedJob {
                queue: last,
                run_ns: 0,
                operands: 0,
                params: 0,
                uses: 0,
                explicit: 0,
                gates: 0,
                waits: 0,
                failed: None,
                is_explicit: job.flags & JOB_EXPLICIT != 0,
                runs_anyway: job.flags & JOB_RUN_ANYWAY != 0,
            });
        }
        Ok(())
    }

    fn find_open_queue(&self, key: TimelineKey, handle: QueueHandle) -> Option<Result<BatchQueue, Refusal>> {
        let queue = self.queues.get(key)?;
        if queue.is_own {
            let text =
                "the queue's driver serves one client alone and takes no jobs; open another queue for them";
            return Some(Err(Refusal::new(ErrorCode::Unsupported, text).with(handle.0.into(), 0)));
        }
        if queue.ring.is_some() {
            let text = "the queue's points are those of its ring; open another queue for jobs";
            return Some(Err(Refusal::new(ErrorCode::Busy, text).with(handle.0.into(), 0)));
        }
        let instance = self.instances.get(&queue.instance);
        let life = match queue.state {
            QueueState::Open if instance.is_some_and(|i| i.state == InstanceState::Ready) => Life::Runs,
            QueueState::Open if instance.is_some_and(Instance::goes_on) => Life::Waits,
            QueueState::Open => Life::Ends,
            QueueState::Gone => Life::Gone,
            QueueState::Closing => return None,
        };
        Some(Ok(BatchQueue {
            handle,
            timeline: key,
            instance: queue.instance,
            device: queue.device,
            life,
            promised: queue.promised,
            count: 0,
            so_far: 0,
        }))
    }

    fn gone(&self, named: &BatchQueue) -> Refusal {
        let device = self.devices.get(named.device).map(|d| d.name()).unwrap_or_default();
        let lost = self.queues.get(named.timeline).and_then(|queue| queue.lost.as_ref());
        let how = lost.map_or("is ending", |lost| &lost.how);
        let handle = named.handle;
        let text =
            format!("the instance of device {device} behind {handle} is gone: {how}; open a new queue");
        Refusal::new(ErrorCode::Gone, text)
    }

    /// Credits on every queue and instance, and the domain's charge.
    fn charge_batch(&mut self, grant: &Grant, batch: &Batch, jobs: usize) -> Result<Charge, Refusal> {
        let bound = self.config.bounds.instance_jobs;
        for (place, named) in batch.queues.iter().enumerate() {
            let Some(queue) = self.queues.get(named.timeline) else { continue };
            let wanted = queue.in_flight() as u64 + u64::from(named.count);
            if wanted > u64::from(queue.depth) {
                let text = format!("jobs in flight on {}: its depth is {}", named.handle, queue.depth);
                return Err(Refusal::new(ErrorCode::Exhausted, text).with(wanted, u64::from(queue.depth)));
            }
            let same = |other: &&BatchQueue| other.instance == named.instance;
            if batch.queues.iter().take(place).any(|other| same(&other)) {
                continue;
            }
            let asked: u32 = batch.queues.iter().filter(same).map(|other| other.count).sum();
            let in_flight = self.instances.get(&named.instance).map_or(0, |instance| instance.in_flight);
            let wanted = in_flight.saturating_add(asked);
            if wanted > bound {
                let text = format!("jobs in flight at one device for one domain: at most {bound}");
                let refusal = Refusal::new(ErrorCode::Exhausted, text);
                return Err(refusal.with(u64::from(wanted), u64::from(bound)));
            }
        }
        self.accounts.charge(grant.domain(), Resource::Jobs, jobs as u64)
    }

    fn check_jobs(
        &mut self,
        now: Time,
        client: ClientKey,
        domain: DomainId,
        submit: &Submit,
        batch: &mut Batch,
    ) -> Result<Weight, Refusal> {
        check_counts(submit)?;
        let Some(client) = self.clients.get(client) else {
            return Err(Refusal::new(ErrorCode::Gone, "the client is gone"));
        };
        let mut checker = Checker {
            client,
            domain,
            queues: &self.queues,
            objects: &mut self.objects,
            times: &self.config.times,
            bounds: &self.config.bounds,
            bytes: submit.bytes.len(),
            copied: 0,
            devices: &self.devices,
            instance: InstanceId(0),
            timeline: TimelineKey::default(),
            place: 0,
            promises: &self.promises,
            now,
            crosses: false,
        };
        let restriction = self.domains.restriction(domain);
        let mut weight = Weight::default();
        let (mut operands, mut params, mut waits) =
            (submit.operands.as_slice(), submit.params.as_slice(), submit.waits.as_slice());
        for (place, job) in submit.jobs.iter().enumerate() {
            let parts = Parts {
                operands: take(&mut operands, job.operands),
                params: take(&mut params, job.params),
                waits: take(&mut waits, job.waits),
            };
            let before = (batch.operands.len(), batch.params.len(), batch.uses.len(), batch.explicit.len());
            let gates = batch.gates.len();
            checker.place = place;
            batch.failed = None;
            let queue = batch.jobs.get(place).map_or(0, |planned| planned.queue);
            let named = batch.queues.get(queue);
            checker.instance = named.map_or(InstanceId(0), |queue| queue.instance);
            checker.timeline = named.map(|queue| queue.timeline).unwrap_or_default();
            let device = named.and_then(|queue| self.devices.get(queue.device));
            let operation = match job.op {
                PUBLISH => Some(&self.publish),
                op => device.and_then(|device| device.description.by_number(op)),
            };
            let checked = match operation {
                Some(operation) => match (restriction, device, named) {
                    (Some(allowance), Some(device), Some(queue)) if job.op != PUBLISH => {
                        let of = || self.domains.name_of(domain);
                        policy::authorise_operation(allowance.of(queue.device), device, operation, of)
                    }
                    _ => Ok(()),
                }
                .and_then(|()| checker.job(operation, job, &parts, batch)),
                None => Err(no_such_operation(device.map(|d| d.name()).unwrap_or_default(), job.op)),
            };
            let number = u16::try_from(place).unwrap_or(u16::MAX);
            let run_ns = checked.map_err(|refusal| refusal.in_job(number))?;
            let uses = batch.uses.get(before.2..).unwrap_or_default();
            weight.add(uses, batch.explicit.len() - before.3, batch.queues.len(), checker.objects);
            let failed = batch.failed.take();
            if let Some(planned) = batch.jobs.get_mut(place) {
                planned.run_ns = run_ns;
                planned.operands = batch.operands.len() - before.0;
                planned.params = batch.params.len() - before.1;
                planned.uses = batch.uses.len() - before.2;
                planned.explicit = batch.explicit.len() - before.3;
                planned.gates = batch.gates.len() - gates;
                planned.failed = failed;
            }
            if let Some(queue) = batch.queues.get_mut(queue) {
                queue.so_far += 1;
            }
        }
        weight.crosses = checker.crosses;
        Ok(weight)
    }

    /// Computes every wait and enters every point.
    fn plan(&mut self, client: ClientKey, domain: DomainId, batch: &mut Batch, weight: Weight) -> Outcome {
        let bounds = self.config.bounds;
        let is_light = weight.most <= bounds.job_waits && weight.all <= bounds.batch_waits;
        let is_plain = batch.gates.is_empty() && batch.futures.is_empty() && !self.is_awaited(batch);
        if is_light && is_plain && !weight.crosses {
            return plan_jobs(&mut self.objects, batch, domain, &bounds);
        }
        let before = self.reservations_of(batch);
        let mut planned = plan_jobs(&mut self.objects, batch, domain, &bounds);
        if planned.is_ok() && weight.crosses {
            planned =
                self.find_guest_room(domain, batch).and_then(|()| self.prepare_crossings(client, batch));
        }
        if !is_plain {
            planned = planned
                .and_then(|()| self.find_future_room(domain, batch))
                .and_then(|()| self.find_cycle(domain, batch))
                .and_then(|()| self.prepare_gates(client, domain, batch));
        }
        if planned.is_err() {
            for (key, reservation) in before {
                if let Some(object) = self.objects.get_mut(key) {
                    object.reservation = reservation;
                }
            }
        }
        planned
    }

    /// The reservations of all objects that a batch uses, as they are now.
    fn reservations_of(&self, batch: &Batch) -> Vec<(ObjectKey, Reservation)> {
        let mut keys: Vec<ObjectKey> = batch.uses.iter().map(|used| used.object).collect();
        keys.sort_unstable_by_key(|key| (key.index, key.generation));
        keys.dedup();
        let reservation = |key| self.objects.get(key).map(|object| (key, object.reservation.clone()));
        keys.into_iter().filter_map(reservation).collect()
    }

    /// Whether the batch leaves room in the objects of others: their own domain's jobs have to wait for everything that
    /// is unfinished there, and a job can only wait for so much.
    fn find_guest_room(&self, domain: DomainId, batch: &Batch) -> Outcome {
        let most = self.config.bounds.guest_fences;
        let mut looked_at = BTreeSet::new();
        for used in &batch.uses {
            let Some(object) = self.objects.get(used.object).filter(|object| object.domain != domain) else {
                continue;
            };
            if !looked_at.insert((used.object.index, used.object.generation)) {
                continue;
            }
            let (mut own, mut all) = (BTreeSet::new(), BTreeSet::new());
            for fence in object.reservation.fences().filter(|fence| fence.domain != object.domain) {
                all.insert(fence.timeline);
                if fence.domain == domain {
                    own.insert(fence.timeline);
                }
            }
            for (count, most) in [(own.len(), most), (all.len(), most.saturating_mul(4))] {
                if count > most {
                    let text =
                        "queues with unfinished jobs on an object of another domain; wait for some to end";
                    return Err(Refusal::new(ErrorCode::Exhausted, text).with(count as u64, most as u64));
                }
            }
        }
        Ok(())
    }

    /// Gives the pairs that the batch's instances lack to see those of other domains.
    fn prepare_crossings(&mut self, client: ClientKey, batch: &Batch) -> Outcome {
        let mut waits = batch.waits.as_slice();
        let mut wanted = Vec::with_capacity(waits.len());
        for job in &batch.jobs {
            let Some(queue) = batch.queues.get(job.queue) else { continue };
            let observer = Party::Instance(queue.instance);
            wanted.extend(take(&mut waits, job.waits).iter().map(|wait| Sight::of(&wait.fence, observer)));
        }
        let lacking = self.lacking_for(wanted.into_iter());
        self.find_spares(client, &lacking)?;
        self.give_spares(lacking, None);
        Ok(())
    }

    /// Carries an accepted batch out.
    fn change(&mut self, now: Time, submit: &Submit, charge: Charge, batch: &mut Batch) {
        let domain = charge.domain();
        self.give_credit(charge, batch);
        let mut runs = std::mem::take(&mut batch.runs);
        let (mut operands, mut params, mut uses, mut waits) = (
            batch.operands.as_slice(),
            batch.params.as_slice(),
            batch.uses.as_slice(),
            batch.waits.as_slice(),
        );
        let mut gates = batch.gates.as_slice();
        for (job, planned) in submit.jobs.iter().zip(&batch.jobs) {
            let Some(queue) = batch.queues.get(planned.queue) else { continue };
            let (timeline, instance) = (queue.timeline, queue.instance);
            let own_uses = take(&mut uses, planned.uses);
            let own_waits = take(&mut waits, planned.waits);
            self.use_objects(instance, own_uses);
            let mut failed = planned.failed.map(|inherited| inherited.failure);
            if let Some(Inherited { failure, domain: from }) = planned.failed {
                self.causes.pass_on(from, domain, failure.cause);
            }
            batch.driver_waits.clear();
            for wait in own_waits {
                match self.place_of(wait, instance, timeline, job.point) {
                    Some(wait) => batch.driver_waits.push(wait),
                    None => failed = Some(self.no_slot(wait.fence.timeline, queue.device)),
                }
            }
            let own_gates = take(&mut gates, planned.gates);
            for gate in own_gates {
                match self.place_of_gate(gate, instance, (timeline, job.point)) {
                    Some(wait) => batch.driver_waits.push(wait),
                    None => failed = Some(self.no_slot(gate.timeline, queue.device)),
                }
            }
            let driver_job = DriverJob {
                queue: timeline,
                point: job.point,
                run_ns: planned.run_ns,
                failed_cause: failed.map_or(CauseId::NONE, |failure| failure.cause),
                failed_code: failed.map_or(0, |failure| failure.code.number()),
                op: job.op,
                flags: job.flags,
                operands: job.operands,
                params: job.params,
                waits: u16::try_from(batch.driver_waits.len()).unwrap_or(u16::MAX),
                reserved: Zero,
            };
            let own_operands = take(&mut operands, planned.operands);
            let own_params = take(&mut params, planned.params);
            let records = (own_operands, own_params, batch.driver_waits.as_slice());
            let to = (instance, || room_for(instance, &batch.queues, submit));
            let run = runs.add(&mut self.instances, to, driver_job, records, &submit.bytes, &mut self.out);
            if let Some(queue) = self.queues.get_mut(timeline) {
                queue.promised = job.point;
                queue.uses.extend(own_uses);
                let others = own_waits.iter().map(|wait| wait.fence).filter(|f| f.timeline != timeline);
                let waits_before = queue.waits.len();
                queue.waits.extend(others.map(|fence| (fence.timeline, fence.point)));
                queue.waits.extend(own_gates.iter().map(|gate| (gate.timeline, gate.point)));
                queue.jobs.push_back(Job {
                    run_ns: planned.run_ns,
                    submitted: now,
                    ready: Time(0),
                    uses: u16::try_from(own_uses.len()).unwrap_or(u16::MAX),
                    waits: u16::try_from(queue.waits.len() - waits_before).unwrap_or(u16::MAX),
                    run: run.unwrap_or(u32::MAX),
                    cancelled: false,
                    spared: false,
                    unblocked: false,
                });
            }
        }
        runs.finish(&mut self.instances, &mut self.out);
        batch.runs = runs;
        self.lend_priorities(domain, batch);
        self.points_promised(batch);
        self.await_futures(batch);
        self.look_at_new_heads(now, batch);
    }

    /// A refused batch's jobs go to their drivers as already failed, so that their points end in order.
    fn consume_points(
        &mut self,
        now: Time,
        asker: Awaiting,
        submit: &Submit,
        refusal: &Refusal,
        charge: Charge,
        batch: &mut Batch,
    ) {
        // Who comes after the loss of a device fails as those do who were there.
        let cause = match batch.loss {
            Some(loss) => loss,
            None => self.issue_refusal(now, asker, submit, refusal, (charge.domain(), batch)),
        };
        self.give_credit(charge, batch);
        let failure = Failure { code: ErrorCode::Refused, cause };
        let mut runs = std::mem::take(&mut batch.runs);
        for (job, planned) in submit.jobs.iter().zip(&batch.jobs) {
            let Some(named) = batch.queues.get(planned.queue) else { continue };
            let run = match named.life {
                Life::Runs | Life::Waits => {
                    let to = (named.instance, Room::default);
                    let job = tombstone(named.timeline, job.point, failure);
                    runs.add(&mut self.instances, to, job, (&[], &[], &[]), &[], &mut self.out)
                }
                Life::Ends | Life::Gone => None,
            };
            let Some(queue) = self.queues.get_mut(named.timeline) else { continue };
            queue.promised = job.point;
            match named.life {
                Life::Runs | Life::Waits | Life::Ends => {
                    let run = run.unwrap_or(u32::MAX);
                    let (run_ns, submitted, ready) = (0, now, Time(0));
                    let (uses, waits) = (0, 0);
                    let (cancelled, spared, unblocked) = (false, false, false);
                    let job =
                        Job { run_ns, submitted, ready, uses, waits, run, cancelled, spared, unblocked };
                    queue.jobs.push_back(job);
                }
                Life::Gone => {
                    queue.ended = job.point;
                    queue.failures.note(job.point, failure);
                }
            }
        }
        runs.finish(&mut self.instances, &mut self.out);
        batch.runs = runs;
        batch.queues.iter().for_each(|named| self.forget_failures(named.timeline));
        self.points_promised(batch);
        self.look_at_new_heads(now, batch);
        self.refuse(asker.link, asker.request, refusal, cause);
    }

    fn issue_refusal(
        &mut self,
        now: Time,
        asker: Awaiting,
        submit: &Submit,
        refusal: &Refusal,
        (domain, batch): (DomainId, &Batch),
    ) -> CauseId {
        let pid = self.clients.get(asker.client).map_or(0, |client| client.peer.pid);
        let mut cause = Cause::new(now, refusal.code, refusal.to_string());
        cause = cause.by(client_number(asker.client), pid);
        let place = refusal.job.map(usize::from);
        let planned = place.and_then(|place| submit.jobs.get(place).zip(batch.jobs.get(place)));
        if let Some((job, named)) = planned.and_then(|(job, p)| Some((job, batch.queues.get(p.queue)?))) {
            let object = self.about_submitted(asker.client, submit, place.unwrap_or_default());
            cause = cause.to(named.timeline, job.point).writing(object);
        }
        self.causes.issue(domain, cause)
    }

    fn give_credit(&mut self, mut charge: Charge, batch: &Batch) {
        for named in &batch.queues {
            let part = charge.split(u64::from(named.count));
            if named.life == Life::Gone {
                self.accounts.give_back(part);
                continue;
            }
            match self.queues.get_mut(named.timeline) {
                Some(queue) => queue.owed.join(part),
                None => self.accounts.give_back(part),
            }
            if let Some(instance) = self.instances.get_mut(&named.instance) {
                instance.in_flight = instance.in_flight.saturating_add(named.count);
            }
        }
        self.accounts.give_back(charge);
    }

    /// Whoever waited for points of the batch to be promised waits for that no more.
    fn points_promised(&mut self, batch: &Batch) {
        if self.futures.is_empty() && self.queries.live.is_empty() {
            return;
        }
        for named in &batch.queues {
            let last = Point(named.promised.0.saturating_add(u64::from(named.count)));
            self.promised(named.timeline, last);
        }
    }

    /// The clocks of queues that had nothing to do.
    fn look_at_new_heads(&mut self, now: Time, batch: &Batch) {
        for named in batch.queues.iter().filter(|named| named.life == Life::Runs) {
            let was_idle =
                self.queues.get(named.timeline).is_some_and(|q| q.jobs.len() == named.count as usize);
            if was_idle {
                self.look_at_head(now, named.timeline);
            }
        }
    }

    /// Counts a job's uses, and sends its instance what it does not map yet.
    fn use_objects(&mut self, id: InstanceId, uses: &[Use]) {
        let takes_work = self.instances.get(&id).is_some_and(|i| i.state == InstanceState::Ready);
        for used in uses {
            let Some(object) = self.objects.get_mut(used.object) else { continue };
            object.uses += 1;
            if !takes_work {
                continue;
            }
            let needed = if used.touching.writes() { Access::Write } else { Access::Read };
            let fits = |mapping: &Mapping| mapping.access >= needed && mapping.state != MappingState::Failed;
            if !object.mapping(id).is_some_and(fits) {
                self.map_object(id, used.object, needed);
            }
        }
    }

    pub(crate) fn map_object(&mut self, id: InstanceId, key: ObjectKey, needed: Access) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        let Some(object) = self.objects.get_mut(key) else { return };
        let access = object.mapping_access(instance.domain, needed);
        let asked = Mapping { instance: id, access, state: MappingState::Asked };
        match object.mappings.iter_mut().find(|mapping| mapping.instance == id) {
            Some(mapping) => *mapping = asked,
            None => object.mappings.push(asked),
        }
        instance.mapped.insert(key);
        let map = Map { object: key, len: object.len, access, reserved: Zero };
        self.tell_driver_with(id, map, Attach::Export { object: key, access });
    }

    /// Where an instance finds the fence that its job (`timeline`, `point`) waits for.
    fn place_of(
        &mut self,
        wait: &PlannedWait,
        instance: InstanceId,
        timeline: TimelineKey,
        point: Point,
    ) -> Option<DriverWait> {
        let Fence { timeline: awaited, point: until, signaller, .. } = wait.fence;
        let (mut page, mut slot) = (PAGE_LOCAL, 0);
        if signaller != instance {
            let observer = Party::Instance(instance);
            let is_shown = |queue: &Queue| queue.shown.of(observer).is_some();
            if !self.queues.get(awaited).is_some_and(is_shown) {
                self.publish(awaited, observer)?;
            }
            let queue = self.queues.get_mut(awaited)?;
            let shown = queue.shown.of_mut(observer)?;
            (page, slot) = (shown.page, shown.slot);
            match shown.waiters.iter_mut().find(|(waiter, _)| *waiter == timeline) {
                Some((_, last)) => *last = point,
                None => {
                    let mut waiters = std::mem::take(&mut shown.waiters);
                    waiters.retain(|(waiter, last)| !is_done(&self.queues, *waiter, *last));
                    waiters.push((timeline, point));
                    let queue = self.queues.get_mut(awaited)?;
                    let shown = queue.shown.of_mut(observer)?;
                    shown.waiters = waiters;
                }
            }
        }
        let (timeline, point, kind) = (awaited, until, wait.kind);
        Some(DriverWait { timeline, point, page, slot, kind, flags: 0, reserved: Zero })
    }

    /// The failure of a job whose wait could not be shown to its instance. The rules about routes say that this
    /// cannot be; were it to be, the job must not run.
    fn no_slot(&mut self, awaited: TimelineKey, device: usize) -> Failure {
        let what = format!("no slot to show {awaited} in, though a route was there");
        self.bug(what);
        let device = self.devices.get(device).map(|d| d.name().to_owned()).unwrap_or_default();
        self.bug(format!("a job for device {device} fails for it"));
        Failure { code: ErrorCode::Cancelled, cause: CauseId::NONE }
    }
}

/// How many waits a batch could need at most, without looking at ranges.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    /// Any one job.
    most: usize,
    /// All jobs.
    all: usize,
    /// Whether jobs may have to wait for those of other domains.
    crosses: bool,
}

impl Weight {
    fn add(&mut self, uses: &[Use], explicit: usize, queues: usize, objects: &Table<ObjectKey, Object>) {
        let of = |used: &Use| {
            objects
                .get(used.object)
                .map_or(0, |object| object.reservation.most_waits() + 2 * object.planned as usize + queues)
        };
        let job = explicit + uses.iter().map(of).sum::<usize>();
        self.most = self.most.max(job);
        self.all += job;
    }
}

fn plan_jobs(
    objects: &mut Table<ObjectKey, Object>,
    batch: &mut Batch,
    domain: DomainId,
    bounds: &Bounds,
) -> Outcome {
    let Batch { queues, jobs, uses, explicit, waits, .. } = batch;
    let (mut uses, mut explicit) = (uses.as_slice(), explicit.as_slice());
    queues.iter_mut().for_each(|queue| queue.so_far = 0);
    for (number, job) in (0u16..).zip(jobs) {
        let Some(queue) = queues.get_mut(job.queue) else { continue };
        queue.so_far += 1;
        let point = Point(queue.promised.0.saturating_add(u64::from(queue.so_far)));
        let fence = Fence { timeline: queue.timeline, point, signaller: queue.instance, domain };
        let failures = if job.runs_anyway { Failures::Ignored } else { Failures::Matter };
        let own_uses = take(&mut uses, job.uses);
        let mut list = JobWaits::begin(waits, fence.timeline, failures, bounds.job_waits);
        for wait in take(&mut explicit, job.explicit) {
            list.add(wait.fence, wait.kind);
        }
        for used in own_uses {
            let Some(object) = objects.get_mut(used.object) else { continue };
            if !job.is_explicit {
                object.reservation.waits(used.touching, used.range, &mut list);
            }
            if used.touching.reads() && job.failed.is_none() {
                job.failed = object.reservation.poisoned(used.range);
            }
        }
        job.waits = list.len();
        if job.waits > bounds.job_waits {
            let text = "unfinished jobs that one job must wait for; wait for some of them first";
            let refusal = Refusal::new(ErrorCode::Exhausted, text).in_job(number);
            return Err(refusal.with(job.waits as u64, bounds.job_waits as u64));
        }
        if job.runs_anyway {
            job.failed = None;
        }
        for used in own_uses {
            if let Some(object) = objects.get_mut(used.object) {
                object.reservation.add(fence, used.touching, used.range);
            }
        }
        if waits.len() > bounds.batch_waits {
            let text = "unfinished jobs that the jobs of one batch must wait for; send smaller batches";
            let refusal = Refusal::new(ErrorCode::Exhausted, text).in_job(number);
            return Err(refusal.with(waits.len() as u64, bounds.batch_waits as u64));
        }
    }
    Ok(())
}

/// The jobs' counts must add up to exactly what there is.
fn check_counts(submit: &Submit) -> Outcome {
    let sum = |count: fn(&vgem_proto::jobs::ClientJob) -> u16| {
        submit.jobs.iter().map(|job| u64::from(count(job))).sum::<u64>()
    };
    let counts = [
        ("operands", sum(|job| job.operands), submit.operands.len() as u64),
        ("parameters", sum(|job| job.params), submit.params.len() as u64),
        ("waits", sum(|job| job.waits), submit.waits.len() as u64),
    ];
    for (what, said, got) in counts {
        if said != got {
            let text = format!("the jobs say {said} {what}, the batch has {got}");
            return Err(Refusal::new(ErrorCode::Malformed, text).with(said, got));
        }
    }
    Ok(())
}

fn no_such_operation(device: &str, op: u16) -> Refusal {
    let text = format!("device {device} has no operation {op}; Describe lists what it has");
    Refusal::new(ErrorCode::NoSuchOperation, text).with(u64::from(op), 0)
}

/// A job that ends with `failure` when its turn comes, and does nothing.
pub(crate) fn tombstone(queue: TimelineKey, point: Point, failure: Failure) -> DriverJob {
    DriverJob {
        queue,
        point,
        run_ns: 0,
        failed_cause: failure.cause,
        failed_code: failure.code.number(),
        op: 0,
        flags: 0,
        operands: 0,
        params: 0,
        waits: 0,
        reserved: Zero,
    }
}

/// What an instance will be sent of a batch: its jobs, and of the rest a share like theirs.
fn room_for(instance: InstanceId, queues: &[BatchQueue], submit: &Submit) -> Room {
    let own = queues.iter().filter(|queue| queue.instance == instance).map(|queue| queue.count as usize);
    let (jobs, all): (usize, usize) = (own.sum(), submit.jobs.len().max(1));
    let share = |count: usize| (count * jobs).div_ceil(all);
    Room { jobs, operands: share(submit.operands.len()), params: share(submit.params.len()) }
}
