//! The formats, and the levels each of them has.

use vgem_driver::JobError;
use vgem_proto::error::ErrorCode;

/// The number that stands for a format's own level.
pub const LEVEL_OWN: u64 = 255;

/// A compressed format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// RFC 1952, one or more members.
    Gzip,
    /// RFC 1950.
    Zlib,
    /// RFC 1951, bare.
    Deflate,
    /// RFC 8878, one or more frames, with content size and checksum.
    Zstd,
    /// LZ4 frame format 1.6, one or more frames, with checksum.
    Lz4,
}

impl Format {
    /// All, in the order of the parameter's words.
    pub const ALL: [Self; 5] = [Self::Gzip, Self::Zlib, Self::Deflate, Self::Zstd, Self::Lz4];

    /// Place in [`Format::ALL`] of the format that is meant when none is said: zstd.
    pub const DEFAULT_WORD: u16 = 3;

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zlib => "zlib",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// Its highest level; the lowest is 0.
    #[must_use]
    pub const fn level_max(self) -> i32 {
        match self {
            Self::Gzip | Self::Zlib | Self::Deflate => 12,
            Self::Zstd => 22,
            Self::Lz4 => 2,
        }
    }

    /// The level used when none is said.
    #[must_use]
    pub const fn level_default(self) -> i32 {
        match self {
            Self::Gzip | Self::Zlib | Self::Deflate => 6,
            Self::Zstd => 3,
            Self::Lz4 => 0,
        }
    }

    /// The format at this place of the parameter's words.
    ///
    /// # Errors
    /// [`ErrorCode::BadParameter`] if there is none.
    pub fn from_word(place: u64) -> Result<Self, JobError> {
        usize::try_from(place).ok().and_then(|place| Self::ALL.get(place).copied()).ok_or_else(|| {
            let limit = Self::ALL.len() - 1;
            JobError::new(ErrorCode::BadParameter, format!("format {place} is not one of 0..={limit}"))
        })
    }

    /// The level asked for, if the format has it.
    ///
    /// # Errors
    /// [`ErrorCode::BadParameter`] with the level and the format's highest.
    pub fn level(self, asked: Option<u64>) -> Result<i32, JobError> {
        let Some(asked) = asked.filter(|level| *level != LEVEL_OWN) else { return Ok(self.level_default()) };
        i32::try_from(asked).ok().filter(|level| *level <= self.level_max()).ok_or_else(|| {
            let (name, max) = (self.name(), self.level_max());
            JobError::new(
                ErrorCode::BadParameter,
                format!("level {asked} is beyond 0..={max}, which {name} has"),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_word_is_zstd() {
        assert_eq!(Format::from_word(u64::from(Format::DEFAULT_WORD)), Ok(Format::Zstd));
    }

    #[test]
    fn a_level_beyond_its_format_is_refused_with_value_and_limit() {
        for format in Format::ALL {
            let max = u64::try_from(format.level_max()).expect("levels are not negative");
            assert!(format.level(Some(max)).is_ok());
            let error = format.level(Some(max + 1)).expect_err("beyond");
            assert_eq!(error.code, ErrorCode::BadParameter);
            assert!(error.text.contains(&(max + 1).to_string()) && error.text.contains(&max.to_string()));
        }
    }
}
