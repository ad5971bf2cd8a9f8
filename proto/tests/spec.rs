//! SPEC.md says what the code does: every table in it is compared with the code, both ways.

mod support;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;

use support::spec::{Table, part, parts, text};
use support::{Link, golden, hex, sender_name, session};
use vgem_proto::codec::{Field, HEAD_LEN, Reader, Writer};
use vgem_proto::describe::Description;
use vgem_proto::domains::{QuotaKind, QuotaLimit};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{Handle, QueueHandle};
use vgem_proto::jobs::{
    self, Completion, DriverWait, Job, ObservedPoint, Operand, Param, ParamSource, PointFailure,
    PoisonedRange, ShownTimeline, TracedJob, TracedWait, Wait,
};
use vgem_proto::layout::{self, fence_page as f, interest_page, result_cell};
use vgem_proto::message::Row;
use vgem_proto::rights::{Access, HugePages, Rights, TimelineRights, WaitKind};
use vgem_proto::snapshot::{
    ClientEntry, DeviceEntry, DomainEntry, InstanceEntry, ObjectEntry, ObligationEntry, QueueEntry,
    QuotaEntry, Status, TimelineEntry, Topic,
};
use vgem_proto::{VERSION, limits};

#[test]
fn the_messages_of_the_tables_are_those_of_the_specification_and_in_its_order() {
    for link in Link::ALL {
        let in_code: Vec<String> =
            link.table().iter().map(|row| format!("{} {} {}", link.name(), row.opcode, row.name)).collect();
        let of_link = |words: &Vec<String>| words.first().is_some_and(|word| word == link.name());
        let in_spec: Vec<String> =
            parts().iter().filter(|part| of_link(&part.words)).map(|part| part.words.join(" ")).collect();
        assert_eq!(in_spec, in_code);
    }
}

#[test]
fn every_message_of_the_specification_has_the_sender_fds_flags_and_size_of_the_table() {
    each_message(|link, row, tables| {
        let of = &tables[0];
        let said: Vec<&str> = ["from", "since", "fds", "flags", "fixed"]
            .iter()
            .map(|column| of.cell(&of.rows[0], column))
            .collect();
        let fds = if row.fds.is_empty() { "none".to_owned() } else { row.fds.join(", ") };
        let optional = if row.optional_fds { "optional " } else { "" };
        let each = row.fds_each.map_or(String::new(), |array| format!(" for each of {array}"));
        let is = [
            sender_name(row.sender).to_owned(),
            row.since.to_string(),
            format!("{optional}{fds}{each}"),
            row.flags.to_string(),
            row.fixed.to_string(),
        ];
        assert_eq!(said, is, "{} {}", link.name(), row.name);
    });
}

#[test]
fn every_message_of_the_specification_has_the_fields_and_arrays_of_the_table() {
    each_message(|link, row, tables| {
        let mut is = Vec::new();
        let mut offset = HEAD_LEN;
        for ((name, size), kind) in row.fields.iter().zip(row.types) {
            is.push([offset.to_string(), size.to_string(), (*name).to_owned(), (*kind).to_owned()]);
            offset += size;
        }
        let arrays = row.arrays.iter().zip(row.elements).zip(row.most);
        for (((name, stride), element), most) in arrays {
            let kind = format!("array of {element}, stride {stride}, at most {most}");
            is.push([offset.to_string(), "8".to_owned(), (*name).to_owned(), kind]);
            offset += 8;
        }
        assert_eq!(offset.next_multiple_of(8), HEAD_LEN + row.fixed);
        let said = tables.get(1).map(rows).unwrap_or_default();
        assert_eq!(said, is, "{} {}", link.name(), row.name);
    });
}

#[test]
fn the_records_of_the_specification_are_those_of_the_code() {
    record("Job", Job::<QueueHandle>::FIELDS);
    record("Operand", Operand::<Handle>::FIELDS);
    record("Param", Param::<Handle>::FIELDS);
    record("Wait", Wait::FIELDS);
    record("DriverWait", DriverWait::FIELDS);
    record("Completion", Completion::FIELDS);
    record("ObservedPoint", ObservedPoint::FIELDS);
    record("PoisonedRange", PoisonedRange::FIELDS);
    record("PointFailure", PointFailure::FIELDS);
    record("ShownTimeline", ShownTimeline::FIELDS);
    record("QuotaLimit", QuotaLimit::FIELDS);
    record("TracedJob", TracedJob::FIELDS);
    record("TracedWait", TracedWait::FIELDS);
}

#[test]
fn the_head_of_the_specification_is_that_of_the_code() {
    let said = rows(part("layout Head").table());
    let mut offset = 0;
    let mut is = Vec::new();
    for (name, size) in hex::HEAD {
        is.push((offset.to_string(), size.to_string(), name.to_owned()));
        offset += size;
    }
    let said: Vec<_> = said.into_iter().map(|[offset, size, name, _]| (offset, size, name)).collect();
    assert_eq!((said, offset), (is, HEAD_LEN));
}

// M-011
#[test]
fn the_closed_sets_of_the_specification_are_those_of_the_code() {
    closed_set::<Access>("Access");
    closed_set::<HugePages>("HugePages");
    closed_set::<WaitKind>("WaitKind");
    closed_set::<ParamSource>("ParamSource");
    closed_set::<Topic>("Topic");
}

#[test]
fn the_quotas_of_the_specification_are_those_of_the_code() {
    let part = part("set QuotaKind");
    let table = part.table();
    let said: Vec<(u32, &str)> =
        table.rows.iter().map(|row| (number(table.cell(row, "value")), table.cell(row, "name"))).collect();
    let is: Vec<(u32, &str)> = QuotaKind::ALL.iter().map(|kind| (kind.number(), kind.name())).collect();
    assert_eq!(said, is);
}

#[test]
fn the_rights_of_the_specification_are_those_of_the_code() {
    let is: Vec<(u32, &str)> = Rights::all().iter_names().map(|(name, right)| (right.bits(), name)).collect();
    let of_timelines = TimelineRights::all();
    let of_timelines: Vec<(u32, &str)> =
        of_timelines.iter_names().map(|(name, right)| (right.bits(), name)).collect();
    for (bits, is) in [("bits Rights", is), ("bits TimelineRights", of_timelines)] {
        let part = part(bits);
        let table = part.table();
        let said: Vec<(u32, &str)> = table
            .rows
            .iter()
            .map(|row| (number(table.cell(row, "value")), table.cell(row, "name")))
            .collect();
        assert_eq!(said, is);
    }
}

#[test]
fn the_codes_of_the_specification_are_those_of_the_code() {
    let is: Vec<(u32, &str)> = ErrorCode::ALL.iter().map(|code| (code.number(), code.name())).collect();
    let (refusals, failures) = (part("codes of refusals"), part("codes of failures"));
    let mut said = Vec::new();
    for table in [refusals.table(), failures.table()] {
        said.extend(table.rows.iter().map(|row| (number(table.cell(row, "code")), table.cell(row, "name"))));
    }
    assert_eq!(said, is);
    assert!(refusals.table().column("code").iter().all(|code| number(code) < 64));
}

#[test]
fn the_limits_of_the_specification_are_those_of_the_code() {
    let is = [
        ("MESSAGE_LEN", limits::MESSAGE_LEN as u64),
        ("NAME_LEN", limits::NAME_LEN as u64),
        ("TEXT_LEN", limits::TEXT_LEN as u64),
        ("BATCH_JOBS", limits::BATCH_JOBS as u64),
        ("JOB_OPERANDS", limits::JOB_OPERANDS as u64),
        ("JOB_PARAMS", limits::JOB_PARAMS as u64),
        ("JOB_WAITS", limits::JOB_WAITS as u64),
        ("BATCH_BYTES", limits::BATCH_BYTES as u64),
        ("QUEUE_DEPTH", u64::from(limits::QUEUE_DEPTH)),
        ("QUEUE_DEPTH_DEFAULT", u64::from(limits::QUEUE_DEPTH_DEFAULT)),
        ("OBJECT_LEN", limits::OBJECT_LEN),
        ("PAGE_LEN", limits::PAGE_LEN),
        ("DESCRIPTION_LEN", limits::DESCRIPTION_LEN as u64),
        ("COMPLETIONS", limits::COMPLETIONS as u64),
        ("COMPLETION_DELAY_NS", limits::COMPLETION_DELAY_NS),
        ("OBJECTS_AT_ONCE", limits::OBJECTS_AT_ONCE as u64),
        ("OBSERVED_PAGES", limits::OBSERVED_PAGES as u64),
        ("OBSERVED_POINTS", limits::OBSERVED_POINTS as u64),
        ("OBSERVED_POISON", limits::OBSERVED_POISON as u64),
        ("SHOWN_PAGES", limits::SHOWN_PAGES as u64),
        ("SHOWN_PLACES", limits::SHOWN_PLACES as u64),
        ("FAILURES_TOLD", limits::FAILURES_TOLD as u64),
        ("PRIORITY", u64::from(limits::PRIORITY)),
        ("RING_DEPTH_DEFAULT", u64::from(limits::RING_DEPTH_DEFAULT)),
        ("RINGS", limits::RINGS as u64),
        ("CLIENT_RINGS", limits::CLIENT_RINGS as u64),
        ("RING_BINDS", limits::RING_BINDS as u64),
        ("RING_WINDOWS", limits::RING_WINDOWS as u64),
        ("OWN_BYTES", limits::OWN_BYTES),
        ("OPERATIONS", limits::OPERATIONS as u64),
        ("TRACED_JOBS", limits::TRACED_JOBS as u64),
        ("TRACED_WAITS", limits::TRACED_WAITS as u64),
    ];
    let part = part("limits");
    let table = part.table();
    let said: Vec<(&str, u64)> = table
        .rows
        .iter()
        .map(|row| (table.cell(row, "limit"), table.cell(row, "value").parse().expect("a number")))
        .collect();
    assert_eq!(said, is);
}

#[test]
fn the_layouts_of_the_specification_are_those_of_the_code() {
    let header = [
        ("MAGIC", f::H_MAGIC),
        ("VERSION", f::H_VERSION),
        ("SLOTS", f::H_SLOTS),
        ("DOORBELL", f::H_DOORBELL),
        ("DEATH_CODE", f::H_DEATH_CODE),
        ("DEATH_CAUSE", f::H_DEATH_CAUSE),
    ];
    let slot = [
        ("GENERATION", f::S_GENERATION),
        ("FAIL_COUNT", f::S_FAIL_COUNT),
        ("VALUE", f::S_VALUE),
        ("TIME", f::S_TIME),
        ("DEAD_FROM", f::S_DEAD_FROM),
        ("DEAD_CAUSE", f::S_DEAD_CAUSE),
        ("DEAD_CODE", f::S_DEAD_CODE),
        ("FAILURES", f::S_FAILURES),
    ];
    let interest = [
        ("MAGIC", interest_page::H_MAGIC),
        ("VERSION", interest_page::H_VERSION),
        ("SLOTS", interest_page::H_SLOTS),
        ("NEWS", interest_page::NEWS),
        ("WANT", interest_page::WANT),
    ];
    let cell = [
        ("PRODUCED", 8 * result_cell::PRODUCED),
        ("VALUE", 8 * result_cell::VALUE),
        ("STARTED", 8 * result_cell::STARTED),
        ("ENDED", 8 * result_cell::ENDED),
        ("DIGEST", 8 * result_cell::DIGEST),
    ];
    assert_eq!(places("fence page"), header);
    assert_eq!(places("slot"), slot);
    assert_eq!(places("failure"), [("POINT", f::F_POINT), ("CAUSE", f::F_CAUSE), ("CODE", f::F_CODE)]);
    assert_eq!(places("interest page"), interest);
    assert_eq!(places("result cell"), cell);
}

#[test]
fn the_numbers_in_the_prose_about_shared_memory_are_those_of_the_code() {
    let text = text();
    let sentences = [
        format!("Each has {} bytes.", layout::PAGE_LEN),
        format!(
            "Slot k, from 0 to {}, is the {len} bytes at `{len} * (1 + k)`.",
            f::SLOTS - 1,
            len = f::SLOT_LEN
        ),
        format!("slot k, at `{} + 8 * k`", interest_page::WANT).replacen('s', "S", 1),
        format!("| failure × {} |", f::FAILURES),
        format!("{:#010x}, \"VGFP\"", f::MAGIC),
        format!("{:#010x}, \"VGFI\"", interest_page::MAGIC),
        format!("A **result cell** is {} bytes", result_cell::LEN),
        format!("`{}` is a timeline of the driver's own", jobs::PAGE_LOCAL).replace('`', ""),
        format!("# The vgemd protocol, version {VERSION}"),
    ];
    let missing: Vec<_> = sentences.iter().filter(|sentence| !text.contains(sentence.as_str())).collect();
    assert!(missing.is_empty(), "SPEC.md lacks {missing:?}");
    assert_eq!((f::VERSION, interest_page::VERSION, f::FAILURE_LEN), (1, 1, 24));
    assert_eq!((jobs::JOB_EXPLICIT, jobs::JOB_RUN_ANYWAY), (1, 2));
    assert_eq!((jobs::OPERAND_DISCARD, jobs::OPERAND_INDIRECT, jobs::OPERAND_FOREIGN), (1, 2, 4));
}

#[test]
fn the_keys_of_the_specification_are_those_of_the_json() {
    assert_eq!(keys_said("Status"), keys(&Status::default()));
    assert_eq!(keys_said("Devices"), keys(&DeviceEntry::default()));
    assert_eq!(keys_said("Objects"), keys(&ObjectEntry::default()));
    assert_eq!(keys_said("Clients"), keys(&ClientEntry::default()));
    assert_eq!(keys_said("Queues"), keys(&QueueEntry::default()));
    assert_eq!(keys_said("Timelines"), keys(&TimelineEntry::default()));
    assert_eq!(keys_said("Obligations"), keys(&ObligationEntry::default()));
    assert_eq!(keys_said("Domains"), keys(&DomainEntry::default()));
}

#[test]
fn the_inner_keys_of_the_specification_are_those_of_the_json() {
    let inner = |topic: &str, key: &str, of: BTreeSet<String>| {
        let part = part(&format!("topic {topic}"));
        let table = part.table();
        let row = table.rows.iter().find(|row| table.cell(row, "key") == key).expect("the key has a row");
        let said = table.cell(row, "meaning").split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert_eq!(of, said, "{topic}.{key}");
    };
    inner("Status", "counters", keys(&Status::default().counters));
    inner("Devices", "instances", keys(&InstanceEntry::default()));
    inner("Domains", "quotas", keys(&QuotaEntry::default()));
}

/// A reader of JSON takes what it does not know as not there.
// M-083
#[test]
fn keys_of_a_newer_broker_are_ignored() {
    let json = r#"{"timeline":"timeline:1.1","device":"zip","promised":3,"colour":"blue"}"#;
    let entry: QueueEntry = serde_json::from_str(json).unwrap();
    assert_eq!((entry.device.as_str(), entry.promised, entry.ended), ("zip", 3, 0));
}

#[test]
fn the_worked_session_of_the_specification_is_the_golden_file() {
    let path = golden("session.hex");
    if std::env::var_os("GOLDEN").is_some_and(|wish| wish == "write") {
        fs::write(&path, rendered_session()).unwrap();
    }
    let file = fs::read_to_string(path).unwrap();
    assert_eq!(file, rendered_session());
    let dump = file.split_once("\n\n").expect("a comment, then the dump").1;
    assert!(text().contains(&format!("```text\n{dump}```\n")), "SPEC.md shows another session");
}

// M-002
#[test]
fn the_bytes_of_the_worked_session_are_its_messages() {
    let sections = hex::read(&golden("session.hex"));
    let messages = session::messages();
    assert_eq!(sections.len(), messages.len());
    for (section, sample) in sections.iter().zip(&messages) {
        let row = sample.message.row();
        let read = Link::Client.decode(&section.bytes, row.sender, section.fds()).unwrap();
        assert_eq!(read.1, sample.message);
        assert_eq!(sample.bytes(), section.bytes);
    }
}

#[test]
fn the_batch_of_the_worked_session_fits_the_description_in_it() {
    let Some(described) = hex::read(&golden("session.hex")).into_iter().find(|s| s.name == "Described")
    else {
        panic!("the session has no Described");
    };
    let at = described.lines.iter().find(|line| line.field == "description").expect("the description").offset;
    let len = u32::from_le_bytes(described.bytes[40..44].try_into().unwrap()) as usize;
    let device = Description::decode(&described.bytes[at..at + len]).unwrap();
    assert_eq!(device, session::device());
    for job in session::batch().jobs {
        let operation = device.by_number(job.op).expect("the device has the operation");
        assert!(operation.operands.len() >= usize::from(job.operands));
        assert!(operation.params.len() >= usize::from(job.params));
    }
}

fn rendered_session() -> String {
    let mut dump = "# The worked session of SPEC.md, message by message: offset, bytes, field.\n".to_owned();
    for sample in session::messages() {
        let row = sample.message.row();
        // The first queue in a page brings the page.
        let attributes =
            [("from", sender_name(row.sender).to_owned()), ("fds", sample.message.fds().to_string())];
        dump.push('\n');
        dump.push_str(&hex::render(row.name, &attributes, &sample.bytes(), row));
    }
    dump
}

fn each_message(check: impl Fn(Link, &Row, &[Table])) {
    for link in Link::ALL {
        for row in link.table() {
            let part = part(&format!("{} {} {}", link.name(), row.opcode, row.name));
            check(link, row, &part.tables);
        }
    }
}

/// Offset, size, name and type of each row.
fn rows(table: &Table) -> Vec<[String; 4]> {
    let cells = ["offset", "size", "field", "type"];
    table.rows.iter().map(|row| cells.map(|column| table.cell(row, column).to_owned())).collect()
}

fn record(name: &str, fields: &[(&str, &str, usize)]) {
    let mut offset = 0;
    let mut is = Vec::new();
    for (field, kind, size) in fields {
        is.push([offset.to_string(), size.to_string(), (*field).to_owned(), (*kind).to_owned()]);
        offset += size;
    }
    assert_eq!(rows(part(&format!("record {name}")).table()), is, "record {name}");
}

/// Every value of the set is read as its name and written back; no other byte is read at all.
fn closed_set<T: Field + Debug>(name: &str) {
    let part = part(&format!("set {name}"));
    let table = part.table();
    let said: Vec<(u32, &str)> =
        table.rows.iter().map(|row| (number(table.cell(row, "value")), table.cell(row, "name"))).collect();
    let read = |byte: u8| T::take(&mut Reader::new(&[byte])).ok();
    let is: Vec<(u32, String)> = (0..=u8::MAX)
        .filter_map(|byte| read(byte).map(|value| (u32::from(byte), format!("{value:?}"))))
        .collect();
    assert_eq!(said, is.iter().map(|(value, name)| (*value, name.as_str())).collect::<Vec<_>>(), "{name}");
    for byte in 0..=u8::MAX {
        if let Some(value) = read(byte) {
            let mut w = Writer::new();
            value.put(&mut w);
            assert_eq!(w.into_bytes(), [byte]);
        }
    }
}

fn number(cell: &str) -> u32 {
    cell.parse().unwrap_or_else(|_| panic!("{cell} is no number"))
}

fn places(layout: &str) -> Vec<(&'static str, usize)> {
    let part = part(&format!("layout {layout}"));
    let table = part.table();
    let place = |row: &Vec<String>| {
        let name: &'static str = table.cell(row, "field").to_owned().leak();
        (name, table.cell(row, "offset").parse().expect("an offset"))
    };
    table.rows.iter().map(place).collect()
}

fn keys_said(topic: &str) -> BTreeSet<String> {
    part(&format!("topic {topic}")).table().column("key").into_iter().map(str::to_owned).collect()
}

fn keys<T: serde::Serialize>(value: &T) -> BTreeSet<String> {
    let json = serde_json::to_value(value).expect("an entry becomes JSON");
    json.as_object().expect("an entry is an object").keys().cloned().collect()
}
