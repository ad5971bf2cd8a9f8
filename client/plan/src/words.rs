//! A choice as people read it: one table, and a line for each way that was not possible.

use std::fmt::{self, Write as _};

use crate::choice::{Candidate, Choice, Verdict};
use crate::way::Aim;

/// Columns.
const WIDTH: usize = 80;

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        wrapped(f, &self.first_line())?;
        writeln!(f, "\nway              base    per KiB    in all   own CPU")?;
        for one in &self.candidates {
            writeln!(f, "{}", row(one).trim_end())?;
        }
        for one in &self.candidates {
            if let Verdict::Not(obstacle) = &one.verdict {
                wrapped(f, &format!("not {}: {obstacle}", one.way))?;
            }
        }
        wrapped(f, &self.thresholds())
    }
}

impl Choice {
    fn first_line(&self) -> String {
        let what = format!("{}.{} of {}", self.device, self.op, size(self.bytes));
        let Some(way) = self.way else { return format!("{what}: no way is left") };
        let candidate = self.candidate(way);
        let why = match (candidate.estimate, self.aim) {
            (None, _) => "the first that is possible, for none was measured".to_owned(),
            (Some(estimate), Aim::Latency) => {
                format!("done first, in about {}", time(estimate.wall_ns))
            }
            (Some(estimate), Aim::OwnCpu) => {
                format!("the least of the own CPU, about {}", time(estimate.own_ns))
            }
        };
        format!("{what}: {way}, {why}")
    }

    fn thresholds(&self) -> String {
        let mut text = String::from("thresholds:");
        match self.crossovers.split_first() {
            None => text.push_str(" none, for no way that is possible was measured"),
            Some((first, [])) => text.push_str(&format!(" {} at every size", first.way)),
            Some((first, rest)) => {
                text.push_str(&format!(" {}", first.way));
                for one in rest {
                    text.push_str(&format!(", from {} on {}", size(one.from), one.way));
                }
            }
        }
        text
    }
}

fn row(one: &Candidate) -> String {
    let verdict = match one.verdict {
        Verdict::Chosen => "chosen",
        Verdict::Costlier => "costlier",
        Verdict::NotMeasured => "not measured",
        Verdict::Not(_) => "not possible",
    };
    let [base, kib, all, own] = one.estimate.map_or_else(
        || [const { String::new() }; 4].map(|_| "-".to_owned()),
        |e| [e.wall.base_ns, 1024.0 * e.wall.byte_ns, e.wall_ns, e.own_ns].map(time),
    );
    format!("{:<10}  {base:>9}  {kib:>9} {all:>9} {own:>9}  {verdict}", one.way)
}

/// Words, broken where the next one would not fit; later lines are set in.
fn wrapped(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut column = 0;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if column == 0 {
            f.write_str(word)?;
            column = len;
        } else if column + 1 + len > WIDTH {
            write!(f, "\n  {word}")?;
            column = 2 + len;
        } else {
            write!(f, " {word}")?;
            column += 1 + len;
        }
    }
    f.write_char('\n')
}

/// Nanoseconds, with three digits at most and a unit.
pub(crate) fn time(ns: f64) -> String {
    scaled(ns, 1000.0, &["ns", "us", "ms", "s"])
}

/// Bytes, likewise.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB"])
}

/// As whole nanoseconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that leaves the range of integers saturates"
)]
pub(crate) fn whole(ns: f64) -> u64 {
    ns.round() as u64
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next();
    while value >= step - 0.5 {
        let Some(larger) = units.next() else { break };
        (value, unit) = (value / step, Some(larger));
    }
    let unit = unit.unwrap_or(&"");
    if value >= 99.95 || value.fract().abs() < 1e-9 {
        format!("{value:.0} {unit}")
    } else if value >= 9.995 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.2} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choice::{Asked, Obstacle};
    use crate::cost::{Cost, OpCosts, WayCost};
    use crate::way::Require;

    fn asked() -> Asked<'static> {
        let cost = |base, byte, own| Some(WayCost { wall: Cost::new(base, byte), own: Cost::new(own, 0.0) });
        Asked {
            device: "zip",
            op: "compress",
            bytes: 65_536,
            require: Require::ANY,
            aim: Aim::Latency,
            costs: OpCosts {
                tracked: cost(61_700.0, 4.25, 4_830.0),
                user_queue: cost(9_120.0, 4.25, 3_970.0),
                cpu: cost(230.0, 4.75, 311_500.0),
                plain: None,
            },
            obstacles: [None, Some(Obstacle::NotBound { operand: "input".into() }), None],
            asking_ns: 0.0,
        }
    }

    fn shown(asked: &Asked<'_>) -> String {
        let text = asked.choose().to_string();
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line.trim_end() == line), "{text}");
        text
    }

    #[test]
    fn a_choice_is_a_table_and_its_reasons() {
        let wanted = "\
zip.compress of 64 KiB: CPU, done first, in about 312 us

way              base    per KiB    in all   own CPU
tracked       61.7 us    4.35 us    340 us   4.83 us  costlier
user queue    9.12 us    4.35 us    288 us   3.97 us  not possible
CPU            230 ns    4.86 us    312 us    312 us  chosen
not user queue: operand \"input\" is not bound for that (`bind`)
thresholds: CPU, from 120 KiB on tracked
";
        assert_eq!(shown(&asked()), wanted);
    }

    #[test]
    fn with_nothing_left_it_says_what_is_in_the_way_of_each() {
        let why =
            "zip: unavailable: the driver ended with exit code 1 and was started 5 times in the last 10 s";
        let gone = Obstacle::Unavailable { way: crate::Way::UserQueue, why: why.into() };
        let one = Asked {
            require: Require::USER_QUEUE,
            costs: OpCosts::default(),
            obstacles: [None, Some(gone), None],
            ..asked()
        };
        let wanted = "\
zip.compress of 64 KiB: no way is left

way              base    per KiB    in all   own CPU
tracked             -          -         -         -  not possible
user queue          -          -         -         -  not possible
CPU                 -          -         -         -  not possible
not tracked: `require` forbids it
not user queue: there is no user queue: zip: unavailable: the driver ended with
  exit code 1 and was started 5 times in the last 10 s
not CPU: `require` forbids it
thresholds: none, for no way that is possible was measured
";
        assert_eq!(shown(&one), wanted);
    }

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let times = [0.0, 0.25, 12.34, 999.0, 999.7, 1_234.0, 56_780.0, 2e9, 7e12].map(time);
        let wanted =
            ["0 ns", "0.25 ns", "12.3 ns", "999 ns", "1.00 us", "1.23 us", "56.8 us", "2 s", "7000 s"];
        assert_eq!(times, wanted);
        assert_eq!([64, 1536, 65_536, 64 << 20].map(size), ["64 B", "1.50 KiB", "64 KiB", "64 MiB"]);
    }
}
