//! What answers, what is refused, and what the broker notices of it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use vgem::{Client, ClientOptions, Embedded};
use vgem_waiting::test_support::{Stopped, driver};

use crate::support::{Web, command};

/// A broker, a client of it, and its page.
fn page() -> (Embedded, Client, Web) {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client_with(&ClientOptions::new().name("watcher")).expect("a client");
    let web = Web::of(&broker);
    (broker, client, web)
}

#[test]
fn every_path_answers_with_its_kind_and_a_policy_that_lets_nothing_in() {
    let (_broker, _client, web) = page();
    for (path, kind) in [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/charts.js", "text/javascript"),
        ("/dom.js", "text/javascript"),
        ("/graph.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
        ("/api/state", "application/json"),
        ("/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ] {
        let (code, head) = web.head(path, &[]);
        assert_eq!(code, 200, "{path}: {head}");
        assert!(head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        for line in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(head.contains(line), "{path} lacks {line}: {head}");
        }
    }
    assert_eq!(web.head("/nothing", &[]).0, 404);
}

#[test]
fn nothing_can_be_changed() {
    let (_broker, _client, web) = page();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let (code, head) = web.head("/api/state", &["--request", method]);
        assert!(code == 405 && head.contains("allow: get, head"), "{method}: {head}");
    }
    assert_eq!(web.head("/", &["--head"]).0, 200);
    assert_eq!(web.head("/", &["--request", "GET", "--data", "x"]).0, 413);
}

#[test]
fn a_page_whose_name_was_made_to_point_here_is_refused() {
    let (broker, _client, web) = page();
    for host in ["evil.example.org", "evil.example.org:7466", "localhost.evil.org", "169.254.169.254"] {
        assert_eq!(web.head("/api/state", &["--header", &format!("Host: {host}")]).0, 421, "{host}");
    }
    let named = Web::at("127.0.0.1:0", broker.socket(), &["--host", "vgem.example.org"]);
    assert_eq!(named.head("/", &["--header", "Host: vgem.example.org"]).0, 200);
    assert_eq!(web.head("/", &["--header", "Host: vgem.example.org"]).0, 421);
}

#[test]
fn a_request_that_is_too_long_is_refused() {
    let (_broker, _client, web) = page();
    assert_eq!(web.head(&format!("/{}", "x".repeat(300)), &[]).0, 414);
    assert_eq!(web.head("/", &["--header", &format!("X: {}", "x".repeat(20 << 10))]).0, 431);
    let many: Vec<String> = (0..100).map(|number| format!("X-{number}: x")).collect();
    let many: Vec<&str> = many.iter().flat_map(|header| ["--header", header]).collect();
    assert_eq!(web.head("/", &many).0, 431);
}

#[test]
fn an_address_that_other_machines_reach_is_refused() {
    let out = command().args(["--listen", "0.0.0.0:0"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("0.0.0.0:0 can be reached from other machines"), "{said}");
}

#[test]
fn a_unix_socket_serves_the_same_and_the_next_server_replaces_it() {
    let broker = Embedded::start().expect("a private broker");
    let folder = tempfile::tempdir().expect("a folder");
    let listen = format!("unix:{}", folder.path().join("web").display());
    for _ in 0..2 {
        let web = Web::at(&listen, broker.socket(), &[]);
        assert_eq!(web.state()["answers"], true);
        assert!(web.body("/").contains("<title>vgemd</title>"));
        assert!(web.end());
    }
}

#[test]
fn atk_who_does_not_read_its_log_does_not_stop_it() {
    let broker = Embedded::start().expect("a private broker");
    let (_unread, mut full) = std::io::pipe().expect("a pipe");
    // As much as it holds: another byte would have its writer wait.
    full.write_all(&[b'x'; 1 << 16]).expect("room");
    let mut command = command();
    command.args(["--listen", "127.0.0.1:0", "--log", "info", "--socket"]).arg(broker.socket()).stderr(full);
    assert_eq!(Web::start(command).state()["answers"], true);
}

/// curl, reading events until this goes.
struct Events(Child, BufReader<std::process::ChildStdout>);

impl Events {
    fn of(web: &Web) -> Self {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--no-buffer", "--noproxy", "*"]).arg(format!("{}api/events", web.address));
        let mut curl = curl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("curl");
        let lines = BufReader::new(curl.stdout.take().expect("a pipe"));
        Self(curl, lines)
    }

    /// The name of the next event, and what it says.
    fn next(&mut self) -> (String, serde_json::Value) {
        let [event, data, end] = [(); 3].map(|()| {
            let mut line = String::new();
            self.1.read_line(&mut line).expect("a line");
            line
        });
        assert_eq!(end, "\n");
        let data = data.strip_prefix("data: ").expect("data");
        (event.trim_start_matches("event: ").trim().to_owned(), serde_json::from_str(data).expect("JSON"))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// How many messages the page's connection has sent.
fn asked(client: &Client) -> u64 {
    let clients = client.client_entries().expect("an answer");
    clients.iter().find(|one| one.name == "vgem-web").map_or(0, |one| one.messages)
}

#[test]
fn events_begin_with_what_was_before_and_go_on_with_what_is() {
    let (_broker, _client, web) = page();
    let mut events = Events::of(&web);
    let (name, history) = events.next();
    assert_eq!((name.as_str(), history.as_array().map(Vec::len)), ("history", Some(1)));
    let (first, second) = (events.next(), events.next());
    assert_eq!((first.0.as_str(), second.0.as_str()), ("state", "state"));
    assert!(first.1["at_ns"].as_u64() < second.1["at_ns"].as_u64());
    assert_eq!(second.1["devices"].as_array().map(Vec::len), Some(4));
}

#[test]
fn several_who_watch_cost_the_broker_what_one_does() {
    let (_broker, client, web) = page();
    let mut all: Vec<Events> = (0..8).map(|_| Events::of(&web)).collect();
    // The first look describes devices too.
    all.iter_mut().for_each(|events| drop([(); 3].map(|()| events.next())));
    let before = asked(&client);
    let moments = [(); 3].map(|()| all[0].next().1["at_ns"].as_u64());
    assert!(moments.is_sorted_by(|one, next| one < next), "{moments:?}");
    let each = (asked(&client) - before).div_ceil(3);
    assert!((1..=8).contains(&each), "{each} messages a look");
}

/// What follows from there being nobody, `lookout` proves in virtual time.
#[test]
fn a_page_that_is_only_fetched_asks_the_broker_nothing_and_one_that_is_closed_watches_no_more() {
    let (_broker, client, web) = page();
    for path in ["/", "/page.js", "/page.css", "/graph.js", "/charts.js", "/dom.js", "/icon.svg", "/nothing"]
    {
        web.head(path, &[]);
    }
    assert_eq!(asked(&client), 0);
    let mut events = Events::of(&web);
    drop([(); 3].map(|()| events.next()));
    let watchers = |number: u32| format!("\nvgemd_web_watchers {number}\n");
    assert!(asked(&client) > 0 && web.body("/metrics").contains(&watchers(1)));
    drop(events);
    assert!((0..1000).any(|_| web.body("/metrics").contains(&watchers(0))));
}

#[test]
fn more_than_may_watch_are_told_so() {
    let (_broker, _client, web) = page();
    let mut all: Vec<Events> = (0..32).map(|_| Events::of(&web)).collect();
    all.iter_mut().for_each(|events| drop(events.next()));
    assert_eq!(web.head("/api/events", &[]).0, 503);
    assert_eq!(web.head("/api/state", &[]).0, 200);
    drop(all.pop());
    let free = (0..1000).any(|_| web.head("/api/events", &["--max-time", "1"]).0 == 200);
    assert!(free, "one that leaves makes room");
}

#[test]
fn a_server_without_a_broker_says_why_and_one_that_comes_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("broker");
    let web = Web::at("127.0.0.1:0", &socket, &[]);
    let state = web.state();
    assert_eq!(state["answers"], false);
    assert!(state["why_not"].as_str().is_some_and(|why| why.contains("no such socket")), "{state}");
    let broker = Embedded::start().expect("a private broker");
    std::os::unix::fs::symlink(broker.socket(), &socket).expect("a link");
    assert!((0..1000).any(|_| web.state()["answers"] == true));
}

#[test]
fn a_broker_that_holds_much_is_shown_within_bounds() {
    let (_broker, client, web) = page();
    let mut objects = Vec::new();
    for _ in 0..40 {
        objects.push(client.create_set(64, 4096).expect("memory"));
    }
    let queues: Vec<_> =
        (0..4).map(|_| client.device("copy").expect("it is there").queue(1024).expect("a queue")).collect();
    let target = client.create(4096).expect("memory");
    let _stopped = Stopped::new(driver(&client, "copy"));
    let mut sent = Vec::new();
    for queue in queues.iter().cycle().take(40) {
        let mut batch = client.batch();
        (0..50).for_each(|_| drop(batch.job(queue, "fill").output(&target).param("byte", 1)));
        sent.push(batch.submit_acknowledged().expect("accepted"));
    }
    let text = web.body("/api/state");
    let state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let count = |list: &str| (state[list]["listed"].as_array().map(Vec::len), state[list]["all"].as_u64());
    assert_eq!(count("objects"), (Some(200), Some(40 * 64 + 1)));
    let nodes = state["waiting"]["nodes"].as_array().map_or(0, Vec::len);
    assert!((2..=200).contains(&nodes) && text.len() < 300_000, "{nodes} nodes, {} bytes", text.len());
    assert!(
        state["waiting"]["left_out"].as_u64().is_some_and(|number| number > 1000),
        "{}",
        state["waiting"]["left_out"]
    );
}

#[test]
fn the_examples_of_the_help_serve() {
    let help = command().arg("--help").output().expect("it starts");
    let help = String::from_utf8(help.stdout).expect("text");
    let broker = Embedded::start().expect("a private broker");
    let folder = tempfile::tempdir().expect("a folder");
    let examples: Vec<&str> = help.lines().filter_map(|line| line.trim().strip_prefix("vgem-web ")).collect();
    assert_eq!(examples.len(), 2, "{help}");
    for example in examples {
        let mut command = command();
        command.args(example.split_whitespace()).current_dir(&folder).env("VGEM_SOCKET", broker.socket());
        let mut web = Web::start(command);
        if let Some(path) = web.address.strip_prefix("unix:") {
            web.address = format!("unix:{}", folder.path().join(path).display());
        }
        assert_eq!(web.state()["answers"], true, "{example}");
    }
}

#[test]
fn it_gives_up_what_it_does_not_need() {
    let (_broker, _client, web) = page();
    assert_eq!(web.state()["answers"], true);
    let pid = web.pid().as_raw_nonzero();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let of =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).expect("a line").trim().to_owned();
    assert_eq!(
        (of("NoNewPrivs:"), of("CapEff:"), of("Seccomp:")),
        ("1".into(), "0000000000000000".into(), "2".into())
    );
}
