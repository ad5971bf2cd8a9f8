//! Repetitions: each waits for a quiet machine, measures the references and the bench, and is kept if nobody disturbed.
//!
//! A bench measures everything it compares inside one [`Bench::repetition`], in turns. A repetition that others or the
//! host disturbed is dropped and done again. That is bounded: at most as many are dropped as are wanted, and when
//! only as many tries are left as are still needed, every one is kept and the report says how many were disturbed.

use std::collections::BTreeSet;

use crate::mode::Power;
use crate::noise::{Usage, wait_for_quiet};
use crate::options::Options;
use crate::reference::References;
use crate::report::{Claim, Outcome, Series, Unit};
use crate::sample::{Distribution, Times};

/// What a bench is opened with.
#[derive(Debug)]
pub struct Context<'a> {
    /// The command line.
    pub options: &'a Options,
    /// The mode in force and the cores.
    pub power: &'a Power,
}

/// Something that is measured.
pub trait Bench {
    /// Measures everything once.
    ///
    /// # Errors
    /// Whatever makes the bench pointless; it ends here.
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()>;

    /// What is claimed of what was measured.
    fn claims(&self) -> Vec<Claim>;

    /// What a reader must know.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What one repetition found.
#[derive(Debug, Default)]
pub struct Repetition {
    found: Vec<(String, Unit, Distribution)>,
}

impl Repetition {
    /// Records times. None at all is recorded as nothing.
    pub fn times(&mut self, name: &str, times: Times) {
        if let Some(distribution) = times.distribution() {
            self.found.push((name.into(), Unit::Ns, distribution));
        }
    }

    /// Records a single number.
    pub fn number(&mut self, name: &str, unit: Unit, value: f64) {
        self.found.push((name.into(), unit, Distribution::single(value)));
    }
}

/// Repeats `bench` until enough repetitions are kept.
///
/// # Errors
/// The first error of the bench or of a reference.
pub fn measure(name: &str, bench: &mut dyn Bench, context: &Context<'_>) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome {
        bench: name.into(),
        mode: context.power.mode,
        series: Vec::new(),
        verdicts: Vec::new(),
        notes: context.power.note.iter().cloned().collect(),
        noise: Vec::new(),
        dropped: 0,
    };
    let mut references = References::open(context)?;
    let wanted = context.options.reps;
    let mut kept = 0;
    while kept < wanted {
        let share = wait_for_quiet(context.options.longest_wait());
        let mut repetition = Repetition::default();
        let before = Usage::now();
        references.measure(&mut repetition)?;
        bench.repetition(&mut repetition)?;
        let noise = Usage::now().since(&before);
        let tries_left = 2 * wanted - kept - outcome.dropped - 1;
        if is_dropped(noise.is_little(), tries_left, wanted - kept) {
            outcome.dropped += 1;
            tell(
                name,
                &format!(
                    "repetition dropped: others {:.0} %, host {:.0} %",
                    noise.others * 100.0,
                    noise.steal * 100.0
                ),
            );
            continue;
        }
        kept += 1;
        outcome.noise.push(noise);
        keep(&mut outcome.series, repetition);
        tell(name, &format!("{kept} of {wanted}; the machine was {:.0} % busy before", share * 100.0));
    }
    // A series that is not there in every repetition cannot be paired with the others.
    let whole = outcome.noise.len();
    let partial: BTreeSet<String> = outcome
        .series
        .iter()
        .filter(|series| series.repetitions.len() != whole)
        .map(|series| series.name.clone())
        .collect();
    outcome.series.retain(|series| !partial.contains(&series.name));
    outcome.notes.extend(partial.iter().map(|name| format!("not measured in every repetition: {name}")));
    outcome.notes.extend(bench.notes());
    outcome.judge(bench.claims());
    Ok(outcome)
}

/// Whether a repetition is done again: if it was disturbed, and enough tries are left without it.
const fn is_dropped(quiet: bool, tries_left: u32, still_wanted: u32) -> bool {
    !quiet && tries_left >= still_wanted
}

fn keep(series: &mut Vec<Series>, repetition: Repetition) {
    for (name, unit, distribution) in repetition.found {
        match series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.repetitions.push(distribution),
            None => series.push(Series { name, unit, repetitions: vec![distribution] }),
        }
    }
}

/// Tells a person who waits what goes on.
pub fn tell(name: &str, what: &str) {
    eprintln!("vgem-bench: {name}: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens to `wanted` repetitions of a machine that is never quiet: (measured, dropped).
    fn always_disturbed(wanted: u32) -> (u32, u32) {
        let (mut kept, mut dropped) = (0, 0);
        while kept < wanted {
            match is_dropped(false, 2 * wanted - kept - dropped - 1, wanted - kept) {
                true => dropped += 1,
                false => kept += 1,
            }
        }
        (kept + dropped, dropped)
    }

    #[test]
    fn a_machine_that_is_never_quiet_ends_after_twice_the_repetitions() {
        assert_eq!(always_disturbed(9), (18, 9));
        assert_eq!(always_disturbed(1), (2, 1));
    }

    #[test]
    fn a_quiet_repetition_is_kept_at_once() {
        assert!(!is_dropped(true, 17, 9));
    }
}
