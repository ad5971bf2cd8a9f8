//! P13: a process is killed; how long until everybody who waits for it has its error, cause and all.
//!
//! Against what the kernel alone takes from SIGKILL until the hang-up of a socket, of a process that has as many threads
//! and as much memory. In between lie the broker, which hears of the death and writes its verdict into the pages of all
//! who wait, their wake-ups, and the question what happened, which the library asks before it returns the error.

use crate::floor::Victims;
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::report::{Bound, Claim, JudgedIn};
use crate::sample::Times;
use crate::subject::deaths;

/// The series of the kernel alone.
const HANG_UP: &str = "SIGKILL until a socket hangs up, process like a driver";
/// The series of a driver.
const DRIVER: &str = "driver killed, until three waiters have their errors";
/// The series of the kernel alone, and of a client.
const HANG_UP_CLIENT: &str = "SIGKILL until a socket hangs up, process like a client";
const CLIENT: &str = "client killed, until three waiters have their errors";

/// The most that anybody waits, nanoseconds.
const MOST_NS: f64 = 100e6;

/// Nothing is started yet: each death is one of a fresh broker.
///
/// # Errors
/// None.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    Ok(Box::new(P13 { cores: context.power.cores, rounds: context.options.rounds(20) }))
}

#[derive(Debug)]
struct P13 {
    cores: Cores,
    rounds: usize,
}

impl Bench for P13 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        let mut all: [Times; 4] = Default::default();
        let [hang_up, driver, hang_up_client, client] = &mut all;
        for _ in 0..self.rounds {
            let death = deaths::of_a_driver(&self.cores, Seat::There)?;
            driver.push(death.ns);
            hang_up.push(self.by_hand(death.victim)?);
            let death = deaths::of_a_client(&self.cores, Seat::There)?;
            client.push(death.ns);
            hang_up_client.push(self.by_hand(death.victim)?);
        }
        for (name, times) in [HANG_UP, DRIVER, HANG_UP_CLIENT, CLIENT].into_iter().zip(all) {
            found.times(name, times);
        }
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for (killed, hang_up) in [(DRIVER, HANG_UP), (CLIENT, HANG_UP_CLIENT)] {
            claims.push(Claim::ratio("P13", killed, hang_up, Bound::AtMost(3.0)));
            claims.push(Claim::number("P13", killed, Bound::AtMost(MOST_NS)).judged_in(JudgedIn::Any));
            claims.push(Claim::tails("P13", killed, hang_up, Bound::Shown));
        }
        claims
    }
}

impl P13 {
    fn by_hand(&self, victim: Victims) -> anyhow::Result<u64> {
        self.cores.sit(Seat::Here)?;
        let took = victim.kill_one(&self.cores, Seat::There)?;
        self.cores.sit(Seat::Anywhere)?;
        Ok(took)
    }
}
