//! Whoever dies, hangs or goes: the others learn of it by name, and the ledger returns to its start.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vgem::{Access, Client, Deadline, Embedded, ErrorCode, FenceError, snapshot};
use vgem_tests::{processes, programs, samples};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

fn pid_of(client: &Client, device: &str) -> u32 {
    let entries = client.device_entries().expect("devices");
    let entry = entries.into_iter().find(|d| d.name == device).expect("the device is there");
    entry.instances.first().expect("an instance runs").pid
}

/// The code, and all that is said, of a fence that must have failed.
fn failure(ended: Result<(), FenceError>) -> (ErrorCode, String) {
    match ended.expect_err("it failed") {
        FenceError::Failed(failure) => (failure.code, failure.to_string()),
        other => panic!("{other}"),
    }
}

/// A second process with objects, queues and jobs.
fn busy_client(broker: &Embedded) -> Child {
    let program = programs::own("vgem-test-client");
    let mut child =
        Command::new(program).arg(broker.socket()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    let out = child.stdout.as_mut().expect("a pipe");
    BufReader::new(out).read_line(&mut line).expect("it says something");
    assert_eq!(line, "busy\n");
    child
}

fn ledger(status: &snapshot::Status) -> [u64; 6] {
    [
        status.clients,
        status.objects,
        status.object_bytes,
        status.queues,
        status.timelines,
        status.jobs_in_flight,
    ]
}

#[test]
fn l3_after_a_killed_client_the_ledger_is_as_it_was() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let before = ledger(&client.status().expect("a status"));
    for _ in 0..5 {
        let mut victim = busy_client(&broker);
        let during = ledger(&client.status().expect("a status"));
        assert_eq!((during[0], during[1], during[3]), (before[0] + 1, before[1] + 8, before[3] + 1));
        victim.kill().expect("it lives");
        victim.wait().expect("it ended");
        processes::until(Duration::from_secs(2), "the ledger returns to its start", || {
            ledger(&client.status().expect("a status")) == before
        });
    }
}

#[test]
fn l4_a_killed_driver_fails_what_it_owed_with_its_name_and_the_signal() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let queue = client.device("copy").and_then(|d| d.queue(0)).expect("a queue");
    let buffer = client.create(1 << 20).expect("a buffer");
    let pid = pid_of(&client, "copy");
    processes::signal(pid, "STOP");
    let mut batch = client.batch();
    batch.job(&queue, "fill").output(&buffer);
    let fence = batch.submit().expect("accepted").last().clone();
    processes::signal(pid, "KILL");
    let killed = Instant::now();
    let (code, said) = failure(fence.wait(soon()));
    assert_eq!(code, ErrorCode::DeviceLost);
    assert!(killed.elapsed() < Duration::from_millis(500), "{:?}", killed.elapsed());
    assert!(said.contains("copy") && said.contains("signal 9") && said.contains(&pid.to_string()), "{said}");
}

#[test]
fn l4_a_restarted_device_takes_new_queues_and_answers_gone_to_old_ones() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let device = client.device("copy").expect("a device");
    let old = device.queue(0).expect("a queue");
    let buffer = client.create(4096).expect("a buffer");
    let pid = pid_of(&client, "copy");
    processes::signal(pid, "KILL");
    processes::until(Duration::from_secs(10), "the device is back", || {
        let entries = client.device_entries().expect("devices");
        let copy = entries.iter().find(|d| d.name == "copy").expect("the device is there");
        copy.instances.iter().any(|i| i.pid != 0 && i.pid != pid)
    });
    let new = device.queue(0).expect("a queue of the new instance");
    let mut batch = client.batch();
    batch.job(&new, "fill").output(&buffer).param("byte", 9);
    batch.submit_acknowledged().expect("accepted").wait(soon()).expect("done");
    assert_eq!(buffer.read(..2, soon()).expect("filled")[..], [9, 9]);
    let mut batch = client.batch();
    batch.job(&old, "fill").output(&buffer);
    let error = batch.submit_acknowledged().expect_err("its instance is gone").to_string();
    assert!(error.contains("gone"), "{error}");
}

/// Everything that a stopped driver has: a job that is to blame, one behind it, one on another queue, and one of
/// another device that reads what the last one writes.
#[test]
fn f9_a_driver_that_hangs_has_an_heir_and_only_the_guilty_job_fails() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let queue = |device: &str| client.device(device).and_then(|d| d.queue(0)).expect("a queue");
    let (copy, beside, sec) = (queue("copy"), queue("copy"), queue("sec"));
    let buffer = || client.create(4096).expect("a buffer");
    let (stuck, made, other, like) = (buffer(), buffer(), buffer(), buffer());
    like.write(.., soon()).expect("ours").copy_from_slice(&[9; 4096]);
    let cells = client.cells(2).expect("cells");
    let watcher = broker.client().expect("another client");
    let shared = watcher.import_fd(other.export(Access::Read).expect("ours")).expect("the same memory");
    processes::signal(pid_of(&client, "copy"), "STOP");

    let mut batch = client.batch();
    let hung = batch.job(&copy, "fill").output(&stuck).timeout(Duration::from_millis(100)).id();
    let behind = batch.job(&copy, "fill").output(&made).param("byte", 7).id();
    let aside = batch.job(&beside, "fill").output(&other).param("byte", 9).id();
    let hash = batch.job(&sec, "sha256").input(&other).result(cells.at(1)).id();
    let submitted = batch.submit().expect("accepted");
    let fence = |job| submitted.fence(job).expect("of this batch");
    let looks = std::thread::spawn(move || {
        let seen = shared.read(.., soon()).expect("the point comes in the page where it is awaited");
        seen.iter().all(|byte| *byte == 9)
    });

    let (code, said) = failure(fence(hung).wait(soon()));
    assert_eq!(code, ErrorCode::TimedOut, "{said}");
    assert!(said.contains("copy"), "{said}");
    for job in [behind, aside, hash] {
        fence(job).wait(soon()).expect("it is innocent and runs again");
    }
    assert!(made.read(.., soon()).expect("done").iter().all(|byte| *byte == 7));
    assert!(looks.join().expect("it looked"));
    let mut batch = client.batch();
    batch.job(&copy, "fill").output(&stuck).param("byte", 1);
    batch.job(&sec, "sha256").input(&like).result(cells.at(0));
    batch.submit().expect("the queue goes on").wait(soon()).expect("done");
    let digests = [0, 1].map(|place| cells.at(place).read().digest());
    assert_eq!(digests[0], digests[1], "what others read is what the heir wrote");
}

#[test]
fn f7_a_driver_that_hangs_holds_up_no_other_device() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let queue = |device: &str| client.device(device).and_then(|d| d.queue(0)).expect("a queue");
    let (copy, sec) = (queue("copy"), queue("sec"));
    let (stuck, free) = (client.create(4096).expect("a buffer"), client.create(4096).expect("a buffer"));
    let cells = client.cells(1).expect("cells");
    processes::signal(pid_of(&client, "copy"), "STOP");
    let mut batch = client.batch();
    batch.job(&copy, "fill").output(&stuck);
    batch.submit().expect("accepted");
    let mut batch = client.batch();
    batch.job(&sec, "sha256").input(&free).result(cells.at(0));
    batch.submit().expect("accepted").wait(soon()).expect("another device is not held up");
}

#[test]
fn f10_what_depends_by_data_fails_with_the_same_cause_and_siblings_do_not() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let queue = |device: &str| client.device(device).and_then(|d| d.queue(0)).expect("a queue");
    let (zip, sec, copy) = (queue("zip"), queue("sec"), queue("copy"));
    let buffer = || client.create(65_536).expect("a buffer");
    let (junk, unpacked, sibling) = (buffer(), buffer(), buffer());
    junk.write(.., soon()).expect("ours").copy_from_slice(&samples::text(65_536));
    let cells = client.cells(1).expect("cells");
    let mut batch = client.batch();
    let root = batch.job(&zip, "decompress").input(&junk).output(&unpacked).param("format", "zstd").id();
    let hash = batch.job(&sec, "sha256").input(&unpacked).result(cells.at(0)).id();
    let aside = batch.job(&copy, "fill").output(&sibling).param("byte", 5).id();
    let submitted = batch.submit().expect("accepted");
    let cause = |job| match submitted.fence(job).expect("of this batch").wait(soon()) {
        Err(FenceError::Failed(failure)) => Some((failure.code, failure.cause)),
        other => {
            other.expect("neither late nor lost");
            None
        }
    };
    let first = cause(root).expect("text is no zstd");
    assert_eq!(first.0, ErrorCode::CorruptInput);
    assert_eq!(cause(hash).map(|(_, cause)| cause), Some(first.1));
    assert_eq!(cause(aside), None);
    assert_eq!(sibling.read(..1, soon()).expect("filled")[..], [5]);
}
