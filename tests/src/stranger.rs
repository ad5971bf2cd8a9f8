//! A process that never spoke to the broker, and does to the fds it is given whatever it is told: `stranger.py`.
//!
//! It can be another user, sit in a user namespace, or in a control group. What it fails in is an answer, not an
//! error: most of what it tries must fail.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use vgem_os::seqpacket::{Packet, Socket};

use crate::programs;

/// Who a stranger is.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// Another user and group, by number.
    pub uid: Option<u32>,
    /// Whether it is in a user namespace of its own, as its root.
    pub namespace: bool,
    /// The `cgroup.procs` of the control group it joins.
    pub cgroup: Option<PathBuf>,
}

/// A stranger; ended on drop.
#[derive(Debug)]
pub struct Stranger {
    child: Child,
    link: Socket,
}

impl Stranger {
    /// One of our own user.
    #[must_use]
    pub fn start() -> Self {
        Self::start_as(&Who::default())
    }

    /// One of another user.
    #[must_use]
    pub fn of_uid(uid: u32) -> Self {
        Self::start_as(&Who { uid: Some(uid), ..Who::default() })
    }

    /// One of any kind.
    ///
    /// # Panics
    /// If it does not start: another user and a control group need root, a namespace needs a kernel that allows it.
    #[must_use]
    pub fn start_as(who: &Who) -> Self {
        let (ours, theirs) = Socket::pair().expect("a pair of sockets");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stranger.py");
        let mut args: Vec<OsString> = vec!["-B".into(), script.into()];
        if let Some(cgroup) = &who.cgroup {
            args.extend(["--cgroup".into(), cgroup.into()]);
        }
        if let Some(uid) = who.uid {
            args.extend(["--uid".into(), uid.to_string().into()]);
        }
        if who.namespace {
            args.push("--userns".into());
        }
        let stdin = Stdio::from(OwnedFd::from(theirs));
        let child = Command::new(programs::python()).args(args).stdin(stdin).spawn();
        let mut stranger = Self { child: child.expect("python3 is installed"), link: ours };
        let answer = stranger.tell(json!({ "do": "hello" }), &[]);
        assert!(
            answer.is_some(),
            "{who:?} cannot be: it needs root, and user namespaces; its message is above"
        );
        stranger
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to do something; its answer.
    ///
    /// # Panics
    /// If it ends instead of answering.
    pub fn ask(&mut self, ask: Value, fds: &[BorrowedFd<'_>]) -> Value {
        self.ask_for_fds(ask, fds).0
    }

    /// As [`Stranger::ask`], with the fds of the answer.
    ///
    /// # Panics
    /// As there.
    pub fn ask_for_fds(&mut self, ask: Value, fds: &[BorrowedFd<'_>]) -> (Value, Vec<OwnedFd>) {
        let said = ask.to_string();
        self.tell(ask, fds).unwrap_or_else(|| panic!("the stranger ended instead of answering {said}"))
    }

    /// Tells it to do something that must succeed.
    ///
    /// # Panics
    /// If it fails.
    pub fn must(&mut self, ask: Value, fds: &[BorrowedFd<'_>]) -> Value {
        let said = ask.to_string();
        let answer = self.ask(ask, fds);
        assert!(answer.get("error").is_none(), "{said}: {answer}");
        answer
    }

    /// Tells it to do something without waiting for the answer: [`Stranger::answer`] has that.
    ///
    /// # Panics
    /// If it is gone.
    pub fn begin(&mut self, ask: &Value, fds: &[BorrowedFd<'_>]) {
        self.link.send(ask.to_string().as_bytes(), fds).expect("the stranger reads");
    }

    /// What it answers next; none if it is gone.
    pub fn answer(&mut self) -> Option<(Value, Vec<OwnedFd>)> {
        let mut buf = vec![0; 65_536];
        let mut fds = Vec::new();
        self.link.set_recv_timeout(Some(Duration::from_secs(120))).expect("a socket of ours");
        match self.link.recv(&mut buf, &mut fds) {
            Ok(Packet::Data { len }) => Some((serde_json::from_slice(&buf[..len]).ok()?, fds)),
            _ => None,
        }
    }

    fn tell(&mut self, ask: Value, fds: &[BorrowedFd<'_>]) -> Option<(Value, Vec<OwnedFd>)> {
        self.link.send(ask.to_string().as_bytes(), fds).ok()?;
        self.answer()
    }

    /// How each attack of a family on memory of `len` bytes ended: `done`, or the name of an errno.
    ///
    /// # Panics
    /// As [`Stranger::ask`].
    pub fn attack(&mut self, family: &str, fd: &OwnedFd, len: u64) -> BTreeMap<String, String> {
        let answer = self.ask(json!({ "do": "attack", "family": family, "len": len }), &[fd.as_fd()]);
        serde_json::from_value(answer).expect("names and outcomes")
    }

    /// Has it connect to a broker: for the broker, the connection is this user's, whoever uses it.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn connect(&mut self, path: &Path) -> Socket {
        let (answer, mut fds) = self.ask_for_fds(json!({ "do": "connect", "path": path }), &[]);
        Socket::from(fds.pop().unwrap_or_else(|| panic!("{}: {answer}", path.display())))
    }

    /// Has it hold memory in one way: `fd`, `map`, `dup`, `open`, `queue`, `cycle`, `fork`.
    ///
    /// # Panics
    /// If it cannot.
    pub fn hold(&mut self, way: &str, fd: OwnedFd, len: u64) {
        self.must(json!({ "do": "hold", "way": way, "name": way, "len": len }), &[fd.as_fd()]);
        drop(fd);
    }

    /// Has it let go; when, CLOCK_MONOTONIC nanoseconds.
    ///
    /// # Panics
    /// If it cannot.
    pub fn release(&mut self, way: &str) -> u64 {
        let answer = self.must(json!({ "do": "release", "name": way }), &[]);
        answer["at_ns"].as_u64().expect("a moment")
    }

    /// Kills it with SIGKILL; returns when it has ended.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        // Ended already, or reaped: both are what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.end();
    }
}
