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
use crate::timeline::{Answer, TimelinePoint, Tries};
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
    tries: Tries,
    /// When to ask again.
    ask_at: Option<Deadline>,
}

/// What an errand asks for a task.
#[derive(Debug, Default)]
struct Asked(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    outcome: Option<Result<Answer, FenceError>>,
    waker: Option<Waker>,
}

impl FenceWait {
    pub(crate) fn new(on: Waitable, deadline: Deadline) -> Self {
        Self {
            on,
            deadline,
            ticket: None,
            watches: false,
            asked: None,
            tries: Tries::default(),
            ask_at: None,
        }
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
        if self.ask_at.is_some_and(|moment| !moment.passed()) {
            return Ok(false);
        }
        let asked = self.asked.get_or_insert_with(|| Asked::ask(point, self.deadline));
        let Some(outcome) = asked.take(waker) else { return Ok(false) };
        self.asked = None;
        match outcome? {
            // Unless there is another question after all.
            Answer::Ready => self.is_prepared(waker),
            Answer::Later(error) => {
                self.ask_at = Some(Deadline::after(self.tries.again(error)?));
                // The ticket is for the deadline, which is later.
                self.ticket = None;
                Ok(false)
            }
        }
    }

    /// Has the bridge wake this task at its deadline, or for `watch` too.
    fn register(&mut self, watch: Option<Watch>, waker: &Waker) -> Result<(), FenceError> {
        self.watches = watch.is_some();
        let until = self.ask_at.filter(|moment| !moment.passed()).unwrap_or(self.deadline);
        let registered = self.on.core().bridge().register(watch, until.min(self.deadline), waker);
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
        errand::run(&core, move || {
            answer.tell(point.inquire(deadline.min(point.timeline.core.deadline())));
        });
        asked
    }

    fn tell(&self, outcome: Result<Answer, FenceError>) {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answer.outcome = Some(outcome);
        let waker = answer.waker.take();
        drop(answer);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The outcome, once; without one, who is to be woken.
    fn take(&self, waker: &Waker) -> Option<Result<Answer, FenceError>> {
        let mut answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = answer.outcome.take();
        if outcome.is_none() {
            answer.waker = Some(waker.clone());
        }
        outcome
    }
}
