//! The program `vgemd`; everything is in the library of the same name.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vgemd::run(std::env::args_os())
}
