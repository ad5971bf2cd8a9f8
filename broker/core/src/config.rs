//! What the broker is told before it starts: devices, quotas, times, bounds.
//!
//! Plain values with defaults; where they come from (a file, a command line) is the shell's business. Every
//! number has a unit in its name or its sentence. Nothing here changes while the broker lives but the [`Policy`], which
//! [`crate::io::Input::Policy`] replaces.

use std::collections::{BTreeMap, BTreeSet};

use vgem_proto::describe::Description;
use vgem_proto::domains::QuotaKind;
use vgem_proto::ids::DeviceId;

/// Everything [`crate::Broker::new`] needs.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The devices, as their drivers describe them.
    pub devices: Vec<(DeviceId, Description)>,
    /// Who may hold and use what.
    pub policy: Policy,
    /// How long things may take.
    pub times: Times,
    /// How many of everything else.
    pub bounds: Bounds,
}

/// Who may hold and use what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The rules of every domain that has none of its own.
    pub defaults: Rules,
    /// Domains with a name.
    pub domains: Vec<NamedDomain>,
    /// What all domains together may hold.
    pub capacity: Capacity,
    /// The user who administers beside root: the one that the daemon runs for.
    pub owner: Option<u32>,
    /// Users who see all domains and change nothing of them.
    pub observers: BTreeSet<u32>,
}

/// What the clients of one domain may do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// What they may hold together.
    pub quotas: Quotas,
    /// What they may use.
    pub uses: Uses,
}

/// Devices and operations that may be used, by name. What is not restricted may be used, also if it comes later.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uses {
    /// The devices; `None` is all.
    pub devices: Option<BTreeSet<String>>,
    /// Of these devices only these operations.
    pub operations: BTreeMap<String, BTreeSet<String>>,
}

/// A domain with a name, to which several users may belong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamedDomain {
    /// Its name, as [`vgem_proto::domains::is_domain_name`] has it.
    pub name: String,
    /// Its rules.
    pub rules: Rules,
    /// Control groups whose processes, and those of groups below, have their clients in it: paths of version 2.
    pub cgroups: BTreeSet<String>,
    /// Users whose clients are in it, unless the control group is of another.
    pub uids: BTreeSet<u32>,
    /// Groups whose clients are in it, unless the control group or the user is of another domain.
    pub groups: BTreeSet<u32>,
}

/// What all domains together may hold. A domain with a name is promised its quota, as far as it goes; the others share
/// what is not promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Bytes of objects; `None` is no bound.
    pub bytes: Option<u64>,
    /// Connections; `None` is no bound.
    pub connections: Option<u64>,
    /// Files that all of it may cost, where several share what the process may open; `None` is no bound. A domain never
    /// takes the last of them: it may have as many as are left for others.
    pub files: Option<u64>,
}

/// What one domain may hold at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Bytes of objects.
    pub bytes: u64,
    /// Objects.
    pub objects: u64,
    /// Handles, of all its clients together.
    pub handles: u64,
    /// Open queues, those that are being opened or closed included.
    pub queues: u64,
    /// Jobs accepted and not yet ended.
    pub jobs: u64,
    /// Connections.
    pub connections: u64,
    /// Fds sent to its clients and not yet received ([`crate::io::Input::Received`]).
    pub exports: u64,
    /// Porters, those that hang in the kernel and cannot be ended included.
    pub porters: u64,
    /// Clients that monitor: each costs something with every event of the domain.
    pub monitors: u64,
    /// Pages given so that its clients can observe others.
    pub pages: u64,
    /// Handles of timelines, those of queues not counted.
    pub timelines: u64,
    /// User queues: a ring each, and a thread of a driver.
    pub rings: u64,
    /// Bytes of objects that were committed, which the keeper pins.
    pub pinned: u64,
    /// Requests per second, with a burst of one second; `None` is no bound.
    pub requests_per_s: Option<u32>,
}

impl Quotas {
    /// Says how much of one thing; of [`QuotaKind::Requests`] 0 is no bound.
    pub fn set(&mut self, kind: QuotaKind, limit: u64) {
        let place = match kind {
            QuotaKind::Bytes => &mut self.bytes,
            QuotaKind::Objects => &mut self.objects,
            QuotaKind::Handles => &mut self.handles,
            QuotaKind::Queues => &mut self.queues,
            QuotaKind::Jobs => &mut self.jobs,
            QuotaKind::Connections => &mut self.connections,
            QuotaKind::Exports => &mut self.exports,
            QuotaKind::Porters => &mut self.porters,
            QuotaKind::Monitors => &mut self.monitors,
            QuotaKind::Pages => &mut self.pages,
            QuotaKind::Timelines => &mut self.timelines,
            QuotaKind::Rings => &mut self.rings,
            QuotaKind::Pinned => &mut self.pinned,
            QuotaKind::Requests => {
                let most = u32::try_from(limit).unwrap_or(u32::MAX);
                self.requests_per_s = (most > 0).then_some(most);
                return;
            }
        };
        *place = limit;
    }

    /// How much of one thing.
    #[must_use]
    pub fn of(&self, kind: QuotaKind) -> u64 {
        match kind {
            QuotaKind::Bytes => self.bytes,
            QuotaKind::Objects => self.objects,
            QuotaKind::Handles => self.handles,
            QuotaKind::Queues => self.queues,
            QuotaKind::Jobs => self.jobs,
            QuotaKind::Connections => self.connections,
            QuotaKind::Exports => self.exports,
            QuotaKind::Porters => self.porters,
            QuotaKind::Monitors => self.monitors,
            QuotaKind::Pages => self.pages,
            QuotaKind::Timelines => self.timelines,
            QuotaKind::Rings => self.rings,
            QuotaKind::Pinned => self.pinned,
            QuotaKind::Requests => self.requests_per_s.map_or(0, u64::from),
        }
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            bytes: 64 << 30,
            objects: 100_000,
            handles: 200_000,
            queues: 8192,
            jobs: 65_536,
            connections: 8192,
            exports: 1024,
            porters: 64,
            monitors: 16,
            pages: 8192,
            timelines: 65_536,
            rings: 1024,
            pinned: 64 << 30,
            requests_per_s: None,
        }
    }
}

/// How long things may take, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the moment a job is ready until a driver that is busy with others must have begun it.
    pub scheduling_ns: u64,
    /// Longest run time a job may ask for.
    pub run_ns: u64,
    /// How long an instance without queues is kept.
    pub idle_ns: u64,
    /// How long a client or an instance may take to greet, and an instance to answer what it owes.
    pub greeting_ns: u64,
    /// Pause before an instance is started again after its first loss; doubles with each loss.
    pub pause_first_ns: u64,
    /// Longest such pause.
    pub pause_most_ns: u64,
    /// Losses older than this are forgotten.
    pub losses_ns: u64,
    /// How long a device counts as failed for a domain.
    pub failed_ns: u64,
    /// How long a client's Import waits for what the porter brings, and that for the Import.
    pub import_ns: u64,
    /// How long a client may leave fds unread that it asked for.
    pub unread_ns: u64,
    /// How far ahead a client may promise a point, or a job wait for one that is not promised yet: as long as that
    /// it can hold up who waits for it.
    pub promise_ns: u64,
    /// How long a token for a timeline is good.
    pub token_ns: u64,
    /// One more porter may be started for a domain after this long: each is a process.
    pub porter_ns: u64,
    /// How long an instance of a client's own may take to end once it was killed, until it is left.
    pub held_up_ns: u64,
}

impl Default for Times {
    fn default() -> Self {
        const MS: u64 = 1_000_000;
        Self {
            scheduling_ns: 5_000 * MS,
            run_ns: 300_000 * MS,
            idle_ns: 30_000 * MS,
            greeting_ns: 10_000 * MS,
            pause_first_ns: 100 * MS,
            pause_most_ns: 5_000 * MS,
            losses_ns: 60_000 * MS,
            failed_ns: 60_000 * MS,
            import_ns: 1_000 * MS,
            unread_ns: 2_000 * MS,
            promise_ns: 60_000 * MS,
            token_ns: 10_000 * MS,
            porter_ns: 25 * MS,
            held_up_ns: 1000 * MS,
        }
    }
}

/// How many of everything that no domain is charged for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Jobs in flight at one instance: what its link can hold.
    pub instance_jobs: u32,
    /// Pairs of pages made ahead, so that opening a queue need not wait for one.
    pub spare_pairs: usize,
    /// Queues one client may be waiting for at a time.
    pub pending_opens: usize,
    /// Imports of one client that may wait for its porter at a time, and as many that the porter was faster with.
    pub pending_imports: usize,
    /// Bad messages in a row before a client is dropped.
    pub bad_messages: u32,
    /// Losses of one device for one domain, within [`Times::losses_ns`], until it counts as failed.
    pub losses: usize,
    /// Jobs of one queue that may take too long: with the last of them the queue is gone. A second try is worth it,
    /// because the fault may have been another's (a stopped process, a driver's memory); a third is not.
    pub hang_limit: u32,
    /// Causes remembered per domain.
    pub causes: usize,
    /// Instances that serve one client of a domain each.
    pub own_instances: usize,
    /// Porters, and instances of single clients, that may be started for a domain at once, before [`Times::porter_ns`] counts.
    pub porter_burst: u32,
    /// Unfinished pieces of writes that one object's reservation may hold; half of them those of other domains.
    pub pieces: usize,
    /// Queues with unfinished uses that one object's reservation may hold.
    pub fences: usize,
    /// Those of them that may be of one domain that is not the object's own. All such together: four times as many.
    pub guest_fences: usize,
    /// Pages in which one instance, or client, shows its timelines to clients of one other domain. All such together: eight
    /// times as many.
    pub guest_pages: usize,
    /// Points one job may wait for.
    pub job_waits: usize,
    /// Points all jobs of one batch together may wait for.
    pub batch_waits: usize,
    /// Promises of one timeline that may be open: each is looked after until its moment.
    pub promises: usize,
    /// Exports of timelines by one client that nobody has taken yet.
    pub tokens: usize,
    /// Points that one client may wait for to be promised.
    pub queries: usize,
    /// Points not promised yet that jobs of one domain may wait for.
    pub futures: usize,
    /// Unfinished jobs and their waits that are looked at to find out whether a batch would close a cycle.
    pub cycle_steps: usize,
    /// Probes of orphaned objects sent in one go.
    pub sweep: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            instance_jobs: 8192,
            spare_pairs: 8,
            pending_opens: 64,
            pending_imports: 16,
            bad_messages: 64,
            losses: 3,
            hang_limit: 2,
            causes: 512,
            own_instances: 16,
            porter_burst: 128,
            pieces: 1024,
            fences: 1024,
            guest_fences: 64,
            guest_pages: 64,
            job_waits: 512,
            batch_waits: 8192,
            promises: 64,
            tokens: 64,
            queries: 64,
            futures: 1024,
            cycle_steps: 131_072,
            sweep: 256,
        }
    }
}
