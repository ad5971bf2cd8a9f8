//! Priorities that are lent along the waiting chain, so that no important job waits for an unimportant queue's turn.
//!
//! ```text
//!   job of a queue with priority 5 ──waits──► job on zip ──waits──► job on copy
//!                                     lends 5 ─────────► lends 5 ──────────►   one Boost to each driver
//! ```
//!
//! A queue is lent a priority up to a point: what was submitted behind that point is not waited for. It is remembered per
//! queue, so each loan is told to a driver once. A loan up to a point that is still to come counts for the jobs that will
//! be submitted up to there. Loans are never taken back: they end with the point.
//!
//! What a job waits for in its own instance its driver sees itself, so of that nothing is said. Nothing is lent to another
//! domain: there everybody's share is their own. Client promises are leaves.
//!
//! While no queue has a priority above 0 all of this costs one comparison per batch. Otherwise what one batch may cost is
//! bounded by [`VISITS`] and [`LOOKS`]; beyond that it lends no further, which delays somebody but harms nobody.

use std::collections::BTreeMap;

use vgem_proto::codec::Zero;
use vgem_proto::ids::{DomainId, InstanceId, Point, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::driver::Boost;

use crate::awaiting::{TimelineOrder, order_of};
use crate::batch::Batch;
use crate::broker::Broker;
use crate::devices::InstanceState;
use crate::queues::Queue;

/// Queues that the jobs of one batch may lend to.
const VISITS: usize = 64;
/// Waits that are looked at for the jobs of one batch.
const LOOKS: usize = 4096;

/// Up to which point a queue was lent each priority above 0; 0 is never lent.
pub(crate) type Lent = [Point; limits::PRIORITY as usize];

/// Who gets what in one go: per timeline the last point, and whether somebody beyond its own instance lends.
type Loans = BTreeMap<TimelineOrder, (TimelineKey, Point, bool)>;

impl Queue {
    /// The priority of the job at a point: the queue's own, or a higher one that it was lent.
    pub(crate) fn priority_at(&self, point: Point) -> u8 {
        let lent = (1..=limits::PRIORITY).zip(&self.lent).rev().find(|(_, until)| **until >= point);
        lent.map_or(self.priority, |(lent, _)| lent.max(self.priority))
    }

    /// Takes a loan; `false` if it has as much already.
    fn borrow(&mut self, priority: u8, point: Point) -> bool {
        if self.ended >= point || self.priority_at(point) >= priority {
            return false;
        }
        if let Some(until) = usize::from(priority).checked_sub(1).and_then(|place| self.lent.get_mut(place)) {
            *until = point;
        }
        true
    }
}

/// What a batch may still cost.
struct Budget {
    visits: usize,
    looks: usize,
}

impl Broker {
    /// The jobs of a batch that was accepted lend their priorities to what they wait for.
    pub(crate) fn lend_priorities(&mut self, domain: DomainId, batch: &Batch) {
        if self.prioritised == 0 {
            return;
        }
        let mut budget = Budget { visits: VISITS, looks: LOOKS };
        let jobs: Vec<(TimelineKey, Point, u8)> = batch
            .points()
            .filter_map(|(timeline, point)| {
                let priority = self.queues.get(timeline)?.priority_at(point);
                (priority > 0).then_some((timeline, point, priority))
            })
            .collect();
        for priority in (1..=limits::PRIORITY).rev() {
            let mut loans = Loans::new();
            for (timeline, point, _) in jobs.iter().filter(|(_, _, own)| *own == priority) {
                let Some(queue) = self.queues.get(*timeline) else { continue };
                for wait in queue.waits_of(*point) {
                    self.add_loan(&mut loans, &mut budget, wait, Some(queue.instance));
                }
            }
            self.lend(domain, priority, loans, &mut budget);
        }
    }

    /// Lends a priority, and goes on along what those wait for who take it.
    fn lend(&mut self, domain: DomainId, priority: u8, mut loans: Loans, budget: &mut Budget) {
        while let Some((_, (timeline, point, is_told))) = loans.pop_first() {
            let Some(queue) = self.queues.get_mut(timeline).filter(|queue| queue.domain == domain) else {
                continue;
            };
            if budget.visits == 0 || !queue.borrow(priority, point) {
                continue;
            }
            budget.visits -= 1;
            let id = queue.instance;
            let runs = self.instances.get(&id).is_some_and(|i| i.state == InstanceState::Ready);
            if is_told && runs {
                self.tell_driver(id, Boost { timeline, point, priority, reserved: Zero });
            }
            let Some(queue) = self.queues.get(timeline) else { continue };
            for wait in queue.waits_up_to(point) {
                self.add_loan(&mut loans, budget, wait, None);
            }
        }
    }

    /// Notes that a point is to be lent to. Somebody waits for it himself, in an instance, or others through him.
    fn add_loan(
        &self,
        loans: &mut Loans,
        budget: &mut Budget,
        (timeline, point): (TimelineKey, Point),
        waiter: Option<InstanceId>,
    ) {
        if budget.looks == 0 {
            return;
        }
        budget.looks -= 1;
        let Some(queue) = self.queues.get(timeline).filter(|queue| queue.ended < point) else { return };
        let is_told = waiter != Some(queue.instance);
        let loan = loans.entry(order_of(timeline)).or_insert((timeline, point, is_told));
        (loan.1, loan.2) = (loan.1.max(point), loan.2 || is_told);
    }
}
