//! Five stages, one of which dies, stops or dawdles: everybody who waits learns the same, by name, in time.
//!
//! ```text
//!   load (copy) ──► pack (zip) ──► label (a process) ──► seal (sec) ──► store (blk)
//!                        └──────────────────────────────────┘
//! ```
//!
//! Four stages are devices; the label is made by a process that is a client like this one. It promises a point of a
//! timeline of its own, and the seal waits for that: one message submits the whole frame, before anything is done.
//! Each device has 100 ms from the moment it could begin. The label is promised within 300 ms: a promise has no waits, so
//! it has to allow for what comes before it.
//!
//! ```text
//!   --kill STAGE    its process is killed while the frame is there
//!   --stop STAGE    its process stands still for ever
//!   --delay STAGE   its process stands still for 40 ms, which is not too long
//! ```
//!
//! Without an argument nothing happens to anybody. Afterwards another frame goes through, to show what is left of it.
#![forbid(unsafe_code)]

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use vgem::{
    Access, Buffer, CellWord, Cells, Client, ClientOptions, Deadline, Embedded, Error, ErrorCode, Fence,
    FenceError, Point, Queue, Timeline, TimelineRights, TimelineToken,
};

/// The stages, and the devices that four of them are.
const STAGES: [(&str, &str); 5] =
    [("load", "copy"), ("pack", "zip"), ("label", "a process"), ("seal", "sec"), ("store", "blk")];
/// What a job may take once it was begun, and how long it may have to wait for that.
const RUN: Duration = Duration::from_millis(80);
const CONFIG: &str = "[times]\nscheduling_ms = 20";
/// What the label may take, what it is made of included.
const LABEL: Duration = Duration::from_millis(300);
const FRAME: u64 = 1 << 20;
const TAG: u64 = 32;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let fault = match args[..] {
        [] => None,
        ["label", socket] => return label(socket),
        [manner @ ("--kill" | "--stop" | "--delay"), stage] => Some((manner, place(stage)?)),
        _ => bail!("one of --kill, --stop and --delay, and a stage: {args:?}"),
    };
    let folder = tempfile::tempdir()?;
    let broker = Embedded::builder().config(CONFIG).root(folder.path()).log("error").start()?;
    frame(&broker, &folder.path().join("first"), fault)?;
    if fault.is_some() {
        say("and the next frame:");
        frame(&broker, &folder.path().join("next"), None)?;
    }
    Ok(())
}

fn place(stage: &str) -> anyhow::Result<usize> {
    STAGES
        .iter()
        .position(|(name, _)| *name == stage)
        .with_context(|| format!("there is no stage {stage}; load, pack, label, seal and store are"))
}

/// Sends one frame through, lets happen what is to happen, and tells what everybody got who waited.
fn frame(broker: &Embedded, file: &Path, fault: Option<(&str, usize)>) -> anyhow::Result<()> {
    let pipeline = Pipeline::new(broker, file)?;
    pipeline.labeller.promised()?;
    let victim =
        fault.map(|(manner, stage)| Ok::<_, Error>((manner, pipeline.process(stage)?))).transpose()?;
    if let Some((_, pid)) = victim {
        signal(pid, "STOP")?;
    }
    let begun = Instant::now();
    let fences = pipeline.submit()?;
    std::thread::scope(|threads| {
        let wait = |fence: &'_ Fence| (fence.wait(Duration::from_secs(10)), begun.elapsed());
        let waits: Vec<_> = fences.iter().map(|fence| threads.spawn(move || wait(fence))).collect();
        match victim {
            Some(("--kill", pid)) => signal(pid, "KILL")?,
            Some(("--delay", pid)) => {
                std::thread::sleep(Duration::from_millis(40));
                signal(pid, "CONT")?;
            }
            _ => {}
        }
        account(waits.into_iter().map(|wait| wait.join().expect("a wait does not panic")))
    })
}

/// Tells what came of each wait, and what was behind it, once.
fn account(ends: impl Iterator<Item = (Result<(), FenceError>, Duration)>) -> anyhow::Result<()> {
    let mut causes = Vec::new();
    for ((stage, by), (end, after)) in STAGES.into_iter().zip(ends) {
        let ms = after.as_secs_f64() * 1000.0;
        let start = format!("  {stage:6} {by:10} {ms:6.1} ms  ");
        match end {
            Ok(()) => say(&format!("{start}done")),
            Err(FenceError::Failed(failure)) => {
                say(&format!("{start}{}, {}", failure.code, failure.cause));
                let told = failure.explanation.context("a failure is explained")?;
                causes.push(format!("{}: {told}", failure.cause));
            }
            Err(other) => bail!("{stage}: {other}"),
        }
    }
    causes.dedup();
    causes.iter().for_each(|cause| say(cause));
    ensure!(causes.len() <= 1, "everybody learns the same");
    Ok(())
}

struct Pipeline {
    client: Client,
    queues: [Queue; 4],
    /// What is loaded, packed, sealed; the label; the key.
    buffers: [Buffer; 6],
    cells: Cells,
    file: u64,
    labels: Timeline,
    labeller: Labeller,
}

impl Pipeline {
    fn new(broker: &Embedded, file: &Path) -> anyhow::Result<Self> {
        let client = broker.client_with(&ClientOptions::new().name("pipeline"))?;
        let queue = |device: &str| client.device(device)?.queue(0);
        let queues = [queue("copy")?, queue("zip")?, queue("sec")?, queue("blk")?];
        let [source, loaded, key] = [client.create(FRAME)?, client.create(FRAME)?, client.create(32)?];
        let [packed, sealed] = [client.create(2 * FRAME)?, client.create(3 * FRAME)?];
        source.write(.., soon())?.fill(b'v');
        let cells = client.cells(3)?;
        let mut batch = client.batch();
        let open = batch.job(&queues[3], "open").param("path", file.to_str().context("a path in UTF-8")?);
        drop(open.param("mode", "create").result(cells.at(2)));
        batch.submit()?.wait(soon())?;
        let file = cells.read(2).value();

        // The labeller gets what it labels, and when that is packed; we get its label, and when that is made.
        let labeller = Labeller::start(&broker.socket())?;
        packed.send(&labeller.link, Access::Read, soon())?;
        (&labeller.link).write_all(&queues[1].timeline().export(TimelineRights::WAIT)?.to_bytes())?;
        let tag = client.receive(&labeller.link, soon())?.buffer;
        let labels = client.import_timeline(token(&labeller.link)?)?;
        let buffers = [source, loaded, packed, tag, sealed, key];
        Ok(Self { client, queues, buffers, cells, file, labels, labeller })
    }

    /// One message; a fence for each stage.
    fn submit(&self) -> anyhow::Result<[Fence; 5]> {
        let [copy, zip, sec, blk] = &self.queues;
        let [source, loaded, packed, tag, sealed, key] = &self.buffers;
        let labelled = self.labels.point(Point(1)).promised_by(LABEL);
        let (in_pack, in_seal) = (self.cells.at(0), self.cells.at(1));
        let mut batch = self.client.batch();
        let load = batch.job(copy, "copy").input(source).output(loaded).timeout(RUN).id();
        let pack = batch.job(zip, "compress").input(loaded).output(packed).result(in_pack).timeout(RUN).id();
        let seal = batch.job(sec, "seal").input_from(packed, in_pack, CellWord::Produced).output(sealed);
        let seal = seal.operand("key", key).operand("aad", tag).result(in_seal);
        let seal = seal.after(&labelled).timeout(RUN).id();
        let store = batch.job(blk, "append").input_from(sealed, in_seal, CellWord::Produced);
        let store = store.param("file", self.file).timeout(RUN).id();
        // Accepted, whatever happens to a stage after this.
        let submitted = batch.submit_acknowledged()?;
        let fence = |job| submitted.fence(job).cloned().context("a job of this batch");
        Ok([fence(load)?, fence(pack)?, labelled.clone(), fence(seal)?, fence(store)?])
    }

    /// The process behind a stage.
    fn process(&self, stage: usize) -> Result<u32, Error> {
        let (_, device) = STAGES[stage];
        let devices = self.client.device_entries()?;
        let driver =
            devices.iter().find(|entry| entry.name == device).and_then(|entry| entry.instances.first());
        Ok(driver.map_or_else(|| self.labeller.child.id(), |driver| driver.pid))
    }
}

/// The process that makes labels.
struct Labeller {
    child: Child,
    link: UnixStream,
}

impl Labeller {
    fn start(socket: &Path) -> anyhow::Result<Self> {
        let (link, theirs) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("label").arg(socket).stdin(Stdio::from(OwnedFd::from(theirs)));
        Ok(Self { child: command.spawn().context("starting the labeller")?, link })
    }

    /// Waits until it has promised the label of the frame that comes now.
    fn promised(&self) -> anyhow::Result<()> {
        Ok((&self.link).read_exact(&mut [0])?)
    }
}

impl Drop for Labeller {
    fn drop(&mut self) {
        // Killed already, or of no more use.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The labeller: one label, for one frame.
fn label(socket: &str) -> anyhow::Result<()> {
    let client = ClientOptions::new().name("label").connect(socket)?;
    let link = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let packed = client.receive(&link, soon())?.buffer;
    let packs = client.import_timeline(token(&link)?)?;
    let (tag, mut labels) = (client.create(TAG)?, client.timeline("label")?);
    tag.send(&link, Access::Read, soon())?;
    (&link).write_all(&labels.export(TimelineRights::WAIT)?.to_bytes())?;

    // The bytes of the label are ours until it is made; whoever comes after that can be submitted now.
    let mut stage = tag.write_for(&mut labels, .., LABEL, soon())?;
    (&link).write_all(&[1])?;
    let waited = packs.wait_for_submit(Point(1), soon()).map_err(Error::from);
    match waited.and_then(|()| packed.read_explicit(..TAG, soon())) {
        Ok(head) => {
            stage.copy_from_slice(&head);
            stage.publish()?;
        }
        // What failed before is why there is no label.
        Err(Error::Job(failure)) => stage.fail_as(&failure)?,
        Err(other) => stage.fail(ErrorCode::Io, &other.to_string())?,
    }
    // The label is wanted until the frame is through.
    (&link).read_to_end(&mut Vec::new())?;
    Ok(())
}

fn token(mut link: &UnixStream) -> anyhow::Result<TimelineToken> {
    let mut bytes = [0; TimelineToken::LEN];
    link.read_exact(&mut bytes)?;
    Ok(TimelineToken::from_bytes(bytes))
}

fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status()?;
    ensure!(status.success(), "process {pid} takes no SIG{name}");
    Ok(())
}

fn say(line: &str) {
    eprintln!("{line}");
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}
