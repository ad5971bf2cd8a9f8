//! The records of a batch: jobs, operands, parameters, waits, completions.
//!
//! A batch is five flat arrays. Jobs come in order; each says how many of the operands, parameters and waits
//! that follow are its own. Byte parameters point into the bytes array. The same records go from client to
//! broker, with handles, and from broker to driver, with keys; only waits differ, because a driver is told
//! where to look (page, slot) and not what for.

use crate::codec::{Field, Malformed, Reader, Writer, Zero};
use crate::error::ErrorCode;
use crate::ids::{
    CauseId, DeviceId, Handle, InstanceId, ObjectKey, PageId, Point, QueueHandle, Time, TimelineHandle,
    TimelineKey,
};
use crate::record;
use crate::rights::{Access, WaitKind};

/// The job skips implicit waits; its points still enter the reservations.
pub const JOB_EXPLICIT: u16 = 1;
/// The job runs even if a data wait failed.
pub const JOB_RUN_ANYWAY: u16 = 2;
/// Flags a client may set on a job.
pub const JOB_FLAGS: u16 = JOB_EXPLICIT | JOB_RUN_ANYWAY;

/// A written operand replaces its whole declared range; what was there does not matter.
pub const OPERAND_DISCARD: u8 = 1;
/// The length is read from a result cell when the job starts; `len` is the most it may be.
pub const OPERAND_INDIRECT: u8 = 2;
/// Set by the broker: the operand may be changed by another domain while the engine works; use windows.
pub const OPERAND_FOREIGN: u8 = 4;
/// Flags a client may set on an operand.
pub const OPERAND_FLAGS: u8 = OPERAND_DISCARD | OPERAND_INDIRECT;

/// The point need not be promised yet; `until` says until when it must be.
pub const WAIT_FOR_SUBMIT: u8 = 1;
/// The point is one of a user queue; `until` says until when it must have passed.
pub const WAIT_UNTIL: u8 = 2;
/// Flags a client may set on a wait.
pub const WAIT_FLAGS: u8 = WAIT_FOR_SUBMIT | WAIT_UNTIL;
/// Set by the broker: it cannot see the point pass, a client's promise or an entry of a user queue, so the driver says when
/// the job has waited enough.
pub const WAIT_PROMISE: u8 = 1;

/// The page number in a [`DriverWait`] that means "a timeline of this very instance".
pub const PAGE_LOCAL: u16 = u16::MAX;

record! {
    /// One job. `Q` names the queue: [`QueueHandle`] from a client, [`TimelineKey`] to a driver.
    pub struct Job<Q> {
        /// The queue it goes to.
        pub queue: Q,
        /// The point it will signal: exactly one after the queue's previous job.
        pub point: Point,
        /// Longest run time once ready, nanoseconds; 0 is the operation's own.
        pub run_ns: u64,
        /// To a driver: the cause of a data wait that has failed already; from a client 0.
        pub failed_cause: CauseId,
        /// To a driver: the code that goes with it, 0 is none; from a client 0.
        pub failed_code: u32,
        /// Which operation.
        pub op: u16,
        /// `JOB_*`.
        pub flags: u16,
        /// How many of the batch's operands are its own.
        pub operands: u16,
        /// How many of the batch's parameters are its own.
        pub params: u16,
        /// How many of the batch's waits are its own.
        pub waits: u16,
        /// Zero.
        pub reserved: Zero<2>,
    }
}

record! {
    /// A range of an object that a job uses. `O` names the object: [`Handle`] or [`ObjectKey`].
    pub struct Operand<O> {
        /// The object.
        pub object: O,
        /// First byte.
        pub offset: u64,
        /// Bytes; with [`OPERAND_INDIRECT`] the most that the cell may say.
        pub len: u64,
        /// With [`OPERAND_INDIRECT`]: the object that holds the cell.
        pub cell_object: O,
        /// With [`OPERAND_INDIRECT`]: first byte of the cell, a multiple of 64.
        pub cell_offset: u64,
        /// Place in the operation's list of operands.
        pub number: u8,
        /// With [`OPERAND_INDIRECT`]: which word of the cell, 0 to 7.
        pub cell_word: u8,
        /// How it is used.
        pub access: Access,
        /// `OPERAND_*`.
        pub flags: u8,
        /// Zero.
        pub reserved: Zero<4>,
    }
}

/// Where a parameter's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ParamSource {
    /// `value` is it.
    Value,
    /// `len` bytes of the bytes array from `value` on.
    Bytes,
    /// A word of a result cell, read when the job starts; `max` is the most it may be.
    Cell,
}

impl Field for ParamSource {
    const SIZE: usize = 1;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Value => 0u8,
            Self::Bytes => 1,
            Self::Cell => 2,
        }
        .put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::take(r)? {
            0 => Ok(Self::Value),
            1 => Ok(Self::Bytes),
            2 => Ok(Self::Cell),
            other => Err(Malformed::BadValue { field: "parameter source", value: u64::from(other) }),
        }
    }
}

record! {
    /// A point that an access to an object waits for, and where the client sees it.
    pub struct ObservedPoint {
        /// The timeline; its generation is that of the slot.
        pub timeline: TimelineKey,
        /// The point.
        pub point: Point,
        /// The client's number of the page.
        pub page: PageId,
        /// The slot in the page.
        pub slot: u16,
        /// What a failure of the point means for the access.
        pub kind: WaitKind,
        /// Zero.
        pub reserved: Zero<5>,
    }
}

record! {
    /// A range of an object whose content is not what it should be, because the job that was to write it failed.
    pub struct PoisonedRange {
        /// First byte.
        pub offset: u64,
        /// Bytes.
        pub len: u64,
        /// Why the job failed.
        pub cause: CauseId,
        /// The code that goes with it.
        pub code: ErrorCode,
        /// Zero.
        pub reserved: Zero<4>,
    }
}

record! {
    /// One parameter of a job.
    pub struct Param<O> {
        /// The number, the place of its bytes, or the offset of the cell (a multiple of 64).
        pub value: u64,
        /// With [`ParamSource::Cell`]: the object that holds the cell.
        pub cell_object: O,
        /// With [`ParamSource::Cell`]: the most the value may be.
        pub max: u64,
        /// With [`ParamSource::Bytes`]: how many.
        pub len: u32,
        /// Place in the operation's list of parameters.
        pub number: u16,
        /// Where the value is.
        pub source: ParamSource,
        /// With [`ParamSource::Cell`]: which word, 0 to 7.
        pub cell_word: u8,
    }
}

record! {
    /// An explicit wait, as a client names it: a point of a timeline that it has a handle of, or of its own queue.
    pub struct Wait {
        /// The timeline, or the queue.
        pub timeline: TimelineHandle,
        /// The point.
        pub point: Point,
        /// With [`WAIT_FOR_SUBMIT`]: until when the point must have been promised. With [`WAIT_UNTIL`]: until when it
        /// must have passed. Otherwise 0.
        pub until: Time,
        /// What a failure means.
        pub kind: WaitKind,
        /// `WAIT_*`.
        pub flags: u8,
        /// Zero.
        pub reserved: Zero<6>,
    }
}

record! {
    /// A wait as a driver gets it: where to look.
    pub struct DriverWait {
        /// The timeline.
        pub timeline: TimelineKey,
        /// The point.
        pub point: Point,
        /// The driver's own number of the fence page, or [`PAGE_LOCAL`].
        pub page: u16,
        /// The slot in that page.
        pub slot: u16,
        /// What a failure means.
        pub kind: WaitKind,
        /// [`WAIT_PROMISE`] or 0.
        pub flags: u8,
        /// Zero.
        pub reserved: Zero<2>,
    }
}

record! {
    /// A failure of a timeline so far, for whoever goes on signalling it.
    pub struct PointFailure {
        /// The point that failed.
        pub point: Point,
        /// Its cause.
        pub cause: CauseId,
        /// Its code.
        pub code: ErrorCode,
        /// Zero.
        pub reserved: Zero<4>,
    }
}

record! {
    /// A place where a client shows, or stops showing, a timeline that it signals.
    pub struct ShownTimeline {
        /// The timeline.
        pub timeline: TimelineHandle,
        /// The client's number of the signal page.
        pub page: PageId,
        /// The slot in the page.
        pub slot: u16,
        /// 1: show it there, the broker has filled the slot; 0: stop showing it there.
        pub shown: u8,
        /// Zero.
        pub reserved: Zero<5>,
    }
}

record! {
    /// How a job ended, as the driver tells the broker.
    pub struct Completion {
        /// The queue's timeline.
        pub timeline: TimelineKey,
        /// The job's point.
        pub point: Point,
        /// When the engine began; 0 if it never did.
        pub started: Time,
        /// When the engine ended.
        pub ended: Time,
        /// Bytes read from inputs and written to outputs.
        pub bytes: u64,
        /// Bytes copied through private windows.
        pub staged: u64,
        /// The cause, if it failed.
        pub cause: CauseId,
        /// The code, if it failed; 0 is ok.
        pub code: u32,
        /// Zero.
        pub reserved: Zero<4>,
    }
}

record! {
    /// A job that ended, as a client that traces is told of it.
    pub struct TracedJob {
        /// The queue's timeline.
        pub timeline: TimelineKey,
        /// The job's point.
        pub point: Point,
        /// When the broker accepted it.
        pub submitted: Time,
        /// When the broker saw it first in its queue and waiting for nothing; 0 if it never did.
        pub ready: Time,
        /// When the engine began, as the driver says; 0 if it never did, or if its driver died before it said.
        pub started: Time,
        /// When the job ended: as the driver says, or when it was settled for a driver that is gone.
        pub ended: Time,
        /// Bytes read from inputs and written to outputs.
        pub bytes: u64,
        /// Bytes copied through private windows.
        pub staged: u64,
        /// The number of the client whose job it was.
        pub client: u64,
        /// The device.
        pub device: DeviceId,
        /// The instance.
        pub instance: InstanceId,
        /// The cause, if it failed.
        pub cause: CauseId,
        /// The code, if it failed; 0 is ok.
        pub code: u32,
        /// Which operation; means nothing if `started` is 0.
        pub op: u16,
        /// How many of the message's waits are its own.
        pub waits: u16,
    }
}

record! {
    /// A point that a traced job waited for.
    pub struct TracedWait {
        /// The timeline; all 0 if it is of a domain that the client may not see.
        pub timeline: TimelineKey,
        /// The point; 0 if it is of a domain that the client may not see.
        pub point: Point,
    }
}

impl Completion {
    /// The failure, if it is one.
    #[must_use]
    pub fn failure(&self) -> Option<crate::error::Failure> {
        (self.code != 0)
            .then(|| crate::error::Failure { code: ErrorCode::from_number(self.code), cause: self.cause })
    }
}

/// A batch as a client sends it.
pub type ClientJob = Job<QueueHandle>;
/// An operand as a client sends it.
pub type ClientOperand = Operand<Handle>;
/// A parameter as a client sends it.
pub type ClientParam = Param<Handle>;
/// A job as a driver gets it.
pub type DriverJob = Job<TimelineKey>;
/// An operand as a driver gets it.
pub type DriverOperand = Operand<ObjectKey>;
/// A parameter as a driver gets it.
pub type DriverParam = Param<ObjectKey>;

const _: () = assert!(<ClientJob as Field>::SIZE == 48);
const _: () = assert!(<ClientOperand as Field>::SIZE == 48);
const _: () = assert!(<ClientParam as Field>::SIZE == 32);
const _: () = assert!(<Wait as Field>::SIZE == 32);
const _: () = assert!(<DriverWait as Field>::SIZE == 24);
const _: () = assert!(<Completion as Field>::SIZE == 64);
const _: () = assert!(<TracedJob as Field>::SIZE == 104);
const _: () = assert!(<TracedWait as Field>::SIZE == 16);
