//! Operands that another domain may write, and operands whose pages somebody takes away, for every operation.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

use vgem_driver::testing::{
    self, Peer, Random, Shared, beside, flip, is_mix, noise, noise_from, read, write_either,
};
use vgem_driver::{JobError, OperandBytes, ParamValue, Produced};
use vgem_driver_copy::CopyEngine;
use vgem_driver_copy::description::op;
use vgem_proto::error::ErrorCode;

use ParamValue::Number;

const LEN: usize = 300_000;
/// Three ranges that cover an operand, out of order.
const INDEX: [(usize, usize); 3] = [(200_000, 100_000), (0, 50_000), (50_000, 150_000)];
/// Rows of 300 bytes, without gaps in the output and with gaps of nothing in the input.
const ROWS: [ParamValue<'static>; 4] = [Number(300), Number(1000), Number(300), Number(300)];

fn index() -> Vec<u8> {
    let words = INDEX.iter().flat_map(|(offset, len)| [*offset as u64, *len as u64]);
    words.flat_map(u64::to_le_bytes).collect()
}

/// Runs an operation that moves all of `from` to `into`; gather and scatter in the order of [`INDEX`].
fn move_all(peer: Peer, op: u16, from: &Shared, into: &Shared) -> Result<Produced, JobError> {
    let index = index();
    let (params, operands) = match op {
        op::GATHER | op::SCATTER => (&[][..], vec![(0, from.input()), (1, read(&index)), (2, into.output())]),
        op::COPY2D => (&ROWS[..], vec![(0, from.input()), (1, into.output())]),
        _ => (&[][..], vec![(0, from.input()), (1, into.output())]),
    };
    testing::run(&CopyEngine, peer, op, params, &operands)
}

/// What [`move_all`] makes of bytes.
fn moved(op: u16, bytes: &[u8]) -> Vec<u8> {
    let range = |(at, len): (usize, usize)| &bytes[at..at + len];
    match op {
        op::GATHER => INDEX.map(range).concat(),
        op::SCATTER => {
            let (mut into, mut at) = (vec![0; LEN], 0);
            for (to, len) in INDEX {
                into[to..to + len].copy_from_slice(&bytes[at..at + len]);
                at += len;
            }
            into
        }
        _ => bytes.to_vec(),
    }
}

const MOVES: [u16; 4] = [op::COPY, op::COPY2D, op::GATHER, op::SCATTER];

#[test]
fn moves_stage_foreign_operands_both_ways_and_their_own_not_at_all() {
    let bytes = noise(LEN);
    let (from, into) = (Shared::of(&bytes), Shared::new(LEN));
    for op in MOVES {
        let index = if [op::GATHER, op::SCATTER].contains(&op) { index().len() as u64 } else { 0 };
        for (peer, staged) in Peer::ALL.into_iter().zip([0, 2 * LEN as u64]) {
            into.put(&[0; LEN]);
            let done = move_all(peer, op, &from, &into).expect("moved");
            assert_eq!((done.len, done.staged), (LEN as u64, staged + index), "{op} {peer:?}");
            assert!(into.bytes() == moved(op, &bytes), "{op} {peer:?}");
        }
    }
}

#[test]
fn a_fill_stages_a_foreign_output_and_its_own_not_at_all() {
    let into = Shared::new(LEN);
    for (peer, staged) in Peer::ALL.into_iter().zip([0, LEN as u64]) {
        let byte = if peer == Peer::OwnDomain { 3 } else { 4 };
        let done = testing::run(&CopyEngine, peer, op::FILL, &[Number(byte)], &[(0, into.output())]);
        assert_eq!(done.expect("filled").staged, staged);
        assert!(into.bytes().iter().all(|b| u64::from(*b) == byte), "{peer:?}");
    }
}

#[test]
fn a_foreign_copy_of_overlapping_operands_is_a_memmove() {
    for (from, into) in [(0, 100), (100, 0), (0, 100_000)] {
        let memory = Shared::of(&noise(LEN + 100_000));
        let wanted = memory.bytes()[from..from + LEN].to_vec();
        let part = |at| memory.span().sub(at, LEN).expect("inside");
        let operands = [(0, OperandBytes::Read(part(from).as_span())), (1, OperandBytes::Write(part(into)))];
        testing::run(&CopyEngine, Peer::OtherDomain, op::COPY, &[], &operands).expect("copied");
        assert!(memory.bytes()[into..into + LEN] == wanted[..], "from {from} to {into}");
    }
}

#[test]
fn what_is_moved_while_it_changes_was_there_at_some_moment() {
    let contents = [noise_from(1, LEN), noise_from(2, LEN)];
    let contents = [&contents[0][..], &contents[1]];
    for (op, peer) in MOVES.iter().flat_map(|op| Peer::ALL.map(|peer| (*op, peer))) {
        let (from, into) = (Shared::of(contents[0]), Shared::new(LEN));
        let wanted = contents.map(|bytes| moved(op, bytes));
        let harm = |random: &mut Random| write_either(from.span(), contents, random);
        let verdicts = beside(harm, || {
            let done = move_all(peer, op, &from, &into).is_ok();
            assert!(is_mix(&into.bytes(), [&wanted[0], &wanted[1]]), "{op} {peer:?}");
            done
        });
        assert_eq!(verdicts.failed, 0);
    }
}

/// Runs a job on two operands, of which one byte of the first is `a` or `b` at any time; all its results.
fn values(peer: Peer, op: u16, [a, b]: [u8; 2]) -> Vec<u64> {
    let (left, right) = (Shared::of(&noise(LEN)), Shared::of(&noise(LEN)));
    let mut values = Vec::new();
    let operands = match op {
        op::CRC32C => vec![(0, left.input())],
        _ => vec![(0, left.input()), (1, right.input())],
    };
    let harm =
        |random: &mut Random| left.span().copy_from(77_777, &[[a, b][random.below(2)]]).expect("inside");
    left.span().copy_from(77_777, &[a]).expect("inside");
    let verdicts = beside(harm, || {
        let done = testing::run(&CopyEngine, peer, op, &[Number(0)][..operands.len() - 1], &operands);
        values.extend(done.as_ref().map(|done| done.value));
        done.is_ok()
    });
    assert_eq!(verdicts.failed, 0);
    values.sort_unstable();
    values.dedup();
    values
}

#[test]
fn a_checksum_of_a_byte_that_changes_is_that_of_one_of_its_values() {
    let sum = |byte| {
        let mut bytes = noise(LEN);
        bytes[77_777] = byte;
        testing::run(&CopyEngine, Peer::OwnDomain, op::CRC32C, &[], &[(0, read(&bytes))])
            .expect("summed")
            .value
    };
    for peer in Peer::ALL {
        assert!(values(peer, op::CRC32C, [1, 2]).iter().all(|v| [sum(1), sum(2)].contains(v)), "{peer:?}");
    }
}

#[test]
fn a_comparison_with_a_byte_that_changes_says_where_it_is_or_that_there_is_no_difference() {
    let same = noise(LEN)[77_777];
    for peer in Peer::ALL {
        let values = values(peer, op::COMPARE, [same, !same]);
        assert!(values.iter().all(|v| [77_777, LEN as u64].contains(v)), "{peer:?}: {values:?}");
    }
}

#[test]
fn an_index_that_changes_moves_bytes_inside_the_operands_or_is_refused() {
    for (op, peer) in [op::GATHER, op::SCATTER].iter().flat_map(|op| Peer::ALL.map(|peer| (*op, peer))) {
        let whole = index();
        let (from, index, into) = (Shared::of(&[7; LEN]), Shared::of(&whole), Shared::new(LEN + 4096));
        let output = into.span().sub(0, LEN).expect("inside");
        let index_span = index.span().sub(0, whole.len()).expect("inside");
        let operands = [
            (0, from.input()),
            (1, OperandBytes::Read(index_span.as_span())),
            (2, OperandBytes::Write(output)),
        ];
        beside(
            |random| match random.below(4) {
                0 => index.put(&whole),
                _ => flip(index_span, random),
            },
            || match testing::run(&CopyEngine, peer, op, &[], &operands) {
                Ok(done) => done.len <= LEN as u64,
                Err(error) => {
                    assert!(
                        [ErrorCode::CorruptInput, ErrorCode::OutputTooSmall].contains(&error.code),
                        "{error}"
                    );
                    false
                }
            },
        );
        assert!(into.bytes()[LEN..].iter().all(|b| *b == 0), "{op} {peer:?}: bytes behind the output");
    }
}

#[test]
fn t19_pages_that_are_taken_away_meanwhile_are_zeros() {
    for (op, peer) in MOVES.iter().flat_map(|op| Peer::ALL.map(|peer| (*op, peer))) {
        let (from, into) = (Shared::of(&[7; LEN]), Shared::new(LEN));
        let harm = |random: &mut Random| {
            from.punch_somewhere(random);
            into.punch_somewhere(random);
            from.span().copy_from(random.below(LEN - 5000), &[7; 5000]).expect("inside");
        };
        let verdicts = beside(harm, || {
            let done = move_all(peer, op, &from, &into).is_ok();
            assert!(into.bytes().iter().all(|b| [0, 7].contains(b)), "{op} {peer:?}");
            done
        });
        assert_eq!(verdicts.failed, 0);
    }
}

#[test]
fn t19_looking_at_pages_that_are_taken_away_ends_with_an_answer() {
    for (op, peer) in [op::COMPARE, op::CRC32C, op::FILL].iter().flat_map(|op| Peer::ALL.map(|p| (*op, p))) {
        let (left, right) = (Shared::of(&[7; LEN]), Shared::of(&[7; LEN]));
        let operands = [(0, left.output()), (1, right.input())];
        let operands = if op == op::COMPARE { &operands[..] } else { &operands[..1] };
        let params = if op == op::CRC32C { &[][..] } else { &[Number(0)] };
        let verdicts = beside(
            |random| left.punch_somewhere(random),
            || testing::run(&CopyEngine, peer, op, params, operands).is_ok_and(|done| done.len <= LEN as u64),
        );
        assert_eq!(verdicts.failed, 0, "{op} {peer:?}");
    }
}
