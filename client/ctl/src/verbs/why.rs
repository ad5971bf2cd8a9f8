//! `vgemctl why`: why a point, a job or a client waits, from the waiter to the process that has to act.
//!
//! The broker says who owes what and what it waits for; the rest is a search ([`crate::waiting`]), and a look at what the
//! process at the end of the way does, or at the device that has none yet. Of what does not wait it is said how it ended.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use vgem::Client;
use vgem::snapshot::{ClientEntry, ObligationEntry};

use crate::cli::{Common, Format, Why};
use crate::exit::{NotThere, Usage};
use crate::process::{Doing, doing};
use crate::reach::{Otherwise, reach};
use crate::verbs::ended::{Ended, ended};
use crate::waiting::asked::Asked;
use crate::waiting::dot;
use crate::waiting::graph::{Chain, Graph, Node};
use crate::waiting::restart::{Restart, Restarts};
use crate::waiting::words::{self, Waiter, client, thing};
use crate::{human, print};

/// How often everything is looked at again because something moved meanwhile.
const LOOKS: usize = 3;

/// An answer as it is printed.
#[derive(Debug, Serialize)]
struct Report {
    asked: String,
    /// From the waiter to what holds it up.
    chain: Vec<Step>,
    /// What the process at the end does.
    process: Option<Process>,
    /// Devices that are being started, if anybody waits for them, or may.
    starting: Vec<Restart>,
    /// Other processes that have to act as well.
    others: usize,
    /// How the point ended, if it has.
    ended: Option<Ended>,
    /// What the client that was asked about owes by its own word.
    owes: Vec<ObligationEntry>,
    #[serde(skip)]
    lines: Vec<String>,
}

/// A step of the way.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Step {
    Owed {
        #[serde(flatten)]
        entry: Box<ObligationEntry>,
        age_ns: u64,
    },
    Elsewhere {
        kind: &'static str,
        domain: u32,
    },
}

/// A process and what it does.
#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    doing: Doing,
    late: bool,
}

/// Who or what the question is about, once it is known.
enum About {
    Point { timeline: String, point: Option<u64> },
    Client(ClientEntry),
}

pub(crate) fn run(common: &Common, why: &Why) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    let about = about(client, &why.what)?;
    for look in 1.. {
        let graph = Graph::of(client.obligation_entries()?);
        let now = human::now();
        let starts = match &about {
            About::Point { timeline, point: Some(point) } => {
                graph.find(timeline, *point).into_iter().collect()
            }
            About::Point { timeline, point: None } => graph.newest(timeline).into_iter().collect(),
            About::Client(entry) => graph.heads_of(entry.client),
        };
        let seen = Seen::new(Path::new("/proc"));
        let doing = |pid| seen.doing(pid);
        let chain = graph.chain(&starts, now, &doing);
        if common.format == Format::Dot {
            let steps = chain.map(|chain| chain.steps).unwrap_or_default();
            return print::lines(&dot::lines(&graph, &steps, now, &doing));
        }
        let report = match (chain, &about) {
            (Some(chain), _) => {
                let restart = restart_of(client, &graph, &chain, now)?;
                waiting(&about, &graph, &chain, now, &doing, restart)
            }
            (None, About::Client(entry)) => {
                idle(entry, &graph, now, &doing, Restarts::of(client)?.all(client, entry.domain, now))
            }
            (None, About::Point { timeline, point }) => match ended(client, timeline, *point)? {
                Some(ended) => {
                    let starting = match ended.failed_on() {
                        Some((device, domain)) => Restarts::of(client)?.unready(client, device, domain, now),
                        None => None,
                    };
                    over(ended, starting)
                }
                None if look < LOOKS => continue,
                None => anyhow::bail!("{} begins and ends faster than it can be looked at", name_of(&about)),
            },
        };
        return print::either(common.format, &report, |report| report.lines.clone());
    }
    Ok(())
}

/// The client that is meant, if it is one.
fn about(client: &Client, asked: &Asked) -> anyhow::Result<About> {
    let found: Vec<ClientEntry> = match asked {
        Asked::Point { timeline, point } => {
            return Ok(About::Point { timeline: timeline.clone(), point: *point });
        }
        Asked::Client(number) => {
            client.client_entries()?.into_iter().filter(|one| one.client == *number).collect()
        }
        Asked::Name(name) => client.client_entries()?.into_iter().filter(|one| one.name == *name).collect(),
    };
    if let Asked::Name(name) = asked
        && found.is_empty()
        && let Some(about) = named_timeline(client, name)?
    {
        return Ok(about);
    }
    match <[ClientEntry; 1]>::try_from(found) {
        Ok([only]) => Ok(About::Client(only)),
        Err(none) if none.is_empty() => {
            let text = match asked {
                Asked::Name(_) => "no client and no timeline is named",
                Asked::Point { .. } | Asked::Client(_) => "no client",
            };
            let text = format!("{text} {}; `vgemctl list clients` names those there are", shown(asked));
            Err(NotThere(text).into())
        }
        Err(several) => {
            let numbers: Vec<String> = several.iter().take(8).map(|one| one.client.to_string()).collect();
            let text = format!(
                "{} clients call themselves {}: {}; give the number",
                several.len(),
                shown(asked),
                numbers.join(" ")
            );
            Err(Usage(text).into())
        }
    }
}

/// The only timeline of a name, with the point behind a colon if there is one.
fn named_timeline(client: &Client, text: &str) -> anyhow::Result<Option<About>> {
    let all = client.timeline_entries()?;
    let ways = [Some((text, None)), text.rsplit_once(':').map(|(name, point)| (name, point.parse().ok()))];
    for (name, point) in ways.into_iter().flatten() {
        let mut found = all.iter().filter(|one| one.name == name);
        if let (Some(only), None) = (found.next(), found.next())
            && (point.is_some() || name == text)
        {
            return Ok(Some(About::Point { timeline: only.timeline.clone(), point }));
        }
    }
    Ok(None)
}

fn shown(asked: &Asked) -> String {
    match asked {
        Asked::Point { timeline, .. } => timeline.clone(),
        Asked::Client(number) => number.to_string(),
        Asked::Name(name) => format!("{name:?}"),
    }
}

fn name_of(about: &About) -> String {
    match about {
        About::Point { timeline, point: Some(point) } => format!("point {point} of {timeline}"),
        About::Point { timeline, point: None } => timeline.clone(),
        About::Client(entry) => client(entry.client, &entry.name),
    }
}

/// The device at the end of a way, if it is being started.
fn restart_of(client: &Client, graph: &Graph, chain: &Chain, now: u64) -> anyhow::Result<Option<Restart>> {
    let last = chain.steps.last().and_then(|place| graph.node(*place)).and_then(Node::owed);
    let Some(last) = last.filter(|last| last.state == "restarting") else { return Ok(None) };
    Ok(Restarts::of(client)?.named(client, &last.device, last.domain, now))
}

fn waiting(
    about: &About,
    graph: &Graph,
    chain: &Chain,
    now: u64,
    doing: &dyn Fn(u32) -> Doing,
    restart: Option<Restart>,
) -> Report {
    let way: Vec<&Node> = chain.steps.iter().filter_map(|place| graph.node(*place)).collect();
    let waiter = match about {
        About::Client(entry) => Waiter::Client(entry.client, &entry.name),
        About::Point { .. } => Waiter::Point,
    };
    let mut lines = words::lines(waiter, &way, now, doing, restart.as_ref());
    match chain.others {
        0 => {}
        1 => lines.push("One other process has to act as well; --format dot draws it.".to_owned()),
        others => {
            lines.push(format!("{others} other processes have to act as well; --format dot draws them."));
        }
    }
    let step = |node: &&Node| match node {
        Node::Owed(entry) => Step::Owed { age_ns: now.saturating_sub(entry.since_ns), entry: entry.clone() },
        Node::Elsewhere(domain) => Step::Elsewhere { kind: "domain", domain: *domain },
    };
    // Of a device that is being started there is no process that has to act.
    let acts = |entry: &&ObligationEntry| entry.pid != 0 && entry.state != "restarting";
    let last = way.last().and_then(|node| node.owed()).filter(acts);
    let process = last.map(|entry| Process {
        pid: entry.pid,
        doing: doing(entry.pid),
        late: entry.due_ns != 0 && entry.due_ns < now,
    });
    Report {
        asked: name_of(about),
        chain: way.iter().map(step).collect(),
        process,
        starting: restart.into_iter().collect(),
        others: chain.others,
        ended: None,
        owes: Vec::new(),
        lines,
    }
}

/// A client that waits for nothing that is owed: perhaps for a device.
fn idle(
    entry: &ClientEntry,
    graph: &Graph,
    now: u64,
    doing: &dyn Fn(u32) -> Doing,
    starting: Vec<Restart>,
) -> Report {
    let (pid, does) = (entry.pid, doing(entry.pid));
    let name = client(entry.client, &entry.name);
    let mut lines = vec![human::text(&format!("{name}, process {pid}{}, waits for no job", does.words()))];
    let owes: Vec<ObligationEntry> = graph.owed_by(entry.client).into_iter().cloned().collect();
    for one in &owes {
        let does = match one.kind.as_str() {
            "promise" => "it has promised",
            "entry" => "jobs wait for its",
            _ => "it has not promised",
        };
        lines.push(human::text(&format!("{does} {}, {}", thing(one), words::due(one.due_ns, now))));
    }
    lines.extend(starting.iter().map(Restart::line));
    Report {
        asked: name,
        chain: Vec::new(),
        process: Some(Process { pid, doing: does, late: false }),
        starting,
        others: 0,
        ended: None,
        owes,
        lines,
    }
}

/// A point that nobody waits for any more.
fn over(ended: Ended, starting: Option<Restart>) -> Report {
    let lines = ended.lines().into_iter().chain(starting.as_ref().map(Restart::line)).collect();
    Report {
        asked: ended.name(),
        chain: Vec::new(),
        process: None,
        starting: starting.into_iter().collect(),
        others: 0,
        lines,
        ended: Some(ended),
        owes: Vec::new(),
    }
}

/// What processes do, each looked at once.
struct Seen<'a> {
    proc: &'a Path,
    known: RefCell<HashMap<u32, Doing>>,
}

impl<'a> Seen<'a> {
    fn new(proc: &'a Path) -> Self {
        Self { proc, known: RefCell::default() }
    }

    fn doing(&self, pid: u32) -> Doing {
        *self.known.borrow_mut().entry(pid).or_insert_with(|| doing(self.proc, pid))
    }
}
