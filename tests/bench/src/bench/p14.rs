//! P14: an idle vgemd does not wake up.
//!
//! A client is connected, has an object and a queue, has run a job, and does nothing. For
//! some seconds the context switches of the broker, the keeper and every driver are counted from outside: each wake-up is
//! one. All of them must be none.

use std::time::Duration;

use vgem_os::clock;

use crate::harness::{Bench, Context, Repetition};
use crate::noise::pause;
use crate::report::{Bound, Claim, JudgedIn, Unit};
use crate::sample::{ns_f64, per_second};
use crate::subject::{Fills, Kind, Process, Vgemd, Waits};

/// How long everything that is sent late may take: completions, credits, unmapping.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// The series of one kind of process.
fn series(kind: &str) -> String {
    format!("wake-ups of the {kind}")
}

/// The series of all together.
const ALL: &str = "wake-ups of all processes";

/// Starts vgemd and an idle client.
///
/// # Errors
/// When vgemd cannot start.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let fills = Fills::new(&vgemd.client, 1, 0, Waits::Implicit)?;
    let seconds = if context.options.quick { 1 } else { 5 };
    Ok(Box::new(P14 { fills, vgemd, idle: Duration::from_secs(seconds) }))
}

#[derive(Debug)]
struct P14 {
    fills: Fills,
    vgemd: Vgemd,
    idle: Duration,
}

impl Bench for P14 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.fills.round_trip()?;
        pause(SETTLED_AFTER);
        let processes = self.vgemd.processes()?;
        let count = |process: &Process| process.switches();
        let before = processes.all().iter().map(count).collect::<anyhow::Result<Vec<_>>>()?;
        let began = clock::now();
        pause(self.idle);
        let after = processes.all().iter().map(count).collect::<anyhow::Result<Vec<_>>>()?;
        let ns = clock::now() - began;
        let (mut broker, mut keeper, mut drivers) = (0, 0, 0);
        for (process, (before, after)) in processes.all().iter().zip(before.into_iter().zip(after)) {
            *match process.kind {
                Kind::Broker => &mut broker,
                Kind::Keeper => &mut keeper,
                Kind::Driver(_) => &mut drivers,
            } += after - before;
        }
        let rows = [("broker", broker), ("keeper", keeper), ("drivers", drivers)];
        for (kind, switches) in rows {
            found.number(&series(kind), Unit::PerSecond, per_second(switches, ns));
        }
        found.number(ALL, Unit::PerSecond, per_second(broker + keeper + drivers, ns));
        found.number("processes watched", Unit::Count, ns_f64(processes.all().len() as u64));
        Ok(())
    }

    fn claims(&self) -> Vec<Claim> {
        let none = |name: &str| Claim::number("P14", name, Bound::AtMost(0.0)).judged_in(JudgedIn::Any);
        let kinds = ["broker", "keeper", "drivers"].map(|kind| none(&series(kind)));
        std::iter::once(none(ALL)).chain(kinds).collect()
    }
}
