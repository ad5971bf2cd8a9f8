//! Copies of 64 bytes by a user queue, the least that `copy` can do there: one at a time, many at once, and in batches.
//!
//! Everything goes through the client library, as in a program that cares: entries are prepared before, and what nobody
//! asks for is forgotten. A second process (`copy_on_order`) does the same on order, to have its system calls counted
//! from outside.

use std::hint::{black_box, spin_loop};

use anyhow::ensure;
use vgem::{
    Access, After, Binding, Buffer, Client, Deadline, Prepared, Ticket, UserQueue, UserQueueCounters,
};
use vgem_os::clock;

use super::partner::{in_time, taken};
use crate::floor::{Fds, PACKET, receive};

/// Bytes of a copy.
const LEN: u64 = 64;
/// Entries that are pushed at once where that is measured.
pub const BURST: usize = 32;
/// Entries of a batch.
pub const BATCH: usize = 256;
/// Entries that a queue holds.
const DEPTH: u32 = 256;
/// Batches that are not known to have ended: an arena holds this many of them, and the driver always has another one.
const BATCHES_AHEAD: usize = 4;
/// Looks between two looks at the clock.
const LOOKS: u32 = 4096;
/// After this long without an entry a driver sleeps, nanoseconds: several times what it looks for before.
const ASLEEP_AFTER_NS: u64 = 60_000;

/// What the second process is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Push one by one and look for completions, never sleep.
    Look,
    /// Push many at once.
    Many,
    /// Push batches.
    Batches,
}

impl Order {
    const ALL: [Self; 3] = [Self::Look, Self::Many, Self::Batches];

    const fn number(self) -> u64 {
        match self {
            Self::Look => 0,
            Self::Many => 1,
            Self::Batches => 2,
        }
    }

    /// The packet that tells it: what, and how many copies.
    #[must_use]
    pub fn packet(self, copies: u64) -> [u8; PACKET] {
        words([self.number(), copies])
    }
}

/// A packet that begins with these words.
fn words<const N: usize>(words: [u64; N]) -> [u8; PACKET] {
    let mut packet = [0; PACKET];
    for (place, word) in packet.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    packet
}

/// The first two words of a packet.
#[must_use]
pub fn pair(packet: &[u8; PACKET]) -> (u64, u64) {
    let mut words = packet.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

/// A user queue of `copy`, and entries for it.
#[derive(Debug)]
pub struct Copies {
    queue: UserQueue,
    entries: Vec<Prepared>,
    tickets: Vec<Ticket>,
    deadline: Deadline,
    /// What is bound.
    _buffers: [Buffer; 2],
}

impl Copies {
    /// Opens the queue, and binds and prepares what is needed.
    ///
    /// # Errors
    /// As the client library's requests.
    pub fn new(client: &Client) -> anyhow::Result<Self> {
        let queue = client.device("copy")?.user_queue(DEPTH)?;
        let len = LEN * BATCH as u64;
        let (from, to) = (client.create(len)?, client.create(len)?);
        let (src, dst) = (queue.bind(&from, Access::Read)?, queue.bind(&to, Access::Write)?);
        let piece = |of: &Binding, number: u64| of.range(number * LEN..(number + 1) * LEN);
        let entry =
            |number| queue.entry("copy").input(piece(&src, number)).output(piece(&dst, number)).prepare();
        let entries = (0..BATCH as u64).map(entry).collect::<Result<_, _>>()?;
        let tickets = Vec::with_capacity(BURST);
        Ok(Self { queue, entries, tickets, deadline: in_time(), _buffers: [from, to] })
    }

    /// What the queue has counted so far.
    #[must_use]
    pub fn counters(&self) -> UserQueueCounters {
        self.queue.counters()
    }

    /// From now on everything must come soon.
    pub fn begin(&mut self) {
        self.deadline = in_time();
    }

    /// Pushes [`BURST`] entries, one by one, by a thread that has the queue for itself meanwhile, and then looks until all
    /// have ended. What the pushes took, nanoseconds, unless the driver was asleep at one of them.
    ///
    /// # Errors
    /// As the client library's.
    #[inline]
    pub fn pushes(&mut self) -> anyhow::Result<Option<u64>> {
        self.awake(|queue, entries| {
            let mut locked = queue.lock();
            for entry in entries {
                black_box(locked.try_push(entry)?);
            }
            Ok(())
        })
    }

    /// The same by a thread that locks the queue for each of them.
    ///
    /// # Errors
    /// As the client library's.
    #[inline]
    pub fn pushes_that_lock(&mut self) -> anyhow::Result<Option<u64>> {
        self.awake(|queue, entries| {
            for entry in entries {
                black_box(queue.try_push(entry)?);
            }
            Ok(())
        })
    }

    /// Pushes [`BURST`] entries, and looks until they have ended.
    #[inline]
    fn awake(
        &self,
        push: impl FnOnce(&UserQueue, &[Prepared]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<u64>> {
        let entries = self.entries.get(..BURST).unwrap_or_default();
        let before = (self.queue.counters().doorbells, clock::now());
        push(&self.queue, entries)?;
        let spent = clock::now() - before.1;
        let was_awake = self.queue.counters().doorbells == before.0;
        self.look_for(BURST)?;
        Ok(was_awake.then_some(spent))
    }

    /// The same with one call for all.
    ///
    /// # Errors
    /// As the client library's.
    #[inline]
    pub fn pushes_at_once(&mut self) -> anyhow::Result<Option<u64>> {
        let before = (self.queue.counters().doorbells, clock::now());
        self.tickets.clear();
        self.queue.try_push_many(self.entries.get(..BURST).unwrap_or_default(), &mut self.tickets)?;
        let spent = clock::now() - before.1;
        let was_awake = self.queue.counters().doorbells == before.0;
        self.look_for(BURST)?;
        Ok(was_awake.then_some(spent))
    }

    /// Looks until so many entries have ended, and takes them. Does not sleep.
    fn look_for(&self, count: usize) -> anyhow::Result<()> {
        let mut taken = 0;
        while taken < count {
            let found = self.look(|queue| queue.try_reap())?;
            found.result?;
            taken += 1;
        }
        Ok(())
    }

    fn look<T>(&self, mut look: impl FnMut(&UserQueue) -> vgem::Result<Option<T>>) -> anyhow::Result<T> {
        loop {
            for _ in 0..LOOKS {
                if let Some(found) = look(&self.queue)? {
                    return Ok(found);
                }
                spin_loop();
            }
            ensure!(!self.deadline.passed(), "a copy of 64 bytes did not end in time");
        }
    }

    /// One copy, there and back, by a client that only looks.
    ///
    /// # Errors
    /// As the client library's.
    #[inline]
    pub fn looked_for(&mut self) -> anyhow::Result<()> {
        let ticket = self.queue.try_push(self.first()?)?;
        black_box(self.look(|queue| queue.try_take(ticket))?);
        Ok(())
    }

    /// One copy, there and back, by a client that waits as programs do.
    ///
    /// # Errors
    /// As the client library's.
    #[inline]
    pub fn waited_for(&mut self) -> anyhow::Result<()> {
        let ticket = self.queue.push(self.first()?, self.deadline)?;
        black_box(self.queue.wait(ticket, self.deadline)?);
        Ok(())
    }

    /// The same on a driver that was left alone until it slept; what it took, nanoseconds, if it did sleep.
    ///
    /// # Errors
    /// As the client library's.
    pub fn woken(&mut self) -> anyhow::Result<Option<u64>> {
        let quiet = clock::deadline_in(ASLEEP_AFTER_NS);
        while clock::now() < quiet {
            spin_loop();
        }
        let (doorbells, before) = (self.queue.counters().doorbells, clock::now());
        self.waited_for()?;
        let spent = clock::now() - before;
        Ok((self.queue.counters().doorbells > doorbells).then_some(spent))
    }

    fn first(&self) -> anyhow::Result<&Prepared> {
        self.entries.first().ok_or_else(|| anyhow::anyhow!("no entry was prepared"))
    }

    /// `count` copies, [`BURST`] at once, each with a completion of its own; waits for all of them.
    ///
    /// # Errors
    /// As the client library's.
    pub fn many(&mut self, count: usize) -> anyhow::Result<()> {
        let Self { queue, entries, tickets, deadline, .. } = self;
        for _ in 0..count / BURST {
            tickets.clear();
            queue.push_many(entries.get(..BURST).unwrap_or_default(), tickets, *deadline)?;
            for ticket in &*tickets {
                queue.forget(*ticket)?;
            }
        }
        Ok(queue.wait_all(*deadline)?)
    }

    /// `count` copies, [`BATCH`] as one entry with one completion; waits for all of them.
    ///
    /// # Errors
    /// As the client library's.
    pub fn batches(&mut self, count: usize) -> anyhow::Result<()> {
        let Self { queue, entries, tickets, deadline, .. } = self;
        tickets.clear();
        for _ in 0..count / BATCH {
            if tickets.len() == BATCHES_AHEAD {
                let done = queue.wait(tickets.remove(0), *deadline)?;
                ensure!(done.produced == BATCH as u64, "{} of {BATCH} copies ended well", done.produced);
            }
            tickets.push(queue.push_batch(entries, After::Nothing, *deadline)?);
        }
        tickets.clear();
        Ok(queue.wait_all(*deadline)?)
    }

    fn order(&mut self, order: u64, copies: u64) -> anyhow::Result<()> {
        let copies = usize::try_from(copies)?;
        let order = Order::ALL.into_iter().find(|one| one.number() == order);
        match order.ok_or_else(|| anyhow::anyhow!("no such order"))? {
            Order::Look => (0..copies / BURST).try_for_each(|_| self.pushes().map(drop)),
            Order::Many => self.many(copies),
            Order::Batches => self.batches(copies),
        }
    }
}

/// Copies as it is told until its link closes: the first fd is a connection to a broker, the second the link. Answers with
/// how often the driver was woken meanwhile, and how often this side waited.
///
/// # Errors
/// When the broker, the queue or the link fails.
pub(crate) fn copy_on_order(fds: &mut Fds) -> anyhow::Result<()> {
    let (client, link) = taken("copies", fds)?;
    let mut copies = Copies::new(&client)?;
    // Everything that is only done once is done by now.
    for order in Order::ALL {
        copies.order(order.number(), 4096)?;
    }
    let mut packet = [0; PACKET];
    while receive(&link, &mut packet)?.is_some() {
        let (order, count) = pair(&packet);
        let before = copies.counters();
        copies.begin();
        copies.order(order, count)?;
        let after = copies.counters();
        link.send(&words([after.doorbells - before.doorbells, after.waits - before.waits]), &[])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_comes_out_of_its_packet() {
        for order in Order::ALL {
            assert_eq!(pair(&order.packet(77)), (order.number(), 77));
        }
    }
}
