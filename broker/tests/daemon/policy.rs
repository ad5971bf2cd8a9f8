//! The configuration as the daemon minds it: what is wrong is said, what may not be used is not there, and another policy
//! comes into force under those who are connected.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::DeviceId;
use vgem_proto::message::client::{ClientMessage, ListDevices, OpenQueue};
use vgem_proto::snapshot::Event;

use crate::common::{Client, Daemon, creation, drivers, outcome, signal};
use crate::events::{monitor, next_of};
use crate::text;

struct Configured {
    daemon: Daemon,
    file: PathBuf,
}

/// A daemon with a file that says this.
fn configured(said: &str) -> Configured {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("v.toml");
    std::fs::write(&file, said).expect("a file");
    Configured { daemon: Daemon::start_in(dir, &drivers(), &["--config", text(&file)]), file }
}

impl Configured {
    /// Says something else, and waits until that is so for all who are told of events.
    fn says(&self, said: &str, monitor: &Client) {
        std::fs::write(&self.file, said).expect("a file");
        signal(self.daemon.child.id(), "HUP");
        next_of(monitor, |event| matches!(event, Event::PolicyChanged { .. }).then_some(()));
    }
}

fn devices(client: &mut Client) -> Vec<u8> {
    match client.ask(&ListDevices {}.into()).0 {
        ClientMessage::Devices(devices) => devices.names,
        other => panic!("{other:?}"),
    }
}

fn check(said: &str) -> (i32, String) {
    let dir: TempDir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("v.toml");
    std::fs::write(&file, said).expect("a file");
    let (code, said) = outcome(&["--check-config", "--config", text(&file), "--drivers", text(&drivers())]);
    (code, said.replace(text(&file), "v.toml"))
}

#[test]
fn everything_that_is_wrong_is_said_with_file_line_and_key() {
    let (code, said) = check(
        "[quota]\nbytes = 1\n[domains.a]\nusers = [\"no-such-user\"]\n[times]\nimport_ms = 1\n\
         [observers]\nuids = [-1]\nusers = [\"no-such-user\"]\n",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((code, lines.len()), (78, 5), "{said}");
    assert!(lines[0].starts_with("vgemd: v.toml: line 2: quota.bytes: unknown field"), "{said}");
    assert_eq!(lines[1], "v.toml: line 6: times.import_ms: must be from 10 to 60000");
    assert!(lines[2].starts_with("v.toml: line 8: observers.uids: invalid value"), "{said}");
    assert_eq!(lines[3], "v.toml: line 4: domains.a.users: there is no user no-such-user");
    assert_eq!(lines[4], "v.toml: line 9: observers.users: there is no user no-such-user");
}

#[test]
fn devices_and_operations_that_there_are_not_are_wrong_when_looked_for() {
    let (code, said) =
        check("[defaults]\ndevices = [\"fake\", \"zpi\"]\n[defaults.operations]\nfake = [\"x\"]\n");
    assert_eq!(code, 78);
    assert!(said.contains("v.toml: line 2: defaults.devices: there is no device zpi"), "{said}");
    assert!(
        said.contains("v.toml: line 4: defaults.operations.fake: device fake has no operation x"),
        "{said}"
    );
    assert_eq!(check("[defaults]\ndevices = [\"fake\"]\n").0, 0);
}

// M-191
#[test]
fn a_device_that_nobody_may_use_is_not_there_until_the_configuration_says_so() {
    let c = configured("[defaults]\ndevices = []\n");
    let mut client = c.daemon.client();
    let monitor = monitor(&c.daemon);
    assert_eq!(devices(&mut client), b"");
    let open = OpenQueue { device: DeviceId(1), depth: 0, priority: 0, reserved: Zero };
    let (answer, _) = client.ask(&open.into());
    assert!(matches!(answer, ClientMessage::Refused(r) if r.code == ErrorCode::Denied));
    c.says("", &monitor);
    assert_eq!(devices(&mut client), b"fake");
    client.open_queue();
}

#[test]
fn a_configuration_that_is_read_again_keeps_connections_and_lowers_quotas() {
    let c = configured("");
    let (mut client, monitor) = (c.daemon.client(), monitor(&c.daemon));
    let queue = client.open_queue();
    let _held = client.ready(8192);
    c.says("[quota]\nobjects = 1\n", &monitor);
    let (answer, _) = client.ask(&creation(4096).into());
    assert!(matches!(answer, ClientMessage::Refused(r) if (r.value, r.limit) == (2, 1)));
    client.submit(&queue, 1, 0);
    queue.wait(1);
}

#[test]
fn a_wrong_configuration_that_is_read_again_changes_nothing() {
    let c = configured("");
    let (mut client, monitor) = (c.daemon.client(), monitor(&c.daemon));
    std::fs::write(&c.file, "[defaults]\ndevices = []\nnonsense = 1\n").expect("a file");
    signal(c.daemon.child.id(), "HUP");
    // The next one is in force, and nothing of the wrong one.
    c.says("[quota]\nobjects = 9\n", &monitor);
    assert_eq!(devices(&mut client), b"fake");
}

#[test]
fn users_of_a_domain_share_its_quotas() {
    let uid = rustix::process::geteuid().as_raw();
    let c = configured(&format!("[domains.mine]\nuids = [{uid}]\nquota = {{ objects = 1 }}\n"));
    let mut client = c.daemon.client();
    let _held = client.ready(4096);
    let (answer, _) = c.daemon.client().ask(&creation(4096).into());
    assert!(matches!(answer, ClientMessage::Refused(r) if (r.value, r.limit) == (2, 1)));
}

/// The control group of this process, a new one if the machine lets us make one; left and removed on drop.
struct Group {
    path: String,
    /// The folders of the new group, and of the one before.
    folders: Option<[PathBuf; 2]>,
}

impl Group {
    fn enter() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").expect("it is there");
        let own = groups.lines().find_map(|line| line.strip_prefix("0::")).expect("groups of version 2");
        let name = format!("vgem-test-{}", std::process::id());
        let new = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].iter().find_map(|root| {
            let before = Path::new(root).join(own.trim_start_matches('/'));
            let new = before.join(&name);
            std::fs::create_dir(&new).ok()?;
            // A folder that is no group has no such file.
            let is_group = new.join("cgroup.controllers").exists();
            if !is_group || std::fs::write(new.join("cgroup.procs"), "0").is_err() {
                std::fs::remove_dir(&new).expect("it is ours");
                return None;
            }
            Some([new, before])
        });
        let path = match &new {
            Some(_) => format!("{}/{name}", own.trim_end_matches('/')),
            None => own.to_owned(),
        };
        Self { path, folders: new }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some([new, before]) = &self.folders {
            let left = std::fs::write(before.join("cgroup.procs"), "0");
            drop(left.and_then(|()| std::fs::remove_dir(new)));
        }
    }
}

/// Whether clients of this process share a quota of one object.
fn share_one(daemon: &Daemon) -> bool {
    let mut client = daemon.client();
    let _held = client.ready(4096);
    let (answer, _) = daemon.client().ask(&creation(4096).into());
    matches!(answer, ClientMessage::Refused(r) if (r.value, r.limit) == (2, 1))
}

#[test]
fn every_process_is_in_the_domain_of_the_root_of_control_groups() {
    let uid = rustix::process::geteuid().as_raw();
    let c = configured(&format!(
        "[domains.all]\ncgroups = [\"/\"]\nquota = {{ objects = 1 }}\n[domains.user]\nuids = [{uid}]\n"
    ));
    assert!(share_one(&c.daemon));
}

#[test]
fn processes_below_a_control_group_are_in_its_domain_as_long_as_the_configuration_says_so() {
    // The daemon stays where it is when this process enters.
    let c = configured("");
    let group = Group::enter();
    let monitor = monitor(&c.daemon);
    assert!(!share_one(&c.daemon));
    c.says(&format!("[domains.few]\ncgroups = [{:?}]\nquota = {{ objects = 1 }}\n", group.path), &monitor);
    assert!(share_one(&c.daemon));
    let elsewhere = format!("{}/below", group.path.trim_end_matches('/'));
    c.says(&format!("[domains.few]\ncgroups = [{elsewhere:?}]\nquota = {{ objects = 1 }}\n"), &monitor);
    assert!(!share_one(&c.daemon));
}
