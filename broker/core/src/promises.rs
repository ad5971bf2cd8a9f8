//! Timelines of clients from their making to their end: promises, failures, verdicts (T1, T3, L3).
//!
//! The broker does not hear of signals. When it must know how far a timeline is, because a promise is due, or its
//! signaller is gone, it has the shell look at the primary page; the answer comes back as an input
//! ([`crate::io::Input::Looked`]). Three things end a timeline before its handles are closed, and each has a code of
//! its own: a promise that was not kept (TimedOut), a signaller that is gone (OwnerDied), and one that has closed its
//! handle (Cancelled). The verdict is written into every page that shows the timeline, and what the signaller writes
//! afterwards nobody believes.

use vgem_proto::error::{ErrorCode, Failure, Refusal};
use vgem_proto::ids::{ClientKey, DomainId, Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::PROMISE_REPLY;
use vgem_proto::message::client::{CauseIssued, CreateTimeline, Done, FailPoint, Promise};
use vgem_proto::rights::TimelineRights;

use crate::accounts::Resource;
use crate::broker::{Broker, client_number};
use crate::causes::Cause;
use crate::complete::take_watchers;
use crate::deadlines::Timer;
use crate::io::{Effect, Event};
use crate::objects::Awaiting;
use crate::policy::{self, Action};
use crate::queues::Shown;
use crate::requests::{Outcome, full_table};
use crate::tables::HandleTable;
use crate::text::harmless;
use crate::timelines::{
    Obligation, Primary, Promises, TimelineEvent, TimelineHeld, TimelineState, Verdict, is_of_client,
};

impl Broker {
    /// A client wants a timeline that it signals.
    pub(crate) fn create_timeline(&mut self, asker: Awaiting, create: &CreateTimeline) -> Outcome {
        let client = self.find_client(asker.client)?;
        if !client.timelines.has_room() {
            return Err(full_table(HandleTable::<TimelineHeld>::ROWS));
        }
        let grant = policy::authorise(client.subject(), Action::CreateTimeline)?;
        let fds = self.find_primary_room(asker.client)?;
        let [charge, page, export] = self.accounts.charge_all(
            grant.domain(),
            [(Resource::Timelines, 1), (Resource::Pages, u64::from(fds > 0)), (Resource::Exports, fds)],
        )?;
        let name = harmless(&create.name, limits::NAME_LEN);
        let key = self.promises.insert_with(|_| Promises::new(name, grant.domain()));
        let rights = TimelineRights::all();
        let handle = self.add_timeline_handle(asker.client, TimelineHeld { key, rights, charge });
        self.take_signalling(asker.client, key, handle, page);
        self.say_timeline_opened(asker, handle, key, rights, export);
        Ok(())
    }

    /// Gives a client one handle more.
    pub(crate) fn add_timeline_handle(&mut self, client: ClientKey, held: TimelineHeld) -> TimelineHandle {
        if let Some(promises) = self.promises.get_mut(held.key) {
            promises.handles += 1;
        }
        let Some(client) = self.clients.get_mut(client) else { return TimelineHandle(0) };
        TimelineHandle(client.timelines.insert(held))
    }

    /// A client gives a handle up.
    pub(crate) fn close_timeline(&mut self, now: Time, asker: Awaiting, handle: TimelineHandle) -> Outcome {
        let client = self.clients.get_mut(asker.client);
        let held = client.and_then(|client| client.timelines.remove(handle.0));
        let Some(held) = held else { return Err(no_such_timeline(handle)) };
        self.drop_timeline_handle(now, asker.client, held);
        self.reply(asker.link, asker.request, Done {});
        Ok(())
    }

    /// A handle is gone; with that of the signaller the timeline ends.
    pub(crate) fn drop_timeline_handle(&mut self, now: Time, client: ClientKey, held: TimelineHeld) {
        self.accounts.give_back(held.charge);
        let Some(promises) = self.promises.get_mut(held.key) else { return };
        promises.handles = promises.handles.saturating_sub(1);
        if promises.signaller == Some(client) && held.rights.contains(TimelineRights::SIGNAL) {
            let number = client_number(client);
            let text = format!("client {number} closed its timeline{}", quoted(&promises.name));
            let pid = self.clients.get(client).map_or(0, |client| client.peer.pid);
            self.leave_timeline(now, held.key, pid, (ErrorCode::Cancelled, text));
        } else {
            self.stop_showing_to(client, held.key);
        }
        self.forget_timeline(held.key);
    }

    /// A client promises points.
    pub(crate) fn promise(&mut self, now: Time, asker: Awaiting, flags: u16, promise: &Promise) -> Outcome {
        let key = self.find_signalled(asker.client, promise.timeline)?;
        let (longest, most) = (self.config.times.promise_ns, self.config.bounds.promises);
        let Some(promises) = self.promises.get_mut(key) else {
            return Err(no_such_timeline(promise.timeline));
        };
        if let Some(verdict) = promises.verdict {
            let text = format!("the timeline is over from point {} on; make another one", verdict.from.0);
            return Err(Refusal::new(ErrorCode::Gone, text).with(promise.point.0, verdict.from.0));
        }
        if promise.point <= promises.promised {
            let text = format!("points to {} are promised already; points only grow", promises.promised.0);
            let expected = promises.promised.0.saturating_add(1);
            return Err(Refusal::new(ErrorCode::BadPoint, text).with(promise.point.0, expected));
        }
        let latest = now.after(longest);
        if promise.until <= now || promise.until > latest {
            let text = format!("a promise is to be kept within {} ms from now", longest / 1_000_000);
            return Err(Refusal::new(ErrorCode::OutOfRange, text).with(promise.until.0, latest.0));
        }
        let open = promises.obligations.len();
        if open >= most {
            self.look_at_timeline(key);
            let text = "open promises of one timeline: keep some of them first";
            return Err(Refusal::new(ErrorCode::Exhausted, text).with(open as u64 + 1, most as u64));
        }
        promises.promised = promise.point;
        let obligation = Obligation { point: promise.point, until: promise.until, since: now };
        promises.obligations.push_back(obligation);
        if open >= most / 2 {
            // Long before they are too many those that are kept are forgotten.
            self.look_at_timeline(key);
        }
        self.arm_promise(key);
        self.promised(key, promise.point);
        if flags & PROMISE_REPLY != 0 {
            self.reply(asker.link, asker.request, Done {});
        }
        Ok(())
    }

    /// A client is about to let a point fail, and says why.
    pub(crate) fn fail_point(&mut self, now: Time, asker: Awaiting, fail: &FailPoint) -> Outcome {
        let key = self.find_signalled(asker.client, fail.timeline)?;
        let Some(client) = self.clients.get(asker.client) else {
            return Err(no_such_timeline(fail.timeline));
        };
        let Some(promises) = self.promises.get(key) else { return Err(no_such_timeline(fail.timeline)) };
        if fail.code.number() < ErrorCode::DeviceLost.number() {
            let text = "this code is no failure of a job or a point";
            let (value, limit) = (u64::from(fail.code.number()), u64::from(ErrorCode::DeviceLost.number()));
            return Err(Refusal::new(ErrorCode::BadParameter, text).with(value, limit));
        }
        if promises.has_passed(fail.point) {
            let text = "the point has been signalled, or is over";
            return Err(Refusal::new(ErrorCode::BadPoint, text).with(fail.point.0, promises.passed.next().0));
        }
        let said = harmless(&fail.text, limits::TEXT_LEN);
        let number = client_number(asker.client);
        let text = format!("client {number}{}: {said}", quoted(&client.name));
        let (pid, domain) = (client.peer.pid, promises.domain);
        let cause = Cause::new(now, fail.code, text).to(key, fail.point).by(number, pid);
        let cause = self.causes.issue(domain, cause);
        self.failure_shown(key, cause);
        if let Some(promises) = self.promises.get_mut(key) {
            let old = promises.note_failure(fail.point, Failure { code: fail.code, cause });
            self.keep_awaited(key, old);
        }
        self.reply(asker.link, asker.request, CauseIssued { cause });
        Ok(())
    }

    /// The shell has looked at the primary page of a timeline: what its signaller claims.
    pub(crate) fn looked(
        &mut self,
        now: Time,
        key: TimelineKey,
        value: Point,
        failures: &[(Point, Failure)],
    ) {
        if !is_of_client(key) {
            self.ring_looked(now, key, value);
            return;
        }
        let Some(promises) = self.promises.get_mut(key) else { return };
        promises.looks = promises.looks.saturating_sub(1);
        let Some(next) = promises.state.after(TimelineEvent::Look) else { return };
        promises.advance(value);
        let mut old = Vec::new();
        for (point, failure) in failures.iter().filter(|(point, _)| *point <= value) {
            old.extend(promises.note_failure(*point, *failure));
        }
        let (passed, is_last, is_armed) = (promises.passed, promises.looks == 0, promises.due.is_some());
        self.keep_awaited(key, old);
        self.promised(key, passed);
        if !is_last {
            // It may have signalled since: another answer is on its way, and that one judges what is due.
            if is_armed {
                self.arm_promise(key);
            }
            self.timeline_advanced(now, key);
            return;
        }
        let Some(promises) = self.promises.get_mut(key) else { return };
        promises.state = next;
        match promises.leaving.take() {
            Some(failure) => self.settle_timeline(now, key, failure, failures),
            None => self.judge_promises(now, key),
        }
        self.fail_due_futures(now, key);
        self.answer_looks(key);
    }

    /// Breaks a promise that is overdue.
    fn judge_promises(&mut self, now: Time, key: TimelineKey) {
        let Some(promises) = self.promises.get(key).filter(|promises| promises.verdict.is_none()) else {
            return;
        };
        match promises.overdue(now) {
            Some(broken) => self.break_promise(now, key, broken),
            None => {
                self.arm_promise(key);
                self.timeline_advanced(now, key);
            }
        }
    }

    fn break_promise(&mut self, now: Time, key: TimelineKey, broken: Obligation) {
        let Some(promises) = self.promises.get_mut(key) else { return };
        let Some(next) = promises.state.after(TimelineEvent::Break) else { return };
        // What comes after the last signal and before the broken point cannot be kept either.
        let from = promises.passed.next();
        promises.state = next;
        let (domain, name) = (promises.domain, quoted(&promises.name));
        let signaller = promises.signaller.and_then(|key| Some((key, self.clients.get(key)?)));
        let (client, pid, who) = signaller.map_or((0, 0, String::new()), |(key, client)| {
            let number = client_number(key);
            (number, client.peer.pid, format!("client {number}{}", quoted(&client.name)))
        });
        let (point, age_ns) = (broken.point.0, now.since(broken.since));
        let late_ns = now.since(broken.until);
        let (age, late) = (age_ns / 1_000_000, late_ns / 1_000_000);
        let text = format!(
            "{who} (process {pid}) promised point {point} of its timeline{name} {age} ms ago and has not signalled it, \
             {late} ms after it should have"
        );
        let code = ErrorCode::TimedOut;
        let cause = Cause::new(now, code, text).to(key, broken.point).by(client, pid);
        let cause = self.causes.issue(domain, cause);
        let timeline = key.to_string();
        self.log(Some(domain), Event::PromiseBroken { client, pid, timeline, point, age_ns, late_ns });
        self.end_timeline(now, key, Verdict { from, failure: Failure { code, cause } });
    }

    /// Writes the verdict on a timeline whose signaller still may signal.
    fn end_timeline(&mut self, now: Time, key: TimelineKey, verdict: Verdict) {
        self.failure_shown(key, verdict.failure.cause);
        let Some(promises) = self.promises.get_mut(key) else { return };
        promises.verdict = Some(verdict);
        promises.obligations.clear();
        let primary = promises.primary.map(|Primary { pair, slot, .. }| (pair, slot));
        let places = primary.into_iter().chain(promises.shown.iter().map(|shown| (shown.pair, shown.slot)));
        let Verdict { from, failure: Failure { code, cause } } = verdict;
        for (pair, slot) in places {
            self.out.push(Effect::KillSlot { pair, slot, dead_from: from, code, cause });
        }
        self.counters.points_settled += 1;
        self.timers.disarm(Timer::Promise(key), &mut promises.due);
        self.timeline_advanced(now, key);
    }

    /// The signaller of a timeline is gone, or has closed its handle.
    pub(crate) fn leave_timeline(&mut self, now: Time, key: TimelineKey, pid: u32, why: (ErrorCode, String)) {
        let Some(promises) = self.promises.get_mut(key) else { return };
        let Some(next) = promises.state.after(TimelineEvent::Leave) else { return };
        promises.state = next;
        self.timers.disarm(Timer::Promise(key), &mut promises.due);
        promises.obligations.clear();
        let (domain, point) = (promises.domain, promises.passed.next());
        let signaller = promises.signaller.take();
        let client = signaller.map_or(0, client_number);
        if let Some(key) = signaller.filter(|_| next == TimelineState::Ending)
            && let Some(signals) = self.signals_mut(key)
        {
            signals.ending += 1;
        }
        if let Some(client) = signaller.and_then(|client| self.clients.get_mut(client)) {
            client.signals.timelines.retain(|other| *other != key);
        }
        self.end_leaving(now, key, why, (domain, point, (client, pid)));
    }

    fn end_leaving(
        &mut self,
        now: Time,
        key: TimelineKey,
        (code, text): (ErrorCode, String),
        (domain, point, (client, pid)): (DomainId, Point, (u64, u32)),
    ) {
        let cause = Cause::new(now, code, text).to(key, point).by(client, pid);
        let cause = self.causes.issue(domain, cause);
        let failure = Failure { code, cause };
        let Some(promises) = self.promises.get_mut(key) else { return };
        match promises.state {
            TimelineState::Ending => {
                promises.leaving = Some(failure);
                self.look_at_timeline_now(key);
            }
            // Broken before: the verdict stands, and the places go.
            TimelineState::Ended => self.release_places(key),
            TimelineState::Open | TimelineState::Passing => {}
        }
    }

    /// What a signaller that left has signalled is known: everybody sees the same, and the rest has failed.
    fn settle_timeline(
        &mut self,
        now: Time,
        key: TimelineKey,
        failure: Failure,
        failures: &[(Point, Failure)],
    ) {
        failures.iter().for_each(|(_, failure)| self.failure_shown(key, failure.cause));
        self.failure_shown(key, failure.cause);
        let Some(promises) = self.promises.get_mut(key) else { return };
        let (value, from) = (promises.passed, promises.passed.next());
        promises.verdict = Some(Verdict { from, failure });
        let primary = promises.primary.map(|Primary { pair, slot, .. }| (pair, slot));
        let places = promises.shown.iter().map(|shown| (shown.pair, shown.slot)).chain(primary);
        let Failure { code, cause } = failure;
        for (pair, slot) in places {
            let failures = failures.to_vec();
            let (timeline, at, dead_from) = (key, now, from);
            let settled =
                Effect::Settle { pair, slot, timeline, value, at, failures, dead_from, code, cause };
            self.out.push(settled);
        }
        self.counters.points_settled += 1;
        let owner = promises.primary.map(|primary| primary.client);
        self.release_places(key);
        self.timeline_advanced(now, key);
        self.forget_timeline(key);
        if let Some(owner) = owner {
            self.leaver_settled(owner);
        }
    }

    /// What a timeline is shown in is not written to any more, as far as it is up to us.
    fn release_places(&mut self, key: TimelineKey) {
        let Some(promises) = self.promises.get_mut(key) else { return };
        let (shown, primary) = (std::mem::take(&mut promises.shown), promises.primary.take());
        for Shown { pair, slot, waiters, .. } in shown {
            self.pairs.close(pair, slot, key, waiters);
            self.drop_spent_pair(pair);
        }
        if let Some(primary) = primary {
            self.release_primary(primary);
        }
    }

    /// The right to signal a timeline was lost on its way.
    pub(crate) fn lose_timeline(&mut self, now: Time, key: TimelineKey, text: String) {
        let Some(promises) = self.promises.get_mut(key) else { return };
        let Some(next) = promises.state.after(TimelineEvent::Lose) else { return };
        promises.state = next;
        let (domain, code) = (promises.domain, ErrorCode::Cancelled);
        let cause = Cause::new(now, code, text).to(key, Point(1));
        let cause = self.causes.issue(domain, cause);
        if let Some(promises) = self.promises.get_mut(key) {
            promises.verdict = Some(Verdict { from: Point(1), failure: Failure { code, cause } });
        }
        self.timeline_advanced(now, key);
        self.forget_timeline(key);
    }

    /// Whatever waited for a timeline looks again.
    pub(crate) fn timeline_advanced(&mut self, now: Time, key: TimelineKey) {
        let Some(promises) = self.promises.get_mut(key) else { return };
        let is_over = promises.verdict.is_some();
        let to = if is_over { Point(u64::MAX) } else { promises.passed };
        let watchers = take_watchers(&mut promises.watchers, to);
        self.watchers_look(now, key, watchers);
        self.answer_queries(key);
        if is_over {
            self.never_promised(now, key, None);
        }
    }

    /// Takes a timeline out of the table once nobody has a handle of it and nobody signals it.
    pub(crate) fn forget_timeline(&mut self, key: TimelineKey) {
        let is_over = |promises: &Promises| {
            promises.handles == 0 && promises.state == TimelineState::Ended && promises.signaller.is_none()
        };
        if self.promises.get(key).is_some_and(is_over) {
            let failures = self.promises.get_mut(key).map(|promises| std::mem::take(&mut promises.failures));
            self.keep_awaited(key, failures.into_iter().flatten());
            self.release_places(key);
            self.promises.remove(key);
        }
    }

    /// Has the shell look at what is signalled of a timeline, if it is not about to.
    fn look_at_timeline(&mut self, key: TimelineKey) {
        if self.promises.get(key).is_some_and(|promises| promises.looks == 0) {
            self.look_at_timeline_now(key);
        }
    }

    /// Has the shell look at what is signalled by now, whatever it has looked at before; `false` if nobody signals.
    pub(crate) fn look_at_timeline_now(&mut self, key: TimelineKey) -> bool {
        let Some(promises) = self.promises.get_mut(key) else { return false };
        let Some(Primary { pair, slot, .. }) = promises.primary else { return false };
        // What this step asked for is looked at after it.
        if promises.looks == 0 || promises.looked_in != self.step {
            promises.looks += 1;
            promises.looked_in = self.step;
            self.out.push(Effect::Look { timeline: key, pair, slot });
        }
        true
    }

    /// A promise of a timeline is due.
    pub(crate) fn promise_is_due(&mut self, key: TimelineKey) {
        if let Some(promises) = self.promises.get_mut(key) {
            promises.due = None;
        }
        self.look_at_timeline_now(key);
        self.raise_places(key);
    }

    /// Has what a client signalled shown to all, which is not so if it was stopped between one place and the next.
    pub(crate) fn raise_places(&mut self, key: TimelineKey) {
        let Some(promises) = self.promises.get(key) else { return };
        let Some(Primary { pair, slot, .. }) = promises.primary else { return };
        for shown in promises.shown.iter() {
            let (primary, place) = ((pair, slot), (shown.pair, shown.slot));
            self.out.push(Effect::Raise { timeline: key, primary, place });
        }
    }

    fn arm_promise(&mut self, key: TimelineKey) {
        let Some(promises) = self.promises.get_mut(key) else { return };
        match promises.next_due() {
            Some(due) => self.timers.arm(Timer::Promise(key), &mut promises.due, due),
            None => self.timers.disarm(Timer::Promise(key), &mut promises.due),
        }
    }

    /// Whether a point that a job waits for has ended, as far as the broker knows.
    pub(crate) fn has_ended(&self, timeline: TimelineKey, point: Point) -> bool {
        if is_of_client(timeline) {
            self.promises.get(timeline).is_none_or(|promises| promises.has_passed(point))
        } else {
            crate::pairs::is_done(&self.queues, timeline, point)
        }
    }

    /// The timeline behind a handle, and what the handle allows. The handle of a queue allows to wait for it.
    pub(crate) fn find_timeline(
        &self,
        client: ClientKey,
        handle: TimelineHandle,
    ) -> Result<(TimelineKey, TimelineRights), Refusal> {
        let client = self.find_client(client)?;
        if let Some(queue) = client.queues.get(handle.0) {
            return Ok((*queue, TimelineRights::WAIT));
        }
        let held = client.timelines.get(handle.0).ok_or_else(|| no_such_timeline(handle))?;
        Ok((held.key, held.rights))
    }

    /// The timeline behind a handle that allows to signal.
    fn find_signalled(&self, client: ClientKey, handle: TimelineHandle) -> Result<TimelineKey, Refusal> {
        let (key, rights) = self.find_timeline(client, handle)?;
        let grant = policy::authorise_timeline(key, rights, TimelineRights::SIGNAL)?;
        Ok(grant.timeline())
    }
}

/// The same answer for a timeline that never was, is closed, or is somebody else's.
pub(crate) fn no_such_timeline(handle: TimelineHandle) -> Refusal {
    let text = "this connection has no such timeline or queue";
    Refusal::new(ErrorCode::NoSuchHandle, text).with(u64::from(handle.0), 0)
}

/// A name for people, quoted, with a space before it; nothing if there is none.
pub(crate) fn quoted(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" {name:?}") }
}
