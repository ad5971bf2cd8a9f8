//! What clients that monitor are told.

use vgem_proto::message::client::{ClientMessage, CloseObject, ListDevices, Monitor, Trace, Traced};
use vgem_proto::snapshot::{Event, EventEntry};

use crate::common::{Client, Daemon, memfd};

/// A client that is told of everything from now on.
pub(crate) fn monitor(daemon: &Daemon) -> Client {
    let mut client = daemon.client();
    let (answer, _) = client.ask(&Monitor {}.into());
    assert!(matches!(answer, ClientMessage::Done(_)), "{answer:?}");
    client
}

/// The next event, and how many were left out before it.
fn next(client: &Client) -> (u64, EventEntry) {
    let (answer, _) = client.answer();
    let ClientMessage::Event(event) = answer else { panic!("{answer:?}") };
    (event.lost, serde_json::from_slice(&event.json).expect("an entry"))
}

/// The next event that is one of these.
pub(crate) fn next_of<T>(client: &Client, pick: impl Fn(&Event) -> Option<T>) -> T {
    loop {
        if let Some(found) = pick(&next(client).1.event) {
            return found;
        }
    }
}

#[test]
fn a_monitor_is_told_of_clients_objects_and_imports() {
    let daemon = Daemon::start();
    let monitor = monitor(&daemon);
    let mut client = daemon.client();
    let (object, _fd) = client.ready(4096);
    let channel = client.porter();
    client.imported(&channel, &memfd(4096));
    client.ask(&CloseObject { object }.into());
    let me = std::process::id();
    next_of(&monitor, |e| matches!(e, Event::ClientConnected { pid, .. } if *pid == me).then_some(()));
    let made = next_of(&monitor, |e| match e {
        Event::ObjectCreated { object, len: 4096, name, .. } if name == "of a test" => Some(object.clone()),
        _ => None,
    });
    next_of(&monitor, |e| matches!(e, Event::ObjectReady { object, .. } if *object == made).then_some(()));
    next_of(&monitor, |e| matches!(e, Event::ObjectImported { .. }).then_some(()));
    next_of(&monitor, |e| matches!(e, Event::HandleClosed { object, .. } if *object == made).then_some(()));
}

#[test]
fn a_monitor_is_told_without_asking_when_it_was_and_whose() {
    let daemon = Daemon::start();
    let monitor = monitor(&daemon);
    let began = vgem_os::clock::now();
    let _client = daemon.client();
    let entry = loop {
        let (lost, entry) = next(&monitor);
        assert_eq!(lost, 0);
        if matches!(entry.event, Event::ClientConnected { .. }) {
            break entry;
        }
    };
    assert!((began..vgem_os::clock::now()).contains(&entry.at_ns));
    assert_eq!(entry.domain, Some(rustix::process::geteuid().as_raw()));
}

// M-084
#[test]
fn a_monitor_that_does_not_read_is_told_how_many_it_lost() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    // From here on nothing happens but what is done here.
    let _queue = client.open_queue();
    let monitor = monitor(&daemon);
    // Each is one event, and far more than a socket holds.
    let asked = 3000;
    for _ in 0..asked {
        let close = CloseObject { object: vgem_proto::ids::Handle(u32::MAX) };
        assert!(matches!(client.ask(&close.into()).0, ClientMessage::Refused(_)));
    }
    let is_refused = |entry: &EventEntry| matches!(entry.event, Event::Refused { .. });
    let (mut seen, mut lost) = (0, 0);
    monitor.socket.set_nonblocking(true).expect("non-blocking");
    while let Some((left_out, entry)) = try_next(&monitor) {
        lost += left_out;
        seen += u64::from(is_refused(&entry));
    }
    // The next event comes through and tells of those in between.
    client.ask(&CloseObject { object: vgem_proto::ids::Handle(u32::MAX) }.into());
    monitor.socket.set_nonblocking(false).expect("blocking");
    let (left_out, entry) = next(&monitor);
    assert!(is_refused(&entry) && left_out > 0);
    assert_eq!(seen + lost + left_out, asked);
}

#[test]
fn a_monitor_that_does_not_read_stays_connected() {
    let daemon = Daemon::start();
    let mut monitor = monitor(&daemon);
    for _ in 0..1000 {
        let _client = daemon.client();
    }
    let sent = monitor.request + 1;
    monitor.request = sent;
    let list = ClientMessage::from(ListDevices {}).encode(sent, vgem_proto::ids::Time(0), 0);
    monitor.socket.send(&list, &[]).expect("it is connected");
    while !matches!(monitor.answer().0, ClientMessage::Devices(_)) {}
}

/// A client that is told of every job that ends from now on.
fn tracer(daemon: &Daemon) -> Client {
    let mut client = daemon.client();
    let (answer, _) = client.ask(&Trace {}.into());
    assert!(matches!(answer, ClientMessage::Done(_)), "{answer:?}");
    client
}

/// Jobs that ended, and how many were left out before them.
fn next_traced(client: &Client) -> Traced {
    let (answer, _) = client.answer();
    let ClientMessage::Traced(traced) = answer else { panic!("{answer:?}") };
    traced
}

#[test]
fn a_client_that_traces_is_told_what_the_driver_says_of_a_job() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let queue = client.open_queue();
    let tracer = tracer(&daemon);
    let began = vgem_os::clock::now();
    client.submit(&queue, 1, 0);
    queue.wait(1);
    let traced = next_traced(&tracer);
    let [job] = traced.jobs.as_slice() else { panic!("{traced:?}") };
    assert_eq!((traced.lost, job.point.0, job.code), (0, 1, 0));
    let times = [began, job.submitted.0, job.started.0, job.ended.0, vgem_os::clock::now()];
    assert!(times.is_sorted() && job.ready >= job.submitted, "{times:?} {job:?}");
}

// M-220
#[test]
fn a_client_that_traces_and_does_not_read_holds_nobody_up_and_is_told_how_many_jobs_it_lost() {
    let daemon = Daemon::start();
    let mut client = daemon.client();
    let queue = client.open_queue();
    let tracer = tracer(&daemon);
    // One message each, and far more than a socket holds.
    let jobs = 1500;
    for point in 1..=jobs {
        client.submit(&queue, point, 0);
        queue.wait(point);
    }
    let (mut seen, mut lost) = (0, 0);
    tracer.socket.set_nonblocking(true).expect("non-blocking");
    let mut buffer = vec![0; vgem_proto::limits::MESSAGE_LEN];
    while let Ok(vgem_os::seqpacket::Packet::Data { len }) = tracer.socket.recv_plain(&mut buffer) {
        let sender = vgem_proto::message::Sender::Broker;
        let (_, message) = ClientMessage::decode(&buffer[..len], sender, 0).expect("a right message");
        let ClientMessage::Traced(traced) = message else { panic!("{message:?}") };
        (seen, lost) = (seen + traced.jobs.len() as u64, lost + traced.lost);
    }
    tracer.socket.set_nonblocking(false).expect("blocking");
    client.submit(&queue, jobs + 1, 0);
    queue.wait(jobs + 1);
    while seen + lost < jobs + 1 {
        let traced = next_traced(&tracer);
        (seen, lost) = (seen + traced.jobs.len() as u64, lost + traced.lost);
    }
    assert!(seen + lost == jobs + 1 && lost > 0, "{seen} seen, {lost} lost");
}

/// The next event, if there is one now.
fn try_next(client: &Client) -> Option<(u64, EventEntry)> {
    let mut buffer = vec![0; 4096];
    let got = client.socket.recv_plain(&mut buffer).ok()?;
    let vgem_os::seqpacket::Packet::Data { len } = got else { return None };
    let sender = vgem_proto::message::Sender::Broker;
    let (_, message) = ClientMessage::decode(&buffer[..len], sender, 0).expect("a right message");
    let ClientMessage::Event(event) = message else { panic!("{message:?}") };
    Some((event.lost, serde_json::from_slice(&event.json).expect("an entry")))
}
