//! T37 to T39: the memory of a process as somebody reaches it who means ill, and what others feel of it.
//!
//! The test with a page that never comes is alone with its file, and starts no process once it has that.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use vgem::Client;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::ClientMessage;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{Completion, FaultReason, VaRange, Window};
use vgem_tests::attacker::text;
use vgem_tests::daemon::{Daemon, Serving, USERS};
use vgem_tests::honest::Honest;
use vgem_tests::processes;
use vgem_tests::raw::Raw;
use vgem_tests::reach::{Reach, page};
use vgem_tests::stranger::{Stranger, Who};
use vgem_tests::strangers::FuseFile;

const SOON: Duration = Duration::from_secs(10);
/// Where an object is bound.
const BOUND: u64 = 0x10_0000;

/// A connection that is this stranger's.
fn raw_of(stranger: &mut Stranger, daemon: &Serving) -> Raw {
    Raw::welcomed(stranger.connect(&daemon.socket())).expect("welcomed")
}

fn memory_of(stranger: &mut Stranger, write: bool) -> OwnedFd {
    let (answer, mut fds) = stranger.ask_for_fds(json!({ "do": "own_memory", "write": write }), &[]);
    fds.pop().unwrap_or_else(|| panic!("{answer}"))
}

/// A page of a stranger that begins with these bytes.
fn page_of(stranger: &mut Stranger, bytes: &str, read_only: bool) -> u64 {
    let answer = stranger.must(json!({ "do": "page", "bytes": bytes, "read_only": read_only }), &[]);
    answer["at"].as_u64().expect("an address")
}

fn fault(completion: &Completion) -> (Option<ErrorCode>, u64, u64) {
    (completion.failure.map(|failure| failure.code), completion.address, completion.value)
}

fn faulted(address: u64, reason: FaultReason) -> (Option<ErrorCode>, u64, u64) {
    (Some(ErrorCode::AddressFault), address, reason.number())
}

fn is_done(answer: &ClientMessage) -> bool {
    matches!(answer, ClientMessage::Done(_))
}

fn all(access: Access) -> Window {
    Window::new(VaRange::new(1, (1 << 63) - 1).expect("addresses"), access)
}

/// A client that reaches all of a stranger's memory, and an object bound at [`BOUND`].
fn reach(stranger: &mut Stranger, daemon: &Serving) -> (Reach, OwnedFd) {
    let memory = memory_of(stranger, true);
    let mut reach = Reach::open(raw_of(stranger, daemon)).expect("a queue");
    let answer = reach.attach(memory.as_fd(), &[all(Access::Write)]);
    assert!(is_done(&answer), "{answer:?}");
    let (object, fd) = reach.raw.exported(4096, true);
    reach.bind(object, 4096, BOUND);
    (reach, fd)
}

/// A program that is root whoever executes it, and sleeps.
fn setuid_program(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("sleeps-as-root");
    std::fs::copy("/bin/sleep", &path).expect("a program");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4755)).expect("it is ours");
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

fn effective_uid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("Uid:"))?;
    line.split_whitespace().nth(2)?.parse().ok()
}

/// The ranges of a process's addresses, and whether they may be written.
fn ranges(pid: u32) -> Vec<(u64, bool)> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("root may look");
    let start = |line: &str| u64::from_str_radix(line.split('-').next()?, 16).ok();
    let found = maps.lines().filter(|line| line.contains(" r")).filter(|line| !line.contains("[v"));
    found.filter_map(|line| Some((start(line)?, line.contains(" rw")))).collect()
}

/// T37: a process that hands its memory over and then executes a program with more rights. Of that program nobody reads or
/// writes a byte.
#[test]
fn atk_exec_setuid_reaches_nothing_of_the_program_that_comes_after() {
    let daemon = Daemon::system().start();
    let dir = tempfile::tempdir().expect("a directory");
    let program = setuid_program(dir.path());
    let mut user = Stranger::of_uid(USERS[0]);
    let at = page_of(&mut user, "mine", false);
    let (mut reach, _object) = reach(&mut user, &daemon);
    assert_eq!(reach.copy(at, BOUND, 4).failure, None, "while it is what it was");
    let pid = user.pid();
    user.must(json!({ "do": "become", "argv": [program, "600"] }), &[]);
    processes::until(SOON, "it is another program, and root", || effective_uid(pid) == Some(0));
    let ranges = ranges(pid);
    assert!(ranges.len() > 4, "{ranges:?}");
    for (address, is_writable) in ranges {
        assert_eq!(fault(&reach.copy(address, BOUND, 8)), faulted(address, FaultReason::Gone));
        if is_writable {
            assert_eq!(fault(&reach.copy(BOUND, address, 8)), faulted(address, FaultReason::Gone));
        }
    }
    assert_eq!(fault(&reach.copy(at, BOUND, 4)), faulted(at, FaultReason::Gone));
    assert!(processes::is_alive(pid), "it sleeps");
    let observer = Client::connect(daemon.socket()).expect("a client");
    assert_eq!(observer.status().expect("a status").counters.instances_lost, 0);
}

/// A process in a user namespace of its own, as another user, is reached as any other: by what it handed over.
#[test]
fn memory_of_a_process_in_a_user_namespace_is_reached_without_any_right() {
    let daemon = Daemon::system().start();
    let mut user = Stranger::start_as(&Who { uid: Some(USERS[0]), namespace: true, ..Who::default() });
    let at = page_of(&mut user, "from afar", false);
    let (mut reach, _object) = reach(&mut user, &daemon);
    assert_eq!(reach.copy(at, BOUND, 9).failure, None);
    assert_eq!(reach.copy(BOUND, at + 100, 9).failure, None);
    let said = user.must(json!({ "do": "peek", "at": at + 100, "len": 9 }), &[]);
    assert_eq!(said["bytes"], "66726f6d2061666172");
}

/// T38: windows are what they were said to be, whatever the fd could do; and what an fd cannot do no window allows.
#[test]
fn atk_window_nothing_is_reached_beside_it_nor_for_more_than_it_is() {
    let daemon = Daemon::system().start();
    let mut user = Stranger::of_uid(USERS[0]);
    let (first, second) = (page_of(&mut user, "first", false), page_of(&mut user, "second", true));
    let (mut reach, _object) = reach(&mut user, &daemon);
    assert!(is_done(
        &reach.set_windows(&[page(first.min(second), Access::Read), page(first.max(second), Access::Read)])
    ));
    assert_eq!(reach.copy(first, BOUND, 4096).failure, None);
    for address in [first, second] {
        assert_eq!(fault(&reach.copy(BOUND, address, 5)), faulted(address, FaultReason::ReadOnly));
        let end = address + 4096;
        // The two may lie side by side; what is across two windows is in neither.
        assert_eq!(fault(&reach.copy(end - 4, BOUND, 8)), faulted(end, FaultReason::Unbound));
    }
    assert_eq!(fault(&reach.copy(0x4000, BOUND, 8)), faulted(0x4000, FaultReason::Unbound));
    let said = |user: &mut Stranger, at| {
        user.must(json!({ "do": "peek", "at": at, "len": 5 }), &[])["bytes"].clone()
    };
    assert_eq!([said(&mut user, first), said(&mut user, second)], ["6669727374", "7365636f6e"]);
    // An fd that only reads.
    let memory = memory_of(&mut user, false);
    let mut reader = Reach::open(raw_of(&mut user, &daemon)).expect("a queue");
    let ClientMessage::Refused(refused) = reader.attach(memory.as_fd(), &[all(Access::Write)]) else {
        panic!("taken")
    };
    assert_eq!(refused.code, ErrorCode::Denied, "{}", text(&refused));
    assert!(is_done(&reader.attach(memory.as_fd(), &[all(Access::Read)])));
    let ClientMessage::Refused(refused) = reader.set_windows(&[all(Access::Write)]) else { panic!("set") };
    assert_eq!(refused.code, ErrorCode::Denied, "{}", text(&refused));
}

/// What is not the memory of a process is refused by its name, and the connection goes on.
#[test]
fn atk_other_fds_are_no_memory_of_a_process() {
    let daemon = Daemon::system().start();
    let mut reach = Reach::open(Raw::greeted(&daemon.socket())).expect("a queue");
    let open = |path: &str| OwnedFd::from(std::fs::File::open(path).expect(path));
    let (pipe, _end) = std::io::pipe().expect("a pipe");
    let fds = [open("/proc/self/maps"), open("/etc/passwd"), open("/dev/zero"), OwnedFd::from(pipe)];
    for (fd, named) in fds.iter().zip(["a file of /proc", "a file", "the device /dev/zero", "a pipe"]) {
        let ClientMessage::Refused(refused) = reach.attach(fd.as_fd(), &[all(Access::Read)]) else {
            panic!("taken")
        };
        assert_eq!(refused.code, ErrorCode::BadParameter);
        assert!(text(&refused).contains(named), "{}", text(&refused));
    }
    let (_, object) = reach.raw.exported(4096, true);
    let ClientMessage::Refused(refused) = reach.attach(object.as_fd(), &[all(Access::Read)]) else {
        panic!("taken")
    };
    assert_eq!(refused.code, ErrorCode::BadParameter, "{}", text(&refused));
}

/// Whether a thread of a process is in the kernel, beyond every signal. The process itself may count as dead by then.
fn is_held_up(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let state = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    };
    tasks.filter_map(state).any(|state| state == 'D')
}

/// T39: a page that never comes. The driver of that client alone is held up; the client is told which address it was; the
/// domain gets no more such drivers; nobody else feels anything; and when the page's server ends, nothing is left.
#[test]
fn atk_fuse_page_holds_up_its_own_clients_driver_and_nobody_else() {
    let daemon = Daemon::system().start();
    let honest = Honest::new(Client::connect(daemon.socket()).expect("a client"));
    let observer = Client::connect(daemon.socket()).expect("a client");
    let mut user = Stranger::of_uid(USERS[0]);
    let mut second = Stranger::of_uid(USERS[1]);
    let mut other = raw_of(&mut second, &daemon);
    let mut again = raw_of(&mut user, &daemon);
    let (mut reach, _object) = reach(&mut user, &daemon);
    let file = FuseFile::open();
    let at = user.must(json!({ "do": "page" }), &[file.as_fd()])["at"].as_u64().expect("an address");
    let begun = Instant::now();
    reach.push(at + 16, BOUND, 8);
    let end = reach.reap().expect_err("the queue is over");
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    let vgem_os::ring::ReapError::Over(over) = end else { panic!("{end:?}") };
    let asked = again.ask(vgem_proto::message::client::Explain { cause: over.failure.cause });
    let ClientMessage::Explained(why) = asked else { panic!("{asked:?}") };
    let why = String::from_utf8(why.text).expect("words");
    assert!(why.contains(&format!("{:#x}", at + 16)) && why.contains("has not ended"), "{why}");
    // The domain gets no more of them, and is told why.
    let refused = Reach::open(again).map(drop).expect_err("one is held up");
    assert_eq!(refused.code, ErrorCode::Unavailable);
    let stuck = u32::try_from(refused.value).expect("a process");
    assert!(text(&refused).contains("held up") && is_held_up(stuck), "{}", text(&refused));
    // Others do, and see nothing of it.
    assert_eq!(other.status().instances, 0, "of another domain");
    assert!(observer.status().expect("a status").instances > 0, "held up, and not forgotten");
    let mut theirs = Reach::open(other).expect("another domain's business is its own");
    assert!(is_done(
        &theirs.attach(vgem_os::client_memory::own(Access::Read).expect("dumpable").as_fd(), &[])
    ));
    let felt = honest.beside(6, || std::thread::park_timeout(Duration::from_millis(5)));
    felt.assert_within_twice("a driver that is held up by a page");
    // Its client goes; what the process has mapped stays until it has ended.
    drop(reach);
    processes::until(SOON, "the object is still there", || {
        observer.status().expect("a status").object_bytes >= 4096
    });
    assert!(is_held_up(stuck), "it is beyond SIGKILL");
    drop(file);
    processes::until(SOON, "it ends", || !is_held_up(stuck));
    let mut fresh = Some(());
    processes::until(SOON, "the domain may have such drivers again", || {
        Reach::open(raw_of(&mut user, &daemon)).map(drop).is_ok() && fresh.take().is_some()
    });
}
