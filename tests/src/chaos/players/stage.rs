//! A stage that is no device: a client that promises a point, works, and signals it.

use std::time::Duration;

use vgem::{Client, Error, Timeline, TimelineRights, TimelineToken};

use super::super::words::Record;
use super::{CHAIN, record};

/// How long it works.
const WORK: Duration = Duration::from_millis(4);

/// What it has on a broker.
#[derive(Debug)]
pub(super) struct Stage {
    client: Client,
    timeline: Option<Timeline>,
}

impl Stage {
    pub(super) const fn new(client: Client) -> Self {
        Self { client, timeline: None }
    }

    /// A new timeline, for one other client to wait for.
    pub(super) fn offer(&mut self) -> Result<[u8; TimelineToken::LEN], Error> {
        let timeline = self.timeline.insert(self.client.timeline("stage")?);
        Ok(timeline.export(TimelineRights::WAIT)?.to_bytes())
    }

    /// Promises the next point, and does not signal it.
    pub(super) fn owe(&mut self, within: Duration) -> Result<(), Error> {
        let timeline = self.timeline.as_mut();
        timeline.map_or(Ok(()), |line| line.promise_acknowledged(line.promised().next(), within).map(drop))
    }

    pub(super) fn play(&mut self, round: u64) -> Vec<Record> {
        let Some(timeline) = &mut self.timeline else { return Vec::new() };
        let promised = record("promise", || timeline.promise_next(CHAIN));
        // Not always equally long, and never a surprise.
        std::thread::park_timeout(WORK * u32::try_from(round % 4).unwrap_or(0) / 2);
        // Signalling asks nobody what is behind a refusal.
        let signal = || timeline.signal_next().map_err(|error| explained(&self.client, error));
        vec![promised, record("signal", signal)]
    }
}

fn explained(client: &Client, error: Error) -> Error {
    match error {
        Error::Job(mut failure) => {
            failure.explanation = client.explain(failure.cause).ok();
            Error::Job(failure)
        }
        other => other,
    }
}
