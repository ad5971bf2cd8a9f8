//! The zip device, called as its executors call it.
#![allow(dead_code, unused_imports, reason = "each test file uses its part")]

use std::sync::LazyLock;

pub(crate) use vgem_driver::testing::{Peer, code, noise, text};
use vgem_driver::{JobError, OperandBytes, Options, ParamValue, Produced, Span, SpanMut, testing};
use vgem_driver_zip::description::op;
use vgem_driver_zip::{Format, ZipEngine};

pub(crate) static ENGINE: LazyLock<ZipEngine> = LazyLock::new(|| ZipEngine::new(&Options::default()));

pub(crate) const SIZES: [usize; 5] = [0, 1, 63, 64 * 1024, 1024 * 1024 + 1];

pub(crate) fn run(
    from: Peer,
    op: u16,
    format: Format,
    level: Option<u64>,
    input: Span<'_>,
    output: SpanMut<'_>,
) -> Result<Produced, JobError> {
    let operands = [(0, OperandBytes::Read(input)), (1, OperandBytes::Write(output))];
    let word = Format::ALL.iter().position(|f| *f == format).expect("a format") as u64;
    let level = level.map_or(ParamValue::Absent, ParamValue::Number);
    let params = [ParamValue::Number(word), level];
    let params = if op == op::COMPRESS { &params[..] } else { &params[..1] };
    testing::run(&*ENGINE, from, op, params, &operands)
}

pub(crate) fn compress(format: Format, level: Option<u64>, input: &[u8]) -> Vec<u8> {
    compress_from(Peer::OwnDomain, format, level, input)
}

pub(crate) fn compress_from(from: Peer, format: Format, level: Option<u64>, input: &[u8]) -> Vec<u8> {
    let mut output = vec![0; input.len() + input.len() / 8 + 1024];
    let span = SpanMut::of_slice(&mut output);
    let done = run(from, op::COMPRESS, format, level, Span::of_slice(input), span).expect("compress");
    assert_eq!(done.value, input.len() as u64, "the value is the length of the input");
    output.truncate(usize::try_from(done.len).expect("a length"));
    output
}

pub(crate) fn decompress(format: Format, input: &[u8], room: usize) -> Result<Vec<u8>, JobError> {
    decompress_from(Peer::OwnDomain, format, input, room)
}

pub(crate) fn decompress_from(
    from: Peer,
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
