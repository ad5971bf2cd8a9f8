//! `vgemctl completion` and the manual's pages: the command line, told to shells and to man.

use std::io::{self, Write as _};

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::cli::{Cli, Completion, Man};

pub(crate) fn completion(completion: &Completion) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(completion.shell, &mut Cli::command(), "vgemctl", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}

/// Writes a page for the command and one for each verb.
pub(crate) fn man(man: &Man) -> anyhow::Result<()> {
    let folder = &man.folder;
    let cannot = || format!("cannot write to {}", folder.display());
    std::fs::create_dir_all(folder).with_context(cannot)?;
    let command = Cli::command().disable_help_subcommand(true);
    clap_mangen::generate_to(command, folder).with_context(cannot)
}
