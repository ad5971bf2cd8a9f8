//! How fast the blk engine reads and appends a large file in 1 MiB jobs, beside loops written by hand.
//!
//! `cargo bench -p vgem-driver-blk [-- FILE]`. Without FILE a file of 150 MB is made in the build directory. MB/s
//! and processor time per MiB (whole process, worker threads of the kernel included) are medians of five rounds;
//! engine and references take turns within a round. "Cold" drops the file from the page cache before each pass.
#![expect(clippy::print_stdout, reason = "a bench prints its numbers")]
#![expect(clippy::expect_used, reason = "a bench ends where its arrangement fails")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::{Advice, OFlags, fadvise};
use vgem_driver::mapping::{Mapping, Populate, Quiescent};
use vgem_driver::testing::memory::{Access, HugePages, ObjectMemory};
use vgem_driver::{Engine as _, OperandBytes, ParamValue, Task, TaskOperand};
use vgem_driver_blk::description::{WHOLE, op};
use vgem_driver_blk::{Blk, IoChoice, Setup};
use vgem_proto::describe::Touch;
use vgem_proto::ids::ObjectKey;

const MIB: usize = 1 << 20;
const ROUNDS: usize = 5;

/// What all passes have in common.
struct Bench {
    /// One per thread.
    objects: Vec<Object>,
    jobs: u64,
}

/// One way to do a job, and what it is called.
type Way<'a> = (String, Box<dyn Fn(u64, &Object) + Sync + 'a>);

fn main() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let given = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let path = given.unwrap_or_else(|| make_file(scratch.path()));
    let jobs = std::fs::metadata(&path).expect("the file").len() / MIB as u64;
    println!("{} jobs of 1 MiB on {}", jobs, path.display());
    println!("{:<34} {:>8} {:>8} {:>12}", "", "threads", "MB/s", "CPU us/job");
    for threads in [1, 4] {
        let bench = Bench { objects: (0..threads).map(Object::new).collect(), jobs };
        reads(&bench, &path);
        appends(&bench, scratch.path());
    }
}

fn reads(bench: &Bench, path: &Path) {
    let file = File::open(path).expect("opened");
    let flag = i32::try_from(OFlags::DIRECT.bits()).expect("a flag");
    let direct = OpenOptions::new().read(true).custom_flags(flag).open(path).expect("opened for direct I/O");
    let by_hand = |file: &File, job: u64, object: &Object| {
        let mut quiet = Quiescent::by_contract();
        let span = object.mapping.span_mut().expect("writable");
        file.read_exact_at(span.bytes_mut(&mut quiet), job * MIB as u64).expect("read");
    };
    let auto = Opened::new(bench, path, IoChoice::Auto, 0, 0);
    let never = Opened::new(bench, path, IoChoice::Auto, 0, 1);
    let calls = Opened::new(bench, path, IoChoice::Calls, 0, 0);
    for cold in [false, true] {
        let before = || match cold {
            true => fadvise(&file, 0, None, Advice::DontNeed).expect("advised"),
            false => drop(std::fs::read(path).expect("read")),
        };
        let name = |what: &str| format!("read {}: {what}", if cold { "cold" } else { "warm" });
        let ways: Vec<Way<'_>> = vec![
            (name("engine, ring, auto"), Box::new(|job, object| auto.read(job, object))),
            (name("engine, ring, never direct"), Box::new(|job, object| never.read(job, object))),
            (name("engine, system calls"), Box::new(|job, object| calls.read(job, object))),
            (name("pread by hand"), Box::new(|job, object| by_hand(&file, job, object))),
            (name("pread O_DIRECT by hand"), Box::new(|job, object| by_hand(&direct, job, object))),
        ];
        bench.measure(&ways, &before);
    }
}

fn appends(bench: &Bench, scratch: &Path) {
    let path = scratch.join("appended");
    let engine = Opened::new(bench, &path, IoChoice::Auto, 2, 0);
    let file = OpenOptions::new().write(true).open(&path).expect("opened");
    let at = AtomicU64::new(0);
    let before = || {
        file.set_len(0).expect("emptied");
        at.store(0, Ordering::Relaxed);
    };
    let by_hand = |object: &Object, len: usize| {
        let quiet = Quiescent::by_contract();
        let bytes = object.mapping.bytes(0..len, &quiet).expect("inside");
        file.write_all_at(bytes, at.fetch_add(len as u64, Ordering::Relaxed)).expect("written");
    };
    // A third of a chunk and a bit: what a compressor makes of it.
    let third = MIB / 3 + 77;
    let ways: Vec<Way<'_>> = vec![
        ("append 341 KiB: engine".into(), Box::new(|_, object| engine.append(object, third))),
        ("append 341 KiB: pwrite by hand".into(), Box::new(|_, object| by_hand(object, third))),
        ("append 1 MiB: engine".into(), Box::new(|_, object| engine.append(object, MIB))),
        ("append 1 MiB: pwrite by hand".into(), Box::new(|_, object| by_hand(object, MIB))),
    ];
    bench.measure(&ways, &before);
}

impl Bench {
    fn measure(&self, ways: &[Way<'_>], before: &dyn Fn()) {
        let mut results = vec![(Vec::new(), Vec::new()); ways.len()];
        for _ in 0..ROUNDS {
            for ((_, way), (rates, costs)) in ways.iter().zip(&mut results) {
                before();
                let (rate, cost) = self.pass(way.as_ref());
                rates.push(rate);
                costs.push(cost);
            }
        }
        for ((name, _), (rates, costs)) in ways.iter().zip(results) {
            println!("{name:<34} {:>8} {:>8.0} {:>12.0}", self.objects.len(), median(rates), median(costs));
        }
    }

    /// MB/s, as if each job were 1 MiB, and processor microseconds per job.
    fn pass(&self, way: &(dyn Fn(u64, &Object) + Sync)) -> (f64, f64) {
        let next = AtomicU64::new(0);
        let (cpu, begin) = (cpu_us(), Instant::now());
        std::thread::scope(|scope| {
            for object in &self.objects {
                let next = &next;
                scope.spawn(move || {
                    loop {
                        let job = next.fetch_add(1, Ordering::Relaxed);
                        if job >= self.jobs {
                            return;
                        }
                        way(job, object);
                    }
                });
            }
        });
        let seconds = begin.elapsed().as_secs_f64();
        let jobs = self.jobs as f64;
        (MIB as f64 * jobs / seconds / 1e6, (cpu_us() - cpu) / jobs)
    }
}

/// An object as a client makes it, mapped as an instance maps it.
struct Object {
    mapping: Mapping,
    key: ObjectKey,
}

impl Object {
    fn new(index: u32) -> Self {
        let memory = ObjectMemory::create(MIB as u64, HugePages::Advise, "bench").expect("an object");
        let fd = memory.export(Access::Write).expect("an export");
        let mapping = Mapping::map(fd.as_fd(), MIB, Access::Write, Populate::Now).expect("mapped");
        Self { mapping, key: ObjectKey { index, generation: 1 } }
    }
}

/// An engine with one file open.
struct Opened {
    blk: Blk,
    file: u64,
}

impl Opened {
    fn new(bench: &Bench, path: &Path, io: IoChoice, mode: u64, direct: u64) -> Self {
        let root = path.parent().expect("a directory").to_owned();
        let blk = Blk::new(&Setup { roots: vec![root], io, ..Setup::default() }).expect("an engine");
        for object in &bench.objects {
            blk.mapped(object.key, object.mapping.span());
        }
        let path = ParamValue::Bytes(path.as_os_str().as_encoded_bytes());
        let params = [path, ParamValue::Number(mode), ParamValue::Number(direct)];
        let mut task = Task::for_test(op::OPEN, &[], &params, &[]);
        blk.run(&mut task).expect("opened");
        let file = task.produced().value;
        Self { blk, file }
    }

    fn read(&self, job: u64, object: &Object) {
        self.run(op::READ, object, MIB, &[self.file, job * MIB as u64, WHOLE].map(ParamValue::Number));
    }

    fn append(&self, object: &Object, len: usize) {
        self.run(op::APPEND, object, len, &[ParamValue::Number(self.file)]);
    }

    fn run(&self, op: u16, object: &Object, len: usize, params: &[ParamValue<'_>]) {
        let span = object.mapping.span_mut().expect("writable").sub(0, len).expect("inside");
        let bytes = OperandBytes::Write(span);
        let operand = TaskOperand { number: 0, bytes, object: object.key, offset: 0, foreign: false };
        let operands = [operand];
        let mut task = Task::for_test(op, &operands, params, &[Touch::InPlace]);
        self.blk.run(&mut task).expect("done");
    }
}

fn make_file(dir: &Path) -> PathBuf {
    let path = dir.join("data");
    let bytes: Vec<u8> = (0..150_000_000_u32).map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes()[3]).collect();
    std::fs::write(&path, bytes).expect("written");
    File::open(&path).expect("opened").sync_all().expect("durable");
    path
}

/// Processor time of the process so far, microseconds.
fn cpu_us() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(ROUNDS / 2).copied().unwrap_or_default()
}
