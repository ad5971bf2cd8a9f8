//! How to write a driver for vgemd.
#![forbid(unsafe_code)]
pub mod engine;
pub mod window;
