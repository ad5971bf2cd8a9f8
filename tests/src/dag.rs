//! Random graphs of jobs on a few buffers, one of which fails by itself, and a model of what must come of them.
//!
//! The model is deliberately simple: jobs one after the other, memory as bytes, and for each byte whether the failed job,
//! or one that failed because of it, was to write it (**tainted**). That is the whole rule (SEMANTICS F10, J8):
//!
//! ```text
//! a job that reads a tainted byte, or was told to fail with a job that failed ─► fails too; what it was to write is tainted
//! any other job ─► writes; all of its declared output is clean
//! ```
//!
//! Everything else, who waits for whom in which queue, in which order it happens, is the broker's and the drivers'
//! business, and must not show. The one that fails by itself is the second half of a pair (seal and open, compress
//! and decompress) whose frame somebody overwrites in between.

use std::ops::Range;

use crate::chance::Chance;

/// Bytes of a buffer.
pub const LEN: usize = 4096;
/// Buffers that jobs read and write.
pub const BUFFERS: usize = 5;
/// Bytes of which ranges are made: nothing is aligned better.
const BLOCK: usize = 64;

/// The queues.
pub const QUEUES: [&str; 5] = ["copy", "copy", "sec", "sec", "zip"];

/// Some bytes of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which buffer.
    pub buffer: usize,
    /// Which bytes.
    pub range: Range<usize>,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Sets every byte.
    Fill(Place, u8),
    /// Copies to the start of the output, which may be longer.
    Copy(Place, Place),
    /// Sums.
    Sum(Place),
    /// Digests.
    Digest(Place),
    /// Makes a frame, of this number.
    Pack(Place, usize),
    /// Spoils that frame.
    Spoil(usize),
    /// Unpacks it again.
    Unpack(usize, Place),
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The queue it is sent to.
    pub queue: usize,
    /// What it does.
    pub work: Work,
    /// An earlier job that it waits for, and fails with.
    pub after: Option<usize>,
    /// An earlier job that it waits for, however that ends.
    pub behind: Option<usize>,
    /// Runs whatever came before.
    pub anyway: bool,
    /// The first job of another batch.
    pub new_batch: bool,
    /// Nothing more is submitted until some earlier job has ended.
    pub pause: Option<usize>,
}

/// A graph of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dag {
    /// In the order in which they are submitted.
    pub steps: Vec<Step>,
    /// The one that fails by itself.
    pub root: usize,
    /// Frames.
    pub frames: usize,
}

impl Dag {
    /// Draws one.
    pub fn draw(chance: &mut Chance) -> Self {
        let units = if chance.happens(30) { 60 + chance.index(100) } else { 8 + chance.index(14) };
        // Early, so that there is somebody to come after it.
        let bad = chance.index(units.min(21) / 3);
        let mut dag = Self { steps: Vec::new(), root: 0, frames: 0 };
        for unit in 0..units {
            if unit == bad || chance.happens(20) {
                dag.pair(chance, unit == bad);
            } else {
                dag.single(chance);
            }
        }
        dag
    }

    fn single(&mut self, chance: &mut Chance) {
        let (queue, work) = match chance.below(10) {
            0..=2 => {
                (chance.index(2), Work::Fill(place(chance), u8::try_from(chance.below(256)).unwrap_or(0)))
            }
            3..=7 => (chance.index(2), self.copy(chance)),
            8 => (chance.index(2), Work::Sum(self.input(chance))),
            _ => (2 + chance.index(2), Work::Digest(self.input(chance))),
        };
        let anyway = matches!(work, Work::Copy(..)) && chance.happens(6);
        self.add(chance, queue, work, anyway);
    }

    fn pair(&mut self, chance: &mut Chance, bad: bool) {
        let queue = 2 + chance.index(3);
        let frame = self.frames;
        self.frames += 1;
        let input = self.input(chance);
        let room = input.range.len();
        self.add(chance, queue, Work::Pack(input, frame), false);
        if bad {
            let copying = chance.index(2);
            self.add(chance, copying, Work::Spoil(frame), false);
        }
        if chance.happens(50) {
            self.single(chance);
        }
        // Another queue of the same device does as well.
        let queue = if queue < 4 { 2 + chance.index(2) } else { queue };
        let output = Place { range: 0..room, ..place(chance) };
        self.add(chance, queue, Work::Unpack(frame, output), false);
        if bad {
            self.root = self.steps.len() - 1;
        }
    }

    fn copy(&self, chance: &mut Chance) -> Work {
        let (from, to) = (self.input(chance), place(chance));
        // An output that is longer than the input is declared whole, and written in part.
        let len = from.range.len().min(to.range.len());
        Work::Copy(Place { range: from.range.start..from.range.start + len, ..from }, to)
    }

    /// Bytes to read: often some that an earlier job wrote, or was to write.
    fn input(&self, chance: &mut Chance) -> Place {
        let written = self.steps.iter().filter_map(|step| match &step.work {
            Work::Fill(to, _) | Work::Copy(_, to) | Work::Unpack(_, to) => Some(to),
            _ => None,
        });
        let written: Vec<&Place> = written.collect();
        if written.is_empty() || chance.happens(40) {
            return place(chance);
        }
        let output = *chance.pick(&written);
        let blocks = output.range.len() / BLOCK;
        let skipped = chance.index(blocks);
        let taken = 1 + chance.index(blocks - skipped);
        let start = output.range.start + skipped * BLOCK;
        Place { buffer: output.buffer, range: start..start + taken * BLOCK }
    }

    fn add(&mut self, chance: &mut Chance, queue: usize, work: Work, anyway: bool) {
        let earlier = self.steps.len();
        let some = |chance: &mut Chance, percent| {
            (earlier > 0 && chance.happens(percent)).then(|| chance.index(earlier))
        };
        // The pair that is to fail must come as far as that by itself.
        let is_pair = matches!(work, Work::Pack(..) | Work::Spoil(_) | Work::Unpack(..));
        let (after, behind) = (some(chance, if is_pair { 0 } else { 10 }), some(chance, 10));
        let (new_batch, pause) = (chance.happens(25), some(chance, 8));
        self.steps.push(Step {
            queue,
            work,
            after,
            behind,
            anyway,
            new_batch: new_batch || pause.is_some(),
            pause,
        });
    }
}

fn place(chance: &mut Chance) -> Place {
    let blocks = LEN / BLOCK;
    let len = 1 + chance.index(blocks / 2);
    let start = chance.index(blocks - len + 1);
    Place { buffer: chance.index(BUFFERS), range: start * BLOCK..(start + len) * BLOCK }
}

/// What must come of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is done.
    Done,
    /// Done, and this is the sum, if all that it read is known.
    Summed(Option<u32>),
    /// It failed by itself.
    Failed,
    /// It failed because of that one.
    Descends,
}

/// A byte as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Byte {
    /// Its value, unless somebody read what nobody vouches for.
    pub value: Option<u8>,
    /// The failed job, or one that descends from it, was to write it.
    pub tainted: bool,
}

/// Memory, and what came of each job.
#[derive(Debug)]
pub struct Model {
    /// The buffers.
    pub memory: Vec<Vec<Byte>>,
    /// Of each job.
    pub fates: Vec<Fate>,
    frames: Vec<Frame>,
}

#[derive(Debug, Clone, Default)]
struct Frame {
    content: Vec<Byte>,
    tainted: bool,
    spoiled: bool,
}

impl Model {
    /// Runs a graph on these contents.
    #[must_use]
    pub fn run(dag: &Dag, contents: &[Vec<u8>]) -> Self {
        let clean = |byte: &u8| Byte { value: Some(*byte), tainted: false };
        let memory = contents.iter().map(|bytes| bytes.iter().map(clean).collect()).collect();
        let mut model = Self { memory, fates: Vec::new(), frames: vec![Frame::default(); dag.frames] };
        for step in &dag.steps {
            let fate = model.step(step);
            model.fates.push(fate);
        }
        model
    }

    fn step(&mut self, step: &Step) -> Fate {
        let failed = |job: usize| matches!(self.fates[job], Fate::Failed | Fate::Descends);
        let told = step.after.is_some_and(failed);
        let reads_taint = match &step.work {
            Work::Fill(..) | Work::Spoil(_) => false,
            Work::Copy(from, _) | Work::Sum(from) | Work::Digest(from) | Work::Pack(from, _) => {
                self.at(from).iter().any(|byte| byte.tainted)
            }
            Work::Unpack(frame, _) => self.frames[*frame].tainted,
        };
        if (told || reads_taint) && !step.anyway {
            self.fail(&step.work);
            return Fate::Descends;
        }
        self.work(&step.work)
    }

    fn fail(&mut self, work: &Work) {
        match work {
            Work::Fill(to, _) | Work::Copy(_, to) | Work::Unpack(_, to) => {
                for byte in self.at_mut(to) {
                    *byte = Byte { value: None, tainted: true };
                }
            }
            Work::Pack(_, frame) => self.frames[*frame].tainted = true,
            Work::Spoil(_) | Work::Sum(_) | Work::Digest(_) => {}
        }
    }

    fn work(&mut self, work: &Work) -> Fate {
        match work {
            Work::Fill(to, value) => {
                self.put(to, &vec![Byte { value: Some(*value), tainted: false }; to.range.len()])
            }
            Work::Copy(from, to) => {
                let bytes = self.at(from).to_vec();
                self.put(to, &bytes);
            }
            Work::Sum(from) => {
                let bytes: Option<Vec<u8>> = self.at(from).iter().map(|byte| byte.value).collect();
                return Fate::Summed(bytes.map(|bytes| crc32c(&bytes)));
            }
            Work::Digest(_) => {}
            Work::Pack(from, frame) => {
                self.frames[*frame] = Frame { content: self.at(from).to_vec(), ..Frame::default() };
            }
            Work::Spoil(frame) => self.frames[*frame].spoiled = true,
            Work::Unpack(frame, to) => {
                if self.frames[*frame].spoiled {
                    self.fail(work);
                    return Fate::Failed;
                }
                let bytes = std::mem::take(&mut self.frames[*frame].content);
                self.put(to, &bytes);
            }
        }
        Fate::Done
    }

    /// Writes the start of an output that is declared whole.
    fn put(&mut self, to: &Place, bytes: &[Byte]) {
        for (place, byte) in self.at_mut(to).iter_mut().enumerate() {
            if let Some(new) = bytes.get(place) {
                byte.value = new.value;
            }
            byte.tainted = false;
        }
    }

    fn at(&self, place: &Place) -> &[Byte] {
        &self.memory[place.buffer][place.range.clone()]
    }

    fn at_mut(&mut self, place: &Place) -> &mut [Byte] {
        &mut self.memory[place.buffer][place.range.clone()]
    }
}

/// CRC-32C (Castagnoli), bit by bit: slow, and not the driver's.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_root_and_nobody_else_fails_by_itself() {
        let contents = vec![vec![1; LEN]; BUFFERS];
        let mut descendants = 0;
        for seed in 0..200 {
            let dag = Dag::draw(&mut Chance::new(seed));
            let Model { fates, .. } = Model::run(&dag, &contents);
            let failed: Vec<usize> = (0..fates.len()).filter(|job| fates[*job] == Fate::Failed).collect();
            assert_eq!(failed, [dag.root], "seed {seed}");
            descendants += fates.iter().filter(|fate| **fate == Fate::Descends).count();
        }
        assert!(descendants > 400, "only {descendants} descend from a failure");
    }
}
