//! Golden vectors: bytes that every version of this protocol must read and write, for every message of every link.
//!
//! `golden/client.hex`, `driver.hex`, `keeper.hex`, `porter.hex` and `control.hex` have one good message per row of the tables; `bad.hex` has
//! bytes that are refused, with the reason; `size_first.hex` has bytes of shorter and longer versions with what
//! they mean; `descriptions.hex` has descriptions, good and bad. To write the good ones anew after a change of
//! the wire, run this with `GOLDEN=write`, and read the difference.

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use support::{Link, Message, Sample, golden, hex, samples, sender_name, sender_named};
use vgem_proto::codec::HEAD_LEN;
use vgem_proto::describe::Description;
use vgem_proto::message::Head;

const TOP: &str = "# Good messages of one link, one per row of its table: offset, bytes, field.\n\
    # SPEC.md says what the fields mean; tests/golden.rs has the values.\n";

/// The golden file that the samples of a link make.
fn rendered(link: Link) -> String {
    let mut text = TOP.to_owned();
    for sample in samples::of(link) {
        let row = sample.message.row();
        let from = sender_name(row.sender).to_owned();
        let attributes = [("from", from), ("fds", sample.message.fds().to_string())];
        write!(text, "\n{}", hex::render(row.name, &attributes, &sample.bytes(), row))
            .expect("a String takes everything");
    }
    text
}

fn with_vectors(mut check: impl FnMut(&Sample, &hex::Section)) {
    for link in Link::ALL {
        let path = golden(&format!("{}.hex", link.name()));
        if std::env::var_os("GOLDEN").is_some_and(|wish| wish == "write") {
            fs::write(&path, rendered(link)).expect("the golden folder can be written");
        }
        let sections = hex::read(&path);
        let samples = samples::of(link);
        assert_eq!(sections.len(), samples.len(), "{}", path.display());
        for (sample, section) in samples.iter().zip(&sections) {
            assert_eq!(sample.name(), section.name, "{}", path.display());
            check(sample, section);
        }
    }
}

// M-002
#[test]
fn every_value_is_written_as_its_golden_vector() {
    with_vectors(|sample, section| assert_eq!(sample.bytes(), section.bytes, "{}", section.name));
}

// M-002
#[test]
fn every_golden_vector_is_read_as_its_value() {
    with_vectors(|sample, section| {
        let sender = sender_named(section.attribute("from"));
        let (head, message) = sample.link().decode(&section.bytes, sender, section.fds()).unwrap();
        assert_eq!(message, sample.message);
        assert_eq!(
            (head.request, head.deadline, head.flags),
            (sample.request, sample.deadline, sample.flags)
        );
    });
}

#[test]
fn every_line_of_a_golden_vector_names_the_field_that_the_table_has_there() {
    for link in Link::ALL {
        let found = fs::read_to_string(golden(&format!("{}.hex", link.name()))).unwrap();
        assert_eq!(found, rendered(link), "{}.hex", link.name());
    }
}

#[test]
fn every_row_of_the_tables_has_a_vector_and_no_array_of_it_is_empty() {
    for link in Link::ALL {
        let sections = hex::read(&golden(&format!("{}.hex", link.name())));
        for row in link.table() {
            let section = sections.iter().find(|section| section.name == row.name);
            let section = section.unwrap_or_else(|| panic!("{} has no golden vector", row.name));
            for (array, _) in row.arrays {
                let has = |line: &hex::Line| {
                    line.field.strip_prefix(array).is_some_and(|rest| !rest.starts_with(' '))
                };
                assert!(section.lines.iter().any(has), "{}: no element of {array}", row.name);
            }
        }
    }
}

// M-001, M-003, M-004, M-005, M-006, M-009, M-010, M-011, M-013, M-014
#[test]
fn every_bad_vector_is_refused_for_its_reason() {
    for section in hex::read(&golden("bad.hex")) {
        let link = Link::named(section.attribute("link"));
        let refused = link.decode(&section.bytes, sender_named(section.attribute("from")), section.fds());
        let reason = refused.err().map(|malformed| format!("{malformed:?}"));
        assert_eq!(reason.as_deref(), Some(section.attribute("error")), "[{}]", section.name);
    }
}

#[test]
fn every_reason_and_every_closed_set_has_a_bad_vector() {
    let reasons: BTreeSet<String> = ["bad.hex", "descriptions.hex"]
        .iter()
        .flat_map(|file| hex::read(&golden(file)))
        .filter(|section| section.attributes.iter().any(|(key, _)| key == "error"))
        .map(|section| section.attribute("error").to_owned())
        .collect();
    let wanted = [
        "Short {",
        "SizeMismatch {",
        "Trailing {",
        "NonZeroTail",
        "UnknownOpcode(",
        "UnknownFlags(",
        "TooMany {",
        "NotText {",
        "WrongFds {",
        "BadValue { field: \"access\"",
        "BadValue { field: \"wait kind\"",
        "BadValue { field: \"parameter source\"",
        "BadValue { field: \"huge pages\"",
        "BadValue { field: \"rights\"",
        "BadValue { field: \"topic\"",
        "BadValue { field: \"handle\"",
        "BadValue { field: \"direction\"",
        "BadValue { field: \"touch\"",
        "BadValue { field: \"parameter kind\"",
    ];
    let missing: Vec<_> = wanted.iter().filter(|w| !reasons.iter().any(|r| r.starts_with(**w))).collect();
    assert!(missing.is_empty(), "no bad vector for {missing:?}");
}

// M-007, M-008, M-009
#[test]
fn messages_of_shorter_and_longer_versions_mean_what_they_say() {
    let sections = hex::read(&golden("size_first.hex"));
    assert!(sections.len() >= 8, "only {} vectors", sections.len());
    for section in sections {
        let link = Link::named(section.attribute("link"));
        let sender = sender_named(section.attribute("from"));
        let read = |bytes: &[u8]| link.decode(bytes, sender, section.fds()).map(|(_, message)| message);
        let canonical = hex::bytes(section.attribute("means"));
        let meant: Message = read(&canonical).unwrap();
        assert_eq!(read(&section.bytes), Ok(meant), "[{}]", section.name);
    }
}

// M-040, M-041
#[test]
fn every_description_is_read_or_refused_as_its_vector_says() {
    let sections = hex::read(&golden("descriptions.hex"));
    let good = sections.iter().find(|section| section.name == "everything").unwrap();
    assert_eq!(Description::decode(&good.bytes), Ok(samples::description()));
    assert_eq!(samples::description().encode(), good.bytes);
    for section in sections.iter().filter(|section| section.name != "everything") {
        let reason = Description::decode(&section.bytes).err().map(|malformed| format!("{malformed:?}"));
        assert_eq!(reason.as_deref(), Some(section.attribute("error")), "[{}]", section.name);
    }
}

// M-019
#[test]
fn the_request_id_of_bytes_that_are_no_message_is_still_found() {
    for section in hex::read(&golden("bad.hex")) {
        let stands = section.bytes.get(8..16).filter(|_| section.bytes.len() >= HEAD_LEN);
        let stands = stands.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
        assert_eq!(Head::request_of(&section.bytes), stands, "[{}]", section.name);
    }
}
