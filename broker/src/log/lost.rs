//! Lines that whoever was to have them did not take: counted, and said before the next that is taken.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many, since that was said.
#[derive(Debug, Default)]
pub(super) struct Lost {
    lines: AtomicU64,
}

impl Lost {
    /// Has what was lost said, if there is some, and then a line; both say whether they were taken.
    pub(super) fn before(&self, say: impl FnOnce(u64) -> bool, line: impl FnOnce() -> bool) {
        // One of two threads says it, perhaps after the line of the other.
        let lost = self.lines.swap(0, Ordering::Relaxed);
        if lost > 0 && !say(lost) {
            self.lines.fetch_add(lost + 1, Ordering::Relaxed);
        } else if !line() {
            self.lines.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_said_once_before_the_next_line_that_is_taken() {
        let lost = Lost::default();
        let nothing = |_| panic!("nothing was lost");
        lost.before(nothing, || true);
        lost.before(nothing, || false);
        // Nor is that taken, and so neither is the line.
        lost.before(|lines| lines > 1, || panic!("it would come before what is said"));
        let mut said = 0;
        lost.before(
            |lines| {
                said = lines;
                true
            },
            || true,
        );
        assert_eq!(said, 2);
        lost.before(nothing, || true);
    }
}
