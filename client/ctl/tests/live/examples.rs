//! The examples of the help are command lines that work.

use std::process::{Output, Stdio};
use std::time::Duration;

use vgem::{Client, Deadline, Embedded};

use crate::support::{broker, command, vgemctl};

const SOON: Duration = Duration::from_secs(20);

/// The arguments of each example in a verb's help, with the key of a queue that is there, and without what reads the output.
fn examples(broker: &Embedded, client: &Client, verb: &str) -> Vec<Vec<String>> {
    let key = client.queue_entries().expect("an answer")[0].timeline.clone();
    let key = key.strip_prefix("timeline:").expect("a key");
    let help = vgemctl(broker, &[verb, "--help"]);
    let help = String::from_utf8(help.stdout).expect("text");
    let (_, after) = help.split_once("Example:\n").expect("it has an example");
    let lines = after.lines().filter_map(|line| line.trim().strip_prefix("vgemctl "));
    let args = |line: &str| {
        let line = line.split(" | ").next().expect("a command").replace("3.7", key);
        line.split_whitespace().map(str::to_owned).collect()
    };
    lines.map(args).collect()
}

fn assert_done(args: &[String], out: &Output) {
    assert!(
        out.status.success() && !out.stdout.is_empty(),
        "{args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn the_examples_of_verbs_that_look_run() {
    let (broker, client) = broker();
    let _queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    for verb in ["status", "list", "show", "domain"] {
        let examples = examples(&broker, &client, verb);
        assert!(!examples.is_empty(), "{verb}");
        for args in examples {
            let borrowed: Vec<&str> = args.iter().map(String::as_str).collect();
            assert_done(&args, &vgemctl(&broker, &borrowed));
        }
    }
}

#[test]
fn the_examples_of_monitor_run_until_they_are_interrupted() {
    let (broker, client) = broker();
    let _queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    for args in examples(&broker, &client, "monitor") {
        let borrowed: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = command(&broker, &borrowed).stdout(Stdio::piped()).spawn().expect("it starts");
        let end = Deadline::after(SOON);
        let asked = |one: &vgem::snapshot::ClientEntry| one.name == "vgemctl" && one.messages >= 2;
        while !client.client_entries().expect("an answer").iter().any(asked) {
            assert!(!end.passed() && child.try_wait().expect("ours").is_none(), "{args:?}: it monitors");
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("ours");
        assert!(child.wait().expect("ours").success(), "{args:?}");
    }
}

#[test]
fn a_queue_is_shown_with_what_it_owes() {
    let (broker, client) = broker();
    let _queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    let key = client.queue_entries().expect("an answer")[0].timeline.clone();
    let said = vgemctl(&broker, &["show", "queue", &key]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("owes nothing"), "{said:?}");
    assert_eq!(vgemctl(&broker, &["show", "timeline", &key]).status.code(), Some(5));
}
