//! LZ4 frames, by lz4_flex in safe Rust: both operands through windows.
//!
//! ```text
//!   compress:   input ─copy► window ─► encoder ─► private ─copy► output
//!   decompress: input ─copy► private, block by block ─► decoder ─copy► output
//! ```
//!
//! Written: independent blocks of 256 KiB with a checksum over the content. Read: every frame of format version 1
//! but those that need a dictionary, skippable frames (passed over), and any number of them in a row.
//!
//! The decoder pulls from a reader, and a reader of an operand could not outlive its job as the decoder does. So
//! the frame's outline (header, block lengths, end mark) is read here, and the decoder is handed exactly one block
//! at a time in private memory. It finds its own end of the frame, or it is corrupt.

use std::cell::RefCell;
use std::io::{self, BufRead as _, Read, Write as _};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use vgem_driver::scratch::Scratch;
use vgem_driver::window::{WINDOW_LEN, WindowReader};
use vgem_driver::{JobError, Span};
use vgem_proto::error::ErrorCode;

use crate::ports::{Done, Ports, private_copy};

/// Bytes of a block that is written.
const BLOCK_LEN: usize = 256 * 1024;
/// Bytes of a frame that is written, beside its blocks: header, end mark, checksum.
const FRAME_OVERHEAD_LEN: usize = 15;
/// Bytes before and after a block: its length, and a checksum if the frame has them.
const WORD_LEN: usize = 4;
/// Bytes of the longest header: magic, two flag bytes, content size, dictionary id, checksum.
const HEADER_LEN_MAX: usize = 19;

const MAGIC: u32 = 0x184d_2204;
const MAGIC_LEGACY: u32 = 0x184c_2102;
const MAGIC_SKIPPABLE: u32 = 0x184d_2a50;
const MAGIC_SKIPPABLE_MASK: u32 = 0xffff_fff0;

/// The bit of a block's length that says it is stored as it is.
const STORED: u32 = 1 << 31;

/// What an executor keeps between jobs.
#[derive(Default)]
struct Contexts {
    window: Vec<u8>,
    whole: Scratch,
    encoder: Option<FrameEncoder<Vec<u8>>>,
    decoder: Option<(Shape, FrameDecoder<Inlet>)>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

/// Compresses the input to one frame.
pub(crate) fn compress(ports: Ports<'_>) -> Result<Done, JobError> {
    apart(ports, |contexts, ports| {
        contexts.window.resize(WINDOW_LEN, 0);
        // A used encoder writes no frame for no input; a new one does.
        let mut encoder = match contexts.encoder.take() {
            Some(encoder) if !ports.input.is_empty() => encoder,
            _ => new_encoder(),
        };
        let done = compress_with(&mut encoder, &mut contexts.window, ports)?;
        // An encoder that failed has a frame open, and is not put back.
        contexts.encoder = Some(encoder);
        Ok(done)
    })
}

/// Decompresses all frames of the input.
pub(crate) fn decompress(ports: Ports<'_>) -> Result<Done, JobError> {
    if ports.input.is_empty() {
        return Err(JobError::corrupt("an empty input is not an lz4 frame"));
    }
    apart(ports, |contexts, ports| {
        let mut place = Place { ports, read: 0, written: 0 };
        while place.read < ports.input.len() {
            match Outline::read(ports.input, place.read)? {
                Outline::Skippable { len } => place.read += len,
                Outline::Frame { head, header_len, shape, content } => {
                    place.check_content(content)?;
                    // A decoder that fails is in the middle of a frame, and is not put back.
                    let mut decoder = match contexts.decoder.take() {
                        Some((made_for, decoder)) if made_for == shape => decoder,
                        _ => FrameDecoder::new(Inlet::default()),
                    };
                    let header = head.get(..header_len).unwrap_or_default();
                    place.decode_frame(&mut decoder, header, shape)?;
                    contexts.decoder = Some((shape, decoder));
                }
            }
        }
        Ok(Done { len: place.written, staged: (place.read + place.written) as u64 })
    })
}

/// Does `work` on an input that the output does not overwrite.
fn apart(
    ports: Ports<'_>,
    work: impl FnOnce(&mut Contexts, Ports<'_>) -> Result<Done, JobError>,
) -> Result<Done, JobError> {
    CONTEXTS.with_borrow_mut(|contexts| {
        if !ports.overlap {
            return work(contexts, ports);
        }
        let mut whole = std::mem::take(&mut contexts.whole);
        let input = private_copy(ports.input, &mut whole)?.as_span();
        let done = work(contexts, Ports { input, ..ports })?;
        whole.settle();
        contexts.whole = whole;
        Ok(Done { staged: done.staged + ports.input.len() as u64, ..done })
    })
}

fn new_encoder() -> FrameEncoder<Vec<u8>> {
    let info = FrameInfo::new()
        .block_size(BlockSize::Max256KB)
        .block_mode(BlockMode::Independent)
        .content_checksum(true);
    FrameEncoder::with_frame_info(info, Vec::new())
}

fn compress_with(
    encoder: &mut FrameEncoder<Vec<u8>>,
    window: &mut [u8],
    ports: Ports<'_>,
) -> Result<Done, JobError> {
    let mut reader = WindowReader::new(ports.input);
    let mut written = 0;
    loop {
        let len = reader.read(window).map_err(encoding_failed)?;
        match window.get(..len) {
            Some(piece) if len > 0 => encoder.write_all(piece).map_err(encoding_failed)?,
            _ => break,
        }
        written = drain(encoder.get_mut(), ports, written)?;
    }
    encoder.try_finish().map_err(|error| JobError::fault(format!("lz4: {error}")))?;
    written = drain(encoder.get_mut(), ports, written)?;
    Ok(Done { len: written, staged: reader.staged() + written as u64 })
}

/// Moves what the encoder has written to the output from `at` on; answers where it ends.
fn drain(private: &mut Vec<u8>, ports: Ports<'_>, at: usize) -> Result<usize, JobError> {
    ports.output.copy_from(at, private).map_err(|_| {
        let (len, have) = (ports.input.len(), ports.output.len());
        let bound = len + len.div_ceil(BLOCK_LEN) * WORD_LEN + FRAME_OVERHEAD_LEN;
        JobError::too_small(format!(
            "the frame of {len} bytes does not fit into {have}; {bound} are always enough"
        ))
    })?;
    let end = at + private.len();
    private.clear();
    Ok(end)
}

fn encoding_failed(error: io::Error) -> JobError {
    JobError::fault(format!("lz4: {error}"))
}

/// Private bytes that a decoder may read, and whether it wanted more than there were.
#[derive(Debug, Default)]
struct Inlet {
    bytes: Vec<u8>,
    at: usize,
    starved: bool,
}

impl Inlet {
    /// Appends private bytes.
    fn push(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends `len` bytes of the operand from `from` on.
    fn feed(&mut self, input: Span<'_>, from: usize, len: usize) -> Result<(), JobError> {
        if input.len() - from < len {
            return Err(cut_off());
        }
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        let place = self.bytes.get_mut(start..).unwrap_or_default();
        Ok(input.copy_to(from, place)?)
    }

    fn is_used_up(&self) -> bool {
        self.at == self.bytes.len() && !self.starved
    }
}

impl Read for Inlet {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        self.starved |= len == 0 && !buf.is_empty();
        for (place, byte) in buf.iter_mut().zip(rest.iter().take(len)) {
            *place = *byte;
        }
        self.at += len;
        Ok(len)
    }
}

/// What decides how long a decoder's buffers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    block_len_max: usize,
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
}

/// What begins at a place of the input.
enum Outline {
    /// A frame.
    Frame {
        /// Its header, and room behind it.
        head: [u8; HEADER_LEN_MAX],
        /// Bytes of the header.
        header_len: usize,
        /// Its blocks.
        shape: Shape,
        /// Bytes of its content, if it says so.
        content: Option<u64>,
    },
    /// Bytes to pass over.
    Skippable {
        /// How many.
        len: usize,
    },
}

impl Outline {
    fn read(input: Span<'_>, at: usize) -> Result<Self, JobError> {
        let mut head = [0; HEADER_LEN_MAX];
        let len = HEADER_LEN_MAX.min(input.len() - at);
        input.copy_to(at, head.get_mut(..len).unwrap_or_default())?;
        let [m0, m1, m2, m3, flags, blocks, s0, s1, s2, s3, s4, s5, s6, s7, ..] = head;
        match u32::from_le_bytes([m0, m1, m2, m3]) {
            MAGIC => {}
            MAGIC_LEGACY => {
                return Err(JobError::new(
                    ErrorCode::Unsupported,
                    "a legacy lz4 frame; only version 1 is read",
                ));
            }
            magic if magic & MAGIC_SKIPPABLE_MASK == MAGIC_SKIPPABLE => {
                let content =
                    usize::try_from(u32::from_le_bytes([flags, blocks, s0, s1])).unwrap_or(usize::MAX);
                let len = content.saturating_add(2 * WORD_LEN);
                return if len <= input.len() - at { Ok(Self::Skippable { len }) } else { Err(cut_off()) };
            }
            _ if at == 0 => return Err(JobError::corrupt("the input does not begin with an lz4 frame")),
            _ => {
                return Err(JobError::corrupt(format!(
                    "what follows the frame that ends at {at} is not an lz4 frame"
                )));
            }
        }
        if flags & 1 != 0 {
            return Err(JobError::new(ErrorCode::Unsupported, "the lz4 frame needs a dictionary"));
        }
        let has_size = flags & 8 != 0;
        let block_len_max = match (blocks >> 4) & 7 {
            4 => 64 * 1024,
            5 => 256 * 1024,
            6 => 1024 * 1024,
            7 => 4 * 1024 * 1024,
            other => {
                return Err(JobError::corrupt(format!("the lz4 frame has block size {other}, not 4 to 7")));
            }
        };
        let shape = Shape {
            block_len_max,
            linked: flags & 32 == 0,
            block_checksums: flags & 16 != 0,
            content_checksum: flags & 4 != 0,
        };
        let content = has_size.then_some(u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]));
        let header_len = if has_size { 15 } else { 7 };
        Ok(Self::Frame { head, header_len, shape, content })
    }
}

/// Where decoding is.
struct Place<'a> {
    ports: Ports<'a>,
    read: usize,
    written: usize,
}

impl Place<'_> {
    fn check_content(&self, content: Option<u64>) -> Result<(), JobError> {
        let have = self.ports.output.len();
        match content {
            Some(content) if content > (have - self.written) as u64 => {
                let wanted = content.saturating_add(self.written as u64);
                Err(JobError::too_small(format!(
                    "the content has at least {wanted} bytes; the output has {have}"
                )))
            }
            _ => Ok(()),
        }
    }

    fn decode_frame(
        &mut self,
        decoder: &mut FrameDecoder<Inlet>,
        header: &[u8],
        shape: Shape,
    ) -> Result<(), JobError> {
        self.hand_over(decoder, header, 0)?;
        loop {
            let mut head = [0; WORD_LEN];
            self.ports.input.copy_to(self.read, &mut head).map_err(|_| cut_off())?;
            let word = u32::from_le_bytes(head);
            let ended = word == 0;
            let len = usize::try_from(word & !STORED).unwrap_or(usize::MAX);
            if len > shape.block_len_max {
                let limit = shape.block_len_max;
                return Err(JobError::corrupt(format!(
                    "an lz4 block of {len} bytes in a frame of blocks up to {limit}"
                )));
            }
            let checksum = if ended { shape.content_checksum } else { shape.block_checksums };
            self.hand_over(decoder, &head, len + if checksum { WORD_LEN } else { 0 })?;
            self.decode_block(decoder)?;
            if ended {
                return Ok(());
            }
        }
    }

    /// Hands `head`, which was read here, and the next `len` bytes after it to the decoder.
    fn hand_over(
        &mut self,
        decoder: &mut FrameDecoder<Inlet>,
        head: &[u8],
        len: usize,
    ) -> Result<(), JobError> {
        let from = self.read + head.len();
        if from > self.ports.input.len() {
            return Err(cut_off());
        }
        decoder.get_mut().push(head);
        decoder.get_mut().feed(self.ports.input, from, len)?;
        self.read = from + len;
        Ok(())
    }

    /// Lets the decoder use what it was handed, all of it, and moves the block to the output.
    fn decode_block(&mut self, decoder: &mut FrameDecoder<Inlet>) -> Result<(), JobError> {
        let block = decoder.fill_buf().map_err(|error| JobError::corrupt(format!("lz4: {error}")))?;
        let len = block.len();
        self.ports.output.copy_from(self.written, block).map_err(|_| {
            let (wanted, have) = (self.written + len, self.ports.output.len());
            JobError::too_small(format!("the content has at least {wanted} bytes; the output has {have}"))
        })?;
        self.written += len;
        decoder.consume(len);
        if decoder.get_ref().is_used_up() {
            Ok(())
        } else {
            Err(JobError::corrupt("the outline of the lz4 frame is damaged"))
        }
    }
}

fn cut_off() -> JobError {
    JobError::corrupt("the input ends inside an lz4 frame")
}
