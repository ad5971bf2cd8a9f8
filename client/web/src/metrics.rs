//! A look as OpenMetrics.
//!
//! The number of series is bounded: labels are names of devices, kinds of quotas and a few states, and names of domains, of
//! which there are at most [`DOMAINS`]; what is beyond is one more, `other`. No label is a number that the broker gives anew
//! all the time: no client, no object, no process.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use vgem::snapshot::{Counters, DomainEntry};

use crate::rates::float;
use crate::seen::Seen;
use crate::state::{Device, held};

/// What scrapers are told the form is.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Most domains that have series of their own.
const DOMAINS: usize = 64;
/// The label of all others together. No domain has this name: a domain's own has no capital letter.
const OTHER: &str = "OTHER";

/// The whole text.
///
/// # Errors
/// None is known: a text has room for everything.
pub(crate) fn text(seen: &Arc<Seen>, watchers: usize) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Numbers { seen: Arc::clone(seen), watchers }));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// What one look says.
#[derive(Debug)]
struct Numbers {
    seen: Arc<Seen>,
    watchers: usize,
}

impl Collector for Numbers {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        let state = &self.seen.state;
        gauge(&mut to, "vgemd_up", "Whether the broker answers: 1, or 0.", None, state.answers.into())?;
        gauge(
            &mut to,
            "vgemd_web_watchers",
            "Who watches the page or asks for numbers now.",
            None,
            count(self.watchers),
        )?;
        if !state.answers {
            return Ok(());
        }
        self.broker(&mut to)?;
        self.devices(&mut to)?;
        self.domains(&mut to)?;
        self.waiting(&mut to)
    }
}

impl Numbers {
    fn broker(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let status = &self.seen.state.status;
        let info = Info::new([("version", status.version.as_str())]);
        info.encode(to.encode_descriptor(
            "vgemd_build",
            "Which version the broker is.",
            None,
            MetricType::Info,
        )?)?;
        let uptime = ConstGauge::new(float(status.uptime_ns) / 1e9);
        let help = "How long the broker has served.";
        uptime.encode(to.encode_descriptor(
            "vgemd_uptime",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?)?;
        let bytes = Some(Unit::Bytes);
        for (name, help, unit, value) in [
            ("vgemd_clients", "Clients that are connected.", None, status.clients),
            ("vgemd_objects", "Live objects.", None, status.objects),
            ("vgemd_object", "Memory that domains are charged for.", bytes.as_ref(), status.object_bytes),
            ("vgemd_pinned", "Memory of objects that is pinned.", bytes.as_ref(), status.pinned_bytes),
            ("vgemd_queues", "Open queues.", None, status.queues),
            ("vgemd_timelines", "Live timelines.", None, status.timelines),
            ("vgemd_fence_pages", "Fence pages.", None, status.pages),
            (
                "vgemd_jobs_in_flight",
                "Jobs that were accepted and have not ended.",
                None,
                status.jobs_in_flight,
            ),
            ("vgemd_driver_processes", "Driver processes.", None, status.instances),
        ] {
            gauge(to, name, help, unit, whole(value))?;
        }
        // Who sees one domain only is not told what the broker counts; who sees all has been counted itself.
        let counters = status.counters;
        if counters.client_messages == 0 { Ok(()) } else { counted(to, counters) }
    }

    fn devices(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let devices = &self.seen.state.devices;
        let help = "The state that a device is in.";
        let mut family = to.encode_descriptor("vgemd_device_state", help, None, MetricType::Gauge)?;
        for device in devices {
            let labels = [("device", device.name.as_str()), ("state", device.state.as_str())];
            one(&mut family, &labels, &ConstGauge::new(1_i64))?;
        }
        type Of = fn(&Device) -> i64;
        let gauges: [(&str, &str, Of); 4] = [
            ("vgemd_device_processes", "Driver processes of a device.", |device| count(device.processes)),
            ("vgemd_device_executors", "Jobs that a process of a device runs at the same time.", |device| {
                device.executors.into()
            }),
            ("vgemd_device_depth", "Jobs that a device was given and that have not ended.", |device| {
                whole(device.now.depth)
            }),
            ("vgemd_device_mapped_objects", "Objects that a device maps.", |device| whole(device.mapped)),
        ];
        for (name, help, of) in gauges {
            let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for device in devices {
                one(&mut family, &[("device", device.name.as_str())], &ConstGauge::new(of(device)))?;
            }
        }
        self.done(to)
    }

    /// What devices did, in all.
    fn done(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        use crate::rates::Done;
        let all = &self.seen.totals;
        type Of = fn(&Done) -> u64;
        let counters: [(&str, &str, Option<Unit>, Of); 3] = [
            ("vgemd_device_jobs", "Jobs of a device that ended.", None, |done| done.jobs),
            ("vgemd_device", "Bytes that a device read and wrote.", Some(Unit::Bytes), |done| done.bytes),
            (
                "vgemd_device_staged",
                "Bytes that a device copied through windows.",
                Some(Unit::Bytes),
                |done| done.staged_bytes,
            ),
        ];
        for (name, help, unit, of) in &counters {
            let mut family = to.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
            for (device, done) in all {
                one(&mut family, &[("device", device.as_str())], &ConstCounter::new(of(done)))?;
            }
        }
        let help = "Time that the engines of a device worked.";
        let mut family =
            to.encode_descriptor("vgemd_device_busy", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for (device, done) in all {
            one(&mut family, &[("device", device.as_str())], &ConstCounter::new(float(done.busy_ns) / 1e9))?;
        }
        Ok(())
    }

    fn domains(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let all = shown(&self.seen.state.domains.listed);
        let help = "What a domain uses of what its quota is of, bytes or a number of things.";
        let mut family = to.encode_descriptor("vgemd_domain_used", help, None, MetricType::Gauge)?;
        for ((domain, resource), (used, _)) in &all {
            one(
                &mut family,
                &[("domain", *domain), ("resource", *resource)],
                &ConstGauge::new(whole(*used)),
            )?;
        }
        let help = "The most that a domain may use of what its quota is of.";
        let mut family = to.encode_descriptor("vgemd_domain_limit", help, None, MetricType::Gauge)?;
        for ((domain, resource), (_, limit)) in &all {
            let Some(limit) = limit else { continue };
            one(
                &mut family,
                &[("domain", *domain), ("resource", *resource)],
                &ConstGauge::new(whole(*limit)),
            )?;
        }
        Ok(())
    }

    fn waiting(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let state = &self.seen.state;
        let ways = &state.waiting.ways;
        let waiting = ways.len() + state.waiting.ways_left_out;
        gauge(to, "vgemd_waiting_clients", "Clients that wait for jobs.", None, count(waiting))?;
        let stand = count(state.waiting.nodes.iter().filter(|node| node.stands).count());
        let help = "Processes and devices that others wait for, and that stand still or are late.";
        gauge(to, "vgemd_standing_processes", help, None, stand)?;
        let longest = float(ways.iter().map(|way| way.waited_ns).max().unwrap_or(0)) / 1e9;
        let help = "How long the client that waits longest has waited.";
        let longest = ConstGauge::new(longest);
        longest.encode(to.encode_descriptor(
            "vgemd_longest_wait",
            help,
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?)
    }
}

/// By domain and kind of quota, what is used, and what may be.
type Quotas<'a> = BTreeMap<(&'a str, &'a str), (u64, Option<u64>)>;

/// Those with a name come first, then those that hold most; the rest is one, which has no limit.
fn shown(domains: &[DomainEntry]) -> Quotas<'_> {
    let mut order: Vec<&DomainEntry> = domains.iter().collect();
    order.sort_by_key(|domain| (domain.origin == "user", std::cmp::Reverse(held(domain))));
    let mut quotas = Quotas::new();
    for (place, domain) in order.into_iter().enumerate() {
        let own = place < DOMAINS;
        for (resource, quota) in &domain.quotas {
            let name = if own { domain.name.as_str() } else { OTHER };
            let sum = quotas.entry((name, resource)).or_insert((0, None));
            sum.0 += quota.used;
            sum.1 = own.then_some(quota.limit);
        }
    }
    quotas
}

fn counted(to: &mut DescriptorEncoder, counters: Counters) -> fmt::Result {
    for (name, help, value) in [
        ("vgemd_client_messages", "Messages from clients.", counters.client_messages),
        ("vgemd_batches", "Batches that were accepted.", counters.batches),
        ("vgemd_batches_refused", "Batches that were refused.", counters.batches_refused),
        ("vgemd_jobs", "Jobs that were accepted.", counters.jobs),
        ("vgemd_jobs_ok", "Jobs that ended well.", counters.jobs_ok),
        ("vgemd_jobs_failed", "Jobs that failed.", counters.jobs_failed),
        (
            "vgemd_completion_messages",
            "Messages with completions from drivers.",
            counters.completion_messages,
        ),
        ("vgemd_points_settled", "Points that the broker wrote, for the dead only.", counters.points_settled),
        (
            "vgemd_sleepers_woken",
            "Sleepers that the broker woke, for the dead only.",
            counters.sleepers_woken,
        ),
        ("vgemd_drivers_lost", "Driver processes that died.", counters.instances_lost),
    ] {
        ConstCounter::new(value).encode(to.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    Ok(())
}

fn gauge(to: &mut DescriptorEncoder, name: &str, help: &str, unit: Option<&Unit>, value: i64) -> fmt::Result {
    ConstGauge::new(value).encode(to.encode_descriptor(name, help, unit, MetricType::Gauge)?)
}

fn one(
    family: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(family.encode_family(labels)?)
}

/// A number as the form has it; what is beyond its range is at its end.
fn whole(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn count(number: usize) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{List, State};
    use vgem::snapshot::QuotaEntry;

    fn domain(number: u32, name: &str, origin: &str, used: u64) -> DomainEntry {
        let quotas = BTreeMap::from([("bytes".to_owned(), QuotaEntry { used, limit: 100 })]);
        DomainEntry {
            domain: number,
            name: name.into(),
            origin: origin.into(),
            quotas,
            ..DomainEntry::default()
        }
    }

    fn said(domains: Vec<DomainEntry>) -> String {
        let all = domains.len();
        let domains = List { listed: domains, all };
        let state = State { answers: true, domains, ..State::default() };
        text(&Arc::new(Seen { state, ..Seen::default() }), 3).expect("a text")
    }

    #[test]
    fn domains_beyond_the_bound_are_one_without_a_limit() {
        let domains =
            (0..200).map(|number| domain(number, &number.to_string(), "user", 200 - u64::from(number)));
        let text = said(domains.chain([domain(7000, "render", "configured", 0)]).collect());
        let used: Vec<_> = text.lines().filter(|line| line.starts_with("vgemd_domain_used{")).collect();
        assert_eq!(used.len(), DOMAINS + 1);
        assert!(text.contains("vgemd_domain_used{domain=\"render\",resource=\"bytes\"} 0"), "{text}");
        let others: u64 = (63..200).map(|number| 200 - number).sum();
        assert!(
            text.contains(&format!("vgemd_domain_used{{domain=\"OTHER\",resource=\"bytes\"}} {others}\n")),
            "{text}"
        );
        assert!(!text.contains("vgemd_domain_limit{domain=\"OTHER\""));
    }

    #[test]
    fn a_label_cannot_end_itself() {
        let text = said(vec![domain(1, "a\"}\\\nb", "user", 5)]);
        assert!(
            text.contains("vgemd_domain_used{domain=\"a\\\"}\\\\\\nb\",resource=\"bytes\"} 5\n"),
            "{text}"
        );
    }

    #[test]
    fn a_broker_that_is_away_is_down_and_nothing_else() {
        let text = text(&Arc::new(Seen::default()), 1).expect("a text");
        assert!(
            text.contains("\nvgemd_up 0\n") && text.ends_with("# EOF\n") && !text.contains("device"),
            "{text}"
        );
    }
}
