//! Results: what was found, held against targets, as a table and as JSON.
//!
//! A [`Claim`] names two series of one bench and the bound on their ratio. Its [`Verdict`] is judged by the median of
//! the ratios *within* each repetition, so that a machine that changes between repetitions does not decide it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::mode::Mode;
use crate::noise::Noise;
use crate::sample::{Distribution, Spread};

/// A cache line that comes back within this time, nanoseconds, is on a near core.
pub const NEAR_BELOW_NS: f64 = 250.0;

/// What cores are called that are not near.
const FAR: &str = "far";

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Nanoseconds.
    Ns,
    /// Events per second.
    PerSecond,
    /// Millions of bytes per second.
    MbPerSecond,
    /// A plain number.
    Count,
}

impl Unit {
    /// Its short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ns => "ns",
            Self::PerSecond => "1/s",
            Self::MbPerSecond => "MB/s",
            Self::Count => "",
        }
    }
}

/// One thing that was measured, once per kept repetition.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// What its numbers count.
    pub unit: Unit,
    /// One per kept repetition, in their order.
    pub repetitions: Vec<Distribution>,
}

/// Which number of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// The median.
    P50,
    /// The 99th percentile.
    P99,
}

impl Pick {
    const fn of(self, distribution: &Distribution) -> f64 {
        match self {
            Self::P50 => distribution.p50,
            Self::P99 => distribution.p99,
        }
    }
}

impl Series {
    /// A number's spread over the repetitions.
    #[must_use]
    pub fn spread(&self, pick: Pick) -> Option<Spread> {
        Spread::of(self.repetitions.iter().map(|repetition| pick.of(repetition)))
    }
}

/// What a ratio must be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Not above this.
    AtMost(f64),
    /// Not below this.
    AtLeast(f64),
    /// There is no target: shown for comparison.
    Shown,
}

/// The modes a claim is judged in; in others it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JudgedIn {
    /// P, or the one-core mode in its place: ratios.
    Polling,
    /// D: times that people meet.
    Default,
    /// P, where the host has put the cores far from each other.
    Far,
    /// Every mode: what no mode changes.
    Any,
}

impl JudgedIn {
    fn includes(self, mode: Mode, distance: Option<&str>) -> bool {
        match self {
            Self::Polling => mode.is_judged(),
            Self::Far => mode.is_judged() && distance == Some(FAR),
            Self::Default => !mode.is_judged(),
            Self::Any => true,
        }
    }
}

/// A ratio of two series, or one series alone, and its target.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The target's number in the list of targets, as `P3`.
    pub target: &'static str,
    /// What the ratio says.
    pub what: String,
    /// The series above the line.
    pub of: (String, Pick),
    /// The series below the line; without one the number itself is judged.
    pub over: Option<(String, Pick)>,
    /// What it must be.
    pub bound: Bound,
    /// In which modes it is judged.
    pub judged_in: JudgedIn,
}

impl Claim {
    /// The ratio of two medians.
    #[must_use]
    pub fn ratio(target: &'static str, of: &str, over: &str, bound: Bound) -> Self {
        let what = format!("{of} / {over}");
        Self {
            target,
            what,
            of: (of.into(), Pick::P50),
            over: Some((over.into(), Pick::P50)),
            bound,
            judged_in: JudgedIn::Polling,
        }
    }

    /// The ratio of two 99th percentiles.
    #[must_use]
    pub fn tails(target: &'static str, of: &str, over: &str, bound: Bound) -> Self {
        let what = format!("p99 of {of} / p99 of {over}");
        Self {
            target,
            what,
            of: (of.into(), Pick::P99),
            over: Some((over.into(), Pick::P99)),
            bound,
            judged_in: JudgedIn::Polling,
        }
    }

    /// One number by itself.
    #[must_use]
    pub fn number(target: &'static str, of: &str, bound: Bound) -> Self {
        Self {
            target,
            what: of.into(),
            of: (of.into(), Pick::P50),
            over: None,
            bound,
            judged_in: JudgedIn::Polling,
        }
    }

    /// The same, judged in other modes.
    #[must_use]
    pub const fn judged_in(mut self, modes: JudgedIn) -> Self {
        self.judged_in = modes;
        self
    }
}

/// How a claim turned out.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The claim.
    pub claim: Claim,
    /// The ratio, over the repetitions.
    pub found: Spread,
    /// Whether the mode is one that targets are judged in.
    pub judged: bool,
}

impl Verdict {
    /// How far it is from the target, as a share of the target; 0 or below is met. Nothing without a target.
    #[must_use]
    pub fn missed_by(&self) -> Option<f64> {
        match self.claim.bound {
            Bound::AtMost(most) if most > 0.0 => Some(self.found.median / most - 1.0),
            // Nothing may happen at all: every event is one too many.
            Bound::AtMost(most) => Some(self.found.median - most),
            Bound::AtLeast(least) => Some(1.0 - self.found.median / least),
            Bound::Shown => None,
        }
    }

    /// `MET`, `MISSED by 12 %`, or why there is no verdict.
    #[must_use]
    pub fn words(&self) -> String {
        match (self.missed_by(), self.claim.bound) {
            (None, _) => "for comparison".into(),
            (Some(by), _) if by <= 0.0 => self.mark("MET"),
            (Some(by), Bound::AtMost(most)) if most <= 0.0 => self.mark(&format!("MISSED by {by:.2}")),
            (Some(by), _) => self.mark(&format!("MISSED by {:.1} %", by * 100.0)),
        }
    }

    fn mark(&self, words: &str) -> String {
        if self.judged {
            words.into()
        } else {
            let when = match self.claim.judged_in {
                JudgedIn::Default => "D",
                JudgedIn::Far => "P, far",
                JudgedIn::Polling | JudgedIn::Any => "P",
            };
            format!("({words}; judged in {when})")
        }
    }

    fn json(&self) -> Value {
        let (kind, bound) = match self.claim.bound {
            Bound::AtMost(most) => ("at_most", Some(most)),
            Bound::AtLeast(least) => ("at_least", Some(least)),
            Bound::Shown => ("shown", None),
        };
        json!({
            "target": self.claim.target, "what": self.claim.what, "kind": kind, "bound": bound,
            "median": self.found.median, "min": self.found.min, "max": self.found.max,
            "judged": self.judged, "met": self.missed_by().map(|by| by <= 0.0), "missed_by": self.missed_by(),
        })
    }
}

/// All that one bench found in one mode.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The bench.
    pub bench: String,
    /// The mode.
    pub mode: Mode,
    /// What it measured.
    pub series: Vec<Series>,
    /// Its claims, judged.
    pub verdicts: Vec<Verdict>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// What each kept repetition met.
    pub noise: Vec<Noise>,
    /// Repetitions that were measured and dropped.
    pub dropped: u32,
}

impl Outcome {
    /// Judges `claims` by what was measured. A claim about something that was not measured is a note.
    pub fn judge(&mut self, claims: Vec<Claim>) {
        for claim in claims {
            match found(&self.series, &claim) {
                Some(found) => {
                    let distance = self.distance().map(|(_, word)| word);
                    let judged = claim.judged_in.includes(self.mode, distance);
                    self.verdicts.push(Verdict { claim, found, judged });
                }
                None => self.notes.push(format!("{}: not measured: {}", claim.target, claim.what)),
            }
        }
    }

    /// The cache line's round trip, nanoseconds, and whether the cores were near or far.
    #[must_use]
    pub fn distance(&self) -> Option<(Spread, &'static str)> {
        let line = self.series.iter().find(|series| series.name == crate::reference::CACHE_LINE)?;
        let spread = line.spread(Pick::P50)?;
        let word = match (spread.min < NEAR_BELOW_NS, spread.max < NEAR_BELOW_NS) {
            (true, true) => "near",
            (false, false) => FAR,
            _ => "near and far",
        };
        Some((spread, word))
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        let distance = self.distance().map_or_else(
            || "cores not told apart".to_owned(),
            |(line, word)| {
                format!("{word}, cache line {:.0} ns [{:.0}..{:.0}]", line.median, line.min, line.max)
            },
        );
        let noisy = self.noise.iter().filter(|noise| !noise.is_little()).count();
        let kept = self.noise.len();
        put(&mut out, format!("== {} | mode {} | {distance}", self.bench, self.mode.letter()));
        put(
            &mut out,
            format!("   {kept} repetitions kept, {} dropped, {noisy} of the kept disturbed", self.dropped),
        );
        for note in &self.notes {
            put(&mut out, format!("   note: {note}"));
        }
        for series in &self.series {
            put(&mut out, format!("   {}", line_of(series)));
        }
        for verdict in &self.verdicts {
            let Verdict { claim, found, .. } = verdict;
            let bound = match claim.bound {
                Bound::AtMost(most) => format!("<= {}", short(most)),
                Bound::AtLeast(least) => format!(">= {}", short(least)),
                Bound::Shown => String::new(),
            };
            let range = format!("{} [{}..{}]", short(found.median), short(found.min), short(found.max));
            put(
                &mut out,
                format!(
                    "   {:<4} {range:<30} {bound:<12} {:<24} {}",
                    claim.target,
                    verdict.words(),
                    claim.what
                ),
            );
        }
        out
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let distance =
            self.distance().map(|(line, word)| json!({ "cache_line_ns": line.median, "cores": word }));
        let series = self.series.iter().map(|series| {
            let number = |of: fn(&Distribution) -> f64| series.repetitions.iter().map(of).collect::<Vec<_>>();
            let spread = series.spread(Pick::P50);
            json!({
                "name": series.name, "unit": series.unit.name(),
                "p50": spread.map(|s| s.median), "p50_min": spread.map(|s| s.min), "p50_max": spread.map(|s| s.max),
                "p99": series.spread(Pick::P99).map(|s| s.median),
                "repetitions": { "p50": number(|d| d.p50), "p99": number(|d| d.p99), "min": number(|d| d.min) },
                "samples_per_repetition": series.repetitions.first().map_or(0, |d| d.count),
            })
        });
        json!({
            "bench": self.bench, "mode": self.mode.letter(), "distance": distance,
            "series": series.collect::<Vec<_>>(),
            "verdicts": self.verdicts.iter().map(Verdict::json).collect::<Vec<_>>(),
            "notes": self.notes, "dropped": self.dropped,
            "noise": self.noise.iter().map(|n| json!({ "others": n.others, "steal": n.steal })).collect::<Vec<_>>(),
        })
    }
}

/// The whole run as one document.
#[must_use]
pub fn document(machine: &Machine, notes: &[String], outcomes: &[Outcome]) -> Value {
    json!({
        "machine": machine.json(), "notes": notes,
        "results": outcomes.iter().map(Outcome::json).collect::<Vec<_>>(),
    })
}

fn found(series: &[Series], claim: &Claim) -> Option<Spread> {
    let named = |name: &str| series.iter().find(|series| series.name == name);
    let of = named(&claim.of.0)?;
    let Some((name, pick)) = &claim.over else { return of.spread(claim.of.1) };
    let over = named(name)?;
    let pairs = of.repetitions.iter().zip(&over.repetitions);
    Spread::of(pairs.map(|(of, over)| claim.of.1.of(of) / pick.of(over)))
}

fn line_of(series: &Series) -> String {
    let (Some(p50), Some(p99)) = (series.spread(Pick::P50), series.spread(Pick::P99)) else {
        return format!("{:<58} nothing kept", series.name);
    };
    let unit = series.unit.name();
    let middle = format!("{:>9} [{}..{}] {unit}", short(p50.median), short(p50.min), short(p50.max));
    let single = series.repetitions.iter().all(|repetition| repetition.count == 1);
    let tail = if single { String::new() } else { format!("p99 {} {unit}", short(p99.median)) };
    format!("{:<58} {middle:<36} {tail}", series.name)
}

/// A number with about four digits, and thousands apart.
#[must_use]
pub fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 1e7 => format!("{:.2}M", number / 1e6),
        size if size >= 1e5 => format!("{:.1}k", number / 1e3),
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

fn put(out: &mut String, line: String) {
    let written = writeln!(out, "{}", line.trim_end());
    debug_assert!(written.is_ok(), "a string takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, medians: &[f64]) -> Series {
        let repetitions = medians.iter().map(|median| Distribution::single(*median)).collect();
        Series { name: name.into(), unit: Unit::Ns, repetitions }
    }

    fn outcome(mode: Mode) -> Outcome {
        Outcome {
            bench: "P0".into(),
            mode,
            series: vec![series("ours", &[10.0, 40.0, 30.0]), series("bare", &[10.0, 20.0, 20.0])],
            verdicts: Vec::new(),
            notes: Vec::new(),
            noise: Vec::new(),
            dropped: 0,
        }
    }

    #[test]
    fn a_ratio_is_taken_within_each_repetition() {
        let mut outcome = outcome(Mode::Polling);
        outcome.judge(vec![Claim::ratio("P0", "ours", "bare", Bound::AtMost(1.6))]);
        assert_eq!(outcome.verdicts[0].found, Spread { median: 1.5, min: 1.0, max: 2.0 });
        assert_eq!(outcome.verdicts[0].words(), "MET");
    }

    #[test]
    fn a_missed_target_says_by_how_much() {
        let mut outcome = outcome(Mode::Polling);
        outcome.judge(vec![
            Claim::ratio("P0", "ours", "bare", Bound::AtMost(1.25)),
            Claim::ratio("P0", "ours", "bare", Bound::AtLeast(2.0)),
        ]);
        let words: Vec<_> = outcome.verdicts.iter().map(Verdict::words).collect();
        assert_eq!(words, ["MISSED by 20.0 %", "MISSED by 25.0 %"]);
    }

    #[test]
    fn where_nothing_is_allowed_one_event_misses() {
        let mut outcome = outcome(Mode::Polling);
        outcome.series.push(series("events", &[0.5]));
        outcome.judge(vec![Claim::number("P0", "events", Bound::AtMost(0.0))]);
        assert_eq!(outcome.verdicts[0].words(), "MISSED by 0.50");
    }

    #[test]
    fn nothing_is_judged_in_the_default_mode() {
        let mut outcome = outcome(Mode::Default);
        outcome.judge(vec![Claim::ratio("P0", "ours", "bare", Bound::AtMost(1.6))]);
        assert_eq!(outcome.verdicts[0].words(), "(MET; judged in P)");
    }

    #[test]
    fn a_time_that_people_meet_is_judged_in_the_default_mode_alone() {
        let claim = Claim::number("P0", "ours", Bound::AtMost(50.0)).judged_in(JudgedIn::Default);
        let judged = [Mode::Default, Mode::Polling].map(|mode| {
            let mut outcome = outcome(mode);
            outcome.judge(vec![claim.clone()]);
            outcome.verdicts[0].words()
        });
        assert_eq!(judged, ["MET", "(MET; judged in D)"]);
    }

    #[test]
    fn what_no_mode_changes_is_judged_in_all() {
        for mode in [Mode::Default, Mode::Polling, Mode::OneCore] {
            let mut outcome = outcome(mode);
            let claim = Claim::number("P0", "ours", Bound::AtMost(50.0)).judged_in(JudgedIn::Any);
            outcome.judge(vec![claim]);
            assert_eq!(outcome.verdicts[0].words(), "MET", "{mode:?}");
        }
    }

    #[test]
    fn a_claim_about_what_was_not_measured_is_told() {
        let mut outcome = outcome(Mode::Polling);
        outcome.judge(vec![Claim::ratio("P0", "ours", "a peer", Bound::Shown)]);
        assert_eq!(outcome.notes, ["P0: not measured: ours / a peer"]);
    }

    #[test]
    fn what_is_asked_of_far_cores_is_not_asked_of_near_ones() {
        for (line, words) in [(300.0, "MISSED by 25.0 %"), (100.0, "(MISSED by 25.0 %; judged in P, far)")] {
            let mut outcome = outcome(Mode::Polling);
            outcome.series.push(series(crate::reference::CACHE_LINE, &[line; 3]));
            let claim = Claim::ratio("P0", "ours", "bare", Bound::AtLeast(2.0));
            outcome.judge(vec![claim.judged_in(JudgedIn::Far)]);
            assert_eq!(outcome.verdicts[0].words(), words);
        }
    }

    #[test]
    fn cores_are_near_or_far_by_the_cache_line() {
        let mut outcome = outcome(Mode::Polling);
        outcome.series.push(series(crate::reference::CACHE_LINE, &[125.0, 490.0]));
        assert_eq!(outcome.distance().map(|(_, word)| word), Some("near and far"));
    }
}
