//! The thread of one ring: takes entries, runs them one after another, completes them.
//!
//! ```text
//!            ┌──────────────────── a turn: at most TURN entries ────────────────────┐
//!   sleep ─► take ─► mail? ─► check, find ─► engine ─► (cause) ─► complete ─┐       │ nothing there
//!     ▲       ▲                                                             │       ├────────────► sleep
//!     │       └──────────────────────────────────────────────────────────────┘       │ corrupt
//!     │                     ring the client, signal the point ◄──────────────────────┘────────────► over: mail alone
//!     └── rung by the client, or by the control thread ──► stop ──► everything is let go ──► TimelineClosed
//! ```
//!
//! Entries run in their order, the next one when the one before has ended. So BARRIER asks for nothing more, and CHAIN
//! only for how the one before ended. Inside of a batch it is the same.
//!
//! A completion is in its ring as soon as its entry has ended; those of a few tiny entries that come one behind the
//! other together, when the last of them has, with one look at the clock. The first after a rest is completed alone:
//! whether another one is there is known to the other core, and asking costs as much as the entry. None waits for an entry that is not there
//! yet. A client that sleeps is rung, and the point signalled, at the end of a turn, and before: when an entry has
//! failed, when an entry comes that may take long, or when something ended a few microseconds ago. So entries that take
//! a microsecond each cost one look at the client for many of them, and none is told late for what comes after it.
//!
//! Nothing on the way of every entry allocates, moves a whole entry or a failure from place to place (a load of 16 bytes
//! that were just stored in halves waits for both), divides, or looks at the clock without need: when a tiny entry began is
//! asked for its result cell alone.
//!
//! What an entry uses is held by the address space that this thread has. It takes another one only between two
//! entries, those of a batch included, so what was unbound is let go of when the entry that runs has ended, and told then.

use std::sync::Arc;

use arrayvec::ArrayVec;
use vgem_os::clock;
use vgem_os::ring::{Completer, Consumer, Corruption, Done, Owed, Popped};
use vgem_proto::error::{ErrorCode, Failure};
use vgem_proto::ids::{CauseId, Point, Time};
use vgem_proto::layout::user_queue::{SLOT_LEN, SLOT_WORDS};
use vgem_proto::limits;
use vgem_proto::message::driver::{DriverMessage, Unbound, WindowsSet};
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{
    Arguments, BLOCK_LEN, Batch, Block, Call, Entry, EntryError, Order, VaRange, Words, Work,
};

use super::causes::{Causes, STANDS_FOR_MORE, Telling};
use super::check::{self, Flaw, Given};
use super::desk::{Desk, Mail, Stop};
use super::space::AddressSpace;
use super::stage::{Large, Stage};
use super::watch::Watch;
use crate::engine::{Engine, Produced};
use crate::execute::When;
use crate::instance::Instance;
use crate::operands::Resolved;
use crate::platform::{Os, Platform};
use crate::schedule::Points;
use crate::timeline::Timeline;

/// Entries that are taken in a row before whoever waits for them is told.
pub(super) const TURN: usize = 32;
/// How long a completion is in its ring before a client that sleeps is rung, if short entries go on coming, nanoseconds.
const HOLD_NS: u64 = 5_000;
/// Tiny entries that are completed together at most.
const TOGETHER: usize = 4;
/// Bytes of the operands of a tiny entry, at most: it takes little longer than a look at the clock.
const TINY: u64 = 256;
/// A sleep ends after this in any case, nanoseconds.
const SLEEP_NS: u64 = 60_000_000_000;
/// Entries of a batch that are read at once.
const PIECE: usize = 32;

/// The two halves of a ring that its driver has.
#[derive(Debug)]
pub(crate) struct Halves {
    pub(crate) consumer: Consumer,
    pub(crate) completer: Completer,
}

/// What the thread of a ring works with.
pub(super) struct Worker<E, P: Platform = Os> {
    instance: Arc<Instance<E, P>>,
    timeline: Arc<Timeline>,
    points: Points,
    desk: Arc<Desk<P>>,
    /// One of as many as there may be threads of rings.
    place: Arc<()>,
    /// What the desk's word held when the mail was last read.
    seen: u32,
    space: Arc<AddressSpace>,
    /// Where it writes down that it waits for its client's memory.
    watch: Arc<Watch>,
    stage: Stage,
    stop: Option<Stop>,
    /// How the last entry ended.
    last: Option<Failure>,
    /// Entries that have ended, and of which the next completion is not put yet.
    ended: ArrayVec<(Owed, Done), TOGETHER>,
    untold: Option<Untold>,
    causes: Causes,
    private: Private,
}

/// What an entry that ended well says in its completion.
#[derive(Debug, Clone, Copy)]
struct Good {
    produced: u64,
    value: u64,
}

/// Entries that have ended well, and of which nobody was told yet.
#[derive(Debug, Clone, Copy)]
struct Untold {
    point: Point,
    since: Time,
    ended: Time,
}

/// Private memory for what is read once.
#[derive(Debug)]
struct Private {
    block: Box<[u8; BLOCK_LEN]>,
    entries: Box<[u8; PIECE * SLOT_LEN]>,
    bytes: Vec<u8>,
}

impl Private {
    fn new() -> Self {
        Self {
            block: Box::new([0; BLOCK_LEN]),
            entries: Box::new([0; PIECE * SLOT_LEN]),
            bytes: Vec::with_capacity(limits::BATCH_BYTES),
        }
    }

    /// The words of an entry of the piece that was read.
    fn words(&self, place: usize) -> Words {
        let mut words = [0; SLOT_WORDS];
        let slots = self.entries.as_chunks::<SLOT_LEN>().0;
        for (word, bytes) in
            words.iter_mut().zip(slots.get(place).into_iter().flat_map(|s| s.as_chunks::<8>().0))
        {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }
}

/// An entry's block, copied to private memory.
#[inline(never)]
fn read_block<'p>(
    space: &AddressSpace,
    range: VaRange,
    into: &'p mut [u8; BLOCK_LEN],
) -> Result<Block<'p>, Flaw> {
    let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
    let place = into.get_mut(..len).unwrap_or_default();
    check::read_once(space, range, place)?;
    Ok(Block::decode(place)?)
}

impl<E: Engine, P: Platform> Worker<E, P> {
    pub(super) fn new(
        instance: Arc<Instance<E, P>>,
        (timeline, points): (Arc<Timeline>, Points),
        desk: Arc<Desk<P>>,
        place: Arc<()>,
        (watch, large): (Arc<Watch>, Arc<Large>),
    ) -> Self {
        Self {
            instance,
            timeline,
            points,
            desk,
            place,
            seen: 0,
            space: Arc::default(),
            watch,
            stage: Stage::new(large),
            stop: None,
            last: None,
            ended: ArrayVec::new(),
            untold: None,
            causes: Causes::new(Time(clock::now())),
            private: Private::new(),
        }
    }

    /// The thread's life.
    pub(super) fn run(mut self, ring: Halves) {
        self.serve(ring);
        while self.stop.is_none() {
            // The ring is over; ranges are still unbound, and the queue is closed one day.
            let words = [(self.desk.word(), self.seen)];
            self.instance.platform().sleep(&words, &[], clock::deadline_in(SLEEP_NS));
            self.read_mail();
        }
        self.leave();
    }

    /// Serves the ring until it is over, and lets go of its memory.
    fn serve(&mut self, mut ring: Halves) {
        self.read_mail();
        while self.stop.is_none() {
            match self.turn(&mut ring) {
                Ok(true) => {}
                Ok(false) => self.rest(&mut ring.consumer),
                Err(corruption) => return self.end(ring.consumer, corruption),
            }
        }
        if self.stop == Some(Stop::Close) {
            ring.consumer.end(Failure { code: ErrorCode::Gone, cause: CauseId::NONE });
        }
    }

    /// Takes entries, one turn of them; whether there was any.
    pub(super) fn turn(&mut self, ring: &mut Halves) -> Result<bool, Corruption> {
        let Halves { consumer, completer } = ring;
        let mut any = false;
        let mut began = None;
        for number in 0..TURN {
            let popped = consumer.pop();
            // Looked at where it is: it would be carried about in halves of what was just written.
            let (point, entry) = match &popped {
                Ok(Some(Popped { owed, entry })) => (owed.point(), entry),
                Ok(None) => break,
                Err(corruption) => {
                    self.tell(completer);
                    return Err(*corruption);
                }
            };
            any = true;
            // After it was taken: what its client was told of before it submitted this is there by now.
            self.read_mail();
            let tiny = self.begin(completer, entry, &mut began);
            let outcome = self.work(point, entry, &mut began);
            if let Ok(Some(Popped { owed, .. })) = popped {
                // The first after a rest does not: whether there is another one is asked of the other core.
                let waits = tiny && number > 0 && consumer.is_ready();
                began = self.finish(completer, owed, outcome, waits, began);
            }
            // And before the next is: once the queue closes none is.
            self.read_mail();
            if self.stop.is_some() {
                break;
            }
        }
        self.tell(completer);
        Ok(any)
    }

    // M-160
    fn rest(&mut self, consumer: &mut Consumer) {
        let word = (self.desk.word(), self.seen);
        self.instance.platform().rest(consumer, word, clock::deadline_in(SLEEP_NS));
        self.read_mail();
    }

    /// Before an entry: completes what has ended, and tells whoever waits, if it may take long. It begins when the one
    /// before it ended, if that is known; one that is tiny when somebody asks. Whether it is tiny.
    #[inline]
    fn begin(
        &mut self,
        completer: &mut Completer,
        entry: &Result<Entry, EntryError>,
        began: &mut Option<Time>,
    ) -> bool {
        let bytes = self.short(entry);
        let tiny = self.is_tiny(bytes);
        if !tiny {
            match bytes {
                None => self.tell(completer),
                Some(_) => _ = self.complete(completer),
            }
            began.get_or_insert_with(|| Time(clock::now()));
        }
        tiny
    }

    /// Completes an entry that was run, or, if it ended well and `waits`, leaves that to the next one, which is there
    /// already. Returns when it ended, or when those that are completed with it began.
    #[inline]
    fn finish(
        &mut self,
        completer: &mut Completer,
        owed: Owed,
        outcome: Result<Good, Done>,
        waits: bool,
        began: Option<Time>,
    ) -> Option<Time> {
        let Good { produced, value } = match outcome {
            Ok(good) => good,
            Err(done) => return self.finish_failed(completer, owed, done),
        };
        self.last = None;
        self.ended.push((owed, Done { produced, value, ..Done::OK }));
        if waits && !self.ended.is_full() {
            return began;
        }
        let ended = self.complete(completer);
        if let (Some(ended), Some(untold)) = (ended, self.untold)
            && ended.0.saturating_sub(untold.since.0) >= HOLD_NS
        {
            self.tell(completer);
        }
        ended
    }

    /// The same for one that failed: whoever waits is told at once.
    #[cold]
    fn finish_failed(&mut self, completer: &mut Completer, owed: Owed, done: Done) -> Option<Time> {
        let (point, failure) = (owed.point(), done.failure);
        self.last = failure;
        self.ended.push((owed, done));
        let ended = self.complete(completer);
        self.untold = None;
        completer.ring();
        self.signal(point, ended.unwrap_or(Time(0)), failure);
        ended
    }

    /// Puts the completions of what has ended; when that was, if there is any.
    #[inline]
    fn complete(&mut self, completer: &mut Completer) -> Option<Time> {
        let point = self.ended.last()?.0.point();
        let ended = Time(clock::now());
        for (owed, done) in self.ended.drain(..) {
            completer.put(owed, done, ended);
        }
        let since = self.untold.map_or(ended, |untold| untold.since);
        self.untold = Some(Untold { point, since, ended });
        Some(ended)
    }

    /// The bytes of an entry's operands, if it takes no longer than waking somebody. What may be in its client's own memory
    /// may take for ever.
    #[inline]
    fn short(&self, entry: &Result<Entry, EntryError>) -> Option<u64> {
        match entry {
            Ok(_) if self.space.own.is_some() => None,
            Ok(Entry { work: Work::Call(call), .. }) => self.short_call(call),
            Ok(_) => None,
            Err(_) => Some(0),
        }
    }

    /// Whether an entry of so many bytes, if it is short, is tiny.
    #[inline]
    fn is_tiny(&self, bytes: Option<u64>) -> bool {
        bytes.is_some_and(|bytes| bytes <= TINY)
    }

    #[inline]
    fn short_call(&self, call: &Call) -> Option<u64> {
        let Call { op, operands, arguments: Arguments::Inline { .. } } = call else { return None };
        let bytes = operands.iter().flatten().fold(0u64, |sum, range| sum.saturating_add(range.len()));
        (1..=self.instance.engine.inline_bytes(*op)).contains(&bytes).then_some(bytes)
    }

    /// Rings a client that sleeps, and signals the points of all that ended well since the last time.
    // M-164
    #[inline]
    fn tell(&mut self, completer: &mut Completer) {
        self.complete(completer);
        if let Some(untold) = self.untold.take() {
            completer.ring();
            self.signal(untold.point, untold.ended, None);
        }
    }

    #[inline]
    fn signal(&self, point: Point, ended: Time, failure: Option<Failure>) {
        if self.points == Points::OfRing {
            let signalled = self.timeline.signal(point, ended.0, failure);
            debug_assert!(signalled.is_ok(), "points of a ring come in order: {signalled:?}");
            if signalled == Ok(true) {
                self.instance.entries_ended(self.timeline.key);
            }
        }
    }

    // M-152, M-158, M-159
    #[inline]
    fn work(
        &mut self,
        point: Point,
        entry: &Result<Entry, EntryError>,
        began: &mut Option<Time>,
    ) -> Result<Good, Done> {
        self.watch.begin(point);
        let entry = match entry {
            Ok(entry) => entry,
            Err(why) => return Err(self.fail(point, (*why).into())),
        };
        if entry.order.contains(Order::CHAIN)
            && let Some(before) = self.last
        {
            return Err(Done::failed(ErrorCode::Cancelled, before.cause));
        }
        match &entry.work {
            Work::Call(call) => {
                let mut produced = Produced::default();
                match self.call(call, began, &mut produced) {
                    Ok(()) => Ok(Good { produced: produced.len, value: produced.value }),
                    Err(flaw) => Err(Done { produced: produced.len, ..self.fail(point, *flaw) }),
                }
            }
            Work::Batch(batch) => self.batch(point, *batch),
        }
    }

    /// One operation, from its addresses to its result cell. What has such a cell looks at the clock if nobody has.
    // M-193
    fn call(
        &mut self,
        call: &Call,
        began: &mut Option<Time>,
        produced: &mut Produced,
    ) -> Result<(), Box<Flaw>> {
        let Self { instance, timeline, space, private, stage, .. } = self;
        let Some(prepared) = instance.operations.by_number(call.op) else {
            return Err(Flaw::no_operation(call.op).into());
        };
        if prepared.is_forbidden() {
            return Err(Flaw::forbidden(&prepared.operation).into());
        }
        let block;
        let block = match call.arguments {
            Arguments::Inline { .. } => None,
            Arguments::Block(range) => {
                block = read_block(space, range, &mut private.block)?;
                Some(&block)
            }
        };
        let given = Given { call, block };
        let outcome = {
            let mut resolved = Resolved::default();
            let stages = (&mut private.bytes, &mut *stage);
            check::resolve(space, prepared, &given, stages, &mut resolved).map(|()| {
                if resolved.cell.is_some() {
                    began.get_or_insert_with(|| Time(clock::now()));
                }
                let run_ns = u64::from(prepared.operation.run_ms) * 1_000_000;
                let when = When { started: *began, run_ns };
                instance.call(prepared, timeline.key, when, &resolved, produced)
            })
        };
        let outcome = match (outcome, &space.own) {
            (Ok(Ok(())), None) => Ok(()),
            (Ok(outcome), Some(own)) if !stage.is_empty() => {
                let put_back =
                    stage.put_back(own, outcome.is_ok(), produced).map_err(|fault| Flaw::from(fault).into());
                outcome.map_err(|error| Flaw { value: produced.value, ..error.into() }.into()).and(put_back)
            }
            (Ok(outcome), _) => {
                outcome.map_err(|error| Flaw { value: produced.value, ..error.into() }.into())
            }
            (Err(flaw), _) => Err(flaw),
        };
        stage.leave();
        outcome
    }

    /// All entries of an array, one after the other. One that fails cancels those that are chained to it, and no others. A few
    /// tiny ones in a row begin, for their result cells, when the first of them does.
    // M-157
    fn batch(&mut self, point: Point, batch: Batch) -> Result<Good, Done> {
        if let Err(fault) = self.space.find(batch.range(), Access::Read).map(|_| ()) {
            return Err(self.fail(point, fault.into()));
        }
        let (mut ended_ok, mut first_failed, mut before_failed) = (0, None, false);
        let (mut began, mut before_tiny) = (None, false);
        for index in 0..batch.count() {
            let read = self.read_piece(batch, index);
            let place = usize::try_from(index % PIECE as u64).unwrap_or(PIECE);
            let entry = Entry::decode_in_batch(&self.private.words(place), index);
            let outcome = match (read, &entry) {
                (Ok(()), Ok(entry)) if before_failed && entry.order.contains(Order::CHAIN) => continue,
                (Ok(()), Ok(Entry { work: Work::Call(call), .. })) => {
                    let tiny = self.is_tiny(self.short_call(call));
                    if !tiny || !before_tiny || index % TOGETHER as u64 == 0 {
                        began = (!tiny).then(|| Time(clock::now()));
                    }
                    before_tiny = tiny;
                    self.call(call, &mut began, &mut Produced::default())
                }
                (Ok(()), Ok(_)) => Err(Flaw::from(EntryError::Nested).into()),
                (Ok(()), Err(why)) => Err(Flaw::from(*why).into()),
                (Err(flaw), _) => Err(flaw),
            };
            before_failed = outcome.is_err();
            match outcome {
                Ok(()) => ended_ok += 1,
                Err(flaw) if first_failed.is_none() => first_failed = Some((index, *flaw)),
                Err(_) => {}
            }
            // Whoever unbinds waits for one entry of the batch, and not for all of them.
            self.read_mail();
            if index + 1 < batch.count() && self.stop.is_some() {
                let flaw = || (index + 1, Flaw::cancelled("the queue was closed before this entry began"));
                first_failed.get_or_insert_with(flaw);
                break;
            }
        }
        let Some((index, flaw)) = first_failed else { return Ok(Good { produced: ended_ok, value: 0 }) };
        let text = format!("entry {index} of a batch: {}", flaw.text);
        Err(Done { produced: ended_ok, value: index, ..self.fail(point, Flaw { text, ..flaw }) })
    }

    /// Reads the piece of an array that begins with this entry, if one does. The array can be reached, and each piece is
    /// read once, when its first entry is asked for.
    #[inline]
    fn read_piece(&mut self, batch: Batch, index: u64) -> Result<(), Box<Flaw>> {
        let piece = PIECE as u64;
        if !index.is_multiple_of(piece) {
            return Ok(());
        }
        let len = SLOT_LEN as u64 * piece.min(batch.count() - index);
        let from =
            VaRange::new(batch.range().address() + SLOT_LEN as u64 * index, len).map_err(Flaw::from)?;
        let into = usize::try_from(len).ok().and_then(|len| self.private.entries.get_mut(..len));
        Ok(check::read_once(&self.space, from, into.unwrap_or_default())?)
    }

    /// Tells the broker why an entry failed, unless it hears of this queue too often.
    // M-108, M-167
    #[cold]
    fn fail(&mut self, point: Point, flaw: Flaw) -> Done {
        let Flaw { code, value, address, mut text } = flaw;
        let at = Time(clock::now());
        let cause = match self.causes.next(at) {
            Telling::Same(cause) => cause,
            telling => {
                if telling == Telling::Last {
                    text.push_str(STANDS_FOR_MORE);
                }
                let failure = self.instance.outbox.cause(self.timeline.key, point, at, code, &text);
                self.causes.told(failure.cause);
                failure.cause
            }
        };
        Done { value, address, ..Done::failed(code, cause) }
    }

    /// The client wrote what cannot be: takes no more from the ring, and says why.
    // M-161
    #[cold]
    fn end(&self, mut consumer: Consumer, corruption: Corruption) {
        let (key, at) = (self.timeline.key, Time(clock::now()));
        let text = format!("the client broke its queue: {corruption}");
        let failure = self.instance.outbox.cause(key, corruption.at, at, ErrorCode::Malformed, &text);
        consumer.end(failure);
    }

    #[inline]
    fn read_mail(&mut self) {
        if let Some(mail) = self.desk.take(&mut self.seen) {
            self.handle(mail);
        }
    }

    #[cold]
    fn handle(&mut self, mail: Mail) {
        if let Some(space) = mail.space {
            self.space = space;
            self.let_go();
        }
        for address in mail.unbound {
            let timeline = self.timeline.key;
            self.instance.outbox.send(&DriverMessage::Unbound(Unbound { timeline, address }));
        }
        for _ in 0..mail.windows {
            self.instance.outbox.send(&DriverMessage::WindowsSet(WindowsSet { timeline: self.timeline.key }));
        }
        self.stop = self.stop.or(mail.stop);
    }

    /// Lets objects go that nothing else holds any more.
    fn let_go(&self) {
        let gone = self.instance.schedule().objects.settle();
        if gone.is_anything() {
            self.instance.gone(gone);
        }
    }

    /// Everything of the ring is let go of already, and no entry uses the address space.
    fn leave(mut self) {
        self.space = Arc::default();
        self.let_go();
        let mut mail = self.desk.leave();
        // Another address space is for nobody, and is to be gone before it is told what that held.
        mail.space = None;
        self.handle(mail);
        self.let_go();
        let Self { instance, timeline, place, stop, .. } = self;
        // With the answer the broker may give another queue a ring.
        drop(place);
        if stop == Some(Stop::Close) {
            let closed = instance.schedule().close(timeline.key);
            if let Some(closed) = closed {
                instance.closed(&closed);
            }
        }
    }
}
