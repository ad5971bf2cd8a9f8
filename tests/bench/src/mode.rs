//! Modes: what an idle core does.
//!
//! | mode | an idle core | who can have it |
//! |---|---|---|
//! | **D**, default | halts, on a virtual machine into the hypervisor: a wake across cores costs about 27 us | all |
//! | **P**, polling | polls: 3 to 5 us per wake, quiet runs; ratios are judged here | who may write `/dev/cpu_dma_latency` |
//! | **1**, one core | is never idle in between: both ends share one core; agrees in D and P | all; takes the place of P |
//!
//! P is in force for as long as the device is held open, so [`Power`] is a guard.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use crate::machine::Cores;

/// What an idle core does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// D: it halts.
    Default,
    /// P: it polls.
    Polling,
    /// Both ends on one core, where P is not allowed.
    OneCore,
}

impl Mode {
    /// The letter that stands for it.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Default => "D",
            Self::Polling => "P",
            Self::OneCore => "1",
        }
    }

    /// Whether ratios measured in it are held against targets.
    #[must_use]
    pub const fn is_judged(self) -> bool {
        match self {
            Self::Default => false,
            Self::Polling | Self::OneCore => true,
        }
    }
}

/// A mode in force; over when dropped.
#[derive(Debug)]
pub struct Power {
    /// Which mode it really is.
    pub mode: Mode,
    /// Where threads are put in it.
    pub cores: Cores,
    /// Why it is not the mode that was asked for.
    pub note: Option<String>,
    _latency: Option<File>,
}

impl Power {
    /// Puts `wanted` in force. Where P is not allowed it is the one-core mode, with a note that says why.
    #[must_use]
    pub fn of(wanted: Mode, cores: Cores) -> Self {
        let one_core = |note| Self { mode: Mode::OneCore, cores: cores.together(), note, _latency: None };
        match wanted {
            Mode::Default => Self { mode: Mode::Default, cores, note: None, _latency: None },
            Mode::OneCore => one_core(None),
            Mode::Polling => match hold_cores_awake() {
                Ok(held) => Self { mode: Mode::Polling, cores, note: None, _latency: Some(held) },
                Err(error) => one_core(Some(format!(
                    "no mode P: /dev/cpu_dma_latency: {error}; both ends are pinned to one core instead"
                ))),
            },
        }
    }
}

/// Has idle cores poll until the file is closed.
fn hold_cores_awake() -> std::io::Result<File> {
    let mut device = OpenOptions::new().write(true).open("/dev/cpu_dma_latency")?;
    device.write_all(&0i32.to_ne_bytes())?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_mode_is_shown_and_not_judged() {
        assert!(!Mode::Default.is_judged());
        assert!(Mode::Polling.is_judged());
    }

    #[test]
    fn without_polling_both_ends_share_a_core_and_the_note_says_why() {
        let cores = Cores::of_this_process().expect("a process runs somewhere");
        let power = Power::of(Mode::Polling, cores);
        match power.mode {
            Mode::Polling => assert_eq!(power.note, None),
            Mode::OneCore => assert!(!power.cores.are_two() && power.note.is_some()),
            Mode::Default => panic!("polling was asked for"),
        }
    }
}
