//! `vgemctl trace`: the file is read as Perfetto reads it.

use std::collections::{BTreeMap, HashMap};
use std::process::Child;
use std::time::Duration;

use serde_json::Value;
use vgem::{Buffer, Cells, Client, ClientOptions, Deadline, Embedded, Queue};

use crate::support::{Held, SOON, command};

/// A recording under way.
struct Recording {
    child: Child,
    file: tempfile::NamedTempFile,
}

/// Requests of the recorder, as the broker counts them.
fn requests(client: &Client) -> u64 {
    let all = client.client_entries().expect("an answer");
    all.iter().find(|one| one.name == "vgemctl").expect("it records").messages
}

/// Waits until the recorder has read of every job that the broker has heard of. It sends a request when it has the
/// answer of the one before, and that comes after what was told before it: so the second from now says it.
fn caught_up(client: &Client) {
    let (seen, end) = (requests(client), Deadline::after(SOON));
    while requests(client) < seen + 2 {
        assert!(!end.passed(), "it looks who is there ten times a second");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Begins to record and waits until the broker notes what jobs do.
fn record(broker: &Embedded, client: &Client) -> Recording {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("our paths are text");
    let mut child = command(broker, &["trace", "--output", path]).spawn().expect("it starts");
    let end = Deadline::after(SOON);
    // Hello, Trace, and what it looks at for the first time.
    let asked = |one: &vgem::snapshot::ClientEntry| one.name == "vgemctl" && one.messages >= 3;
    while !client.client_entries().expect("an answer").iter().any(asked) {
        assert!(!end.passed() && child.try_wait().expect("ours").is_none(), "it records");
        std::thread::sleep(Duration::from_millis(5));
    }
    Recording { child, file }
}

impl Recording {
    /// Ends it; the events.
    fn end(mut self) -> Vec<Value> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("ours");
        assert!(self.child.wait().expect("ours").success());
        let whole: Value = serde_json::from_reader(self.file.reopen().expect("a file")).expect("JSON");
        assert_eq!(whole["otherData"]["jobs_left_out"], 0, "{}", whole["otherData"]);
        whole["traceEvents"].as_array().expect("a list").clone()
    }
}

/// Waits until the broker has heard of so many ends.
fn heard(client: &Client, jobs: u64) {
    let end = Deadline::after(SOON);
    while client.status().expect("an answer").counters.jobs_ok < jobs {
        assert!(!end.passed(), "all end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Nanoseconds of a field in microseconds.
fn ns(event: &Value, field: &str) -> u64 {
    let us = event[field].as_f64().unwrap_or_else(|| panic!("{field} of {event}"));
    #[expect(clippy::cast_possible_truncation, reason = "the moments of a machine that was just started")]
    let ns = (us * 1000.0).round() as i64;
    ns.try_into().expect("no moment before the machine's start")
}

fn line_of(event: &Value) -> (u64, u64) {
    (event["pid"].as_u64().expect("a track"), event["tid"].as_u64().expect("a line"))
}

fn slices(events: &[Value]) -> impl Iterator<Item = &Value> {
    events.iter().filter(|event| event["ph"] == "X")
}

fn span(slice: &Value) -> (u64, u64) {
    (ns(slice, "ts"), ns(slice, "ts") + ns(slice, "dur"))
}

/// Every slice of a line is within another, or apart from it.
fn assert_nested(events: &[Value]) {
    let mut lines: BTreeMap<(u64, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for slice in slices(events) {
        lines.entry(line_of(slice)).or_default().push(span(slice));
    }
    for (line, mut spans) in lines {
        spans.sort_by_key(|(from, to)| (*from, std::cmp::Reverse(*to)));
        let mut open: Vec<(u64, u64)> = Vec::new();
        for (from, to) in spans {
            open.retain(|(_, end)| *end > from);
            assert!(open.last().is_none_or(|(_, end)| to <= *end), "{from} to {to} of {line:?} in {open:?}");
            open.push((from, to));
        }
    }
}

/// Every arrow has two ends, each in a slice of its line; from what job to what job they go.
fn arrows(events: &[Value]) -> Vec<(String, String)> {
    let ends = |kind: &str| -> HashMap<u64, &Value> {
        let ends = events.iter().filter(|event| event["ph"] == kind && event["name"] == "hand-off");
        ends.map(|event| (event["id"].as_u64().expect("an id"), event)).collect()
    };
    let (from, to) = (ends("s"), ends("f"));
    assert_eq!(from.len(), to.len());
    let job = |end: &Value| {
        let at = ns(end, "ts");
        let holds = |slice: &&Value| {
            let (begin, end) = span(slice);
            begin <= at && at <= end
        };
        let mut all = slices(events).filter(|slice| line_of(slice) == line_of(end));
        let slice = all.find(holds).unwrap_or_else(|| panic!("{end} is in no slice"));
        slice["args"]["job"].as_str().expect("a job").to_owned()
    };
    let mut ids: Vec<&u64> = from.keys().collect();
    ids.sort();
    ids.into_iter()
        .map(|id| {
            assert!(ns(from[id], "ts") <= ns(to[id], "ts"), "{} to {}", from[id], to[id]);
            (job(from[id]), job(to[id]))
        })
        .collect()
}

fn names(events: &[Value]) -> Vec<String> {
    let names = events.iter().filter(|event| event["name"] == "process_name");
    names.map(|event| event["args"]["name"].as_str().expect("a name").to_owned()).collect()
}

fn queue_of(client: &Client, device: &str) -> String {
    let all = client.queue_entries().expect("an answer");
    let own = all.iter().find(|one| one.device == device && one.client == client.number()).expect("a queue");
    own.timeline.strip_prefix("timeline:").expect("a key").to_owned()
}

/// Two clients that hand over from copy to zip to sec, many times. No more jobs at once than a recorder that has no core
/// may leave unread: what it does not read is left out (M-220).
#[test]
fn slices_nest_arrows_connect_and_counters_are_there() {
    let broker = Embedded::start().expect("a private broker");
    let named = |name| broker.client_with(&ClientOptions::new().name(name)).expect("a client");
    let clients = [named("camera"), named("encoder")];
    let queues = clients.each_ref().map(|client| {
        ["copy", "zip", "sec"]
            .map(|device| client.device(device).expect("it is there").queue(0).expect("a queue"))
    });
    let rounds: u64 = 20;
    let at_once = 3;
    // Made before, so that jobs of many rounds are under way at the same time.
    let memory = clients.each_ref().map(|client| {
        let buffer = || client.create(64 * 1024).expect("memory");
        (0..rounds).map(|_| (buffer(), buffer(), client.cells(2).expect("cells"))).collect::<Vec<_>>()
    });
    let recording = record(&broker, &clients[0]);
    let frames = |client: &Client, [copy, zip, sec]: &[Queue; 3], memory: &[(Buffer, Buffer, Cells)]| {
        let frame = |(frame, packed, cells): &(Buffer, Buffer, Cells)| {
            let mut batch = client.batch();
            batch.job(copy, "fill").output(frame).param("byte", 7);
            batch
                .job(zip, "compress")
                .input(frame)
                .output(packed)
                .param("format", "zstd")
                .result(cells.at(0));
            batch.job(sec, "sha256").input(packed).result(cells.at(1));
            batch.submit().expect("sent")
        };
        memory.iter().map(frame).collect::<Vec<_>>()
    };
    let mut ended = 0;
    for (ours, theirs) in memory[0].chunks(at_once).zip(memory[1].chunks(at_once)) {
        let sent = [frames(&clients[0], &queues[0], ours), frames(&clients[1], &queues[1], theirs)].concat();
        sent.iter().for_each(|one| one.wait(SOON).expect("done"));
        ended += 3 * sent.len() as u64;
        heard(&clients[0], ended);
        caught_up(&clients[0]);
    }
    let jobs = 3 * 2 * rounds;
    let events = recording.end();
    assert_nested(&events);

    let count = |cat: &str| slices(&events).filter(|slice| slice["cat"] == cat).count() as u64;
    assert_eq!((count("job"), count("run"), count("unfinished")), (jobs, jobs, 0));
    let runs = slices(&events).filter(|slice| slice["name"] == "runs").count() as u64;
    let queued = slices(&events).filter(|slice| slice["name"] == "queued").count() as u64;
    assert_eq!((runs, queued), (jobs, jobs));

    let arrows = arrows(&events);
    for client in &clients {
        let [copy, zip, sec] = ["copy", "zip", "sec"].map(|device| queue_of(client, device));
        for round in 1..=rounds {
            let waited = |job: String| {
                let of = slices(&events)
                    .find(|slice| slice["cat"] == "job" && slice["args"]["job"] == job.as_str());
                of.expect("recorded")["args"]["waited_for"].as_array().expect("a list").len()
            };
            // One that had ended before the other was submitted was waited for by nobody.
            for (from, to) in [(&copy, &zip), (&zip, &sec)] {
                let (from, to) = (format!("{from}:{round}"), format!("{to}:{round}"));
                let is_there = arrows.contains(&(from.clone(), to.clone()));
                assert!(is_there || waited(to.clone()) == 0, "no arrow from {from} to {to}");
            }
        }
    }
    assert!(!arrows.is_empty());

    let names = names(&events);
    for name in ["device copy", "device zip", "device sec"] {
        assert!(names.iter().any(|one| one == name), "{names:?}");
    }
    for client in &clients {
        assert!(
            names.iter().any(|one| one.starts_with(&format!("client {} (", client.number()))),
            "{names:?}"
        );
    }
    let counters =
        |name: &str| events.iter().filter(|event| event["ph"] == "C" && event["name"] == name).count();
    assert!(counters("jobs") > 0 && counters("bytes") > 0 && counters("bytes held") > 0);
}

#[test]
fn a_client_in_a_domain_records_its_own_jobs_alone() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let copy = client.device("copy").expect("it is there").queue(0).expect("a queue");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("our paths are text");
    let program = env!("CARGO_BIN_EXE_vgemctl");
    let create = ["domain", "create", "stage", "--run", "--", program, "trace", "--output", path];
    let mut child = command(&broker, &create).spawn().expect("it starts");
    let end = Deadline::after(SOON);
    let stage = |one: &vgem::snapshot::ClientEntry| one.domain >= 0xF000_0000 && one.messages >= 3;
    let tracer = loop {
        let all = client.client_entries().expect("an answer");
        if let Some(found) = all.into_iter().find(stage) {
            break found;
        }
        assert!(!end.passed() && child.try_wait().expect("ours").is_none(), "it records");
        std::thread::sleep(Duration::from_millis(5));
    };
    let frame = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&copy, "fill").output(&frame).param("byte", 7);
    batch.submit().expect("sent").wait(SOON).expect("done");
    heard(&client, 1);
    let pid = rustix::process::Pid::from_raw(tracer.pid.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("ours");
    assert!(child.wait().expect("ours").success());
    let whole: Value = serde_json::from_reader(file.reopen().expect("a file")).expect("JSON");
    assert_eq!(slices(whole["traceEvents"].as_array().expect("a list")).count(), 0, "{whole}");
}

#[test]
fn a_recording_ends_after_its_time_and_shows_what_has_not_ended() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let frame = client.create(4096).expect("memory");
    let held = Held::new(&client, &frame, SOON);
    let out = command(&broker, &["trace", "--output", "-", "--for", "100ms"]).output().expect("it starts");
    let whole: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    let events = whole["traceEvents"].as_array().expect("a list");
    let unfinished: Vec<&Value> = slices(events).filter(|slice| slice["cat"] == "unfinished").collect();
    assert_eq!(unfinished.len(), 1, "{whole}");
    assert_eq!(unfinished[0]["args"]["job"], format!("{}:1", queue_of(&client, "copy")));
    held.let_go();
}
