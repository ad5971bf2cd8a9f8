//! Imports through a real porter: what is taken, what is refused, and what a porter that fails costs.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::SealFlags;
use vgem_os::clock;
use vgem_os::seqpacket::Packet;
use vgem_proto::error::ErrorCode;
use vgem_proto::message::client::{ClientMessage, Commit, ListDevices, OpenPorter};
use vgem_proto::rights::{Access, Rights};
use vgem_proto::snapshot::Status;

use crate::common::{
    Daemon, children, configured, drivers, hand, lives, memfd, open_files, populate, refusal, signal, status,
    until,
};
use crate::text;

const LEN: u32 = 8192;

// M-048
#[test]
fn an_export_gives_its_client_the_handle_it_has() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let (object, fd) = client.ready(LEN);
    let channel = client.porter();
    let imported = client.imported(&channel, &fd);
    assert_eq!((imported.object, imported.len, imported.state), (object, LEN.into(), 2));
}

// M-048
#[test]
fn an_import_has_the_rights_that_its_fds_show_and_no_more() {
    let daemon = Daemon::start();
    let mut maker = daemon.client();
    let (object, fd) = maker.ready(LEN);
    let read_only = maker.export(object, Access::Read);
    let mut other = daemon.client();
    let channel = other.porter();
    let first = other.imported(&channel, &read_only);
    assert_eq!(first.rights, Rights::READ | Rights::EXPORT);
    let second = other.imported(&channel, &fd);
    assert_eq!((second.object, second.rights), (first.object, Rights::all()));
}

#[test]
fn a_foreign_memfd_becomes_an_object_that_its_client_commits() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let memory = memfd(LEN.into());
    let channel = client.porter();
    let imported = client.imported(&channel, &memory);
    assert_eq!((imported.len, imported.state), (LEN.into(), 1));
    populate(&memory, LEN as usize);
    let (answer, _) = client.ask(&Commit { objects: vec![imported.object] }.into());
    assert!(matches!(answer, ClientMessage::Committed(_)), "{answer:?}");
    // And from then on it is known.
    let again = client.imported(&channel, &memory);
    assert_eq!((again.object, again.state), (imported.object, 2));
}

// M-046
#[test]
fn what_is_imported_can_change_its_length_no_more() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let memory = memfd(LEN.into());
    let channel = client.porter();
    client.imported(&channel, &memory);
    let seals = rustix::fs::fcntl_get_seals(&memory).expect("seals");
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW), "{seals:?}");
}

// M-046
#[test]
fn a_pipe_is_refused_as_one_and_the_next_import_works() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let channel = client.porter();
    let (pipe, _end) = rustix::pipe::pipe().expect("a pipe");
    let refused = client.refused(&channel, &pipe);
    assert_eq!(refused.code, ErrorCode::BadParameter);
    assert!(String::from_utf8_lossy(&refused.text).contains("a pipe was sent"));
    client.imported(&channel, &memfd(LEN.into()));
}

#[test]
fn a_page_of_fences_is_no_object() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let (page, interest) = client.open_queue_fds();
    let channel = client.porter();
    assert_eq!(client.refused(&channel, &page).code, ErrorCode::Denied);
    assert_eq!(client.refused(&channel, &interest).code, ErrorCode::Denied);
}

// M-131
#[test]
fn a_hand_with_two_fds_is_refused() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let channel = client.porter();
    let request = client.ask_import();
    let memory = memfd(LEN.into());
    let hand = vgem_proto::message::porter::Hand {}.encode(request, vgem_proto::ids::Time(0), 0);
    channel.send(&hand, &[memory.as_fd(), memory.as_fd()]).expect("a porter");
    assert_eq!(refusal(client.answer().0).code, ErrorCode::Malformed);
}

#[test]
fn a_client_has_one_porter_at_a_time() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let _channel = client.porter();
    assert_eq!(refusal(client.ask(&OpenPorter {}.into()).0).code, ErrorCode::Busy);
}

#[test]
fn a_channel_that_is_closed_ends_its_porter_and_another_may_be_opened() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    drop(client.porter());
    until("the porter ends", || without_porters(&status(&mut client)));
    let channel = client.porter();
    client.imported(&channel, &memfd(LEN.into()));
}

#[test]
fn an_import_whose_fd_never_comes_is_late_and_costs_the_porter_alone() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let channel = client.porter();
    let porter = daemon.child_called("porter");
    let began = clock::now();
    client.ask_import();
    let refused = refusal(client.answer().0);
    let took = clock::now() - began;
    assert_eq!(refused.code, ErrorCode::Late);
    assert!((1_000_000_000..3_000_000_000).contains(&took), "{took} ns");
    until("the porter is killed", || !lives(porter));
    drop(channel);
    assert!(matches!(client.ask(&ListDevices {}.into()).0, ClientMessage::Devices(_)));
    let channel = client.porter();
    client.imported(&channel, &memfd(LEN.into()));
}

#[test]
fn a_porter_that_stalls_holds_up_nobody_but_its_client() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = configured(&dir, "[times]\nimport_ms = 200\n");
    let daemon = Daemon::start_in(dir, &drivers(), &["--config", text(&file)]);
    let (mut client, mut other) = (daemon.client(), daemon.client());
    let channel = client.porter();
    signal(daemon.child_called("porter"), "STOP");
    let others = other.porter();
    let request = client.ask_import();
    hand(&channel, request, &memfd(LEN.into()));
    other.imported(&others, &memfd(LEN.into()));
    assert_eq!(refusal(client.answer().0).code, ErrorCode::Late);
    other.imported(&others, &memfd(LEN.into()));
}

#[test]
fn a_porter_that_dies_in_the_middle_refuses_the_import_and_leaves_nothing() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let channel = client.porter();
    let porter = daemon.child_called("porter");
    signal(porter, "STOP");
    let request = client.ask_import();
    hand(&channel, request, &memfd(LEN.into()));
    signal(porter, "KILL");
    let began = clock::now();
    refusal(client.answer().0);
    // It is told by its end, not by the time-out.
    assert!(clock::now() - began < 900_000_000);
    let channel = client.porter();
    client.imported(&channel, &memfd(LEN.into()));
}

#[test]
fn the_daemon_ends_in_time_while_porters_live_and_hang() {
    let mut daemon = Daemon::start();
    let (mut one, mut two) = (daemon.client(), daemon.client());
    let (_one, first) = (one.porter(), daemon.child_called("porter"));
    signal(first, "STOP");
    let _two = two.porter();
    let family = daemon.children();
    let began = clock::now();
    assert_eq!((daemon.hang_up().code(), family.len()), (Some(0), 4));
    assert!(clock::now() - began < 3_000_000_000);
    assert!(!family.into_iter().any(lives) && !daemon.place().exists());
}

#[test]
fn a_client_that_goes_takes_its_porter_along() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let channel = client.porter();
    let porter = daemon.child_called("porter");
    drop(client);
    until("the porter ends", || !lives(porter));
    assert_eq!(channel.recv_plain(&mut [0; 8]), Ok(Packet::Closed));
}

#[test]
fn what_a_client_imported_is_gone_with_it() {
    let daemon = Daemon::start();
    let mut watcher = daemon.client();
    // From here on the driver is up and all pages are made.
    let _queue = watcher.open_queue();
    let mut come_and_go = || {
        let mut client = daemon.client();
        let channel = client.porter();
        client.imported(&channel, &memfd(LEN.into()));
        assert_eq!(status(&mut watcher).objects, 1);
        drop((client, channel));
        until("all of it goes", || {
            let status = status(&mut watcher);
            status.objects == 0 && status.clients == 1 && without_porters(&status)
        });
        open_files(&daemon)
    };
    assert_eq!(come_and_go(), come_and_go());
}

#[test]
fn memory_that_nobody_asked_for_is_closed_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = configured(&dir, "[times]\nimport_ms = 300\n");
    let daemon = Daemon::start_in(dir, &drivers(), &["--config", text(&file)]);
    let mut client = daemon.client();
    let _queue = client.open_queue();
    let channel = client.porter();
    // Answered when the broker has done with what it sent before.
    status(&mut client);
    let before = open_files(&daemon);
    hand(&channel, 99, &memfd(LEN.into()));
    until("it has arrived", || open_files(&daemon) > before);
    until("it is closed", || open_files(&daemon) == before);
    client.imported(&channel, &memfd(LEN.into()));
}

// M-045
#[test]
fn the_broker_takes_no_fd_from_a_client_and_maps_nothing_of_it() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let (_, _export) = client.ready(LEN);
    let memory = memfd(LEN.into());
    let channel = client.porter();
    let imported = client.imported(&channel, &memory);
    populate(&memory, LEN as usize);
    client.ask(&Commit { objects: vec![imported.object] }.into());
    let broker = daemon.child_called("broker");
    let maps = std::fs::read_to_string(format!("/proc/{broker}/maps")).expect("the broker lives");
    let named = |line: &&str| line.contains("memfd:") && !line.contains("memfd:vgem-");
    assert_eq!(maps.lines().filter(named).collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(maps.contains("memfd:vgem-fence") && children(broker).is_empty());
    let list = ClientMessage::from(ListDevices {}).encode(77, vgem_proto::ids::Time(0), 0);
    let before = open_files(&daemon);
    if client.socket.send(&list, &[memory.as_fd()]).is_ok() {
        // Only a kernel that cannot refuse lets it go.
        assert!(matches!(client.answer().0, ClientMessage::Devices(_)));
        assert!(!refuses_fds(&client.socket));
    }
    assert_eq!(open_files(&daemon), before);
}

fn without_porters(status: &Status) -> bool {
    status.features.iter().any(|line| line.starts_with("porters: 0 now"))
}

/// Whether this kernel can refuse fds.
fn refuses_fds(socket: &vgem_os::seqpacket::Socket) -> bool {
    socket.set_pass_rights(true).expect("the option")
}

/// The two fds of a page, for those who want to misuse them.
impl crate::common::Client {
    fn open_queue_fds(&mut self) -> (OwnedFd, OwnedFd) {
        let open = vgem_proto::message::client::OpenQueue {
            device: vgem_proto::ids::DeviceId(1),
            depth: 0,
            priority: 0,
            reserved: vgem_proto::codec::Zero,
        };
        let (answer, fds) = self.ask(&open.into());
        assert!(matches!(answer, ClientMessage::QueueOpened(_)), "{answer:?}");
        let [page, interest] = <[OwnedFd; 2]>::try_from(fds).expect("the first queue brings its page");
        (page, interest)
    }
}
