//! `vgemctl why` with a broker that is real and a driver that is stopped.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use vgem::{Client, ClientOptions, Embedded, Point, Submitted, Timeline, TimelineRights};
use vgem_waiting::test_support::{Stalled, Stopped, driver, stalled};

use crate::support::{SOON, broker, json, vgemctl};

/// A queue's timeline as a command line names it.
fn line(client: &Client, device: &str) -> String {
    let queues = client.queue_entries().expect("an answer");
    let queue = queues.into_iter().find(|queue| queue.device == device).expect("it is open");
    queue.timeline.strip_prefix("timeline:").expect("a key").to_owned()
}

fn said(out: &Output) -> String {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn why_leads_from_a_client_to_the_driver_that_is_stopped() {
    let stalled = stalled("encoder");
    let said = said(&vgemctl(&stalled.broker, &["why", "encoder"]));
    let lines: Vec<&str> = said.lines().collect();
    let [first, .., last] = lines.as_slice() else { panic!("{said}") };
    let pid = driver(&stalled.client, "copy");
    assert!(
        first.starts_with(&format!("client {} (encoder) waits for job 1", stalled.client.number())),
        "{said}"
    );
    assert!(last.contains(&format!("driver copy, process {pid}, which is stopped, for")), "{said}");
    assert!(last.contains(" of ") && last.ends_with("<- here"), "{said}");
}

#[test]
fn why_goes_through_every_job_between_a_point_and_what_holds_it_up() {
    let stalled = stalled("encoder");
    let point = format!("{}:1", line(&stalled.client, "sec"));
    let report = json(&stalled.broker, &["why", &point]);
    let chain = report["chain"].as_array().expect("a chain");
    let devices: Vec<&str> = chain.iter().filter_map(|step| step["device"].as_str()).collect();
    let states: Vec<&str> = chain.iter().filter_map(|step| step["state"].as_str()).collect();
    assert_eq!((devices, states), (vec!["sec", "zip", "copy"], vec!["waiting", "waiting", "running"]));
    let process = (report["process"]["doing"].as_str(), report["process"]["pid"].as_u64());
    assert_eq!(process, (Some("stopped"), Some(driver(&stalled.client, "copy").into())));
}

#[test]
fn why_of_a_queue_is_of_its_newest_job() {
    let stalled = stalled("encoder");
    let queue = line(&stalled.client, "zip");
    let said = said(&vgemctl(&stalled.broker, &["why", &queue]));
    assert!(said.starts_with(&format!("job 1 of timeline:{queue} on zip, of client")), "{said}");
}

#[test]
fn why_of_a_job_that_ended_says_how() {
    let Stalled { stopped, sent, client, broker } = stalled("encoder");
    drop(stopped);
    sent.wait(SOON).expect("it goes on");
    let point = format!("{}:1", line(&client, "sec"));
    let well = format!("job 1 of timeline:{} on sec ended well\n", &point[..point.len() - 2]);
    // A fence is there before the broker has heard of it.
    let ends = || (0..500).map(|_| said(&vgemctl(&broker, &["why", &point]))).find(|said| *said == well);
    assert!(ends().is_some(), "{}", said(&vgemctl(&broker, &["why", &point])));
    let idle = said(&vgemctl(&broker, &["why", &client.number().to_string()]));
    assert!(idle.contains("waits for no job"), "{idle}");
}

#[test]
fn why_of_a_job_that_failed_names_the_cause_and_what_is_behind_it() {
    let (broker, client) = broker();
    let zip = client.device("zip").expect("it is there").queue(0).expect("a queue");
    let garbage = client.create(4096).expect("memory");
    let out = client.create(4096).expect("memory");
    let mut batch = client.batch();
    batch.job(&zip, "decompress").input(&garbage).output(&out).param("format", "gzip");
    let failed = batch.submit().expect("sent").wait(SOON).expect_err("no gzip").to_string();
    let said = said(&vgemctl(&broker, &["why", &format!("{}:1", line(&client, "zip"))]));
    assert!(said.contains("failed: ") && said.contains("cause:"), "{said}");
    let cause = said.lines().nth(1).expect("an explanation").trim();
    assert!(failed.contains(cause.split(" (pid").next().unwrap_or(cause)), "{said}{failed}");
}

#[test]
fn why_of_what_is_not_there_has_its_own_exit_code() {
    let (broker, client) = broker();
    let code = |what: &str| vgemctl(&broker, &["why", what]).status.code();
    assert_eq!((code("nobody"), code("4711"), code("77.9:1")), (Some(5), Some(5), Some(5)));
    let _twins =
        ["twin", "twin"].map(|name| broker.client_with(&ClientOptions::new().name(name)).expect("a client"));
    assert_eq!((code("twin"), code("timeline:x")), (Some(2), Some(2)));
    drop(client);
}

#[test]
fn graphviz_draws_what_waits_for_what() {
    let stalled = stalled("encoder");
    let picture = said(&vgemctl(&stalled.broker, &["why", "encoder", "--format", "dot"]));
    let mut dot = Command::new("dot");
    let dot = dot.args(["-Tplain"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut dot = dot.spawn().expect("graphviz is needed: `cargo xtask test` says how to get it");
    dot.stdin.take().expect("a pipe").write_all(picture.as_bytes()).expect("it reads");
    let out = dot.wait_with_output().expect("it ends");
    let drawn = said(&out);
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
    // Three jobs, a client and a process; every job and the process is reached by an edge, and the client waits for all.
    let count = |kind: &str| drawn.lines().filter(|line| line.starts_with(kind)).count();
    assert_eq!((count("node "), count("edge ")), (5, 6), "{drawn}");
}

#[test]
fn only_why_draws() {
    let (broker, _client) = broker();
    assert_eq!(vgemctl(&broker, &["status", "--format", "dot"]).status.code(), Some(2));
}

/// A broker that leaves a lost device alone for as long as a test takes, and two jobs on one; its driver is stopped.
fn left_alone() -> Stalled {
    let config = "[times]\nscheduling_ms = 20\n[restart]\npause_ms = 60000\npause_most_ms = 60000";
    let broker = Embedded::builder().config(config).start().expect("a private broker");
    let client = broker.client_with(&ClientOptions::new().name("encoder")).expect("a client");
    let copy = client.device("copy").expect("it is there").queue(0).expect("a queue");
    let stopped = Stopped::new(driver(&client, "copy"));
    let mut batch = client.batch();
    for _ in 0..2 {
        let frame = client.create(4096).expect("memory");
        batch.job(&copy, "fill").output(&frame).timeout(Duration::from_millis(50));
    }
    let sent = batch.submit_acknowledged().expect("accepted");
    Stalled { stopped, sent, client, broker }
}

/// That a line ends with a time, and with the process that is gone.
fn assert_started_again(line: &str, before: &str, gone: Pid) {
    let rest = line.split_once(before).unwrap_or_else(|| panic!("{before:?} is not in {line:?}")).1;
    let gone = format!(", instead of process {}", gone.as_raw_nonzero());
    let time = rest.strip_suffix("  <- here").unwrap_or(rest).strip_suffix(&gone);
    let time = time.unwrap_or_else(|| panic!("{line:?} does not name {gone}"));
    assert!(time.ends_with(" ms") || time.ends_with(" s"), "{line:?}");
}

#[test]
fn why_names_a_device_that_is_started_again_for_what_its_last_driver_left() {
    let Stalled { stopped, sent, client, broker } = left_alone();
    sent.fences()[0].wait(SOON).expect_err("its driver stands still");
    let said = said(&vgemctl(&broker, &["why", "encoder"]));
    let last = said.lines().last().expect("a line");
    assert_started_again(last.trim(), "whose device copy is being started again, ", stopped.pid());
    let report = json(&broker, &["why", &format!("{}:2", line(&client, "copy"))]);
    let starting = (report["starting"][0]["device"].as_str(), report["process"].is_null());
    assert_eq!(starting, (Some("copy"), true), "{report}");
    // It is gone, and cannot go on.
    std::mem::forget(stopped);
}

#[test]
fn why_names_a_device_that_is_started_again_when_its_driver_was_killed() {
    let Stalled { stopped, sent, client, broker } = left_alone();
    kill_process(stopped.pid(), Signal::KILL).expect("ours to kill");
    let lost = sent.wait(SOON).expect_err("its driver is gone");
    assert!(lost.to_string().contains("device lost"), "{lost}");
    let queue = line(&client, "copy");
    for what in ["encoder", &queue] {
        let said = said(&vgemctl(&broker, &["why", what]));
        let last = said.lines().last().expect("a line");
        assert_started_again(last, "device copy is being started again, ", stopped.pid());
    }
    std::mem::forget(stopped);
}

/// A job that waits for a point that another client has promised, or has not.
struct Gated {
    /// Keeps the queue open.
    _sent: Submitted,
    _timeline: Timeline,
    _camera: Client,
    client: Client,
    broker: Embedded,
}

fn gated(promise: bool) -> Gated {
    let broker = Embedded::start().expect("a private broker");
    let named = |name| broker.client_with(&ClientOptions::new().name(name)).expect("a client");
    let (camera, client) = (named("camera"), named("encoder"));
    let mut timeline = camera.timeline("frames").expect("a timeline");
    let token = timeline.export(TimelineRights::WAIT).expect("a token");
    let theirs = client.import_timeline(token).expect("a handle");
    if promise {
        timeline.promise_acknowledged(Point(1), SOON).expect("taken");
    }
    let copy = client.device("copy").expect("it is there").queue(0).expect("a queue");
    let frame = client.create(4096).expect("memory");
    let mut batch = client.batch();
    let point = theirs.point(Point(1)).promised_by(SOON);
    batch.job(&copy, "fill").output(&frame).param("byte", 1).after(&point);
    let sent = batch.submit_acknowledged().expect("accepted");
    Gated { _sent: sent, _timeline: timeline, _camera: camera, client, broker }
}

#[test]
fn why_names_the_client_that_has_promised_and_when_it_is_due() {
    let gated = gated(true);
    let said = said(&vgemctl(&gated.broker, &["why", "encoder"]));
    let lines: Vec<&str> = said.lines().map(str::trim).collect();
    let pid = std::process::id();
    assert!(lines[0].starts_with("client ") && lines[0].contains("waits for job 1 of"), "{said}");
    assert!(
        lines[1].starts_with("which waits for point 1 of") && lines[1].contains("(frames), of client"),
        "{said}"
    );
    assert!(lines[2].contains(&format!("(camera), process {pid}, has promised, due in")), "{said}");
}

#[test]
fn why_names_the_client_that_has_not_promised_yet() {
    let gated = gated(false);
    let said = said(&vgemctl(&gated.broker, &["why", "encoder"]));
    assert!(said.contains("(camera), process ") && said.contains("has not promised, due in"), "{said}");
    let owes = self::said(&vgemctl(&gated.broker, &["why", "camera"]));
    assert!(
        owes.contains("waits for no job") && owes.contains("it has not promised point 1 of timeline:c0."),
        "{owes}"
    );
}

#[test]
fn a_timeline_is_meant_by_its_name_with_a_point_or_without() {
    let gated = gated(true);
    for what in ["frames", "frames:1"] {
        let said = said(&vgemctl(&gated.broker, &["why", what]));
        assert!(said.starts_with("point 1 of timeline:") && said.contains("has promised"), "{said}");
    }
    let key = gated.client.timeline_entries().expect("an answer")[0].timeline.clone();
    let shown = said(&vgemctl(&gated.broker, &["show", "timeline", &key]));
    assert!(shown.contains("frames") && shown.contains("promised"), "{shown}");
    let listed = said(&vgemctl(&gated.broker, &["list", "timelines"]));
    assert!(listed.contains("TIMELINE") && listed.contains("frames") && listed.contains("open"), "{listed}");
}
