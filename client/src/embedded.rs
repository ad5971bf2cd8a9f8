//! A private broker: started by this process, for this process, gone with it.
//!
//! ```text
//!   start: private directory ─ vgemd --embedded FD --dir DIR ─ "ready" on the lifeline ─► Embedded ─ client()
//!   drop:  lifeline closed ──► keeper ends its family, removes its directory ──► waited for, killed if late
//!   SIGKILL of this process: the kernel closes the lifeline; the keeper does the same by itself
//! ```
//!
//! The lifeline is one end of a socket pair; nothing but its closing is ever said on it by us. Configuration goes as an
//! anonymous file, so that nothing but the socket and its lock is ever in the directory.

use std::env;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use vgem_os::process::{Child, Launch, Output};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_os::{Errno, OsError, clock};

use crate::client::{Client, ClientOptions};
use crate::deadline::Deadline;
use crate::error::{Error, Result};
use crate::locate;
use crate::patience::{self, Ready};

/// The number under which the keeper finds its lifeline.
const LIFELINE: i32 = 3;
/// The number under which the keeper finds its configuration.
const CONFIG: i32 = 4;
/// How long an orderly end may take before the keeper is killed.
const END: Duration = Duration::from_secs(5);
/// Lines of the keeper's messages that an error repeats.
const LINES: usize = 8;
/// How long the last of them may be on its way.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How to start a private broker.
#[derive(Debug, Clone)]
pub struct EmbeddedBuilder {
    bin_dir: Option<PathBuf>,
    drivers_dir: Option<PathBuf>,
    drivers: Vec<String>,
    roots: Vec<PathBuf>,
    config: String,
    log: Option<String>,
    patience: Duration,
}

impl EmbeddedBuilder {
    /// The folder of `vgemd`, instead of looking for it.
    #[must_use]
    pub fn bin_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(folder.into());
        self
    }

    /// The folder of the drivers, if they are not beside `vgemd`.
    #[must_use]
    pub fn drivers_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.drivers_dir = Some(folder.into());
        self
    }

    /// Devices whose drivers must be there, or nothing is started.
    #[must_use]
    pub fn drivers<S: Into<String>>(mut self, devices: impl IntoIterator<Item = S>) -> Self {
        self.drivers.extend(devices.into_iter().map(Into::into));
        self
    }

    /// Keeps the `blk` device to files below this folder, and others named so. Otherwise it may open what this process
    /// may.
    #[must_use]
    pub fn root(mut self, folder: impl Into<PathBuf>) -> Self {
        self.roots.push(folder.into());
        self
    }

    /// Lines of configuration, as a daemon's file has them (`packaging/vgemd.toml`); a mistake in them is told at the start.
    #[must_use]
    pub fn config(mut self, toml: impl AsRef<str>) -> Self {
        self.config.push_str(toml.as_ref());
        self.config.push('\n');
        self
    }

    /// What the broker logs to our standard error: `warn` unless said otherwise.
    #[must_use]
    pub fn log(mut self, filter: impl Into<String>) -> Self {
        self.log = Some(filter.into());
        self
    }

    /// How long the start may take; 10 s unless said otherwise.
    #[must_use]
    pub const fn start_timeout(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// [`Error::Embedded`] in words: what is missing, where it was looked for, or what the daemon said.
    pub fn start(self) -> Result<Embedded> {
        let vgemd = self.vgemd()?;
        self.check_drivers(&vgemd)?;
        let config = self.config_file()?;
        let dir = PrivateDir::make()?;
        let (ours, theirs) = Socket::pair()?;
        let mut args: Vec<OsString> =
            vec!["--embedded".into(), LIFELINE.to_string().into(), "--dir".into(), dir.0.clone().into()];
        args.extend(["--config".into(), format!("/proc/self/fd/{CONFIG}").into()]);
        if let Some(folder) = &self.drivers_dir {
            args.extend(["--drivers".into(), folder.into()]);
        }
        if let Some(filter) = &self.log {
            args.extend(["--log".into(), filter.into()]);
        }
        let launch = Launch {
            program: vgemd.clone(),
            args,
            env: environment(),
            fds: vec![(theirs.into(), LIFELINE), (config, CONFIG)],
            stdout: Output::Null,
            stderr: Output::Pipe,
            own_session: false,
            die_with_parent: false,
        };
        let mut child = launch
            .start()
            .map_err(|error| Error::Embedded(format!("cannot start {}: {error}", vgemd.display())))?;
        let messages = Messages::follow(child.take_stderr());
        let mut embedded = Embedded { lifeline: Some(ours), child, dir, messages };
        embedded.await_ready(&vgemd, Deadline::after(self.patience))?;
        Ok(embedded)
    }

    fn vgemd(&self) -> Result<PathBuf> {
        let folders = locate::folders(self.bin_dir.as_deref());
        locate::find("vgemd", &folders).ok_or_else(|| {
            Error::Embedded(format!(
                "there is no vgemd in {}; build or install it, or name its folder in VGEM_BIN_DIR",
                locate::spell(&folders)
            ))
        })
    }

    fn check_drivers(&self, vgemd: &Path) -> Result<()> {
        let beside = vgemd.parent().unwrap_or(Path::new("."));
        let folder = self.drivers_dir.as_deref().unwrap_or(beside);
        let names = self.drivers.iter().map(|device| format!("{}{device}", locate::DRIVER));
        let missing: Vec<String> = names.filter(|name| !folder.join(name).is_file()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::Embedded(format!(
            "there is no {} in {}; build or install it, or name the folder of the drivers",
            missing.join(", "),
            folder.display()
        )))
    }

    fn config_file(&self) -> Result<OwnedFd> {
        let mut text = self.config.clone();
        if !self.roots.is_empty() {
            let mut roots = Vec::new();
            for root in &self.roots {
                let root = std::path::absolute(root).unwrap_or_else(|_| root.clone());
                let text = root.to_str().ok_or_else(|| {
                    Error::Embedded(format!("the folder {} is not named in UTF-8", root.display()))
                })?;
                roots.push(quoted(text));
            }
            text.push_str(&format!("[devices.blk]\nroots = [{}]\n", roots.join(", ")));
        }
        let failed = |errno: Errno| OsError::with_detail("memfd_create", errno, "an embedded configuration");
        let fd = rustix::fs::memfd_create("vgemd.toml", MemfdFlags::CLOEXEC).map_err(failed)?;
        let mut file = File::from(fd);
        file.write_all(text.as_bytes())
            .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        Ok(file.into())
    }
}

/// A private broker that runs. Dropping it ends it, with its drivers.
#[derive(Debug)]
pub struct Embedded {
    /// Nothing once it is being ended.
    lifeline: Option<Socket>,
    child: Child,
    dir: PrivateDir,
    messages: Messages,
}

impl Embedded {
    /// Starts a private broker with everything as it usually is.
    ///
    /// # Errors
    /// As [`EmbeddedBuilder::start`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// What can be chosen.
    #[must_use]
    pub fn builder() -> EmbeddedBuilder {
        EmbeddedBuilder {
            bin_dir: None,
            drivers_dir: None,
            drivers: Vec::new(),
            roots: Vec::new(),
            config: String::new(),
            log: None,
            patience: Duration::from_secs(10),
        }
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// As [`ClientOptions::connect`].
    pub fn client(&self) -> Result<Client> {
        self.client_with(&ClientOptions::new())
    }

    /// A new connection to it, with options.
    ///
    /// # Errors
    /// As [`ClientOptions::connect`].
    pub fn client_with(&self, options: &ClientOptions) -> Result<Client> {
        options.connect(self.socket())
    }

    /// Where it serves.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.0.join("vgemd.sock")
    }

    /// The keeper's process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    fn await_ready(&mut self, vgemd: &Path, deadline: Deadline) -> Result<()> {
        let Some(lifeline) = &self.lifeline else { return Ok(()) };
        loop {
            if !patience::ready(lifeline, Ready::Read, deadline.remaining()) {
                if deadline.passed() {
                    return Err(self.failure(vgemd, "is not ready at the deadline"));
                }
                continue;
            }
            match lifeline.recv_plain(&mut [0; 64]) {
                Ok(Packet::Data { .. } | Packet::TooLong { .. }) => {
                    self.messages.pass_on();
                    return Ok(());
                }
                Ok(Packet::Closed) | Err(_) => break,
            }
        }
        patience::ready(&self.child, Ready::Read, END);
        let how = match self.child.try_wait()? {
            Some(status) => ended(status),
            None => "closed its lifeline".into(),
        };
        Err(self.failure(vgemd, &how))
    }

    fn failure(&self, vgemd: &Path, how: &str) -> Error {
        let said = self.messages.last();
        let mut text = format!("{} {how}", vgemd.display());
        if !said.is_empty() {
            text.push_str(": ");
            text.push_str(&said);
        }
        Error::Embedded(text)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.lifeline = None;
        if !patience::ready(&self.child, Ready::Read, END) {
            // Its children die with it; its directory is removed below.
            drop(self.child.kill());
        }
        // Ended or killed: this only reaps it.
        drop(self.child.wait());
    }
}

/// A directory of our own; removed with all that is in it.
#[derive(Debug)]
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn make() -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let runtime = env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
        let mut failure = String::new();
        for parent in runtime.into_iter().chain([env::temp_dir()]) {
            for _ in 0..64 {
                let count = COUNT.fetch_add(1, Ordering::Relaxed);
                let unique = clock::now() & 0xff_ffff;
                let name = format!("vgemd-{}-{count}-{unique:x}", std::process::id());
                let path = parent.join(name);
                match DirBuilder::new().mode(0o700).create(&path) {
                    Ok(()) => return Ok(Self(path)),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                    Err(error) => {
                        failure = format!("{}: {error}", path.display());
                        break;
                    }
                }
            }
        }
        Err(Error::Embedded(format!("no private directory for its socket: {failure}")))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // The keeper removes it too; whoever is second finds nothing.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What the keeper says on its standard error: kept while it starts, passed on to ours from then on.
#[derive(Debug, Clone, Default)]
struct Messages(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    lines: Mutex<Vec<String>>,
    passes: AtomicBool,
    /// Whether the pipe has ended.
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Messages {
    fn follow(pipe: Option<OwnedFd>) -> Self {
        let messages = Self::default();
        if let Some(pipe) = pipe {
            let kept = Arc::clone(&messages.0);
            let reader = std::thread::Builder::new().name("vgem-embedded".into());
            // Without the thread the pipe closes and the keeper's messages go nowhere; it lives all the same.
            drop(reader.spawn(move || kept.read(pipe)));
        }
        messages
    }

    fn pass_on(&self) {
        self.0.passes.store(true, Ordering::Release);
        for line in std::mem::take(&mut *self.0.lines()) {
            say(&line);
        }
    }

    /// What a keeper that has ended said last.
    fn last(&self) -> String {
        // It may still be on its way through the pipe, which ends with it; unless somebody else has it open too.
        let ended = self.0.ended.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.changed.wait_timeout_while(ended, LAST_WORDS, |ended| !*ended));
        self.0.lines().join("; ")
    }
}

impl Kept {
    fn read(&self, pipe: OwnedFd) {
        self.keep(pipe);
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn keep(&self, pipe: OwnedFd) {
        for line in BufReader::new(File::from(pipe)).lines() {
            let Ok(line) = line else { return };
            if self.passes.load(Ordering::Acquire) {
                say(&line);
                continue;
            }
            let mut lines = self.lines();
            if lines.len() >= LINES {
                lines.remove(0);
            }
            lines.push(line);
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(line: &str) {
    // Nobody to tell if standard error is closed.
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

fn environment() -> Vec<(OsString, OsString)> {
    let names = ["PATH", "HOME", "RUST_BACKTRACE", "VGEMD_LOG"];
    names.into_iter().filter_map(|name| Some((name.into(), env::var_os(name)?))).collect()
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_odd_letters_is_quoted() {
        assert_eq!(quoted("a\"b\\c\nd"), "\"a\\\"b\\\\c\\u000Ad\"");
    }

    #[test]
    fn a_missing_daemon_is_named_with_the_folder() {
        let said =
            Embedded::builder().bin_dir("/nowhere/at/all").start().map(drop).map_err(|e| e.to_string());
        assert_eq!(
            said,
            Err("there is no vgemd in /nowhere/at/all; build or install it, or name its folder in VGEM_BIN_DIR".into())
        );
    }

    #[test]
    fn a_private_directory_is_ours_alone_and_goes() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = PrivateDir::make().expect("a directory");
        let path = dir.0.clone();
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777;
        drop(dir);
        assert!(mode == 0o700 && !path.exists());
    }
}
