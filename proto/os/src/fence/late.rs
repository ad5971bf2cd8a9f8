//! A timeline in several places at once, and places that come late.
//!
//! A client that signals shows its timeline in a **primary** slot, which the broker reads, and in a slot of each
//! observer's page. When an observer comes, the broker fills that observer's slot from the primary one by itself:
//! the client is never waited for. From then on the place is the client's, which may be signalling all the while:
//!
//! ```text
//!   signaller                                  broker
//!   primary: failure, value (Release)          NEWS += 1
//!   every other place: the same                fence(SeqCst)
//!   fence(SeqCst)                              read the primary slot
//!   ring who is wanted in any place            write the late slot, generation last
//!   NEWS is what it was? done                  tell the observer, then answer the signaller
//!   otherwise ask what is new,
//!   take the late slot over
//! ```
//!
//! With the two fences the broker reads the newest store, or the signaller sees the news and brings the late slot up
//! to it ([`take_over`]). Between the broker's answer and that, nobody writes the slot.
//!
//! What is read from a primary slot was perhaps written by somebody hostile, and perhaps is being written: failures
//! above the value that was read first are left out, and where the ring kept moving all failures are: the slot then
//! says "overrun" for every point that was signalled before, never "ok".
//!
//! Invariant: a place never shows less than it did: taking over only adds.

use std::sync::atomic::Ordering;

use vgem_proto::layout::fence_page as f;
use vgem_proto::layout::interest_page;

use super::protocol::{
    FAILURES, FULL, Failure, NotNewer, Page, RETRIES, Raise, Ring, Slot, forget_older, kill_slot, read_entry,
    record, retire, ring_if_wanted, store,
};

/// Signals `point` in every place, the primary one first: stores everywhere, one fence, then the looks.
/// `wake` is called for every place whose doorbell was rung.
///
/// # Errors
/// [`NotNewer`] by the first place; nothing has changed then. A later place that shows the point already is left alone.
#[inline]
pub fn signal_everywhere<'a, P: Page + 'a, I: Page + 'a>(
    places: impl Iterator<Item = (&'a P, &'a I, Slot)> + Clone,
    point: u64,
    time_ns: u64,
    failure: Option<Failure>,
    mut wake: impl FnMut(&P),
) -> Result<(), NotNewer> {
    let mut rest = places.clone();
    let Some((primary, _, slot)) = rest.next() else { return Ok(()) };
    store(primary, slot, point, time_ns, failure)?;
    for (page, _, slot) in rest {
        // The primary place took it, so a refusal here says that the point is shown already.
        let _shown: Result<(), NotNewer> = store(page, slot, point, time_ns, failure);
    }
    primary.fence(Ordering::SeqCst);
    for (page, interest, slot) in places {
        if ring_if_wanted(page, interest, slot, point) == Ring::Wake {
            wake(page);
        }
    }
    Ok(())
}

/// The broker says that there is news for the signaller of a primary page: the newest value it knows of them.
pub fn set_news<I: Page>(interest: &I, news: u32) {
    interest.release32(interest_page::NEWS, news);
}

/// The news, as the signaller looks at it after a sequentially consistent fence.
#[inline]
pub fn news<I: Page>(interest: &I) -> u32 {
    interest.load32(interest_page::NEWS)
}

/// The broker fills a late slot from the primary one, after [`set_news`] and before anybody knows of the slot.
pub fn fill<P: Page, Q: Page>(page: &P, slot: Slot, generation: u32, primary: &Q, primary_slot: Slot) {
    primary.fence(Ordering::SeqCst);
    let (history, value, time_ns) = read(primary, primary_slot);
    retire(page, slot);
    for entry in 0..FAILURES {
        page.store64(slot.failure_at(entry, f::F_POINT), 0);
    }
    page.store32(slot.at(f::S_FAIL_COUNT), 0);
    match &history {
        History::Known { failures, older_lost } => {
            failures.iter().for_each(|failure| record(page, slot, *failure));
            if *older_lost {
                forget_older(page, slot);
            }
        }
        // A full ring without an entry: whatever is asked for is older.
        History::Moving => page.store32(slot.at(f::S_FAIL_COUNT), FULL),
    }
    page.store64(slot.at(f::S_TIME), time_ns);
    page.store64(slot.at(f::S_VALUE), value);
    let dead_from = primary.load64(primary_slot.at(f::S_DEAD_FROM));
    if dead_from != 0 {
        primary.fence(Ordering::Acquire);
        let code = primary.load32(primary_slot.at(f::S_DEAD_CODE));
        kill_slot(page, slot, dead_from, code, primary.load64(primary_slot.at(f::S_DEAD_CAUSE)));
    }
    page.release32(slot.at(f::S_GENERATION), generation);
}

/// The broker brings a slot up to the primary one, whose signaller has shown a point there and did not come to show it
/// here: it is stopped, perhaps. It may go on at any moment, so the value is raised and never stored, and nothing is
/// done about failures, which only their one writer can record. Rings the doorbell if something has changed; the caller
/// wakes the sleepers.
pub fn raise<P: Raise, Q: Page>(page: &P, slot: Slot, generation: u32, primary: &Q, primary_slot: Slot) {
    let (history, value, time_ns) = read(primary, primary_slot);
    let shown = page.load64(slot.at(f::S_VALUE));
    let is_here = page.load32(slot.at(f::S_GENERATION)) == generation;
    let all_good = match &history {
        History::Known { failures, older_lost } => {
            let is_new = |failure: &Failure| failure.point > shown;
            !(failures.iter().any(is_new) || *older_lost && failures.first().is_none_or(is_new))
        }
        History::Moving => false,
    };
    if is_here && all_good && value > shown {
        page.store64(slot.at(f::S_TIME), time_ns);
        page.raise64(slot.at(f::S_VALUE), value);
        page.bump32(f::H_DOORBELL);
    }
}

/// The signaller brings a late slot up to its primary one, after it was told of the slot. Nothing if the primary slot
/// kept moving: another thread is signalling in it, and nothing was changed.
pub fn take_over<P: Page, I: Page, Q: Page>(
    page: &P,
    interest: &I,
    slot: Slot,
    generation: u32,
    primary: &Q,
    primary_slot: Slot,
) -> Option<Ring> {
    primary.fence(Ordering::SeqCst);
    let (history, value, time_ns) = read(primary, primary_slot);
    let History::Known { failures, older_lost } = history else { return None };
    let shown = page.load32(slot.at(f::S_GENERATION)) == generation;
    let before = if shown { page.load64(slot.at(f::S_VALUE)) } else { 0 };
    let oldest = failures.first().map_or(u64::MAX, |failure| failure.point);
    let gap = older_lost && before < oldest;
    if gap && failures.len() < FAILURES {
        // Older entries would stay beside a gap that the ring cannot tell.
        return None;
    }
    for failure in failures {
        if failure.point > before {
            record(page, slot, failure);
        }
    }
    if gap {
        forget_older(page, slot);
    }
    if value > before {
        page.store64(slot.at(f::S_TIME), time_ns);
        page.release64(slot.at(f::S_VALUE), value);
    }
    if !shown {
        page.release32(slot.at(f::S_GENERATION), generation);
    }
    page.fence(Ordering::SeqCst);
    Some(ring_if_wanted(page, interest, slot, value))
}

/// The broker's verdict on a slot, as its signaller looks for it: (first point that has failed, code, cause).
#[inline]
pub fn verdict<P: Page>(page: &P, slot: Slot) -> Option<(u64, u32, u64)> {
    let dead_from = page.load64(slot.at(f::S_DEAD_FROM));
    if dead_from == 0 {
        return None;
    }
    page.fence(Ordering::Acquire);
    Some((dead_from, page.load32(slot.at(f::S_DEAD_CODE)), page.load64(slot.at(f::S_DEAD_CAUSE))))
}

/// What a slot says about failures.
enum History {
    /// Those at or below the value, oldest first; and whether older ones are no longer in the ring.
    Known { failures: Vec<Failure>, older_lost: bool },
    /// They kept coming while they were read.
    Moving,
}

/// Reads failures, value and time of a slot that is perhaps being signalled.
fn read<P: Page>(page: &P, slot: Slot) -> (History, u64, u64) {
    let mut value = 0;
    let mut time_ns = 0;
    for _ in 0..RETRIES {
        value = page.load64(slot.at(f::S_VALUE));
        page.fence(Ordering::Acquire);
        time_ns = page.load64(slot.at(f::S_TIME));
        let count = page.load32(slot.at(f::S_FAIL_COUNT));
        page.fence(Ordering::Acquire);
        let entries = (0..FAILURES).filter_map(|entry| read_entry(page, slot, entry));
        let mut failures: Vec<Failure> = entries.filter(|failure| failure.point <= value).collect();
        page.fence(Ordering::Acquire);
        if page.load32(slot.at(f::S_FAIL_COUNT)) == count {
            failures.sort_unstable_by_key(|failure| failure.point);
            failures.dedup_by_key(|failure| failure.point);
            // An entry of a full ring that is not there, or is above the value, took the place of the oldest.
            let older_lost = count > FULL || (count == FULL && failures.len() < FAILURES);
            return (History::Known { failures, older_lost }, value, time_ns);
        }
    }
    (History::Moving, value, time_ns)
}
