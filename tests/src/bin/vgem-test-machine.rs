//! Becomes another program on a machine that is a little different: with other accounts, or in a control group.
//!
//! Arguments: `--passwd FILE` puts FILE in the place of /etc/passwd, for this process and its children alone;
//! `--cgroup FILE` joins the control group of that cgroup.procs; then `--` and the program.
#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

fn main() {
    let mut args = std::env::args_os().skip(1);
    while let Some(word) = args.next() {
        match word.to_str() {
            Some("--passwd") => {
                let file = args.next().expect("a file after --passwd");
                let none: Option<&str> = None;
                unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace of one's own: run this as root");
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
                mount(Some(file.as_os_str()), "/etc/passwd", none, MsFlags::MS_BIND, none).expect("a mount");
            }
            Some("--cgroup") => {
                let procs = args.next().expect("a file after --cgroup");
                std::fs::write(procs, "0").expect("a control group: run this as root");
            }
            Some("--") => {
                let program = args.next().expect("a program after --");
                panic!("{}: {}", program.display(), Command::new(&program).args(args).exec());
            }
            _ => panic!("unknown argument {}", word.display()),
        }
    }
}
