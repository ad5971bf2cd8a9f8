//! How many cores this process may use now.
//!
//! The mask of allowed cores changes while a process runs: by `taskset`, by a cpuset, by the program itself for single
//! threads. Asking costs two system calls and no file, so it can be asked again and again.

use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_getaffinity};

/// Cores that the first thread of this process or the calling one may use. At least 1, also where nothing can be found out.
#[must_use]
pub fn usable() -> usize {
    let [first, own] = [Some(getpid()), None].map(|thread| sched_getaffinity(thread).ok());
    let allowed = match (first, own) {
        (Some(first), Some(own)) if first != own => {
            (0..CpuSet::MAX_CPU).filter(|core| first.is_set(*core) || own.is_set(*core)).count()
        }
        (Some(mask), _) | (None, Some(mask)) => usize::try_from(mask.count()).unwrap_or(1),
        (None, None) => 1,
    };
    allowed.max(1)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use rustix::thread::sched_setaffinity;

    use super::*;

    /// Held by whoever changes which cores the process may use, or asks and wants the truth.
    pub(crate) static MASKS: Mutex<()> = Mutex::new(());

    #[test]
    fn a_thread_on_one_core_counts_those_of_its_process_too() {
        let _alone = MASKS.lock();
        let all = sched_getaffinity(None).expect("a mask");
        let first = (0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).expect("this one runs somewhere");
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(None, &one).expect("a core of the old mask");
        let alone = usable();
        sched_setaffinity(None, &all).expect("the old mask");
        assert_eq!(alone, usize::try_from(all.count()).expect("small"));
    }
}
