//! What the keeper finds out about machine and process, for `doctor` and `status`: one line per feature.

use vgem_os::hugepages::Reserve;
use vgem_os::memory::HugePages;
use vgem_os::process::limits;

use super::account::Accounts;

/// Where the kernel says when shared memory uses huge pages.
const SHMEM_HUGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
/// Where the kernel says what this process may do.
const STATUS: &str = "/proc/self/status";
/// The bit of `CAP_IPC_LOCK`.
const IPC_LOCK: u64 = 1 << 14;

/// The lines.
pub(super) fn lines(accounts: &Accounts) -> Vec<String> {
    vec![
        format!("nofile: {}", limits::nofile()),
        format!("shmem huge pages: {}", chosen(&std::fs::read_to_string(SHMEM_HUGE).unwrap_or_default())),
        format!(
            "reserved huge pages: 2 MiB {}, 1 GiB {}",
            reserve(HugePages::Size2M),
            reserve(HugePages::Size1G)
        ),
        accounts.feature(),
    ]
}

/// How much this process may pin, bytes; nothing if there is no limit, or it is no limit for us.
pub(super) fn pin_limit() -> Option<u64> {
    let limit = limits::memlock();
    let status = std::fs::read_to_string(STATUS).unwrap_or_default();
    (limit != u64::MAX && !may_lock(&status)).then_some(limit)
}

/// Whether a process of this status is above the limit.
fn may_lock(status: &str) -> bool {
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & IPC_LOCK != 0)
}

fn reserve(size: HugePages) -> String {
    match Reserve::of(size) {
        Ok(Some(reserve)) => format!("{} free of {}", reserve.available(), reserve.total),
        Ok(None) => "not on this machine".to_owned(),
        Err(e) => format!("unknown ({e})"),
    }
}

/// The word in brackets of a file that lists all.
fn chosen(list: &str) -> &str {
    list.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("unknown", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_in_brackets_is_the_one_in_force() {
        assert_eq!(chosen("always within_size [advise] never deny force\n"), "advise");
        assert_eq!(chosen(""), "unknown");
    }

    #[test]
    fn only_the_capability_lifts_the_limit() {
        assert!(may_lock("Name:\tx\nCapEff:\t0000000000004000\n"));
        assert!(!may_lock("CapInh:\tffffffffffffffff\nCapEff:\t000001ffffffbfff\n"));
        assert!(!may_lock(""));
    }
}
