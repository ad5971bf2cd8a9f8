//! `vgemctl`: looks at a broker, drives its devices, examines the machine.
//!
//! One file per verb below `verbs/`; they share how to reach a broker ([`reach`]) and how to print ([`mod@print`],
//! [`table`], [`human`]); [`holders`] and [`process`] are how `/proc` is looked through, [`waiting`] is the graph that `why` searches, which a page draws as well. No verb knows any device: devices describe themselves.
#![forbid(unsafe_code)]

mod cli;
mod exit;
mod holders;
mod pick;
mod print;
mod reach;
mod signals;
mod table;
mod top;
mod trace;
mod verbs;

use std::process::ExitCode;

use clap::Parser as _;
use vgem_waiting::{self as waiting, human, process};

use crate::cli::{Cli, Format, Verb};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let draws = matches!(cli.verb, Verb::Why(_));
    let done = match &cli.verb {
        _ if cli.common.format == Format::Dot && !draws => Err(print::not_drawn()),
        Verb::Status => verbs::status::run(&cli.common),
        Verb::List(list) => verbs::list::run(&cli.common, list),
        Verb::Show(show) => verbs::show::run(&cli.common, show),
        Verb::Run(run) => verbs::run::run(&cli.common, run),
        Verb::Explain(explain) => verbs::explain::run(&cli.common, explain),
        Verb::Who(who) => verbs::who::run(&cli.common, who),
        Verb::Why(why) => verbs::why::run(&cli.common, why),
        Verb::Monitor(monitor) => verbs::monitor::run(&cli.common, monitor),
        Verb::Top(top) => verbs::top::run(&cli.common, top),
        Verb::Trace(trace) => verbs::trace::run(&cli.common, trace),
        Verb::Domain(domain) => verbs::domain::run(&cli.common, domain),
        Verb::Quota(quota) => verbs::domain::quota(&cli.common, quota),
        Verb::Drain(drain) => verbs::domain::drain(&cli.common, drain),
        Verb::Disconnect(disconnect) => verbs::domain::disconnect(&cli.common, disconnect),
        Verb::Dump => verbs::dump::run(&cli.common),
        Verb::Bench(bench) => verbs::bench::run(&cli.common, bench),
        Verb::Completion(completion) => verbs::help::completion(completion),
        Verb::Man(man) => verbs::help::man(man),
        Verb::Doctor => verbs::doctor::run(&cli.common),
    };
    exit::code(done)
}
