//! The message that comes with a lent buffer: 128 bytes, little-endian, with exactly one fd.
//!
//! | bytes | what |
//! |---|---|
//! | 0..88 | a buffer's header ([`crate::transfer`]), but that it begins with `vgem-lnd` |
//! | 88..104 | the token of the release timeline |
//! | 104..112 | the point that says the buffer is returned |
//! | 112 | 0: the timeline is for this loan alone. 1: it is that of a series, whose loans name the same token |
//! | 113..128 | zero |

use vgem_proto::ids::Point;

use crate::timeline::TimelineToken;
use crate::transfer::{self, Header, TransferError};

/// Bytes of the message.
pub(crate) const LEN: usize = transfer::LEN + 40;
const TOKEN_AT: usize = transfer::LEN;
const POINT_AT: usize = TOKEN_AT + TimelineToken::LEN;
const KIND_AT: usize = POINT_AT + 8;
const MAGIC: [u8; 8] = *b"vgem-lnd";

/// What a borrower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) header: Header,
    pub(crate) token: TimelineToken,
    pub(crate) point: Point,
    pub(crate) kind: Kind,
}

/// Whom a release timeline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Single,
    Series,
}

impl Letter {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.header.encode().into_iter().skip(MAGIC.len()));
        bytes.extend(self.token.to_bytes());
        bytes.extend(self.point.0.to_le_bytes());
        bytes.push(u8::from(self.kind == Kind::Series));
        bytes.resize(LEN, 0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; LEN]) -> Result<Self, TransferError> {
        fn part<const N: usize>(bytes: &[u8; LEN], at: usize) -> [u8; N] {
            std::array::from_fn(|place| bytes[at + place])
        }
        let wrong = |field, value| Err(TransferError::Field { field, value });
        let found: [u8; 8] = part(bytes, 0);
        if found != MAGIC {
            return Err(TransferError::Magic { found });
        }
        let mut header: [u8; transfer::LEN] = part(bytes, 0);
        header.iter_mut().zip(transfer::MAGIC).for_each(|(at, byte)| *at = byte);
        let header = Header::decode(&header)?;
        let point = Point(u64::from_le_bytes(part(bytes, POINT_AT)));
        if point == Point(0) {
            return wrong("point", 0);
        }
        let kind = match bytes[KIND_AT] {
            0 => Kind::Single,
            1 => Kind::Series,
            other => return wrong("kind of loan", other.into()),
        };
        if bytes.iter().skip(KIND_AT + 1).any(|byte| *byte != 0) {
            return wrong("end", 1);
        }
        let token = TimelineToken::from_bytes(part(bytes, TOKEN_AT));
        Ok(Self { header, token, point, kind })
    }
}

#[cfg(test)]
mod tests {
    use vgem_proto::rights::Access;

    use super::*;

    fn letter() -> Letter {
        let header = Header { access: Access::Write, len: 10_000, name: b"frame 7".to_vec() };
        let token = TimelineToken::from_bytes(std::array::from_fn(|at| u8::try_from(at).unwrap_or(0)));
        Letter { header, token, point: Point(3), kind: Kind::Series }
    }

    fn bytes() -> [u8; LEN] {
        letter().encode().try_into().expect("128 bytes")
    }

    fn broken(at: usize, byte: u8) -> TransferError {
        let mut bytes = bytes();
        bytes[at] = byte;
        Letter::decode(&bytes).expect_err("it was broken")
    }

    #[test]
    fn a_letter_comes_back_as_it_was() {
        assert_eq!(Letter::decode(&bytes()), Ok(letter()));
    }

    #[test]
    fn the_letter_is_laid_out_as_documented() {
        let bytes = bytes();
        assert_eq!(&bytes[..16], b"vgem-lnd\x01\x00\x02\x07\x00\x00\x00\x00");
        assert_eq!((bytes[88], bytes[103], bytes[104], bytes[112]), (0, 15, 3, 1));
    }

    #[test]
    fn every_part_of_a_letter_is_checked() {
        assert_eq!(broken(5, b'b'), TransferError::Magic { found: *b"vgem-bnd" });
        assert_eq!(broken(8, 2), TransferError::Version { version: 2 });
        assert_eq!(broken(104, 0), TransferError::Field { field: "point", value: 0 });
        assert_eq!(broken(112, 2), TransferError::Field { field: "kind of loan", value: 2 });
        assert_eq!(broken(127, 1), TransferError::Field { field: "end", value: 1 });
    }
}
