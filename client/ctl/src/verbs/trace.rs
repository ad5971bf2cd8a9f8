//! `vgemctl trace`: what every job does for a while, as a file for Perfetto or Chrome.
//!
//! Jobs come as they end. Beside that, the bytes that clients hold are looked at now and then, and at the end what
//! has not ended yet. Everything is kept in memory until then, so there is a most.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use vgem::{Client, Deadline, EndedJob, Error};

use crate::cli::{Common, Trace};
use crate::reach::{Otherwise, reach};
use crate::signals::interrupted;
use crate::trace::chrome;
use crate::trace::recording::{Device, Job, Owner, Recording, Sample};
use crate::{human, print};

/// How long a wait for a job lasts before anything else is looked at.
const SLICE: Duration = Duration::from_millis(20);
/// How often it is looked at what clients hold.
const SAMPLE: Duration = Duration::from_millis(100);

/// What was recorded, as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    output: String,
    /// How long it was recorded.
    ns: u64,
    jobs: usize,
    unfinished: usize,
    /// Jobs that were left out, because they came faster than they were taken.
    lost: u64,
    devices: usize,
    clients: usize,
}

pub(crate) fn run(common: &Common, asked: &Trace) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    // A file that cannot be written is found out before anything is recorded.
    let mut out: Box<dyn Write> = match asked.output.as_str() {
        "-" => Box::new(io::stdout().lock()),
        path => Box::new(File::create(path).with_context(|| format!("cannot write {path}"))?),
    };
    let recording = record(client, asked)?;
    let mut buffered = BufWriter::new(&mut out);
    chrome::write(&recording, &mut buffered)
        .and_then(|()| buffered.flush())
        .with_context(|| format!("cannot write {}", asked.output))?;
    if recording.lost > 0 {
        print::note(&format!("{} jobs were left out: they came faster than they were taken", recording.lost));
    }
    let report = Report {
        output: asked.output.clone(),
        ns: recording.ended.saturating_sub(recording.began),
        jobs: recording.jobs.len(),
        unfinished: recording.unfinished.len(),
        lost: recording.lost,
        devices: recording.devices.len(),
        clients: recording.clients.len(),
    };
    match asked.output.as_str() {
        "-" => Ok(()),
        _ => print::either(common.format, &report, lines),
    }
}

fn lines(report: &Report) -> Vec<String> {
    let Report { output, jobs, unfinished, .. } = report;
    vec![format!(
        "{output}: {jobs} jobs in {}, {unfinished} more had not ended; open it in ui.perfetto.dev or chrome://tracing",
        human::time(report.ns)
    )]
}

fn record(client: &Client, asked: &Trace) -> anyhow::Result<Recording> {
    let interrupted = interrupted()?;
    let mut trace = client.trace()?;
    let mut recording = Recording { began: human::now(), ..Recording::default() };
    let end = asked.duration.map(Deadline::after);
    let mut next_sample = Deadline::NOW;
    let is_over = |recording: &Recording| {
        recording.jobs.len() >= asked.most
            || interrupted.load(Ordering::Acquire)
            || end.is_some_and(|end| end.passed())
    };
    let went = loop {
        if is_over(&recording) {
            break look_at_rest(client, &mut recording);
        }
        if next_sample.passed() {
            next_sample = Deadline::after(SAMPLE);
            if let Err(error) = sample(client, &mut recording) {
                break Err(error);
            }
        }
        match trace.next(SLICE) {
            Ok(Some(ended)) => recording.jobs.push(job(&ended)),
            Ok(None) => {}
            Err(error) => break Err(error),
        }
    };
    match went {
        Ok(()) => {}
        Err(Error::BrokerLost { .. }) => print::note("the broker has ended"),
        Err(error) => return Err(error.into()),
    }
    recording.lost = trace.lost();
    recording.ended = human::now();
    if recording.jobs.len() >= asked.most {
        print::note(&format!("{} jobs are recorded, as many as may be (--most)", asked.most));
    }
    Ok(recording)
}

/// Notes who is there and what they hold.
fn sample(client: &Client, recording: &mut Recording) -> vgem::Result<()> {
    let at = human::now();
    for entry in client.client_entries()? {
        recording.samples.push(Sample { at, client: entry.client, bytes: entry.bytes });
        let owner = Owner { name: entry.name, pid: entry.pid };
        recording.clients.insert(entry.client, owner);
    }
    Ok(())
}

/// What devices are called, and which jobs have not ended.
fn look_at_rest(client: &Client, recording: &mut Recording) -> vgem::Result<()> {
    for named in client.devices()? {
        let description = client.device(&named.name)?.description().clone();
        let operations: BTreeMap<u16, String> =
            description.operations.iter().map(|one| (one.number, one.name.clone())).collect();
        let device = Device { name: named.name, operations };
        recording.devices.insert(named.id.0, device);
    }
    sample(client, recording)?;
    let owed = client.obligation_entries()?;
    recording.unfinished = owed.into_iter().filter(|owed| owed.kind == "job").collect();
    Ok(())
}

fn job(ended: &EndedJob) -> Job {
    Job {
        timeline: ended.timeline,
        point: ended.point.0,
        client: ended.client,
        device: ended.device.0,
        op: ended.op,
        submitted: ended.submitted.0,
        ready: ended.ready.map(|at| at.0),
        started: ended.started.map(|at| at.0),
        ended: ended.ended.0,
        bytes: ended.bytes,
        staged: ended.staged,
        failure: ended.failure,
        waits: ended.waits.iter().map(|wait| wait.map(|(timeline, point)| (timeline, point.0))).collect(),
    }
}
