//! Another implementation, written from `FRAMING.md` alone, opens what the engine seals: the page's own example.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use common::{KEY, Peer, SIZES, filter, hex, noise, open_into, seal};
use vgem_driver_sec::frame::Algorithm;

const PAGE: &str = include_str!("../FRAMING.md");

/// The Python code on the page.
fn example() -> &'static str {
    let start = PAGE.find("```python\n").expect("the page has an example") + "```python\n".len();
    let len = PAGE[start..].find("```").expect("the example ends");
    &PAGE[start..start + len]
}

fn python(call: &str, input: &[u8]) -> Vec<u8> {
    let script = format!(
        "{}\nimport sys\nframe = sys.stdin.buffer.read()\nkey = bytes.fromhex('{}')\nsys.stdout.buffer.write({call})",
        example(),
        hex(&KEY)
    );
    filter("python3", &["-c", &script], input)
}

#[test]
fn the_page_s_example_opens_what_the_engine_seals() {
    for algorithm in Algorithm::ALL {
        for len in SIZES {
            for from in Peer::ALL {
                let plain = noise(len);
                let frame = seal(from, algorithm, &plain, Some(b"who and when"));
                let call = format!("open_frame(frame, key, {}, b'who and when')", algorithm.number());
                assert!(python(&call, &frame) == plain, "{algorithm:?} {len}");
            }
        }
    }
}

#[test]
fn the_engine_opens_what_is_sealed_by_the_page() {
    let plain = noise(100_000);
    for algorithm in Algorithm::ALL {
        let number = algorithm.number();
        let call = format!(
            "(lambda head: head + {{1: AESGCM, 2: ChaCha20Poly1305}}[{number}](key).encrypt(bytes(range(12)), frame, \
             head + b'aad'))(struct.pack('<4sBBHQ12sI', b'VGSL', 1, {number}, 0, len(frame), bytes(range(12)), 0))"
        );
        let frame = python(&call, &plain);
        let mut output = vec![0; plain.len()];
        assert_eq!(open_into(algorithm, &frame, &KEY, Some(b"aad"), &mut output), Ok(plain.len()));
        assert!(output == plain, "{algorithm:?}");
    }
}
