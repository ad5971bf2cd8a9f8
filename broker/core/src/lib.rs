//! The rules of the broker, without I/O. See [`io`] for what goes in and out.
#![forbid(unsafe_code)]
pub mod io;
