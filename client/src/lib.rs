//! The vgem client: shared buffers, devices that work on them, and fences that say when.
//!
//! ```text
//!   Client ── create ──► Buffer ── slice ──┐
//!     │                                    ▼
//!     ├── device ─► Device ── queue ─► Queue ── Batch ── submit ──► Fence ── wait
//!     └── cells ──► Cells (lengths and results that travel without the CPU)
//! ```
//!
//! A [`Batch`] is one message, over any number of devices. The broker computes who waits for whom from the buffers
//! the jobs name; the devices hand fences to each other; this process sleeps until the [`Fence`] it asks for.
//!
//! Two fronts share one sans-IO [`exchange::Exchange`]: [`Client`] blocks, `aio::Client` awaits. Buffers,
//! batches and fences are the same in both.
//!
//! What this library is not: it holds no rules (the broker has them), knows no device by name (a
//! [`Description`] is data), and never trusts memory another process can write: bytes are seen through guards that
//! hold the right fence state, or copied.
//!
//! ```no_run
//! use std::time::Duration;
//! use vgem::{CellWord, Embedded};
//!
//! # fn main() -> vgem::Result<()> {
//! let broker = Embedded::builder().drivers(["zip", "sec"]).start()?;
//! let client = broker.client()?;
//! let (zip, sec) = (client.device("zip")?.queue(0)?, client.device("sec")?.queue(0)?);
//! let [input, packed, sealed] = [client.create(1 << 20)?, client.create(2 << 20)?, client.create(3 << 20)?];
//! let (key, cells) = (client.create(32)?, client.cells(2)?);
//! input.write(.., Duration::from_secs(1))?.fill(7);
//!
//! // Compress, then seal as much as compressing produced: one message, and no wake-up in between.
//! let mut batch = client.batch();
//! batch.job(&zip, "compress").input(&input).output(&packed).param("level", 3).result(cells.at(0));
//! batch
//!     .job(&sec, "seal")
//!     .input_from(&packed, cells.at(0), CellWord::Produced)
//!     .output(&sealed)
//!     .operand("key", &key)
//!     .result(cells.at(1));
//! batch.submit()?.last().wait(Duration::from_secs(10))?;
//!
//! let frame = sealed.read(..cells.read(1).produced(), Duration::from_secs(1))?;
//! println!("{} bytes became {}", input.len(), frame.len());
//! # Ok(())
//! # }
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`Client`], [`ClientOptions`] | a connection |
//! | [`Buffer`], [`Slice`], [`ReadGuard`], [`WriteGuard`], [`BufferSet`], [`BufferPool`] | memory |
//! | [`Client::import_fd`], [`Buffer::send`], [`Received`], [`MappedExport`] | memory of other processes |
//! | [`AdoptedBuffer`], [`AdoptedPages`], [`Region`], [`PageVec`] | memory this process has already |
//! | [`Device`], [`Op`], [`Queue`], [`Batch`], [`Job`] | work |
//! | [`Call`] | work that has yet to be given to somebody |
//! | [`UserQueue`], [`Binding`], [`Prepared`] | work without the broker, by address |
//! | [`Cells`], [`Cell`], [`CellWord`] | results |
//! | [`Fence`], [`wait_all`], [`wait_any`], [`Merged`] | time |
//! | [`Timeline`], [`Stage`] | what the CPU does, as jobs and other clients see it |
//! | [`Buffer::lend`], [`Loan`], [`Borrowed`] | memory that comes back |
//! | [`DomainOptions`], [`Client::create_domain`] | users and containers that share quotas |
//! | [`Monitor`], [`Trace`], [`snapshot`] | what goes on in the broker |
//! | [`Embedded`] | a private broker, for one process |
//! | [`host`] | what this machine offers, for `vgemctl doctor` |
//!
//! Invariants:
//! - Every wait has a deadline; a broker that dies ends every wait within a tenth of a second.
//! - Submitting is one system call and awaits no answer; waiting for a fence asks nobody, and neither does a guard of
//!   memory that nobody else has.
//! - Signalling waits for nobody, and neither does dropping a guard, a stage or a loan, but that of a thread that panics.
//! - Nothing is freed under a guard, a job or a fence: each keeps what it needs alive.
#![forbid(unsafe_code)]

mod access;
mod adopt;
#[cfg(feature = "tokio")]
pub mod aio;
mod batch;
mod bridge;
mod buffer;
mod call;
mod cell;
mod choice;
mod client;
mod core;
mod counters;
mod deadline;
mod device;
mod domain;
mod door;
mod draft;
mod embedded;
mod errand;
mod error;
mod eventfd;
pub mod exchange;
mod explain;
mod export;
mod fence;
mod guard;
pub mod host;
mod import;
mod job;
mod jobpoint;
mod known;
mod ledger;
mod link;
mod loan;
mod locate;
mod lookup;
mod merge;
mod monitor;
mod numbered;
mod obstacle;
mod options;
mod pages;
mod patience;
mod poison;
mod pool;
mod porter;
mod queue;
mod records;
mod set;
mod signals;
mod stage;
mod timeline;
mod together;
mod trace;
mod transfer;
mod user_queue;
mod wait;
mod waitable;
mod watch;

pub use vgem_os::adopt::{PageVec, Region};
pub use vgem_os::ring::{Corruption, Reason};
pub use vgem_proto::describe::{Description, Direction, OperandSpec, Operation, ParamKind, ParamSpec, Touch};
pub use vgem_proto::error::{ErrorCode, Refusal};
pub use vgem_proto::ids::{CauseId, DeviceId, Point, Time, TimelineKey};
pub use vgem_proto::rights::{Access, HugePages};
pub use vgem_proto::snapshot;
pub use vgem_proto::user_queue::FaultReason;

pub use self::adopt::{AdoptedBuffer, AdoptedPages, NotDone};
pub use self::batch::{Batch, JobRef, Submitted};
pub use self::buffer::{Buffer, Slice};
pub use self::call::{Call, CallMemory, CallOperand, CallParam, LentCall, Plain};
pub use self::cell::{Cell, CellRef, CellWord, Cells};
pub use self::choice::{OperandChoice, ParamChoice, ParamValue, WaitOn};
pub use self::client::{Client, ClientOptions};
pub use self::counters::ClientCounters;
pub use self::deadline::Deadline;
pub use self::device::{Device, DeviceName, Op, OpChoice, OperandKey, ParamKey};
pub use self::domain::{DomainId, DomainOptions, MadeDomain, QuotaKind, QuotaLimit};
pub use self::door::listen_at;
pub use self::embedded::{Embedded, EmbeddedBuilder};
pub use self::error::{Error, FenceError, JobFailure, LocalError, NthError, Result, Tried};
pub use self::explain::Explanation;
pub use self::export::MappedExport;
pub use self::fence::{Fence, FenceState};
pub use self::guard::{Hold, ReadGuard, WriteGuard};
pub use self::import::ImportOptions;
pub use self::job::Job;
pub use self::loan::{Borrowed, Loan, LoanSeries};
pub use self::merge::{Merged, MergedError};
pub use self::monitor::{Monitor, Told};
pub use self::options::{BufferOptions, QueueOptions};
pub use self::pool::{BufferPool, PooledBuffer};
pub use self::queue::{Cancelled, Queue};
pub use self::set::BufferSet;
pub use self::stage::Stage;
pub use self::timeline::{PointStatus, Timeline, TimelineRights, TimelineToken};
pub use self::together::{wait_all, wait_any};
pub use self::trace::{EndedJob, Trace};
pub use self::transfer::{Received, TransferError};
pub use self::user_queue::{
    AddressRange, After, Binding, EntryDone, EntryDraft, EntryFailure, Fault, Lent, LockedUserQueue,
    Prepared, QueueEnd, RangeChoice, Reaped, Sva, Ticket, UserQueue, UserQueueCounters, UserQueueOptions,
};
pub use self::wait::FenceWait;
pub use self::waitable::PointKind;
