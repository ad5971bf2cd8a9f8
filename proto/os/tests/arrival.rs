//! Strangers' fds: every kind that can be made here, and every set of seals (THREATS T11, T12, T13).
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

use std::io::Error;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::libc;
use rustix::event::{EventfdFlags, epoll};
use rustix::fs::inotify;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use vgem_os::arrival::{Admission, Fitting, Kind, Unfit, process_memory};
use vgem_os::memory::{Access, HugePages, OBJECT_SEALS, ObjectMemory, SIZE_SEALS, identity, reopen};

const LEN: u64 = 8192;

fn examine(fd: impl AsFd) -> Result<Fitting, Unfit> {
    Admission::new().unwrap().examine(fd.as_fd())
}

fn memfd(seals: SealFlags, len: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("stranger", flags).unwrap();
    // An executable file would be given more seals with EXEC than were asked for.
    rustix::fs::fchmod(&fd, Mode::RUSR | Mode::WUSR).unwrap();
    rustix::fs::ftruncate(&fd, len).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn open(path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
}

/// What a system call that answers an fd made.
fn made(fd: libc::c_long) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::from_io_error(&Error::last_os_error()).unwrap());
    }
    // SAFETY: U9. The kernel made this fd for us just now.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) })
}

fn signalfd() -> Result<OwnedFd, Errno> {
    let none = 0_u64;
    // SAFETY: U6. An empty set of signals, 8 bytes long.
    made(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const none, 8_usize, libc::SFD_CLOEXEC) })
}

fn io_uring() -> Result<OwnedFd, Errno> {
    let mut params = rustix::io_uring::io_uring_params::default();
    // SAFETY: U6. The kernel reads and writes one params struct.
    unsafe { rustix::io_uring::io_uring_setup(2, &mut params) }
}

fn fanotify() -> Result<OwnedFd, Errno> {
    // SAFETY: U6. Two integers.
    made(unsafe { libc::syscall(libc::SYS_fanotify_init, libc::FAN_CLOEXEC, 0) })
}

fn userfaultfd() -> Result<OwnedFd, Errno> {
    const USER_MODE_ONLY: libc::c_int = 1;
    // SAFETY: U6. One integer.
    made(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | USER_MODE_ONLY) })
}

fn secret_memory() -> Result<OwnedFd, Errno> {
    // SAFETY: U6. One integer.
    made(unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) })
}

fn bpf_map() -> Result<OwnedFd, Errno> {
    // BPF_MAP_CREATE of an array of one 4-byte value; the rest of the attributes is 0.
    let attributes = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: U6. The attributes and their size.
    made(unsafe { libc::syscall(libc::SYS_bpf, 0, &raw const attributes, size_of_val(&attributes)) })
}

fn perf_event() -> Result<OwnedFd, Errno> {
    // PERF_TYPE_SOFTWARE, the size of the first version, PERF_COUNT_SW_CPU_CLOCK, without the kernel.
    let mut attributes = [0_u32; 16];
    (attributes[0], attributes[1], attributes[10]) = (1, 64, 0b110_0000);
    // SAFETY: U6. The attributes carry their size; this process, any processor, no group.
    made(unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attributes, 0, -1, -1, 8_u64) })
}

fn landlock_ruleset() -> Result<OwnedFd, Errno> {
    let attributes = [1_u64];
    // SAFETY: U6. The attributes and their size.
    made(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attributes, 8_usize, 0) })
}

fn socket(family: AddressFamily, kind: SocketType) -> Result<OwnedFd, Errno> {
    rustix::net::socket(family, kind, None)
}

fn device(name: &str) -> Kind {
    Kind::Device { name: name.into() }
}

/// Every kind, how it is made, and whether every machine can make it.
fn strangers() -> Vec<(Kind, bool, Result<OwnedFd, Errno>)> {
    let home = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let create = OFlags::CREATE | OFlags::RDWR;
    let own = rustix::process::getpid();
    let (read, write) = rustix::pipe::pipe().unwrap();
    let hugetlb = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    let namespace = open("/proc/self/ns/net", OFlags::RDONLY);
    rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), Mode::from_raw_mode(0o600)).unwrap();
    let timer = rustix::time::timerfd_create(
        rustix::time::TimerfdClockId::Monotonic,
        rustix::time::TimerfdFlags::CLOEXEC,
    );
    vec![
        (Kind::Pipe, true, Ok(read)),
        (Kind::Pipe, true, Ok(write)),
        (Kind::Socket, true, socket(AddressFamily::UNIX, SocketType::STREAM)),
        (Kind::Socket, true, socket(AddressFamily::UNIX, SocketType::SEQPACKET)),
        (Kind::Socket, true, socket(AddressFamily::INET, SocketType::STREAM)),
        (Kind::Socket, false, socket(AddressFamily::NETLINK, SocketType::RAW)),
        (Kind::Eventfd, true, rustix::event::eventfd(0, EventfdFlags::CLOEXEC)),
        (Kind::Epoll, true, epoll::create(epoll::CreateFlags::CLOEXEC)),
        (Kind::Signalfd, true, signalfd()),
        (Kind::Timerfd, true, timer),
        (Kind::Pidfd, true, rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty())),
        (Kind::Inotify, true, inotify::init(inotify::CreateFlags::CLOEXEC)),
        (Kind::Fanotify, false, fanotify()),
        (Kind::Userfaultfd, false, userfaultfd()),
        (Kind::IoUring, false, io_uring()),
        (Kind::SecretMemory, false, secret_memory()),
        (Kind::Bpf, false, bpf_map()),
        (Kind::Perf, false, perf_event()),
        (Kind::Other { name: "landlock-ruleset".into() }, false, landlock_ruleset()),
        (Kind::Directory, true, open("/", OFlags::RDONLY | OFlags::DIRECTORY)),
        (Kind::File, true, open("/", OFlags::RDONLY)),
        (Kind::File, true, open(&path("file"), create)),
        (Kind::File, true, open(&path("fifo"), OFlags::RDWR)),
        (Kind::TmpfsFile, true, open("/dev/shm", OFlags::TMPFILE | OFlags::RDWR)),
        (Kind::HugetlbMemfd, false, rustix::fs::memfd_create("huge", hugetlb)),
        (device("/dev/null"), true, open("/dev/null", OFlags::RDWR)),
        (device("/dev/zero"), true, open("/dev/zero", OFlags::RDWR)),
        (device("/dev/full"), true, open("/dev/full", OFlags::RDWR)),
        (device("/dev/fuse"), false, open("/dev/fuse", OFlags::RDWR)),
        (device("/dev/kvm"), false, open("/dev/kvm", OFlags::RDWR)),
        (device("/dev/loop0"), false, open("/dev/loop0", OFlags::RDONLY)),
        (Kind::ProcessMemory, true, open("/proc/self/mem", OFlags::RDWR)),
        (Kind::ProcFile, true, open("/proc/self/status", OFlags::RDONLY)),
        (Kind::Namespace, true, namespace),
        (Kind::PathOnly, true, open("/", OFlags::PATH)),
        (Kind::PathOnly, true, open("/dev/null", OFlags::PATH)),
    ]
}

#[test]
fn every_kind_of_fd_but_a_memfd_is_refused_by_its_name() {
    for (kind, everywhere, fd) in strangers() {
        match fd {
            Ok(fd) => assert_eq!(examine(fd).map_err(|unfit| unfit.kind), Err(kind)),
            Err(errno) => assert!(!everywhere, "{kind} cannot be made: {errno}"),
        }
    }
}

// T11: what F_GET_SEALS says of everything that is no memory.
#[test]
fn only_memory_answers_when_asked_for_its_seals() {
    for (kind, _, fd) in strangers() {
        let Ok(fd) = fd else { continue };
        let expected = match kind {
            Kind::TmpfsFile | Kind::HugetlbMemfd => None,
            Kind::PathOnly => Some(Errno::BADF),
            _ => Some(Errno::INVAL),
        };
        assert_eq!(rustix::fs::fcntl_get_seals(&fd).err(), expected, "{kind}");
    }
}

#[test]
fn memfds_share_a_device_that_files_and_huge_pages_are_not_on() {
    let dev = |fd: &OwnedFd| identity(fd.as_fd()).unwrap().dev;
    let own = dev(&memfd(SealFlags::empty(), LEN));
    assert_eq!(dev(&memfd(OBJECT_SEALS, LEN)), own);
    for (kind, _, fd) in strangers() {
        let Ok(fd) = fd else { continue };
        assert!(!matches!(kind, Kind::TmpfsFile | Kind::HugetlbMemfd) || dev(&fd) != own, "{kind}");
    }
}

#[test]
fn an_io_uring_cannot_be_sent_at_all() {
    let Ok(ring) = io_uring() else {
        // Switched off on this machine: nothing to send.
        assert_eq!(io_uring().err(), Some(Errno::PERM));
        return;
    };
    let (a, _b) = vgem_os::seqpacket::Socket::pair().unwrap();
    assert_eq!(a.send(b"ring", &[ring.as_fd()]).unwrap_err().errno(), Errno::INVAL);
}

/// Every set of the six seals there are.
fn all_seals() -> impl Iterator<Item = SealFlags> {
    (0..64).map(SealFlags::from_bits_retain)
}

fn is_write_sealed(seals: SealFlags) -> bool {
    seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE)
}

// T12
#[test]
fn of_all_seals_on_writable_memory_only_those_that_keep_its_length_open_are_refused() {
    for seals in all_seals() {
        let answer = examine(memfd(seals, LEN));
        if seals.contains(SealFlags::SEAL) && !seals.contains(SIZE_SEALS) {
            let unfit = answer.unwrap_err();
            assert_eq!(unfit.kind, Kind::Memfd, "{seals:?}");
            assert!(unfit.why.contains("takes no more seals"), "{seals:?}: {unfit}");
            continue;
        }
        let access = if is_write_sealed(seals) { Access::Read } else { Access::Write };
        assert_eq!(answer.map(|fitting| (fitting.len, fitting.access)), Ok((LEN, access)), "{seals:?}");
    }
}

// T12
#[test]
fn of_all_seals_on_memory_open_for_reading_only_those_that_fix_its_length_are_taken() {
    for seals in all_seals() {
        let fd = memfd(seals, LEN);
        let read_only = reopen(fd.as_fd(), Access::Read).unwrap();
        let answer = examine(read_only);
        if seals.contains(SIZE_SEALS) {
            assert_eq!(answer.map(|fitting| fitting.access), Ok(Access::Read), "{seals:?}");
        } else {
            assert!(answer.unwrap_err().why.contains("SHRINK and GROW are wanted"), "{seals:?}");
        }
        assert_eq!(rustix::fs::fcntl_get_seals(&fd), Ok(seals), "as it was");
    }
}

#[test]
fn memory_taken_for_writing_can_neither_change_its_length_nor_be_sealed_against_us() {
    for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::GROW, SIZE_SEALS] {
        let fd = memfd(seals, LEN);
        examine(&fd).unwrap();
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(Errno::PERM), "{seals:?}");
        assert_eq!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE), Err(Errno::PERM), "{seals:?}");
    }
}

#[test]
fn memory_made_without_sealing_is_refused() {
    let fd = rustix::fs::memfd_create("unsealable", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, LEN).unwrap();
    let unfit = examine(fd).unwrap_err();
    assert_eq!(unfit.kind, Kind::Memfd);
    assert!(unfit.why.contains("it has SEAL"), "{unfit}");
}

#[test]
fn memory_open_for_writing_only_is_refused() {
    let fd = memfd(OBJECT_SEALS, LEN);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let unfit = examine(open(&path, OFlags::WRONLY).unwrap()).unwrap_err();
    assert!(unfit.why.contains("open for writing only"), "{unfit}");
}

#[test]
fn a_path_to_memory_is_not_memory() {
    let fd = memfd(OBJECT_SEALS, LEN);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    assert_eq!(examine(open(&path, OFlags::PATH).unwrap()).unwrap_err().kind, Kind::PathOnly);
}

#[test]
fn a_length_that_is_not_whole_pages_is_refused_with_value_and_limit_and_left_as_it_is() {
    for (len, says) in [(0, "0 bytes, at least 4096"), (4095, "4095 bytes, a multiple of 4096")] {
        let fd = memfd(SealFlags::empty(), len);
        let unfit = examine(&fd).unwrap_err();
        assert!(unfit.why.contains(says), "{unfit}");
        assert_eq!(rustix::fs::fcntl_get_seals(&fd), Ok(SealFlags::empty()));
    }
}

// T13
#[test]
fn a_sparse_giant_is_told_by_its_length_and_not_by_what_it_holds() {
    let giant = 1 << 60;
    assert_eq!(examine(memfd(SealFlags::empty(), giant)).map(|fitting| fitting.len), Ok(giant));
}

#[test]
fn an_export_is_recognised_with_the_access_it_was_opened_for() {
    let object = ObjectMemory::create(LEN, HugePages::None, "own").unwrap();
    for access in [Access::Read, Access::Write] {
        let expected = Fitting { len: LEN, access, identity: object.identity() };
        assert_eq!(examine(object.export(access).unwrap()), Ok(expected));
    }
}

#[test]
fn what_is_taken_can_be_held() {
    for seals in all_seals() {
        let fd = memfd(seals, LEN);
        let Ok(fitting) = examine(&fd) else { continue };
        let memory = ObjectMemory::from_foreign(fd).unwrap();
        let held = Fitting { len: memory.len(), access: memory.access(), identity: memory.identity() };
        assert_eq!(held, fitting, "{seals:?}");
    }
}

#[test]
fn a_refusal_names_the_kind_and_what_would_be_taken() {
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    let said = examine(pipe).unwrap_err().to_string();
    assert_eq!(said, "a pipe was sent: only a memfd can be imported (memfd_create with MFD_ALLOW_SEALING)");
}

#[test]
fn the_memory_of_a_process_is_told_from_everything_else() {
    use vgem_os::client_memory::own;
    for access in [Access::Read, Access::Write] {
        assert_eq!(process_memory(own(access).expect("a dumpable process").as_fd()), Ok(access));
    }
    let map = rustix::fs::open("/proc/self/pagemap", OFlags::RDONLY, Mode::empty()).expect("procfs");
    assert_eq!(process_memory(map.as_fd()).expect_err("no memory").kind, Kind::ProcFile);
    let path = rustix::fs::open("/proc/self/mem", OFlags::PATH, Mode::empty()).expect("procfs");
    assert_eq!(process_memory(path.as_fd()).expect_err("not open").kind, Kind::PathOnly);
    let writing = rustix::fs::open("/proc/self/mem", OFlags::WRONLY, Mode::empty()).expect("procfs");
    assert!(process_memory(writing.as_fd()).is_err_and(|unfit| unfit.why.contains("writing only")));
}
