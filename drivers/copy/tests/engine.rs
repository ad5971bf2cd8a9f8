//! The copy device, called as its executors call it.

use vgem_driver::testing::{self, Peer, code, noise, read, write};
use vgem_driver::{Engine as _, JobError, OperandBytes, ParamValue, Produced, SpanMut, Task};
use vgem_driver_copy::CopyEngine;
use vgem_driver_copy::description::op;
use vgem_proto::error::ErrorCode;

use ParamValue::Number;

fn run(op: u16, operands: &[OperandBytes<'_>], params: &[ParamValue<'_>]) -> Result<Produced, JobError> {
    run_from(Peer::OwnDomain, op, operands, params)
}

fn run_from(
    peer: Peer,
    op: u16,
    operands: &[OperandBytes<'_>],
    params: &[ParamValue<'_>],
) -> Result<Produced, JobError> {
    let operands: Vec<_> = (0..).zip(operands.iter().copied()).collect();
    testing::run(&CopyEngine, peer, op, params, &operands)
}

fn index(entries: &[(u64, u64)]) -> Vec<u8> {
    entries.iter().flat_map(|(offset, len)| [offset.to_le_bytes(), len.to_le_bytes()].concat()).collect()
}

#[test]
fn copy_moves_every_byte_at_every_size_and_alignment() {
    for len in [0, 1, 63, 64, 4095, 65_535, 65_536, 65_537, 1 << 20] {
        for shift in [0, 1, 17] {
            let from = noise(len);
            let mut into = vec![0; len + shift + 1];
            let produced = run(op::COPY, &[read(&from), write(&mut into[shift..])], &[]).expect("copied");
            assert_eq!((produced.len, &into[shift..shift + len]), (len as u64, &from[..]));
            assert_eq!(into[shift + len], 0, "the byte behind the copy stays as it was");
        }
    }
}

#[test]
fn copy_of_overlapping_operands_is_a_memmove() {
    for (from, into) in [(0, 100), (100, 0), (0, 100_000)] {
        let len = 300_000;
        let mut memory = noise(len + 100_000);
        let wanted = memory[from..from + len].to_vec();
        let whole = SpanMut::of_slice(&mut memory);
        let (input, output) = (whole.sub(from, len).expect("inside"), whole.sub(into, len).expect("inside"));
        let operands = [OperandBytes::Read(input.as_span()), OperandBytes::Write(output)];
        run(op::COPY, &operands, &[]).expect("copied");
        assert!(memory[into..into + len] == wanted[..], "from {from} to {into}");
    }
}

#[test]
fn copy_into_a_shorter_output_is_refused_and_changes_nothing() {
    let mut into = [7; 9];
    assert_eq!(code(run(op::COPY, &[read(&[1; 10]), write(&mut into)], &[])), ErrorCode::OutputTooSmall);
    assert_eq!(into, [7; 9]);
}

#[test]
fn a_read_only_output_is_refused() {
    assert_eq!(code(run(op::COPY, &[read(&[1; 10]), read(&[0; 10])], &[])), ErrorCode::BadOperand);
}

#[test]
fn fill_sets_every_byte_and_nothing_else() {
    let mut into = [1; 100];
    let produced = run(op::FILL, &[write(&mut into[1..99])], &[Number(0xa5)]).expect("filled");
    assert_eq!(produced.len, 98);
    assert!(into[1..99].iter().all(|b| *b == 0xa5) && into[0] == 1 && into[99] == 1);
}

#[test]
fn fill_with_more_than_a_byte_is_refused() {
    assert_eq!(code(run(op::FILL, &[write(&mut [1; 4])], &[Number(256)])), ErrorCode::BadParameter);
}

#[test]
fn compare_finds_the_first_difference_wherever_it_is() {
    let left = noise(100_000);
    for at in [0, 1, 4095, 4096, 16_383, 16_384, 65_536, 99_999] {
        for peer in Peer::ALL {
            let mut right = left.clone();
            right[at] ^= 1;
            right[99_999] ^= 2;
            let operands = [read(&left), read(&right)];
            let produced = run_from(peer, op::COMPARE, &operands, &[Number(0)]).expect("compared");
            assert_eq!((produced.value, produced.len), (at as u64, at as u64), "{peer:?}");
        }
    }
}

#[test]
fn compare_of_equal_operands_gives_their_common_length() {
    let left = noise(100_000);
    for len in [0, 1, 99_999, 100_000] {
        let produced = run(op::COMPARE, &[read(&left), read(&left[..len])], &[Number(0)]).expect("compared");
        assert_eq!((produced.value, produced.len), (len as u64, len as u64));
    }
}

#[test]
fn compare_that_requires_equality_fails_with_the_offset() {
    let left = noise(100_000);
    let mut right = left.clone();
    right[77_777] ^= 1;
    let failed = run(op::COMPARE, &[read(&left), read(&right)], &[Number(1)]).expect_err("they differ");
    assert_eq!(failed.code, ErrorCode::CorruptInput);
    assert!(failed.text.contains("77777"), "{failed}");
}

#[test]
fn compare_that_requires_equality_fails_when_only_the_lengths_differ() {
    let left = noise(1000);
    assert_eq!(
        code(run(op::COMPARE, &[read(&left), read(&left[..999])], &[Number(1)])),
        ErrorCode::CorruptInput
    );
}

#[test]
fn compare_stages_foreign_operands_and_no_others() {
    let bytes = noise(10_000);
    let operands = [read(&bytes), read(&bytes)];
    let own = run(op::COMPARE, &operands, &[Number(0)]).expect("compared");
    let foreign = run_from(Peer::OtherDomain, op::COMPARE, &operands, &[Number(0)]).expect("compared");
    assert_eq!((own.staged, foreign.staged), (0, 20_000));
}

#[test]
fn crc32c_agrees_with_the_check_value_of_its_definition() {
    let produced = run(op::CRC32C, &[read(b"123456789")], &[]).expect("summed");
    assert_eq!((produced.value, produced.staged), (0xe306_9283, 9));
}

#[test]
fn crc32c_of_many_windows_agrees_with_one_bit_at_a_time() {
    let bytes = noise(100_003);
    let by_bits = !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ ((sum & 1) * 0x82f6_3b78))
    });
    assert_eq!(run(op::CRC32C, &[read(&bytes)], &[]).expect("summed").value, u64::from(by_bits));
}

#[test]
fn copy2d_moves_the_rectangle_and_leaves_the_gaps() {
    let from = noise(40);
    let mut into = [0; 50];
    let params = [Number(5), Number(4), Number(10), Number(12)];
    let produced = run(op::COPY2D, &[read(&from), write(&mut into)], &params).expect("copied");
    assert_eq!(produced.len, 20);
    for row in 0..4 {
        assert_eq!(into[row * 12..row * 12 + 5], from[row * 10..row * 10 + 5]);
    }
    assert!((0..50).filter(|at| at % 12 >= 5).all(|at| into[at] == 0));
}

#[test]
fn copy2d_that_leaves_an_operand_is_refused_without_overflow() {
    let huge = u64::MAX;
    let cases = [
        ([5, 4, 10, 10], ErrorCode::OutOfRange),
        ([5, huge, 10, 10], ErrorCode::OutOfRange),
        ([huge, 2, huge, huge], ErrorCode::OutOfRange),
        ([5, 2, huge, huge], ErrorCode::OutOfRange),
        ([5, 2, 4, 10], ErrorCode::BadParameter),
        ([5, 2, 10, 4], ErrorCode::BadParameter),
        ([0, 2, 10, 10], ErrorCode::BadParameter),
    ];
    for (params, wanted) in cases {
        let mut into = [9; 34];
        let got = run(op::COPY2D, &[read(&[1; 34]), write(&mut into)], &params.map(Number));
        assert_eq!(code(got), wanted, "{params:?}");
        assert_eq!(into, [9; 34]);
    }
}

#[test]
fn gather_collects_ranges_in_the_order_of_the_index() {
    let source = noise(1000);
    let index = index(&[(990, 10), (0, 1), (5, 0), (500, 20)]);
    let mut into = [0; 40];
    let produced = run(op::GATHER, &[read(&source), read(&index), write(&mut into)], &[]).expect("gathered");
    let wanted = [&source[990..], &source[..1], &source[500..520]].concat();
    assert_eq!((produced.len, &into[..31]), (31, &wanted[..]));
    assert_eq!(produced.staged, 64, "the index is read once into private memory");
}

#[test]
fn scatter_undoes_gather() {
    let source = noise(3000);
    let index = index(&[(2000, 1000), (0, 500), (500, 1500)]);
    let (mut gathered, mut restored) = (vec![0; 3000], vec![0; 3000]);
    run(op::GATHER, &[read(&source), read(&index), write(&mut gathered)], &[]).expect("gathered");
    run(op::SCATTER, &[read(&gathered), read(&index), write(&mut restored)], &[]).expect("scattered");
    assert_eq!(restored, source);
}

#[test]
fn an_index_entry_outside_is_refused_before_anything_is_copied() {
    for bad in [(95, 6), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        for op in [op::GATHER, op::SCATTER] {
            let index = index(&[(0, 10), bad]);
            let mut into = [7; 100];
            let operands = [read(&[1; 100]), read(&index), write(&mut into)];
            let failed = run(op, &operands, &[]).expect_err("the entry is outside");
            assert_eq!(failed.code, ErrorCode::CorruptInput);
            assert!(failed.text.contains("entry 1"), "{failed}");
            assert_eq!(into, [7; 100]);
        }
    }
}

#[test]
fn an_index_that_is_no_whole_number_of_entries_is_refused() {
    let operands = [read(&[1; 100]), read(&[0; 17])];
    let mut into = [0; 100];
    let operands = [operands[0], operands[1], write(&mut into)];
    assert_eq!(code(run(op::GATHER, &operands, &[])), ErrorCode::OutOfRange);
}

#[test]
fn gather_into_a_short_output_and_scatter_from_a_short_source_are_refused() {
    let index = index(&[(0, 60), (0, 60)]);
    let mut into = [7; 100];
    assert_eq!(
        code(run(op::GATHER, &[read(&[1; 100]), read(&index), write(&mut into)], &[])),
        ErrorCode::OutputTooSmall
    );
    assert_eq!(
        code(run(op::SCATTER, &[read(&[1; 100]), read(&index), write(&mut into)], &[])),
        ErrorCode::CorruptInput
    );
    assert_eq!(into, [7; 100]);
}

#[test]
fn an_operation_that_is_not_described_is_refused() {
    let mut task = Task::for_test(99, &[], &[], &[]);
    assert_eq!(code(CopyEngine.run(&mut task)), ErrorCode::NoSuchOperation);
}

#[test]
fn the_description_survives_the_wire_and_numbers_operations_by_place() {
    let description = CopyEngine.description();
    assert_eq!(vgem_proto::describe::Description::decode(&description.encode()).as_ref(), Ok(&description));
    for (place, operation) in description.operations.iter().enumerate() {
        assert_eq!(usize::from(operation.number), place, "{}", operation.name);
    }
}
