//! Second processes: this program again, told by a hidden first argument what to be.
//!
//! A floor needs processes as vgemd does: threads of one process would share an address space and flatter it. A role
//! gets its sockets and pages as inherited fds from 3 on, serves until its link closes or it is killed, and dies with
//! the process that started it. Whoever starts it puts it on a core from outside, as it does with vgemd's processes.

use std::env;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use anyhow::Context as _;
use vgem_os::process::{Child, Launch, inherited};

use crate::floor;
use crate::machine::{Cores, Seat};
use crate::subject;

/// The hidden first argument.
pub const HIDDEN: &str = "--role";

/// Number of the first fd a role inherits.
const FIRST_FD: i32 = 3;

/// What a second process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Sends each packet back.
    Echo,
    /// Answers each number of a flag with the same number of another.
    FlagEcho,
    /// Answers each point of one fence page with the same point of another.
    FenceEcho,
    /// Sends each packet back, over many sockets with epoll.
    EpollEcho,
    /// Passes packets from a client's socket to a driver's.
    Broker,
    /// Signals the next point for each packet.
    Driver,
    /// Reads a buffer for each point and answers it.
    Consumer,
    /// Answers each packet with the same packet and an fd.
    FdEcho,
    /// Takes buffers from a pool and gives them back, as often as it is told.
    PoolUser,
    /// A client that copies by a user queue, as it is told.
    Copies,
    /// A stage of a pipeline by flags.
    FlagStage,
    /// A stage of a pipeline by sockets.
    SocketStage,
    /// A client that reads a buffer for each point of another's timeline.
    ClientConsumer,
    /// A client that is a stage of a pipeline.
    ClientStage,
    /// A client that promises a point and waits to be killed.
    ClientVictim,
    /// Calls over a bus as fast as it is told.
    BusFlood,
    /// Waits to be killed.
    Victim,
    /// The clients of one domain, which ask for little or for everything, as they are told.
    Domain,
}

impl Part {
    const ALL: [Self; 18] = [
        Self::Echo,
        Self::FlagEcho,
        Self::FenceEcho,
        Self::EpollEcho,
        Self::Broker,
        Self::Driver,
        Self::Consumer,
        Self::FdEcho,
        Self::PoolUser,
        Self::Copies,
        Self::FlagStage,
        Self::SocketStage,
        Self::ClientConsumer,
        Self::ClientStage,
        Self::ClientVictim,
        Self::BusFlood,
        Self::Victim,
        Self::Domain,
    ];

    const fn word(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::FlagEcho => "flag-echo",
            Self::FenceEcho => "fence-echo",
            Self::EpollEcho => "epoll-echo",
            Self::Broker => "broker",
            Self::Driver => "driver",
            Self::Consumer => "consumer",
            Self::FdEcho => "fd-echo",
            Self::PoolUser => "pool-user",
            Self::Copies => "copies",
            Self::FlagStage => "flag-stage",
            Self::SocketStage => "socket-stage",
            Self::ClientConsumer => "client-consumer",
            Self::ClientStage => "client-stage",
            Self::ClientVictim => "client-victim",
            Self::BusFlood => "bus-flood",
            Self::Victim => "victim",
            Self::Domain => "domain",
        }
    }
}

impl FromStr for Part {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        let part = Self::ALL.into_iter().find(|part| part.word() == word);
        part.with_context(|| format!("{word:?} is no role"))
    }
}

/// A second process; killed and reaped when dropped.
#[derive(Debug)]
pub struct Role {
    child: Child,
}

impl Role {
    /// Starts one with `fds` as its fds from 3 on.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start(part: Part, fds: Vec<OwnedFd>) -> anyhow::Result<Self> {
        Self::launch(part, fds, false)
    }

    /// The same in a session of its own, as programs of different users are: where the scheduler groups tasks by session,
    /// it has the share of a group, however many threads it has.
    ///
    /// # Errors
    /// As [`Launch::start`].
    pub fn start_apart(part: Part, fds: Vec<OwnedFd>) -> anyhow::Result<Self> {
        Self::launch(part, fds, true)
    }

    fn launch(part: Part, fds: Vec<OwnedFd>, own_session: bool) -> anyhow::Result<Self> {
        let program = env::current_exe().context("cannot find the path of this program")?;
        let mut launch = Launch::new(program);
        launch.args = vec![HIDDEN.into(), part.word().into(), fds.len().to_string().into()];
        launch.fds = fds.into_iter().zip(FIRST_FD..).collect();
        launch.die_with_parent = true;
        launch.own_session = own_session;
        let child = launch.start().with_context(|| format!("cannot start {}", part.word()))?;
        Ok(Self { child })
    }

    /// Its pid.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Kills it. It is reaped when this is dropped.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(&self) -> anyhow::Result<()> {
        Ok(self.child.kill()?)
    }

    /// Puts it on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        cores.seat_process(self.child.pid, seat)
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("vgem-bench: a second process did not end: {error}");
        }
    }
}

/// Plays the role that the hidden arguments name, to its end; nothing if they name none.
///
/// # Errors
/// When the arguments make no sense, or the role's own error.
pub fn play(mut arguments: impl Iterator<Item = OsString>) -> Option<anyhow::Result<()>> {
    (arguments.next()? == HIDDEN).then(|| {
        let mut word = || arguments.next().and_then(|word| word.into_string().ok()).unwrap_or_default();
        let part: Part = word().parse()?;
        let count: i32 = word().parse().context("the number of fds")?;
        let mut fds = Vec::new();
        for number in FIRST_FD..FIRST_FD + count {
            fds.push(inherited(number)?);
        }
        let fds = &mut fds.into_iter();
        match part {
            Part::Echo => floor::echo(fds),
            Part::FlagEcho => floor::flag_echo(fds),
            Part::FenceEcho => floor::fence_echo(fds),
            Part::EpollEcho => floor::epoll_echo(fds),
            Part::Broker => floor::broker(fds),
            Part::Driver => floor::driver(fds),
            Part::Consumer => floor::consume(fds),
            Part::FdEcho => floor::fd_echo(fds),
            Part::PoolUser => subject::use_pool(fds),
            Part::Copies => subject::copies::copy_on_order(fds),
            Part::FlagStage => floor::flag_stage(fds),
            Part::SocketStage => floor::socket_stage(fds),
            Part::ClientConsumer => subject::handed::consume(fds),
            Part::ClientStage => subject::stages::stage(fds),
            Part::ClientVictim => subject::deaths::victim(fds),
            Part::BusFlood => subject::flood::flood(fds),
            Part::Victim => floor::victim(fds),
            Part::Domain => subject::domains::play(fds),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_known_by_its_word() {
        for part in Part::ALL {
            assert_eq!(part.word().parse::<Part>().ok(), Some(part));
        }
    }

    #[test]
    fn ordinary_arguments_are_no_role() {
        assert!(play(["P3".into()].into_iter()).is_none());
        assert!(play(std::iter::empty()).is_none());
    }

    #[test]
    fn an_unknown_role_is_an_error() {
        let played = play([HIDDEN.into(), "king".into(), "0".into()].into_iter());
        assert!(played.expect("the hidden argument is there").is_err());
    }
}
