//! Sockets and listeners, beyond what the kernel conformance suite pins down.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use nix::libc;
use rustix::event::EventfdFlags;
use rustix::io::Errno;
use vgem_os::seqpacket::{Listener, Packet, Socket};

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn errno<T>(result: vgem_os::Result<T>) -> Option<Errno> {
    result.err().map(|error| error.errno())
}

#[test]
fn a_client_and_a_server_exchange_packets() {
    let home = home();
    let listener = Listener::bind(home.path().join("s"), 0o600).unwrap();
    let client = Socket::connect(home.path().join("s")).unwrap();
    let server = listener.accept().unwrap();
    client.send(b"question", &[]).unwrap();
    let mut buf = [0; 64];
    assert_eq!(server.recv_plain(&mut buf), Ok(Packet::Data { len: 8 }));
    server.send(b"answer", &[]).unwrap();
    assert_eq!(client.recv_plain(&mut buf), Ok(Packet::Data { len: 6 }));
    assert_eq!(&buf[..6], b"answer");
}

// M-012
#[test]
fn an_empty_packet_is_not_sent() {
    let (a, _b) = Socket::pair().unwrap();
    assert_eq!(errno(a.send(b"", &[])), Some(Errno::INVAL));
}

#[test]
fn a_packet_that_fills_the_buffer_exactly_is_data() {
    let (a, b) = Socket::pair().unwrap();
    a.send(b"1234", &[]).unwrap();
    assert_eq!(b.recv_plain(&mut [0; 4]), Ok(Packet::Data { len: 4 }));
}

#[test]
fn received_fds_are_appended_to_those_there() {
    let (a, b) = Socket::pair().unwrap();
    let fd = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let mut fds = vec![fd()];
    a.send(b"two", &[fd().as_fd(), fd().as_fd()]).unwrap();
    b.recv(&mut [0; 4], &mut fds).unwrap();
    assert_eq!(fds.len(), 3);
}

#[test]
fn a_receive_without_fds_does_not_allocate() {
    let (a, b) = Socket::pair().unwrap();
    a.send(b"bytes", &[]).unwrap();
    let mut fds: Vec<OwnedFd> = Vec::new();
    b.recv(&mut [0; 8], &mut fds).unwrap();
    assert_eq!(fds.capacity(), 0);
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    let (a, b) = Socket::pair().unwrap();
    drop(b);
    assert_eq!(errno(a.send(b"hello?", &[])), Some(Errno::PIPE));
    assert_eq!(errno(a.send(b"hello?", &[a.as_fd()])), Some(Errno::PIPE));
}

#[test]
fn a_non_blocking_end_says_that_nothing_is_there() {
    let (a, _b) = Socket::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    let plain = a.recv_plain(&mut [0; 8]).unwrap_err();
    assert!(plain.would_block());
    let with_fds = a.recv(&mut [0; 8], &mut Vec::new()).unwrap_err();
    assert!(vgem_os::OsError::from(with_fds).would_block());
}

#[test]
fn a_receive_ends_at_its_time_out() {
    let (a, _b) = Socket::pair().unwrap();
    a.set_recv_timeout(Some(Duration::from_millis(5))).unwrap();
    assert!(a.recv_plain(&mut [0; 8]).unwrap_err().would_block());
}

#[test]
fn a_full_peer_is_told_to_a_non_blocking_sender_at_the_bound_it_set() {
    let (a, _b) = Socket::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    a.set_send_buffer(8192).unwrap();
    let sent = (0..1000).find(|_| a.send(&[0; 64], &[]).is_err_and(|error| error.would_block()));
    assert!(sent.is_some_and(|sent| sent < 100), "{sent:?}");
}

#[test]
fn a_shut_down_connection_ends_for_both() {
    let (a, b) = Socket::pair().unwrap();
    a.shutdown().unwrap();
    assert_eq!(b.recv_plain(&mut [0; 8]), Ok(Packet::Closed));
    assert_eq!(a.recv_plain(&mut [0; 8]), Ok(Packet::Closed));
}

#[test]
fn a_listener_has_the_mode_asked_for() {
    let home = home();
    for mode in [0o600, 0o660, 0o666] {
        let path = home.path().join(format!("{mode:o}"));
        let _listener = Listener::bind(&path, mode).unwrap();
        let found = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode);
    }
}

#[test]
fn a_socket_file_that_nobody_serves_is_replaced() {
    let home = home();
    let path = home.path().join("s");
    drop(Listener::bind(&path, 0o600).unwrap());
    let before = std::fs::metadata(&path).unwrap().ctime_nsec();
    let again = Listener::bind(&path, 0o600);
    assert!(again.is_ok());
    assert_ne!(std::fs::metadata(&path).unwrap().ctime_nsec(), before);
}

#[test]
fn a_socket_file_that_is_served_is_left_alone() {
    let home = home();
    let path = home.path().join("s");
    let served = Listener::bind(&path, 0o600).unwrap();
    assert_eq!(errno(Listener::bind(&path, 0o600)), Some(Errno::ADDRINUSE));
    drop(served.accept().unwrap());
    assert!(Socket::connect(&path).is_ok());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let home = home();
    let path = home.path().join("file");
    std::fs::write(&path, "mine").unwrap();
    assert_eq!(errno(Listener::bind(&path, 0o600)), Some(Errno::ADDRINUSE));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn a_path_that_is_too_long_is_an_error_that_names_it() {
    let path = format!("/{}", "x".repeat(200));
    let error = Socket::connect(&path).unwrap_err();
    assert_eq!(error.errno(), Errno::NAMETOOLONG);
    assert!(error.to_string().contains(&path));
}

#[test]
fn only_a_listening_socket_is_taken_for_one() {
    let home = home();
    let listener = Listener::bind(home.path().join("s"), 0o600).unwrap();
    assert!(Listener::from_fd(OwnedFd::from(listener)).is_ok());
    let (a, _b) = Socket::pair().unwrap();
    assert_eq!(errno(Listener::from_fd(OwnedFd::from(a))), Some(Errno::INVAL));
}

/// Pidfds that this process has open.
fn pidfds() -> usize {
    let links =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fd.unwrap().path().read_link().ok());
    links.filter(|link| link.to_string_lossy().contains("pidfd")).count()
}

#[test]
fn what_was_set_on_a_listener_before_adds_no_fds_to_its_packets() {
    const SO_PASSPIDFD: libc::c_int = 76;
    let home = home();
    let listener = Listener::bind(home.path().join("s"), 0o600).unwrap();
    let (fd, on): (_, libc::c_int) = (listener.as_fd().as_raw_fd(), 1);
    // As a service manager may, for every connection to come. (Before Linux 6.5 there is no such option.)
    // SAFETY: U6. The option takes a C int, and `on` is one.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSPIDFD, (&raw const on).cast(), 4) };
    nix::sys::socket::setsockopt(&listener, nix::sys::socket::sockopt::PassCred, &true).unwrap();
    // One connection waits already, as where a service is started by its first client.
    let early = Socket::connect(home.path().join("s")).unwrap();
    let listener = Listener::from_fd(OwnedFd::from(listener)).unwrap();
    let late = Socket::connect(home.path().join("s")).unwrap();
    for client in [early, late] {
        let server = listener.accept().unwrap();
        client.send(b"question", &[]).unwrap();
        let (mut buf, mut fds) = ([0; 64], Vec::new());
        assert_eq!(server.recv(&mut buf, &mut fds), Ok(Packet::Data { len: 8 }));
        assert_eq!((fds.len(), pidfds()), (0, 0), "a pidfd came with the packet, and nobody closes it");
        assert_eq!(nix::sys::socket::getsockopt(&server, nix::sys::socket::sockopt::PassCred), Ok(false));
    }
}

#[test]
fn a_non_blocking_listener_says_that_nobody_waits() {
    let home = home();
    let listener = Listener::bind(home.path().join("s"), 0o600).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(errno(listener.accept()), Some(Errno::AGAIN));
}
