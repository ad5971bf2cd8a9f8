//! What a confined process can still do, and what not. Each test confines a process of its own.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::io::Errno;
use vgem_os::arrival::{Admission, Kind};
use vgem_os::confine::{self, ConfineSpec, Confined, Demand, Landlock};
use vgem_os::fence::{ObserverFace, PagePair, Slot};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory, Probe};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_os::watch::Watcher;

/// Runs the peer's part, or checks what it says.
fn confined(test: &str, part: impl FnOnce() -> String, expected: &str) {
    if let Some(side) = support::peer_side() {
        return side.say(&part());
    }
    assert_eq!(support::start_peer(test, vec![]).hear(), expected);
}

/// Runs the peer's part, which does not survive it.
fn deadly(test: &str, part: impl FnOnce()) {
    if let Some(side) = support::peer_side() {
        confine::driver(&ConfineSpec::default()).unwrap();
        side.say("confined");
        part();
        return side.say("survived");
    }
    let mut peer = support::start_peer(test, vec![]);
    assert_eq!(peer.hear(), "confined");
    assert_eq!(peer.end().signal(), Some(libc::SIGSYS));
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<(), Errno> {
    rustix::fs::open(path.as_ref(), flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600)).map(drop)
}

/// What this kernel can enforce of what is asked for. Ask before confinement: afterwards it does not answer.
fn landlock_of_this_kernel() -> Landlock {
    const VERSION: u32 = 1;
    let nothing = std::ptr::null::<u8>();
    // SAFETY: U6. With this flag the call takes no attributes and answers the version.
    match unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, VERSION) } {
        ..=0 => Landlock::Absent,
        1..=5 => Landlock::Partial,
        _ => Landlock::Full,
    }
}

#[test]
fn the_report_says_what_is_in_force() {
    let part = || {
        let expected = landlock_of_this_kernel();
        let Confined { no_new_privs, seccomp, caps, landlock, .. } =
            confine::broker(&ConfineSpec::default()).unwrap();
        let only_lease = caps.iter().all(|cap| *cap == "LEASE");
        format!("{no_new_privs} {seccomp} {only_lease} {}", landlock == expected)
    };
    confined("the_report_says_what_is_in_force", part, "true true true true");
}

/// Sends by path once confined, as the log does to the journal, whose socket may be made again.
fn sends_by_path(confines: fn() -> vgem_os::Result<Confined>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (there, here) = (UnixDatagram::bind(&path).unwrap(), UnixDatagram::unbound().unwrap());
    confines().unwrap();
    let sent = here.send_to(b"line", &path).map_err(|e| e.kind());
    format!("{sent:?} {:?}", there.recv(&mut [0; 8]).map_err(|e| e.kind()))
}

#[test]
fn a_confined_broker_sends_to_a_socket_by_its_path() {
    let part = || sends_by_path(|| confine::broker(&ConfineSpec::default()));
    confined("a_confined_broker_sends_to_a_socket_by_its_path", part, "Ok(4) Ok(4)");
}

#[test]
fn a_confined_porter_sends_to_a_socket_by_its_path() {
    let part = || sends_by_path(|| confine::porter(Demand::BestEffort));
    confined("a_confined_porter_sends_to_a_socket_by_its_path", part, "Ok(4) Ok(4)");
}

#[test]
fn a_confined_broker_still_serves_objects_fences_and_sockets() {
    let test = "a_confined_broker_still_serves_objects_fences_and_sockets";
    confined(test, || serve().map_or_else(|error| error.to_string(), |()| "served".into()), "served");
}

/// All that a broker does between two requests, and when it is told of a leak.
fn serve() -> vgem_os::Result<()> {
    vgem_os::signal::ignore_sigio()?;
    let watcher = Watcher::new()?;
    confine::broker(&ConfineSpec::default())?;
    let object = ObjectMemory::create(8192, HugePages::Advise, "confined")?;
    watcher.add(&object)?;
    let export = object.export(Access::Read)?;
    assert_eq!(object.probe()?, Probe::Busy);
    let (a, b) = Socket::pair()?;
    a.send(b"export", &[export.as_fd()])?;
    let (mut buf, mut fds) = ([0; 16], Vec::new());
    assert_eq!(b.recv(&mut buf, &mut fds), Ok(Packet::Data { len: 6 }));
    assert!(a.peer()?.uid == rustix::process::getuid().as_raw());
    drop((export, fds));
    watcher.read(&mut Vec::new())?;
    assert_eq!(a.unread()?, 0);
    vgem_os::gc::collect_in_flight()?;
    let result = ObjectMemory::create_sealable(8192, HugePages::Advise, "result")?;
    result.seal_against_writing()?;
    assert_eq!(result.tampered()?, None);
    PagePair::create()?.kill_page(1, 1);
    object.free().map_err(|(_, error)| error)?;
    std::thread::spawn(|| ()).join().expect("threads may be made");
    Ok(())
}

#[test]
fn a_confined_driver_still_maps_waits_and_works_in_threads() {
    let test = "a_confined_driver_still_maps_waits_and_works_in_threads";
    let part = || {
        let object = ObjectMemory::create(8192, HugePages::Advise, "confined").unwrap();
        let pair = PagePair::create().unwrap();
        let (export, page) = (object.export(Access::Write).unwrap(), pair.observer_fds().unwrap());
        confine::driver(&ConfineSpec { no_open: true, ..ConfineSpec::default() }).unwrap();
        let worker = std::thread::spawn(move || {
            let mapping = Mapping::map(export.as_fd(), 8192, Access::Write, Populate::Now).unwrap();
            mapping.span_mut().unwrap().fill(1);
            let observer = ObserverFace::map(page).unwrap();
            observer.set_interest(Slot::new(0).unwrap(), 1);
            observer.sleep(observer.doorbell(), vgem_os::clock::deadline_in(1_000_000)).unwrap()
        });
        format!("{:?}", worker.join().unwrap())
    };
    confined(test, part, "TimedOut");
}

#[test]
fn a_confined_porter_still_examines_and_hands_over_what_strangers_send() {
    let part = || {
        let (stranger, gate) = Socket::pair().unwrap();
        let (out, broker) = Socket::pair().unwrap();
        let memory = ObjectMemory::create(8192, HugePages::Advise, "stranger").unwrap();
        let sent =
            [memory.export(Access::Write).unwrap(), stranger_file("/dev/null"), stranger_file("/dev/shm")];
        stranger.send(b"fds", &sent.each_ref().map(AsFd::as_fd)).unwrap();
        let admission = Admission::new().unwrap();
        let confined = confine::porter(Demand::BestEffort).unwrap();
        assert_eq!(confined.caps, Vec::<&str>::new());
        let (mut buf, mut fds) = ([0; 16], Vec::new());
        assert_eq!(gate.recv(&mut buf, &mut fds), Ok(Packet::Data { len: 3 }));
        let answers: Vec<_> = fds.iter().map(|fd| admission.examine(fd.as_fd())).collect();
        out.send(b"memory", &[fds[0].as_fd()]).unwrap();
        assert!(out.unread().unwrap() > 0);
        drop(broker);
        let kinds =
            answers.iter().map(|answer| answer.as_ref().map(|one| one.len).map_err(|no| no.kind.clone()));
        format!("{:?}", kinds.collect::<Vec<_>>())
    };
    let device = Kind::Device { name: "/dev/null".into() };
    let expected: [Result<u64, Kind>; 3] = [Ok(8192), Err(device), Err(Kind::TmpfsFile)];
    let test = "a_confined_porter_still_examines_and_hands_over_what_strangers_send";
    confined(test, part, &format!("{expected:?}"));
}

fn stranger_file(path: &str) -> std::os::fd::OwnedFd {
    let temporary = if path == "/dev/shm" { OFlags::TMPFILE } else { OFlags::empty() };
    let flags = OFlags::RDWR | OFlags::CLOEXEC | temporary;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)).unwrap()
}

#[test]
fn a_confined_doorman_accepts_in_a_thread_and_opens_makes_and_starts_nothing() {
    let part = || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = vgem_os::seqpacket::Listener::bind(&path, 0o600).unwrap();
        let client = Socket::connect(&path).unwrap();
        client.send(b"early", &[]).unwrap();
        let (close, held) = rustix::pipe::pipe().unwrap();
        let (link, broker) = Socket::pair().unwrap();
        let confined = confine::doorman(Demand::BestEffort).unwrap();
        assert_eq!(confined.caps, Vec::<&str>::new());
        let close = vgem_os::arrival::close_fd(close).unwrap();
        let listener = vgem_os::arrival::listener(listener.into()).unwrap();
        assert_eq!(vgem_os::arrival::path_of(&listener), path.as_os_str().as_encoded_bytes());
        let named = std::thread::Builder::new().name("accept".into());
        let accepted = named.spawn(move || listener.accept().unwrap()).unwrap().join().unwrap();
        assert_eq!(accepted.look_for_fds(), Ok(vgem_os::seqpacket::Early::Plain));
        link.send(b"visitor", &[accepted.as_fd()]).unwrap();
        drop(held);
        assert!(close.wait(link.as_fd()).unwrap());
        link.send_now(b"ends").unwrap();
        drop(broker);
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let unix = rustix::net::AddressFamily::UNIX;
        let answers = [
            open("/proc/self/status", OFlags::RDONLY),
            rustix::fs::memfd_create("doorman", flags).map(drop),
            rustix::net::socket(unix, rustix::net::SocketType::SEQPACKET, None).map(drop),
            Socket::connect("/run/other").map(drop).map_err(|error| error.errno()),
            rustix::fs::unlink(&path),
        ];
        format!("{:?}", answers.map(|answer| answer == Err(Errno::NOSYS)))
    };
    let test = "a_confined_doorman_accepts_in_a_thread_and_opens_makes_and_starts_nothing";
    confined(test, part, "[true, true, true, true, true]");
}

#[test]
fn a_porter_seals_foreign_memory() {
    let part = || {
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("stranger", flags).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        let admission = Admission::new().unwrap();
        confine::porter(Demand::BestEffort).unwrap();
        admission.examine(fd.as_fd()).unwrap();
        rustix::fs::fcntl_get_seals(&fd).unwrap().contains(SealFlags::SHRINK | SealFlags::SEAL).to_string()
    };
    confined("a_porter_seals_foreign_memory", part, "true");
}

#[test]
fn a_porter_opens_makes_and_starts_nothing() {
    let part = || {
        let object = ObjectMemory::create(4096, HugePages::None, "porter").unwrap();
        confine::porter(Demand::BestEffort).unwrap();
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let unix = rustix::net::AddressFamily::UNIX;
        let answers = [
            open("/proc/self/status", OFlags::RDONLY),
            object.export(Access::Read).map(drop).map_err(|error| error.errno()),
            rustix::fs::stat("/").map(drop),
            rustix::fs::memfd_create("porter", flags).map(drop),
            rustix::net::socket(unix, rustix::net::SocketType::SEQPACKET, None).map(drop),
            Socket::pair().map(drop).map_err(|error| error.errno()),
            object.probe().map(drop).map_err(|error| error.errno()),
            rustix::io::ioctl_fionread(&object).map(drop),
        ];
        let thread = std::thread::Builder::new().spawn(|| ()).is_err();
        let kinds: std::collections::BTreeSet<_> =
            answers.iter().map(|answer| format!("{answer:?}")).collect();
        format!("{thread} {kinds:?}")
    };
    let refused = format!("{:?}", Err::<(), _>(Errno::NOSYS));
    let expected = format!("true {:?}", std::collections::BTreeSet::from([refused]));
    confined("a_porter_opens_makes_and_starts_nothing", part, &expected);
}

#[test]
fn a_porter_signals_nobody_but_itself() {
    if let Some(side) = support::peer_side() {
        confine::porter(Demand::BestEffort).unwrap();
        // SAFETY: U6. Three integers; signal 0 would only ask.
        let answer = unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
        let errno = Errno::from_io_error(&std::io::Error::last_os_error());
        side.say(&format!("{answer} {errno:?}"));
        std::process::abort();
    }
    let mut peer = support::start_peer("a_porter_signals_nobody_but_itself", vec![]);
    let expected = format!("-1 {:?}", Some(Errno::NOSYS));
    assert_eq!((peer.hear(), peer.end().signal()), (expected, Some(libc::SIGABRT)));
}

#[test]
fn a_confined_root_porter_keeps_no_capability_needs_root() {
    let part = || {
        let caps = confine::porter(Demand::BestEffort).unwrap().caps;
        format!("{caps:?}")
    };
    support::needs_root();
    confined("a_confined_root_porter_keeps_no_capability_needs_root", part, "[]");
}

#[test]
fn control_connects_and_makes_pipes_and_opens_and_starts_nothing() {
    let part = || {
        let caps = confine::control(Demand::BestEffort).unwrap().caps;
        // The kernel looks for it, and that is all that is asked here.
        let connects = Socket::connect("/nonexistent/bus").map(drop).map_err(|error| error.errno());
        let piped = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).is_ok();
        let thread = std::thread::Builder::new().spawn(|| ()).is_ok();
        let network = rustix::net::AddressFamily::INET;
        let answers = [
            open("/proc/self/status", OFlags::RDONLY),
            rustix::net::socket(network, rustix::net::SocketType::STREAM, None).map(drop),
            rustix::fs::memfd_create("control", rustix::fs::MemfdFlags::CLOEXEC).map(drop),
        ];
        let kinds: std::collections::BTreeSet<_> =
            answers.iter().map(|answer| format!("{answer:?}")).collect();
        format!("{caps:?} {connects:?} {piped} {thread} {kinds:?}")
    };
    let refused = std::collections::BTreeSet::from([format!("{:?}", Err::<(), _>(Errno::NOSYS))]);
    let expected = format!("[] {:?} true true {refused:?}", Err::<(), _>(Errno::NOENT));
    confined("control_connects_and_makes_pipes_and_opens_and_starts_nothing", part, &expected);
}

#[test]
fn a_page_server_is_called_connects_and_reads_proc_and_opens_nothing_else() {
    let part = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let caller = std::thread::spawn(move || std::net::TcpStream::connect(address).map(drop).is_ok());
        let called = caller.join().unwrap();
        let caps = confine::web(Demand::BestEffort).unwrap().caps;
        let accepted = listener.accept().is_ok();
        // The kernel looks for it, and that is all that is asked here.
        let connects = Socket::connect("/nonexistent/broker").map(drop).map_err(|error| error.errno());
        let again = std::net::TcpStream::connect(address).map(drop).map_err(|error| error.raw_os_error());
        let answers = [
            open("/proc/1/stat", OFlags::RDONLY),
            open("/etc/passwd", OFlags::RDONLY),
            rustix::fs::unlink("/proc/self/nothing"),
        ];
        format!("{called} {accepted} {connects:?} {again:?} {answers:?} {caps:?}")
    };
    let file = match landlock_of_this_kernel() {
        Landlock::Absent => Ok(()),
        Landlock::Partial | Landlock::Full => Err(Errno::ACCESS),
    };
    let expected = format!(
        "true true {:?} {:?} {:?} []",
        Err::<(), _>(Errno::NOENT),
        Err::<(), _>(Some(libc::ENOSYS)),
        [Ok(()), file, Err(Errno::NOSYS)]
    );
    confined("a_page_server_is_called_connects_and_reads_proc_and_opens_nothing_else", part, &expected);
}

#[test]
fn a_driver_opens_only_what_it_was_allowed() {
    if let Some(side) = support::peer_side() {
        let home = PathBuf::from(side.hear());
        let (read, write) = (vec![home.join("read")], vec![home.join("write")]);
        confine::driver(&ConfineSpec { read, write, ..ConfineSpec::default() }).unwrap();
        let answers = [
            open(home.join("read/file"), OFlags::RDONLY),
            open(home.join("read/file"), OFlags::RDWR),
            open(home.join("write/new"), OFlags::RDWR | OFlags::CREATE),
            open(home.join("other"), OFlags::RDONLY),
        ];
        return side.say(&format!("{answers:?}"));
    }
    let home = tempfile::tempdir().unwrap();
    for directory in ["read", "write"] {
        std::fs::create_dir(home.path().join(directory)).unwrap();
    }
    for file in ["read/file", "other"] {
        std::fs::write(home.path().join(file), "text").unwrap();
    }
    let peer = support::start_peer("a_driver_opens_only_what_it_was_allowed", vec![]);
    peer.say(home.path().to_str().unwrap());
    let refused = if landlock_of_this_kernel() != Landlock::Absent { Err(Errno::ACCESS) } else { Ok(()) };
    assert_eq!(peer.hear(), format!("{:?}", [Ok(()), refused, Ok(()), refused]));
}

#[test]
fn a_single_file_can_be_allowed() {
    if let Some(side) = support::peer_side() {
        let file = PathBuf::from(side.hear());
        let spec = ConfineSpec { read: vec![file.clone()], ..ConfineSpec::default() };
        let landlock = confine::driver(&spec).unwrap().landlock;
        return side.say(&format!("{landlock:?} {:?}", open(file, OFlags::RDONLY)));
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let peer = support::start_peer("a_single_file_can_be_allowed", vec![]);
    peer.say(file.path().to_str().unwrap());
    assert_eq!(peer.hear(), format!("{:?} Ok(())", landlock_of_this_kernel()));
}

#[test]
fn a_driver_without_any_file_system_opens_nothing() {
    let part = || {
        let spec = ConfineSpec { read: vec!["/".into()], no_open: true, ..ConfineSpec::default() };
        confine::driver(&spec).unwrap();
        format!("{:?}", open("/proc/self/status", OFlags::RDONLY))
    };
    let expected = format!("{:?}", Err::<(), _>(Errno::NOSYS));
    confined("a_driver_without_any_file_system_opens_nothing", part, &expected);
}

#[test]
fn demanded_landlock_is_an_error_where_it_is_not_fully_there() {
    let part = || {
        let spec = ConfineSpec { landlock: Demand::Required, ..ConfineSpec::default() };
        format!("{:?}", confine::driver(&spec).map(drop).map_err(|error| error.errno()))
    };
    let expected = if landlock_of_this_kernel() == Landlock::Full { Ok(()) } else { Err(Errno::NOSYS) };
    let test = "demanded_landlock_is_an_error_where_it_is_not_fully_there";
    confined(test, part, &format!("{expected:?}"));
}

fn ask_for_a_ring() -> Result<(), Errno> {
    let mut params = rustix::io_uring::io_uring_params::default();
    // SAFETY: U6. The kernel reads and writes one params struct.
    unsafe { rustix::io_uring::io_uring_setup(2, &mut params) }.map(drop)
}

#[test]
fn io_uring_is_there_for_those_who_asked() {
    let part = || {
        let before = ask_for_a_ring();
        confine::driver(&ConfineSpec { io_uring: true, ..ConfineSpec::default() }).unwrap();
        (before == ask_for_a_ring()).to_string()
    };
    confined("io_uring_is_there_for_those_who_asked", part, "true");
}

#[test]
fn io_uring_is_not_there_for_others() {
    let part = || {
        confine::driver(&ConfineSpec::default()).unwrap();
        format!("{:?}", ask_for_a_ring())
    };
    confined("io_uring_is_not_there_for_others", part, &format!("{:?}", Err::<(), _>(Errno::NOSYS)));
}

#[test]
fn a_confined_process_talks_unix_sockets_only() {
    let part = || {
        confine::driver(&ConfineSpec::default()).unwrap();
        let socket = |family| {
            let kind = rustix::net::SocketType::STREAM;
            rustix::net::socket(family, kind, None).map(drop)
        };
        let families = [rustix::net::AddressFamily::UNIX, rustix::net::AddressFamily::INET];
        format!("{:?}", families.map(socket))
    };
    let expected = format!("{:?}", [Ok(()), Err(Errno::NOSYS)]);
    confined("a_confined_process_talks_unix_sockets_only", part, &expected);
}

#[test]
fn a_confined_process_does_not_fork() {
    let part = || {
        confine::broker(&ConfineSpec::default()).unwrap();
        // SAFETY: U8. The child, if there were one, would exit at once.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: U8. Ends the process without running anything.
            unsafe { libc::_exit(0) };
        }
        pid.to_string()
    };
    confined("a_confined_process_does_not_fork", part, "-1");
}

#[test]
fn filters_bind_threads_that_live_already() {
    let part = || {
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            asked.recv().unwrap();
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
                .map(drop)
        });
        let report = confine::driver(&ConfineSpec::default()).unwrap();
        ask.send(()).unwrap();
        format!("{} {:?}", report.other_threads, thread.join().unwrap())
    };
    let expected = format!("true {:?}", Err::<(), _>(Errno::NOSYS));
    confined("filters_bind_threads_that_live_already", part, &expected);
}

#[test]
fn a_confined_process_that_execs_is_killed() {
    deadly("a_confined_process_that_execs_is_killed", || {
        let nothing = [std::ptr::null()];
        // SAFETY: U6. A path and two empty lists.
        unsafe { libc::execve(c"/bin/true".as_ptr(), nothing.as_ptr(), nothing.as_ptr()) };
    });
}

#[test]
fn a_confined_process_that_traces_is_killed() {
    deadly("a_confined_process_that_traces_is_killed", || {
        // SAFETY: U6. Asks to be traced; no pointers.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    });
}

#[test]
fn a_confined_process_that_reads_another_by_pid_is_killed() {
    deadly("a_confined_process_that_reads_another_by_pid_is_killed", || {
        // SAFETY: U6. No iovecs at all.
        unsafe { libc::process_vm_readv(1, std::ptr::null(), 0, std::ptr::null(), 0, 0) };
    });
}

#[test]
fn a_confined_root_keeps_no_capability_it_was_not_left_needs_root() {
    let part = || {
        let caps = confine::driver(&ConfineSpec::default()).unwrap().caps;
        let left = rustix::thread::capabilities(None).unwrap();
        let bounded = rustix::thread::capability_is_in_bounding_set(rustix::thread::CapabilitySet::SYS_ADMIN);
        format!("{caps:?} {} {bounded:?}", left.effective == rustix::thread::CapabilitySet::IPC_LOCK)
    };
    support::needs_root();
    let test = "a_confined_root_keeps_no_capability_it_was_not_left_needs_root";
    confined(test, part, "[\"IPC_LOCK\"] true Ok(false)");
}
