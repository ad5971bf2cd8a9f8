//! The words two vgem processes agree on: ids, rights, limits, error codes, messages, codec and layouts.
//!
//! This crate does no I/O and has no unsafe code. SPEC.md beside it is the normative text; the tables in
//! [`message`] and [`layout`] are what the programs use, and tests hold the two together.
//!
//! | module | what |
//! |---|---|
//! | [`ids`] | handles, keys, points, causes, moments |
//! | [`rights`] | rights of handles, ways of access |
//! | [`limits`] | what a message may hold |
//! | [`error`] | error codes, refusals, failures |
//! | [`codec`] | records, arrays, the size-first rule |
//! | [`jobs`] | the records of a batch |
//! | [`message`] | the tables of the three links |
//! | [`domains`] | names, numbers and quotas of domains |
//! | [`describe`] | how a device describes itself |
//! | [`snapshot`] | the broker's state for tools |
//! | [`user_queue`] | the records of a user queue: entries, blocks, completions |
//! | [`layout`] | fence page, interest page, result cell, user queue |
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

pub mod codec;
pub mod describe;
pub mod domains;
pub mod error;
pub mod ids;
pub mod jobs;
pub mod layout;
pub mod limits;
pub mod message;
pub mod rights;
pub mod snapshot;
pub mod user_queue;

/// The protocol version this crate speaks.
pub const VERSION: u16 = 1;
