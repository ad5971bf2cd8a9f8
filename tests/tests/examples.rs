//! The examples work, and the README shows the one it says it shows.

#![forbid(unsafe_code)]

use std::time::Duration;

use vgem_tests::chaos::pressure;
use vgem_tests::programs::{own, run};

#[test]
fn the_first_steps_work() {
    let out = run(own("examples/first_steps"), [""; 0]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.contains("1048576 bytes became "), "{said}");
}

#[test]
fn a_program_copies_and_hashes_by_its_own_pointers() {
    let out = run(own("examples/user_queue"), [""; 0]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    assert!(
        said.contains("copied 1085000 bytes on copy") && said.contains("hashed 1085000 bytes on sec"),
        "{said}"
    );
}

#[test]
fn a_program_with_ordinary_vectors_has_them_packed_and_hashed_by_pointer() {
    let out = run(own("examples/sva_existing_memory"), [""; 0]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    let hashes: Vec<&str> = said.lines().filter_map(|line| line.split("sha256 ").nth(1)).collect();
    // As sha256sum prints it of the first document.
    let line =
        |n: usize| format!("{n}: all that is gold does not glitter, not all those who wander are lost\n");
    let first = sha256sum((0..2000).map(line).collect::<String>().as_bytes());
    assert_eq!((hashes.len(), hashes[0].trim_end_matches('.')), (8, &first[..16]), "{said}");
    assert!(
        said.contains("none of them in an object") && said.contains("0x1000 could not be reached"),
        "{said}"
    );
}

fn sha256sum(bytes: &[u8]) -> String {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    std::io::Write::write_all(&mut file, bytes).expect("it takes that");
    let out = run("sha256sum", [file.path()]);
    String::from_utf8_lossy(&out.stdout).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn a_plan_says_for_every_size_which_way_it_goes_and_does_it() {
    for aim in ["", "--own-cpu"] {
        let out = run(own("examples/plan"), [aim]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        assert!(said.contains(" operations measured in "), "{said}");
        assert_eq!(said.matches(" -> ").count(), 18, "{said}");
        assert!(said.contains("copy.copy of 64 MiB: ") && said.contains("\nthresholds: "), "{said}");
    }
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

/// The stages, and what their failures name.
const STAGES: [(&str, &str); 5] = [
    ("load", "device copy"),
    ("pack", "device zip"),
    ("label", "\"label\""),
    ("seal", "device sec"),
    ("store", "device blk"),
];

/// What each stage got, of the frame that something happened to and of the next one; and what was behind it.
fn account(manner: &str, stage: &str) -> (Vec<String>, Vec<String>) {
    let out = run(own("examples/pipeline_with_a_dead_stage"), [manner, stage]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{manner} {stage}:\n{said}");
    let stages = said
        .lines()
        .filter_map(|line| line.strip_prefix("  ")?.split_once(" ms  ").map(|(_, end)| end.to_owned()));
    let causes = said.lines().filter(|line| line.starts_with("cause:")).map(str::to_owned);
    (stages.collect(), causes.collect())
}

#[test]
fn of_a_dead_or_stopped_stage_everybody_behind_it_learns_the_same_name_and_nobody_before_it() {
    for (at, (stage, name)) in STAGES.into_iter().enumerate() {
        for (manner, pack) in
            [("--kill", ["device lost", "owner died"]), ("--stop", ["timed out", "timed out"])]
        {
            let (ends, causes) = account(manner, stage);
            let [cause] = &causes[..] else { panic!("{manner} {stage}: {causes:?}") };
            assert!(cause.contains(name), "{manner} {stage}: {cause}");
            let id = cause.split(": ").next().expect("a cause has a number");
            assert_eq!(ends.len(), 10, "{manner} {stage}: two frames: {ends:?}");
            for (other, end) in ends.iter().enumerate() {
                let failed = pack.iter().any(|code| *end == format!("{code}, {id}"));
                let right = if (at..5).contains(&other) { failed } else { end == "done" };
                assert!(right, "{manner} {stage}: {}: {end}", STAGES[other % 5].0);
            }
        }
    }
}

#[test]
fn of_a_stage_that_is_late_but_not_too_late_nobody_learns_anything() {
    for (stage, _) in STAGES {
        let done = (0..3).any(|_| {
            let waited = pressure::waited();
            let (ends, causes) = account("--delay", stage);
            let done = causes.is_empty() && ends.len() == 10 && ends.iter().all(|end| end == "done");
            // Where others kept it from a core it may have been too late.
            let crowded = pressure::waited().saturating_sub(waited);
            assert!(done || crowded > Duration::from_millis(30), "{stage}: {ends:?}, {causes:?}");
            done
        });
        assert!(done, "{stage}: too late three times");
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
