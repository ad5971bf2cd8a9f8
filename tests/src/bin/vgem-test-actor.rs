//! An actor of the chaos tests: a client that does as it is told over its standard input, a SEQPACKET socket, and tells
//! how every wait of it ended. `vgem_tests::chaos` is the other end.
//!
//! Arguments: its role, and the user to become. It ends with its standard input.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use vgem::{
    Access, Buffer, BufferOptions, CellWord, Cells, Client, ClientOptions, Deadline, Error, Fence, Queue,
    Submitted, TransferError,
};
use vgem_os::clock;
use vgem_os::seqpacket::{Packet, Socket};
use vgem_tests::chaos::words::{Answer, End, Order, Record, Role};
use vgem_tests::samples;

/// How long a wait is waited for; whoever needs it has hung.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a job of the rounds may take, once it was begun.
const RUN: Duration = Duration::from_millis(80);
/// Bytes of a frame.
const FRAME: usize = 128 << 10;
/// Frames of a producer's round.
const FRAMES: usize = 2;
/// Devices of the pipeline.
const DEVICES: [&str; 3] = ["copy", "zip", "sec"];
/// What a partner is sent instead of a buffer.
const NOTHING: &[u8] = b"nothing";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [role, uid] = &args[..] else { panic!("a role and a user: {args:?}") };
    let role: Role = serde_json::from_str(&format!("\"{role}\"")).expect("a role");
    let uid = uid.parse().expect("a number");
    setgroups(&[]).and_then(|()| setgid(Gid::from_raw(uid))).expect("run this as root");
    setuid(Uid::from_raw(uid)).expect("run this as root");
    let link = Socket::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a standard input"));
    let mut actor = Actor { role, stage: None, partner: None };
    let mut buf = vec![0; 65_536];
    loop {
        let mut fds = Vec::new();
        let Ok(Packet::Data { len }) = link.recv(&mut buf, &mut fds) else { return };
        let order = serde_json::from_slice(&buf[..len]).expect("an order");
        let answer = actor.obey(order, fds);
        let text = serde_json::to_vec(&answer).expect("answers are JSON");
        if link.send(&text, &[]).is_err() {
            return;
        }
    }
}

struct Actor {
    role: Role,
    stage: Option<Stage>,
    partner: Option<Socket>,
}

impl Actor {
    fn obey(&mut self, order: Order, fds: Vec<OwnedFd>) -> Answer {
        let done = match order {
            Order::Connect(path) => Stage::connect(self.role, &path).map(|stage| self.stage = Some(stage)),
            Order::Partner => {
                self.partner = fds.into_iter().next().map(Socket::from);
                Ok(())
            }
            Order::Prepare { round, mend } => self.stage().prepare(round, mend),
            Order::Go(round) => return Answer::Round(self.play(round)),
            Order::Leave => {
                self.stage = None;
                self.partner = None;
                Ok(())
            }
        };
        done.map_or_else(|error| Answer::Trouble(error.to_string()), |()| Answer::Ready)
    }

    fn stage(&mut self) -> &mut Stage {
        self.stage.as_mut().expect("it was told to connect first")
    }

    fn play(&mut self, round: u64) -> Vec<Record> {
        let partner = self.partner.take();
        let records = match (self.role, &partner) {
            (Role::Producer, Some(partner)) => self.stage().produce(round, partner),
            (Role::Consumer, Some(partner)) => self.stage().consume(round, partner),
            _ => self.stage().work(round),
        };
        self.partner = partner;
        records
    }
}

/// What an actor has on a broker.
struct Stage {
    client: Client,
    queues: BTreeMap<&'static str, Queue>,
    frames: Vec<Frame>,
    key: Buffer,
    cells: Cells,
    consumer: bool,
}

/// The buffers of one frame.
struct Frame {
    source: Buffer,
    raw: Buffer,
    packed: Buffer,
    sealed: Buffer,
}

impl Stage {
    fn connect(role: Role, path: &Path) -> Result<Self, Error> {
        let client =
            ClientOptions::new().name(format!("{role:?}")).request_timeout(PATIENCE).connect(path)?;
        let frames = if role == Role::Consumer { 0 } else { FRAMES };
        let mut stage = Self {
            queues: BTreeMap::new(),
            frames: (0..frames).map(|_| Frame::new(&client)).collect::<Result<_, _>>()?,
            key: client.create(32)?,
            cells: client.cells(2 * FRAMES)?,
            consumer: role == Role::Consumer,
            client,
        };
        stage.prepare(0, true)?;
        Ok(stage)
    }

    /// Makes sure that every queue takes jobs, and opens those anew that do not.
    fn prepare(&mut self, round: u64, mend: bool) -> Result<(), Error> {
        if self.consumer {
            return if mend { self.have_a_porter() } else { Ok(()) };
        }
        if mend {
            let end = Deadline::after(PATIENCE);
            for device in DEVICES {
                while let Err(error) = self.try_out(device) {
                    self.queues.remove(device);
                    if end.passed() {
                        return Err(error);
                    }
                }
            }
        }
        for (number, frame) in self.frames.iter_mut().enumerate() {
            frame.source.write(.., PATIENCE)?.copy_from_slice(&content(round, number));
            if number == 0 {
                // One of its own for each round, for the consumer keeps it for a while.
                let options = BufferOptions::new().name(round.to_string());
                frame.sealed = self.client.create_with(2 * FRAME as u64, &options)?;
            }
        }
        Ok(())
    }

    /// Imports something, so that there is a porter who may be struck.
    fn have_a_porter(&self) -> Result<(), Error> {
        let end = Deadline::after(PATIENCE);
        loop {
            match self.client.import_fd(self.key.export(Access::Read)?) {
                Err(error) if end.passed() => return Err(error),
                Err(_) => {}
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Has a device do something small on the queue that there is, or on a new one.
    fn try_out(&mut self, device: &'static str) -> Result<(), Error> {
        if !self.queues.contains_key(device) {
            self.queues.insert(device, self.client.device(device)?.queue(0)?);
        }
        let (queue, frame) = (&self.queues[device], &self.frames[0]);
        let mut batch = self.client.batch();
        match device {
            "copy" => drop(batch.job(queue, "fill").output(&frame.raw)),
            "zip" => drop(batch.job(queue, "compress").input(frame.source.slice(..64)).output(&frame.packed)),
            _ => drop(batch.job(queue, "sha256").input(frame.source.slice(..64)).result(self.cells.at(0))),
        }
        batch.submit_acknowledged()?.wait(PATIENCE)?;
        Ok(())
    }

    /// One batch: every frame through all devices.
    fn submit(&self) -> Result<Submitted, Error> {
        let mut batch = self.client.batch();
        for (number, frame) in self.frames.iter().enumerate() {
            let (packed, sealed) = (self.cells.at(2 * number), self.cells.at(2 * number + 1));
            batch.job(&self.queues["copy"], "copy").input(&frame.source).output(&frame.raw).timeout(RUN);
            let compress = batch.job(&self.queues["zip"], "compress").input(&frame.raw).output(&frame.packed);
            compress.param("format", "zstd").param("level", 1).result(packed).timeout(RUN);
            let seal = batch.job(&self.queues["sec"], "seal");
            let seal = seal.input_from(&frame.packed, packed, CellWord::Produced).output(&frame.sealed);
            seal.operand("key", &self.key).result(sealed).timeout(RUN);
        }
        batch.submit()
    }

    fn produce(&self, round: u64, partner: &Socket) -> Vec<Record> {
        // The partner is not to wait for what does not come; it may be gone.
        let nothing = || drop(partner.send(NOTHING, &[]));
        let mut told = false;
        let records = self.frames_through(round, |stage| {
            let sealed = &stage.frames[0].sealed;
            let sent = record("send", || sealed.send(partner, Access::Read, PATIENCE));
            if sent.end != End::Done {
                nothing();
            }
            told = true;
            vec![sent, record("guard", || sealed.read(.., PATIENCE).map(drop))]
        });
        if !told {
            nothing();
        }
        records
    }

    fn work(&self, round: u64) -> Vec<Record> {
        self.frames_through(round, |stage| {
            vec![record("guard", || stage.frames[1].sealed.read(.., PATIENCE).map(drop))]
        })
    }

    /// Submits, waits for every fence in a thread of its own, and meanwhile does something else.
    fn frames_through(&self, round: u64, meanwhile: impl FnOnce(&Self) -> Vec<Record>) -> Vec<Record> {
        let mut submitted = None;
        let mut records = vec![record("submit", || self.submit().map(|batch| submitted = Some(batch)))];
        let Some(submitted) = submitted else { return records };
        let begun_ns = records[0].begun_ns;
        std::thread::scope(|scope| {
            let wait = |(number, fence): (usize, &Fence)| {
                let fence = fence.clone();
                let what = format!("{} {}", DEVICES[number % 3], number / 3);
                scope.spawn(move || Record { begun_ns, ..record(&what, || fence.wait(PATIENCE)) })
            };
            let waits: Vec<_> = submitted.fences().iter().enumerate().map(wait).collect();
            records.extend(meanwhile(self));
            records.extend(waits.into_iter().map(|wait| wait.join().expect("a wait ends")));
        });
        if records.iter().all(|record| record.end == End::Done) {
            records.push(self.inspect(round));
        }
        records
    }

    /// Where everything went well, the bytes are right.
    fn inspect(&self, round: u64) -> Record {
        record("bytes", || {
            for (number, frame) in self.frames.iter().enumerate() {
                if frame.raw.read(.., PATIENCE)?[..] != content(round, number)[..] {
                    return Err(Error::Protocol(format!("frame {number} of round {round} was not copied")));
                }
                let (packed, sealed) = (self.cells.read(2 * number), self.cells.read(2 * number + 1));
                if packed.produced() == 0 || sealed.produced() != packed.produced() + 48 {
                    return Err(Error::Protocol(format!("frame {number}: {packed:?} sealed as {sealed:?}")));
                }
            }
            Ok(())
        })
    }

    /// Takes the buffer of this round in, and reads it.
    fn consume(&self, round: u64, partner: &Socket) -> Vec<Record> {
        let mut buffer = None;
        let deadline = Deadline::after(PATIENCE);
        let mut records = vec![record("receive", || {
            loop {
                match self.client.receive(partner, deadline) {
                    // Of an earlier round, whose producer stood still.
                    Ok(received) if received.name != round.to_string() => {}
                    Ok(received) => {
                        buffer = Some(received.buffer);
                        return Ok(());
                    }
                    Err(Error::Timeout { .. }) => return Err(Error::Transfer(TransferError::Closed)),
                    Err(error) => return Err(error),
                }
            }
        })];
        if let Some(buffer) = buffer {
            let begun_ns = records[0].begun_ns;
            records.push(Record { begun_ns, ..record("read", || buffer.read(.., PATIENCE).map(drop)) });
        }
        records
    }
}

impl Frame {
    fn new(client: &Client) -> Result<Self, Error> {
        let (frame, room) = (FRAME as u64, 2 * FRAME as u64);
        Ok(Self {
            source: client.create(frame)?,
            raw: client.create(frame)?,
            packed: client.create(room)?,
            sealed: client.create(room)?,
        })
    }
}

fn content(round: u64, frame: usize) -> Vec<u8> {
    let mut bytes = samples::text(FRAME);
    let head = [round.to_le_bytes(), (frame as u64).to_le_bytes()].concat();
    bytes[..head.len()].copy_from_slice(&head);
    bytes
}

fn record<T, E: Into<End>>(what: &str, wait: impl FnOnce() -> Result<T, E>) -> Record {
    let begun_ns = clock::now();
    let end = End::from(wait());
    Record { what: what.to_owned(), begun_ns, ended_ns: clock::now(), end }
}
