//! What waits for what right now, laid out: columns from who waits to who has to act, and the ways of blame in words.
//!
//! ```text
//!   column 0            1                 2                  3
//!   client encoder ──► job 3 on sec ──► job 7 on zip ──► driver zip, process 4711
//! ```
//!
//! Of the jobs that only stand in a queue, behind others of it and with nobody waiting for them, only how many they are
//! is told. What is at fault is found, and said, as by `vgemctl why`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use vgem::snapshot::ObligationEntry;
use vgem_waiting::graph::{Chain, Graph, Node};
use vgem_waiting::human;
use vgem_waiting::process::Doing;
use vgem_waiting::restart::Restart;
use vgem_waiting::words::{self, Waiter, client, thing};

use crate::layout;

/// Most nodes that are drawn.
const NODES: usize = 150;
/// Most clients of which it is told why they wait.
const WAYS: usize = 50;

/// Something that waits, or is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Drawn {
    /// `client`, `job`, `promise`, `submission`, `entry`, `domain`, `process` or `device`.
    pub(crate) kind: String,
    /// What it is.
    pub(crate) title: String,
    /// What there is to say of it.
    pub(crate) note: String,
    /// The device that it is of, if one.
    pub(crate) device: String,
    /// Its column.
    pub(crate) column: usize,
    /// How far down it begins, quarters of a row.
    pub(crate) top: usize,
    /// It is on the way from a client to what is at fault.
    pub(crate) blamed: bool,
    /// It is what is at fault, and does not act.
    pub(crate) stands: bool,
}

/// The first waits for the second; both are places in the nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Edge {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) blamed: bool,
    /// In each column that it passes, how far down.
    pub(crate) bends: Vec<usize>,
}

/// Why a client waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Way {
    /// The client's number.
    pub(crate) client: u64,
    /// What it calls itself.
    pub(crate) name: String,
    /// How long it has waited for what it has waited for longest, nanoseconds.
    pub(crate) waited_ns: u64,
    /// The way to what is at fault, as `vgemctl why` says it.
    pub(crate) lines: Vec<String>,
    /// Other processes that have to act as well.
    pub(crate) others: usize,
    /// The places of the nodes on the way.
    pub(crate) nodes: Vec<usize>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Picture {
    /// Jobs and points that are drawn, and who waits for them and owes them.
    pub(crate) nodes: Vec<Drawn>,
    /// What waits for what.
    pub(crate) edges: Vec<Edge>,
    /// Jobs and points that found no room, queued ones apart.
    pub(crate) left_out: usize,
    /// By client, those that have waited longest first.
    pub(crate) ways: Vec<Way>,
    /// Clients of which it is not told.
    pub(crate) ways_left_out: usize,
}

/// What is known beside the obligations.
pub(crate) struct Around<'a> {
    /// This moment, CLOCK_MONOTONIC nanoseconds.
    pub(crate) now: u64,
    /// What a process does.
    pub(crate) doing: &'a dyn Fn(u32) -> Doing,
    /// By device and domain, drivers that are being started.
    pub(crate) restarts: &'a BTreeMap<(String, u32), Restart>,
}

/// Draws everything that waits.
pub(crate) fn drawn(owed: Vec<ObligationEntry>, around: &Around<'_>) -> Picture {
    let graph = Graph::of(owed);
    let (ways, ways_left_out) = ways(&graph, around);
    let mut canvas = Canvas::new(&graph, &ways, around);
    canvas.clients();
    canvas.ends();
    let ways = ways.into_iter().map(|(way, chain)| canvas.placed(way, &chain)).collect();
    let mut picture = Picture { left_out: canvas.left_out, ways, ways_left_out, ..canvas.picture };
    lay_out(&mut picture);
    picture
}

/// Why clients wait, of those that have waited longest; and how many others do.
fn ways(graph: &Graph, around: &Around<'_>) -> (Vec<(Way, Chain)>, usize) {
    let since = |heads: &[usize]| {
        let since = heads.iter().filter_map(|place| graph.node(*place)?.owed()).map(|entry| entry.since_ns);
        since.min().unwrap_or(around.now)
    };
    let mut clients = graph.clients();
    clients.sort_by_cached_key(|(_, _, heads)| since(heads));
    let left_out = clients.len().saturating_sub(WAYS);
    let of = |(number, name, heads): (u64, &str, Vec<usize>)| {
        let chain = graph.chain(&heads, around.now, around.doing)?;
        let way: Vec<&Node> = chain.steps.iter().filter_map(|place| graph.node(*place)).collect();
        let last = way.last().and_then(|node| node.owed());
        let restart = last.filter(|last| last.state == "restarting");
        let restart = restart.and_then(|last| around.restarts.get(&(last.device.clone(), last.domain)));
        let lines = words::lines(Waiter::Client(number, name), &way, around.now, around.doing, restart);
        let waited_ns = around.now.saturating_sub(since(&heads));
        let name = human::text(name);
        Some((Way { client: number, name, waited_ns, lines, others: chain.others, nodes: Vec::new() }, chain))
    };
    (clients.into_iter().take(WAYS).filter_map(of).collect(), left_out)
}

/// A picture that is being drawn.
struct Canvas<'a> {
    graph: &'a Graph,
    around: &'a Around<'a>,
    picture: Picture,
    /// By places in the graph, places in the picture.
    places: HashMap<usize, usize>,
    /// Places in the graph that are on a way of blame, and steps between them.
    blamed: BTreeSet<usize>,
    steps: BTreeSet<(usize, usize)>,
    /// The first and the last place of every way.
    first: BTreeSet<usize>,
    last: BTreeSet<usize>,
    left_out: usize,
}

impl<'a> Canvas<'a> {
    fn new(graph: &'a Graph, ways: &[(Way, Chain)], around: &'a Around<'a>) -> Self {
        let chains = || ways.iter().map(|(_, chain)| chain.steps.as_slice());
        let mut canvas = Self {
            graph,
            around,
            picture: Picture::default(),
            places: HashMap::new(),
            blamed: chains().flatten().copied().collect(),
            steps: chains().flat_map(|steps| steps.windows(2)).filter_map(pair).collect(),
            first: chains().filter_map(|steps| steps.first().copied()).collect(),
            last: chains().filter_map(|steps| steps.last().copied()).collect(),
            left_out: 0,
        };
        let quiet = canvas.only_queued();
        let loud: Vec<usize> =
            graph.nodes().map(|(place, ..)| place).filter(|place| !quiet.contains_key(place)).collect();
        // What is on a way of blame comes before what only waits as well.
        let (ways, others): (Vec<usize>, Vec<usize>) =
            loud.into_iter().partition(|place| canvas.blamed.contains(place));
        canvas.left_out = (ways.len() + others.len()).saturating_sub(NODES);
        let behind = behind(&quiet);
        for place in ways.into_iter().chain(others).take(NODES) {
            let Some(node) = graph.node(place) else { continue };
            let queued = behind.get(&place).copied().unwrap_or(0);
            let id = canvas.put(canvas.node(place, node, queued));
            canvas.places.insert(place, id);
        }
        canvas.edges(&quiet);
        canvas
    }

    /// Jobs that only stand in their queue, each with the one it is behind.
    fn only_queued(&self) -> HashMap<usize, usize> {
        let timeline =
            |place: usize| self.graph.node(place).and_then(Node::owed).map(|entry| entry.timeline.as_str());
        let mut awaited = BTreeSet::new();
        for (place, _, edges) in self.graph.nodes() {
            awaited.extend(edges.iter().copied().filter(|to| timeline(*to) != timeline(place)));
        }
        let quiet = |(place, node, edges): (usize, &Node, &[usize])| {
            let [before] = edges else { return None };
            let queued = node.owed().is_some_and(|entry| entry.state == "queued");
            let apart = self.blamed.contains(&place)
                || awaited.contains(&place)
                || timeline(*before) != timeline(place);
            (queued && !apart).then_some((place, *before))
        };
        self.graph.nodes().filter_map(quiet).collect()
    }

    fn put(&mut self, node: Drawn) -> usize {
        self.picture.nodes.push(node);
        self.picture.nodes.len() - 1
    }

    fn node(&self, place: usize, node: &Node, queued: usize) -> Drawn {
        let blamed = self.blamed.contains(&place);
        let entry = match node {
            Node::Owed(entry) => entry,
            Node::Elsewhere(domain) => {
                let (title, note) = (format!("domain {domain}"), "not to be seen".to_owned());
                return Drawn { blamed, ..outer("domain", title, note, "") };
            }
        };
        let age = human::time(self.around.now.saturating_sub(entry.since_ns));
        let due = match entry.due_ns {
            0 => String::new(),
            due => format!(", {}", words::due(due, self.around.now)),
        };
        let queued = if queued == 0 { String::new() } else { format!(", {queued} more queued") };
        let note = format!("{} {age}{due}{queued}", entry.state);
        Drawn { blamed, ..outer(&entry.kind, thing(entry), note, &entry.device) }
    }

    fn edges(&mut self, quiet: &HashMap<usize, usize>) {
        for (from, _, edges) in self.graph.nodes() {
            let Some(drawn) = self.places.get(&from).copied() else { continue };
            let mut seen = BTreeSet::new();
            for to in edges.iter().map(|to| through(*to, quiet)).filter(|to| seen.insert(*to)) {
                let Some(drawn_to) = self.places.get(&to).copied() else { continue };
                let blamed = self.steps.contains(&(from, to));
                self.picture.edges.push(Edge { from: drawn, to: drawn_to, blamed, bends: Vec::new() });
            }
        }
    }

    /// Draws those who wait.
    fn clients(&mut self) {
        for (number, name, heads) in self.graph.clients() {
            let heads: Vec<(usize, usize)> =
                heads.into_iter().filter_map(|head| Some((head, *self.places.get(&head)?))).collect();
            if heads.is_empty() {
                continue;
            }
            let id = self.put(outer("client", client(number, name), "waits".to_owned(), ""));
            for (place, to) in heads {
                let blamed = self.first.contains(&place);
                self.join(id, to, blamed);
            }
        }
    }

    /// Draws those who have to act.
    fn ends(&mut self) {
        let mut known = HashMap::new();
        for (place, node, edges) in self.graph.nodes() {
            let (Some(entry), Some(from)) =
                (node.owed().filter(|_| edges.is_empty()), self.places.get(&place).copied())
            else {
                continue;
            };
            let end = self.end(entry);
            let key = (end.kind.clone(), end.title.clone(), entry.domain);
            let to = *known.entry(key).or_insert_with(|| self.put(end.clone()));
            let blamed = self.last.contains(&place);
            self.join(from, to, blamed);
            if let Some(node) = self.picture.nodes.get_mut(to) {
                node.stands |= blamed && end.stands;
            }
        }
    }

    fn end(&self, entry: &ObligationEntry) -> Drawn {
        if entry.state == "restarting" {
            let restart = self.around.restarts.get(&(entry.device.clone(), entry.domain));
            let note = restart.map_or_else(|| "is being started again".to_owned(), Restart::words);
            return Drawn {
                stands: true,
                ..outer("device", format!("device {}", entry.device), note, &entry.device)
            };
        }
        let who = match entry.kind.as_str() {
            "job" => format!("driver {}", entry.device),
            _ => client(entry.client, &entry.client_name),
        };
        let doing = (self.around.doing)(entry.pid);
        let note = match doing.note() {
            "" => format!("process {}", entry.pid),
            note => format!("process {}: {note}", entry.pid),
        };
        let late = entry.due_ns != 0 && entry.due_ns < self.around.now;
        Drawn { stands: doing.is_at_a_stand() || late, ..outer("process", who, note, &entry.device) }
    }

    fn join(&mut self, from: usize, to: usize, blamed: bool) {
        self.picture.edges.push(Edge { from, to, blamed, bends: Vec::new() });
        for id in [from, to] {
            if let Some(node) = self.picture.nodes.get_mut(id) {
                node.blamed |= blamed;
            }
        }
    }

    /// A way with its places in the picture: the client's, those of its steps, and that of who has to act.
    fn placed(&self, way: Way, chain: &Chain) -> Way {
        let steps: Vec<usize> =
            chain.steps.iter().filter_map(|place| self.places.get(place).copied()).collect();
        let edges = &self.picture.edges;
        let is = |id: usize, kind: &[&str]| {
            self.picture.nodes.get(id).is_some_and(|node| kind.contains(&node.kind.as_str()))
        };
        let title = self.client_title(way.client);
        let who = steps.first().and_then(|first| {
            let from = edges.iter().filter(|edge| edge.to == *first).map(|edge| edge.from);
            from.into_iter()
                .find(|from| self.picture.nodes.get(*from).is_some_and(|node| node.title == title))
        });
        let acts = steps.last().and_then(|last| {
            let to = edges.iter().filter(|edge| edge.from == *last).map(|edge| edge.to);
            to.into_iter().find(|to| is(*to, &["process", "device"]))
        });
        Way { nodes: who.into_iter().chain(steps).chain(acts).collect(), ..way }
    }

    fn client_title(&self, number: u64) -> String {
        let named = self.graph.clients().into_iter().find(|(client, ..)| *client == number);
        named.map(|(number, name, _)| human::text(&client(number, name))).unwrap_or_default()
    }
}

fn pair(steps: &[usize]) -> Option<(usize, usize)> {
    match steps {
        [from, to] => Some((*from, *to)),
        _ => None,
    }
}

/// A node without a place. Texts may hold what peers chose.
fn outer(kind: &str, title: String, note: String, device: &str) -> Drawn {
    let (title, note) = (human::text(&title), human::text(&note));
    let (kind, device) = (kind.to_owned(), human::text(device));
    Drawn { kind, title, note, device, column: 0, top: 0, blamed: false, stands: false }
}

/// The first job that is not passed over, from one on.
fn through(mut place: usize, quiet: &HashMap<usize, usize>) -> usize {
    // A queue has a beginning, so no circle is met; the bound holds for entries that contradict each other.
    for _ in 0..=quiet.len() {
        match quiet.get(&place) {
            Some(before) => place = *before,
            None => break,
        }
    }
    place
}

/// How many are passed over behind each that is not.
fn behind(quiet: &HashMap<usize, usize>) -> HashMap<usize, usize> {
    let mut behind = HashMap::new();
    for place in quiet.keys() {
        *behind.entry(through(*place, quiet)).or_insert(0) += 1;
    }
    behind
}

/// Gives everything its place.
fn lay_out(picture: &mut Picture) {
    let edges: Vec<(usize, usize)> = picture.edges.iter().map(|edge| (edge.from, edge.to)).collect();
    let layout = layout::lay_out(picture.nodes.len(), &edges);
    for (node, place) in picture.nodes.iter_mut().zip(layout.nodes) {
        (node.column, node.top) = (place.column, place.top);
    }
    for (edge, bends) in picture.edges.iter_mut().zip(layout.bends) {
        edge.bends = bends;
    }
}

#[cfg(test)]
mod tests {
    use vgem_waiting::test_support::job;

    use super::*;

    const NOW: u64 = 100_000_000;

    fn drawn_of(owed: Vec<ObligationEntry>, stopped: u32) -> Picture {
        let doing = |pid| if pid == stopped { Doing::Stopped } else { Doing::Runs };
        drawn(owed, &Around { now: NOW, doing: &doing, restarts: &BTreeMap::new() })
    }

    fn titles(picture: &Picture, ids: &[usize]) -> Vec<String> {
        ids.iter().map(|id| picture.nodes[*id].title.clone()).collect()
    }

    fn pipeline() -> Vec<ObligationEntry> {
        vec![job(2, 1, "waiting", &[(1, 1)]), job(1, 1, "waiting", &[(3, 1)]), job(3, 1, "running", &[])]
    }

    #[test]
    fn a_way_goes_from_the_client_to_the_process_that_does_not_act() {
        let picture = drawn_of(pipeline(), 103);
        let way = &picture.ways[0];
        // The client's own job in the first device is the shortest way to what is at fault.
        let wanted = ["client 4 (encoder)", "job 1 of timeline:3.1 on copy", "driver copy"];
        assert_eq!(titles(&picture, &way.nodes), wanted);
        assert!(
            way.lines.last().is_some_and(|line| line.contains("process 103, which is stopped")),
            "{:?}",
            way.lines
        );
        let end = &picture.nodes[way.nodes[2]];
        assert!(end.blamed && end.stands && end.note == "process 103: stopped", "{end:?}");
    }

    #[test]
    fn columns_go_from_who_waits_to_who_acts() {
        let picture = drawn_of(pipeline(), 0);
        for edge in &picture.edges {
            assert!(picture.nodes[edge.from].column < picture.nodes[edge.to].column, "{picture:?}");
        }
        assert_eq!(picture.nodes.iter().map(|node| node.column).max(), Some(4));
    }

    #[test]
    fn no_two_nodes_have_one_place() {
        let owed = (1..40).map(|queue| job(queue, 1, "waiting", &[(50 + queue % 3, 1)]));
        let picture = drawn_of(owed.chain((50..53).map(|queue| job(queue, 1, "running", &[]))).collect(), 0);
        let places: BTreeSet<_> = picture.nodes.iter().map(|node| (node.column, node.top)).collect();
        assert_eq!(places.len(), picture.nodes.len());
    }

    #[test]
    fn jobs_that_only_stand_in_a_queue_are_counted() {
        let queue = |point| job(1, point, "queued", &[(1, point - 1)]);
        let picture = drawn_of(vec![job(1, 7, "running", &[]), queue(8), queue(9), queue(10)], 0);
        let jobs: Vec<&Drawn> = picture.nodes.iter().filter(|node| node.kind == "job").collect();
        assert_eq!(jobs.len(), 1);
        assert!(jobs[0].note.ends_with("3 more queued"), "{}", jobs[0].note);
    }

    #[test]
    fn a_queued_job_that_another_waits_for_is_drawn_with_what_it_is_behind() {
        let queue = |point| job(1, point, "queued", &[(1, point - 1)]);
        let owed = vec![job(1, 7, "running", &[]), queue(8), queue(9), job(2, 1, "waiting", &[(1, 9)])];
        let picture = drawn_of(owed, 0);
        let of =
            |title: &str| picture.nodes.iter().position(|node| node.title.starts_with(title)).expect(title);
        let (nine, seven) = (of("job 9"), of("job 7"));
        assert!(picture.edges.iter().any(|edge| (edge.from, edge.to) == (nine, seven)), "{picture:?}");
        assert!(!picture.nodes.iter().any(|node| node.title.starts_with("job 8")));
    }

    #[test]
    fn what_is_at_fault_is_drawn_before_what_finds_no_room() {
        let mut owed: Vec<_> = (100..400).map(|queue| job(queue, 1, "running", &[])).collect();
        owed.push(ObligationEntry { client: 9, client_name: "late".into(), ..job(500, 1, "running", &[]) });
        let picture = drawn_of(owed, 600);
        assert_eq!(picture.left_out, 301 - NODES);
        assert!(picture.nodes.iter().any(|node| node.title.contains("timeline:500.1") && node.blamed));
    }

    #[test]
    fn it_is_told_of_those_who_have_waited_longest_why_they_do() {
        let of = |client: u32| ObligationEntry {
            client: client.into(),
            since_ns: NOW - u64::from(client),
            ..job(client, 1, "running", &[])
        };
        let picture = drawn_of((1..=60).map(of).collect(), 0);
        assert_eq!((picture.ways.len(), picture.ways_left_out), (WAYS, 60 - WAYS));
        assert_eq!((picture.ways[0].client, picture.ways[WAYS - 1].client), (60, 11));
    }

    #[test]
    fn a_circle_is_drawn_and_ends() {
        let picture = drawn_of(vec![job(1, 1, "waiting", &[(2, 1)]), job(2, 1, "waiting", &[(1, 1)])], 0);
        assert_eq!(picture.nodes.len(), 3);
    }

    #[test]
    fn a_name_is_text_that_turns_nothing_around() {
        let owed =
            ObligationEntry { client_name: "<script>\u{202e}\x1b".into(), ..job(1, 1, "running", &[]) };
        let picture = drawn_of(vec![owed], 0);
        let said = serde_json::to_string(&picture).expect("JSON");
        assert!(said.contains("<script>\\\\u{202e}\\\\u{1b}") && !said.contains('\u{202e}'), "{said}");
    }

    #[test]
    fn nothing_waits_and_nothing_is_drawn() {
        assert_eq!(drawn_of(Vec::new(), 0), Picture::default());
    }
}
