//! A client that shares no code with this crate, written from SPEC.md alone, agrees with the golden session.
//!
//! What it does with a running daemon is in `tests/tests/independent_client.rs`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn session(file: &Path) -> Output {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Command::new("python3")
        .arg(here.join("tests/independent_client.py"))
        .arg("--session")
        .arg(file)
        .output()
        .expect("python3 is on the path: `cargo xtask test` installs it")
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/session.hex")
}

// M-002, M-040
#[test]
fn a_client_written_from_the_specification_builds_and_reads_the_worked_session() {
    let output = session(&golden());
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!((said.trim(), output.status.code()), ("OK", Some(0)), "{output:?}");
}

#[test]
fn that_client_notices_one_changed_byte() {
    let text = std::fs::read_to_string(golden()).unwrap();
    let changed = text.replacen("64656d6f", "64656d70", 1);
    assert_ne!(changed, text, "the session greets as `demo`");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("session-{}.hex", std::process::id()));
    std::fs::write(&file, changed).unwrap();
    let output = session(&file);
    std::fs::remove_file(&file).unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Hello is"), "{output:?}");
}
