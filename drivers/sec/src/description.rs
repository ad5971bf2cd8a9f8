//! What the `sec` device says of itself: its operations, operands and parameters, as data.
//!
//! The numbers of operations are the wire's; operands and parameters are numbered by their place below, and the
//! engine uses the constants beside each operation.

use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::limits;

use crate::frame::{Algorithm, OVERHEAD_LEN};

/// Most executors the device asks for by itself; with fewer cores it asks for one per core.
pub const EXECUTORS: u16 = 2;

/// Longest plaintext of one frame, bytes. Opening holds the whole frame in private memory.
pub const LEN_MAX: u64 = 1 << 30;

/// Longest additional data of a caller, bytes.
pub const AAD_LEN_MAX: u64 = 64 * 1024;

/// Longest HMAC key, bytes. A key beyond 64 bytes is hashed first, as HMAC says.
pub const MAC_KEY_LEN_MAX: u64 = 4096;

/// Bytes of every digest.
pub const DIGEST_LEN: usize = 32;

/// Numbers of the operations.
pub mod op {
    /// Encrypts and authenticates.
    pub const SEAL: u16 = 0;
    /// Checks and decrypts.
    pub const OPEN: u16 = 1;
    /// SHA-256.
    pub const SHA256: u16 = 2;
    /// HMAC with SHA-256.
    pub const HMAC_SHA256: u16 = 3;
    /// BLAKE3.
    pub const BLAKE3: u16 = 4;
}

/// Places of operands and parameters of `seal` and `open`.
pub mod aead {
    /// Operand: the plaintext, or the frame.
    pub const INPUT: u8 = 0;
    /// Operand: the frame, or the plaintext.
    pub const OUTPUT: u8 = 1;
    /// Operand: 32 bytes.
    pub const KEY: u8 = 2;
    /// Operand: what is authenticated beside the plaintext, optional.
    pub const AAD: u8 = 3;
    /// Parameter: the algorithm, by its place in the list of words.
    pub const ALGORITHM: u16 = 0;
}

/// Places of operands of the digests.
pub mod digest {
    /// Operand: what is digested.
    pub const INPUT: u8 = 0;
    /// Operand: 32 bytes for the digest, optional.
    pub const OUTPUT: u8 = 1;
    /// Operand: the key of `hmac-sha256`, and optional of `blake3`.
    pub const KEY: u8 = 2;
}

/// The description of a device with this many executors.
#[must_use]
pub fn description(executors: u16) -> Description {
    Description::new("sec", "authenticated encryption and digests", executors)
        .operation(seal())
        .operation(open())
        .operation(sha256())
        .operation(hmac_sha256())
        .operation(blake3())
}

fn seal() -> Operation {
    let summary = "encrypts and authenticates into a frame 48 bytes longer than its input; \
                   at most 2^32 frames per key, because nonces are random";
    let operation = Operation::new(op::SEAL, "seal", summary)
        .operand("input", Direction::In, Touch::InPlace)
        .len_between(0, LEN_MAX)
        .operand("output", Direction::Out, Touch::InPlace);
    key_and_aad(operation).with_result("bytes of plaintext")
}

fn open() -> Operation {
    let summary = "checks a frame and decrypts it; writes nothing if the tag does not match";
    let operation = Operation::new(op::OPEN, "open", summary)
        .operand("input", Direction::In, Touch::Windows)
        .len_between(0, LEN_MAX + OVERHEAD_LEN as u64)
        .operand("output", Direction::Out, Touch::Windows);
    key_and_aad(operation).with_result("bytes of the frame")
}

fn key_and_aad(operation: Operation) -> Operation {
    let words = Algorithm::ALL.map(Algorithm::name);
    operation
        .operand("key", Direction::In, Touch::Windows)
        .len_between(32, 32)
        .operand("aad", Direction::In, Touch::Windows)
        .optional()
        .len_between(0, AAD_LEN_MAX)
        .choice("algorithm", "the cipher; opening checks that the frame says the same", &words, Some(0))
}

fn sha256() -> Operation {
    digest_of(Operation::new(op::SHA256, "sha256", "SHA-256, as sha256sum prints it")).with_result("")
}

fn hmac_sha256() -> Operation {
    digest_of(Operation::new(op::HMAC_SHA256, "hmac-sha256", "HMAC with SHA-256"))
        .operand("key", Direction::In, Touch::Windows)
        .len_between(1, MAC_KEY_LEN_MAX)
        .with_result("")
}

fn blake3() -> Operation {
    digest_of(Operation::new(op::BLAKE3, "blake3", "BLAKE3, as b3sum prints it; keyed if there is a key"))
        .operand("key", Direction::In, Touch::Windows)
        .optional()
        .len_between(32, 32)
        .with_result("")
}

fn digest_of(operation: Operation) -> Operation {
    operation
        .operand("input", Direction::In, Touch::Windows)
        .len_between(0, limits::OBJECT_LEN)
        .operand("output", Direction::Out, Touch::Windows)
        .optional()
        .len_between(DIGEST_LEN as u64, DIGEST_LEN as u64)
}
