//! The rules of the broker, without I/O.
//!
//! [`Broker::apply`] is the only way in and out: an [`io::Input`] goes in, with the time, and the
//! [`io::Effect`]s that the shell must carry out come back in order. There is no clock in here, no randomness, no
//! fd, no thread, no lock and nothing that waits: the same inputs always give the same effects, so everything can
//! be tested in virtual time.
//!
//! What lives in here is in tables of keys with generations; what it costs is charged to a domain; what it may
//! do is granted by policy. Requests are handled in five steps: find, authorise, charge, change, reply. Nothing
//! can fail once *change* has begun. The module [`broker`] says where to find what.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]

mod accounts;
mod admin;
mod answers;
mod awaiting;
mod batch;
mod blame;
pub mod broker;
mod causes;
mod check;
mod clients;
mod commits;
mod complete;
pub mod config;
mod creations;
mod credits;
mod cycles;
mod deadlines;
mod devices;
mod domains;
mod doormen;
mod drivers;
mod due;
mod gates;
mod holdings;
mod host_waits;
mod import;
mod invariants;
pub mod io;
mod objects;
mod observe;
mod opening;
mod outcomes;
mod own;
mod pairs;
mod passing;
mod policy;
mod porters;
mod priority;
mod promises;
mod queries;
mod queues;
mod ranges;
mod requests;
mod reservation;
mod retire;
mod rings;
mod runs;
mod sent;
mod showing;
pub mod snapshot;
mod spares;
mod submit;
mod succession;
mod tables;
mod teardown;
mod text;
mod timelines;
mod tracing;

pub use accounts::Usage;
pub use broker::Broker;
pub use config::Config;
