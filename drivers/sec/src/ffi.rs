//! The calls of this crate that Rust cannot check: sealing with aws-lc over memory that others may write.
//!
//! Invariants:
//! - C1: a [`Span`] is mapped and readable, a [`SpanMut`] writable too, for its whole length while it is borrowed
//!   (the memory layer's U2). The C code stays inside the lengths it is given and keeps no pointer.
//! - C2: the cipher takes no branch and computes no address from the bytes it processes. A peer that changes
//!   plaintext or ciphertext during the call changes what is sealed, nothing else; each keystream block is
//!   combined with one value of the plaintext only, so no pair of plaintexts shares keystream.
//! - C3: a context is made here, freed once, and never changed between; sealing takes it as `const`.
//!
//! What happens to *authenticity* when a peer writes the output during the call is in the crate's essay of
//! [`crate::aead`]. Opening does not come through here.

use std::ptr::NonNull;

use aws_lc_sys as c;
use vgem_driver::{Span, SpanMut};

use crate::frame::{Algorithm, KEY_LEN, NONCE_LEN, TAG_LEN};

/// A key made ready for sealing; wiped when dropped.
pub(crate) struct SealingKey(NonNull<c::EVP_AEAD_CTX>);

impl SealingKey {
    /// Makes a key ready. Nothing if the library has no memory.
    pub(crate) fn new(algorithm: Algorithm, key: &[u8; KEY_LEN]) -> Option<Self> {
        let aead = match algorithm {
            // SAFETY: C3. Returns the address of a constant.
            Algorithm::Aes256Gcm => unsafe { c::EVP_aead_aes_256_gcm() },
            // SAFETY: C3. Returns the address of a constant.
            Algorithm::ChaCha20Poly1305 => unsafe { c::EVP_aead_chacha20_poly1305() },
        };
        // SAFETY: C3. A constant of the library, and a key of its length, which is copied.
        let context = unsafe { c::EVP_AEAD_CTX_new(aead, key.as_ptr(), KEY_LEN, TAG_LEN) };
        NonNull::new(context).map(Self)
    }

    /// Encrypts `plain` into `cipher` and gives the tag over `aad` and the ciphertext.
    ///
    /// Nothing if the library refuses: the lengths differ, or the two overlap without being the same.
    pub(crate) fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plain: Span<'_>,
        cipher: SpanMut<'_>,
    ) -> Option<[u8; TAG_LEN]> {
        if plain.len() != cipher.len() {
            return None;
        }
        let mut tag = [0; TAG_LEN];
        let mut tag_len = 0;
        // SAFETY: C1, C2, C3. `cipher` has the length of `plain`; the tag's and the nonce's lengths are theirs;
        // a null pointer of length 0 is no extra input.
        let sealed = unsafe {
            c::EVP_AEAD_CTX_seal_scatter(
                self.0.as_ptr(),
                cipher.as_mut_ptr(),
                tag.as_mut_ptr(),
                &raw mut tag_len,
                TAG_LEN,
                nonce.as_ptr(),
                NONCE_LEN,
                plain.as_ptr(),
                plain.len(),
                std::ptr::null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        (sealed == 1 && tag_len == TAG_LEN).then_some(tag)
    }
}

impl Drop for SealingKey {
    fn drop(&mut self) {
        // SAFETY: C3. Made by EVP_AEAD_CTX_new, freed here only; the library wipes the key schedule.
        unsafe { c::EVP_AEAD_CTX_free(self.0.as_ptr()) };
    }
}
