//! What was recorded. All moments are CLOCK_MONOTONIC, nanoseconds.

use std::collections::{BTreeMap, HashMap};

use vgem::snapshot::ObligationEntry;
use vgem::{CauseId, ErrorCode, TimelineKey};

/// A recording.
#[derive(Debug, Default)]
pub(crate) struct Recording {
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) jobs: Vec<Job>,
    /// Jobs that had not ended when it was over.
    pub(crate) unfinished: Vec<ObligationEntry>,
    /// Jobs that were left out.
    pub(crate) lost: u64,
    pub(crate) devices: BTreeMap<u32, Device>,
    pub(crate) clients: BTreeMap<u64, Owner>,
    pub(crate) samples: Vec<Sample>,
}

/// A device's name, and those of its operations.
#[derive(Debug, Default)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) operations: BTreeMap<u16, String>,
}

/// A client's name and process.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// How many bytes a client held at a moment.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) at: u64,
    pub(crate) client: u64,
    pub(crate) bytes: u64,
}

/// A job that has ended.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) timeline: TimelineKey,
    pub(crate) point: u64,
    pub(crate) client: u64,
    pub(crate) device: u32,
    pub(crate) op: Option<u16>,
    pub(crate) submitted: u64,
    pub(crate) ready: Option<u64>,
    pub(crate) started: Option<u64>,
    pub(crate) ended: u64,
    pub(crate) bytes: u64,
    pub(crate) staged: u64,
    pub(crate) failure: Option<(ErrorCode, CauseId)>,
    pub(crate) waits: Vec<Option<(TimelineKey, u64)>>,
}

/// Until when a job waited for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// It waited for nobody.
    AtOnce,
    /// Until then.
    At(u64),
    /// Nobody knows: something that it waited for is not recorded.
    Unknown,
}

impl Job {
    /// When its engine began, or when it ended without that.
    pub(crate) fn begun(&self) -> u64 {
        self.started.unwrap_or(self.ended).clamp(self.submitted, self.ended)
    }

    /// Until when it waited for others: until the last of them had ended, as the drivers say. Where one is not recorded,
    /// because a client signalled it or it was left out, the broker's word is taken, which may be a little late.
    pub(crate) fn met(&self, ends: &Ends) -> Met {
        if self.waits.is_empty() {
            return Met::AtOnce;
        }
        let begun = self.begun();
        let known = |wait: &Option<(TimelineKey, u64)>| wait.and_then(|wait| ends.of(wait));
        let last = self.waits.iter().filter_map(known).max().unwrap_or(self.submitted);
        if self.waits.iter().all(|wait| known(wait).is_some()) {
            return Met::At(last.clamp(self.submitted, begun));
        }
        match self.ready {
            Some(ready) => Met::At(ready.max(last).clamp(self.submitted, begun)),
            None => Met::Unknown,
        }
    }
}

/// When the points that are recorded ended, and in which job.
#[derive(Debug)]
pub(crate) struct Ends(HashMap<(TimelineKey, u64), (usize, u64)>);

impl Ends {
    pub(crate) fn new(jobs: &[Job]) -> Self {
        let ends = jobs.iter().enumerate();
        Self(ends.map(|(place, job)| ((job.timeline, job.point), (place, job.ended))).collect())
    }

    fn of(&self, point: (TimelineKey, u64)) -> Option<u64> {
        self.0.get(&point).map(|(_, ended)| *ended)
    }

    /// The place of the job of a point.
    pub(crate) fn job(&self, point: (TimelineKey, u64)) -> Option<usize> {
        self.0.get(&point).map(|(place, _)| *place)
    }
}
