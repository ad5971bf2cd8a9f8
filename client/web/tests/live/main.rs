//! The page server with a broker that is real, asked by programs that nobody here wrote: curl, a parser of OpenMetrics, a browser.
//!
//! Needs `vgemd` and the drivers, as `cargo xtask test` builds them, and what it installs.

#![forbid(unsafe_code)]

mod browser;
mod http;
mod metrics;
mod page;
mod support;
