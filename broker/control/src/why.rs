//! Why something waits: what it waits for, what that waits for, and so on.

use std::collections::{HashSet, VecDeque};

use vgem::snapshot::ObligationEntry;

use crate::values::{Dict, entry};

/// The obligation that `is_it` finds, and all that it waits for, whatever is nearest first.
pub(crate) fn chain(
    all: &[ObligationEntry],
    is_it: impl Fn(&ObligationEntry) -> bool,
) -> Vec<&ObligationEntry> {
    let mut found: Vec<&ObligationEntry> = Vec::new();
    let (mut seen, mut next): (HashSet<usize>, VecDeque<usize>) = (HashSet::new(), VecDeque::new());
    next.extend(all.iter().position(is_it));
    while let Some(index) = next.pop_front() {
        let Some(one) = all.get(index).filter(|_| seen.insert(index)) else { continue };
        found.push(one);
        // A promise stands for every point up to its own that no earlier one stands for.
        let owes = |timeline: &str, point: u64| {
            let of_it = all.iter().enumerate().filter(|(_, owed)| owed.timeline == timeline);
            of_it.filter(|(_, owed)| owed.point >= point).min_by_key(|(_, owed)| owed.point)
        };
        let awaited = one.waits.iter().filter(|awaited| !awaited.timeline.is_empty());
        next.extend(
            awaited.filter_map(|awaited| owes(&awaited.timeline, awaited.point)).map(|(index, _)| index),
        );
    }
    found
}

/// One of them as methods tell of it.
pub(crate) fn dict(owed: &ObligationEntry) -> Dict {
    let waits: Vec<(String, u64, u32)> =
        owed.waits.iter().map(|one| (one.timeline.clone(), one.point, one.domain)).collect();
    [
        entry("timeline", owed.timeline.clone()),
        entry("name", owed.name.clone()),
        entry("point", owed.point),
        entry("kind", owed.kind.clone()),
        entry("device", owed.device.clone()),
        entry("client", owed.client),
        entry("client_name", owed.client_name.clone()),
        entry("domain", owed.domain),
        entry("pid", owed.pid),
        entry("state", owed.state.clone()),
        entry("since_ns", owed.since_ns),
        entry("due_ns", owed.due_ns),
        entry("waits", waits),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use vgem::snapshot::AwaitedEntry;

    use super::*;

    fn owed(timeline: &str, point: u64, waits: &[(&str, u64)]) -> ObligationEntry {
        let awaited = |(timeline, point): &(&str, u64)| AwaitedEntry {
            timeline: (*timeline).into(),
            point: *point,
            ..AwaitedEntry::default()
        };
        let waits = waits.iter().map(awaited).collect();
        ObligationEntry { timeline: timeline.into(), point, waits, ..ObligationEntry::default() }
    }

    fn points<'a>(chain: &[&'a ObligationEntry]) -> Vec<(&'a str, u64)> {
        chain.iter().map(|one| (one.timeline.as_str(), one.point)).collect()
    }

    #[test]
    fn the_nearest_is_told_first_and_each_once() {
        let all = [
            owed("a", 1, &[]),
            owed("b", 7, &[("a", 1)]),
            owed("c", 2, &[("b", 7), ("a", 1)]),
            owed("d", 9, &[]),
        ];
        let told = chain(&all, |one| one.timeline == "c");
        assert_eq!(points(&told), [("c", 2), ("b", 7), ("a", 1)]);
        assert!(chain(&all, |one| one.timeline == "e").is_empty());
    }

    #[test]
    fn a_promise_stands_for_the_points_before_its_own() {
        let all = [owed("a", 5, &[]), owed("a", 9, &[]), owed("b", 1, &[("a", 4)])];
        assert_eq!(points(&chain(&all, |one| one.timeline == "b")), [("b", 1), ("a", 5)]);
    }

    #[test]
    fn what_may_not_be_seen_ends_the_way() {
        let all = [owed("", 0, &[]), owed("b", 1, &[("", 0)])];
        assert_eq!(points(&chain(&all, |one| one.timeline == "b")), [("b", 1)]);
    }
}
