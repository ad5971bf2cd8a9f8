//! P12: many objects and many clients: nothing gets slower, and what each costs.
//!
//! - A job there and back, alone and beside 4096 clients that are connected and do nothing.
//! - An object created, committed and destroyed, beside 100 and beside 100 000 others, or as many as this machine's limit
//!   of open files allows.
//! - Bytes that an object, a client, and a client's queue on a device cost the machine beyond the object's own pages:
//!   memory of broker, keeper and driver, and the kernel's (slabs, page tables, shared memory), as differences before and
//!   after.
//! - As many exports that outlive every handle, and are then closed at once, faster than the kernel can tell one by one:
//!   how long until the last charge is back.
//!
//! Objects are made without the library, see [`Raw`]: a process may not map 100 000. Neither may the keeper, which maps
//! what it pins; this bench raises `vm.max_map_count` for its time if it may, and says so if it may not.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use vgem_os::clock;
use vgem_os::process::limits;
use vgem_proto::ids::Handle;
use vgem_proto::snapshot::Status;

use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Raised, Seat, kernel_bytes};
use crate::noise::pause;
use crate::report::{Bound, Claim, JudgedIn, Unit};
use crate::sample::{Times, ns_f64, per_second};
use crate::subject::{Fills, Raw, Vgemd, Waits};

/// Bytes of an object.
const LEN: u64 = 4096;
/// Objects made by one request.
const AT_ONCE: usize = 64;
/// How many is few.
const FEW: usize = 100;
/// How long everything together may take to be given back.
const PATIENCE: Duration = Duration::from_secs(120);

const ALONE: &str = "job there and back, alone";
const BESIDE: &str = "job there and back, beside 4096 idle clients";
const AT_FEW: &str = "create, commit, destroy, beside 100 objects";
const AT_MANY: &str = "create, commit, destroy, beside as many as there may be";
const MANY: &str = "objects, as many as there may be";
const MADE: &str = "objects made, 64 per request";
const PER_OBJECT: &str = "bytes per object, beyond its pages";
const BROKER_PER_OBJECT: &str = "of these, in the broker's own memory";
const PER_CLIENT: &str = "bytes per idle client";
const PER_QUEUE: &str = "bytes more per client with a queue on a device";
const RETURNED: &str = "exports of all of them closed at once, until the last charge is back";
const EACH_RETURNED: &str = "of that, per object";

/// Starts vgemd.
///
/// # Errors
/// When it cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let mut notes = Vec::new();
    let raised = match Raised::to("/proc/sys/vm/max_map_count", 400_000) {
        Ok(raised) => Some(raised),
        Err(error) => {
            notes.push(format!("the keeper pins only as many objects as it may map: {error:#}"));
            None
        }
    };
    let fds = limits::raise_nofile().context("this process needs many fds")?;
    // The quota of a domain is 100 000 objects, the one that comes and goes is the last. Each is an fd of the broker and
    // one of the keeper, which get no more of them than this process, and need some for everything else.
    let most = usize::try_from(fds.saturating_sub(1000)).unwrap_or(usize::MAX);
    let wanted = if context.options.quick { 2000 } else { 99_990 };
    let many = wanted.min(most).max(FEW + AT_ONCE);
    if many < wanted {
        notes.push(format!(
            "{many} objects instead of {wanted}: RLIMIT_NOFILE is {fds} here and may not be raised"
        ));
    }
    let idle = if context.options.quick { 256 } else { 4096 };
    let rounds = context.options.rounds(400);
    Ok(Box::new(P12 {
        cores: context.power.cores,
        rounds,
        many,
        idle,
        vgemd: Vgemd::start()?,
        _raised: raised,
        notes,
    }))
}

#[derive(Debug)]
struct P12 {
    cores: Cores,
    rounds: usize,
    many: usize,
    idle: usize,
    vgemd: Vgemd,
    _raised: Option<Raised>,
    notes: Vec<String>,
}

impl P12 {
    /// Bytes of vgemd's processes and of the kernel; of the broker alone.
    fn memory(&self) -> anyhow::Result<(f64, f64)> {
        let (mut all, mut broker) = (kernel_bytes()?, 0);
        for process in self.vgemd.processes()?.all() {
            let own = process.memory()?;
            all += own;
            if process.kind == crate::subject::Kind::Broker {
                broker = own;
            }
        }
        Ok((ns_f64(all), ns_f64(broker)))
    }

    fn until_objects(&self, count: usize) -> anyhow::Result<()> {
        self.until("objects", count, |status| status.objects)
    }

    fn until_clients(&self, count: usize) -> anyhow::Result<()> {
        self.until("clients", count, |status| status.clients)
    }

    fn until(&self, what: &str, count: usize, of: impl Fn(&Status) -> u64) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = of(&self.vgemd.client.status()?);
            if found == count as u64 {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "{found} {what} instead of {count} after {PATIENCE:?}");
            pause(Duration::from_millis(1));
        }
    }

    fn clients(&self, found: &mut Repetition) -> anyhow::Result<()> {
        let mut fills = Fills::new(&self.vgemd.client, 1, 0, Waits::Implicit)?;
        let (mut alone, mut beside) = (Times::default(), Times::default());
        for _ in 0..50 {
            fills.round_trip()?;
        }
        alone.each(self.rounds / 2, || fills.round_trip())?;
        let before = self.memory()?;
        let socket = self.vgemd.embedded.socket();
        let idle = (0..self.idle).map(|_| Raw::connect(&socket)).collect::<anyhow::Result<Vec<_>>>()?;
        let after = self.memory()?;
        beside.each(self.rounds, || fills.round_trip())?;
        found.number(PER_CLIENT, Unit::Count, (after.0 - before.0) / ns_f64(self.idle as u64));
        drop(idle);
        self.until_clients(1)?;
        alone.each(self.rounds / 2, || fills.round_trip())?;
        found.times(ALONE, alone);
        found.times(BESIDE, beside);
        let with_queue = self.idle / 16;
        let before = self.memory()?;
        let clients: Vec<_> =
            (0..with_queue).map(|_| self.vgemd.embedded.client()).collect::<Result<_, _>>()?;
        let idle = self.memory()?;
        let queues: Vec<_> = clients
            .iter()
            .map(|client| client.device("copy").and_then(|device| device.queue(0)))
            .collect::<Result<_, _>>()?;
        let busy = self.memory()?;
        let (idle, busy) = (idle.0 - before.0, busy.0 - before.0);
        found.number(PER_QUEUE, Unit::Count, (busy - idle) / ns_f64(with_queue as u64));
        drop((queues, clients));
        Ok(())
    }

    fn come_and_go(&self, raw: &mut Raw, rounds: usize) -> anyhow::Result<Times> {
        let mut times = Times::default();
        times.each(rounds, || {
            let (handles, exports) = raw.objects(LEN, 1)?;
            drop(exports);
            handles.into_iter().try_for_each(|handle| raw.close(handle))
        })?;
        Ok(times)
    }

    fn fill(raw: &mut Raw, count: usize) -> anyhow::Result<(Vec<Handle>, Vec<OwnedFd>)> {
        let (mut handles, mut exports) = (Vec::with_capacity(count), Vec::with_capacity(count));
        while handles.len() < count {
            let (more, fds) = raw.objects(LEN, AT_ONCE.min(count - handles.len()))?;
            handles.extend(more);
            exports.extend(fds);
        }
        Ok((handles, exports))
    }

    fn objects(&self, found: &mut Repetition) -> anyhow::Result<()> {
        // What the idle clients had is given back first.
        self.until_objects(0)?;
        let mut raw = Raw::connect(&self.vgemd.embedded.socket())?;
        let (few, few_exports) = Self::fill(&mut raw, FEW)?;
        let at_few = self.come_and_go(&mut raw, self.rounds)?;
        let before = self.memory()?;
        let began = clock::now();
        let (more, more_exports) = Self::fill(&mut raw, self.many - FEW)?;
        let took = clock::now() - began;
        found.number(MADE, Unit::PerSecond, per_second(more.len() as u64, took));
        // An open file more per export is this process's, not an object's.
        drop(more_exports);
        let after = self.memory()?;
        found.number(MANY, Unit::Count, ns_f64(self.many as u64));
        let each = |bytes: f64| bytes / ns_f64(more.len() as u64);
        found.number(PER_OBJECT, Unit::Count, each(after.0 - before.0) - ns_f64(LEN));
        found.number(BROKER_PER_OBJECT, Unit::Count, each(after.1 - before.1));
        let at_many = self.come_and_go(&mut raw, self.rounds)?;
        drop(few_exports);
        for handle in more.into_iter().chain(few) {
            raw.close(handle)?;
        }
        self.until_objects(0)?;
        found.times(AT_FEW, at_few);
        found.times(AT_MANY, at_many);
        let (handles, exports) = Self::fill(&mut raw, self.many)?;
        drop((handles, raw));
        self.until_objects(self.many)?;
        let began = clock::now();
        drop(exports);
        self.until_objects(0)?;
        let took = clock::now() - began;
        found.number(RETURNED, Unit::Ns, ns_f64(took));
        found.number(EACH_RETURNED, Unit::Ns, ns_f64(took) / ns_f64(self.many as u64));
        Ok(())
    }
}

impl Bench for P12 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        // A broker that has had many objects keeps their room: what one costs shows in a new one.
        self.vgemd = Vgemd::start()?;
        self.vgemd.processes()?.seat(&self.cores, Seat::There, Seat::There)?;
        self.clients(found)?;
        self.objects(found)?;
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let any = |claim: Claim| claim.judged_in(JudgedIn::Any);
        let most = |name: &str, limit: f64| any(Claim::number("P12", name, Bound::AtMost(limit)));
        let shown = |name: &str| any(Claim::number("P12", name, Bound::Shown));
        vec![
            any(Claim::ratio("P12", BESIDE, ALONE, Bound::AtMost(1.3))),
            shown(MANY),
            any(Claim::ratio("P12", AT_MANY, AT_FEW, Bound::AtMost(1.25))),
            most(PER_OBJECT, 3072.0),
            shown(BROKER_PER_OBJECT),
            most(PER_CLIENT, 16_384.0),
            most(PER_QUEUE, 10_240.0),
            shown(MADE),
            shown(RETURNED),
            shown(EACH_RETURNED),
        ]
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
