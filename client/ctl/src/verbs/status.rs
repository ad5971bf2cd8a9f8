//! `vgemctl status`: the broker as a whole.

use vgem::snapshot::Status;

use crate::cli::Common;
use crate::reach::{Otherwise, reach};
use crate::{human, print};

pub(crate) fn run(common: &Common) -> anyhow::Result<()> {
    let reached = reach(common, Otherwise::Fail)?;
    print::either(common.format, &reached.client.status()?, lines)
}

fn lines(status: &Status) -> Vec<String> {
    let counters = &status.counters;
    let count = |name: &str, value: u64| (name.to_owned(), value.to_string());
    let rows = [
        ("version".into(), human::text(&status.version)),
        count("pid", status.pid.into()),
        ("up".into(), human::time(status.uptime_ns)),
        count("clients", status.clients),
        ("objects".into(), format!("{} ({})", status.objects, human::bytes(status.object_bytes))),
        ("pinned".into(), pinned(status)),
        count("queues", status.queues),
        count("clients' timelines", status.timelines.saturating_sub(status.queues)),
        count("jobs in flight", status.jobs_in_flight),
        count("driver processes", status.instances),
        count("fence pages", status.pages),
        count("client messages", counters.client_messages),
        ("batches".into(), format!("{} accepted, {} refused", counters.batches, counters.batches_refused)),
        (
            "jobs".into(),
            format!("{} accepted, {} ok, {} failed", counters.jobs, counters.jobs_ok, counters.jobs_failed),
        ),
        count("completion messages", counters.completion_messages),
        count("points settled for the dead", counters.points_settled),
        count("drivers lost", counters.instances_lost),
    ];
    let features = status.features.iter().map(|line| match line.split_once(": ") {
        Some((name, state)) => (human::text(name), human::text(state)),
        None => ("feature".to_owned(), human::text(line)),
    });
    let rows: Vec<(String, String)> = rows.into_iter().chain(features).collect();
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect()
}

/// How much is pinned, and whether that is less than there is.
fn pinned(status: &Status) -> String {
    let pinned = human::bytes(status.pinned_bytes);
    let state = status.features.iter().find_map(|line| line.strip_prefix("pinning: "));
    match state {
        Some(state) if state.starts_with("degraded") => format!("{pinned} (degraded, see pinning below)"),
        _ => pinned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinning_that_is_degraded_shows_where_it_is_counted() {
        let of = |line: &str| {
            pinned(&Status { pinned_bytes: 4096, features: vec![line.into()], ..Status::default() })
        };
        assert_eq!(of("pinning: degraded, 4096 of 8192 bytes"), "4 KiB (degraded, see pinning below)");
        assert_eq!(of("pinning: 4096 bytes, all of what is ready"), "4 KiB");
    }
}
