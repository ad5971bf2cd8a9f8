//! Every operation of the zip device through a user queue, on objects and on plain memory: what comes of it is what comes
//! of a job.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

use vgem_driver::testing::{Content, EveryWay, Peer, Seen, noise, text};
use vgem_driver::{Options, ParamValue};
use vgem_driver_zip::description::op;
use vgem_driver_zip::{Format, ZipEngine};
use vgem_proto::error::ErrorCode;

/// What is seen of a call, the same every way.
fn call(
    ways: &mut EveryWay,
    peer: Peer,
    op: u16,
    params: &[ParamValue<'_>],
    input: &[u8],
    room: usize,
) -> Seen {
    let output = vec![0; room];
    let operands = [(0, Content::Read(input)), (1, Content::Write(&output))];
    let [job, entry, own] = ways.call(peer, op, params, &operands);
    assert!(job == entry, "{peer:?} operation {op} {params:?}: {:?}, {:?}", job.failure, entry.failure);
    assert!(own.is_like(&job), "{peer:?} operation {op} {params:?}: {:?}, {:?}", job.failure, own.failure);
    job
}

fn output(seen: &Seen) -> &[u8] {
    assert_eq!(seen.failure, None);
    let len = usize::try_from(seen.produced).expect("a length");
    seen.outputs.first().expect("an output").1.get(..len).expect("inside")
}

#[test]
fn what_goes_in_through_a_ring_comes_out_through_it_in_every_format() {
    let mut ways = EveryWay::of(ZipEngine::new(&Options::default()));
    for (word, format) in (0..).zip(Format::ALL) {
        for peer in Peer::ALL {
            for data in [text(0), text(1), text(200_000), noise(70_000)] {
                let room = data.len() + data.len() / 8 + 1024;
                let word = ParamValue::Number(word);
                for level in [ParamValue::Absent, ParamValue::Number(2)] {
                    let packed = call(&mut ways, peer, op::COMPRESS, &[word, level], &data, room);
                    assert_eq!(packed.value, data.len() as u64);
                    let packed = output(&packed);
                    let seen = call(&mut ways, peer, op::DECOMPRESS, &[word], packed, data.len());
                    assert!(output(&seen) == data, "{format:?} {peer:?} {} bytes", data.len());
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_and_what_is_corrupt_fails_alike() {
    let mut ways = EveryWay::of(ZipEngine::new(&Options::default()));
    let data = noise(10_000);
    for word in (0..).zip(Format::ALL).map(|(word, _)| ParamValue::Number(word)) {
        let params = [word, ParamValue::Absent];
        let small = call(&mut ways, Peer::OwnDomain, op::COMPRESS, &params, &data, 100).failure;
        assert_eq!(small.map(|(code, _)| code), Some(ErrorCode::OutputTooSmall));
        let corrupt = call(&mut ways, Peer::OwnDomain, op::DECOMPRESS, &params[..1], &data, 20_000).failure;
        assert_eq!(corrupt.map(|(code, _)| code), Some(ErrorCode::CorruptInput));
    }
}

#[test]
fn a_confined_process_serves_a_ring_and_closes_it() {
    let mut ways = EveryWay::of_program(env!("CARGO_BIN_EXE_vgem-driver-zip"));
    let data = text(100_000);
    for word in (0..).zip(Format::ALL).map(|(word, _)| ParamValue::Number(word)) {
        let packed =
            call(&mut ways, Peer::OtherDomain, op::COMPRESS, &[word, ParamValue::Absent], &data, 120_000);
        let seen = call(&mut ways, Peer::OwnDomain, op::DECOMPRESS, &[word], output(&packed), data.len());
        assert!(output(&seen) == data);
    }
}
