//! What must hold of every message, not only of those we thought of.
//!
//! Readers survive anything: random bytes, and good messages with a few bytes changed, cut or added. What a
//! reader accepts, it would write in a form that it reads the same way.

mod support;

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use support::{Link, Message, golden, hex, sender_named};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, OperandSpec, Operation, ParamKind, ParamSpec, Touch};
use vgem_proto::ids::{CauseId, Handle, ObjectKey, Point, QueueHandle, Time, TimelineHandle, TimelineKey};
use vgem_proto::jobs::{DriverWait, Job, Operand, Param, ParamSource, Wait};
use vgem_proto::message::client::{ClientMessage, Submit};
use vgem_proto::message::driver::{DriverMessage, Run};
use vgem_proto::message::{Head, Sender};
use vgem_proto::rights::{Access, WaitKind};

const SENDERS: [Sender; 4] = [Sender::Client, Sender::Broker, Sender::Driver, Sender::Keeper];

/// Reads bytes as everything they could be; whatever is accepted must mean the same when written again.
fn read_as_everything(bytes: &[u8]) {
    for link in Link::ALL {
        for sender in SENDERS {
            for fds in 0..=2 {
                if let Ok((head, message)) = link.decode(bytes, sender, fds) {
                    let again = message.encode(head.request, head.deadline, head.flags);
                    assert_eq!(link.decode(&again, sender, fds).map(|(_, m)| m), Ok(message));
                }
            }
        }
    }
    let _request: u64 = Head::request_of(bytes);
    if let Ok(description) = Description::decode(bytes) {
        assert_eq!(Description::decode(&description.encode()), Ok(description));
    }
}

/// Every good golden message.
fn vectors() -> &'static [Vec<u8>] {
    static VECTORS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let files = ["client.hex", "driver.hex", "keeper.hex", "size_first.hex", "descriptions.hex"];
        files.iter().flat_map(|file| hex::read(&golden(file))).map(|section| section.bytes).collect()
    });
    &VECTORS
}

/// What may happen to bytes on their way.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Number(Index, u32),
}

fn change() -> impl Strategy<Value = Change> {
    let number = prop_oneof![Just(0), Just(1), Just(u32::MAX), Just(u32::MAX / 2), any::<u32>()];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), vec(any::<u8>(), 1..24)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<Index>(), number).prop_map(|(at, number)| Change::Number(at, number)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change], repair: bool) -> Vec<u8> {
    for change in changes {
        let len = bytes.len();
        match change {
            _ if len == 0 => {}
            Change::Set(at, byte) => bytes[at.index(len)] = *byte,
            Change::Cut(at) => bytes.truncate(at.index(len)),
            Change::Insert(at, new) => {
                bytes.splice(at.index(len)..at.index(len), new.iter().copied());
            }
            Change::Number(at, number) => {
                let at = at.index(len) / 4 * 4;
                for (place, byte) in bytes.iter_mut().skip(at).zip(number.to_le_bytes()) {
                    *place = byte;
                }
            }
        }
    }
    // Most changes spoil the size; with it repaired they reach further into the reader.
    if repair && bytes.len() >= 4 {
        let len = u32::try_from(bytes.len()).expect("a small message");
        bytes[..4].copy_from_slice(&len.to_le_bytes());
    }
    bytes
}

fn access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write)]
}

fn wait_kind() -> impl Strategy<Value = WaitKind> {
    prop_oneof![Just(WaitKind::Data), Just(WaitKind::Order)]
}

fn source() -> impl Strategy<Value = ParamSource> {
    prop_oneof![Just(ParamSource::Value), Just(ParamSource::Bytes), Just(ParamSource::Cell)]
}

fn key() -> impl Strategy<Value = (u32, u32)> {
    any::<(u32, u32)>()
}

prop_compose! {
    fn job()(
        queue in any::<u32>(), point in any::<u64>(), run_ns in any::<u64>(), cause in any::<u64>(),
        failed_code in any::<u32>(), small in any::<[u16; 5]>(),
    ) -> Job<QueueHandle> {
        let [op, flags, operands, params, waits] = small;
        Job {
            queue: QueueHandle(queue), point: Point(point), run_ns, failed_cause: CauseId(cause), failed_code,
            op, flags, operands, params, waits, reserved: Zero,
        }
    }
}

prop_compose! {
    fn operand()(
        object in any::<u32>(), cell in any::<u32>(), numbers in any::<[u64; 3]>(), small in any::<[u8; 3]>(),
        access in access(),
    ) -> Operand<Handle> {
        let ([offset, len, cell_offset], [number, cell_word, flags]) = (numbers, small);
        Operand {
            object: Handle(object), offset, len, cell_object: Handle(cell), cell_offset, number, cell_word,
            access, flags, reserved: Zero,
        }
    }
}

prop_compose! {
    fn param()(
        value in any::<u64>(), cell in any::<u32>(), max in any::<u64>(), len in any::<u32>(),
        number in any::<u16>(), source in source(), cell_word in any::<u8>(),
    ) -> Param<Handle> {
        Param { value, cell_object: Handle(cell), max, len, number, source, cell_word }
    }
}

prop_compose! {
    fn submit()(
        jobs in vec(job(), 0..20), operands in vec(operand(), 0..40), params in vec(param(), 0..40),
        waits in vec((any::<u32>(), any::<u64>(), wait_kind(), any::<u64>(), any::<u8>()), 0..40), bytes in vec(any::<u8>(), 0..300),
    ) -> Submit {
        let wait = |(timeline, point, kind, until, flags)| Wait {
            timeline: TimelineHandle(timeline),
            point: Point(point),
            until: Time(until),
            kind,
            flags,
            reserved: Zero,
        };
        Submit { jobs, operands, params, waits: waits.into_iter().map(wait).collect(), bytes }
    }
}

prop_compose! {
    fn run()(
        batch in submit(), keys in vec((key(), key()), 100),
        waits in vec((key(), any::<u64>(), any::<u16>(), any::<u16>(), wait_kind()), 0..40),
    ) -> Run {
        let object = |at: usize| ObjectKey { index: keys[at].0.0, generation: keys[at].0.1 };
        let timeline = |(index, generation)| TimelineKey { index, generation };
        let jobs = batch.jobs.iter().zip(&keys).map(|(job, key)| Job {
            queue: timeline(key.1), point: job.point, run_ns: job.run_ns, failed_cause: job.failed_cause,
            failed_code: job.failed_code, op: job.op, flags: job.flags, operands: job.operands,
            params: job.params, waits: job.waits, reserved: Zero,
        });
        let operands = batch.operands.iter().enumerate().map(|(at, o)| Operand {
            object: object(at), offset: o.offset, len: o.len, cell_object: object(at + 1),
            cell_offset: o.cell_offset, number: o.number, cell_word: o.cell_word, access: o.access,
            flags: o.flags, reserved: Zero,
        });
        let params = batch.params.iter().enumerate().map(|(at, p)| Param {
            value: p.value, cell_object: object(at), max: p.max, len: p.len, number: p.number,
            source: p.source, cell_word: p.cell_word,
        });
        let wait = |(key, point, page, slot, kind)| {
            DriverWait {
                timeline: timeline(key),
                point: Point(point),
                page,
                slot,
                kind,
                flags: 1,
                reserved: Zero,
            }
        };
        Run {
            jobs: jobs.collect(), operands: operands.collect(), params: params.collect(),
            waits: waits.into_iter().map(wait).collect(), bytes: batch.bytes.clone(),
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    "[a-zäß0-9_-]{0,20}"
}

fn operand_spec() -> impl Strategy<Value = OperandSpec> {
    let direction =
        prop_oneof![Just(Direction::In), Just(Direction::Out), Just(Direction::InOut), Just(Direction::Cell)];
    let touch = prop_oneof![Just(Touch::InPlace), Just(Touch::Windows)];
    (name(), direction, any::<bool>(), touch, 0u32..32, any::<(u64, u64)>()).prop_map(
        |(name, direction, required, touch, align, (a, b))| OperandSpec {
            name,
            direction,
            required,
            touch,
            align: 1 << align,
            len: (a.min(b), a.max(b)),
        },
    )
}

fn param_spec() -> impl Strategy<Value = ParamSpec> {
    let number = (any::<[u64; 3]>(), any::<bool>()).prop_map(|(mut numbers, has_default)| {
        numbers.sort_unstable();
        let [min, default, max] = numbers;
        ParamKind::Number { min, max, default: has_default.then_some(default) }
    });
    let choice = (vec(name(), 1..8), any::<Option<Index>>()).prop_map(|(words, default)| {
        let default = default.and_then(|place| u16::try_from(place.index(words.len())).ok());
        ParamKind::Choice { words, default }
    });
    let bytes = any::<(u32, bool)>().prop_map(|(max_len, required)| ParamKind::Bytes { max_len, required });
    (name(), name(), prop_oneof![number, choice, bytes]).prop_map(|(name, summary, kind)| ParamSpec {
        name,
        summary,
        kind,
    })
}

prop_compose! {
    fn operation(number: u16)(
        texts in [name(), name(), name()], idempotent in any::<bool>(), run_ms in any::<u32>(),
        operands in vec(operand_spec(), 0..=16), params in vec(param_spec(), 0..8),
    ) -> Operation {
        let [name, summary, value] = texts;
        Operation { number, name, summary, idempotent, run_ms, operands, params, value }
    }
}

prop_compose! {
    fn description()(
        texts in [name(), name()], executors in any::<u16>(), first in any::<u16>(),
        count in 0u16..6,
    )(
        operations in (0..count).map(|n| operation(first.wrapping_add(n))).collect::<Vec<_>>(),
        texts in Just(texts), executors in Just(executors),
    ) -> Description {
        let [name, summary] = texts;
        Description { name, summary, executors, operations }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_make_a_reader_panic(bytes in vec(any::<u8>(), 0..400)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn a_random_body_behind_a_good_head_never_makes_a_reader_panic(
        row in any::<Index>(), fixed in 0u16..80, body in vec(prop_oneof![Just(0u8), any::<u8>()], 0..300),
    ) {
        let rows: Vec<_> = Link::ALL.iter().flat_map(|link| link.table()).collect();
        let opcode = row.get(&rows).opcode;
        let mut bytes = vec![0; 32];
        bytes[4..6].copy_from_slice(&opcode.to_le_bytes());
        bytes[24..26].copy_from_slice(&fixed.to_le_bytes());
        bytes.extend(body);
        read_as_everything(&changed(bytes, &[], true));
    }

    #[test]
    fn a_changed_good_message_never_makes_a_reader_panic(
        vector in any::<Index>(), changes in vec(change(), 1..6), repair in any::<bool>(),
    ) {
        read_as_everything(&changed(vector.get(vectors()).clone(), &changes, repair));
    }

    #[test]
    fn every_batch_survives_the_client_link(batch in submit(), request in any::<u64>(), reply in 0u16..2) {
        let bytes = batch.encode(request, Time(request), reply);
        prop_assume!(bytes.len() <= vgem_proto::limits::MESSAGE_LEN);
        let (head, message) = ClientMessage::decode(&bytes, Sender::Client, 0).unwrap();
        prop_assert_eq!(message, ClientMessage::Submit(batch));
        prop_assert_eq!((head.request, head.flags, head.size as usize), (request, reply, bytes.len()));
    }

    #[test]
    fn every_batch_survives_the_driver_link(batch in run()) {
        let bytes = batch.encode(0, Time(0), 0);
        prop_assert_eq!(DriverMessage::decode(&bytes, Sender::Broker, 0).unwrap().1, DriverMessage::Run(batch));
    }

    #[test]
    fn every_cut_of_a_batch_is_refused(batch in submit(), cut in any::<Index>()) {
        let whole = Message::Client(batch.into()).encode(1, Time(0), 0);
        let cut = changed(whole.clone(), &[Change::Cut(cut)], true);
        prop_assert!(Link::Client.decode(&cut, sender_named("client"), 0).is_err());
    }

    // M-040
    #[test]
    fn every_description_survives_the_wire(description in description()) {
        prop_assert_eq!(Description::decode(&description.encode()), Ok(description));
    }

    // M-041
    #[test]
    fn every_cut_of_a_description_is_refused(description in description(), cut in any::<Index>()) {
        let whole = description.encode();
        prop_assert!(Description::decode(&whole[..cut.index(whole.len())]).is_err());
    }
}
