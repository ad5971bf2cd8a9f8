//! `vgemctl`: looks at a broker, drives its devices, examines the machine.
//!
//! One file per verb below `verbs/`; they share how to reach a broker ([`reach`]) and how to print ([`mod@print`],
//! [`table`], [`human`]); and [`holders`] is how `/proc` is looked through. No verb knows any device: devices describe themselves.
#![forbid(unsafe_code)]

mod cli;
mod exit;
mod holders;
mod human;
mod print;
mod reach;
mod table;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Verb};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.verb {
        Verb::Status => verbs::status::run(&cli.common),
        Verb::List(list) => verbs::list::run(&cli.common, list),
        Verb::Show(show) => verbs::show::run(&cli.common, show),
        Verb::Run(run) => verbs::run::run(&cli.common, run),
        Verb::Explain(explain) => verbs::explain::run(&cli.common, explain),
        Verb::Who(who) => verbs::who::run(&cli.common, who),
        Verb::Monitor(monitor) => verbs::monitor::run(&cli.common, monitor),
        Verb::Doctor => verbs::doctor::run(&cli.common),
    };
    exit::code(done)
}
