//! `vgemctl list`: what a broker has, one line each.

use vgem::snapshot::{
    AwaitedEntry, ClientEntry, DeviceEntry, ObjectEntry, ObligationEntry, QueueEntry, TimelineEntry,
};

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
        Kind::Timelines => print::either(common.format, &client.timeline_entries()?, |all| timelines(all)),
        Kind::Obligations => {
            print::either(common.format, &client.obligation_entries()?, |all| obligations(all))
        }
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

pub(crate) fn queues(all: &[QueueEntry]) -> Vec<String> {
    let titles =
        ["QUEUE", "DEVICE", ">CLIENT", ">DOMAIN", ">PRIO", ">PROMISED", ">ENDED", "STATE", ">FAILED"];
    let mut table = Table::new(&titles);
    for queue in all {
        table.row([
            bare(&queue.timeline),
            queue.device.clone(),
            queue.client.to_string(),
            queue.domain.to_string(),
            queue.priority.to_string(),
            queue.promised.to_string(),
            queue.ended.to_string(),
            queue.state.clone(),
            queue.failures.last().map(|last| last.point.to_string()).unwrap_or_default(),
        ]);
    }
    table.lines()
}

pub(crate) fn timelines(all: &[TimelineEntry]) -> Vec<String> {
    let titles = [
        "TIMELINE",
        "NAME",
        ">CLIENT",
        ">PID",
        ">DOMAIN",
        ">PROMISED",
        ">SIGNALLED",
        "STATE",
        ">OBSERVERS",
        ">DUE",
    ];
    let now = human::now();
    let mut table = Table::new(&titles);
    for timeline in all {
        table.row([
            bare(&timeline.timeline),
            timeline.name.clone(),
            number(timeline.client),
            number(timeline.pid.into()),
            timeline.domain.to_string(),
            timeline.promised.to_string(),
            timeline.signalled.to_string(),
            timeline.state.clone(),
            timeline.observers.to_string(),
            human::until(timeline.due_ns, now),
        ]);
    }
    table.lines()
}

/// Of what kind an obligation is its state says: a promise is promised, a submission or an entry awaited, and a job anything else.
pub(crate) fn obligations(all: &[ObligationEntry]) -> Vec<String> {
    let titles = ["POINT", "DEVICE", "CLIENT", ">PID", "STATE", ">SINCE", ">DUE IN", "WAITS FOR"];
    let now = human::now();
    let mut table = Table::new(&titles);
    for owed in all {
        table.row([
            short(&owed.timeline, owed.point),
            owed.device.clone(),
            format!("{} {}", owed.client, owed.client_name).trim_end().to_owned(),
            number(owed.pid.into()),
            owed.state.clone(),
            human::time(now.saturating_sub(owed.since_ns)),
            left(owed.due_ns, now),
            awaited(&owed.waits),
        ]);
    }
    table.lines()
}

/// How long it is until a moment, negative if that is past; nothing for one that never comes.
fn left(moment_ns: u64, now: u64) -> String {
    match moment_ns.checked_sub(now) {
        Some(left) => human::time(left),
        None if moment_ns == 0 => String::new(),
        None => format!("-{}", human::time(now - moment_ns)),
    }
}

/// A point as `why` takes it.
fn short(timeline: &str, point: u64) -> String {
    format!("{}:{point}", bare(timeline))
}

/// A queue or a timeline as `show` and `why` take it.
fn bare(timeline: &str) -> String {
    timeline.strip_prefix("timeline:").unwrap_or(timeline).to_owned()
}

/// The first few of what is waited for.
fn awaited(waits: &[AwaitedEntry]) -> String {
    const SHOWN: usize = 3;
    let name = |wait: &AwaitedEntry| match wait.timeline.as_str() {
        "" => format!("domain {}", wait.domain),
        timeline => short(timeline, wait.point),
    };
    let mut names: Vec<String> = waits.iter().take(SHOWN).map(name).collect();
    if waits.len() > SHOWN {
        names.push(format!("and {} more", waits.len() - SHOWN));
    }
    names.join(" ")
}

/// A number that is nobody's if it is 0.
fn number(number: u64) -> String {
    if number == 0 { String::new() } else { number.to_string() }
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
    use vgem::snapshot::FailureEntry;

    /// Columns of a terminal.
    const WIDTH: usize = 80;

    #[test]
    fn an_obligation_names_the_first_of_what_it_waits_for_as_why_takes_them() {
        let wait = |point| AwaitedEntry { timeline: "timeline:3.7".into(), point, domain: 0 };
        let beyond = AwaitedEntry { domain: 9, ..AwaitedEntry::default() };
        let waits = vec![beyond, wait(1), wait(2), wait(3), wait(4)];
        let owed = ObligationEntry { waits, client: 4, ..ObligationEntry::default() };
        let line = obligations(&[owed]).pop().expect("a row");
        assert!(line.ends_with("domain 9 3.7:1 3.7:2 and 2 more"), "{line}");
    }

    #[test]
    fn obligations_with_ordinary_values_fit_a_terminal() {
        let now = human::now();
        let wait = |timeline: &str| AwaitedEntry { timeline: timeline.into(), point: 11, domain: 0 };
        let owed = ObligationEntry {
            timeline: "timeline:12.7".into(),
            point: 1234,
            device: "copy".into(),
            client: 12,
            client_name: "encoder".into(),
            pid: 48_211,
            state: "restarting".into(),
            since_ns: now - 84_000_000,
            due_ns: now + 4_900_000_000,
            waits: vec![wait("timeline:3.6"), wait("timeline:c0.1")],
            ..ObligationEntry::default()
        };
        for line in obligations(&[owed]) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn queues_with_ordinary_values_fit_a_terminal() {
        let queue = QueueEntry {
            timeline: "timeline:12.34".into(),
            device: "copy".into(),
            client: 12,
            domain: 64_201,
            priority: 7,
            promised: 1_234_567,
            ended: 1_234_560,
            state: "waiting".into(),
            failures: vec![FailureEntry { point: 1_234_559, ..FailureEntry::default() }],
        };
        for line in queues(&[queue]) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn what_is_due_is_so_in_a_time_that_is_negative_once_it_is_past() {
        assert_eq!([9_000_000, 2_000_000, 0].map(|due| left(due, 5_000_000)), ["4 ms", "-3 ms", ""]);
    }

    #[test]
    fn a_timeline_whose_right_to_signal_is_on_its_way_is_nobodys() {
        let line = timelines(&[TimelineEntry { state: "passing".into(), ..TimelineEntry::default() }]);
        assert!(line.concat().contains("passing"), "{line:?}");
        assert_eq!((number(0), number(7)), (String::new(), "7".into()));
    }

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
