//! Kernel conformance: FACTS, "Sockets" and "fds from strangers".
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags};
use rustix::process::{Resource, Rlimit};
use vgem_os::seqpacket::{Early, FDS_MAX, Listener, Packet, RecvError, Socket};

fn pair() -> (Socket, Socket) {
    Socket::pair().unwrap()
}

fn an_fd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

/// `CMSG_SPACE` for one fd: a head of 16 bytes, and 4 bytes padded to 8.
#[repr(align(8))]
struct RoomForOne([MaybeUninit<u8>; 24]);

/// Receives with a control buffer that was sized for one fd; the fds that came, and if some were cut off.
fn receive_with_room_for_one(socket: &Socket) -> (usize, bool) {
    let mut room = RoomForOne([MaybeUninit::uninit(); 24]);
    let mut control = RecvAncillaryBuffer::new(&mut room.0);
    let mut bytes = [0; 16];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut arrived = 0;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            arrived += fds.count();
        }
    }
    (arrived, message.flags.contains(ReturnFlags::CTRUNC))
}

#[test]
fn an_oversize_packet_is_told_with_its_length_and_spoils_nothing() {
    let (a, b) = pair();
    a.send(&[1; 5000], &[]).unwrap();
    a.send(b"next", &[]).unwrap();
    let mut buf = [0; 64];
    assert_eq!(b.recv_plain(&mut buf), Ok(Packet::TooLong { len: 5000 }));
    assert_eq!(b.recv_plain(&mut buf), Ok(Packet::Data { len: 4 }));
}

#[test]
fn an_oversize_packet_is_told_with_its_length_also_where_fds_are_received() {
    let (a, b) = pair();
    a.send(&[1; 5000], &[an_fd().as_fd()]).unwrap();
    a.send(b"next", &[]).unwrap();
    let (mut buf, mut fds) = ([0; 64], Vec::new());
    assert_eq!(b.recv(&mut buf, &mut fds), Ok(Packet::TooLong { len: 5000 }));
    assert_eq!((b.recv(&mut buf, &mut fds), fds.len()), (Ok(Packet::Data { len: 4 }), 0));
}

#[test]
fn a_packet_above_the_senders_buffer_fails_at_the_sender() {
    let (a, b) = pair();
    let limit = rustix::net::sockopt::socket_send_buffer_size(&a).unwrap();
    let refused = a.send(&vec![0; limit], &[]).unwrap_err();
    a.send(&vec![0; limit - 256], &[]).unwrap();
    let mut buf = vec![0; limit];
    assert_eq!(refused.errno(), Errno::MSGSIZE);
    assert_eq!(b.recv_plain(&mut buf), Ok(Packet::Data { len: limit - 256 }));
}

#[test]
fn a_message_and_its_fds_stay_together() {
    let (a, b) = pair();
    let (two, three) = ([an_fd(), an_fd()], [an_fd(), an_fd(), an_fd()]);
    a.send(b"none", &[]).unwrap();
    a.send(b"two", &two.each_ref().map(|fd| fd.as_fd())).unwrap();
    a.send(b"three", &three.each_ref().map(|fd| fd.as_fd())).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (mut buf, mut fds) = ([0; 16], Vec::new());
        let Ok(Packet::Data { len }) = b.recv(&mut buf, &mut fds) else { panic!("a packet") };
        seen.push((len, fds.len()));
    }
    assert_eq!(seen, [(4, 0), (3, 2), (5, 3)]);
}

#[test]
fn a_packet_carries_253_fds_and_not_one_more() {
    let (a, b) = pair();
    let fd = an_fd();
    let most = vec![fd.as_fd(); FDS_MAX];
    let numbers: Vec<BorrowedFd<'_>> = vec![fd.as_fd(); FDS_MAX + 1];
    a.send(b"most", &most).unwrap();
    let (mut buf, mut fds) = ([0; 16], Vec::new());
    assert_eq!(b.recv(&mut buf, &mut fds), Ok(Packet::Data { len: 4 }));
    assert_eq!(fds.len(), FDS_MAX);
    assert_eq!(a.send(b"more", &numbers).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn received_fds_are_close_on_exec() {
    let (a, b) = pair();
    a.send(b"fd", &[an_fd().as_fd()]).unwrap();
    let (mut buf, mut fds) = ([0; 16], Vec::new());
    b.recv(&mut buf, &mut fds).unwrap();
    let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
}

#[test]
fn a_control_buffer_for_one_fd_takes_two_without_saying_so() {
    let (a, b) = pair();
    a.send(b"two", &[an_fd().as_fd(), an_fd().as_fd()]).unwrap();
    assert_eq!(receive_with_room_for_one(&b), (2, false));
}

#[test]
fn a_control_buffer_that_is_too_small_is_told() {
    let (a, b) = pair();
    let four = [an_fd(), an_fd(), an_fd(), an_fd()];
    a.send(b"four", &four.each_ref().map(|fd| fd.as_fd())).unwrap();
    assert_eq!(receive_with_room_for_one(&b), (2, true));
}

#[test]
fn an_empty_packet_reads_like_the_end() {
    let (a, b) = pair();
    rustix::net::send(&a, &[], SendFlags::NOSIGNAL).unwrap();
    let mut buf = [0; 16];
    assert_eq!(b.recv_plain(&mut buf), Ok(Packet::Closed));
    drop(a);
    assert_eq!(b.recv_plain(&mut buf), Ok(Packet::Closed));
}

#[test]
fn fds_that_do_not_fit_into_the_process_are_told_and_closed() {
    if let Some(side) = support::peer_side() {
        return side.say(&receive_with_few_fds_left());
    }
    let test = "fds_that_do_not_fit_into_the_process_are_told_and_closed";
    let (a, b) = pair();
    let fd = an_fd();
    a.send(b"twenty", &[fd.as_fd(); 20]).unwrap();
    let peer = support::start_peer(test, vec![OwnedFd::from(b)]);
    assert_eq!(peer.hear(), "truncated, closed 5, room again for 5");
}

/// The peer's part: twenty fds come where five have room.
fn receive_with_few_fds_left() -> String {
    let link = Socket::from(support::given(0));
    let lowest_free = an_fd();
    let next = u64::try_from(std::os::fd::AsRawFd::as_raw_fd(&lowest_free)).unwrap();
    drop(lowest_free);
    let limit = Rlimit { current: Some(next + 5), maximum: Some(next + 5) };
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    let (mut buf, mut fds) = ([0; 16], Vec::new());
    let Err(RecvError::FdsTruncated { closed }) = link.recv(&mut buf, &mut fds) else {
        return "not truncated".into();
    };
    let room = std::iter::from_fn(|| rustix::event::eventfd(0, EventfdFlags::CLOEXEC).ok());
    format!("truncated, closed {closed}, room again for {}", room.collect::<Vec<_>>().len())
}

#[test]
fn too_many_fds_in_flight_fail_at_the_sender() {
    if let Some(side) = support::peer_side() {
        // The bound is the sender's limit of open files; privilege lifts it.
        support::drop_capabilities();
        let limit = Rlimit { current: Some(32), maximum: Some(32) };
        rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
        let (a, _unread) = pair();
        let fd = an_fd();
        let errors = (0..64).find_map(|_| a.send(b"fds", &[fd.as_fd(); 8]).err());
        return side.say(&format!("{:?}", errors.map(|error| error.errno())));
    }
    let peer = support::start_peer("too_many_fds_in_flight_fail_at_the_sender", vec![]);
    assert_eq!(peer.hear(), format!("{:?}", Some(Errno::TOOMANYREFS)));
}

#[test]
fn what_is_sent_is_unread_until_the_peer_has_received_it_with_its_fds() {
    let (a, b) = pair();
    assert_eq!(a.unread(), Ok(0));
    a.send(&[1; 1000], &[]).unwrap();
    a.send(b"fd", &[an_fd().as_fd()]).unwrap();
    let both = a.unread().unwrap();
    assert!(both >= 1002, "{both} bytes");
    let mut buf = [0; 1024];
    b.recv_plain(&mut buf).unwrap();
    let second = a.unread().unwrap();
    assert!(0 < second && second < both, "{second} of {both} bytes");
    b.recv(&mut buf, &mut Vec::new()).unwrap();
    assert_eq!((a.unread(), b.unread()), (Ok(0), Ok(0)));
}

#[test]
fn what_a_peer_that_is_gone_did_not_receive_is_unread_no_more() {
    let (a, b) = pair();
    a.send(b"fd", &[an_fd().as_fd()]).unwrap();
    drop(b);
    assert_eq!(a.unread(), Ok(0));
}

#[test]
fn a_socket_that_refuses_fds_makes_the_sender_fail() {
    let (a, b) = pair();
    let sent = |supported: bool| if supported { Err(Errno::PERM) } else { Ok(()) };
    let supported = b.set_pass_rights(false).unwrap();
    assert_eq!(a.send(b"fd", &[an_fd().as_fd()]).map_err(|e| e.errno()), sent(supported));
    assert_eq!(a.send(b"bytes", &[]), Ok(()), "bytes pass");
}

#[test]
fn accepted_sockets_inherit_the_refusal_of_fds() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    let listener = Listener::bind(&path, 0o600).unwrap();
    let supported = listener.set_pass_rights(false).unwrap();
    let client = Socket::connect(&path).unwrap();
    let _served = listener.accept().unwrap();
    let sent = client.send(b"fd", &[an_fd().as_fd()]).map_err(|e| e.errno());
    assert_eq!(sent, if supported { Err(Errno::PERM) } else { Ok(()) });
}

#[test]
fn the_kernel_refuses_fds_from_6_16_on() {
    let (_a, b) = pair();
    assert_eq!(b.set_pass_rights(false), Ok(support::kernel_is_at_least(6, 16)));
}

#[test]
fn fd_flags_are_shared_by_everyone_who_holds_the_open_file() {
    if let Some(side) = support::peer_side() {
        rustix::fs::fcntl_setfl(support::given(0), OFlags::empty()).unwrap();
        return side.say("cleared");
    }
    let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
    let event = rustix::event::eventfd(0, flags).unwrap();
    let theirs = rustix::io::fcntl_dupfd_cloexec(&event, 0).unwrap();
    let test = "fd_flags_are_shared_by_everyone_who_holds_the_open_file";
    assert_eq!(support::start_peer(test, vec![theirs]).hear(), "cleared");
    let left = rustix::fs::fcntl_getfl(&event).unwrap();
    assert!(!left.contains(OFlags::NONBLOCK), "so nobody writes to an fd that a client holds");
}

#[test]
fn a_full_backlog_makes_a_non_blocking_connect_wait() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("socket");
    let _listener = Listener::bind(&path, 0o600).unwrap();
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    let mut waiting = Vec::new();
    let refused = (0..1000).find_map(|_| {
        let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET);
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, kind, flags, None).unwrap();
        let refused = rustix::net::connect(&socket, &address).err();
        waiting.push(socket);
        refused
    });
    assert_eq!((refused, waiting.len()), (Some(Errno::AGAIN), 130));
}

#[test]
fn fds_are_found_behind_other_packets_and_nothing_is_taken() {
    for place in 0..4 {
        let (ours, theirs) = pair();
        for packet in 0..4 {
            let (bytes, fd) = (vec![7; 1 + 40_000 * (packet % 2)], an_fd());
            let fds = if packet == place { vec![fd.as_fd()] } else { vec![] };
            theirs.send(&bytes, &fds).unwrap();
        }
        assert_eq!(ours.look_for_fds(), Ok(Early::Fds), "in packet {place}");
        let mut buffer = vec![0; 65536];
        for packet in 0..4 {
            let len = 1 + 40_000 * (packet % 2);
            let mut fds = Vec::new();
            assert_eq!(ours.recv(&mut buffer, &mut fds), Ok(Packet::Data { len }));
            assert_eq!(fds.len(), usize::from(packet == place));
        }
    }
}

#[test]
fn plain_packets_are_found_plain_however_long_and_are_received_as_before() {
    let (ours, theirs) = pair();
    assert_eq!(ours.look_for_fds(), Ok(Early::Plain));
    theirs.send(&[1; 100_000], &[]).unwrap();
    theirs.send(&[2; 5], &[]).unwrap();
    assert_eq!(ours.look_for_fds(), Ok(Early::Plain));
    let mut buffer = vec![0; 8];
    assert_eq!(ours.recv_plain(&mut buffer), Ok(Packet::TooLong { len: 100_000 }));
    assert_eq!((ours.recv_plain(&mut buffer), buffer[4]), (Ok(Packet::Data { len: 5 }), 2));
    // From here on none come, where the kernel can refuse.
    if ours.set_pass_rights(false).unwrap() {
        assert_eq!(theirs.send(b"x", &[an_fd().as_fd()]).unwrap_err().errno(), Errno::PERM);
    }
}

#[test]
fn a_connection_that_is_closed_or_says_nothing_in_a_packet_is_told_from_one_that_is_idle() {
    let (ours, theirs) = pair();
    rustix::net::send(&theirs, b"", SendFlags::empty()).unwrap();
    assert_eq!(ours.look_for_fds(), Ok(Early::Closed));
    let (ours, theirs) = pair();
    drop(theirs);
    assert_eq!(ours.look_for_fds(), Ok(Early::Closed));
}
