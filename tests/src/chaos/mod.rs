//! Chaos: processes that work together on one daemon, one of which is struck at a random moment.
//!
//! ```text
//!            domain A                                            domain B
//!   producer ──copy──► zip ──► sec ──┐                  bystander ──copy──► zip
//!            (one batch, 100 ms each) │
//!   consumer ◄── the sealed buffer ───┘ by a porter
//!   stage    ─── a point that the last job waits for
//! ```
//!
//! A **round** is: everything is repaired and ready; all actors are told to go; after a random time one process is
//! struck; every wait that an actor began is told as a [`Record`]: when it began, when it ended, how. The [`judge`]
//! holds each of them to what that blow may do to it, and to the moment by which it must be known.
//!
//! | module | what |
//! |---|---|
//! | [`words`] | what is said between the arena and its actors |
//! | [`players`] | what actors do; the program is `vgem-test-actor` |
//! | [`actor`] | an actor's process, as the arena has it |
//! | [`arena`] | the daemon and all actors; rounds |
//! | [`blow`] | who is struck, how, when |
//! | [`judge`] | what may come of it, and by when |
//! | [`pressure`] | how long processes of the machine waited for a core |
//! | [`account`] | what a run of many rounds was like |

pub mod account;
pub mod actor;
pub mod arena;
pub mod blow;
pub mod judge;
pub mod players;
pub mod pressure;
pub mod words;

pub use self::words::Record;
