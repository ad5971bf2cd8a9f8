//! iceoryx2: a buffer from one process to another and an acknowledgement back; events; setting up.
//!
//! ```text
//!   producer                              consumer
//!   loan, copy in, send ── NAME/out ────► receive, read one byte of each page
//!   (notify ─────────── NAME/rung ──────► wait)
//!   receive ◄───────────── NAME/back ──── send
//!   (wait ◄───────────── NAME/answer ──── notify)
//! ```
//!
//! Spinning, both sides look for samples without pause; event-driven, they sleep until they are notified. Names hold
//! the producer's pid, so that runs never meet.

use std::ffi::OsString;
use std::process::id;
use std::time::Duration;

use anyhow::{Context as _, bail};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use vgem_os::clock;
use vgem_os::process::{Child, Launch};

use crate::Rounds;
use crate::place::sit_on;

pub(crate) mod stages;
pub(crate) mod untouched;

/// How long a side waits for the other, nanoseconds.
const PATIENCE_NS: u64 = 5_000_000_000;

/// The same, as a duration.
const PATIENCE: Duration = Duration::from_nanos(PATIENCE_NS);

/// Looks between two looks at the clock while spinning.
const LOOKS: u32 = 1 << 16;

/// Bytes of a page: the consumer reads one of each.
const PAGE: usize = 4096;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum What {
    /// Node, service, publisher, subscriber, and the first sample received.
    Setup,
    /// An event there and an event back, both sides asleep.
    Event,
    /// A buffer copied in, sent, read and acknowledged, both sides asleep.
    Handover,
    /// The same, both sides spinning.
    HandoverSpinning,
    /// A buffer lent, sent untouched, received and acknowledged, both sides spinning.
    Untouched,
    /// Three processes, each of which copies a buffer into one it sends on, four buffers under way.
    Pipeline,
}

/// Measures; one time per round, nanoseconds.
pub(crate) fn measure(what: What, rounds: &Rounds) -> anyhow::Result<Vec<u64>> {
    set_log_level(LogLevel::Error);
    if let Some(cores) = &rounds.here {
        sit_on(cores)?;
    }
    match what {
        What::Setup => set_up(rounds),
        What::Event => hand_over(rounds, true, false),
        What::Handover => hand_over(rounds, false, false),
        What::HandoverSpinning => hand_over(rounds, false, true),
        What::Untouched => untouched::measure(rounds),
        What::Pipeline => stages::measure(rounds),
    }
}

/// The second process.
pub(crate) fn consume(name: &str, count: u64, spin: bool, events: bool) -> anyhow::Result<()> {
    set_log_level(LogLevel::Error);
    let ends = Ends::open(name, Side::Consumer, PAGE)?;
    // The producer waits for this before its first round: all ports are there.
    ends.rings.notify().context("notify")?;
    let mut sum = 0u64;
    for _ in 0..count {
        if events {
            ends.wait()?;
        } else {
            let sample = ends.receive(spin)?;
            for page in sample.payload().chunks(PAGE) {
                sum = sum.wrapping_add(page.first().copied().map_or(0, u64::from));
            }
            drop(sample);
            ends.send(&sum.to_ne_bytes())?;
        }
        if !spin {
            ends.rings.notify().context("notify")?;
        }
    }
    Ok(())
}

fn hand_over(rounds: &Rounds, events: bool, spin: bool) -> anyhow::Result<Vec<u64>> {
    let name = format!("vgem-peers/{}", id());
    let ends = Ends::open(&name, Side::Producer, rounds.bytes)?;
    let total = rounds.count + rounds.warm_up();
    let mut consumer = start_consumer(&name, total, events, spin, rounds)?;
    ends.wait().context("the second process did not come up")?;
    let payload = vec![3; rounds.bytes];
    let mut samples = Vec::new();
    for round in 0..total {
        let before = clock::now();
        if !events {
            ends.send(&payload)?;
        }
        if !spin {
            ends.rings.notify().context("notify")?;
        }
        if events {
            ends.wait()?;
        } else {
            drop(ends.receive(spin)?);
        }
        let after = clock::now();
        if round >= rounds.warm_up() {
            samples.push(after - before);
        }
    }
    let status = consumer.wait()?;
    anyhow::ensure!(status.success(), "the second process ended with {status}");
    Ok(samples)
}

fn set_up(rounds: &Rounds) -> anyhow::Result<Vec<u64>> {
    let mut samples = Vec::new();
    for round in 0..rounds.count + rounds.warm_up() {
        let name = service_name(&format!("vgem-peers/{}/{round}", id()))?;
        let before = clock::now();
        let node = NodeBuilder::new().create::<ipc::Service>().context("node")?;
        let service =
            node.service_builder(&name).publish_subscribe::<[u8]>().open_or_create().context("service")?;
        let publisher =
            service.publisher_builder().initial_max_slice_len(rounds.bytes).create().context("publisher")?;
        let subscriber = service.subscriber_builder().create().context("subscriber")?;
        let sample = publisher.loan_slice_uninit(8).context("loan")?.write_from_slice(&[3; 8]);
        sample.send().context("send")?;
        let received = subscriber.receive().context("receive")?;
        let after = clock::now();
        anyhow::ensure!(received.is_some(), "the first sample did not arrive");
        if round >= rounds.warm_up() {
            samples.push(after - before);
        }
    }
    Ok(samples)
}

fn start_consumer(
    name: &str,
    total: u64,
    events: bool,
    spin: bool,
    rounds: &Rounds,
) -> anyhow::Result<Child> {
    let mut args = vec!["iceoryx2-consumer".into(), name.into(), total.to_string().into()];
    args.extend(spin.then(|| "--spin".into()));
    args.extend(events.then(|| "--events".into()));
    start(args, rounds.there.as_deref(), rounds)
}

/// Starts this program again, on these cores.
fn start(args: Vec<OsString>, cores: Option<&str>, rounds: &Rounds) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let mut launch = Launch::new(program);
    launch.args = args;
    launch.die_with_parent = true;
    // A child begins where its parent is, and stays there.
    if let Some(cores) = cores {
        sit_on(cores)?;
    }
    let child = launch.start().context("cannot start another process")?;
    if let Some(cores) = &rounds.here {
        sit_on(cores)?;
    }
    Ok(child)
}

/// Which end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Producer,
    Consumer,
}

/// One side's ports.
#[derive(Debug)]
struct Ends {
    sends: Publisher<ipc::Service, [u8], ()>,
    receives: Subscriber<ipc::Service, [u8], ()>,
    rings: Notifier<ipc::Service>,
    hears: Listener<ipc::Service>,
    _node: Node<ipc::Service>,
}

impl Ends {
    fn open(name: &str, side: Side, bytes: usize) -> anyhow::Result<Self> {
        let (out, rung) = (format!("{name}/out"), format!("{name}/rung"));
        let (back, answer) = (format!("{name}/back"), format!("{name}/answer"));
        let (sends, rings, receives, hears) = match side {
            Side::Producer => (out, rung, back, answer),
            Side::Consumer => (back, answer, out, rung),
        };
        let node = NodeBuilder::new().create::<ipc::Service>().context("node")?;
        let bytes_of = |name: &str| {
            let name = service_name(name)?;
            node.service_builder(&name).publish_subscribe::<[u8]>().open_or_create().context("service")
        };
        let event_of = |name: &str| {
            let name = service_name(name)?;
            node.service_builder(&name).event().open_or_create().context("event")
        };
        let publisher = bytes_of(&sends)?.publisher_builder().initial_max_slice_len(bytes).create();
        Ok(Self {
            sends: publisher.context("publisher")?,
            receives: bytes_of(&receives)?.subscriber_builder().create().context("subscriber")?,
            rings: event_of(&rings)?.notifier_builder().create().context("notifier")?,
            hears: event_of(&hears)?.listener_builder().create().context("listener")?,
            _node: node,
        })
    }

    fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let loan = self.sends.loan_slice_uninit(bytes.len()).context("loan")?;
        loan.write_from_slice(bytes).send().context("send")?;
        Ok(())
    }

    fn receive(&self, spin: bool) -> anyhow::Result<iceoryx2::sample::Sample<ipc::Service, [u8], ()>> {
        let end = clock::deadline_in(PATIENCE_NS);
        loop {
            for _ in 0..LOOKS {
                if let Some(sample) = self.receives.receive().context("receive")? {
                    return Ok(sample);
                }
                if spin {
                    std::hint::spin_loop();
                } else {
                    self.wait()?;
                }
            }
            if clock::now() >= end {
                bail!("nothing was received for {PATIENCE:?}");
            }
        }
    }

    fn wait(&self) -> anyhow::Result<()> {
        let mut heard = 0u32;
        self.hears.timed_wait(|_| heard += 1, PATIENCE).context("wait")?;
        anyhow::ensure!(heard > 0, "nobody notified for {PATIENCE:?}");
        Ok(())
    }
}

fn service_name(name: &str) -> anyhow::Result<ServiceName> {
    ServiceName::new(name).with_context(|| format!("{name:?} is no name of a service"))
}
