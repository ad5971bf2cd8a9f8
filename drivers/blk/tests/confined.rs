//! The engine under the confinement that its process lives in.
//!
//! It has a process of its own, because confinement cannot be undone.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

use vgem_driver::mapping::Mapping;
use vgem_driver::testing::confine::{self, ConfineSpec};
use vgem_driver::{Engine as _, JobError, OperandBytes, ParamValue, Produced, Task, TaskOperand};
use vgem_driver_blk::description::{WHOLE, op};
use vgem_driver_blk::{Blk, Setup};
use vgem_proto::describe::Touch;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::ObjectKey;

use ParamValue::{Bytes, Number};

const LEN: usize = 1 << 20;

fn run(blk: &Blk, op: u16, memory: &Mapping, params: &[ParamValue<'_>]) -> Result<Produced, JobError> {
    let bytes = OperandBytes::Write(memory.span_mut().expect("writable"));
    let object = ObjectKey { index: 1, generation: 1 };
    let operands = [TaskOperand { number: 0, bytes, object, offset: 0, foreign: false }];
    let mut task = Task::for_test(op, &operands, params, &[Touch::InPlace]);
    blk.run(&mut task).map(|()| task.produced())
}

#[test]
fn a_confined_instance_creates_appends_and_reads_through_its_rings_and_leaves_its_roots_alone() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let memory = Mapping::anonymous(LEN).expect("memory");
    memory.span_mut().expect("writable").fill(7);
    let roots = vec![dir.path().to_owned(), "/etc".into()];
    let blk = Blk::new(&Setup { roots, ..Setup::default() }).expect("an engine");
    assert!(blk.uses_io_uring() && blk.needs().io_uring);
    // One root less than the engine believes it has.
    let write = vec![dir.path().to_owned()];
    confine::driver(&ConfineSpec { write, io_uring: true, ..ConfineSpec::default() }).expect("confined");

    blk.mapped(ObjectKey { index: 1, generation: 1 }, memory.span());
    let path = dir.path().join("f");
    let path = Bytes(path.as_os_str().as_encoded_bytes());
    let file = run(&blk, op::OPEN, &memory, &[path, Number(2), Number(0)]).expect("created").value;
    run(&blk, op::APPEND, &memory, &[Number(file)]).expect("appended");
    memory.span_mut().expect("writable").fill(0);
    let read = run(&blk, op::READ, &memory, &[Number(file), Number(0), Number(WHOLE)]).expect("read");
    let mut bytes = vec![0; LEN];
    memory.span().copy_to(0, &mut bytes).expect("all of it");
    assert!(read.len == LEN as u64 && bytes.iter().all(|b| *b == 7));
    assert_eq!(blk.counters().fixed_bytes, LEN as u64, "read through a registered buffer");
    for op in [op::SYNC, op::STAT, op::CLOSE] {
        run(&blk, op, &memory, &[Number(file)]).expect("done");
    }
    let outside = run(&blk, op::OPEN, &memory, &[Bytes(b"/etc/passwd"), Number(0), Number(0)]);
    assert_eq!(outside.expect_err("landlock forbids it").code, ErrorCode::NotPermitted);
}
