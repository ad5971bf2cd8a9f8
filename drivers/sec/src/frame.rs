//! The frame around sealed bytes, as `FRAMING.md` describes it.
//!
//! ```text
//!   0      4  5  6    8                 16            28    32
//!   "VGSL" v  a  0 0  plaintext length  nonce         0 ..  ciphertext ..  tag (16)
//! ```
//!
//! A [`Header`] is either made for a seal or parsed from 32 bytes that were copied out of an operand; a header
//! that parses is one that this version can open. The raw bytes are authenticated, so a header that was changed
//! in any bit fails at the tag if not before.

use vgem_driver::JobError;
use vgem_proto::error::ErrorCode;

/// The first four bytes of a frame.
pub const MAGIC: [u8; 4] = *b"VGSL";
/// The version written and understood.
pub const VERSION: u8 = 1;
/// Bytes before the ciphertext.
pub const HEADER_LEN: usize = 32;
/// Bytes after the ciphertext.
pub const TAG_LEN: usize = 16;
/// Bytes that a frame is longer than its plaintext.
pub const OVERHEAD_LEN: usize = HEADER_LEN + TAG_LEN;
/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;
/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// A cipher that seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-256 in Galois/counter mode.
    Aes256Gcm,
    /// ChaCha20 and Poly1305, RFC 8439.
    ChaCha20Poly1305,
}

impl Algorithm {
    /// All, in the order of the parameter's words.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        }
    }

    /// Its number in a header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    /// The algorithm at this place of the parameter's words.
    ///
    /// # Errors
    /// [`ErrorCode::BadParameter`] if there is none.
    pub fn from_word(place: u64) -> Result<Self, JobError> {
        usize::try_from(place).ok().and_then(|place| Self::ALL.get(place).copied()).ok_or_else(|| {
            let limit = Self::ALL.len() - 1;
            JobError::new(ErrorCode::BadParameter, format!("algorithm {place} is not one of 0..={limit}"))
        })
    }
}

/// What a frame says before its ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The cipher.
    pub algorithm: Algorithm,
    /// Length of plaintext and ciphertext, bytes.
    pub plain_len: u64,
    /// The nonce.
    pub nonce: [u8; NONCE_LEN],
}

impl Header {
    /// The 32 bytes of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let [m0, m1, m2, m3] = MAGIC;
        let head = [m0, m1, m2, m3, VERSION, self.algorithm.number(), 0, 0];
        let fields =
            head.iter().chain(&self.plain_len.to_le_bytes()).chain(&self.nonce).copied().collect::<Vec<_>>();
        for (place, byte) in bytes.iter_mut().zip(fields) {
            *place = byte;
        }
        bytes
    }

    /// The header in `bytes`, if it is one, fits a frame of `frame_len` bytes and names the algorithm asked for.
    ///
    /// # Errors
    /// [`ErrorCode::CorruptInput`], saying which field is wrong.
    pub fn parse(bytes: &[u8; HEADER_LEN], frame_len: usize, asked: Algorithm) -> Result<Self, JobError> {
        let [m0, m1, m2, m3, version, algorithm, r0, r1, rest @ ..] = *bytes;
        let [l0, l1, l2, l3, l4, l5, l6, l7, rest @ ..] = rest;
        let [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, reserved @ ..] = rest;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(corrupt("the input does not begin with VGSL: it is not a sealed frame".into()));
        }
        if version != VERSION {
            return Err(corrupt(format!(
                "the frame has version {version}; this device opens version {VERSION}"
            )));
        }
        if algorithm != asked.number() {
            let (wanted, name) = (asked.number(), asked.name());
            return Err(corrupt(format!(
                "the frame has algorithm {algorithm}, not {wanted} ({name}) as asked"
            )));
        }
        if [r0, r1] != [0; 2] || reserved != [0; 4] {
            return Err(corrupt("a reserved byte of the frame's header is not 0".into()));
        }
        let plain_len = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        if plain_len.checked_add(OVERHEAD_LEN as u64) != Some(frame_len as u64) {
            return Err(corrupt(format!(
                "the frame says {plain_len} bytes of plaintext; with {OVERHEAD_LEN} more it is not the input's {frame_len}"
            )));
        }
        let nonce = [n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11];
        Ok(Self { algorithm: asked, plain_len, nonce })
    }
}

fn corrupt(text: String) -> JobError {
    JobError::new(ErrorCode::CorruptInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { algorithm: Algorithm::ChaCha20Poly1305, plain_len: 0x0102, nonce: [7; NONCE_LEN] };

    #[test]
    fn a_header_is_the_bytes_that_framing_md_shows() {
        let mut wanted = b"VGSL\x01\x02\0\0\x02\x01\0\0\0\0\0\0".to_vec();
        wanted.extend([7; 12]);
        wanted.extend([0; 4]);
        assert_eq!(HEADER.encode().as_slice(), wanted);
    }

    #[test]
    fn a_header_survives_its_bytes() {
        let parsed = Header::parse(&HEADER.encode(), 0x0102 + OVERHEAD_LEN, HEADER.algorithm);
        assert_eq!(parsed, Ok(HEADER));
    }

    #[test]
    fn a_header_for_another_length_is_refused() {
        for len in [0, OVERHEAD_LEN, 0x0101 + OVERHEAD_LEN, 0x0103 + OVERHEAD_LEN] {
            assert!(Header::parse(&HEADER.encode(), len, HEADER.algorithm).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn every_changed_bit_outside_the_nonce_is_refused() {
        for at in (0..16).chain(28..32) {
            for bit in 0..8 {
                let mut bytes = HEADER.encode();
                bytes[at] ^= 1 << bit;
                let parsed = Header::parse(&bytes, 0x0102 + OVERHEAD_LEN, HEADER.algorithm);
                assert!(parsed.is_err(), "byte {at} bit {bit}");
            }
        }
    }
}
