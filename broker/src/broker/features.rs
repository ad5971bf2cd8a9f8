//! What is told to `doctor` and `status` about kernel and process: one line per feature, `name: state`.
//!
//! A state that is worse than it could be says what to do about it.

use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::thread::futex::{self, WaitvFlags};
use vgem_os::confine::Confined;
use vgem_os::selftest::LeaseSupport;

use super::memory::Pinning;

/// What was found at start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Features {
    lines: Vec<String>,
    confinement: String,
    pin_limit: Option<u64>,
}

impl Features {
    /// The keeper's lines and the broker's own. `pin_limit`: bytes the keeper may pin, none is no limit.
    pub(super) fn found(
        keeper: Vec<String>,
        pin_limit: Option<u64>,
        lease: &LeaseSupport,
        refuses_fds: bool,
        confined: &Confined,
    ) -> Self {
        let landlock = format!("{:?}", confined.landlock).to_lowercase();
        let seccomp = if confined.seccomp { "on" } else { "off" };
        let mut lines = vec![
            match lease {
                LeaseSupport::Exact => "lease probe: exact".to_owned(),
                LeaseSupport::Unusable { why } => {
                    format!("lease probe: unusable, objects are kept until their client goes ({why})")
                }
            },
            match refuses_fds {
                true => "fds from clients: refused by the kernel (SO_PASSRIGHTS)".to_owned(),
                false => "fds from clients: received by nobody, closed by the kernel; \
                          Linux 6.16 has SO_PASSRIGHTS and refuses them"
                    .to_owned(),
            },
            format!("futex_waitv: {}", waits_for_many()),
            format!("landlock: {landlock}"),
            format!("seccomp: {seccomp}"),
            format!("no new privileges: {}", if confined.no_new_privs { "on" } else { "off" }),
            format!(
                "capabilities: {}",
                if confined.caps.is_empty() { "none".to_owned() } else { confined.caps.join(" ") }
            ),
        ];
        lines.extend(keeper);
        // A porter that cannot be confined ends before it receives anything, so this is what every one of them has.
        let confinement = format!("seccomp {seccomp}, landlock {landlock}, no capabilities");
        Self { lines, confinement, pin_limit }
    }

    /// The lines, of what was found at the start.
    pub(super) fn found_lines(&self) -> Vec<String> {
        self.lines.clone()
    }

    /// The lines, with what is so now.
    pub(super) fn lines(&self, pinning: Pinning, porters: usize) -> Vec<String> {
        let mut lines = self.lines.clone();
        lines.push(format!("pinning: {}", pinned(pinning, self.pin_limit)));
        lines.push(format!("porters: {porters} now, each confined before it receives: {}", self.confinement));
        lines
    }
}

fn pinned(Pinning { kept, pinned }: Pinning, limit: Option<u64>) -> String {
    let Some(limit) = limit else {
        return match pinned < kept {
            false => format!("{pinned} bytes, all of what is ready; no limit"),
            true => format!("degraded, {pinned} of {kept} bytes that are ready; the keeper's log says why"),
        };
    };
    match pinned < kept {
        false => format!("{pinned} bytes, all of what is ready; RLIMIT_MEMLOCK is {limit} bytes"),
        true => format!(
            "degraded, {pinned} of {kept} bytes that are ready: RLIMIT_MEMLOCK is {limit} bytes; \
             raise it (ulimit -l, LimitMEMLOCK=) and start vgemd again"
        ),
    }
}

/// Whether one call can sleep on several words: a kernel that knows the call refuses to sleep on none.
fn waits_for_many() -> &'static str {
    match futex::waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic) {
        Err(Errno::NOSYS) => "no, drivers look in turns",
        _ => "yes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_that_the_limit_cuts_is_degraded_and_says_what_to_do() {
        let said = pinned(Pinning { kept: 100, pinned: 60 }, Some(64));
        assert!(
            said.starts_with("degraded, 60 of 100 bytes") && said.contains("64 bytes; raise it"),
            "{said}"
        );
    }

    #[test]
    fn pinning_of_everything_is_not_degraded() {
        for limit in [None, Some(1000)] {
            let said = pinned(Pinning { kept: 100, pinned: 100 }, limit);
            assert!(said.starts_with("100 bytes, all"), "{said}");
        }
    }
}
