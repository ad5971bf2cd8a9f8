//! What a run of many rounds was like, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use super::arena::Round;
use super::judge::{CROWDED, SLACK};
use super::words::End;
use crate::honest::percentile;

/// What a run of many rounds was like.
#[derive(Debug, Default)]
pub struct Account {
    kinds: BTreeMap<String, Kind>,
    /// All waits of the rounds that count.
    waits: u64,
    /// How late those were that were late, and all of them as it must be.
    late: Vec<Duration>,
    /// How long somebody waited for a core, in each round that counts.
    crowded: Vec<Duration>,
    /// Rounds that do not count.
    again: u64,
}

#[derive(Debug, Default)]
struct Kind {
    rounds: u64,
    /// Rounds in which somebody's wait did not end well, or went another way.
    felt: u64,
    /// Whether that must be so in some.
    can_be_felt: bool,
    /// From the blow to each such end.
    answers: Vec<Duration>,
}

impl Kind {
    /// Whether it should have been felt more often; what is rare says nothing.
    fn missed(&self) -> bool {
        const ENOUGH: u64 = 20;
        self.can_be_felt && self.rounds >= ENOUGH && self.felt * 10 < self.rounds
    }
}

impl Account {
    /// Adds a round; whether it counts. If not, its blow is to be played again: the machine was crowded, or the victim
    /// was not there.
    pub fn add(&mut self, round: &Round) -> bool {
        let Some(case) = round.case.as_ref().filter(|case| !case.is_crowded()) else {
            self.again += 1;
            return false;
        };
        let kind = self.kinds.entry(case.blow.name()).or_default();
        kind.rounds += 1;
        kind.can_be_felt = case.blow.can_be_felt();
        self.crowded.push(case.crowded);
        self.waits += round.records.len() as u64;
        let late = round.records.iter().map(|(role, record)| case.late(*role, record));
        self.late.extend(late.filter(|late| !late.is_zero()));
        let ends = round.records.iter().filter(|(_, record)| record.end != End::Done);
        let answer = |ended_ns: u64| Duration::from_nanos(ended_ns.saturating_sub(case.struck.at_ns));
        let answers: Vec<_> = ends.map(|(_, record)| answer(record.ended_ns)).collect();
        kind.felt += u64::from(!answers.is_empty() || case.detour);
        kind.answers.extend(answers);
        true
    }

    /// Rounds that did not count.
    #[must_use]
    pub fn again(&self) -> u64 {
        self.again
    }

    /// What must be so, or the run has shown nothing: of every kind of blow that others can feel, some were felt.
    ///
    /// # Panics
    /// If it is not.
    pub fn assert_it_counts(&self) {
        let missed: Vec<_> = self.kinds.iter().filter(|(_, kind)| kind.missed()).collect();
        assert!(missed.is_empty(), "hardly ever felt: {missed:#?}");
    }

    /// A table, for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::from(
            "struck                            rounds   felt   answered p50        p99      worst\n",
        );
        for (name, kind) in &self.kinds {
            let [half, most, worst] = [50, 99, 100].map(|part| percentile(kind.answers.clone(), part));
            text += &format!(
                "{name:32} {:7} {:6} {half:>14.1?} {most:>10.1?} {worst:>10.1?}\n",
                kind.rounds, kind.felt
            );
        }
        let [half, worst] = [50, 100].map(|part| percentile(self.crowded.clone(), part));
        text += &format!("somebody waited for a core: {half:.1?} of a round p50, {worst:.1?} worst\n");
        text += &format!("played again, for it was more than {CROWDED:?}: {} rounds\n", self.again);
        let (late, worst) = (self.late.len(), percentile(self.late.clone(), 100));
        text += &format!(
            "{late} of {} waits ended after their deadline, by {worst:.1?} at most; {SLACK:?} is the bound\n",
            self.waits
        );
        text
    }
}
