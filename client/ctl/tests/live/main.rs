//! The command with a broker that is real, and the processes it is asked about.
//!
//! Needs `vgemd` and the drivers, as `cargo xtask test` builds them, and graphviz; without them it fails and says where it
//! looked.

#![forbid(unsafe_code)]

mod domain;
mod examples;
mod monitor;
mod support;
mod top;
mod trace;
mod who;
mod why;
