//! One job of a random graph over five queues fails by itself: exactly its descendants by data carry its cause, and
//! everything else is as if it had not been.
//!
//! `vgem_tests::dag` draws the graphs and says what must come of them. A buffer is read afterwards byte by byte: where a
//! failed job was to write, reading fails with its cause; everywhere else the bytes are right.
//!
//! | variable | what |
//! |---|---|
//! | `VGEM_DAG_SEED` | which graphs; printed when it is not given |
//! | `VGEM_DAG_COUNT` | how many; 150 unless said otherwise |

#![forbid(unsafe_code)]

use std::time::Duration;

use vgem::{
    Buffer, CauseId, CellWord, Cells, Client, Deadline, Embedded, Error, ErrorCode, Fence, FenceError, Job,
    JobRef, Queue,
};
use vgem_proto::layout::fence_page;
use vgem_tests::chance::{self, Chance};
use vgem_tests::dag::{BUFFERS, Byte, Dag, Fate, LEN, Model, Place, QUEUES, Step, Work};

const COUNT: u64 = 150;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A client with what graphs need.
struct Rig {
    client: Client,
    queues: Vec<Queue>,
    buffers: Vec<Buffer>,
    staging: Buffer,
    key: Buffer,
    /// Of each job.
    cells: Cells,
    _broker: Embedded,
}

/// How a job ended.
type End = Result<(), (ErrorCode, CauseId, String)>;

impl Rig {
    fn new() -> Self {
        let broker = Embedded::start().expect("a private broker");
        let client = broker.client().expect("a client");
        let queue = |device: &&str| client.device(device).and_then(|found| found.queue(0)).expect("a queue");
        Self {
            queues: QUEUES.iter().map(queue).collect(),
            buffers: (0..BUFFERS).map(|_| client.create(LEN as u64).expect("a buffer")).collect(),
            staging: client.create(LEN as u64).expect("a buffer"),
            key: client.create(32).expect("a buffer"),
            cells: client.cells(512).expect("cells"),
            client,
            _broker: broker,
        }
    }

    /// Random contents, over whatever the last graph left behind.
    fn fresh(&self, chance: &mut Chance) -> Vec<Vec<u8>> {
        let random = |buffer: &Buffer| {
            let mut bytes: Vec<u8> = Vec::with_capacity(LEN);
            while bytes.len() < LEN {
                // Some runs, so that there is something to compress.
                bytes.extend(
                    std::iter::repeat_n(chance.number().to_le_bytes(), 1 + chance.index(4)).flatten(),
                );
            }
            bytes.truncate(LEN);
            self.staging.write(.., soon()).expect("ours").copy_from_slice(&bytes);
            let mut batch = self.client.batch();
            batch.job(&self.queues[0], "copy").input(&self.staging).output(buffer);
            batch.submit().expect("accepted").wait(soon()).expect("whatever was there may be overwritten");
            bytes
        };
        self.buffers.iter().map(random).collect()
    }
}

/// A graph on its way.
struct Run<'a> {
    rig: &'a Rig,
    dag: &'a Dag,
    frames: Vec<Buffer>,
    fences: Vec<Fence>,
}

impl<'a> Run<'a> {
    /// Submits a graph, in its batches.
    fn submit(rig: &'a Rig, dag: &'a Dag) -> Self {
        let room = 2 * LEN as u64;
        let frames = (0..dag.frames).map(|_| rig.client.create(room).expect("a buffer")).collect();
        let mut run = Self { rig, dag, frames, fences: Vec::new() };
        let mut begin = 0;
        while begin < dag.steps.len() {
            let more = dag.steps[begin + 1..].iter().take_while(|step| !step.new_batch).count();
            run.submit_batch(begin, begin + 1 + more);
            begin += 1 + more;
        }
        run
    }

    fn submit_batch(&mut self, begin: usize, end: usize) {
        if let Some(earlier) = self.dag.steps[begin].pause {
            // However it ends.
            drop(self.fences[earlier].wait(soon()));
        }
        let mut batch = self.rig.client.batch();
        let mut jobs: Vec<JobRef> = Vec::new();
        for number in begin..end {
            let step = &self.dag.steps[number];
            let job = batch.job(&self.rig.queues[step.queue], op(step));
            let job = self.operands(job, number);
            let mut job = if step.anyway { job.run_anyway() } else { job };
            if let Some(on) = step.after {
                job = if on < begin { job.after(&self.fences[on]) } else { job.after(jobs[on - begin]) };
            }
            if let Some(on) = step.behind {
                job = if on < begin { job.behind(&self.fences[on]) } else { job.behind(jobs[on - begin]) };
            }
            jobs.push(job.id());
        }
        self.fences.extend(batch.submit().expect("accepted"));
    }

    fn operands<'b>(&self, job: Job<'b>, number: usize) -> Job<'b> {
        let slice = |place: &Place| {
            let range = place.range.start as u64..place.range.end as u64;
            self.rig.buffers[place.buffer].slice(range)
        };
        let step = &self.dag.steps[number];
        let job = match &step.work {
            Work::Fill(to, byte) => job.output(slice(to)).param("byte", u64::from(*byte)),
            Work::Copy(from, to) => job.input(slice(from)).output(slice(to)),
            Work::Sum(from) | Work::Digest(from) => job.input(slice(from)),
            Work::Pack(from, frame) => job.input(slice(from)).output(&self.frames[*frame]),
            // The head of what both formats write.
            Work::Spoil(frame) => job.output(self.frames[*frame].slice(0..4)).param("byte", 0xa5),
            Work::Unpack(frame, to) => {
                let packed = self
                    .dag
                    .steps
                    .iter()
                    .position(|step| matches!(step.work, Work::Pack(_, of) if of == *frame));
                let cell = self.rig.cells.at(packed.expect("packed before"));
                job.input_from(&self.frames[*frame], cell, CellWord::Produced).output(slice(to))
            }
        };
        let is_sealed = matches!(op(step), "seal" | "open");
        let job = if is_sealed { job.operand("key", &self.rig.key) } else { job };
        job.result(self.rig.cells.at(number))
    }

    /// What is otherwise than the model says.
    fn differences(&self, model: &Model) -> Vec<String> {
        let ends: Vec<End> = self.fences.iter().map(|fence| end(fence.wait(soon()))).collect();
        let Err((_, cause, behind)) = &ends[self.dag.root] else {
            return vec![format!("the root, job {}, did not fail", self.dag.root)];
        };
        let mut wrong = Vec::new();
        for (number, (end, fate)) in ends.iter().zip(&model.fates).enumerate() {
            let right = match (fate, end) {
                (Fate::Done, Ok(())) | (Fate::Failed, Err(_)) => true,
                (Fate::Summed(sum), Ok(())) => {
                    let told = self.rig.cells.read(number).value();
                    sum.is_none_or(|sum| u64::from(sum) == told)
                }
                (Fate::Descends, Err((_, found, told))) => found == cause && told == behind,
                _ => false,
            };
            if !right {
                wrong.push(format!(
                    "job {number} {:?}: {fate:?}, and it is {end:?}; the root is {:?}",
                    self.dag.steps[number], ends[self.dag.root]
                ));
            }
        }
        for (number, buffer) in self.rig.buffers.iter().enumerate() {
            wrong.extend(
                unlike(buffer, &model.memory[number], *cause).map(|what| format!("buffer {number}{what}")),
            );
        }
        wrong
    }
}

/// Whether some queue fails more often than its fence page remembers.
fn forgets(dag: &Dag, model: &Model) -> bool {
    let mut failed = [0; QUEUES.len()];
    for (step, fate) in dag.steps.iter().zip(&model.fates) {
        failed[step.queue] += usize::from(matches!(fate, Fate::Failed | Fate::Descends));
    }
    failed.iter().any(|times| *times > fence_page::FAILURES)
}

fn op(step: &Step) -> &'static str {
    match (&step.work, QUEUES[step.queue]) {
        (Work::Fill(..) | Work::Spoil(_), _) => "fill",
        (Work::Copy(..), _) => "copy",
        (Work::Sum(_), _) => "crc32c",
        (Work::Digest(_), _) => "sha256",
        (Work::Pack(..), "zip") => "compress",
        (Work::Pack(..), _) => "seal",
        (Work::Unpack(..), "zip") => "decompress",
        (Work::Unpack(..), _) => "open",
    }
}

fn end(waited: Result<(), FenceError>) -> End {
    match waited {
        Ok(()) => Ok(()),
        Err(FenceError::Failed(failure)) => {
            let behind = failure.explanation.as_ref().map(ToString::to_string).unwrap_or_default();
            Err((failure.code, failure.cause, behind))
        }
        Err(other) => panic!("{other}"),
    }
}

/// Where reading a buffer is otherwise than it must be: a run of equal bytes at a time.
fn unlike(buffer: &Buffer, bytes: &[Byte], cause: CauseId) -> Option<String> {
    let mut start = 0;
    while start < LEN {
        let tainted = bytes[start].tainted;
        let len = bytes[start..].iter().take_while(|byte| byte.tainted == tainted).count();
        let range = start..start + len;
        let read = buffer.read(range.start as u64..range.end as u64, soon());
        let right = match &read {
            Err(Error::Job(failure)) => tainted && failure.cause == cause,
            Err(_) => false,
            Ok(found) => {
                !tainted
                    && found.iter().zip(&bytes[range.clone()]).all(|(a, b)| b.value.is_none_or(|b| b == *a))
            }
        };
        if !right {
            let how = read.map(|_| "other bytes").map_err(|error| error.to_string());
            return Some(format!(
                "[{range:?}] is {}, and reading it gives {how:?}",
                if tainted { "tainted" } else { "clean" }
            ));
        }
        start = range.end;
    }
    None
}

#[test]
fn f10_in_random_graphs_exactly_the_descendants_by_data_fail_with_the_cause_and_the_rest_is_byte_correct() {
    let seed = chance::seed("VGEM_DAG_SEED");
    let count = chance::number("VGEM_DAG_COUNT").unwrap_or(COUNT);
    let rig = Rig::new();
    let (mut jobs, mut descendants, mut forgotten) = (0, 0, 0);
    for number in 0..count {
        let mut chance = Chance::new(seed.wrapping_add(number));
        let contents = rig.fresh(&mut chance);
        let dag = Dag::draw(&mut chance);
        let model = Model::run(&dag, &contents);
        let wrong = Run::submit(&rig, &dag).differences(&model);
        let steps: Vec<_> = dag.steps.iter().enumerate().map(|step| format!("{step:?}")).collect();
        assert!(
            wrong.is_empty(),
            "graph {number} of VGEM_DAG_SEED={seed} (alone: VGEM_DAG_SEED={} VGEM_DAG_COUNT=1):\n{}\n\n{}",
            seed.wrapping_add(number),
            wrong.join("\n"),
            steps.join("\n")
        );
        jobs += dag.steps.len();
        descendants += model.fates.iter().filter(|fate| **fate == Fate::Descends).count();
        forgotten += u64::from(forgets(&dag, &model));
    }
    eprintln!(
        "{count} graphs, {jobs} jobs, {descendants} descendants of {count} failures; in {forgotten} a queue failed more \
         often than its page remembers"
    );
    assert!(descendants as u64 > count, "hardly anything descends from a failure");
    assert!(forgotten > 0 || count < COUNT, "pages remember all");
}

/// A job reads what another made and waits, besides, for a promise; before that is kept the other queue fails so often
/// that its page has forgotten how the first job ended, and the driver has to ask.
#[test]
fn f10_a_job_that_waited_for_long_fails_with_the_cause_of_what_it_reads_and_with_no_other() {
    const LATER: usize = 3 * fence_page::FAILURES;
    let rig = Rig::new();
    let [copy, zip] =
        ["copy", "zip"].map(|device| QUEUES.iter().position(|name| *name == device).expect("it is there"));
    let (source, made, read) = (&rig.buffers[0], &rig.buffers[1], &rig.buffers[2]);
    source.write(.., soon()).expect("ours").copy_from_slice(&[0xa5; LEN]);
    for first_fails in [false, true] {
        let mut gate = rig.client.timeline("gate").expect("a timeline");
        let promised = gate.promise_next(Deadline::after(Duration::from_secs(10))).expect("a promise");
        let unpack = |output: &Buffer| {
            let mut batch = rig.client.batch();
            batch.job(&rig.queues[zip], "decompress").input(source).output(output);
            batch.submit().expect("accepted").last().clone()
        };
        let first = if first_fails {
            unpack(made)
        } else {
            let mut batch = rig.client.batch();
            batch.job(&rig.queues[zip], "compress").input(source).output(made);
            batch.submit().expect("accepted").last().clone()
        };
        let mut batch = rig.client.batch();
        batch.job(&rig.queues[copy], "copy").input(made.slice(0..64)).output(read).behind(&promised);
        let waits = batch.submit().expect("accepted").last().clone();
        for _ in 0..LATER {
            let later = unpack(&rig.buffers[3]);
            assert!(later.wait(soon()).is_err(), "what is no frame cannot be unpacked");
        }
        gate.signal_next().expect("its own");
        let (of_first, of_waiter) = (end(first.wait(soon())), end(waits.wait(soon())));
        assert_eq!((of_first.is_err(), &of_waiter), (first_fails, &of_first));
    }
}
