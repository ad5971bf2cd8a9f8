//! Another thread writes the operands of every operation while it runs: errors and wrong bytes, never worse.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use common::{KEY, Peer, noise, open_into, run, seal, word};
use vgem_driver::mapping::Mapping;
use vgem_driver::testing::{Random, beside, flip};
use vgem_driver::{OperandBytes, ParamValue, Produced, SpanMut};
use vgem_driver_sec::description::op;
use vgem_driver_sec::frame::{Algorithm, OVERHEAD_LEN};
use vgem_proto::error::ErrorCode;

const LEN: usize = 256 * 1024;

/// Runs `job` again and again on an input, an output, a key and additional data that change all the time.
fn race(original: &[u8], mut job: impl FnMut([SpanMut<'_>; 4])) {
    let (input, others) =
        (Mapping::anonymous(LEN * 2).expect("memory"), Mapping::anonymous(LEN * 4).expect("memory"));
    let input = input.span_mut().expect("writable").sub(0, original.len()).expect("inside");
    let others = others.span_mut().expect("writable");
    let output = others.sub(0, LEN + OVERHEAD_LEN).expect("inside");
    let key = others.sub(LEN * 2, KEY.len()).expect("inside");
    let aad = others.sub(LEN * 3, 1000).expect("inside");
    let harm = |random: &mut Random| {
        for memory in [input, output, key, aad] {
            flip(memory, random);
        }
    };
    beside(harm, || {
        input.copy_from(0, original).expect("inside");
        key.copy_from(0, &KEY).expect("inside");
        job([input, output, key, aad]);
        true
    });
}

fn aead(op: u16, algorithm: Algorithm, spans: [SpanMut<'_>; 4]) -> Result<Produced, ErrorCode> {
    let [input, output, key, aad] = spans;
    let operands = [
        (0, OperandBytes::Read(input.as_span())),
        (1, OperandBytes::Write(output)),
        (2, OperandBytes::Read(key.as_span())),
        (3, OperandBytes::Read(aad.as_span())),
    ];
    run(Peer::OwnDomain, op, &word(algorithm), &operands).map_err(|error| error.code)
}

#[test]
fn sealing_bears_operands_that_change() {
    for algorithm in Algorithm::ALL {
        race(&noise(LEN), |spans| {
            let done = aead(op::SEAL, algorithm, spans).expect("sealing does not look at what it seals");
            assert_eq!(done.len, (LEN + OVERHEAD_LEN) as u64);
        });
        let mut output = [0; 5];
        let frame = seal(Peer::OwnDomain, algorithm, b"alive", None);
        assert_eq!(open_into(algorithm, &frame, &KEY, None, &mut output), Ok(5));
    }
}

#[test]
fn opening_bears_operands_that_change() {
    for algorithm in Algorithm::ALL {
        let frame = seal(Peer::OwnDomain, algorithm, &noise(LEN), None);
        race(&frame, |spans| match aead(op::OPEN, algorithm, spans) {
            Ok(done) => assert_eq!(done.len, LEN as u64),
            Err(code) => {
                assert!(
                    [ErrorCode::AuthenticationFailed, ErrorCode::CorruptInput].contains(&code),
                    "{code:?}"
                );
            }
        });
    }
}

#[test]
fn digests_bear_operands_that_change() {
    for op in [op::SHA256, op::HMAC_SHA256, op::BLAKE3] {
        race(&noise(LEN), |[input, output, key, _]| {
            let output = output.sub(0, 32).expect("inside");
            let mut operands =
                vec![(0, OperandBytes::Read(input.as_span())), (1, OperandBytes::Write(output))];
            if op != op::SHA256 {
                operands.push((2, OperandBytes::Read(key.as_span())));
            }
            let none: [ParamValue<'_>; 0] = [];
            assert!(run(Peer::OwnDomain, op, &none, &operands).is_ok());
        });
    }
}
