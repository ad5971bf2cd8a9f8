//! `vgemctl explain`: what is behind a cause.

use serde::Serialize;

use crate::cli::{Common, Explain};
use crate::reach::{Otherwise, reach};
use crate::{human, print};

/// An explanation as it is printed.
#[derive(Debug, Serialize)]
struct View {
    cause: String,
    code: &'static str,
    device: Option<String>,
    pid: Option<u32>,
    point: Option<u64>,
    at_ns: Option<u64>,
    text: String,
}

pub(crate) fn run(common: &Common, explain: &Explain) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    let told = client.explain(explain.cause)?;
    let view = View {
        cause: told.cause.to_string(),
        code: told.code.name(),
        device: told.device.clone(),
        pid: told.pid,
        point: told.point.map(|point| point.0),
        at_ns: told.at.map(|at| at.0),
        text: told.text.clone(),
    };
    print::either(common.format, &view, |view| {
        let known = |name: &str, value: Option<String>| {
            value.map(|value| format!("{name:<8}{}", human::text(&value)))
        };
        let rows = [
            known("cause", Some(view.cause.clone())),
            known("what", Some(format!("{}: {}", told.code, view.text))),
            known("device", view.device.clone()),
            known("process", view.pid.map(|pid| pid.to_string())),
            known("job", view.point.map(|point| point.to_string())),
        ];
        rows.into_iter().flatten().collect()
    })
}
