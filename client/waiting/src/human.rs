//! Numbers and texts as people read them.

use std::time::Duration;

use vgem::Deadline;

/// Bytes, in the largest unit that keeps a number of at most four digits.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut whole = bytes;
    let mut rest = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or("B");
    match rest * 10 / 1024 {
        0 => format!("{whole} {name}"),
        tenth => format!("{whole}.{tenth} {name}"),
    }
}

/// A span of time, in at most two units.
pub fn time(ns: u64) -> String {
    let (us, ms, s) = (ns / 1_000, ns / 1_000_000, ns / 1_000_000_000);
    match (s, ms, us) {
        (0, 0, 0) => format!("{ns} ns"),
        (0, 0, us) => format!("{us} us"),
        (0, ms, _) => format!("{ms} ms"),
        (s, ms, _) if s < 60 => format!("{s}.{} s", ms % 1000 / 100),
        (s, ..) if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        (s, ..) if s < 86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        (s, ..) => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// This moment on the clock of everything that the broker says (CLOCK_MONOTONIC), nanoseconds.
pub fn now() -> u64 {
    Deadline::after(Duration::ZERO).time().0
}

/// How long it is until a moment, or how long ago it was; nothing for one that never comes.
pub fn until(moment_ns: u64, now: u64) -> String {
    match moment_ns.checked_sub(now) {
        Some(left) => format!("in {}", time(left)),
        None if moment_ns == 0 => String::new(),
        None => format!("{} ago", time(now - moment_ns)),
    }
}

/// A text from a client or a driver, harmless on a terminal: control characters become escapes.
pub fn text(text: &str) -> String {
    let mut harmless = String::with_capacity(text.len());
    for c in text.chars() {
        // Marks that change the direction of what follows are as bad as escapes.
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if c.is_control() || turns {
            harmless.extend(c.escape_unicode());
        } else {
            harmless.push(c);
        }
    }
    harmless
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_one_decimal() {
        let said: Vec<_> = [0, 1023, 1024, 1536, 64 << 20, u64::MAX].map(bytes).into();
        assert_eq!(said, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "64 MiB", "16383.9 PiB"]);
    }

    #[test]
    fn times_have_at_most_two_units() {
        let said: Vec<_> =
            [5, 5_000, 5_000_000, 5_300_000_000, 65_000_000_000, 90_000_000_000_000].map(time).into();
        assert_eq!(said, ["5 ns", "5 us", "5 ms", "5.3 s", "1 min 5 s", "1 d 1 h"]);
    }

    #[test]
    fn a_moment_is_ahead_or_behind_or_never() {
        let said = [7_000_000, 2_000_000, 0].map(|moment| until(moment, 5_000_000));
        assert_eq!(said, ["in 2 ms", "3 ms ago", ""]);
    }

    #[test]
    fn a_name_cannot_write_on_the_terminal() {
        assert_eq!(text("a\x1b[2Jb\n\u{202e}c"), "a\\u{1b}[2Jb\\u{a}\\u{202e}c");
    }

    #[test]
    fn hexadecimal_has_two_digits_per_byte() {
        assert_eq!(hex(&[0, 10, 255]), "000aff");
    }
}
