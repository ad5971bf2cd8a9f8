//! The zip device, called as its executors call it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::Cell;
use std::sync::LazyLock;

use vgem_driver::{
    Engine as _, JobError, OperandBytes, Options, ParamValue, Produced, Span, SpanMut, Task, TaskOperand,
};
use vgem_driver_zip::{Format, ZipEngine};
use vgem_proto::describe::{Description, Touch};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::ObjectKey;

use vgem_driver_zip::description::op;

pub(crate) static ENGINE: LazyLock<ZipEngine> = LazyLock::new(|| ZipEngine::new(&Options::default()));
static DESCRIPTION: LazyLock<Description> = LazyLock::new(|| ENGINE.description());

/// Who else may write the operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    OwnDomain,
    OtherDomain,
}

pub(crate) const SIZES: [usize; 5] = [0, 1, 63, 64 * 1024, 1024 * 1024 + 1];

pub(crate) fn run(
    from: From,
    op: u16,
    format: Format,
    level: Option<u64>,
    input: Span<'_>,
    output: SpanMut<'_>,
) -> Result<Produced, JobError> {
    let operation = DESCRIPTION.by_number(op).expect("the operation is described");
    let touch: Vec<Touch> = operation.operands.iter().map(|o| o.touch).collect();
    let foreign = from == From::OtherDomain;
    let object = ObjectKey { index: 1, generation: 1 };
    let operands = [
        TaskOperand { number: 0, bytes: OperandBytes::Read(input), object, offset: 0, foreign },
        TaskOperand { number: 1, bytes: OperandBytes::Write(output), object, offset: 0, foreign },
    ];
    let word = Format::ALL.iter().position(|f| *f == format).expect("a format") as u64;
    let level = level.map_or(ParamValue::Absent, ParamValue::Number);
    let params = [ParamValue::Number(word), level];
    let mut task = Task::for_test(op, &operands, &params, &touch);
    ENGINE.run(&mut task).map(|()| task.produced())
}

pub(crate) fn compress(format: Format, level: Option<u64>, input: &[u8]) -> Vec<u8> {
    compress_from(From::OwnDomain, format, level, input)
}

pub(crate) fn compress_from(from: From, format: Format, level: Option<u64>, input: &[u8]) -> Vec<u8> {
    let mut output = vec![0; input.len() + input.len() / 8 + 1024];
    let span = SpanMut::of_slice(&mut output);
    let done = run(from, op::COMPRESS, format, level, Span::of_slice(input), span).expect("compress");
    assert_eq!(done.value, input.len() as u64, "the value is the length of the input");
    output.truncate(usize::try_from(done.len).expect("a length"));
    output
}

pub(crate) fn decompress(format: Format, input: &[u8], room: usize) -> Result<Vec<u8>, JobError> {
    decompress_from(From::OwnDomain, format, input, room)
}

pub(crate) fn decompress_from(
    from: From,
    format: Format,
    input: &[u8],
    room: usize,
) -> Result<Vec<u8>, JobError> {
    let mut output = vec![0; room];
    let span = SpanMut::of_slice(&mut output);
    let done = run(from, op::DECOMPRESS, format, None, Span::of_slice(input), span)?;
    output.truncate(usize::try_from(done.len).expect("a length"));
    Ok(output)
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, JobError>) -> ErrorCode {
    result.expect_err("the job was to fail").code
}

/// Bytes that nothing compresses.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let state = Cell::new(0x9e37_79b9_7f4a_7c15_u64);
    let next = || {
        let mut x = state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        state.set(x);
        x.to_le_bytes()[5]
    };
    (0..len).map(|_| next()).collect()
}

/// Bytes that everything compresses, without a short period.
pub(crate) fn text(len: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["object ", "handle ", "timeline ", "point ", "fence ", "driver ", "instance ", "domain\n"];
    let choices = noise(len / 4 + 8);
    choices.iter().flat_map(|c| WORDS[usize::from(c % 8)].bytes()).take(len).collect()
}
