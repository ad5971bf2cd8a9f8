//! There and back, twice: by a flag in shared memory, and through fence pages as devices signal them.
//!
//! The far side says when it went on, by the one clock, so one way can be told from the way back.

use std::os::fd::OwnedFd;

use vgem_os::clock;
use vgem_os::fence::{ObserverFace, ObserverFds, PagePair, SignallerFace, SignallerFds};

use super::{Fds, Flag, Flags, GENERATION, Rest, SLOT, Waiter, next};
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};

const THERE: Flag = Flag::new(0);
const BACK: Flag = Flag::new(1);
const REST: Flag = Flag::new(2);
const WOKE: Flag = Flag::new(3);

/// The low half of a time: enough to tell two that are less than four seconds apart.
#[expect(clippy::cast_possible_truncation, reason = "only differences below four seconds are taken")]
const fn low(time_ns: u64) -> u32 {
    time_ns as u32
}

/// A flag there and a flag back.
#[derive(Debug)]
pub struct FlagEcho {
    flags: Flags,
    rest: Rest,
    number: u32,
    echo: Role,
}

impl FlagEcho {
    /// Starts the other end.
    ///
    /// # Errors
    /// When a process or a page cannot be had.
    pub fn start() -> anyhow::Result<Self> {
        let (flags, page) = Flags::create()?;
        let echo = Role::start(Part::FlagEcho, vec![page])?;
        Ok(Self { flags, rest: Rest::Asleep, number: 0, echo })
    }

    /// Puts the other end on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        self.echo.seat(cores, seat)
    }

    /// From now on both ends wait like this.
    ///
    /// # Errors
    /// Never, of a page of ours.
    pub fn set(&mut self, rest: Rest) -> anyhow::Result<()> {
        self.rest = rest;
        self.flags.set(REST, rest.number())
    }

    /// Once there and back.
    ///
    /// # Errors
    /// When the other end is gone.
    #[inline]
    pub fn round_trip(&mut self) -> anyhow::Result<()> {
        self.number += 1;
        self.flags.signal(THERE, self.number)?;
        self.flags.wait(BACK, self.number, self.rest)
    }

    /// Once there and back; what it took there, nanoseconds.
    ///
    /// # Errors
    /// When the other end is gone.
    #[inline]
    pub fn one_way(&mut self) -> anyhow::Result<u64> {
        let before = clock::now();
        self.round_trip()?;
        Ok(u64::from(self.flags.get(WOKE)?.wrapping_sub(low(before))))
    }
}

/// Answers each number with the same number, for ever: it is killed.
pub(crate) fn flag_echo(fds: &mut Fds) -> anyhow::Result<()> {
    let flags = Flags::map(&next(fds)?)?;
    for number in 1.. {
        let rest = Rest::of_number(flags.get(REST)?);
        flags.wait_for_ever(THERE, number, rest)?;
        if rest == Rest::Asleep {
            flags.set(WOKE, low(clock::now()))?;
        }
        flags.signal(BACK, number)?;
    }
    Ok(())
}

/// A point of a fence page there, and a point of another back.
#[derive(Debug)]
pub struct FenceEcho {
    out: SignallerFace,
    back: Waiter,
    told: Flags,
    rest: Rest,
    point: u64,
    echo: Role,
}

impl FenceEcho {
    /// Starts the other end.
    ///
    /// # Errors
    /// When a process or a page cannot be had.
    pub fn start() -> anyhow::Result<Self> {
        let (there, home) = (PagePair::create()?, PagePair::create()?);
        let (heard, answers) = (there.observer_fds()?, home.signaller_fds()?);
        let (told, page) = Flags::create()?;
        let fds: Vec<OwnedFd> = vec![page, heard.page, heard.interest, answers.page, answers.interest];
        let out = SignallerFace::map(there.signaller_fds()?)?;
        out.publish(SLOT, GENERATION, 0, 0, &[]);
        let back = Waiter::new(ObserverFace::map(home.observer_fds()?)?);
        let echo = Role::start(Part::FenceEcho, fds)?;
        Ok(Self { out, back, told, rest: Rest::Asleep, point: 0, echo })
    }

    /// Puts the other end on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        self.echo.seat(cores, seat)
    }

    /// From now on both ends wait like this.
    ///
    /// # Errors
    /// Never, of a page of ours.
    pub fn set(&mut self, rest: Rest) -> anyhow::Result<()> {
        self.rest = rest;
        self.told.set(REST, rest.number())
    }

    /// Once there and back, signalled with `time_ns`; when the other end went on, if both sleep.
    ///
    /// # Errors
    /// When the other end is gone.
    #[inline]
    pub fn round_trip(&mut self, time_ns: u64) -> anyhow::Result<u64> {
        self.point += 1;
        self.out.signal(SLOT, self.point, time_ns, None)?;
        self.back.wait_as(self.point, self.rest)
    }

    /// Once there and back; what it took there, nanoseconds.
    ///
    /// # Errors
    /// When the other end is gone.
    #[inline]
    pub fn one_way(&mut self) -> anyhow::Result<u64> {
        let before = clock::now();
        Ok(self.round_trip(before)?.saturating_sub(before))
    }
}

/// Answers each point of one page with the same point of another, for ever: it is killed.
pub(crate) fn fence_echo(fds: &mut Fds) -> anyhow::Result<()> {
    let told = Flags::map(&next(fds)?)?;
    let waiter = Waiter::new(ObserverFace::map(ObserverFds { page: next(fds)?, interest: next(fds)? })?);
    let answers = SignallerFace::map(SignallerFds { page: next(fds)?, interest: next(fds)? })?;
    answers.publish(SLOT, GENERATION, 0, 0, &[]);
    for point in 1.. {
        let rest = Rest::of_number(told.get(REST)?);
        waiter.wait_for_ever(point, rest)?;
        let woke = if rest == Rest::Asleep { clock::now() } else { 0 };
        answers.signal(SLOT, point, woke, None)?;
    }
    Ok(())
}
