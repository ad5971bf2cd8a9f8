//! The memory of a user queue: one memory file that the client and the driver instance both map for writing.
//!
//! ```text
//!   0        the broker's words, written once: what this is, how deep
//!   128      the client's words     driver sleeps on DOORBELL ─┐ each block is one cache line,
//!   256      the driver's words     client sleeps on DOORBELL ─┤ with a distance of two
//!   384      the broker's verdict                             ─┘
//!   4096     submissions: DEPTH slots of 64 bytes              written by the client
//!   ..       completions: DEPTH slots of 64 bytes              written by the driver
//! ```
//!
//! A slot's first word of 64 bits has the low half of the slot's number, the **sequence**, in its upper half. It is
//! stored last, and at once with the rest of the word.

/// First word of a user queue: "VGUQ".
pub const MAGIC: u32 = 0x5155_4756;
/// Layout version.
pub const VERSION: u16 = 1;
/// Bytes of the header.
pub const HEADER_LEN: usize = 4096;
/// Bytes of a slot of either ring: a cache line.
pub const SLOT_LEN: usize = 64;
/// Words of 64 bits in a slot.
pub const SLOT_WORDS: usize = 8;
/// The shallowest queue, entries.
pub const DEPTH_LEAST: u32 = 8;
/// The deepest queue, entries.
pub const DEPTH_MOST: u32 = 4096;
/// Where the submissions begin.
pub const SUBMISSIONS: usize = HEADER_LEN;

/// Header: magic, u32; the broker writes it, once.
pub const H_MAGIC: usize = 0;
/// Header: version, u16; the broker writes it, once.
pub const H_VERSION: usize = 4;
/// Header: bytes of a slot, u16; the broker writes it, once.
pub const H_SLOT_LEN: usize = 6;
/// Header: slots of each ring, u32; the broker writes it, once.
pub const H_DEPTH: usize = 8;

/// Client: the futex word the driver sleeps on, u32.
pub const C_DOORBELL: usize = 128;
/// Client: the number of its sleep, u32; 0 is awake.
pub const C_ASLEEP: usize = 132;
/// Client: when it last rang, CLOCK_MONOTONIC nanoseconds, u64.
pub const C_RANG: usize = 136;
/// Client: completions taken, u64; behind the truth by less than the depth.
pub const C_REAPED: usize = 144;
/// Client: not 0 while it puts entries without a fence, u32; the driver makes one for both before it sleeps.
pub const C_LIGHT: usize = 152;
/// Client: not 0 if it makes a fence for both before it sleeps, where the driver asks for that, u32.
pub const C_HEAVY: usize = 156;

/// Driver: the futex word the client sleeps on, u32.
pub const D_DOORBELL: usize = 256;
/// Driver: the number of its sleep, u32; 0 is awake.
pub const D_ASLEEP: usize = 260;
/// Driver: when it last rang, CLOCK_MONOTONIC nanoseconds, u64.
pub const D_RANG: usize = 264;
/// Driver: not 0 when it takes no more, an error code, u32.
pub const D_STATE: usize = 272;
/// Driver: what was wrong with the ring, u32; 0 is nothing.
pub const D_REASON: usize = 276;
/// Driver: the cause that goes with the state, u64.
pub const D_CAUSE: usize = 280;
/// Driver: the first point it did not take, u64.
pub const D_AT: usize = 288;
/// Driver: what it found there, u64.
pub const D_FOUND: usize = 296;
/// Driver: not 0 while it puts completions without a fence, u32; the client makes one for both before it sleeps.
pub const D_LIGHT: usize = 304;
/// Driver: not 0 if it makes a fence for both before it sleeps, where the client asks for that, u32.
pub const D_HEAVY: usize = 308;

/// Broker: not 0 when the driver is dead or the queue is over, an error code, u32.
pub const B_DEATH_CODE: usize = 384;
/// Broker: the cause that goes with the code, u64.
pub const B_DEATH_CAUSE: usize = 392;

/// Where the completions begin in a queue of so many slots.
#[must_use]
pub const fn completions(depth: u32) -> usize {
    SUBMISSIONS + depth as usize * SLOT_LEN
}

/// Bytes of the memory of a queue of so many slots: whole pages.
#[must_use]
pub const fn len(depth: u32) -> usize {
    (completions(depth) + depth as usize * SLOT_LEN).next_multiple_of(super::PAGE_LEN)
}

const _: () = assert!(SLOT_WORDS * 8 == SLOT_LEN);
const _: () = assert!(C_HEAVY + 4 <= C_DOORBELL + 64 && D_HEAVY + 4 <= D_DOORBELL + 64);
