//! A buffer from one process to another by hand: mapped once on both sides, a flag there and a flag back.
//!
//! The producer says with each turn what is done with the buffer and how both wait. The buffer is filled with plain or
//! with streaming stores, because which is faster depends on where the host has put the cores.

use std::os::fd::AsFd as _;

use vgem_os::clock;
use vgem_os::mapping::{CopyStyle, Mapping, PAGE, Populate, Span, copy_span};
use vgem_os::memory::{Access, HugePages, ObjectMemory, verify_export};

use super::{Fds, Flag, Flags, Rest, next};
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};

/// Flags of a hand-over.
const FILLED: Flag = Flag::new(0);
const READ: Flag = Flag::new(1);
const REST: Flag = Flag::new(2);
const LOOK: Flag = Flag::new(3);

/// What the consumer does with the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It reads one byte of each page.
    Pages,
    /// It reads eight bytes.
    Word,
    /// It does not.
    Not,
}

impl Look {
    /// Its number in messages.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Pages => 0,
            Self::Word => 1,
            Self::Not => 2,
        }
    }

    /// The one of this number.
    #[must_use]
    pub fn of_number(number: u32) -> Self {
        [Self::Pages, Self::Word].into_iter().find(|look| look.number() == number).unwrap_or(Self::Not)
    }

    /// Looks at a buffer.
    ///
    /// # Errors
    /// When it is shorter than a word.
    #[inline]
    pub fn at(self, span: Span<'_>) -> anyhow::Result<u64> {
        match self {
            Self::Pages => one_byte_of_each_page(span),
            Self::Word => Ok(span.read_u64(0)?),
            Self::Not => Ok(0),
        }
    }
}

/// The producer's side; the consumer is a second process.
#[derive(Debug)]
pub struct Handover {
    memory: Mapping,
    flags: Flags,
    rest: Rest,
    point: u32,
    consumer: Role,
}

impl Handover {
    /// Starts the consumer of a buffer of `len` bytes.
    ///
    /// # Errors
    /// When a process, memory or a page cannot be had.
    pub fn start(len: usize) -> anyhow::Result<Self> {
        let object = ObjectMemory::create(len as u64, HugePages::None, "by-hand")?;
        let export = object.export(Access::Write)?;
        let memory = Mapping::map(export.as_fd(), len, Access::Write, Populate::Now)?;
        let (flags, page) = Flags::create()?;
        let consumer = Role::start(Part::Consumer, vec![page, object.export(Access::Read)?])?;
        Ok(Self { memory, flags, rest: Rest::Asleep, point: 0, consumer })
    }

    /// Puts the consumer on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        self.consumer.seat(cores, seat)
    }

    /// From now on both wait like this, and the consumer looks like that.
    ///
    /// # Errors
    /// Never, of pages of ours.
    pub fn set(&mut self, rest: Rest, look: Look) -> anyhow::Result<()> {
        self.rest = rest;
        self.flags.set(REST, rest.number())?;
        self.flags.set(LOOK, look.number())
    }

    /// Copies `payload` in, hands it over, and waits until it was read.
    ///
    /// # Errors
    /// When the payload is longer than the buffer, or the consumer is gone.
    pub fn round(&mut self, payload: &[u8], style: CopyStyle) -> anyhow::Result<()> {
        let into = self.memory.span_mut()?;
        copy_span(into, Span::of_slice(payload), style)?;
        self.hand_over()
    }

    /// Stores eight bytes, hands the buffer over, and waits until they were read.
    ///
    /// # Errors
    /// When the consumer is gone.
    #[inline]
    pub fn word(&mut self) -> anyhow::Result<()> {
        self.memory.span_mut()?.write_u64(0, u64::from(self.point))?;
        self.hand_over()
    }

    /// Which stores fill the buffer faster just now, by a few rounds of each.
    ///
    /// # Errors
    /// When the consumer is gone.
    pub fn faster_style(&mut self, payload: &[u8], rounds: usize) -> anyhow::Result<CopyStyle> {
        let mut best = (u64::MAX, CopyStyle::Plain);
        for style in [CopyStyle::Plain, CopyStyle::Streaming, CopyStyle::Plain, CopyStyle::Streaming] {
            let before = clock::now();
            for _ in 0..rounds {
                self.round(payload, style)?;
            }
            let took = clock::now() - before;
            if took < best.0 {
                best = (took, style);
            }
        }
        Ok(best.1)
    }

    /// Hands the buffer over as it is, and waits until it comes back.
    ///
    /// # Errors
    /// When the consumer is gone.
    #[inline]
    pub fn hand_over(&mut self) -> anyhow::Result<()> {
        self.point += 1;
        self.flags.signal(FILLED, self.point)?;
        self.flags.wait(READ, self.point, self.rest)
    }
}

/// Looks at a buffer for each point, for ever: it is killed.
pub(crate) fn consume(fds: &mut Fds) -> anyhow::Result<()> {
    let flags = Flags::map(&next(fds)?)?;
    let object = next(fds)?;
    let len = usize::try_from(verify_export(object.as_fd(), 0, Access::Read)?)?;
    let memory = Mapping::map(object.as_fd(), len, Access::Read, Populate::Now)?;
    for point in 1.. {
        flags.wait_for_ever(FILLED, point, Rest::of_number(flags.get(REST)?))?;
        std::hint::black_box(Look::of_number(flags.get(LOOK)?).at(memory.span())?);
        flags.signal(READ, point)?;
    }
    Ok(())
}

fn one_byte_of_each_page(span: Span<'_>) -> anyhow::Result<u64> {
    let mut sum = 0u64;
    for offset in (0..span.len()).step_by(PAGE) {
        let mut byte = [0];
        span.copy_to(offset, &mut byte)?;
        sum = sum.wrapping_add(u64::from(byte[0]));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_of_each_page_is_read() {
        let mut bytes = vec![0; 3 * PAGE];
        (bytes[0], bytes[PAGE], bytes[2 * PAGE], bytes[PAGE + 1]) = (1, 2, 4, 100);
        assert_eq!(Look::Pages.at(Span::of_slice(&bytes)).expect("all inside"), 7);
    }
}
