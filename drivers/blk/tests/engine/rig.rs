//! An instance, a private directory under its root, objects, and one function per operation.

use std::path::{Path, PathBuf};

use vgem_driver::mapping::{Mapping, Populate, Span};
pub(crate) use vgem_driver::testing::code;
use vgem_driver::testing::memory::{Access, HugePages, ObjectMemory};
use vgem_driver::testing::noise_from;
use vgem_driver::{Engine as _, JobError, OperandBytes, ParamValue, Produced, Task, TaskOperand};
use vgem_driver_blk::description::{WHOLE, op};
use vgem_driver_blk::{Blk, IoChoice, Setup};
use vgem_proto::describe::Touch;
use vgem_proto::ids::{ObjectKey, TimelineKey};

use ParamValue::{Bytes, Number};

pub(crate) const READ: u64 = 0;
pub(crate) const WRITE: u64 = 1;
pub(crate) const CREATE: u64 = 2;
pub(crate) const CREATE_NEW: u64 = 3;
pub(crate) const AUTO: u64 = 0;
pub(crate) const NEVER: u64 = 1;
pub(crate) const REQUIRE: u64 = 2;

/// An instance with one root.
pub(crate) struct Rig {
    pub(crate) blk: Blk,
    pub(crate) dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|setup| setup)
    }

    pub(crate) fn by_calls() -> Self {
        Self::with(|setup| Setup { io: IoChoice::Calls, ..setup })
    }

    pub(crate) fn with(change: impl FnOnce(Setup) -> Setup) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the test");
        let setup = change(Setup { roots: vec![dir.path().to_owned()], ..Setup::default() });
        Self { blk: Blk::new(&setup).expect("an instance"), dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a file with these bytes, durable and out of the page cache as far as the kernel obeys.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("written");
        forget_cache(&path);
        path
    }

    pub(crate) fn open(
        &self,
        queue: TimelineKey,
        path: &Path,
        mode: u64,
        direct: u64,
    ) -> Result<u64, JobError> {
        let path = Bytes(path.as_os_str().as_encoded_bytes());
        self.run(queue, op::OPEN, None, &[path, Number(mode), Number(direct)]).map(|p| p.value)
    }

    pub(crate) fn read(
        &self,
        queue: TimelineKey,
        file: u64,
        offset: u64,
        into: TaskOperand<'_>,
    ) -> Result<Produced, JobError> {
        self.run(queue, op::READ, Some(into), &[Number(file), Number(offset), Number(WHOLE)])
    }

    pub(crate) fn write(
        &self,
        queue: TimelineKey,
        file: u64,
        offset: u64,
        from: TaskOperand<'_>,
    ) -> Result<Produced, JobError> {
        self.run(queue, op::WRITE, Some(from), &[Number(file), Number(offset)])
    }

    pub(crate) fn append(
        &self,
        queue: TimelineKey,
        file: u64,
        from: TaskOperand<'_>,
    ) -> Result<Produced, JobError> {
        self.run(queue, op::APPEND, Some(from), &[Number(file)])
    }

    pub(crate) fn run(
        &self,
        queue: TimelineKey,
        op: u16,
        operand: Option<TaskOperand<'_>>,
        params: &[ParamValue<'_>],
    ) -> Result<Produced, JobError> {
        let mut task = Task::for_test(op, operand.as_slice(), params, &[Touch::InPlace]);
        self.blk.run_on(queue, &mut task).map(|()| task.produced())
    }
}

/// A real object, mapped as an instance maps it.
pub(crate) struct Object {
    pub(crate) memory: ObjectMemory,
    pub(crate) mapping: Mapping,
    pub(crate) key: ObjectKey,
}

impl Object {
    pub(crate) fn new(index: u32, len: usize) -> Self {
        Self::mapped_for(Access::Write, index, len)
    }

    pub(crate) fn mapped_for(access: Access, index: u32, len: usize) -> Self {
        let memory = ObjectMemory::create(len as u64, HugePages::None, "blk-test").expect("an object");
        Self::mapping_of(memory, access, index)
    }

    /// This memory, mapped whole.
    pub(crate) fn mapping_of(memory: ObjectMemory, access: Access, index: u32) -> Self {
        let len = usize::try_from(memory.len()).expect("a length");
        let fd = memory.export(access).expect("an export");
        let mapping =
            Mapping::map(std::os::fd::AsFd::as_fd(&fd), len, access, Populate::Now).expect("mapped");
        Self { memory, mapping, key: ObjectKey { index, generation: 1 } }
    }

    /// An object that holds these bytes.
    pub(crate) fn of(index: u32, bytes: &[u8]) -> Self {
        let object = Self::new(index, bytes.len().max(1));
        object.mapping.span_mut().expect("writable").copy_from(0, bytes).expect("it fits");
        object
    }

    pub(crate) fn registered_with(self, rig: &Rig) -> Self {
        rig.blk.mapped(self.key, self.mapping.span());
        self
    }

    pub(crate) fn all(&self) -> TaskOperand<'_> {
        self.part(0, self.mapping.len())
    }

    pub(crate) fn part(&self, offset: usize, len: usize) -> TaskOperand<'_> {
        let bytes = match self.mapping.span_mut() {
            Ok(span) => OperandBytes::Write(span.sub(offset, len).expect("inside")),
            Err(_) => OperandBytes::Read(self.mapping.span().sub(offset, len).expect("inside")),
        };
        TaskOperand { number: 0, bytes, object: self.key, offset: offset as u64, foreign: false }
    }

    /// All of it, as an operand that another domain may write.
    pub(crate) fn foreign(&self) -> TaskOperand<'_> {
        TaskOperand { foreign: true, ..self.all() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        copy_of(self.mapping.span())
    }
}

pub(crate) fn copy_of(span: Span<'_>) -> Vec<u8> {
    let mut bytes = vec![0; span.len()];
    span.copy_to(0, &mut bytes).expect("all of it");
    bytes
}

pub(crate) fn queue(index: u32) -> TimelineKey {
    TimelineKey { index, generation: 1 }
}

/// Bytes without a short period, different for each seed.
pub(crate) fn pattern(seed: u32, len: usize) -> Vec<u8> {
    noise_from(seed.into(), len)
}

pub(crate) fn forget_cache(path: &Path) {
    let file = std::fs::File::open(path).expect("opened");
    file.sync_all().expect("durable");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advised");
}
