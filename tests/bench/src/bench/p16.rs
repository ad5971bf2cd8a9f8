//! P16: ten domains on one device, of which one takes all it can get: what the other nine lose by that.
//!
//! First all ten have more work than the machine can do, the greedy one by eight clients with deep queues: by how equal
//! what they got done is (Jain's index, 1 if all got the same). Then the nine ask for little, each for a short copy every
//! few milliseconds, alone and beside the greedy one: by how much later the last hundredth of it is done. A client that
//! asks for all it can get at once has no such time: what it waits for is its own work.
//!
//! Each domain's clients are a process in a session of its own, as those of ten users are, and each has a driver process of
//! its own; so the kernel divides the device's time, and the broker what is left to it: whose requests are read next. A
//! copy wakes three processes one after the other, and each waits for a core that is taken. What that costs any program
//! is measured too: the same path by hand (a packet to a process, another to a second one, which signals a fence
//! page), alone and beside the same greedy domain.

use std::time::Duration;

use vgem::DomainOptions;
use vgem_os::clock;
use vgem_os::seqpacket::Socket;

use crate::floor::Tracked;
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::noise::pause;
use crate::report::{Bound, Claim, JudgedIn, Unit};
use crate::sample::Times;
use crate::subject::Vgemd;
use crate::subject::domains::{Domain, EACH, PART};

/// Domains that ask for little.
const HONEST: usize = 9;
/// Clients of the one that does not.
const GREEDY: usize = 8;
/// How long all ask for everything: the scheduler evens out over seconds what it gives to groups on several cores.
const EVERYTHING: Duration = Duration::from_secs(5);

const EQUAL: &str = "Jain's index of what ten domains got done, one greedy";
const ALONE: &str = "a copy of 4 KiB of nine domains, alone";
const BESIDE: &str = "a copy of 4 KiB of nine domains, beside a greedy one";
const BARE_ALONE: &str = "the same path by hand, alone";
const BARE_BESIDE: &str = "the same path by hand, beside the greedy domain";

/// Starts vgemd, with ten domains.
///
/// # Errors
/// When vgemd cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let domain = |name: &str, clients| {
        let made = vgemd.client.create_domain(&DomainOptions::new(name))?;
        let clients = (0..clients).map(|_| Socket::connect(&made.socket)).collect::<Result<_, _>>()?;
        Domain::start(clients)
    };
    let honest = (0..HONEST).map(|n| domain(&format!("honest-{n}"), 1)).collect::<Result<_, _>>()?;
    let greedy = domain("greedy", GREEDY)?;
    let bare = Tracked::start_apart()?;
    Ok(Box::new(P16 { cores: context.power.cores, honest, greedy, bare, _vgemd: vgemd }))
}

#[derive(Debug)]
struct P16 {
    cores: Cores,
    // Before the broker they are clients of.
    honest: Vec<Domain>,
    greedy: Domain,
    bare: Tracked,
    _vgemd: Vgemd,
}

impl Bench for P16 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Anywhere)?;
        found.number(EQUAL, Unit::Count, self.all_want_everything()?);
        found.times(ALONE, self.nine_want_little()?);
        found.times(BARE_ALONE, self.by_hand()?);
        self.greedy.ask_for_everything()?;
        found.times(BESIDE, self.nine_want_little()?);
        found.times(BARE_BESIDE, self.by_hand()?);
        self.greedy.enough()?;
        self.greedy.done().map(drop)
    }

    fn claims(&self) -> Vec<Claim> {
        vec![
            Claim::number("P16", EQUAL, Bound::AtLeast(0.95)).judged_in(JudgedIn::Default),
            Claim::tails("P16", BESIDE, ALONE, Bound::AtMost(2.0)).judged_in(JudgedIn::Default),
            Claim::tails("P16", BARE_BESIDE, BARE_ALONE, Bound::Shown),
            Claim::tails("P16", BESIDE, BARE_BESIDE, Bound::Shown),
        ]
    }
}

impl P16 {
    /// How equal it is what each domain gets done when all want more than there is.
    fn all_want_everything(&self) -> anyhow::Result<f64> {
        let all = || self.honest.iter().chain([&self.greedy]);
        all().try_for_each(Domain::ask_for_everything)?;
        pause(EVERYTHING);
        all().try_for_each(Domain::enough)?;
        let done = all().map(Domain::done).collect::<anyhow::Result<Vec<u64>>>()?;
        Ok(jain(&done))
    }

    /// How long each copy takes of domains that ask for few.
    fn nine_want_little(&self) -> anyhow::Result<Times> {
        for (n, domain) in (0..).zip(&self.honest) {
            // Not all at the same moment.
            domain.ask_for_little(EACH * n / u32::try_from(HONEST)?)?;
        }
        let mut times = Times::default();
        for domain in &self.honest {
            domain.took()?.into_iter().for_each(|ns| times.push(ns));
        }
        Ok(times)
    }

    /// How long it takes by hand, as often as all nine domains together ask.
    fn by_hand(&mut self) -> anyhow::Result<Times> {
        let each = EACH / u32::try_from(HONEST)?;
        let mut times = Times::default();
        let begin = clock::now();
        while Duration::from_nanos(clock::now() - begin) < PART {
            let before = clock::now();
            let point = self.bare.submit()?;
            self.bare.wait(point)?;
            times.push(clock::now() - before);
            pause(each.saturating_sub(Duration::from_nanos(clock::now() - before)));
        }
        Ok(times)
    }
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
