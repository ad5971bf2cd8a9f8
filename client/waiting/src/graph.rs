//! The graph, and the search for what is at fault.
//!
//! What holds a waiter up is an *end*: an entry that waits for nothing, because its own process has to act. A waiter may
//! depend on several. The one at fault is that whose process cannot act at all, or else one that is late, or else the one
//! that lasts longest; the way to it is the one with the fewest steps.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use vgem::snapshot::ObligationEntry;

use crate::process::Doing;

/// A place in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A point that somebody owes.
    Owed(Box<ObligationEntry>),
    /// Something in a domain that may not be looked into.
    Elsewhere(u32),
}

impl Node {
    /// The obligation, if it may be seen.
    pub fn owed(&self) -> Option<&ObligationEntry> {
        match self {
            Self::Owed(entry) => Some(entry),
            Self::Elsewhere(_) => None,
        }
    }
}

/// Everything that is owed, and what waits for what.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    /// Per node, what it waits for.
    edges: Vec<Vec<usize>>,
    places: HashMap<(String, u64), usize>,
    /// Per timeline, the promises in the order of their points.
    promises: HashMap<String, BTreeMap<u64, usize>>,
}

/// How much an end is to blame, most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blame {
    /// Its process cannot act.
    AtAStand,
    /// It is past its time, or its device is being started again.
    Late,
    /// Nobody here can tell.
    Elsewhere,
    /// Its process is in the kernel.
    Kernel,
    /// None: it has time left.
    InTime,
}

/// A way from a waiter to what holds it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Nodes, the waiter's own first.
    pub steps: Vec<usize>,
    /// Other processes, and domains, that have to act as well.
    pub others: usize,
}

impl Graph {
    /// The graph of what is owed at a moment.
    pub fn of(entries: Vec<ObligationEntry>) -> Self {
        let mut graph = Self::default();
        for entry in entries {
            let place = graph.nodes.len();
            graph.places.insert((entry.timeline.clone(), entry.point), place);
            if entry.kind == "promise" {
                graph.promises.entry(entry.timeline.clone()).or_default().insert(entry.point, place);
            }
            graph.nodes.push(Node::Owed(Box::new(entry)));
        }
        for place in 0..graph.nodes.len() {
            let edges = graph.edges_of(place);
            graph.edges.push(edges);
        }
        graph.edges.resize(graph.nodes.len(), Vec::new());
        graph
    }

    /// What a node waits for; domains beyond a border become nodes here.
    fn edges_of(&mut self, place: usize) -> Vec<usize> {
        let Some(entry) = self.node(place).and_then(Node::owed) else { return Vec::new() };
        let mut edges = Vec::new();
        let mut beyond = Vec::new();
        for wait in &entry.waits {
            if wait.timeline.is_empty() {
                beyond.push(wait.domain);
            } else {
                edges.extend(self.find(&wait.timeline, wait.point));
            }
        }
        beyond.sort_unstable();
        beyond.dedup();
        for domain in beyond {
            let key = (format!("domain {domain}"), 0);
            let next = self.nodes.len();
            let border = *self.places.entry(key).or_insert(next);
            if border == next {
                self.nodes.push(Node::Elsewhere(domain));
            }
            edges.push(border);
        }
        edges
    }

    /// What is at a place; nothing if there is no such place.
    pub fn node(&self, place: usize) -> Option<&Node> {
        self.nodes.get(place)
    }

    /// Every place, what is there, and the places it waits for.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, &Node, &[usize])> {
        self.nodes.iter().zip(&self.edges).enumerate().map(|(place, (node, to))| (place, node, to.as_slice()))
    }

    fn entries(&self) -> impl Iterator<Item = (usize, &ObligationEntry)> {
        self.nodes.iter().enumerate().filter_map(|(place, node)| node.owed().map(|entry| (place, entry)))
    }

    /// What a point is owed by: its own entry, or the promise that stands for it.
    pub fn find(&self, timeline: &str, point: u64) -> Option<usize> {
        let own = self.places.get(&(timeline.to_owned(), point)).copied();
        own.or_else(|| {
            let promises = self.promises.get(timeline)?;
            promises.range(point..).next().map(|(_, place)| *place)
        })
    }

    /// The newest point that is owed on a timeline.
    pub fn newest(&self, timeline: &str) -> Option<usize> {
        let own = self.entries().filter(|(_, entry)| entry.timeline == timeline);
        own.max_by_key(|(_, entry)| entry.point).map(|(place, _)| place)
    }

    /// What a client waits for: the job at the head of each of its queues.
    pub fn heads_of(&self, client: u64) -> Vec<usize> {
        let all = self.clients().into_iter().find(|(number, ..)| *number == client);
        all.map(|(_, _, heads)| heads).unwrap_or_default()
    }

    /// Clients that wait for jobs: number, name, and the job at the head of each queue.
    pub fn clients(&self) -> Vec<(u64, &str, Vec<usize>)> {
        let mut heads = BTreeMap::<(u64, &str), (u64, usize)>::new();
        for (place, entry) in self.entries().filter(|(_, entry)| entry.kind == "job") {
            let head = heads.entry((entry.client, &entry.timeline)).or_insert((entry.point, place));
            *head = (*head).min((entry.point, place));
        }
        let mut clients = BTreeMap::<u64, Vec<usize>>::new();
        for ((client, _), (_, place)) in heads {
            clients.entry(client).or_default().push(place);
        }
        let named = |(number, mut places): (u64, Vec<usize>)| {
            places.sort_unstable();
            let first = places.first().and_then(|place| self.node(*place)).and_then(Node::owed);
            (number, first.map_or("", |entry| entry.client_name.as_str()), places)
        };
        clients.into_iter().map(named).collect()
    }

    /// What a client owes by its own word, not by a driver's.
    pub fn owed_by(&self, client: u64) -> Vec<&ObligationEntry> {
        let own = |entry: &&ObligationEntry| entry.client == client && entry.kind != "job";
        self.nodes.iter().filter_map(Node::owed).filter(own).collect()
    }

    /// The shortest way from one of `starts` to the end that is most to blame at the moment `now`; `doing` says what a process
    /// does. Nothing if there are no starts.
    pub fn chain(&self, starts: &[usize], now: u64, doing: &dyn Fn(u32) -> Doing) -> Option<Chain> {
        let mut came_from: HashMap<usize, Option<usize>> =
            starts.iter().map(|place| (*place, None)).collect();
        let mut next: VecDeque<usize> = starts.iter().copied().collect();
        let (mut ends, mut last) = (Vec::new(), None);
        while let Some(place) = next.pop_front() {
            let edges = self.edges.get(place).map(Vec::as_slice).unwrap_or_default();
            if edges.is_empty() {
                ends.push(place);
            }
            for to in edges {
                came_from.entry(*to).or_insert_with(|| {
                    next.push_back(*to);
                    Some(place)
                });
            }
            last = Some(place);
        }
        let blame = |place: &usize| self.node(*place).map(|node| blame(node, now, doing));
        // Entries of different moments might make a circle without an end: then any way says something.
        let end = ends.iter().copied().min_by_key(blame).or(last)?;
        let mut steps = vec![end];
        while let Some(Some(before)) = steps.last().and_then(|place| came_from.get(place)) {
            steps.push(*before);
        }
        steps.reverse();
        let who = |place: &usize| match self.node(*place) {
            Some(Node::Owed(entry)) => (Some(entry.pid), entry.domain),
            Some(Node::Elsewhere(domain)) => (None, *domain),
            None => (None, 0),
        };
        let others: BTreeSet<_> = ends.iter().map(who).filter(|one| *one != who(&end)).collect();
        Some(Chain { steps, others: others.len() })
    }
}

/// How much an end is to blame, and since when.
fn blame(node: &Node, now: u64, doing: &dyn Fn(u32) -> Doing) -> (Blame, u64) {
    let Some(entry) = node.owed() else { return (Blame::Elsewhere, 0) };
    // Nothing is to be expected of that process, whatever it does.
    if entry.state == "restarting" {
        return (Blame::Late, entry.since_ns);
    }
    let doing = doing(entry.pid);
    let blame = if entry.due_ns != 0 && entry.due_ns < now {
        Blame::Late
    } else if doing == Doing::Kernel {
        Blame::Kernel
    } else {
        Blame::InTime
    };
    (if doing.is_at_a_stand() { Blame::AtAStand } else { blame }, entry.since_ns)
}

#[cfg(test)]
pub(crate) mod tests {
    use vgem::snapshot::AwaitedEntry;

    use super::*;
    use crate::test_support::job;

    pub(crate) fn elsewhere(mut entry: ObligationEntry, domain: u32) -> ObligationEntry {
        entry.waits.push(AwaitedEntry { domain, ..AwaitedEntry::default() });
        entry
    }

    /// The queues on the way to what is at fault.
    fn way(entries: Vec<ObligationEntry>, starts: &[usize], stopped: u32) -> Vec<String> {
        let graph = Graph::of(entries);
        let doing = |pid| if pid == stopped { Doing::Stopped } else { Doing::Runs };
        let chain = graph.chain(starts, 100_000_000, &doing).expect("there are starts");
        let name = |place: &usize| match graph.node(*place).expect("a node") {
            Node::Owed(entry) => entry.timeline.clone(),
            Node::Elsewhere(domain) => format!("domain {domain}"),
        };
        chain.steps.iter().map(name).collect()
    }

    fn diamond() -> Vec<ObligationEntry> {
        let late = ObligationEntry { due_ns: 50_000_000, ..job(4, 1, "running", &[]) };
        vec![
            job(1, 1, "waiting", &[(2, 1), (3, 1), (4, 1)]),
            job(2, 1, "waiting", &[(3, 1)]),
            job(3, 1, "running", &[]),
            late,
        ]
    }

    #[test]
    fn the_way_leads_to_the_process_that_cannot_act_and_is_the_shortest() {
        assert_eq!(way(diamond(), &[0], 103), ["timeline:1.1", "timeline:3.1"]);
    }

    #[test]
    fn others_that_have_to_act_are_counted_by_their_processes() {
        let again = ObligationEntry { timeline: "timeline:9.1".into(), ..job(3, 1, "running", &[]) };
        let graph = Graph::of([diamond(), vec![again]].concat());
        let chain = graph.chain(&[0, 4], 0, &|_| Doing::Runs).expect("there are starts");
        assert_eq!(chain.others, 1);
    }

    #[test]
    fn where_every_process_acts_the_late_one_is_at_fault() {
        assert_eq!(way(diamond(), &[0], 0), ["timeline:1.1", "timeline:4.1"]);
    }

    #[test]
    fn a_device_that_is_started_again_is_blamed_before_who_has_time_and_after_who_is_stopped() {
        let again = ObligationEntry { pid: 103, ..job(3, 1, "restarting", &[]) };
        let entries = |stopped| {
            let two = vec![job(1, 1, "waiting", &[(2, 1), (3, 1)]), job(2, 1, "running", &[]), again.clone()];
            way(two, &[0], stopped)
        };
        assert_eq!(entries(0), ["timeline:1.1", "timeline:3.1"]);
        assert_eq!(entries(102), ["timeline:1.1", "timeline:2.1"]);
        assert_eq!(entries(103), ["timeline:1.1", "timeline:3.1"]);
    }

    #[test]
    fn where_none_is_late_the_one_that_lasts_longest_is_named() {
        let first = ObligationEntry { since_ns: 5, ..job(3, 1, "running", &[]) };
        let entries = vec![job(1, 1, "waiting", &[(2, 1), (3, 1)]), job(2, 1, "running", &[]), first];
        assert_eq!(way(entries, &[0], 0), ["timeline:1.1", "timeline:3.1"]);
    }

    #[test]
    fn a_border_is_an_end_and_blamed_before_who_has_time_left() {
        let entries = vec![elsewhere(job(1, 1, "waiting", &[(2, 1)]), 1001), job(2, 1, "running", &[])];
        assert_eq!(way(entries, &[0], 0), ["timeline:1.1", "domain 1001"]);
    }

    #[test]
    fn a_point_without_an_entry_has_ended_and_is_no_step() {
        assert_eq!(way(vec![job(1, 1, "waiting", &[(9, 9)])], &[0], 0), ["timeline:1.1"]);
    }

    #[test]
    fn a_circle_does_not_catch_the_search() {
        let entries = vec![job(1, 1, "waiting", &[(2, 1)]), job(2, 1, "waiting", &[(1, 1)])];
        assert_eq!(way(entries, &[0], 0), ["timeline:1.1", "timeline:2.1"]);
    }

    #[test]
    fn a_promise_stands_for_the_points_behind_the_one_before_it() {
        let promise = |point| ObligationEntry { kind: "promise".into(), ..job(9, point, "promised", &[]) };
        let graph = Graph::of(vec![promise(3), promise(8), job(1, 7, "running", &[])]);
        let found = [2, 3, 4, 8, 9].map(|point| graph.find("timeline:9.1", point));
        assert_eq!(found, [Some(0), Some(0), Some(1), Some(1), None]);
        assert_eq!(graph.find("timeline:1.1", 6), None);
    }

    #[test]
    fn a_client_waits_for_the_heads_of_its_queues() {
        let theirs = ObligationEntry { client: 5, ..job(3, 1, "running", &[]) };
        let entries = vec![
            job(1, 8, "queued", &[(1, 7)]),
            job(1, 7, "running", &[]),
            job(2, 3, "running", &[]),
            theirs,
        ];
        assert_eq!(Graph::of(entries).heads_of(4), [1, 2]);
    }

    #[test]
    fn a_timeline_stands_for_its_newest_point() {
        let graph = Graph::of(vec![job(1, 7, "running", &[]), job(1, 8, "queued", &[(1, 7)])]);
        assert_eq!((graph.newest("timeline:1.1"), graph.newest("timeline:2.1")), (Some(1), None));
    }
}
