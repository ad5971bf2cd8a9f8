//! Shared virtual addressing: entries that name memory of this process which is no object, by its addresses.
//!
//! ```text
//!   open with Sva ─► a driver process of this client's own ◄── /proc/self/mem, by the porter
//!   input(&bytes[..])            any address may be read
//!   lend(Vec) ─► Lent ─► output(&lent) ─► reclaim ─► Vec      only what was lent may be written
//! ```
//!
//! The driver copies what it reads before an operation starts, and what was written when it has ended, with system calls
//! of its own; this process makes none. That costs a copy each way where bound memory costs none: bind what is used
//! often.
//!
//! An address means this process, also in a child of a fork that uses the queue. A driver that waits for a page which does
//! not come is ended, and with it all queues that this client has at its own driver of that device.
//!
//! **What may be written.** A device that writes through a pointer could write anywhere, so safe code must not name an
//! output but where nothing else is: in a `Vec` that the queue owns meanwhile. Reading is different: the device sees what
//! was there at some moment, and nobody is harmed.
//!
//! **What is not known to have ended.** If the queue goes while entries may still write to lent memory, that memory is
//! never freed.
//!
//! Invariant: what is lent is used by entries that were pushed and have not ended, as many as `uses` says, and its memory
//! is neither looked at nor freed before that is none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::RangeBounds;
use std::os::fd::{AsFd as _, OwnedFd};

use vgem_os::{Errno, client_memory};
use vgem_proto::ids::QueueHandle;
use vgem_proto::limits;
use vgem_proto::message::client::{AttachMemory, SetWindows};
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{VaRange, Window};

use super::UserQueue;
use super::open::done;
use super::range::AddressRange;
use super::shared::Shared;
use crate::access::bounds;
use crate::adopt::NotDone;
use crate::batch::at_most;
use crate::core::Core;
use crate::deadline::Deadline;
use crate::error::{LocalError, Result};
use crate::import;

/// Whether a device reaches this process's own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sva {
    /// It reaches what is bound and nothing else.
    #[default]
    Off,
    /// It reads whatever an entry names.
    Read,
    /// It reads whatever an entry names, and writes what was lent ([`UserQueue::lend`]).
    ReadWrite,
}

impl Sva {
    /// The most it may do; nothing if it is off.
    pub(crate) const fn access(self) -> Option<Access> {
        match self {
            Self::Off => None,
            Self::Read => Some(Access::Read),
            Self::ReadWrite => Some(Access::Write),
        }
    }
}

/// Memory that a queue owns while a device may write it ([`UserQueue::lend`]): a name, by which it is asked back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "memory that is not asked back is freed with the queue"]
pub struct Lent {
    queue: u64,
    number: u64,
    address: u64,
    len: u64,
}

impl Lent {
    /// The address of the first byte.
    #[must_use]
    pub const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Always false: no bytes are not lent.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of it, counted from its first byte. One that leaves it is refused where it is used.
    #[must_use]
    pub fn range(&self, range: impl RangeBounds<u64>) -> AddressRange {
        let range = bounds(&range, self.len);
        AddressRange::new(self.address.saturating_add(range.start), range.end.saturating_sub(range.start))
    }
}

impl From<&Lent> for AddressRange {
    fn from(lent: &Lent) -> Self {
        Self::new(lent.address, lent.len)
    }
}

/// What was lent, as its queue keeps it.
#[derive(Debug)]
struct Kept {
    number: u64,
    memory: Vec<u8>,
    /// Operands of entries under way that are read from there, or written there.
    uses: u32,
    /// Something may be written there that nobody will hear of.
    is_doomed: bool,
}

/// All that was lent to one queue, by its address, and how far its driver reaches this process's memory.
#[derive(Debug)]
pub(crate) struct Lents {
    pub(crate) sva: Sva,
    kept: BTreeMap<u64, Kept>,
    last: u64,
}

impl Lents {
    pub(crate) fn new(sva: Sva) -> Self {
        Self { sva, kept: BTreeMap::new(), last: 0 }
    }

    fn add(&mut self, memory: Vec<u8>) -> u64 {
        self.last += 1;
        let address = memory.as_ptr().addr() as u64;
        self.kept.insert(address, Kept { number: self.last, memory, uses: 0, is_doomed: false });
        self.last
    }

    /// Where the memory begins that was lent and holds a range.
    fn holder(&mut self, range: &AddressRange) -> Option<(u64, &mut Kept)> {
        let (&start, kept) = self.kept.range_mut(..=range.address()).next_back()?;
        let ahead = range.address() - start;
        let len = kept.memory.len() as u64;
        (ahead <= len && range.len() <= len - ahead).then_some((start, kept))
    }

    /// Notes that an entry reads or writes memory of this process; where what was lent begins, if it is in such.
    pub(crate) fn note(
        &mut self,
        range: &AddressRange,
        access: Access,
        not_bound: LocalError,
    ) -> Result<Option<u64>, LocalError> {
        match (self.sva, access) {
            (Sva::Off, _) => return Err(not_bound),
            (Sva::Read | Sva::ReadWrite, Access::Read | Access::Write) => {}
        }
        let (address, len) = (range.address(), range.len());
        match self.holder(range) {
            Some((start, kept)) if access == Access::Read || !kept.is_doomed => {
                kept.uses += 1;
                Ok(Some(start))
            }
            _ if access == Access::Read => Ok(None),
            _ => Err(LocalError::NotLent { address, len }),
        }
    }

    /// An entry has ended that used what was lent there; or will not be heard of, and may yet write.
    pub(crate) fn release(&mut self, start: u64, access: Access, is_heard_of: bool) {
        if let Some(kept) = self.kept.get_mut(&start) {
            kept.uses = kept.uses.saturating_sub(1);
            kept.is_doomed |= access == Access::Write && !is_heard_of;
        }
    }

    /// The memory, if no entry may use it.
    fn take(&mut self, lent: &Lent) -> Result<Vec<u8>, LocalError> {
        let &Lent { address, len, number, .. } = lent;
        match self.kept.entry(address) {
            Entry::Occupied(kept) if kept.get().number == number => match kept.get() {
                Kept { uses, is_doomed, .. } if *uses > 0 || *is_doomed => {
                    Err(LocalError::BindingUsed { address, len, uses: *uses })
                }
                _ => Ok(kept.remove().memory),
            },
            _ => Err(LocalError::NotLent { address, len }),
        }
    }
}

impl Drop for Lents {
    fn drop(&mut self) {
        for kept in std::mem::take(&mut self.kept).into_values() {
            if kept.uses > 0 || kept.is_doomed {
                std::mem::forget(kept.memory);
            }
        }
    }
}

/// What a driver is given: this process's memory, and where in it entries reach.
pub(crate) fn attach(queue: QueueHandle, access: Access) -> AttachMemory {
    // Every address that a program can have.
    const ALL: u64 = (1 << 63) - 1;
    let all = VaRange::new(1, ALL).map(|range| Window::new(range, access));
    AttachMemory { queue, windows: all.into_iter().collect() }
}

/// Opens this process's memory, to hand it over; nothing without [`Sva`].
pub(crate) fn open_memory(sva: Sva) -> Result<Option<(OwnedFd, Access)>> {
    let Some(access) = sva.access() else { return Ok(None) };
    match client_memory::own(access) {
        Ok(fd) => Ok(Some((fd, access))),
        Err(error) if error.errno() == Errno::ACCESS => Err(LocalError::NotDumpable.into()),
        Err(error) => Err(error.into()),
    }
}

/// Has the driver of a queue reach this process's memory. Blocks.
pub(crate) fn attach_memory(
    core: &Core,
    queue: QueueHandle,
    memory: Option<(OwnedFd, Access)>,
) -> Result<()> {
    let Some((fd, access)) = memory else { return Ok(()) };
    done(&import::bring(core, fd.as_fd(), &attach(queue, access).into(), core.deadline())?)
}

impl UserQueue {
    /// Gives the queue memory that entries may write, on a queue with [`Sva::ReadWrite`]. Neither copies nor asks anybody.
    ///
    /// # Errors
    /// [`LocalError::NoSva`] if the queue reaches no memory to write; [`LocalError::Empty`]. The memory comes back.
    pub fn lend(&self, memory: Vec<u8>) -> Result<Lent, NotDone<Vec<u8>>> {
        let mut state = self.shared.state();
        if state.lents.sva != Sva::ReadWrite {
            return Err(NotDone::with(memory, LocalError::NoSva { asked: "lend memory to" }));
        }
        if memory.is_empty() {
            return Err(NotDone::with(memory, LocalError::Empty { what: "memory that is lent" }));
        }
        let (address, len) = (memory.as_ptr().addr() as u64, memory.len() as u64);
        let number = state.lents.add(memory);
        Ok(Lent { queue: self.shared.id, number, address, len })
    }

    /// Takes memory back that was lent; waits for entries that use it.
    ///
    /// # Errors
    /// The name comes back: [`crate::Error::Timeout`] while entries use it at the deadline, or [`crate::Error::BrokerLost`];
    /// [`LocalError::BindingUsed`] if nobody knows whether something is still written there, which stays so;
    /// [`LocalError::OtherQueue`].
    pub fn reclaim(&self, lent: Lent, deadline: impl Into<Deadline>) -> Result<Vec<u8>, NotDone<Lent>> {
        if lent.queue != self.shared.id {
            return Err(NotDone::with(lent, LocalError::OtherQueue { what: "memory that was lent" }));
        }
        let taken = self.shared.until(deadline.into(), |state| match state.lents.take(&lent) {
            Err(LocalError::BindingUsed { uses: 1.., .. }) => None,
            taken => Some(taken),
        });
        match taken {
            Ok(Some(Ok(memory))) => Ok(memory),
            Ok(Some(Err(mistake))) => Err(NotDone::with(lent, mistake)),
            Ok(None) => {
                let late = self.shared.late("waiting for entries that use lent memory");
                Err(NotDone::with(lent, late))
            }
            Err(error) => Err(NotDone::with(lent, error)),
        }
    }

    /// Says where entries may reach this process's memory from now on: in one of these ranges, for that access, and nowhere
    /// else. At first that is everywhere. One round trip; entries that were pushed before may find either.
    ///
    /// # Errors
    /// [`LocalError::NoSva`]; [`LocalError::TooMany`] beyond 64; [`LocalError::BadAddress`]; refused with `OutOfRange`, `Busy`
    /// for ranges that overlap, `Denied` to write on a queue that only reads.
    pub fn set_windows(&self, windows: &[(AddressRange, Access)]) -> Result<()> {
        let request = self.shared.windows(windows)?;
        done(&self.shared.core.call(request)?)
    }
}

impl Shared {
    /// The request that sets windows.
    pub(crate) fn windows(&self, windows: &[(AddressRange, Access)]) -> Result<SetWindows> {
        if self.state().lents.sva == Sva::Off {
            return Err(LocalError::NoSva { asked: "set windows of" }.into());
        }
        at_most("windows of a user queue", windows.len(), limits::RING_WINDOWS)?;
        let window = |(range, access): &(AddressRange, Access)| {
            let wire = range.wire().map_err(|_| super::prepared::bad_address(range))?;
            Ok(Window::new(wire, *access))
        };
        let mut windows = windows.iter().map(window).collect::<Result<Vec<_>, LocalError>>()?;
        windows.sort_unstable_by_key(|window| window.address);
        Ok(SetWindows { queue: self.queue.handle, windows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> LocalError {
        LocalError::NotBound { address: 1, len: 1, nearest: None }
    }

    fn lent(lents: &mut Lents, len: usize) -> Lent {
        let memory = vec![0; len];
        let address = memory.as_ptr().addr() as u64;
        Lent { queue: 1, number: lents.add(memory), address, len: len as u64 }
    }

    #[test]
    fn reading_is_free_and_writing_is_for_what_was_lent() {
        let range = AddressRange::new(0x1000, 8);
        assert_eq!(Lents::new(Sva::Off).note(&range, Access::Read, missing()), Err(missing()));
        let mut lents = Lents::new(Sva::ReadWrite);
        assert_eq!(lents.note(&range, Access::Read, missing()), Ok(None));
        let refused = Err(LocalError::NotLent { address: 0x1000, len: 8 });
        assert_eq!(lents.note(&range, Access::Write, missing()), refused);
        let lent = lent(&mut lents, 64);
        assert_eq!(lents.note(&lent.range(60..64), Access::Write, missing()), Ok(Some(lent.address)));
        let beyond = AddressRange::new(lent.address() + 60, 5);
        assert!(lents.note(&beyond, Access::Write, missing()).is_err());
    }

    #[test]
    fn lent_memory_comes_back_when_nothing_is_written_there_any_more() {
        let mut lents = Lents::new(Sva::ReadWrite);
        let lent = lent(&mut lents, 64);
        for _ in 0..2 {
            assert!(lents.note(&(&lent).into(), Access::Write, missing()).is_ok());
        }
        lents.release(lent.address, Access::Write, true);
        let (address, len) = (lent.address, lent.len);
        assert_eq!(lents.take(&lent), Err(LocalError::BindingUsed { address, len, uses: 1 }));
        lents.release(lent.address, Access::Write, true);
        assert_eq!(lents.take(&lent).map(|memory| memory.as_ptr().addr() as u64), Ok(address));
        assert_eq!(lents.take(&lent), Err(LocalError::NotLent { address, len }));
    }

    #[test]
    fn lent_memory_that_is_read_is_waited_for_too_and_harmed_by_no_reader() {
        let mut lents = Lents::new(Sva::Read);
        let lent = lent(&mut lents, 64);
        let (address, len) = (lent.address, lent.len);
        assert_eq!(lents.note(&lent.range(60..), Access::Read, missing()), Ok(Some(address)));
        let across = AddressRange::new(address + 60, 8);
        assert_eq!(lents.note(&across, Access::Read, missing()), Ok(None), "whoever names what was not lent");
        assert_eq!(lents.take(&lent), Err(LocalError::BindingUsed { address, len, uses: 1 }));
        lents.release(address, Access::Read, false);
        assert_eq!(lents.take(&lent).map(|memory| memory.len()), Ok(64));
    }

    #[test]
    fn memory_of_which_nobody_hears_is_never_given_back_nor_lent_again() {
        let mut lents = Lents::new(Sva::ReadWrite);
        let lent = lent(&mut lents, 64);
        assert!(lents.note(&(&lent).into(), Access::Write, missing()).is_ok());
        lents.release(lent.address, Access::Write, false);
        assert!(matches!(lents.take(&lent), Err(LocalError::BindingUsed { uses: 0, .. })));
        assert!(matches!(
            lents.note(&(&lent).into(), Access::Write, missing()),
            Err(LocalError::NotLent { .. })
        ));
    }
}
