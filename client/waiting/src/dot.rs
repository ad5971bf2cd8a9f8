//! The whole graph as a picture, in the language of graphviz: `dot -Tsvg` draws it.
//!
//! Boxes are what is owed, ellipses are clients, octagons are processes that have to act, or that
//! are to be. The way to what is at fault is
//! red. Nodes are numbered by their places in the graph, clients and processes by their own numbers.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, Node};
use crate::human;
use crate::process::Doing;
use crate::words::{client, thing};

/// A node of the picture that is not one of the graph.
type Outer = BTreeMap<String, (String, bool)>;

/// The picture's text at the moment `now`, with the way through `steps` marked.
pub fn lines(graph: &Graph, steps: &[usize], now: u64, doing: &dyn Fn(u32) -> Doing) -> Vec<String> {
    let mut lines = vec![
        "digraph waiting {".to_owned(),
        "  rankdir=LR;".to_owned(),
        "  node [shape=box, fontname=\"sans-serif\"];".to_owned(),
    ];
    let on_the_way: BTreeSet<usize> = steps.iter().copied().collect();
    let links: BTreeSet<(usize, usize)> = steps.iter().copied().zip(steps.iter().copied().skip(1)).collect();
    let (mut clients, mut processes) = (Outer::new(), Outer::new());
    for (place, node, edges) in graph.nodes() {
        lines.push(drawn(&format!("n{place}"), "", &label(node, now), on_the_way.contains(&place)));
        for to in edges {
            lines.push(edge(&format!("n{place}"), &format!("n{to}"), links.contains(&(place, *to))));
        }
        let Some(entry) = node.owed().filter(|_| edges.is_empty()) else { continue };
        let marked = steps.last() == Some(&place);
        if entry.state == "restarting" {
            let device = quoted(&format!("device {} of {}", entry.device, entry.domain));
            lines.push(edge(&format!("n{place}"), &device, marked));
            let name = format!("device {}\nis being started again", entry.device);
            processes.entry(device).or_insert((name, false)).1 |= marked;
            continue;
        }
        let who = match entry.kind.as_str() {
            "job" => format!("driver {}", entry.device),
            _ => client(entry.client, &entry.client_name),
        };
        let name = format!("{who}\nprocess {}\n{}", entry.pid, doing(entry.pid).note());
        let process = format!("p{}", entry.pid);
        lines.push(edge(&format!("n{place}"), &process, marked));
        processes.entry(process).or_insert((name, false)).1 |= marked;
    }
    for (number, name, heads) in graph.clients() {
        let id = format!("c{number}");
        for place in heads {
            let marked = steps.first() == Some(&place);
            lines.push(edge(&id, &format!("n{place}"), marked));
            clients.entry(id.clone()).or_insert((client(number, name), false)).1 |= marked;
        }
    }
    let outer = |(shape, all): (&str, Outer)| {
        let drawn = |(id, (name, marked)): (String, (String, bool))| drawn(&id, shape, &name, marked);
        all.into_iter().map(drawn).collect::<Vec<_>>()
    };
    lines.extend([("ellipse", clients), ("octagon", processes)].into_iter().flat_map(outer));
    lines.push("}".to_owned());
    lines
}

fn drawn(id: &str, shape: &str, label: &str, marked: bool) -> String {
    let shape = if shape.is_empty() { String::new() } else { format!(", shape={shape}") };
    let mark = if marked { ", color=red, penwidth=2" } else { "" };
    format!("  {id} [label={}{shape}{mark}];", quoted(label))
}

fn edge(from: &str, to: &str, marked: bool) -> String {
    format!("  {from} -> {to}{};", if marked { " [color=red, penwidth=2]" } else { "" })
}

fn label(node: &Node, now: u64) -> String {
    match node {
        Node::Owed(entry) => {
            let age = human::time(now.saturating_sub(entry.since_ns));
            format!("{}\n{} {age}", thing(entry), entry.state)
        }
        Node::Elsewhere(domain) => format!("domain {domain}"),
    }
}

/// A text as a string of the language. Lines are kept, everything else that is not plain is made so.
fn quoted(text: &str) -> String {
    let lines: Vec<String> = text
        .trim_end()
        .split('\n')
        .map(|line| human::text(line).replace('\\', "\\\\").replace('"', "\\\""))
        .collect();
    format!("\"{}\"", lines.join("\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::elsewhere;
    use crate::test_support::job;
    use vgem::snapshot::ObligationEntry;

    #[test]
    fn all_that_waits_is_drawn_and_the_way_is_marked() {
        let other =
            ObligationEntry { client: 9, client_name: "ca\"me\nra".into(), ..job(3, 1, "running", &[]) };
        let entries =
            vec![job(1, 1, "waiting", &[(2, 1), (3, 1)]), job(2, 1, "running", &[]), elsewhere(other, 7)];
        let doing = |pid| if pid == 102 { Doing::Stopped } else { Doing::Runs };
        let drawn = lines(&Graph::of(entries), &[0, 1], 100_000_000, &doing).join("\n");
        insta::assert_snapshot!(drawn, @r#"
        digraph waiting {
          rankdir=LR;
          node [shape=box, fontname="sans-serif"];
          n0 [label="job 1 of timeline:1.1 on zip\nwaiting 84 ms", color=red, penwidth=2];
          n0 -> n1 [color=red, penwidth=2];
          n0 -> n2;
          n1 [label="job 1 of timeline:2.1 on sec\nrunning 84 ms", color=red, penwidth=2];
          n1 -> p102 [color=red, penwidth=2];
          n2 [label="job 1 of timeline:3.1 on copy\nrunning 84 ms"];
          n2 -> n3;
          n3 [label="domain 7"];
          c4 -> n0 [color=red, penwidth=2];
          c4 -> n1;
          c9 -> n2;
          c4 [label="client 4 (encoder)", shape=ellipse, color=red, penwidth=2];
          c9 [label="client 9 (ca\"me\nra)", shape=ellipse];
          p102 [label="driver sec\nprocess 102\nstopped", shape=octagon, color=red, penwidth=2];
        }
        "#);
    }
}
