//! Limits of the wire: what a message may hold, with unit and reason. Quotas are configuration, not here.

/// Longest message, bytes. A longer packet is read with its true length and answered TooLarge.
pub const MESSAGE_LEN: usize = 64 * 1024;
/// Longest name of an object, a client, a device or an operation, bytes. Names end up in logs and tables.
pub const NAME_LEN: usize = 64;
/// Jobs in one batch. With two operands and two parameters each they fit one message.
pub const BATCH_JOBS: usize = 256;
/// Operands of one job, the result cell included.
pub const JOB_OPERANDS: usize = 16;
/// Parameters of one job.
pub const JOB_PARAMS: usize = 32;
/// Explicit waits of one job.
pub const JOB_WAITS: usize = 64;
/// Bytes that the byte parameters of one batch may take together (paths, keys' names).
pub const BATCH_BYTES: usize = 16 * 1024;
/// Deepest queue, jobs in flight. Bounds what a queue can hold in the broker and in its driver.
pub const QUEUE_DEPTH: u32 = 1024;
/// Depth of a queue whose opener does not say, jobs in flight.
pub const QUEUE_DEPTH_DEFAULT: u32 = 256;
/// Longest object, bytes: beyond it no machine we know has memory.
pub const OBJECT_LEN: u64 = 1 << 44;
/// Page size that lengths of objects are multiples of, bytes.
pub const PAGE_LEN: u64 = 4096;
/// Longest description of a device, bytes.
pub const DESCRIPTION_LEN: usize = 48 * 1024;
/// Operations of one device.
pub const OPERATIONS: usize = 256;
/// Longest text of a cause or a refusal, bytes.
pub const TEXT_LEN: usize = 1024;
/// Completion records in one message of a driver.
pub const COMPLETIONS: usize = 64;
/// Jobs in one message to a client that traces.
pub const TRACED_JOBS: usize = 64;
/// What the jobs of one message to a client that traces waited for, together. With all jobs it is under a half of a message,
/// which finds room where a whole one would not.
pub const TRACED_WAITS: usize = 1024;
/// How long after the first unsent completion a driver sends it, nanoseconds.
pub const COMPLETION_DELAY_NS: u64 = 1_000_000;
/// Objects that one request makes or commits, and so the fds of its answer; the kernel takes 253 at a time.
pub const OBJECTS_AT_ONCE: usize = 64;
/// New pages in one answer to Observe; each brings two fds.
pub const OBSERVED_PAGES: usize = 64;
/// Points in one answer to Observe.
pub const OBSERVED_POINTS: usize = 512;
/// Pages, and places, in one answer to TakeShown.
pub const SHOWN_PAGES: usize = 32;
/// Places in one answer to TakeShown.
pub const SHOWN_PLACES: usize = 512;
/// Failures that a timeline is opened with: one more than a slot shows, so that a full ring shows that it is full.
pub const FAILURES_TOLD: usize = 9;
/// Highest priority of a queue; 0 is the ordinary one.
pub const PRIORITY: u8 = 7;
/// Entries of a ring whose opener does not say.
pub const RING_DEPTH_DEFAULT: u32 = 256;
/// Rings of one instance, each of which has a thread there.
pub const RINGS: usize = 64;
/// Rings of one client at one instance, so that no client takes all of them.
pub const CLIENT_RINGS: usize = RINGS / 4;
/// Ranges that are bound to one ring.
pub const RING_BINDS: usize = 256;
/// Windows in which entries of one ring reach their client's own memory.
pub const RING_WINDOWS: usize = 64;
/// Bytes of the client's own memory that the operands of one entry may have together.
pub const OWN_BYTES: u64 = 128 << 20;
/// Poisoned ranges in one answer to Observe: as many as the broker remembers of one object.
pub const OBSERVED_POISON: usize = 64;
