//! The broker's rules in virtual time, against a shell, a kernel and drivers made of plain data.
//!
//! `world` is the stage: it carries out every effect and holds drivers to the wire's rules while it does. Each
//! module tests the rules of one chapter of SEMANTICS, each test is named after the rule it shows; `model` runs
//! random histories against a naive oracle.

#![forbid(unsafe_code)]

mod admin;
mod batch;
mod causes;
mod credits;
mod deadlines;
mod deadlocks;
mod deaths;
mod domains;
mod doormen;
mod driver;
mod failures;
mod host_waits;
mod hostile;
mod imports;
mod instances;
mod jobs;
mod lifetime;
mod model;
mod obligations;
mod observers;
mod oracle;
mod outcomes;
mod own;
mod policies;
mod priorities;
mod quotas;
mod refusals;
mod reservations;
mod rings;
mod sealed;
mod sessions;
mod several;
mod signals;
mod succession;
mod timelines;
mod timelines_torn;
mod tracing;
mod wire;
mod world;
