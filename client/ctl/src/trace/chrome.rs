//! A recording in the format that Perfetto and Chrome read.
//!
//! ```text
//!   device zip      │ compress ├──┐   one line per job that runs at the same time
//!                              │  │ arrow: the next job waited for this one's fence
//!   device sec                 └─►│ sha256 │
//!   client 3        │ zip compress 3.7:5                    │
//!                   │ waits for other jobs │ queued │ runs  │
//! ```
//!
//! Each client has a slice per job from the broker's acceptance to its end, with slices in it for what it did meanwhile;
//! each device has one from the moment its engine began. Counters: jobs queued and running and bytes so far of each device,
//! bytes held of each client. Times are CLOCK_MONOTONIC, in microseconds with three decimals.
//!
//! The names say what is known. `waits for other jobs` ends when the last of them had ended, `queued` is the rest of the
//! time until the engine began: behind jobs of its own queue, for an executor, for its driver to notice. Where it is not
//! known what it waited for until when, the two are one slice, `waits or queued`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};
use vgem::TimelineKey;
use vgem::snapshot::ObligationEntry;

use crate::trace::lanes::Lanes;
use crate::trace::recording::{Ends, Job, Met, Recording};

/// A job waits for others.
pub(crate) const WAITS: &str = "waits for other jobs";
/// A job waits for nothing but its turn.
pub(crate) const QUEUED: &str = "queued";
/// One of the two.
pub(crate) const EITHER: &str = "waits or queued";
/// Its engine works.
pub(crate) const RUNS: &str = "runs";

/// Numbers of clients' tracks begin here; those of devices are below.
const CLIENTS: u64 = 1 << 20;

/// Writes a recording.
pub(crate) fn write(recording: &Recording, out: &mut impl Write) -> io::Result<()> {
    let mut writer = Writer { out, is_first: true };
    let other = json!({
        "clock": "CLOCK_MONOTONIC",
        "jobs": recording.jobs.len(),
        "jobs_left_out": recording.lost,
        "recorded_from_ns": recording.began,
        "recorded_until_ns": recording.ended,
    });
    write!(writer.out, "{{\"displayTimeUnit\":\"ns\",\"otherData\":{other},\"traceEvents\":[")?;
    let ends = Ends::new(&recording.jobs);
    names(recording, &mut writer)?;
    clients(recording, &ends, &mut writer)?;
    let lanes = devices(recording, &mut writer)?;
    handoffs(recording, &ends, &lanes, &mut writer)?;
    counters(recording, &mut writer)?;
    if recording.lost > 0 {
        let name = format!("{} jobs were left out of this recording", recording.lost);
        let at = Time(recording.ended);
        writer.event(
            &json!({"ph": "i", "name": name, "cat": "recording", "s": "g", "pid": 0, "tid": 0}),
            &[("ts", at)],
        )?;
    }
    writeln!(writer.out, "\n]}}")
}

/// A moment or a span, nanoseconds, written as microseconds.
#[derive(Debug, Clone, Copy)]
struct Time(u64);

struct Writer<'a, W> {
    out: &'a mut W,
    is_first: bool,
}

impl<W: Write> Writer<'_, W> {
    /// Writes an event with these times. They are no JSON numbers of ours, because those would be rounded.
    fn event(&mut self, event: &Value, times: &[(&str, Time)]) -> io::Result<()> {
        let text = event.to_string();
        let open = text.strip_suffix('}').unwrap_or(&text);
        let comma = if std::mem::take(&mut self.is_first) { "" } else { "," };
        write!(self.out, "{comma}\n{open}")?;
        for (name, Time(ns)) in times {
            write!(self.out, ",\"{name}\":{}.{:03}", ns / 1000, ns % 1000)?;
        }
        write!(self.out, "}}")
    }

    /// Writes a slice.
    fn slice(&mut self, event: &Value, (begin, end): (u64, u64)) -> io::Result<()> {
        self.event(event, &[("ts", Time(begin)), ("dur", Time(end.saturating_sub(begin)))])
    }

    fn name_of_track(&mut self, pid: u64, name: &str) -> io::Result<()> {
        let args = json!({"name": name});
        self.event(&json!({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": args}), &[])?;
        let args = json!({"sort_index": pid});
        self.event(&json!({"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": args}), &[])
    }

    fn name_of_line(&mut self, pid: u64, line: usize) -> io::Result<()> {
        let args = json!({"name": format!("line {}", line + 1)});
        self.event(&json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": line, "args": args}), &[])
    }
}

fn names<W: Write>(recording: &Recording, writer: &mut Writer<'_, W>) -> io::Result<()> {
    for (id, device) in &recording.devices {
        writer.name_of_track(u64::from(*id), &format!("device {}", device.name))?;
    }
    let mut known: BTreeMap<u64, String> = recording
        .clients
        .iter()
        .map(|(number, owner)| (*number, format!("client {number} ({}), process {}", owner.name, owner.pid)))
        .collect();
    for job in &recording.jobs {
        known.entry(job.client).or_insert_with(|| format!("client {}", job.client));
    }
    for (number, name) in known {
        writer.name_of_track(CLIENTS + number, &name)?;
    }
    Ok(())
}

/// What the operation of a job is called, with its device.
fn called(recording: &Recording, job: &Job) -> (String, String) {
    let device = recording.devices.get(&job.device);
    let name = device.map_or_else(|| format!("device {}", job.device), |device| device.name.clone());
    let op = job.op.map(|op| {
        let known = device.and_then(|device| device.operations.get(&op).cloned());
        // What every device has is in no description.
        known.unwrap_or_else(|| if op == u16::MAX { "publish".to_owned() } else { format!("operation {op}") })
    });
    (name, op.unwrap_or_else(|| "job that never ran".to_owned()))
}

/// A job as `vgemctl why` takes it.
fn point((timeline, point): (TimelineKey, u64)) -> String {
    let key = timeline.to_string();
    format!("{}:{point}", key.strip_prefix("timeline:").unwrap_or(&key))
}

fn arguments(job: &Job) -> Value {
    let waits: Vec<String> = job
        .waits
        .iter()
        .map(|wait| wait.map_or_else(|| "a point of another domain".to_owned(), point))
        .collect();
    let mut args = json!({
        "job": point((job.timeline, job.point)),
        "client": job.client,
        "bytes": job.bytes,
        "staged_bytes": job.staged,
        "waited_for": waits,
    });
    if let (Some((code, cause)), Value::Object(args)) = (job.failure, &mut args) {
        args.insert("failed".to_owned(), code.name().into());
        args.insert("cause".to_owned(), cause.to_string().into());
    }
    args
}

/// Each client's jobs, from the first moment to the last.
fn clients<W: Write>(recording: &Recording, ends: &Ends, writer: &mut Writer<'_, W>) -> io::Result<()> {
    let mut tracks: BTreeMap<u64, Lanes> = BTreeMap::new();
    let mut order: Vec<&Job> = recording.jobs.iter().collect();
    order.sort_by_key(|job| (job.submitted, job.ended));
    let mut unfinished: Vec<&ObligationEntry> = recording.unfinished.iter().collect();
    unfinished.sort_by_key(|owed| owed.since_ns);
    for job in order {
        let (pid, span) = (CLIENTS + job.client, (job.submitted, job.ended));
        let tid = tracks.entry(pid).or_default().place(span.0, span.1);
        let (device, op) = called(recording, job);
        let name = format!("{device} {op}");
        let args = arguments(job);
        let whole = json!({"ph": "X", "name": name, "cat": "job", "pid": pid, "tid": tid, "args": args});
        writer.slice(&whole, span)?;
        for (name, span) in parts(job, ends) {
            let part = json!({"ph": "X", "name": name, "cat": "part", "pid": pid, "tid": tid});
            writer.slice(&part, span)?;
        }
    }
    for owed in unfinished {
        let (pid, span) = (CLIENTS + owed.client, (owed.since_ns.min(recording.ended), recording.ended));
        // On lines of their own: they begin anywhere and last to the end.
        let tid = tracks.entry(pid).or_default().place(u64::MAX, u64::MAX);
        let name = format!("{} job that has not ended", owed.device);
        let key = owed.timeline.strip_prefix("timeline:").unwrap_or(&owed.timeline);
        let args = json!({"job": format!("{key}:{}", owed.point), "state": owed.state});
        let whole =
            json!({"ph": "X", "name": name, "cat": "unfinished", "pid": pid, "tid": tid, "args": args});
        writer.slice(&whole, span)?;
    }
    name_lines(&tracks, writer)
}

/// What a job did, one after the other.
fn parts(job: &Job, ends: &Ends) -> Vec<(&'static str, (u64, u64))> {
    let begun = job.begun();
    let waited = match job.met(ends) {
        Met::AtOnce => vec![(QUEUED, (job.submitted, begun))],
        Met::At(met) => vec![(WAITS, (job.submitted, met)), (QUEUED, (met, begun))],
        Met::Unknown => vec![(EITHER, (job.submitted, begun))],
    };
    let ran = job.started.map(|_| (RUNS, (begun, job.ended)));
    waited.into_iter().chain(ran).filter(|(_, (from, to))| from < to).collect()
}

/// Each device's jobs while they ran; the line of each, by its place.
fn devices<W: Write>(
    recording: &Recording,
    writer: &mut Writer<'_, W>,
) -> io::Result<BTreeMap<usize, usize>> {
    let mut tracks: BTreeMap<u64, Lanes> = BTreeMap::new();
    let mut lanes = BTreeMap::new();
    let ran = recording.jobs.iter().enumerate().filter(|(_, job)| job.started.is_some());
    let mut order: Vec<(usize, &Job)> = ran.collect();
    order.sort_by_key(|(_, job)| (job.begun(), job.ended));
    for (place, job) in order {
        let (pid, span) = (u64::from(job.device), (job.begun(), job.ended));
        let tid = tracks.entry(pid).or_default().place(span.0, span.1);
        lanes.insert(place, tid);
        let (_, op) = called(recording, job);
        let args = arguments(job);
        writer.slice(
            &json!({"ph": "X", "name": op, "cat": "run", "pid": pid, "tid": tid, "args": args}),
            span,
        )?;
    }
    name_lines(&tracks, writer)?;
    Ok(lanes)
}

fn name_lines<W: Write>(tracks: &BTreeMap<u64, Lanes>, writer: &mut Writer<'_, W>) -> io::Result<()> {
    for (pid, lanes) in tracks {
        for line in 0..lanes.count() {
            writer.name_of_line(*pid, line)?;
        }
    }
    Ok(())
}

/// An arrow from each job to each that waited for it, if both ran.
fn handoffs<W: Write>(
    recording: &Recording,
    ends: &Ends,
    lanes: &BTreeMap<usize, usize>,
    writer: &mut Writer<'_, W>,
) -> io::Result<()> {
    let mut id = 0u64;
    for (place, job) in recording.jobs.iter().enumerate() {
        let Some(to) = lanes.get(&place) else { continue };
        for wait in job.waits.iter().flatten() {
            let found =
                ends.job(*wait).and_then(|place| Some((recording.jobs.get(place)?, lanes.get(&place)?)));
            let Some((before, from)) = found else { continue };
            // One that would go back in time is none: the job did not wait, or a driver's clock is wrong.
            if before.ended > job.begun() {
                continue;
            }
            id += 1;
            let end = |ph: &str, job: &Job, tid: &usize| {
                let pid = job.device;
                json!({"ph": ph, "name": "hand-off", "cat": "fence", "id": id, "pid": pid, "tid": tid, "bp": "e"})
            };
            // Within the slice, not at its edge, where the next may begin.
            let left = before.ended.saturating_sub(1).max(before.begun());
            writer.event(&end("s", before, from), &[("ts", Time(left))])?;
            writer.event(&end("f", job, to), &[("ts", Time(job.begun()))])?;
        }
    }
    Ok(())
}

/// What a job changes of its device's counters at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    queued: i64,
    running: i64,
    bytes: u64,
}

fn counters<W: Write>(recording: &Recording, writer: &mut Writer<'_, W>) -> io::Result<()> {
    for (id, changes) in changes(recording) {
        let (mut queued, mut running, mut bytes) = (0, 0, 0u64);
        for (at, change) in changes {
            queued += change.queued;
            running += change.running;
            let args = json!({"queued": queued, "running": running});
            writer.event(
                &json!({"ph": "C", "name": "jobs", "pid": id, "tid": 0, "args": args}),
                &[("ts", Time(at))],
            )?;
            if change.bytes > 0 {
                bytes = bytes.saturating_add(change.bytes);
                let args = json!({"bytes": bytes});
                let event = json!({"ph": "C", "name": "bytes", "pid": id, "tid": 0, "args": args});
                writer.event(&event, &[("ts", Time(at))])?;
            }
        }
    }
    for sample in &recording.samples {
        let (pid, args) = (CLIENTS + sample.client, json!({"bytes": sample.bytes}));
        let event = json!({"ph": "C", "name": "bytes held", "pid": pid, "tid": 0, "args": args});
        writer.event(&event, &[("ts", Time(sample.at))])?;
    }
    Ok(())
}

/// By device and moment, what changes.
fn changes(recording: &Recording) -> BTreeMap<u32, BTreeMap<u64, Change>> {
    let mut all: BTreeMap<u32, BTreeMap<u64, Change>> = BTreeMap::new();
    for job in &recording.jobs {
        let of = all.entry(job.device).or_default();
        of.entry(job.submitted).or_default().queued += 1;
        of.entry(job.begun()).or_default().queued -= 1;
        if job.started.is_some() {
            of.entry(job.begun()).or_default().running += 1;
            of.entry(job.ended).or_default().running -= 1;
        }
        of.entry(job.ended).or_default().bytes += job.bytes;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::recording::Device;

    fn key(index: u32) -> TimelineKey {
        TimelineKey { index, generation: 1 }
    }

    fn job(index: u32, submitted: u64, started: u64, ended: u64) -> Job {
        Job {
            timeline: key(index),
            point: 1,
            client: 3,
            device: 1,
            op: Some(7),
            submitted,
            ready: None,
            started: Some(started),
            ended,
            bytes: 10,
            staged: 0,
            failure: None,
            waits: Vec::new(),
        }
    }

    fn events(jobs: Vec<Job>) -> Vec<Value> {
        let operations = BTreeMap::from([(7, "pack".to_owned())]);
        let devices = BTreeMap::from([(1, Device { name: "zip".to_owned(), operations })]);
        let recording = Recording { jobs, devices, ended: 9_000_000_123, ..Recording::default() };
        let mut text = Vec::new();
        write(&recording, &mut text).expect("written");
        let whole: Value = serde_json::from_slice(&text).expect("JSON");
        whole["traceEvents"].as_array().expect("a list").clone()
    }

    fn parts_of(jobs: Vec<Job>) -> Vec<(String, f64, f64)> {
        let events = events(jobs);
        let parts = events.iter().filter(|event| event["cat"] == "part");
        let number = |value: &Value| value.as_f64().expect("a number");
        parts
            .map(|part| {
                (part["name"].as_str().expect("a name").to_owned(), number(&part["ts"]), number(&part["dur"]))
            })
            .collect()
    }

    #[test]
    fn a_job_that_waits_for_another_waits_until_that_has_ended_and_is_queued_from_then_on() {
        let mut second = job(2, 1_000, 6_500, 8_000);
        second.waits = vec![Some((key(1), 1))];
        let said = parts_of(vec![job(1, 1_000, 2_000, 5_250), second]);
        let said: Vec<(&str, f64, f64)> =
            said.iter().map(|(name, at, for_)| (name.as_str(), *at, *for_)).collect();
        let first = [(QUEUED, 1.0, 1.0), (RUNS, 2.0, 3.25)];
        let second = [(WAITS, 1.0, 4.25), (QUEUED, 5.25, 1.25), (RUNS, 6.5, 1.5)];
        assert_eq!(said, [&first[..], &second[..]].concat());
    }

    #[test]
    fn what_it_waited_for_and_nobody_recorded_is_taken_from_the_broker_or_left_open() {
        let mut known = job(1, 1_000, 6_000, 8_000);
        known.waits = vec![None];
        known.ready = Some(4_000);
        let mut unknown = known.clone();
        (unknown.timeline, unknown.ready) = (key(2), None);
        let mut late = known.clone();
        (late.timeline, late.ready) = (key(3), Some(7_000));
        let names = |job: Job| {
            parts_of(vec![job]).into_iter().map(|(name, _, span)| (name, span)).collect::<Vec<_>>()
        };
        assert_eq!(names(known), [(WAITS.into(), 3.0), (QUEUED.into(), 2.0), (RUNS.into(), 2.0)]);
        assert_eq!(names(unknown), [(EITHER.into(), 5.0), (RUNS.into(), 2.0)]);
        assert_eq!(names(late), [(WAITS.into(), 5.0), (RUNS.into(), 2.0)]);
    }

    #[test]
    fn an_arrow_goes_from_a_job_to_the_one_that_waited_for_it_and_never_back_in_time() {
        let mut second = job(2, 1_000, 6_500, 8_000);
        second.waits = vec![Some((key(1), 1)), Some((key(9), 4)), None];
        let ends = |jobs: Vec<Job>| -> Vec<(String, f64)> {
            let events = events(jobs);
            let arrows = events.iter().filter(|event| event["name"] == "hand-off");
            arrows
                .map(|one| {
                    (one["ph"].as_str().expect("a kind").to_owned(), one["ts"].as_f64().expect("a time"))
                })
                .collect()
        };
        let first = job(1, 1_000, 2_000, 5_250);
        assert_eq!(ends(vec![first, second.clone()]), [("s".into(), 5.249), ("f".into(), 6.5)]);
        assert_eq!(ends(vec![job(1, 1_000, 2_000, 6_501), second]), []);
    }

    #[test]
    fn a_job_that_never_ran_is_on_no_device_and_says_why() {
        let mut failed = job(1, 1_000, 0, 3_000);
        (failed.started, failed.op) = (None, None);
        failed.failure = Some((vgem::ErrorCode::CorruptInput, vgem::CauseId(7)));
        let events = events(vec![failed]);
        assert!(events.iter().all(|event| event["cat"] != "run"));
        let whole = events.iter().find(|event| event["cat"] == "job").expect("the client's");
        assert_eq!(
            (&whole["name"], &whole["args"]["failed"]),
            (&"zip job that never ran".into(), &"CorruptInput".into())
        );
    }

    #[test]
    fn counters_begin_and_end_at_nothing_and_add_up_bytes() {
        let events = events(vec![job(1, 1_000, 2_000, 5_000), job(2, 1_500, 3_000, 4_000)]);
        let of = |name: &str| -> Vec<Value> {
            events
                .iter()
                .filter(|event| event["ph"] == "C" && event["name"] == name)
                .map(|e| e["args"].clone())
                .collect()
        };
        let jobs: Vec<(i64, i64)> = of("jobs")
            .iter()
            .map(|args| (args["queued"].as_i64().unwrap_or(-1), args["running"].as_i64().unwrap_or(-1)))
            .collect();
        assert_eq!(jobs, [(1, 0), (2, 0), (1, 1), (0, 2), (0, 1), (0, 0)]);
        assert_eq!(of("bytes"), [json!({"bytes": 10}), json!({"bytes": 20})]);
    }
}
