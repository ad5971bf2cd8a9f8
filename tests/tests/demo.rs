//! The main job: a real file through four devices and back, one message per chunk and direction.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use vgem_tests::programs::{digest, own, python, run, succeed};
use vgem_tests::{processes, samples};

const MIB: usize = 1 << 20;

/// A demo on a sample of `len` bytes with 64 KiB chunks, in a place of its own.
struct Demo {
    dir: tempfile::TempDir,
    file: PathBuf,
}

impl Demo {
    fn new(len: usize) -> Self {
        let dir = samples::place();
        let file = samples::file(dir.path(), "original", len);
        Self { dir, file }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(own("vgem-demo"));
        command
            .arg(&self.file)
            .args(["--format", "json", "--chunk-kib", "64", "--trace"])
            .arg(self.at("trace.json"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn report(&self, args: &[&str]) -> Value {
        let out = self.command(args).output().expect("the demo starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).expect("one JSON object")
    }

    /// Starts the demo and waits until its driver for `device` is at work, which is when it maps its first object; the
    /// demo, and the driver's pid.
    fn midway(&self, args: &[&str], device: &str) -> (Child, u32) {
        let child =
            self.command(args).arg("--output").arg(self.at("packed")).spawn().expect("the demo starts");
        let wanted = format!("vgem-driver-{device}");
        let mut found = None;
        processes::until(Duration::from_secs(30), "the driver is at work", || {
            let drivers =
                processes::tree(child.id()).into_iter().filter(|pid| processes::name(*pid) == wanted);
            found = drivers.into_iter().find(|pid| maps_an_object(*pid));
            found.is_some()
        });
        (child, found.expect("just found"))
    }
}

/// Whether a driver maps memory that is neither a fence page nor an interest page.
fn maps_an_object(pid: u32) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let shared = |line: &&str| line.contains("memfd:");
    maps.lines().filter(shared).any(|line| !line.contains("vgem-fence") && !line.contains("vgem-interest"))
}

fn said(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn a_chunk_is_one_message_and_at_most_one_wake_up_per_direction() {
    let report = Demo::new(4 * MIB + 17).report(&[]);
    for direction in ["pack", "unpack"] {
        let row = &report[direction];
        assert_eq!(row["chunks"], 65);
        assert_eq!(row["client_messages_per_chunk"], 1.0, "{direction}: {row}");
        assert!(row["client_wakeups_per_chunk"].as_f64().is_some_and(|w| w <= 1.0), "{direction}: {row}");
    }
}

#[test]
fn nothing_is_copied_outside_devices_and_the_broker_signals_nothing() {
    let report = Demo::new(4 * MIB).report(&[]);
    assert_eq!(report["bytes_copied_outside_devices"], 0);
    assert_eq!(report["broker_signals"], 0);
    let devices = report["devices"].as_array().expect("rows");
    let staged: Vec<bool> = devices.iter().map(|d| d["staged_bytes"].is_u64()).collect();
    assert_eq!(staged, [true; 4], "{devices:?}");
}

#[test]
fn the_plain_file_is_a_row_of_zstd_frames() {
    let demo = Demo::new(5 * MIB + 3);
    let packed = demo.at("packed.zst");
    let report = demo.report(&["--plain", "--output", packed.to_str().expect("text")]);
    assert_eq!(report["packed_bytes"], packed.metadata().expect("it was kept").len());
    let back = demo.at("back");
    succeed("zstd", [Path::new("-q"), Path::new("-d"), &packed, Path::new("-o"), &back]);
    assert_eq!(digest("sha256sum", &back), digest("sha256sum", &demo.file));
}

#[test]
fn the_trace_has_a_row_per_device_and_an_arrow_per_handoff() {
    let demo = Demo::new(MIB);
    let chunks = demo.report(&[])["pack"]["chunks"].as_u64().expect("a number");
    let trace = std::fs::read(demo.at("trace.json")).expect("it was written");
    let trace: Value = serde_json::from_slice(&trace).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("a list");
    let count = |ph: &str| events.iter().filter(|e| e["ph"] == ph).count() as u64;
    assert_eq!(count("M"), 4);
    // Three handoffs out; back three too, and one from reading the original.
    assert_eq!((count("s"), count("f")), (7 * chunks, 7 * chunks));
}

#[test]
fn a_missing_file_is_one_line_and_a_failure() {
    let out = run(own("vgem-demo"), ["/does/not/exist"]);
    assert_eq!((out.status.code(), said(&out).lines().count()), (Some(1), 1), "{}", said(&out));
    assert!(said(&out).contains("/does/not/exist") && said(&out).contains("No such file"), "{}", said(&out));
}

#[test]
fn an_output_that_cannot_be_made_is_one_line_and_a_failure() {
    let demo = Demo::new(1000);
    let out = demo.command(&["--output", "/does/not/exist/packed"]).output().expect("the demo starts");
    assert_eq!((out.status.code(), said(&out).lines().count()), (Some(1), 1), "{}", said(&out));
}

#[test]
fn a_full_disk_is_said_and_leaves_no_output_needs_root() {
    let demo = Demo::new(3 * MIB);
    let small = demo.at("small");
    std::fs::create_dir(&small).expect("a directory of ours");
    let mount = ["-t", "tmpfs", "-o", "size=64k", "none", small.to_str().expect("text")];
    succeed("mount", mount);
    let packed = small.join("packed");
    let out = demo.command(&["--output", packed.to_str().expect("text")]).output();
    let left: Vec<_> =
        std::fs::read_dir(&small).expect("a directory").flatten().map(|e| e.file_name()).collect();
    succeed("umount", [&small]);
    let out = out.expect("the demo starts");
    assert_eq!(out.status.code(), Some(1));
    assert!(said(&out).contains("no space left") && said(&out).lines().count() == 1, "{}", said(&out));
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_killed_driver_ends_the_run_within_two_seconds_with_device_and_cause() {
    for device in ["blk", "zip", "sec", "copy"] {
        let demo = Demo::new(64 * MIB);
        let packed = demo.at("packed");
        let (child, driver) = demo.midway(&[], device);
        let pids = processes::tree(child.id());
        processes::signal(driver, "KILL");
        let killed = Instant::now();
        let out = child.wait_with_output().expect("the demo ends");
        assert!(killed.elapsed() < Duration::from_secs(2), "{device}: {:?}", killed.elapsed());
        assert_eq!(out.status.code(), Some(1), "{device}: {}", said(&out));
        assert!(said(&out).contains(device) && said(&out).contains("signal 9"), "{device}: {}", said(&out));
        assert!(!packed.exists(), "{device}: a partial file under the final name");
        let left: Vec<u32> = pids.into_iter().filter(|pid| processes::is_alive(*pid)).collect();
        assert!(left.is_empty(), "{device}: processes stayed: {left:?}");
    }
}

#[test]
fn with_retry_a_killed_driver_is_survived() {
    let demo = Demo::new(48 * MIB);
    let packed = demo.at("packed");
    let (child, driver) = demo.midway(&["--retry", "--plain"], "zip");
    processes::signal(driver, "KILL");
    let out = child.wait_with_output().expect("the demo ends");
    assert!(out.status.success(), "{}", said(&out));
    let report: Value = serde_json::from_slice(&out.stdout).expect("one JSON object");
    assert!(report["retries"].as_u64().is_some_and(|n| n >= 1), "the kill came too late to matter: {report}");
    let back = demo.at("back");
    succeed("zstd", [Path::new("-q"), Path::new("-d"), &packed, Path::new("-o"), &back]);
    assert_eq!(digest("sha256sum", &back), digest("sha256sum", &demo.file));
}

#[test]
fn a_killed_client_leaves_no_process_and_no_directory() {
    let demo = Demo::new(64 * MIB);
    let (mut child, driver) = demo.midway(&[], "zip");
    let pids = processes::tree(child.id());
    let keeper = pids.iter().copied().find(|pid| processes::name(*pid) == "vgemd").expect("a keeper");
    let line = std::fs::read(format!("/proc/{keeper}/cmdline")).expect("it lives");
    let words: Vec<String> =
        line.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    let dir =
        words.iter().skip_while(|w| *w != "--dir").nth(1).expect("a private broker has a directory").clone();
    assert!(pids.contains(&driver) && Path::new(&dir).exists());
    child.kill().expect("it lives");
    child.wait().expect("it ended");
    processes::until(Duration::from_secs(5), "processes end", || {
        !pids.iter().any(|p| processes::is_alive(*p))
    });
    processes::until(Duration::from_secs(1), "the directory goes", || !Path::new(&dir).exists());
}

#[test]
fn a_sealed_chunk_opens_with_an_independent_aes_gcm() {
    let program = r"
import struct, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
key, packed = open(sys.argv[1], 'rb').read(), open(sys.argv[2], 'rb').read()
at, out = 0, b''
while at < len(packed):
    header = packed[at:at + 32]
    magic, version, algorithm, reserved, length = struct.unpack('<4sBBHQ', header[:16])
    assert (magic, version, algorithm, reserved) == (b'VGSL', 1, 1, 0), header
    end = at + 32 + length + 16
    out += AESGCM(key).decrypt(header[16:28], packed[at + 32:end], header)
    at = end
sys.stdout.buffer.write(out)
";
    let demo = Demo::new(MIB + 5);
    let (packed, key, frames) = (demo.at("packed"), demo.at("key"), demo.at("frames.zst"));
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    demo.report(&["--output", &text(&packed), "--key", &text(&key)]);
    let out = run(python(), ["-c", program, &text(&key), &text(&packed)]);
    assert!(out.status.success(), "{}", said(&out));
    std::fs::write(&frames, out.stdout).expect("a file of ours");
    let back = demo.at("back");
    succeed("zstd", [Path::new("-q"), Path::new("-d"), &frames, Path::new("-o"), &back]);
    assert_eq!(digest("sha256sum", &back), digest("sha256sum", &demo.file));
}
