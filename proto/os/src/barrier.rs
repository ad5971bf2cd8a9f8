//! Fences that one thread makes for others, in whatever process: `membarrier(2)`.
//!
//! A fence keeps what a thread stored ahead of what it loads next, and costs it the time that its stores take to be seen.
//! Where one of two threads looks often and the other seldom, the seldom one can make the fence of both: the kernel has
//! every core that runs a thread of a process that takes part make one. A thread that does not run made one when it
//! stopped. So the one that looks often has only to keep its compiler from reordering ([`light`]).
//!
//! That costs what interrupting other cores costs: microseconds, where a fence costs a hundredth of that. It is nothing
//! that a process needs a right for, and processes that do not take part are not interrupted.

use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

use rustix::thread::{MembarrierCommand as Command, membarrier, membarrier_query};

/// Has this process take part in the fences that others make, for good; whether it does. Asked for the first time it may
/// take as long as the kernel's grace period, some milliseconds.
#[must_use]
pub fn take_part() -> bool {
    static TAKES_PART: OnceLock<bool> = OnceLock::new();
    *TAKES_PART.get_or_init(|| membarrier(Command::RegisterGlobalExpedited).is_ok())
}

/// Whether [`heavy`] works here.
#[must_use]
pub fn can_be_made() -> bool {
    static CAN_BE_MADE: OnceLock<bool> = OnceLock::new();
    *CAN_BE_MADE.get_or_init(|| membarrier_query().contains_command(Command::GlobalExpedited))
}

/// The half of a fence whose other half is [`heavy`], in a process that takes part.
#[inline]
pub fn light() {
    compiler_fence(Ordering::SeqCst);
}

/// A sequentially consistent fence of this thread and of every thread of a process that takes part; false if the system
/// has no memory for it at the moment.
#[must_use]
pub fn heavy() -> bool {
    membarrier(Command::GlobalExpedited).is_ok()
}

// Miri has no membarrier.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_makes_fences_for_others() {
        assert!(can_be_made() && take_part() && take_part() && heavy());
    }
}
