//! The asynchronous front: a [`Plan`] for tasks on a tokio runtime with I/O and time enabled.
//!
//! Choices, thresholds and results are those of the blocking front. What differs is the CPU: it works on the task's own
//! thread, and keeps it from other tasks as long. So what is expected to take longer than
//! [`PlanOptions::longest_on_task`], or was not measured, goes to the device, unless only the CPU is allowed.
//!
//! Measure before other tasks are at work on the thread: what they do there counts as this task's CPU.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vgem::aio::Client;
use vgem::{Access, Buffer, Call, CauseId, Deadline, Plain, Slice, UserQueue, UserQueueOptions};
use vgem_driver::Produced;

use crate::core::{self, Attempt, Core, Ended, Terms, access_of};
use crate::cost::{Sample, Thresholds};
use crate::draft::Draft;
use crate::error::Result;
use crate::lane::{CELLS, Lane, Line, Slots, lock};
use crate::measure::{Path, Probe};
use crate::memory::{self, Cluster, Held, range_of};
use crate::options::PlanOptions;
use crate::plain::{self, PlainDraft};
use crate::plan::{Bound, PATIENCE};
use crate::rig::{Rig, Stopwatch};
use crate::way::{Require, Way};
use crate::{Done, Obstacle};

/// How long a task waits before it looks again whether a user queue has room.
const FULL: Duration = Duration::from_millis(1);

/// How long the broker may take to say what is behind a failure.
const EXPLAIN: Duration = Duration::from_secs(1);

/// As [`crate::Plan`], for tasks.
#[derive(Debug)]
pub struct Plan {
    client: Client,
    core: Core,
    longest: Duration,
}

impl Plan {
    /// As [`crate::Plan::measure`].
    ///
    /// # Errors
    /// As there.
    pub async fn measure(client: &Client, options: &PlanOptions) -> Result<Self> {
        let mut plan = Self::with_thresholds(client, Thresholds::default(), options).await?;
        plan.core.thresholds = plan.measured(options).await?;
        Ok(plan)
    }

    /// As [`crate::Plan::with_thresholds`].
    ///
    /// # Errors
    /// As there.
    pub async fn with_thresholds(
        client: &Client,
        thresholds: Thresholds,
        options: &PlanOptions,
    ) -> Result<Self> {
        let mut lanes = BTreeMap::new();
        for name in options.wanted(&client.devices().await?) {
            let device = client.device(&name).await?;
            let tracked = client.queue(&device, options.depth).await;
            let user = client.user_queue(&device, UserQueueOptions::new().depth(options.depth)).await;
            let plain = match options.plain_queue() {
                Some(wanted) => Some(client.user_queue(&device, wanted).await),
                None => None,
            };
            lanes.insert(name, Lane::new(device, tracked, user, plain));
        }
        let cells = Slots::over(client.cells(CELLS).await?);
        let core = Core { lanes, thresholds, options: options.clone(), cells };
        Ok(Self { client: client.clone(), core, longest: options.longest })
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
        Terms { require, aim, although_shared: false, most_cpu: Some(self.longest) }
    }

    /// As [`crate::Plan::bind`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, the memory may be kept until the end of the plan.
    pub async fn bind<'s>(&self, slice: impl Into<Slice<'s>>, access: Access) -> Result<Bound> {
        let slice = slice.into();
        let mut bound = Bound { by: Vec::new() };
        for (name, lane) in &self.core.lanes {
            let Some(queue) = lane.user() else { continue };
            match self.client.bind(&queue, slice, access).await {
                Ok(binding) => bound.by.push((name.clone(), binding)),
                Err(error) => {
                    // What was bound before is kept to the end of its queue at worst.
                    drop(self.unbind(bound).await);
                    return Err(error.into());
                }
            }
        }
        Ok(bound)
    }

    /// As [`crate::Plan::unbind`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, the memory may be kept until the end of the plan.
    pub async fn unbind(&self, bound: Bound) -> Result<()> {
        let mut first = Ok(());
        for (name, binding) in bound.by {
            let Some(queue) = self.core.lanes.get(&name).and_then(Lane::user) else { continue };
            let undone = self.client.unbind(&queue, binding).await;
            first = first.and(core::unless_other(undone));
        }
        Ok(first?)
    }

    /// As [`crate::Plan::reopen`].
    ///
    /// # Errors
    /// As there.
    pub async fn reopen(&self) -> Result<()> {
        let mut first = Ok(());
        for lane in self.core.lanes.values() {
            if let (Err(_), Some(wanted)) = (lane.plain(), self.core.options.plain_queue()) {
                let opened = self.client.user_queue(&lane.device, wanted).await;
                first = first.and(opened.as_ref().map(drop).map_err(vgem::Error::clone));
                *lock(&lane.plain) = Line::plain(Some(opened));
            }
            if lane.user().is_some() {
                continue;
            }
            let options = UserQueueOptions::new().depth(self.core.options.depth);
            let opened = self.client.user_queue(&lane.device, options).await;
            first = first.and(opened.as_ref().map(drop).map_err(vgem::Error::clone));
            *lock(&lane.user) = Line::opened(Way::UserQueue, opened.map(Arc::new));
        }
        Ok(first?)
    }

    async fn go(
        &self,
        lane: &Lane,
        attempt: &Attempt<'_, '_, '_>,
        way: Way,
        call: &Call<Slice<'_>>,
        until: Deadline,
    ) -> Ended {
        match way {
            Way::Tracked => self.tracked(lane, attempt, call, until).await,
            Way::UserQueue => match lane.user() {
                Some(queue) => Ended::of(self.entry(lane, &queue, attempt, call, until).await),
                None => Ended::Elsewhere(lane.no_user()),
            },
            Way::Cpu => self.on_cpu(lane, attempt, call, until).await,
        }
    }

    async fn tracked(
        &self,
        lane: &Lane,
        attempt: &Attempt<'_, '_, '_>,
        call: &Call<Slice<'_>>,
        until: Deadline,
    ) -> Ended {
        let queue = match lane.tracked() {
            Some(queue) => queue,
            None => match lane.reopened(self.client.queue(&lane.device, self.core.options.depth).await) {
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
        let submitted = match self.client.submit(&mut batch).await {
            Ok(submitted) => submitted,
            Err(error) => return Ended::Client(error),
        };
        let fence = submitted.last();
        slot.keep_until(fence);
        match fence.wait_async(until).await {
            Ok(()) => Ended::Well(core::from_cell(&slot, attempt.has_cell())),
            Err(error) => Ended::Client(self.explained(error.into()).await),
        }
    }

    /// The same error, with what is behind it, if the broker says so in a moment: it tells whether the device is lost.
    async fn explained(&self, error: vgem::Error) -> vgem::Error {
        match error {
            vgem::Error::Job(mut failure)
                if failure.explanation.is_none() && failure.cause != CauseId::NONE =>
            {
                let asked = tokio::time::timeout(EXPLAIN, self.client.explain(failure.cause)).await;
                failure.explanation = asked.ok().and_then(vgem::Result::ok);
                vgem::Error::Job(failure)
            }
            other => other,
        }
    }

    async fn entry(
        &self,
        lane: &Lane,
        queue: &Arc<UserQueue>,
        attempt: &Attempt<'_, '_, '_>,
        call: &Call<Slice<'_>>,
        until: Deadline,
    ) -> vgem::Result<Produced> {
        for operand in call.operands().iter().filter(|operand| !operand.memory.is_empty()) {
            let (buffer, range) = (operand.memory.buffer(), range_of(operand));
            if core::is_read(operand.direction) {
                drop(self.client.read(buffer, range.clone(), until).await?);
            }
            if access_of(operand.direction) == Access::Write {
                drop(self.client.write(buffer, range, until).await?);
            }
        }
        let entry = call.entry(queue);
        let entry = if attempt.has_cell() { entry.result() } else { entry }.prepare()?;
        let ticket = self.push(lane, queue, &entry, until).await?;
        let pushed = lane.pushed(queue, ticket);
        let ended = self.client.wait_entry(queue, ticket, until).await;
        if !core::goes_on(&ended) {
            pushed.taken();
        }
        let done = ended?;
        for operand in call.operands().iter().filter(|operand| core::is_replaced(operand)) {
            core::rewrite(self.client.write(operand.memory.buffer(), range_of(operand), until).await?);
        }
        Ok(core::from_entry(&done))
    }

    /// As an entry over plain memory, of which what is written is lent meanwhile.
    async fn plain_entry(
        &self,
        lane: &Lane,
        queue: &Arc<UserQueue>,
        call: &mut Call<Plain<'_>>,
        until: Deadline,
    ) -> vgem::Result<Produced> {
        let lent = call.lend(queue)?;
        let ended = async {
            let ticket = self.push(lane, queue, &plain::entry(call, queue, &lent).prepare()?, until).await?;
            let pushed = lane.pushed(queue, ticket);
            let ended = self.client.wait_entry(queue, ticket, until).await;
            if !core::goes_on(&ended) {
                pushed.taken();
            }
            ended
        };
        let ended = ended.await;
        // Nothing is under way there any more, or the deadline has passed.
        let back = call.reclaim(queue, lent, Deadline::NOW);
        let done = ended?;
        back.map(|()| core::from_entry(&done))
    }

    /// As of the blocking front.
    async fn push(
        &self,
        lane: &Lane,
        queue: &UserQueue,
        entry: &vgem::Prepared,
        until: Deadline,
    ) -> vgem::Result<vgem::Ticket> {
        loop {
            lane.sweep();
            match queue.try_push(entry) {
                Err(vgem::Error::QueueFull { .. }) if !until.passed() => tokio::time::sleep(FULL).await,
                pushed => return pushed,
            }
        }
    }

    async fn on_cpu(
        &self,
        lane: &Lane,
        attempt: &Attempt<'_, '_, '_>,
        call: &Call<Slice<'_>>,
        until: Deadline,
    ) -> Ended {
        let Some(local) = &lane.local else { return Ended::Elsewhere(Obstacle::NoEngine) };
        let clusters = memory::clusters(call.operands());
        let mut held = Vec::with_capacity(clusters.len());
        for cluster in &clusters {
            match self.hold(cluster, until).await {
                Ok(guard) => held.push(guard),
                Err(error) => return Ended::Client(error),
            }
        }
        match memory::run(local, attempt.op(), call, &clusters, held) {
            Ok(produced) => Ended::Well(produced),
            Err(error) => Ended::Engine(error),
        }
    }

    async fn hold<'a>(&self, cluster: &Cluster<'a>, until: Deadline) -> vgem::Result<Held<'a>> {
        for range in &cluster.read_before {
            drop(self.client.read(cluster.buffer, range.clone(), until).await?);
        }
        let range = cluster.range.clone();
        match cluster.access {
            Access::Read => self.client.read(cluster.buffer, range, until).await.map(Held::Read),
            Access::Write => self.client.write(cluster.buffer, range, until).await.map(Held::Write),
        }
    }

    async fn measured(&self, options: &PlanOptions) -> Result<Thresholds> {
        let mut rig = Rig::new(&self.core, options);
        if rig.len == 0 || options.budget.is_zero() {
            return Ok(Thresholds::default());
        }
        let buffer = self.client.create(rig.len).await?;
        let bound = self.bind(&buffer, Access::Write).await?;
        let began = Instant::now();
        while let Some(probe) = rig.measurement.next(began.elapsed()) {
            match self.probe(&mut rig, &buffer, probe).await {
                Some(Ok((bytes, sample))) => rig.measurement.took(probe, bytes, sample),
                Some(Err(vgem::Error::Timeout { .. })) => break,
                Some(Err(_)) | None => rig.measurement.give_up(probe),
            }
        }
        let mut thresholds = rig.measurement.finish();
        self.unbind(bound).await?;
        // From here on the broker is asked before each guard.
        drop(self.client.export(&buffer, Access::Read).await?);
        let mut asked = Vec::new();
        for _ in 0..3 {
            let watch = Stopwatch::start();
            let guard = self.client.read(&buffer, ..1, PATIENCE).await.map(drop);
            asked.push(guard.map(|()| watch.stop()));
        }
        thresholds.ask_ns = core::fastest(asked.into_iter());
        Ok(thresholds)
    }

    /// Runs a probe: its bytes and what it took; nothing if there is nothing to run.
    async fn probe(
        &self,
        rig: &mut Rig,
        buffer: &Buffer,
        probe: Probe,
    ) -> Option<vgem::Result<(u64, Sample)>> {
        let device = rig.measurement.subject(probe)?.device.clone();
        let lane = self.core.lanes.get(&device)?;
        let laid = rig.laid(&self.core, buffer, probe)?;
        let Path::Objects(way) = probe.path else {
            let (queue, mut call) = (lane.plain().ok()?, laid.plain_call(&lane.device));
            let (bytes, watch) = (plain::bytes_of(&call), Stopwatch::start());
            let ran = self.plain_entry(lane, &queue, &mut call, Deadline::after(PATIENCE)).await;
            let sample = watch.stop();
            return Some(ran.map(|_| (bytes, sample)));
        };
        let call = laid.call(&lane.device, buffer);
        let attempt = Attempt::new(&self.core, lane, &call, Terms::probing()).ok()?;
        let watch = Stopwatch::start();
        let ended = self.go(lane, &attempt, way, &call, Deadline::after(PATIENCE)).await;
        let sample = watch.stop();
        core::probed(ended).map(|ran| ran.map(|()| (core::bytes_of(&call), sample)))
    }
}

impl Draft<'_, '_, Plan> {
    /// As [`Draft::run`] of the blocking front.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, what was submitted is carried out, and guards wait for it.
    pub async fn run(self, deadline: impl Into<Deadline>) -> Result<Done> {
        let (lane, call) = self.begun?;
        let (until, mut attempt) = (deadline.into(), Attempt::new(self.core, lane, &call, self.terms)?);
        loop {
            let (way, choice) = attempt.next()?;
            let ended = self.plan.go(lane, &attempt, way, &call, until).await;
            if let Some(done) = attempt.ended(way, choice, ended) {
                return done;
            }
        }
    }
}

impl PlainDraft<'_, '_, Plan> {
    /// As [`PlainDraft::run`] of the blocking front.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped before it completes, vectors that were to be written by a device stay empty.
    pub async fn run(self, deadline: impl Into<Deadline>) -> Result<Done> {
        let mut begun = self.begin()?;
        let Some(queue) = begun.queue() else { return begun.on_cpu() };
        let ended = begun.plan.plain_entry(begun.lane, &queue, &mut begun.call, deadline.into()).await;
        begun.ended(ended)
    }
}
