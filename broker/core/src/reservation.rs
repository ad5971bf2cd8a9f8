//! What must pass before an object may be used next (SEMANTICS R and J8).
//!
//! Three lists per object, all of unfinished business, all short:
//! - **fences**: the points that use the object, by class. At most one per timeline and class (R5).
//! - **pieces**: ranges that an unfinished point is still to write and that nobody has replaced since. They
//!   decide which waits are Data waits, and what is poisoned if the point fails.
//! - **poison**: ranges that a failed point was to write, with the failure.
//!
//! A use of the object waits for every fence of a class that conflicts with it (R2): by Data for the points of
//! the pieces it reads, by Order for the rest. Points of the user's own timeline come before it anyway, so of
//! those only Data waits are said. Nothing here can fail; bounds are checked by whoever calls.
//!
//! A point that ends is taken out with [`Reservation::end`]; before a failed one goes, its pieces become poison
//! (R5: nothing loses an error).

use vgem_proto::error::Failure;
use vgem_proto::ids::{DomainId, InstanceId, Point, TimelineKey};
use vgem_proto::rights::WaitKind;

use crate::ranges::ByteRange;

/// How strongly a point holds an object, strongest first (R1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(not(test), expect(dead_code, reason = "no job of this version moves or merely keeps memory"))]
pub(crate) enum Class {
    /// Moves and clears by the broker's own side.
    Kernel,
    /// Changes the content.
    Write,
    /// Looks at the content.
    Read,
    /// Keeps the memory alive and orders nobody (R3).
    Bookkeep,
}

/// What a job does to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Touching {
    /// Looks at it.
    Read,
    /// Changes it, or parts of it, and may look at it.
    Update,
    /// Replaces all of it; what was there does not matter.
    Replace,
}

impl Touching {
    pub(crate) fn class(self) -> Class {
        match self {
            Self::Read => Class::Read,
            Self::Update | Self::Replace => Class::Write,
        }
    }

    /// Whether what was there before matters.
    pub(crate) fn reads(self) -> bool {
        match self {
            Self::Read | Self::Update => true,
            Self::Replace => false,
        }
    }

    pub(crate) fn writes(self) -> bool {
        self.class() == Class::Write
    }
}

/// A point, and who signals it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) timeline: TimelineKey,
    pub(crate) point: Point,
    pub(crate) signaller: InstanceId,
    /// Of the instance.
    pub(crate) domain: DomainId,
}

/// A fence that a job must wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlannedWait {
    pub(crate) fence: Fence,
    pub(crate) kind: WaitKind,
}

/// The waits of the job that is being planned: the tail of a longer list. No fence twice, and no Order wait that
/// another wait on the same timeline already implies.
#[derive(Debug)]
pub(crate) struct JobWaits<'a> {
    all: &'a mut Vec<PlannedWait>,
    first: usize,
    own: TimelineKey,
    failures: Failures,
    /// Beyond so many it is too long, and no more are added.
    most: usize,
}

/// What the failure of another job means to a job that needs its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failures {
    /// It fails too.
    Matter,
    /// It runs all the same (`JOB_RUN_ANYWAY`): every Data wait becomes an Order wait.
    Ignored,
}

impl<'a> JobWaits<'a> {
    /// An empty list at the end of `all`, for a job on timeline `own`.
    /// More than `most` waits are of no use: whoever finds more in it refuses.
    pub(crate) fn begin(
        all: &'a mut Vec<PlannedWait>,
        own: TimelineKey,
        failures: Failures,
        most: usize,
    ) -> Self {
        let first = all.len();
        Self { all, first, own, failures, most }
    }

    /// Whether it is too long already.
    fn is_full(&self) -> bool {
        self.len() > self.most
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len() - self.first
    }

    fn list(&mut self) -> &mut [PlannedWait] {
        self.all.get_mut(self.first..).unwrap_or_default()
    }

    /// Adds a wait, unless it is implied.
    pub(crate) fn add(&mut self, fence: Fence, kind: WaitKind) {
        let kind = match self.failures {
            Failures::Matter => kind,
            Failures::Ignored => WaitKind::Order,
        };
        if kind == WaitKind::Order && fence.timeline == self.own {
            return;
        }
        let mut replace = None;
        for (at, wait) in self.list().iter_mut().enumerate() {
            if wait.fence.timeline != fence.timeline {
                continue;
            }
            match (kind, wait.kind) {
                (WaitKind::Order, WaitKind::Order) => {
                    wait.fence.point = wait.fence.point.max(fence.point);
                    return;
                }
                (WaitKind::Order, WaitKind::Data) if wait.fence.point >= fence.point => return,
                (WaitKind::Data, WaitKind::Data) if wait.fence.point == fence.point => return,
                (WaitKind::Data, WaitKind::Order) if wait.fence.point <= fence.point => replace = Some(at),
                (WaitKind::Order | WaitKind::Data, WaitKind::Data) | (WaitKind::Data, WaitKind::Order) => {}
            }
        }
        match replace.and_then(|at| self.list().get_mut(at)) {
            Some(wait) => *wait = PlannedWait { fence, kind },
            None => self.all.push(PlannedWait { fence, kind }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    fence: Fence,
    class: Class,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    range: ByteRange,
    fence: Fence,
}

/// A range whose content a failed point was to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Poison {
    pub(crate) range: ByteRange,
    pub(crate) failure: Failure,
    /// Of the job that failed.
    pub(crate) domain: DomainId,
}

/// A failure that a job inherits from what is over, and the domain that shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inherited {
    pub(crate) failure: Failure,
    pub(crate) domain: DomainId,
}

/// Poisoned ranges remembered one by one; more are merged into wider ones.
const POISON_LIMIT: usize = vgem_proto::limits::OBSERVED_POISON;

/// The reservation of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reservation {
    fences: Vec<Held>,
    pieces: Vec<Piece>,
    poison: Vec<Poison>,
}

impl Reservation {
    /// The fences of `class` and of every stronger one (R1).
    pub(crate) fn up_to(&self, class: Class) -> impl Iterator<Item = Fence> {
        self.fences.iter().filter(move |held| held.class <= class).map(|held| held.fence)
    }

    /// Adds what a job must wait for before it touches `range`.
    pub(crate) fn waits(&self, touching: Touching, range: ByteRange, waits: &mut JobWaits<'_>) {
        if touching.reads() {
            for piece in self.pieces.iter().filter(|piece| piece.range.overlaps(range)) {
                if waits.is_full() {
                    return;
                }
                waits.add(piece.fence, WaitKind::Data);
            }
        }
        let conflicting = if touching.writes() { Class::Read } else { Class::Write };
        for fence in self.up_to(conflicting) {
            if waits.is_full() {
                return;
            }
            waits.add(fence, WaitKind::Order);
        }
    }

    /// Notes that `fence` will have touched `range`.
    pub(crate) fn add(&mut self, fence: Fence, touching: Touching, range: ByteRange) {
        self.hold(fence, touching.class());
        match touching {
            Touching::Read => {}
            Touching::Update => self.write(fence, range),
            Touching::Replace => {
                self.replace(range);
                self.write(fence, range);
            }
        }
    }

    /// Adds a fence of a class: a newer point replaces older ones of the same or a weaker class (R4, R5).
    pub(crate) fn hold(&mut self, fence: Fence, class: Class) {
        let same = |held: &Held| held.fence.timeline == fence.timeline;
        if self.fences.iter().any(|held| same(held) && held.class <= class && held.fence.point >= fence.point)
        {
            return;
        }
        self.fences.retain(|held| !(same(held) && held.class >= class && held.fence.point <= fence.point));
        self.fences.push(Held { fence, class });
    }

    fn write(&mut self, fence: Fence, range: ByteRange) {
        if !range.is_empty() {
            self.pieces.push(Piece { range, fence });
        }
    }

    /// Forgets who was to write `range` and what went wrong there: it will all be replaced.
    pub(crate) fn replace(&mut self, range: ByteRange) {
        let mut after_parts = Vec::new();
        self.pieces.retain_mut(|piece| match piece.range.without(range) {
            (Some(part), second) => {
                after_parts.extend(second.map(|range| Piece { range, ..*piece }));
                piece.range = part;
                true
            }
            (None, Some(part)) => {
                piece.range = part;
                true
            }
            (None, None) => false,
        });
        self.pieces.append(&mut after_parts);
        if !self.poison.is_empty() {
            for poison in std::mem::take(&mut self.poison) {
                let (before, after) = poison.range.without(range);
                for part in [before, after].into_iter().flatten() {
                    self.poison_range(part, poison.failure, poison.domain);
                }
            }
        }
    }

    /// Takes out a point that has ended, and all before it on its timeline; poisons what a failed one was to
    /// write.
    pub(crate) fn end(&mut self, timeline: TimelineKey, point: Point, failure: Option<Failure>) {
        let over = |fence: &Fence| fence.timeline == timeline && fence.point <= point;
        self.fences.retain(|held| !over(&held.fence));
        if let Some(failure) = failure {
            let mut lost = Vec::new();
            self.pieces.retain(|piece| {
                if over(&piece.fence) {
                    lost.push((piece.range, piece.fence.domain));
                }
                !over(&piece.fence)
            });
            for (range, domain) in lost {
                self.poison_range(range, failure, domain);
            }
        } else {
            self.pieces.retain(|piece| !over(&piece.fence));
        }
    }

    /// Another instance signals a timeline from now on.
    pub(crate) fn rename(&mut self, timeline: TimelineKey, signaller: InstanceId) {
        let held = self.fences.iter_mut().map(|held| &mut held.fence);
        let all = held.chain(self.pieces.iter_mut().map(|piece| &mut piece.fence));
        all.filter(|fence| fence.timeline == timeline).for_each(|fence| fence.signaller = signaller);
    }

    fn poison_range(&mut self, range: ByteRange, failure: Failure, domain: DomainId) {
        let touches = |other: &ByteRange| other.start <= range.end && range.start <= other.end;
        let is_same = |p: &&mut Poison| (p.failure, p.domain) == (failure, domain) && touches(&p.range);
        if let Some(known) = self.poison.iter_mut().find(is_same) {
            known.range = known.range.hull(range);
        } else if self.poison.len() < POISON_LIMIT {
            self.poison.push(Poison { range, failure, domain });
        } else if let Some(last) = self.poison.last_mut() {
            last.range = last.range.hull(range);
        }
    }

    /// Why `range` cannot be read, if an earlier failure says so (J8).
    pub(crate) fn poisoned(&self, range: ByteRange) -> Option<Inherited> {
        let found = self.poison.iter().find(|poison| poison.range.overlaps(range));
        found.map(|Poison { failure, domain, .. }| Inherited { failure: *failure, domain: *domain })
    }

    pub(crate) fn poison(&self) -> &[Poison] {
        &self.poison
    }

    /// The fences that are held, one for each timeline and class.
    pub(crate) fn fences(&self) -> impl ExactSizeIterator<Item = Fence> {
        self.fences.iter().map(|held| held.fence)
    }

    /// Unfinished pieces.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// At least as many waits as one more use could need.
    pub(crate) fn most_waits(&self) -> usize {
        self.pieces.len() + self.fences.len()
    }

    /// Every fence that is named anywhere in here.
    pub(crate) fn named(&self) -> impl Iterator<Item = Fence> {
        self.fences.iter().map(|held| held.fence).chain(self.pieces.iter().map(|piece| piece.fence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgem_proto::error::ErrorCode;
    use vgem_proto::ids::CauseId;

    const ALL: ByteRange = ByteRange { start: 0, end: 4096 };

    fn fence(timeline: u32, point: u64) -> Fence {
        let timeline = TimelineKey { index: timeline, generation: 1 };
        Fence { timeline, point: Point(point), signaller: InstanceId(2), domain: DomainId(1) }
    }

    fn failure(counter: u32) -> Failure {
        Failure { code: ErrorCode::CorruptInput, cause: CauseId::new(InstanceId(2), counter) }
    }

    fn held_by(touching: Touching) -> Reservation {
        let mut reservation = Reservation::default();
        reservation.add(fence(1, 1), touching, ALL);
        reservation
    }

    fn poisoned(reservation: &Reservation, range: ByteRange) -> Option<Failure> {
        reservation.poisoned(range).map(|inherited| inherited.failure)
    }

    const MOST: usize = 512;

    fn waits(reservation: &Reservation, touching: Touching, range: ByteRange) -> Vec<(u32, u64, WaitKind)> {
        let mut all = Vec::new();
        let mut list = JobWaits::begin(&mut all, fence(999, 1).timeline, Failures::Matter, MOST);
        reservation.waits(touching, range, &mut list);
        all.iter().map(|wait| (wait.fence.timeline.index, wait.fence.point.0, wait.kind)).collect()
    }

    #[test]
    fn r1_asking_for_a_class_gives_it_and_all_stronger_ones() {
        let mut reservation = Reservation::default();
        let classes = [Class::Bookkeep, Class::Read, Class::Write, Class::Kernel];
        for (timeline, class) in (1..).zip(classes) {
            reservation.hold(fence(timeline, 1), class);
        }
        let counts = [Class::Kernel, Class::Write, Class::Read, Class::Bookkeep]
            .map(|class| reservation.up_to(class).count());
        assert_eq!(counts, [1, 2, 3, 4]);
    }

    #[test]
    fn r2_read_waits_for_writes_only_and_write_for_all() {
        let table = [
            (Touching::Read, Touching::Read, 0),
            (Touching::Read, Touching::Update, 1),
            (Touching::Update, Touching::Read, 1),
            (Touching::Update, Touching::Update, 1),
        ];
        for (first, second, expected) in table {
            let found = waits(&held_by(first), second, ALL).len();
            assert_eq!(found, expected, "{second:?} after {first:?}");
        }
    }

    #[test]
    fn r3_a_bookkeeping_point_makes_nobody_wait() {
        let mut reservation = Reservation::default();
        reservation.hold(fence(1, 1), Class::Bookkeep);
        assert_eq!(waits(&reservation, Touching::Update, ALL), []);
    }

    #[test]
    fn r4_a_point_is_promoted_but_never_weakened() {
        let mut reservation = Reservation::default();
        reservation.hold(fence(1, 1), Class::Read);
        reservation.hold(fence(1, 1), Class::Write);
        reservation.hold(fence(1, 1), Class::Read);
        assert_eq!(reservation.fences, [Held { fence: fence(1, 1), class: Class::Write }]);
    }

    #[test]
    fn r5_a_newer_point_replaces_an_older_one_of_the_same_or_a_weaker_class() {
        let mut reservation = Reservation::default();
        reservation.hold(fence(1, 1), Class::Read);
        reservation.hold(fence(1, 2), Class::Write);
        reservation.hold(fence(1, 3), Class::Read);
        let held = [(2, Class::Write), (3, Class::Read)];
        assert_eq!(reservation.fences, held.map(|(point, class)| Held { fence: fence(1, point), class }));
    }

    #[test]
    fn r5_many_points_of_one_timeline_take_the_room_of_one() {
        let mut reservation = Reservation::default();
        for point in 1..=100 {
            reservation.add(fence(1, point), Touching::Replace, ALL);
        }
        assert_eq!((reservation.fences.len(), reservation.pieces.len()), (1, 1));
    }

    #[test]
    fn r5_a_failed_point_leaves_its_cause_behind() {
        let mut reservation = held_by(Touching::Replace);
        reservation.end(fence(1, 1).timeline, Point(1), Some(failure(3)));
        assert_eq!((poisoned(&reservation, ALL), reservation.fences.len()), (Some(failure(3)), 0));
    }

    #[test]
    fn a_read_depends_by_data_on_the_writers_of_its_range_only() {
        let mut reservation = Reservation::default();
        reservation.add(fence(1, 1), Touching::Replace, ByteRange { start: 0, end: 64 });
        reservation.add(fence(2, 1), Touching::Replace, ByteRange { start: 64, end: 128 });
        let found = waits(&reservation, Touching::Read, ByteRange { start: 64, end: 128 });
        assert_eq!(found, [(2, 1, WaitKind::Data), (1, 1, WaitKind::Order)]);
    }

    #[test]
    fn atk_a_list_of_waits_that_is_too_long_is_not_made_longer() {
        let mut reservation = Reservation::default();
        for timeline in 2000..2000 + 4 * u32::try_from(MOST).unwrap() {
            reservation.add(fence(timeline, 1), Touching::Read, ALL);
        }
        assert_eq!(waits(&reservation, Touching::Update, ALL).len(), MOST + 1);
    }

    #[test]
    fn a_replacing_write_depends_on_nobody_by_data() {
        let found = waits(&held_by(Touching::Replace), Touching::Replace, ALL);
        assert_eq!(found, [(1, 1, WaitKind::Order)]);
    }

    #[test]
    fn j8_a_replacing_write_takes_earlier_writers_of_its_range_out_of_later_data_waits() {
        let mut reservation = held_by(Touching::Replace);
        reservation.add(fence(2, 1), Touching::Replace, ByteRange { start: 1024, end: 2048 });
        let middle = waits(&reservation, Touching::Read, ByteRange { start: 1024, end: 1025 });
        let rest = waits(&reservation, Touching::Read, ByteRange { start: 2048, end: 2049 });
        assert_eq!(middle, [(2, 1, WaitKind::Data), (1, 1, WaitKind::Order)]);
        assert_eq!(rest, [(1, 1, WaitKind::Data), (2, 1, WaitKind::Order)]);
    }

    #[test]
    fn j8_a_plain_write_clears_no_poison_and_a_replacing_one_only_its_range() {
        let mut reservation = held_by(Touching::Update);
        reservation.end(fence(1, 1).timeline, Point(1), Some(failure(1)));
        reservation.add(fence(2, 1), Touching::Update, ALL);
        assert_eq!(poisoned(&reservation, ALL), Some(failure(1)));
        reservation.add(fence(2, 2), Touching::Replace, ByteRange { start: 0, end: 2048 });
        let halves = [ByteRange { start: 0, end: 2048 }, ByteRange { start: 2048, end: 4096 }];
        assert_eq!(halves.map(|half| poisoned(&reservation, half)), [None, Some(failure(1))]);
    }

    #[test]
    fn what_was_replaced_since_is_not_poisoned_by_a_late_failure() {
        let mut reservation = held_by(Touching::Replace);
        reservation.add(fence(2, 1), Touching::Replace, ALL);
        reservation.end(fence(1, 1).timeline, Point(1), Some(failure(1)));
        assert_eq!(reservation.poisoned(ALL), None);
    }

    #[test]
    fn more_poison_than_is_remembered_is_widened_and_never_forgotten() {
        let mut reservation = Reservation::default();
        let ranges = (0..200).map(|n| ByteRange { start: n * 100, end: n * 100 + 10 });
        for (n, range) in (0..).zip(ranges.clone()) {
            reservation.poison_range(range, failure(n), DomainId(1));
        }
        assert_eq!(reservation.poison.len(), POISON_LIMIT);
        assert!(ranges.into_iter().all(|range| reservation.poisoned(range).is_some()));
    }

    #[test]
    fn r9_a_job_that_reads_and_writes_an_object_holds_it_once_and_as_writer() {
        let mut reservation = Reservation::default();
        reservation.add(fence(1, 1), Touching::Read, ByteRange { start: 0, end: 64 });
        reservation.add(fence(1, 1), Touching::Replace, ByteRange { start: 64, end: 128 });
        assert_eq!(reservation.fences, [Held { fence: fence(1, 1), class: Class::Write }]);
    }

    #[test]
    fn an_order_wait_that_a_data_wait_implies_is_left_out() {
        let mut all = Vec::new();
        let mut list = JobWaits::begin(&mut all, fence(9, 1).timeline, Failures::Matter, MOST);
        list.add(fence(1, 2), WaitKind::Order);
        list.add(fence(1, 3), WaitKind::Data);
        list.add(fence(1, 1), WaitKind::Data);
        list.add(fence(1, 3), WaitKind::Order);
        let points: Vec<_> = all.iter().map(|wait| (wait.fence.point.0, wait.kind)).collect();
        assert_eq!(points, [(3, WaitKind::Data), (1, WaitKind::Data)]);
    }
}
