//! A hand-over whose payload nobody touches: what lending, sending, receiving and acknowledging cost by themselves.
//!
//! The payload's bytes are of a type that needs no value, so that lending writes none. Both sides spin.

use std::mem::MaybeUninit;
use std::process::id;

use anyhow::{Context as _, bail};
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use vgem_os::clock;

use super::{LOOKS, PATIENCE, PATIENCE_NS, service_name, start};
use crate::Rounds;

/// A byte that may have no value.
type Byte = MaybeUninit<u8>;

/// Measures; one time per round, nanoseconds.
pub(super) fn measure(rounds: &Rounds) -> anyhow::Result<Vec<u64>> {
    let name = format!("vgem-peers/{}", id());
    let node = NodeBuilder::new().create::<ipc::Service>().context("node")?;
    let sends = frames(&node, &name)?.publisher_builder().initial_max_slice_len(rounds.bytes).create();
    let sends = sends.context("publisher")?;
    let receives = words(&node, &name)?.subscriber_builder().create().context("subscriber")?;
    let acknowledged = || spin(|| receives.receive().context("receive"));
    let total = rounds.count + rounds.warm_up();
    let args = vec!["iceoryx2-untouched".into(), (&name).into(), total.to_string().into()];
    let mut consumer = start(args, rounds.there.as_deref(), rounds)?;
    // The first acknowledgement says that the consumer is there.
    acknowledged()?;
    let mut samples = Vec::new();
    for round in 0..total {
        let before = clock::now();
        let loan = sends.loan_slice_uninit(rounds.bytes).context("loan")?;
        loan.write_from_fn(|_| Byte::uninit()).send().context("send")?;
        acknowledged()?;
        let after = clock::now();
        if round >= rounds.warm_up() {
            samples.push(after - before);
        }
    }
    let status = consumer.wait()?;
    anyhow::ensure!(status.success(), "the second process ended with {status}");
    Ok(samples)
}

/// The second process.
pub(crate) fn consume(name: &str, count: u64) -> anyhow::Result<()> {
    set_log_level(LogLevel::Error);
    let node = NodeBuilder::new().create::<ipc::Service>().context("node")?;
    let receives = frames(&node, name)?.subscriber_builder().create().context("subscriber")?;
    let sends = words(&node, name)?.publisher_builder().create().context("publisher")?;
    sends.send_copy(0).context("send")?;
    for round in 0..count {
        let sample = spin(|| receives.receive().context("receive"))?;
        std::hint::black_box(sample.payload().len());
        drop(sample);
        sends.loan_uninit().context("loan")?.write_payload(round).send().context("send")?;
    }
    Ok(())
}

type Frames = PortFactory<ipc::Service, [Byte], ()>;
type Words = PortFactory<ipc::Service, u64, ()>;

fn frames(node: &Node<ipc::Service>, name: &str) -> anyhow::Result<Frames> {
    let name = service_name(&format!("{name}/out"))?;
    node.service_builder(&name).publish_subscribe::<[Byte]>().open_or_create().context("service")
}

fn words(node: &Node<ipc::Service>, name: &str) -> anyhow::Result<Words> {
    let name = service_name(&format!("{name}/back"))?;
    node.service_builder(&name).publish_subscribe::<u64>().open_or_create().context("service")
}

/// Looks until something is there.
fn spin<T>(mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let end = clock::deadline_in(PATIENCE_NS);
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = look()? {
                return Ok(found);
            }
            std::hint::spin_loop();
        }
        if clock::now() >= end {
            bail!("nothing was received for {PATIENCE:?}");
        }
    }
}
