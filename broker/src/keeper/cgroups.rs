//! Which control group a process is in, where that decides about its domain.
//!
//! ```text
//!   pidfd ──its fdinfo──► pid ──/proc/PID/cgroup──► path ──has the process ended?──► no: that is its path
//!                                                                              └──► yes: the pid may be another's
//! ```
//!
//! A pid is not given again while the process runs, so a path that was read before its pidfd says that it has ended is its
//! own (M-241). Only the line of version 2 counts, `0::PATH`, with the path from the root of the keeper's own namespace of
//! control groups. No name in it can have a line break: the kernel refuses those.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use tracing::debug;
use vgem_proto::domains::CGROUP_LEN;
use vgem_proto::message::keeper::CgroupFound;

use super::link::{Link, LinkError};

/// Tells the broker the control group of a process.
pub(super) fn answer(question: u64, fds: &[OwnedFd], link: &Link) -> Result<(), LinkError> {
    let path = fds.first().and_then(path_of).unwrap_or_default();
    link.send(&CgroupFound { question, path }.into(), &[])
}

/// The path of the control group of a process; nothing if it has ended, or is in none of version 2.
fn path_of(pidfd: &OwnedFd) -> Option<Vec<u8>> {
    let pid = pid_of(pidfd)?;
    let read = std::fs::read(format!("/proc/{pid}/cgroup"));
    let lines = read.inspect_err(|e| debug!("the control group of process {pid}: {e}")).ok()?;
    let path = second(&lines)?;
    (runs(pidfd) && path.len() <= CGROUP_LEN).then(|| path.to_owned())
}

/// The pid behind a pidfd, as this process sees it.
fn pid_of(pidfd: &OwnedFd) -> Option<u32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    // -1 is one that was reaped, and 0 one of elsewhere.
    pid.trim().parse().ok().filter(|pid| *pid > 0)
}

/// Whether the process behind a pidfd has not ended: its pid is its own.
fn runs(pidfd: &OwnedFd) -> bool {
    let mut ended = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
}

/// The path of version 2 among the lines of `/proc/PID/cgroup`.
fn second(lines: &[u8]) -> Option<&[u8]> {
    lines.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    fn child() -> (Child, OwnedFd) {
        let child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().expect("it is everywhere");
        let pid = Pid::from_child(&child);
        (child, pidfd_open(pid, PidfdFlags::empty()).expect("a child of ours"))
    }

    // M-241
    #[test]
    fn a_process_that_runs_is_where_proc_says_and_one_that_has_ended_is_nowhere() {
        let (mut child, pidfd) = child();
        let own = std::fs::read("/proc/self/cgroup").expect("it is there");
        let own = second(&own).expect("this machine has control groups of version 2");
        assert_eq!(path_of(&pidfd).as_deref(), Some(own));
        child.kill().expect("a child of ours");
        let mut ended = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        poll(&mut ended, None).expect("it ends");
        assert!(pid_of(&pidfd).is_some(), "nobody has reaped it");
        assert_eq!(path_of(&pidfd), None);
        child.wait().expect("a child of ours");
        assert_eq!((pid_of(&pidfd), path_of(&pidfd)), (None, None));
    }

    #[test]
    fn what_is_no_pidfd_is_nowhere() {
        assert_eq!(path_of(&std::fs::File::open("/dev/null").expect("it is there").into()), None);
    }

    #[test]
    fn only_the_line_of_version_two_counts() {
        assert_eq!(second(b"4:memory:/a\n1:name=0::/b:/c\n0::/d:e f\n"), Some(&b"/d:e f"[..]));
        assert_eq!(second(b"4:memory:/a\n"), None);
    }
}
