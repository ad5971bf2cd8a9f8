//! `vgemctl list`: what a broker has, one line each.

use vgem::snapshot::{ClientEntry, DeviceEntry, ObjectEntry, QueueEntry};

use crate::cli::{Common, Kind, List};
use crate::reach::{Otherwise, reach};
use crate::table::Table;
use crate::{human, print};

pub(crate) fn run(common: &Common, list: &List) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    match list.what {
        Kind::Devices => print::either(common.format, &client.device_entries()?, |all| devices(all)),
        Kind::Objects => print::either(common.format, &client.object_entries()?, |all| objects(all)),
        Kind::Clients => print::either(common.format, &client.client_entries()?, |all| clients(all)),
        Kind::Queues => print::either(common.format, &client.queue_entries()?, |all| queues(all)),
    }
}

pub(crate) fn devices(all: &[DeviceEntry]) -> Vec<String> {
    let mut table =
        Table::new(&["NAME", "STATE", ">PROCESSES", ">JOBS", ">BUSY", ">BYTES", ">STAGED", "OPERATIONS"]);
    for device in all {
        let sum =
            |pick: fn(&vgem::snapshot::InstanceEntry) -> u64| device.instances.iter().map(pick).sum::<u64>();
        table.row([
            device.name.clone(),
            device.state.clone(),
            device.instances.len().to_string(),
            sum(|one| one.jobs).to_string(),
            human::time(sum(|one| one.busy_ns)),
            human::bytes(sum(|one| one.bytes)),
            human::bytes(sum(|one| one.staged_bytes)),
            device.operations.join(" "),
        ]);
    }
    table.lines()
}

pub(crate) fn objects(all: &[ObjectEntry]) -> Vec<String> {
    let mut table = Table::new(&[
        "OBJECT",
        "NAME",
        ">SIZE",
        ">PINNED",
        "STATE",
        "KIND",
        ">DOMAIN",
        "SHARED",
        "CLIENTS",
        "MAPPED BY",
        ">USES",
        "POISON",
    ]);
    for object in all {
        table.row([
            object.object.clone(),
            object.name.clone(),
            human::bytes(object.len),
            human::bytes(object.pinned),
            object.state.clone(),
            kind(object),
            object.domain.to_string(),
            join(&object.shared_with),
            join(&object.clients),
            object.mapped_by.join(" "),
            object.uses.to_string(),
            object.poison.join(" "),
        ]);
    }
    table.lines()
}

pub(crate) fn clients(all: &[ClientEntry]) -> Vec<String> {
    let titles =
        [">CLIENT", "NAME", ">PID", ">UID", ">DOMAIN", ">HANDLES", ">BYTES", ">QUEUES", ">JOBS", ">MESSAGES"];
    let mut table = Table::new(&titles);
    for client in all {
        table.row([
            client.client.to_string(),
            client.name.clone(),
            client.pid.to_string(),
            client.uid.to_string(),
            client.domain.to_string(),
            client.handles.to_string(),
            human::bytes(client.bytes),
            client.queues.to_string(),
            client.jobs_in_flight.to_string(),
            client.messages.to_string(),
        ]);
    }
    table.lines()
}

fn queues(all: &[QueueEntry]) -> Vec<String> {
    let mut table = Table::new(&["QUEUE", "DEVICE", ">CLIENT", ">PROMISED", ">ENDED", "STATE"]);
    for queue in all {
        table.row([
            queue.timeline.clone(),
            queue.device.clone(),
            queue.client.to_string(),
            queue.promised.to_string(),
            queue.ended.to_string(),
            queue.state.clone(),
        ]);
    }
    table.lines()
}

/// What an object is; for a sealed result, who alone writes it.
fn kind(object: &ObjectEntry) -> String {
    if object.writer.is_empty() { object.kind.clone() } else { format!("{} {}", object.kind, object.writer) }
}

fn join<T: ToString>(numbers: &[T]) -> String {
    numbers.iter().map(T::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_shows_its_kind_its_writer_and_the_domains_it_is_shared_with() {
        let sealed = ObjectEntry {
            kind: "sealed".into(),
            writer: "zip".into(),
            shared_with: vec![1001, 1002],
            ..ObjectEntry::default()
        };
        let line = objects(&[sealed]).pop().expect("a row");
        assert!(line.contains("sealed zip") && line.contains("1001 1002"), "{line}");
    }
}
