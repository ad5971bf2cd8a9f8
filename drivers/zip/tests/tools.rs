//! The usual tools read what the engine writes, and the engine reads what they write.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails, a missing tool included")]

mod common;

use std::io::Write as _;
use std::process::{Command, Stdio};

use common::{SIZES, compress, decompress, noise, text};
use vgem_driver_zip::Format;

/// What a tool prints when it is given `input`.
fn filter(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut file = tempfile::tempfile().expect("a file for the tool's input");
    file.write_all(input).expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    let done = Command::new(program)
        .args(args)
        .stdin(file)
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{program} must be installed for this test: {error}"));
    assert!(done.status.success(), "{program} {args:?}: {}", done.status);
    done.stdout
}

fn samples() -> impl Iterator<Item = Vec<u8>> {
    SIZES.into_iter().flat_map(|len| [noise(len), text(len)])
}

fn python(code: &str, input: &[u8]) -> Vec<u8> {
    let script = format!("import sys, zlib; data = sys.stdin.buffer.read(); sys.stdout.buffer.write({code})");
    filter("python3", &["-c", &script], input)
}

/// A tool that turns bytes into other bytes.
type Tool<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

fn both_ways(format: Format, unpack: impl Fn(&[u8]) -> Vec<u8>, packs: &[Tool<'_>]) {
    for data in samples() {
        assert!(unpack(&compress(format, None, &data)) == data, "the tool reads {} bytes", data.len());
        for pack in packs {
            let unpacked = decompress(format, &pack(&data), data.len()).expect("decompress");
            assert!(unpacked == data, "the tool's {} bytes are read", data.len());
        }
    }
}

#[test]
fn the_zstd_tool_and_the_engine_read_each_other() {
    both_ways(
        Format::Zstd,
        |packed| filter("zstd", &["-d", "-c", "-q"], packed),
        &[&|data| filter("zstd", &["-c", "-q"], data), &|data| {
            filter("zstd", &["-19", "-c", "-q", "--no-check"], data)
        }],
    );
}

#[test]
fn the_gzip_tool_and_the_engine_read_each_other() {
    both_ways(
        Format::Gzip,
        |packed| filter("gunzip", &["-c"], packed),
        &[&|data| filter("gzip", &["-c", "-n"], data), &|data| filter("gzip", &["-9", "-c"], data)],
    );
}

#[test]
fn the_lz4_tool_and_the_engine_read_each_other() {
    both_ways(
        Format::Lz4,
        |packed| filter("lz4", &["-d", "-c", "-q"], packed),
        &[
            &|data| filter("lz4", &["-c", "-q"], data),
            &|data| filter("lz4", &["-9", "-B4", "-BD", "-BX", "-c", "-q"], data),
            &|data| filter("lz4", &["-B5", "-BD", "--no-frame-crc", "-c", "-q"], data),
        ],
    );
}

#[test]
fn python_s_zlib_and_the_engine_read_each_other() {
    both_ways(
        Format::Zlib,
        |packed| python("zlib.decompress(data)", packed),
        &[&|data| python("zlib.compress(data)", data)],
    );
}

#[test]
fn python_s_bare_deflate_and_the_engine_read_each_other() {
    both_ways(
        Format::Deflate,
        |packed| python("zlib.decompress(data, -15)", packed),
        &[&|data| python("zlib.compress(data, 9, -15)", data)],
    );
}

#[test]
fn frames_of_the_engine_in_a_row_are_one_file_for_the_tools() {
    let (one, two) = (text(100_000), noise(5000));
    for (format, program) in [(Format::Zstd, "zstd"), (Format::Gzip, "gzip"), (Format::Lz4, "lz4")] {
        let file = [compress(format, None, &one), compress(format, None, &two)].concat();
        assert!(filter(program, &["-d", "-c", "-q"], &file) == [&one[..], &two[..]].concat(), "{program}");
    }
}

#[test]
fn the_zstd_tool_finds_a_checksum_and_a_size_in_a_frame() {
    let mut file = tempfile::NamedTempFile::with_suffix(".zst").expect("a file");
    file.write_all(&compress(Format::Zstd, None, &text(100_000))).expect("written");
    let path = file.path().to_str().expect("a plain path");
    let list = String::from_utf8(filter("zstd", &["-l", "-v", path], b"")).expect("text");
    assert!(list.contains("XXH64"), "{list}");
    assert!(list.contains("100000 B"), "{list}");
}
