//! P16: ten domains on one device, of which one takes all it can get: what the other nine lose by that.
//!
//! First all ten have more work than the machine can do, the greedy one by eight clients with deep queues: by how equal
//! what they got done is (Jain's index, 1 if all got the same). Then the nine ask for little, each for a short copy every
//! few milliseconds, alone and beside the greedy one: by how much later the last hundredth of it is done.
//!
//! Each domain has a driver process of its own, so the kernel divides the device's time, and the broker what is left to
//! it: whose requests are read next. On few cores a copy waits for the process that is running, and nothing here can help
//! that: it is the same for any program.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use vgem::{Client, Deadline, DomainOptions};

use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::report::{Bound, Claim, JudgedIn, Unit};
use crate::sample::Times;
use crate::subject::Vgemd;

/// Domains that ask for little.
const HONEST: usize = 9;
/// Clients of the one that does not.
const GREEDY: usize = 8;
/// Bytes of a copy when there is too much to do.
const LARGE: u64 = 256 * 1024;
/// Copies that a client which wants everything has under way: so many that its driver has work while the client waits for
/// its turn on the core.
const DEPTH: usize = 64;
/// Bytes of a copy of those who ask for little.
const SMALL: u64 = 4096;
/// How often each of those asks.
const EACH: Duration = Duration::from_millis(5);
/// How long each part takes.
const PART: Duration = Duration::from_secs(1);

const EQUAL: &str = "Jain's index of what ten domains got done, one greedy";
const ALONE: &str = "a copy of 4 KiB of nine domains, alone";
const BESIDE: &str = "a copy of 4 KiB of nine domains, beside a greedy one";

/// Starts vgemd, with ten domains.
///
/// # Errors
/// When vgemd cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let mut honest = Vec::new();
    for n in 0..HONEST {
        let made = vgemd.client.create_domain(&DomainOptions::new(format!("honest-{n}")))?;
        honest.push(Client::connect(&made.socket)?);
    }
    let made = vgemd.client.create_domain(&DomainOptions::new("greedy"))?;
    let greedy = (0..GREEDY).map(|_| Client::connect(&made.socket)).collect::<Result<_, _>>()?;
    Ok(Box::new(P16 { cores: context.power.cores, honest, greedy, _vgemd: vgemd }))
}

#[derive(Debug)]
struct P16 {
    cores: Cores,
    // Before the broker they are clients of.
    honest: Vec<Client>,
    greedy: Vec<Client>,
    _vgemd: Vgemd,
}

impl Bench for P16 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Anywhere)?;
        found.number(EQUAL, Unit::Count, self.all_want_everything()?);
        found.times(ALONE, self.nine_want_little()?);
        let greedy = Load::start(&self.greedy);
        let beside = self.nine_want_little();
        greedy.end()?;
        found.times(BESIDE, beside?);
        Ok(())
    }

    fn claims(&self) -> Vec<Claim> {
        vec![
            Claim::number("P16", EQUAL, Bound::AtLeast(0.95)).judged_in(JudgedIn::Default),
            Claim::tails("P16", BESIDE, ALONE, Bound::AtMost(2.0)).judged_in(JudgedIn::Default),
        ]
    }
}

impl P16 {
    /// How equal it is what each domain gets done when all want more than there is.
    fn all_want_everything(&self) -> anyhow::Result<f64> {
        let honest: Vec<Load> =
            self.honest.iter().map(|client| Load::start(std::slice::from_ref(client))).collect();
        let greedy = Load::start(&self.greedy);
        std::thread::sleep(PART);
        let mut done = Vec::new();
        for load in honest.into_iter().chain([greedy]) {
            done.push(load.end()?);
        }
        Ok(jain(&done))
    }

    /// How long each copy takes of domains that ask for few.
    fn nine_want_little(&self) -> anyhow::Result<Times> {
        let threads: Vec<JoinHandle<anyhow::Result<Vec<u64>>>> = self
            .honest
            .iter()
            .cloned()
            .enumerate()
            .map(|(n, client)| std::thread::spawn(move || ask_for_little(&client, n)))
            .collect();
        let mut times = Times::default();
        for thread in threads {
            let took = thread.join().map_err(|_| anyhow!("a client panicked"))??;
            took.into_iter().for_each(|ns| times.push(ns));
        }
        Ok(times)
    }
}

fn ask_for_little(client: &Client, n: usize) -> anyhow::Result<Vec<u64>> {
    let (queue, from, into) =
        (client.device("copy")?.queue(0)?, client.create(SMALL)?, client.create(SMALL)?);
    // Not all at the same moment.
    std::thread::sleep(EACH * u32::try_from(n)? / u32::try_from(HONEST)?);
    let begin = Instant::now();
    let mut took = Vec::new();
    while begin.elapsed() < PART {
        let before = Instant::now();
        let mut batch = client.batch();
        batch.job(&queue, "copy").input(&from).output(&into);
        batch.submit()?.last().wait(Deadline::after(Duration::from_secs(10)))?;
        took.push(u64::try_from(before.elapsed().as_nanos())?);
        std::thread::sleep(EACH.saturating_sub(before.elapsed()));
    }
    // The first find nothing mapped.
    Ok(took.split_off(took.len().min(3)))
}

/// Clients of one domain that want all they can get.
#[derive(Debug)]
struct Load {
    shared: std::sync::Arc<(AtomicBool, AtomicU64)>,
    threads: Vec<JoinHandle<anyhow::Result<()>>>,
}

impl Load {
    /// Each with [`DEPTH`] copies under way at a time.
    fn start(clients: &[Client]) -> Self {
        let shared = std::sync::Arc::new((AtomicBool::new(false), AtomicU64::new(0)));
        let thread = |client: &Client| {
            let (client, shared) = (client.clone(), std::sync::Arc::clone(&shared));
            std::thread::spawn(move || want_everything(&client, &shared))
        };
        let threads = clients.iter().map(thread).collect();
        Self { shared, threads }
    }

    /// Ends it; how many copies were done.
    fn end(self) -> anyhow::Result<u64> {
        self.shared.0.store(true, Ordering::Relaxed);
        let done = self.shared.1.load(Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(done)
    }
}

fn want_everything(client: &Client, shared: &(AtomicBool, AtomicU64)) -> anyhow::Result<()> {
    let (queue, from, into) =
        (client.device("copy")?.queue(0)?, client.create(LARGE)?, client.create(LARGE)?);
    let mut under_way = VecDeque::new();
    while !shared.0.load(Ordering::Relaxed) {
        while under_way.len() < DEPTH {
            let mut batch = client.batch();
            batch.job(&queue, "copy").input(&from).output(&into);
            under_way.push_back(batch.submit()?);
        }
        if let Some(oldest) = under_way.pop_front() {
            oldest.last().wait(Deadline::after(Duration::from_secs(10)))?;
            shared.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    under_way.into_iter().try_for_each(|last| last.last().wait(Deadline::after(Duration::from_secs(10))))?;
    Ok(())
}

/// Jain's index: 1 if all have the same, 1/n if one has everything.
#[expect(clippy::cast_precision_loss, reason = "counts of one second are far below 2^52")]
fn jain(done: &[u64]) -> f64 {
    let sum: f64 = done.iter().map(|one| *one as f64).sum();
    let squares: f64 = done.iter().map(|one| (*one as f64).powi(2)).sum();
    if squares == 0.0 { 0.0 } else { sum * sum / (done.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::jain;

    #[test]
    fn jains_index_is_one_for_equals_and_least_when_one_has_everything() {
        assert!((jain(&[5, 5, 5, 5]) - 1.0).abs() < 1e-9 && (jain(&[9, 0, 0, 0]) - 0.25).abs() < 1e-9);
    }
}
