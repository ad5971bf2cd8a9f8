//! A daemon of one's own, and a client that speaks the protocol by hand.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use tempfile::TempDir;
use vgem_os::clock;
use vgem_os::fence::{ObserverFace, ObserverFds, PointState, Slot};
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::ids::{CauseId, DeviceId, Handle, Point, QueueHandle, Time};
use vgem_proto::jobs::{ClientJob, ClientOperand};
use vgem_proto::limits;
use vgem_proto::message::client::{
    ClientMessage, Commit, CreateObject, Explain, Export, Hello, Import, Imported, Inspect, OpenPorter,
    OpenQueue, QueueOpened, Refused, Submit,
};
use vgem_proto::message::porter::Hand;
use vgem_proto::message::{SUBMIT_REPLY, Sender};
use vgem_proto::rights::{Access, HugePages};
use vgem_proto::snapshot::{Status, Topic};

/// How long a test waits for what must come soon, nanoseconds.
pub(crate) const SOON: u64 = 10_000_000_000;

/// The program, not yet started.
pub(crate) fn vgemd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vgemd"));
    command.stdin(Stdio::null()).env_remove("VGEMD_LOG").env_remove("NOTIFY_SOCKET");
    command
}

/// Where the driver of the tests is.
pub(crate) fn drivers() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_vgemd")).parent().expect("a folder").join("examples")
}

/// Runs the program with these arguments to its end, below an empty directory.
pub(crate) fn outcome(args: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = vgemd().args(args).output().expect("vgemd starts");
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&stderr).into_owned())
}

/// An embedded daemon. Dropping it lets go of its lifeline.
pub(crate) struct Daemon {
    pub(crate) dir: TempDir,
    pub(crate) child: Child,
    lifeline: Option<UnixStream>,
}

impl Daemon {
    /// Starts one and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), &drivers(), &[])
    }

    /// The same, in `DIR/d` of this directory, with these drivers and more arguments.
    pub(crate) fn start_in(dir: TempDir, drivers: &Path, args: &[&str]) -> Self {
        Self::start_with(dir, drivers, args, Stdio::inherit())
    }

    /// The same, with its standard error in a file.
    pub(crate) fn start_logging(file: File, args: &[&str]) -> Self {
        Self::start_with(tempfile::tempdir().expect("a directory"), &drivers(), args, Stdio::from(file))
    }

    fn start_with(dir: TempDir, drivers: &Path, args: &[&str], stderr: Stdio) -> Self {
        let (ours, theirs) = UnixStream::pair().expect("a lifeline");
        let mut child = vgemd();
        child.arg("--embedded").arg("3").arg("--dir").arg(dir.path().join("d"));
        child.arg("--drivers").arg(drivers).args(args);
        let child = pass(&child, theirs, stderr);
        let mut daemon = Self { dir, child, lifeline: Some(ours) };
        let mut said = [0; 6];
        let lifeline = daemon.lifeline.as_mut().expect("held until drop");
        lifeline.read_exact(&mut said).expect("the daemon serves");
        assert_eq!(&said, b"ready\n");
        daemon
    }

    /// The directory it serves in.
    pub(crate) fn place(&self) -> PathBuf {
        self.dir.path().join("d")
    }

    /// A client that was greeted.
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(&self.place());
        client.greet();
        client
    }

    /// Its children: the broker first.
    pub(crate) fn children(&self) -> Vec<u32> {
        children(self.child.id())
    }

    /// The child whose command line has this word.
    pub(crate) fn child_called(&self, word: &str) -> u32 {
        let called = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
        };
        // The kernel's list may lack one while others come and go.
        let mut found = None;
        until(&format!("a child called {word}"), || {
            found = self.children().into_iter().find(called);
            found.is_some()
        });
        found.expect("looked for until it was there")
    }

    /// Lets go of the lifeline, as the death of its holder does, and waits for the end.
    pub(crate) fn hang_up(&mut self) -> ExitStatus {
        self.lifeline = None;
        self.child.wait().expect("it was not waited for")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// Starts a command with this socket as fd 3, and this standard error.
fn pass(command: &Command, socket: UnixStream, stderr: Stdio) -> Child {
    // A shell moves it there: there is no safe call that does it between fork and exec.
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "exec \"$@\" 3>&1 >/dev/null", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.env_remove("VGEMD_LOG").stdin(Stdio::null()).stdout(OwnedFd::from(socket)).stderr(stderr);
    shell.spawn().expect("vgemd starts")
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Sends a process a signal by name.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("/bin/kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.expect("kill starts").success());
}

/// Whether a process is there and is no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// A client.
pub(crate) struct Client {
    pub(crate) socket: Socket,
    pub(crate) request: u64,
}

/// A queue with the page its points are seen in.
pub(crate) struct Queue {
    pub(crate) handle: QueueHandle,
    pub(crate) opened: QueueOpened,
    pub(crate) page: ObserverFace,
}

impl Client {
    /// Connects to the daemon that serves in this directory.
    pub(crate) fn connect(place: &Path) -> Self {
        let socket = Socket::connect(place.join("vgemd.sock")).expect("the daemon listens");
        socket.set_recv_timeout(Some(Duration::from_nanos(SOON))).expect("a socket of ours");
        Self { socket, request: 0 }
    }

    /// Says hello.
    pub(crate) fn greet(&mut self) -> ClientMessage {
        let name = b"test".to_vec();
        self.ask(&Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name }.into()).0
    }

    /// Says hello; false if the daemon closed the connection.
    pub(crate) fn try_greet(&mut self) -> bool {
        let hello = Hello { version_min: 1, version_max: 1, reserved: Zero, features: 0, name: vec![] };
        self.request += 1;
        let mut buffer = [0; 256];
        // It may be closed before the greeting is sent.
        self.socket.send(&hello.encode(self.request, Time(0), 0), &[]).is_ok()
            && matches!(self.socket.recv_plain(&mut buffer), Ok(Packet::Data { .. }))
    }

    /// Sends a request and receives its answer.
    pub(crate) fn ask(&mut self, message: &ClientMessage) -> (ClientMessage, Vec<OwnedFd>) {
        self.request += 1;
        let deadline = Time(clock::deadline_in(SOON));
        self.socket.send(&message.encode(self.request, deadline, 0), &[]).expect("room");
        self.answer()
    }

    /// Sends a request that is answered only if it is refused.
    pub(crate) fn post(&mut self, message: &ClientMessage) {
        self.request += 1;
        self.socket.send(&message.encode(self.request, Time(0), 0), &[]).expect("room");
    }

    /// What is behind a cause, in words.
    pub(crate) fn explain(&mut self, cause: u64) -> String {
        match self.ask(&Explain { cause: CauseId(cause) }.into()).0 {
            ClientMessage::Explained(explained) => String::from_utf8(explained.text).expect("UTF-8"),
            other => panic!("{other:?}"),
        }
    }

    /// Receives a message.
    pub(crate) fn answer(&self) -> (ClientMessage, Vec<OwnedFd>) {
        let mut buffer = vec![0; limits::MESSAGE_LEN];
        let mut fds = Vec::new();
        let Packet::Data { len } = self.socket.recv(&mut buffer, &mut fds).expect("an answer") else {
            panic!("the connection was closed");
        };
        let (_, message) =
            ClientMessage::decode(&buffer[..len], Sender::Broker, fds.len()).expect("a right answer");
        (message, fds)
    }

    /// Opens a queue on the device of the tests.
    pub(crate) fn open_queue(&mut self) -> Queue {
        let open = OpenQueue { device: DeviceId(1), depth: 0, priority: 0, reserved: Zero };
        let (answer, fds) = self.ask(&open.into());
        let ClientMessage::QueueOpened(opened) = answer else { panic!("no queue: {answer:?}") };
        let [page, interest] = <[OwnedFd; 2]>::try_from(fds).expect("the first queue brings its page");
        let page = ObserverFace::map(ObserverFds { page, interest }).expect("a fence page");
        Queue { handle: opened.queue, opened, page }
    }

    /// Submits a job that is never done with an object it writes.
    pub(crate) fn hold(&mut self, queue: &Queue, point: u64, object: Handle, len: u64) {
        self.request += 1;
        let operand = ClientOperand {
            object,
            offset: 0,
            len,
            cell_object: Handle(0),
            cell_offset: 0,
            number: 0,
            cell_word: 0,
            access: Access::Write,
            flags: 0,
            reserved: Zero,
        };
        let jobs = vec![ClientJob { operands: 1, ..job(queue.handle, point, 3) }];
        let (operands, params, waits, bytes) = (vec![operand], vec![], vec![], vec![]);
        let submit = Submit { jobs, operands, params, waits, bytes };
        let (request, flag) = (self.request, SUBMIT_REPLY);
        self.socket.send(&submit.encode(request, Time(0), flag), &[]).expect("room");
        let (answer, _) = self.answer();
        assert!(matches!(answer, ClientMessage::Accepted(_)), "{answer:?}");
    }

    /// Submits one job, without asking for an answer.
    pub(crate) fn submit(&mut self, queue: &Queue, point: u64, op: u16) {
        self.request += 1;
        let jobs = vec![job(queue.handle, point, op)];
        let submit = Submit { jobs, operands: vec![], params: vec![], waits: vec![], bytes: vec![] };
        self.socket.send(&submit.encode(self.request, Time(0), 0), &[]).expect("room");
    }
}

impl Queue {
    /// Sleeps until a point is signalled.
    pub(crate) fn wait(&self, point: u64) -> PointState {
        let slot = Slot::new(self.opened.slot).expect("a slot");
        let deadline = clock::deadline_in(SOON);
        loop {
            let seen = self.page.doorbell();
            self.page.set_interest(slot, point);
            let state = self.page.state(slot, self.opened.timeline.generation, point);
            if state != PointState::Pending || clock::now() > deadline {
                return state;
            }
            self.page.sleep(seen, deadline).expect("a futex");
        }
    }
}

fn job(queue: QueueHandle, point: u64, op: u16) -> ClientJob {
    ClientJob {
        queue,
        point: Point(point),
        run_ns: 0,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op,
        flags: 0,
        operands: 0,
        params: 0,
        waits: 0,
        reserved: Zero,
    }
}

/// Writes an executable script.
pub(crate) fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = File::create(path).expect("a file");
    file.write_all(text.as_bytes()).expect("room");
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("its mode");
}

/// What asks for one object of so many bytes.
pub(crate) fn creation(len: u64) -> CreateObject {
    let (huge, writer) = (HugePages::Never, DeviceId(0));
    CreateObject { len, writer, count: 0, huge, reserved: Zero, name: b"of a test".to_vec() }
}

/// The broker's state as a whole.
pub(crate) fn status(client: &mut Client) -> Status {
    let inspect = Inspect { cursor: 0, topic: Topic::Status, reserved: Zero };
    let (answer, _) = client.ask(&inspect.into());
    let ClientMessage::Page(page) = answer else { panic!("{answer:?}") };
    let [status] = serde_json::from_slice::<[Status; 1]>(&page.json).expect("one status");
    status
}

/// Files the broker has open.
pub(crate) fn open_files(daemon: &Daemon) -> usize {
    let dir = format!("/proc/{}/fd", daemon.child_called("broker"));
    std::fs::read_dir(dir).expect("the broker lives").count()
}

/// Looks again and again until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = clock::deadline_in(SOON);
    while !is_so() {
        assert!(clock::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// A configuration file in a directory.
pub(crate) fn configured(dir: &TempDir, text: &str) -> PathBuf {
    let file = dir.path().join("v.toml");
    std::fs::write(&file, text).expect("a file");
    file
}

/// Memory of a client's own, all holes.
pub(crate) fn memfd(len: u64) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING);
    let fd = rustix::fs::memfd_create("foreign", flags).expect("memory");
    rustix::fs::ftruncate(&fd, len).expect("its length");
    fd
}

/// Makes every page of an object be there.
pub(crate) fn populate(fd: &OwnedFd, len: usize) {
    drop(Mapping::map(fd.as_fd(), len, Access::Write, Populate::Now).expect("a mapping"));
}

/// The inode behind an fd.
pub(crate) fn inode(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).expect("stat").st_ino
}

impl Client {
    /// Makes an object and its pages.
    pub(crate) fn create(&mut self, len: u32) -> (Handle, OwnedFd) {
        let (answer, mut fds) = self.ask(&creation(len.into()).into());
        let ClientMessage::ObjectCreated(created) = answer else { panic!("{answer:?}") };
        let fd = fds.pop().expect("its fd");
        populate(&fd, len as usize);
        (created.objects[0], fd)
    }

    /// Makes an object that is ready.
    pub(crate) fn ready(&mut self, len: u32) -> (Handle, OwnedFd) {
        let (object, fd) = self.create(len);
        let (answer, _) = self.ask(&Commit { objects: vec![object] }.into());
        assert!(matches!(answer, ClientMessage::Committed(_)), "{answer:?}");
        (object, fd)
    }

    /// An fd of an object.
    pub(crate) fn export(&mut self, object: Handle, access: Access) -> OwnedFd {
        let (answer, mut fds) = self.ask(&Export { object, access, reserved: Zero }.into());
        assert!(matches!(answer, ClientMessage::Exported(_)), "{answer:?}");
        fds.pop().expect("its fd")
    }

    /// The channel to a porter.
    pub(crate) fn porter(&mut self) -> Socket {
        let (answer, mut fds) = self.ask(&OpenPorter {}.into());
        assert!(matches!(answer, ClientMessage::PorterOpened(_)), "{answer:?}");
        Socket::from(fds.pop().expect("the channel"))
    }

    /// Asks for an import whose fd is not handed over yet.
    pub(crate) fn ask_import(&mut self) -> u64 {
        self.request += 1;
        let import = Import { name: b"of a test".to_vec() };
        self.socket.send(&import.encode(self.request, Time(0), 0), &[]).expect("room");
        self.request
    }

    /// Imports an fd.
    pub(crate) fn import(&mut self, channel: &Socket, fd: &OwnedFd) -> ClientMessage {
        let request = self.ask_import();
        hand(channel, request, fd);
        self.answer().0
    }

    /// Imports an fd that is taken.
    pub(crate) fn imported(&mut self, channel: &Socket, fd: &OwnedFd) -> Imported {
        match self.import(channel, fd) {
            ClientMessage::Imported(imported) => imported,
            other => panic!("{other:?}"),
        }
    }

    /// Imports an fd that is refused.
    pub(crate) fn refused(&mut self, channel: &Socket, fd: &OwnedFd) -> Refused {
        refusal(self.import(channel, fd))
    }
}

/// An answer that is a refusal.
pub(crate) fn refusal(answer: ClientMessage) -> Refused {
    match answer {
        ClientMessage::Refused(refused) => refused,
        other => panic!("{other:?}"),
    }
}

/// Hands an fd to a porter.
pub(crate) fn hand(channel: &Socket, request: u64, fd: &OwnedFd) {
    channel.send(&Hand {}.encode(request, Time(0), 0), &[fd.as_fd()]).expect("a porter");
}
