//! What the `copy` device says of itself: its operations, operands and parameters, as data.
//!
//! The numbers of operations are the wire's; operands and parameters are numbered by their place below, and the
//! engine uses the constants beside each operation.

use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::limits;

/// Jobs the device runs at the same time: memory bandwidth is used up by two.
pub const EXECUTORS: u16 = 2;

/// Bytes of one index entry: an offset and a length, each a 64-bit little-endian number.
pub const INDEX_ENTRY_LEN: usize = 16;

/// Longest index, bytes: 65 536 entries. It is copied into private memory before it is used.
pub const INDEX_LEN: u64 = 1 << 20;

/// Numbers of the operations.
pub mod op {
    /// Copies.
    pub const COPY: u16 = 0;
    /// Fills with one byte.
    pub const FILL: u16 = 1;
    /// Compares.
    pub const COMPARE: u16 = 2;
    /// Sums.
    pub const CRC32C: u16 = 3;
    /// Copies a rectangle.
    pub const COPY2D: u16 = 4;
    /// Collects ranges.
    pub const GATHER: u16 = 5;
    /// Spreads ranges.
    pub const SCATTER: u16 = 6;
}

/// Places of operands and parameters of `copy`.
pub mod copy {
    /// Operand: where from.
    pub const INPUT: u8 = 0;
    /// Operand: where to.
    pub const OUTPUT: u8 = 1;
}

/// Places of operands and parameters of `fill`.
pub mod fill {
    /// Operand: what is filled.
    pub const OUTPUT: u8 = 0;
    /// Parameter: with what.
    pub const BYTE: u16 = 0;
}

/// Places of operands and parameters of `compare`.
pub mod compare {
    /// Operand: one side.
    pub const LEFT: u8 = 0;
    /// Operand: the other side.
    pub const RIGHT: u8 = 1;
    /// Parameter: whether a difference fails the job.
    pub const REQUIRE_EQUAL: u16 = 0;
}

/// Places of operands and parameters of `crc32c`.
pub mod crc32c {
    /// Operand: what is summed.
    pub const INPUT: u8 = 0;
}

/// Places of operands and parameters of `copy2d`.
pub mod copy2d {
    /// Operand: where from.
    pub const INPUT: u8 = 0;
    /// Operand: where to.
    pub const OUTPUT: u8 = 1;
    /// Parameter: bytes of a row.
    pub const WIDTH: u16 = 0;
    /// Parameter: rows.
    pub const HEIGHT: u16 = 1;
    /// Parameter: from one row of the input to the next.
    pub const SRC_STRIDE: u16 = 2;
    /// Parameter: from one row of the output to the next.
    pub const DST_STRIDE: u16 = 3;
}

/// Places of operands of `gather` and `scatter`.
pub mod indexed {
    /// Operand: where from.
    pub const SOURCE: u8 = 0;
    /// Operand: offsets and lengths.
    pub const INDEX: u8 = 1;
    /// Operand: where to.
    pub const OUTPUT: u8 = 2;
}

/// The whole description.
#[must_use]
pub fn describe() -> Description {
    Description::new("copy", "moves, fills, compares and sums memory", EXECUTORS)
        .operation(
            Operation::new(op::COPY, "copy", "copies the input to the start of the output; they may overlap")
                .operand("input", Direction::In, Touch::InPlace)
                .operand("output", Direction::Out, Touch::InPlace)
                .with_result(""),
        )
        .operation(
            Operation::new(op::FILL, "fill", "sets every byte of the output")
                .operand("output", Direction::Out, Touch::InPlace)
                .number("byte", "the value of each byte", 0, 255, Some(0))
                .with_result(""),
        )
        .operation(
            Operation::new(op::COMPARE, "compare", "finds the first byte in which two operands differ")
                .operand("left", Direction::In, Touch::InPlace)
                .operand("right", Direction::In, Touch::InPlace)
                .choice("require_equal", "fail if contents or lengths differ", &["no", "yes"], Some(0))
                .with_result("offset of the first difference, or the shorter length if there is none"),
        )
        .operation(
            Operation::new(op::CRC32C, "crc32c", "sums the input by CRC-32C (Castagnoli)")
                .operand("input", Direction::In, Touch::Windows)
                .with_result("the checksum"),
        )
        .operation(
            Operation::new(op::COPY2D, "copy2d", "copies rows of bytes between two strides")
                .operand("input", Direction::In, Touch::InPlace)
                .operand("output", Direction::InOut, Touch::InPlace)
                .number("width", "bytes of a row", 1, limits::OBJECT_LEN, None)
                .number("height", "rows", 1, limits::OBJECT_LEN, None)
                .number("src_stride", "bytes from one input row to the next", 1, limits::OBJECT_LEN, None)
                .number("dst_stride", "bytes from one output row to the next", 1, limits::OBJECT_LEN, None)
                .with_result(""),
        )
        .operation(indexed_operation(
            op::GATHER,
            "gather",
            "copies the indexed ranges of the source to the output in a row",
            Direction::Out,
        ))
        .operation(indexed_operation(
            op::SCATTER,
            "scatter",
            "copies the source in a row to the indexed ranges of the output",
            Direction::InOut,
        ))
}

/// The index is read by the engine once, into private memory; the bytes it names are copied in place.
fn indexed_operation(number: u16, name: &str, summary: &str, output: Direction) -> Operation {
    Operation::new(number, name, summary)
        .operand("source", Direction::In, Touch::InPlace)
        .operand("index", Direction::In, Touch::Windows)
        .len_between(0, INDEX_LEN)
        .operand("output", output, Touch::InPlace)
        .with_result("")
}
