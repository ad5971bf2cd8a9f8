//! The client's own memory: what entries name where nothing is bound, in windows, through the fd that the client handed
//! over ([`vgem_os::client_memory`]).
//!
//! Nothing of it is ever mapped here. Each byte that an entry reads is copied once, before the operation starts, and
//! what it writes is copied back when the operation has ended ([`super::stage`]). An access may wait for ever, for a page
//! that comes from a file server; the watch says so ([`super::watch`]).
//!
//! Invariant: nothing is read or written but inside one window that allows it; whether it is inside is asked anew for
//! every access (M-169).

use std::sync::Arc;

use vgem_os::client_memory::{ClientMemory, Missing, Why};
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{FaultReason, VaRange, Window};

use super::space::AddressFault;
use super::watch::Watch;

/// Bytes of one access: so many are copied while the watch stands still.
const PIECE: usize = 1 << 20;

/// A client's own memory, as the entries of one queue reach it.
#[derive(Debug, Clone)]
pub(crate) struct OwnMemory {
    memory: Arc<ClientMemory>,
    /// In the order of their addresses, apart from each other.
    windows: Arc<[(VaRange, Access)]>,
    watch: Arc<Watch>,
}

impl OwnMemory {
    /// Reached through this fd, in no window yet.
    pub(crate) fn new(memory: ClientMemory, watch: Arc<Watch>) -> Self {
        Self { memory: Arc::new(memory), windows: Arc::from([]), watch }
    }

    /// Reached in these windows from now on. The broker has checked them; what is not a window is none.
    pub(crate) fn set_windows(&mut self, windows: &[Window]) {
        let windows = windows.iter().filter_map(|window| Some((window.range().ok()?, window.access)));
        self.windows = windows.collect();
    }

    /// Whether addresses lie in one window that allows the access.
    ///
    /// # Errors
    /// The first that does not, and why.
    pub(crate) fn check(&self, wanted: VaRange, access: Access) -> Result<(), AddressFault> {
        let first = wanted.address();
        let at = self.windows.partition_point(|(window, _)| window.address() <= first);
        let window = at.checked_sub(1).and_then(|at| self.windows.get(at));
        let fault = |address, reason| Err(AddressFault { address, reason });
        let Some((window, allowed)) = window.filter(|(window, _)| first < window.end()) else {
            return fault(first, FaultReason::Unbound);
        };
        if access > *allowed {
            return fault(first, FaultReason::ReadOnly);
        }
        match wanted.end() > window.end() {
            // Whatever begins there is another window.
            true => fault(window.end(), FaultReason::Unbound),
            false => Ok(()),
        }
    }

    /// Copies what is at addresses; each byte is read once.
    ///
    /// # Errors
    /// The first address that could not be reached, and why.
    pub(crate) fn read(&self, from: VaRange, into: &mut [u8]) -> Result<(), AddressFault> {
        self.check(from, Access::Read)?;
        for (piece, address) in into.chunks_mut(PIECE).zip((from.address()..).step_by(PIECE)) {
            self.watch.look_at(address, || self.memory.read_at(address, piece)).map_err(fault)?;
        }
        Ok(())
    }

    /// Copies to addresses.
    ///
    /// # Errors
    /// As [`OwnMemory::read`]; what comes before that address has been written.
    pub(crate) fn write(&self, into: VaRange, from: &[u8]) -> Result<(), AddressFault> {
        self.check(into, Access::Write)?;
        for (piece, address) in from.chunks(PIECE).zip((into.address()..).step_by(PIECE)) {
            self.watch.look_at(address, || self.memory.write_at(address, piece)).map_err(fault)?;
        }
        Ok(())
    }
}

// M-170
fn fault(missing: Missing) -> AddressFault {
    let reason = match missing.why {
        Why::Gone => FaultReason::Gone,
        Why::Refused(_) => FaultReason::Unreachable,
    };
    AddressFault { address: missing.address, reason }
}

#[cfg(test)]
mod tests {
    use vgem_os::client_memory::own;
    use vgem_proto::codec::Zero;

    use super::*;

    fn range(address: u64, len: u64) -> VaRange {
        VaRange::new(address, len).expect("addresses")
    }

    fn memory(windows: &[(u64, u64, Access)]) -> OwnMemory {
        let fd = own(Access::Write).expect("a dumpable process");
        let mut memory = OwnMemory::new(ClientMemory::new(fd), Arc::default());
        let window = |(address, len, access): &(u64, u64, Access)| Window {
            address: *address,
            len: *len,
            access: *access,
            reserved: Zero,
        };
        memory.set_windows(&windows.iter().map(window).collect::<Vec<_>>());
        memory
    }

    // M-169
    #[test]
    fn addresses_are_reached_in_one_window_that_allows_it() {
        use Access::{Read, Write};
        let memory = memory(&[(0x1000, 0x1000, Read), (0x2000, 0x1000, Write)]);
        let found = |address, len, access| {
            memory.check(range(address, len), access).map_err(|fault| (fault.address, fault.reason))
        };
        assert_eq!(found(0x1000, 0x1000, Read), Ok(()));
        assert_eq!(found(0x2fff, 1, Write), Ok(()));
        assert_eq!(found(0xfff, 2, Read), Err((0xfff, FaultReason::Unbound)));
        assert_eq!(found(0x1fff, 2, Read), Err((0x2000, FaultReason::Unbound)), "never across two");
        assert_eq!(found(0x1800, 8, Write), Err((0x1800, FaultReason::ReadOnly)));
        assert_eq!(found(0x2fff, 2, Write), Err((0x3000, FaultReason::Unbound)));
        assert_eq!(found(0x3000, 1, Read), Err((0x3000, FaultReason::Unbound)));
    }

    #[test]
    fn bytes_go_both_ways_and_only_inside() {
        let bytes: Vec<u8> = (0..3 * PIECE).map(|n| n.to_le_bytes()[0]).collect();
        let at = bytes.as_ptr().addr() as u64;
        let memory = memory(&[(at, bytes.len() as u64, Access::Read)]);
        let mut seen = vec![0; bytes.len()];
        assert_eq!(memory.read(range(at, seen.len() as u64), &mut seen), Ok(()));
        assert_eq!(seen, bytes);
        let refused = memory.write(range(at, 1), &[7]);
        assert_eq!(refused, Err(AddressFault { address: at, reason: FaultReason::ReadOnly }));
    }

    // M-170
    #[test]
    fn an_address_without_a_page_is_unreachable_and_named() {
        let memory = memory(&[(0x1000, 0x1000, Access::Read)]);
        let missing = AddressFault { address: 0x1010, reason: FaultReason::Unreachable };
        assert_eq!(memory.read(range(0x1010, 8), &mut [0; 8]), Err(missing));
    }
}
