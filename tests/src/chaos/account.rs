//! What a run of many rounds was like, for people.

use std::collections::BTreeMap;
use std::time::Duration;

use super::arena::Round;
use super::judge::{CHAIN, SLACK};
use super::words::End;
use crate::honest::percentile;

/// What a run of many rounds was like.
#[derive(Debug, Default)]
pub struct Account {
    kinds: BTreeMap<String, Kind>,
    /// All waits.
    waits: u64,
    /// Those that were longer than they may be on a machine that has a core for everybody.
    excused: u64,
    /// How long somebody waited for a core, in each round.
    crowded: Vec<Duration>,
}

#[derive(Debug, Default)]
struct Kind {
    rounds: u64,
    /// Rounds in which somebody else's wait did not end well.
    felt: u64,
    /// From the blow to each such end.
    answers: Vec<Duration>,
}

impl Account {
    /// Adds a round.
    pub fn add(&mut self, round: &Round) {
        let Some(case) = &round.case else { return };
        let kind = self.kinds.entry(case.blow.name()).or_default();
        kind.rounds += 1;
        let at_ns = case.struck.at_ns;
        self.crowded.push(case.crowded);
        self.waits += round.records.len() as u64;
        let waits = round
            .records
            .iter()
            .map(|(_, record)| record.ended_ns.saturating_sub(record.begun_ns.max(at_ns)));
        self.excused += waits.filter(|wait| Duration::from_nanos(*wait) > CHAIN + SLACK).count() as u64;
        let ends = round.records.iter().filter(|(_, record)| record.end != End::Done);
        let answers: Vec<_> =
            ends.map(|(_, record)| Duration::from_nanos(record.ended_ns.saturating_sub(at_ns))).collect();
        kind.felt += u64::from(!answers.is_empty());
        kind.answers.extend(answers);
    }

    /// Joins another's.
    pub fn join(&mut self, other: Self) {
        self.waits += other.waits;
        self.excused += other.excused;
        self.crowded.extend(other.crowded);
        for (name, kind) in other.kinds {
            let own = self.kinds.entry(name).or_default();
            own.rounds += kind.rounds;
            own.felt += kind.felt;
            own.answers.extend(kind.answers);
        }
    }

    /// What must be so, or the run has shown nothing.
    ///
    /// # Panics
    /// If blows at drivers were hardly ever felt, or a crowded machine had to excuse more than one wait of a hundred.
    pub fn assert_it_counts(&self) {
        let drivers =
            || self.kinds.iter().filter(|(name, _)| name.starts_with("driver")).map(|(_, kind)| kind);
        let (rounds, felt) =
            (drivers().map(|kind| kind.rounds).sum::<u64>(), drivers().map(|kind| kind.felt).sum::<u64>());
        assert!(felt * 5 >= rounds, "of {rounds} blows at drivers {felt} were felt");
        assert!(self.excused * 100 <= self.waits, "of {} waits {} were too long", self.waits, self.excused);
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
        let excused = self.excused;
        text += &format!(
            "somebody waited for a core: {half:.1?} of a round p50, {worst:.1?} worst; {excused} waits beyond {:?}\n",
            CHAIN + SLACK
        );
        text
    }
}
