//! Which crate may depend on which: the edges of `ARCHITECTURE.md`, held against `cargo metadata`.
//!
//! An edge is any dependency of one crate of this workspace on another: normal, build or test. The
//! table below is complete, so a crate it does not name is an offence too. That keeps the rules of
//! the broker (`vgem-core`) free of everything but the words it speaks, and keeps drivers, clients
//! and the daemon from growing into each other: they meet on the wire and nowhere else.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate, its folder, and the crates of this workspace it may use.
const LAYERS: &[(&str, &str, &[&str])] = &[
    ("vgem-proto", "proto", &[]),
    ("vgem-os", "proto/os", &["vgem-proto"]),
    ("vgem-core", "broker/core", &["vgem-proto"]),
    ("vgemd", "broker", &["vgem-proto", "vgem-os", "vgem-core"]),
    ("vgem-control", "broker/control", &["vgem-proto", "vgem-os", "vgem"]),
    ("vgem", "client", &["vgem-proto", "vgem-os"]),
    ("vgemctl", "client/ctl", &["vgem-proto", "vgem", "vgem-waiting"]),
    ("vgem-waiting", "client/waiting", &["vgem"]),
    ("vgem-web", "client/web", &["vgem-os", "vgem", "vgem-waiting"]),
    (
        "vgem-plan",
        "client/plan",
        // It runs the drivers' engines in the client's process, without the broker.
        &["vgem-proto", "vgem", "vgem-driver", "vgem-driver-copy", "vgem-driver-zip", "vgem-driver-sec"],
    ),
    ("vgem-driver", "drivers/sdk", &["vgem-proto", "vgem-os"]),
    ("vgem-driver-copy", "drivers/copy", &["vgem-proto", "vgem-driver"]),
    ("vgem-driver-zip", "drivers/zip", &["vgem-proto", "vgem-driver"]),
    ("vgem-driver-sec", "drivers/sec", &["vgem-proto", "vgem-driver"]),
    ("vgem-driver-blk", "drivers/blk", &["vgem-proto", "vgem-driver"]),
    ("vgem-examples", "examples", &["vgem-proto", "vgem", "vgem-plan"]),
    ("vgem-tests", "tests", &["vgem-proto", "vgem-os", "vgem", "vgem-plan"]),
    (
        "vgem-bench",
        "tests/bench",
        // The floor of the main job links the drivers' engines and calls them without a broker.
        &[
            "vgem-proto",
            "vgem-os",
            "vgem",
            "vgem-driver",
            "vgem-driver-copy",
            "vgem-driver-zip",
            "vgem-driver-sec",
            "vgem-driver-blk",
        ],
    ),
    ("vgem-peers", "tests/peers", &["vgem-os"]),
    ("xtask", "packaging/xtask", &[]),
];

/// Crates that do I/O, keep time or run tasks: `vgem-core` and `vgem-proto` use none of them.
const WORLDLY: &[&str] = &[
    "tokio",
    "mio",
    "rustix",
    "nix",
    "libc",
    "io-uring",
    "memfd",
    "sendfd",
    "socket2",
    "rand",
    "getrandom",
    "chrono",
    "time",
    "tracing",
    "parking_lot",
    "crossbeam-channel",
];

/// A crate of the workspace, as far as this test looks at it.
#[derive(Clone, Debug)]
struct Package {
    name: String,
    folder: PathBuf,
    /// Names of what it depends on in any way.
    uses: BTreeSet<String>,
    /// Names of what its library or program is made of, tests and build scripts apart.
    made_of: BTreeSet<String>,
}

#[test]
fn every_edge_between_crates_is_in_the_table() {
    assert_eq!(forbidden_edges(&packages()), Vec::<String>::new());
}

#[test]
fn every_crate_is_in_the_table_and_in_its_folder() {
    assert_eq!(misplaced(&packages()), Vec::<String>::new());
}

#[test]
fn the_rules_and_the_words_are_made_of_nothing_that_touches_the_world() {
    assert_eq!(worldly(&packages()), Vec::<String>::new());
}

#[test]
fn an_edge_that_is_not_in_the_table_is_found() {
    let found = forbidden_edges(&with_edge("vgem-core", "vgem-os"));
    assert!(found.contains(&"vgem-core must not depend on vgem-os".to_owned()));
}

#[test]
fn an_edge_that_only_tests_use_is_an_edge() {
    let mut packages = packages();
    let driver =
        packages.iter_mut().find(|package| package.name == "vgem-driver-zip").expect("the zip driver");
    driver.uses.insert("vgem".to_owned());
    assert!(forbidden_edges(&packages).contains(&"vgem-driver-zip must not depend on vgem".to_owned()));
}

#[test]
fn a_crate_that_the_table_does_not_name_is_found() {
    let mut packages = packages();
    let mut stranger = packages[0].clone();
    stranger.name = "vgem-stranger".to_owned();
    packages.push(stranger);
    assert_eq!(misplaced(&packages).len(), 1);
}

#[test]
fn a_runtime_in_the_rules_is_found() {
    assert_eq!(worldly(&with_edge("vgem-core", "tokio")), ["vgem-core must not be made of tokio"]);
}

fn forbidden_edges(packages: &[Package]) -> Vec<String> {
    let ours: BTreeSet<_> = packages.iter().map(|package| package.name.as_str()).collect();
    let allowed: BTreeMap<_, _> = LAYERS.iter().map(|(name, _, uses)| (*name, *uses)).collect();
    let mut found = Vec::new();
    for package in packages {
        let allowed = allowed.get(package.name.as_str()).copied().unwrap_or_default();
        for used in package.uses.iter().map(String::as_str) {
            if ours.contains(used) && !allowed.contains(&used) {
                found.push(format!("{} must not depend on {used}", package.name));
            }
        }
    }
    found
}

fn misplaced(packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for package in packages {
        let row = LAYERS.iter().find(|(name, _, _)| *name == package.name);
        match row {
            None => found.push(format!("{} has no row in the table of layers", package.name)),
            Some((_, folder, _)) if root().join(folder) != package.folder => {
                found.push(format!("{} is not in {folder}/", package.name));
            }
            Some(_) => {}
        }
    }
    for (name, folder, _) in LAYERS {
        if !packages.iter().any(|package| package.name == *name) {
            found.push(format!("{name} is not in {folder}/"));
        }
    }
    found
}

fn worldly(packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    for package in
        packages.iter().filter(|package| ["vgem-core", "vgem-proto"].contains(&package.name.as_str()))
    {
        for used in package.made_of.iter().filter(|used| WORLDLY.contains(&used.as_str())) {
            found.push(format!("{} must not be made of {used}", package.name));
        }
    }
    found
}

/// The real workspace with one dependency more.
fn with_edge(from: &str, to: &str) -> Vec<Package> {
    let mut packages = packages();
    let package = packages.iter_mut().find(|package| package.name == from).expect("a crate of the workspace");
    package.uses.insert(to.to_owned());
    package.made_of.insert(to.to_owned());
    packages
}

/// The crates of the workspace; `--no-deps` asks neither the network nor the lock file.
fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    metadata["packages"].as_array().expect("a list of packages").iter().map(package).collect()
}

fn package(json: &Value) -> Package {
    let dependencies = json["dependencies"].as_array().expect("a list of dependencies");
    let manifest = Path::new(text(&json["manifest_path"]));
    Package {
        name: text(&json["name"]).to_owned(),
        folder: manifest.parent().expect("a manifest is in a folder").to_owned(),
        uses: dependencies.iter().map(|one| text(&one["name"]).to_owned()).collect(),
        made_of: dependencies
            .iter()
            .filter(|one| one["kind"].is_null())
            .map(|one| text(&one["name"]).to_owned())
            .collect(),
    }
}

fn text(json: &Value) -> &str {
    json.as_str().expect("a text")
}

/// The top of the source tree, spelled as cargo spells it.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the source tree").to_owned()
}
