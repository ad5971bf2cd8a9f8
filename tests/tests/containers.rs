//! Two containers of one machine, each with a domain of its own: they share what they mean to share, and nothing else.
//!
//! Each has user, pid, mount, network and IPC namespaces of its own (bubblewrap), another user outside, no capability,
//! and of the daemon only the folder with its own domain's socket. `vgemctl domain create --run` makes the domain; the socket
//! is the keeper's, or one that whoever manages the containers has bound itself.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use vgem::Client;
use vgem_os::seqpacket::Socket;
use vgem_tests::daemon::{Daemon, Serving, USERS};
use vgem_tests::programs;

/// Mounts the domain's folder where the container's user can reach it, as a container runtime does, and becomes that user.
const RUNTIME: &str = "{ test \"$VGEM_DOMAIN_DIR\" = \"$0\" || mount --bind \"$VGEM_DOMAIN_DIR\" \"$0\"; } && exec setpriv --reuid \"$1\" --regid \"$1\" \
                       --clear-groups --bounding-set=-all --inh-caps=-all -- \"${@:2}\"";

/// The namespaces of a container, and what it has of the machine: its files, read-only, without what others could share.
const SANDBOX: &[&str] = &[
    "--unshare-user",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--die-with-parent",
    "--cap-drop",
    "ALL",
    "--ro-bind",
    "/",
    "/",
    "--dev",
    "/dev",
    "--proc",
    "/proc",
    "--tmpfs",
    "/tmp",
    "--tmpfs",
    "/run",
];

/// Whose socket a container comes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Keepers,
    /// The manager of the containers has bound it, in a folder of its own.
    Managers,
}

struct Machine {
    daemon: Serving,
    root: Client,
    dir: tempfile::TempDir,
}

/// A container that runs; it ends when its link is dropped.
struct Container {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Machine {
    fn new() -> Self {
        let daemon = Daemon::system().start();
        let root = Client::connect(daemon.socket()).expect("a client");
        let dir = tempfile::Builder::new().prefix("vgem-test-").tempdir().expect("a directory");
        open_to_all(dir.path());
        let program = dir.path().join("program");
        std::fs::copy(programs::own("vgem-test-container"), &program).expect("room for a program");
        open_to_all(&program);
        Self { daemon, root, dir }
    }

    /// Starts a container as this user, in a new domain of this name, that does `what` and shares over `link`.
    fn start(&self, door: Door, name: &str, user: u32, what: &str, link: Socket) -> Container {
        let point = self.dir.path().join(name);
        std::fs::create_dir(&point).expect("a directory of ours");
        let mut command = Command::new(programs::own("vgemctl"));
        command.arg("--socket").arg(self.daemon.socket());
        command.args(["domain", "create", name, "--quota", "bytes=1MiB", "--devices", "copy"]);
        if door == Door::Managers {
            open_to_all(&point);
            command.arg("--listen").arg(point.join("vgemd.sock")).args(["--mode", "666"]);
        }
        command.args(["--run", "--"]);
        command.args(["unshare", "--mount", "bash", "-c", RUNTIME]).arg(&point).arg(user.to_string());
        command.arg("bwrap").args(SANDBOX);
        command.arg("--bind").arg(&point).arg("/run/vgemd");
        command.arg("--ro-bind").arg(self.dir.path().join("program")).arg("/tmp/program");
        command.args(["--setenv", "VGEM_SOCKET", "/run/vgemd/vgemd.sock", "--", "/tmp/program", what]);
        command.stdin(Stdio::from(OwnedFd::from(link))).stdout(Stdio::piped());
        let mut child = command.spawn().expect("vgemctl starts");
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        Container { child, out }
    }

    /// The numbers of domains by socket.
    fn domains(&self) -> Vec<u32> {
        let all = self.root.domain_entries().expect("domains");
        all.into_iter().filter(|domain| domain.origin == "socket").map(|domain| domain.domain).collect()
    }
}

impl Container {
    /// What it says next, which is this.
    fn says(&mut self, what: &str) -> Value {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a pipe");
        let (found, value) = line.split_once(' ').unwrap_or_default();
        assert_eq!(found, what, "the container said {line:?} ({:?})", self.child.try_wait());
        serde_json::from_str(value).expect("JSON")
    }

    /// Waits for its end, which is a good one.
    fn ends(mut self) {
        let status = self.child.wait().expect("a child of ours");
        assert!(status.success(), "{status}");
    }
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("ours");
}

/// What a container has in common with the test: nothing.
fn is_apart(place: &Value) {
    assert_eq!(place["capabilities"], "0000000000000000");
    assert_eq!((&place["shared_files"], &place["networks"]), (&0.into(), &serde_json::json!(["lo"])));
    for (kind, own) in ["user", "pid", "mnt", "net"].iter().zip(place["namespaces"].as_array().expect("four"))
    {
        let ours = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("/proc is mounted");
        assert_ne!(own.as_str(), ours.to_str(), "{kind}");
    }
}

/// What a container sees of the broker is its own domain.
fn sees_itself(sees: &Value, user: u32, objects: u64) {
    assert_eq!(sees["clients"][0]["uid"], user);
    let count = |what: &str| sees[what].as_array().expect("a list").len();
    assert_eq!((count("clients"), count("domains"), count("devices")), (1, 1, 1), "{sees}");
    let domain = &sees["domains"][0]["domain"];
    for what in ["clients", "objects", "queues"] {
        assert!(sees[what].as_array().expect("a list").iter().all(|one| one["domain"] == *domain), "{sees}");
    }
    assert!(
        sees["devices"][0]["instances"].as_array().expect("a list").iter().all(|i| i["domain"] == *domain)
    );
    let counts = (&sees["counts"]["clients"], &sees["counts"]["objects"], &sees["counts"]["jobs"]);
    assert_eq!(counts, (&1.into(), &objects.into(), &0.into()), "{sees}");
}

#[test]
fn two_containers_pass_a_buffer_with_its_fence_and_see_nothing_else_of_each_other() {
    pass_a_buffer_through(Door::Keepers);
}

#[test]
fn two_containers_whose_manager_has_bound_their_sockets_do_the_same() {
    pass_a_buffer_through(Door::Managers);
}

fn pass_a_buffer_through(door: Door) {
    let machine = Machine::new();
    let (a, b) = Socket::pair().expect("a link");
    let mut sender = machine.start(door, "sender", USERS[0], "send", a);
    is_apart(&sender.says("place"));
    let mut receiver = machine.start(door, "receiver", USERS[1], "receive", b);
    is_apart(&receiver.says("place"));
    sender.says("sent");
    let received = receiver.says("received");
    assert_eq!((&received["len"], &received["all_7"]), (&65536.into(), &true.into()));
    let (sent, got) = (sender.says("sees"), receiver.says("sees"));
    sees_itself(&sent, USERS[0], 1);
    sees_itself(&got, USERS[1], 1);
    assert!(!got.to_string().contains("secret of the sender"), "{got}");
    assert_eq!(machine.domains().len(), 2);
    // Each ends when the other end of its link is closed, and that is the other container.
    drop(sender.child.kill());
    sender.child.wait().expect("a child of ours");
    receiver.ends();
    vgem_tests::processes::until(std::time::Duration::from_secs(10), "both domains are gone", || {
        machine.domains().is_empty()
    });
}

#[test]
fn each_container_exhausts_itself_alone() {
    let machine = Machine::new();
    let (ours, link) = Socket::pair().expect("a link");
    let mut greedy = machine.start(Door::Managers, "greedy", USERS[0], "exhaust", link);
    greedy.says("place");
    let exhausted = greedy.says("exhausted");
    assert_eq!(exhausted["buffers"], 16, "{exhausted}");
    let (theirs, link) = Socket::pair().expect("a link");
    let mut other = machine.start(Door::Keepers, "other", USERS[1], "exhaust", link);
    other.says("place");
    assert_eq!(other.says("exhausted")["buffers"], 16);
    sees_itself(&other.says("sees"), USERS[1], 16);
    sees_itself(&greedy.says("sees"), USERS[0], 16);
    machine.root.create(1 << 20).expect("root has a domain of its own");
    drop((ours, theirs));
    greedy.ends();
    other.ends();
    vgem_tests::processes::until(std::time::Duration::from_secs(10), "all of it is given back", || {
        machine.root.status().expect("a status").objects == 0 && machine.domains().is_empty()
    });
}
