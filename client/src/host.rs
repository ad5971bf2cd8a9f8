//! What this machine offers: kernel features, limits and rights that vgem uses, each with its fall-back.
//!
//! A survey, not a test of vgem: it opens a few fds of its own and gives them back. `vgemctl doctor` prints it.
//! A feature is tried where that is cheap and harmless, else judged by the kernel's version.

use std::fs;

use vgem_os::process::limits;
use vgem_os::selftest::{LeaseSupport, lease_self_test};
use vgem_os::seqpacket::Socket;

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Works, with a fall-back that costs something.
    Warn,
    /// Does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What.
    pub name: String,
    /// How it is to be taken.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it; empty if nothing.
    pub fix: String,
}

impl Finding {
    /// As it should be.
    #[must_use]
    pub fn pass(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Pass, found: found.into(), fix: String::new() }
    }

    /// Works, with a fall-back.
    #[must_use]
    pub fn warn(name: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Warn, found: found.into(), fix: fix.into() }
    }

    /// Does not work.
    #[must_use]
    pub fn fail(name: impl Into<String>, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.into(), verdict: Verdict::Fail, found: found.into(), fix: fix.into() }
    }
}

/// A version of the kernel: major, minor.
type Version = (u32, u32);

/// The oldest kernel with everything that has no fall-back.
const FLOOR: Version = (5, 11);

/// Features judged by version: name, since, what happens without.
const BY_VERSION: &[(&str, Version, &str)] = &[
    ("MFD_NOEXEC_SEAL", (6, 3), "objects are not marked as never executable"),
    ("futex_waitv", (5, 16), "waits for several pages look in slices of half a millisecond"),
    ("MADV_POPULATE_WRITE", (5, 14), "pages are touched one by one"),
];

/// Looks at everything.
#[must_use]
pub fn survey() -> Vec<Finding> {
    let release = first_line("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = parse(&release);
    let mut findings = vec![kernel(&release, version)];
    findings.extend(BY_VERSION.iter().map(|feature| by_version(feature, version)));
    findings.push(lease());
    findings.extend(sockets());
    findings.push(landlock());
    findings.push(io_uring());
    findings.push(huge_pages());
    findings.push(memlock());
    findings.push(nofile());
    findings
}

fn kernel(release: &str, version: Version) -> Finding {
    let name = "kernel";
    if version >= FLOOR {
        return Finding::pass(name, release);
    }
    let (major, minor) = FLOOR;
    Finding::fail(name, format!("{release}, needs {major}.{minor}"), "run a newer kernel; Debian 12 has 6.1")
}

fn by_version((name, since, without): &(&str, Version, &str), version: Version) -> Finding {
    let (major, minor) = since;
    if version >= *since {
        return Finding::pass(*name, format!("since {major}.{minor}"));
    }
    Finding::warn(*name, format!("missing: {without}"), format!("Linux {major}.{minor} has it"))
}

fn lease() -> Finding {
    let name = "lease probe";
    match lease_self_test() {
        Ok(LeaseSupport::Exact) => Finding::pass(name, "tells exactly when memory is unused"),
        Ok(LeaseSupport::Unusable { why }) => Finding::warn(
            name,
            format!("not usable: {why}"),
            "objects are kept until their clients disconnect; check fs.leases-enable and CAP_LEASE",
        ),
        Err(error) => {
            Finding::fail(name, error.to_string(), "mount /proc, and allow this process more memory and fds")
        }
    }
}

fn sockets() -> Vec<Finding> {
    let pair = match Socket::pair() {
        Ok(pair) => pair,
        Err(error) => {
            return vec![Finding::fail(
                "SEQPACKET sockets",
                error.to_string(),
                "allow this process more fds",
            )];
        }
    };
    let passrights = match pair.0.set_pass_rights(false) {
        Ok(true) => Finding::pass("SO_PASSRIGHTS", "clients cannot send the broker fds"),
        _ => {
            Finding::warn("SO_PASSRIGHTS", "missing: unwanted fds are closed on arrival", "Linux 6.16 has it")
        }
    };
    let peer = pair.1.peer().ok();
    let pidfd = if peer.as_ref().is_some_and(|peer| peer.pidfd.is_some()) {
        Finding::pass("SO_PEERPIDFD", "peers are known by process, not by number")
    } else {
        Finding::warn("SO_PEERPIDFD", "missing: peers are known by uid alone", "Linux 6.5 has it")
    };
    let cgroup = if peer.is_some_and(|peer| peer.cgroup.is_some()) {
        Finding::pass("PIDFD_GET_INFO", "the cgroup of a peer is known")
    } else {
        Finding::warn("PIDFD_GET_INFO", "missing: the cgroup of a peer is not known", "Linux 6.13 has it")
    };
    vec![passrights, pidfd, cgroup]
}

fn landlock() -> Finding {
    let name = "landlock";
    match first_line("/sys/kernel/security/lsm") {
        Some(modules) if modules.split(',').any(|module| module == name) => Finding::pass(name, "in force"),
        Some(modules) => Finding::warn(
            name,
            format!("not among the security modules ({modules}): drivers can open what their user can"),
            "add landlock to the kernel's lsm= parameter",
        ),
        None => {
            Finding::warn(name, "unknown: no securityfs here", "mount securityfs on /sys/kernel/security")
        }
    }
}

fn io_uring() -> Finding {
    let name = "io_uring";
    match first_line("/proc/sys/kernel/io_uring_disabled").as_deref() {
        Some("0") => Finding::pass(name, "allowed"),
        Some("1") => Finding::warn(
            name,
            "for privileged processes only: blk falls back to plain reads and writes",
            "sysctl kernel.io_uring_disabled=0",
        ),
        Some(_) => Finding::warn(
            name,
            "disabled: blk falls back to plain reads and writes",
            "sysctl kernel.io_uring_disabled=0",
        ),
        None => Finding::pass(name, "not restricted"),
    }
}

fn huge_pages() -> Finding {
    let name = "shmem huge pages";
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let fix = format!("echo advise > {path}: large buffers are made 15 times faster");
    match first_line(path) {
        Some(line) => match line.split_whitespace().find(|word| word.starts_with('[')) {
            Some("[never]" | "[deny]") => Finding::warn(name, format!("not allowed: {line}"), fix),
            Some(chosen) => Finding::pass(name, chosen.trim_matches(['[', ']'])),
            None => Finding::warn(name, line, fix),
        },
        None => Finding::warn(name, "this kernel has none", "a kernel with CONFIG_TRANSPARENT_HUGEPAGE"),
    }
}

fn memlock() -> Finding {
    let name = "memlock limit";
    let unlimited = limits::memlock() == u64::MAX || has_capability(14);
    if unlimited {
        return Finding::pass(name, "none: all of an object is pinned");
    }
    let mib = limits::memlock() >> 20;
    Finding::warn(
        name,
        format!("{mib} MiB: objects beyond it are not pinned and may be swapped"),
        "LimitMEMLOCK=infinity in the unit, or `ulimit -l unlimited` as root",
    )
}

fn nofile() -> Finding {
    let name = "open files limit";
    match limits::nofile() {
        few if few < 1024 => Finding::fail(name, few.to_string(), "ulimit -n 4096"),
        some => Finding::pass(name, some.to_string()),
    }
}

/// Whether a capability is in force in this process.
fn has_capability(number: u32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    bits >> number & 1 == 1
}

fn first_line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()?.lines().next().map(str::to_owned)
}

/// Major and minor of a release such as `6.18.44-x`; zeros if it is none.
fn parse(release: &str) -> Version {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_by_its_first_two_numbers() {
        assert_eq!((parse("6.18.44-x"), parse("5.4"), parse("")), ((6, 18), (5, 4), (0, 0)));
    }

    #[test]
    fn an_old_kernel_fails_and_a_lacking_feature_warns() {
        assert_eq!(kernel("5.4.0", (5, 4)).verdict, Verdict::Fail);
        assert_eq!(by_version(&BY_VERSION[0], (6, 1)).verdict, Verdict::Warn);
    }

    #[test]
    fn the_survey_says_what_to_do_about_everything_that_is_not_well() {
        let silent = survey().into_iter().find(|one| one.verdict != Verdict::Pass && one.fix.is_empty());
        assert_eq!(silent, None);
    }
}
