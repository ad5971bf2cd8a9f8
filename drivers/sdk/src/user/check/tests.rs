//! What an entry is refused for, with which code and value; and what an engine sees of one that is right.

use std::sync::Arc;

use vgem_os::mapping::Mapping;
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Operation, Touch};
use vgem_proto::user_queue::{FaultReason, encode_block};

use super::super::space::BoundRange;
use super::*;
use crate::operands::Operations;

/// Writable, 8 KiB. Behind it 4 KiB that may only be read, of another domain.
const BASE: u64 = 0x10_0000;
const READ_ONLY: u64 = BASE + 0x2000;

fn operations() -> Operations {
    let mut look = Operation::new(3, "look", "looks")
        .operand("input", Direction::In, Touch::InPlace)
        .len_between(1, 100)
        .operand("output", Direction::Out, Touch::InPlace)
        .optional()
        .operand("both", Direction::InOut, Touch::Windows)
        .optional()
        .number("n", "a number", 5, 1000, Some(7))
        .choice("word", "a word", &["a", "b", "c"], None)
        .bytes("name", "a name", 20, false)
        .with_result("nothing");
    look.operands[1].align = 16;
    Operations::new(&Description::new("looker", "looks", 1).operation(look))
}

fn space() -> (AddressSpace, Arc<Mapping>) {
    let mapping = Arc::new(Mapping::anonymous(0x3000).expect("memory"));
    let mut space = AddressSpace::default();
    let range = |address, offset, len, access| BoundRange {
        addresses: VaRange::new(address, len).expect("addresses"),
        object: ObjectKey { index: 4, generation: 2 },
        offset,
        access,
        foreign: access == Access::Read,
        mapping: Arc::clone(&mapping),
    };
    space.bind(range(BASE, 0, 0x2000, Access::Write)).expect("free");
    space.bind(range(READ_ONLY, 0x2000, 0x1000, Access::Read)).expect("free");
    (space, mapping)
}

fn operand(number: u8, address: u64, len: u64) -> VaOperand {
    VaOperand { address, len, cell: 0, number, cell_word: 0, reserved: Zero }
}

fn value(number: u16, value: u64) -> VaParam {
    VaParam { value, max: 0, len: 0, number, source: ParamSource::Value, cell_word: 0 }
}

/// The two that must be there.
fn input() -> VaOperand {
    operand(0, BASE, 8)
}
const WORD: VaParam =
    VaParam { value: 1, max: 0, len: 0, number: 1, source: ParamSource::Value, cell_word: 0 };

/// Resolves an entry whose operands and parameters are all in a block, and has `see` look at what comes of it.
fn resolved<T>(
    operands: &[VaOperand],
    params: &[VaParam],
    see: impl FnOnce(&Resolved<'_>, &Mapping) -> T,
) -> Result<T, Flaw> {
    let ((space, mapping), operations) = (space(), operations());
    let span = mapping.span_mut().expect("writable");
    span.write_u64(0x1000 + 8 * 2, 6).expect("inside");
    span.copy_from(0x1100, b"a name").expect("inside");
    let block = encode_block(operands, params).expect("not too many");
    let block = Block::decode(&block)?;
    let arguments = Arguments::Block(VaRange::new(BASE, 8)?);
    let call = Call { op: 3, operands: [None; 2], arguments };
    let given = Given { call: &call, block: Some(&block) };
    let prepared = operations.by_number(3).expect("it is described");
    let (mut bytes, mut stage) = (Vec::new(), Stage::new(Arc::default()));
    let mut resolved = Resolved::default();
    resolve(&space, prepared, &given, (&mut bytes, &mut stage), &mut resolved)?;
    Ok(see(&resolved, &mapping))
}

fn refused(operands: &[VaOperand], params: &[VaParam]) -> (ErrorCode, u64) {
    let flaw = resolved(operands, params, |_, _| ()).expect_err("it is refused");
    assert!(!flaw.text.is_empty());
    (flaw.code, flaw.value)
}

#[test]
fn operands_are_checked_as_a_jobs_are() {
    let with = |operand| refused(&[input(), operand], &[WORD]);
    assert_eq!(refused(&[], &[WORD]), (ErrorCode::BadOperand, 0), "the input is missing");
    assert_eq!(with(operand(4, BASE, 8)), (ErrorCode::BadOperand, 4), "there is no such operand");
    assert_eq!(with(operand(255, BASE, 8)), (ErrorCode::BadOperand, 255));
    assert_eq!(with(operand(0, BASE, 8)), (ErrorCode::BadOperand, 0), "given twice");
    assert_eq!(refused(&[operand(0, BASE, 0)], &[WORD]), (ErrorCode::OutOfRange, 0));
    assert_eq!(refused(&[operand(0, BASE, 101)], &[WORD]), (ErrorCode::OutOfRange, 101));
    assert_eq!(with(operand(1, BASE + 24, 8)), (ErrorCode::Misaligned, 24));
    assert_eq!(with(operand(3, BASE + 64, 63)), (ErrorCode::OutOfRange, 63), "a cell has 64 bytes");
    assert_eq!(with(operand(3, BASE + 32, 64)), (ErrorCode::Misaligned, 32), "a cell is aligned");
}

#[test]
fn parameters_are_checked_as_a_jobs_are() {
    let with = |param| refused(&[input()], &[WORD, param]);
    let bad = ErrorCode::BadParameter;
    assert_eq!(refused(&[input()], &[]), (bad, 1), "the word is missing");
    assert_eq!(with(value(3, 1)), (bad, 3), "there is no such parameter");
    assert_eq!(with(value(1, 1)), (bad, 1), "given twice");
    assert_eq!([4, 1001].map(|n| with(value(0, n))), [(bad, 4), (bad, 1001)]);
    assert_eq!(refused(&[input()], &[value(1, 3)]), (bad, 3), "there are three words");
    assert_eq!(with(value(2, 0)), (bad, 2), "a number for bytes");
    let bytes = |number, len| VaParam { len, source: ParamSource::Bytes, ..value(number, BASE + 0x1100) };
    assert_eq!(with(bytes(0, 8)), (bad, 0), "bytes for a number");
    assert_eq!(with(bytes(2, 21)), (bad, 21));
    assert_eq!(with(bytes(2, 16 * 1024 + 1)), (ErrorCode::TooLarge, 16 * 1024 + 1));
    let cell = |number, max| VaParam { max, source: ParamSource::Cell, ..value(number, BASE + 0x1000) };
    assert_eq!(refused(&[input()], &[cell(1, 1)]), (bad, 1), "a word from a cell");
    assert_eq!(with(cell(0, 1001)), (bad, 1001), "more than the parameter may ever be");
}

// M-167
#[test]
fn every_address_of_an_entry_is_looked_up_and_faults_where_it_ends() {
    let fault = |operands: &[VaOperand], params: &[VaParam]| {
        let flaw = resolved(operands, params, |_, _| ()).expect_err("a fault");
        assert_eq!(flaw.code, ErrorCode::AddressFault, "{flaw:?}");
        (flaw.address, FaultReason::from_number(flaw.value))
    };
    let (unbound, read_only) = (FaultReason::Unbound, FaultReason::ReadOnly);
    assert_eq!(fault(&[operand(0, BASE - 4, 8)], &[WORD]), (BASE - 4, unbound));
    assert_eq!(fault(&[operand(0, READ_ONLY + 0x1000 - 4, 8)], &[WORD]), (READ_ONLY + 0x1000, unbound));
    assert_eq!(fault(&[input(), operand(1, READ_ONLY, 16)], &[WORD]), (READ_ONLY, read_only));
    assert_eq!(fault(&[input(), operand(2, READ_ONLY + 3, 5)], &[WORD]), (READ_ONLY + 3, read_only));
    assert_eq!(
        fault(&[input(), operand(3, READ_ONLY, 64)], &[WORD]),
        (READ_ONLY, read_only),
        "the result cell"
    );
    assert_eq!(fault(&[VaOperand { cell: 64, ..input() }], &[WORD]), (64, unbound), "the cell of a length");
    let cell = VaParam { max: 9, source: ParamSource::Cell, ..value(0, 128) };
    assert_eq!(fault(&[input()], &[WORD, cell]), (128, unbound), "the cell of a parameter");
    let bytes = VaParam { len: 8, source: ParamSource::Bytes, ..value(2, 0x99) };
    assert_eq!(fault(&[input()], &[WORD, bytes]), (0x99, unbound), "the bytes of a parameter");
}

#[test]
fn an_engine_sees_operands_where_they_are_bound_and_how() {
    let operands = [
        operand(2, BASE + 0x80, 32),
        operand(0, READ_ONLY + 5, 8),
        operand(1, 1, 0),
        operand(3, BASE + 0x40, 64),
    ];
    let seen = resolved(&operands, &[WORD], |resolved, mapping| {
        let base = mapping.span().as_ptr().addr();
        let seen = resolved.operands.iter().map(|o| {
            let (writable, span) = match o.bytes {
                OperandBytes::Read(span) => (false, span),
                OperandBytes::Write(span) => (true, span.as_span()),
            };
            let at = (!span.is_empty()).then(|| span.as_ptr().addr() - base);
            (o.number, writable, at, span.len(), o.offset, o.foreign)
        });
        let cell = resolved.cell.map(|cell| cell.as_ptr().addr() - base);
        (seen.collect::<Vec<_>>(), cell)
    });
    let wanted = vec![
        (2, true, Some(0x80), 32, 0x80, false),
        (0, false, Some(0x2005), 8, 0x2005, true),
        (1, true, None, 0, 0, false),
    ];
    assert_eq!(seen, Ok((wanted, Some(0x40))));
}

#[test]
fn parameters_come_from_the_entry_from_memory_and_from_cells_and_else_have_their_defaults() {
    let seen = |params: &[VaParam]| {
        resolved(&[input()], params, |resolved, _| match resolved.params[..] {
            [ParamValue::Number(n), ParamValue::Number(word), name] => {
                let name = match name {
                    ParamValue::Bytes(bytes) => Some(bytes.to_vec()),
                    _ => None,
                };
                (n, word, name)
            }
            _ => panic!("{:?}", resolved.params),
        })
    };
    assert_eq!(seen(&[WORD]), Ok((7, 1, None)));
    let name = VaParam { len: 6, source: ParamSource::Bytes, ..value(2, BASE + 0x1100) };
    assert_eq!(seen(&[name, WORD, value(0, 1000)]), Ok((1000, 1, Some(b"a name".to_vec()))));
    let n = VaParam { max: 6, source: ParamSource::Cell, cell_word: 2, ..value(0, BASE + 0x1000) };
    assert_eq!(seen(&[WORD, n]), Ok((6, 1, None)));
    let too_long = seen(&[WORD, VaParam { max: 5, ..n }]).expect_err("6 is more than 5");
    assert_eq!((too_long.code, too_long.value), (ErrorCode::IndirectTooLong, 6));
}

#[test]
fn a_length_from_a_cell_is_at_most_what_the_entry_says() {
    let of = |len| {
        let input = VaOperand { len, cell: BASE + 0x1000, cell_word: 2, ..input() };
        resolved(&[input], &[WORD], |resolved, _| match resolved.operands[0].bytes {
            OperandBytes::Read(span) => span.len(),
            OperandBytes::Write(_) => panic!("it is read"),
        })
    };
    assert_eq!([of(6), of(100)], [Ok(6), Ok(6)]);
    let flaw = of(5).expect_err("the cell says 6");
    assert_eq!((flaw.code, flaw.value), (ErrorCode::IndirectTooLong, 6));
    assert!(flaw.text.contains('6') && flaw.text.contains('5'), "{}", flaw.text);
}

#[test]
fn what_is_in_the_entry_is_as_what_is_in_a_block() {
    let ((space, _mapping), operations) = (space(), operations());
    let prepared = operations.by_number(3).expect("it is described");
    let range = |address, len| VaRange::new(address, len).ok();
    let resolve_inline = |operands, first, second| {
        let call = Call { op: 3, operands, arguments: Arguments::Inline { first, second } };
        let (mut bytes, mut stage) = (Vec::new(), Stage::new(Arc::default()));
        let mut resolved = Resolved::default();
        resolve(
            &space,
            prepared,
            &Given { call: &call, block: None },
            (&mut bytes, &mut stage),
            &mut resolved,
        )?;
        let numbers = [0, 1].map(|at| match resolved.params[at] {
            ParamValue::Number(number) => number,
            other => panic!("{other:?}"),
        });
        Ok::<_, Flaw>((resolved.operands.len(), numbers))
    };
    let both = [range(BASE, 8), range(BASE + 16, 8)];
    let seen = resolve_inline(both, Some(9), Some(2));
    assert_eq!(seen, Ok((2, [9, 2])));
    assert_eq!(resolve_inline(both, Some(1), Some(2)).map_err(|f| f.code), Err(ErrorCode::BadParameter));
    assert_eq!(
        resolve_inline([None, both[1]], None, Some(2)).map_err(|f| f.code),
        Err(ErrorCode::BadOperand)
    );
}

#[test]
fn an_operand_in_the_entry_and_in_its_block_is_given_twice() {
    let ((space, _mapping), operations) = (space(), operations());
    let block = encode_block(&[input()], &[WORD]).expect("short");
    let operands = [VaRange::new(BASE, 8).ok(), None];
    let call = Call { op: 3, operands, arguments: Arguments::NONE };
    let block = Block::decode(&block).expect("a block");
    let given = Given { call: &call, block: Some(&block) };
    let prepared = operations.by_number(3).expect("it is described");
    let mut stage = Stage::new(Arc::default());
    let flaw = resolve(&space, prepared, &given, (&mut Vec::new(), &mut stage), &mut Resolved::default());
    assert_eq!(flaw.map_err(|f| (f.code, f.value)), Err((ErrorCode::BadOperand, 0)));
}
