//! vgemd, as the benches use it: an embedded broker, its processes, and small jobs made ready.
//!
//! Everything here goes through the public client library. What a bench measures is what a program would do that cares
//! for speed: operations and operands resolved before, one batch reused, fences waited for one by one.

mod both_ways;
pub mod copies;
pub mod deaths;
pub mod domains;
mod fills;
pub mod flood;
pub mod handed;
mod partner;
mod pool;
mod processes;
mod raw;
mod relay;
pub mod stages;
mod traced;

use std::time::Duration;

use anyhow::Context as _;
use vgem::{Client, Embedded, EmbeddedBuilder};

pub use self::both_ways::{BothWays, Way};
pub use self::copies::Copies;
pub use self::fills::{Fills, OBJECT_LEN, Waits};
pub use self::handed::Handed;
pub(crate) use self::pool::{reuse, use_pool};
pub use self::processes::{Kind, Process, Processes};
pub use self::raw::Raw;
pub use self::relay::{Relay, Start};
pub use self::traced::Traced;

/// How long a bench waits for a fence before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An embedded broker and one connection to it. The connection ends first.
#[derive(Debug)]
pub struct Vgemd {
    /// The connection.
    pub client: Client,
    /// The broker.
    pub embedded: Embedded,
}

impl Vgemd {
    /// Starts it, with the programs that `VGEM_BIN_DIR` names.
    ///
    /// # Errors
    /// What is missing, or what the daemon said.
    pub fn start() -> anyhow::Result<Self> {
        Self::of(Embedded::builder())
    }

    /// The same, of which processes will be killed: it does not warn of that.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_to_die() -> anyhow::Result<Self> {
        Self::of(Embedded::builder().log("error"))
    }

    /// The same, with these lines of configuration.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn configured(toml: &str) -> anyhow::Result<Self> {
        Self::of(Embedded::builder().config(toml))
    }

    fn of(builder: EmbeddedBuilder) -> anyhow::Result<Self> {
        let embedded = builder.start().context("cannot start an embedded vgemd")?;
        let client = embedded.client().context("cannot connect to the embedded vgemd")?;
        Ok(Self { client, embedded })
    }

    /// Its processes now.
    ///
    /// # Errors
    /// When there is no broker among them.
    pub fn processes(&self) -> anyhow::Result<Processes> {
        Processes::of(self.embedded.pid())
    }
}
