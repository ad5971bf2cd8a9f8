//! Operands that another domain may write, and operands whose pages somebody takes away, for every format.
//!
//! How much is staged for whom is in the tests of the engine.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use common::{Peer, compress, decompress, noise, run, text};
use vgem_driver::testing::{Random, Shared, beside, flip, is_mix, write_either};
use vgem_driver::{JobError, Produced};
use vgem_driver_zip::Format;
use vgem_driver_zip::description::op;
use vgem_proto::error::ErrorCode;

const LEN: usize = 200_000;

/// Formats whose decoders check what they have made.
const CHECKED: [Format; 4] = [Format::Gzip, Format::Zlib, Format::Zstd, Format::Lz4];

/// Compresses all of an object for a peer into another, and gives what came out.
fn pack(peer: Peer, format: Format, from: &Shared, into: &Shared) -> Result<Vec<u8>, JobError> {
    let done = run(peer, op::COMPRESS, format, None, from.span().as_span(), into.span())?;
    let mut packed = into.bytes();
    packed.truncate(usize::try_from(done.len).expect("a length"));
    Ok(packed)
}

fn unpack(peer: Peer, format: Format, from: &Shared, into: &Shared) -> Result<Produced, JobError> {
    run(peer, op::DECOMPRESS, format, None, from.span().as_span(), into.span())
}

#[test]
fn what_another_domain_changes_meanwhile_is_compressed_as_it_was_at_some_moment() {
    let contents = [text(LEN), noise(LEN)];
    let contents = [&contents[0][..], &contents[1]];
    for format in Format::ALL {
        let (from, into) = (Shared::of(contents[0]), Shared::new(2 * LEN));
        let harm = |random: &mut Random| write_either(from.span(), contents, random);
        let verdicts = beside(harm, || {
            let packed = pack(Peer::OtherDomain, format, &from, &into).expect("there is room");
            let content = decompress(format, &packed, LEN).expect("a whole frame, with its own checksum");
            assert!(is_mix(&content, contents), "{format:?}");
            true
        });
        assert_eq!(verdicts.failed, 0);
    }
}

#[test]
fn a_frame_for_another_domain_is_made_where_that_cannot_change_it() {
    let data = text(LEN);
    for format in Format::ALL {
        let (from, into) = (Shared::of(&data), Shared::new(LEN));
        let wanted = compress(format, None, &data).len() as u64;
        let harm = |random: &mut Random| flip(into.span(), random);
        let verdicts = beside(harm, || {
            let span = from.span().as_span();
            let done = run(Peer::OtherDomain, op::COMPRESS, format, None, span, into.span());
            done.expect("there is room").len == wanted
        });
        assert_eq!(verdicts.failed, 0, "{format:?}");
    }
}

#[test]
fn a_decoder_does_not_see_what_is_written_into_its_output_meanwhile() {
    let data = [text(LEN / 2), noise(LEN / 2)].concat();
    for (format, peer) in Format::ALL.iter().flat_map(|format| Peer::ALL.map(|peer| (*format, peer))) {
        let (from, into) = (Shared::of(&compress(format, None, &data)), Shared::new(LEN));
        let harm = |random: &mut Random| flip(into.span(), random);
        let verdicts =
            beside(harm, || unpack(peer, format, &from, &into).is_ok_and(|done| done.len == LEN as u64));
        assert_eq!(verdicts.failed, 0, "{format:?} {peer:?}");
    }
}

#[test]
fn a_frame_that_changes_meanwhile_gives_its_content_or_an_error() {
    let data = [text(LEN / 2), noise(LEN / 2)].concat();
    for format in CHECKED {
        let packed = compress(format, None, &data);
        let (from, into) = (Shared::of(&packed), Shared::new(LEN));
        let harm = |random: &mut Random| match random.below(64) {
            0 => flip(from.span(), random),
            _ => from.put(&packed),
        };
        let verdicts = beside(harm, || match unpack(Peer::OtherDomain, format, &from, &into) {
            Ok(_) => {
                assert!(into.bytes() == data, "{format:?}");
                true
            }
            Err(error) => {
                let clean = [ErrorCode::CorruptInput, ErrorCode::OutputTooSmall, ErrorCode::Unsupported];
                assert!(clean.contains(&error.code), "{format:?}: {error}");
                false
            }
        });
        assert!(verdicts.ok + verdicts.failed > 0);
    }
}

#[test]
fn t19_pages_that_are_taken_away_while_they_are_compressed_are_zeros() {
    let data = text(LEN);
    let zeros = vec![0; LEN];
    for (format, peer) in Format::ALL.iter().flat_map(|format| Peer::ALL.map(|peer| (*format, peer))) {
        let (from, into) = (Shared::of(&data), Shared::new(2 * LEN));
        let verdicts = beside(
            |random| from.punch_somewhere(random),
            || {
                from.put(&data);
                let packed = pack(peer, format, &from, &into).expect("there is room");
                // What the own domain takes away under an encoder may not even decode: its own foot.
                match decompress(format, &packed, LEN) {
                    Ok(content) => assert!(is_mix(&content, [&data, &zeros]) || peer == Peer::OwnDomain),
                    Err(error) => assert!(peer == Peer::OwnDomain, "{format:?}: {error}"),
                }
                true
            },
        );
        assert_eq!(verdicts.failed, 0);
    }
}

#[test]
fn t19_decoding_from_and_into_pages_that_are_taken_away_ends_with_an_answer() {
    let data = [text(LEN / 2), noise(LEN / 2)].concat();
    for (format, peer) in Format::ALL.iter().flat_map(|format| Peer::ALL.map(|peer| (*format, peer))) {
        let packed = compress(format, None, &data);
        let (from, into) = (Shared::of(&packed), Shared::new(LEN));
        let harm = |random: &mut Random| match random.below(8) {
            0 => from.punch_somewhere(random),
            1..4 => from.put(&packed),
            _ => into.punch_somewhere(random),
        };
        let verdicts = beside(harm, || match unpack(peer, format, &from, &into) {
            Ok(done) => done.len <= LEN as u64,
            Err(error) => error.text.is_empty(),
        });
        assert!(verdicts.ok + verdicts.failed > 0);
        from.put(&packed);
        assert_eq!(unpack(peer, format, &from, &into).map(|done| done.len), Ok(LEN as u64), "{format:?}");
    }
}
