//! The zip device as a driver process; see the library for what it does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    vgem_driver::serve(|options| Ok(vgem_driver_zip::ZipEngine::new(options)))
}
