//! Instances of clients' own in random histories: opened, given their clients' memory or not, stalled by it, ended, and
//! held up beyond their ends, while everything else goes on.

use vgem_core::io::Arrival;
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{InstanceId, Point, TimelineKey};
use vgem_proto::message::OPEN_OWN;
use vgem_proto::message::client::{AttachMemory, OpenQueue, SetWindows};
use vgem_proto::message::driver::Stalled;
use vgem_proto::rights::Access;
use vgem_proto::user_queue::Window;

use super::Model;
use super::sharing::Pending;

impl Model {
    /// Something with instances of clients' own.
    pub(super) fn own_something(&mut self) {
        match self.dice.below(12) {
            0..3 => self.open_own(),
            3..7 => self.give_memory(),
            7 => self.set_windows(),
            8..11 => self.stall(),
            _ => {
                self.release_one();
            }
        }
    }

    fn open_own(&mut self) {
        let Some(place) = self.some_member() else { return };
        let (link, device) = (self.members[place].link, self.some_device());
        let open = OpenQueue { device, depth: 0, priority: 0, reserved: Zero };
        self.ask_flagged(link, open, OPEN_OWN, Pending::OpenOwn);
    }

    /// A ring of a client's own instance.
    fn some_own(&mut self) -> Option<(usize, TimelineKey)> {
        let rings = self.members.iter().enumerate().flat_map(|(place, member)| {
            member.rings.iter().filter(|ring| ring.own).map(move |ring| (place, ring.timeline))
        });
        let all: Vec<_> = rings.collect();
        self.dice.pick(&all)
    }

    fn windows(&mut self) -> Vec<Window> {
        let access = if self.dice.one_in(2) { Access::Read } else { Access::Write };
        let window = |n: u64| Window { address: 0x1000 * (n + 1), len: 0x1000, access, reserved: Zero };
        (0..self.dice.below(3)).map(window).collect()
    }

    fn give_memory(&mut self) {
        let Some((place, timeline)) = self.some_own() else { return };
        let Some(porter) = self.porter_of(place) else { return };
        let member = &self.members[place];
        let (link, windows) = (member.link, self.windows());
        let ring = self.members[place].rings.iter().find(|ring| ring.timeline == timeline);
        let attach = AttachMemory { queue: ring.expect("it was just found").queue, windows };
        let access = if self.dice.one_in(3) { Access::Read } else { Access::Write };
        let arrival: Arrival = self.world.process();
        match self.dice.below(6) {
            0 => {
                // It never comes.
                if let Arrival::Process { arrival } = arrival {
                    self.world.arrivals.remove(&arrival);
                }
                self.ask_later(link, attach, Pending::Memory);
            }
            1 | 2 => {
                let request = self.world.next_request();
                self.world.bring(porter, request, arrival, access);
                self.ask_later(link, attach, Pending::Memory);
            }
            _ => {
                self.ask_later(link, attach, Pending::Memory);
                let request = self.world.next_request() - 1;
                self.world.bring(porter, request, arrival, access);
            }
        }
        self.memories += 1;
    }

    fn set_windows(&mut self) {
        let Some((place, timeline)) = self.some_own() else { return };
        let windows = self.windows();
        let member = &self.members[place];
        let ring = member.rings.iter().find(|ring| ring.timeline == timeline).expect("it was just found");
        let set = SetWindows { queue: ring.queue, windows };
        self.ask_later(self.members[place].link, set, Pending::Windows);
    }

    /// An entry waits for its client's memory; perhaps nobody can end that.
    fn stall(&mut self) {
        let drivers = self.world.drivers.values().filter(|driver| !driver.killed);
        let reached: Vec<(InstanceId, TimelineKey)> =
            drivers.flat_map(|driver| driver.windows.keys().map(|of| (driver.id, *of))).collect();
        let Some((id, timeline)) = self.dice.pick(&reached) else { return };
        self.hear(id, u64::from(u32::MAX));
        let is_there =
            |driver: &crate::driver::Driver| driver.windows.contains_key(&timeline) && !driver.killed;
        if !self.world.drivers.get(&id).is_some_and(is_there) {
            return;
        }
        let hangs = self.dice.one_in(2);
        self.world.drivers.get_mut(&id).expect("it lives").hangs = hangs;
        self.held_up += u64::from(hangs);
        let since = self.world.now;
        self.world.say(id, Stalled { timeline, point: Point(1), address: 0x1001, since });
    }

    /// A page comes after all.
    pub(super) fn release_one(&mut self) -> bool {
        let held: Vec<InstanceId> = self.world.held_up.keys().copied().collect();
        let Some(id) = self.dice.pick(&held) else { return false };
        self.world.release(id);
        true
    }
}

/// Refusals that a correct client may meet.
pub(super) fn may_refuse_own(pending: &Pending, code: ErrorCode) -> bool {
    use ErrorCode as E;
    match pending {
        Pending::OpenOwn => matches!(code, E::Exhausted | E::Unavailable | E::Late | E::System),
        Pending::Memory => matches!(
            code,
            E::Late | E::NotReady | E::Exhausted | E::Gone | E::Busy | E::Denied | E::Unavailable | E::System
        ),
        Pending::Windows => matches!(code, E::NotReady | E::Busy | E::Denied | E::Gone),
        _ => false,
    }
}
