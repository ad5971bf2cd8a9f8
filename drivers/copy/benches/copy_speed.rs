//! How fast the copy device is beside the plain library call, in GB/s: 4 KiB, 64 KiB, 1 MiB and 64 MiB operands.
//!
//! `cargo bench -p vgem-driver-copy`. Medians of nine rounds, engine and reference interleaved. Both sides are warm
//! and on one core; what a buffer on another core costs is the business of the whole system's benches.
#![expect(clippy::print_stdout, reason = "a bench prints its numbers")]

use std::hint::black_box;
use std::time::Instant;

use vgem_driver::{Engine as _, OperandBytes, ParamValue, Span, SpanMut, Task, TaskOperand};
use vgem_driver_copy::CopyEngine;
use vgem_driver_copy::description::op;
use vgem_proto::describe::Touch;
use vgem_proto::ids::ObjectKey;

const ROUNDS: usize = 9;
/// Bytes moved per measurement.
const VOLUME: usize = 256 << 20;

fn main() {
    println!("{:<10} {:>9} {:>12} {:>12}   GB/s", "operation", "bytes", "engine", "reference");
    for len in [4 << 10, 64 << 10, 1 << 20, 64 << 20] {
        let left = vec![1_u8; len];
        let mut right = vec![1_u8; len];
        let twin = right.clone();
        let mut out = vec![2_u8; len];
        let same =
            [OperandBytes::Read(Span::of_slice(&left)), OperandBytes::Write(SpanMut::of_slice(&mut right))];
        report(
            "compare",
            len,
            || engine(op::COMPARE, &same, &[ParamValue::Number(0)], Touch::InPlace),
            || {
                black_box(black_box(&left) == black_box(&twin));
            },
        );
        report(
            "  windows",
            len,
            || engine(op::COMPARE, &same, &[ParamValue::Number(0)], Touch::Windows),
            || {},
        );
        report(
            "crc32c",
            len,
            || engine(op::CRC32C, &same[..1], &[], Touch::Windows),
            || {
                black_box(crc_fast::crc32_iscsi(black_box(&left)));
            },
        );
        let mut plain = vec![3_u8; len];
        let copy =
            [OperandBytes::Read(Span::of_slice(&left)), OperandBytes::Write(SpanMut::of_slice(&mut out))];
        report(
            "copy",
            len,
            || engine(op::COPY, &copy, &[], Touch::InPlace),
            || {
                black_box(&mut plain).copy_from_slice(black_box(&left));
            },
        );
        report("  windows", len, || engine(op::COPY, &copy, &[], Touch::Windows), || {});
        report("fill", len, || engine(op::FILL, &copy[1..], &[ParamValue::Number(5)], Touch::InPlace), || {});
    }
}

fn engine(op: u16, operands: &[OperandBytes<'_>], params: &[ParamValue<'_>], touch: Touch) {
    let object = ObjectKey { index: 1, generation: 1 };
    let operands: Vec<TaskOperand<'_>> = (0..)
        .zip(operands)
        .map(|(number, bytes)| TaskOperand { number, bytes: *bytes, object, offset: 0, foreign: false })
        .collect();
    let touch = [touch; 3];
    let mut task = Task::for_test(op, &operands, params, &touch);
    if let Err(error) = CopyEngine.run(&mut task) {
        println!("failed: {error}");
    }
    black_box(task.produced());
}

fn report(name: &str, len: usize, mut engine: impl FnMut(), mut reference: impl FnMut()) {
    let mut rates = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        rates.0.push(rate(len, &mut engine));
        rates.1.push(rate(len, &mut reference));
    }
    let reference = median(rates.1);
    // Where there is nothing to compare with, the empty call is "faster" than memory can be.
    let shown = if reference > 1e4 { "-".into() } else { format!("{reference:.1}") };
    println!("{name:<10} {len:>9} {:>12.1} {shown:>12}", median(rates.0));
}

fn rate(len: usize, call: &mut impl FnMut()) -> f64 {
    let calls = (VOLUME / len).max(1);
    let begin = Instant::now();
    for _ in 0..calls {
        call();
    }
    (calls * len) as f64 / begin.elapsed().as_secs_f64() / 1e9
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(ROUNDS / 2).copied().unwrap_or_default()
}
