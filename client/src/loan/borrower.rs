//! The borrower's side: what came on loan, and giving it back.
//!
//! A loan is given back once this client's own jobs on the buffer have ended; what other clients of the lender do with it is
//! theirs to know. Of a series, the release timeline is kept for as long as a clone of the client lives, and points are
//! signalled in order: a loan that is *dropped* early is signalled when all before it are back, one that is *given back* early is
//! refused.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{CauseId, Point};
use vgem_proto::rights::Access;

use super::letter::{Kind, LEN, Letter};
use crate::adopt::NotDone;
use crate::buffer::Buffer;
use crate::client::Client;
use crate::deadline::Deadline;
use crate::errand;
use crate::error::{LocalError, Result};
use crate::ledger::Waiting;
use crate::timeline::{Timeline, TimelineToken};
use crate::transfer::{self, Received, TransferError};
use crate::waitable::Waitable;

/// Series whose release timelines are kept; beyond it the one that was used longest ago is given up.
const SERIES: usize = 256;
/// Most loans of a series that may be missing before one that came.
const MISSING: u64 = 1024;
/// How long a thread that panics waits for a cause.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A buffer on loan. Dropping it gives it back, once this client's jobs on it have ended; if the thread panics the loan ends
/// with `DriverFault` instead.
#[derive(Debug)]
pub struct Borrowed {
    /// There until it is given back.
    received: Option<Box<Received>>,
    release: Arc<Release>,
    point: Point,
}

/// A release timeline and the loans that it is for.
#[derive(Debug)]
pub(crate) struct Release(Mutex<Loans>);

#[derive(Debug)]
struct Loans {
    timeline: Timeline,
    /// The last loan that came.
    last: Point,
    /// Loans that are not back, those that have not come yet among them.
    out: BTreeSet<Point>,
    /// The last loan that is back and was not signalled, because an earlier one is out.
    back: Point,
}

/// The release timelines of series, by token.
#[derive(Debug, Default)]
pub(crate) struct Releases(Mutex<VecDeque<(TimelineToken, Arc<Release>)>>);

/// A loan that has come, and is not imported yet.
#[derive(Debug)]
pub(crate) struct Borrowing {
    pub(crate) letter: Letter,
    pub(crate) fd: OwnedFd,
}

impl Borrowed {
    /// The buffer. Its guards wait for what the lender had submitted.
    #[must_use]
    pub fn buffer(&self) -> &Buffer {
        self
    }

    /// What the lender calls it: an allegation, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.there().name
    }

    /// What it is lent for.
    #[must_use]
    pub fn access(&self) -> Access {
        self.there().access
    }

    /// Promises that it is given back by then, so that jobs of the lender may come after it, if it is of the same domain.
    ///
    /// # Errors
    /// As [`Timeline::promise`].
    pub fn promise(&self, by: impl Into<Deadline>) -> Result<()> {
        self.release.loans().timeline.promise(self.point, by).map(drop)
    }

    /// Gives it back. Waits for this client's jobs on it, at most until the deadline.
    ///
    /// # Errors
    /// Gives it to the caller again, with [`crate::Error::Timeout`] if a job has not ended; [`LocalError::OutOfOrder`] if it is of a
    /// series and an earlier loan of that is not back; [`crate::Error::Job`] if the loan is over, as its promise was not kept.
    pub fn give_back(self, deadline: impl Into<Deadline>) -> Result<(), NotDone<Self>> {
        let deadline = deadline.into();
        while let Some(job) = self.unfinished() {
            if let Err(error) = job.wait_out(deadline) {
                return Err(NotDone::with(self, error));
            }
        }
        self.give_back_now()
    }

    /// Ends the loan badly: the lender is told the code, and a cause that says `text`.
    ///
    /// # Errors
    /// Gives it to the caller again, as [`Borrowed::give_back`] without waiting; as every request.
    pub fn fail(mut self, code: ErrorCode, text: &str) -> Result<(), NotDone<Self>> {
        if let Err(error) = self.release.fail(self.point, code, text, None) {
            return Err(NotDone::with(self, error));
        }
        self.received = None;
        Ok(())
    }

    /// A job of this client that uses the buffer and has not ended.
    pub(crate) fn unfinished(&self) -> Option<Waitable> {
        self.shared().ledger.own_job()
    }

    /// Gives it back, whatever jobs there are.
    pub(crate) fn give_back_now(mut self) -> Result<(), NotDone<Self>> {
        if let Err(error) = self.release.give_back(self.point) {
            return Err(NotDone::with(self, error));
        }
        self.received = None;
        Ok(())
    }

    fn there(&self) -> &Received {
        self.received.as_ref().expect("it is there until it is given back")
    }
}

impl Deref for Borrowed {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        &self.there().buffer
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let Some(received) = self.received.take() else { return };
        let (release, point) = (Arc::clone(&self.release), self.point);
        if std::thread::panicking() {
            let code = ErrorCode::DriverFault;
            if release.fail(point, code, "its borrower panicked", Some(LAST_WORDS)).is_err() {
                release.let_go(point);
            }
            return;
        }
        let buffer = received.buffer;
        match buffer.shared().ledger.own_job() {
            None => release.let_go(point),
            Some(_) => {
                let core = Arc::clone(&buffer.shared().core);
                errand::run(&core.clone(), move || {
                    while let Some(job) = buffer.shared().ledger.own_job() {
                        // Every job ends; one that does not in time is the lender's to wait for, by the buffer.
                        if job.wait_out(core.deadline()).is_err() {
                            break;
                        }
                    }
                    release.let_go(point);
                });
            }
        }
    }
}

impl Release {
    pub(crate) fn of(timeline: Timeline) -> Arc<Self> {
        let loans = Loans { timeline, last: Point(0), out: BTreeSet::new(), back: Point(0) };
        Arc::new(Self(Mutex::new(loans)))
    }

    /// A loan came. Those before it that did not come yet are out, too.
    fn take(&self, point: Point) -> Result<(), TransferError> {
        let mut loans = self.loans();
        if point > loans.last {
            if point.0 - loans.last.0 > MISSING {
                return Err(TransferError::Field { field: "point", value: point.0 });
            }
            let came = loans.last.0 + 1..=point.0;
            loans.out.extend(came.map(Point));
            loans.last = point;
        } else if !loans.out.contains(&point) {
            return Err(TransferError::Field { field: "point", value: point.0 });
        }
        Ok(())
    }

    fn give_back(&self, point: Point) -> Result<()> {
        let mut loans = self.loans();
        loans.check(point)?;
        loans.out.remove(&point);
        loans.signal(point)
    }

    fn fail(&self, point: Point, code: ErrorCode, text: &str, patience: Option<Duration>) -> Result<()> {
        let mut loans = self.loans();
        loans.check(point)?;
        let failed = match patience {
            None => loans.timeline.fail(point, code, text),
            // The last words of a thread: without a cause, if there is none to be had.
            Some(patience) => loans
                .timeline
                .fail_until(point, code, text, patience)
                .or_else(|_| loans.timeline.fail_with(point, code, CauseId::NONE)),
        };
        failed.inspect(|()| {
            loans.out.remove(&point);
        })
    }

    /// A loan was dropped: it is signalled as soon as all before it are back.
    fn let_go(&self, point: Point) {
        let mut loans = self.loans();
        loans.out.remove(&point);
        // Refused only if the loan is over, of which the lender has heard.
        drop(loans.signal(point));
    }

    fn loans(&self) -> MutexGuard<'_, Loans> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Loans {
    /// Whether a loan may be returned now (T4).
    fn check(&self, point: Point) -> Result<(), LocalError> {
        match self.out.first() {
            Some(first) if *first < point => {
                Err(LocalError::OutOfOrder { series: self.timeline.name().into(), point, first: *first })
            }
            _ => Ok(()),
        }
    }

    /// Signals the last loan below all that are out, if it is not yet.
    fn signal(&mut self, point: Point) -> Result<()> {
        self.back = self.back.max(point);
        let before = self.out.first().map_or(self.back, |first| Point(first.0 - 1).min(self.back));
        if before > self.timeline.signalled() {
            self.timeline.signal(before)?;
        }
        Ok(())
    }
}

impl Releases {
    /// That of a series, if it came before.
    pub(crate) fn known(&self, letter: &Letter) -> Option<Arc<Release>> {
        if letter.kind == Kind::Single {
            return None;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = all.iter().position(|(token, _)| *token == letter.token)?;
        let found = all.remove(place)?;
        let release = Arc::clone(&found.1);
        all.push_back(found);
        Some(release)
    }

    /// The first loan of a series came.
    fn keep(&self, letter: &Letter, release: &Arc<Release>) {
        if letter.kind == Kind::Single {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SERIES {
            all.pop_front();
        }
        all.push_back((letter.token, Arc::clone(release)));
    }
}

impl Borrowing {
    /// The next one that comes over a socket.
    pub(crate) fn receive(socket: impl AsFd, deadline: Deadline, wanted: impl Fn() -> bool) -> Result<Self> {
        let (bytes, fd) = transfer::receive_message::<LEN>(socket.as_fd(), deadline, wanted)?;
        Ok(Self { letter: Letter::decode(&bytes)?, fd })
    }
}

/// A loan whose release timeline was imported.
pub(crate) fn begun(releases: &Releases, letter: &Letter, timeline: Timeline) -> Arc<Release> {
    let release = Release::of(timeline);
    releases.keep(letter, &release);
    release
}

/// A loan whose memory was imported, too.
pub(crate) fn borrowed(letter: Letter, release: Arc<Release>, buffer: Buffer) -> Result<Borrowed> {
    let Letter { header, point, .. } = letter;
    release.take(point)?;
    let received = header.received(buffer).inspect_err(|_| release.let_go(point))?;
    Ok(Borrowed { received: Some(Box::new(received)), release, point })
}

impl Client {
    /// The next buffer that another process lends over `socket` ([`Buffer::lend`]). The lender gets it back when it is given
    /// back, or dropped, or this process dies.
    ///
    /// # Errors
    /// [`crate::Error::Transfer`] if something else comes; [`crate::Error::Timeout`]; as [`Client::import_timeline`] and
    /// [`Client::import_with`].
    pub fn borrow(&self, socket: impl AsFd, deadline: impl Into<Deadline>) -> Result<Borrowed> {
        let Borrowing { letter, fd } = Borrowing::receive(socket, deadline.into(), || true)?;
        let release = match self.releases().known(&letter) {
            Some(release) => release,
            None => begun(self.releases(), &letter, self.import_timeline(letter.token)?),
        };
        let buffer = self.import_with(fd, &letter.header.options())?;
        buffer.observe(Access::Read, Waiting::Until(self.core().deadline()))?;
        borrowed(letter, release, buffer)
    }
}
