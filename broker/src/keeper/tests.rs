//! The keeper on a socket pair, with the test as its broker: what chapter 12 of the specification asks of it.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory};
use vgem_os::pin::Pin;
use vgem_os::process::Launch;
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::ids::{DeviceId, DomainId, InstanceId, ObjectKey, PorterId, Time};
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::keeper::{
    Drop as DropObject, FindCgroup, Keep, KeeperMessage, KillInstance, KillPorter, Serving, StartInstance,
    StartPorter,
};

use super::drivers::Driver;
use super::*;

const LEN: usize = 4 * 4096;
const OBJECT: ObjectKey = ObjectKey { index: 3, generation: 9 };

/// A keeper that serves on a thread of its own; its broker process is one that only waits.
struct Rig {
    link: Socket,
    keeper: JoinHandle<Stop>,
}

/// A device whose driver is a shell with this script.
fn driver(script: &str) -> Driver {
    let args = vec!["-c".into(), script.into()];
    Driver { name: "made".into(), program: "/bin/sh".into(), args, description: vec![] }
}

fn drivers(of: impl IntoIterator<Item = Driver>) -> BTreeMap<DeviceId, Driver> {
    (1..).map(DeviceId).zip(of).collect()
}

impl Rig {
    fn new(drivers: BTreeMap<DeviceId, Driver>) -> Self {
        Self::with_porters(drivers, "read end <&4")
    }

    /// With a shell of this script as every porter.
    fn with_porters(drivers: BTreeMap<DeviceId, Driver>, porter: &'static str) -> Self {
        let keeping = |link: &Link| keeping::Keeping::start(link.voice()).expect("a thread");
        Self::with(drivers, porter, keeping)
    }

    fn with(
        drivers: BTreeMap<DeviceId, Driver>,
        porter: &'static str,
        keeping: impl FnOnce(&Link) -> keeping::Keeping + Send + 'static,
    ) -> Self {
        let (link, theirs) = Socket::pair().expect("a socket pair");
        link.set_recv_timeout(Some(Duration::from_secs(10))).expect("a socket of ours");
        // The kernel ends children with the thread that started them, so that thread serves, too.
        let keeper = std::thread::spawn(move || {
            let dir = tempfile::tempdir().expect("a directory");
            let (idle, _held) = std::os::unix::net::UnixStream::pair().expect("a pair");
            let launch = Launch {
                args: vec!["-c".into(), "read end <&3".into()],
                fds: vec![(idle.into(), 3)],
                die_with_parent: true,
                ..Launch::new("/bin/sh")
            };
            let link = Link::new(theirs).expect("a link");
            let mut keeper = Keeper {
                keeping: keeping(&link),
                link,
                family: Family::new(launch.start().expect("a shell")),
                instances: instances::Instances::new(drivers, None),
                control: control::Control::none(),
                porters: porters::Porters {
                    account: None,
                    program: || Ok("/bin/sh".into()),
                    args: vec!["-c".into(), porter.into()],
                },
                doors: doors::Doors::below(dir.path()),
            };
            let why = keeper.watch(&Wishes::new(None).expect("signals can be caught"), &|| {
                unreachable!("nobody asks for it")
            });
            keeper.family.kill_all();
            why
        });
        Self { link, keeper }
    }

    fn ask(&self, message: impl Into<KeeperMessage>, fds: &[BorrowedFd<'_>]) {
        self.link.send(&message.into().encode(0, Time(0), 0), fds).expect("the keeper reads");
    }

    fn start(&self, instance: u32, device: u32) {
        let (instance, device) = (InstanceId(instance), DeviceId(device));
        self.ask(StartInstance { instance, device, domain: DomainId(0) }, &[]);
    }

    fn hear(&self) -> (KeeperMessage, Vec<OwnedFd>) {
        hear(&self.link)
    }

    /// The keeper ends because its broker is gone, and for no other reason.
    fn ends(self) {
        drop(self.link);
        let why = self.keeper.join().expect("no panic");
        assert!(matches!(&why, Stop::Failure(f) if f.to_string().contains("closed its link")), "{why:?}");
    }
}

fn hear(link: &Socket) -> (KeeperMessage, Vec<OwnedFd>) {
    let (mut buffer, mut fds) = (vec![0; limits::MESSAGE_LEN], Vec::new());
    let Packet::Data { len } = link.recv(&mut buffer, &mut fds).expect("a message in time") else {
        panic!("the keeper went away");
    };
    let decoded = KeeperMessage::decode(&buffer[..len], Sender::Keeper, fds.len());
    (decoded.expect("the keeper speaks well").1, fds)
}

// M-120
#[test]
fn a_broker_is_told_setup_its_devices_and_serve_in_this_order_and_nothing_else() {
    let (ours, broker) = Socket::pair().expect("a socket pair");
    let mut link = Link::new(ours).expect("a link");
    // It says that it serves before it has read a word, so the keeper need not be waited for.
    broker.send(&KeeperMessage::from(Serving {}).encode(0, Time(0), 0), &[]).expect("room");
    let devices = drivers([driver("a"), driver("b")]);
    let wishes = Wishes::new(None).expect("signals can be caught");
    start::tell(&mut link, &crate::setup::Setup::default(), &devices, &wishes).expect("it serves");
    drop(link);
    let heard: Vec<_> = (0..4).map(|_| hear(&broker).0).collect();
    let names: Vec<_> = heard.iter().map(|message| message.row().name).collect();
    assert_eq!(names, ["Setup", "Device", "Device", "Serve"]);
    let told = |message: &KeeperMessage| match message {
        KeeperMessage::Device(told) => Some(told.device),
        _ => None,
    };
    assert_eq!(heard.iter().filter_map(told).collect::<Vec<_>>(), [DeviceId(1), DeviceId(2)]);
    assert_eq!(broker.recv_plain(&mut [0; 64]), Ok(Packet::Closed));
}

#[test]
fn a_broker_that_says_anything_but_serving_is_not_set_up() {
    let (ours, broker) = Socket::pair().expect("a socket pair");
    let mut link = Link::new(ours).expect("a link");
    let other = KeeperMessage::from(DropObject { object: OBJECT });
    broker.send(&other.encode(0, Time(0), 0), &[]).expect("room");
    let wishes = Wishes::new(None).expect("signals can be caught");
    let told = start::tell(&mut link, &crate::setup::Setup::default(), &drivers([driver("a")]), &wishes);
    assert!(matches!(told, Err(Stop::Failure(why)) if why.to_string().contains("before it served")));
}

// M-122
#[test]
fn an_instance_that_starts_is_told_with_its_fds_and_later_its_end() {
    let rig = Rig::new(drivers([driver("read link <&3; exit 3")]));
    rig.start(7, 1);
    let (started, fds) = rig.hear();
    let KeeperMessage::InstanceStarted(started) = started else { panic!("{started:?}") };
    assert_eq!((started.instance, fds.len()), (InstanceId(7), 2));
    drop(fds);
    let (exited, _) = rig.hear();
    let KeeperMessage::InstanceExited(exited) = exited else { panic!("{exited:?}") };
    assert_eq!((exited.instance, exited.status), (InstanceId(7), 3));
    rig.ends();
}

// M-122
#[test]
fn an_instance_that_is_killed_is_told_once_with_its_signal() {
    let rig = Rig::new(drivers([driver("read link <&3")]));
    rig.start(7, 1);
    let (_, _held) = rig.hear();
    rig.ask(KillInstance { instance: InstanceId(7) }, &[]);
    let (exited, _) = rig.hear();
    let KeeperMessage::InstanceExited(exited) = exited else { panic!("{exited:?}") };
    assert_eq!((exited.instance, exited.status), (InstanceId(7), -9));
    // One who is gone is killed in vain, and nothing more is said of it.
    rig.ask(KillInstance { instance: InstanceId(7) }, &[]);
    rig.ask(DropObject { object: OBJECT }, &[]);
    assert!(matches!(rig.hear().0, KeeperMessage::Dropped(_)));
    rig.ends();
}

// M-122
#[test]
fn an_instance_that_cannot_be_started_is_told_with_the_reason() {
    let nowhere = Driver { program: "/nonexistent/driver".into(), ..driver("") };
    let rig = Rig::new(drivers([nowhere]));
    for (instance, device) in [(7, 1), (8, 2)] {
        rig.start(instance, device);
        let (failed, _) = rig.hear();
        let KeeperMessage::InstanceFailed(failed) = failed else { panic!("{failed:?}") };
        assert_eq!(failed.instance, InstanceId(instance));
        assert!(!failed.text.is_empty());
    }
    rig.ends();
}

/// Has a porter started and takes what comes with it: channel, link, pidfd.
fn started(rig: &Rig, porter: PorterId) -> [OwnedFd; 3] {
    rig.ask(StartPorter { porter }, &[]);
    let (started, fds) = rig.hear();
    assert!(matches!(&started, KeeperMessage::PorterStarted(s) if s.porter == porter), "{started:?}");
    <[OwnedFd; 3]>::try_from(fds).expect("three fds")
}

/// How a porter ended, as the keeper tells.
fn exit_of(rig: &Rig) -> (PorterId, i32) {
    match rig.hear().0 {
        KeeperMessage::PorterExited(exited) => (exited.porter, exited.status),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_porter_has_both_its_ends_and_its_end_is_told() {
    let rig = Rig::with_porters(drivers([]), "read end <&3; read end <&4; exit 3");
    let [channel, link, _pidfd] = started(&rig, PorterId(5));
    drop(channel);
    drop(link);
    assert_eq!(exit_of(&rig), (PorterId(5), 3));
    rig.ends();
}

#[test]
fn fds_go_over_a_channel_to_the_porter_only() {
    let (clients, porters) = porters::channel().expect("a socket pair");
    assert_eq!(clients.send(b"x", &[clients.as_fd()]), Ok(()));
    let refused = porters.send(b"x", &[porters.as_fd()]).map_err(|e| e.errno());
    if clients.set_pass_rights(false).expect("the option") {
        // Kernels before 6.16 cannot refuse.
        assert_eq!(refused, Err(vgem_os::Errno::PERM));
    }
}

#[test]
fn a_porter_that_cannot_be_started_is_told_with_the_reason() {
    // No argument of a program can have a zero byte in it.
    let rig = Rig::with_porters(drivers([]), "\0");
    rig.ask(StartPorter { porter: PorterId(5) }, &[]);
    let (failed, _) = rig.hear();
    let KeeperMessage::PorterFailed(failed) = failed else { panic!("{failed:?}") };
    assert_eq!(failed.porter, PorterId(5));
    assert!(!failed.text.is_empty());
    rig.ends();
}

#[test]
fn a_porter_that_is_killed_is_told_once_with_its_signal() {
    let rig = Rig::new(drivers([]));
    let _held = started(&rig, PorterId(5));
    rig.ask(KillPorter { porter: PorterId(5) }, &[]);
    assert_eq!(exit_of(&rig), (PorterId(5), -9));
    // One who is gone is killed in vain, and nothing more is said of it.
    rig.ask(KillPorter { porter: PorterId(5) }, &[]);
    rig.ask(DropObject { object: OBJECT }, &[]);
    assert!(matches!(rig.hear().0, KeeperMessage::Dropped(_)));
    rig.ends();
}

/// A populated object whose memory nobody maps.
fn object(name: &str) -> ObjectMemory {
    let object = ObjectMemory::create(LEN as u64, HugePages::None, name).expect("a few pages");
    let export = object.export(Access::Write).expect("an fd");
    Mapping::map(export.as_fd(), LEN, Access::Write, Populate::Now).expect("a mapping");
    object
}

/// Mappings of this memory in this process, and their bytes that are locked.
fn mapped(name: &str) -> (usize, u64) {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("our mappings");
    let (mut ours, mut found) = (false, (0, 0));
    for line in smaps.lines() {
        if line.contains('-') && line.split_whitespace().count() >= 5 {
            ours = line.contains(&format!("memfd:{name} "));
            found.0 += usize::from(ours);
        }
        if let Some(kib) = line.strip_prefix("Locked:").filter(|_| ours) {
            let kib = kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number of KiB");
            found.1 += kib * 1024;
        }
    }
    found
}

/// Fds of this process that are open on this memory.
fn open(name: &str) -> usize {
    let fds = std::fs::read_dir("/proc/self/fd").expect("our fds").flatten();
    let named = format!("memfd:{name} ");
    fds.filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|path| path.to_string_lossy().contains(&named))
        .count()
}

// M-123
#[test]
fn an_object_is_pinned_when_it_is_told_to_be_kept() {
    let object = object("kept");
    let allowed = Pin::lock(object.as_fd(), LEN as u64).expect("its memory can be mapped").bytes();
    let rig = Rig::new(drivers([]));
    assert_eq!(mapped("kept"), (0, 0));
    rig.ask(Keep { object: OBJECT, len: LEN as u64 }, &[object.as_fd()]);
    let (kept, _) = rig.hear();
    let KeeperMessage::Kept(kept) = kept else { panic!("{kept:?}") };
    assert_eq!((kept.object, kept.pinned), (OBJECT, allowed));
    assert_eq!(mapped("kept").1, allowed);
    rig.ends();
}

// M-124
#[test]
fn nothing_of_an_object_is_left_when_it_is_told_to_be_dropped() {
    let object = object("dropped");
    let rig = Rig::new(drivers([]));
    let before = open("dropped");
    rig.ask(Keep { object: OBJECT, len: LEN as u64 }, &[object.as_fd()]);
    assert!(matches!(rig.hear().0, KeeperMessage::Kept(_)));
    assert_eq!(open("dropped"), before + 1);
    rig.ask(DropObject { object: OBJECT }, &[]);
    let (dropped, _) = rig.hear();
    assert!(matches!(&dropped, KeeperMessage::Dropped(d) if d.object == OBJECT), "{dropped:?}");
    assert_eq!((open("dropped"), mapped("dropped").0), (before, 0));
    rig.ends();
}

#[test]
fn a_drop_is_answered_also_for_an_object_that_was_never_kept() {
    let rig = Rig::new(drivers([]));
    rig.ask(DropObject { object: OBJECT }, &[]);
    assert!(matches!(rig.hear().0, KeeperMessage::Dropped(_)));
    rig.ends();
}

// M-240
#[test]
fn who_connects_does_not_wait_for_memory_that_is_being_pinned() {
    let (keeping, wants) = keeping::Keeping::stalled();
    let rig = Rig::with(drivers([]), "", move |_| keeping);
    rig.ask(Keep { object: OBJECT, len: LEN as u64 }, &[object("large").as_fd()]);
    rig.ask(FindCgroup { question: 8 }, &[object("what is no pidfd").as_fd()]);
    assert!(matches!(rig.hear().0, KeeperMessage::CgroupFound(found) if found.question == 8));
    assert!(matches!(wants.recv(), Ok(keeping::Wanted::Keep(keep, Some(_))) if keep.object == OBJECT));
    rig.ends();
}

// M-240
#[test]
fn every_question_for_a_control_group_is_answered_in_order_also_where_there_is_none() {
    let rig = Rig::new(drivers([]));
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("it is there");
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).expect("control groups of version 2");
    let this = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    let nobody: OwnedFd = std::fs::File::open("/dev/null").expect("it is there").into();
    for (question, pidfd) in [(8, &this.expect("this process")), (7, &nobody)] {
        rig.ask(FindCgroup { question }, &[pidfd.as_fd()]);
    }
    for (question, path) in [(8, own), (7, "")] {
        let (found, _) = rig.hear();
        let KeeperMessage::CgroupFound(found) = found else { panic!("{found:?}") };
        assert_eq!((found.question, found.path.as_slice()), (question, path.as_bytes()));
    }
    rig.ends();
}
