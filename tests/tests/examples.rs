//! The examples work, and the README shows the one it says it shows.

#![forbid(unsafe_code)]

use vgem_tests::programs::{own, run};

#[test]
fn the_first_steps_work() {
    let out = run(own("examples/first_steps"), [""; 0]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("1048576 bytes became "), "{said}");
}

#[test]
fn shared_memory_outlives_its_producer_and_its_consumer_and_ends_with_its_last_mapping() {
    let out = run(own("examples/share_between_processes"), [""; 0]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    let course = [
        "producer: killed",
        "consumer: killed",
        "is orphaned",
        "stranger: killed",
        " freed: ",
        "0 objects are left",
    ];
    let mut rest = said.as_str();
    for next in course {
        let found = rest.split_once(next);
        rest = found.unwrap_or_else(|| panic!("no {next:?} after what comes before it:\n{said}")).1;
    }
}

#[test]
fn the_readme_shows_the_first_steps_as_they_are() {
    let top = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |name: &str| std::fs::read_to_string(format!("{top}/{name}")).expect("a file of the tree");
    let (readme, example) = (read("README.md"), read("examples/first_steps.rs"));
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("\n```").next());
    let shown: Vec<&str> = shown.expect("one block of Rust").lines().map(str::trim).collect();
    let lines: Vec<&str> = example.lines().map(str::trim).collect();
    assert!(lines.windows(shown.len()).any(|window| window == shown), "the README shows something else");
}
