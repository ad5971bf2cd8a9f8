//! What the keeper finds out about machine and process, for `doctor` and `status`: one line per feature.

use vgem_os::process::limits;

use super::account::Accounts;

/// Where the kernel says when shared memory uses huge pages.
const SHMEM_HUGE: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// The lines.
pub(super) fn lines(accounts: &Accounts) -> Vec<String> {
    vec![
        format!("memlock: {}", bytes(limits::memlock())),
        format!("nofile: {}", limits::nofile()),
        format!("shmem huge pages: {}", chosen(&std::fs::read_to_string(SHMEM_HUGE).unwrap_or_default())),
        accounts.feature(),
    ]
}

fn bytes(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { format!("{limit} bytes") }
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
}
