//! Several users of one machine share memory: what each may do with it, who waits for whom, and who pays.
//!
//! Two clients here are two users, so two domains with drivers of their own: what is shared crosses every border there is.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::fs::SealFlags;
use serde_json::json;
use vgem::{
    Access, Buffer, BufferOptions, Client, ClientOptions, Deadline, Embedded, ErrorCode, FenceError, PageVec,
    Queue, Submitted,
};
use vgem_os::seqpacket::Socket;
use vgem_tests::daemon::{BROKER_UID, DRIVER_UID, Daemon, Serving, USERS};
use vgem_tests::stranger::{Stranger, Who};
use vgem_tests::{processes, programs, samples, strangers};

const MIB: u64 = 1 << 20;
const LEN: u64 = 64 * 1024;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A machine with two users.
struct Machine {
    daemon: Serving,
    /// A client of each user.
    a: Client,
    b: Client,
    /// Sees everything.
    root: Client,
}

impl Machine {
    fn new() -> Self {
        Self::with("")
    }

    fn with(config: &str) -> Self {
        let daemon = Daemon::system().config(config).start();
        let [a, b] = USERS.map(|uid| client_of(&daemon, uid));
        let root = Client::connect(daemon.socket()).expect("a client");
        Self { daemon, a, b, root }
    }
}

/// A client that is another user to the broker.
fn client_of(daemon: &Serving, uid: u32) -> Client {
    let socket = Stranger::of_uid(uid).connect(&daemon.socket());
    ClientOptions::new().name("shares").over(socket).expect("a client")
}

fn queue(client: &Client, device: &str) -> Queue {
    client.device(device).and_then(|d| d.queue(0)).expect("a queue")
}

fn fill(client: &Client, queue: &Queue, buffer: &Buffer, byte: u64) -> Submitted {
    let mut batch = client.batch();
    batch.job(queue, "fill").output(buffer).param("byte", byte);
    batch.submit_acknowledged().expect("accepted")
}

/// What is said of a batch of one job that is refused, by the library or by the broker.
fn refused(client: &Client, job: impl FnOnce(&mut vgem::Batch)) -> String {
    let mut batch = client.batch();
    job(&mut batch);
    batch.submit_acknowledged().expect_err("it is refused").to_string()
}

/// The process of a user's driver.
fn driver_of(root: &Client, device: &str, uid: u32) -> u32 {
    let entries = root.device_entries().expect("devices");
    let entry = entries.into_iter().find(|d| d.name == device).expect("the device is there");
    entry.instances.iter().find(|i| i.domain == uid).expect("an instance runs for this user").pid
}

#[test]
fn l5_the_same_memory_is_the_same_handle_however_it_came() {
    let machine = Machine::new();
    let buffer = machine.a.create(LEN).expect("a buffer");
    let own = machine.a.import_fd(buffer.export(Access::Write).expect("ours")).expect("an export");
    assert_eq!(own.handle(), buffer.handle());
    let first = machine.b.import_fd(buffer.export(Access::Write).expect("ours")).expect("an export");
    let dup = buffer.export(Access::Write).expect("ours");
    let second = machine.b.import_fd(dup.try_clone().expect("a dup")).expect("a dup of an export");
    assert_eq!(first.handle(), second.handle());
    assert_eq!(machine.root.status().expect("a status").objects, 1);
    // The last of both closes it: the first alone does not.
    drop((dup, first));
    fill(&machine.b, &queue(&machine.b, "copy"), &second, 3);
    assert_eq!(second.read(..4, soon()).expect("filled")[..], [3; 4]);
    drop((second, own, buffer));
    processes::until(Duration::from_secs(5), "it is freed", || {
        machine.root.status().expect("a status").objects == 0
    });
}

#[test]
fn rights_are_those_of_the_fd_and_only_shrink() {
    let machine = Machine::new();
    let buffer = machine.a.create(LEN).expect("a buffer");
    buffer.write(.., soon()).expect("ours").fill(9);
    let read_only = buffer.export(Access::Read).expect("ours");
    let seen = machine.b.import_fd(read_only.try_clone().expect("a dup")).expect("an export");
    assert!(!seen.is_writable());
    assert_eq!(seen.read(..4, soon()).expect("shared")[..], [9; 4]);
    assert!(seen.write(.., soon()).is_err());
    let copy = queue(&machine.b, "copy");
    let said = refused(&machine.b, |batch| {
        batch.job(&copy, "fill").output(&seen).param("byte", 1);
    });
    assert!(said.contains("for reading only"), "{said}");
    assert_eq!(seen.export(Access::Write).expect_err("wider than the fd").code(), Some(ErrorCode::Denied));
    // Passed on it is no wider either.
    let third = client_of(&machine.daemon, USERS[1] + 10);
    let passed = third.import_fd(seen.export(Access::Read).expect("readable")).expect("an export");
    assert!(!passed.is_writable());
    assert_eq!(buffer.read(..4, soon()).expect("ours")[..], [9; 4]);
}

#[test]
fn jobs_of_two_users_on_one_object_wait_for_each_other() {
    let machine = Machine::new();
    let (ours, theirs) = (queue(&machine.a, "copy"), queue(&machine.b, "copy"));
    let shared = machine.a.create(4 * MIB).expect("a buffer");
    let imported = machine.b.import_fd(shared.export(Access::Write).expect("ours")).expect("an export");
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        of_a.push(machine.a.create(4 * MIB).expect("a buffer"));
        of_b.push(machine.b.create(4 * MIB).expect("a buffer"));
    }
    // A fills, B copies what A filled, B fills, A copies what B filled: nobody waits here in between.
    for (round, (a, b)) in of_a.iter().zip(&of_b).enumerate() {
        let byte = u64::try_from(round * 2).expect("small");
        fill(&machine.a, &ours, &shared, byte);
        let mut batch = machine.b.batch();
        batch.job(&theirs, "copy").input(&imported).output(b);
        batch.job(&theirs, "fill").output(&imported).param("byte", byte + 1);
        batch.submit_acknowledged().expect("accepted");
        let mut batch = machine.a.batch();
        batch.job(&ours, "copy").input(&shared).output(a);
        batch.submit_acknowledged().expect("accepted");
    }
    for (round, (a, b)) in of_a.iter().zip(&of_b).enumerate() {
        let byte = u8::try_from(round * 2).expect("small");
        assert!(b.read(.., soon()).expect("copied").iter().all(|seen| *seen == byte), "round {round}");
        assert!(a.read(.., soon()).expect("copied").iter().all(|seen| *seen == byte + 1), "round {round}");
    }
    let drivers = USERS.map(|uid| driver_of(&machine.root, "copy", uid));
    assert_ne!(drivers[0], drivers[1], "each user has a driver of its own");
    let counters = machine.root.status().expect("a status").counters;
    assert_eq!((counters.points_settled, counters.sleepers_woken), (0, 0), "the broker signals nobody");
}

#[test]
fn f10_a_failure_crosses_to_another_user_with_its_cause() {
    let machine = Machine::new();
    let (ours, theirs) = (queue(&machine.a, "copy"), queue(&machine.b, "copy"));
    let shared = machine.a.create(LEN).expect("a buffer");
    let imported = machine.b.import_fd(shared.export(Access::Read).expect("ours")).expect("an export");
    let (copied, other) =
        (machine.b.create(LEN).expect("a buffer"), machine.b.create(LEN).expect("a buffer"));
    let driver = driver_of(&machine.root, "copy", USERS[0]);
    processes::signal(driver, "STOP");
    let origin = fill(&machine.a, &ours, &shared, 1);
    let mut batch = machine.b.batch();
    batch.job(&theirs, "copy").input(&imported).output(&copied);
    let dependent = batch.submit_acknowledged().expect("accepted");
    // Another queue, another object: not held up by what this one waits for.
    let free = queue(&machine.b, "copy");
    let mut batch = machine.b.batch();
    batch.job(&free, "fill").output(&other).param("byte", 2);
    batch.submit().expect("accepted").wait(soon()).expect("it depends on nothing of theirs");
    processes::signal(driver, "KILL");
    let [begun, carried] = [origin, dependent].map(|job| match job.last().wait(soon()) {
        Err(FenceError::Failed(failure)) => failure,
        other => panic!("its data will never be: {other:?}"),
    });
    assert_eq!((begun.code, carried.code), (ErrorCode::DeviceLost, ErrorCode::DeviceLost));
    assert_eq!(begun.cause, carried.cause, "the same cause, in another domain");
    assert!(begun.to_string().contains("signal 9"), "its own user is told what happened: {begun}");
    // Also for a job that comes after all is over: the object is poisoned.
    let mut batch = machine.b.batch();
    batch.job(&theirs, "copy").input(&imported).output(&other);
    let late = batch.submit_acknowledged().expect("accepted");
    match late.last().wait(soon()) {
        Err(FenceError::Failed(failure)) => assert_eq!(failure.cause, begun.cause),
        other => panic!("it reads what was never written: {other:?}"),
    }
    let read = imported.read(.., soon()).map(|bytes| bytes.len()).expect_err("nor does the CPU read it");
    assert_eq!(read.code(), Some(ErrorCode::DeviceLost), "{read}");
}

/// A receiver that is a process of its own, and another user.
struct Peer {
    child: Child,
    lines: BufReader<ChildStdout>,
    link: Option<Socket>,
}

impl Peer {
    fn start(daemon: &Serving, uid: u32) -> Self {
        let (link, theirs) = Socket::pair().expect("a pair of sockets");
        let mut command = Command::new(programs::own("vgem-test-peer"));
        command.arg(daemon.socket()).arg(uid.to_string());
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines, link: Some(link) }
    }

    fn send(&self, buffer: &Buffer) {
        let link = self.link.as_ref().expect("it is there until drop");
        buffer.send(link, Access::Read, soon()).expect("it is sent");
    }

    fn says(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a pipe");
        line.trim().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.link = None;
        drop(self.child.wait());
    }
}

#[test]
fn c1_a_buffer_is_sent_with_what_is_unfinished_on_it() {
    let machine = Machine::new();
    let ours = queue(&machine.a, "copy");
    let frame = machine.a.create_with(LEN, &BufferOptions::new().name("frame")).expect("a buffer");
    let driver = driver_of(&machine.root, "copy", USERS[0]);
    let mut peer = Peer::start(&machine.daemon, USERS[1]);
    let mut early = 0;
    for byte in 1..20 {
        processes::signal(driver, "STOP");
        processes::until(Duration::from_secs(5), "the driver stands", || processes::state(driver) == 'T');
        // Submitted, and not acknowledged: sending says so.
        let mut batch = machine.a.batch();
        batch.job(&ours, "fill").output(&frame).param("byte", byte);
        let submitted = batch.submit().expect("accepted");
        peer.send(&frame);
        assert_eq!(peer.says(), format!("received {LEN} frame"));
        early += u32::from(submitted.last().wait(Deadline::after(Duration::from_millis(20))).is_err());
        processes::signal(driver, "CONT");
        assert_eq!(peer.says(), format!("read {byte}"), "it waited for the job");
    }
    assert_eq!(early, 19, "each was unfinished when it was received");
    // And when the job fails, reading does, with its cause.
    processes::signal(driver, "STOP");
    fill(&machine.a, &ours, &frame, 77);
    peer.send(&frame);
    assert_eq!(peer.says(), format!("received {LEN} frame"));
    processes::signal(driver, "KILL");
    let said = peer.says();
    assert!(said.starts_with("failed Some(DeviceLost)") && said.contains("cause:"), "{said}");
}

#[test]
fn a_sealed_result_is_forged_by_nobody_its_creator_and_the_machines_root_included() {
    let machine = Machine::new();
    let ours = queue(&machine.a, "copy");
    let copy = machine.a.device("copy").expect("it is there");
    let options = BufferOptions::new().name("result").sealed_for(&copy);
    let result = machine.a.create_with(LEN, &options).expect("a sealed result");
    assert!(result.is_sealed() && !result.is_writable());
    fill(&machine.a, &ours, &result, 42);
    assert!(result.read(.., soon()).expect("filled").iter().all(|byte| *byte == 42));

    let fd = result.export(Access::Read).expect("ours to read");
    assert_eq!(result.export(Access::Write).expect_err("sealed").code(), Some(ErrorCode::Denied));
    let namespace = |uid| Stranger::start_as(&Who { uid, namespace: true, ..Who::default() });
    let who = [
        ("its creator", Stranger::of_uid(USERS[0])),
        ("another user", Stranger::of_uid(USERS[1])),
        ("the driver's account", Stranger::of_uid(DRIVER_UID)),
        ("the broker's account", Stranger::of_uid(BROKER_UID)),
        ("a user's namespace", namespace(Some(USERS[0]))),
        ("root's namespace", namespace(None)),
        ("the machine's root", Stranger::start()),
    ];
    for (who, mut stranger) in who {
        for family in ["writes", "sizes", "seals"] {
            let ended = stranger.attack(family, &fd, LEN);
            assert!(ended.len() >= 5 && ended.values().all(|how| how != "done"), "{who}: {ended:?}");
        }
        assert!(result.read(.., soon()).expect("still").iter().all(|byte| *byte == 42), "{who}");
    }

    // Importers see that it is sealed; neither they nor another device of its creator write it.
    let imported = machine.b.import_fd(fd).expect("an export");
    assert!(imported.is_sealed() && !imported.is_writable());
    let theirs = queue(&machine.b, "copy");
    let said = refused(&machine.b, |batch| {
        batch.job(&theirs, "fill").output(&imported).param("byte", 1);
    });
    assert!(said.contains("for reading only"), "{said}");
    let sec = queue(&machine.a, "sec");
    let plain = machine.a.create(LEN).expect("a buffer");
    let key = machine.a.create(32).expect("a buffer");
    let said = refused(&machine.a, |batch| {
        batch.job(&sec, "seal").input(plain.slice(..1024)).output(&result).operand("key", &key);
    });
    assert!(said.contains("only device copy may write"), "{said}");
    // Any device reads it; and it stays as it is when its writer is gone.
    let copied = machine.b.create(LEN).expect("a buffer");
    let mut batch = machine.b.batch();
    batch.job(&theirs, "copy").input(&imported).output(&copied);
    batch.submit().expect("accepted").wait(soon()).expect("done");
    assert!(copied.read(.., soon()).expect("copied").iter().all(|byte| *byte == 42));
    let driver = driver_of(&machine.root, "copy", USERS[0]);
    processes::signal(driver, "KILL");
    processes::until(Duration::from_secs(10), "its writer is gone", || {
        let entries = machine.root.device_entries().expect("devices");
        entries.iter().flat_map(|device| &device.instances).all(|instance| instance.pid != driver)
    });
    let said = refused(&machine.a, |batch| {
        batch.job(&ours, "fill").output(&result).param("byte", 1);
    });
    assert!(said.contains("gone"), "{said}");
    assert!(imported.read(.., soon()).expect("still").iter().all(|byte| *byte == 42));
    drop((imported, result));
    processes::until(Duration::from_secs(5), "it is freed", || {
        let objects = machine.root.object_entries().expect("objects");
        objects.iter().all(|object| object.name != "result")
    });
}

#[test]
fn adopted_memory_is_used_by_a_device_in_place_and_comes_back() {
    let machine = Machine::new();
    let text = samples::text(3 << 20);
    let pages = PageVec::from_slice(&text);
    let place = pages.as_ptr() as usize;
    let adopted = machine.a.adopt_pages(pages).expect("adopted");
    assert_eq!(adopted.read(.., soon()).expect("ours").as_ptr() as usize, place, "the same address");
    assert!(adopted.read(.., soon()).expect("ours")[..] == text, "the same bytes");
    let (ours, cells) = (queue(&machine.a, "sec"), machine.a.cells(1).expect("cells"));
    let mut batch = machine.a.batch();
    batch.job(&ours, "sha256").input(&*adopted).result(cells.at(0));
    batch.submit().expect("accepted").wait(soon()).expect("done");
    let dir = samples::place();
    let file = samples::file(dir.path(), "text", 3 << 20);
    let hex: String = cells.read(0).digest().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, programs::digest("sha256sum", &file));

    // Others see it: a stranger through an fd, another user through an import, and a device writes it in place.
    let fd = adopted.export(Access::Read).expect("ours");
    let seen = Stranger::of_uid(USERS[1]).must(json!({ "do": "read", "offset": 0, "len": 8 }), &[fd.as_fd()]);
    let first: String = text[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(seen["bytes"], first);
    let imported = machine.b.import_fd(adopted.export(Access::Write).expect("ours")).expect("an export");
    let theirs = queue(&machine.b, "copy");
    let mut batch = machine.b.batch();
    batch.job(&theirs, "fill").output(imported.slice(..4096)).param("byte", 7);
    batch.submit().expect("accepted").wait(soon()).expect("done");
    drop((imported, fd));
    let pages = adopted.release(soon()).expect("nobody uses it");
    assert_eq!(pages.as_ptr() as usize, place, "the same address");
    assert!(pages[..4096].iter().all(|byte| *byte == 7) && pages[4096..] == text[4096..]);
}

#[test]
fn a_set_is_made_by_one_request_for_64_all_or_none() {
    let machine = Machine::with("[quota]\nobjects = 120\n");
    let before = machine.a.counters().messages_sent;
    let set = machine.a.create_set(100, 4096).expect("100 buffers");
    // Create and commit, for 64 and for 36.
    assert_eq!(machine.a.counters().messages_sent - before, 4);
    let ours = queue(&machine.a, "copy");
    let mut batch = machine.a.batch();
    for (at, buffer) in set.iter().enumerate() {
        batch.job(&ours, "fill").output(buffer).param("byte", u64::try_from(at).expect("small"));
    }
    batch.submit().expect("accepted").wait(soon()).expect("done");
    for (at, buffer) in set.iter().enumerate() {
        let byte = u8::try_from(at).expect("small");
        assert!(buffer.read(.., soon()).expect("filled").iter().all(|seen| *seen == byte), "buffer {at}");
    }
    let error = machine.a.create_set(64, 4096).expect_err("the domain may have 120");
    assert_eq!(error.code(), Some(ErrorCode::Exhausted));
    assert_eq!(machine.root.status().expect("a status").objects, 100, "none of them was made");
    drop(set);
    // And without another word of the client that had them.
    processes::until(Duration::from_secs(5), "all are freed", || {
        machine.root.status().expect("a status").objects == 0
    });
}

/// T27: what somebody still has is still charged to who made it, whatever was given up.
#[test]
fn atk_orphan_dropping_handles_does_not_evade_the_quota() {
    let machine = Machine::with("[quota]\nbytes_mib = 64\n");
    let mut strangers = Vec::new();
    for way in ["fd", "map", "dup", "queue"] {
        let buffer = machine.a.create(16 * MIB).expect("within the quota");
        let mut stranger = Stranger::of_uid(USERS[1]);
        stranger.hold(way, buffer.export(Access::Read).expect("ours"), 16 * MIB);
        drop(buffer);
        strangers.push((way, stranger));
    }
    let full = machine.a.create(4096).expect_err("the quota is used up");
    assert_eq!(full.code(), Some(ErrorCode::Exhausted), "{full}");
    // Another connection of the same user is the same domain; another user is not.
    let again = client_of(&machine.daemon, USERS[0]);
    assert_eq!(again.create(4096).expect_err("the same quota").code(), Some(ErrorCode::Exhausted));
    drop(machine.b.create(16 * MIB).expect("another domain"));
    processes::until(Duration::from_secs(5), "what nobody has is freed", || {
        machine.root.status().expect("a status").object_bytes == 64 * MIB
    });
    for (way, mut stranger) in strangers {
        stranger.release(way);
    }
    processes::until(Duration::from_secs(5), "the charge is back", || machine.a.create(64 * MIB).is_ok());
}

/// T27: who imports pays as well, the whole length, once, as long as it has a handle.
#[test]
fn atk_orphan_an_import_is_charged_to_the_importer_too() {
    let machine = Machine::with("[quota]\nbytes_mib = 64\n");
    let buffer = machine.a.create(40 * MIB).expect("within the quota");
    let own = machine.b.create(30 * MIB).expect("within the quota");
    let fd = || buffer.export(Access::Read).expect("ours");
    let full = machine.b.import_fd(fd()).expect_err("40 MiB more than 34");
    assert_eq!(full.code(), Some(ErrorCode::Exhausted), "{full}");
    drop(own);
    let mut first = None;
    processes::until(Duration::from_secs(5), "its own is freed", || {
        first = machine.b.import_fd(fd()).ok();
        first.is_some()
    });
    let second = machine.b.import_fd(fd()).expect("the same memory is charged once");
    let entries = machine.root.object_entries().expect("objects");
    let entry = entries.iter().find(|entry| entry.len == 40 * MIB).expect("it is there");
    assert_eq!((entry.domain, &entry.shared_with[..]), (USERS[0], &[USERS[1]][..]));
    assert_eq!(machine.b.create(30 * MIB).expect_err("34 are left").code(), Some(ErrorCode::Exhausted));
    // Its creator goes; the importer has it, and both are charged until the last handle of the importer's is gone.
    drop(buffer);
    assert_eq!(machine.a.create(30 * MIB).expect_err("still charged").code(), Some(ErrorCode::Exhausted));
    drop((first, second));
    processes::until(Duration::from_secs(5), "both charges are back", || {
        machine.a.create(64 * MIB).is_ok() && machine.b.create(64 * MIB).is_ok()
    });
}

/// T25: memory that was freed is never seen again, not by who kept a reference that no probe sees, nor by who comes next.
#[test]
fn atk_recycle_nothing_of_a_freed_object_is_seen_again() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    for round in 0..10_u8 {
        let secret = client.create(LEN).expect("a buffer");
        let mut spy = Stranger::start();
        let fd = secret.export(Access::Read).expect("ours");
        // A path and a page in a pipe: both outlive the object, as the probe sees neither.
        spy.must(json!({ "do": "hidden" }), &[fd.as_fd()]);
        drop(fd);
        secret.write(.., soon()).expect("ours").fill(0x51 + round);
        drop(secret);
        processes::until(Duration::from_secs(5), "it is freed", || {
            client.status().expect("a status").objects == 0
        });
        let next: Vec<Buffer> = (0..16).map(|_| client.create(LEN).expect("a buffer")).collect();
        for buffer in &next {
            assert!(buffer.read(.., soon()).expect("fresh").iter().all(|byte| *byte == 0), "round {round}");
            buffer.write(.., soon()).expect("ours").fill(0xee);
        }
        let seen = spy.must(json!({ "do": "look_hidden" }), &[]);
        let (piped, opened) = (seen["piped"].as_str().expect("hex"), seen["opened"].as_str().expect("hex"));
        assert_eq!(opened, "00".repeat(4096), "the path names memory that was punched");
        // The page in the pipe is the one it had: what its owner wrote while the spy could see it, and nothing newer.
        let had = format!("{:02x}", 0x51 + round).repeat(4096);
        assert!(piped == had || piped == "00".repeat(4096), "round {round}: {}", &piped[..64]);
        assert!(!piped.contains("ee"), "a page that is somebody else's now");
    }
}

/// What the daemon knows, and what only /proc knows, in one answer.
#[test]
fn who_lists_a_strangers_fd_and_mapping() {
    let machine = Machine::new();
    let buffer = machine.a.create_with(LEN, &BufferOptions::new().name("frame")).expect("a buffer");
    fill(&machine.a, &queue(&machine.a, "copy"), &buffer, 1);
    let imported = machine.b.import_fd(buffer.export(Access::Read).expect("ours")).expect("an export");
    let mut stranger = Stranger::of_uid(USERS[1]);
    stranger.hold("fd", buffer.export(Access::Read).expect("ours"), LEN);
    stranger.hold("map", buffer.export(Access::Read).expect("ours"), LEN);
    let mut args: Vec<std::ffi::OsString> = vec!["--socket".into(), machine.daemon.socket().into()];
    args.extend(["who", "frame", "--format", "json"].map(Into::into));
    let said = programs::succeed(programs::own("vgemctl"), args);
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["handles"].as_array().expect("a list").len(), 2, "{report:#}");
    let holds = report["holds"].as_array().expect("a list");
    let of = |pid: u32, how: &str| holds.iter().any(|hold| hold["pid"] == pid && !hold[how].is_null());
    assert!(of(stranger.pid(), "fd") && of(stranger.pid(), "mapping"), "{report:#}");
    let keeper = machine.daemon.pid();
    assert!(of(keeper, "fd") && of(keeper, "mapping"), "{report:#}");
    let broker = machine.root.status().expect("a status").pid;
    assert!(of(broker, "fd") && !of(broker, "mapping"), "the broker maps no object: {report:#}");
    assert!(of(driver_of(&machine.root, "copy", USERS[0]), "mapping"), "{report:#}");
    // After kill -9 of the stranger it is not there any more, and the object is.
    let pid = stranger.pid();
    stranger.kill();
    let args = [std::ffi::OsString::from("--socket"), machine.daemon.socket().into()];
    let args = args.into_iter().chain(["who", "frame", "--format", "json"].map(Into::into));
    let report = programs::succeed(programs::own("vgemctl"), args);
    assert!(!report.contains(&format!("\"pid\": {pid},")), "{report}");
    assert!(imported.read(..1, soon()).is_ok());
}

/// Memory of a client's own making is shared as any other, and stays its client's when it is given up.
#[test]
fn foreign_memory_is_used_by_devices_of_two_users_and_not_punched() {
    let machine = Machine::new();
    let fd = strangers::memfd(LEN, SealFlags::empty());
    // Who made it must let the broker's account open it again.
    let refused = machine.a.import_fd(fd.try_clone().expect("a dup")).expect_err("mode 0600, of root's");
    assert!(refused.to_string().contains("errno 13"), "{refused}");
    rustix::fs::fchmod(&fd, rustix::fs::Mode::from_raw_mode(0o666)).expect("ours");
    let ours = machine.a.import_fd(fd.try_clone().expect("a dup")).expect("a memfd fits");
    let theirs = machine.b.import_fd(fd.try_clone().expect("a dup")).expect("it is an object now");
    fill(&machine.a, &queue(&machine.a, "copy"), &ours, 5);
    assert!(theirs.read(.., soon()).expect("shared").iter().all(|byte| *byte == 5), "it waits for a's job");
    drop((ours, theirs));
    processes::until(Duration::from_secs(5), "nobody has a handle of it", || {
        let entries = machine.root.object_entries().expect("objects");
        entries.iter().all(|entry| entry.clients.is_empty())
    });
    let seen = Stranger::start().must(json!({ "do": "read", "offset": 0, "len": 4 }), &[fd.as_fd()]);
    assert_eq!(seen["bytes"], "05050505", "it is not ours to destroy");
    drop(fd);
    processes::until(Duration::from_secs(5), "its charge is back", || {
        machine.root.status().expect("a status").objects == 0
    });
}
