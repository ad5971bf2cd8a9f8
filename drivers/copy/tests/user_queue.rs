//! Every operation of the copy device through a user queue, on objects and on plain memory: what comes of it is what comes
//! of a job.

use vgem_driver::ParamValue::{self, Number};
use vgem_driver::testing::{Content, EveryWay, Peer, Seen, noise};
use vgem_driver_copy::CopyEngine;
use vgem_driver_copy::description::op;
use vgem_proto::error::ErrorCode;

use Content::{Read, Write};

/// What is seen of a call, the same every way, and with operands of another domain.
fn call(op: u16, operands: &[Content<'_>], params: &[ParamValue<'_>]) -> Seen {
    let mut ways = EveryWay::of(CopyEngine);
    let operands: Vec<_> = (0..).zip(operands.iter().copied()).collect();
    let [own, foreign] = Peer::ALL.map(|peer| {
        let [job, entry, own] = ways.call(peer, op, params, &operands);
        assert_eq!(job, entry, "{peer:?}");
        assert!(own.is_like(&job), "{peer:?}: {own:?}, {job:?}");
        job
    });
    assert_eq!(own, foreign);
    own
}

fn output(seen: &Seen) -> &[u8] {
    assert_eq!(seen.failure, None);
    &seen.outputs.first().expect("an output").1
}

fn failure(seen: Seen) -> ErrorCode {
    seen.failure.expect("it fails").0
}

fn index(entries: &[(u64, u64)]) -> Vec<u8> {
    entries.iter().flat_map(|(offset, len)| [offset.to_le_bytes(), len.to_le_bytes()].concat()).collect()
}

#[test]
fn copies_move_the_same_bytes() {
    for len in [0, 1, 64, 4096, 70_000] {
        let from = noise(len);
        let seen = call(op::COPY, &[Read(&from), Write(&vec![0; len])], &[]);
        assert!(output(&seen) == from && seen.produced == len as u64);
    }
    assert_eq!(failure(call(op::COPY, &[Read(&[1; 9]), Write(&[7; 8])], &[])), ErrorCode::OutputTooSmall);
}

#[test]
fn fills_set_the_same_bytes_also_by_default() {
    assert_eq!(output(&call(op::FILL, &[Write(&[1; 100])], &[Number(0xa5)])), [0xa5; 100]);
    assert_eq!(output(&call(op::FILL, &[Write(&[1; 100])], &[ParamValue::Absent])), [0; 100]);
}

#[test]
fn comparisons_find_the_same_difference() {
    let left = noise(50_000);
    let mut right = left.clone();
    right[33_333] ^= 1;
    let operands = [Read(&left[..]), Read(&right)];
    assert_eq!(call(op::COMPARE, &operands, &[ParamValue::Absent]).value, 33_333);
    let required = call(op::COMPARE, &operands, &[Number(1)]);
    assert_eq!((required.value, failure(required)), (33_333, ErrorCode::CorruptInput));
}

#[test]
fn checksums_are_the_same() {
    assert_eq!(call(op::CRC32C, &[Read(b"123456789")], &[]).value, 0xe306_9283);
}

#[test]
fn rectangles_are_the_same() {
    let from = noise(40);
    let seen = call(op::COPY2D, &[Read(&from), Write(&[0; 50])], &[5, 4, 10, 12].map(Number));
    let wanted: Vec<u8> =
        (0..50).map(|at| if at % 12 < 5 && at / 12 < 4 { from[at / 12 * 10 + at % 12] } else { 0 }).collect();
    assert_eq!((output(&seen), seen.produced), (&wanted[..], 20));
    let outside = call(op::COPY2D, &[Read(&from), Write(&[0; 50])], &[5, 5, 10, 12].map(Number));
    assert_eq!(failure(outside), ErrorCode::OutOfRange);
}

#[test]
fn gathered_and_scattered_ranges_are_the_same() {
    let (source, index) = (noise(1000), index(&[(990, 10), (0, 1), (500, 20)]));
    let seen = call(op::GATHER, &[Read(&source), Read(&index), Write(&[0; 31])], &[]);
    assert_eq!(output(&seen), [&source[990..], &source[..1], &source[500..520]].concat());
    let seen = call(op::SCATTER, &[Read(&source), Read(&index), Write(&[0; 1000])], &[]);
    assert_eq!(output(&seen)[500..520], source[11..31]);
    let bad = [0xff; 16];
    let seen = call(op::GATHER, &[Read(&source), Read(&bad), Write(&[0; 31])], &[]);
    assert_eq!(failure(seen), ErrorCode::CorruptInput);
}

#[test]
fn a_confined_process_serves_a_ring_and_closes_it() {
    let mut ways = EveryWay::of_program(env!("CARGO_BIN_EXE_vgem-driver-copy"));
    let from = noise(5000);
    for peer in Peer::ALL {
        let seen = ways.call(peer, op::COPY, &[], &[(0, Read(&from)), (1, Write(&[0; 5000]))]);
        assert!(seen.iter().all(|seen| output(seen) == from));
    }
}
