//! Reaching a broker: the one that was named, the one that runs, or a private one for this command.

use vgem::{Client, ClientOptions, Embedded, Error};

use crate::cli::Common;
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

/// Connects as the command line says.
pub(crate) fn reach(common: &Common, otherwise: Otherwise) -> anyhow::Result<Reached> {
    let options = ClientOptions::new().name("vgemctl");
    if common.embedded {
        return private(common, &options);
    }
    if let Some(path) = &common.socket {
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

fn private(common: &Common, options: &ClientOptions) -> anyhow::Result<Reached> {
    let mut builder = Embedded::builder();
    for root in &common.root {
        builder = builder.root(root);
    }
    let embedded = builder.start()?;
    Ok(Reached { client: embedded.client_with(options)?, _embedded: Some(embedded) })
}
