//! `/metrics`, read by a parser that nobody here wrote.

use std::io::Write as _;
use std::process::{Command, Stdio};

use vgem::{ClientOptions, Embedded};
use vgem_waiting::test_support::stalled;

use crate::support::Web;

/// Fails on the first thing that is not as the standard has it; prints every sample.
const PARSE: &str = r"
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    assert family.name.startswith('vgemd_'), family.name
    assert not family.unit or family.name.endswith(family.unit), family.name
    for sample in family.samples:
        labels = ','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))
        print(family.type, sample.name, labels, sample.value)
";

/// What the parser understands.
fn parsed(text: &str) -> String {
    // The system's own Python has what Debian's packages bring.
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", PARSE]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut python = python.spawn().expect("python3 is needed");
    python.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let out = python.wait_with_output().expect("it ends");
    assert!(out.status.success(), "{text}\n{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn a_stock_parser_reads_every_number() {
    let stalled = stalled("encoder");
    let web = Web::of(&stalled.broker);
    let samples = parsed(&web.body("/metrics"));
    for wanted in [
        "gauge vgemd_up  1",
        "gauge vgemd_waiting_clients  1",
        "gauge vgemd_standing_processes  1",
        "gauge vgemd_device_depth device=copy 1",
        "gauge vgemd_device_state device=zip,state=ready 1",
        "counter vgemd_device_busy_seconds_total device=sec 0.0",
        "counter vgemd_device_bytes_total device=blk 0",
        "counter vgemd_jobs_total  3",
        "gauge vgemd_jobs_in_flight  3",
        "info vgemd_build_info version=0.1.0 1",
    ] {
        assert!(samples.lines().any(|line| line == wanted), "{wanted} is not in\n{samples}");
    }
    assert!(samples.contains("gauge vgemd_domain_used domain="), "{samples}");
    assert!(samples.contains("gauge vgemd_uptime_seconds  "), "{samples}");
}

#[test]
fn the_numbers_of_series_do_not_grow_with_clients_and_objects() {
    let broker = Embedded::start().expect("a private broker");
    let web = Web::of(&broker);
    let few = parsed(&web.body("/metrics")).lines().count();
    let named =
        |number: u32| broker.client_with(&ClientOptions::new().name(format!("c{number}"))).expect("a client");
    let clients: Vec<_> = (0..20).map(named).collect();
    let _objects: Vec<_> = clients.iter().map(|client| client.create(4096).expect("memory")).collect();
    let all = |text: &str| text.contains("\nvgemd_clients 21\n");
    let text = (0..1000).map(|_| web.body("/metrics")).find(|text| all(text)).expect("they are seen");
    assert_eq!(parsed(&text).lines().count(), few);
}

#[test]
fn without_a_broker_there_is_one_number_that_says_so() {
    let web = Web::at("127.0.0.1:0", "/nowhere/at/all", &[]);
    let samples = parsed(&web.body("/metrics"));
    assert!(samples.lines().any(|line| line == "gauge vgemd_up  0"), "{samples}");
}
