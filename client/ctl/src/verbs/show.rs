//! `vgemctl show`: one thing in full. A device is shown as it describes itself, which is all that `run` knows of it.

use serde::Serialize;
use vgem::snapshot::{ClientEntry, DeviceEntry, ObjectEntry, ObligationEntry, QueueEntry, TimelineEntry};
use vgem::{Client, Description, Direction, Operation, ParamKind};

use crate::cli::{Common, Show, Shown};
use crate::pick::Among;
use crate::reach::{Otherwise, reach};
use crate::table::Table;
use crate::verbs::list;
use crate::{human, print};

pub(crate) fn run(common: &Common, show: &Show) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    match &show.what {
        Shown::Device { name } => print::either(common.format, &device(client, name)?, lines),
        Shown::Object { key } => {
            let one = OBJECTS.pick(client.object_entries()?, key)?;
            print::either(common.format, &one, |one| list::objects(std::slice::from_ref(one)))
        }
        Shown::Client { client: asked } => {
            let one = CLIENTS.pick(client.client_entries()?, asked)?;
            print::either(common.format, &one, |one| list::clients(std::slice::from_ref(one)))
        }
        Shown::Queue { key } => {
            let one = QUEUES.pick(client.queue_entries()?, key)?;
            let lines = |one: &WithOwed<QueueEntry>| {
                let failed = one.entry.failures.iter().map(|failure| {
                    format!("job {} failed: {}, {}", failure.point, failure.code, failure.cause)
                });
                list::queues(std::slice::from_ref(&one.entry))
                    .into_iter()
                    .chain(failed)
                    .chain(owed(one))
                    .collect()
            };
            print::either(common.format, &WithOwed::of(client, &one.timeline.clone(), one)?, lines)
        }
        Shown::Timeline { key } => {
            let one = TIMELINES.pick(client.timeline_entries()?, key)?;
            let lines = |one: &WithOwed<TimelineEntry>| {
                list::timelines(std::slice::from_ref(&one.entry)).into_iter().chain(owed(one)).collect()
            };
            print::either(common.format, &WithOwed::of(client, &one.timeline.clone(), one)?, lines)
        }
    }
}

/// Objects, by key or name.
pub(crate) const OBJECTS: Among<'_, ObjectEntry> = Among {
    what: "object",
    listed_by: "list objects",
    id: |object| object.object.clone(),
    name: |object| &object.name,
};

/// Clients, by number or name.
pub(crate) const CLIENTS: Among<'_, ClientEntry> = Among {
    what: "client",
    listed_by: "list clients",
    id: |client| client.client.to_string(),
    name: |client| &client.name,
};

const QUEUES: Among<'_, QueueEntry> = Among {
    what: "queue",
    listed_by: "list queues",
    id: |queue| queue.timeline.clone(),
    // They have none.
    name: |_| "",
};

const TIMELINES: Among<'_, TimelineEntry> = Among {
    what: "timeline",
    listed_by: "list timelines",
    id: |timeline| timeline.timeline.clone(),
    name: |timeline| &timeline.name,
};

/// A timeline or a queue, with what is owed on it.
#[derive(Debug, Serialize)]
struct WithOwed<T> {
    #[serde(flatten)]
    entry: T,
    owes: Vec<ObligationEntry>,
}

impl<T> WithOwed<T> {
    fn of(client: &Client, key: &str, entry: T) -> anyhow::Result<Self> {
        let all = client.obligation_entries()?;
        Ok(Self { entry, owes: all.into_iter().filter(|owed| owed.timeline == key).collect() })
    }
}

fn owed<T>(one: &WithOwed<T>) -> Vec<String> {
    if one.owes.is_empty() {
        return vec!["owes nothing".to_owned()];
    }
    std::iter::once("owes:".to_owned()).chain(list::obligations(&one.owes)).collect()
}

/// A device as `show` prints it.
#[derive(Debug, Serialize)]
struct DeviceView {
    #[serde(flatten)]
    description: Description,
    entry: Option<DeviceEntry>,
}

fn device(client: &Client, name: &str) -> anyhow::Result<DeviceView> {
    let description = client.device(name)?.description().clone();
    let entry = client.device_entries()?.into_iter().find(|entry| entry.name == name);
    Ok(DeviceView { description, entry })
}

fn lines(device: &DeviceView) -> Vec<String> {
    let described = &device.description;
    let mut lines = vec![
        format!("{}: {}", human::text(&described.name), human::text(&described.summary)),
        format!("runs {} jobs at the same time", described.executors),
    ];
    for operation in &described.operations {
        lines.push(String::new());
        lines.extend(operation_lines(operation));
    }
    if let Some(entry) = &device.entry {
        lines.push(String::new());
        lines.extend(processes(entry));
    }
    lines
}

fn operation_lines(operation: &Operation) -> Vec<String> {
    let mut table = Table::new(&["  ", "NAME", "WHAT", "NOTE"]);
    for operand in &operation.operands {
        let way = match operand.direction {
            Direction::In => "is read",
            Direction::Out => "is written",
            Direction::InOut => "is read and written",
            Direction::Cell => "result cell",
        };
        let mut notes = Vec::new();
        if !operand.required {
            notes.push("optional".to_owned());
        }
        if operand.align > 1 {
            notes.push(format!("aligned to {} bytes", operand.align));
        }
        if operand.len.0 == operand.len.1 {
            notes.push(human::bytes(operand.len.0));
        } else if operand.len.0 > 0 || operand.len.1 < 1 << 44 {
            notes.push(format!("{} to {}", human::bytes(operand.len.0), human::bytes(operand.len.1)));
        }
        table.row(["  ".into(), operand.name.clone(), way.into(), notes.join(", ")]);
    }
    for param in &operation.params {
        let (what, note) = kind(&param.kind);
        let note = if param.summary.is_empty() { note } else { format!("{}; {note}", param.summary) };
        table.row(["  ".into(), param.name.clone(), what, note]);
    }
    if !operation.value.is_empty() {
        table.row(["  ".into(), "value".into(), "in the result cell".into(), operation.value.clone()]);
    }
    let mut lines = vec![format!("{}: {}", human::text(&operation.name), human::text(&operation.summary))];
    lines.extend(table.lines().into_iter().skip(1));
    lines
}

fn kind(kind: &ParamKind) -> (String, String) {
    match kind {
        ParamKind::Number { min, max, default } => {
            let range = if *max == u64::MAX { format!("from {min}") } else { format!("{min} to {max}") };
            ("number".into(), format!("{range}, {}", usual(default.map(|default| default.to_string()))))
        }
        ParamKind::Choice { words, default } => {
            let default = default.and_then(|place| words.get(usize::from(place)).cloned());
            ("word".into(), format!("{}, {}", words.join(" | "), usual(default)))
        }
        ParamKind::Bytes { max_len, required } => {
            let need = if *required { "required" } else { "optional" };
            ("bytes".into(), format!("at most {}, {need}", human::bytes((*max_len).into())))
        }
    }
}

fn usual(default: Option<String>) -> String {
    match default.as_deref() {
        // The largest number stands for "as much as there is".
        Some("18446744073709551615") => "optional".into(),
        Some(default) => format!("{default} if not given"),
        None => "required".into(),
    }
}

fn processes(entry: &DeviceEntry) -> Vec<String> {
    let mut table = Table::new(&[
        ">PROCESS",
        "STATE",
        ">DOMAIN",
        "CLIENT",
        ">JOBS",
        ">IN FLIGHT",
        ">BUSY",
        ">BYTES",
        ">STAGED",
        ">MAPPED",
    ]);
    for one in &entry.instances {
        table.row([
            one.pid.to_string(),
            one.state.clone(),
            one.domain.to_string(),
            if one.client == 0 { "all".to_owned() } else { one.client.to_string() },
            one.jobs.to_string(),
            one.in_flight.to_string(),
            human::time(one.busy_ns),
            human::bytes(one.bytes),
            human::bytes(one.staged_bytes),
            one.mapped.to_string(),
        ]);
    }
    let mut lines = vec![format!("processes ({}):", human::text(&entry.state))];
    lines.extend(table.lines());
    lines
}
