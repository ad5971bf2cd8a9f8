//! `vgemctl doctor`: this machine, and the broker if one runs; each finding with what to do about it.

use serde::Serialize;
use vgem::host::{Finding, Verdict, survey};

use crate::cli::Common;
use crate::exit::Unwell;
use crate::reach::{Otherwise, reach};
use crate::table::Table;
use crate::{human, print};

/// What doctor found.
#[derive(Debug, Serialize)]
struct Report {
    verdict: Verdict,
    findings: Vec<Finding>,
}

pub(crate) fn run(common: &Common) -> anyhow::Result<()> {
    let mut findings = survey();
    findings.extend(broker(common));
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Pass);
    let report = Report { verdict, findings };
    print::either(common.format, &report, lines)?;
    if verdict == Verdict::Fail { Err(Unwell.into()) } else { Ok(()) }
}

/// Whether a broker answers, and what it says of itself.
fn broker(common: &Common) -> Vec<Finding> {
    let name = "broker";
    let asked = reach(common, Otherwise::Fail).and_then(|reached| Ok(reached.client.status()?));
    match asked {
        Ok(status) => {
            let found = format!("answers: version {}, pid {}", status.version, status.pid);
            let features = status.features.iter().map(|line| {
                let (name, state) = line.split_once(": ").unwrap_or(("feature", line));
                feature(format!("broker's {name}"), state)
            });
            std::iter::once(Finding::pass(name, found)).chain(features).collect()
        }
        // None runs, and nobody said that one should.
        Err(error) if is_absence(&error) && !common.names_a_broker() => {
            vec![Finding::warn(name, "none runs", "start one with `vgemd --user`, or as a service")]
        }
        Err(error) => vec![Finding::fail(name, format!("{error:#}"), "see what the broker logs")],
    }
}

/// What the broker says of one feature: `degraded` is not as it should be, and what follows the semicolon is the remedy.
fn feature(name: String, state: &str) -> Finding {
    if !state.starts_with("degraded") {
        return Finding::pass(name, state);
    }
    let (found, fix) = state.split_once("; ").unwrap_or((state, "see what the broker logs"));
    Finding::warn(name, found, fix)
}

fn is_absence(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(vgem::Error::NotRunning { .. }))
}

fn lines(report: &Report) -> Vec<String> {
    let mut table = Table::new(&["", "CHECK", "FOUND"]);
    for finding in &report.findings {
        table.row([word(finding.verdict).into(), finding.name.clone(), finding.found.clone()]);
    }
    let mut lines = table.lines();
    let fixes = report.findings.iter().filter(|finding| !finding.fix.is_empty());
    let fixes: Vec<_> = fixes
        .map(|finding| format!("  {}: {}", human::text(&finding.name), human::text(&finding.fix)))
        .collect();
    if !fixes.is_empty() {
        lines.extend([String::new(), "What to do:".into()]);
        lines.extend(fixes);
    }
    lines
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "PASS",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_degraded_feature_is_a_warning_with_its_remedy() {
        let found = feature("broker's pinning".into(), "degraded, 3 of 9 bytes; raise the limit");
        assert_eq!((found.verdict, found.found.as_str()), (Verdict::Warn, "degraded, 3 of 9 bytes"));
        assert_eq!(found.fix, "raise the limit");
        assert_eq!(feature("x".into(), "9 bytes, all").verdict, Verdict::Pass);
    }
}
