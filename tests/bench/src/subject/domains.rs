//! The clients of one domain in a process of their own, which ask for little or for everything, as they are told.
//!
//! A user's programs are processes of a session of their own; threads of one program would share its share of the cores.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use vgem::{Client, ClientOptions, Deadline};
use vgem_os::seqpacket::Socket;

use crate::floor::{Fds, PACKET, next, receive};
use crate::noise::pause;
use crate::role::{Part, Role};

/// Bytes of a copy when there is too much to do.
const LARGE: u64 = 256 * 1024;
/// Copies that a client which wants everything has under way: so many that its driver has work while the client waits for
/// its turn on the core.
const DEPTH: usize = 64;
/// Bytes of a copy of those who ask for little.
const SMALL: u64 = 4096;
/// How often each of those asks.
pub const EACH: Duration = Duration::from_millis(5);
/// How long they ask.
pub const PART: Duration = Duration::from_secs(1);
/// The first copies, which find nothing mapped and are not counted.
const FIRST: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);

/// What is told, and what is answered: a number and what it is about.
const LITTLE: u64 = 1;
const EVERYTHING: u64 = 2;
const ENOUGH: u64 = 3;
const READY: u64 = 4;
const TOOK: u64 = 5;
const DONE: u64 = 6;

/// A process that has the clients of one domain.
#[derive(Debug)]
pub struct Domain {
    link: Socket,
    _role: Role,
}

impl Domain {
    /// Starts it, with connections of its clients.
    ///
    /// # Errors
    /// When it does not start, or its clients are refused.
    pub fn start(clients: Vec<Socket>) -> anyhow::Result<Self> {
        let (link, theirs) = Socket::pair()?;
        let fds = [theirs].into_iter().chain(clients).map(Into::into).collect();
        let domain = Self { link, _role: Role::start_apart(Part::Domain, fds)? };
        match domain.hear()? {
            [READY, _] => Ok(domain),
            other => bail!("a domain that begins says {other:?}"),
        }
    }

    /// Has its first client ask for one short copy after the other for [`PART`], after `delay`.
    ///
    /// # Errors
    /// When it is gone.
    pub fn ask_for_little(&self, delay: Duration) -> anyhow::Result<()> {
        say(&self.link, [LITTLE, u64::try_from(delay.as_nanos())?])
    }

    /// What each copy of those took, nanoseconds.
    ///
    /// # Errors
    /// When it is gone.
    pub fn took(&self) -> anyhow::Result<Vec<u64>> {
        let mut took = Vec::new();
        loop {
            match self.hear()? {
                [TOOK, ns] => took.push(ns),
                [DONE, _] => return Ok(took),
                other => bail!("a domain that asks for little says {other:?}"),
            }
        }
    }

    /// Has all its clients ask for all they can get.
    ///
    /// # Errors
    /// When it is gone.
    pub fn ask_for_everything(&self) -> anyhow::Result<()> {
        say(&self.link, [EVERYTHING, 0])
    }

    /// Says that it is enough.
    ///
    /// # Errors
    /// When it is gone.
    pub fn enough(&self) -> anyhow::Result<()> {
        say(&self.link, [ENOUGH, 0])
    }

    /// How many copies were done until it was enough; when all are.
    ///
    /// # Errors
    /// When it is gone, or a copy failed.
    pub fn done(&self) -> anyhow::Result<u64> {
        match self.hear()? {
            [DONE, count] => Ok(count),
            other => bail!("a domain that asks for everything says {other:?}"),
        }
    }

    fn hear(&self) -> anyhow::Result<[u64; 2]> {
        hear(&self.link)?.context("a domain's process is gone")
    }
}

fn say(link: &Socket, words: [u64; 2]) -> anyhow::Result<()> {
    let mut packet = [0; PACKET];
    for (place, word) in packet.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    Ok(link.send(&packet, &[])?)
}

fn hear(link: &Socket) -> anyhow::Result<Option<[u64; 2]>> {
    let mut packet = [0; PACKET];
    let heard = receive(link, &mut packet)?;
    let mut words = packet.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
    let (what, about) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(heard.map(|_| [what, about]))
}

/// Plays the process: until its link closes, does what it is told.
pub(crate) fn play(fds: &mut Fds) -> anyhow::Result<()> {
    let link = Socket::from(next(fds)?);
    let clients =
        fds.map(|fd| ClientOptions::new().over(Socket::from(fd))).collect::<Result<Vec<Client>, _>>()?;
    let first = clients.first().context("a domain without clients")?;
    say(&link, [READY, 0])?;
    while let Some([what, about]) = hear(&link)? {
        match what {
            LITTLE => {
                pause(Duration::from_nanos(about));
                for ns in ask_for_little(first)? {
                    say(&link, [TOOK, ns])?;
                }
                say(&link, [DONE, 0])?;
            }
            EVERYTHING => say(&link, [DONE, ask_for_everything(&clients, &link)?])?,
            other => bail!("a domain is told {other}"),
        }
    }
    Ok(())
}

fn ask_for_little(client: &Client) -> anyhow::Result<Vec<u64>> {
    let (queue, from, into) =
        (client.device("copy")?.queue(0)?, client.create(SMALL)?, client.create(SMALL)?);
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < PART {
        let before = Instant::now();
        let mut batch = client.batch();
        batch.job(&queue, "copy").input(&from).output(&into);
        batch.submit()?.last().wait(Deadline::after(PATIENCE))?;
        took.push(u64::try_from(before.elapsed().as_nanos())?);
        pause(EACH.saturating_sub(before.elapsed()));
    }
    Ok(took.split_off(took.len().min(FIRST)))
}

/// Each of the clients with [`DEPTH`] copies under way, until it is enough: how many were done by then.
fn ask_for_everything(clients: &[Client], link: &Socket) -> anyhow::Result<u64> {
    let (enough, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let (enough, done) = (&enough, &done);
    scope(|all| {
        let one = |client| all.spawn(move || want_everything(client, enough, done));
        let threads: Vec<_> = clients.iter().map(one).collect();
        let told = hear(link);
        enough.store(true, Ordering::Relaxed);
        let count = done.load(Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        match told? {
            Some([ENOUGH, _]) => Ok(count),
            other => bail!("a domain that asks for everything is told {other:?}"),
        }
    })
}

fn want_everything(client: &Client, enough: &AtomicBool, done: &AtomicU64) -> anyhow::Result<()> {
    let (queue, from, into) =
        (client.device("copy")?.queue(0)?, client.create(LARGE)?, client.create(LARGE)?);
    let mut under_way = VecDeque::new();
    while !enough.load(Ordering::Relaxed) {
        while under_way.len() < DEPTH {
            let mut batch = client.batch();
            batch.job(&queue, "copy").input(&from).output(&into);
            under_way.push_back(batch.submit()?);
        }
        if let Some(oldest) = under_way.pop_front() {
            oldest.last().wait(Deadline::after(PATIENCE))?;
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    under_way.into_iter().try_for_each(|last| last.last().wait(Deadline::after(PATIENCE)))?;
    Ok(())
}
