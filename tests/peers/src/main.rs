//! Peers: what others have for handing memory from process to process, run so that benches can compare with it.
//!
//! One run measures one thing and prints one JSON object on stdout: `{"peer": .., "what": .., "samples_ns": [..]}`. The
//! bench beside this crate starts it in turns with its own measurements and does all the statistics. Nothing that ships
//! links this program.
//!
//! | module | peer |
//! |---|---|
//! | [`iox`] | iceoryx2, from Rust; the second process is this program again |
//! | [`plasma`] | Plasma of pyarrow 11, from Python; the script is part of this program |
//!
//! Every wait has an end of five seconds: a peer that hangs is a failed run, not a hung bench.
#![forbid(unsafe_code)]

mod iox;
mod place;
mod plasma;

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Runs a peer and prints how long each round took.
#[derive(Debug, Parser)]
#[command(name = "vgem-peers", version)]
struct Command {
    #[command(subcommand)]
    peer: Peer,
}

#[derive(Debug, Subcommand)]
enum Peer {
    /// iceoryx2.
    Iceoryx2 {
        /// What to measure.
        #[arg(value_enum)]
        what: iox::What,
        #[command(flatten)]
        rounds: Rounds,
    },
    /// Plasma.
    Plasma {
        /// What to measure.
        #[arg(value_enum)]
        what: plasma::What,
        /// A Python that has `pyarrow.plasma`.
        #[arg(long)]
        python: PathBuf,
        #[command(flatten)]
        rounds: Rounds,
    },
    /// The second process of an iceoryx2 run.
    #[command(hide = true)]
    Iceoryx2Consumer {
        /// The run's own name.
        name: String,
        /// Rounds.
        count: u64,
        /// Sleep between rounds, or spin.
        #[arg(long)]
        spin: bool,
        /// Only answer events.
        #[arg(long)]
        events: bool,
    },
    /// The second process of an untouched iceoryx2 run.
    #[command(hide = true)]
    Iceoryx2Untouched {
        /// The run's own name.
        name: String,
        /// Rounds.
        count: u64,
    },
    /// A later stage of an iceoryx2 pipeline.
    #[command(hide = true)]
    Iceoryx2Stage {
        /// The run's own name.
        name: String,
        /// Which stage.
        #[arg(value_enum)]
        place: iox::stages::Place,
        /// Frames.
        count: u64,
        /// Bytes of a frame.
        bytes: usize,
    },
}

/// How often, and where.
#[derive(Debug, Clone, clap::Args)]
struct Rounds {
    /// Rounds that are printed; a tenth more is run before them.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Bytes handed over per round.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: usize,
    /// Cores of the first process, as `0` or `0,1`.
    #[arg(long)]
    here: Option<String>,
    /// Cores of the second process.
    #[arg(long)]
    there: Option<String>,
}

impl Rounds {
    /// Rounds that are run but not printed.
    fn warm_up(&self) -> u64 {
        self.count / 10
    }
}

fn main() -> anyhow::Result<()> {
    let (peer, what, samples) = match Command::parse().peer {
        Peer::Iceoryx2 { what, rounds } => ("iceoryx2", format!("{what:?}"), iox::measure(what, &rounds)?),
        Peer::Plasma { what, python, rounds } => {
            ("plasma", format!("{what:?}"), plasma::measure(what, &python, &rounds)?)
        }
        Peer::Iceoryx2Consumer { name, count, spin, events } => {
            return iox::consume(&name, count, spin, events);
        }
        Peer::Iceoryx2Untouched { name, count } => return iox::untouched::consume(&name, count),
        Peer::Iceoryx2Stage { name, place, count, bytes } => {
            return iox::stages::serve(&name, place, count, bytes);
        }
    };
    let document = serde_json::json!({ "peer": peer, "what": what, "samples_ns": samples });
    writeln!(std::io::stdout().lock(), "{document}").context("cannot write to stdout")
}
