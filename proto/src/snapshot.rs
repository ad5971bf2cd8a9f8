//! The broker's state as tools see it: entries of a topic, sent as JSON in pages.
//!
//! This is the control plane's own form; nothing on the data path uses it. Fields are only ever added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::{Field, Malformed, Reader, Writer};

/// A part of the broker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// One [`Status`].
    Status,
    /// [`DeviceEntry`]s.
    Devices,
    /// [`ObjectEntry`]s.
    Objects,
    /// [`ClientEntry`]s.
    Clients,
    /// [`QueueEntry`]s.
    Queues,
    /// [`TimelineEntry`]s.
    Timelines,
    /// [`ObligationEntry`]s.
    Obligations,
    /// [`DomainEntry`]s.
    Domains,
}

impl Field for Topic {
    const SIZE: usize = 1;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Status => 1u8,
            Self::Devices => 2,
            Self::Objects => 3,
            Self::Clients => 4,
            Self::Queues => 5,
            Self::Timelines => 6,
            Self::Obligations => 7,
            Self::Domains => 8,
        }
        .put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::take(r)? {
            1 => Ok(Self::Status),
            2 => Ok(Self::Devices),
            3 => Ok(Self::Objects),
            4 => Ok(Self::Clients),
            5 => Ok(Self::Queues),
            6 => Ok(Self::Timelines),
            7 => Ok(Self::Obligations),
            8 => Ok(Self::Domains),
            other => Err(Malformed::BadValue { field: "topic", value: u64::from(other) }),
        }
    }
}

/// The broker as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process of the broker.
    pub pid: u32,
    /// Nanoseconds since it began to serve.
    pub uptime_ns: u64,
    /// Live clients.
    pub clients: u64,
    /// Live objects.
    pub objects: u64,
    /// Bytes charged.
    pub object_bytes: u64,
    /// Bytes pinned.
    pub pinned_bytes: u64,
    /// Open queues.
    pub queues: u64,
    /// Live timelines.
    pub timelines: u64,
    /// Jobs accepted and not yet ended.
    pub jobs_in_flight: u64,
    /// Driver instances.
    pub instances: u64,
    /// Fence pages.
    pub pages: u64,
    /// How the kernel and the process limits are used; one line per feature.
    pub features: Vec<String>,
    /// Counters since the start.
    pub counters: Counters,
}

/// Counters since the broker's start. They show what the broker does, and that it is not on the fence path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Messages from clients.
    pub client_messages: u64,
    /// Batches accepted.
    pub batches: u64,
    /// Batches refused.
    pub batches_refused: u64,
    /// Jobs accepted.
    pub jobs: u64,
    /// Jobs that ended well.
    pub jobs_ok: u64,
    /// Jobs that failed.
    pub jobs_failed: u64,
    /// Messages with completions from drivers.
    pub completion_messages: u64,
    /// Points the broker itself wrote into fence pages, for the dead only.
    pub points_settled: u64,
    /// Sleepers the broker woke, for the dead only.
    pub sleepers_woken: u64,
    /// Instances that died.
    pub instances_lost: u64,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceEntry {
    /// Its number.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// One line.
    pub summary: String,
    /// Names of its operations.
    pub operations: Vec<String>,
    /// `ready`, `starting`, `idle`, `backing off` or `failed`.
    pub state: String,
    /// Its instances.
    pub instances: Vec<InstanceEntry>,
}

/// One driver instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceEntry {
    /// Its number.
    pub instance: u32,
    /// The domain it serves.
    pub domain: u32,
    /// The only client of it that it serves; 0 if it serves all.
    pub client: u64,
    /// `starting`, `ready`, `ending`, or `held up`: killed, and its process does not end.
    pub state: String,
    /// Its process.
    pub pid: u32,
    /// Jobs ended.
    pub jobs: u64,
    /// Jobs in flight.
    pub in_flight: u64,
    /// Nanoseconds its engines worked.
    pub busy_ns: u64,
    /// Bytes its engines read and wrote.
    pub bytes: u64,
    /// Bytes it copied through windows.
    pub staged_bytes: u64,
    /// Objects it maps.
    pub mapped: u64,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectEntry {
    /// Its key.
    pub object: String,
    /// Its name.
    pub name: String,
    /// Bytes.
    pub len: u64,
    /// Bytes pinned.
    pub pinned: u64,
    /// `created`, `ready`, `retiring`, `orphaned`.
    pub state: String,
    /// The domain that is charged for as long as it lives.
    pub domain: u32,
    /// Other domains that are charged as well while they hold a handle.
    pub shared_with: Vec<u32>,
    /// Clients with a handle.
    pub clients: Vec<u64>,
    /// Inode of its memory, as `/proc/PID/map_files` and `stat` show it; 0 until it is made.
    pub inode: u64,
    /// `own`, `foreign` (a client's own memory, imported) or `sealed` (a sealed result).
    pub kind: String,
    /// The device that alone may write a sealed result.
    pub writer: String,
    /// Devices that map it.
    pub mapped_by: Vec<String>,
    /// Unfinished uses.
    pub uses: u64,
    /// Poisoned ranges, with their causes.
    pub poison: Vec<String>,
}

/// One domain: one with a name, or one that holds something.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainEntry {
    /// Its number.
    pub domain: u32,
    /// Its name; that of a user's own is the user's number.
    pub name: String,
    /// `user`, `configured` or `socket`.
    pub origin: String,
    /// `open`, `opening`, `draining` or `closed`.
    pub state: String,
    /// Where its own socket is; empty if it has none.
    pub path: String,
    /// The client with which it ends; 0 is none.
    pub creator: u64,
    /// Clients in it.
    pub clients: u64,
    /// Devices that it may use.
    pub devices: Vec<String>,
    /// By device: operations that it may use, where that is not all.
    pub operations: BTreeMap<String, Vec<String>>,
    /// By what the quota is of: how much is used, and how much may be.
    pub quotas: BTreeMap<String, QuotaEntry>,
}

/// How much of something a domain uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QuotaEntry {
    /// In use.
    pub used: u64,
    /// The most.
    pub limit: u64,
}

/// One client.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientEntry {
    /// Its number.
    pub client: u64,
    /// What it calls itself.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its domain.
    pub domain: u32,
    /// Handles it holds.
    pub handles: u64,
    /// Bytes charged to it.
    pub bytes: u64,
    /// Queues it opened.
    pub queues: u64,
    /// Jobs in flight.
    pub jobs_in_flight: u64,
    /// Messages it sent.
    pub messages: u64,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueEntry {
    /// Its timeline.
    pub timeline: String,
    /// The device.
    pub device: String,
    /// The client's number.
    pub client: u64,
    /// The domain.
    pub domain: u32,
    /// 0, the ordinary one, to 7.
    pub priority: u8,
    /// The last point promised.
    pub promised: u64,
    /// The last point known to have ended.
    pub ended: u64,
    /// `idle`, `waiting`, `ready`, `gone`.
    pub state: String,
    /// The last points that failed, oldest first.
    pub failures: Vec<FailureEntry>,
}

/// A point that failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureEntry {
    /// The point.
    pub point: u64,
    /// The name of its code.
    pub code: String,
    /// Its cause.
    pub cause: String,
}

/// One timeline that a client signals.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TimelineEntry {
    /// The timeline.
    pub timeline: String,
    /// Its name.
    pub name: String,
    /// The client that signals it; 0 while the right to is on its way.
    pub client: u64,
    /// That client's process.
    pub pid: u32,
    /// Its domain.
    pub domain: u32,
    /// The last point promised.
    pub promised: u64,
    /// The last point that is signalled.
    pub signalled: u64,
    /// `open`, `passing`, `broken` or `closed`.
    pub state: String,
    /// Clients and instances that see it.
    pub observers: u64,
    /// When the next promise must have been kept, CLOCK_MONOTONIC nanoseconds; 0 if none is open.
    pub due_ns: u64,
    /// The last points that failed one by one, oldest first.
    pub failures: Vec<FailureEntry>,
    /// Once it is over: the first point of those that have all failed, and how.
    pub over: Option<FailureEntry>,
}

/// A point that somebody owes and others may wait for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ObligationEntry {
    /// The timeline.
    pub timeline: String,
    /// Its name; a queue has none.
    pub name: String,
    /// The point. A promise stands for every point up to its own that no earlier one stands for.
    pub point: u64,
    /// `job`, `promise`, `submission` (a point that a job waits for and that nobody has promised yet), or `entry` (one of
    /// a user queue that a job waits for).
    pub kind: String,
    /// A job's device.
    pub device: String,
    /// Whose job or promise it is.
    pub client: u64,
    /// That client's name.
    pub client_name: String,
    /// The domain.
    pub domain: u32,
    /// The process that owes it now: the driver's for a job, the client's for a promise.
    pub pid: u32,
    /// `running` (its waits have passed), `waiting`, `queued` (behind another job of its queue), `promised`, `awaited`
    /// or `restarting` (its driver is being started again).
    pub state: String,
    /// Since when, CLOCK_MONOTONIC nanoseconds: a running job's waits have passed since then, any other was submitted then.
    pub since_ns: u64,
    /// When it must have ended; 0 while nothing runs against it.
    pub due_ns: u64,
    /// What it waits for.
    pub waits: Vec<AwaitedEntry>,
}

/// A point that an obligation waits for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AwaitedEntry {
    /// The timeline; empty if the reader may not see that domain.
    pub timeline: String,
    /// The point; 0 if the reader may not see that domain.
    pub point: u64,
    /// The timeline's domain.
    pub domain: u32,
}

/// Something that happened: a line of the log, and of what a client that monitors is told.
///
/// Texts that peers chose are already made harmless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The configuration was read again, and is in force.
    PolicyChanged {
        /// Domains with a name.
        domains: u64,
    },
    /// Who administers did something to a domain or a client.
    Administered {
        /// Who did.
        client: u64,
        /// Its user.
        uid: u32,
        /// What, in words.
        what: String,
    },
    /// A domain with a name is gone.
    DomainGone {
        /// Its name.
        name: String,
    },
    /// A domain whose listening socket somebody else has bound is drained or closed, because of its fds or its doorman.
    DomainEnds {
        /// Its name.
        name: String,
        /// How and why, in words.
        how: String,
    },
    /// A client came.
    ClientConnected {
        /// Its number.
        client: u64,
        /// Its user.
        uid: u32,
        /// Its process.
        pid: u32,
    },
    /// A client went.
    ClientGone {
        /// Its number.
        client: u64,
    },
    /// An object was made.
    ObjectCreated {
        /// The object.
        object: String,
        /// Its name.
        name: String,
        /// Its length, bytes.
        len: u64,
        /// Who made it.
        client: u64,
    },
    /// Every page of an object is there: jobs may use it.
    ObjectReady {
        /// The object.
        object: String,
        /// Bytes pinned.
        pinned: u64,
    },
    /// An fd of an object was sent to a client.
    ObjectExported {
        /// The object.
        object: String,
        /// To whom.
        client: u64,
        /// `read` or `write`.
        access: String,
    },
    /// A client got a handle of memory whose fd it had.
    ObjectImported {
        /// The object.
        object: String,
        /// Who.
        client: u64,
        /// `read` or `write`.
        access: String,
    },
    /// A client closed its last handle of an object.
    HandleClosed {
        /// The object.
        object: String,
        /// Who.
        client: u64,
    },
    /// Nobody names or uses an object any more; devices let go of it.
    ObjectReleased {
        /// The object.
        object: String,
    },
    /// An export of an object outlives every handle: an fd or a mapping somewhere. It stays charged.
    ObjectOrphaned {
        /// The object.
        object: String,
    },
    /// An object was freed and its charge given back.
    ObjectFreed {
        /// The object.
        object: String,
        /// Its length, bytes.
        len: u64,
        /// Nanoseconds since the last handle and use were gone.
        after_ns: u64,
    },
    /// Somebody changed the owner or the mode of an object's inode; its content was destroyed.
    ObjectTampered {
        /// The object.
        object: String,
        /// What was found.
        what: String,
    },
    /// A porter was killed, and what its client wanted to import refused.
    PorterStalled {
        /// Whose porter.
        client: u64,
        /// Its process.
        pid: u32,
    },
    /// An instance is ready.
    InstanceReady {
        /// The instance.
        instance: u32,
        /// Its device's name.
        device: String,
    },
    /// An instance is gone.
    InstanceLost {
        /// The instance.
        instance: u32,
        /// Its device's name.
        device: String,
        /// How.
        why: String,
        /// Jobs that failed with it.
        jobs: u64,
    },
    /// The process of an instance that was killed did not end at once; it has now.
    InstanceReleased {
        /// The instance.
        instance: u32,
        /// Its device's name.
        device: String,
        /// The process.
        pid: u32,
    },
    /// A job took too long.
    JobTimedOut {
        /// The device's name.
        device: String,
        /// The job's timeline.
        timeline: String,
        /// Its point.
        point: u64,
        /// Whose it was.
        #[serde(default)]
        client: u64,
        /// The driver's process.
        #[serde(default)]
        pid: u32,
        /// How long it could run, nanoseconds.
        #[serde(default)]
        ran_ns: u64,
        /// How long it might have, with the time to begin, nanoseconds.
        #[serde(default)]
        allowed_ns: u64,
    },
    /// A client did not keep a promise.
    PromiseBroken {
        /// Whose it was.
        client: u64,
        /// Its process.
        pid: u32,
        /// The timeline.
        timeline: String,
        /// The point.
        point: u64,
        /// How long ago it was promised, nanoseconds.
        age_ns: u64,
        /// How long ago it should have been kept, nanoseconds.
        #[serde(default)]
        late_ns: u64,
    },
    /// A point that a job waits for was not promised in time: the job fails.
    NeverPromised {
        /// Who should have.
        client: u64,
        /// The timeline.
        timeline: String,
        /// The point.
        point: u64,
        /// The timeline of the job that waited.
        waiter: String,
        /// Its point.
        waiter_point: u64,
        /// How long it waited, nanoseconds.
        #[serde(default)]
        waited_ns: u64,
    },
    /// An entry of a user queue that a job waits for had not ended in time: the job fails.
    EntryLate {
        /// Whose user queue it is.
        client: u64,
        /// The queue's timeline.
        timeline: String,
        /// The entry's point.
        point: u64,
        /// The timeline of the job that waited.
        waiter: String,
        /// Its point.
        waiter_point: u64,
        /// How long it waited, nanoseconds.
        #[serde(default)]
        waited_ns: u64,
    },
    /// Jobs of an instance that was ended run again in another.
    JobsRunAgain {
        /// The instance that runs them now.
        instance: u32,
        /// Its device's name.
        device: String,
        /// How many jobs.
        jobs: u64,
        /// How many more were in flight and could not be run again.
        cancelled: u64,
    },
    /// A request was refused.
    Refused {
        /// The client's number.
        client: u64,
        /// Why.
        why: String,
    },
    /// A bug of ours that did no harm.
    Bug {
        /// What.
        what: String,
    },
}

/// An event and its moment, as a client that monitors is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEntry {
    /// When, CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
    /// The domain it concerns; none for the broker as a whole.
    pub domain: Option<u32>,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}
