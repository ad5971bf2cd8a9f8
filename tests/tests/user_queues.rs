//! User queues against a real broker and the drivers that ship: what a client schedules by itself works, ends with a name
//! when a process dies, and harms nobody else.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use vgem::{
    Access, AddressRange, Client, Deadline, Embedded, Error, ErrorCode, Fault, FaultReason, LocalError,
    NotDone, Sva, UserQueue, UserQueueOptions,
};
use vgem_os::futex::{self, SharedWord};
use vgem_os::mapping::{Mapping, Populate, SpanMut};
use vgem_proto::codec::Zero;
use vgem_proto::ids::QueueHandle;
use vgem_proto::layout::user_queue;
use vgem_proto::message::client::{AttachRing, ClientMessage, CloseQueue, CommitRing, Done};
use vgem_tests::audit;
use vgem_tests::chance::{self, Chance};
use vgem_tests::daemon::{Daemon, USERS};
use vgem_tests::honest::Honest;
use vgem_tests::processes;
use vgem_tests::raw::Raw;
use vgem_tests::stranger::Stranger;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

fn user_queue_of(client: &Client, device: &str) -> UserQueue {
    client.device(device).and_then(|found| found.user_queue(64)).expect("a user queue")
}

/// Gives a queue of `copy` a ring, of which its driver has not heard.
fn attached(raw: &mut Raw) -> (QueueHandle, OwnedFd) {
    let device = raw.device("copy");
    let queue = raw.queue(device, 0);
    let answer = raw.ask(AttachRing { queue, depth: 64, reserved: Zero });
    assert!(matches!(answer, ClientMessage::RingAttached(_)), "{answer:?}");
    (queue, raw.fds.pop().expect("the ring"))
}

fn mapped(fd: &OwnedFd, populate: Populate) -> Mapping {
    let len = user_queue::len(64);
    Mapping::map(fd.as_fd(), len, vgem_os::memory::Access::Write, populate).expect("mapped")
}

/// Gives a queue of `copy` a ring, and maps that.
fn ringed(raw: &mut Raw) -> (QueueHandle, Mapping) {
    let (queue, fd) = attached(raw);
    let mapped = mapped(&fd, Populate::Now);
    assert_eq!(raw.ask(CommitRing { queue }), Done {}.into());
    (queue, mapped)
}

// M-176
#[test]
fn a_driver_gets_the_memory_of_a_ring_when_its_client_has_touched_all_of_it() {
    let broker = Embedded::start().expect("a private broker");
    let mut raw = Raw::greeted(&broker.socket());
    let (queue, fd) = attached(&mut raw);
    let ring = mapped(&fd, Populate::Lazy);
    for populated in [false, true] {
        if populated {
            ring.populate_write().expect("memory");
        }
        let answer = raw.ask(CommitRing { queue });
        let refused = matches!(&answer, ClientMessage::Refused(r) if r.code == ErrorCode::NotReady);
        assert_eq!((refused, answer == Done {}.into()), (!populated, populated));
    }
}

/// The process of a device of this client's domain.
fn driver(client: &Client, name: &str) -> u32 {
    let devices = client.device_entries().expect("devices");
    let device = devices.into_iter().find(|device| device.name == name).expect("it is there");
    device.instances.first().expect("it runs").pid
}

#[test]
fn what_one_device_packs_another_process_unpacks_the_same_by_pointer() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let text: Vec<u8> = "by pointer, by pointer. ".repeat(2000).into_bytes();
    let len = text.len() as u64;
    let [plain, packed, back] =
        [64 << 10, 128 << 10, 64 << 10].map(|len| client.create(len).expect("memory"));
    plain.copy_in(0, &text, soon()).expect("ours");
    let zip = user_queue_of(&client, "zip");
    let from = zip.bind(&plain, Access::Read).expect("bound");
    let middle = zip.bind(&packed, Access::Write).expect("bound");
    let into = zip.bind(&back, Access::Write).expect("bound");
    let pack = zip.entry("compress").input(from.range(..len)).output(middle).push(soon()).expect("pushed");
    let produced = zip.wait(pack, soon()).expect("packed").produced;
    assert!(produced > 0 && produced < len / 10, "{produced}");
    let unpack = zip.entry("decompress").input(middle.range(..produced)).output(into);
    assert_eq!(zip.wait(unpack.push(soon()).expect("pushed"), soon()).expect("unpacked").produced, len);
    let mut bytes = vec![0; text.len()];
    back.copy_out(0, &mut bytes, soon()).expect("ours");
    assert_eq!(bytes, text);
}

#[test]
fn an_address_that_is_not_bound_fails_its_entry_and_the_queue_goes_on() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let buffer = client.create(8192).expect("memory");
    let copy = user_queue_of(&client, "copy");
    let bound = copy.bind(buffer.slice(..4096), Access::Write).expect("bound");
    let behind = buffer.slice(4096..);
    let there = copy.bind(behind, Access::Write).expect("bound");
    let fill = |to: AddressRange| copy.entry("fill").output(to).param("byte", 7).push(soon());
    let ticket = fill(there.range(..)).expect("pushed");
    copy.wait(ticket, soon()).expect("filled");
    copy.unbind(there).expect("unbound");
    let refused = fill(there.range(..)).and_then(|ticket| copy.wait(ticket, soon()));
    assert!(refused.is_err(), "nothing is bound there any more");
    let ticket = fill(bound.range(..)).expect("pushed");
    copy.wait(ticket, soon()).expect("filled");
    assert_eq!(buffer.read(..4096, soon()).expect("ended")[4095], 7);
}

#[test]
fn l4_whoever_waits_for_an_entry_whose_driver_dies_learns_it_at_once_and_why() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let buffer = client.create(64 << 20).expect("memory");
    let copy = user_queue_of(&client, "copy");
    let all = copy.bind(&buffer, Access::Write).expect("bound");
    let pid = driver(&client, "copy");
    let tickets: Vec<_> = (0..40)
        .map(|_| copy.entry("fill").output(all).param("byte", 1).push(soon()).expect("pushed"))
        .collect();
    processes::signal(pid, "KILL");
    let begun = Instant::now();
    let ends: Vec<_> = tickets.into_iter().map(|ticket| copy.wait(ticket, soon())).collect();
    let failed = ends.iter().filter_map(|end| end.as_ref().err());
    let told: Vec<String> = failed.map(ToString::to_string).collect();
    assert!(!told.is_empty() && begun.elapsed() < Duration::from_secs(2), "{:?} {told:?}", begun.elapsed());
    assert!(told.iter().all(|said| said.contains("copy") && said.contains(&pid.to_string())), "{told:?}");
    // The device is back.
    let again = user_queue_of(&client, "copy");
    let buffer = client.create(8192).expect("memory");
    let all = again.bind(&buffer, Access::Write).expect("bound");
    let ticket = again.entry("fill").output(all.range(..4096)).param("byte", 2).push(soon()).expect("pushed");
    again.wait(ticket, soon()).expect("filled");
    assert_eq!(buffer.read(..4096, soon()).expect("ended")[0], 2);
}

#[test]
fn l1_what_is_bound_lives_as_long_as_it_is_bound_and_nothing_is_left_when_all_is_closed() {
    let daemon = Daemon::system().start();
    let observer = Client::connect(daemon.socket()).expect("a client");
    let bytes = || observer.status().expect("a status").object_bytes;
    let baseline = {
        let warm = Client::connect(daemon.socket()).expect("a client");
        drop(user_queue_of(&warm, "copy"));
        drop(warm);
        processes::until(Duration::from_secs(5), "all is closed", || bytes() == 0);
        audit::holdings(daemon.pid())
    };
    for _ in 0..5 {
        let client = Client::connect(daemon.socket()).expect("a client");
        let copy = user_queue_of(&client, "copy");
        let buffer = client.create(1 << 20).expect("memory");
        let bound = copy.bind(&buffer, Access::Write).expect("bound");
        let address = bound.range(..).address();
        drop(buffer);
        let ticket = copy.entry("fill").output(bound).param("byte", 3).push(soon()).expect("pushed");
        copy.wait(ticket, soon()).expect("it is still there");
        assert!(address != 0 && bytes() > 1 << 20);
        drop((copy, client));
        processes::until(Duration::from_secs(5), "all is closed", || bytes() == 0);
    }
    processes::until(Duration::from_secs(5), "no fd and no mapping more than before", || {
        let now = audit::holdings(daemon.pid());
        now.iter().all(|(who, held)| baseline.get(who).is_none_or(|before| held.more_than(before).is_empty()))
    });
}

/// T35, T36, T40: somebody of another domain scribbles in its own ring, and rings its driver without end.
#[test]
fn atk_ring_who_scribbles_in_its_own_ring_is_felt_by_nobody_else() {
    let daemon = Daemon::system().start();
    let honest = Honest::new(Client::connect(daemon.socket()).expect("a client"));
    let mut user = Stranger::of_uid(USERS[0]);
    let mut chance = Chance::new(chance::seed("VGEM_RING_SEED"));
    let mut raw = Raw::welcomed(user.connect(&daemon.socket())).expect("welcomed");
    let (mut ring, mut rings, mut open) = (None, 0_u32, None);
    let felt = honest.beside(6, || {
        let mapped = ring.get_or_insert_with(|| {
            rings += 1;
            if let Some(queue) = open.take() {
                drop(raw.ask(CloseQueue { queue }));
            }
            let (queue, mapped) = ringed(&mut raw);
            open = Some(queue);
            mapped
        });
        let memory: SpanMut<'_> = mapped.span_mut().expect("writable");
        for _ in 0..200 {
            let at = 8 * chance.index(mapped.len() / 8);
            memory.write_u64(at, chance.number()).expect("inside");
        }
        let doorbell = SharedWord::of(memory, user_queue::C_DOORBELL).expect("inside");
        for _ in 0..200 {
            let woken = futex::wake(doorbell.futex(), 1);
            assert!(woken.is_ok(), "{woken:?}");
        }
        // A ring that is over wakes nobody: the next one, on the same connection.
        if chance.happens(20) {
            ring = None;
        }
        // Otherwise it is this thread that is felt: an attacker has no more of a core than others.
        std::thread::park_timeout(Duration::from_millis(5));
    });
    eprintln!("{rings} rings scribbled over");
    felt.assert_within_twice("rings that their owner scribbles in");
    assert!(rings > 5, "{rings}");
    let observer = Client::connect(daemon.socket()).expect("a client");
    assert_eq!(observer.status().expect("a status").counters.instances_lost, 0, "its driver bears it");
}

#[test]
fn what_a_device_does_not_do_is_refused_and_nothing_is_submitted() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let copy = user_queue_of(&client, "copy");
    assert_eq!((copy.device(), copy.depth()), ("copy", 64));
    let unknown = copy.entry("no such operation").push(soon()).map(drop);
    assert!(unknown.is_err());
    assert_eq!(copy.counters().pushed, 0);
}

fn sva_queue_of(client: &Client, device: &str, sva: Sva) -> UserQueue {
    let options = UserQueueOptions::new().depth(64).sva(sva);
    client.device(device).and_then(|found| found.user_queue_with(options)).expect("a user queue")
}

#[test]
fn ordinary_vectors_go_through_a_device_by_pointer_and_come_back() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let copy = sva_queue_of(&client, "copy", Sva::ReadWrite);
    for len in [1, 64, 4096, 1 << 20, 40 << 20] {
        let from: Vec<u8> = (0..len).map(|n: usize| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let into = copy.lend(vec![7; len + 1]).expect("a queue that writes");
        let entry = copy.entry("copy").input(&from[..]).output(into.range(..len as u64));
        let ticket = entry.push(soon()).expect("pushed");
        assert_eq!(copy.wait(ticket, soon()).expect("copied").produced, len as u64);
        let mut into = copy.reclaim(into, soon()).expect("it has ended");
        assert_eq!(into.pop(), Some(7), "and nothing beside it");
        assert!(into == from, "{len} bytes");
    }
    // Bound and plain memory side by side.
    let buffer = client.create(4096).expect("memory");
    let bound = copy.bind(&buffer, Access::Write).expect("bound");
    let ticket =
        copy.entry("copy").input(&b"both"[..]).output(bound.range(..4)).push(soon()).expect("pushed");
    copy.wait(ticket, soon()).expect("copied");
    assert_eq!(&buffer.read(..4, soon()).expect("ended")[..], b"both");
}

#[test]
fn what_may_not_be_written_is_refused_before_anything_is_submitted() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let (plain, reader) = (user_queue_of(&client, "copy"), sva_queue_of(&client, "copy", Sva::Read));
    for queue in [&plain, &reader] {
        let NotDone { error, memory } = queue.lend(vec![1, 2]).expect_err("it does not write");
        assert!(
            matches!(error, Error::Local(LocalError::NoSva { .. })) && memory == Some(vec![1, 2]),
            "{error}"
        );
    }
    let bytes = [0_u8; 64];
    let copied =
        |queue: &UserQueue| queue.entry("copy").input(&bytes[..]).output(&bytes[..]).try_push().map(drop);
    assert!(matches!(copied(&plain), Err(Error::Local(LocalError::NotBound { .. }))));
    assert!(matches!(copied(&reader), Err(Error::Local(LocalError::NotLent { .. }))));
    let writer = sva_queue_of(&client, "copy", Sva::ReadWrite);
    assert!(matches!(copied(&writer), Err(Error::Local(LocalError::NotLent { .. }))));
    assert_eq!([&plain, &reader, &writer].map(|queue| queue.counters().pushed), [0; 3]);
    // Jobs and points of such a queue are nobody's business but its client's.
    let NotDone { error, .. } = writer.lend(Vec::new()).expect_err("no bytes");
    assert!(matches!(error, Error::Local(LocalError::Empty { .. })), "{error}");
}

#[test]
fn windows_narrow_what_a_device_reaches() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let crc = sva_queue_of(&client, "copy", Sva::Read);
    let (seen, hidden) = (vec![1_u8; 4096], vec![2_u8; 4096]);
    let sum = |bytes: &[u8]| {
        let ticket = crc.entry("crc32c").input(bytes).push(soon()).expect("pushed");
        crc.wait(ticket, soon()).map(|done| done.value)
    };
    let before = sum(&hidden).expect("everything is reached at first");
    crc.set_windows(&[(AddressRange::from(&seen[..]), Access::Read)]).expect("set");
    sum(&seen).expect("in its window");
    let Err(Error::Entry(failure)) = sum(&hidden) else { panic!("reached") };
    let fault = failure.fault.expect("a fault");
    assert_eq!(fault, Fault { address: hidden.as_ptr() as u64, reason: FaultReason::Unbound });
    let refused = crc.set_windows(&[(AddressRange::from(&seen[..]), Access::Write)]);
    assert!(
        matches!(&refused, Err(Error::Refused(refusal)) if refusal.code == ErrorCode::Denied),
        "{refused:?}"
    );
    crc.set_windows(&[(AddressRange::new(1, (1 << 63) - 1), Access::Read)]).expect("set");
    assert_eq!(sum(&hidden).expect("again"), before);
}

#[test]
fn l4_a_clients_own_driver_dies_alone_and_lent_memory_comes_back() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let shared = user_queue_of(&client, "copy");
    let buffer = client.create(4096).expect("memory");
    let all = shared.bind(&buffer, Access::Write).expect("bound");
    let pids = || {
        let devices = client.device_entries().expect("devices");
        let copy = devices.into_iter().find(|device| device.name == "copy").expect("it is there");
        copy.instances.into_iter().map(|instance| instance.pid).collect::<Vec<_>>()
    };
    let before = pids();
    let own = sva_queue_of(&client, "copy", Sva::ReadWrite);
    let pid = *pids().iter().find(|pid| !before.contains(pid)).expect("a driver of its own");
    let lent = own.lend(vec![0; 32 << 20]).expect("a queue that writes");
    let tickets: Vec<_> = (0..20)
        .map(|_| own.entry("fill").output(&lent).param("byte", 1).push(soon()).expect("pushed"))
        .collect();
    processes::signal(pid, "KILL");
    let ends: Vec<_> = tickets.into_iter().map(|ticket| own.wait(ticket, soon())).collect();
    let told: Vec<String> =
        ends.iter().filter_map(|end| end.as_ref().err()).map(ToString::to_string).collect();
    assert!(!told.is_empty() && told.iter().all(|said| said.contains(&pid.to_string())), "{told:?}");
    assert_eq!(own.reclaim(lent, soon()).expect("nobody writes there any more").len(), 32 << 20);
    let ticket = shared.entry("fill").output(all).param("byte", 2).push(soon()).expect("pushed");
    shared.wait(ticket, soon()).expect("the other driver lives");
    drop(own);
    let again = sva_queue_of(&client, "copy", Sva::ReadWrite);
    let lent = again.lend(vec![0; 64]).expect("a queue that writes");
    let ticket = again.entry("fill").output(&lent).param("byte", 3).push(soon()).expect("pushed");
    again.wait(ticket, soon()).expect("filled");
    assert_eq!(again.reclaim(lent, soon()).expect("ended"), [3; 64]);
}

#[test]
fn lent_memory_is_waited_for_and_not_given_back_before() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let own = sva_queue_of(&client, "copy", Sva::ReadWrite);
    let lent = own.lend(vec![0; 60 << 20]).expect("a queue that writes");
    for byte in 1..=3 {
        let ticket = own.entry("fill").output(&lent).param("byte", byte).push(soon()).expect("pushed");
        own.forget(ticket).expect("nobody asks");
    }
    let (error, lent) = match own.reclaim(lent, Deadline::NOW) {
        Err(NotDone { error, memory }) => (error, memory.expect("its name")),
        Ok(memory) => {
            // It had ended by then.
            assert!(memory.iter().all(|byte| *byte == 3));
            return;
        }
    };
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert!(own.reclaim(lent, soon()).expect("in time").iter().all(|byte| *byte == 3));
}

#[tokio::test]
async fn tasks_use_plain_memory_as_threads_do() {
    let broker = Embedded::start().expect("a private broker");
    let client = vgem::aio::Client::connect(broker.socket()).await.expect("a client");
    let device = client.device("copy").await.expect("a device");
    let options = UserQueueOptions::new().sva(Sva::ReadWrite);
    let copy = client.user_queue(&device, options).await.expect("a user queue");
    let from = vec![5_u8; 100_000];
    let into = copy.lend(vec![0; from.len()]).expect("a queue that writes");
    let ticket = copy.entry("copy").input(&from[..]).output(&into).try_push().expect("pushed");
    client.wait_entry(&copy, ticket, soon()).await.expect("copied");
    assert!(copy.reclaim(into, Deadline::NOW).expect("ended") == from);
    client.set_windows(&copy, &[]).await.expect("set");
    let ticket = copy.entry("crc32c").input(&from[..]).try_push().expect("pushed");
    let failed = client.wait_entry(&copy, ticket, soon()).await.expect_err("nothing is reached");
    assert_eq!(failed.code(), Some(ErrorCode::AddressFault));
}
