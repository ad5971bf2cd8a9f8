//! The ledger of a buffer: which jobs of this client use which bytes, and which guards this process holds.
//!
//! This is the client's own view. It knows the jobs this client submitted; of other clients' jobs on memory it shares with
//! them it knows what the broker said when it was last asked: the points that are unfinished, each taken for a use of the
//! whole buffer, and the ranges that failed ones have left poisoned. The broker's reservation knows all and orders jobs. The ledger orders this process's CPU among them:
//!
//! ```text
//!   read guard   waits for writes of its bytes              held: no job may write them, no other guard write them
//!   write guard  waits for every use of its bytes           held: no job may use them, no other guard hold them
//!   submit       never waits: refused if a guard is in its way, unless that is a stage and the job comes after its point
//! ```
//!
//! Entries of user queues are not entered: a push that locked every ledger would cost more than the push. Their queues keep
//! them, a guard asks the queues, and a push looks whether any guard is held ([`direct`]). One that writes what a failed job was
//! to write makes up for it when it has ended well, as a job does.
//!
//! A use is forgotten when it has ended well, and of those bytes that a later write replaces (the broker orders that write
//! after it). But a job that is refused, or cancelled, or whose device is lost, has failed before what it was to come after: so
//! a use that was unfinished when its bytes were replaced is kept **behind**, and is in the way of guards until it has ended. A failed write of this client stays until its bytes are written again here, or until the broker, having told its
//! poison, tells it no more: a read guard over them fails with its cause. Another client's failed write stays until the
//! broker has taken note of it, and is poison from then on ([`crate::poison`]): whoever asks, and however late. Result cells are not entered: they are read by copy, after their fence.

mod direct;
mod terms;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use vgem_os::fence::PointState;
use vgem_proto::ids::CauseId;
use vgem_proto::rights::{Access, WaitKind};

use crate::error::{Error, LocalError, Result};
use crate::jobpoint::JobPoint;
use crate::obstacle::{SeenPoint, Told, left_by};
use crate::poison::{Poison, Poisons};
use crate::timeline::TimelinePoint;
use crate::user_queue::Shared as UserQueueShared;
use crate::waitable::Waitable;

pub(crate) use self::terms::{Gate, Taken, Usage, Waiting, conflict};
use self::terms::{covers, overlap};

/// Uses after which ended ones are looked for.
const CROWD: usize = 8;
/// Most uses remembered; beyond it the oldest failure is forgotten.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    changed: Condvar,
    /// The memory was exported or imported: others may use it.
    shared: AtomicBool,
    /// How many guards are held: as many as there are in the state.
    held: AtomicUsize,
    /// Something in the state may have failed to write, or may yet.
    suspect: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    uses: Vec<Use>,
    guards: Vec<Held>,
    poisons: Poisons,
    /// Uses that were unfinished when a later write replaced their bytes.
    behind: Vec<Use>,
    /// With how many of them the ended ones are looked for.
    many_behind: usize,
    /// The newest answer that was taken in.
    told: u64,
    last: u64,
    /// Threads that wait for a guard to go.
    blocked: usize,
    /// User queues to which some of the memory is bound.
    queues: Vec<Weak<UserQueueShared>>,
}

#[derive(Debug)]
struct Use {
    by: Waitable,
    range: Range<u64>,
    access: Access,
    /// The broker has told what this client's failed job has left.
    told: bool,
    /// How it ended, as the broker says: the page has forgotten it.
    remembered: Option<PointState>,
}

#[derive(Debug)]
struct Held {
    id: u64,
    range: Range<u64>,
    access: Access,
    /// The point that ends it, if it is a stage.
    until: Option<Gate>,
}

impl Ledger {
    /// Enters a job's use. The job's message has not been sent yet. `waits` says how it waits for a point itself: by data, so
    /// that it will not run before the point was signalled well, or by order.
    pub(crate) fn enter(
        &self,
        job: &JobPoint,
        range: Range<u64>,
        usage: Usage,
        waits: impl Fn(Gate) -> Option<WaitKind>,
    ) -> Result<(), LocalError> {
        let access = usage.access();
        let mut state = self.state();
        let mut in_the_way =
            state.guards.iter().filter(|held| conflict(held.access, &held.range, access, &range));
        let comes_after = |gate: Gate| waits(gate) == Some(WaitKind::Data);
        if let Some(held) = in_the_way.find(|held| !held.until.is_some_and(comes_after)) {
            let (offset, len) = (held.range.start, held.range.end - held.range.start);
            return Err(match held.until {
                None => LocalError::GuardHeld { offset, len },
                Some(Gate { point, .. }) => LocalError::StageHeld { offset, len, point },
            });
        }
        // What somebody has on loan is free once it is returned, or its borrower is dead.
        let lent = state.uses.iter().filter(|one| conflict(one.access, &one.range, access, &range));
        let lent = lent.filter_map(|one| match &one.by {
            Waitable::Point(point) if !one.by.has_ended() => Some((one, point)),
            _ => None,
        });
        if let Some((one, point)) = lent.clone().find(|(_, point)| waits(Gate::of(point)).is_none()) {
            let (offset, len) = (one.range.start, one.range.end - one.range.start);
            return Err(LocalError::Lent { offset, len, until: point.timeline.name.to_string() });
        }
        match usage {
            Usage::Write => state.replace(&range),
            Usage::Read => state.uses.retain(|one| {
                let same = matches!(&one.by, Waitable::Job(own) if Arc::ptr_eq(own.queue(), job.queue()));
                !(same && one.access == Access::Read && covers(&range, &one.range))
            }),
            Usage::Unordered(_) => {}
        }
        if state.uses.len() >= CROWD {
            state.uses.retain(|one| !one.ended_well());
            if state.uses.len() >= MOST {
                state.uses.remove(0);
            }
        }
        if usage == Usage::Write {
            state.poisons.replace(&range);
        }
        state.uses.push(Use { by: Waitable::Job(job.clone()), range, access, told: false, remembered: None });
        self.suspects();
        Ok(())
    }

    /// Takes a job's uses back, because its message was not sent.
    pub(crate) fn take_back(&self, job: &JobPoint) {
        let mut state = self.state();
        state.uses.retain(|one| !matches!(&one.by, Waitable::Job(own) if own.is(job)));
    }

    /// Whether others may use the memory.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Acquire)
    }

    /// From now on others may use the memory.
    pub(crate) fn share(&self) {
        self.shared.store(true, Ordering::Release);
    }

    /// Takes in what the broker said when it was asked for `access` to the object, whose bytes are `whole`.
    pub(crate) fn observed(&self, whole: &Range<u64>, access: Access, told: Told) {
        let mut state = self.state();
        self.suspects();
        let Told { points, poison, order } = told;
        if order >= state.told {
            state.told = order;
            state.uses.retain_mut(|one| one.is_left(access, &poison, &points));
            state.poisons.tell(&poison);
        }
        for (seen, kind) in points {
            let access = match kind {
                WaitKind::Data => Access::Write,
                WaitKind::Order => Access::Read,
            };
            let known =
                state.uses.iter_mut().find(|one| matches!(&one.by, Waitable::Seen(other) if other.is(&seen)));
            match known {
                Some(known) => known.access = access,
                None => {
                    let by = Waitable::Seen(seen);
                    state.uses.push(Use { by, range: whole.clone(), access, told: false, remembered: None });
                }
            }
        }
    }

    /// An error if these bytes were to be written by a job that is known to have failed.
    pub(crate) fn check_content(&self, range: &Range<u64>) -> Result<()> {
        let state = self.state();
        for one in state.uses.iter().filter(|one| conflict(one.access, &one.range, Access::Read, range)) {
            match one.look() {
                PointState::Ok { .. } | PointState::Pending => {}
                failed => one.by.judge_now(failed)?,
            }
        }
        state.poisons.find(range).map_or(Ok(()), |poison| Err(left_by(poison)))
    }

    /// Whether a job of another's that may have been to write these bytes has failed, and the broker has not said yet what
    /// it has left.
    pub(crate) fn is_unsettled(&self, range: &Range<u64>) -> bool {
        self.state().uses.iter().any(|one| {
            let others = matches!(one.by, Waitable::Seen(_));
            others && conflict(one.access, &one.range, Access::Read, range) && one.has_failed()
        })
    }

    /// Takes a guard over bytes; waits for what is in its way. `None` if it would have to and must not.
    pub(crate) fn guard(&self, range: Range<u64>, access: Access, waiting: Waiting) -> Result<Option<Taken>> {
        let mut state = self.state();
        // Whether no entry of a user queue was in the way a moment ago.
        let mut clear = false;
        loop {
            if state.guards.iter().any(|held| conflict(held.access, &held.range, access, &range)) {
                let Waiting::Until(deadline) = waiting else { return Ok(None) };
                let remaining = deadline.remaining();
                if remaining.is_zero() {
                    return Err(Error::Timeout { what: "waiting for another guard of this buffer" });
                }
                state.blocked += 1;
                state = self.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
                state.blocked -= 1;
                continue;
            }
            let asks = waiting != Waiting::Not;
            if let Some(obstacle) = state.in_the_way(&range, access, asks)? {
                let Waiting::Until(deadline) = waiting else { return Ok(None) };
                drop(state);
                // The next look decides what a failure means here.
                let ended = obstacle.wait_out(deadline)?;
                let remembered = (ended == PointState::Overrun).then(|| obstacle.remembered_by_broker());
                state = self.state();
                if let Some(remembered) = remembered {
                    state.remember(&obstacle, remembered);
                }
                continue;
            }
            if !state.queues.is_empty() && !clear {
                drop(state);
                if let Some(queue) = self.busy(&range, access) {
                    let Waiting::Until(deadline) = waiting else { return Ok(None) };
                    queue.wait_out(self, &range, access, deadline)?;
                }
                (state, clear) = (self.state(), true);
                continue;
            }
            let poisoned = access == Access::Write && state.is_poisoned(&range);
            let id = self.hold(&mut state, range.clone(), access);
            let taken = Some(Taken { id, poisoned });
            if state.queues.is_empty() {
                return Ok(taken);
            }
            // From here on no entry comes that the guard would be in the way of; perhaps one has come meanwhile.
            drop(state);
            let busy = self.busy(&range, access).is_some();
            state = self.state();
            if !busy && matches!(state.in_the_way(&range, access, false), Ok(None)) {
                return Ok(taken);
            }
            self.let_go(&mut state, id);
            clear = false;
        }
    }

    /// A guard is a stage: it will be given back before this point is signalled. One that writes will have written its bytes
    /// anew by then; if the point fails, it is a write that has failed.
    pub(crate) fn stage(&self, id: u64, point: &TimelinePoint) {
        let mut state = self.state();
        let gate = Gate::of(point);
        let Some(held) = state.guards.iter_mut().find(|held| held.id == id) else { return };
        held.until = Some(gate);
        if held.access == Access::Write {
            let range = held.range.clone();
            state.rewrite(&range);
            self.suspects();
            let by = Waitable::Point(point.clone());
            state.uses.push(Use { by, range, access: Access::Write, told: false, remembered: None });
        }
    }

    /// Somebody gets these bytes until a point has ended.
    pub(crate) fn lend(
        &self,
        range: Range<u64>,
        access: Access,
        until: &TimelinePoint,
    ) -> Result<(), LocalError> {
        let mut state = self.state();
        let in_the_way = |held: &&Held| conflict(held.access, &held.range, access, &range);
        if let Some(held) = state.guards.iter().find(in_the_way) {
            let len = held.range.end - held.range.start;
            return Err(LocalError::GuardHeld { offset: held.range.start, len });
        }
        let by = Waitable::Point(until.clone());
        state.uses.push(Use { by, range, access, told: false, remembered: None });
        self.suspects();
        Ok(())
    }

    /// Nobody got them after all.
    pub(crate) fn take_back_loan(&self, until: &TimelinePoint) {
        let is_it = |by: &Waitable| matches!(by, Waitable::Point(point) if point.is(until));
        self.state().uses.retain(|one| !is_it(&one.by));
    }

    /// An unfinished job of this client that uses the memory, or entry of a user queue.
    pub(crate) fn own_job(&self) -> Option<Waitable> {
        if let Some(entry) = self.entry_in_the_way(&(0..u64::MAX), Access::Write) {
            return Some(entry);
        }
        let state = self.state();
        let mut jobs = state
            .uses
            .iter()
            .chain(&state.behind)
            .map(|one| &one.by)
            .filter(|by| matches!(by, Waitable::Job(_)));
        jobs.find(|by| !by.has_ended()).cloned()
    }

    /// What a guard over these bytes has to wait for, if anything.
    #[cfg(feature = "tokio")]
    pub(crate) fn obstacle(&self, range: &Range<u64>, access: Access) -> Result<Option<Waitable>> {
        match self.entry_in_the_way(range, access) {
            Some(entry) => Ok(Some(entry)),
            None => self.state().in_the_way(range, access, false),
        }
    }

    /// Gives a guard back, through which its bytes were written anew, or not.
    pub(crate) fn release(&self, id: u64, rewritten: bool) {
        let mut state = self.state();
        if let Some(held) = self.let_go(&mut state, id)
            && rewritten
        {
            state.rewrite(&held.range);
        }
    }

    fn hold(&self, state: &mut State, range: Range<u64>, access: Access) -> u64 {
        state.last += 1;
        state.guards.push(Held { id: state.last, range, access, until: None });
        self.held.store(state.guards.len(), Ordering::Relaxed);
        state.last
    }

    fn let_go(&self, state: &mut State, id: u64) -> Option<Held> {
        let place = state.guards.iter().position(|held| held.id == id)?;
        let held = state.guards.swap_remove(place);
        self.held.store(state.guards.len(), Ordering::Relaxed);
        // Waking nobody is a system call all the same.
        if state.blocked > 0 {
            self.changed.notify_all();
        }
        Some(held)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An unfinished use that a guard has to wait for, or one that it has to ask about, if it asks: its page has forgotten how
    /// it ended. A failed write under a read guard is an error.
    fn in_the_way(&self, range: &Range<u64>, access: Access, asks: bool) -> Result<Option<Waitable>> {
        if access == Access::Read
            && let Some(poison) = self.poisons.find(range)
        {
            return Err(left_by(poison));
        }
        for one in self.uses.iter().filter(|one| conflict(one.access, &one.range, access, range)) {
            let is_new = one.remembered.is_none() && !matches!(one.by, Waitable::Seen(_));
            match one.look() {
                PointState::Ok { .. } => {}
                PointState::Pending => {
                    one.by.see_in_a_while();
                    return Ok(Some(one.by.clone()));
                }
                PointState::Failed { .. } | PointState::Overrun if access == Access::Write => {}
                PointState::Overrun if asks && is_new => return Ok(Some(one.by.clone())),
                failed => one.by.judge_now(failed)?,
            }
        }
        let mut behind = self.behind.iter().filter(|one| conflict(one.access, &one.range, access, range));
        let unfinished = behind.find(|one| one.look() == PointState::Pending);
        if let Some(one) = unfinished {
            one.by.see_in_a_while();
        }
        Ok(unfinished.map(|one| one.by.clone()))
    }

    /// How uses ended that their page has forgotten.
    fn remember(&mut self, by: &Waitable, how: PointState) {
        let Some(asked) = by.handle() else { return };
        for one in self.uses.iter_mut().filter(|one| one.by.handle() == Some(asked)) {
            one.remembered = Some(how);
        }
    }

    /// Whether a job that was to write some of these bytes is known to have failed.
    fn is_poisoned(&self, range: &Range<u64>) -> bool {
        let failed =
            |one: &Use| one.access == Access::Write && overlap(&one.range, range) && one.has_failed();
        self.poisons.find(range).is_some() || self.uses.iter().any(failed)
    }

    /// A guard's holder has written these bytes anew: what failed to write them before is of no account any more.
    fn rewrite(&mut self, range: &Range<u64>) {
        let Self { uses, poisons, .. } = self;
        poisons.rewrite(range);
        for one in uses.iter().filter(|one| one.access == Access::Write) {
            if let PointState::Failed { cause, .. } = one.look() {
                poisons.rewrite_failed(&one.range, range, CauseId(cause));
            }
        }
        self.replace(range);
    }

    /// An entry of a user queue has written these bytes anew, after what has failed to write them. What has not ended is left.
    fn heal(&mut self, range: &Range<u64>) {
        let Self { uses, poisons, .. } = self;
        poisons.rewrite(range);
        let failed =
            |one: &Use| one.access == Access::Write && overlap(&one.range, range) && one.has_failed();
        let mut rest = Vec::new();
        for one in uses.extract_if(.., |one| failed(one)) {
            if let PointState::Failed { cause, .. } = one.look() {
                poisons.rewrite_failed(&one.range, range, CauseId(cause));
            }
            for kept in [one.range.start..range.start, range.end..one.range.end] {
                if !kept.is_empty() {
                    rest.push(Use { by: one.by.clone(), range: kept, ..one });
                }
            }
        }
        uses.append(&mut rest);
    }

    /// Forgets what earlier uses did with these bytes: whoever writes them now comes after it.
    fn replace(&mut self, range: &Range<u64>) {
        let Self { uses, behind, .. } = self;
        let mut rest = Vec::new();
        let replaced = uses.extract_if(.., |one| overlap(&one.range, range));
        for one in replaced {
            for kept in [one.range.start..range.start, range.end..one.range.end] {
                if !kept.is_empty() {
                    rest.push(Use { by: one.by.clone(), range: kept, ..one });
                }
            }
            if one.look() == PointState::Pending {
                let (start, end) = (one.range.start.max(range.start), one.range.end.min(range.end));
                behind.push(Use { range: start..end, ..one });
            }
        }
        uses.append(&mut rest);
        if behind.len() > self.many_behind.max(CROWD) {
            behind.retain(|one| one.look() == PointState::Pending);
            self.many_behind = 2 * behind.len();
        }
    }
}

impl Use {
    fn look(&self) -> PointState {
        match self.by.look() {
            PointState::Overrun => self.remembered.unwrap_or(PointState::Overrun),
            state => state,
        }
    }

    /// Whether it is still of account after an answer of the broker to who asked for `access`.
    fn is_left(&mut self, access: Access, poison: &[Poison], points: &[SeenPoint]) -> bool {
        let Waitable::Seen(seen) = &self.by else {
            let PointState::Failed { cause, .. } = self.look() else { return true };
            let mine = |told: &Poison| told.cause.0 == cause && overlap(&told.range, &self.range);
            let was_told = std::mem::replace(&mut self.told, poison.iter().any(mine));
            return self.told || !was_told;
        };
        match seen.look() {
            PointState::Ok { .. } => false,
            // Not named any more, though this access would wait for it: it ended, and its slot is gone.
            PointState::Pending => {
                let asked = access == Access::Write || self.access == Access::Write;
                !asked || points.iter().any(|(other, _)| seen.is_behind(other))
            }
            // Named again, it comes again; if not, what it has left is told as poison.
            PointState::Failed { .. } | PointState::Overrun => false,
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.look(), PointState::Failed { .. } | PointState::Overrun)
    }

    fn ended_well(&self) -> bool {
        match self.look() {
            PointState::Ok { .. } => true,
            PointState::Pending => false,
            // A failed read has left the bytes as they were.
            PointState::Failed { .. } | PointState::Overrun => self.access == Access::Read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_for_bytes_under_a_write_guard_gets_nothing() {
        let ledger = Ledger::default();
        let held = ledger.guard(0..10, Access::Write, Waiting::Not).expect("nothing failed");
        assert!(held.is_some_and(|taken| !taken.poisoned));
        assert_eq!(ledger.guard(9..10, Access::Read, Waiting::Not).expect("nothing failed"), None);
        ledger.release(held.expect("checked above").id, false);
        assert!(ledger.guard(9..10, Access::Read, Waiting::Not).expect("nothing failed").is_some());
    }

    #[test]
    fn a_guard_that_another_guard_blocks_ends_at_its_deadline() {
        let ledger = Ledger::default();
        let held = ledger.guard(0..10, Access::Read, Waiting::Not).expect("nothing failed");
        let late = ledger.guard(0..1, Access::Write, Waiting::Until(crate::deadline::Deadline::NOW));
        assert!(held.is_some() && matches!(late, Err(Error::Timeout { .. })));
    }
}
