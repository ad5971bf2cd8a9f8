//! Loans: giving a buffer to another process, and knowing when it is free again.
//!
//! ```text
//!   lender                                                borrower
//!   a timeline for this loan, SIGNAL passed on ─┐
//!   Export, header, fd ──── any Unix socket ────┴──► borrow: import both ──► Borrowed ── work, jobs
//!   guards wait for the return ◄───────── the release timeline ◄──────────── give_back, drop | it dies
//! ```
//!
//! **Each loan has a release timeline of its own (T4).** Signalling a point of a timeline signals all below it, so with one
//! timeline for several buffers, returning the second would say that the first is returned as well. Who knows that buffers
//! come back in order may save timelines with a [`LoanSeries`]; then returning out of order is refused, with that explanation.
//!
//! The borrower gets the right to signal and nothing else; the lender keeps the right to wait. A borrower that dies ends the
//! loan at once: the lender's waits end with `OwnerDied`, and if the borrower could write, so do reads of what it has left,
//! until the bytes are written anew.
//!
//! While a buffer is lent, guards of the lender wait for its return as they wait for jobs, and jobs of the lender that would
//! get in the borrower's way are refused unless they come after it ([`Loan::release`]).
//!
//! A job of the lender that comes after a loan is unfinished work on the buffer from the moment it is submitted, so ordinary
//! guards of the borrower wait for it, in vain; there the borrower takes them before, or as explicit ones
//! ([`crate::Buffer::write_explicit`]).
//!
//! | module | what |
//! |---|---|
//! | [`lender`] | [`Loan`], [`LoanSeries`], `Buffer::lend` |
//! | [`borrower`] | [`Borrowed`], `Client::borrow` |
//! | [`letter`] | the message between them |

mod borrower;
mod lender;
mod letter;

pub use self::borrower::Borrowed;
pub(crate) use self::borrower::Releases;
#[cfg(feature = "tokio")]
pub(crate) use self::borrower::{Borrowing, begun, borrowed};
#[cfg(feature = "tokio")]
pub(crate) use self::lender::release_of;
pub use self::lender::{Loan, LoanSeries};
#[cfg(feature = "tokio")]
pub(crate) use self::letter::Kind;
