//! Attacks on a real daemon: what a client does that wants more than its share, or others to suffer.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, SealFlags};
use rustix::time::Timespec;
use vgem_os::clock;
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::seqpacket::Packet;
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Time};
use vgem_proto::limits;
use vgem_proto::message::client::{ClientMessage, CloseObject, Commit, CreateObject, Export, OpenPorter};
use vgem_proto::rights::{Access, Rights};

use crate::common::{
    Client, Daemon, configured, creation, drivers, inode, memfd, populate, refusal, status, until,
};
use crate::text;

const LEN: u32 = 8192;

fn daemon_with(config: &str) -> Daemon {
    let dir = tempfile::tempdir().expect("a directory");
    let file = configured(&dir, config);
    Daemon::start_in(dir, &drivers(), &["--config", text(&file)])
}

/// Whether the daemon will say nothing more; what it said is not looked at.
fn ended(client: &Client) -> bool {
    let mut fds = [PollFd::new(&client.socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).expect("a socket of ours") > 0
}

/// Whether a process has a file open.
fn has_open(pid: u32, inode: u64) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    fds.flatten().any(|fd| std::fs::metadata(fd.path()).is_ok_and(|file| file.ino() == inode))
}

/// The same memory, opened again.
fn reopened(fd: &OwnedFd, flags: OFlags) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("memory of ours")
}

/// T16: a client that is always waiting for some more exports, and takes each at once.
#[test]
fn atk_t16_a_client_that_pipelines_and_reads_is_not_dropped() {
    let daemon = daemon_with("[times]\nunread_ms = 400\n");
    let mut client = daemon.client();
    let (object, _fd) = client.ready(LEN);
    let ask = |client: &mut Client| {
        client.request += 1;
        let export = Export { object, access: Access::Read, reserved: Zero };
        client.socket.send(&export.encode(client.request, Time(0), 0), &[]).expect("it is not dropped");
    };
    (0..64).for_each(|_| ask(&mut client));
    let mut other = daemon.client();
    let end = clock::deadline_in(2_000_000_000);
    while clock::now() < end {
        // The broker has answered everything when it answers others: there is always something unread.
        for _ in 0..8 {
            status(&mut other);
        }
        for _ in 0..32 {
            let (answer, _) = client.answer();
            assert!(matches!(answer, ClientMessage::Exported(_)), "{answer:?}");
        }
        (0..32).for_each(|_| ask(&mut client));
    }
}

/// T16: what a client that was dropped has not read is still on its way; it must not have that again and again.
#[test]
fn atk_t16_connections_with_unread_fds_are_few_for_each_user() {
    let daemon = daemon_with("[times]\nunread_ms = 300\n");
    let (mut left, mut unread) = (Vec::new(), 0);
    for _ in 0..20 {
        let mut client = Client::connect(&daemon.place());
        if !client.try_greet() {
            break;
        }
        for _ in 0..8 {
            let create = CreateObject { count: 64, ..creation(4096) };
            client.socket.send(&create.encode(1, Time(0), 0), &[]).expect("room");
        }
        unread += 8 * 64;
        // It is dropped: its end says so.
        until("it is dropped", || ended(&client));
        left.push(client);
    }
    assert!((1024..=2048).contains(&unread), "{unread} fds are on their way");
    drop(left);
    until("all is forgotten when they are closed", || Client::connect(&daemon.place()).try_greet());
}

/// Whoever has a read-only fd of somebody's memory, and imports it first, does not decide what its maker can do.
#[test]
fn atk_a_read_only_import_that_comes_first_leaves_the_maker_its_writes() {
    let daemon = Daemon::start();
    let (mut hostile, mut maker) = (daemon.client(), daemon.client());
    let memory = memfd(LEN.into());
    rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW).expect("ours");
    let read_only = reopened(&memory, OFlags::RDONLY);
    let channel = hostile.porter();
    let theirs = hostile.imported(&channel, &read_only);
    assert_eq!(theirs.rights, Rights::READ | Rights::EXPORT);
    let channel = maker.porter();
    let ours = maker.imported(&channel, &memory);
    assert_eq!(ours.rights, Rights::all());
    populate(&memory, LEN as usize);
    assert!(matches!(
        maker.ask(&Commit { objects: vec![ours.object] }.into()).0,
        ClientMessage::Committed(_)
    ));
    populate(&maker.export(ours.object, Access::Write), LEN as usize);
    let export = Export { object: theirs.object, access: Access::Write, reserved: Zero };
    assert_eq!(refusal(hostile.ask(&export.into()).0).code, ErrorCode::Denied);
}

/// T27: a sealed result cannot be cleared when it is freed, so what a hidden reference keeps stays charged.
#[test]
fn atk_t27_a_sealed_result_behind_a_path_is_not_for_free() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let _queue = client.open_queue();
    let create = CreateObject { writer: DeviceId(1), ..creation(LEN.into()) };
    let (answer, mut fds) = client.ask(&create.into());
    let ClientMessage::ObjectCreated(created) = answer else { panic!("{answer:?}") };
    let fd = fds.pop().expect("its fd");
    let mapping = Mapping::map(fd.as_fd(), LEN as usize, Access::Read, Populate::Now).expect("a mapping");
    let object = created.objects[0];
    let (answer, _) = client.ask(&Commit { objects: vec![object] }.into());
    assert!(matches!(answer, ClientMessage::Committed(_)), "{answer:?}");
    let hidden = reopened(&fd, OFlags::PATH);
    drop((mapping, fd));
    assert!(matches!(client.ask(&CloseObject { object }.into()).0, ClientMessage::Done(_)));
    // The broker has let go of it when none of its own fds is of it any more.
    let broker = daemon.child_called("broker");
    until("the broker finds nobody who has it", || !has_open(broker, inode(&hidden)));
    assert_eq!(status(&mut client).object_bytes, u64::from(LEN));
    drop(hidden);
    until("it is free when nobody has it", || status(&mut client).objects == 0);
}

/// Each porter is a process; opening and closing them in a loop costs others next to nothing.
#[test]
fn atk_porters_in_a_loop_are_slowed_down_and_others_are_served() {
    let daemon = Daemon::start();
    let mut hostile = daemon.client();
    let (mut opened, mut slowed) = (0, 0);
    let began = clock::now();
    while slowed < 200 {
        match hostile.ask(&OpenPorter {}.into()).0 {
            ClientMessage::PorterOpened(_) => opened += 1,
            ClientMessage::Refused(refused) if refused.code == ErrorCode::Exhausted => slowed += 1,
            // The one before has not quite ended.
            ClientMessage::Refused(refused) => assert_eq!(refused.code, ErrorCode::Busy, "{refused:?}"),
            other => panic!("{other:?}"),
        }
    }
    let most = 128 + (clock::now() - began) / 25_000_000 + 1;
    assert!(opened <= most, "{opened} of {most}");
    let mut honest = daemon.client();
    let (object, _fd) = honest.ready(LEN);
    assert!(matches!(honest.ask(&CloseObject { object }.into()).0, ClientMessage::Done(_)));
}

/// An Import that names nothing, a Hand that nobody asked for, numbers used twice: each is answered once, or not at all.
#[test]
fn atk_import_numbers_used_again_and_again_are_answered_once_each() {
    let dir = tempfile::tempdir().expect("a directory");
    // Long, so that no porter is late where others have the cores.
    let file = configured(&dir, "[times]\nimport_ms = 60000\n");
    let daemon = Daemon::start_in(dir, &drivers(), &["--config", text(&file)]);
    let mut client = daemon.client();
    let channel = client.porter();
    let memory = memfd(LEN.into());
    let import = vgem_proto::message::client::Import { name: vec![] }.encode(7, Time(0), 0);
    for _ in 0..3 {
        client.socket.send(&import, &[]).expect("room");
    }
    // Answered before anything is handed over, so that nothing depends on which of two sockets is read first.
    for _ in 0..2 {
        assert_eq!(refusal(client.answer().0).code, ErrorCode::Busy);
    }
    for _ in 0..3 {
        crate::common::hand(&channel, 7, &memory);
    }
    let (answer, _) = client.answer();
    assert!(matches!(answer, ClientMessage::Imported(_)), "{answer:?}");
    // Nothing more is said, and the connection works.
    let (buffer, decoded) = (&mut vec![0; limits::MESSAGE_LEN], status(&mut client));
    client.socket.set_nonblocking(true).expect("ours");
    assert!(!matches!(client.socket.recv_plain(buffer), Ok(Packet::Data { .. })), "{decoded:?}");
}
