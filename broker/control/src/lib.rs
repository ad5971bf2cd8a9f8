//! Control: the broker on a message bus, as `org.vgemd.Broker1`.
//!
//! ```text
//!   caller ── call ──► bus ──► control ── OpenSession{uid, pid} ──► broker
//!                       │         ▲                                   │
//!                       └─ who? ──┘ uid, pid        session ◄─────────┘   one per caller, of the caller's own user
//! ```
//!
//! A program of its own, without privileges, that the keeper starts and starts again. It has no rights but one: over its
//! link to the broker it opens sessions for callers, and for those who may administer sessions that do. Who a caller is, the bus says (M-208). Everything else is a request of
//! the caller's own session, by the library that every client uses: the broker charges, limits and refuses as if the caller
//! had connected itself. No payload goes over the bus: memory goes as fds.
//!
//! | module | what |
//! |---|---|
//! | `link` | the link to the broker |
//! | `callers` | who calls, and how often it may |
//! | `pace` | how often somebody may do something |
//! | `answers` | what a user that asks without end is told again |
//! | `sessions` | what control holds for a caller: buffers, queues, jobs |
//! | `domains` | domains that are made over the bus |
//! | `polkit` | who may administer over the bus |
//! | `manager` | `/org/vgemd/Broker1`: the methods |
//! | `objects` | `/org/vgemd/Broker1/*`: devices, clients, domains, with their properties |
//! | `tree` | keeping those objects as the broker is, driven by its events |
//! | `why` | what a job waits for |
//! | `error` | errors `org.vgemd.Error.*` |
//! | `options` | the `a{sv}` at the end of methods |
//! | `serve` | one bus connection after the other |
//! | `peers` | callers without a bus |
//!
//! Invariants:
//! - What only who administers may do is done in a session for that one call, after the caller was found to be root or was
//!   let by polkit.
//! - Nothing that a call says decides whose session it uses.
//! - Clients and domains are objects on the bus only where the daemon serves one user, and the bus is not the system's:
//!   what is broadcast is for everybody to hear.
//! - When a caller leaves the bus, or the bus goes, its session ends, and with it all it holds.
//! - It ends when the broker does. When the bus ends it tries again.
#![forbid(unsafe_code)]

mod answers;
mod callers;
mod domains;
mod error;
mod link;
mod manager;
mod objects;
mod options;
mod pace;
mod peers;
mod polkit;
mod serve;
mod sessions;
mod tree;
mod values;
mod why;

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tracing::{debug, error};
use tracing_subscriber::EnvFilter;
use vgem_os::confine::{self, Demand};
use vgem_os::lines::Lines;
use vgem_os::seqpacket::Socket;
use vgem_os::{OsError, process};

use self::serve::Way;

pub use self::manager::introspect;

/// The number under which the link to the broker is found.
const LINK: i32 = 3;
/// The number under which the socket for peers is found.
const PEERS: i32 = 4;
/// The name on the bus.
pub const NAME: &str = "org.vgemd.Broker1";
/// The path of the manager, and what all others begin with.
pub const PATH: &str = "/org/vgemd/Broker1";

/// The front of vgemd on a message bus; started by vgemd.
#[derive(Debug, Clone, Parser)]
#[command(name = "vgem-control", version)]
struct Cli {
    /// Address of the bus
    #[arg(long, default_value = "")]
    address: String,
    /// No bus: callers connect to the socket that is fd 4
    #[arg(long)]
    peers: bool,
    /// The daemon serves one user, and so does the bus: show clients and domains as objects
    #[arg(long)]
    one_user: bool,
    /// The bus is the system's: polkit, if it is there, says who else than root administers
    #[arg(long)]
    polkit: bool,
    /// Print the introspection data of what is served, and end
    #[arg(long)]
    introspect: bool,
    /// What to log, as vgemd has it
    #[arg(long, default_value = "info")]
    log: String,
}

/// Runs the program with these arguments (the first is the program's own name) to its end.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // A closed standard output does not change what the command line was.
            drop(e.print());
            return if e.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    if cli.introspect {
        // A closed standard output has nobody to tell.
        drop(std::io::stdout().write_all(introspect().as_bytes()));
        return ExitCode::SUCCESS;
    }
    let Ok(lines) = Lines::to_stderr() else { return ExitCode::FAILURE };
    let started = tracing_subscriber::fmt()
        .compact()
        .with_env_filter(EnvFilter::try_new(&cli.log).unwrap_or_default())
        .with_writer(Arc::new(lines))
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    if started.is_err() {
        return ExitCode::FAILURE;
    }
    match control(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            error!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn control(cli: &Cli) -> Result<(), Ended> {
    let link = Socket::from(process::inherited(LINK)?);
    let way = match cli.peers {
        true => Way::Peers(process::inherited(PEERS)?.into()),
        false => Way::Bus(cli.address.clone(), cli.polkit),
    };
    // Before the first other thread, and before a word from anybody.
    let confined = confine::control(Demand::BestEffort)?;
    debug!("{confined:?}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .map_err(Ended::Runtime)?;
    runtime.block_on(serve::serve(link, way, cli.one_user))
}

/// Why control ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// The kernel refused something.
    #[error(transparent)]
    System(#[from] OsError),
    /// No runtime.
    #[error("no runtime: {0}")]
    Runtime(std::io::Error),
    /// The broker's end of the link is closed, or cannot be used.
    #[error("the broker is gone: {0}")]
    Broker(String),
}
