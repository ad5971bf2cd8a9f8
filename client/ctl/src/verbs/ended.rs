//! How a point ended that nobody owes any more: what its timeline's entry says of it, and what is behind its cause.

use serde::Serialize;
use vgem::snapshot::FailureEntry;
use vgem::{CauseId, Client};

use crate::exit::NotThere;
use crate::human;
use crate::waiting::words::point_of;

/// A point that is not owed.
#[derive(Debug, Serialize)]
pub(crate) struct Ended {
    pub(crate) timeline: String,
    pub(crate) point: u64,
    /// The device of a queue; empty for a client's timeline.
    device: String,
    /// The domain of that queue.
    #[serde(skip)]
    domain: u32,
    /// The name of a client's timeline.
    name: String,
    how: How,
    /// What is behind the cause, in words, if the broker still knows.
    explanation: Option<String>,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "how", rename_all = "lowercase")]
enum How {
    Well,
    Failed {
        code: String,
        cause: String,
    },
    /// So many later points failed that nobody remembers.
    Forgotten,
    /// Nobody has promised it.
    Unpromised {
        promised: u64,
    },
}

/// What is known of a timeline.
#[derive(Debug, Default)]
struct Known {
    device: String,
    domain: u32,
    name: String,
    promised: u64,
    over: u64,
    failures: Vec<FailureEntry>,
    /// From which point on all have failed.
    end: Option<FailureEntry>,
    /// How many failures the broker names at most: fewer are all there were.
    named: usize,
}

/// Failures that an entry names at most.
const NAMED: usize = 16;

/// How a point ended, or the last one of the timeline; nothing if it is owed after all.
pub(crate) fn ended(client: &Client, timeline: &str, point: Option<u64>) -> anyhow::Result<Option<Ended>> {
    let known = known(client, timeline)?;
    let point = point.unwrap_or(known.over);
    let Some(how) = known.how(point) else { return Ok(None) };
    let cause = match &how {
        How::Failed { cause, .. } => crate::waiting::asked::cause(cause).ok(),
        How::Well | How::Forgotten | How::Unpromised { .. } => None,
    };
    let explanation =
        cause.and_then(|cause: CauseId| client.explain(cause).ok()).map(|told| told.to_string());
    Ok(Some(Ended {
        timeline: timeline.to_owned(),
        point,
        device: known.device,
        domain: known.domain,
        name: known.name,
        how,
        explanation,
    }))
}

fn known(client: &Client, timeline: &str) -> anyhow::Result<Known> {
    if let Some(queue) = client.queue_entries()?.into_iter().find(|queue| queue.timeline == timeline) {
        return Ok(Known {
            device: queue.device,
            domain: queue.domain,
            promised: queue.promised,
            over: queue.ended,
            failures: queue.failures,
            named: NAMED,
            ..Known::default()
        });
    }
    if let Some(one) = client.timeline_entries()?.into_iter().find(|one| one.timeline == timeline) {
        return Ok(Known {
            name: one.name,
            promised: one.promised.max(one.signalled),
            over: one.signalled,
            failures: one.failures,
            end: one.over,
            named: NAMED,
            ..Known::default()
        });
    }
    let text = format!("no {timeline}; `vgemctl list queues` and `vgemctl list timelines` name them");
    Err(NotThere(text).into())
}

impl Known {
    fn how(&self, point: u64) -> Option<How> {
        let failed =
            |failure: &FailureEntry| How::Failed { code: failure.code.clone(), cause: failure.cause.clone() };
        if let Some(end) = self.end.as_ref().filter(|end| point >= end.point) {
            return Some(failed(end));
        }
        if point > self.promised {
            return Some(How::Unpromised { promised: self.promised });
        }
        if point > self.over {
            return None;
        }
        if let Some(failure) = self.failures.iter().find(|failure| failure.point == point) {
            return Some(failed(failure));
        }
        let oldest = self.failures.first().map_or(0, |failure| failure.point);
        let is_forgotten = self.failures.len() >= self.named && point < oldest;
        Some(if is_forgotten { How::Forgotten } else { How::Well })
    }
}

impl Ended {
    /// What ended.
    pub(crate) fn name(&self) -> String {
        match self.device.as_str() {
            "" => point_of(&self.timeline, &self.name, self.point),
            device => format!("job {} of {} on {device}", self.point, self.timeline),
        }
    }

    /// The device on which it failed, and for which domain.
    pub(crate) fn failed_on(&self) -> Option<(&str, u32)> {
        let failed = matches!(self.how, How::Failed { .. }) && !self.device.is_empty();
        failed.then_some((self.device.as_str(), self.domain))
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let name = self.name();
        let mut lines = match &self.how {
            How::Well if self.point == 0 => vec![format!("{} has had no point yet", self.timeline)],
            How::Well => vec![format!("{name} ended well")],
            How::Failed { code, cause } => vec![format!("{name} failed: {code}, {cause}")],
            How::Forgotten => {
                vec![format!("{name} has ended; so many later ones failed that how is not known any more")]
            }
            How::Unpromised { promised } => {
                vec![format!("{name} is not promised; the last one that is: {promised}")]
            }
        };
        lines.extend(self.explanation.as_ref().map(|words| format!("  {words}")));
        lines.iter().map(|line| human::text(line)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(failed: &[u64]) -> Known {
        let failure =
            |point: &u64| FailureEntry { point: *point, code: "Io".into(), cause: "cause:3.1".into() };
        let failures = failed.iter().map(failure).collect();
        Known { device: "zip".into(), promised: 9, over: 7, failures, named: 2, ..Known::default() }
    }

    #[test]
    fn every_point_from_the_end_of_a_timeline_on_has_failed_with_it() {
        let end = FailureEntry { point: 8, code: "OwnerDied".into(), cause: "cause:1.2".into() };
        let over = Known { end: Some(end), ..known(&[]) };
        let failed = Some(How::Failed { code: "OwnerDied".into(), cause: "cause:1.2".into() });
        assert_eq!((over.how(7), over.how(8), over.how(99)), (Some(How::Well), failed.clone(), failed));
    }

    #[test]
    fn a_point_ended_well_failed_or_nobody_knows_any_more() {
        let failed = Some(How::Failed { code: "Io".into(), cause: "cause:3.1".into() });
        let of = |point| known(&[4, 6]).how(point);
        assert_eq!(
            (of(7), of(6), of(5), of(3)),
            (Some(How::Well), failed, Some(How::Well), Some(How::Forgotten))
        );
        assert_eq!(known(&[4]).how(3), Some(How::Well));
    }

    #[test]
    fn what_is_owed_has_not_ended_and_what_is_beyond_is_not_promised() {
        assert_eq!((known(&[]).how(8), known(&[]).how(10)), (None, Some(How::Unpromised { promised: 9 })));
    }

    #[test]
    fn a_failure_is_said_with_its_cause_and_what_is_behind_it() {
        let ended = Ended {
            timeline: "timeline:1.4".into(),
            point: 6,
            device: "zip".into(),
            domain: 0,
            name: String::new(),
            how: How::Failed { code: "Io".into(), cause: "cause:3.1".into() },
            explanation: Some("zip: cut (pid 7)".into()),
        };
        assert_eq!(
            ended.lines(),
            ["job 6 of timeline:1.4 on zip failed: Io, cause:3.1", "  zip: cut (pid 7)"]
        );
    }
}
