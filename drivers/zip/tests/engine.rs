//! What the engine promises for every format: round trips, errors with their reason, nothing worse.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use common::{Peer, SIZES, code, compress, compress_from, decompress, decompress_from, noise, run, text};
use vgem_driver::mapping::Mapping;
use vgem_driver::{Engine as _, Span, SpanMut};
use vgem_driver_zip::Format;
use vgem_driver_zip::description::op;
use vgem_proto::describe::Description;
use vgem_proto::error::ErrorCode;

/// Concatenated streams are one input to these.
const CONCATENABLE: [Format; 3] = [Format::Gzip, Format::Zstd, Format::Lz4];

#[test]
fn what_goes_in_comes_out() {
    for format in Format::ALL {
        for from in Peer::ALL {
            for data in SIZES.iter().flat_map(|len| [noise(*len), text(*len)]) {
                let packed = compress_from(from, format, None, &data);
                let unpacked = decompress_from(from, format, &packed, data.len()).expect("decompress");
                assert!(unpacked == data, "{format:?} {from:?} {} bytes", data.len());
            }
        }
    }
}

#[test]
fn every_level_of_every_format_works() {
    let data = text(100_000);
    for format in Format::ALL {
        for level in 0..=u64::try_from(format.level_max()).expect("not negative") {
            let packed = compress(format, Some(level), &data);
            assert!(
                decompress(format, &packed, data.len()).expect("decompress") == data,
                "{format:?} {level}"
            );
        }
    }
}

#[test]
fn a_level_that_a_format_lacks_is_a_bad_parameter() {
    for (format, level) in
        [(Format::Gzip, 13), (Format::Zlib, 22), (Format::Deflate, 13), (Format::Zstd, 23), (Format::Lz4, 3)]
    {
        let mut output = [0; 100];
        let output = SpanMut::of_slice(&mut output);
        let done = run(Peer::OwnDomain, op::COMPRESS, format, Some(level), Span::of_slice(b"x"), output);
        assert_eq!(code(done), ErrorCode::BadParameter, "{format:?}");
    }
}

#[test]
fn text_becomes_smaller() {
    let data = text(1 << 20);
    for format in Format::ALL {
        assert!(compress(format, None, &data).len() < data.len() / 2, "{format:?}");
    }
}

#[test]
fn an_output_too_small_for_the_frame_is_said() {
    for format in Format::ALL {
        for data in SIZES.iter().flat_map(|len| [noise(*len), text(*len)]) {
            for from in Peer::ALL {
                let whole = compress_from(from, format, None, &data).len();
                for room in [0, 1, whole / 2, whole - 1] {
                    let mut output = vec![0; room];
                    let output = SpanMut::of_slice(&mut output);
                    let done = run(from, op::COMPRESS, format, None, Span::of_slice(&data), output);
                    assert_eq!(code(done), ErrorCode::OutputTooSmall, "{format:?} {} in {room}", data.len());
                }
            }
        }
    }
}

#[test]
fn an_output_too_small_for_the_content_is_said() {
    for format in Format::ALL {
        for data in SIZES.iter().skip(1).flat_map(|len| [noise(*len), text(*len)]) {
            let packed = compress(format, None, &data);
            for room in [0, data.len() / 2, data.len() - 1] {
                let done = decompress(format, &packed, room);
                assert_eq!(code(done), ErrorCode::OutputTooSmall, "{format:?} {} in {room}", data.len());
            }
        }
    }
}

#[test]
fn the_size_that_is_needed_is_in_the_words_where_the_format_tells_it() {
    let data = text(70_001);
    for format in [Format::Gzip, Format::Zstd] {
        let error = decompress(format, &compress(format, None, &data), 70_000).expect_err("too small");
        assert!(error.text.contains("70001"), "{format:?}: {}", error.text);
    }
    let two = [compress(Format::Zstd, None, &data), compress(Format::Zstd, None, &data)].concat();
    let error = decompress(Format::Zstd, &two, 70_000).expect_err("too small");
    assert!(error.text.contains("140002"), "{}", error.text);
}

#[test]
fn frames_in_a_row_are_one_content() {
    let (one, two) = (text(300_000), noise(1000));
    for format in CONCATENABLE {
        let parts = [&one, &Vec::new(), &two].map(|part| compress(format, None, part)).concat();
        let whole = decompress(format, &parts, one.len() + two.len()).expect("decompress");
        assert!(whole == [&one[..], &two[..]].concat(), "{format:?}");
    }
}

#[test]
fn skippable_frames_are_passed_over() {
    let skippable = [&0x184d_2a53_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"hello"].concat();
    for format in [Format::Zstd, Format::Lz4] {
        let frame = compress(format, None, b"content");
        let parts = [&skippable[..], &frame, &skippable].concat();
        assert_eq!(decompress(format, &parts, 100).expect("decompress"), b"content", "{format:?}");
        assert_eq!(code(decompress(format, &skippable[..12], 100)), ErrorCode::CorruptInput, "{format:?}");
    }
}

#[test]
fn garbage_after_the_end_is_corrupt() {
    for format in Format::ALL {
        for garbage in [&b"\0"[..], b"garbage", &[0; 64]] {
            let parts = [&compress(format, None, b"content")[..], garbage].concat();
            assert_eq!(
                code(decompress(format, &parts, 100)),
                ErrorCode::CorruptInput,
                "{format:?} {garbage:?}"
            );
        }
    }
}

#[test]
fn every_cut_is_corrupt() {
    let data = text(500);
    for format in Format::ALL {
        let packed = compress(format, None, &data);
        for len in 0..packed.len() {
            let done = decompress(format, &packed[..len], 1000);
            assert_eq!(code(done), ErrorCode::CorruptInput, "{format:?} cut at {len} of {}", packed.len());
        }
    }
}

#[test]
fn every_flipped_byte_is_an_error_where_there_is_a_checksum() {
    let data = text(500);
    for format in [Format::Gzip, Format::Zlib, Format::Zstd, Format::Lz4] {
        let packed = compress(format, None, &data);
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 0xff;
            let done = decompress(format, &changed, 1000);
            // Seven bytes of a gzip header are notes for people, which nothing checks.
            let ignored = format == Format::Gzip && (4..10).contains(&at);
            assert!(ignored || done.is_err(), "{format:?} byte {at}");
        }
    }
}

#[test]
fn no_flipped_byte_of_bare_deflate_does_harm() {
    let data = text(500);
    let packed = compress(Format::Deflate, None, &data);
    for at in 0..packed.len() {
        let mut changed = packed.clone();
        changed[at] ^= 0xff;
        // Without a checksum another content is as good as none; the device must still answer the next job.
        drop(decompress(Format::Deflate, &changed, 1000));
        assert!(decompress(Format::Deflate, &packed, 1000).expect("decompress") == data, "after byte {at}");
    }
}

#[test]
fn noise_is_corrupt_in_every_format_with_a_magic() {
    for format in [Format::Gzip, Format::Zlib, Format::Zstd, Format::Lz4] {
        assert_eq!(code(decompress(format, &noise(1000), 10_000)), ErrorCode::CorruptInput, "{format:?}");
    }
}

#[test]
fn a_job_that_failed_does_not_disturb_the_next() {
    let data = text(300_000);
    for format in Format::ALL {
        let packed = compress(format, None, &data);
        for room in [10, 10_000, 299_999] {
            let mut output = vec![0; room];
            let tight = SpanMut::of_slice(&mut output);
            drop(run(Peer::OwnDomain, op::COMPRESS, format, None, Span::of_slice(&noise(300_000)), tight));
            drop(decompress(format, &packed, room));
            drop(decompress(format, &packed[..packed.len() / 2], data.len()));
            assert!(compress(format, None, &data) == packed, "{format:?} after {room}");
            assert!(
                decompress(format, &packed, data.len()).expect("decompress") == data,
                "{format:?} after {room}"
            );
        }
    }
}

/// Runs an operation whose output is the memory around its input, and answers what it wrote.
fn run_overlapping(op: u16, format: Format, input: &[u8], room: usize) -> Vec<u8> {
    let memory = Mapping::anonymous(room).expect("memory");
    let whole = memory.span_mut().expect("writable");
    whole.copy_from(1000, input).expect("inside");
    let input = whole.as_span().sub(1000, input.len()).expect("inside");
    let done = run(Peer::OwnDomain, op, format, None, input, whole).expect("done");
    let mut output = vec![0; usize::try_from(done.len).expect("a length")];
    whole.copy_to(0, &mut output).expect("inside");
    output
}

#[test]
fn operands_that_overlap_are_as_if_they_did_not() {
    // What is written first looks like what is read later: an engine that sees it mistakes the one for the other.
    let data = [noise(300_000), noise(300_000), text(100_000)].concat();
    for format in Format::ALL {
        let packed = run_overlapping(op::COMPRESS, format, &data, 800_000);
        assert!(packed == compress(format, None, &data), "compress {format:?}");
        assert!(run_overlapping(op::DECOMPRESS, format, &packed, 800_000) == data, "decompress {format:?}");
    }
}

#[test]
fn staged_bytes_are_what_the_table_says() {
    let data = text(100_000);
    let staged = |from, op, format, input: &[u8]| {
        let mut output = vec![0; 200_000];
        let output = SpanMut::of_slice(&mut output);
        run(from, op, format, None, Span::of_slice(input), output).expect("done").staged
    };
    for format in Format::ALL {
        let packed = compress(format, None, &data);
        let (long, short) = (data.len() as u64, packed.len() as u64);
        let (own_in, own_out) = match format {
            Format::Zstd => (0, long),
            Format::Gzip | Format::Zlib | Format::Deflate => (long, long),
            Format::Lz4 => (long + short, long + short),
        };
        assert_eq!(staged(Peer::OwnDomain, op::COMPRESS, format, &data), own_in, "compress {format:?}");
        assert_eq!(
            staged(Peer::OwnDomain, op::DECOMPRESS, format, &packed),
            own_out,
            "decompress {format:?}"
        );
        for (op, input) in [(op::COMPRESS, &data), (op::DECOMPRESS, &packed)] {
            assert_eq!(
                staged(Peer::OtherDomain, op, format, input),
                long + short,
                "{format:?} from elsewhere"
            );
        }
    }
}

#[test]
fn an_operation_that_is_not_there_is_said() {
    let mut output = [0; 100];
    let input = Span::of_slice(b"");
    let operation = common::ENGINE.description();
    assert!(operation.by_number(2).is_none());
    let task_output = SpanMut::of_slice(&mut output);
    let object = vgem_proto::ids::ObjectKey { index: 1, generation: 1 };
    let operands = [
        vgem_driver::TaskOperand {
            number: 0,
            bytes: vgem_driver::OperandBytes::Read(input),
            object,
            offset: 0,
            foreign: false,
        },
        vgem_driver::TaskOperand {
            number: 1,
            bytes: vgem_driver::OperandBytes::Write(task_output),
            object,
            offset: 0,
            foreign: false,
        },
    ];
    let mut task = vgem_driver::Task::for_test(2, &operands, &[vgem_driver::ParamValue::Number(0)], &[]);
    assert_eq!(code(common::ENGINE.run(&mut task)), ErrorCode::NoSuchOperation);
}

#[test]
fn the_description_survives_the_wire() {
    let description = common::ENGINE.description();
    assert_eq!(Description::decode(&description.encode()), Ok(description));
}
