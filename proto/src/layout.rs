//! Layouts of memory that two processes share: the fence page, the interest page, the result cell and the user queue.
//!
//! Only offsets, sizes and magic numbers live here; the code that touches such memory is in `vgem-os`.
//! All integers are little-endian. Every page is 4096 bytes. SPEC.md chapter "Shared memory" is the prose
//! form of this file and its golden vectors are checked against these constants.
//!
//! A **fence page** has one writer of slots (the signaller), one reader (the observer) and the broker, which
//! alone writes the death words. The **interest page** goes the other way: the observer says how long it sleeps.

pub mod user_queue;

/// Size of a fence page and of an interest page, bytes.
pub const PAGE_LEN: usize = 4096;

/// The fence page, written by one signaller and read by one observer.
pub mod fence_page {
    /// First word of a fence page: "VGFP".
    pub const MAGIC: u32 = 0x5046_4756;
    /// Layout version.
    pub const VERSION: u16 = 1;
    /// Slots in one page.
    pub const SLOTS: u16 = 15;
    /// Bytes of the header and of each slot.
    pub const SLOT_LEN: usize = 256;
    /// Header: magic, u32.
    pub const H_MAGIC: usize = 0;
    /// Header: version, u16.
    pub const H_VERSION: usize = 4;
    /// Header: number of slots, u16.
    pub const H_SLOTS: usize = 6;
    /// Header: the futex word that changes when a sleeper should look again, u32.
    pub const H_DOORBELL: usize = 8;
    /// Header: not 0 when the signaller is dead, an error code, u32; the broker writes it.
    pub const H_DEATH_CODE: usize = 64;
    /// Header: the cause that goes with the death code, u64; the broker writes it.
    pub const H_DEATH_CAUSE: usize = 72;
    /// Slot: generation of the timeline in it, u32; 0 is unused.
    pub const S_GENERATION: usize = 0;
    /// Slot: failures ever recorded, u32; the ring index of failure n is `n % FAILURES`.
    pub const S_FAIL_COUNT: usize = 4;
    /// Slot: the last signalled point, u64.
    pub const S_VALUE: usize = 8;
    /// Slot: CLOCK_MONOTONIC nanoseconds of that signal, u64.
    pub const S_TIME: usize = 16;
    /// Slot: points from here on have failed, u64; 0 is none; the broker writes it.
    pub const S_DEAD_FROM: usize = 32;
    /// Slot: the cause of the points that are dead, u64; the broker writes it.
    pub const S_DEAD_CAUSE: usize = 40;
    /// Slot: the error code of the points that are dead, u32; the broker writes it.
    pub const S_DEAD_CODE: usize = 48;
    /// Slot: the ring of failures.
    pub const S_FAILURES: usize = 64;
    /// Entries in the ring of failures.
    pub const FAILURES: usize = 8;
    /// Bytes of one failure.
    pub const FAILURE_LEN: usize = 24;
    /// Failure: the point, u64.
    pub const F_POINT: usize = 0;
    /// Failure: the cause, u64.
    pub const F_CAUSE: usize = 8;
    /// Failure: the error code, u32.
    pub const F_CODE: usize = 16;
    const _: () = assert!((SLOTS as usize + 1) * SLOT_LEN == super::PAGE_LEN);
    const _: () = assert!(S_FAILURES + FAILURES * FAILURE_LEN == SLOT_LEN);
}

/// The interest page, written by one observer and read by one signaller.
pub mod interest_page {
    /// First word of an interest page: "VGFI".
    pub const MAGIC: u32 = 0x4946_4756;
    /// Layout version.
    pub const VERSION: u16 = 1;
    /// Header: magic, u32.
    pub const H_MAGIC: usize = 0;
    /// Header: version, u16.
    pub const H_VERSION: usize = 4;
    /// Header: number of slots, u16.
    pub const H_SLOTS: usize = 6;
    /// Header: in the interest page of a primary page (signaller: a client, observer: the broker) changes when the
    /// client should ask what to show, u32.
    pub const NEWS: usize = 32;
    /// Where the wanted points begin: slot k at `WANT + 8 * k`, u64; 0 is nobody sleeps.
    pub const WANT: usize = 64;
}

/// The result cell: 64 aligned bytes of an object that a job names with WRITE, written before its signal.
pub mod result_cell {
    /// Bytes of a cell, and its alignment.
    pub const LEN: usize = 64;
    /// Words of 8 bytes in a cell.
    pub const WORDS: usize = 8;
    /// Word: bytes produced.
    pub const PRODUCED: usize = 0;
    /// Word: a number the operation defines (file offset, mismatch offset, checksum, file id).
    pub const VALUE: usize = 1;
    /// Word: CLOCK_MONOTONIC nanoseconds when the engine began.
    pub const STARTED: usize = 2;
    /// Word: CLOCK_MONOTONIC nanoseconds when the engine ended.
    pub const ENDED: usize = 3;
    /// Words 4 to 7: a digest of up to 32 bytes, zero-padded.
    pub const DIGEST: usize = 4;
}
