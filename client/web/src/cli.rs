//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::listen::Address;

/// Show a broker on a page, and its numbers as OpenMetrics. Read only.
#[derive(Debug, Clone, Parser)]
#[command(name = "vgem-web", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Where to listen: an address that only this machine reaches, with a port, or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7466")]
    pub(crate) listen: Address,
    /// The broker's socket, instead of VGEM_SOCKET or the usual places
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// A name under which browsers come, beside localhost and addresses of this machine; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Vec<String>,
    /// What to log, as vgemd has it
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

const EXAMPLES: &str = "\
Paths:
  /            the page
  /api/state   the same as one JSON document
  /api/events  the same as server-sent events, one a second
  /metrics     OpenMetrics

Example:
  vgem-web --listen 127.0.0.1:0
  vgem-web --listen unix:vgem-web.sock

Whoever reaches the address sees what the user that runs vgem-web may see.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_of_other_machines_is_a_wrong_command_line() {
        let error = Cli::try_parse_from(["vgem-web", "--listen", "0.0.0.0:7466"]).expect_err("it is refused");
        assert!(error.use_stderr() && error.to_string().contains("only this machine"), "{error}");
    }
}
