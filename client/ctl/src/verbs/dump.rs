//! `vgemctl dump`: all that there is to see, as one document.

use serde::Serialize;
use vgem::snapshot::{
    ClientEntry, DeviceEntry, DomainEntry, ObjectEntry, ObligationEntry, QueueEntry, Status, TimelineEntry,
};
use vgem::{Client, Description};

use crate::cli::{Common, Format};
use crate::reach::{Otherwise, reach};
use crate::{human, print};

/// Everything.
#[derive(Debug, Serialize)]
struct State {
    /// When it was begun to look, CLOCK_MONOTONIC, nanoseconds.
    at_ns: u64,
    status: Status,
    devices: Vec<DeviceEntry>,
    /// How devices describe themselves.
    descriptions: Vec<Description>,
    clients: Vec<ClientEntry>,
    domains: Vec<DomainEntry>,
    objects: Vec<ObjectEntry>,
    queues: Vec<QueueEntry>,
    timelines: Vec<TimelineEntry>,
    obligations: Vec<ObligationEntry>,
}

impl State {
    fn of(client: &Client) -> vgem::Result<Self> {
        let named = client.devices()?;
        let described = named.iter().map(|named| Ok(client.device(&named.name)?.description().clone()));
        Ok(Self {
            at_ns: human::now(),
            descriptions: described.collect::<vgem::Result<_>>()?,
            status: client.status()?,
            devices: client.device_entries()?,
            clients: client.client_entries()?,
            domains: client.domain_entries()?,
            objects: client.object_entries()?,
            queues: client.queue_entries()?,
            timelines: client.timeline_entries()?,
            obligations: client.obligation_entries()?,
        })
    }
}

pub(crate) fn run(common: &Common) -> anyhow::Result<()> {
    let state = State::of(&reach(common, Otherwise::Fail)?.client)?;
    match common.format {
        // A table of everything is nothing to read.
        Format::Table | Format::Json => print::json(&state),
        Format::Jsonl => print::either(Format::Jsonl, &state, |_| Vec::new()),
        Format::Dot => Err(print::not_drawn()),
    }
}
