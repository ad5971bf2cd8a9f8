//! A way from a waiter to what holds it up, in words: a line per step, each deeper than the one before.

use vgem::snapshot::ObligationEntry;

use crate::graph::Node;
use crate::human;
use crate::process::Doing;
use crate::restart::Restart;

/// Whom the question was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiter<'a> {
    /// A client; the way begins at what it waits for.
    Client(u64, &'a str),
    /// The point that the way begins with.
    Point,
}

/// A line: what, and since when that is so.
type Row = (String, String);

/// The lines of a way at the moment `now`; `doing` says what a process does. The last one's device may be the one that
/// is being started.
pub fn lines(
    waiter: Waiter<'_>,
    way: &[&Node],
    now: u64,
    doing: &dyn Fn(u32) -> Doing,
    restart: Option<&Restart>,
) -> Vec<String> {
    let mut rows = Vec::new();
    rows.extend(way.first().and_then(|first| first.owed()).map(|first| begin(waiter, first, now)));
    let way = without_the_queue_between(way);
    for pair in way.windows(2) {
        let [before, after] = pair else { continue };
        rows.extend(before.node.owed().map(|owed| step(owed, after, now)));
    }
    rows.extend(way.last().and_then(|last| last.node.owed()).map(|last| end(last, now, doing, restart)));
    laid_out(rows)
}

/// A step of the way, and how many jobs of the queue it was reached through.
struct Step<'a> {
    node: &'a Node,
    queued: usize,
}

/// The way without the jobs of one queue that are between its first and its last there.
fn without_the_queue_between<'a>(way: &[&'a Node]) -> Vec<Step<'a>> {
    let mut steps: Vec<Step<'a>> = Vec::new();
    for node in way {
        let same = |step: &Step<'_>| match (step.node.owed(), node.owed()) {
            (Some(before), Some(entry)) => before.timeline == entry.timeline,
            _ => false,
        };
        match steps.last_mut() {
            Some(last) if same(last) && last.queued > 0 => {
                *last = Step { node, queued: last.queued + 1 };
            }
            Some(last) => {
                let queued = usize::from(same(last));
                steps.push(Step { node, queued });
            }
            None => steps.push(Step { node, queued: 0 }),
        }
    }
    steps
}

fn begin(waiter: Waiter<'_>, first: &ObligationEntry, now: u64) -> Row {
    let thing = thing(first);
    let text = match waiter {
        Waiter::Client(number, name) if number == first.client => {
            format!("{} waits for {thing}", client(number, name))
        }
        Waiter::Client(number, name) => {
            format!("{} waits for {thing}, of {}", client(number, name), whose(first))
        }
        Waiter::Point => format!("{thing}, of {}", whose(first)),
    };
    (text, since(first.since_ns, now))
}

fn step(before: &ObligationEntry, after: &Step<'_>, now: u64) -> Row {
    let since = since(before.since_ns, now);
    let Some(entry) = after.node.owed() else {
        let Node::Elsewhere(domain) = after.node else { return (String::new(), since) };
        return (format!("which waits for something in domain {domain}, which you may not see"), since);
    };
    let thing = match before.client == entry.client {
        true => thing(entry),
        false => format!("{}, of {}", thing(entry), whose(entry)),
    };
    let text = match after.queued {
        0 => format!("which waits for {thing}"),
        1 => format!("which is queued behind {thing}"),
        jobs => format!("which is queued behind {jobs} jobs, the first of them {thing}"),
    };
    (text, since)
}

/// What the last one of a way waits for: a process, or that there is one.
fn end(last: &ObligationEntry, now: u64, doing: &dyn Fn(u32) -> Doing, restart: Option<&Restart>) -> Row {
    let doing = doing(last.pid).words();
    let (pid, device, whose) = (last.pid, &last.device, whose(last));
    let waited = now.saturating_sub(last.since_ns);
    let text = match last.state.as_str() {
        "running" => {
            let most = last.due_ns.saturating_sub(last.since_ns);
            let (waited, most) = (human::time(waited), human::time(most));
            format!("which runs in driver {device}, process {pid}{doing}, for {waited} of {most}")
        }
        "restarting" => {
            let does = restart.map_or_else(|| "is being started again".to_owned(), Restart::words);
            format!("whose device {device} {does}")
        }
        "promised" => format!("which {whose}, process {pid}{doing}, has promised, {}", due(last.due_ns, now)),
        "awaited" if last.kind == "entry" => {
            let due = due(last.due_ns, now);
            format!("which has not ended in the user queue of {whose}, process {pid}{doing}, {due}")
        }
        "awaited" => {
            format!("which {whose}, process {pid}{doing}, has not promised, {}", due(last.due_ns, now))
        }
        _ => format!("which waits for nothing any more, in driver {device}, process {pid}{doing}"),
    };
    (text, String::new())
}

/// How long until a moment, or since.
pub fn due(due_ns: u64, now: u64) -> String {
    match due_ns.checked_sub(now) {
        Some(left) => format!("due in {}", human::time(left)),
        None if due_ns == 0 => "without a deadline".to_owned(),
        None => format!("late by {}", human::time(now - due_ns)),
    }
}

/// What is owed.
pub fn thing(entry: &ObligationEntry) -> String {
    match entry.kind.as_str() {
        "job" => format!("job {} of {} on {}", entry.point, entry.timeline, entry.device),
        "entry" => format!("entry {} of {}", entry.point, entry.timeline),
        _ => point_of(&entry.timeline, &entry.name, entry.point),
    }
}

/// A point of a timeline that a client signals.
pub fn point_of(timeline: &str, name: &str, point: u64) -> String {
    let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
    format!("point {point} of {timeline}{name}")
}

fn whose(entry: &ObligationEntry) -> String {
    client(entry.client, &entry.client_name)
}

/// A client, for people. One that is gone has no name any more.
pub fn client(number: u64, name: &str) -> String {
    if name.is_empty() { format!("client {number}") } else { format!("client {number} ({name})") }
}

fn since(since_ns: u64, now: u64) -> String {
    format!("since {}", human::time(now.saturating_sub(since_ns)))
}

/// The rows as lines, the ages below each other, the last one marked.
fn laid_out(rows: Vec<Row>) -> Vec<String> {
    let last = rows.len().saturating_sub(1);
    let rows: Vec<Row> = rows
        .into_iter()
        .enumerate()
        .map(|(depth, (text, age))| (format!("{:width$}{}", "", human::text(&text), width = 2 * depth), age))
        .collect();
    let aged = rows.iter().filter(|(_, age)| !age.is_empty());
    let width = aged.map(|(text, _)| text.chars().count()).max().unwrap_or(0);
    let line = |(depth, (text, age)): (usize, &Row)| {
        let mark = if depth == last { "<- here" } else { "" };
        let both = [age.as_str(), mark].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>();
        format!("{text:width$}  {}", both.join("  ")).trim_end().to_owned()
    };
    rows.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::elsewhere;
    use crate::test_support::job;

    const NOW: u64 = 100_000_000;

    fn said(waiter: Waiter<'_>, entries: Vec<ObligationEntry>, doing: Doing) -> String {
        let nodes: Vec<Node> = entries.into_iter().map(|entry| Node::Owed(Box::new(entry))).collect();
        lines(waiter, &nodes.iter().collect::<Vec<_>>(), NOW, &|_| doing, None).join("\n")
    }

    fn two_jobs() -> Vec<ObligationEntry> {
        vec![job(2, 12, "waiting", &[(1, 7)]), job(1, 7, "running", &[])]
    }

    #[test]
    fn a_way_is_told_from_the_waiter_to_the_process() {
        insta::assert_snapshot!(said(Waiter::Client(4, "encoder"), two_jobs(), Doing::Runs), @r"
        client 4 (encoder) waits for job 12 of timeline:2.1 on sec  since 84 ms
          which waits for job 7 of timeline:1.1 on zip              since 84 ms
            which runs in driver zip, process 101, for 84 ms of 100 ms  <- here
        ");
    }

    #[test]
    fn a_process_that_is_stopped_is_said_to_be() {
        insta::assert_snapshot!(said(Waiter::Point, two_jobs(), Doing::Stopped), @r"
        job 12 of timeline:2.1 on sec, of client 4 (encoder)  since 84 ms
          which waits for job 7 of timeline:1.1 on zip        since 84 ms
            which runs in driver zip, process 101, which is stopped, for 84 ms of 100 ms  <- here
        ");
    }

    #[test]
    fn the_jobs_of_a_queue_between_two_are_counted_and_not_listed() {
        let queue = |point| job(1, point, "queued", &[(1, point - 1)]);
        let entries = vec![queue(12), queue(11), queue(10), job(1, 9, "running", &[])];
        let said = said(Waiter::Point, entries, Doing::Runs);
        assert!(said.contains("which is queued behind 3 jobs, the first of them job 9"), "{said}");
        assert_eq!(said.lines().count(), 3, "{said}");
    }

    #[test]
    fn a_promise_names_the_client_that_made_it_and_how_late_it_is() {
        let promise = |state: &str, due_ns| ObligationEntry {
            kind: "promise".into(),
            client: 9,
            client_name: "camera".into(),
            pid: 4712,
            state: state.into(),
            due_ns,
            ..job(3, 5, "", &[])
        };
        let of = |entry| said(Waiter::Point, vec![entry], Doing::Runs);
        assert!(
            of(promise("promised", NOW + 17_000_000)).contains("process 4712, has promised, due in 17 ms")
        );
        assert!(of(promise("promised", NOW - 5_000_000)).contains("has promised, late by 5 ms"));
        assert!(of(promise("awaited", NOW + 1_000_000)).contains("has not promised, due in 1 ms"));
        let entry = ObligationEntry { kind: "entry".into(), ..promise("awaited", NOW + 1_000_000) };
        let wanted = "has not ended in the user queue of client 9 (camera), process 4712, due in 1 ms";
        assert!(of(entry.clone()).contains(wanted), "{}", of(entry.clone()));
        assert_eq!(thing(&entry), "entry 5 of timeline:3.1");
    }

    #[test]
    fn another_clients_job_is_said_to_be_anothers() {
        let theirs = ObligationEntry { client: 9, client_name: "camera".into(), ..job(1, 7, "running", &[]) };
        let said = said(Waiter::Point, vec![job(2, 12, "waiting", &[(1, 7)]), theirs], Doing::Runs);
        assert!(said.contains("waits for job 7 of timeline:1.1 on zip, of client 9 (camera)"), "{said}");
    }

    #[test]
    fn a_border_is_named_by_its_domain_and_nothing_else() {
        let nodes =
            [Node::Owed(Box::new(elsewhere(job(2, 12, "waiting", &[]), 1001))), Node::Elsewhere(1001)];
        let said = lines(Waiter::Point, &nodes.iter().collect::<Vec<_>>(), NOW, &|_| Doing::Runs, None);
        let line = said.last().expect("a line");
        assert!(
            line.contains("something in domain 1001, which you may not see") && line.ends_with("<- here")
        );
    }

    #[test]
    fn a_device_that_is_started_again_is_named_and_its_dead_driver_not_blamed() {
        let entries = [job(2, 12, "waiting", &[(1, 7)]), job(1, 7, "restarting", &[])];
        let nodes = entries.map(|entry| Node::Owed(Box::new(entry)));
        let way: Vec<&Node> = nodes.iter().collect();
        let restart = crate::restart::tests::of_zip();
        let said = lines(Waiter::Point, &way, NOW, &|_| Doing::Ended, Some(&restart));
        insta::assert_snapshot!(said.join("\n"), @r"
        job 12 of timeline:2.1 on sec, of client 4 (encoder)  since 84 ms
          which waits for job 7 of timeline:1.1 on zip        since 84 ms
            whose device zip is being started again, 23 ms, instead of process 101  <- here
        ");
    }

    #[test]
    fn a_clients_name_cannot_write_on_the_terminal() {
        let said = said(Waiter::Client(4, "\x1b[2J"), two_jobs(), Doing::Runs);
        assert!(!said.contains('\x1b'), "{said:?}");
    }
}
