//! What tests over real processes share: finding the programs, running tools, looking at processes.
//!
//! Everything here panics with a sentence instead of returning an error: a test has nobody to give it to.
#![forbid(unsafe_code)]

pub mod attacker;
pub mod audit;
pub mod bus;
pub mod cgroups;
pub mod chance;
pub mod chaos;
pub mod daemon;
pub mod dag;
pub mod honest;
pub mod polkit;
pub mod processes;
pub mod programs;
pub mod raw;
pub mod reach;
pub mod samples;
pub mod stranger;
pub mod strangers;
