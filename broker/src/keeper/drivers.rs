//! Finding the drivers: programs called `vgem-driver-NAME`, each asked to describe itself.
//!
//! They are looked for in the first of these places that is said: `--drivers`, `drivers_dir` of the configuration;
//! else beside this program, then in `../libexec/vgemd` as seen from it. All are asked at once and have
//! [`DESCRIBE_END`] to answer. One that is broken is left out with a warning; that none is left is a failure.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use vgem_os::clock;
use vgem_os::process::{Child, Launch, Output};
use vgem_proto::describe::Description;
use vgem_proto::ids::DeviceId;
use vgem_proto::limits;

use super::Stop;
use super::account::{Account, dressed};
use super::family::{end_now, nanos, status};
use super::wishes::Wishes;
use crate::cli::Mode;
use crate::config::Config;
use crate::exit::{Exit, Failure};

/// How a driver's program is called, before the device's name.
const PREFIX: &str = "vgem-driver-";
/// How long a driver may take to describe itself.
const DESCRIBE_END: Duration = Duration::from_secs(2);

/// A driver that works.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    /// The device's name.
    pub(super) name: String,
    /// The program.
    pub(super) program: PathBuf,
    /// The arguments of an instance.
    pub(super) args: Vec<OsString>,
    /// What it says about itself, encoded.
    pub(super) description: Vec<u8>,
}

/// Finds the drivers and numbers their devices from 1 in the order of their names.
pub(super) fn find(
    asked: Option<&Path>,
    config: &Config,
    mode: Mode,
    account: Option<Account>,
    wishes: &Wishes,
) -> Result<BTreeMap<DeviceId, Driver>, Stop> {
    let places = places(asked, config)?;
    let programs =
        places.iter().map(|place| programs(place)).find(|found| !found.is_empty()).unwrap_or_default();
    let mut drivers = BTreeMap::new();
    for (name, program, described) in describe(programs, account, wishes)? {
        match described {
            Ok(description) => {
                let args = args(&name, config, mode);
                let id = DeviceId(u32::try_from(drivers.len() + 1).unwrap_or(u32::MAX));
                drivers.insert(id, Driver { name, program, args, description });
            }
            Err(why) => tracing::warn!("driver {} is left out: {why}", program.display()),
        }
    }
    for name in config.devices.keys().filter(|name| drivers.values().all(|driver| driver.name != **name)) {
        tracing::debug!("devices.{name} is configured, but there is no such driver");
    }
    if drivers.is_empty() {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let text = format!("no working {PREFIX}* in {}; say --drivers DIR", looked.join(" or "));
        return Err(Failure::new(Exit::Unavailable, text).into());
    }
    Ok(drivers)
}

fn places(asked: Option<&Path>, config: &Config) -> Result<Vec<PathBuf>, Failure> {
    if let Some(place) = asked.or(config.drivers_dir.as_deref()) {
        return Ok(vec![place.to_owned()]);
    }
    let exe = std::env::current_exe()
        .map_err(|e| Failure::new(Exit::System, format!("finding this program: {e}; is /proc mounted?")))?;
    let beside = exe.parent().unwrap_or(Path::new("/"));
    let libexec = beside.parent().unwrap_or(Path::new("/")).join("libexec/vgemd");
    Ok(vec![beside.to_owned(), libexec])
}

/// The programs of a folder that are called like a driver, by device name.
fn programs(place: &Path) -> Vec<(String, PathBuf)> {
    let entries = match std::fs::read_dir(place) {
        Ok(entries) => entries,
        Err(e) => {
            tracing::debug!("{}: {e}", place.display());
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let file = entry.file_name();
        // A name with a dot is what a compiler or an editor left beside the program.
        let name =
            file.to_str().and_then(|file| file.strip_prefix(PREFIX)).filter(|name| !name.contains('.'));
        let runs = std::fs::metadata(entry.path())
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
        if let (Some(name), true) = (name, runs) {
            found.push((name.to_owned(), entry.path()));
        }
    }
    found.sort();
    found
}

/// The arguments of an instance.
fn args(name: &str, config: &Config, mode: Mode) -> Vec<OsString> {
    let device = config.devices.get(name).cloned().unwrap_or_default();
    // Whoever serves only itself may open what it may open: the kernel sees to that, so the root needs no
    // narrowing. A daemon for many users opens nothing that nobody allowed.
    let usual = match (name, mode) {
        ("blk", Mode::User | Mode::Embedded(_)) => vec![PathBuf::from("/")],
        _ => Vec::new(),
    };
    let mut args = Vec::new();
    for root in device.roots.unwrap_or(usual) {
        args.push(OsString::from("--root"));
        args.push(root.into_os_string());
    }
    if let Some(executors) = device.executors {
        args.push(OsString::from("--executors"));
        args.push(OsString::from(executors.to_string()));
    }
    args
}

/// A driver that was asked what it is.
#[derive(Debug)]
struct Asked {
    name: String,
    program: PathBuf,
    child: Child,
    stdout: Option<OwnedFd>,
    bytes: Vec<u8>,
    answer: Option<Described>,
}

/// The bytes of a description, or why there are none.
type Described = Result<Vec<u8>, String>;

/// Asks all drivers what they are, at the same time.
fn describe(
    programs: Vec<(String, PathBuf)>,
    account: Option<Account>,
    wishes: &Wishes,
) -> Result<Vec<(String, PathBuf, Described)>, Stop> {
    let deadline = clock::deadline_in(nanos(DESCRIBE_END));
    let mut answers = Vec::new();
    let mut asked = Vec::new();
    for (name, program) in programs {
        match Asked::start(name.clone(), program.clone(), account) {
            Ok(one) => asked.push(one),
            Err(why) => answers.push((name, program, Err(why))),
        }
    }
    let mut waited = Ok(());
    while waited.is_ok() && asked.iter().any(|one| one.answer.is_none()) {
        waited = Asked::wait(&mut asked, deadline, wishes);
    }
    for mut one in asked {
        end_now(&mut one.child);
        let late = || Err(format!("--describe did not end within {} s", DESCRIBE_END.as_secs()));
        answers.push((one.name, one.program, one.answer.unwrap_or_else(late)));
    }
    waited?;
    answers.sort();
    Ok(answers)
}

impl Asked {
    fn start(name: String, program: PathBuf, account: Option<Account>) -> Result<Self, String> {
        let (launched, args) = dressed(account, program.clone(), vec![OsString::from("--describe")])
            .map_err(|e| e.to_string())?;
        let launch = Launch {
            program: launched,
            args,
            env: super::start::environment(),
            stdout: Output::Pipe,
            die_with_parent: true,
            ..Launch::default()
        };
        let mut child = launch.start().map_err(|e| e.to_string())?;
        let stdout = child.take_stdout();
        if let Some(stdout) = &stdout
            && let Err(e) = rustix::io::ioctl_fionbio(stdout, true)
        {
            end_now(&mut child);
            return Err(e.to_string());
        }
        Ok(Self { name, program, child, stdout, bytes: Vec::new(), answer: None })
    }

    /// Waits for the next piece of an answer; at the deadline those that owe one have failed.
    fn wait(asked: &mut [Self], deadline: u64, wishes: &Wishes) -> Result<(), Stop> {
        let owing: Vec<usize> = (0..asked.len()).filter(|n| asked.get(*n).is_some_and(Self::owes)).collect();
        let fds: Vec<_> = owing.iter().filter_map(|n| asked.get(*n).map(Self::fd)).collect();
        let ready = wishes.wait(&fds, Some(deadline))?;
        let late = !ready.contains(&true);
        for (n, ready) in owing.into_iter().zip(ready) {
            let Some(one) = asked.get_mut(n) else { continue };
            if ready {
                one.listen();
            } else if late {
                one.answer = Some(Err(format!("--describe did not end within {} s", DESCRIBE_END.as_secs())));
            }
        }
        Ok(())
    }

    fn owes(&self) -> bool {
        self.answer.is_none()
    }

    /// What becomes readable next: its output, and after that its end.
    fn fd(&self) -> BorrowedFd<'_> {
        self.stdout.as_ref().map_or_else(|| self.child.as_fd(), OwnedFd::as_fd)
    }

    fn listen(&mut self) {
        let Some(stdout) = &self.stdout else {
            self.answer = status(&mut self.child).map(|status| self.judge(status));
            return;
        };
        let mut part = [0; 4096];
        match rustix::io::read(stdout, &mut part) {
            Ok(0) => self.stdout = None,
            Ok(len) => self.bytes.extend_from_slice(part.get(..len).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => self.answer = Some(Err(e.to_string())),
        }
        if self.bytes.len() > limits::DESCRIPTION_LEN {
            self.answer = Some(Err(format!("--describe prints more than {} bytes", limits::DESCRIPTION_LEN)));
        }
    }

    /// What its answer is worth, now that it has ended.
    fn judge(&mut self, status: ExitStatus) -> Described {
        if !status.success() {
            return Err(format!("--describe failed: {status}"));
        }
        let description = Description::decode(&self.bytes)
            .map_err(|e| format!("--describe printed no description: {e}"))?;
        if description.name != self.name {
            return Err(format!("it describes {:?} and is called {:?}", description.name, self.name));
        }
        Ok(std::mem::take(&mut self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Device;

    fn with(name: &str, device: Device) -> Config {
        Config { devices: BTreeMap::from([(name.to_owned(), device)]), ..Config::default() }
    }

    #[test]
    fn only_who_serves_itself_opens_every_path() {
        let none = Config::default();
        assert_eq!(args("blk", &none, Mode::User), ["--root", "/"]);
        assert!(args("blk", &none, Mode::System).is_empty());
        assert!(args("zip", &none, Mode::User).is_empty());
    }

    #[test]
    fn what_is_configured_replaces_what_is_usual() {
        let device = Device { roots: Some(vec!["/a".into(), "/b".into()]), executors: Some(3) };
        let args = args("blk", &with("blk", device), Mode::User);
        assert_eq!(args, ["--root", "/a", "--root", "/b", "--executors", "3"]);
    }

    #[test]
    fn a_driver_is_an_executable_file_without_a_dot_in_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, bits) in [
            ("vgem-driver-b", 0o755),
            ("vgem-driver-a", 0o755),
            ("vgem-driver-c.d", 0o755),
            ("vgem-driver-x", 0o644),
            ("other", 0o755),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).expect("its mode");
        }
        let names: Vec<_> = programs(dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
