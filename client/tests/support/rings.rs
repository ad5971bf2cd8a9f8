//! The rings of a fake broker, and a toy driver behind each: it copies (`compress`) and turns bits over (`mix`).
//!
//! | what an entry says | what it does |
//! |---|---|
//! | `compress` | copies as much of the input as the output takes; the value is the level, or with a comment the sum of its bytes |
//! | `compress`, level 13 | fails with CorruptInput and [`super::cause`] |
//! | `mix` | inverts every byte |
//!
//! An address that is not bound is a fault, as with a real driver.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use vgem_os::clock;
use vgem_os::fence::{SignallerFace, Woke};
use vgem_os::mapping::{CopyStyle, Mapping, Populate, Span, SpanMut, copy_span};
use vgem_os::memory;
use vgem_os::ring::{Completer, Consumer, Done, KeeperRing, Owed, Popped, map_driver};
use vgem_proto::codec::Zero;
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Time};
use vgem_proto::jobs::ParamSource;
use vgem_proto::message::client::{
    self as message, AttachRing, Bind, ClientMessage, CommitRing, RingAttached,
};
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{
    Arguments, Block, Call, Depth, Entry, FaultReason, Order, VaOperand, VaParam, Work,
};

use super::sharing::Sharing;
use super::{GENERATION, refused, slot};

/// What is bound to one queue.
#[derive(Debug, Default)]
struct Space(Mutex<Vec<(Bind, Arc<Mapping>)>>);

/// One ring and what the test has its driver do.
#[derive(Debug)]
pub(crate) struct ToyRing {
    pub(crate) keeper: KeeperRing,
    space: Space,
    stop: AtomicBool,
    /// Entries that it may take before it stops for a while.
    pub(crate) may_take: AtomicU64,
    /// It completes each turn from the last to the first.
    pub(crate) backwards: AtomicBool,
    pub(crate) taken: AtomicU64,
    /// It is awake and takes nothing.
    pub(crate) refrains: AtomicBool,
}

/// Every ring of a fake broker.
#[derive(Debug)]
pub(crate) struct Rings {
    rings: Mutex<HashMap<u64, Arc<ToyRing>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    signaller: Arc<SignallerFace>,
    /// It refuses to bind and to unbind.
    pub(crate) refuses: AtomicBool,
}

impl Rings {
    pub(crate) fn new(signaller: Arc<SignallerFace>) -> Self {
        let (rings, threads) = (Mutex::default(), Mutex::default());
        Self { rings, threads, signaller, refuses: AtomicBool::new(false) }
    }

    /// The ring of the n-th queue, from 0.
    pub(crate) fn ring(&self, queue: u16) -> Arc<ToyRing> {
        Arc::clone(&self.rings.lock().expect("not poisoned")[&(u64::from(queue) + 1)])
    }

    pub(crate) fn attach(&self, attach: &AttachRing) -> (ClientMessage, Vec<OwnedFd>) {
        let depth = Depth::new(attach.depth).expect("a depth");
        let keeper = KeeperRing::create(depth).expect("memory");
        let fd = keeper.export().expect("an fd");
        let ring = Arc::new(ToyRing {
            keeper,
            space: Space::default(),
            stop: AtomicBool::new(false),
            may_take: AtomicU64::new(u64::MAX),
            backwards: AtomicBool::new(false),
            taken: AtomicU64::new(0),
            refrains: AtomicBool::new(false),
        });
        let queue = u64::from(attach.queue.0);
        self.rings.lock().expect("not poisoned").insert(queue, ring);
        (RingAttached { queue: attach.queue, depth: attach.depth, reserved: Zero }.into(), vec![fd])
    }

    // M-176
    pub(crate) fn commit(&self, commit: &CommitRing) -> ClientMessage {
        let number = u16::try_from(commit.queue.0 - 1).expect("small");
        let ring = self.ring(number);
        if !ring.keeper.is_populated().expect("memory") {
            return refused(ErrorCode::NotReady, "some pages of the ring were never touched");
        }
        let halves = map_driver(ring.keeper.export().expect("an fd").as_fd()).expect("a ring");
        let (signaller, place) = (Arc::clone(&self.signaller), slot(number));
        let _woke: Woke = signaller.publish(place, GENERATION, 0, 0, &[]);
        let toy = Toy { ring, signaller, place, last: None };
        self.threads.lock().expect("not poisoned").push(std::thread::spawn(move || toy.run(halves)));
        message::Done {}.into()
    }

    pub(crate) fn bind(&self, bind: &Bind, sharing: &Sharing) -> ClientMessage {
        if self.refuses.load(Ordering::Relaxed) {
            return refused(ErrorCode::Exhausted, "no room for a binding");
        }
        let objects = sharing.objects.lock().expect("not poisoned");
        let object = &objects[usize::try_from(bind.object.0).expect("small") - 1].memory;
        let fd = object.export(memory::Access::Write).expect("an fd");
        let len = usize::try_from(object.len()).expect("small");
        let mapping = Mapping::map(fd.as_fd(), len, memory::Access::Write, Populate::Lazy);
        let ring = self.ring(u16::try_from(bind.queue.0 - 1).expect("small"));
        ring.space.0.lock().expect("not poisoned").push((bind.clone(), Arc::new(mapping.expect("mapped"))));
        message::Done {}.into()
    }

    pub(crate) fn unbind(&self, unbind: &message::Unbind) -> ClientMessage {
        if self.refuses.load(Ordering::Relaxed) {
            return refused(ErrorCode::Busy, "not now");
        }
        let ring = self.ring(u16::try_from(unbind.queue.0 - 1).expect("small"));
        ring.space.0.lock().expect("not poisoned").retain(|(bind, _)| bind.address != unbind.address);
        message::Done {}.into()
    }

    pub(crate) fn stop(&self) {
        self.rings
            .lock()
            .expect("not poisoned")
            .values()
            .for_each(|ring| ring.stop.store(true, Ordering::Relaxed));
        for thread in self.threads.lock().expect("not poisoned").drain(..) {
            thread.join().expect("the toy driver did not panic");
        }
    }
}

impl ToyRing {
    /// It takes so many entries more and then none.
    pub(crate) fn takes_only(&self, more: u64) {
        self.may_take.store(self.taken.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    fn may_take(&self) -> usize {
        let taken = self.taken.load(Ordering::Relaxed);
        usize::try_from(self.may_take.load(Ordering::Relaxed).saturating_sub(taken)).unwrap_or(usize::MAX)
    }

    /// It takes what comes.
    pub(crate) fn goes_on(&self) {
        self.may_take.store(u64::MAX, Ordering::Relaxed);
    }

    /// The broker's verdict.
    pub(crate) fn kill(&self, code: ErrorCode, cause: CauseId) {
        self.stop.store(true, Ordering::Relaxed);
        self.keeper.kill(Failure { code, cause });
    }

    /// Addresses that are bound, without the arena.
    pub(crate) fn bound(&self) -> Vec<(u64, u64)> {
        let space = self.space.0.lock().expect("not poisoned");
        space.iter().skip(1).map(|(bind, _)| (bind.address, bind.len)).collect()
    }
}

/// Some of the memory that a queue's driver reaches.
struct Reached {
    mapping: Arc<Mapping>,
    at: usize,
    len: usize,
}

impl Reached {
    fn span(&self) -> Span<'_> {
        self.mapping.span().sub(self.at, self.len).expect("inside")
    }

    fn span_mut(&self) -> SpanMut<'_> {
        self.mapping.span_mut().expect("writable").sub(self.at, self.len).expect("inside")
    }
}

type Outcome<T> = Result<T, Done>;

impl Space {
    fn reach(&self, address: u64, len: u64, access: Access) -> Outcome<Reached> {
        let fault = |reason: FaultReason| {
            let done = Done::failed(ErrorCode::AddressFault, super::cause());
            Done { value: reason.number(), address, ..done }
        };
        let space = self.0.lock().expect("not poisoned");
        let inside = |bind: &Bind| bind.address <= address && address + len <= bind.address + bind.len;
        let (bind, mapping) =
            space.iter().find(|(bind, _)| inside(bind)).ok_or_else(|| fault(FaultReason::Unbound))?;
        if access == Access::Write && bind.access == Access::Read {
            return Err(fault(FaultReason::ReadOnly));
        }
        let at = usize::try_from(bind.offset + address - bind.address).expect("small");
        Ok(Reached { mapping: Arc::clone(mapping), at, len: usize::try_from(len).expect("small") })
    }

    fn copy_of(&self, address: u64, len: u64) -> Outcome<Vec<u8>> {
        let reached = self.reach(address, len, Access::Read)?;
        let mut bytes = vec![0; reached.len];
        reached.span().copy_to(0, &mut bytes).expect("as long");
        Ok(bytes)
    }

    fn word(&self, cell: u64, word: u8) -> Outcome<u64> {
        let reached = self.reach(cell, 64, Access::Read)?;
        Ok(reached.span().read_u64(8 * usize::from(word)).expect("aligned"))
    }
}

struct Toy {
    ring: Arc<ToyRing>,
    signaller: Arc<SignallerFace>,
    place: vgem_os::fence::Slot,
    /// How the entry before ended.
    last: Option<Failure>,
}

impl Toy {
    fn run(mut self, (mut consumer, mut completer): (Consumer, Completer)) {
        while !self.ring.stop.load(Ordering::Relaxed) {
            let refrains = self.ring.may_take() == 0;
            self.ring.refrains.store(refrains, Ordering::Relaxed);
            if refrains {
                std::thread::yield_now();
                continue;
            }
            consumer.wait(clock::deadline_in(5_000_000)).expect("it may sleep");
            let most = self.ring.may_take().min(32);
            let popped: Vec<Popped> =
                consumer.turn(most).map(|popped| popped.expect("an honest client")).collect();
            if popped.is_empty() {
                continue;
            }
            self.ring.taken.fetch_add(popped.len() as u64, Ordering::Relaxed);
            self.turn(popped, &mut completer);
        }
    }

    fn turn(&mut self, popped: Vec<Popped>, completer: &mut Completer) {
        let mut ended: Vec<(Owed, Done)> = Vec::new();
        for Popped { owed, entry } in popped {
            let done = match entry {
                Ok(entry) => self.entry(&entry),
                Err(why) => Done { value: why.value(), ..Done::failed(why.code(), super::cause()) },
            };
            self.last = done.failure;
            ended.push((owed, done));
        }
        let last = ended.iter().map(|(owed, _)| owed.point()).max().expect("there are some");
        if self.ring.backwards.load(Ordering::Relaxed) {
            ended.reverse();
        }
        for (owed, done) in ended {
            completer.put(owed, done, Time(clock::now()));
        }
        completer.ring();
        let _woke: Woke =
            self.signaller.signal(self.place, last.0, clock::now(), None).expect("a newer point");
    }

    fn entry(&self, entry: &Entry) -> Done {
        if let Some(failure) = self.last.filter(|_| entry.order.contains(Order::CHAIN)) {
            return Done::failed(ErrorCode::Cancelled, failure.cause);
        }
        match entry.work {
            Work::Call(call) => self.call(&call).unwrap_or_else(|failed| failed),
            Work::Batch(batch) => {
                let range = batch.range();
                self.batch(range.address(), batch.count()).unwrap_or_else(|failed| failed)
            }
        }
    }

    fn batch(&self, address: u64, count: u64) -> Outcome<Done> {
        let bytes = self.ring.space.copy_of(address, count * 64)?;
        let (mut well, mut failed, mut last) = (0, None, None);
        for (index, bytes) in (0..).zip(bytes.chunks_exact(64)) {
            let mut words = [0; 8];
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            }
            let done = match Entry::decode_in_batch(&words, index) {
                Ok(Entry { order, .. }) if order.contains(Order::CHAIN) && last.is_some() => {
                    let cause = last.map_or(CauseId::NONE, |failure: Failure| failure.cause);
                    Done::failed(ErrorCode::Cancelled, cause)
                }
                Ok(Entry { work: Work::Call(call), .. }) => self.call(&call).unwrap_or_else(|failed| failed),
                Ok(_) => Done::failed(ErrorCode::Unsupported, super::cause()),
                Err(why) => Done::failed(why.code(), super::cause()),
            };
            last = done.failure;
            match done.failure {
                None => well += 1,
                Some(failure) => failed = failed.or(Some((index, failure))),
            }
        }
        Ok(match failed {
            None => Done { produced: well, ..Done::OK },
            Some((index, failure)) => {
                Done { produced: well, value: index, failure: Some(failure), ..Done::OK }
            }
        })
    }

    fn call(&self, call: &Call) -> Outcome<Done> {
        let space = &self.ring.space;
        let mut operands: Vec<Option<VaOperand>> = (0..16).map(|_| None).collect();
        for (number, range) in call.operands.iter().enumerate() {
            operands[number] = range.map(|range| VaOperand {
                address: range.address(),
                len: range.len(),
                cell: 0,
                number: u8::try_from(number).expect("small"),
                cell_word: 0,
                reserved: Zero,
            });
        }
        let mut params: Vec<Option<VaParam>> = (0..32).map(|_| None).collect();
        let number =
            |value| VaParam { value, max: 0, len: 0, number: 0, source: ParamSource::Value, cell_word: 0 };
        match call.arguments {
            Arguments::Inline { first, second } => {
                params[0] = first.map(number);
                params[1] = second.map(|second| number(u64::from(second)));
            }
            Arguments::Block(range) => {
                let bytes = space.copy_of(range.address(), range.len())?;
                let malformed = |_| Done::failed(ErrorCode::Malformed, super::cause());
                let block = Block::decode(&bytes).map_err(malformed)?;
                block.operands().for_each(|operand| operands[usize::from(operand.number)] = Some(operand));
                block.params().for_each(|param| params[usize::from(param.number)] = Some(param));
            }
        }
        match call.op {
            3 => self.compress(&operands, &params),
            4 => self.mix(&operands),
            _ => Err(Done::failed(ErrorCode::NoSuchOperation, super::cause())),
        }
    }

    fn len(&self, operand: &VaOperand) -> Outcome<u64> {
        if operand.cell == 0 {
            return Ok(operand.len);
        }
        let len = self.ring.space.word(operand.cell, operand.cell_word)?;
        if len > operand.len {
            Err(Done::failed(ErrorCode::IndirectTooLong, super::cause()))
        } else {
            Ok(len)
        }
    }

    fn compress(&self, operands: &[Option<VaOperand>], params: &[Option<VaParam>]) -> Outcome<Done> {
        let space = &self.ring.space;
        let [Some(input), Some(output), _, result, ..] = operands else {
            return Err(Done::failed(ErrorCode::BadOperand, super::cause()));
        };
        let mut value = match &params[1] {
            None => 3,
            Some(VaParam { source: ParamSource::Cell, value, cell_word, .. }) => {
                space.word(*value, *cell_word)?
            }
            Some(level) => level.value,
        };
        if value == 13 {
            return Err(Done::failed(ErrorCode::CorruptInput, super::cause()));
        }
        if let Some(comment) = &params[2] {
            let bytes = space.copy_of(comment.value, u64::from(comment.len))?;
            value = bytes.into_iter().map(u64::from).sum();
        }
        let len = self.len(input)?.min(output.len);
        let from = space.reach(input.address, len, Access::Read)?;
        let into = space.reach(output.address, len, Access::Write)?;
        copy_span(into.span_mut(), from.span(), CopyStyle::Plain).expect("as long");
        if let Some(result) = result {
            let cell = space.reach(result.address, 64, Access::Write)?;
            for (word, written) in [(0, len), (1, value), (4, 0xd16e57)] {
                cell.span_mut().write_u64(8 * word, written).expect("aligned");
            }
        }
        Ok(Done { produced: len, value, ..Done::OK })
    }

    fn mix(&self, operands: &[Option<VaOperand>]) -> Outcome<Done> {
        let [Some(data), ..] = operands else {
            return Err(Done::failed(ErrorCode::BadOperand, super::cause()));
        };
        let reached = self.ring.space.reach(data.address, data.len, Access::Write)?;
        let mut bytes = self.ring.space.copy_of(data.address, data.len)?;
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        reached.span_mut().copy_from(0, &bytes).expect("as long");
        Ok(Done { produced: data.len, ..Done::OK })
    }
}
