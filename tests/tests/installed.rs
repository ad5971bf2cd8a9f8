//! What `cargo xtask install` puts into an empty root is all that a machine needs: systemd makes the accounts and the folder
//! from it, a real bus lets the right account be the broker and the others call it.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vgem_tests::bus::{Bus, NAME};
use vgem_tests::daemon::{Daemon, USERS};
use vgem_tests::programs;
use vgem_tests::raw::Raw;
use vgem_tests::stranger::Stranger;

const BUS: &str = "org.freedesktop.DBus";

/// Installs the programs that were built for the tests below `root`.
fn install(root: &Path) {
    let built = programs::own("vgemd");
    let mut xtask = Command::new(programs::own("xtask"));
    xtask.args(["install", "--prefix", "/usr", "--destdir"]).arg(root);
    // Which is how cargo tells it where the source tree is.
    xtask.env("CARGO_MANIFEST_DIR", concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/xtask"));
    xtask.arg("--programs").arg(built.parent().expect("a folder"));
    let done = xtask.output().expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// What systemd makes of the installed files: the accounts, and the folder below /run.
fn prepare(root: &Path) -> (String, PathBuf) {
    let of_root = format!("--root={}", root.display());
    std::fs::create_dir_all(root.join("etc")).expect("a folder of ours");
    programs::succeed("systemd-sysusers", [of_root.as_str()]);
    programs::succeed("systemd-tmpfiles", [of_root.as_str(), "--create", "vgemd.conf"]);
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).expect("accounts");
    let machine = std::fs::read_to_string("/etc/passwd").expect("it is on every Linux");
    let mut all: String =
        machine.lines().filter(|line| !is_ours(line)).flat_map(|line| [line, "\n"]).collect();
    all.extend(passwd.lines().filter(|line| is_ours(line)).flat_map(|line| [line, "\n"]));
    all.push_str(&format!("vgem-test-a:x:{}:{}::/:/bin/false\n", USERS[0], USERS[0]));
    (all, root.join("run/vgemd"))
}

fn is_ours(account: &str) -> bool {
    account.starts_with("vgemd") || account.starts_with("vgem-web:")
}

fn uid(accounts: &str, name: &str) -> u32 {
    let line = accounts.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    let field = line.and_then(|line| line.split(':').nth(1));
    field.and_then(|uid| uid.parse().ok()).unwrap_or_else(|| panic!("no account {name}: {accounts}"))
}

/// Whether this user may be the broker on the bus, as the bus says.
fn may_be_the_broker(bus: &Bus, uid: u32) -> Result<(), String> {
    let call = ["call", BUS, "/org/freedesktop/DBus", BUS, "RequestName", "su", NAME, "0"];
    let said = bus.busctl_as(uid, &call);
    match said.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&said.stderr).into_owned()),
    }
}

/// The account of the page's unit.
fn user_of_the_page(root: &Path) -> String {
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/vgem-web.service")).expect("a unit");
    let user = unit.lines().find_map(|line| line.strip_prefix("User="));
    user.expect("a user of its own").to_owned()
}

/// What the installed page, run as this user, shows.
fn page_of(root: &Path, uid: u32, socket: &Path) -> String {
    let mut page = Command::new(root.join("usr/bin/vgem-web"));
    page.args(["--listen", "127.0.0.1:0", "--socket"]).arg(socket).uid(uid).gid(uid);
    let mut page = page.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut said = String::new();
    BufReader::new(page.stdout.take().expect("a pipe")).read_line(&mut said).expect("it serves");
    let address = said.trim().strip_prefix("http://").and_then(|rest| rest.strip_suffix('/'));
    let address = address.unwrap_or_else(|| panic!("no address: {said:?}"));
    let mut http = TcpStream::connect(address).expect("it listens");
    let ask = format!("GET /api/state HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    http.write_all(ask.as_bytes()).expect("it reads");
    let mut answer = String::new();
    http.read_to_string(&mut answer).expect("it answers and closes");
    page.kill().expect("a child of ours");
    page.wait().expect("a child of ours");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

#[test]
fn the_page_of_the_unit_shows_other_domains_once_its_account_observes() {
    let dir = tempfile::Builder::new().prefix("vgem-installed-").tempdir().expect("a directory");
    let root = dir.path();
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o755)).expect("a directory of ours");
    install(root);
    let (accounts, place) = prepare(root);
    let passwd = root.join("passwd");
    std::fs::write(&passwd, &accounts).expect("a file of ours");
    let user = user_of_the_page(root);
    let page = uid(&accounts, &user);
    let machines = std::fs::read_to_string(root.join("usr/share/doc/vgemd/vgemd.toml")).expect("an example");
    let example: String = machines
        .lines()
        .skip_while(|line| *line != "# [observers]")
        .take(2)
        .map(|line| format!("{}\n", &line[2..]))
        .collect();
    assert!(example.contains(&user), "{example}");

    for (config, sees) in [
        ("[control]\nbus = \"none\"\n".to_owned(), false),
        (format!("[control]\nbus = \"none\"\n{example}"), true),
    ] {
        let daemon = Daemon::system().config(&config);
        let daemon = daemon.installed(&root.join("usr/libexec/vgemd"), &passwd, &place).start();
        let mut other = Raw::over(Stranger::of_uid(USERS[0]).connect(&daemon.socket()));
        let _object = other.object(true);
        let shown = page_of(root, page, &daemon.socket());
        assert_eq!(shown.contains(&format!("\"uid\":{}", USERS[0])), sees, "{config} {shown}");
        assert_eq!(shown.contains(&format!("\"domain\":{}", USERS[0])), sees, "{config} {shown}");
    }
}

#[test]
fn what_is_installed_in_an_empty_root_serves_callers_of_the_machines_bus() {
    let dir = tempfile::Builder::new().prefix("vgem-installed-").tempdir().expect("a directory");
    let root = dir.path();
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o755)).expect("a directory of ours");
    install(root);
    for file in [
        "usr/bin/vgemctl",
        "usr/bin/vgemd",
        "usr/lib/systemd/system/vgemd.service",
        "usr/share/dbus-1/interfaces/org.vgemd.Broker1.xml",
        "usr/share/polkit-1/actions/org.vgemd.policy",
    ] {
        assert!(root.join(file).is_file(), "{file} is not installed");
    }
    let (accounts, place) = prepare(root);
    assert!(place.is_dir(), "systemd makes no {}", place.display());
    let passwd = dir.path().join("passwd");
    std::fs::write(&passwd, &accounts).expect("a file of ours");
    let bus = Bus::of_the_machine(accounts.clone(), &root.join("usr/share/dbus-1/system.d"));

    let control = uid(&accounts, "vgemd-control");
    for uid in [USERS[0], uid(&accounts, "vgemd"), uid(&accounts, "vgemd-driver")] {
        let refused = may_be_the_broker(&bus, uid).expect_err("not for everybody");
        assert!(refused.contains("Access denied"), "{refused}");
    }
    assert_eq!((may_be_the_broker(&bus, control), may_be_the_broker(&bus, 0)), (Ok(()), Ok(())));

    let programs = root.join("usr/libexec/vgemd");
    let daemon = Daemon::system().env("DBUS_SYSTEM_BUS_ADDRESS", &bus.address());
    let daemon = daemon.installed(&programs, &passwd, &place).start();
    bus.awaits_control();
    assert_eq!(daemon.socket(), place.join("vgemd.sock"));
    let owner =
        programs::succeed("busctl", [format!("--address={}", bus.address()), "status".into(), NAME.into()]);
    assert!(owner.lines().any(|line| line == format!("UID={control}")), "{owner}");
    let done = bus.python("compress", Some(USERS[0]));
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.contains("\"same\": true"), "{said} {}", String::from_utf8_lossy(&done.stderr));
    // What is no interface of the broker's is not passed on, whoever calls.
    let call = ["call", NAME, "/org/vgemd/Broker1", "org.example.Other", "Anything"];
    let refused = bus.busctl_as(USERS[0], &call);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Access denied"), "{refused:?}");
}
