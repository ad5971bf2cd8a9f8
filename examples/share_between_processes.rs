//! One buffer, three processes: a producer that makes it, a consumer that imports it, and a stranger that only maps it
//! and never speaks to the broker. Each is killed in turn; the memory lives exactly as long as somebody has it.
//!
//! The program starts itself three times. It shows the object's life as `vgemctl monitor` does, and ends when no object is
//! left. The broker is a private one; with a running one, its socket takes the place of `broker.socket()`.
#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use vgem::snapshot::Event;
use vgem::{Access, BufferOptions, Client, ClientOptions, Deadline, Embedded, MappedExport, Monitor};

const LEN: u64 = 16 << 20;
const BYTE: u8 = 7;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1..).unwrap_or(&[]) {
        [] => direct(),
        [role, socket] if role == "producer" => producer(socket),
        [role, socket] if role == "consumer" => consumer(socket),
        [role] if role == "stranger" => stranger(),
        other => bail!("no such role: {other:?}"),
    }
}

/// Starts the others, kills them one by one, and shows what becomes of the object.
fn direct() -> anyhow::Result<()> {
    let broker = Embedded::start()?;
    let (watching, client) = (broker.client()?, broker.client()?);
    let mut life = Life { monitor: watching.monitor()?, frame: None };
    let socket = broker.socket();

    // Whatever two processes talk over will do; here it is a pair of sockets.
    let (to_consumer, from_producer) = UnixStream::pair()?;
    let mut producer = Role::start("producer", Some(&socket), OwnedFd::from(to_consumer).into())?;
    let mut consumer = Role::start("consumer", Some(&socket), OwnedFd::from(from_producer).into())?;

    // This process gets the frame as well, and passes it on to the stranger.
    let mut stranger = Role::start("stranger", None, Stdio::null())?;
    let frame = client.receive(&producer.channel, soon())?.buffer;
    frame.send(&stranger.channel, Access::Read, soon())?;
    drop(frame);
    say(&consumer.line()?);
    say(&stranger.line()?);

    say("producer: killed");
    producer.kill()?;
    life.until("the producer is gone", |event| matches!(event, Event::ClientGone { .. }))?;
    say("consumer: killed");
    consumer.kill()?;
    life.until("only the stranger has it", |event| matches!(event, Event::ObjectOrphaned { .. }))?;
    ensure!(client.status()?.objects == 1, "the stranger's mapping keeps the object");
    say("stranger: killed");
    stranger.kill()?;
    life.until("nobody has it", |event| matches!(event, Event::ObjectFreed { .. }))?;

    say(&format!("{} objects are left", client.status()?.objects));
    Ok(())
}

/// Makes a frame, has a device fill it, and passes it on before that is done.
fn producer(socket: &str) -> anyhow::Result<()> {
    let client = ClientOptions::new().name("producer").connect(socket)?;
    let copy = client.device("copy")?.queue(0)?;
    let frame = client.create_with(LEN, &BufferOptions::new().name("frame"))?;
    let mut batch = client.batch();
    batch.job(&copy, "fill").output(&frame).param("byte", u64::from(BYTE));
    batch.submit()?;
    frame.send(std::io::stdin(), Access::Read, soon())?;
    frame.send(std::io::stdout(), Access::Read, soon())?;
    until_killed()
}

/// Gets the frame; reading it waits for the producer's job.
fn consumer(socket: &str) -> anyhow::Result<()> {
    let client: Client = ClientOptions::new().name("consumer").connect(socket)?;
    let received = client.receive(std::io::stdin(), soon())?;
    let right = received.buffer.read(.., soon())?.iter().filter(|byte| **byte == BYTE).count();
    tell(&format!("consumer: {right} bytes of {:?} are as the device filled them", received.name))?;
    until_killed()
}

/// Maps what it is sent and has no fd of it any more.
fn stranger() -> anyhow::Result<()> {
    let mapped = MappedExport::receive(std::io::stdout(), soon())?;
    let mut last = [0];
    mapped.copy_out(LEN - 1, &mut last)?;
    tell(&format!("stranger: maps {} bytes and knows no broker", mapped.len()))?;
    until_killed()
}

/// A process of this program, and a stream to it that is its standard output.
struct Role {
    child: Child,
    channel: UnixStream,
}

impl Role {
    fn start(role: &str, socket: Option<&Path>, stdin: Stdio) -> anyhow::Result<Self> {
        let (channel, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(role).args(socket).stdin(stdin).stdout(Stdio::from(OwnedFd::from(theirs)));
        Ok(Self { child: command.spawn().with_context(|| format!("starting the {role}"))?, channel })
    }

    fn line(&self) -> anyhow::Result<String> {
        self.channel.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut line = String::new();
        BufReader::new(&self.channel).read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Killed already, unless something went wrong.
        drop(self.kill());
    }
}

/// The life of the frame, as the broker tells it.
struct Life {
    monitor: Monitor,
    frame: Option<String>,
}

impl Life {
    /// Shows what happens to the frame until `wanted` does.
    fn until(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> anyhow::Result<()> {
        let deadline = soon();
        while let Some(told) = self.monitor.next(deadline)? {
            let Some(entry) = &told.entry else { continue };
            if let Event::ObjectCreated { object, name, .. } = &entry.event
                && name == "frame"
            {
                self.frame = Some(object.clone());
            }
            let line = told.to_string();
            if self.frame.as_ref().is_some_and(|frame| line.contains(frame)) {
                say(&format!("    {line}"));
            }
            if wanted(&entry.event) {
                return Ok(());
            }
        }
        bail!("it was not told that {what}")
    }
}

fn tell(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Waits for the end: of this process, or of the one that started it.
fn until_killed() -> anyhow::Result<()> {
    let mut parent = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    parent.read_to_end(&mut Vec::new())?;
    Ok(())
}

fn say(line: &str) {
    eprintln!("{line}");
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}
