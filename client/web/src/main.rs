//! `vgem-web`: a page that shows a broker as it is now, and its numbers as OpenMetrics.
//!
//! ```text
//!   browsers ──► /, /api/events ──┐
//!   programs ──► /api/state ──────┤                          ┌──► broker, as any client
//!   scrapers ──► /metrics ────────┴──► lookout ── one look ──┤
//!                                      (a second apart)      └──► /proc, what processes do
//! ```
//!
//! A process of its own, without privileges, that only looks: it has no way to change anything, and shows what its own user
//! may see. Whoever reaches its socket sees the same.
//!
//! | module | is |
//! |---|---|
//! | `cli` | the command line |
//! | `listen` | sockets of this machine, and no others |
//! | `serve` | connections, and how many |
//! | `patience` | giving up those who do not read |
//! | `guard` | what every request must be, and every answer says |
//! | `routes` | which path is answered by what |
//! | `lookout` | one look at the broker for all who watch, and none when nobody does |
//! | `broker` | the connection, and a look |
//! | `rates` | what two looks say together |
//! | `seen` | what one look leaves for everybody |
//! | `state` | a look as the page has it |
//! | `picture` | what waits for what, and who is at fault |
//! | `layout` | where the nodes of a graph are drawn |
//! | `metrics` | a look as OpenMetrics |
//!
//! Invariants:
//! - Nobody watches: the broker is asked nothing.
//! - However many watch, the broker is asked once a second at most, and takes a tenth of that.
//! - What peers chose (names) is text everywhere, and never markup.
#![forbid(unsafe_code)]

mod broker;
mod cli;
mod guard;
mod layout;
mod listen;
mod lookout;
mod metrics;
mod patience;
mod picture;
mod rates;
mod routes;
mod seen;
mod serve;

mod state;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match serve::run(&cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error closed, the code says it all.
            drop(writeln!(std::io::stderr(), "vgem-web: {error}"));
            ExitCode::FAILURE
        }
    }
}
