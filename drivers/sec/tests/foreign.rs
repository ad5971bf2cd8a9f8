//! Operands that another domain may write, and operands whose pages somebody takes away, for every operation.
//!
//! How much is staged for whom is in the tests of the operations.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use common::{KEY, Peer, noise, open_into, read, run, seal, word};
use vgem_driver::testing::{Random, Shared, beside, flip, is_mix, noise_from, write_either};
use vgem_driver::{JobError, OperandBytes, Produced};
use vgem_driver_sec::description::op;
use vgem_driver_sec::frame::{Algorithm, HEADER_LEN, NONCE_LEN, OVERHEAD_LEN, TAG_LEN};
use vgem_proto::error::ErrorCode;

const LEN: usize = 200_000;
const DIGESTS: [u16; 3] = [op::SHA256, op::HMAC_SHA256, op::BLAKE3];

fn aead(
    peer: Peer,
    op: u16,
    algorithm: Algorithm,
    from: &Shared,
    into: &Shared,
) -> Result<Produced, JobError> {
    let operands = [(0, from.input()), (1, into.output()), (2, read(&KEY))];
    run(peer, op, &word(algorithm), &operands)
}

fn digest(peer: Peer, op: u16, from: OperandBytes<'_>) -> [u8; 32] {
    let key = (op == op::HMAC_SHA256).then_some((2, read(&KEY)));
    let operands: Vec<_> = [(0, from)].into_iter().chain(key).collect();
    run(peer, op, &[], &operands).expect("digests do not look at what they digest").digest
}

#[test]
fn what_another_domain_changes_meanwhile_is_sealed_as_it_was_at_some_moment() {
    let contents = [noise_from(1, LEN), noise_from(2, LEN)];
    let contents = [&contents[0][..], &contents[1]];
    for algorithm in Algorithm::ALL {
        let (from, into) = (Shared::of(contents[0]), Shared::new(LEN + OVERHEAD_LEN));
        let harm = |random: &mut Random| write_either(from.span(), contents, random);
        let verdicts = beside(harm, || {
            aead(Peer::OtherDomain, op::SEAL, algorithm, &from, &into).expect("sealed");
            let mut plain = vec![0; LEN];
            let opened = open_into(algorithm, &into.bytes(), &KEY, None, &mut plain);
            opened == Ok(LEN) && is_mix(&plain, contents)
        });
        assert_eq!(verdicts.failed, 0, "{algorithm:?}");
    }
}

/// The tag of a frame, computed anew from its plaintext and the nonce and header it begins with.
fn tag_of(algorithm: Algorithm, header: &[u8], plain: &[u8]) -> Vec<u8> {
    let cipher = match algorithm {
        Algorithm::Aes256Gcm => &AES_256_GCM,
        Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    let key = LessSafeKey::new(UnboundKey::new(cipher, &KEY).expect("a key"));
    let nonce = Nonce::try_assume_unique_for_key(&header[16..16 + NONCE_LEN]).expect("a nonce");
    let mut plain = plain.to_vec();
    key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut plain).expect("sealed").as_ref().to_vec()
}

#[test]
fn a_tag_for_another_domain_is_over_what_was_encrypted_whatever_is_written_over_it_meanwhile() {
    let plain = noise(LEN);
    for algorithm in Algorithm::ALL {
        let (from, into) = (Shared::of(&plain), Shared::new(LEN + OVERHEAD_LEN));
        let ciphertext = into.span().sub(HEADER_LEN, LEN).expect("inside");
        let harm = |random: &mut Random| flip(ciphertext, random);
        let verdicts = beside(harm, || {
            aead(Peer::OtherDomain, op::SEAL, algorithm, &from, &into).expect("sealed");
            let frame = into.bytes();
            tag_of(algorithm, &frame[..HEADER_LEN], &plain) == frame[HEADER_LEN + LEN..][..TAG_LEN]
        });
        assert_eq!(verdicts.failed, 0, "{algorithm:?}");
    }
}

#[test]
fn a_frame_that_changes_meanwhile_gives_its_plaintext_or_nothing_at_all() {
    let plain = noise(LEN);
    for (algorithm, peer) in Algorithm::ALL.iter().flat_map(|a| Peer::ALL.map(|peer| (*a, peer))) {
        let frame = seal(Peer::OwnDomain, algorithm, &plain, None);
        let (from, into) = (Shared::of(&frame), Shared::new(LEN));
        let harm = |random: &mut Random| match random.below(8) {
            0 => flip(from.span(), random),
            _ => from.put(&frame),
        };
        let verdicts = beside(harm, || {
            into.put(&[0xee; LEN]);
            match aead(peer, op::OPEN, algorithm, &from, &into) {
                Ok(_) => assert!(into.bytes() == plain, "{algorithm:?} {peer:?}"),
                Err(error) => {
                    let clean = [ErrorCode::AuthenticationFailed, ErrorCode::CorruptInput];
                    assert!(clean.contains(&error.code), "{error}");
                    assert!(into.bytes().iter().all(|b| *b == 0xee), "{algorithm:?} {peer:?}");
                }
            }
            true
        });
        assert_eq!(verdicts.failed, 0);
    }
}

#[test]
fn opening_does_not_see_what_is_written_into_its_output_meanwhile() {
    for (algorithm, peer) in Algorithm::ALL.iter().flat_map(|a| Peer::ALL.map(|peer| (*a, peer))) {
        let from = Shared::of(&seal(Peer::OwnDomain, algorithm, &noise(LEN), None));
        let into = Shared::new(LEN);
        let harm = |random: &mut Random| flip(into.span(), random);
        let verdicts = beside(harm, || aead(peer, op::OPEN, algorithm, &from, &into).is_ok());
        assert_eq!(verdicts.failed, 0, "{algorithm:?} {peer:?}");
    }
}

#[test]
fn a_digest_of_a_byte_that_changes_is_that_of_one_of_its_values() {
    for (op, peer) in DIGESTS.iter().flat_map(|op| Peer::ALL.map(|peer| (*op, peer))) {
        let contents = [1, 2].map(|byte| {
            let mut bytes = noise(LEN);
            bytes[77_777] = byte;
            bytes
        });
        let wanted = [0, 1].map(|which: usize| digest(Peer::OwnDomain, op, read(&contents[which])));
        let from = Shared::of(&contents[0]);
        let harm = |random: &mut Random| {
            from.span().copy_from(77_777, &[[1, 2][random.below(2)]]).expect("inside");
        };
        let verdicts = beside(harm, || wanted.contains(&digest(peer, op, from.input())));
        assert_eq!(verdicts.failed, 0, "{op} {peer:?}");
    }
}

#[test]
fn a_key_that_changes_meanwhile_is_one_key() {
    let (one, other) = (Shared::of(&KEY), [KEY, [9; 32]]);
    let plain = noise(5000);
    for (algorithm, peer) in Algorithm::ALL.iter().flat_map(|a| Peer::ALL.map(|peer| (*a, peer))) {
        let into = Shared::new(plain.len() + OVERHEAD_LEN);
        let harm = |random: &mut Random| one.put(&[other[random.below(2)][0]]);
        let mixed = other.map(|key| [&key[..1], &KEY[1..]].concat());
        let verdicts = beside(harm, || {
            let operands = [(0, read(&plain)), (1, into.output()), (2, one.input())];
            run(peer, op::SEAL, &word(algorithm), &operands).expect("sealed");
            let (frame, mut opened) = (into.bytes(), vec![0; plain.len()]);
            mixed.iter().any(|key| open_into(algorithm, &frame, key, None, &mut opened).is_ok())
        });
        assert_eq!(verdicts.failed, 0, "{algorithm:?} {peer:?}");
    }
}

#[test]
fn t19_pages_that_are_taken_away_while_they_are_sealed_are_zeros() {
    let plain = noise(LEN);
    let zeros = vec![0; LEN];
    for (algorithm, peer) in Algorithm::ALL.iter().flat_map(|a| Peer::ALL.map(|peer| (*a, peer))) {
        let (from, into) = (Shared::of(&plain), Shared::new(LEN + OVERHEAD_LEN));
        let verdicts = beside(
            |random| from.punch_somewhere(random),
            || {
                from.put(&plain);
                aead(peer, op::SEAL, algorithm, &from, &into).expect("sealed");
                let mut opened = vec![0; LEN];
                open_into(algorithm, &into.bytes(), &KEY, None, &mut opened) == Ok(LEN)
                    && is_mix(&opened, [&plain, &zeros])
            },
        );
        assert_eq!(verdicts.failed, 0, "{algorithm:?} {peer:?}");
    }
}

#[test]
fn t19_opening_and_digesting_pages_that_are_taken_away_ends_with_an_answer() {
    for (algorithm, peer) in Algorithm::ALL.iter().flat_map(|a| Peer::ALL.map(|peer| (*a, peer))) {
        let frame = seal(Peer::OwnDomain, algorithm, &noise(LEN), None);
        let (from, into) = (Shared::of(&frame), Shared::new(LEN));
        let harm = |random: &mut Random| {
            from.punch_somewhere(random);
            into.punch_somewhere(random);
        };
        let verdicts = beside(harm, || {
            from.put(&frame);
            for op in DIGESTS {
                digest(peer, op, from.input());
            }
            match aead(peer, op::OPEN, algorithm, &from, &into) {
                Ok(done) => done.len == LEN as u64,
                Err(error) => {
                    [ErrorCode::AuthenticationFailed, ErrorCode::CorruptInput].contains(&error.code)
                }
            }
        });
        assert_eq!(verdicts.failed, 0, "{algorithm:?} {peer:?}");
    }
}
