//! `sha256`, `hmac-sha256` and `blake3`: one pass over the input through a private window.
//!
//! Each byte is read once, so a digest is always that of some content, whatever a peer writes meanwhile. The digest
//! goes to the result cell and, if there is one, to the output operand.

use std::cell::RefCell;

use aws_lc_rs::{digest, hmac};
use vgem_driver::window::{WINDOW_LEN, each_window};
use vgem_driver::{JobError, Task};
use vgem_proto::error::ErrorCode;
use zeroize::Zeroizing;

use crate::description::{DIGEST_LEN, MAC_KEY_LEN_MAX, digest as place};
use crate::frame::KEY_LEN;

thread_local! {
    static WINDOW: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `sha256`.
pub(crate) fn sha256(task: &mut Task<'_>) -> Result<(), JobError> {
    let mut context = digest::Context::new(&digest::SHA256);
    each_piece(task, |piece| context.update(piece))?;
    deliver(task, context.finish().as_ref())
}

/// Runs `hmac-sha256`.
pub(crate) fn hmac_sha256(task: &mut Task<'_>) -> Result<(), JobError> {
    let mut key = key_bytes(task, 1, MAC_KEY_LEN_MAX)?;
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key));
    zeroize::Zeroize::zeroize(&mut *key);
    each_piece(task, |piece| context.update(piece))?;
    deliver(task, context.sign().as_ref())
}

/// Runs `blake3`.
pub(crate) fn blake3(task: &mut Task<'_>) -> Result<(), JobError> {
    let mut hasher = match task.operand(place::KEY) {
        None => blake3::Hasher::new(),
        Some(_) => {
            let bytes = key_bytes(task, KEY_LEN as u64, KEY_LEN as u64)?;
            let key: &[u8; KEY_LEN] =
                bytes.as_slice().try_into().map_err(|_| wrong_key(bytes.len(), 32, 32))?;
            blake3::Hasher::new_keyed(key)
        }
    };
    let read = each_piece(task, |piece| {
        hasher.update(piece);
    });
    let digest = hasher.finalize();
    // The hasher of a keyed digest holds the key.
    zeroize::Zeroize::zeroize(&mut hasher);
    read?;
    deliver(task, digest.as_bytes())
}

/// Gives the input to `take`, piece by piece, front to back.
fn each_piece(task: &mut Task<'_>, take: impl FnMut(&[u8])) -> Result<(), JobError> {
    let input = task.input(place::INPUT)?;
    let staged = WINDOW.with_borrow_mut(|window| {
        if window.is_empty() {
            window.resize(WINDOW_LEN, 0);
        }
        each_window(input, window, take)
    })?;
    task.add_staged(staged);
    Ok(())
}

/// Puts the digest where the job wants it.
fn deliver(task: &mut Task<'_>, digest: &[u8]) -> Result<(), JobError> {
    if task.operand(place::OUTPUT).is_some() {
        let output = task.output(place::OUTPUT)?;
        if output.len() < DIGEST_LEN {
            let text = format!("a digest has {DIGEST_LEN} bytes; the output has {}", output.len());
            return Err(JobError::too_small(text));
        }
        output.copy_from(0, digest)?;
        task.add_staged(digest.len() as u64);
    }
    task.set_digest(digest);
    task.set_len(digest.len() as u64);
    Ok(())
}

/// A private copy of a key, wiped when dropped.
fn key_bytes(task: &mut Task<'_>, min: u64, max: u64) -> Result<Zeroizing<Vec<u8>>, JobError> {
    let operand = task.input(place::KEY)?;
    if !(min..=max).contains(&(operand.len() as u64)) {
        return Err(wrong_key(operand.len(), min, max));
    }
    let mut key = Zeroizing::new(vec![0; operand.len()]);
    operand.copy_to(0, &mut key)?;
    task.add_staged(key.len() as u64);
    Ok(key)
}

fn wrong_key(len: usize, min: u64, max: u64) -> JobError {
    JobError::new(ErrorCode::BadOperand, format!("a key of {len} bytes; {min} to {max} are taken"))
}
