//! Who is struck in a round, how and when; and the striking.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vgem_os::clock;

use super::judge::CHAIN;
use crate::chance::Chance;
use crate::processes;

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The driver of a device, of the domain of producer and consumer.
    Driver(&'static str),
    /// Who submits.
    Producer,
    /// Who reads what was submitted.
    Consumer,
    /// Somebody of another domain.
    Bystander,
    /// Who signals by hand what a job waits for.
    Stage,
    /// Who takes the consumer's fds.
    Porter,
    /// Who has the rules.
    Broker,
    /// Who started all of them.
    Keeper,
}

impl Victim {
    /// From the beginning of a round until others have what they wait for from it, about.
    fn awaited_for(self) -> Duration {
        match self {
            Self::Driver("copy") | Self::Stage => Duration::from_millis(4),
            Self::Driver(_) => Duration::from_millis(7),
            Self::Producer | Self::Consumer => Duration::from_millis(3),
            _ => ROUND,
        }
    }
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Manner {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after so long.
    Pause(Duration),
    /// SIGSTOP, and SIGKILL after so long.
    Freeze(Duration),
}

/// What the time of a blow is counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Everybody is told to go.
    Begin,
    /// The consumer has been sent something and is about to take it in.
    Import,
}

/// A blow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blow {
    /// Who.
    pub victim: Victim,
    /// How.
    pub manner: Manner,
    /// From when.
    pub moment: Moment,
    /// So long after that.
    pub after: Duration,
}

/// When a blow fell, CLOCK_MONOTONIC nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Struck {
    /// The first signal.
    pub at_ns: u64,
    /// The second, or the first again.
    pub over_ns: u64,
}

/// How often each is struck, of 100.
const SHARES: [(Victim, u64); 10] = [
    (Victim::Driver("copy"), 12),
    (Victim::Driver("zip"), 15),
    (Victim::Driver("sec"), 15),
    (Victim::Stage, 16),
    (Victim::Producer, 12),
    (Victim::Consumer, 10),
    (Victim::Bystander, 5),
    (Victim::Porter, 11),
    (Victim::Broker, 2),
    (Victim::Keeper, 2),
];

/// A round without a blow takes about this long.
const ROUND: Duration = Duration::from_millis(12);
/// An import takes about this long.
const IMPORT: Duration = Duration::from_micros(600);
/// Stopped for so long, what is owed is late.
const TOO_LONG: Duration = Duration::from_millis(115);
/// The longest stop: longer than anybody may wait for who is stopped.
const STOPPED: Duration = Duration::from_millis(300);

impl Blow {
    /// Any.
    pub fn draw(chance: &mut Chance) -> Self {
        let mut share = chance.below(SHARES.iter().map(|(_, share)| share).sum());
        let found = SHARES.iter().find(|(_, part)| {
            let here = share < *part;
            share = share.saturating_sub(*part);
            here
        });
        let victim = found.map_or(Victim::Producer, |(victim, _)| *victim);
        // The ledgers of broker and keeper do not move while they stand still, and nobody is promised that they do.
        let may_stop = !matches!(victim, Victim::Broker | Victim::Keeper);
        let manner = match chance.below(10) {
            0 if may_stop => Manner::Pause(between(chance, TOO_LONG, STOPPED)),
            1 if may_stop => Manner::Pause(between(chance, Duration::ZERO, CHAIN)),
            2 if may_stop => Manner::Freeze(between(chance, Duration::ZERO, STOPPED)),
            _ => Manner::Kill,
        };
        // Three of four fall while others wait for it, the rest at any moment.
        let (moment, most) = match victim {
            _ if chance.below(4) == 0 => (Moment::Begin, ROUND),
            Victim::Porter => (Moment::Import, IMPORT),
            _ => (Moment::Begin, victim.awaited_for()),
        };
        Self { victim, manner, moment, after: between(chance, Duration::ZERO, most) }
    }

    /// Whether somebody feels it, if it falls in time.
    #[must_use]
    pub fn can_be_felt(&self) -> bool {
        match (self.victim, self.manner) {
            (Victim::Driver(_) | Victim::Porter | Victim::Stage, Manner::Pause(time)) => time >= TOO_LONG,
            (Victim::Bystander, _) | (_, Manner::Pause(_)) => false,
            // What is sent to one that stands still has been sent.
            (Victim::Consumer, manner) => manner == Manner::Kill,
            _ => true,
        }
    }

    /// What it is called in the account of a run.
    #[must_use]
    pub fn name(&self) -> String {
        let who = match self.victim {
            Victim::Driver(device) => format!("driver {device}"),
            other => format!("{other:?}").to_lowercase(),
        };
        let how = match self.manner {
            Manner::Kill => "killed",
            Manner::Pause(time) if time >= TOO_LONG => "stopped for too long",
            Manner::Pause(_) => "stopped, continued",
            Manner::Freeze(_) => "stopped, killed",
        };
        format!("{who} {how}")
    }
}

/// A process that will be struck. It is held by an fd, so that nobody else is who got its number.
#[derive(Debug)]
pub struct Target {
    /// Its process.
    pub pid: u32,
    fd: OwnedFd,
}

impl Target {
    /// Takes hold of a child of `parent`; none if it is gone, or somebody else's.
    ///
    /// A number from a listing may have been given to a stranger since, so whose child it is is looked at while it is
    /// held. `parent` is this process, or a child of it that was not waited for: no stranger gets those numbers.
    #[must_use]
    pub fn hold(pid: u32, parent: u32) -> Option<Self> {
        let number = Pid::from_raw(i32::try_from(pid).ok()?)?;
        let target = Self { pid, fd: pidfd_open(number, PidfdFlags::empty()).ok()? };
        let is_child = processes::parent(pid) == Some(parent);
        // As long as it lives, nobody else has its number: what was read was about it.
        (is_child && target.lives()).then_some(target)
    }

    fn lives(&self) -> bool {
        let mut end = [PollFd::new(&self.fd, PollFlags::IN)];
        poll(&mut end, Some(&Timespec::default())).is_ok_and(|ended| ended == 0)
    }

    /// Strikes it, when its time has come. `others` says when the consumer is about to import; that it is closed says
    /// that nobody waits any more, and a stop is over.
    #[must_use]
    pub fn strike(&self, blow: Blow, begun_ns: u64, others: &Receiver<()>) -> Struck {
        let begun_ns = match blow.moment {
            Moment::Begin => begun_ns,
            Moment::Import => others.recv().map_or(begun_ns, |()| clock::now()),
        };
        while let Some(rest) = rest(begun_ns, blow.after) {
            std::thread::park_timeout(rest);
        }
        match blow.manner {
            Manner::Kill => {
                let at_ns = self.signal(Signal::KILL);
                Struck { at_ns, over_ns: at_ns }
            }
            Manner::Pause(time) => self.stop(time, Signal::CONT, others),
            Manner::Freeze(time) => self.stop(time, Signal::KILL, others),
        }
    }

    fn stop(&self, time: Duration, then: Signal, others: &Receiver<()>) -> Struck {
        let at_ns = self.signal(Signal::STOP);
        while let Some(rest) = rest(at_ns, time) {
            if others.recv_timeout(rest) == Err(RecvTimeoutError::Disconnected) {
                break;
            }
        }
        Struck { at_ns, over_ns: self.signal(then) }
    }

    /// Sends a signal; when. One that is dead takes none.
    fn signal(&self, signal: Signal) -> u64 {
        let at_ns = clock::now();
        let gone = pidfd_send_signal(&self.fd, signal).is_err();
        debug_assert!(!gone || signal != Signal::STOP);
        at_ns
    }
}

fn between(chance: &mut Chance, least: Duration, most: Duration) -> Duration {
    let room = u64::try_from(most.saturating_sub(least).as_micros()).unwrap_or(u64::MAX);
    least + Duration::from_micros(chance.below(room))
}

/// What is left of a time; none if it is over.
fn rest(begun_ns: u64, time: Duration) -> Option<Duration> {
    let end = begun_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    end.checked_sub(clock::now()).filter(|rest| *rest > 0).map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().expect("it is on every Linux")
    }

    #[test]
    fn a_child_is_held_and_nobody_elses() {
        let mut child = sleeper();
        let (own, held) = (std::process::id(), |parent| Target::hold(child.id(), parent).is_some());
        let found = [held(own), held(1), held(child.id())];
        child.kill().expect("a child of ours");
        child.wait().expect("a child of ours");
        assert_eq!(found, [true, false, false]);
    }

    #[test]
    fn a_child_that_has_ended_is_not_held_before_and_after_it_was_waited_for() {
        let mut child = sleeper();
        child.kill().expect("a child of ours");
        processes::until(Duration::from_secs(5), "it ends", || !processes::is_alive(child.id()));
        let unreaped = Target::hold(child.id(), std::process::id()).is_none();
        child.wait().expect("a child of ours");
        assert_eq!([unreaped, Target::hold(child.id(), std::process::id()).is_none()], [true, true]);
    }
}
