//! Plans for tasks: the same ways, results and errors, and no thread kept by a long computation.

#![forbid(unsafe_code)]

use std::time::Duration;

use vgem::{Access, Buffer, Deadline, Embedded, ErrorCode};
use vgem_plan::aio::Plan;
use vgem_plan::{Cost, Draft, Error, Obstacle, PlanOptions, Require, Thresholds, Way, WayCost};
use vgem_tests::processes;

const LEN: u64 = 16 << 10;
const EACH: [(Way, Require); 3] =
    [(Way::Tracked, Require::TRACKED), (Way::UserQueue, Require::USER_QUEUE), (Way::Cpu, Require::CPU)];

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

struct Rig {
    input: Buffer,
    output: Buffer,
    plan: Plan,
    client: vgem::aio::Client,
    _broker: Embedded,
}

impl Rig {
    async fn new(thresholds: Thresholds) -> Self {
        let broker = Embedded::start().expect("a private broker");
        let client = vgem::aio::Client::connect(broker.socket()).await.expect("a client");
        let options = PlanOptions::new();
        let plan = Plan::with_thresholds(&client, thresholds, &options).await.expect("a plan");
        let input = client.create(LEN).await.expect("memory");
        let output = client.create(LEN).await.expect("memory");
        client.write(&input, .., soon()).await.expect("ours").fill(0x5a);
        for buffer in [&input, &output] {
            let _kept = plan.bind(buffer, Access::Write).await.expect("bound");
        }
        Self { input, output, plan, client, _broker: broker }
    }

    fn copy(&self) -> Draft<'_, '_, Plan> {
        self.plan.call("copy", "copy").input(&self.input).output(&self.output)
    }
}

#[tokio::test]
async fn a_task_gets_the_same_whichever_way() {
    let rig = Rig::new(Thresholds::default()).await;
    let mut digests = Vec::new();
    for (way, require) in EACH {
        rig.client.write(&rig.output, .., soon()).await.expect("ours").fill(0);
        let done = rig.copy().require(require).run(soon()).await.unwrap_or_else(|e| panic!("{way}: {e}"));
        assert_eq!((done.way(), done.produced()), (way, LEN));
        let hash = rig.plan.call("sec", "sha256").input(&rig.output).require(require);
        digests.push(hash.run(soon()).await.unwrap_or_else(|e| panic!("{way}: {e}")).digest());
    }
    assert!(digests[0] != [0; 32] && digests.iter().all(|one| *one == digests[0]), "{digests:?}");
}

#[tokio::test]
async fn a_task_gets_the_same_failure_whichever_way() {
    let rig = Rig::new(Thresholds::default()).await;
    let mut found = Vec::new();
    for (way, require) in EACH {
        let call = rig.plan.call("copy", "copy").input(&rig.input).output(rig.output.slice(..9));
        match call.require(require).run(soon()).await {
            Err(Error::Failed(failure)) => found.push((failure.code, failure.text)),
            other => panic!("{way}: {other:?}"),
        }
    }
    found.dedup();
    assert!(
        matches!(&found[..], [(ErrorCode::OutputTooSmall, text)] if text.contains("9 bytes")),
        "{found:?}"
    );
}

#[tokio::test]
async fn what_is_poisoned_fails_a_task_every_way_until_any_way_has_written_it_anew() {
    for (_, anew) in EACH {
        let rig = Rig::new(Thresholds::default()).await;
        let small = rig.plan.call("copy", "copy").input(&rig.input).output(rig.output.slice(..9));
        small.require(Require::TRACKED).run(soon()).await.expect_err("it does not fit");
        let read = |require| rig.plan.call("copy", "crc32c").input(&rig.output).require(require).run(soon());
        for (way, require) in EACH {
            let error = read(require).await.expect_err("it is poisoned");
            assert!(error.to_string().contains("the output of 9 bytes"), "{way}: {error}");
        }
        rig.copy().require(anew).run(soon()).await.expect("written anew");
        for (way, require) in EACH {
            read(require).await.unwrap_or_else(|error| panic!("{way}: {error}"));
        }
    }
}

#[tokio::test]
async fn a_task_is_not_kept_by_what_takes_long_or_nobody_knows_how_long() {
    let rig = Rig::new(Thresholds::default()).await;
    let unknown = rig.copy().explain().expect("explained");
    assert_eq!((unknown.way, unknown.obstacle(Way::Cpu)), (Some(Way::Tracked), Some(&Obstacle::MayBlock)));
    let mut slow = Thresholds::default();
    let line = Cost::new(0.0, 100.0);
    slow.set("copy", "copy", Way::Cpu, WayCost { wall: line, own: line });
    let rig = Rig::new(slow).await;
    let wall_ns = 100 * LEN;
    let blocks = Obstacle::Blocks { wall_ns, limit_ns: 1_000_000 };
    assert_eq!(rig.copy().explain().expect("explained").obstacle(Way::Cpu), Some(&blocks));
    assert_eq!(rig.copy().require(Require::CPU).run(soon()).await.expect("copied").way(), Way::Cpu);
}

#[tokio::test]
async fn a_task_whose_driver_died_goes_another_way_and_then_the_same_again() {
    let rig = Rig::new(Thresholds::default()).await;
    rig.copy().require(Require::TRACKED).run(soon()).await.expect("copied");
    let observer = rig._broker.client().expect("a client");
    let copy = observer.device_entries().expect("devices").into_iter().find(|one| one.name == "copy");
    processes::signal(copy.expect("it is there").instances[0].pid, "KILL");
    let requires = Require::TRACKED.or(Require::CPU);
    // Nothing was measured; so that it may go by CPU, that has to be the only way left.
    let first = rig.copy().require(requires).run(soon()).await;
    let other = rig.copy().require(Require::CPU).run(soon()).await.expect("copied");
    assert!(first.is_err() && other.way() == Way::Cpu, "{first:?}");
    assert_eq!(rig.copy().require(Require::TRACKED).run(soon()).await.expect("copied").way(), Way::Tracked);
    rig.plan.reopen().await.expect("opened");
}

#[tokio::test]
async fn a_task_measures_every_way() {
    let broker = Embedded::start().expect("a private broker");
    let client = vgem::aio::Client::connect(broker.socket()).await.expect("a client");
    let options = PlanOptions::new().devices(["copy"]).budget(Duration::from_secs(60)).sizes([256, 4096]);
    let plan = Plan::measure(&client, &options).await.expect("a plan");
    let costs = plan.thresholds().of("copy", "gather").expect("it was measured");
    assert!(
        Way::ALL.iter().all(|way| costs.of(*way).is_some()) && plan.thresholds().ask_ns > 0.0,
        "{costs:?}"
    );
}

#[tokio::test]
async fn a_task_gets_the_same_of_plain_memory() {
    let rig = Rig::new(Thresholds::default()).await;
    let options = PlanOptions::new().devices(["copy"]).sva();
    let plan = Plan::with_thresholds(&rig.client, Thresholds::default(), &options).await.expect("a plan");
    for (way, require) in [(Way::UserQueue, Require::USER_QUEUE), (Way::Cpu, Require::CPU)] {
        let (from, mut to, mut short) = (vec![6; 5000], vec![0; 5000], vec![0; 9]);
        let copy = plan.plain("copy", "copy").input(&from).output(&mut to).require(require);
        let done = copy.run(soon()).await.unwrap_or_else(|error| panic!("{way}: {error}"));
        assert_eq!((done.way(), done.produced(), &to), (way, 5000, &from));
        let small =
            plan.plain("copy", "copy").input(&from).output(&mut short).require(require).run(soon()).await;
        assert_eq!(small.expect_err("it does not fit").code(), Some(ErrorCode::OutputTooSmall), "{way}");
        assert_eq!(short.len(), 9, "{way}");
    }
}
