//! A pipeline: this process makes frames, a second one copies each into one it sends on, a third one takes them.
//!
//! ```text
//!   First ──a──► Middle ──b──► Last
//!     └◄───────────c: done──────┘     at most four frames under way
//! ```
//!
//! Each stage sleeps until it is notified, as three processes on two cores must. The one number is the mean time from
//! frame to frame at the end of the pipeline, once it is full.

use std::process::id;

use anyhow::{Context as _, bail};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;
use vgem_os::clock;

use super::{PATIENCE, PATIENCE_NS, service_name, start};
use crate::Rounds;

/// Frames under way at most.
const IN_FLIGHT: u64 = 4;
/// Bytes of what stands for an empty frame, and of what says that one is done.
const LEAST: usize = 8;

/// Which of the later stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Place {
    /// Copies frames and sends them on.
    Middle,
    /// Takes frames.
    Last,
}

impl Place {
    const fn word(self) -> &'static str {
        match self {
            Self::Middle => "middle",
            Self::Last => "last",
        }
    }
}

/// Measures: one time, the mean from frame to frame, nanoseconds.
pub(super) fn measure(rounds: &Rounds) -> anyhow::Result<Vec<u64>> {
    let name = format!("vgem-peers/{}", id());
    let warm_up = rounds.warm_up() + IN_FLIGHT;
    let total = rounds.count + warm_up;
    let bytes = rounds.bytes.max(LEAST);
    let node = NodeBuilder::new().create::<ipc::Service>().context("node")?;
    let (out, done) = (Out::open(&node, &name, "a", bytes)?, In::open(&node, &name, "c")?);
    let mut others = Vec::new();
    for (place, cores) in [(Place::Middle, &rounds.there), (Place::Last, &rounds.here)] {
        let args = ["iceoryx2-stage", &name, place.word(), &total.to_string(), &rounds.bytes.to_string()];
        others.push(start(args.map(Into::into).to_vec(), cores.as_deref(), rounds)?);
    }
    // One word from the last stage, which it gives when the middle one has given it its: all are there.
    done.next()?;
    let own = vec![3; bytes];
    let (mut finished, mut first_ns, mut last_ns) = (0, 0, 0);
    for number in 0..total + IN_FLIGHT {
        if number >= IN_FLIGHT {
            done.next()?;
            finished += 1;
            if finished == warm_up {
                first_ns = clock::now();
            }
            last_ns = clock::now();
        }
        if number < total {
            out.send(&own)?;
        }
    }
    for other in &mut others {
        let status = other.wait()?;
        anyhow::ensure!(status.success(), "a stage ended with {status}");
    }
    Ok(vec![(last_ns - first_ns) / rounds.count.max(1)])
}

/// A later stage.
pub(crate) fn serve(name: &str, place: Place, count: u64, bytes: usize) -> anyhow::Result<()> {
    set_log_level(LogLevel::Error);
    let bytes = bytes.max(LEAST);
    let node = NodeBuilder::new().create::<ipc::Service>().context("node")?;
    let (receives, sends) = match place {
        Place::Middle => (In::open(&node, name, "a")?, Out::open(&node, name, "b", bytes)?),
        Place::Last => (In::open(&node, name, "b")?, Out::open(&node, name, "c", LEAST)?),
    };
    let word = [1; LEAST];
    if place == Place::Last {
        receives.next()?;
        sends.send(&word)?;
    } else {
        sends.send(&word)?;
    }
    let mut own = vec![0; bytes];
    for _ in 0..count {
        let sample = receives.next()?;
        match place {
            Place::Middle => sends.send(sample.payload())?,
            Place::Last => {
                own.copy_from_slice(sample.payload());
                std::hint::black_box(&own);
                drop(sample);
                sends.send(&word)?;
            }
        }
    }
    Ok(())
}

/// The sending end of one hop.
#[derive(Debug)]
struct Out {
    sends: Publisher<ipc::Service, [u8], ()>,
    rings: Notifier<ipc::Service>,
}

impl Out {
    fn open(node: &Node<ipc::Service>, name: &str, hop: &str, bytes: usize) -> anyhow::Result<Self> {
        let (service, event) = (bytes_of(node, name, hop)?, service_name(&format!("{name}/{hop}/rung"))?);
        let rings = node.service_builder(&event).event().open_or_create().context("event")?;
        Ok(Self {
            sends: service.publisher_builder().initial_max_slice_len(bytes).create().context("publisher")?,
            rings: rings.notifier_builder().create().context("notifier")?,
        })
    }

    fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let end = clock::deadline_in(PATIENCE_NS);
        let loan = self.sends.loan_slice_uninit(bytes.len()).context("loan")?;
        let mut sample = loan.write_from_slice(bytes);
        // Nobody hears it until the next stage is there.
        loop {
            if sample.send().context("send")? > 0 {
                break;
            }
            if clock::now() >= end {
                bail!("nobody took a frame for {PATIENCE:?}");
            }
            std::thread::yield_now();
            sample = self.sends.loan_slice_uninit(bytes.len()).context("loan")?.write_from_slice(bytes);
        }
        self.rings.notify().context("notify")?;
        Ok(())
    }
}

/// The receiving end of one hop.
#[derive(Debug)]
struct In {
    receives: Subscriber<ipc::Service, [u8], ()>,
    hears: Listener<ipc::Service>,
}

impl In {
    fn open(node: &Node<ipc::Service>, name: &str, hop: &str) -> anyhow::Result<Self> {
        let (service, event) = (bytes_of(node, name, hop)?, service_name(&format!("{name}/{hop}/rung"))?);
        let hears = node.service_builder(&event).event().open_or_create().context("event")?;
        Ok(Self {
            receives: service.subscriber_builder().create().context("subscriber")?,
            hears: hears.listener_builder().create().context("listener")?,
        })
    }

    fn next(&self) -> anyhow::Result<Sample<ipc::Service, [u8], ()>> {
        let end = clock::deadline_in(PATIENCE_NS);
        loop {
            if let Some(sample) = self.receives.receive().context("receive")? {
                return Ok(sample);
            }
            self.hears.timed_wait(|_| {}, PATIENCE).context("wait")?;
            if clock::now() >= end {
                bail!("nothing was received for {PATIENCE:?}");
            }
        }
    }
}

type Bytes = iceoryx2::service::port_factory::publish_subscribe::PortFactory<ipc::Service, [u8], ()>;

/// A service that loses no frame.
fn bytes_of(node: &Node<ipc::Service>, name: &str, hop: &str) -> anyhow::Result<Bytes> {
    let name = service_name(&format!("{name}/{hop}"))?;
    let service = node.service_builder(&name).publish_subscribe::<[u8]>().enable_safe_overflow(false);
    let room = usize::try_from(2 * IN_FLIGHT)?;
    service
        .subscriber_max_buffer_size(room)
        .subscriber_max_borrowed_samples(room)
        .open_or_create()
        .context("service")
}
