//! Control groups of memory, of either version: one for whoever is to be charged apart.
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | charged now | `memory.usage_in_bytes` | `memory.current` |
//! | limit | `memory.limit_in_bytes` | `memory.max` |
//! | killed for it | `oom_kill` of `memory.oom_control` | `oom_kill` of `memory.events` |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A control group; removed on drop, when nobody is in it any more.
#[derive(Debug)]
pub struct MemoryGroup {
    dir: PathBuf,
    version: Version,
}

impl MemoryGroup {
    /// A new one, without a limit.
    ///
    /// # Panics
    /// Without root, or where no hierarchy has the memory controller.
    #[must_use]
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (root, version) = hierarchy();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = root.join(format!("vgem-test-{}-{count}-{name}", std::process::id()));
        fs::create_dir(&dir).unwrap_or_else(|e| {
            panic!("{}: {e}: a control group of memory needs root: run the tests as root", dir.display())
        });
        Self { dir, version }
    }

    /// The file that processes join by.
    #[must_use]
    pub fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Bytes charged to it now, those of the kernel for it included.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn charged(&self) -> u64 {
        self.number(match self.version {
            Version::One => "memory.usage_in_bytes",
            Version::Two => "memory.current",
        })
    }

    /// Bytes of shared memory charged to it now.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn shared(&self) -> u64 {
        self.field("memory.stat", "shmem")
    }

    /// Sets its limit, bytes.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn limit(&self, bytes: u64) {
        let file = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        fs::write(self.dir.join(file), bytes.to_string()).expect("a limit");
    }

    /// How many of it the kernel killed for want of memory.
    ///
    /// # Panics
    /// If the kernel does not say.
    #[must_use]
    pub fn killed(&self) -> u64 {
        match self.version {
            Version::One => self.field("memory.oom_control", "oom_kill"),
            Version::Two => self.field("memory.events", "oom_kill"),
        }
    }

    fn number(&self, file: &str) -> u64 {
        let text = fs::read_to_string(self.dir.join(file)).expect("a file of a control group");
        text.trim().parse().expect("a number")
    }

    fn field(&self, file: &str, name: &str) -> u64 {
        let text = fs::read_to_string(self.dir.join(file)).expect("a file of a control group");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|number| number.trim().parse().ok())
            .unwrap_or_else(|| panic!("{file} has no {name}: {text}"))
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // It can be removed once its last process is reaped.
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.dir).is_err() && self.dir.exists() && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// Where groups with the memory controller are made.
fn hierarchy() -> (PathBuf, Version) {
    let first = Path::new("/sys/fs/cgroup/memory");
    if first.join("memory.limit_in_bytes").exists() {
        return (first.to_owned(), Version::One);
    }
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    assert!(
        controllers.split_whitespace().any(|name| name == "memory"),
        "no hierarchy of control groups below {} has the memory controller",
        root.display()
    );
    fs::write(root.join("cgroup.subtree_control"), "+memory").expect("root may share the controller out");
    (root.to_owned(), Version::Two)
}
