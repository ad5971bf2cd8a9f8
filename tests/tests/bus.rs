//! Control on a private bus, called by programs that nobody here wrote: busctl, gdbus, and Python's stock package.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use vgem::{Client, DomainOptions};
use vgem_tests::bus::{Bus, MANAGER, NAME, OnBus, PATH, SOON, python_at};
use vgem_tests::daemon::{Daemon, Serving, USERS};
use vgem_tests::polkit::{Polkit, Question, Word};
use vgem_tests::{processes, programs};

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&text(output)).expect("one JSON document")
}

/// Fills a buffer over the socket.
fn fills(client: &Client) {
    let buffer = client.create(4096).expect("a buffer");
    let queue = client.device("copy").expect("copy").queue(0).expect("a queue");
    let mut batch = client.batch();
    batch.job(&queue, "fill").output(&buffer).param("byte", 7_u32);
    batch.submit().expect("room").wait(SOON).expect("it fills");
    assert_eq!(buffer.read(.., SOON).expect("it is filled").first(), Some(&7));
}

/// The process of control.
fn control(daemon: &OnBus) -> Option<u32> {
    let said = daemon.says_of_control();
    said.split("process ").nth(1).and_then(|pid| pid.trim().parse().ok())
}

#[test]
fn busctl_finds_the_devices_with_their_properties() {
    let bus = Bus::start();
    let _daemon = OnBus::with_control(&bus);
    let tree = text(&bus.busctl(&["tree", "--list", NAME]));
    assert!(tree.lines().any(|path| path == format!("{PATH}/devices/zip")), "{tree}");
    let path = format!("{PATH}/devices/copy");
    let property = |name| text(&bus.busctl(&["get-property", NAME, &path, "org.vgemd.Broker1.Device", name]));
    assert_eq!(property("Name"), "s \"copy\"\n");
    assert!(property("Operations").contains("\"crc32c\""));
    let managed = "org.freedesktop.DBus.ObjectManager";
    let all = text(&bus.busctl(&["call", NAME, PATH, managed, "GetManagedObjects"]));
    assert!(all.contains("org.vgemd.Broker1.Client") && all.contains("org.vgemd.Broker1.Domain"), "{all}");
}

#[test]
fn busctl_gets_a_session_as_an_fd() {
    let bus = Bus::start();
    let _daemon = OnBus::with_control(&bus);
    let session = text(&bus.busctl(&["call", NAME, PATH, MANAGER, "OpenSession", "a{sv}", "0"]));
    assert!(session.starts_with("h "), "{session}");
}

#[test]
fn gdbus_is_told_of_an_unknown_option_by_its_name() {
    let bus = Bus::start();
    let _daemon = OnBus::with_control(&bus);
    assert!(text(&bus.gdbus("Status", &["{}"])).contains("'jobs'"));
    let said = bus.gdbus("Status", &["{'colour': <'red'>}"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("org.vgemd.Error.BadParameter: option \"colour\" is not known"), "{said}");
}

#[test]
fn a_python_program_compresses_by_the_data_verbs_and_reads_the_result_from_mapped_fds() {
    let bus = Bus::start();
    let daemon = OnBus::with_control(&bus);
    let done = json(&bus.python("compress", None));
    assert_eq!((&done["state"], &done["same"]), (&"ended".into(), &true.into()), "{done}");
    let (produced, of) = (done["produced"].as_u64().expect("bytes"), done["of"].as_u64().expect("bytes"));
    assert!(produced > 0 && produced < of / 10, "{done}");
    // It has left the bus, and with it went its session and all that it held.
    let client = Client::connect(daemon.socket()).expect("it serves");
    processes::until(SOON, "what a caller held is let go of", || {
        let objects = client.object_entries().expect("it answers");
        let clients = client.client_entries().expect("it answers");
        objects.is_empty() && clients.iter().all(|client| !client.name.starts_with("bus "))
    });
}

#[test]
fn a_python_program_is_told_how_a_job_failed_and_why() {
    let bus = Bus::start();
    let _daemon = OnBus::with_control(&bus);
    let told = json(&bus.python("fail", None));
    assert_eq!(told["state"], "failed");
    assert_eq!(told["error"], "org.vgemd.Error.OutputTooSmall");
    assert_eq!((&told["explained"], &told["device"]), (&told["error"], &"zip".into()));
}

#[test]
fn a_python_program_is_told_why_a_job_has_not_ended() {
    let bus = Bus::start();
    let _daemon = OnBus::with_control(&bus);
    let told = json(&bus.python("why", None));
    assert_eq!(
        (&told["points"], &told["waits"]),
        (&serde_json::json!([3, 2]), &serde_json::json!([2])),
        "{told}"
    );
    assert_eq!(
        (&told["pids"], &told["result"], &told["then"]),
        (&true.into(), &"ended".into(), &0.into()),
        "{told}"
    );
}

#[test]
fn a_python_program_speaks_the_protocol_on_a_session() {
    let bus = Bus::start();
    let _daemon = OnBus::with_control(&bus);
    let told = json(&bus.python("session", None));
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!((&told["opcode"], &told["domain"]), (&101.into(), &uid.into()), "{told}");
}

#[test]
fn where_groups_say_whose_quota_a_caller_has_it_is_sent_to_the_socket() {
    for members in ["groups = [\"daemon\"]", "cgroups = [\"/\"]"] {
        let bus = Bus::start();
        let daemon = OnBus::configured(&bus, &format!("[domains.render]\n{members}\n"));
        let said = bus.gdbus("Status", &["{}"]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        let is_denied = said.contains("org.vgemd.Error.Denied") && said.contains("use the socket");
        assert!(is_denied, "{members}: {said}");
        fills(&Client::connect(daemon.socket()).expect("it serves"));
        assert!(daemon.says_of_control().contains("process "), "control itself goes on");
    }
}

#[test]
fn every_refusal_has_the_name_of_its_code_and_says_what_was_wrong() {
    let bus = Bus::start();
    let _daemon = OnBus::with_control(&bus);
    let told = json(&bus.python("refused", None));
    for (call, code, words) in [
        ("option", "BadParameter", "\"colour\""),
        ("access", "BadParameter", "\"both\""),
        ("handle", "NoSuchHandle", "999"),
        ("job", "NoSuchHandle", "999"),
        ("device", "NoSuchDevice", "\"none\""),
        ("op", "NoSuchOperation", "\"none\""),
        ("beyond", "OutOfRange", "8192"),
        ("empty", "OutOfRange", ""),
        ("param", "BadParameter", "\"byte\""),
    ] {
        let name = format!("org.vgemd.Error.{code}");
        assert_eq!(told[call][0], name, "{call}: {told}");
        assert!(told[call][1].as_str().is_some_and(|said| said.contains(words)), "{call}: {told}");
    }
    assert!(told["huge"][0].as_str().is_some_and(|name| name.starts_with("org.vgemd.Error.")), "{told}");
}

// M-205, M-206, M-208
#[test]
fn a_caller_is_the_user_that_the_bus_says_and_sees_its_own_domain_alone() {
    let (bus, daemon) = for_everybody("");
    let root = Client::connect(daemon.socket()).expect("it serves");
    for uid in [0, USERS[0], USERS[1]] {
        let told = json(&bus.python("who", Some(uid)));
        let own = serde_json::json!([uid, uid, told["pid"]]);
        let clients = told["clients"].as_array().expect("a list");
        assert!(clients.contains(&own), "{told}");
        // Root too: over the bus nobody administers.
        assert!(clients.iter().all(|client| client[1] == uid), "{told}");
    }
    assert!(root.client_entries().expect("it answers").len() >= 3);
    // Who serves everybody tells nobody of others: no client and no domain is an object.
    let tree = text(&bus.busctl(&["tree", "--list", NAME]));
    assert!(!tree.contains("/clients") && !tree.contains("/domains"), "{tree}");
}

// M-207
#[test]
fn a_daemon_that_serves_one_user_refuses_sessions_of_others() {
    let bus = Bus::of_everybody();
    let _daemon = OnBus::with_control(&bus);
    for what in ["who", "session"] {
        let told = json(&bus.python(what, Some(USERS[0])));
        assert_eq!(told["refused"], "org.vgemd.Error.Denied", "{told}");
        let said = told["text"].as_str().expect("words");
        let own = rustix::process::geteuid().as_raw();
        assert!(said.contains(&USERS[0].to_string()) && said.contains(&format!("uid {own}")), "{said}");
    }
}

/// A bus for everybody that is the system's, and a daemon for the machine that control is on it for.
fn for_everybody(more: &str) -> (Bus, Serving) {
    let bus = Bus::of_everybody();
    let config = format!("[control]\nbus = \"system\"\n{more}");
    let daemon = Daemon::system().config(&config).env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address()).start();
    bus.awaits_control();
    (bus, daemon)
}

const DENIED: &str = "org.vgemd.Error.Denied";

/// With what the steps of `administer` ended, as JSON; those that were not come to are left out.
fn ends(told: &Value) -> Vec<(&str, Option<&str>)> {
    let all = told["ends"].as_object().unwrap_or_else(|| panic!("no steps: {told}"));
    all.iter().map(|(step, end)| (step.as_str(), end[0].as_str())).collect()
}

// M-235, M-236
#[test]
fn where_there_is_no_polkit_root_administers_over_the_bus_and_nobody_else() {
    let (bus, _daemon) = for_everybody("");
    let root = json(&bus.python("administer", Some(0)));
    let gone = Some("org.vgemd.Error.Gone");
    let expected = [
        ("close", None),
        ("create", None),
        ("disconnect", gone),
        ("drain", None),
        ("quota", None),
        ("see", None),
    ];
    assert_eq!(ends(&root), expected, "{root}");
    let made = [&root["serves"], &root["ended"], &root["bytes"], &root["objects"], &root["devices"][0]];
    assert_eq!(
        made,
        [&true.into(), &true.into(), &(1 << 20).into(), &7.into(), &Value::from("zip")],
        "{root}"
    );
    let user = json(&bus.python("administer", Some(USERS[0])));
    let expected = ["create", "disconnect", "quota", "see"].map(|step| (step, Some(DENIED)));
    assert_eq!(ends(&user), expected, "{user}");
    let said = user["ends"]["create"][1].as_str().expect("words");
    assert!(said.contains(&USERS[0].to_string()) && said.contains("no polkit"), "{said}");
}

// M-236
#[test]
fn polkit_lets_a_user_do_over_the_bus_what_it_says_and_no_more() {
    let (bus, _daemon) = for_everybody("");
    let polkit = Polkit::on(&bus, |asked| match asked.action.as_str() {
        "org.vgemd.manage-domains" => Word::Yes,
        "org.vgemd.set-quotas" => Word::Ask,
        _ => Word::No,
    });
    let told = json(&bus.python("administer", Some(USERS[0])));
    let no = Some(DENIED);
    let expected =
        [("close", None), ("create", None), ("disconnect", no), ("drain", None), ("quota", no), ("see", no)];
    assert_eq!(ends(&told), expected, "{told}");
    assert!(told["ends"]["quota"][1].as_str().is_some_and(|said| said.contains("ask somebody")), "{told}");
    let who = told["name"].as_str().expect("a name").to_owned();
    let asked = polkit.asked();
    assert!(asked.len() >= 6 && asked.iter().all(|one| one.who == who && !one.interactive), "{asked:?}");
    // Root is not asked about.
    assert!(ends(&json(&bus.python("administer", Some(0)))).contains(&("see", None)));
    assert_eq!(polkit.asked(), []);
}

// M-250
#[test]
fn atk_who_has_polkits_name_on_another_bus_than_the_systems_lets_nobody_do_anything() {
    let bus = Bus::of_everybody();
    let config = format!("[control]\nbus = \"{}\"\n", bus.address());
    let _daemon = Daemon::system().config(&config).start();
    bus.awaits_control();
    let polkit = Polkit::on(&bus, |_| Word::Yes);
    let user = json(&bus.python("administer", Some(USERS[0])));
    let expected = ["create", "disconnect", "quota", "see"].map(|step| (step, Some(DENIED)));
    assert_eq!(ends(&user), expected, "{user}");
    let said = user["ends"]["create"][1].as_str().expect("words");
    assert!(said.contains("not the system's bus"), "{said}");
    assert_eq!(polkit.asked(), []);
    // Root needs nobody's leave.
    assert!(ends(&json(&bus.python("administer", Some(0)))).contains(&("see", None)));
}

// M-255
#[test]
fn a_domain_at_a_socket_that_the_caller_has_bound_is_made_over_the_bus_and_ends_with_its_close_fd() {
    let (bus, _daemon) = for_everybody("");
    let told = json(&bus.python("door", Some(0)));
    let ends = [&told["create"], &told["serves"], &told["ended"], &told["refuses"], &told["made"][1]];
    assert_eq!(ends, [&Value::Null, &true.into(), &true.into(), &true.into(), &true.into()], "{told}");
    let bad = "org.vgemd.Error.BadParameter";
    assert_eq!((&told["nameless"][0], &told["pipe"][0]), (&bad.into(), &bad.into()), "{told}");
    assert!(told["pipe"][1].as_str().is_some_and(|said| said.contains("a pipe was sent")), "{told}");
    let user = json(&bus.python("door", Some(USERS[0])));
    assert_eq!((&user["create"][0], &user["made"]), (&DENIED.into(), &Value::Null), "{user}");
}

// M-236
#[test]
fn polkit_may_ask_a_person_if_the_caller_says_so() {
    let (bus, _daemon) = for_everybody("");
    let polkit = Polkit::on(&bus, |asked| if asked.interactive { Word::Yes } else { Word::Ask });
    let call = ["call", NAME, PATH, MANAGER, "ListDomains", "a{sv}", "1", "all", "b", "true"];
    let asks = |may: &str| bus.busctl_as(USERS[1], &[&[may], call.as_slice()].concat());
    assert!(!asks("--allow-interactive-authorization=no").status.success());
    let seen = text(&asks("--allow-interactive-authorization=yes"));
    assert!(seen.starts_with("aa{sv} "), "{seen}");
    let asked: Vec<bool> = polkit.asked().iter().map(|Question { interactive, .. }| *interactive).collect();
    assert_eq!(asked, [false, true]);
}

// M-235
#[test]
fn where_the_configuration_says_so_nobody_administers_over_the_bus() {
    let (bus, daemon) = for_everybody("administration = false\n");
    let told = json(&bus.python("administer", Some(0)));
    let expected = ["create", "disconnect", "quota", "see"].map(|step| (step, Some(DENIED)));
    assert_eq!(ends(&told), expected, "{told}");
    let said = told["ends"]["create"][1].as_str().expect("words");
    assert!(said.contains("[control] administration is false"), "{said}");
    let root = Client::connect(daemon.socket()).expect("it serves");
    let made = root.create_domain(&DomainOptions::new("stage")).expect("over the socket root administers");
    assert!(made.socket.exists());
}

#[test]
fn a_daemon_for_the_machine_is_on_the_systems_bus_by_itself() {
    let bus = Bus::of_everybody();
    let _daemon = Daemon::system().env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address()).start();
    bus.awaits_control();
    assert_eq!(json(&bus.python("compress", Some(USERS[0])))["same"], true);
}

#[test]
fn a_daemon_for_a_user_is_on_the_sessions_bus_if_it_is_told_to() {
    let bus = Bus::start();
    let session = [("DBUS_SESSION_BUS_ADDRESS", bus.address())];
    let session = session.each_ref().map(|(name, value)| (*name, value.as_str()));
    let _daemon = OnBus::with("[control]\nbus = \"session\"\n", &session);
    bus.awaits_control();
    assert_eq!(json(&bus.python("compress", None))["same"], true);
}

#[test]
fn without_a_bus_callers_are_served_one_by_one() {
    let daemon = OnBus::with("[control]\nbus = \"peer\"\n", &[]);
    let socket = daemon.socket().with_file_name("bus.sock");
    let address = format!("unix:path={}", socket.display());
    let client = Client::connect(daemon.socket()).expect("it serves");
    for _ in 0..2 {
        processes::until(SOON, "control runs", || control(&daemon).is_some());
        let done = json(&python_at(&address, "peer-compress", None));
        assert_eq!((&done["state"], &done["same"]), (&"ended".into(), &true.into()), "{done}");
        let told = json(&python_at(&address, "peer-counters", None));
        assert_eq!(
            told["after"]["jobs"].as_u64(),
            told["before"]["jobs"].as_u64().map(|jobs| jobs + 1),
            "{told}"
        );
        let managed = told["managed"].as_array().expect("paths");
        assert!(managed.contains(&format!("{PATH}/devices/zip").into()), "{told}");
        assert_eq!(json(&python_at(&address, "peer-session", None))["opcode"], 101);
        // What they had went with them.
        processes::until(SOON, "their sessions are over", || {
            let clients = client.client_entries().expect("it answers");
            clients.iter().all(|client| !client.name.starts_with("bus "))
        });
        let old = control(&daemon).expect("it runs");
        processes::signal(old, "KILL");
        processes::until(SOON, "another runs", || control(&daemon).is_some_and(|new| new != old));
    }
    drop(daemon);
    assert!(!socket.exists());
}

#[test]
fn where_no_bus_is_wanted_there_is_no_control() {
    let daemon = OnBus::with("[control]\nbus = \"none\"\n", &[]);
    fills(&Client::connect(daemon.socket()).expect("it serves"));
    let said = daemon.says_of_control();
    assert!(said.starts_with("off"), "{said}");
    assert_eq!(control(&daemon), None);
}

#[test]
fn counters_of_a_device_are_those_of_the_callers_domain_at_that_moment() {
    let (bus, _daemon) = for_everybody("");
    let (first, second) = (bus.python("counters", Some(USERS[0])), bus.python("counters", Some(USERS[1])));
    for told in [json(&first), json(&second)] {
        // The other's job is not in it.
        assert_eq!((&told["before"]["jobs"], &told["after"]["jobs"]), (&Value::Null, &1.into()), "{told}");
        assert_eq!(told["after"]["in_flight"], 0, "{told}");
        assert!(told["after"]["busy_ns"].as_u64().is_some_and(|ns| ns > 0), "{told}");
    }
    let path = format!("{PATH}/devices/copy");
    let xml = text(&bus.busctl(&["introspect", "--xml-interface", NAME, &path]));
    let counters = xml.split("name=\"Counters\"").nth(1).expect("a property");
    let annotation = counters.split("</property>").next().expect("its end");
    assert!(annotation.contains("EmitsChangedSignal\" value=\"false\""), "{xml}");
}

#[test]
fn a_change_is_signalled_with_the_new_value() {
    let bus = Bus::start();
    let daemon = OnBus::with_control(&bus);
    let mut gdbus = Command::new("gdbus");
    gdbus.args(["monitor", "--address", &bus.address(), "--dest", NAME]).stdout(Stdio::piped());
    let mut gdbus = gdbus.spawn().expect("gdbus is installed");
    let mut lines = BufReader::new(gdbus.stdout.take().expect("piped")).lines();
    // It says so when it listens.
    let mut awaits = |what: &[&str]| {
        let told = |line: &String| what.iter().all(|word| line.contains(word));
        let found = lines.by_ref().map(|line| line.expect("text")).find(told);
        found.unwrap_or_else(|| panic!("{what:?} is not told"));
    };
    awaits(&["is owned by"]);
    let client = Client::connect(daemon.socket()).expect("it serves");
    let path = format!("{PATH}/clients/{}", client.number());
    let buffer = client.create(3 * 4096).expect("a buffer");
    // It may have come with the buffer already: then the object is new and has it.
    awaits(&[&path, "'Bytes': <uint64 12288>"]);
    drop(buffer);
    awaits(&[&path, "PropertiesChanged", "'Bytes': <uint64 0>"]);
    drop(client);
    awaits(&[&path, "InterfacesRemoved"]);
    gdbus.kill().expect("a child of ours");
    gdbus.wait().expect("a child of ours");
}

#[test]
fn a_bus_that_comes_back_finds_control_and_clients_of_the_socket_notice_nothing() {
    let mut bus = Bus::start();
    let daemon = OnBus::with_control(&bus);
    let client = Client::connect(daemon.socket()).expect("it serves");
    let before = control(&daemon);
    fills(&client);
    bus.end();
    fills(&client);
    bus.begin();
    bus.awaits_control();
    fills(&client);
    assert_eq!(json(&bus.python("compress", None))["same"], true);
    assert_eq!((control(&daemon), before.is_some()), (before, true), "the same process went on");
}

#[test]
fn control_that_dies_is_started_again_and_clients_of_the_socket_notice_nothing() {
    let bus = Bus::start();
    let daemon = OnBus::with_control(&bus);
    let client = Client::connect(daemon.socket()).expect("it serves");
    let first = control(&daemon).expect("it runs");
    processes::signal(first, "KILL");
    fills(&client);
    processes::until(SOON, "another control runs", || control(&daemon).is_some_and(|second| second != first));
    bus.awaits_control();
    assert_eq!(json(&bus.python("compress", None))["same"], true);
    fills(&client);
}

// M-209
#[test]
fn a_control_that_sends_nonsense_loses_its_link_and_nobody_else_does() {
    let bus = Bus::start();
    let programs = tempfile::tempdir().expect("a directory");
    let copy = "vgem-driver-copy";
    std::os::unix::fs::symlink(programs::own(copy), programs.path().join(copy)).expect("a link");
    let (fake, told) = (programs.path().join("vgem-control"), programs.path().join("told"));
    let script = format!(
        "#!/usr/bin/python3\nimport os\nos.write(3, b'nonsense')\nopen('{}', 'w').write(repr(os.read(3, 64)))\n",
        told.display()
    );
    std::fs::write(&fake, script).expect("a file of ours");
    std::fs::set_permissions(&fake, PermissionsExt::from_mode(0o755)).expect("a file of ours");
    let daemon = OnBus::start(&bus, programs.path());
    let client = Client::connect(daemon.socket()).expect("it serves");
    processes::until(SOON, "its link is closed", || {
        std::fs::read_to_string(&told).is_ok_and(|read| read == "b''")
    });
    processes::until(SOON, "the broker says so", || daemon.says_of_control().starts_with("degraded"));
    fills(&client);
}
