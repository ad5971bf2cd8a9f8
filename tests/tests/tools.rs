//! Devices driven by `vgemctl run` give what the standard tools give, and take what they give.

#![forbid(unsafe_code)]

use std::path::Path;

use vgem_tests::programs::{digest, own, python, run, succeed};
use vgem_tests::samples;

/// Runs `vgemctl run DEVICE OP ARGS..` with a private broker.
fn vgemctl(args: &[&str]) -> String {
    succeed(own("vgemctl"), ["--embedded", "run"].iter().chain(args))
}

fn path(file: &Path) -> &str {
    file.to_str().expect("our paths are text")
}

/// Compresses a sample with a device, decompresses it with `tool`, and compares.
fn tool_reads_what_the_device_wrote(format: &str, decompress: impl Fn(&Path) -> Vec<u8>) {
    let dir = samples::place();
    let original = samples::file(dir.path(), "original", 3_000_001);
    let packed = dir.path().join("packed.gz");
    vgemctl(&["zip", "compress", "--param", &format!("format={format}"), path(&original), path(&packed)]);
    assert!(packed.metadata().expect("it was written").len() < 1_500_000, "text compresses");
    assert!(decompress(&packed) == samples::text(3_000_001), "{format} came back different");
}

fn stdout_of(tool: &str, args: &[&str], file: &Path) -> Vec<u8> {
    let out = run(tool, args.iter().copied().chain([path(file)]));
    assert!(out.status.success(), "{tool}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn gunzip_reads_gzip_output() {
    tool_reads_what_the_device_wrote("gzip", |packed| stdout_of("gzip", &["-d", "-c"], packed));
}

#[test]
fn zstd_reads_zstd_output() {
    tool_reads_what_the_device_wrote("zstd", |packed| stdout_of("zstd", &["-d", "-c", "-q"], packed));
}

#[test]
fn lz4_reads_lz4_output() {
    tool_reads_what_the_device_wrote("lz4", |packed| stdout_of("lz4", &["-d", "-c", "-q"], packed));
}

#[test]
fn python_reads_zlib_output() {
    let program =
        "import sys, zlib; sys.stdout.buffer.write(zlib.decompress(open(sys.argv[1], 'rb').read()))";
    tool_reads_what_the_device_wrote("zlib", |packed| {
        let out = run(python(), ["-c", program, path(packed)]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    });
}

#[test]
fn the_device_reads_what_zstd_wrote() {
    let dir = samples::place();
    let original = samples::file(dir.path(), "original", 1_000_003);
    let (packed, back) = (dir.path().join("original.zst"), dir.path().join("back"));
    succeed("zstd", ["-q", "-o", path(&packed), path(&original)]);
    vgemctl(&["zip", "decompress", "--param", "format=zstd", path(&packed), path(&back)]);
    assert_eq!(std::fs::read(back).expect("it was written"), samples::text(1_000_003));
}

#[test]
fn digests_equal_those_of_sha256sum_and_b3sum() {
    let dir = samples::place();
    let file = samples::file(dir.path(), "file", 2_500_000);
    for (op, tool) in [("sha256", "sha256sum"), ("blake3", "b3sum")] {
        let printed = vgemctl(&["sec", op, path(&file), "-"]);
        assert_eq!(printed, succeed(tool, [path(&file)]), "{op}");
    }
}

#[test]
fn a_sealed_file_opens_with_an_independent_aes_gcm() {
    let program = r"
import struct, sys
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
key, sealed = (open(p, 'rb').read() for p in sys.argv[1:3])
header, body = sealed[:32], sealed[32:]
magic, version, algorithm, reserved, length = struct.unpack('<4sBBHQ', header[:16])
assert (magic, version, algorithm, reserved) == (b'VGSL', 1, 1, 0), header
plain = AESGCM(key).decrypt(header[16:28], body, header)
assert len(plain) == length
sys.stdout.buffer.write(plain)
";
    let dir = samples::place();
    let original = samples::file(dir.path(), "original", 700_001);
    let (key, sealed) = (dir.path().join("key"), dir.path().join("sealed"));
    std::fs::write(&key, samples::text(32)).expect("a file of ours");
    let operand = format!("key={}", path(&key));
    vgemctl(&["sec", "seal", "--operand", &operand, path(&original), path(&sealed)]);
    let out = run(python(), ["-c", program, path(&key), path(&sealed)]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(out.stdout == samples::text(700_001));
    let back = dir.path().join("back");
    vgemctl(&["sec", "open", "--operand", &operand, path(&sealed), path(&back)]);
    assert_eq!(digest("sha256sum", &back), digest("sha256sum", &original));
}

#[test]
fn corrupt_input_is_an_error_in_words_and_leaves_no_output() {
    let dir = samples::place();
    let junk = samples::file(dir.path(), "junk", 5000);
    let back = dir.path().join("back");
    let args = ["--embedded", "run", "zip", "decompress", "--param", "format=gzip", path(&junk), path(&back)];
    let out = run(own("vgemctl"), args);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("corrupt input"), "{said}");
    assert!(!back.exists(), "an output of a failed job was left");
}
