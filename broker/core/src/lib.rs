//! The rules of the broker, without I/O. See [`io`] for what goes in and out.
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::wildcard_enum_match_arm)]
pub mod broker;
pub mod config;
pub mod io;
pub mod snapshot;

pub use broker::Broker;
pub use config::Config;
