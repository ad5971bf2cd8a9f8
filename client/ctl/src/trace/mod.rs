//! A recording of what jobs did, and how it is written.

pub(crate) mod chrome;
mod lanes;
pub(crate) mod recording;
