//! The demo's command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Sends a real file through four devices and back, each device a process of its own.
///
/// Out: blk read, zip compress (zstd), sec seal (AES-256-GCM), blk append. Back: blk read, sec open, zip
/// decompress, copy compare with the original. Each chunk is one message to the broker per direction; the devices
/// hand fences to each other.
///
/// Exit codes: 0 all chunks came back equal; 1 something failed, said in one line; 2 bad command line.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo xtask demo", version)]
pub(crate) struct Args {
    /// The file to send; without it the compiler's own driver library, at most 256 MiB of it.
    pub(crate) file: Option<PathBuf>,
    /// Keep the packed file here.
    #[arg(long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Keep the key that the packed file is sealed with here, 32 bytes.
    #[arg(long, value_name = "PATH", conflicts_with = "plain")]
    pub(crate) key: Option<PathBuf>,
    /// Leave out sealing: the packed file is then a row of standard zstd frames.
    #[arg(long)]
    pub(crate) plain: bool,
    /// When a device is lost, wait for its restart and begin the direction again, at most 3 times.
    #[arg(long)]
    pub(crate) retry: bool,
    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
    /// Where to write the trace; without it into the directory for temporary files.
    #[arg(long, value_name = "PATH")]
    pub(crate) trace: Option<PathBuf>,
    /// Bytes of a chunk, KiB.
    #[arg(long, value_name = "KIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(4..=65536))]
    pub(crate) chunk_kib: u64,
    /// Chunks in flight.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=12))]
    pub(crate) lanes: u16,
    /// zstd level.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=19))]
    pub(crate) level: u64,
}

/// How to print the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// One JSON object.
    Json,
}
