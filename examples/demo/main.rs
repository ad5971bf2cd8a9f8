//! The main job: one file, four devices, four processes, one message per chunk.
//!
//! | file | what |
//! |---|---|
//! | `args` | the command line |
//! | `source` | the file that is sent |
//! | `lanes` | queues, files, buffers |
//! | `pipeline` | the two directions |
//! | `run` | a whole run, from start to report |
//! | `trace`, `report`, `progress` | what people see |
#![forbid(unsafe_code)]

mod args;
mod lanes;
mod pipeline;
mod progress;
mod report;
mod run;
mod source;
mod trace;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match run::run(&args).and_then(|report| report.print(args.format)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what is behind it, without saying anything twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| cause.to_string().replace('\n', " ")) {
        if line.contains(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}
