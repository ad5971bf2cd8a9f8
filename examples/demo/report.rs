//! What the demo prints at the end: a table for people, or the same as one JSON object.

use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::args::Format;

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// The file that was sent.
    pub(crate) file: PathBuf,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// Bytes of the packed file.
    pub(crate) packed_bytes: u64,
    /// `packed_bytes` over `bytes`.
    pub(crate) ratio: f64,
    /// Bytes of a chunk.
    pub(crate) chunk_bytes: u64,
    /// Chunks in flight.
    pub(crate) lanes: u16,
    /// From the start of the program until the first packed byte was written, milliseconds.
    pub(crate) first_byte_ms: f64,
    /// The way out.
    pub(crate) pack: Direction,
    /// The way back.
    pub(crate) unpack: Direction,
    /// What each device did, both ways.
    pub(crate) devices: Vec<DeviceRow>,
    /// Bytes copied by client and broker; everything else happens inside devices.
    pub(crate) bytes_copied_outside_devices: u64,
    /// Points that the broker signalled and sleepers that it woke; devices do that among themselves.
    pub(crate) broker_signals: u64,
    /// Directions that were begun again after a device was lost.
    pub(crate) retries: u32,
    /// Whether the packed file is sealed.
    pub(crate) sealed: bool,
    /// Where the packed file was kept.
    pub(crate) output: Option<PathBuf>,
    /// Where the trace is.
    pub(crate) trace: PathBuf,
}

/// One direction of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Direction {
    /// Chunks.
    pub(crate) chunks: u64,
    /// Seconds.
    pub(crate) seconds: f64,
    /// Megabytes (10^6) of the original per second.
    pub(crate) mb_per_s: f64,
    /// Messages from the client, per chunk.
    pub(crate) client_messages_per_chunk: f64,
    /// Times the client was woken, per chunk.
    pub(crate) client_wakeups_per_chunk: f64,
}

/// What a device did.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DeviceRow {
    /// Its name.
    pub(crate) device: String,
    /// Its process.
    pub(crate) pid: u32,
    /// Jobs that ended.
    pub(crate) jobs: u64,
    /// Seconds its engines worked, over all executors.
    pub(crate) busy_s: f64,
    /// Bytes its engines read and wrote.
    pub(crate) bytes: u64,
    /// Bytes it copied through private windows.
    pub(crate) staged_bytes: u64,
}

impl Report {
    /// Prints to standard output.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match format {
            Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(self)?)?,
            Format::Table => write!(out, "{}", self.table())?,
        }
        Ok(out.flush()?)
    }

    fn table(&self) -> String {
        let mut lines = vec![
            format!("{}: every byte came back equal", self.file.display()),
            String::new(),
            format!(
                "{:<24}{:>14}  in {} chunks of {}",
                "original",
                size(self.bytes),
                self.pack.chunks,
                size(self.chunk_bytes)
            ),
            format!("{:<24}{:>14}  {:.1} % of it", "packed", size(self.packed_bytes), 100.0 * self.ratio),
            format!("{:<24}{:>11.1} ms", "first packed byte after", self.first_byte_ms),
            String::new(),
            format!("{:<24}{:>14}{:>14}", "", "pack", "unpack"),
        ];
        let mut row = |name: &str, pick: &dyn Fn(&Direction) -> String| {
            lines.push(format!("{name:<24}{:>14}{:>14}", pick(&self.pack), pick(&self.unpack)));
        };
        row("time", &|d| format!("{:.2} s", d.seconds));
        row("throughput", &|d| format!("{:.0} MB/s", d.mb_per_s));
        row("messages per chunk", &|d| format!("{:.2}", d.client_messages_per_chunk));
        row("client wake-ups per chunk", &|d| format!("{:.2}", d.client_wakeups_per_chunk));
        lines.push(String::new());
        lines.push(format!(
            "{:<8}{:>8}{:>8}{:>10}{:>14}{:>14}",
            "device", "pid", "jobs", "busy", "bytes", "staged"
        ));
        for d in &self.devices {
            lines.push(format!(
                "{:<8}{:>8}{:>8}{:>8.2} s{:>14}{:>14}",
                d.device,
                d.pid,
                d.jobs,
                d.busy_s,
                size(d.bytes),
                size(d.staged_bytes)
            ));
        }
        lines.push(String::new());
        lines.push(format!("{:<34}{}", "bytes copied outside devices", self.bytes_copied_outside_devices));
        lines.push(format!("{:<34}{}", "points signalled by the broker", self.broker_signals));
        if self.retries > 0 {
            lines.push(format!("{:<34}{}", "begun again", self.retries));
        }
        if let Some(output) = &self.output {
            lines.push(format!("{:<34}{}", "packed file", output.display()));
        }
        lines.push(format!(
            "{:<34}{}  (open it in ui.perfetto.dev or chrome://tracing)",
            "trace",
            self.trace.display()
        ));
        lines.push(String::new());
        lines.join("\n")
    }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}
