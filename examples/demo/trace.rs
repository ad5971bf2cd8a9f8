//! The trace of a run, in the format that Perfetto and Chrome read: one process row per device, arrows for
//! handoffs.
//!
//! Times come from the result cells: each device writes when its engine began and ended. A device that runs
//! several jobs at once gets as many lines as it needs, because slices of one line may not overlap.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

/// One job as the trace shows it.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    /// The device's name.
    pub(crate) device: &'static str,
    /// What it did.
    pub(crate) op: &'static str,
    /// The chunk it worked on.
    pub(crate) chunk: u64,
    /// When its engine began, CLOCK_MONOTONIC nanoseconds.
    pub(crate) started: u64,
    /// When its engine ended.
    pub(crate) ended: u64,
    /// Bytes it produced.
    pub(crate) produced: u64,
}

/// A run's slices, chain by chain.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    chains: Vec<Vec<Slice>>,
    joins: Vec<(usize, Slice)>,
}

impl Trace {
    /// Adds the jobs of one chunk, in the order in which they hand over.
    pub(crate) fn add(&mut self, chain: Vec<Slice>) {
        self.chains.push(chain);
    }

    /// Adds a job that hands over to the last job of the newest chain, beside the others.
    pub(crate) fn join(&mut self, slice: Slice) {
        self.joins.push((self.chains.len().saturating_sub(1), slice));
    }

    /// Forgets what was added since there were `len` chains.
    pub(crate) fn cut(&mut self, len: usize) {
        self.chains.truncate(len);
        self.joins.retain(|(chain, _)| *chain < len);
    }

    /// Chains so far.
    pub(crate) fn len(&self) -> usize {
        self.chains.len()
    }

    /// Writes the file.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut events = Vec::new();
        let mut lines = Lines::default();
        let zero = self.chains.iter().flatten().map(|s| s.started).min().unwrap_or(0);
        for (pid, device) in DEVICES.iter().enumerate() {
            events.push(json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": device}}));
        }
        let joined: BTreeSet<usize> = self.joins.iter().map(|(chain, _)| *chain).collect();
        let mut slices: Vec<(usize, usize, &Slice)> = Vec::new();
        for (chain, jobs) in self.chains.iter().enumerate() {
            slices.extend(jobs.iter().enumerate().map(|(at, slice)| (chain, at, slice)));
        }
        slices.extend(self.joins.iter().map(|(chain, slice)| (*chain, JOINING, slice)));
        slices.sort_by_key(|(_, _, slice)| slice.started);
        for (chain, at, slice) in slices {
            let pid = DEVICES.iter().position(|d| *d == slice.device).unwrap_or(0);
            let tid = lines.place(pid, slice);
            let micros = |ns: u64| ns.saturating_sub(zero) as f64 / 1000.0;
            let (start, end) = (micros(slice.started), micros(slice.ended));
            let args = json!({"chunk": slice.chunk, "bytes": slice.produced});
            events.push(json!({
                "ph": "X", "name": slice.op, "cat": "job", "pid": pid, "tid": tid, "ts": start, "dur": end - start,
                "args": args,
            }));
            let flow = |ph: &str, id: usize, ts: f64| -> Value {
                json!({
                    "ph": ph, "name": "handoff", "cat": "fence", "id": id, "pid": pid, "tid": tid, "ts": ts, "bp": "e",
                })
            };
            // One arrow into each job but a chain's first, one out of each but its last.
            let id = chain * 16 + at;
            if at == JOINING {
                events.push(flow("s", id, end));
                continue;
            }
            if at > 0 {
                events.push(flow("f", id, start));
            }
            if self.chains.get(chain).is_some_and(|jobs| at + 1 < jobs.len()) {
                events.push(flow("s", id + 1, end));
            } else if joined.contains(&chain) {
                events.push(flow("f", chain * 16 + JOINING, start));
            }
        }
        let whole = json!({"displayTimeUnit": "ms", "traceEvents": events});
        let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = std::io::BufWriter::new(file);
        serde_json::to_writer(&mut file, &whole)?;
        file.flush().with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The place in a chain of the job that joins its last.
const JOINING: usize = 15;

/// The devices, in the order of their rows.
const DEVICES: [&str; 4] = ["blk", "zip", "sec", "copy"];

/// The lines of each device, by when their last slice ended.
#[derive(Debug, Default)]
struct Lines([Vec<u64>; DEVICES.len()]);

impl Lines {
    /// The first line of a device that is free when the slice begins.
    fn place(&mut self, device: usize, slice: &Slice) -> usize {
        let Some(lines) = self.0.get_mut(device) else { return 0 };
        if let Some((at, free)) = lines.iter_mut().enumerate().find(|(_, free)| **free <= slice.started) {
            *free = slice.ended;
            return at;
        }
        lines.push(slice.ended);
        lines.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(device: &'static str, started: u64, ended: u64) -> Slice {
        Slice { device, op: "op", chunk: 0, started, ended, produced: 1 }
    }

    fn events(trace: &Trace) -> Vec<Value> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        trace.write(file.path()).expect("written");
        let whole: Value = serde_json::from_reader(file.reopen().expect("a file")).expect("JSON");
        whole["traceEvents"].as_array().expect("a list").clone()
    }

    #[test]
    fn every_handoff_is_an_arrow_with_two_ends() {
        let mut trace = Trace::default();
        trace.add(vec![slice("blk", 1000, 2000), slice("zip", 3000, 4000), slice("sec", 5000, 6000)]);
        let ids = |ph: &str| -> Vec<u64> {
            events(&trace)
                .iter()
                .filter(|e| e["ph"] == ph)
                .map(|e| e["id"].as_u64().expect("an id"))
                .collect()
        };
        assert_eq!((ids("s"), ids("f")), (vec![1, 2], vec![1, 2]));
    }

    #[test]
    fn jobs_that_overlap_are_on_different_lines() {
        let mut trace = Trace::default();
        trace.add(vec![slice("zip", 1000, 5000)]);
        trace.add(vec![slice("zip", 2000, 3000)]);
        trace.add(vec![slice("zip", 6000, 7000)]);
        let lines: Vec<u64> = events(&trace)
            .iter()
            .filter(|e| e["ph"] == "X")
            .map(|e| e["tid"].as_u64().expect("a line"))
            .collect();
        assert_eq!(lines, [0, 1, 0]);
    }
}
