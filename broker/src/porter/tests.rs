//! A porter over real socket pairs, with the test as its client and as its broker.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::fs::{MemfdFlags, SealFlags};
use vgem_os::memory::{HugePages, ObjectMemory};
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::Sender;
use vgem_proto::message::porter::{Brought, BroughtProcess, Hand, PorterMessage, Unfit};
use vgem_proto::rights::Access;

use super::*;

/// Long enough never to come in a test that does not wait for it.
const LONG: Duration = Duration::from_secs(600);

/// A porter that serves on a thread of its own, not confined: confinement would bind the test, too.
struct Rig {
    channel: Socket,
    link: Socket,
    porter: JoinHandle<Result<(), Failure>>,
}

impl Rig {
    fn new(idle: Duration) -> Self {
        let (channel, porters_channel) = Socket::pair().expect("a pair");
        let (link, porters_link) = Socket::pair().expect("a pair");
        link.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        let admission = Admission::new().expect("a memfd");
        let porter = Porter::new(porters_channel, porters_link, admission).expect("a porter");
        Self { channel, link, porter: std::thread::spawn(move || porter.serve(idle)) }
    }

    fn hand(&self, request: u64, fds: &[BorrowedFd<'_>]) {
        self.channel.send(&Hand {}.encode(request, Time(0), 0), fds).expect("the porter reads");
    }

    /// What the broker is told.
    fn told(&self) -> (u64, PorterMessage, Vec<OwnedFd>) {
        let (mut buffer, mut fds) = (vec![0; limits::MESSAGE_LEN], Vec::new());
        let Packet::Data { len } = self.link.recv(&mut buffer, &mut fds).expect("a message in time") else {
            panic!("the porter went away");
        };
        let decoded = PorterMessage::decode(&buffer[..len], Sender::Porter, fds.len());
        let (head, message) = decoded.expect("a porter speaks well");
        (head.request, message, fds)
    }

    fn brought(&self, request: u64) -> (Brought, OwnedFd) {
        let (of, message, mut fds) = self.told();
        let PorterMessage::Brought(brought) = message else { panic!("{message:?}") };
        assert_eq!((of, fds.len()), (request, 1));
        (brought, fds.remove(0))
    }

    fn unfit(&self, request: u64) -> Unfit {
        let (of, message, fds) = self.told();
        let PorterMessage::Unfit(unfit) = message else { panic!("{message:?}") };
        assert_eq!((of, fds.len()), (request, 0));
        unfit
    }

    /// The porter ends well, and soon.
    fn ends(self) {
        let Self { channel, link, porter } = self;
        drop((channel, link));
        assert_eq!(porter.join().expect("no panic"), Ok(()));
    }
}

fn memfd(len: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING);
    let fd = rustix::fs::memfd_create("test", flags).expect("memory");
    rustix::fs::ftruncate(&fd, len).expect("its length");
    fd
}

fn inode(fd: impl AsFd) -> u64 {
    rustix::fs::fstat(fd).expect("stat").st_ino
}

fn text(unfit: &Unfit) -> String {
    String::from_utf8(unfit.text.clone()).expect("words")
}

// M-046
#[test]
fn a_memfd_is_brought_sealed_with_its_length() {
    let rig = Rig::new(LONG);
    let memory = memfd(8192);
    rig.hand(7, &[memory.as_fd()]);
    let (brought, fd) = rig.brought(7);
    assert_eq!((brought.len, brought.access, inode(&fd)), (8192, Access::Write, inode(&memory)));
    let seals = rustix::fs::fcntl_get_seals(&memory).expect("seals");
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW), "{seals:?}");
    rig.ends();
}

#[test]
fn a_read_only_export_is_brought_for_reading() {
    let rig = Rig::new(LONG);
    let object = ObjectMemory::create(4096, HugePages::None, "test").expect("memory");
    rig.hand(1, &[object.export(Access::Read).expect("an export").as_fd()]);
    assert_eq!(rig.brought(1).0.access, Access::Read);
    rig.ends();
}

#[test]
fn what_is_no_memory_is_refused_by_its_name_and_the_next_is_looked_at() {
    let rig = Rig::new(LONG);
    let (pipe, _end) = rustix::pipe::pipe().expect("a pipe");
    rig.hand(1, &[pipe.as_fd()]);
    let unfit = rig.unfit(1);
    assert_eq!(unfit.code, ErrorCode::BadParameter);
    assert!(text(&unfit).contains("a pipe was sent"), "{}", text(&unfit));
    rig.hand(2, &[memfd(4096).as_fd()]);
    assert_eq!(rig.brought(2).0.len, 4096);
    rig.ends();
}

// M-131
#[test]
fn a_hand_with_two_fds_is_refused_and_both_are_closed() {
    let rig = Rig::new(LONG);
    let (ours, theirs) = Socket::pair().expect("a pair");
    rig.hand(1, &[theirs.as_fd(), theirs.as_fd()]);
    drop(theirs);
    assert_eq!(rig.unfit(1).code, ErrorCode::Malformed);
    // The end of the pair is closed once nobody has its other end.
    ours.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
    assert_eq!(ours.recv_plain(&mut [0; 8]), Ok(Packet::Closed));
    rig.ends();
}

// M-131
#[test]
fn a_hand_without_an_fd_is_refused() {
    let rig = Rig::new(LONG);
    rig.hand(9, &[]);
    assert_eq!(rig.unfit(9).code, ErrorCode::Malformed);
    rig.ends();
}

#[test]
fn garbage_is_refused_if_it_has_a_number_and_else_passed_over() {
    let rig = Rig::new(LONG);
    let (mut garbage, short) = (vec![0xff; 64], [1; 5]);
    garbage[8..16].copy_from_slice(&3_u64.to_le_bytes());
    rig.channel.send(&short, &[memfd(4096).as_fd()]).expect("room");
    rig.channel.send(&garbage, &[memfd(4096).as_fd()]).expect("room");
    assert_eq!(rig.unfit(3).code, ErrorCode::Malformed);
    rig.ends();
}

#[test]
fn an_oversize_message_is_refused_with_its_length() {
    let rig = Rig::new(LONG);
    let mut long = Hand {}.encode(4, Time(0), 0);
    long.resize(100 * 1024, 0);
    rig.channel.send(&long, &[memfd(4096).as_fd()]).expect("room");
    let unfit = rig.unfit(4);
    let expected = (ErrorCode::Malformed, 100 * 1024, limits::MESSAGE_LEN as u64);
    assert_eq!((unfit.code, unfit.value, unfit.limit), expected);
    rig.ends();
}

#[test]
fn a_message_whose_fds_were_cut_off_is_refused_as_malformed() {
    let found = cut_off(&RecvError::FdsTruncated { closed: 1 });
    let Found::Unfit(unfit) = found else { panic!("{found:?}") };
    assert_eq!(unfit.code, ErrorCode::Malformed);
    assert!(text(&unfit).contains("truncated"), "{}", text(&unfit));
}

#[test]
fn it_ends_when_its_client_is_gone() {
    let Rig { channel, link, porter } = Rig::new(LONG);
    drop(channel);
    assert_eq!(porter.join().expect("no panic"), Ok(()));
    drop(link);
}

#[test]
fn it_ends_when_the_broker_is_gone_though_its_client_stays() {
    let Rig { channel, link, porter } = Rig::new(LONG);
    drop(link);
    assert_eq!(porter.join().expect("no panic"), Ok(()));
    drop(channel);
}

#[test]
fn it_ends_when_nothing_comes_for_long() {
    let Rig { channel, link, porter } = Rig::new(Duration::from_millis(20));
    assert_eq!(porter.join().expect("no panic"), Ok(()));
    drop((channel, link));
}

#[test]
fn a_file_is_refused_as_one() {
    let rig = Rig::new(LONG);
    let path = tempfile::NamedTempFile::new().expect("a file");
    let file = File::open(path.path()).expect("the file");
    rig.hand(1, &[file.as_fd()]);
    assert!(text(&rig.unfit(1)).contains("a file was sent"));
    rig.ends();
}

// M-132
#[test]
fn the_memory_of_a_process_is_brought_for_what_it_is_open_for() {
    let rig = Rig::new(LONG);
    for (request, access) in [(1, Access::Read), (2, Access::Write)] {
        let memory = vgem_os::client_memory::own(access).expect("a dumpable process");
        rig.hand(request, &[memory.as_fd()]);
        let (of, message, fds) = rig.told();
        assert_eq!((of, fds.len()), (request, 1));
        assert_eq!(message, PorterMessage::BroughtProcess(BroughtProcess { access, reserved: Zero }));
    }
    rig.ends();
}
