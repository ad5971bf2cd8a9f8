//! User queues: SPEC.md says what the code does, and the golden vectors are what both mean.
//!
//! `golden/user_queue.hex` has a header, entries, blocks and completions, and entries and blocks that are refused. To
//! write the good ones anew, run this with `GOLDEN=write`, and read the difference.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail by panicking, too")]

mod support;

use std::fmt::Write as _;
use std::fs;

use support::spec::{Table, part, text};
use support::{golden, hex};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, InstanceId, Point, Time};
use vgem_proto::jobs::ParamSource;
use vgem_proto::layout::user_queue as u;
use vgem_proto::user_queue::{
    Arguments, BATCH_ENTRIES, BLOCK_LEN, Batch, Block, Call, Completion, Depth, Entry, EntryFlags,
    FaultReason, Order, VaOperand, VaParam, VaRange, Window, Words, Work, encode_block, with_sequence,
};

/// Fields of a layout: name and bytes, in order.
type Fields = &'static [(&'static str, usize)];

const ENTRY: Fields = &[
    ("OP", 2),
    ("FLAGS", 2),
    ("SEQUENCE", 4),
    ("USER", 8),
    ("ADDRESS_0", 8),
    ("LEN_0", 8),
    ("ADDRESS_1", 8),
    ("LEN_1", 8),
    ("FIRST", 8),
    ("SECOND", 8),
];

const COMPLETION: Fields = &[
    ("CODE", 4),
    ("SEQUENCE", 4),
    ("USER", 8),
    ("POINT", 8),
    ("PRODUCED", 8),
    ("VALUE", 8),
    ("CAUSE", 8),
    ("ADDRESS", 8),
    ("ENDED", 8),
];

const HEADER: &[(&str, usize, usize)] = &[
    ("MAGIC", u::H_MAGIC, 4),
    ("VERSION", u::H_VERSION, 2),
    ("SLOT_LEN", u::H_SLOT_LEN, 2),
    ("DEPTH", u::H_DEPTH, 4),
    ("C_DOORBELL", u::C_DOORBELL, 4),
    ("C_ASLEEP", u::C_ASLEEP, 4),
    ("C_RANG", u::C_RANG, 8),
    ("C_REAPED", u::C_REAPED, 8),
    ("C_LIGHT", u::C_LIGHT, 4),
    ("C_HEAVY", u::C_HEAVY, 4),
    ("D_DOORBELL", u::D_DOORBELL, 4),
    ("D_ASLEEP", u::D_ASLEEP, 4),
    ("D_RANG", u::D_RANG, 8),
    ("D_STATE", u::D_STATE, 4),
    ("D_REASON", u::D_REASON, 4),
    ("D_CAUSE", u::D_CAUSE, 8),
    ("D_AT", u::D_AT, 8),
    ("D_FOUND", u::D_FOUND, 8),
    ("D_LIGHT", u::D_LIGHT, 4),
    ("D_HEAVY", u::D_HEAVY, 4),
    ("B_DEATH_CODE", u::B_DEATH_CODE, 4),
    ("B_DEATH_CAUSE", u::B_DEATH_CAUSE, 8),
];

/// One good value, with the number of the slot that it is in; 0 is in no ring.
enum Good {
    Entry(Entry, u64),
    Block(Vec<VaOperand>, Vec<VaParam>),
    Completion(Completion, u64),
}

fn range(address: u64, len: u64) -> Option<VaRange> {
    VaRange::new(address, len).ok()
}

fn call(op: u16, operands: [Option<VaRange>; 2], arguments: Arguments) -> Work {
    Work::Call(Call { op, operands, arguments })
}

fn entry(user: u64, order: Order, work: Work, number: u64) -> Good {
    Good::Entry(Entry { user, order, work }, number)
}

fn operand(number: u8, address: u64, len: u64) -> VaOperand {
    VaOperand { address, len, cell: 0, number, cell_word: 0, reserved: Zero }
}

fn param(number: u16, value: u64) -> VaParam {
    VaParam { value, max: 0, len: 0, number, source: ParamSource::Value, cell_word: 0 }
}

/// Every shape of entry, block and completion, by operations of the devices that ship.
fn goods() -> Vec<(&'static str, Good)> {
    let free = Order::empty();
    let (input, output) = (range(0x7f00_0000_1000, 4096), range(0x7f00_0000_9000, 8192));
    let block = |len| Arguments::Block(VaRange::new(0x7f00_0001_0000, len).unwrap());
    let inline = |first, second| Arguments::Inline { first, second };
    let lot = |batch: Result<Batch, _>| Work::Batch(batch.unwrap());
    let done = Completion {
        user: 11,
        point: Point(1),
        produced: 4096,
        value: 0,
        failure: None,
        address: 0,
        ended: Time(1_000_000_000),
    };
    let cause = CauseId::new(InstanceId(3), 7);
    let failed =
        |code, value| Completion { produced: 0, value, failure: Some(Failure { code, cause }), ..done };
    let from_cell = VaParam { value: 0x7f00_0002_0040, max: 22, source: ParamSource::Cell, ..param(1, 0) };
    let bytes = VaParam { value: 0x7f00_0002_0100, len: 9, source: ParamSource::Bytes, ..param(2, 0) };
    let indirect = VaOperand { cell: 0x7f00_0002_0000, ..operand(0, 0x7f00_0000_9000, 8192) };
    let key_and_aad = vec![operand(2, 0x7f00_0003_0000, 32), operand(3, 0x7f00_0003_0040, 12)];
    let strides = [64, 16, 4096, 64].into_iter().zip(0..).map(|(value, number)| param(number, value));
    vec![
        ("copy", entry(11, free, call(0, [input, output], Arguments::NONE), 1)),
        ("fill with a byte", entry(12, free, call(1, [output, None], inline(Some(0xa5), None)), 2)),
        ("compress", entry(13, Order::BARRIER, call(0, [input, output], inline(Some(1), Some(19))), 3)),
        ("copy a rectangle", entry(14, free, call(4, [input, output], block(104)), 4)),
        ("its block", Good::Block(vec![], strides.collect())),
        ("seal, chained", entry(15, Order::CHAIN, call(0, [None, output], block(128)), (1 << 32) + 5)),
        ("its block", Good::Block([vec![indirect], key_and_aad].concat(), vec![param(0, 1)])),
        ("a block with everything", Good::Block(vec![indirect], vec![from_cell, bytes])),
        ("chain and barrier", entry(16, Order::all(), call(3, [range(0x1000, 0), None], Arguments::NONE), 6)),
        ("a batch", entry(17, free, lot(Batch::new(0x7f00_0004_0000, 256)), 7)),
        ("in a batch", entry(0, free, call(1, [output, None], Arguments::NONE), 0)),
        ("ok", Good::Completion(done, 1)),
        ("refused for its flags", Good::Completion(failed(ErrorCode::UnknownFlag, 0x8000), 2)),
        (
            "an address that is not bound",
            Good::Completion(
                Completion {
                    address: 0x7f00_0000_1000,
                    ..failed(ErrorCode::AddressFault, FaultReason::Unbound.number())
                },
                (1 << 32) + 3,
            ),
        ),
    ]
}

fn bytes_of(words: &Words, number: u64) -> Vec<u8> {
    let [first, rest @ ..] = words;
    let first = if number == 0 { *first } else { with_sequence(*first, number) };
    std::iter::once(first).chain(rest.iter().copied()).flat_map(u64::to_le_bytes).collect()
}

fn words_of(bytes: &[u8]) -> Words {
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight)).collect();
    words.try_into().expect("64 bytes")
}

/// Kind, bytes and fields of a good value.
fn dump(good: &Good) -> (&'static str, Vec<u8>, Vec<(String, usize)>) {
    let named = |fields: Fields| fields.iter().map(|(name, len)| ((*name).to_owned(), *len)).collect();
    match good {
        Good::Entry(entry, number) => ("entry", bytes_of(&entry.encode(), *number), named(ENTRY)),
        Good::Completion(completion, number) => {
            ("completion", bytes_of(&completion.encode(), *number), named(COMPLETION))
        }
        Good::Block(operands, params) => {
            let mut fields = vec![
                ("operand count".to_owned(), 2),
                ("parameter count".to_owned(), 2),
                ("zero".to_owned(), 4),
            ];
            let of = |prefix: String, record: &[(&str, &str, usize)]| {
                let field = |(name, _, len): &(&str, &str, usize)| (format!("{prefix}.{name}"), *len);
                record.iter().map(field).collect::<Vec<_>>()
            };
            (0..operands.len()).for_each(|i| fields.extend(of(format!("operands[{i}]"), VaOperand::FIELDS)));
            (0..params.len()).for_each(|i| fields.extend(of(format!("params[{i}]"), VaParam::FIELDS)));
            ("block", encode_block(operands, params).unwrap(), fields)
        }
    }
}

fn section(name: &str, kind: &str, bytes: &[u8], fields: &[(String, usize)]) -> String {
    let mut text = format!("\n[{name}]\nkind: {kind}\n");
    let mut at = 0;
    for (field, len) in fields {
        let hex: String = bytes[at..at + len].iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{at:04x}  {hex:<16}  {field}").expect("a String takes everything");
        at += len;
    }
    assert_eq!(at, bytes.len(), "{name}");
    text
}

/// The first line of the header of a queue of 256 entries.
fn header() -> Vec<u8> {
    let mut bytes = u::MAGIC.to_le_bytes().to_vec();
    bytes.extend(u::VERSION.to_le_bytes());
    bytes.extend(u16::try_from(u::SLOT_LEN).unwrap().to_le_bytes());
    bytes.extend(256_u32.to_le_bytes());
    bytes
}

fn rendered() -> String {
    let mut text =
        "# User queues: offset, bytes, field. SPEC.md chapters 7.7 and 8.5 say what the fields mean;\n\
        # tests/user_queue.rs has the values. What is to be refused is at the end, with the reason.\n"
            .to_owned();
    let fields: Vec<_> = HEADER.iter().take(4).map(|(name, _, len)| ((*name).to_owned(), *len)).collect();
    text += &section("header of 256 entries", "header", &header(), &fields);
    for (name, good) in goods() {
        let (kind, bytes, fields) = dump(&good);
        text += &section(name, kind, &bytes, &fields);
    }
    text
}

fn is_bad(section: &hex::Section) -> bool {
    section.attributes.iter().any(|(key, _)| key == "error")
}

// M-152
#[test]
fn every_value_is_written_and_read_as_its_golden_vector() {
    let path = golden("user_queue.hex");
    let file = fs::read_to_string(&path).unwrap_or_default();
    let bad = file.find("\n# Refused").map_or("", |at| &file[at..]);
    if std::env::var_os("GOLDEN").is_some_and(|wish| wish == "write") {
        fs::write(&path, rendered() + bad).expect("the golden folder can be written");
    }
    let file = fs::read_to_string(&path).unwrap();
    assert!(file.starts_with(&rendered()), "user_queue.hex has other good vectors");
    let sections = hex::read(&path);
    let good = sections.iter().filter(|section| !is_bad(section)).skip(1);
    for (section, (name, good)) in good.zip(goods()) {
        assert_eq!(section.name, name);
        match good {
            Good::Entry(entry, 0) => {
                assert_eq!(Entry::decode_in_batch(&words_of(&section.bytes), 0), Ok(entry));
            }
            Good::Entry(entry, _) => assert_eq!(Entry::decode(&words_of(&section.bytes)), Ok(entry)),
            Good::Completion(completion, _) => {
                assert_eq!(Completion::decode(&words_of(&section.bytes)), completion);
            }
            Good::Block(operands, params) => {
                let block = Block::decode(&section.bytes).unwrap();
                assert!(block.operands().eq(operands) && block.params().eq(params));
            }
        }
    }
}

// M-152, M-157
#[test]
fn every_bad_vector_is_refused_for_its_reason() {
    let sections = hex::read(&golden("user_queue.hex"));
    let bad: Vec<_> = sections.iter().filter(|section| is_bad(section)).collect();
    assert!(bad.len() >= 12, "only {} bad vectors", bad.len());
    for section in bad {
        let reason = match section.attribute("kind") {
            "entry" => Entry::decode(&words_of(&section.bytes)).err().map(|e| format!("{e:?}")),
            "first of a batch" => {
                Entry::decode_in_batch(&words_of(&section.bytes), 0).err().map(|e| format!("{e:?}"))
            }
            "block" => Block::decode(&section.bytes).err().map(|e| format!("{e:?}")),
            other => panic!("no kind {other}"),
        };
        assert_eq!(reason.as_deref(), Some(section.attribute("error")), "[{}]", section.name);
    }
}

#[test]
fn the_layouts_of_the_specification_are_those_of_the_code() {
    let header: Vec<_> = HEADER.iter().map(|(name, at, len)| row(*at, *len, name)).collect();
    assert_eq!(rows("layout user queue"), header);
    for (layout, fields) in [("layout entry", ENTRY), ("layout completion", COMPLETION)] {
        let mut at = 0;
        let mut is = Vec::new();
        for (name, len) in fields {
            is.push(row(at, *len, name));
            at += len;
        }
        assert_eq!((rows(layout), at), (is, u::SLOT_LEN));
    }
    for (record, fields) in
        [("VaOperand", VaOperand::FIELDS), ("VaParam", VaParam::FIELDS), ("Window", Window::FIELDS)]
    {
        let mut at = 0;
        let mut is = Vec::new();
        for (name, _, len) in fields {
            is.push(row(at, *len, name));
            at += len;
        }
        assert_eq!(rows(&format!("record {record}")), is);
    }
}

#[test]
fn the_flags_and_reasons_of_the_specification_are_those_of_the_code() {
    let flags = EntryFlags::all().iter_names().map(|(name, flag)| (u64::from(flag.bits()), name.to_owned()));
    assert_eq!(values("bits EntryFlags"), flags.collect::<Vec<_>>());
    let reasons = FaultReason::ALL.map(|reason| (reason.number(), format!("{reason:?}")));
    assert_eq!(values("codes of faults"), reasons);
}

#[test]
fn the_numbers_in_the_prose_about_user_queues_are_those_of_the_code() {
    let text = text();
    let sentences = [
        format!("{:#010x}, \"VGUQ\"", u::MAGIC),
        format!("DEPTH is a power of two from {} to {}.", u::DEPTH_LEAST, u::DEPTH_MOST),
        format!("a header of {} bytes", u::HEADER_LEN),
        format!("DEPTH **submissions** of {} bytes from byte {} on", u::SLOT_LEN, u::SUBMISSIONS),
        format!("how many entries, 1 to {BATCH_ENTRIES}."),
        format!("the block's bytes, 8 to {BLOCK_LEN}."),
    ];
    let missing: Vec<_> = sentences.iter().filter(|sentence| !text.contains(sentence.as_str())).collect();
    assert!(missing.is_empty(), "SPEC.md lacks {missing:?}");
    let depth = Depth::new(256).unwrap();
    assert_eq!(depth.memory_len(), 4096 + 2 * 256 * 64);
}

fn row(at: usize, len: usize, name: &str) -> [String; 3] {
    [at.to_string(), len.to_string(), name.to_owned()]
}

/// Offset, size and field of each row.
fn rows(heading: &str) -> Vec<[String; 3]> {
    let part = part(heading);
    let table: &Table = part.table();
    let cells = |row: &Vec<String>| ["offset", "size", "field"].map(|c| table.cell(row, c).to_owned());
    table.rows.iter().map(cells).collect()
}

fn values(heading: &str) -> Vec<(u64, String)> {
    let part = part(heading);
    let table = part.table();
    let value = |row: &Vec<String>| {
        (table.cell(row, "value").parse().expect("a number"), table.cell(row, "name").to_owned())
    };
    table.rows.iter().map(value).collect()
}
