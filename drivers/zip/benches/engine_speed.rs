//! How fast the zip device is beside the plain library call, in MB/s of content.
//!
//! `cargo bench -p vgem-driver-zip`. The content is this program's own file in chunks of 64 KiB and 1 MiB. Engine
//! (operands of the own domain, then of another) and reference take turns chunk by chunk; medians over the
//! chunks. All on one core and warm: what a buffer on another core costs is the business of the system's benches.
#![expect(clippy::print_stdout, reason = "a bench prints its numbers")]
#![expect(clippy::expect_used, reason = "a bench ends where its arrangement fails")]

use std::io::{Read as _, Write as _};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use libdeflater::{CompressionLvl, Compressor, Decompressor};
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use vgem_driver::mapping::Mapping;
use vgem_driver::{Engine as _, OperandBytes, Options, ParamValue, Span, SpanMut, Task, TaskOperand};
use vgem_driver_zip::description::op;
use vgem_driver_zip::{Format, ZipEngine};
use vgem_proto::describe::Touch;
use vgem_proto::ids::ObjectKey;
use zstd_safe::{CCtx, CParameter, DCtx};

/// Content that is measured per row, bytes.
const VOLUME: usize = 16 << 20;
/// The third contender; the first two are the engine with operands of its own domain and of another.
const LIBRARY: usize = 2;

static ENGINE: LazyLock<ZipEngine> = LazyLock::new(|| ZipEngine::new(&Options::default()));

fn main() {
    let path = std::env::current_exe().expect("the path of this program");
    let content = std::fs::read(path).expect("the bytes of this program");
    println!(
        "{:<8} {:>5} {:>9} {:>7}  {:>8} {:>8} {:>8}   {:>8} {:>8} {:>8}",
        "format",
        "level",
        "chunk",
        "ratio",
        "compress",
        "foreign",
        "library",
        "decompr.",
        "foreign",
        "library"
    );
    for len in [64 << 10, 1 << 20] {
        for (format, level) in [
            (Format::Zstd, 1),
            (Format::Zstd, 3),
            (Format::Zstd, 9),
            (Format::Gzip, 1),
            (Format::Gzip, 6),
            (Format::Lz4, 0),
        ] {
            row(format, level, len, &content);
        }
    }
}

fn row(format: Format, level: i32, len: usize, content: &[u8]) {
    let mut times: [Vec<Duration>; 6] = Default::default();
    let [mut long, mut short] = [0, 0];
    let mut library = Library::new(format, level);
    let (input, packed, output) =
        (Mapping::anonymous(len), Mapping::anonymous(len * 2), Mapping::anonymous(len));
    let spans = [input, packed, output].map(|mapping| mapping.expect("memory"));
    let [input, packed, output] = spans.each_ref().map(|mapping| mapping.span_mut().expect("writable"));
    for (round, chunk) in content.chunks_exact(len).cycle().take(VOLUME / len).enumerate() {
        input.copy_from(0, chunk).expect("inside");
        library.packed.resize(len * 2, 0);
        // Whoever is first finds colder caches, so each is first in turn.
        let mut sizes = [0; 3];
        for contender in (0..3).map(|i| (i + round) % 3) {
            let begin = Instant::now();
            sizes[contender] = match contender {
                LIBRARY => library.compress(chunk),
                foreign => engine(op::COMPRESS, format, level, foreign == 1, input.as_span(), packed),
            };
            times[contender].push(begin.elapsed());
        }
        let [size, foreign_size, library_size] = sizes;
        assert_eq!((size, size), (foreign_size, library_size), "all make the same of a chunk");
        library.packed.truncate(size);
        let packed = packed.as_span().sub(0, size).expect("inside");
        for contender in (0..3).map(|i| (i + round) % 3) {
            let begin = Instant::now();
            let unpacked = match contender {
                LIBRARY => library.decompress(len),
                foreign => engine(op::DECOMPRESS, format, level, foreign == 1, packed, output),
            };
            times[3 + contender].push(begin.elapsed());
            assert_eq!(unpacked, len);
        }
        long += len;
        short += size;
    }
    let rate = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        len as f64 / times[times.len() / 2].as_secs_f64() / 1e6
    };
    let [a, b, c, d, e, f] = times.each_mut().map(rate);
    println!(
        "{:<8} {level:>5} {len:>9} {:>7.3}  {a:>8.0} {b:>8.0} {c:>8.0}   {d:>8.0} {e:>8.0} {f:>8.0}",
        format.name(),
        long as f64 / short as f64
    );
}

fn engine(op: u16, format: Format, level: i32, foreign: bool, input: Span<'_>, output: SpanMut<'_>) -> usize {
    let object = ObjectKey { index: 1, generation: 1 };
    let operands = [
        TaskOperand { number: 0, bytes: OperandBytes::Read(input), object, offset: 0, foreign },
        TaskOperand { number: 1, bytes: OperandBytes::Write(output), object, offset: 0, foreign },
    ];
    let word = Format::ALL.iter().position(|f| *f == format).expect("a format") as u64;
    let level = u64::try_from(level).expect("not negative");
    let params = [ParamValue::Number(word), ParamValue::Number(level)];
    let touch = [Touch::InPlace, if op == op::COMPRESS { Touch::InPlace } else { Touch::Windows }];
    let mut task = Task::for_test(op, &operands, &params, &touch);
    ENGINE.run(&mut task).expect("done");
    usize::try_from(task.produced().len).expect("a length")
}

/// The libraries themselves, with contexts and buffers that are reused as the engine reuses its own.
struct Library {
    codec: Codec,
    packed: Vec<u8>,
    output: Vec<u8>,
}

enum Codec {
    Zstd(CCtx<'static>, DCtx<'static>),
    Gzip(Compressor, Decompressor),
    Lz4,
}

impl Library {
    fn new(format: Format, level: i32) -> Self {
        let codec = match format {
            Format::Zstd => {
                let mut encoder = CCtx::create();
                encoder.set_parameter(CParameter::CompressionLevel(level)).expect("a level");
                encoder.set_parameter(CParameter::ChecksumFlag(true)).expect("a flag");
                Codec::Zstd(encoder, DCtx::create())
            }
            Format::Lz4 => Codec::Lz4,
            Format::Gzip | Format::Zlib | Format::Deflate => {
                let level = CompressionLvl::new(level).expect("a level");
                Codec::Gzip(Compressor::new(level), Decompressor::new())
            }
        };
        Self { codec, packed: Vec::new(), output: Vec::new() }
    }

    fn compress(&mut self, chunk: &[u8]) -> usize {
        match &mut self.codec {
            Codec::Zstd(encoder, _) => encoder.compress2(&mut self.packed[..], chunk).expect("compressed"),
            Codec::Gzip(encoder, _) => encoder.gzip_compress(chunk, &mut self.packed).expect("compressed"),
            Codec::Lz4 => {
                self.packed.clear();
                let info = FrameInfo::new()
                    .block_size(BlockSize::Max256KB)
                    .block_mode(BlockMode::Independent)
                    .content_checksum(true);
                let mut encoder = FrameEncoder::with_frame_info(info, &mut self.packed);
                encoder.write_all(chunk).expect("compressed");
                encoder.finish().expect("compressed").len()
            }
        }
    }

    fn decompress(&mut self, len: usize) -> usize {
        self.output.resize(len, 0);
        match &mut self.codec {
            Codec::Zstd(_, decoder) => {
                decoder.decompress(&mut self.output[..], &self.packed).expect("decompressed")
            }
            Codec::Gzip(_, decoder) => {
                decoder.gzip_decompress(&self.packed, &mut self.output).expect("decompressed")
            }
            Codec::Lz4 => {
                FrameDecoder::new(&self.packed[..]).read_exact(&mut self.output).expect("decompressed");
                len
            }
        }
    }
}
