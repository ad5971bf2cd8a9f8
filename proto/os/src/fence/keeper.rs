//! The broker's face of a pair: it owns both pages, hands them out, and gives verdicts.
//!
//! The broker is never on the path of a signal. It reads the pages when a signaller has died, brings every page
//! of that signaller to the same value ([`KeeperFace::settle`]), and fails the rest ([`KeeperFace::kill_slot`],
//! [`KeeperFace::kill_page`]). What it reads was written by the signaller: claims, not facts.

use std::os::fd::{AsFd as _, OwnedFd};

use vgem_proto::layout::PAGE_LEN;

use super::late;
use super::page::{Kind, MappedPage};
use super::protocol::{self, Failure, PointState, Slot, SlotSnapshot};
use super::{ObserverFds, SignallerFds};
use crate::error::Result;
use crate::futex;
use crate::memory::{Access, HugePages, ObjectMemory};

/// Most sleepers of one page that a verdict wakes directly. A process with more passes the wake-up on; a crowd of
/// sleepers must not hold the broker up (waking 1000 takes 8 ms).
const VERDICT_WAKES: u32 = 128;

/// Where pairs come from.
#[derive(Debug, Clone, Copy)]
pub struct PagePair;

impl PagePair {
    /// Makes a pair of pages and the keeper's face of it.
    ///
    /// # Errors
    /// As [`ObjectMemory::create`] and `mmap`.
    pub fn create() -> Result<KeeperFace> {
        let page = ObjectMemory::create(PAGE_LEN as u64, HugePages::None, "vgem-fence")?;
        let interest = ObjectMemory::create(PAGE_LEN as u64, HugePages::None, "vgem-interest")?;
        let mapped = MappedPage::format(page.as_fd(), Kind::Fence)?;
        MappedPage::format(interest.as_fd(), Kind::Interest)?;
        Ok(KeeperFace { page, interest, mapped, news: None })
    }
}

/// The broker's face of a pair.
#[derive(Debug)]
pub struct KeeperFace {
    page: ObjectMemory,
    interest: ObjectMemory,
    mapped: MappedPage,
    /// The interest page, if the broker is the observer: of the primary page of a client that signals.
    news: Option<MappedPage>,
}

impl KeeperFace {
    /// Takes a pair back from fds that were kept over a restart: (fence page, interest page).
    ///
    /// # Errors
    /// As [`ObjectMemory::from_kept`]; `EINVAL` if it is no such page.
    pub fn from_kept(page: OwnedFd, interest: OwnedFd) -> Result<Self> {
        let page = ObjectMemory::from_kept(page)?;
        let interest = ObjectMemory::from_kept(interest)?;
        let mapped = MappedPage::map(page.as_fd(), Access::Write, Kind::Fence)?;
        MappedPage::map(interest.as_fd(), Access::Read, Kind::Interest)?;
        Ok(Self { page, interest, mapped, news: None })
    }

    /// Duplicates for the keeper process: (fence page, interest page).
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn duplicates(&self) -> Result<(OwnedFd, OwnedFd)> {
        Ok((self.page.duplicate()?, self.interest.duplicate()?))
    }

    /// Fresh fds for the signaller: page read-write, interest read-only.
    ///
    /// # Errors
    /// As [`ObjectMemory::export`].
    pub fn signaller_fds(&self) -> Result<SignallerFds> {
        let page = self.page.export(Access::Write)?;
        let interest = self.interest.export(Access::Read)?;
        Ok(SignallerFds { page, interest })
    }

    /// Fresh fds for the observer: page read-only, interest read-write.
    ///
    /// # Errors
    /// As [`ObjectMemory::export`].
    pub fn observer_fds(&self) -> Result<ObserverFds> {
        let page = self.page.export(Access::Read)?;
        let interest = self.interest.export(Access::Write)?;
        Ok(ObserverFds { page, interest })
    }

    /// Reads a slot.
    #[must_use]
    pub fn slot(&self, slot: Slot) -> SlotSnapshot {
        protocol::snapshot(&self.mapped, slot)
    }

    /// Fails every point of a slot from `dead_from` on, whatever the signaller writes later. A later verdict
    /// can only lower `dead_from`.
    pub fn kill_slot(&self, slot: Slot, dead_from: u64, code: u32, cause: u64) {
        protocol::kill_slot(&self.mapped, slot, dead_from, code, cause);
        self.wake_all();
    }

    /// Lifts the verdict from a slot, before it is given to another timeline. No observer may still ask for the
    /// old one.
    pub fn revive_slot(&self, slot: Slot) {
        protocol::revive_slot(&self.mapped, slot);
    }

    /// Fails every point of the page that was not signalled. The first verdict stands.
    pub fn kill_page(&self, code: u32, cause: u64) {
        protocol::kill_page(&self.mapped, code, cause);
        self.wake_all();
    }

    /// Brings a lagging slot to the value and failures (oldest first) that its signaller's other pages show; if it was yet
    /// to show the timeline it does so from now on. Only when the signaller is dead: the slot's one writer is the
    /// caller then.
    pub fn settle(&self, slot: Slot, generation: u32, value: u64, time_ns: u64, failures: &[Failure]) {
        protocol::settle(&self.mapped, slot, generation, value, time_ns, failures);
        self.wake_all();
    }

    /// As [`KeeperFace::settle`], for another signaller that goes on with the timeline.
    pub fn level(&self, slot: Slot, generation: u32, value: u64, time_ns: u64, failures: &[Failure]) {
        protocol::level(&self.mapped, slot, generation, value, time_ns, failures);
        self.wake_all();
    }

    /// Takes the observer's side too, as of a client's primary page: maps the interest page for writing.
    ///
    /// # Errors
    /// As `mmap`.
    pub fn take_interest(&mut self) -> Result<()> {
        self.news = Some(MappedPage::map(self.interest.as_fd(), Access::Write, Kind::Interest)?);
        Ok(())
    }

    /// Tells the signaller that there is news for it: a value it has not seen. Only after [`KeeperFace::take_interest`];
    /// otherwise nothing.
    pub fn set_news(&self, news: u32) {
        if let Some(interest) = &self.news {
            late::set_news(interest, news);
        }
    }

    /// The newest value; 0 without [`KeeperFace::take_interest`].
    #[must_use]
    pub fn news(&self) -> u32 {
        self.news.as_ref().map_or(0, late::news)
    }

    /// Fills a slot with what the primary page shows, the verdict included, while nobody else writes or knows it. The
    /// caller has just set the news of `primary`: so the newest signal is read here, or its signaller sees the news.
    pub fn fill(&self, slot: Slot, generation: u32, primary: &Self, primary_slot: Slot) {
        late::fill(&self.mapped, slot, generation, &primary.mapped, primary_slot);
    }

    /// Brings a slot up to what the primary page shows, whose signaller did not come to show it here. It may go on.
    pub fn raise(&self, slot: Slot, generation: u32, primary: &Self, primary_slot: Slot) {
        late::raise(&self.mapped, slot, generation, &primary.mapped, primary_slot);
        self.wake_all();
    }

    /// Whether a slot shows how a point ended.
    #[must_use]
    pub fn shows(&self, slot: Slot, generation: u32, point: u64) -> bool {
        protocol::state(&self.mapped, slot, generation, point) != PointState::Pending
    }

    fn wake_all(&self) {
        let woken = futex::wake(self.mapped.doorbell(), VERDICT_WAKES);
        debug_assert!(woken.is_ok(), "the doorbell is mapped: {woken:?}");
    }
}
