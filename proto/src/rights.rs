//! Rights and ways of access.

use crate::codec::{Field, Malformed, Reader, Writer};

bitflags::bitflags! {
    /// What a handle allows. Rights only shrink: nothing that is derived from a handle has more than it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Rights: u32 {
        /// A job may read the object.
        const READ = 1;
        /// A job may write the object.
        const WRITE = 2;
        /// The object may be exported as an fd.
        const EXPORT = 4;
    }
}

bitflags::bitflags! {
    /// What a handle of a timeline allows. The handle of a queue allows to wait.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct TimelineRights: u32 {
        /// Points may be waited for, by the client and by its jobs.
        const WAIT = 1;
        /// Points may be promised and signalled. One handle of all has it.
        const SIGNAL = 2;
    }
}

impl Field for TimelineRights {
    const SIZE: usize = 4;
    fn put(&self, w: &mut Writer) {
        self.bits().put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let raw = u32::take(r)?;
        Self::from_bits(raw).ok_or(Malformed::BadValue { field: "timeline rights", value: u64::from(raw) })
    }
}

impl Field for Rights {
    const SIZE: usize = 4;
    fn put(&self, w: &mut Writer) {
        self.bits().put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let raw = u32::take(r)?;
        Self::from_bits(raw).ok_or(Malformed::BadValue { field: "rights", value: u64::from(raw) })
    }
}

/// How memory is used: looked at only, or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Looked at only.
    Read,
    /// Changed, and perhaps looked at.
    Write,
}

impl Field for Access {
    const SIZE: usize = 1;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Read => 1u8,
            Self::Write => 2,
        }
        .put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::take(r)? {
            1 => Ok(Self::Read),
            2 => Ok(Self::Write),
            other => Err(Malformed::BadValue { field: "access", value: u64::from(other) }),
        }
    }
}

/// Which pages back an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// Ordinary pages, and transparent huge pages from 2 MiB up where the machine allows them.
    #[default]
    Transparent,
    /// Ordinary pages only.
    Never,
    /// Reserved huge pages of 2 MiB; an error if the machine has none.
    Size2M,
    /// Reserved huge pages of 1 GiB; an error if the machine has none.
    Size1G,
}

impl Field for HugePages {
    const SIZE: usize = 1;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Transparent => 0u8,
            Self::Never => 1,
            Self::Size2M => 2,
            Self::Size1G => 3,
        }
        .put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::take(r)? {
            0 => Ok(Self::Transparent),
            1 => Ok(Self::Never),
            2 => Ok(Self::Size2M),
            3 => Ok(Self::Size1G),
            other => Err(Malformed::BadValue { field: "huge pages", value: u64::from(other) }),
        }
    }
}

/// Why one job waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WaitKind {
    /// It uses what the other makes: if the other fails, so does this one, with the same cause.
    Data,
    /// It only must come later: a failure counts as done.
    Order,
}

impl Field for WaitKind {
    const SIZE: usize = 1;
    fn put(&self, w: &mut Writer) {
        match self {
            Self::Data => 1u8,
            Self::Order => 2,
        }
        .put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match u8::take(r)? {
            1 => Ok(Self::Data),
            2 => Ok(Self::Order),
            other => Err(Malformed::BadValue { field: "wait kind", value: u64::from(other) }),
        }
    }
}
