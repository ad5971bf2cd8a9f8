//! What the `blk` device says of itself: its operations, operands and parameters, as data.
//!
//! The numbers of operations are the wire's; operands and parameters are numbered by their place below, and the
//! engine uses the constants beside each operation.

use vgem_proto::describe::{Description, Direction, Operation, Touch};

/// Jobs the device runs at the same time, unless the command line says another number: enough to keep a disk's
/// queue filled.
pub const EXECUTORS: u16 = 4;

/// Longest path, bytes.
pub const PATH_LEN: u32 = 4096;

/// Largest file offset or length, bytes: what the kernel counts in.
pub const FILE_LEN: u64 = i64::MAX.unsigned_abs();

/// A `length` that means "as much as the operand holds".
pub const WHOLE: u64 = u64::MAX;

/// Numbers of the operations.
pub mod op {
    /// Opens a file.
    pub const OPEN: u16 = 0;
    /// Closes it.
    pub const CLOSE: u16 = 1;
    /// Reads at an offset.
    pub const READ: u16 = 2;
    /// Writes at an offset.
    pub const WRITE: u16 = 3;
    /// Writes at the end.
    pub const APPEND: u16 = 4;
    /// Makes it durable.
    pub const SYNC: u16 = 5;
    /// Sets its length.
    pub const TRUNCATE: u16 = 6;
    /// Tells its length.
    pub const STAT: u16 = 7;
}

/// Parameters of `open`.
pub mod open {
    /// The path.
    pub const PATH: u16 = 0;
    /// What for.
    pub const MODE: u16 = 1;
    /// Whether to go past the page cache.
    pub const DIRECT: u16 = 2;
}

/// Operand and parameters of `read`.
pub mod read {
    /// Operand: where to.
    pub const OUTPUT: u8 = 0;
    /// Parameter: the file.
    pub const FILE: u16 = 0;
    /// Parameter: where from.
    pub const OFFSET: u16 = 1;
    /// Parameter: how much.
    pub const LENGTH: u16 = 2;
}

/// Operand and parameters of `write` and `append`.
pub mod write {
    /// Operand: where from.
    pub const INPUT: u8 = 0;
    /// Parameter: the file.
    pub const FILE: u16 = 0;
    /// Parameter of `write`: where to.
    pub const OFFSET: u16 = 1;
}

/// Parameters of `close`, `sync`, `truncate` and `stat`.
pub mod file {
    /// Parameter: the file.
    pub const FILE: u16 = 0;
    /// Parameter of `truncate`: the new length.
    pub const LENGTH: u16 = 1;
}

/// The whole description, for this number of executors.
#[must_use]
pub fn describe(executors: u16) -> Description {
    Description::new("blk", "reads and writes files and block devices", executors)
        .operation(
            Operation::new(op::OPEN, "open", "opens a file for this queue")
                .not_idempotent()
                .bytes("path", "absolute path under one of the device's roots", PATH_LEN, true)
                .choice(
                    "mode",
                    "read; write what exists; create or empty; create, and fail if it exists",
                    &["read", "write", "create", "create_new"],
                    Some(0),
                )
                .choice(
                    "direct",
                    "whether data goes past the page cache",
                    &["auto", "never", "require"],
                    Some(0),
                )
                .with_result("number of the file, for this queue"),
        )
        .operation(
            with_file(Operation::new(op::CLOSE, "close", "closes a file").not_idempotent()).with_result(""),
        )
        .operation(
            with_file(Operation::new(op::READ, "read", "reads from an offset; short at the end of the file"))
                .operand("output", Direction::Out, Touch::InPlace)
                .number("offset", "where in the file, bytes", 0, FILE_LEN, Some(0))
                .number("length", "how many bytes; the output's length if absent", 0, WHOLE, Some(WHOLE))
                .with_result("the file offset read from"),
        )
        .operation(
            with_file(Operation::new(op::WRITE, "write", "writes the whole input at an offset"))
                .operand("input", Direction::In, Touch::InPlace)
                .number("offset", "where in the file, bytes", 0, FILE_LEN, Some(0))
                .with_result("the file offset written to"),
        )
        .operation(
            with_file(Operation::new(op::APPEND, "append", "writes the whole input at the end of the file"))
                .not_idempotent()
                .operand("input", Direction::In, Touch::InPlace)
                .with_result("the file offset written to"),
        )
        .operation(
            with_file(Operation::new(op::SYNC, "sync", "makes what was written durable")).with_result(""),
        )
        .operation(
            with_file(Operation::new(op::TRUNCATE, "truncate", "cuts or extends a file with zeros"))
                .number("length", "the new length, bytes", 0, FILE_LEN, None)
                .with_result("the new length"),
        )
        .operation(
            with_file(Operation::new(op::STAT, "stat", "tells the length of a file or device"))
                .with_result("the length, bytes"),
        )
}

fn with_file(operation: Operation) -> Operation {
    operation.number("file", "number that open returned to this queue", 1, u64::MAX, None)
}
