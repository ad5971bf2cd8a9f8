//! A daemon that serves the machine, in a directory of its own: broker and drivers under their own accounts.
//!
//! The accounts are made for the daemon alone, by a /etc/passwd that only its mount namespace has; the machine stays
//! as it is. Needs root, and says so.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use vgem_os::seqpacket::Socket;

use crate::{processes, programs};

/// The account of the broker.
pub const BROKER_UID: u32 = 64_101;
/// The account of drivers and porters.
pub const DRIVER_UID: u32 = 64_102;
/// The account of control.
pub const CONTROL_UID: u32 = 64_103;
/// Two users that nothing else on a machine is.
pub const USERS: [u32; 2] = [64_201, 64_202];

const PROGRAMS: [&str; 5] =
    ["vgemd", "vgem-control", "vgem-driver-copy", "vgem-driver-zip", "vgem-driver-sec"];

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct Daemon {
    config: String,
    cgroup: Option<PathBuf>,
    env: Vec<(String, String)>,
    installed: Option<Installed>,
}

/// Where programs, accounts and the daemon's directory are, if not in a directory made for the daemon.
#[derive(Debug, Clone)]
struct Installed {
    programs: PathBuf,
    passwd: PathBuf,
    place: PathBuf,
}

/// A daemon that serves; ended on drop.
#[derive(Debug)]
pub struct Serving {
    child: Child,
    place: PathBuf,
    // Removed when it has ended.
    dir: tempfile::TempDir,
}

impl Daemon {
    /// With the usual configuration.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// With this configuration, TOML.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        text.clone_into(&mut self.config);
        self
    }

    /// With this variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The one that was installed: the folder of its programs, the accounts, and its directory.
    #[must_use]
    pub fn installed(mut self, programs: &Path, passwd: &Path, place: &Path) -> Self {
        let [programs, passwd, place] = [programs, passwd, place].map(Path::to_owned);
        self.installed = Some(Installed { programs, passwd, place });
        self
    }

    /// In the control group of this `cgroup.procs`, with all its children.
    #[must_use]
    pub fn cgroup(mut self, procs: &Path) -> Self {
        self.cgroup = Some(procs.to_owned());
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    /// Without root, or if it does not serve within ten seconds.
    #[must_use]
    pub fn start(self) -> Serving {
        assert!(
            rustix::process::geteuid().is_root(),
            "a daemon with accounts of its own needs root: run the tests as root"
        );
        let dir = tempfile::Builder::new().prefix("vgem-test-").tempdir().expect("a directory");
        open_to_all(dir.path());
        let Installed { programs: bin, passwd, place } =
            self.installed.unwrap_or_else(|| Installed::in_this(dir.path()));
        let config = dir.path().join("vgemd.toml");
        std::fs::write(&config, &self.config).expect("a file of ours");

        let mut command = Command::new(programs::own("vgem-test-machine"));
        command.envs(self.env).arg("--passwd").arg(&passwd);
        if let Some(procs) = &self.cgroup {
            command.arg("--cgroup").arg(procs);
        }
        command.arg("--").arg(bin.join("vgemd")).args(["--system", "--log", "warn", "--dir"]).arg(&place);
        command.arg("--config").arg(&config);
        let mut serving = Serving { child: command.spawn().expect("it starts"), place, dir };
        processes::until(Duration::from_secs(10), "the daemon serves", || {
            let ended = serving.child.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "the daemon ended: {ended:?}");
            Socket::connect(serving.socket()).is_ok()
        });
        serving
    }
}

impl Installed {
    /// The programs that were built, the machine's accounts and those of the daemon.
    fn in_this(dir: &Path) -> Self {
        let (programs, passwd) = (dir.join("bin"), dir.join("passwd"));
        std::fs::create_dir(&programs).expect("a directory of ours");
        open_to_all(&programs);
        for name in PROGRAMS {
            let (from, to) = (programs::own(name), programs.join(name));
            if std::fs::hard_link(&from, &to).is_err() {
                std::fs::copy(&from, &to).expect("room for a program");
            }
        }
        std::fs::write(&passwd, accounts()).expect("a file of ours");
        Self { programs, passwd, place: dir.join("run") }
    }
}

impl Serving {
    /// Where it serves.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.place.join("vgemd.sock")
    }

    /// Gives it another configuration, TOML, and has it read that, which it does soon.
    ///
    /// # Panics
    /// If it is gone.
    pub fn says(&self, config: &str) {
        std::fs::write(self.dir.path().join("vgemd.toml"), config).expect("a file of ours");
        processes::signal(self.pid(), "HUP");
    }

    /// The keeper's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let pid = self.child.id();
        if processes::is_alive(pid) {
            processes::signal(pid, "TERM");
            let end = std::time::Instant::now() + Duration::from_secs(5);
            while processes::is_alive(pid) && std::time::Instant::now() < end {
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
        // Ended, or too late for an orderly end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn open_to_all(dir: &Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("a directory of ours");
}

/// The machine's accounts with those of the daemon, and the users.
pub(crate) fn accounts() -> String {
    let machine = std::fs::read_to_string("/etc/passwd").expect("it is on every Linux");
    let mut text: String = machine
        .lines()
        .filter(|line| !["vgemd:", "vgemd-driver:", "vgemd-control:"].iter().any(|own| line.starts_with(own)))
        .flat_map(|line| [line, "\n"])
        .collect();
    let daemons = [("vgemd", BROKER_UID), ("vgemd-driver", DRIVER_UID), ("vgemd-control", CONTROL_UID)];
    let users = [("vgem-test-a", USERS[0]), ("vgem-test-b", USERS[1])];
    for (name, uid) in daemons.into_iter().chain(users) {
        text.push_str(&format!("{name}:x:{uid}:{uid}::/:/bin/false\n"));
    }
    text
}
