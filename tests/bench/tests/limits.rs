//! The program as a whole, with the benches that need no vgemd: floors, second processes, the document.
#![forbid(unsafe_code)]

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_vgem-bench");
    Command::new(program).args(arguments).output().expect("the program of this package starts")
}

fn document() -> Value {
    let output = bench(&["limits", "--quick", "--reps", "1", "--mode", "d", "--format", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

#[test]
fn every_floor_is_measured_and_told() {
    let document = document();
    let series = document["results"][0]["series"].as_array().expect("a list of series");
    let floors = [
        "futex round trip",
        "SEQPACKET round trip, 64 B",
        "tracked by hand, submit until signalled",
        "pipeline of three processes by hand, 64 KiB, frames",
        "the same by copy through sockets",
    ];
    for floor in floors {
        let found = series.iter().find(|series| series["name"] == floor);
        let p50 = found.and_then(|series| series["p50"].as_f64());
        assert!(p50.is_some_and(|found| found > 100.0), "{floor}: {p50:?}");
    }
}

#[test]
fn a_document_says_what_machine_it_is_from() {
    let machine = &document()["machine"];
    assert!(machine["cores"].as_u64().is_some_and(|cores| cores > 0), "{machine}");
    assert!(machine["kernel"].as_str().is_some_and(|kernel| kernel.contains('.')), "{machine}");
}

#[test]
fn a_name_that_is_no_bench_ends_the_program_with_those_there_are() {
    let output = bench(&["P999"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(said.contains("P999") && said.contains("P14"), "{said}");
}

#[test]
fn the_list_names_every_bench_that_has_a_target() {
    let listed = bench(&["--list"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for name in ["P3", "P4", "P5", "P6", "P11", "P13", "P14"] {
        assert!(listed.lines().any(|line| line.split_whitespace().next() == Some(name)), "{listed}");
    }
}
