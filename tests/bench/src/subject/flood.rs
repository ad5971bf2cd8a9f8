//! A flood of calls over a message bus: a bus of its own, and a process that calls on it as fast as it is told.
//!
//! The caller speaks the bus's own protocol by hand, from a message made once: what it costs is little beside what the bus
//! and who is called have to do, so one core can be flooded by it and hold the bus as well. It has several connections, each
//! with a bounded number of calls that are not answered yet.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::PATIENCE;
use crate::floor::Fds;
use crate::role::{Part, Role};

/// Calls a second that are made, as far as answers come.
pub const RATE: u32 = 10_000;
/// Connections that call.
const CONNECTIONS: usize = 8;
/// Calls of a connection that are not answered yet.
const UNANSWERED: u64 = 100;
/// What is asked of control, in turn: what it has to ask the broker for, in every way.
const ASKED: [&str; 5] = ["Status", "ListDevices", "ListClients", "ListObjects", "OpenSession"];
/// How often calls are made.
const PULSE: Duration = Duration::from_millis(1);

const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=PLACE</listen>
  <auth>EXTERNAL</auth>
  <limit name="max_replies_per_connection">100000</limit>
  <limit name="max_outgoing_unix_fds">100000</limit>
  <limit name="max_incoming_unix_fds">100000</limit>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// A private bus; ended when dropped.
#[derive(Debug)]
pub struct Bus {
    folder: tempfile::TempDir,
    child: Child,
}

impl Bus {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no dbus-daemon, or it does not listen.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vgem-bench-bus-").tempdir()?;
        let config = folder.path().join("bus.conf");
        let place = folder.path().join("bus");
        std::fs::write(&config, CONFIG.replace("PLACE", &place.display().to_string()))?;
        let mut command = Command::new("dbus-daemon");
        command.args(["--nofork", "--nopidfile", "--config-file"]).arg(&config).stderr(Stdio::null());
        let child = command.spawn().context("there is no dbus-daemon to flood")?;
        let bus = Self { folder, child };
        let begin = Instant::now();
        while UnixStream::connect(bus.place()).is_err() {
            ensure!(begin.elapsed() < PATIENCE, "the bus does not listen");
            crate::noise::pause(PULSE);
        }
        Ok(bus)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("unix:path={}", self.place().display())
    }

    /// Its process.
    ///
    /// # Errors
    /// When the number is none.
    pub fn pid(&self) -> anyhow::Result<i32> {
        Ok(self.child.id().try_into()?)
    }

    fn place(&self) -> PathBuf {
        self.folder.path().join("bus")
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("vgem-bench: the bus did not end: {error}");
        }
    }
}

/// Whom a flood is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Control: what it asks the broker for.
    Control,
    /// The bus itself, which asks nobody.
    Bus,
}

/// What became of the calls of one flood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Made.
    pub made: u64,
    /// Answered with what was asked for.
    pub served: u64,
    /// Answered with an error.
    pub refused: u64,
}

/// A process that floods on order; ended when dropped.
#[derive(Debug)]
pub struct Flood {
    orders: UnixStream,
    /// The process, to put on a core.
    pub role: Role,
}

impl Flood {
    /// Starts it, connected and quiet.
    ///
    /// # Errors
    /// When the bus takes no connection, or the process does not start.
    pub fn start(bus: &Bus) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut fds: Vec<OwnedFd> = vec![theirs.into()];
        for _ in 0..CONNECTIONS {
            fds.push(UnixStream::connect(bus.place())?.into());
        }
        Ok(Self { orders: ours, role: Role::start(Part::BusFlood, fds)? })
    }

    /// Begins.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn begin(&mut self, at: At) -> anyhow::Result<()> {
        let word = match at {
            At::Control => b'c',
            At::Bus => b'b',
        };
        Ok(self.orders.write_all(&[word])?)
    }

    /// Ends it; what became of its calls.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn end(&mut self) -> anyhow::Result<Calls> {
        self.orders.write_all(b".")?;
        let mut said = [0; 24];
        self.orders.read_exact(&mut said).context("the flood has ended by itself")?;
        let (numbers, _) = said.as_chunks::<8>();
        let mut numbers = numbers.iter().map(|bytes| u64::from_ne_bytes(*bytes));
        let mut next = || numbers.next().unwrap_or(0);
        Ok(Calls { made: next(), served: next(), refused: next() })
    }
}

/// One connection to the bus.
#[derive(Debug)]
struct Line {
    stream: UnixStream,
    serial: u32,
    unanswered: u64,
    unsent: Vec<u8>,
    unread: Vec<u8>,
}

/// The process: floods on order until nobody orders any more.
///
/// # Errors
/// When the bus says what it must not, or ends.
pub fn flood(fds: &mut Fds) -> anyhow::Result<()> {
    let mut orders = UnixStream::from(fds.next().context("no orders")?);
    let mut lines = Vec::new();
    for fd in fds.by_ref() {
        lines.push(Line::open(UnixStream::from(fd))?);
    }
    let mut word = [0];
    while orders.read(&mut word)? == 1 {
        let call: Vec<Vec<u8>> = match word[0] {
            b'c' => ASKED.iter().map(|member| to_control(member)).collect(),
            b'b' => vec![to_the_bus("GetId")],
            other => bail!("{other} is no order"),
        };
        let calls = until_told(&orders, &mut lines, &call)?;
        orders.read_exact(&mut word)?;
        for number in [calls.made, calls.served, calls.refused] {
            orders.write_all(&number.to_ne_bytes())?;
        }
    }
    Ok(())
}

fn until_told(orders: &UnixStream, lines: &mut [Line], call: &[Vec<u8>]) -> anyhow::Result<Calls> {
    let (begin, mut calls, mut turn) = (Instant::now(), Calls::default(), 0);
    let mut call = call.iter().cycle();
    for line in &mut *lines {
        // What came since, and is of no interest; and what will not come, if the bus has lost an answer with its fd.
        line.take(&mut Calls::default())?;
        line.unanswered = 0;
    }
    loop {
        let due = begin.elapsed().as_micros() * u128::from(RATE) / 1_000_000;
        for _ in 0..lines.len() {
            turn = (turn + 1) % lines.len();
            let line = &mut lines[turn];
            // A few to each in turn.
            for _ in 0..4 {
                if u128::from(calls.made) < due && line.unanswered < UNANSWERED {
                    line.add(call.next().context("no call")?);
                    calls.made += 1;
                }
            }
            line.send()?;
        }
        let streams = lines.iter().map(|line| &line.stream).chain([orders]);
        let mut ready: Vec<PollFd<'_>> = streams.map(|stream| PollFd::new(stream, PollFlags::IN)).collect();
        let pulse = Timespec::try_from(PULSE).context("a millisecond")?;
        poll(&mut ready, Some(&pulse)).context("poll")?;
        let is_told = ready.last().is_some_and(|fd| !fd.revents().is_empty());
        for line in &mut *lines {
            line.take(&mut calls)?;
        }
        if is_told {
            return Ok(calls);
        }
    }
}

impl Line {
    /// Makes itself known, and waits until the bus has taken it in.
    fn open(mut stream: UnixStream) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let uid = rustix::process::geteuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|digit| format!("{digit:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let mut said = Vec::new();
        while !said.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).context("the bus does not answer")?;
            said.push(byte[0]);
        }
        ensure!(said.starts_with(b"OK "), "the bus says {}", String::from_utf8_lossy(&said));
        stream.write_all(b"BEGIN\r\n")?;
        let mut line = Self { stream, serial: 0, unanswered: 0, unsent: Vec::new(), unread: Vec::new() };
        line.add(&to_the_bus("Hello"));
        line.stream.set_nonblocking(true)?;
        line.send()?;
        let (begin, mut calls) = (Instant::now(), Calls::default());
        while calls.served == 0 {
            ensure!(begin.elapsed() < PATIENCE, "the bus does not say hello");
            line.take(&mut calls)?;
            crate::noise::pause(PULSE);
        }
        line.unanswered = 0;
        Ok(line)
    }

    fn add(&mut self, call: &[u8]) {
        self.serial += 1;
        let at = self.unsent.len();
        self.unsent.extend_from_slice(call);
        self.unsent[at + 8..at + 12].copy_from_slice(&self.serial.to_le_bytes());
        self.unanswered += 1;
    }

    fn send(&mut self) -> anyhow::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e).context("the bus takes nothing"),
            }
        }
        Ok(())
    }

    /// Takes what there is, and counts the answers in it.
    fn take(&mut self, calls: &mut Calls) -> anyhow::Result<()> {
        let mut bytes = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => bail!("the bus has ended a connection"),
                Ok(len) => self.unread.extend_from_slice(&bytes[..len]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e).context("the bus"),
            }
        }
        let mut at = 0;
        while let Some(head) = self.unread.get(at..at + 16) {
            let number = |of: usize| u32::from_le_bytes([head[of], head[of + 1], head[of + 2], head[of + 3]]);
            let len = 16 + usize::try_from(number(12))?.next_multiple_of(8) + usize::try_from(number(4))?;
            if self.unread.len() < at + len {
                break;
            }
            match head[1] {
                2 => calls.served += 1,
                3 => calls.refused += 1,
                // A signal.
                _ => self.unanswered += 1,
            }
            self.unanswered = self.unanswered.saturating_sub(1);
            at += len;
        }
        self.unread.drain(..at);
        Ok(())
    }
}

fn to_control(member: &str) -> Vec<u8> {
    call("org.vgemd.Broker1", "/org/vgemd/Broker1", "org.vgemd.Broker1.Manager", member, Some("a{sv}"))
}

fn to_the_bus(member: &str) -> Vec<u8> {
    let bus = "org.freedesktop.DBus";
    call(bus, "/org/freedesktop/DBus", bus, member, None)
}

/// A call without arguments, or with an empty dictionary as its only one; its serial is to be filled in.
fn call(to: &str, path: &str, interface: &str, member: &str, argument: Option<&str>) -> Vec<u8> {
    let mut fields = Vec::new();
    for (code, kind, text) in [(1, b'o', path), (2, b's', interface), (3, b's', member), (6, b's', to)] {
        field(&mut fields, code, kind);
        fields.extend((u32::try_from(text.len()).unwrap_or(0)).to_le_bytes());
        fields.extend(text.bytes().chain([0]));
    }
    if let Some(signature) = argument {
        field(&mut fields, 8, b'g');
        fields.push(u8::try_from(signature.len()).unwrap_or(0));
        fields.extend(signature.bytes().chain([0]));
    }
    // An empty dictionary: its length, and the padding to where its first entry would be.
    let body: &[u8] = if argument.is_some() { &[0; 8] } else { &[] };
    let mut message = vec![b'l', 1, 0, 1];
    message.extend(u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
    message.extend([0; 4]);
    message.extend(u32::try_from(fields.len()).unwrap_or(0).to_le_bytes());
    message.extend(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    message
}

/// The beginning of a header field: its code, and the signature of its value.
fn field(fields: &mut Vec<u8>, code: u8, kind: u8) {
    // The header before them is of 16 bytes, so they begin aligned.
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.extend([code, 1, kind, 0]);
}

#[cfg(test)]
mod tests {
    use super::call;

    #[test]
    fn a_call_is_as_the_bus_expects_it() {
        let message = call("a.b", "/c", "d.e", "F", Some("a{sv}"));
        assert_eq!(&message[..16], [b'l', 1, 0, 1, 8, 0, 0, 0, 0, 0, 0, 0, 75, 0, 0, 0]);
        assert_eq!(&message[16..28], [1, 1, b'o', 0, 2, 0, 0, 0, b'/', b'c', 0, 0]);
        assert_eq!((message.len() % 8, &message[message.len() - 8..]), (0, [0; 8].as_slice()));
    }
}
