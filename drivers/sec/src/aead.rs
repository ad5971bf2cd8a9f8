//! `seal` and `open`.
//!
//! ```text
//!   seal:  input ──(in place)──► output[32..], header and tag around it
//!          foreign or overlapping: input ─copy► private frame ─copy► output
//!   open:  input ─copy► private ─tag matches?─► decrypted in place ─copy► output
//!                                └─ no: AuthenticationFailed, output untouched
//! ```
//!
//! Sealing works where the operands lie. A process of the same domain that writes the input meanwhile decides what
//! is sealed; one that writes the output meanwhile breaks the frame, or, where the cipher reads its ciphertext
//! back to authenticate it, puts its own bytes under the tag. Both could write those operands before or instead,
//! and both are the domain's own foot; what is never lost is secrecy of the key or of another frame, because the
//! nonce is private and used once. Operands of another domain are sealed in private memory.
//!
//! Opening never works in place: what is authenticated and what is released must be the same bytes.

use std::cell::RefCell;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustix::rand::{GetRandomFlags, getrandom};
use vgem_driver::mapping::{CopyStyle, Quiescent, copy_span};
use vgem_driver::scratch::Scratch;
use vgem_driver::window::share_bytes;
use vgem_driver::{JobError, Span, SpanMut, Staging, Task};
use vgem_proto::error::ErrorCode;
use zeroize::Zeroizing;

use crate::description::{AAD_LEN_MAX, LEN_MAX, aead};
use crate::ffi::SealingKey;
use crate::frame::{Algorithm, HEADER_LEN, Header, KEY_LEN, NONCE_LEN, OVERHEAD_LEN, TAG_LEN};

/// What an executor keeps between jobs.
struct Private {
    /// A frame.
    frame: Scratch,
    /// A header and the caller's additional data.
    aad: Vec<u8>,
}

thread_local! {
    static PRIVATE: RefCell<Private> = const { RefCell::new(Private { frame: Scratch::new(), aad: Vec::new() }) };
}

/// Runs `seal`.
pub(crate) fn seal(task: &mut Task<'_>) -> Result<(), JobError> {
    let algorithm = Algorithm::from_word(task.number(aead::ALGORITHM))?;
    let (input, output) = (task.input(aead::INPUT)?, task.output(aead::OUTPUT)?);
    check_len(input.len() as u64, LEN_MAX)?;
    let frame = output.sub(0, input.len() + OVERHEAD_LEN).ok_or_else(|| {
        let (wanted, have) = (input.len() + OVERHEAD_LEN, output.len());
        JobError::too_small(format!("the frame has {wanted} bytes; the output has {have}"))
    })?;
    let key = SealingKey::new(algorithm, &*key_of(task)?)
        .ok_or_else(|| JobError::fault("the cipher has no memory for a key"))?;
    let header = Header { algorithm, plain_len: input.len() as u64, nonce: fresh_nonce()? };
    let in_place = task.staging(aead::INPUT) == Staging::InPlace
        && task.staging(aead::OUTPUT) == Staging::InPlace
        && !share_bytes(input, frame.as_span());

    let staged = PRIVATE.with_borrow_mut(|private| {
        fill_aad(&mut private.aad, &header, caller_aad(task))?;
        if in_place {
            seal_frame(&key, &header, &private.aad, input, frame)?;
            return Ok(0);
        }
        let staged = seal_through(&mut private.frame, &key, &header, &private.aad, input, frame);
        private.frame.settle();
        staged
    })?;
    task.set_len(frame.len() as u64);
    task.set_value(input.len() as u64);
    task.add_staged(staged + beside_len(task));
    Ok(())
}

/// Runs `open`.
pub(crate) fn open(task: &mut Task<'_>) -> Result<(), JobError> {
    let algorithm = Algorithm::from_word(task.number(aead::ALGORITHM))?;
    let (input, output) = (task.input(aead::INPUT)?, task.output(aead::OUTPUT)?);
    check_len(input.len() as u64, LEN_MAX + OVERHEAD_LEN as u64)?;
    let mut head = [0; HEADER_LEN];
    input.copy_to(0, &mut head).map_err(|_| {
        let text = format!("a sealed frame has at least {OVERHEAD_LEN} bytes; the input has {}", input.len());
        JobError::new(ErrorCode::CorruptInput, text)
    })?;
    let header = Header::parse(&head, input.len(), algorithm)?;
    let plain_len = input.len() - OVERHEAD_LEN;
    let target = output.sub(0, plain_len).ok_or_else(|| {
        JobError::too_small(format!("the plaintext has {plain_len} bytes; the output has {}", output.len()))
    })?;
    let sealed = input.sub(HEADER_LEN, plain_len + TAG_LEN).ok_or_else(JobError::outside)?;
    let key = opening_key(algorithm, &*key_of(task)?)?;

    PRIVATE.with_borrow_mut(|private| {
        fill_aad(&mut private.aad, &header, caller_aad(task))?;
        let opened = open_through(&mut private.frame, &key, &header, &private.aad, sealed, target);
        private.frame.settle();
        opened
    })?;
    task.set_len(plain_len as u64);
    task.set_value(input.len() as u64);
    task.add_staged((input.len() + plain_len) as u64 + beside_len(task));
    Ok(())
}

/// Writes header, ciphertext and tag to `frame`.
fn seal_frame(
    key: &SealingKey,
    header: &Header,
    aad: &[u8],
    plain: Span<'_>,
    frame: SpanMut<'_>,
) -> Result<(), JobError> {
    let cipher = frame.sub(HEADER_LEN, plain.len()).ok_or_else(JobError::outside)?;
    let tag = key
        .seal(&header.nonce, aad, plain, cipher)
        .ok_or_else(|| JobError::fault("the cipher refused to seal"))?;
    frame.copy_from(0, &header.encode())?;
    Ok(frame.copy_from(HEADER_LEN + plain.len(), &tag)?)
}

/// The same through private memory; answers the bytes that were staged.
fn seal_through(
    scratch: &mut Scratch,
    key: &SealingKey,
    header: &Header,
    aad: &[u8],
    plain: Span<'_>,
    frame: SpanMut<'_>,
) -> Result<u64, JobError> {
    // The plaintext lies where its ciphertext will, and the frame at a page's start as outputs mostly do: copies
    // between addresses of the same place in a page are the fast ones.
    let private = scratch.at_least(frame.len())?.as_span_mut();
    let inner = private.sub(HEADER_LEN, plain.len()).ok_or_else(JobError::outside)?;
    copy_span(inner, plain, CopyStyle::Plain)?;
    seal_frame(key, header, aad, inner.as_span(), private)?;
    copy_span(frame, private.as_span(), CopyStyle::Streaming)?;
    Ok((plain.len() + frame.len()) as u64)
}

/// Copies `sealed` (ciphertext and tag) in, opens it there, and copies the plaintext out if the tag matches.
fn open_through(
    scratch: &mut Scratch,
    key: &LessSafeKey,
    header: &Header,
    aad: &[u8],
    sealed: Span<'_>,
    target: SpanMut<'_>,
) -> Result<(), JobError> {
    let private = scratch.copy_of(sealed)?;
    // It is private, and this is its only use while the bytes are borrowed.
    let mut alone = Quiescent::by_contract();
    let bytes = private.as_span_mut().bytes_mut(&mut alone);
    let nonce = Nonce::assume_unique_for_key(header.nonce);
    let plain = key.open_in_place(nonce, Aad::from(aad), bytes).map_err(|_| {
        let text = "the tag does not match: another key, other additional data, or a changed frame";
        JobError::new(ErrorCode::AuthenticationFailed, text)
    })?;
    Ok(copy_span(target, Span::of_slice(plain), CopyStyle::Streaming)?)
}

/// The key operand's bytes, wiped when dropped.
fn key_of(task: &Task<'_>) -> Result<Zeroizing<[u8; KEY_LEN]>, JobError> {
    let operand = task.input(aead::KEY)?;
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if operand.len() != KEY_LEN {
        let text = format!("a key has {KEY_LEN} bytes; the operand has {}", operand.len());
        return Err(JobError::new(ErrorCode::BadOperand, text));
    }
    operand.copy_to(0, key.as_mut())?;
    Ok(key)
}

fn opening_key(algorithm: Algorithm, key: &[u8; KEY_LEN]) -> Result<LessSafeKey, JobError> {
    let cipher = match algorithm {
        Algorithm::Aes256Gcm => &AES_256_GCM,
        Algorithm::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    let key = UnboundKey::new(cipher, key);
    key.map(LessSafeKey::new).map_err(|_| JobError::fault("the cipher refused the key"))
}

/// 96 bits of the kernel's generator.
fn fresh_nonce() -> Result<[u8; NONCE_LEN], JobError> {
    let mut nonce = [0; NONCE_LEN];
    // Up to 256 bytes come whole and without interruption, once the generator has been seeded at boot.
    match getrandom(&mut nonce, GetRandomFlags::empty()) {
        Ok(NONCE_LEN) => Ok(nonce),
        Ok(len) => Err(JobError::fault(format!("getrandom gave {len} of {NONCE_LEN} bytes"))),
        Err(error) => Err(JobError::fault(format!("getrandom: {error}"))),
    }
}

/// Bytes of the operands that are always copied into private memory: the key and the caller's additional data.
fn beside_len(task: &Task<'_>) -> u64 {
    (KEY_LEN + caller_aad(task).map_or(0, |aad| aad.len())) as u64
}

fn caller_aad<'a>(task: &Task<'a>) -> Option<Span<'a>> {
    task.operand(aead::AAD).and_then(|_| task.input(aead::AAD).ok())
}

/// Puts the header and a private copy of the caller's additional data into `aad`.
fn fill_aad(aad: &mut Vec<u8>, header: &Header, caller: Option<Span<'_>>) -> Result<(), JobError> {
    aad.clear();
    aad.extend_from_slice(&header.encode());
    if let Some(caller) = caller {
        check_len(caller.len() as u64, AAD_LEN_MAX)?;
        aad.resize(HEADER_LEN + caller.len(), 0);
        let place = aad.get_mut(HEADER_LEN..).unwrap_or_default();
        caller.copy_to(0, place)?;
    }
    Ok(())
}

fn check_len(len: u64, limit: u64) -> Result<(), JobError> {
    if len <= limit {
        return Ok(());
    }
    Err(JobError::new(
        ErrorCode::BadOperand,
        format!("an operand has {len} bytes; at most {limit} are taken"),
    ))
}
