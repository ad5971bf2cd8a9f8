//! What registering costs: one pin per object, whatever the number of rings, and none after it was unmapped.
//!
//! It has a process of its own, because the kernel counts pins by process.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

use vgem_driver::Engine as _;
use vgem_driver::mapping::Mapping;
use vgem_driver_blk::{Blk, Setup};
use vgem_proto::ids::ObjectKey;

const LEN: usize = 1 << 20;
const EXECUTORS: u16 = 4;

/// Bytes of this process that are pinned for I/O.
fn pinned() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("our status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:")).expect("it has VmPin");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
    kib * 1024
}

/// Whether the kernel can clone registered buffers into a table that exists (Linux 6.13).
fn kernel_clones() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 13)
}

#[test]
fn an_object_is_pinned_once_while_it_is_mapped_and_not_longer() {
    let blk = Blk::new(&Setup { executors: Some(EXECUTORS), ..Setup::default() }).expect("an engine");
    let before = pinned();
    let memory: Vec<_> = (0..3).map(|_| Mapping::anonymous(LEN).expect("memory")).collect();
    for round in 0..3 {
        for (index, memory) in (0..).zip(&memory) {
            blk.mapped(ObjectKey { index, generation: 1 }, memory.span());
        }
        let charged = if kernel_clones() { 1 } else { usize::from(EXECUTORS) };
        assert_eq!(pinned() - before, 3 * LEN * charged, "round {round}");
        for index in 0..3 {
            blk.unmapping(ObjectKey { index, generation: 1 });
        }
        assert_eq!(pinned(), before, "round {round}");
    }
}
