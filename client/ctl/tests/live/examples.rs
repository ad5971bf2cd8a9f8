//! Every verb has an example in its help, and every example is a command line that works.
//!
//! The examples are taken out of the help and run as they stand, by a shell, in a folder with the files they name and on a
//! broker that has what they name. Only numbers that a broker gives out are replaced by those it gave.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use vgem::snapshot::ClientEntry;
use vgem::{BufferOptions, Client, ClientOptions, Deadline, Embedded, FenceError};

use crate::support::{Held, SOON, broker, json, vgemctl};

/// A broker with everything that examples name.
struct Stage {
    broker: Embedded,
    client: Client,
    folder: tempfile::TempDir,
    /// What stands in an example, and what is there instead.
    instead: Vec<(&'static str, String)>,
    _frame: vgem::Buffer,
    _held: Held,
}

fn stage() -> Stage {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client_with(&ClientOptions::new().name("encoder")).expect("a client");
    let frame = client.create_with(4096, &BufferOptions::new().name("frame")).expect("memory");
    // A job that fails, for its cause.
    let zip = client.device("zip").expect("it is there").queue(0).expect("a queue");
    let mut batch = client.batch();
    batch
        .job(&zip, "decompress")
        .input(&frame)
        .output(&client.create(4096).expect("memory"))
        .param("format", "gzip");
    let failed = batch.submit().expect("sent").wait(SOON).expect_err("no gzip");
    let FenceError::Failed(failure) = failed else { panic!("{failed}") };
    // A job that waits, for a promise.
    let held = Held::new(&client, &frame, Duration::from_secs(50));
    let out = vgemctl(&broker, &["domain", "create", "stage"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("notes.txt"), "what is to be packed\n").expect("a file");

    let queue = client.queue_entries().expect("an answer").into_iter().find(|one| one.device == "copy");
    let queue = queue.expect("it is there").timeline.replace("timeline:", "");
    let object = client.object_entries().expect("an answer").into_iter().find(|one| one.name == "frame");
    let instead = vec![
        ("cause:3.7", failure.cause.to_string()),
        ("3.7:5", format!("{queue}:1")),
        ("3.7", queue),
        ("object:3.1", object.expect("it is there").object),
    ];
    Stage { broker, client, folder, instead, _frame: frame, _held: held }
}

impl Stage {
    /// An example, as a shell is to run it.
    fn shell(&self, line: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(self.folder.path());
        let programs = Path::new(env!("CARGO_BIN_EXE_vgemctl")).parent().expect("a folder");
        let usual = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&usual));
        shell.env("PATH", std::env::join_paths(all).expect("folders"));
        shell.env("VGEM_SOCKET", self.broker.socket()).env("VGEM_BIN_DIR", programs).stdin(Stdio::null());
        shell
    }

    fn run(&self, line: &str) -> Output {
        match line {
            // They go on until they are interrupted, or until something happens.
            _ if line.starts_with("vgemctl monitor") => self.interrupted(line),
            // A client that is there to be disconnected.
            "vgemctl disconnect 7" => {
                let other = self.broker.client().expect("a client");
                self.shell(&line.replace('7', &other.number().to_string())).output().expect("it starts")
            }
            "vgemctl disconnect encoder" => {
                let other = self.broker.client_with(&ClientOptions::new().name("decoder")).expect("a client");
                let out = self.shell(&line.replace("encoder", "decoder")).output().expect("it starts");
                assert!(other.status().is_err());
                out
            }
            _ => {
                let mut line = line.to_owned();
                for (stands, is) in &self.instead {
                    line = line.replace(stands, is);
                }
                // What is behind a pipe must not hide a failure.
                self.shell(&line.replace(" | ", " > piped && < piped ")).output().expect("it starts")
            }
        }
    }

    /// Runs something until it is told what happens, lets things happen, and interrupts it.
    fn interrupted(&self, line: &str) -> Output {
        let number = |one: &ClientEntry| one.client;
        let before: Vec<u64> = self.client.client_entries().expect("an answer").iter().map(number).collect();
        let mut command = self.shell(&format!("exec {line}"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let end = Deadline::after(SOON);
        let is_told =
            |one: &ClientEntry| !before.contains(&one.client) && one.name == "vgemctl" && one.messages >= 2;
        while !self.client.client_entries().expect("an answer").iter().any(is_told) {
            assert!(!end.passed() && has_not_ended(&mut child), "{line}: it asks to be told");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Each is told of twice.
        (0..5).for_each(|_| drop(self.broker.client().expect("a client")));
        if !line.contains("--count") {
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("ours");
        }
        child.wait_with_output().expect("ours")
    }
}

fn has_not_ended(child: &mut Child) -> bool {
    child.try_wait().expect("ours").is_none()
}

/// What the help of a verb says.
fn help(broker: &Embedded, verb: &[&str]) -> String {
    String::from_utf8(vgemctl(broker, &[verb, &["--help"]].concat()).stdout).expect("text")
}

/// The verbs that the help lists.
fn verbs(broker: &Embedded) -> Vec<String> {
    let help = help(broker, &[]);
    let (_, after) = help.split_once("Commands:\n").expect("it lists verbs");
    let lines = after.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// The command lines of the examples in the help of a verb.
fn examples(broker: &Embedded, verb: &str) -> Vec<String> {
    let help = help(broker, &[verb]);
    let after = help.split_once("Example:\n").map_or("", |(_, after)| after);
    let lines = after.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[test]
fn every_verb_has_an_example_and_every_example_runs() {
    let stage = stage();
    let verbs = verbs(&stage.broker);
    let asked = "status list show top dump monitor trace who why run bench doctor domain quota drain disconnect completion";
    for verb in asked.split(' ') {
        assert!(verbs.iter().any(|one| one == verb), "{verb} is not in {verbs:?}");
    }
    // Those that end what others look at come last.
    let (last, first): (Vec<_>, Vec<_>) = verbs.into_iter().partition(|verb| verb == "drain");
    for verb in first.into_iter().chain(last) {
        let examples = examples(&stage.broker, &verb);
        assert!(!examples.is_empty(), "`vgemctl {verb} --help` has no example");
        for line in examples {
            assert!(line.starts_with(&format!("vgemctl {verb}")), "{line} is no example of {verb}");
            let out = stage.run(&line);
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(out.status.success(), "`{line}` ended with {}: {said}", out.status);
        }
    }
    let written = |name: &str| std::fs::read(stage.folder.path().join(name)).unwrap_or_default();
    for name in ["t.json", "state.json", "notes.txt.gz", "why.svg", "_vgemctl", "vgemctl.fish"] {
        assert!(!written(name).is_empty(), "{name}");
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

#[test]
fn things_are_shown_by_the_beginning_of_their_ids_if_that_is_enough() {
    let (broker, client) = broker();
    let _queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    let key = client.queue_entries().expect("an answer")[0].timeline.clone();
    let (beginning, _) = key.strip_prefix("timeline:").expect("a key").split_once('.').expect("two numbers");
    assert_eq!(json(&broker, &["show", "queue", beginning])["timeline"], key.as_str());
    let frames = ["frame", "other"].map(|name| client.create_with(4096, &BufferOptions::new().name(name)));
    assert!(frames.iter().all(Result::is_ok));
    // Keys of objects all begin alike.
    assert_eq!(json(&broker, &["show", "object", "other"])["name"], "other");
    assert_eq!(vgemctl(&broker, &["show", "object", "nothing"]).status.code(), Some(5));
    assert_eq!(json(&broker, &["show", "client", &client.number().to_string()])["client"], client.number());
}

#[test]
fn a_list_is_a_line_for_each_thing_as_json_lines() {
    let (broker, client) = broker();
    let out = vgemctl(&broker, &["list", "devices", "--format", "jsonl"]);
    let lines = String::from_utf8(out.stdout).expect("text");
    let named = |line: &str| -> String {
        let one: serde_json::Value = serde_json::from_str(line).expect("one JSON document per line");
        one["name"].as_str().expect("a name").to_owned()
    };
    let mut names: Vec<String> = lines.lines().map(named).collect();
    names.sort();
    assert_eq!(names, ["blk", "copy", "sec", "zip"]);
    drop(client);
}

#[test]
fn a_dump_has_everything() {
    let stage = stage();
    let state = json(&stage.broker, &["dump"]);
    let count = |part: &str| state[part].as_array().map_or(0, Vec::len);
    assert_eq!(state["status"]["pid"], stage.client.status().expect("an answer").pid);
    assert_eq!((count("devices"), count("descriptions"), count("timelines")), (4, 4, 1));
    assert!(count("clients") >= 2 && count("objects") >= 1 && count("queues") >= 1, "{state}");
    // The job and the promise; what the driver has to say of the job that failed may be on its way.
    assert!(count("obligations") >= 2, "{state}");
    let stage_is_there =
        state["domains"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "stage"));
    assert!(stage_is_there, "{state}");
}
