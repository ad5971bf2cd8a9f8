//! What sealing and opening promise.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use std::collections::HashSet;

use common::{KEY, Peer, SIZES, code, noise, open_into, read, run, seal, word, write};
use vgem_driver::mapping::Mapping;
use vgem_driver::{Engine as _, OperandBytes, ParamValue};
use vgem_driver_sec::description::op;
use vgem_driver_sec::frame::{Algorithm, OVERHEAD_LEN};
use vgem_proto::describe::Description;
use vgem_proto::error::ErrorCode;

const AES: Algorithm = Algorithm::Aes256Gcm;

#[test]
fn what_is_sealed_opens() {
    for algorithm in Algorithm::ALL {
        for from in Peer::ALL {
            for len in SIZES {
                for aad in [None, Some(&b"who and when"[..])] {
                    let plain = noise(len);
                    let frame = seal(from, algorithm, &plain, aad);
                    let mut output = vec![0; len];
                    let opened = open_into(algorithm, &frame, &KEY, aad, &mut output);
                    assert_eq!(opened, Ok(len), "{algorithm:?} {from:?} {len}");
                    assert!(output == plain, "{algorithm:?} {from:?} {len}");
                }
            }
        }
    }
}

#[test]
fn a_sealed_frame_does_not_show_its_plaintext() {
    let plain = vec![0; 4096];
    for algorithm in Algorithm::ALL {
        for from in Peer::ALL {
            let frame = seal(from, algorithm, &plain, None);
            assert!(frame[32..].chunks_exact(16).all(|block| block.iter().any(|byte| *byte != 0)));
        }
    }
}

#[test]
fn no_two_frames_share_a_nonce() {
    let nonces: HashSet<Vec<u8>> =
        (0..1000).map(|_| seal(Peer::OwnDomain, AES, b"same", None)[16..28].to_vec()).collect();
    assert_eq!(nonces.len(), 1000);
}

#[test]
fn every_flipped_bit_is_refused_and_leaves_the_output_untouched() {
    for algorithm in Algorithm::ALL {
        let frame =
            seal(Peer::OwnDomain, algorithm, b"forty bytes of plaintext, or thereabouts", Some(b"aad"));
        for (at, bit) in (0..frame.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut changed = frame.clone();
            changed[at] ^= 1 << bit;
            let mut output = [0xee; 64];
            let opened = open_into(algorithm, &changed, &KEY, Some(b"aad"), &mut output);
            let wanted = if (16..28).contains(&at) || at >= 32 {
                ErrorCode::AuthenticationFailed
            } else {
                ErrorCode::CorruptInput
            };
            assert_eq!(code(opened), wanted, "{algorithm:?} byte {at} bit {bit}");
            assert_eq!(output, [0xee; 64], "{algorithm:?} byte {at} bit {bit}");
        }
    }
}

#[test]
fn every_cut_and_every_tail_is_corrupt() {
    let frame = seal(Peer::OwnDomain, AES, b"plaintext", None);
    let longer = [&frame[..], &[0]].concat();
    for frame in (0..frame.len()).map(|len| &frame[..len]).chain([&longer[..]]) {
        let mut output = [0xee; 64];
        assert_eq!(code(open_into(AES, frame, &KEY, None, &mut output)), ErrorCode::CorruptInput);
        assert_eq!(output, [0xee; 64]);
    }
}

#[test]
fn another_key_another_aad_and_another_algorithm_are_refused() {
    let frame = seal(Peer::OwnDomain, AES, b"plaintext", Some(b"aad"));
    let mut output = [0xee; 64];
    let mut key = KEY;
    key[31] ^= 1;
    let refused = ErrorCode::AuthenticationFailed;
    assert_eq!(code(open_into(AES, &frame, &key, Some(b"aad"), &mut output)), refused);
    assert_eq!(code(open_into(AES, &frame, &KEY, Some(b"aae"), &mut output)), refused);
    assert_eq!(code(open_into(AES, &frame, &KEY, None, &mut output)), refused);
    let other = open_into(Algorithm::ChaCha20Poly1305, &frame, &KEY, Some(b"aad"), &mut output);
    assert_eq!(code(other), ErrorCode::CorruptInput);
    assert_eq!(output, [0xee; 64]);
}

#[test]
fn an_output_too_small_is_said_with_what_is_needed_and_left_alone() {
    for len in SIZES {
        let plain = noise(len);
        for from in Peer::ALL {
            let mut output = vec![0xee; len + OVERHEAD_LEN - 1];
            let operands = [(0, read(&plain)), (1, write(&mut output)), (2, read(&KEY))];
            let error = run(from, op::SEAL, &word(AES), &operands).expect_err("too small");
            assert_eq!(error.code, ErrorCode::OutputTooSmall);
            assert!(error.text.contains(&(len + OVERHEAD_LEN).to_string()), "{}", error.text);
            assert!(output.iter().all(|byte| *byte == 0xee));
        }
        if len > 0 {
            let frame = seal(Peer::OwnDomain, AES, &plain, None);
            let mut output = vec![0xee; len - 1];
            let error = open_into(AES, &frame, &KEY, None, &mut output).expect_err("too small");
            assert_eq!(error.code, ErrorCode::OutputTooSmall);
            assert!(error.text.contains(&len.to_string()), "{}", error.text);
            assert!(output.iter().all(|byte| *byte == 0xee));
        }
    }
}

#[test]
fn an_output_longer_than_needed_keeps_its_tail() {
    let mut output = [0xee; 100];
    let operands = [(0, read(b"plain")), (1, write(&mut output)), (2, read(&KEY))];
    run(Peer::OwnDomain, op::SEAL, &word(AES), &operands).expect("seal");
    assert!(output[5 + OVERHEAD_LEN..].iter().all(|byte| *byte == 0xee));
}

#[test]
fn operands_that_overlap_are_as_if_they_did_not() {
    let plain = noise(100_000);
    for algorithm in Algorithm::ALL {
        for at in [0, 16, 32, 5000] {
            let memory = Mapping::anonymous(200_000).expect("memory");
            let whole = memory.span_mut().expect("writable");
            whole.copy_from(at, &plain).expect("inside");
            let input = OperandBytes::Read(whole.as_span().sub(at, plain.len()).expect("inside"));
            let operands = [(0, input), (1, OperandBytes::Write(whole)), (2, read(&KEY))];
            let done = run(Peer::OwnDomain, op::SEAL, &word(algorithm), &operands).expect("seal");
            let mut frame = vec![0; usize::try_from(done.len).expect("a length")];
            whole.copy_to(0, &mut frame).expect("inside");
            let mut output = vec![0; plain.len()];
            assert_eq!(open_into(algorithm, &frame, &KEY, None, &mut output), Ok(plain.len()));
            assert!(output == plain, "{algorithm:?} at {at}");
        }
    }
}

#[test]
fn a_key_of_another_length_is_a_bad_operand() {
    for len in [0, 16, 31, 33] {
        let (mut output, key) = ([0; 100], vec![7; len]);
        let operands = [(0, read(b"plain")), (1, write(&mut output)), (2, read(&key))];
        for op in [op::SEAL, op::OPEN] {
            let mut frame = seal(Peer::OwnDomain, AES, b"plain", None);
            frame.truncate(5 + OVERHEAD_LEN);
            let input = if op == op::OPEN { read(&frame) } else { read(b"plain") };
            let operands = [(0, input), operands[1], operands[2]];
            assert_eq!(code(run(Peer::OwnDomain, op, &word(AES), &operands)), ErrorCode::BadOperand, "{len}");
        }
    }
}

#[test]
fn additional_data_beyond_64_kib_is_a_bad_operand() {
    let (mut output, aad) = ([0; 100], vec![0; 65_537]);
    let operands = [(0, read(b"plain")), (1, write(&mut output)), (2, read(&KEY)), (3, read(&aad))];
    assert_eq!(code(run(Peer::OwnDomain, op::SEAL, &word(AES), &operands)), ErrorCode::BadOperand);
}

#[test]
fn an_algorithm_that_is_not_there_is_a_bad_parameter() {
    let mut output = [0; 100];
    let operands = [(0, read(b"plain")), (1, write(&mut output)), (2, read(&KEY))];
    let done = run(Peer::OwnDomain, op::SEAL, &[ParamValue::Number(2)], &operands);
    assert_eq!(code(done), ErrorCode::BadParameter);
}

#[test]
fn staged_bytes_are_what_the_table_says() {
    let plain = noise(10_000);
    let staged = |from, op, input: &[u8]| {
        let mut output = vec![0; 20_000];
        let operands = [(0, read(input)), (1, write(&mut output)), (2, read(&KEY))];
        run(from, op, &word(AES), &operands).expect("done").staged
    };
    let frame = seal(Peer::OwnDomain, AES, &plain, None);
    let (key, overhead) = (KEY.len() as u64, OVERHEAD_LEN as u64);
    assert_eq!(staged(Peer::OwnDomain, op::SEAL, &plain), key);
    assert_eq!(staged(Peer::OtherDomain, op::SEAL, &plain), 20_000 + overhead + key);
    assert_eq!(staged(Peer::OwnDomain, op::OPEN, &frame), 20_000 + overhead + key);
    assert_eq!(staged(Peer::OtherDomain, op::OPEN, &frame), 20_000 + overhead + key);
}

#[test]
fn the_description_survives_the_wire() {
    let description = common::ENGINE.description();
    assert_eq!(Description::decode(&description.encode()), Ok(description));
}
