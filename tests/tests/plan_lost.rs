//! Plans when processes die or stop: a call goes where it still can, says why, and is never done twice where that shows.

#![forbid(unsafe_code)]

use std::time::Duration;

use vgem::{Access, Buffer, Client, Deadline, Embedded, ErrorCode};
use vgem_plan::{
    Choice, Cost, Done, Error, Obstacle, Plan, PlanOptions, Require, Result, Thresholds, Way, WayCost,
};
use vgem_tests::processes;

const LEN: u64 = 16 << 10;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// Costs with which the ways are the best in this order, at every size.
fn order(ways: [Way; 3]) -> Thresholds {
    let mut known = Thresholds::default();
    for (cost, way) in [1.0, 2.0, 3.0].into_iter().zip(ways) {
        let line = Cost::new(cost, 0.0);
        for op in ["fill", "copy"] {
            known.set("copy", op, way, WayCost { wall: line, own: line });
        }
    }
    known
}

const DEVICE_FIRST: [Way; 3] = [Way::UserQueue, Way::Tracked, Way::Cpu];

struct Rig {
    buffer: Buffer,
    plan: Plan,
    client: Client,
    broker: Embedded,
}

impl Rig {
    fn new(ways: [Way; 3]) -> Self {
        let broker = Embedded::start().expect("a private broker");
        let client = broker.client().expect("a client");
        let options = PlanOptions::new().devices(["copy"]).depth(8);
        let plan = Plan::with_thresholds(&client, order(ways), &options).expect("a plan");
        let rig = Self { buffer: client.create(LEN).expect("memory"), plan, client, broker };
        rig.bind();
        rig
    }

    fn bind(&self) {
        let _kept = self.plan.bind(&self.buffer, Access::Write).expect("bound");
    }

    /// The driver's process.
    fn driver(&self) -> u32 {
        let devices = self.client.device_entries().expect("devices");
        let copy = devices.into_iter().find(|device| device.name == "copy").expect("it is there");
        copy.instances.first().expect("it runs").pid
    }

    fn fill(&self, byte: u64, require: Require) -> Result<Done> {
        let call = self.plan.call("copy", "fill").output(&self.buffer).param("byte", byte);
        let done = call.require(require).run(soon())?;
        let bytes = self.buffer.read(.., soon()).expect("it is good");
        assert!(bytes.iter().all(|found| u64::from(*found) == byte), "{byte} by {}", done.way());
        Ok(done)
    }
}

/// Whether every thread of a process has stopped.
fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").flatten();
    let mut states = tasks.map(|task| std::fs::read_to_string(task.path().join("stat")).unwrap_or_default());
    states.all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
}

fn is_lost(choice: &Choice, way: Way) -> bool {
    matches!(choice.obstacle(way), Some(Obstacle::Lost { .. }))
}

#[test]
fn a_call_whose_driver_died_goes_the_way_that_is_left_and_says_why() {
    let rig = Rig::new(DEVICE_FIRST);
    assert_eq!(rig.fill(1, Require::ANY).expect("filled").way(), Way::UserQueue);
    processes::signal(rig.driver(), "KILL");
    let done = rig.fill(2, Require::ANY.without(Way::Tracked)).expect("filled");
    assert!(done.way() == Way::Cpu && is_lost(done.explain(), Way::UserQueue), "{}", done.explain());
    assert!(done.explain().to_string().contains("not user queue: it is lost: copy"), "{}", done.explain());
}

#[test]
fn the_queue_for_jobs_opens_again_by_itself_and_a_user_queue_when_it_is_told() {
    let rig = Rig::new(DEVICE_FIRST);
    rig.fill(1, Require::TRACKED).expect("filled");
    processes::signal(rig.driver(), "KILL");
    rig.fill(2, Require::ANY).expect("filled, whichever way");
    let next = rig.fill(3, Require::ANY).expect("filled");
    assert_eq!(next.way(), Way::Tracked, "{}", next.explain());
    assert!(is_lost(next.explain(), Way::UserQueue));
    rig.plan.reopen().expect("opened");
    let unbound = rig.plan.call("copy", "fill").output(&rig.buffer).explain().expect("explained");
    assert_eq!(unbound.obstacle(Way::UserQueue), Some(&Obstacle::NotBound { operand: "output".into() }));
    rig.bind();
    assert_eq!(rig.fill(4, Require::ANY).expect("filled").way(), Way::UserQueue);
}

#[test]
fn with_no_other_way_allowed_the_loss_is_the_error_and_the_next_call_goes_on() {
    let rig = Rig::new([Way::Tracked, Way::UserQueue, Way::Cpu]);
    rig.fill(1, Require::TRACKED).expect("filled");
    processes::signal(rig.driver(), "KILL");
    let error = rig.fill(2, Require::TRACKED).expect_err("its driver is dead");
    let lost = [Some(ErrorCode::DeviceLost), Some(ErrorCode::Refused)].contains(&error.code());
    assert!(lost && matches!(error, Error::Failed(_)), "{error}");
    assert_eq!(rig.fill(3, Require::TRACKED).expect("filled").way(), Way::Tracked);
}

#[test]
fn what_reads_where_it_writes_is_not_done_a_second_time() {
    let rig = Rig::new(DEVICE_FIRST);
    processes::signal(rig.driver(), "KILL");
    let (from, to) = (rig.buffer.slice(..1000), rig.buffer.slice(500..1500));
    let call = || rig.plan.call("copy", "copy").input(from).output(to);
    let error = call().run(soon()).expect_err("perhaps it was half done");
    assert!(matches!(&error, Error::Failed(failure) if failure.way == Way::UserQueue), "{error}");
    rig.buffer.write(.., soon()).expect("ours").fill(1);
    call().require(Require::CPU).run(soon()).expect("copied");
}

#[test]
fn plain_memory_goes_by_cpu_when_its_queue_is_lost_and_by_queue_again_when_that_is_opened() {
    let rig = Rig::new(DEVICE_FIRST);
    let options = PlanOptions::new().devices(["copy"]).sva();
    let plan = Plan::with_thresholds(&rig.client, Thresholds::default(), &options).expect("a plan");
    let from = vec![7; 3000];
    let copy = |require: Require| {
        let mut to = vec![0; 3000];
        let done = plan.plain("copy", "copy").input(&from).output(&mut to).require(require).run(soon());
        (done.map(|done| done.way()), to)
    };
    assert_eq!(copy(Require::ANY).0.expect("copied"), Way::UserQueue);
    let devices = rig.client.device_entries().expect("devices");
    let copies = devices.into_iter().filter(|device| device.name == "copy");
    copies.flat_map(|device| device.instances).for_each(|one| processes::signal(one.pid, "KILL"));
    let (error, _) = copy(Require::USER_QUEUE);
    assert!(matches!(error, Err(Error::Failed(_))), "{error:?}");
    let (way, to) = copy(Require::ANY);
    assert_eq!((way.expect("copied"), &to), (Way::Cpu, &from));
    plan.reopen().expect("opened");
    let (way, to) = copy(Require::ANY);
    assert_eq!((way.expect("copied"), &to), (Way::UserQueue, &from));
}

#[test]
fn without_a_broker_the_cpu_goes_on() {
    let Rig { buffer, plan, client, broker } = Rig::new([Way::Tracked, Way::UserQueue, Way::Cpu]);
    drop(broker);
    let fill = |require: Require| plan.call("copy", "fill").output(&buffer).param("byte", 5).require(require);
    let done = fill(Require::TRACKED.or(Require::CPU)).run(soon()).expect("filled");
    assert!(done.way() == Way::Cpu && is_lost(done.explain(), Way::Tracked), "{}", done.explain());
    let error = fill(Require::TRACKED).run(soon()).expect_err("there is no broker");
    assert!(matches!(error, Error::Client(vgem::Error::BrokerLost { .. })), "{error}");
    drop(client);
}

#[test]
fn what_ends_after_the_deadline_harms_no_later_call() {
    for way in [Way::Tracked, Way::UserQueue] {
        let rig = Rig::new(DEVICE_FIRST);
        let require = if way == Way::Tracked { Require::TRACKED } else { Require::USER_QUEUE };
        rig.fill(1, require).expect("filled");
        let pid = rig.driver();
        processes::signal(pid, "STOP");
        processes::until(Duration::from_secs(5), "all of it has stopped", || is_stopped(pid));
        // As many as the queue is deep, each over bytes of its own.
        let late = (0..8u64).map(|part| {
            let slice = rig.buffer.slice(part * 1024..(part + 1) * 1024);
            let call = rig.plan.call("copy", "fill").output(slice).param("byte", 2).require(require);
            call.run(Duration::from_millis(20))
        });
        let late: Vec<_> = late.collect();
        processes::signal(pid, "CONT");
        let is_late = |ended: &Result<Done>| matches!(ended, Err(Error::Client(vgem::Error::Timeout { .. })));
        assert!(late.iter().all(is_late), "{way}: {late:?}");
        for byte in 3..40 {
            assert_eq!(rig.fill(byte, require).expect("filled").produced(), LEN);
        }
    }
}
