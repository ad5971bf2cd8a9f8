//! What the digests promise.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use common::{Peer, SIZES, code, filter, hex, noise, read, run, write};
use vgem_driver::Produced;
use vgem_driver_sec::description::op;
use vgem_proto::error::ErrorCode;

const KEY: [u8; 32] = common::KEY;

fn digest(op: u16, input: &[u8], key: Option<&[u8]>) -> Produced {
    let mut operands = vec![(0, read(input))];
    operands.extend(key.map(|key| (2, read(key))));
    let done = run(Peer::OwnDomain, op, &[], &operands).expect("digest");
    let key_len = key.map_or(0, <[u8]>::len);
    assert_eq!((done.len, done.staged), (32, (input.len() + key_len) as u64));
    done
}

/// The first word that a tool prints.
fn printed(program: &str, args: &[&str], input: &[u8]) -> String {
    let text = String::from_utf8(filter(program, args, input)).expect("text");
    text.split_whitespace().next().expect("a word").to_owned()
}

#[test]
fn sha256_is_what_sha256sum_prints() {
    for len in SIZES {
        let data = noise(len);
        assert_eq!(
            hex(&digest(op::SHA256, &data, None).digest),
            printed("sha256sum", &[], &data),
            "{len} bytes"
        );
    }
}

#[test]
fn blake3_is_what_b3sum_prints() {
    for len in SIZES {
        let data = noise(len);
        assert_eq!(hex(&digest(op::BLAKE3, &data, None).digest), printed("b3sum", &[], &data), "{len} bytes");
    }
}

#[test]
fn keyed_blake3_is_what_b3sum_prints_with_the_key() {
    use std::io::Write as _;
    for len in SIZES {
        let data = noise(len);
        // With --keyed the tool takes its key from standard input and the data from a file.
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&data).expect("written");
        let path = file.path().to_str().expect("a plain path");
        let wanted = printed("b3sum", &["--keyed", path], &KEY);
        assert_eq!(hex(&digest(op::BLAKE3, &data, Some(&KEY)).digest), wanted, "{len} bytes");
    }
}

#[test]
fn hmac_sha256_is_what_python_computes() {
    for (len, key_len) in SIZES.into_iter().zip([1, 32, 64, 65, 4096]) {
        let (data, key) = (noise(len), noise(key_len));
        let script = format!(
            "import sys, hmac; data = sys.stdin.buffer.read(); \
             print(hmac.new(bytes.fromhex('{}'), data, 'sha256').hexdigest())",
            hex(&key)
        );
        let wanted = printed("python3", &["-c", &script], &data);
        assert_eq!(
            hex(&digest(op::HMAC_SHA256, &data, Some(&key)).digest),
            wanted,
            "{len} bytes, key {key_len}"
        );
    }
}

#[test]
fn a_digest_goes_to_the_output_too() {
    for (op, key) in [(op::SHA256, None), (op::HMAC_SHA256, Some(&KEY[..])), (op::BLAKE3, None)] {
        let mut output = [0; 32];
        let mut operands = vec![(0, read(b"data")), (1, write(&mut output))];
        operands.extend(key.map(|key| (2, read(key))));
        let done = run(Peer::OtherDomain, op, &[], &operands).expect("digest");
        assert_eq!(output, done.digest);
    }
}

#[test]
fn an_output_too_small_for_a_digest_is_said() {
    let mut output = [0xee; 31];
    let done = run(Peer::OwnDomain, op::SHA256, &[], &[(0, read(b"data")), (1, write(&mut output))]);
    assert_eq!(code(done), ErrorCode::OutputTooSmall);
    assert_eq!(output, [0xee; 31]);
}

#[test]
fn a_key_of_a_wrong_length_is_a_bad_operand() {
    for (op, len) in [(op::HMAC_SHA256, 0), (op::HMAC_SHA256, 4097), (op::BLAKE3, 31), (op::BLAKE3, 33)] {
        let key = vec![7; len];
        let done = run(Peer::OwnDomain, op, &[], &[(0, read(b"data")), (2, read(&key))]);
        assert_eq!(code(done), ErrorCode::BadOperand, "operation {op}, {len} bytes");
    }
}

#[test]
fn an_hmac_without_a_key_is_a_bad_operand() {
    assert_eq!(
        code(run(Peer::OwnDomain, op::HMAC_SHA256, &[], &[(0, read(b"data"))])),
        ErrorCode::BadOperand
    );
}
