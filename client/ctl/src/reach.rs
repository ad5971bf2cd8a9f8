//! Reaching a broker: the one that was named, the one that runs, or a private one for this command.

use std::path::{Path, PathBuf};

use vgem::{Client, ClientOptions, Embedded, Error};

use crate::cli::Common;
use crate::exit::Usage;
use crate::print;

/// A connection, and the private broker behind it if there is one.
#[derive(Debug)]
pub(crate) struct Reached {
    /// The connection. Before the broker, so that it closes first.
    pub(crate) client: Client,
    _embedded: Option<Embedded>,
}

/// What to do when no broker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// Fail.
    Fail,
    /// Start a private one, unless a socket was named, and say so.
    Start,
}

/// Where a broker serves, below the folder for what runs.
const BELOW: &str = "vgemd/vgemd.sock";

/// Connects as the command line says.
pub(crate) fn reach(common: &Common, otherwise: Otherwise) -> anyhow::Result<Reached> {
    let options = ClientOptions::new().name("vgemctl");
    if common.embedded {
        return private(common, &options);
    }
    if let Some(path) = named(common)? {
        return Ok(Reached { client: options.connect(path)?, _embedded: None });
    }
    match options.connect_default() {
        Ok(client) => Ok(Reached { client, _embedded: None }),
        Err(Error::NotRunning { .. }) if otherwise == Otherwise::Start => {
            print::note("no broker runs here; starting a private one for this command");
            private(common, &options)
        }
        Err(error) => Err(error.into()),
    }
}

/// The one socket that the command line names, if it does.
fn named(common: &Common) -> anyhow::Result<Option<PathBuf>> {
    if common.system {
        return Ok(Some(Path::new("/run").join(BELOW)));
    }
    if common.user {
        let folder = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty());
        let without = || Usage("--user needs XDG_RUNTIME_DIR: the user's broker serves below it".to_owned());
        return Ok(Some(Path::new(&folder.ok_or_else(without)?).join(BELOW)));
    }
    Ok(common.socket.clone())
}

fn private(common: &Common, options: &ClientOptions) -> anyhow::Result<Reached> {
    let mut builder = Embedded::builder();
    for root in &common.root {
        builder = builder.root(root);
    }
    let embedded = builder.start()?;
    Ok(Reached { client: embedded.client_with(options)?, _embedded: Some(embedded) })
}
