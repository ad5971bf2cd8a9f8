//! How instances end on the stage: what their pages show then, and what the broker has written into them.

use vgem_core::io::{Effect, Input, InstanceEnd, Seen, Settled};
use vgem_proto::error::Failure;
use vgem_proto::ids::{InstanceId, Point, TimelineKey};

use crate::driver::Driver;
use crate::world::World;

impl World {
    /// An instance's process ends; its pages are read.
    pub(crate) fn die(&mut self, id: InstanceId, end: InstanceEnd) {
        let driver = self.drivers.remove(&id).expect("an instance that lives");
        let gone = self.gone(&driver, end);
        self.apply(gone);
    }

    /// An instance's process does not end; its pages are read all the same.
    pub(crate) fn leave(&mut self, id: InstanceId) -> Input {
        let driver = self.drivers.remove(&id).expect("an instance that lives");
        let gone = self.gone(&driver, InstanceEnd::HeldUp);
        self.held_up.insert(id, driver);
        gone
    }

    /// A process that was held up ends.
    pub(crate) fn release(&mut self, id: InstanceId) {
        assert!(self.held_up.remove(&id).is_some(), "an instance that was left");
        self.apply(Input::InstanceReleased { instance: id });
    }

    fn gone(&mut self, driver: &Driver, end: InstanceEnd) -> Input {
        let id = driver.id;
        self.truth.open.retain(|timeline| !driver.opened.contains(timeline));
        let settled = driver.opened.iter().map(|timeline| self.settled(*timeline)).collect();
        let slots =
            driver.observe_pages.iter().flat_map(|(page, pair)| (0..15).map(move |s| (*page, *pair, s)));
        let shown = |(page, pair, slot)| match self.truth.slots.get(&(pair, slot)) {
            Some(key) => Seen { page, slot, generation: key.generation, value: self.truth.value[key] },
            None => Seen { page, slot, generation: 0, value: Point(0) },
        };
        let seen = slots.map(shown).collect();
        Input::InstanceGone { instance: id, end, settled, seen }
    }

    /// What the pages of a dead instance show of a timeline.
    pub(crate) fn settled(&self, timeline: TimelineKey) -> Settled {
        let all = self.truth.failures.range((timeline, Point(0))..=(timeline, Point(u64::MAX)));
        let mut failures: Vec<_> = all.map(|((_, point), failure)| (*point, *failure)).collect();
        let forgotten = failures.len().saturating_sub(8);
        failures.drain(..forgotten);
        let (value, at, forgets) = (self.truth.value[&timeline], self.now, forgotten > 0);
        Settled { timeline, value, at, failures, forgets }
    }

    pub(crate) fn settle(&mut self, effect: &Effect) {
        let (timeline, value, failures) = match effect {
            Effect::Settle { pair, slot, timeline, value, failures, dead_from, code, cause, .. } => {
                let timeline = *timeline;
                self.truth.slots.insert((*pair, *slot), timeline);
                self.truth.condemned.insert((*pair, *slot));
                let failure = Failure { code: *code, cause: *cause };
                self.truth.dead_from.insert(timeline, (*dead_from, failure));
                (timeline, *value, failures)
            }
            Effect::Level { timeline, value, failures, .. } => (*timeline, *value, failures),
            _ => return,
        };
        let before = self.truth.value[&timeline];
        assert!(before <= value, "settled backwards");
        for (point, failure) in failures.iter().filter(|(point, _)| *point > before) {
            self.truth.failures.insert((timeline, *point), *failure);
        }
        self.truth.value.insert(timeline, value);
    }

    /// Lets every instance and every porter that was told to end do so.
    pub(crate) fn bury(&mut self) {
        let ends = |driver: &&Driver| driver.killed && !driver.hangs;
        let killed: Vec<InstanceId> = self.drivers.values().filter(ends).map(|d| d.id).collect();
        for id in killed {
            self.die(id, InstanceEnd::Exited(-9));
        }
        let over = self.porters.iter().filter(|(_, process)| process.killed && !process.hangs);
        for porter in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end_porter(porter);
        }
    }
}
