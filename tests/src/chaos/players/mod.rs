//! What actors do, each with a connection of its own.
//!
//! A wait that an actor begins is told as a [`Record`], whatever becomes of it; a mistake of its own would be
//! [`End::Wrong`].

mod pipeline;
mod reader;
mod stage;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use vgem::{Client, ClientOptions, Error};
use vgem_os::clock;
use vgem_os::seqpacket::Socket;

use self::pipeline::Pipeline;
use self::reader::Reader;
use self::stage::Stage;
use super::words::{Answer, End, Order, Record, Role};

/// How long a wait is waited for; whoever needs it has hung.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of both kinds what a job, or a promise, may take in all.
const CHAIN: Duration = super::judge::CHAIN;
/// What a partner is sent instead of a buffer.
const NOTHING: &[u8] = b"nothing";

/// An actor, from the inside.
#[derive(Debug)]
pub struct Player {
    role: Role,
    part: Option<Part>,
    partner: Option<Socket>,
}

#[derive(Debug)]
enum Part {
    Pipeline(Pipeline),
    Reader(Reader),
    Stage(Stage),
}

impl Player {
    /// One that is not connected.
    #[must_use]
    pub const fn new(role: Role) -> Self {
        Self { role, part: None, partner: None }
    }

    /// Does what it is told; `tell` is for what is said before it is done.
    pub fn obey(&mut self, order: Order, fds: Vec<OwnedFd>, tell: &dyn Fn(Answer)) -> Answer {
        let done = match order {
            Order::Connect(path) => self.connect(&path),
            Order::Partner => {
                self.partner = fds.into_iter().next().map(Socket::from);
                Ok(())
            }
            Order::Prepare { round, mend } => self.prepare(round, mend),
            Order::Offer => match &mut self.part {
                Some(Part::Stage(stage)) => match stage.offer() {
                    Ok(token) => return Answer::Token(token),
                    Err(error) => Err(error),
                },
                _ => Ok(()),
            },
            Order::Await(token) => match &mut self.part {
                Some(Part::Pipeline(pipeline)) => pipeline.gate(token),
                _ => Ok(()),
            },
            Order::Owe(ms) => match &mut self.part {
                Some(Part::Stage(stage)) => stage.owe(Duration::from_millis(ms)),
                _ => Ok(()),
            },
            Order::Go(round) => return Answer::Round(self.play(round, tell)),
            Order::Leave => {
                (self.part, self.partner) = (None, None);
                Ok(())
            }
        };
        done.map_or_else(|error| Answer::Trouble(error.to_string()), |()| Answer::Ready)
    }

    fn connect(&mut self, path: &Path) -> Result<(), Error> {
        let name = format!("{:?}", self.role).to_lowercase();
        let client: Client = ClientOptions::new().name(name).request_timeout(PATIENCE).connect(path)?;
        self.part = Some(match self.role {
            Role::Producer | Role::Bystander => Part::Pipeline(Pipeline::new(client)?),
            Role::Consumer => Part::Reader(Reader::new(client)?),
            Role::Stage => Part::Stage(Stage::new(client)),
        });
        self.prepare(0, true)
    }

    fn prepare(&mut self, round: u64, mend: bool) -> Result<(), Error> {
        match self.part() {
            Part::Pipeline(pipeline) => pipeline.prepare(round, mend),
            Part::Reader(reader) if mend => reader.have_a_porter(),
            Part::Reader(_) | Part::Stage(_) => Ok(()),
        }
    }

    fn play(&mut self, round: u64, tell: &dyn Fn(Answer)) -> Vec<Record> {
        let partner = self.partner.take();
        let records = match (self.part(), &partner) {
            (Part::Pipeline(pipeline), Some(partner)) => pipeline.produce(round, partner),
            (Part::Pipeline(pipeline), None) => pipeline.work(round),
            (Part::Reader(reader), Some(partner)) => {
                reader.consume(round, partner, || tell(Answer::Importing))
            }
            (Part::Reader(_), None) => Vec::new(),
            (Part::Stage(stage), _) => stage.play(round),
        };
        self.partner = partner;
        records
    }

    fn part(&mut self) -> &mut Part {
        self.part.as_mut().expect("it was told to connect first")
    }
}

fn record<T, E: Into<End>>(what: &str, wait: impl FnOnce() -> Result<T, E>) -> Record {
    let begun_ns = clock::now();
    let end = End::from(wait());
    Record { what: what.to_owned(), begun_ns, ended_ns: clock::now(), end }
}
