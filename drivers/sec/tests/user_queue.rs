//! Every operation of the sec device through a user queue, on objects and on plain memory: what comes of it is what comes
//! of a job.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use common::{KEY, Peer, SIZES, noise};
use vgem_driver::testing::{Content, EveryWay, Seen};
use vgem_driver::{Options, ParamValue};
use vgem_driver_sec::SecEngine;
use vgem_driver_sec::description::op;
use vgem_driver_sec::frame::{Algorithm, OVERHEAD_LEN};
use vgem_proto::error::ErrorCode;

use Content::{Read, Write};

fn ways() -> EveryWay {
    EveryWay::of(SecEngine::new(&Options::default()))
}

/// What is seen of a call, the same every way.
fn call(
    ways: &mut EveryWay,
    peer: Peer,
    op: u16,
    params: &[ParamValue<'_>],
    operands: &[(u8, Content<'_>)],
) -> Seen {
    let [job, entry, own] = ways.call(peer, op, params, operands);
    assert!(job == entry, "{peer:?} operation {op}: {:?}, {:?}", job.failure, entry.failure);
    assert!(own.is_like(&job), "{peer:?} operation {op}: {:?}, {:?}", job.failure, own.failure);
    job
}

fn output(seen: &Seen) -> &[u8] {
    assert_eq!(seen.failure, None);
    &seen.outputs.first().expect("an output").1
}

#[test]
fn digests_are_the_same_in_the_cell_and_in_the_output() {
    let mut ways = ways();
    for (op, key) in
        [(op::SHA256, None), (op::HMAC_SHA256, Some(&KEY)), (op::BLAKE3, None), (op::BLAKE3, Some(&KEY))]
    {
        for (len, peer) in SIZES.into_iter().flat_map(|len| Peer::ALL.map(|peer| (len, peer))) {
            let data = noise(len);
            let mut operands = vec![(0, Read(&data)), (1, Write(&[0; 32]))];
            operands.extend(key.map(|key| (2, Read(key))));
            let seen = call(&mut ways, peer, op, &[], &operands);
            let in_cell = seen.digest.map(u64::to_le_bytes).concat();
            assert_eq!((output(&seen), seen.produced), (&in_cell[..], 32), "{op} {len} {peer:?}");
            operands.remove(1);
            assert_eq!(call(&mut ways, peer, op, &[], &operands).digest, seen.digest);
        }
    }
}

#[test]
fn what_is_sealed_any_way_opens_every_way() {
    let mut ways = ways();
    let aad = b"who and when";
    for (word, algorithm) in (0..).zip(Algorithm::ALL) {
        for (len, peer) in SIZES.into_iter().flat_map(|len| Peer::ALL.map(|peer| (len, peer))) {
            let (plain, room) = (noise(len), vec![0; len + OVERHEAD_LEN]);
            let params = [ParamValue::Number(word)];
            let operands = [(0, Read(&plain)), (1, Write(&room)), (2, Read(&KEY)), (3, Read(aad))];
            // Each frame has a nonce of its own.
            let sealed = ways.call(peer, op::SEAL, &params, &operands);
            let said = sealed.each_ref().map(|seen| (seen.produced, seen.value));
            assert_eq!(said, [((len + OVERHEAD_LEN) as u64, len as u64); 3]);
            let empty = vec![0; len];
            for frame in &sealed {
                let operands =
                    [(0, Read(output(frame))), (1, Write(&empty)), (2, Read(&KEY)), (3, Read(aad))];
                let opened = call(&mut ways, peer, op::OPEN, &params, &operands);
                assert!(output(&opened) == plain, "{algorithm:?} {len} {peer:?}");
            }
        }
    }
}

#[test]
fn a_frame_that_was_changed_fails_alike() {
    let mut ways = ways();
    let room = [0; 9 + OVERHEAD_LEN];
    let operands = [(0, Read(b"plaintext")), (1, Write(&room)), (2, Read(&KEY))];
    let [_, _, sealed] = ways.call(Peer::OwnDomain, op::SEAL, &[ParamValue::Absent], &operands);
    let mut frame = output(&sealed).to_vec();
    frame[40] ^= 1;
    let operands = [(0, Read(&frame)), (1, Write(&[7; 9])), (2, Read(&KEY))];
    let seen = call(&mut ways, Peer::OwnDomain, op::OPEN, &[ParamValue::Absent], &operands);
    assert_eq!(seen.failure.map(|(code, _)| code), Some(ErrorCode::AuthenticationFailed));
    assert_eq!(seen.outputs, [(1, vec![7; 9])]);
}

#[test]
fn a_confined_process_serves_a_ring_and_closes_it() {
    let mut ways = EveryWay::of_program(env!("CARGO_BIN_EXE_vgem-driver-sec"));
    let (plain, room) = (noise(5000), [0; 5000 + OVERHEAD_LEN]);
    for peer in Peer::ALL {
        let operands = [(0, Read(&plain)), (1, Write(&room)), (2, Read(&KEY))];
        let [_, _, sealed] = ways.call(peer, op::SEAL, &[ParamValue::Absent], &operands);
        let operands = [(0, Read(output(&sealed))), (1, Write(&[0; 5000])), (2, Read(&KEY))];
        assert!(output(&call(&mut ways, peer, op::OPEN, &[ParamValue::Absent], &operands)) == plain);
    }
}
