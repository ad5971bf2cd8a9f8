//! The blocking front.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use vgem::{Access, Binding, Call, Client, Deadline, Prepared, Slice, Ticket, UserQueue, UserQueueOptions};
use vgem_driver::Produced;

use crate::Done;
use crate::core::{self, Attempt, Core, Ended, Terms, access_of};
use crate::cost::Thresholds;
use crate::draft::Draft;
use crate::error::Result;
use crate::lane::{CELLS, Lane, Line, Slots, lock};
use crate::measure::{Path, Probe};
use crate::memory::{self, Cluster, Held, range_of};
use crate::options::PlanOptions;
use crate::plain::{self, PlainDraft};
use crate::rig::{Rig, Stopwatch};
use crate::way::{Require, Way};

/// How long a full queue is waited for before it is looked whether somebody has left what fills it.
const FULL: Duration = Duration::from_millis(5);
/// How long one run of a measurement may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// Which way each operation goes; see the [crate]. Any thread may use it.
#[derive(Debug)]
pub struct Plan {
    client: Client,
    core: Core,
}

/// A buffer that the user queues of a plan reach ([`Plan::bind`]).
#[derive(Debug)]
#[must_use = "what is bound is kept until it is unbound or the plan goes"]
pub struct Bound {
    pub(crate) by: Vec<(String, Binding)>,
}

impl Plan {
    /// Opens a queue and a user queue of each device and measures what their operations take: at most
    /// [`PlanOptions::budget`], once the drivers are up.
    ///
    /// # Errors
    /// [`vgem::LocalError::NoSuchDevice`]; as every request of the client. A queue that cannot be opened is none: choices say
    /// why.
    pub fn measure(client: &Client, options: &PlanOptions) -> Result<Self> {
        let mut plan = Self::with_thresholds(client, Thresholds::default(), options)?;
        plan.core.thresholds = plan.measured(options)?;
        Ok(plan)
    }

    /// As [`Plan::measure`], with what was measured before or is known: nothing is measured.
    ///
    /// # Errors
    /// As there.
    pub fn with_thresholds(client: &Client, thresholds: Thresholds, options: &PlanOptions) -> Result<Self> {
        let mut lanes = BTreeMap::new();
        for name in options.wanted(&client.devices()?) {
            let device = client.device(&name)?;
            let tracked = device.queue(options.depth);
            let user = device.user_queue_with(UserQueueOptions::new().depth(options.depth));
            let plain = options.plain_queue().map(|wanted| device.user_queue_with(wanted));
            lanes.insert(name, Lane::new(device, tracked, user, plain));
        }
        let cells = Slots::over(client.cells(CELLS)?);
        let core = Core { lanes, thresholds, options: options.clone(), cells };
        Ok(Self { client: client.clone(), core })
    }

    /// What was measured, to keep it.
    #[must_use]
    pub fn thresholds(&self) -> &Thresholds {
        &self.core.thresholds
    }

    /// Begins to write down a call: an operation of a device.
    pub fn call<'p, 'a>(&'p self, device: &str, op: &str) -> Draft<'p, 'a, Self> {
        Draft::new(self, &self.core, device, op, self.terms())
    }

    /// Begins to write down a call over plain memory, of which no object was made.
    pub fn plain<'p, 'a>(&'p self, device: &str, op: &str) -> PlainDraft<'p, 'a, Self> {
        PlainDraft::new(self, &self.core, device, op, self.terms())
    }

    fn terms(&self) -> Terms {
        let (require, aim) = (Require::ANY, self.core.options.aim);
        Terms { require, aim, although_shared: false, most_cpu: None }
    }

    /// Has every user queue of the plan reach a buffer, or a slice of one, so that calls over it can go that way. A round
    /// trip for each. The memory is kept until [`Plan::unbind`], or the end of the plan.
    ///
    /// # Errors
    /// As [`vgem::UserQueue::bind`]; nothing is bound then.
    pub fn bind<'s>(&self, slice: impl Into<Slice<'s>>, access: Access) -> Result<Bound> {
        let slice = slice.into();
        let mut bound = Bound { by: Vec::new() };
        for (name, lane) in &self.core.lanes {
            let Some(queue) = lane.user() else { continue };
            match queue.bind(slice, access) {
                Ok(binding) => bound.by.push((name.clone(), binding)),
                Err(error) => {
                    // What was bound before is kept to the end of its queue at worst.
                    drop(self.unbind(bound));
                    return Err(error.into());
                }
            }
        }
        Ok(bound)
    }

    /// Undoes a binding, as far as its queues are still there. A round trip for each.
    ///
    /// # Errors
    /// As [`vgem::UserQueue::unbind`]: the first, after all were tried.
    pub fn unbind(&self, bound: Bound) -> Result<()> {
        let mut first = Ok(());
        for (name, binding) in bound.by {
            let queue = self.core.lanes.get(&name).and_then(Lane::user);
            let undone = queue.map_or(Ok(()), |queue| queue.unbind(binding));
            first = first.and(core::unless_other(undone));
        }
        Ok(first?)
    }

    /// Opens the user queues again that are lost or could not be opened. What was bound to them has to be bound again.
    ///
    /// # Errors
    /// The first of a queue that could not be opened, after all were tried: choices say it too.
    pub fn reopen(&self) -> Result<()> {
        let mut first = Ok(());
        for lane in self.core.lanes.values() {
            if let (Err(_), Some(wanted)) = (lane.plain(), self.core.options.plain_queue()) {
                let opened = lane.device.user_queue_with(wanted);
                first = first.and(opened.as_ref().map(drop).map_err(vgem::Error::clone));
                *lock(&lane.plain) = Line::plain(Some(opened));
            }
            if lane.user().is_some() {
                continue;
            }
            let opened = lane.device.user_queue_with(UserQueueOptions::new().depth(self.core.options.depth));
            first = first.and(opened.as_ref().map(drop).map_err(vgem::Error::clone));
            *lock(&lane.user) = Line::opened(Way::UserQueue, opened.map(std::sync::Arc::new));
        }
        Ok(first?)
    }

    fn go(
        &self,
        lane: &Lane,
        attempt: &Attempt<'_, '_, '_>,
        way: Way,
        call: &Call<Slice<'_>>,
        until: Deadline,
    ) -> Ended {
        match way {
            Way::Tracked => self.tracked(lane, attempt, call, until),
            Way::UserQueue => by_user_queue(lane, attempt, call, until),
            Way::Cpu => on_cpu(lane, attempt, call, until),
        }
    }

    fn tracked(
        &self,
        lane: &Lane,
        attempt: &Attempt<'_, '_, '_>,
        call: &Call<Slice<'_>>,
        until: Deadline,
    ) -> Ended {
        let queue = match lane.tracked() {
            Some(queue) => queue,
            None => match lane.reopened(lane.device.queue(self.core.options.depth)) {
                Ok(queue) => queue,
                Err(error) => return Ended::Client(error),
            },
        };
        let slots = &self.core.cells;
        let Some(mut slot) = slots.take() else { return Ended::Elsewhere(slots.full()) };
        let mut batch = self.client.batch();
        let job = call.job(&mut batch, &queue);
        if attempt.has_cell() {
            job.result(slot.cell());
        }
        let submitted = match batch.submit() {
            Ok(submitted) => submitted,
            Err(error) => return Ended::Client(error),
        };
        let fence = submitted.last();
        slot.keep_until(fence);
        let waited = fence.wait(until);
        Ended::of(waited.map(|()| core::from_cell(&slot, attempt.has_cell())).map_err(vgem::Error::from))
    }

    fn measured(&self, options: &PlanOptions) -> Result<Thresholds> {
        let mut rig = Rig::new(&self.core, options);
        if rig.len == 0 || options.budget.is_zero() {
            return Ok(Thresholds::default());
        }
        let buffer = self.client.create(rig.len)?;
        let bound = self.bind(&buffer, Access::Write)?;
        let began = Instant::now();
        while let Some(probe) = rig.measurement.next(began.elapsed()) {
            match self.probe(&mut rig, &buffer, probe) {
                Some(Ok((bytes, sample))) => rig.measurement.took(probe, bytes, sample),
                Some(Err(vgem::Error::Timeout { .. })) => break,
                Some(Err(_)) | None => rig.measurement.give_up(probe),
            }
        }
        let mut thresholds = rig.measurement.finish();
        self.unbind(bound)?;
        // From here on the broker is asked before each guard.
        drop(buffer.export(Access::Read)?);
        thresholds.ask_ns = core::fastest((0..3).map(|_| {
            let watch = Stopwatch::start();
            buffer.read(..1, PATIENCE).map(drop).map(|()| watch.stop())
        }));
        Ok(thresholds)
    }

    /// Runs a probe: its bytes and what it took; nothing if there is nothing to run.
    fn probe(
        &self,
        rig: &mut Rig,
        buffer: &vgem::Buffer,
        probe: Probe,
    ) -> Option<vgem::Result<(u64, crate::Sample)>> {
        let device = rig.measurement.subject(probe)?.device.clone();
        let lane = self.core.lanes.get(&device)?;
        let laid = rig.laid(&self.core, buffer, probe)?;
        let Path::Objects(way) = probe.path else {
            let (queue, mut call) = (lane.plain().ok()?, laid.plain_call(&lane.device));
            let (bytes, watch) = (plain::bytes_of(&call), Stopwatch::start());
            let ran = plain::by_queue(lane, &queue, &mut call, Deadline::after(PATIENCE));
            let sample = watch.stop();
            return Some(ran.map(|_| (bytes, sample)));
        };
        let call = laid.call(&lane.device, buffer);
        let attempt = Attempt::new(&self.core, lane, &call, Terms::probing()).ok()?;
        let watch = Stopwatch::start();
        let ended = self.go(lane, &attempt, way, &call, Deadline::after(PATIENCE));
        let sample = watch.stop();
        core::probed(ended).map(|ran| ran.map(|()| (core::bytes_of(&call), sample)))
    }
}

impl Draft<'_, '_, Plan> {
    /// Carries it out, the best way that is left. When it returns without an error, it is done; after
    /// [`vgem::Error::Timeout`] it may go on, as a job or an entry, and guards wait for it.
    ///
    /// # Errors
    /// [`crate::Error::Failed`], [`crate::Error::NoWay`]; in [`crate::Error::Client`] the first mistake as
    /// [`Draft::explain`], [`vgem::LocalError::GuardHeld`] of a job over bytes under a guard of this process (on the CPU it
    /// waits for that), [`vgem::Error::Timeout`], [`vgem::Error::BrokerLost`].
    pub fn run(self, deadline: impl Into<Deadline>) -> Result<Done> {
        let (lane, call) = self.begun?;
        let (until, mut attempt) = (deadline.into(), Attempt::new(self.core, lane, &call, self.terms)?);
        loop {
            let (way, choice) = attempt.next()?;
            let ended = self.plan.go(lane, &attempt, way, &call, until);
            if let Some(done) = attempt.ended(way, choice, ended) {
                return done;
            }
        }
    }
}

/// As an entry: after what a job would have waited for, and with what it would have left.
fn by_user_queue(
    lane: &Lane,
    attempt: &Attempt<'_, '_, '_>,
    call: &Call<Slice<'_>>,
    until: Deadline,
) -> Ended {
    let Some(queue) = lane.user() else { return Ended::Elsewhere(lane.no_user()) };
    let entry = || -> vgem::Result<Produced> {
        for operand in call.operands().iter().filter(|operand| !operand.memory.is_empty()) {
            let (buffer, range) = (operand.memory.buffer(), range_of(operand));
            if core::is_read(operand.direction) {
                drop(buffer.read(range.clone(), until)?);
            }
            if access_of(operand.direction) == Access::Write {
                drop(buffer.write(range, until)?);
            }
        }
        let entry = call.entry(&queue);
        let entry = if attempt.has_cell() { entry.result() } else { entry }.prepare()?;
        let ticket = push(lane, &queue, &entry, until)?;
        let pushed = lane.pushed(&queue, ticket);
        let ended = queue.wait(ticket, until);
        if !core::goes_on(&ended) {
            pushed.taken();
        }
        let done = ended?;
        for operand in call.operands().iter().filter(|operand| core::is_replaced(operand)) {
            core::rewrite(operand.memory.buffer().write(range_of(operand), until)?);
        }
        Ok(core::from_entry(&done))
    };
    Ended::of(entry())
}

/// Pushes an entry, waiting for room. What takes the room may be entries that nobody waits for any more: so they are looked
/// for meanwhile.
pub(crate) fn push(
    lane: &Lane,
    queue: &UserQueue,
    entry: &Prepared,
    until: Deadline,
) -> vgem::Result<Ticket> {
    loop {
        lane.sweep();
        match queue.push(entry, until.min(Deadline::after(FULL))) {
            Err(vgem::Error::QueueFull { .. }) if !until.passed() => {}
            pushed => return pushed,
        }
    }
}

/// On the calling thread, under guards.
fn on_cpu(lane: &Lane, attempt: &Attempt<'_, '_, '_>, call: &Call<Slice<'_>>, until: Deadline) -> Ended {
    let Some(local) = &lane.local else { return Ended::Elsewhere(crate::Obstacle::NoEngine) };
    let clusters = memory::clusters(call.operands());
    let held: vgem::Result<Vec<_>> = clusters.iter().map(|cluster| hold(cluster, until)).collect();
    match held {
        Err(error) => Ended::Client(error),
        Ok(held) => match memory::run(local, attempt.op(), call, &clusters, held) {
            Ok(produced) => Ended::Well(produced),
            Err(error) => Ended::Engine(error),
        },
    }
}

fn hold<'a>(cluster: &Cluster<'a>, until: Deadline) -> vgem::Result<Held<'a>> {
    for range in &cluster.read_before {
        drop(cluster.buffer.read(range.clone(), until)?);
    }
    let range = cluster.range.clone();
    match cluster.access {
        Access::Read => cluster.buffer.read(range, until).map(Held::Read),
        Access::Write => cluster.buffer.write(range, until).map(Held::Write),
    }
}
