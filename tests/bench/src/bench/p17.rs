//! P17: control is flooded over a message bus: what that costs the clients of the socket.
//!
//! Flood, bus and control have one core, broker, driver and client the other, so what is left is what control asks of the
//! broker. A flood of the bus itself, which asks nobody, takes its turn too: what that costs is the machine's doing, such
//! as a cache or a core that is only half one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use vgem_os::clock;

use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::noise::pause;
use crate::report::{Bound, Claim, JudgedIn, Unit};
use crate::sample::{Times, per_second};
use crate::subject::flood::{At, Bus, Calls, Flood};
use crate::subject::{Fills, Kind, PATIENCE, Vgemd, Waits};

/// Turns of one repetition.
const TURNS: usize = 10;
/// How long a client is measured in each turn while control is flooded, and half of that otherwise.
const WINDOW: Duration = Duration::from_secs(1);
/// Until a flood is at its height.
const RISE: Duration = Duration::from_millis(100);

const ALONE: &str = "a tracked job, alone";
const FLOODED: &str = "a tracked job, control flooded";
const ASIDE: &str = "a tracked job, the bus itself flooded";
const MADE: &str = "calls made to control";
const SERVED: &str = "calls that control served";
const REFUSED: &str = "calls that control refused";
const ASIDE_SERVED: &str = "calls that the bus itself served";

/// Starts a bus, vgemd with control on it, and who floods.
///
/// # Errors
/// When one of them does not start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let cores = Cores::of_this_process()?;
    let mut notes = Vec::new();
    if !cores.are_two() {
        notes.push("one core: flood and broker share it, and nothing is shown".to_owned());
    }
    let bus = Bus::start()?;
    let vgemd = Vgemd::configured(&format!("[control]\nbus = {:?}\n", bus.address()))?;
    let fills = Fills::new(&vgemd.client, 1, 0, Waits::Implicit)?;
    for process in vgemd.processes()?.all() {
        let seat = if process.kind == Kind::Keeper { Seat::There } else { Seat::Here };
        cores.seat_process(process.pid, seat)?;
    }
    cores.seat_process(control(&vgemd)?, Seat::There)?;
    cores.seat_process(bus.pid()?, Seat::There)?;
    let flood = Flood::start(&bus)?;
    flood.role.seat(&cores, Seat::There)?;
    let mut bench = P17 { cores, window: WINDOW, fills, flood, _vgemd: vgemd, _bus: bus, notes };
    bench.control_serves()?;
    if context.options.quick {
        bench.window /= 10;
    }
    Ok(Box::new(bench))
}

/// The process of control.
fn control(vgemd: &Vgemd) -> anyhow::Result<i32> {
    let begin = Instant::now();
    loop {
        let features = vgemd.client.status()?.features;
        let said = features.iter().find_map(|line| line.strip_prefix("control: runs,"));
        if let Some((_, pid)) = said.and_then(|said| said.split_once("process ")) {
            return Ok(pid.parse()?);
        }
        ensure!(begin.elapsed() < PATIENCE, "control does not run");
        pause(RISE);
    }
}

#[derive(Debug)]
struct P17 {
    cores: Cores,
    window: Duration,
    fills: Fills,
    flood: Flood,
    // After who uses them.
    _vgemd: Vgemd,
    _bus: Bus,
    notes: Vec<String>,
}

impl P17 {
    /// Waits until control is on the bus.
    fn control_serves(&mut self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            self.flood.begin(At::Control)?;
            pause(RISE);
            if self.flood.end()?.served > 0 {
                // What a user may call at once is there again.
                pause(Duration::from_secs(2));
                return Ok(());
            }
        }
        None.context("control does not come to the bus")
    }

    fn jobs(&mut self, times: &mut Times, window: Duration) -> anyhow::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < window {
            let before = clock::now();
            self.fills.round_trip()?;
            times.push(clock::now() - before);
        }
        Ok(())
    }

    fn flooded(&mut self, at: At, times: &mut Times, window: Duration) -> anyhow::Result<Calls> {
        self.flood.begin(at)?;
        pause(RISE);
        let done = self.jobs(times, window);
        let calls = self.flood.end()?;
        done.map(|()| calls)
    }
}

impl Bench for P17 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        let (mut alone, mut flooded, mut aside) = (Times::default(), Times::default(), Times::default());
        let (mut calls, mut others, mut ns, mut others_ns) = (Calls::default(), 0, 0, 0);
        let half = self.window / 2;
        for _ in 0..TURNS {
            self.jobs(&mut alone, half)?;
            let before = clock::now();
            let Calls { made, served, refused } = self.flooded(At::Control, &mut flooded, self.window)?;
            ns += clock::now() - before;
            calls.made += made;
            calls.served += served;
            calls.refused += refused;
            let before = clock::now();
            others += self.flooded(At::Bus, &mut aside, half)?.served;
            others_ns += clock::now() - before;
        }
        for (name, times) in [(ALONE, alone), (FLOODED, flooded), (ASIDE, aside)] {
            found.times(name, times);
        }
        let rates = [(MADE, calls.made), (SERVED, calls.served), (REFUSED, calls.refused)];
        for (name, count) in rates {
            found.number(name, Unit::PerSecond, per_second(count, ns));
        }
        found.number(ASIDE_SERVED, Unit::PerSecond, per_second(others, others_ns));
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        vec![
            Claim::tails("P17", FLOODED, ALONE, Bound::AtMost(1.1)),
            Claim::tails("P17", ASIDE, ALONE, Bound::Shown),
            Claim::tails("P17", FLOODED, ASIDE, Bound::Shown),
            Claim::number("P17", MADE, Bound::Shown),
        ]
        .into_iter()
        .map(|claim| claim.judged_in(JudgedIn::Any))
        .collect()
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
