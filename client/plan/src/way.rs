//! Ways, which of them are allowed, and what the best one is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How an operation is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// As a job that the broker tracks.
    Tracked,
    /// As an entry of a user queue.
    UserQueue,
    /// By the device's engine, on the calling thread.
    Cpu,
}

impl Way {
    /// All, in the order in which they are preferred where nothing else decides.
    pub const ALL: [Self; 3] = [Self::Tracked, Self::UserQueue, Self::Cpu];

    pub(crate) const fn place(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tracked => "tracked",
            Self::UserQueue => "user queue",
            Self::Cpu => "CPU",
        })
    }
}

/// Which ways an operation may go.
///
/// ```
/// use vgem_plan::{Require, Way};
///
/// let requires = Require::TRACKED.or(Require::CPU);
/// assert!(requires.allows(Way::Cpu) && !requires.allows(Way::UserQueue));
/// assert_eq!(Require::NOT_CPU, Require::DEVICE);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Require(u8);

impl Require {
    /// Any.
    pub const ANY: Self = Self(0b111);
    /// On the device: tracked, or by a user queue.
    pub const DEVICE: Self = Self(0b011);
    /// The same, by what is forbidden.
    pub const NOT_CPU: Self = Self::DEVICE;
    /// Tracked.
    pub const TRACKED: Self = Self(0b001);
    /// By a user queue.
    pub const USER_QUEUE: Self = Self(0b010);
    /// On this process's CPU.
    pub const CPU: Self = Self(0b100);

    /// What either allows.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The same without this way.
    #[must_use]
    pub const fn without(self, way: Way) -> Self {
        Self(self.0 & !(1 << way.place()))
    }

    /// Whether this way is allowed.
    #[must_use]
    pub const fn allows(self, way: Way) -> bool {
        self.0 >> way.place() & 1 == 1
    }

    /// Whether this way is the only one.
    pub(crate) const fn is_only(self, way: Way) -> bool {
        self.0 == 1 << way.place()
    }
}

impl Default for Require {
    fn default() -> Self {
        Self::ANY
    }
}

/// What the best way is the best at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// The operation is done as soon as possible.
    #[default]
    Latency,
    /// The calling thread's CPU is free for other work: a device that takes longer is better if the caller sleeps meanwhile.
    OwnCpu,
}
