//! Timelines of clients in random histories: made, promised, signalled or not, passed on, observed, waited for by jobs,
//! closed and left; and jobs that wait for what is not submitted yet.
//!
//! What a job has to wait for besides is the oracle's business. Here it is held against the history that every gate
//! reaches its driver, that nobody is told a place twice (the stage sees to that), and at the end that all of it comes back.

use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::message::client::{
    ClientMessage, CloseTimeline, CreateTimeline, ExportTimeline, FailPoint, ImportTimeline, ObserveTimeline,
    Promise, QueryPoint, TakeShown, TimelineOpened,
};
use vgem_proto::rights::{TimelineRights, WaitKind};

use super::Model;
use crate::batch::Batch;
use crate::world::MS;

/// A timeline as a member knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stage {
    handle: TimelineHandle,
    key: TimelineKey,
    rights: TimelineRights,
}

/// What a job waits for besides the points of its client's queues that were submitted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gated {
    pub(crate) timeline: TimelineKey,
    pub(crate) point: Point,
}

impl Model {
    /// Something with timelines of clients.
    pub(super) fn promise_something(&mut self) {
        let Some(place) = self.some_member() else { return };
        let link = self.members[place].link;
        match self.dice.below(12) {
            0 | 1 => {
                let made = self.world.ask(link, CreateTimeline { name: b"stage".to_vec() });
                self.opened(place, made);
            }
            2..=4 => self.promise(place),
            5 | 6 => self.signal(place),
            7 => self.pass_on(place),
            8 => self.observe_stage(place),
            9 => self.close_stage(place),
            10 => self.fail_point(place),
            _ => {
                let answer = self.world.ask(link, TakeShown {});
                assert!(self.is_fine(answer.as_ref()), "{answer:?}");
            }
        }
    }

    fn is_fine(&self, answer: Option<&ClientMessage>) -> bool {
        !matches!(answer, Some(ClientMessage::Refused(refused)) if refused.code != ErrorCode::Exhausted)
    }

    fn opened(&mut self, place: usize, answer: Option<ClientMessage>) {
        match answer {
            Some(ClientMessage::TimelineOpened(TimelineOpened { timeline: handle, key, rights, .. })) => {
                self.members[place].stages.push(Stage { handle, key, rights });
                self.promises += 1;
            }
            other => assert!(self.is_fine(other.as_ref()), "{other:?}"),
        }
    }

    fn some_stage(&mut self, place: usize, rights: TimelineRights) -> Option<Stage> {
        let stages: Vec<Stage> =
            self.members[place].stages.iter().filter(|s| s.rights.contains(rights)).copied().collect();
        self.dice.pick(&stages)
    }

    fn promise(&mut self, place: usize) {
        let Some(stage) = self.some_stage(place, TimelineRights::SIGNAL) else { return };
        let value = self.world.truth.value.get(&stage.key).copied().unwrap_or_default();
        let point = Point(value.0 + self.dice.below(4));
        let until = self.world.now.after((1 + self.dice.below(800)) * MS);
        let promise = Promise { timeline: stage.handle, point, until };
        let request = self.world.send(self.members[place].link, promise, 0, Time(0));
        if let Some(ClientMessage::Refused(refused)) = self.world.answer_to(request).map(|r| r.message) {
            let known = matches!(refused.code, ErrorCode::BadPoint | ErrorCode::Gone | ErrorCode::Exhausted);
            assert!(known, "{refused:?}");
        }
    }

    /// Signals some points, as long as nobody has ended the timeline.
    fn signal(&mut self, place: usize) {
        let Some(stage) = self.some_stage(place, TimelineRights::SIGNAL) else { return };
        if self.world.truth.dead_from.contains_key(&stage.key) {
            return;
        }
        let most = self.dice.below(3);
        if let Some(value) = self.world.truth.value.get_mut(&stage.key) {
            value.0 += 1 + most;
        }
    }

    fn fail_point(&mut self, place: usize) {
        let Some(stage) = self.some_stage(place, TimelineRights::SIGNAL) else { return };
        let point = self.world.truth.value.get(&stage.key).copied().unwrap_or_default().next();
        let (timeline, code, text) = (stage.handle, ErrorCode::CorruptInput, b"bad frame".to_vec());
        let fail = FailPoint { timeline, point, code, reserved: Zero, text };
        match self.world.ask(self.members[place].link, fail) {
            Some(ClientMessage::CauseIssued(issued)) => {
                let failure = Failure { code, cause: issued.cause };
                self.world.truth.failures.insert((stage.key, point), failure);
                self.world.truth.value.insert(stage.key, point);
            }
            Some(ClientMessage::Refused(refused)) => assert_eq!(refused.code, ErrorCode::BadPoint),
            other => panic!("{other:?}"),
        }
    }

    /// Exports a right; somebody imports it, or nobody.
    fn pass_on(&mut self, place: usize) {
        let Some(stage) = self.some_stage(place, TimelineRights::empty()) else { return };
        let rights =
            if self.dice.one_in(3) { TimelineRights::SIGNAL } else { TimelineRights::WAIT } & stage.rights;
        let export = ExportTimeline { timeline: stage.handle, rights, reserved: Zero };
        let token = match self.world.ask(self.members[place].link, export) {
            Some(ClientMessage::TimelineExported(exported)) => Some(exported.token),
            // It takes its time.
            None => None,
            Some(ClientMessage::Refused(refused)) => {
                let known =
                    matches!(refused.code, ErrorCode::Busy | ErrorCode::Denied | ErrorCode::Exhausted);
                return assert!(known, "{refused:?}");
            }
            Some(other) => panic!("{other:?}"),
        };
        if rights.contains(TimelineRights::SIGNAL) {
            let stages = &mut self.members[place].stages;
            if let Some(own) = stages.iter_mut().find(|own| own.handle == stage.handle) {
                own.rights.remove(TimelineRights::SIGNAL);
            }
        }
        let Some(token) = token.filter(|_| !self.dice.one_in(5)) else { return };
        let Some(to) = self.some_member() else { return };
        match self.world.ask(self.members[to].link, ImportTimeline { token }) {
            Some(ClientMessage::Refused(refused)) => {
                assert!(matches!(refused.code, ErrorCode::Exhausted | ErrorCode::Gone), "{refused:?}");
            }
            answer => self.opened(to, answer),
        }
    }

    fn observe_stage(&mut self, place: usize) {
        let Some(stage) = self.some_stage(place, TimelineRights::WAIT) else { return };
        let link = self.members[place].link;
        let answer = self.world.ask(link, ObserveTimeline { timeline: stage.handle });
        if let Some(ClientMessage::Refused(refused)) = answer {
            use ErrorCode as E;
            assert!(matches!(refused.code, E::Exhausted | E::Gone | E::NotReady | E::Busy), "{refused:?}");
        }
        let query = QueryPoint { timeline: stage.handle, point: Point(1 + self.dice.below(9)) };
        let until = if self.dice.one_in(3) { self.world.now.after(50 * MS) } else { Time(0) };
        self.world.send(link, query, 0, until);
    }

    fn close_stage(&mut self, place: usize) {
        let Some(stage) = self.some_stage(place, TimelineRights::empty()) else { return };
        self.members[place].stages.retain(|other| other.handle != stage.handle);
        let closed = self.world.ask(self.members[place].link, CloseTimeline { timeline: stage.handle });
        assert!(matches!(closed, Some(ClientMessage::Done(_))), "{closed:?}");
    }

    /// Lets the job that was begun last wait for a promise, or for a point that is still to come.
    pub(super) fn random_gates(&mut self, place: usize, batch: Batch) -> (Batch, Vec<Gated>) {
        let Some(stage) = self.some_stage(place, TimelineRights::WAIT).filter(|_| self.dice.one_in(6)) else {
            return (batch, Vec::new());
        };
        let value = self.world.truth.value.get(&stage.key).copied().unwrap_or_default();
        let point = Point(value.0 + self.dice.below(4));
        let until = (!self.dice.one_in(4)).then(|| self.world.now.after((1 + self.dice.below(300)) * MS));
        let kind = if self.dice.one_in(2) { WaitKind::Data } else { WaitKind::Order };
        (batch.waits_for(stage.handle, point.0, kind, until), vec![Gated { timeline: stage.key, point }])
    }
}
