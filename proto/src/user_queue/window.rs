//! Windows: where entries reach their client's own memory.

use crate::codec::Zero;
use crate::error::{ErrorCode, Refusal};
use crate::record;
use crate::rights::Access;
use crate::user_queue::VaRange;

record! {
    /// Addresses of the client's own memory, and what entries may do there.
    pub struct Window {
        /// The first address; not 0.
        pub address: u64,
        /// Bytes; not 0.
        pub len: u64,
        /// What entries may do there.
        pub access: Access,
        /// Zero.
        pub reserved: Zero<7>,
    }
}

impl Window {
    /// A window over these addresses.
    #[must_use]
    pub const fn new(range: VaRange, access: Access) -> Self {
        Self { address: range.address(), len: range.len(), access, reserved: Zero }
    }

    /// Its addresses.
    ///
    /// # Errors
    /// OutOfRange if it has none, or is not below 2^63.
    pub fn range(&self) -> Result<VaRange, Refusal> {
        let most = 1 << 63;
        match VaRange::new(self.address, self.len) {
            Ok(range) if !range.is_empty() && range.end() <= most => Ok(range),
            _ => {
                let text = format!("a window: {} bytes at {:#x}, not 0, below 2^63", self.len, self.address);
                Err(Refusal::new(ErrorCode::OutOfRange, text).with(self.address, most))
            }
        }
    }
}

/// Whether windows are in the order of their addresses, apart from each other, and allow no more than `most`.
///
/// # Errors
/// OutOfRange; Busy for two that share an address; Denied for one that may be written where only reading is possible.
pub fn check_windows(windows: &[Window], most: Access) -> Result<(), Refusal> {
    let mut end = 0;
    for window in windows {
        let range = window.range()?;
        if range.address() < end {
            let text = format!(
                "a window at {:#x} begins before the one before it ends, at {end:#x}",
                window.address
            );
            return Err(Refusal::new(ErrorCode::Busy, text).with(window.address, end));
        }
        if window.access > most {
            let text =
                format!("a window at {:#x} to write through memory that is open for reading", window.address);
            return Err(Refusal::new(ErrorCode::Denied, text));
        }
        end = range.end();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(address: u64, len: u64, access: Access) -> Window {
        Window { address, len, access, reserved: Zero }
    }

    #[test]
    fn windows_lie_apart_in_order_and_below_the_middle_of_all_addresses() {
        use Access::{Read, Write};
        let code = |windows: &[Window], most| check_windows(windows, most).map_err(|why| why.code);
        let (first, second) = (window(4096, 4096, Write), window(8192, 1, Read));
        assert_eq!(code(&[first, second], Write), Ok(()));
        assert_eq!(code(&[], Read), Ok(()));
        assert_eq!(code(&[window(1, (1 << 63) - 1, Write)], Write), Ok(()));
        assert_eq!(code(&[second, first], Write), Err(ErrorCode::Busy));
        assert_eq!(code(&[first, window(8191, 1, Read)], Write), Err(ErrorCode::Busy));
        assert_eq!(code(&[first], Read), Err(ErrorCode::Denied));
        let nowhere =
            [window(0, 1, Read), window(1, 0, Read), window(1, 1 << 63, Read), window(u64::MAX, 2, Read)];
        for window in nowhere {
            assert_eq!(code(&[window], Write), Err(ErrorCode::OutOfRange), "{window:?}");
        }
    }
}
