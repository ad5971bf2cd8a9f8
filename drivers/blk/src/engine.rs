//! The engine: finds the file a job names and lets the right module do the work.

use std::num::NonZeroU16;
use std::path::PathBuf;

use vgem_driver::engine::Needs;
use vgem_driver::{Engine, JobError, Span, Task};
use vgem_proto::describe::Description;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{ObjectKey, TimelineKey};

use crate::counters::{Counters, Tally};
use crate::description::{self, EXECUTORS, WHOLE, file, op, open, read, write};
use crate::ffi::Memory;
use crate::file::{Direct, OpenFile};
use crate::files::Files;
use crate::io::Io;
use crate::paths::{OpenMode, Resolver, Roots};
use crate::transfer::{Moved, Transfer};

/// What an instance is started with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Setup {
    /// Directories, or single files, that clients may open; each absolute.
    pub roots: Vec<PathBuf>,
    /// Jobs at the same time, if not what the description says.
    pub executors: Option<u16>,
    /// Which way to the kernel.
    pub io: IoChoice,
    /// Resolve paths component by component also where `openat2` is there.
    pub without_openat2: bool,
}

/// Which way to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoChoice {
    /// io_uring if it is allowed, else system calls.
    #[default]
    Auto,
    /// System calls.
    Calls,
}

/// The `blk` device.
#[derive(Debug)]
pub struct Blk {
    setup: Setup,
    executors: NonZeroU16,
    roots: Roots,
    files: Files,
    io: Io,
    tally: Tally,
}

impl Blk {
    /// An instance with its roots opened and its rings made.
    ///
    /// # Errors
    /// A root that is not absolute ([`ErrorCode::BadParameter`]), is not there or cannot be opened.
    pub fn new(setup: &Setup) -> Result<Self, JobError> {
        let resolver = if setup.without_openat2 { Resolver::Walk } else { Resolver::Beneath };
        let executors = NonZeroU16::new(setup.executors.unwrap_or(EXECUTORS)).unwrap_or(NonZeroU16::MIN);
        let io = match setup.io {
            IoChoice::Auto => Io::start(executors),
            IoChoice::Calls => Io::Calls,
        };
        Ok(Self {
            roots: Roots::open(&setup.roots, resolver)?,
            setup: setup.clone(),
            executors,
            files: Files::default(),
            io,
            tally: Tally::default(),
        })
    }

    /// How much went which way so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.tally.view()
    }

    /// Whether requests go through io_uring.
    #[must_use]
    pub fn uses_io_uring(&self) -> bool {
        matches!(self.io, Io::Rings(_))
    }

    /// Runs a job as if it had come through `queue`: [`Engine::run`] for the job's own queue.
    ///
    /// # Errors
    /// As [`Engine::run`].
    pub fn run_on(&self, queue: TimelineKey, task: &mut Task<'_>) -> Result<(), JobError> {
        match task.op() {
            op::OPEN => self.open(queue, task),
            op::CLOSE => self.files.close(queue, task.number(file::FILE)),
            op::READ => self.read(queue, task),
            op::WRITE => self.write(queue, task),
            op::APPEND => self.append(queue, task),
            op::SYNC => self.files.find(queue, task.number(file::FILE))?.sync(),
            op::TRUNCATE => self.truncate(queue, task),
            op::STAT => {
                task.set_value(self.files.find(queue, task.number(file::FILE))?.len()?);
                Ok(())
            }
            other => {
                Err(JobError::new(ErrorCode::NoSuchOperation, format!("operation {other}; blk has 0 to 7")))
            }
        }
    }

    fn open(&self, queue: TimelineKey, task: &mut Task<'_>) -> Result<(), JobError> {
        let mode = match task.number(open::MODE) {
            0 => OpenMode::Read,
            1 => OpenMode::Write,
            2 => OpenMode::Create,
            3 => OpenMode::CreateNew,
            other => {
                return Err(JobError::new(
                    ErrorCode::BadParameter,
                    format!("mode {other}; 0 to 3 are modes"),
                ));
            }
        };
        let direct = match task.number(open::DIRECT) {
            0 => Direct::Auto,
            1 => Direct::Never,
            2 => Direct::Require,
            other => {
                return Err(JobError::new(
                    ErrorCode::BadParameter,
                    format!("direct {other}; 0 to 2 are choices"),
                ));
            }
        };
        let path = task.bytes(open::PATH).unwrap_or_default();
        let opened = self.roots.open_file(path, mode)?;
        task.set_value(self.files.add(queue, opened, direct)?);
        Ok(())
    }

    fn read(&self, queue: TimelineKey, task: &mut Task<'_>) -> Result<(), JobError> {
        let file = self.files.find(queue, task.number(read::FILE))?;
        let output = task.output(read::OUTPUT)?;
        let len = match task.try_number(read::LENGTH) {
            None | Some(WHOLE) => output.len(),
            Some(len) => usize::try_from(len).unwrap_or(usize::MAX),
        };
        let part = output.sub(0, len).ok_or_else(|| {
            let text = format!("{len} bytes do not fit into the output of {} bytes", output.len());
            JobError::new(ErrorCode::OutputTooSmall, text)
        })?;
        let offset = task.number(read::OFFSET);
        let moved = self.transfer(task, read::OUTPUT, &file, Memory::Into(part))?.read(offset)?;
        tell(task, moved);
        Ok(())
    }

    fn write(&self, queue: TimelineKey, task: &mut Task<'_>) -> Result<(), JobError> {
        let file = self.files.find(queue, task.number(write::FILE))?;
        let input = task.input(write::INPUT)?;
        let offset = task.number(write::OFFSET);
        let moved = self.transfer(task, write::INPUT, &file, Memory::From(input))?.write(offset)?;
        tell(task, moved);
        Ok(())
    }

    fn append(&self, queue: TimelineKey, task: &mut Task<'_>) -> Result<(), JobError> {
        let file = self.files.find(queue, task.number(write::FILE))?;
        let input = task.input(write::INPUT)?;
        let moved = self.transfer(task, write::INPUT, &file, Memory::From(input))?.append()?;
        tell(task, moved);
        Ok(())
    }

    fn truncate(&self, queue: TimelineKey, task: &mut Task<'_>) -> Result<(), JobError> {
        let len = task.number(file::LENGTH);
        self.files.find(queue, task.number(file::FILE))?.truncate(len)?;
        task.set_value(len);
        Ok(())
    }

    fn transfer<'m>(
        &'m self,
        task: &Task<'m>,
        operand: u8,
        file: &'m OpenFile,
        memory: Memory<'m>,
    ) -> Result<Transfer<'m>, JobError> {
        let staging = task.staging(operand);
        let operand = task
            .operand(operand)
            .ok_or_else(|| JobError::new(ErrorCode::BadOperand, format!("operand {operand} is missing")))?;
        let (object, object_offset) = (Some(operand.object), operand.offset);
        Ok(Transfer { io: &self.io, tally: &self.tally, file, memory, object, object_offset, staging })
    }
}

fn tell(task: &mut Task<'_>, moved: Moved) {
    task.set_len(moved.done as u64);
    task.set_value(moved.offset);
    task.add_staged(moved.staged);
}

impl Engine for Blk {
    fn description(&self) -> Description {
        description::describe(self.executors.get())
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        self.run_on(task.queue(), task)
    }

    fn needs(&self) -> Needs {
        Needs { roots: self.setup.roots.clone(), io_uring: self.uses_io_uring() }
    }

    fn mapped(&self, object: ObjectKey, span: Span<'_>) {
        self.io.mapped(object, span, &self.tally);
    }

    fn unmapping(&self, object: ObjectKey) {
        self.io.unmapping(object);
    }

    fn queue_closed(&self, queue: TimelineKey) {
        self.files.close_queue(queue);
        tracing::debug!("{queue} closed; so far {:?}", self.counters());
    }
}
