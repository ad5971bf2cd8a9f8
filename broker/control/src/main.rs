//! The program `vgem-control`; everything is in the library of the same name.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vgem_control::run(std::env::args_os())
}
