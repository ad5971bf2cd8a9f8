//! Specimens: for each operation of the engines here something to do, of about a given size.
//!
//! Operations are told apart by their names, and this is the one place of a client that knows any. One that is not known is
//! not measured. What an operation needs that another one makes (a frame to open) the engine in this process makes.

use std::ops::Range;

use vgem::{Buffer, Call, Device, Operation, Plain, Slice};
use vgem_driver::local::Local;
use vgem_driver::{OperandBytes, Span, SpanMut, TaskOperand};
use vgem_proto::ids::ObjectKey;

/// Operands begin at multiples of this, bytes.
const ALIGN: u64 = 4096;

/// Bytes of a row of a rectangle, and of a range of an index.
const PIECE: usize = 256;

/// What an operation is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Specimen {
    operands: Vec<(&'static str, Content)>,
    params: Vec<(&'static str, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Bytes(Vec<u8>),
    Room(usize),
    /// Room that is there.
    Made(Vec<u8>),
}

/// A specimen in a buffer.
#[derive(Debug)]
pub(crate) struct Laid {
    pub(crate) op: String,
    operands: Vec<(&'static str, Range<u64>)>,
    /// The same as plain memory.
    plain: Vec<(&'static str, Content)>,
    params: Vec<(&'static str, u64)>,
}

impl Specimen {
    fn bytes(mut self, name: &'static str, bytes: Vec<u8>) -> Self {
        self.operands.push((name, Content::Bytes(bytes)));
        self
    }

    fn room(mut self, name: &'static str, len: usize) -> Self {
        self.operands.push((name, Content::Room(len)));
        self
    }

    fn param(mut self, name: &'static str, value: usize) -> Self {
        self.params.push((name, value as u64));
        self
    }

    /// One for this operation of about this many bytes, if it is known.
    pub(crate) fn of(local: &Local, operation: &Operation, bytes: u64) -> Option<Self> {
        let len = usize::try_from(bytes).ok()?.max(PIECE);
        let new = Self::default;
        let key = || vec![7; 32];
        Some(match (local.device(), operation.name.as_str()) {
            ("copy", "copy") => new().bytes("input", text(len)).room("output", len),
            ("copy", "fill") => new().room("output", len),
            ("copy", "compare") => new().bytes("left", text(len)).bytes("right", text(len)),
            ("copy", "copy2d") => {
                let (height, stride) = (len / PIECE, 2 * PIECE);
                let rect = new().bytes("input", text(len)).room("output", height * stride);
                let rect = rect.param("width", PIECE).param("height", height);
                rect.param("src_stride", PIECE).param("dst_stride", stride)
            }
            ("copy", "gather" | "scatter") => {
                let index = index(len / PIECE);
                new().bytes("source", text(len)).bytes("index", index).room("output", len)
            }
            ("copy", "crc32c") | ("sec", "sha256" | "blake3") => new().bytes("input", text(len)),
            ("sec", "hmac-sha256") => new().bytes("input", text(len)).bytes("key", key()),
            ("sec", "seal") => new().bytes("input", text(len)).room("output", len + 64).bytes("key", key()),
            ("sec", "open") => {
                let frame = made(local, 0, &[(0, &text(len)), (2, &key())], len + 64)?;
                new().bytes("input", frame).room("output", len).bytes("key", key())
            }
            ("zip", "compress") => new().bytes("input", text(len)).room("output", len + len / 8 + 1024),
            ("zip", "decompress") => {
                let packed = made(local, 0, &[(0, &text(len))], len + len / 8 + 1024)?;
                new().bytes("input", packed).room("output", len)
            }
            _ => return None,
        })
    }

    /// Bytes of a buffer that it fits in.
    pub(crate) fn len(&self) -> u64 {
        self.ranges().last().map_or(ALIGN, |last| last.end.next_multiple_of(ALIGN))
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        let mut end: u64 = 0;
        let mut ranges = Vec::new();
        for (_, content) in &self.operands {
            let start = end.next_multiple_of(ALIGN);
            end = start + content.len() as u64;
            ranges.push(start..end);
        }
        ranges
    }

    /// Puts it into a buffer that is long enough and that nobody uses; nothing if it is not.
    pub(crate) fn lay(self, operation: &Operation, buffer: &Buffer) -> Option<Laid> {
        let ranges = self.ranges();
        for ((_, content), range) in self.operands.iter().zip(&ranges) {
            let mut guard = buffer.try_write(range.clone()).ok().flatten()?;
            match content {
                Content::Bytes(bytes) => guard.copy_from_slice(bytes),
                Content::Room(_) | Content::Made(_) => guard.fill(0),
            }
        }
        let operands = self.operands.iter().zip(ranges).map(|((name, _), range)| (*name, range));
        let (op, operands) = (operation.name.clone(), operands.collect());
        let plain = self.operands.into_iter().map(|(name, content)| (name, content.made()));
        Some(Laid { op, operands, plain: plain.collect(), params: self.params })
    }
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) | Self::Made(bytes) => bytes.len(),
            Self::Room(len) => *len,
        }
    }

    fn made(self) -> Self {
        match self {
            Self::Room(len) => Self::Made(vec![0; len]),
            other => other,
        }
    }
}

impl Laid {
    /// The call that does it.
    pub(crate) fn call<'a>(&self, device: &Device, buffer: &'a Buffer) -> Call<Slice<'a>> {
        let mut call = device.call(&self.op);
        for (name, range) in &self.operands {
            call = call.operand(*name, buffer.slice(range.clone()));
        }
        for (name, value) in &self.params {
            call = call.param(*name, *value);
        }
        call
    }
}

impl Laid {
    /// The same over plain memory.
    pub(crate) fn plain_call(&mut self, device: &Device) -> Call<Plain<'_>> {
        let mut call = device.plain_call(&self.op);
        for (name, content) in &mut self.plain {
            call = match content {
                Content::Bytes(bytes) => call.operand(*name, &*bytes),
                Content::Made(bytes) => call.operand(*name, bytes),
                Content::Room(_) => call,
            };
        }
        for (name, value) in &self.params {
            call = call.param(*name, *value);
        }
        call
    }
}

/// What an operation makes of these operands: its operand 1.
fn made(local: &Local, op: u16, inputs: &[(u8, &[u8])], most: usize) -> Option<Vec<u8>> {
    let mut output = vec![0; most];
    let operand = |number, bytes| TaskOperand {
        number,
        bytes,
        object: ObjectKey::default(),
        offset: 0,
        foreign: false,
    };
    let mut operands: Vec<_> = inputs
        .iter()
        .map(|(number, bytes)| operand(*number, OperandBytes::Read(Span::of_slice(bytes))))
        .collect();
    operands.push(operand(1, OperandBytes::Write(SpanMut::of_slice(&mut output))));
    let len = local.run(op, &operands, &[]).ok()?.len;
    drop(operands);
    output.truncate(usize::try_from(len).ok()?);
    Some(output)
}

/// Words in no order, which compress about as prose does.
fn text(len: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ",
        "of ",
        "buffer ",
        "driver ",
        "and ",
        "waits ",
        "for ",
        "memory ",
        "a ",
        "fence ",
        "queue, ",
        "is ",
        "signalled ",
        "by ",
        "page. ",
        "It ",
    ];
    let mut bytes = Vec::with_capacity(len + 16);
    let mut state: u32 = 1;
    while bytes.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = WORDS.get((state >> 28) as usize).copied().unwrap_or_default();
        bytes.extend_from_slice(word.as_bytes());
        if state >> 24 & 7 == 0 {
            bytes.extend_from_slice(&state.to_le_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

/// An index that names every piece once, from the last to the first.
fn index(count: usize) -> Vec<u8> {
    let places = (0..count).rev().map(|piece| (piece * PIECE) as u64);
    places.flat_map(|offset| [offset.to_le_bytes(), (PIECE as u64).to_le_bytes()]).flatten().collect()
}
