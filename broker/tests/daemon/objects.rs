//! Objects whose fds go astray, several at once, sealed results.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::SealFlags;
use vgem_os::clock;
use vgem_os::fence::{ObserverFace, ObserverFds, PointState, Slot};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::seqpacket::Packet;
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Time};
use vgem_proto::message::client::{ClientMessage, CloseObject, Commit, CreateObject, Export, Observe};
use vgem_proto::rights::{Access, WaitKind};
use vgem_proto::snapshot::Event;

use crate::common::{
    Client, Daemon, configured, creation, drivers, inode, open_files, refusal, signal, status, until,
};
use crate::text;

const LEN: u32 = 8192;

// M-042
#[test]
fn several_objects_come_at_once_each_with_its_own_fd() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let (answer, fds) = client.ask(&CreateObject { count: 3, ..creation(LEN.into()) }.into());
    let ClientMessage::ObjectCreated(created) = answer else { panic!("{answer:?}") };
    let again: Vec<u64> =
        created.objects.iter().map(|object| inode(&client.export(*object, Access::Read))).collect();
    assert_eq!(again, fds.iter().map(inode).collect::<Vec<_>>());
    assert_eq!(status(&mut client).objects, 3);
}

#[test]
fn an_object_whose_fd_cannot_be_sent_is_given_back() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    if !client.socket.set_pass_rights(false).expect("the option") {
        // Kernels before 6.16 have no way to take none.
        return;
    }
    for _ in 0..3 {
        let refused = refusal(client.ask(&CreateObject { count: 2, ..creation(LEN.into()) }.into()).0);
        assert_eq!(refused.code, ErrorCode::System);
    }
    let mut watcher = daemon.client();
    until("the objects go", || status(&mut watcher).objects == 0);
    assert_eq!(status(&mut watcher).object_bytes, 0);
    // And its credit came back with each: it may ask for more than one may have unread.
    client.socket.set_pass_rights(true).expect("the option");
    client.ready(LEN);
}

// T16
#[test]
fn a_client_that_leaves_its_fds_unread_is_dropped_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = configured(&dir, "[times]\nunread_ms = 200\n");
    let daemon = Daemon::start_in(dir, &drivers(), &["--config", text(&file)]);
    let (deaf, mut other) = (daemon.client(), daemon.client());
    let began = clock::now();
    deaf.socket.send(&creation(LEN.into()).encode(5, Time(0), 0), &[]).expect("room");
    until("the object is there", || status(&mut other).objects == 1);
    until("it is dropped", || status(&mut other).clients == 1);
    let took = clock::now() - began;
    assert!((200_000_000..2_000_000_000).contains(&took), "{took} ns");
    // What was sent can still be read, and then the end.
    let (answer, fds) = deaf.answer();
    assert!(matches!(answer, ClientMessage::ObjectCreated(_)) && fds.len() == 1);
    assert_eq!(deaf.socket.recv_plain(&mut [0; 8]), Ok(Packet::Closed));
    drop(fds);
    until("its object is freed", || status(&mut other).objects == 0);
}

// T16
#[test]
fn connections_dropped_with_unread_fds_are_bounded_and_reading_lets_in_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = configured(&dir, "[times]\nunread_ms = 10\n");
    let daemon = Daemon::start_in(dir, &drivers(), &["--config", text(&file)]);
    let before = {
        let mut one = daemon.client();
        let _queue = one.open_queue();
        // Answered when the broker has done with what it sent before.
        status(&mut one);
        open_files(&daemon)
    };
    let mut deaf = Vec::new();
    // Each asks for an fd, does not read it and is dropped.
    while let Some(client) = greeted(&daemon) {
        client.socket.send(&creation(LEN.into()).encode(5, Time(0), 0), &[]).expect("room");
        deaf.push(client);
        assert!(deaf.len() <= 4096, "there is no end to them");
    }
    assert!(deaf.len() >= 16, "{}", deaf.len());
    // Those that were let in before the door was closed are dropped, too.
    deaf.truncate(15);
    until("one more is let in", || greeted(&daemon).is_some());
    drop(deaf);
    // And nothing of them is left.
    let mut watcher = daemon.client();
    until("their objects go", || status(&mut watcher).objects == 0);
    until("their sockets are closed", || open_files(&daemon) <= before);
}

/// A new client, if it is let in.
fn greeted(daemon: &Daemon) -> Option<Client> {
    let mut client = Client::connect(&daemon.place());
    client.try_greet().then_some(client)
}

#[test]
fn a_client_that_reads_may_ask_for_fds_without_end() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let (object, _fd) = client.create(LEN);
    // More than one domain may have unread, and faster than anything is given up as unread.
    let most = vgem_core::config::Quotas::default().exports;
    for _ in 0..2 * most {
        client.export(object, Access::Read);
    }
}

#[test]
fn a_client_that_reads_its_fds_and_says_nothing_more_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = configured(&dir, "[times]\nunread_ms = 50\n");
    let daemon = Daemon::start_in(dir, &drivers(), &["--config", text(&file)]);
    let (mut quiet, mut other) = (daemon.client(), daemon.client());
    let (object, _fd) = quiet.create(LEN);
    let later = clock::now() + 200_000_000;
    until("it was looked at", || status(&mut other).clients == 2 && clock::now() > later);
    quiet.export(object, Access::Read);
}

// M-049, M-050
#[test]
fn an_importer_sees_the_unfinished_writer_of_another_client_in_a_page_of_its_own() {
    let daemon = Daemon::start();
    let mut writer = daemon.client();
    let queue = writer.open_queue();
    let (object, fd) = writer.ready(LEN);
    writer.hold(&queue, 1, object, LEN.into());
    let mut reader = daemon.client();
    let channel = reader.porter();
    let object = reader.imported(&channel, &fd).object;
    let observe = Observe { object, access: Access::Read, reserved: Zero };
    let (answer, fds) = reader.ask(&observe.into());
    let ClientMessage::Observed(observed) = answer else { panic!("{answer:?}") };
    let [point] = &observed.points[..] else { panic!("{observed:?}") };
    assert_eq!((point.kind, observed.pages.len(), fds.len()), (WaitKind::Data, 1, 2));
    let [page, interest] = <[OwnedFd; 2]>::try_from(fds).expect("two");
    let page = ObserverFace::map(ObserverFds { page, interest }).expect("a fence page");
    let slot = Slot::new(point.slot).expect("a slot");
    let state = || page.state(slot, point.timeline.generation, point.point.0);
    assert_eq!(state(), PointState::Pending);
    signal(daemon.child_called("vgem-driver-fake"), "KILL");
    until("it is told that the writer is lost", || matches!(state(), PointState::Failed { .. }));
    // The page is known now, and comes no more.
    let observe = Observe { object, access: Access::Read, reserved: Zero };
    assert_eq!(reader.ask(&observe.into()).1.len(), 0);
}

// T22
#[test]
fn an_object_whose_mode_somebody_changed_is_destroyed_and_told() {
    let daemon = Daemon::start();
    let monitor = crate::events::monitor(&daemon);
    let mut client = daemon.client();
    let (object, fd) = client.ready(LEN);
    rustix::fs::fchmod(&fd, rustix::fs::Mode::from_raw_mode(0o666)).expect("its owner's uid is ours");
    client.ask(&CloseObject { object }.into());
    let what = crate::events::next_of(&monitor, |event| match event {
        Event::ObjectTampered { what, .. } => Some(what.clone()),
        _ => None,
    });
    assert!(what.contains("666"), "{what}");
    until("its content is gone", || rustix::fs::fstat(&fd).expect("stat").st_blocks == 0);
}

// M-043
#[test]
fn a_sealed_result_is_sealed_when_it_is_committed() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let _queue = client.open_queue();
    let creation = CreateObject { writer: DeviceId(1), ..creation(LEN.into()) };
    let (answer, mut fds) = client.ask(&creation.into());
    let ClientMessage::ObjectCreated(created) = answer else { panic!("{answer:?}") };
    let (object, fd) = (created.objects[0], fds.pop().expect("its fd"));
    assert!(Mapping::map(fd.as_fd(), LEN as usize, Access::Write, Populate::Lazy).is_err());
    Mapping::map(fd.as_fd(), LEN as usize, Access::Read, Populate::Now).map(drop).expect("its pages");
    let (answer, _) = client.ask(&Commit { objects: vec![object] }.into());
    assert!(matches!(answer, ClientMessage::Committed(_)), "{answer:?}");
    let seals = rustix::fs::fcntl_get_seals(&fd).expect("seals");
    assert!(seals.contains(SealFlags::FUTURE_WRITE | SealFlags::SEAL), "{seals:?}");
    let export = Export { object, access: Access::Write, reserved: Zero };
    assert_eq!(refusal(client.ask(&export.into()).0).code, ErrorCode::Denied);
}
