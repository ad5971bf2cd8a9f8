//! What an instance was sent and has not ended: its `Run`s, whole, as they went out.
//!
//! A driver that the broker ends has an heir, which must be sent again what the dead one did not end
//! ([`crate::succession`]). So a `Run` is not given away with the effect that sends it but kept here, and the
//! effect names it by its number; the shell reads it from here while it encodes it. Nothing is copied for this,
//! and the storage of a `Run` whose jobs have all ended serves the next one.
//!
//! Jobs of different queues end in any order, so runs are kept in slots, and each knows its place in the order
//! in which they were made.
//!
//! Invariants: an unfinished job names the run that it is in; a run with an unfinished job is kept.

use vgem_proto::error::Failure;
use vgem_proto::ids::{Point, TimelineKey};
use vgem_proto::jobs::{DriverJob, DriverOperand, DriverParam, DriverWait};
use vgem_proto::message::driver::Run;

use crate::submit::tombstone;

/// The runs of an instance that have unfinished jobs.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    slots: Vec<Kept>,
    /// Slots that are free; the storage of some of them is kept for the next run.
    free: Vec<u32>,
    made: u64,
}

/// A run that was sent, or waits to be.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) run: Run,
    /// Its jobs that have not ended; 0 is a free slot, or a run that is being made.
    left: u32,
    /// Whether the instance was sent it.
    pub(crate) told: bool,
    /// Runs made before it.
    order: u64,
}

/// Free slots that keep their storage, and how many bytes that may be.
const SPARE: usize = 4;
const SPARE_LEN: usize = 16 << 10;

/// How many records a run is to have.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Room {
    pub(crate) jobs: usize,
    pub(crate) operands: usize,
    pub(crate) params: usize,
}

impl Room {
    /// The bytes that these records take.
    fn len(self) -> usize {
        self.jobs * size_of::<DriverJob>()
            + self.operands * size_of::<DriverOperand>()
            + self.params * size_of::<DriverParam>()
    }
}

impl Sent {
    /// A number for a run, and storage for it.
    pub(crate) fn begin(&mut self, room: Room) -> (u32, Run) {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Kept { run: empty(), left: 0, told: false, order: 0 });
            u32::try_from(self.slots.len() - 1).expect("the bound on an instance's jobs bounds its runs")
        });
        let spare = self.slots.get_mut(number as usize).map(|kept| std::mem::replace(&mut kept.run, empty()));
        // What is much too large would be kept for as long as the jobs take.
        let mut run = spare.filter(|run| storage(run) <= 4 * room.len()).unwrap_or_else(empty);
        run.jobs.reserve_exact(room.jobs);
        run.operands.reserve_exact(room.operands);
        run.params.reserve_exact(room.params);
        (number, run)
    }

    /// Keeps the run of a number.
    pub(crate) fn keep(&mut self, number: u32, run: Run, told: bool) {
        let left = u32::try_from(run.jobs.len()).expect("a message bounds its jobs");
        self.made += 1;
        if let Some(kept) = self.slots.get_mut(number as usize) {
            *kept = Kept { run, left, told, order: self.made };
        }
    }

    /// The run of a number, while one of its jobs is unfinished.
    pub(crate) fn get(&self, number: u32) -> Option<&Run> {
        self.slots.get(number as usize).filter(|kept| kept.left > 0).map(|kept| &kept.run)
    }

    /// A job of a run has ended.
    #[inline]
    pub(crate) fn ended(&mut self, number: u32) {
        let Some(kept) = self.slots.get_mut(number as usize).filter(|kept| kept.left > 0) else { return };
        kept.left -= 1;
        if kept.left == 0 {
            if self.free.len() < SPARE && storage(&kept.run) <= SPARE_LEN {
                clear(&mut kept.run);
            } else {
                kept.run = empty();
            }
            self.free.push(number);
        }
    }

    /// Has a job that the instance was not sent yet fail without running, or waiting for anything.
    pub(crate) fn fail(&mut self, number: u32, timeline: TimelineKey, point: Point, failure: Failure) {
        let Some(kept) = self.slots.get_mut(number as usize).filter(|kept| !kept.told) else { return };
        let Run { jobs, operands, params, waits, .. } = &mut kept.run;
        let Some(place) = jobs.iter().position(|job| job.queue == timeline && job.point == point) else {
            return;
        };
        let before = |count: fn(&DriverJob) -> u16| -> usize {
            jobs.iter().take(place).map(|job| usize::from(count(job))).sum()
        };
        let (operand, param, wait) =
            (before(|job| job.operands), before(|job| job.params), before(|job| job.waits));
        let Some(job) = jobs.get_mut(place).filter(|job| job.failed_code == 0) else { return };
        operands.drain(operand..operand + usize::from(job.operands));
        params.drain(param..param + usize::from(job.params));
        waits.drain(wait..wait + usize::from(job.waits));
        *job = tombstone(timeline, point, failure);
    }

    /// The numbers of all runs in the order in which they were made, each to be sent now.
    pub(crate) fn tell_all(&mut self) -> Vec<u32> {
        let mut all = Vec::new();
        for (number, kept) in (0u32..).zip(&mut self.slots).filter(|(_, kept)| kept.left > 0) {
            kept.told = true;
            all.push((kept.order, number));
        }
        all.sort_unstable();
        all.into_iter().map(|(_, number)| number).collect()
    }

    /// All runs in the order in which they were made, taken out.
    pub(crate) fn take_all(&mut self) -> Vec<Kept> {
        self.free.clear();
        let mut all = std::mem::take(&mut self.slots);
        all.retain(|kept| kept.left > 0);
        all.sort_unstable_by_key(|kept| kept.order);
        all
    }

    /// All runs.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.slots.iter().filter(|kept| kept.left > 0).map(|kept| &kept.run)
    }

    /// Unfinished jobs of all runs.
    pub(crate) fn unfinished(&self) -> usize {
        self.slots.iter().map(|kept| kept.left as usize).sum()
    }
}

fn empty() -> Run {
    Run { jobs: Vec::new(), operands: Vec::new(), params: Vec::new(), waits: Vec::new(), bytes: Vec::new() }
}

/// The bytes that a run's records have room in.
fn storage(run: &Run) -> usize {
    let Run { jobs, operands, params, waits, bytes } = run;
    Room { jobs: jobs.capacity(), operands: operands.capacity(), params: params.capacity() }.len()
        + waits.capacity() * size_of::<DriverWait>()
        + bytes.capacity()
}

fn clear(run: &mut Run) {
    run.jobs.clear();
    run.operands.clear();
    run.params.clear();
    run.waits.clear();
    run.bytes.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgem_proto::codec::Zero;
    use vgem_proto::ids::CauseId;

    fn key(n: u32) -> TimelineKey {
        TimelineKey { index: n, generation: n }
    }

    fn run_of(sent: &mut Sent, points: std::ops::RangeInclusive<u64>) -> u32 {
        let (number, mut run) = sent.begin(Room::default());
        assert!(run.jobs.is_empty());
        run.jobs.extend(points.map(|point| DriverJob {
            queue: key(1),
            point: Point(point),
            run_ns: 0,
            failed_cause: CauseId::NONE,
            failed_code: 0,
            op: 0,
            flags: 0,
            operands: 0,
            params: 0,
            waits: 0,
            reserved: Zero,
        }));
        sent.keep(number, run, true);
        number
    }

    #[test]
    fn a_run_is_kept_until_its_last_job_has_ended() {
        let mut sent = Sent::default();
        let number = run_of(&mut sent, 1..=2);
        sent.ended(number);
        assert!(sent.get(number).is_some());
        sent.ended(number);
        assert!(sent.get(number).is_none());
    }

    #[test]
    fn a_job_that_does_not_end_keeps_no_run_but_its_own() {
        let mut sent = Sent::default();
        run_of(&mut sent, 1..=1);
        for point in 2..1000 {
            let number = run_of(&mut sent, point..=point);
            sent.ended(number);
        }
        assert_eq!((sent.slots.len(), sent.unfinished()), (2, 1));
    }

    #[test]
    fn runs_come_back_in_the_order_in_which_they_were_made() {
        let mut sent = Sent::default();
        let first = run_of(&mut sent, 1..=1);
        run_of(&mut sent, 2..=2);
        sent.ended(first);
        assert_eq!(run_of(&mut sent, 3..=3), first);
        assert_eq!(sent.tell_all(), [1, 0]);
        let points: Vec<u64> = sent.take_all().iter().map(|kept| kept.run.jobs[0].point.0).collect();
        assert_eq!(points, [2, 3]);
    }
}
