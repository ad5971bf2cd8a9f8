//! zstd frames.
//!
//! ```text
//!   compress:   input ─────────────(in place)────────────► output
//!   decompress: input ─(in place)─► window ──copy, once──► output     frame by frame, until the input ends
//! ```
//!
//! The window is private and as long as the frame says it needs, between [`WINDOW_LEN`] and [`WINDOW_LEN_MAX`]: a
//! chunk that fits is decoded right there in one go and copied out with stores that go past the cache; a longer
//! frame comes out of zstd's own history buffer, window by window.

use std::cell::RefCell;

use vgem_driver::scratch::Scratch;
use vgem_driver::window::WINDOW_LEN;
use vgem_driver::{JobError, Span};
use vgem_proto::error::ErrorCode;

use crate::ffi::{
    ContentSize, Unzstd, Zstd, ZstdError, ZstdErrorKind, zstd_bound, zstd_content_size, zstd_frame_len,
};
use crate::ports::{Done, Ports, Reach, check_private, deliver, source};

/// Longest window, bytes. The usual chunk fits; what is longer gains nothing from being whole.
const WINDOW_LEN_MAX: usize = 4 * 1024 * 1024;

/// A context that has grown beyond this is dropped after its job, bytes. Level 19 on chunks of 1 MiB fits.
const KEEP_CONTEXT_LEN: usize = 64 * 1024 * 1024;

/// What an executor keeps between jobs.
#[derive(Default)]
struct Contexts {
    encoder: Option<Zstd>,
    decoder: Option<Unzstd>,
    input: Scratch,
    output: Scratch,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

/// Compresses the input to one frame.
pub(crate) fn compress(level: i32, ports: Ports<'_>) -> Result<Done, JobError> {
    CONTEXTS.with_borrow_mut(|contexts| {
        let done = compress_with(contexts, level, ports);
        contexts.settle();
        done
    })
}

/// Decompresses all frames of the input.
pub(crate) fn decompress(ports: Ports<'_>) -> Result<Done, JobError> {
    CONTEXTS.with_borrow_mut(|contexts| {
        let done = decompress_with(contexts, ports);
        contexts.settle();
        done
    })
}

impl Contexts {
    fn settle(&mut self) {
        self.encoder = self.encoder.take().filter(|encoder| encoder.memory_len() <= KEEP_CONTEXT_LEN);
        self.decoder = self.decoder.take().filter(|decoder| decoder.memory_len() <= KEEP_CONTEXT_LEN);
        self.input.settle();
        self.output.settle();
    }
}

fn compress_with(contexts: &mut Contexts, level: i32, ports: Ports<'_>) -> Result<Done, JobError> {
    let encoder = ready(&mut contexts.encoder, Zstd::new)?;
    let (input, staged) = source(ports.input, ports.input_reach, &mut contexts.input)?;
    let bound = zstd_bound(input.len());
    let failed = |error: ZstdError| match error.kind {
        ZstdErrorKind::OutputTooSmall => JobError::too_small(format!(
            "the frame of {} bytes does not fit into {}; {bound} are always enough",
            input.len(),
            ports.output.len()
        )),
        _ => JobError::fault(format!("zstd: {}", error.name)),
    };
    if ports.output_reach == Reach::InPlace {
        let len = encoder.compress(level, ports.output, input).map_err(failed)?;
        return Ok(Done { len, staged });
    }
    let room = bound.min(ports.output.len());
    check_private(room)?;
    let private = contexts.output.at_least(room)?;
    let len = encoder.compress(level, private.as_span_mut(), input).map_err(failed)?;
    deliver(ports.output, 0, private.sub(0, len).ok_or_else(JobError::outside)?.as_span())?;
    Ok(Done { len, staged: staged + len as u64 })
}

fn decompress_with(contexts: &mut Contexts, ports: Ports<'_>) -> Result<Done, JobError> {
    let decoder = ready(&mut contexts.decoder, Unzstd::new)?;
    let (input, staged) = source(ports.input, ports.input_reach, &mut contexts.input)?;
    if input.is_empty() {
        return Err(JobError::corrupt("an empty input is not a zstd frame"));
    }
    let (mut read, mut written) = (0, 0);
    while read < input.len() {
        let rest = input.sub(read, input.len() - read).ok_or_else(JobError::outside)?;
        let window_len = match zstd_content_size(rest) {
            ContentSize::NotAFrame => return Err(not_a_frame(read)),
            ContentSize::Unknown => WINDOW_LEN,
            ContentSize::Known(len) => {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                if len > ports.output.len() - written {
                    return Err(content_too_long(rest, written, ports.output.len()));
                }
                len.clamp(WINDOW_LEN, WINDOW_LEN_MAX)
            }
        };
        decoder.reset().map_err(decoding_failed)?;
        let frame = decode_frame(decoder, rest, window_len, &mut contexts.output, ports, written)?;
        read += frame.consumed;
        written += frame.produced;
    }
    Ok(Done { len: written, staged: staged + written as u64 })
}

/// What a whole frame took and gave, bytes.
struct Frame {
    consumed: usize,
    produced: usize,
}

/// Decodes the frame at the start of `rest` into the output from `at` on.
fn decode_frame(
    decoder: &mut Unzstd,
    rest: Span<'_>,
    window_len: usize,
    scratch: &mut Scratch,
    ports: Ports<'_>,
    at: usize,
) -> Result<Frame, JobError> {
    let window = scratch.at_least(window_len)?;
    let mut frame = Frame { consumed: 0, produced: 0 };
    loop {
        let left = rest.sub(frame.consumed, rest.len() - frame.consumed).ok_or_else(JobError::outside)?;
        let step = decoder.step(window, left).map_err(decoding_failed)?;
        deliver(
            ports.output,
            at + frame.produced,
            window.sub(0, step.produced).ok_or_else(JobError::outside)?.as_span(),
        )?;
        frame.consumed += step.consumed;
        frame.produced += step.produced;
        if step.frame_ended {
            return Ok(frame);
        }
        if frame.consumed == rest.len() && step.produced < window_len {
            return Err(JobError::corrupt(format!(
                "the input ends inside a frame, after {} bytes of content",
                frame.produced
            )));
        }
    }
}

/// The output is too short for the frame at the start of `rest`; says what all the rest would need.
fn content_too_long(rest: Span<'_>, written: usize, have: usize) -> JobError {
    let mut wanted = written as u64;
    let mut at = 0;
    let mut complete = true;
    while let Some(frame) = rest.sub(at, rest.len() - at).filter(|frame| !frame.is_empty()) {
        match (zstd_content_size(frame), zstd_frame_len(frame)) {
            (ContentSize::Known(content), len) => {
                wanted = wanted.saturating_add(content);
                match len {
                    Some(len) => at += len,
                    None => break,
                }
            }
            (ContentSize::Unknown | ContentSize::NotAFrame, _) => {
                complete = false;
                break;
            }
        }
    }
    let least = if complete { "" } else { "at least " };
    JobError::too_small(format!("the content has {least}{wanted} bytes; the output has {have}"))
}

fn not_a_frame(at: usize) -> JobError {
    match at {
        0 => JobError::corrupt("the input does not begin with a zstd frame"),
        at => JobError::corrupt(format!("what follows the frame that ends at {at} is not a zstd frame")),
    }
}

fn decoding_failed(error: ZstdError) -> JobError {
    match error.kind {
        ZstdErrorKind::NoMemory => JobError::fault(format!("zstd: {}", error.name)),
        ZstdErrorKind::Unsupported => JobError::new(ErrorCode::Unsupported, format!("zstd: {}", error.name)),
        ZstdErrorKind::OutputTooSmall | ZstdErrorKind::Other => {
            JobError::corrupt(format!("zstd: {}", error.name))
        }
    }
}

fn ready<C>(slot: &mut Option<C>, make: impl FnOnce() -> Option<C>) -> Result<&mut C, JobError> {
    if slot.is_none() {
        *slot = make();
    }
    slot.as_mut().ok_or_else(|| JobError::fault("zstd has no memory for a context"))
}
