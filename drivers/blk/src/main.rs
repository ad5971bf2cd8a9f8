//! The blk device as a driver process; see the library for what it does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use vgem_driver_blk::{Blk, Setup};

fn main() -> ExitCode {
    vgem_driver::serve(|options| {
        Blk::new(&Setup { roots: options.roots.clone(), executors: options.executors, ..Setup::default() })
    })
}
