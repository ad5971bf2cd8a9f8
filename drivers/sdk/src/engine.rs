//! What a driver implements: an [`Engine`] that describes itself and runs one [`Task`] at a time per executor.
//!
//! The SDK has done everything else before [`Engine::run`] is called: the job's waits have passed, its operands
//! are mapped, indirect lengths and parameters were read once and checked against what the broker authorised,
//! defaults were filled in. Afterwards it writes the result cell, reports causes, signals the point and tells
//! the broker. An engine sees no handles, no fences and no sockets.
//!
//! Operands are [`Span`]s: memory that other processes may change at any moment. An engine either works in place
//! through raw pointers (its own `ffi.rs`) or goes through [`crate::window`]s. [`Task::staging`] says which one is
//! asked for: an operand from another domain is always [`Staging::Windows`]. Nobody relies on an operand's pages to
//! stay: whoever may write an object may punch holes into it, and what is read there are zeros.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use vgem_os::mapping::{OutOfRange, Span, SpanMut};
use vgem_proto::describe::{Description, Touch};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{ObjectKey, Time, TimelineKey};
use vgem_proto::layout::result_cell;

/// A device's work. One value serves all executors of an instance at once.
pub trait Engine: Send + Sync + 'static {
    /// What the device offers. The same every time.
    fn description(&self) -> Description;

    /// Runs one job to its end on the calling executor.
    ///
    /// Of an operand with direction Out the first bytes are written, as many as [`Task::set_len`] says, and no others:
    /// where the operand is a client's own memory, only those are copied there.
    ///
    /// # Errors
    /// The reason the job failed; the SDK gives it a cause and signals it. Outputs may be partly written.
    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError>;

    /// The largest job, bytes over all operands, that is so short that the thread which received it runs it
    /// itself instead of waking an executor. A few microseconds of work at most. 0 is never.
    fn inline_bytes(&self, op: u16) -> u64 {
        let _ = op;
        0
    }

    /// What the process must be able to do besides working on memory it was given; all else is forbidden.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// An object was mapped, for engines that register memory with the kernel once.
    fn mapped(&self, object: ObjectKey, span: Span<'_>) {
        let _ = (object, span);
    }

    /// An object is about to be unmapped; no job uses it, and what was registered of it must be gone on return.
    /// Any thread of the instance may be the one that calls.
    fn unmapping(&self, object: ObjectKey) {
        let _ = object;
    }

    /// A queue has closed and all its jobs have ended; forget what belongs to it.
    fn queue_closed(&self, queue: TimelineKey) {
        let _ = queue;
    }
}

/// What a driver process may do besides working on memory it was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Needs {
    /// Directories under which it opens files; none: it opens nothing at all.
    pub roots: Vec<PathBuf>,
    /// It talks to the kernel through io_uring.
    pub io_uring: bool,
}

/// Why a job failed: the code a program acts on, and words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct JobError {
    /// The code.
    pub code: ErrorCode,
    /// What happened, with values and limits.
    pub text: String,
}

impl JobError {
    /// A failure with this code and text.
    #[must_use]
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The driver's own failure ([`ErrorCode::DriverFault`]).
    #[must_use]
    pub fn fault(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::DriverFault, text)
    }

    /// The output operand is too short ([`ErrorCode::OutputTooSmall`]); the text says what it would need.
    #[must_use]
    pub fn too_small(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::OutputTooSmall, text)
    }

    /// An input is not what it should be ([`ErrorCode::CorruptInput`]).
    #[must_use]
    pub fn corrupt(text: impl Into<String>) -> Self {
        Self::new(ErrorCode::CorruptInput, text)
    }

    #[cold]
    fn no_operand(number: u8) -> Self {
        Self::new(ErrorCode::BadOperand, format!("operand {number} is missing"))
    }

    #[cold]
    fn read_only(number: u8) -> Self {
        Self::new(ErrorCode::BadOperand, format!("operand {number} may only be read"))
    }

    /// For pieces whose bounds were computed from the whole, so that they are always inside: a fault.
    #[must_use]
    #[cold]
    pub fn outside() -> Self {
        Self::fault("a piece was computed outside its operand")
    }
}

/// A range check of the memory layer that an engine's own check should have come before.
impl From<OutOfRange> for JobError {
    fn from(error: OutOfRange) -> Self {
        Self::fault(error.to_string())
    }
}

/// How an operand must be touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staging {
    /// Through raw pointers, where it lies.
    InPlace,
    /// Through private windows.
    Windows,
}

/// One operand of a running job.
#[derive(Debug, Clone, Copy)]
pub struct TaskOperand<'a> {
    /// Place in the operation's list.
    pub number: u8,
    /// The bytes; writable if the job may write them.
    pub bytes: OperandBytes<'a>,
    /// The object they belong to, for engines that registered it.
    pub object: ObjectKey,
    /// First byte within the object.
    pub offset: u64,
    /// Whether another domain may write them meanwhile.
    pub foreign: bool,
}

/// Bytes of an operand, by what the job may do with them.
#[derive(Debug, Clone, Copy)]
pub enum OperandBytes<'a> {
    /// May be read.
    Read(Span<'a>),
    /// May be read and written.
    Write(SpanMut<'a>),
}

/// The value of one parameter; defaults are already filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamValue<'a> {
    /// Absent, and without a default.
    Absent,
    /// A number, or the place of a chosen word.
    Number(u64),
    /// Bytes.
    Bytes(&'a [u8]),
}

/// What a job leaves behind besides its outputs; goes to the result cell and the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Produced {
    /// Bytes produced.
    pub len: u64,
    /// The number the operation defines.
    pub value: u64,
    /// A digest, zero-padded.
    pub digest: [u8; 32],
    /// Bytes copied through private windows.
    pub staged: u64,
}

/// One running job, as its engine sees it.
#[derive(Debug)]
pub struct Task<'a> {
    pub(crate) op: u16,
    pub(crate) queue: TimelineKey,
    pub(crate) limit: Limit,
    pub(crate) operands: &'a [TaskOperand<'a>],
    pub(crate) params: &'a [ParamValue<'a>],
    pub(crate) touch: &'a [Touch],
    pub(crate) produced: Account<'a>,
}

/// How long a job may take, and from when on.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) run_ns: u64,
    /// When it began, nanoseconds; 0 while nobody has looked at the clock for it: then it begins when its deadline is
    /// asked for.
    pub(crate) began_ns: AtomicU64,
}

impl Limit {
    /// None at all.
    pub(crate) const fn none() -> Self {
        Self { run_ns: 0, began_ns: AtomicU64::new(u64::MAX) }
    }

    fn deadline(&self) -> Time {
        let began_ns = match self.began_ns.load(Ordering::Relaxed) {
            0 => {
                let now = vgem_os::clock::now();
                // Another thread of the engine may have asked first.
                let first = self.began_ns.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
                first.map_or_else(|known| known, |_| now)
            }
            known => known,
        };
        Time(began_ns).after(self.run_ns)
    }
}

/// Where it is written down what a job leaves behind.
#[derive(Debug)]
pub(crate) enum Account<'a> {
    /// At whoever runs the job: nothing is copied when it has ended.
    Runner(&'a mut Produced),
    /// Here.
    Own(Produced),
}

impl Account<'_> {
    #[inline]
    const fn get(&self) -> &Produced {
        match self {
            Self::Runner(produced) => produced,
            Self::Own(produced) => produced,
        }
    }

    #[inline]
    const fn get_mut(&mut self) -> &mut Produced {
        match self {
            Self::Runner(produced) => produced,
            Self::Own(produced) => produced,
        }
    }
}

impl<'a> Task<'a> {
    /// A task outside the SDK's loop, for an engine's own tests.
    ///
    /// `touch` is what the description says for each operand number, `params` has one entry per parameter of the
    /// operation.
    #[must_use]
    pub fn for_test(
        op: u16,
        operands: &'a [TaskOperand<'a>],
        params: &'a [ParamValue<'a>],
        touch: &'a [Touch],
    ) -> Self {
        let queue = TimelineKey { index: 0, generation: 1 };
        Self {
            op,
            queue,
            limit: Limit::none(),
            operands,
            params,
            touch,
            produced: Account::Own(Produced::default()),
        }
    }

    /// Which operation.
    #[must_use]
    #[inline]
    pub fn op(&self) -> u16 {
        self.op
    }

    /// The queue the job came through; contexts (open files) belong to it.
    #[must_use]
    pub fn queue(&self) -> TimelineKey {
        self.queue
    }

    /// When the job must have ended.
    #[must_use]
    pub fn deadline(&self) -> Time {
        self.limit.deadline()
    }

    /// The operand with this number, if the job has it.
    #[must_use]
    #[inline]
    pub fn operand(&self, number: u8) -> Option<&TaskOperand<'a>> {
        // Most often they are in their order.
        match self.operands.get(usize::from(number)) {
            Some(operand) if operand.number == number => Some(operand),
            _ => self.operands.iter().find(|o| o.number == number),
        }
    }

    /// The bytes of an operand, for reading.
    ///
    /// # Errors
    /// [`ErrorCode::BadOperand`] if the job does not have it. The broker refuses such jobs when it is required.
    #[inline]
    pub fn input(&self, number: u8) -> Result<Span<'a>, JobError> {
        match self.operand(number).map(|o| o.bytes) {
            Some(OperandBytes::Read(span)) => Ok(span),
            Some(OperandBytes::Write(span)) => Ok(span.as_span()),
            None => Err(JobError::no_operand(number)),
        }
    }

    /// The bytes of an operand, for writing.
    ///
    /// # Errors
    /// [`ErrorCode::BadOperand`] if the job does not have it, or only for reading.
    #[inline]
    pub fn output(&self, number: u8) -> Result<SpanMut<'a>, JobError> {
        match self.operand(number).map(|o| o.bytes) {
            Some(OperandBytes::Write(span)) => Ok(span),
            Some(OperandBytes::Read(_)) => Err(JobError::read_only(number)),
            None => Err(JobError::no_operand(number)),
        }
    }

    /// How this operand must be touched.
    #[must_use]
    #[inline]
    pub fn staging(&self, number: u8) -> Staging {
        let foreign = self.operand(number).is_none_or(|o| o.foreign);
        match self.touch.get(usize::from(number)) {
            Some(Touch::InPlace) if !foreign => Staging::InPlace,
            _ => Staging::Windows,
        }
    }

    /// A number or choice; 0 if the parameter is absent.
    #[must_use]
    #[inline]
    pub fn number(&self, param: u16) -> u64 {
        match self.params.get(usize::from(param)) {
            Some(ParamValue::Number(value)) => *value,
            _ => 0,
        }
    }

    /// A number or choice, if given or defaulted.
    #[must_use]
    pub fn try_number(&self, param: u16) -> Option<u64> {
        match self.params.get(usize::from(param)) {
            Some(ParamValue::Number(value)) => Some(*value),
            _ => None,
        }
    }

    /// The bytes of a parameter, if given.
    #[must_use]
    pub fn bytes(&self, param: u16) -> Option<&'a [u8]> {
        match self.params.get(usize::from(param)) {
            Some(ParamValue::Bytes(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Says how many bytes were produced.
    #[inline]
    pub fn set_len(&mut self, bytes: u64) {
        self.produced.get_mut().len = bytes;
    }

    /// Says the number the operation defines.
    #[inline]
    pub fn set_value(&mut self, value: u64) {
        self.produced.get_mut().value = value;
    }

    /// Says the digest; longer than 32 bytes is cut.
    pub fn set_digest(&mut self, digest: &[u8]) {
        let place = &mut self.produced.get_mut().digest;
        *place = [0; 32];
        for (place, byte) in place.iter_mut().zip(digest) {
            *place = *byte;
        }
    }

    /// Counts bytes copied through private windows.
    #[inline]
    pub fn add_staged(&mut self, bytes: u64) {
        let staged = &mut self.produced.get_mut().staged;
        *staged = staged.saturating_add(bytes);
    }

    /// What the job leaves behind so far.
    #[must_use]
    pub fn produced(&self) -> Produced {
        *self.produced.get()
    }
}

const _: () = assert!(result_cell::DIGEST + 4 == result_cell::WORDS);
