//! T18 to T24: what can be done with an export. By another user, by the root of a user namespace, and by a namespace
//! whose root is the machine's; the daemon serves the machine, so that its memory belongs to an account of its own.
//!
//! Each attack is a call with an answer (`stranger.py` has them); what counts in the end is not the answer but the bytes,
//! the seals and the owner that others see afterwards, and that everybody still works.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use serde_json::json;
use vgem::snapshot::{Event, EventEntry, ObjectEntry};
use vgem::{Buffer, Client, Deadline, Embedded};
use vgem_os::mapping::{Mapping, Populate};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::{ClientMessage, Export};
use vgem_proto::rights::Access;
use vgem_proto::snapshot::Topic;
use vgem_tests::daemon::{BROKER_UID, DRIVER_UID, Daemon, Serving, USERS};
use vgem_tests::raw::{Heard, Raw};
use vgem_tests::stranger::{Stranger, Who};
use vgem_tests::{audit, processes};

const LEN: u64 = 16 * 4096;
const SOON: Duration = Duration::from_secs(5);

fn soon() -> Deadline {
    Deadline::after(SOON)
}

/// The attackers of THREATS: A1, A2, A2r, and a process of a user that the daemon does not know.
fn attackers() -> Vec<(&'static str, Stranger)> {
    let namespace = |uid| Who { uid, namespace: true, ..Who::default() };
    vec![
        ("A1, another user", Stranger::of_uid(USERS[1])),
        ("A1, the creator's user", Stranger::of_uid(USERS[0])),
        ("A2, a user's own namespace", Stranger::start_as(&namespace(Some(USERS[1])))),
        ("A2r, a namespace whose root is root", Stranger::start_as(&namespace(None))),
        ("a driver's account", Stranger::of_uid(DRIVER_UID)),
    ]
}

/// A machine with a daemon, and a client of a user of it with an object.
struct Rig {
    daemon: Serving,
    raw: Raw,
    object: vgem_proto::ids::Handle,
    memory: Mapping,
    writable: OwnedFd,
}

impl Rig {
    fn new() -> Self {
        let daemon = Daemon::system().start();
        let mut user = Stranger::of_uid(USERS[0]);
        let mut raw = Raw::over(user.connect(&daemon.socket()));
        let (object, writable) = raw.exported(LEN, true);
        let len = usize::try_from(LEN).expect("small");
        let memory = Mapping::map(writable.as_fd(), len, Access::Write, Populate::Lazy).expect("an export");
        memory.span_mut().expect("writable").fill(0xa5);
        Self { daemon, raw, object, memory, writable }
    }

    fn broker(&self) -> u32 {
        let keeper = self.daemon.pid();
        let is_broker = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("broker")
        };
        let found: Vec<u32> = processes::tree(keeper).into_iter().filter(is_broker).collect();
        let [broker] = found[..] else { panic!("not one broker: {found:?}") };
        broker
    }

    /// Nothing that the attacker did shows.
    fn is_untouched(&self, after: &str) {
        let len = usize::try_from(LEN).expect("small");
        let mut bytes = vec![0; len];
        self.memory.span().copy_to(0, &mut bytes).expect("equal lengths");
        assert!(bytes.iter().all(|byte| *byte == 0xa5), "{after}: the bytes changed");
        let stat = rustix::fs::fstat(&self.writable).expect("ours");
        let found = (stat.st_uid, stat.st_mode & 0o7777, u64::try_from(stat.st_size).expect("a length"));
        assert_eq!(found, (BROKER_UID, 0o600, LEN), "{after}: owner, mode and length");
        let blocks = u64::try_from(stat.st_blocks).expect("blocks");
        assert_eq!(blocks * 512, LEN, "{after}: pages");
        let seals = rustix::fs::fcntl_get_seals(&self.writable).expect("a memfd");
        let wanted =
            rustix::fs::SealFlags::SHRINK | rustix::fs::SealFlags::GROW | rustix::fs::SealFlags::SEAL;
        assert!(seals.contains(wanted), "{after}: {seals:?}");
        let writing = rustix::fs::SealFlags::WRITE | rustix::fs::SealFlags::FUTURE_WRITE;
        assert!(!seals.intersects(writing), "{after}: {seals:?}");
    }

    /// The object still does what objects do.
    fn still_works(&mut self) {
        let entries: Vec<ObjectEntry> = self.raw.inspect(Topic::Objects);
        assert_eq!(entries.len(), 1, "{entries:?}");
        drop(self.raw.export(self.object, Access::Write));
    }
}

/// Every attack of a family failed, and with an errno, not with silence.
fn all_failed(who: &str, ended: &BTreeMap<String, String>) {
    assert!(!ended.is_empty());
    let done: Vec<_> = ended.iter().filter(|(_, how)| *how == "done").collect();
    assert!(done.is_empty(), "{who}: {done:?} of {ended:?}");
}

/// T18: whoever has a read-write export cannot seal the object against its owner.
#[test]
fn atk_addseal_as_anybody() {
    let mut rig = Rig::new();
    for (who, mut stranger) in attackers() {
        all_failed(who, &stranger.attack("seals", &rig.writable, LEN));
        rig.is_untouched(who);
    }
    rig.still_works();
}

/// T20: nobody changes the length, so nobody who maps it gets a signal.
#[test]
fn atk_trunc_as_anybody_and_the_broker_maps_no_object() {
    let mut rig = Rig::new();
    let broker = rig.broker();
    for (who, mut stranger) in attackers() {
        all_failed(who, &stranger.attack("sizes", &rig.writable, LEN));
        rig.is_untouched(who);
    }
    let inode = rustix::fs::fstat(&rig.writable).expect("ours").st_ino;
    assert!(!audit::mapped_memory(broker).contains(&inode), "the broker maps an object");
    assert!(
        audit::mapped_memory(rig.daemon.pid()).contains(&inode),
        "the keeper pins it: the look sees mappings"
    );
    rig.still_works();
}

/// T20, with every kind of object at once and jobs on them: no object in any mapping of the broker.
#[test]
fn atk_trunc_the_broker_maps_nothing_but_its_own_pages() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let queue = client.device("copy").and_then(|d| d.queue(0)).expect("a queue");
    let buffers: Vec<Buffer> = (1..20).map(|n| client.create(n << 12).expect("a buffer")).collect();
    let foreign = vgem_tests::strangers::memfd(8192, rustix::fs::SealFlags::empty());
    let imported = client.import_fd(foreign).expect("a memfd fits");
    let mut batch = client.batch();
    for buffer in buffers.iter().chain([&imported]) {
        batch.job(&queue, "fill").output(buffer).param("byte", 1);
    }
    batch.submit().expect("accepted").wait(soon()).expect("done");
    let entries = client.object_entries().expect("objects");
    let pid = client.status().expect("a status").pid;
    let mapped = audit::mapped_memory(pid);
    assert_eq!(entries.len(), 20);
    assert!(!mapped.is_empty(), "it maps its fence pages: the look sees mappings");
    for entry in entries {
        assert!(entry.inode != 0 && !mapped.contains(&entry.inode), "the broker maps {entry:?}");
    }
}

/// T21: a read-only export stays one.
#[test]
fn atk_ro_upgrade_as_anybody_but_the_machines_root() {
    let mut rig = Rig::new();
    let read_only = rig.raw.export(rig.object, Access::Read);
    for (who, mut stranger) in attackers() {
        let ended = stranger.attack("writes", &read_only, LEN);
        all_failed(who, &ended);
        assert_eq!(ended["open O_RDWR"], "EACCES", "{who}: {ended:?}");
        rig.is_untouched(who);
    }
    rig.still_works();
    // The attacks are attacks: on a read-write export they are done.
    let ended = Stranger::of_uid(USERS[1]).attack("writes", &rig.writable, LEN);
    let done: Vec<&str> = ended.iter().filter(|(_, how)| *how == "done").map(|(name, _)| &name[..]).collect();
    for way in ["mmap", "mprotect", "pwrite", "splice", "sendfile", "fallocate"] {
        assert!(done.contains(&way), "{way} is no attack: {ended:?}");
    }
}

/// T21: the fds and the memory of the broker are not reached through /proc or a pidfd either.
#[test]
fn atk_ro_upgrade_by_stealing_from_the_broker() {
    let mut rig = Rig::new();
    let processes = processes::tree(rig.daemon.pid());
    assert!(processes.len() >= 2, "{processes:?}");
    for (who, mut stranger) in attackers() {
        for pid in &processes {
            // A driver's account may look at itself, which is a driver of its own domain.
            let owner = std::fs::metadata(format!("/proc/{pid}")).map(|m| m.uid()).unwrap_or_default();
            if owner == DRIVER_UID && who == "a driver's account" {
                continue;
            }
            for fd in 3..12 {
                let answer = stranger.ask(json!({ "do": "steal", "pid": pid, "fd": fd }), &[]);
                let ended: BTreeMap<String, String> = serde_json::from_value(answer).expect("outcomes");
                all_failed(&format!("{who}, process {pid}"), &ended);
            }
        }
    }
    rig.still_works();
}

/// T22: the owner and the mode are what keeps a read-only export read-only; nobody changes them.
#[test]
fn atk_chown_as_anybody_but_the_machines_root() {
    let mut rig = Rig::new();
    let read_only = rig.raw.export(rig.object, Access::Read);
    for (who, mut stranger) in attackers() {
        for fd in [&rig.writable, &read_only] {
            all_failed(who, &stranger.attack("owners", fd, LEN));
            rig.is_untouched(who);
        }
    }
    rig.still_works();
}

/// T22: the machine's root can. The broker sees it when it next probes, destroys the content, and lets nobody in any more.
#[test]
fn atk_chown_by_the_machines_root_of_the_mode_is_noticed_and_punched() {
    let mut rig = Rig::new();
    let what = rig.tampered("fchmod 0666");
    assert!(what.contains("600 and is 666"), "{what}");
    let channel = rig.raw.porter();
    let ClientMessage::Refused(refused) = rig.raw.import(&channel, rig.writable.as_fd()) else {
        panic!("it is let in")
    };
    assert_eq!(refused.code, ErrorCode::Denied, "no new handles of it");
    // It is retired as any other.
    let Rig { daemon: _daemon, mut raw, memory, writable, .. } = rig;
    assert_eq!(raw.status().object_bytes, LEN, "it stays charged");
    drop((memory, writable));
    processes::until(SOON, "it is freed", || raw.status().objects == 0);
}

/// T22: given another owner it cannot be probed any more, and is let go.
#[test]
fn atk_chown_by_the_machines_root_of_the_owner_is_noticed_and_punched() {
    let mut rig = Rig::new();
    let what = rig.tampered("fchown");
    assert!(what.contains("and is 0"), "{what}");
    processes::until(SOON, "it is let go", || rig.raw.status().objects == 0);
}

impl Rig {
    /// Has the machine's root do something to the object, and its content destroyed for it; what is told.
    fn tampered(&mut self, way: &str) -> String {
        let mut monitor = Raw::greeted(&self.daemon.socket());
        monitor.monitor();
        let ask = json!({ "do": "attack", "family": "owners", "only": way, "len": LEN });
        let ended = Stranger::start().must(ask, &[self.writable.as_fd()]);
        assert_eq!(ended[way], "done", "{ended}");
        // The broker probes what nobody has a handle of.
        self.raw.close(self.object);
        let what = told(&mut monitor, |event| match event {
            Event::ObjectTampered { what, .. } => Some(what.clone()),
            _ => None,
        });
        let mut bytes = [1; 64];
        processes::until(SOON, "the content is destroyed", || {
            self.memory.span().copy_to(0, &mut bytes).expect("inside");
            bytes == [0; 64]
        });
        what
    }
}

/// Waits for an event.
fn told<T>(monitor: &mut Raw, wanted: impl Fn(&Event) -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    let mut seen = Vec::new();
    loop {
        let silence = monitor.hear_within(Duration::from_millis(20));
        assert!(matches!(silence, Heard::Nothing), "{silence:?}");
        for json in monitor.events.drain(..) {
            let entry: EventEntry = serde_json::from_str(&json).expect("an event of this version");
            if let Some(found) = wanted(&entry.event) {
                return found;
            }
            seen.push(json);
        }
        assert!(Instant::now() < end, "the event is not told within {SOON:?}; these were: {seen:?}");
    }
}

/// T23: no lease of a client's keeps the broker from its own.
#[test]
fn atk_lease_as_anybody() {
    let mut rig = Rig::new();
    let read_only = rig.raw.export(rig.object, Access::Read);
    for (who, mut stranger) in attackers() {
        for fd in [&rig.writable, &read_only] {
            all_failed(who, &stranger.attack("leases", fd, LEN));
        }
    }
    drop(read_only);
    rig.still_works();
    // And the object is freed when its time has come.
    let Rig { daemon, mut raw, object, memory, writable } = rig;
    drop((memory, writable));
    raw.close(object);
    processes::until(SOON, "it is freed", || raw.status().objects == 0);
    drop(daemon);
}

/// T24: whoever may open memory again while the broker holds its lease makes the kernel send it SIGIO.
#[test]
fn atk_sigio_does_not_end_the_broker() {
    // In a private broker the client is of the broker's own user, and may.
    let broker = Embedded::start().expect("a private broker");
    let mut raw = Raw::greeted(&broker.socket());
    let pid = raw.status().pid;
    let mut strangers: Vec<Stranger> = (0..3).map(|_| Stranger::start()).collect();
    let (object, fd) = raw.exported(4096, true);
    for stranger in &mut strangers {
        stranger.begin(&json!({ "do": "reopen_for", "ms": 1500 }), &[fd.as_fd()]);
    }
    // Nobody but them has it, so each close of theirs makes the broker look.
    drop(fd);
    raw.close(object);
    let mut opened = 0;
    for stranger in &mut strangers {
        let (answer, _) = stranger.answer().expect("the stranger lives");
        opened += answer["count"].as_u64().expect("a number");
    }
    eprintln!("{opened} times opened and closed beside the probe");
    assert!(opened > 1000, "{opened}");
    let status = raw.status();
    assert_eq!(status.pid, pid, "the broker is another one");
    processes::until(SOON, "it is freed at last", || raw.status().objects == 0);
    let signals = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let ignored = signals.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask").trim();
    let mask = u64::from_str_radix(ignored, 16).expect("hexadecimal");
    assert!(mask & (1 << 28) != 0, "SIGIO is not ignored: {ignored}");
}

/// T19: pages go away under an engine that works on them. It reads zeros, or less; nobody gets a signal.
#[test]
fn atk_punch_during_the_io_of_every_device() {
    const LARGE: u64 = 1 << 20;
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let other = broker.client().expect("another client");
    let (from, to) = (client.create(LARGE).expect("a buffer"), client.create(2 * LARGE).expect("a buffer"));
    let cells = client.cells(3).expect("cells");
    let queue = |device: &str| client.device(device).and_then(|d| d.queue(0)).expect("a queue");
    let (copy, zip, sec) = (queue("copy"), queue("zip"), queue("sec"));
    let drivers = || {
        let entries = client.device_entries().expect("devices");
        entries.iter().flat_map(|d| d.instances.iter().map(|i| i.pid)).collect::<Vec<u32>>()
    };
    let before = drivers();
    let mut punchers: Vec<Stranger> = (0..2).map(|_| Stranger::start()).collect();
    for (puncher, buffer) in punchers.iter_mut().zip([&from, &to]) {
        let fd = buffer.export(Access::Write).expect("ours");
        puncher.begin(&json!({ "do": "punch_for", "len": buffer.len(), "ms": 3000 }), &[fd.as_fd()]);
    }
    let honest = {
        let queue = other.device("copy").and_then(|d| d.queue(0)).expect("a queue");
        (queue, other.create(4096).expect("a buffer"))
    };
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_millis(2800) {
        let mut batch = client.batch();
        batch.job(&copy, "copy").input(&from).output(to.slice(..LARGE));
        batch.job(&sec, "sha256").input(&from).result(cells.at(0));
        batch
            .job(&zip, "compress")
            .input(&from)
            .output(&to)
            .param("format", "zstd")
            .param("level", 1)
            .result(cells.at(1));
        let submitted = batch.submit().expect("accepted");
        // Its own bytes are its own affair; that every job ends, in one way or the other, is ours.
        for fence in submitted.fences() {
            if let Err(vgem::FenceError::Failed(failure)) = fence.wait(soon()) {
                assert_ne!(failure.code, ErrorCode::DeviceLost, "{failure}");
            }
        }
        let mut batch = other.batch();
        batch.job(&honest.0, "fill").output(&honest.1).param("byte", 3);
        batch.submit().expect("accepted").wait(soon()).expect("somebody else's job is done");
        rounds += 1;
    }
    let punched: u64 = punchers
        .iter_mut()
        .map(|p| p.answer().expect("it lives").0["count"].as_u64().expect("a number"))
        .sum();
    eprintln!("{punched} punches beside {rounds} rounds of three devices");
    assert!(punched > 20 && rounds > 2, "{punched} punches, {rounds} rounds");
    assert_eq!(drivers(), before, "every driver is the process it was");
    // What is punched reads as zeros, and can be used again.
    let fd = from.export(Access::Write).expect("ours");
    Stranger::start().must(json!({ "do": "punch_for", "len": LARGE, "ms": 1 }), &[fd.as_fd()]);
    let mut batch = client.batch();
    batch.job(&copy, "copy").input(&from).output(to.slice(..LARGE));
    batch.submit().expect("accepted").wait(soon()).expect("done");
    assert!(to.read(..LARGE, soon()).expect("copied").iter().all(|byte| *byte == 0));
}

/// The daemon of these tests is what it is said to be: broker and drivers are other users, without capabilities.
#[test]
fn a_daemon_of_the_machine_runs_under_two_accounts() {
    let rig = Rig::new();
    let client = Client::connect(rig.daemon.socket()).expect("a client");
    let _queue = client.device("copy").and_then(|d| d.queue(0)).expect("a queue");
    let uid = |pid: u32| std::fs::metadata(format!("/proc/{pid}/stat")).map(|m| m.uid()).unwrap_or_default();
    let uids = |program: &str| {
        let all = audit::of_program(rig.daemon.pid(), program);
        all.into_iter().filter(|pid| *pid != rig.daemon.pid()).map(status_uid).collect::<Vec<u32>>()
    };
    assert_eq!(uids("vgemd"), [BROKER_UID], "and /proc says {}", uid(rig.broker()));
    assert_eq!(uids("vgem-driver-copy"), [DRIVER_UID]);
}

fn status_uid(pid: u32) -> u32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:")).expect("a line");
    line.split_whitespace().next().and_then(|uid| uid.parse().ok()).expect("a number")
}

/// What an answer to an export is when it is not one, so that a change of the tables is seen here too.
#[test]
fn an_export_for_writing_needs_the_right_to_write() {
    let mut rig = Rig::new();
    let read_only = rig.raw.export(rig.object, Access::Read);
    let mut user = Stranger::of_uid(USERS[1]);
    let mut other = Raw::over(user.connect(&rig.daemon.socket()));
    let channel = other.porter();
    let ClientMessage::Imported(imported) = other.import(&channel, read_only.as_fd()) else {
        panic!("it fits")
    };
    let ask = Export { object: imported.object, access: Access::Write, reserved: Zero };
    assert_eq!(other.refused(ask).code, ErrorCode::Denied);
    rig.is_untouched("a refused export");
}
