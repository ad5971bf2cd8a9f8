//! A broker that is real, the page server with it, and curl to ask that.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use vgem::Embedded;

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The page server, until this goes.
pub(crate) struct Web {
    child: Child,
    /// What it says where it is: `http://127.0.0.1:PORT/` or `unix:PATH`.
    pub(crate) address: String,
}

impl Web {
    /// One for this broker, at a port of the kernel's choice.
    pub(crate) fn of(broker: &Embedded) -> Self {
        Self::at("127.0.0.1:0", broker.socket(), &[])
    }

    pub(crate) fn at(listen: &str, socket: impl AsRef<Path>, more: &[&str]) -> Self {
        let mut command = command();
        command.args(["--listen", listen, "--log", "warn", "--socket"]).arg(socket.as_ref()).args(more);
        Self::start(command)
    }

    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut address = String::new();
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        said.read_line(&mut address).expect("it says where it is");
        Self { child, address: address.trim_end().to_owned() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Asks curl for a path, with more arguments.
    pub(crate) fn curl(&self, path: &str, more: &[&str]) -> Output {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "30", "--noproxy", "*"]);
        let base = match self.address.strip_prefix("unix:") {
            Some(socket) => {
                curl.args(["--unix-socket", socket]);
                "http://localhost/"
            }
            None => &self.address,
        };
        curl.arg(format!("{base}{}", path.trim_start_matches('/'))).args(more).stdin(Stdio::null());
        curl.output().expect("curl is needed: `cargo xtask test` says how to get it")
    }

    /// The body of a path that is there.
    pub(crate) fn body(&self, path: &str) -> String {
        let out = self.curl(path, &["--fail"]);
        assert!(out.status.success(), "{path}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    }

    /// The status of an answer, and its headers, in lower case.
    pub(crate) fn head(&self, path: &str, more: &[&str]) -> (u16, String) {
        let out = self.curl(path, &[&["--output", "/dev/null", "--dump-header", "-"], more].concat());
        let head = String::from_utf8(out.stdout).expect("text").to_lowercase();
        let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        (code.unwrap_or_else(|| panic!("{path}: {head:?} {}", String::from_utf8_lossy(&out.stderr))), head)
    }

    pub(crate) fn state(&self) -> serde_json::Value {
        serde_json::from_str(&self.body("/api/state")).expect("one JSON document")
    }

    /// Tells it to end, and says whether it did so well.
    pub(crate) fn end(mut self) -> bool {
        kill_process(self.pid(), Signal::TERM).expect("ours");
        self.child.wait().expect("ours").success()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The program itself.
pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_vgem-web"))
}
