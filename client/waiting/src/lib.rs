//! Who waits for whom: the broker's obligations as a graph, and the way from a waiter to what holds it up.
//!
//! ```text
//!   client ──► job 12 on sec ──► job 7 on zip ──► driver zip, process 4711
//!                    │
//!                    └────────► point 5, promised by client 9 ──► client 9, process 4712
//! ```
//!
//! | module | is |
//! |---|---|
//! | `asked` | what a question is about |
//! | `graph` | the entries, their edges, and the search |
//! | `restart` | devices that are being started, and since when |
//! | `words` | a way through it, in words |
//! | `dot` | all of it, as a picture |
//! | `process` | what a process does |
//! | `human` | numbers and texts as people read them |
//! | `test_support` | what tests begin with, for tests alone |
//!
//! The entries were not taken at one moment. A point that one entry waits for and that has no entry has ended meanwhile, so
//! such an edge is left out; whoever waits only for such points is about to move.
#![forbid(unsafe_code)]

pub mod asked;
pub mod dot;
pub mod graph;
pub mod human;
pub mod process;
pub mod restart;
#[cfg(any(test, feature = "test-support"))]
pub mod test_support;
pub mod words;
