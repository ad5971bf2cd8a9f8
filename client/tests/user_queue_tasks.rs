//! User queues for tasks: opening, binding and waiting without a blocked thread.

#![cfg(feature = "tokio")]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use vgem::aio::Client;
use vgem::{Access, Binding, Buffer, Error, ErrorCode, Point, Prepared, UserQueue, UserQueueOptions};

use support::{FakeBroker, Mood, SOON, cause, options};

const PAGE: u64 = 4096;

struct Rig {
    broker: FakeBroker,
    client: Client,
    queue: UserQueue,
    buffer: Buffer,
    bound: Binding,
}

impl Rig {
    async fn new() -> Self {
        let (broker, socket) = FakeBroker::pair(Mood::Honest);
        let client = Client::over(socket, &options()).await.expect("a greeting");
        let device = client.device("zip").await.expect("a device");
        let queue = client.user_queue(&device, UserQueueOptions::new().depth(8)).await.expect("a queue");
        let buffer = client.create(2 * PAGE).await.expect("a buffer");
        client.write(&buffer, .., SOON).await.expect("a guard").fill(0xf0);
        let bound = client.bind(&queue, &buffer, Access::Write).await.expect("bound");
        Self { broker, client, queue, buffer, bound }
    }

    fn mix(&self) -> Prepared {
        self.queue.entry("mix").inout(self.bound.range(..PAGE)).prepare().expect("a good entry")
    }
}

#[tokio::test]
async fn a_task_waits_for_an_entry_and_a_guard_waits_for_another() {
    let rig = Rig::new().await;
    let ticket = rig.queue.try_push(&rig.mix()).expect("pushed");
    let done = rig.client.wait_entry(&rig.queue, ticket, SOON).await.expect("it ends well");
    assert_eq!(done.produced, PAGE);
    let ring = rig.broker.rings.ring(0);
    ring.takes_only(0);
    let ticket = rig.queue.try_push(&rig.mix()).expect("pushed");
    let late = rig.client.read(&rig.buffer, ..PAGE, Duration::from_millis(3)).await.map(|guard| guard[0]);
    assert!(matches!(late, Err(Error::Timeout { .. })));
    ring.goes_on();
    assert_eq!(rig.client.read(&rig.buffer, ..PAGE, SOON).await.expect("a guard")[0], 0xf0);
    rig.client.wait_entry(&rig.queue, ticket, SOON).await.expect("it ended well");
}

#[tokio::test]
async fn a_task_is_told_of_the_end_of_the_queue_and_of_its_own() {
    let rig = Rig::new().await;
    let ring = rig.broker.rings.ring(0);
    ring.takes_only(0);
    let ticket = rig.queue.try_push(&rig.mix()).expect("pushed");
    let late = rig.client.wait_entry(&rig.queue, ticket, Duration::from_millis(3)).await;
    assert!(matches!(late, Err(Error::Timeout { .. })));
    ring.kill(ErrorCode::DeviceLost, cause());
    rig.broker.kill_page(cause());
    let over = rig.client.wait_entry(&rig.queue, ticket, SOON).await.expect_err("the queue is over");
    assert_eq!(
        over.to_string(),
        "zip: the user queue is over: device lost (cause:3.7): zip: needs 90 bytes, has 10 (pid 321)"
    );
}

#[tokio::test]
async fn a_task_unbinds_and_hears_of_a_refusal() {
    let rig = Rig::new().await;
    rig.broker.rings.refuses.store(true, Ordering::Relaxed);
    assert!(matches!(rig.client.unbind(&rig.queue, rig.bound).await, Err(Error::Refused(_))));
    rig.broker.rings.refuses.store(false, Ordering::Relaxed);
    rig.client.unbind(&rig.queue, rig.bound).await.expect("unbound");
    assert!(rig.queue.try_push(&rig.mix()).is_err());
}

#[tokio::test]
async fn a_task_publishes_an_entry_and_waits_for_it() {
    let rig = Rig::new().await;
    let objects = [(rig.buffer.slice(..PAGE), Access::Write)];
    rig.broker.publish(1);
    for point in 1..=2 {
        let fence = rig.client.publish(&rig.queue, Point(point), &objects, SOON).await.expect("accepted");
        assert_eq!(rig.broker.batch().waits[0].point.0, point);
        rig.broker.signal(1, point);
        fence.wait_async(SOON).await.expect("it ended well");
    }
    assert_eq!(rig.client.read(&rig.buffer, ..PAGE, SOON).await.expect("a guard")[0], 0xf0);
}
