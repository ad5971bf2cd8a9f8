//! A task's wait: a future over anything that can be waited for.
//!
//! ```text
//!   poll ── ended? ──────────────────────────────────────────────► ready
//!     ├─ something to ask first ─► errand asks, the bridge keeps the deadline ─► wake
//!     └─ pending ─► the bridge sleeps on the bell and keeps the deadline ──────► wake
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use vgem_os::fence::PointState;

use crate::bridge::Ticket;
use crate::deadline::Deadline;
use crate::errand;
use crate::error::FenceError;
use crate::timeline::TimelinePoint;
use crate::waitable::Waitable;
use crate::watch::Watch;

/// A task's wait for a fence.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct FenceWait {
    on: Waitable,
    deadline: Deadline,
    ticket: Option<Ticket>,
    /// The ticket is for the bell as well.
    watches: bool,
    asked: Option<Arc<Asked>>,
}

/// What an errand asks for a task.
#[derive(Debug, Default)]
struct Asked(Mutex<Answer>);

#[derive(Debug, Default)]
struct Answer {
    outcome: Option<Result<(), FenceError>>,
    waker: Option<Waker>,
}

impl FenceWait {
    pub(crate) fn new(on: Waitable, deadline: Deadline) -> Self {
        Self { on, deadline, ticket: None, watches: false, asked: None }
    }

    /// The end of the wait, if it has come.
    fn ended(&self) -> Option<Result<(), FenceError>> {
        match self.on.look() {
            PointState::Pending => {}
            state => return Some(self.on.judge_now(state)),
        }
        if self.on.core().link.check().is_err() {
            return Some(Err(self.on.lost()));
        }
        self.deadline.passed().then(|| Err(self.on.timeout()))
    }

    /// Whether nothing has to be asked, or it has been; an error if that ends the wait.
    fn is_prepared(&mut self, waker: &Waker) -> Result<bool, FenceError> {
        let point = match &self.on {
            Waitable::Point(point) if point.question().is_some() => point,
            _ => {
                self.asked = None;
                return Ok(true);
            }
        };
        let asked = self.asked.get_or_insert_with(|| Asked::ask(point, self.deadline));
        match asked.take(waker) {
            None => Ok(false),
            // One question asked may bring up the next.
            Some(Ok(())) => {
                self.asked = None;
                self.is_prepared(waker)
            }
            Some(Err(error)) => Err(error),
        }
    }

    /// Has the bridge wake this task at its deadline, or for `watch` too.
    fn register(&mut self, watch: Option<Watch>, waker: &Waker) -> Result<(), FenceError> {
        self.watches = watch.is_some();
        let registered = self.on.core().bridge().register(watch, self.deadline, waker);
        self.ticket = Some(registered.map_err(|why| FenceError::BrokerLost { why })?);
        Ok(())
    }

    fn step(&mut self, waker: &Waker) -> Poll<Result<(), FenceError>> {
        self.on.core().void_unused();
        loop {
            if let Some(outcome) = self.ended() {
                return Poll::Ready(outcome);
            }
            let registered = match (self.is_prepared(waker), &self.ticket) {
                (Ok(true), _) if !self.watches => self.register(Some(self.on.watch()), waker),
                (Ok(false), None) => self.register(None, waker),
                (Ok(_), Some(ticket)) => {
                    ticket.renew(waker);
                    return Poll::Pending;
                }
                (Ok(true), None) => self.register(Some(self.on.watch()), waker),
                (Err(error), _) => Err(error),
            };
            // Registered: look once more, the point may have come before.
            if let Err(error) = registered {
                return Poll::Ready(Err(error));
            }
        }
    }
}

impl Future for FenceWait {
    type Output = Result<(), FenceError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let step = self.step(context.waker());
        if step.is_ready() {
            self.ticket = None;
        }
        step
    }
}

impl Asked {
    fn ask(point: &TimelinePoint, deadline: Deadline) -> Arc<Self> {
        let asked = Arc::new(Self::default());
        let (answer, point) = (Arc::clone(&asked), point.clone());
        let core = Arc::clone(&point.timeline.core);
        errand::run(&core, move || answer.tell(point.prepare(deadline)));
        asked
    }

    fn tell(&self, outcome: Result<(), FenceError>) {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answer.outcome = Some(outcome);
        let waker = answer.waker.take();
        drop(answer);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The outcome, once; without one, who is to be woken.
    fn take(&self, waker: &Waker) -> Option<Result<(), FenceError>> {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = answer.outcome.take();
        if outcome.is_none() {
            answer.waker = Some(waker.clone());
        }
        outcome
    }
}
