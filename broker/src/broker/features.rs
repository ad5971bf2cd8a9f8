//! What is told to `doctor` and `status` about kernel and process: one line per feature, `name: state`.

use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::thread::futex::{self, WaitvFlags};
use vgem_os::confine::Confined;
use vgem_os::selftest::LeaseSupport;

/// The keeper's lines and the broker's own.
pub(super) fn lines(
    keeper: Vec<String>,
    lease: &LeaseSupport,
    refuses_fds: bool,
    confined: &Confined,
) -> Vec<String> {
    let mut lines = vec![
        match lease {
            LeaseSupport::Exact => "lease probe: exact".to_owned(),
            LeaseSupport::Unusable { why } => {
                format!("lease probe: unusable, objects are kept until their client goes ({why})")
            }
        },
        format!("fds from clients: {}", if refuses_fds { "refused by the kernel" } else { "ignored" }),
        format!("futex_waitv: {}", waits_for_many()),
        format!("landlock: {:?}", confined.landlock).to_lowercase(),
        format!("seccomp: {}", if confined.seccomp { "on" } else { "off" }),
        format!("no new privileges: {}", if confined.no_new_privs { "on" } else { "off" }),
        format!(
            "capabilities: {}",
            if confined.caps.is_empty() { "none".to_owned() } else { confined.caps.join(" ") }
        ),
    ];
    lines.extend(keeper);
    lines
}

/// Whether one call can sleep on several words: a kernel that knows the call refuses to sleep on none.
fn waits_for_many() -> &'static str {
    match futex::waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic) {
        Err(Errno::NOSYS) => "no, drivers look in turns",
        _ => "yes",
    }
}
