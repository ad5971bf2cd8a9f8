//! Golden files: sections of annotated bytes.
//!
//! ```text
//! # a comment
//! [name of the section]
//! attribute: value
//! 0020  0100              version_min
//! ```
//!
//! A line of bytes is the offset in hexadecimal, the bytes, and the field they are; the field's name is for people
//! and for the test that holds it to SPEC.md. Lines of a section follow one another without a gap.

use std::fs;
use std::path::Path;

use vgem_proto::codec::HEAD_LEN;
use vgem_proto::jobs::{Completion, DriverWait, Job, ObservedPoint, Operand, Param, PoisonedRange, Wait};
use vgem_proto::message::Row;

/// One section of a golden file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) lines: Vec<Line>,
}

/// One line of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) offset: usize,
    pub(crate) len: usize,
    pub(crate) field: String,
}

impl Section {
    pub(crate) fn attribute(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map_or_else(|| panic!("[{}] has no {name}", self.name), |(_, value)| value)
    }

    pub(crate) fn fds(&self) -> usize {
        self.attribute("fds").parse().expect("a number of fds")
    }
}

/// The sections of a file.
pub(crate) fn read(path: &Path) -> Vec<Section> {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    parse(&text)
}

pub(crate) fn parse(text: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.push(Section { name: name.to_owned(), ..Section::default() });
            continue;
        }
        let section = sections.last_mut().unwrap_or_else(|| panic!("before any section: {line}"));
        if let Some((key, value)) = line.split_once(": ") {
            section.attributes.push((key.to_owned(), value.to_owned()));
            continue;
        }
        let mut words = line.split_whitespace();
        let offset =
            usize::from_str_radix(words.next().expect("an offset"), 16).expect("a hexadecimal offset");
        let bytes = bytes(words.next().unwrap_or_else(|| panic!("no bytes: {line}")));
        assert_eq!(offset, section.bytes.len(), "[{}] has a gap before: {line}", section.name);
        let field = words.collect::<Vec<_>>().join(" ");
        section.lines.push(Line { offset, len: bytes.len(), field });
        section.bytes.extend(bytes);
    }
    sections
}

/// The bytes that a word of hexadecimal digits stands for.
pub(crate) fn bytes(word: &str) -> Vec<u8> {
    assert!(word.len().is_multiple_of(2), "{word} is not whole bytes");
    (0..word.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap_or_else(|e| panic!("{word}: {e}")))
        .collect()
}

/// A section of a golden file for the message in `bytes`, line by line as `row` says.
pub(crate) fn render(name: &str, attributes: &[(&str, String)], bytes: &[u8], row: &Row) -> String {
    let mut text = format!("[{name}]\n");
    for (key, value) in attributes {
        text.push_str(&format!("{key}: {value}\n"));
    }
    let mut at = 0;
    for (field, len) in fields(row, bytes) {
        let end = at + len;
        // Long fields go over several lines.
        while at < end {
            let part = (end - at).min(16);
            let hex: String = bytes[at..at + part].iter().map(|b| format!("{b:02x}")).collect();
            text.push_str(&format!("{at:04x}  {hex:<32}  {field}\n"));
            at += part;
        }
    }
    assert_eq!(at, bytes.len(), "{name}: the row describes {at} bytes");
    text
}

/// The fields of the head, in order.
pub(crate) const HEAD: [(&str, usize); 7] =
    [("size", 4), ("opcode", 2), ("flags", 2), ("request", 8), ("deadline", 8), ("fixed", 2), ("zero", 6)];

/// The fields of a message that its row describes, with their lengths, as `bytes` has them.
pub(crate) fn fields(row: &Row, bytes: &[u8]) -> Vec<(String, usize)> {
    let mut fields: Vec<(String, usize)> =
        HEAD.iter().map(|(name, len)| ((*name).to_owned(), *len)).collect();
    fields.extend(row.fields.iter().map(|(name, len)| ((*name).to_owned(), *len)));
    let mut at = HEAD_LEN + row.fields.iter().map(|(_, len)| len).sum::<usize>();
    let mut counts = Vec::new();
    for (name, _) in row.arrays {
        fields.push((format!("{name} count"), 4));
        fields.push((format!("{name} stride"), 4));
        let count: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
        counts.push(u32::from_le_bytes(count) as usize);
        at += 8;
    }
    pad(&mut fields, &mut at);
    for (((name, stride), element), count) in row.arrays.iter().zip(row.elements).zip(counts) {
        if let Some(record) = record(element) {
            for number in 0..count {
                let part =
                    |(field, _, len): &(&str, &str, usize)| (format!("{name}[{number}].{field}"), *len);
                fields.extend(record.iter().map(part));
            }
        } else if *element == "u8" {
            fields.push(((*name).to_owned(), count));
        } else {
            fields.extend((0..count).map(|number| (format!("{name}[{number}]"), *stride)));
        }
        at += count * stride;
        pad(&mut fields, &mut at);
    }
    fields
}

fn pad(fields: &mut Vec<(String, usize)>, at: &mut usize) {
    let padding = at.next_multiple_of(8) - *at;
    if padding > 0 {
        fields.push(("padding".to_owned(), padding));
    }
    *at += padding;
}

type Fields = &'static [(&'static str, &'static str, usize)];

/// The fields of a record, by the name of its type.
pub(crate) fn record(element: &str) -> Option<Fields> {
    use vgem_proto::ids::{Handle, ObjectKey, QueueHandle, TimelineKey};
    match element {
        "ClientJob" => Some(Job::<QueueHandle>::FIELDS),
        "ClientOperand" => Some(Operand::<Handle>::FIELDS),
        "ClientParam" => Some(Param::<Handle>::FIELDS),
        "Wait" => Some(Wait::FIELDS),
        "DriverJob" => Some(Job::<TimelineKey>::FIELDS),
        "DriverOperand" => Some(Operand::<ObjectKey>::FIELDS),
        "DriverParam" => Some(Param::<ObjectKey>::FIELDS),
        "DriverWait" => Some(DriverWait::FIELDS),
        "Completion" => Some(Completion::FIELDS),
        "ObservedPoint" => Some(ObservedPoint::FIELDS),
        "PoisonedRange" => Some(PoisonedRange::FIELDS),
        _ => None,
    }
}
