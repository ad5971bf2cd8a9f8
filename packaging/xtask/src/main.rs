//! The project's own commands, run as `cargo xtask NAME`.
//!
//! Each command is one file. What a command says about itself goes to stderr, so that the stdout of
//! `demo` and `bench` is theirs alone and can be read by a program.

#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod check;
mod dbus_xml;
mod demo;
mod fuzz;
mod install;
mod man;
mod prerequisites;
mod programs;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use workspace::Workspace;

/// Build, try, test and measure vgemd.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Command {
    Test(test::Options),
    Demo(demo::Options),
    Bench(bench::Options),
    Fuzz(fuzz::Options),
    Check(check::Options),
    Install(install::Options),
    DbusXml(dbus_xml::Options),
    Man(man::Options),
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let workspace = Workspace::of_this_process()?;
    match command {
        Command::Test(options) => test::run(&workspace, &options),
        Command::Demo(options) => demo::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Fuzz(options) => fuzz::run(&workspace, &options),
        Command::Check(options) => check::run(&workspace, &options),
        Command::Install(options) => install::run(&workspace, &options),
        Command::DbusXml(options) => dbus_xml::run(&workspace, &options),
        Command::Man(options) => man::run(&workspace, &options),
    }
}
