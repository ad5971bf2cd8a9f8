//! gzip, zlib and bare deflate, by libdeflate: whole buffers, no streaming.
//!
//! ```text
//!   compress:   input ──copy──► private ─(in place)─► output
//!   decompress: input ─(in place)─► private ──copy, once──► output     gzip: member by member
//! ```
//!
//! A decoder needs room for all of its output at once. It gets private memory as long as the output operand, but no
//! longer than the input can expand to, and only the pages it writes are ever taken from the system.

use std::cell::RefCell;

use vgem_driver::scratch::Scratch;
use vgem_driver::{JobError, Span};
use vgem_proto::error::ErrorCode;

use crate::ffi::{DeflateFormat, Deflater, Inflated, Inflater};
use crate::format::Format;
use crate::ports::{Done, PRIVATE_LEN_MAX, Ports, Reach, check_private, deliver, private_copy, source};

/// Levels of libdeflate.
const LEVELS: usize = 13;

/// Deflate makes at most 258 bytes of 2 bits: no stream grows beyond this factor and a few bytes.
const EXPANSION_MAX: usize = 1032;

/// Bytes of the two fields, checksum and length, that end a gzip member.
const GZIP_TRAILER_LEN: usize = 8;

/// What an executor keeps between jobs.
#[derive(Default)]
struct Contexts {
    encoders: [Option<Deflater>; LEVELS],
    decoder: Option<Inflater>,
    input: Scratch,
    output: Scratch,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

/// Compresses the input to one stream.
pub(crate) fn compress(format: Format, level: i32, ports: Ports<'_>) -> Result<Done, JobError> {
    CONTEXTS.with_borrow_mut(|contexts| {
        let done = compress_with(contexts, deflate_format(format)?, level, ports);
        contexts.settle();
        done
    })
}

/// Decompresses the stream, or all gzip members, of the input.
pub(crate) fn decompress(format: Format, ports: Ports<'_>) -> Result<Done, JobError> {
    CONTEXTS.with_borrow_mut(|contexts| {
        let done = decompress_with(contexts, deflate_format(format)?, ports);
        contexts.settle();
        done
    })
}

impl Contexts {
    fn settle(&mut self) {
        self.input.settle();
        self.output.settle();
    }
}

fn compress_with(
    contexts: &mut Contexts,
    format: DeflateFormat,
    level: i32,
    ports: Ports<'_>,
) -> Result<Done, JobError> {
    let slot = usize::try_from(level).ok().and_then(|level| contexts.encoders.get_mut(level));
    let slot = slot.ok_or_else(|| JobError::fault(format!("libdeflate has no level {level}")))?;
    let encoder = ready(slot, || Deflater::new(level))?;
    let input = private_copy(ports.input, &mut contexts.input)?;
    let bound = encoder.bound(format, ports.input.len());
    let staged = ports.input.len() as u64;
    let does_not_fit = || {
        let (len, have) = (ports.input.len(), ports.output.len());
        JobError::too_small(format!(
            "the stream of {len} bytes does not fit into {have}; {bound} are always enough"
        ))
    };
    if ports.output_reach == Reach::InPlace {
        let len = encoder.compress(format, ports.output, input).ok_or_else(does_not_fit)?;
        return Ok(Done { len, staged });
    }
    let room = bound.min(ports.output.len());
    check_private(room)?;
    let private = contexts.output.at_least(room)?;
    let len = encoder.compress(format, private.as_span_mut(), input).ok_or_else(does_not_fit)?;
    deliver(ports.output, 0, private.sub(0, len).ok_or_else(JobError::outside)?.as_span())?;
    Ok(Done { len, staged: staged + len as u64 })
}

fn decompress_with(
    contexts: &mut Contexts,
    format: DeflateFormat,
    ports: Ports<'_>,
) -> Result<Done, JobError> {
    let decoder = ready(&mut contexts.decoder, Inflater::new)?;
    let (input, staged) = source(ports.input, ports.input_reach, &mut contexts.input)?;
    let expanded = input.len().saturating_mul(EXPANSION_MAX).saturating_add(EXPANSION_MAX);
    let room = ports.output.len().min(expanded).min(PRIVATE_LEN_MAX);
    let private = contexts.output.at_least(room)?;
    let (mut read, mut written) = (0, 0);
    loop {
        let rest = input.sub(read, input.len() - read).ok_or_else(JobError::outside)?;
        let free = private.sub(written, room - written).ok_or_else(JobError::outside)?;
        match decoder.decompress(format, free, rest) {
            Inflated::Whole { consumed, produced } => {
                read += consumed;
                written += produced;
            }
            Inflated::OutputTooSmall => return Err(content_too_long(format, input, written, room, ports)),
            Inflated::Corrupt => return Err(not_a_stream(format, read)),
        }
        if read == input.len() {
            break;
        }
        if format != DeflateFormat::Gzip {
            let extra = input.len() - read;
            return Err(JobError::corrupt(format!("{extra} bytes follow the stream, which ends at {read}")));
        }
    }
    deliver(ports.output, 0, private.sub(0, written).ok_or_else(JobError::outside)?.as_span())?;
    Ok(Done { len: written, staged: staged + written as u64 })
}

/// The content does not fit into `room` bytes; says what a gzip trailer says of it.
fn content_too_long(
    format: DeflateFormat,
    input: Span<'_>,
    written: usize,
    room: usize,
    ports: Ports<'_>,
) -> JobError {
    if room == PRIVATE_LEN_MAX && room < ports.output.len() {
        let text = format!(
            "the content has more than {room} bytes, the most that this format is decoded to at once"
        );
        return JobError::new(ErrorCode::Unsupported, text);
    }
    let have = ports.output.len();
    let said = (format == DeflateFormat::Gzip).then(|| gzip_isize(input)).flatten();
    let wanted = said.map(|said| said.saturating_add(written as u64)).filter(|wanted| *wanted > have as u64);
    match wanted {
        Some(wanted) => JobError::too_small(format!(
            "the content has {wanted} bytes, if the last member's trailer tells it; the output has {have}"
        )),
        None => JobError::too_small(format!("the content has more than the output's {have} bytes")),
    }
}

/// Length of the last member's content modulo 2^32, as its trailer says.
fn gzip_isize(input: Span<'_>) -> Option<u64> {
    let at = input.len().checked_sub(GZIP_TRAILER_LEN / 2)?;
    let mut bytes = [0; GZIP_TRAILER_LEN / 2];
    input.copy_to(at, &mut bytes).ok()?;
    Some(u64::from(u32::from_le_bytes(bytes)))
}

fn not_a_stream(format: DeflateFormat, at: usize) -> JobError {
    let name = match format {
        DeflateFormat::Gzip => "gzip",
        DeflateFormat::Zlib => "zlib",
        DeflateFormat::Deflate => "deflate",
    };
    match at {
        0 => JobError::corrupt(format!("the input is not a {name} stream, or damaged, or cut off")),
        at => {
            JobError::corrupt(format!("what follows the member that ends at {at} is not a whole gzip member"))
        }
    }
}

fn deflate_format(format: Format) -> Result<DeflateFormat, JobError> {
    DeflateFormat::try_from(format)
        .map_err(|format| JobError::fault(format!("libdeflate has no format {}", format.name())))
}

fn ready<C>(slot: &mut Option<C>, make: impl FnOnce() -> Option<C>) -> Result<&mut C, JobError> {
    if slot.is_none() {
        *slot = make();
    }
    slot.as_mut().ok_or_else(|| JobError::fault("libdeflate has no memory for a context"))
}
