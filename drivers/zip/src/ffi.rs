//! The calls of this crate that Rust cannot check: zstd and libdeflate over raw pointers.
//!
//! Invariants:
//! - Z1: a [`Span`] is mapped and readable, a [`SpanMut`] writable too, for its whole length while it is borrowed
//!   (the memory layer's U2). The C code stays inside the lengths it is given and keeps no pointer into them when
//!   the call returns.
//! - Z2: what is read may change during the call (another process of the domain may write it), so it must not be
//!   read twice where the second reading relies on the first:
//!   - zstd's encoder copies literals and stores matches in its own memory before it counts or writes them, bounds
//!     every comparison by the end of the input, and every write by the end of the output;
//!   - zstd's and libdeflate's decoders check what they read where they use it, take each table and length into
//!     their own memory first, and bound every access by the ends of input and output;
//!   - libdeflate's *encoder* does not keep to this: it verifies once that a block fits and then writes literals
//!     that it reads anew. Its input is [`Private`].
//! - Z3: what is written and read back (decoders' output) is [`Private`]. Encoders only write their output.
//! - Z4: a context is made here, used by one thread at a time (`&mut`), and freed once, on drop.

use std::ffi::CStr;
use std::ptr::NonNull;

use libdeflate_sys as d;
use vgem_driver::scratch::Private;
use vgem_driver::{Span, SpanMut};
use zstd_sys as z;

use crate::format::Format;

/// Why zstd failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ZstdError {
    /// What to make of it.
    pub(crate) kind: ZstdErrorKind,
    /// Its name in zstd's words.
    pub(crate) name: &'static str,
}

/// What to make of an error of zstd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZstdErrorKind {
    /// The output is too short.
    OutputTooSmall,
    /// No memory for a context or window.
    NoMemory,
    /// The frame asks for a window or a dictionary that it does not get here.
    Unsupported,
    /// Anything else; while decoding: the input is not what it should be.
    Other,
}

/// What a frame's header says of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentSize {
    /// This many bytes.
    Known(u64),
    /// The header does not say.
    Unknown,
    /// No frame begins here, or its header is cut off.
    NotAFrame,
}

/// An encoder of zstd frames.
pub(crate) struct Zstd(NonNull<z::ZSTD_CCtx>);

impl Zstd {
    /// A context. Nothing if there is no memory.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: Z4. No preconditions.
        NonNull::new(unsafe { z::ZSTD_createCCtx() }).map(Self)
    }

    /// Writes `input` to `output` as one frame with content size and checksum; answers its length.
    pub(crate) fn compress(
        &mut self,
        level: i32,
        output: SpanMut<'_>,
        input: Span<'_>,
    ) -> Result<usize, ZstdError> {
        use z::ZSTD_cParameter::{ZSTD_c_checksumFlag, ZSTD_c_compressionLevel, ZSTD_c_contentSizeFlag};
        let session = z::ZSTD_ResetDirective::ZSTD_reset_session_only;
        // A job that did not fit has left a frame open, and parameters are only taken between frames.
        // SAFETY: Z4.
        zstd_result(unsafe { z::ZSTD_CCtx_reset(self.0.as_ptr(), session) })?;
        for (parameter, value) in
            [(ZSTD_c_compressionLevel, level), (ZSTD_c_checksumFlag, 1), (ZSTD_c_contentSizeFlag, 1)]
        {
            // SAFETY: Z4.
            zstd_result(unsafe { z::ZSTD_CCtx_setParameter(self.0.as_ptr(), parameter, value) })?;
        }
        // SAFETY: Z1, Z2, Z3, Z4. Both lengths are the spans' own.
        let written = unsafe {
            z::ZSTD_compress2(
                self.0.as_ptr(),
                output.as_mut_ptr().cast(),
                output.len(),
                input.as_ptr().cast(),
                input.len(),
            )
        };
        zstd_result(written)
    }

    /// Bytes of memory the context holds.
    pub(crate) fn memory_len(&self) -> usize {
        // SAFETY: Z4.
        unsafe { z::ZSTD_sizeof_CCtx(self.0.as_ptr()) }
    }
}

impl Drop for Zstd {
    fn drop(&mut self) {
        // SAFETY: Z4.
        unsafe { z::ZSTD_freeCCtx(self.0.as_ptr()) };
    }
}

/// What one step of decoding did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Bytes of input used up.
    pub(crate) consumed: usize,
    /// Bytes of output written.
    pub(crate) produced: usize,
    /// Whether the frame has ended and all of it was written.
    pub(crate) frame_ended: bool,
}

/// A decoder of zstd frames.
pub(crate) struct Unzstd(NonNull<z::ZSTD_DCtx>);

impl Unzstd {
    /// A context. Nothing if there is no memory.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: Z4. No preconditions.
        NonNull::new(unsafe { z::ZSTD_createDCtx() }).map(Self)
    }

    /// Forgets a frame that was begun.
    pub(crate) fn reset(&mut self) -> Result<(), ZstdError> {
        let session = z::ZSTD_ResetDirective::ZSTD_reset_session_only;
        // SAFETY: Z4.
        zstd_result(unsafe { z::ZSTD_DCtx_reset(self.0.as_ptr(), session) }).map(drop)
    }

    /// Decodes a piece of a frame, to its end or until `output` is full. A frame that fits is decoded right there,
    /// and read back (Z3).
    pub(crate) fn step(&mut self, output: Private<'_>, input: Span<'_>) -> Result<Step, ZstdError> {
        let output = output.as_span_mut();
        let mut to = z::ZSTD_outBuffer { dst: output.as_mut_ptr().cast(), size: output.len(), pos: 0 };
        let mut from = z::ZSTD_inBuffer { src: input.as_ptr().cast(), size: input.len(), pos: 0 };
        // SAFETY: Z1, Z2, Z3, Z4. Both descriptions are live and hold the spans' own lengths.
        let left = unsafe { z::ZSTD_decompressStream(self.0.as_ptr(), &raw mut to, &raw mut from) };
        let left = zstd_result(left)?;
        Ok(Step { consumed: from.pos, produced: to.pos, frame_ended: left == 0 })
    }

    /// Bytes of memory the context holds.
    pub(crate) fn memory_len(&self) -> usize {
        // SAFETY: Z4.
        unsafe { z::ZSTD_sizeof_DCtx(self.0.as_ptr()) }
    }
}

impl Drop for Unzstd {
    fn drop(&mut self) {
        // SAFETY: Z4.
        unsafe { z::ZSTD_freeDCtx(self.0.as_ptr()) };
    }
}

/// What the header of the frame at the start of `input` says; a skippable frame has no content.
pub(crate) fn zstd_content_size(input: Span<'_>) -> ContentSize {
    const UNKNOWN: u64 = u64::MAX;
    const ERROR: u64 = u64::MAX - 1;
    // SAFETY: Z1, Z2.
    match unsafe { z::ZSTD_getFrameContentSize(input.as_ptr().cast(), input.len()) } {
        UNKNOWN => ContentSize::Unknown,
        ERROR => ContentSize::NotAFrame,
        known => ContentSize::Known(known),
    }
}

/// Length of the frame at the start of `input`, bytes, found by walking its blocks.
pub(crate) fn zstd_frame_len(input: Span<'_>) -> Option<usize> {
    // SAFETY: Z1, Z2.
    let len = unsafe { z::ZSTD_findFrameCompressedSize(input.as_ptr().cast(), input.len()) };
    zstd_result(len).ok().filter(|len| *len > 0)
}

/// Bytes that are enough for the frame of any input of this length.
pub(crate) fn zstd_bound(len: usize) -> usize {
    // SAFETY: plain arithmetic, no pointers.
    let bound = unsafe { z::ZSTD_compressBound(len) };
    zstd_result(bound).unwrap_or(usize::MAX)
}

fn zstd_result(result: usize) -> Result<usize, ZstdError> {
    use z::ZSTD_ErrorCode as E;
    // SAFETY: plain arithmetic, no pointers.
    if unsafe { z::ZSTD_isError(result) } == 0 {
        return Ok(result);
    }
    // SAFETY: plain arithmetic, no pointers.
    let code = unsafe { z::ZSTD_getErrorCode(result) };
    // SAFETY: plain arithmetic; gives the address of a constant.
    let name = unsafe { z::ZSTD_getErrorName(result) };
    // SAFETY: every error has a name, a constant that ends in a zero.
    let name = unsafe { CStr::from_ptr(name) };
    let kind = match code {
        E::ZSTD_error_dstSize_tooSmall => ZstdErrorKind::OutputTooSmall,
        E::ZSTD_error_memory_allocation => ZstdErrorKind::NoMemory,
        E::ZSTD_error_frameParameter_windowTooLarge
        | E::ZSTD_error_version_unsupported
        | E::ZSTD_error_dictionary_wrong => ZstdErrorKind::Unsupported,
        _ => ZstdErrorKind::Other,
    };
    Err(ZstdError { kind, name: name.to_str().unwrap_or("an error without a name") })
}

/// An encoder of gzip, zlib and deflate, for one level.
pub(crate) struct Deflater(NonNull<d::libdeflate_compressor>);

impl Deflater {
    /// A context for this level, 0 to 12. Nothing if there is no memory or no such level.
    pub(crate) fn new(level: i32) -> Option<Self> {
        // SAFETY: Z4. No preconditions.
        NonNull::new(unsafe { d::libdeflate_alloc_compressor(level) }).map(Self)
    }

    /// Writes `input`, which nobody may change meanwhile (Z2), to `output`; answers the length, or nothing if it
    /// does not fit.
    pub(crate) fn compress(
        &mut self,
        format: DeflateFormat,
        output: SpanMut<'_>,
        input: Private<'_>,
    ) -> Option<usize> {
        let input = input.as_span();
        let call = match format {
            DeflateFormat::Gzip => d::libdeflate_gzip_compress,
            DeflateFormat::Zlib => d::libdeflate_zlib_compress,
            DeflateFormat::Deflate => d::libdeflate_deflate_compress,
        };
        // SAFETY: Z1, Z2, Z3, Z4. Both lengths are the spans' own.
        let written = unsafe {
            call(
                self.0.as_ptr(),
                input.as_ptr().cast(),
                input.len(),
                output.as_mut_ptr().cast(),
                output.len(),
            )
        };
        (written > 0).then_some(written)
    }

    /// Bytes that are enough for any input of this length.
    pub(crate) fn bound(&mut self, format: DeflateFormat, len: usize) -> usize {
        let call = match format {
            DeflateFormat::Gzip => d::libdeflate_gzip_compress_bound,
            DeflateFormat::Zlib => d::libdeflate_zlib_compress_bound,
            DeflateFormat::Deflate => d::libdeflate_deflate_compress_bound,
        };
        // SAFETY: Z4.
        unsafe { call(self.0.as_ptr(), len) }
    }
}

impl Drop for Deflater {
    fn drop(&mut self) {
        // SAFETY: Z4.
        unsafe { d::libdeflate_free_compressor(self.0.as_ptr()) };
    }
}

/// The formats of libdeflate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeflateFormat {
    /// RFC 1952.
    Gzip,
    /// RFC 1950.
    Zlib,
    /// RFC 1951.
    Deflate,
}

/// How decoding one stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inflated {
    /// To its end.
    Whole {
        /// Bytes of input used up.
        consumed: usize,
        /// Bytes of output written.
        produced: usize,
    },
    /// The output is full and the stream goes on.
    OutputTooSmall,
    /// The input is not a stream of this format, or ends early, or its checksum is wrong.
    Corrupt,
}

/// A decoder of gzip, zlib and deflate.
pub(crate) struct Inflater(NonNull<d::libdeflate_decompressor>);

impl Inflater {
    /// A context. Nothing if there is no memory.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: Z4. No preconditions.
        NonNull::new(unsafe { d::libdeflate_alloc_decompressor() }).map(Self)
    }

    /// Decodes the stream at the start of `input`, one gzip member at most. The output is read back (Z3).
    pub(crate) fn decompress(
        &mut self,
        format: DeflateFormat,
        output: Private<'_>,
        input: Span<'_>,
    ) -> Inflated {
        let output = output.as_span_mut();
        let call = match format {
            DeflateFormat::Gzip => d::libdeflate_gzip_decompress_ex,
            DeflateFormat::Zlib => d::libdeflate_zlib_decompress_ex,
            DeflateFormat::Deflate => d::libdeflate_deflate_decompress_ex,
        };
        let (mut consumed, mut produced) = (0, 0);
        // SAFETY: Z1, Z2, Z3, Z4. Both lengths are the spans' own; both counters are live.
        let result = unsafe {
            call(
                self.0.as_ptr(),
                input.as_ptr().cast(),
                input.len(),
                output.as_mut_ptr().cast(),
                output.len(),
                &raw mut consumed,
                &raw mut produced,
            )
        };
        match result {
            d::libdeflate_result_LIBDEFLATE_SUCCESS => Inflated::Whole { consumed, produced },
            d::libdeflate_result_LIBDEFLATE_INSUFFICIENT_SPACE => Inflated::OutputTooSmall,
            _ => Inflated::Corrupt,
        }
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: Z4.
        unsafe { d::libdeflate_free_decompressor(self.0.as_ptr()) };
    }
}

impl TryFrom<Format> for DeflateFormat {
    type Error = Format;

    fn try_from(format: Format) -> Result<Self, Format> {
        match format {
            Format::Gzip => Ok(Self::Gzip),
            Format::Zlib => Ok(Self::Zlib),
            Format::Deflate => Ok(Self::Deflate),
            Format::Zstd | Format::Lz4 => Err(format),
        }
    }
}
