//! `vgemctl who`: who holds an object, also those who never spoke to the broker.
//!
//! What the broker knows comes first: clients with a handle, devices that map it. Then every fd and mapping of its memory is
//! looked for in `/proc`, in all processes this user may look into, and named after what the broker said of them.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use vgem::snapshot::{ClientEntry, DeviceEntry, ObjectEntry};

use crate::cli::{Common, Who};
use crate::holders::{Found, Hold, How, Wanted, find, parent};
use crate::reach::{Otherwise, reach};
use crate::table::Table;
use crate::verbs::show::OBJECTS;
use crate::{human, print};

/// Everything that is known of who holds an object.
#[derive(Debug, Serialize)]
struct Report {
    object: ObjectEntry,
    handles: Vec<ClientEntry>,
    /// Fds and mappings.
    holds: Vec<Named>,
    notes: Vec<String>,
}

/// A hold, and who that is in the broker's eyes.
#[derive(Debug, Serialize)]
struct Named {
    who: String,
    #[serde(flatten)]
    hold: Hold,
}

pub(crate) fn run(common: &Common, who: &Who) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    let object = OBJECTS.pick(client.object_entries()?, &who.object)?;
    let clients = client.client_entries()?;
    let found = find(Path::new("/proc"), Wanted { inode: object.inode, len: object.len })?;
    let names = names(client.status()?.pid, &clients, &client.device_entries()?);
    let report = report(object, clients, found, &names);
    print::either(common.format, &report, lines)
}

/// What the processes are that the broker knows.
fn names(broker: u32, clients: &[ClientEntry], devices: &[DeviceEntry]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for client in clients {
        let said = format!("client {} ({})", client.client, client.name);
        names
            .entry(client.pid)
            .and_modify(|name: &mut String| *name = format!("{name}, {said}"))
            .or_insert(said);
    }
    for device in devices {
        names.extend(device.instances.iter().map(|one| (one.pid, format!("driver {}", device.name))));
    }
    names.extend(parent(Path::new("/proc"), broker).map(|keeper| (keeper, "keeper".to_owned())));
    names.insert(broker, "broker".to_owned());
    names
}

fn report(
    object: ObjectEntry,
    clients: Vec<ClientEntry>,
    found: Found,
    names: &HashMap<u32, String>,
) -> Report {
    let handles = clients.into_iter().filter(|client| object.clients.contains(&client.client)).collect();
    let stranger = |hold: &Hold| names.get(&hold.pid).is_none_or(|name| name.starts_with("client "));
    let mut notes = Vec::new();
    if found.hidden {
        notes.push("/proc hides the processes of other users here (hidepid)".to_owned());
    }
    if found.unseen > 0 {
        notes.push(format!("{} processes may not be looked into; root sees them all", found.unseen));
    }
    if object.state == "orphaned" && !found.holds.iter().any(stranger) {
        notes.push(
            "the broker says it is held: in flight in a socket, or in a process you may not see".to_owned(),
        );
    }
    let holds = found.holds.into_iter().map(|hold| {
        let who = names.get(&hold.pid).cloned().unwrap_or_else(|| "no client".to_owned());
        Named { who, hold }
    });
    Report { handles, holds: holds.collect(), notes, object }
}

fn lines(report: &Report) -> Vec<String> {
    let object = &report.object;
    let writer = if object.writer.is_empty() { String::new() } else { format!(" for {}", object.writer) };
    let mut lines = vec![human::text(&format!(
        "{} {:?}: {}, {}, {}{writer}, inode {}, charged to domain {}{}",
        object.object,
        object.name,
        human::bytes(object.len),
        object.state,
        object.kind,
        object.inode,
        object.domain,
        object.shared_with.iter().map(|domain| format!(" and {domain}")).collect::<String>(),
    ))];
    let mut table = Table::new(&["WHO", ">PID", ">UID", "COMMAND", "HOLDS", "ACCESS"]);
    for client in &report.handles {
        let who = format!("client {} ({})", client.client, client.name);
        let (pid, uid) = (client.pid.to_string(), client.uid.to_string());
        table.row([who, pid, uid, String::new(), "handle".into(), String::new()]);
    }
    for device in &object.mapped_by {
        let who = format!("driver {device}");
        table.row([who, String::new(), String::new(), String::new(), "device".into(), String::new()]);
    }
    for Named { who, hold } in &report.holds {
        let what = match &hold.how {
            How::Fd(number) => format!("fd {number}"),
            How::Mapping(range) => format!("mapping {range}"),
        };
        let (pid, uid) = (hold.pid.to_string(), hold.uid.to_string());
        table.row([who.clone(), pid, uid, hold.comm.clone(), what, hold.access.into()]);
    }
    lines.extend(table.lines());
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, name: &str) -> ObjectEntry {
        ObjectEntry { object: key.into(), name: name.into(), state: "orphaned".into(), ..Default::default() }
    }

    fn picked(asked: &str) -> Result<String, String> {
        let all = vec![object("object:3.1", "frame"), object("object:31.1", "x"), object("object:4.2", "x")];
        OBJECTS.pick(all, asked).map(|object| object.object).map_err(|error| error.to_string())
    }

    #[test]
    fn an_object_is_meant_by_its_key_its_name_or_the_beginning_of_its_key() {
        for asked in ["object:3.1", "3.1", "frame"] {
            assert_eq!(picked(asked), Ok("object:3.1".into()), "{asked}");
        }
        assert_eq!((picked("4"), picked("object:31")), (Ok("object:4.2".into()), Ok("object:31.1".into())));
    }

    #[test]
    fn what_means_several_objects_is_refused_with_their_keys() {
        assert_eq!(picked("x"), Err("2 objects are meant by \"x\": object:31.1 object:4.2".into()));
        assert!(picked("3").is_err_and(|said| said.contains("object:3.1 object:31.1")));
        assert!(picked("none").is_err_and(|said| said.contains("vgemctl list objects")));
    }

    #[test]
    fn an_orphan_that_nobody_is_seen_to_hold_says_where_it_may_be() {
        let names = HashMap::from([(7, "broker".to_owned())]);
        let hold = |pid| Hold { pid, comm: "x".into(), uid: 0, how: How::Fd(3), access: "read" };
        let notes = |pids: &[u32]| {
            let found = Found { holds: pids.iter().copied().map(hold).collect(), unseen: 0, hidden: false };
            report(object("object:1.1", ""), Vec::new(), found, &names).notes.len()
        };
        assert_eq!((notes(&[7]), notes(&[7, 8])), (1, 0));
    }

    #[test]
    fn what_cannot_be_seen_is_said() {
        let found = Found { holds: Vec::new(), unseen: 5, hidden: true };
        let ready = ObjectEntry { state: "ready".into(), ..object("object:1.1", "") };
        let notes = report(ready, Vec::new(), found, &HashMap::new()).notes.join("; ");
        assert!(notes.contains("hidepid") && notes.contains("5 processes may not be looked into"), "{notes}");
    }
}
