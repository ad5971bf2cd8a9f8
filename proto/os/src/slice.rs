//! How soon a thread has its turn when its core is wanted, against for how long it has it then.
//!
//! Linux (6.12 and later) lets a thread that only does a little at a time ask for short slices, and one with a lot to do for
//! long ones. Both get the same share; but when one with a shorter slice wakes, it need not wait until the slice of the one
//! that runs is over. Threads that pass work on ask for short ones, those that do it for long ones: so what a neighbor
//! asks for is not kept waiting by bulk.
//!
//! It is a wish. Older kernels do not know it, and who has another policy than the usual one was given it by somebody who
//! knows better; both are left as they are.

use std::time::Duration;

use nix::libc;
use rustix::io::Errno;

use crate::error::{OsError, Result};

/// Slices of threads that pass work on.
pub const SHORT: Duration = Duration::from_micros(200);
/// Slices of threads that do it.
pub const LONG: Duration = Duration::from_millis(20);

/// As [`ask`], by who goes on all the same if it is not heard.
pub fn wish(slice: Duration) {
    drop(ask(slice));
}

/// Asks for slices of this length for the calling thread, and those that it starts; zero is the usual one. False if the
/// thread is left as it is.
///
/// # Errors
/// The errno of `sched_getattr` or `sched_setattr`.
pub fn ask(slice: Duration) -> Result<bool> {
    let mut attributes = attributes()?;
    let usual = [libc::SCHED_OTHER, libc::SCHED_BATCH];
    if !usual.iter().any(|policy| u32::try_from(*policy) == Ok(attributes.sched_policy)) {
        return Ok(false);
    }
    attributes.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    // SAFETY: U6. A thread (0: this one), the address of a live value that says its own size, and no flags.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 { Ok(true) } else { Err(last("sched_setattr")) }
}

fn attributes() -> Result<libc::sched_attr> {
    // SAFETY: U6. Integers only; zeros are good values of them.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    let size = size_of_val(&attributes);
    // SAFETY: U6. A thread (0: this one), the address and the size of a live value, and no flags.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got == 0 { Ok(attributes) } else { Err(last("sched_getattr")) }
}

fn last(call: &'static str) -> OsError {
    OsError::new(call, Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

// Miri has no schedulers.
#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_asked_for_and_given_back_and_goes_to_the_threads_one_starts() {
        let slice = || attributes().map(|attributes| Duration::from_nanos(attributes.sched_runtime));
        let usual = slice().expect("its attributes");
        assert!(ask(SHORT).expect("a right that every thread has"));
        let inherited = std::thread::spawn(slice).join().expect("it only looks");
        // A kernel before 6.12 takes the wish, and tells of none.
        let known = slice().expect("its attributes");
        assert!(known == SHORT || known == usual);
        assert_eq!(inherited.expect("its attributes"), known);
        assert!(ask(Duration::ZERO).expect("a right that every thread has"));
        assert_eq!(slice().expect("its attributes"), usual);
    }

    #[test]
    fn who_has_another_policy_is_left_as_it_is() {
        let idle = || {
            // SAFETY: U6. A thread (0: this one), a policy, and the address of a live value.
            let set = unsafe {
                libc::sched_setscheduler(0, libc::SCHED_IDLE, &libc::sched_param { sched_priority: 0 })
            };
            (set, ask(LONG).expect("nothing is asked"))
        };
        assert_eq!(std::thread::spawn(idle).join().expect("it only asks"), (0, false));
    }
}
