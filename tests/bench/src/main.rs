//! `vgem-bench`: see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(played) = vgem_bench::role::play(std::env::args_os().skip(1)) {
        return exit(played);
    }
    exit(vgem_bench::run(&clap::Parser::parse()))
}

fn exit(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vgem-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
