//! `vgemctl explain`: what is behind a cause.

use serde::Serialize;
use vgem::Explanation;

use crate::cli::{Common, Explain};
use crate::reach::{Otherwise, reach};
use crate::{human, print};

/// An explanation as it is printed.
#[derive(Debug, Serialize)]
struct View {
    cause: String,
    code: &'static str,
    #[serde(skip)]
    code_words: String,
    device: Option<String>,
    pid: Option<u32>,
    client: Option<u64>,
    timeline: Option<String>,
    point: Option<u64>,
    object: Option<String>,
    at_ns: Option<u64>,
    text: String,
}

pub(crate) fn run(common: &Common, explain: &Explain) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    let told = client.explain(explain.cause)?;
    print::either(common.format, &view(&told), |view| lines(view, human::now()))
}

fn view(told: &Explanation) -> View {
    View {
        cause: told.cause.to_string(),
        code: told.code.name(),
        code_words: told.code.to_string(),
        device: told.device.clone(),
        pid: told.pid,
        client: told.client,
        timeline: told.timeline.map(|timeline| timeline.to_string()),
        point: told.point.map(|point| point.0),
        object: told.object.clone(),
        at_ns: told.at.map(|at| at.0),
        text: told.text.clone(),
    }
}

fn lines(view: &View, now: u64) -> Vec<String> {
    let known =
        |name: &str, value: Option<String>| value.map(|value| format!("{name:<9}{}", human::text(&value)));
    let point = view.point.map(|point| match &view.timeline {
        Some(timeline) => format!("{point} of {timeline}"),
        None => point.to_string(),
    });
    let what = if view.device.is_some() { "job" } else { "point" };
    let rows = [
        known("cause", Some(view.cause.clone())),
        known("what", Some(format!("{}: {}", view.code_words, view.text))),
        known("device", view.device.clone()),
        known("process", view.pid.map(|pid| pid.to_string())),
        known("client", view.client.map(|client| client.to_string())),
        known(what, point),
        known("object", view.object.clone()),
        known("when", view.at_ns.map(|at| human::until(at, now))),
    ];
    rows.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_says_whose_doing_it_was_where_and_when() {
        let told = View {
            cause: "cause:3.7".into(),
            code: "TimedOut",
            code_words: "took too long".into(),
            device: Some("zip".into()),
            pid: Some(4711),
            client: Some(4),
            timeline: Some("timeline:1.4".into()),
            point: Some(7),
            object: Some("frame".into()),
            at_ns: Some(1_000_000),
            text: "5100 ms of 5000".into(),
        };
        insta::assert_snapshot!(lines(&told, 85_000_000).join("\n"), @r"
        cause    cause:3.7
        what     took too long: 5100 ms of 5000
        device   zip
        process  4711
        client   4
        job      7 of timeline:1.4
        object   frame
        when     84 ms ago
        ");
    }

    #[test]
    fn what_is_not_known_has_no_line() {
        let told = View {
            cause: "cause:3.7".into(),
            code: "OwnerDied",
            code_words: "its owner died".into(),
            device: None,
            pid: None,
            client: None,
            timeline: None,
            point: Some(7),
            object: None,
            at_ns: None,
            text: "gone".into(),
        };
        assert_eq!(lines(&told, 0), ["cause    cause:3.7", "what     its owner died: gone", "point    7"]);
    }
}
