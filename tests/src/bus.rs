//! A bus of one's own, the daemon on it, and callers that nobody here wrote: busctl, gdbus, Python.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use vgem_os::seqpacket::Socket;

use crate::{processes, programs};

/// How long what must come soon is waited for.
pub const SOON: Duration = Duration::from_secs(20);
/// The name on the bus, the path of the manager, its interface.
pub const NAME: &str = "org.vgemd.Broker1";
/// The path of the manager.
pub const PATH: &str = "/org/vgemd/Broker1";
/// The interface of the manager.
pub const MANAGER: &str = "org.vgemd.Broker1.Manager";

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=PLACE</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// As the system's bus: nothing but what a policy allows.
const STRICT: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=PLACE</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
</busconfig>
"#;

/// A private bus that every user may use; ended on drop.
#[derive(Debug)]
pub struct Bus {
    dir: tempfile::TempDir,
    passwd: Option<PathBuf>,
    child: Option<Child>,
}

impl Bus {
    /// Starts one.
    ///
    /// # Panics
    /// If there is no dbus-daemon, or it does not listen soon.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts one that knows the accounts of [`crate::daemon`]: a bus lets nobody in whose user has no name.
    ///
    /// # Panics
    /// As [`Bus::start`], and without root.
    #[must_use]
    pub fn of_everybody() -> Self {
        assert!(rustix::process::geteuid().is_root(), "a bus with accounts of its own needs root");
        Self::start_with(Some(crate::daemon::accounts()))
    }

    /// Starts one with these accounts that lets nobody own and call but by the policies in a folder, as the system's bus does.
    ///
    /// # Panics
    /// As [`Bus::start`], and without root.
    #[must_use]
    pub fn of_the_machine(accounts: String, policies: &Path) -> Self {
        let include = format!("<includedir>{}</includedir>\n</busconfig>", policies.display());
        Self::begun(Some(accounts), &STRICT.replace("</busconfig>", &include))
    }

    fn start_with(accounts: Option<String>) -> Self {
        Self::begun(accounts, CONFIG)
    }

    fn begun(accounts: Option<String>, config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("vgem-bus-").tempdir().expect("a directory");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("a directory of ours");
        let passwd = accounts.map(|text| {
            let passwd = dir.path().join("passwd");
            std::fs::write(&passwd, text).expect("a file of ours");
            passwd
        });
        let mut bus = Self { dir, passwd, child: None };
        let text = config.replace("PLACE", &bus.place().display().to_string());
        std::fs::write(bus.dir.path().join("bus.conf"), text).expect("a file of ours");
        bus.begin();
        bus
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix:path={}", self.place().display())
    }

    /// Starts it again at the same place.
    ///
    /// # Panics
    /// As [`Bus::start`].
    pub fn begin(&mut self) {
        let config = self.dir.path().join("bus.conf");
        let mut command = match &self.passwd {
            None => Command::new("dbus-daemon"),
            Some(passwd) => {
                let mut machine = Command::new(programs::own("vgem-test-machine"));
                machine.arg("--passwd").arg(passwd).args(["--", "dbus-daemon"]);
                machine
            }
        };
        command.arg("--nofork").arg("--nopidfile").arg("--config-file").arg(config).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("dbus-daemon is installed; `cargo xtask test` does it"));
        let place = self.place();
        processes::until(SOON, "the bus listens", || std::os::unix::net::UnixStream::connect(&place).is_ok());
    }

    /// Ends it.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a child of ours");
            child.wait().expect("a child of ours");
        }
        drop(std::fs::remove_file(self.place()));
    }

    /// Waits until control is there.
    ///
    /// # Panics
    /// If it does not come soon.
    pub fn awaits_control(&self) {
        processes::until(SOON, "control is on the bus", || self.busctl(&["status", NAME]).status.success());
    }

    /// busctl with these arguments.
    #[must_use]
    pub fn busctl(&self, args: &[&str]) -> Output {
        let address = format!("--address={}", self.address());
        programs::run("busctl", [&[address.as_str(), "--no-pager"], args].concat())
    }

    /// The same as this user.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn busctl_as(&self, uid: u32, args: &[&str]) -> Output {
        let mut busctl = Command::new("busctl");
        busctl.arg(format!("--address={}", self.address())).arg("--no-pager").args(args).uid(uid).gid(uid);
        busctl.output().expect("busctl is installed; another user needs root")
    }

    /// gdbus calls a method of the manager with these arguments.
    #[must_use]
    pub fn gdbus(&self, method: &str, args: &[&str]) -> Output {
        let (address, method) = (self.address(), format!("{MANAGER}.{method}"));
        let call =
            ["call", "--address", &address, "--dest", NAME, "--object-path", PATH, "--method", &method];
        programs::run("gdbus", [call.as_slice(), args].concat())
    }

    /// What the Python program of the tests says of itself when it does `what`, as this user if one is given.
    ///
    /// # Panics
    /// Without Python and its stock package; another user without root.
    #[must_use]
    pub fn python(&self, what: &str, uid: Option<u32>) -> Output {
        python_at(&self.address(), what, uid)
    }

    fn place(&self) -> PathBuf {
        self.dir.path().join("bus")
    }
}

/// The same on the bus, or for the peer, at this address.
///
/// # Panics
/// As [`Bus::python`].
#[must_use]
pub fn python_at(address: &str, what: &str, uid: Option<u32>) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/caller.py");
    let text = std::fs::read_to_string(script).expect("it is beside this file");
    let mut command = Command::new(python());
    // From its text: another user may not read where it is.
    command.args(["-B", "-"]).arg(address).arg(what);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir("/");
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let mut child = command.spawn().expect("python3 starts; another user needs root");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("a child of ours")
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.end();
    }
}

/// A Python that has the stock package for D-Bus.
fn python() -> PathBuf {
    let mut candidates = [programs::python(), "python3".into(), "/usr/bin/python3".into()].into_iter();
    let has = |python: &PathBuf| {
        let mut probe = Command::new(python);
        probe.args(["-c", "import dbus"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    candidates.find(has).expect("a python3 with python3-dbus; `cargo xtask test` installs it")
}

/// A daemon for this user, with control on a bus; ended on drop.
#[derive(Debug)]
pub struct OnBus {
    dir: tempfile::TempDir,
    child: Child,
}

impl OnBus {
    /// Starts it, with the programs of `drivers`, and waits until it serves; control comes when it comes.
    ///
    /// # Panics
    /// If it does not serve soon.
    #[must_use]
    pub fn start(bus: &Bus, drivers: &Path) -> Self {
        Self::start_with(bus, drivers, "")
    }

    /// Starts it with all its programs, this configuration and these variables.
    ///
    /// # Panics
    /// If it does not serve soon.
    #[must_use]
    pub fn with(config: &str, env: &[(&str, &str)]) -> Self {
        let programs = programs::own("vgemd");
        Self::start_as(programs.parent().expect("a folder"), config, env)
    }

    fn start_with(bus: &Bus, drivers: &Path, more: &str) -> Self {
        Self::start_as(drivers, &format!("[control]\nbus = \"{}\"\n{more}", bus.address()), &[])
    }

    fn start_as(drivers: &Path, text: &str, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("vgem-onbus-").tempdir().expect("a directory");
        let config = dir.path().join("vgemd.toml");
        std::fs::write(&config, text).expect("a file of ours");
        let mut command = Command::new(programs::own("vgemd"));
        command.envs(env.iter().copied()).args(["--user", "--log", "warn", "--drivers"]).arg(drivers);
        command.arg("--dir").arg(dir.path().join("d")).arg("--config").arg(config).stdin(Stdio::null());
        let daemon = Self { child: command.spawn().expect("it starts"), dir };
        processes::until(SOON, "the daemon serves", || Socket::connect(daemon.socket()).is_ok());
        daemon
    }

    /// Starts it with all its programs, and waits until control is on the bus.
    ///
    /// # Panics
    /// If that does not happen soon.
    #[must_use]
    pub fn with_control(bus: &Bus) -> Self {
        Self::configured(bus, "")
    }

    /// The same, with more in its configuration.
    ///
    /// # Panics
    /// As there.
    #[must_use]
    pub fn configured(bus: &Bus, more: &str) -> Self {
        let programs = programs::own("vgemd");
        let daemon = Self::start_with(bus, programs.parent().expect("a folder"), more);
        bus.awaits_control();
        daemon
    }

    /// Where it serves.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("d/vgemd.sock")
    }

    /// The keeper's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the broker says of control.
    ///
    /// # Panics
    /// If it says nothing.
    #[must_use]
    pub fn says_of_control(&self) -> String {
        let client = vgem::Client::connect(self.socket()).expect("it serves");
        let features = client.status().expect("it answers").features;
        let said = features.iter().find_map(|line| line.strip_prefix("control: "));
        said.expect("a line about control").to_owned()
    }
}

impl Drop for OnBus {
    fn drop(&mut self) {
        processes::signal(self.child.id(), "TERM");
        drop(self.child.wait());
    }
}
