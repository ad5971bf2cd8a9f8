//! What the `zip` device says of itself: its operations, operands and parameters, as data.
//!
//! The numbers of operations are the wire's; operands and parameters are numbered by their place below, the same
//! for both operations.

use vgem_proto::describe::{Description, Direction, Operation, Touch};

use crate::format::{Format, LEVEL_OWN};

/// Most executors the device asks for by itself; with fewer cores it asks for one per core.
pub const EXECUTORS: u16 = 2;

/// Longest run of one job, milliseconds: a level that is slow, on an input that is long.
const RUN_MS: u32 = 60_000;

/// Numbers of the operations.
pub mod op {
    /// Makes it smaller.
    pub const COMPRESS: u16 = 0;
    /// Makes it what it was.
    pub const DECOMPRESS: u16 = 1;
}

/// Operand: what is read.
pub const INPUT: u8 = 0;
/// Operand: what is written.
pub const OUTPUT: u8 = 1;
/// Parameter: the format, by its place in the list of words.
pub const FORMAT: u16 = 0;
/// Parameter of `compress`: the level.
pub const LEVEL: u16 = 1;

/// The description of a device with this many executors.
#[must_use]
pub fn description(executors: u16) -> Description {
    Description::new("zip", "compression", executors).operation(compress()).operation(decompress())
}

fn compress() -> Operation {
    let summary = "makes a frame of a standard format; zstd reads its input in place, the others through windows; \
                   lz4 writes through windows too";
    let level = "effort: zstd 0 to 22 (0 is 3), gzip, zlib and deflate 0 to 12, lz4 0 to 2; \
                 255 is the format's own: 3 for zstd, 6 for gzip, zlib and deflate, 0 for lz4";
    let operation = Operation::new(op::COMPRESS, "compress", summary)
        .operand("input", Direction::In, Touch::InPlace)
        .operand("output", Direction::Out, Touch::InPlace);
    let mut operation = with_format(operation)
        .number("level", level, 0, LEVEL_OWN, Some(LEVEL_OWN))
        .with_result("bytes of the input");
    operation.run_ms = RUN_MS;
    operation
}

fn decompress() -> Operation {
    let summary = "decodes all frames of the input; it is read in place, by lz4 through windows";
    let operation = Operation::new(op::DECOMPRESS, "decompress", summary)
        .operand("input", Direction::In, Touch::InPlace)
        .operand("output", Direction::Out, Touch::Windows);
    let mut operation = with_format(operation).with_result("bytes of the input");
    operation.run_ms = RUN_MS;
    operation
}

fn with_format(operation: Operation) -> Operation {
    let words = Format::ALL.map(Format::name);
    operation.choice("format", "the container; it is never guessed", &words, Some(Format::DEFAULT_WORD))
}
