//! Reserved huge pages: how many this machine has, and what to tell people when they are too few.
//!
//! Reserved pages ([`HugePages::Size2M`], [`HugePages::Size1G`]) exist only if an administrator set them aside; a
//! memory file of them can be made without any, and fails at the first mapping. So whoever offers them asks here
//! first, and says which setting is missing instead of `ENOMEM`.
//!
//! It reads `/sys/kernel/mm/hugepages`, so ask before confinement, or in the client. What it is not: a reservation.
//! Somebody else may take the pages between the answer and the mapping. Transparent huge pages are not its affair.

use std::path::{Path, PathBuf};

use crate::error::{Attempt, OsError, Result};
use crate::memory::HugePages;

const FOLDER: &str = "/sys/kernel/mm/hugepages";

/// The reserved pages of one size, counted in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Reserve {
    /// Set aside for good, whether used or not (`nr_hugepages`).
    pub total: u64,
    /// Of those and the ones made on demand, in nobody's use (`free_hugepages`).
    pub free: u64,
    /// Of the free ones, promised to mappings that have not touched them (`resv_hugepages`).
    pub promised: u64,
    /// That may still be made on demand (`nr_overcommit_hugepages` less `surplus_hugepages`).
    pub on_demand: u64,
}

impl Reserve {
    /// What this machine has of pages of `size`; nothing if it has no pages of that size at all, or if `size` asks
    /// for no reserved pages.
    ///
    /// # Errors
    /// The errno of reading `/sys/kernel/mm/hugepages`, other than that of a missing folder.
    pub fn of(size: HugePages) -> Result<Option<Self>> {
        match page_len(size) {
            Some(len) => Self::read(&folder(Path::new(FOLDER), len)),
            None => Ok(None),
        }
    }

    /// Pages that a new mapping can have now.
    #[must_use]
    pub const fn available(&self) -> u64 {
        self.free.saturating_sub(self.promised).saturating_add(self.on_demand)
    }

    fn read(folder: &Path) -> Result<Option<Self>> {
        if !folder.exists() {
            return Ok(None);
        }
        let number = |name: &str| -> Result<u64> {
            let path = folder.join(name);
            let text = std::fs::read_to_string(&path).attempting("read", || path.display().to_string())?;
            let wrong = |_| OsError::with_detail("read", crate::Errno::INVAL, format!("{name}: {text:?}"));
            text.trim().parse().map_err(wrong)
        };
        Ok(Some(Self {
            total: number("nr_hugepages")?,
            free: number("free_hugepages")?,
            promised: number("resv_hugepages")?,
            on_demand: number("nr_overcommit_hugepages")?.saturating_sub(number("surplus_hugepages")?),
        }))
    }
}

/// The length of a reserved page of `size`, bytes; nothing for sizes that need no reserve.
#[must_use]
pub const fn page_len(size: HugePages) -> Option<u64> {
    match size {
        HugePages::None | HugePages::Advise => None,
        HugePages::Size2M => Some(2 << 20),
        HugePages::Size1G => Some(1 << 30),
    }
}

/// Why memory of `len` bytes cannot be had in pages of `size` now: a sentence for people, which names the wanted
/// and the available pages and the setting that would give more. Nothing if it can, or if `size` needs no reserve,
/// or if the machine does not tell (`/sys` is not mounted, or out of a confined process's reach).
#[must_use]
pub fn lacking(size: HugePages, len: u64) -> Option<String> {
    let page = page_len(size)?;
    if !Path::new(FOLDER).exists() {
        return None;
    }
    match Reserve::of(size) {
        Ok(reserve) => sentence(reserve, page, len, default_page_len()),
        Err(_) => None,
    }
}

/// `reserve` is nothing where the machine has no pages of that length; `default` is the length `vm.nr_hugepages`
/// is about.
fn sentence(reserve: Option<Reserve>, page: u64, len: u64, default: Option<u64>) -> Option<String> {
    let wanted = len.div_ceil(page);
    let name = name_of(page);
    let Some(reserve) = reserve else {
        return Some(format!(
            "{wanted} huge pages of {name} are wanted, and this machine has no pages of that size"
        ));
    };
    let available = reserve.available();
    if available >= wanted {
        return None;
    }
    let enough = reserve.total.saturating_add(wanted - available);
    let how = if default == Some(page) {
        format!("sysctl -w vm.nr_hugepages={enough}")
    } else {
        let file = folder(Path::new(FOLDER), page).join("nr_hugepages");
        format!("echo {enough} > {}", file.display())
    };
    let total = reserve.total;
    Some(format!(
        "{wanted} huge pages of {name} are wanted, {available} are free of {total} that are reserved; \
         an administrator reserves more with `{how}`"
    ))
}

fn folder(root: &Path, page: u64) -> PathBuf {
    root.join(format!("hugepages-{}kB", page >> 10))
}

fn name_of(page: u64) -> String {
    if page >= 1 << 30 { format!("{} GiB", page >> 30) } else { format!("{} MiB", page >> 20) }
}

/// The length of page that `vm.nr_hugepages` counts, bytes.
fn default_page_len() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const M2: u64 = 2 << 20;
    const G1: u64 = 1 << 30;

    fn reserve(total: u64, free: u64, promised: u64) -> Option<Reserve> {
        Some(Reserve { total, free, promised, on_demand: 0 })
    }

    #[test]
    fn enough_pages_lack_nothing() {
        assert_eq!(sentence(reserve(4, 4, 0), M2, 4 * M2, Some(M2)), None);
        let on_demand = Some(Reserve { on_demand: 4, ..Reserve::default() });
        assert_eq!(sentence(on_demand, M2, 4 * M2, Some(M2)), None);
    }

    #[test]
    fn too_few_pages_of_the_default_size_name_the_sysctl_and_how_many() {
        let why = sentence(reserve(10, 3, 1), M2, 4 * M2, Some(M2)).unwrap();
        assert!(why.starts_with("4 huge pages of 2 MiB are wanted, 2 are free of 10"), "{why}");
        assert!(why.ends_with("`sysctl -w vm.nr_hugepages=12`"), "{why}");
    }

    #[test]
    fn too_few_pages_of_another_size_name_the_file_of_that_size() {
        let why = sentence(reserve(0, 0, 0), G1, 1, Some(M2)).unwrap();
        assert!(
            why.ends_with("`echo 1 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages`"),
            "{why}"
        );
    }

    #[test]
    fn a_machine_without_the_size_is_told_so() {
        let why = sentence(None, G1, G1, Some(M2)).unwrap();
        assert!(why.contains("no pages of that size"), "{why}");
    }

    #[test]
    fn ordinary_pages_lack_nothing() {
        assert_eq!((lacking(HugePages::None, 1 << 40), lacking(HugePages::Advise, 1 << 40)), (None, None));
    }

    #[test]
    fn more_than_the_machine_could_ever_have_is_lacking() {
        assert!(!Path::new(FOLDER).exists() || lacking(HugePages::Size2M, 1 << 60).is_some());
    }

    #[test]
    fn a_reserve_is_read_from_its_five_files() {
        let home = tempfile::tempdir().unwrap();
        let names = ["nr", "free", "resv", "nr_overcommit", "surplus"];
        for (name, value) in names.iter().zip([8, 7, 2, 5, 1]) {
            std::fs::write(home.path().join(format!("{name}_hugepages")), format!("{value}\n")).unwrap();
        }
        let expected = Reserve { total: 8, free: 7, promised: 2, on_demand: 4 };
        assert_eq!(Reserve::read(home.path()), Ok(Some(expected)));
        assert_eq!(expected.available(), 9);
    }

    #[test]
    fn a_size_the_kernel_does_not_have_has_no_reserve() {
        assert_eq!(Reserve::read(Path::new("/sys/kernel/mm/hugepages/hugepages-3kB")), Ok(None));
    }
}
