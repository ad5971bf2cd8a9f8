//! What may come of a blow, and by when it must be known.
//!
//! **Within its deadline.** Every job of a round has 100 ms from the moment it is ready ([`CHAIN`]), and one process is
//! struck, so of all jobs that wait for each other at most one device's use that time up: what it owed is ended
//! together, and what depends on it fails at once. So every wait must end within 100 ms of its beginning, and
//! [`SLACK`] is what it may be late. Other deadlines, each by name:
//! - an import has 100 ms from its request to its porter (`import_ms`);
//! - only its driver can say when a job that waits for a client's promise is ready; from one that stands still the job
//!   has until the promise is due, and its 100 ms after that;
//! - an actor that stands still can take no answer: its waits end within the slack of its being continued;
//! - nobody wakes who waits when the **broker** is killed, for it was the one who would have: every waiter looks by
//!   itself ten times a second, so it knows within [`LOST`] of the blow.
//!
//! Who has no core can do nothing: from a blow to the last waiter many processes have to run one after the other, the
//! dying one included. So a round in which somebody had to wait for a core for longer than [`CROWDED`] shows nothing
//! about time; it is judged without it, and does not count ([`Case::is_crowded`]). In one that counts nothing is
//! excused.
//!
//! **A named error.** What a wait may end in is a table, by who is struck:
//!
//! | struck | who submits, who reads | the other domain |
//! |---|---|---|
//! | a driver, killed | done, or `DeviceLost` | done |
//! | a driver, stopped past a job's deadline, and killed perhaps | done, or `TimedOut` (the job at its head), `Cancelled` (behind it) | done |
//! | the porter, killed | done, an import by another porter | done |
//! | the porter, stopped past an import's time | done; an import is refused, `Late` or `Gone`, naming the porter | done |
//! | the stage, killed | done; who waits for its point `OwnerDied` | done |
//! | the stage, stopped past its promise | done; who waits for its point, and it, `TimedOut` | done |
//! | the producer | its jobs are done; no buffer comes to the consumer | done |
//! | the consumer, the bystander | done | done |
//! | any of these, stopped and continued in time | done | done |
//! | broker, keeper | done, or the broker is lost | done, or the broker is lost |
//!
//! A failure names the device and the process that was struck, and all failures of one round have one cause.

use std::time::Duration;

use super::blow::{Blow, Manner, Struck, Victim};
use super::words::{End, Failure, Record, Role};

/// What a job may take from the moment it is ready, as the arena configures and its actors ask.
pub const CHAIN: Duration = Duration::from_millis(100);
/// What an answer may be late.
pub const SLACK: Duration = Duration::from_millis(50);
/// The frame whose last job waits for the stage.
pub const GATED: usize = 1;
/// How often a waiter looks whether there is a broker.
pub const LOST: Duration = Duration::from_millis(100);
/// With so much time without a core nobody can be late: less than half of [`SLACK`], which two cores may make twice
/// as long ([`super::pressure`]), and less than a healthy device has to spare.
pub const CROWDED: Duration = Duration::from_millis(20);
/// A stop that is this short does not let anything be late.
const IN_TIME: Duration = Duration::from_millis(60);

/// A round, as it is judged.
#[derive(Debug)]
pub struct Case {
    /// What was to be done.
    pub blow: Blow,
    /// The process it was done to.
    pub pid: u32,
    /// When.
    pub struck: Struck,
    /// How long somebody waited for a core meanwhile.
    pub crowded: Duration,
    /// Whether an import went to another porter than the one that was struck.
    pub detour: bool,
}

impl Case {
    /// Whether it shows nothing about time: others had the cores.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.crowded > CROWDED
    }

    /// What is wrong with how one wait ended; nothing if it may have.
    #[must_use]
    pub fn wrong(&self, role: Role, record: &Record) -> Option<String> {
        let what = match &record.end {
            End::Done => None,
            End::Failed(failure) => self.wrong_failure(role, failure),
            End::Refused(code, said) => self.wrong_refusal(role, record, code, said),
            End::Lost(_) => (!self.ends_the_broker()).then(|| "the broker is lost".to_owned()),
            End::Alone(_) => self.wrong_silence(role, record),
            End::Late(_) => Some("it hung".to_owned()),
            End::Wrong(said) => Some(said.clone()),
        };
        what.or_else(|| self.too_late(role, record))
    }

    /// The cause of a wait that ended in a failure which the blow brought.
    #[must_use]
    pub fn cause(&self, record: &Record) -> Option<u64> {
        match &record.end {
            End::Failed(failure) if !self.is_starved(failure) => Some(failure.cause),
            _ => None,
        }
    }

    fn wrong_failure(&self, role: Role, failure: &Failure) -> Option<String> {
        if self.is_starved(failure) {
            return None;
        }
        if role == Role::Bystander {
            return Some("it is of another domain".to_owned());
        }
        let device = match self.blow.victim {
            Victim::Driver(device) => Some(device),
            Victim::Stage => None,
            _ => return Some("nobody's death may fail this".to_owned()),
        };
        let lost = if device.is_some() { "DeviceLost" } else { "OwnerDied" };
        let codes: &[&str] = match self.blow.manner {
            _ if self.is_continued_in_time() => &[],
            // It takes its time to die where nobody has a core.
            Manner::Kill if !self.is_crowded() => &[lost],
            Manner::Pause(_) => &["TimedOut", "Cancelled"],
            Manner::Kill | Manner::Freeze(_) => &[lost, "TimedOut", "Cancelled"],
        };
        // A batch that came when the device was known to be lost fails with that loss.
        let came_late = failure.code == "Refused" && device.is_some();
        let may_be = codes.contains(&failure.code.as_str()) || came_late && codes.contains(&lost);
        if !may_be {
            return Some(format!("{} where {codes:?} may be", failure.code));
        }
        let named = failure.device.as_deref() == device && failure.pid == Some(self.pid);
        (!named).then(|| format!("it does not name {device:?}, process {}", self.pid))
    }

    fn wrong_refusal(&self, role: Role, record: &Record, code: &str, said: &str) -> Option<String> {
        // The porter had no core.
        if code == "Late" && record.what == "receive" && self.is_crowded() {
            return None;
        }
        let may_be = match self.blow.victim {
            Victim::Porter => {
                role == Role::Consumer
                    && record.what == "receive"
                    && !self.is_continued_in_time()
                    && ["Late", "Gone"].contains(&code)
                    && said.contains("porter")
            }
            // A batch that came when the device was known to be lost.
            Victim::Driver(device) => {
                role == Role::Producer
                    && record.what == "submit"
                    && code == "Gone"
                    && said.contains(device)
                    && !self.is_continued_in_time()
            }
            _ => false,
        };
        (!may_be).then(|| "nothing may be refused here".to_owned())
    }

    fn wrong_silence(&self, role: Role, record: &Record) -> Option<String> {
        let may_be = match self.blow.victim {
            // What was to be handed on had failed before.
            Victim::Producer | Victim::Driver(_) | Victim::Broker | Victim::Keeper => role == Role::Consumer,
            Victim::Consumer => role == Role::Producer && record.what == "send",
            _ => false,
        };
        (!may_be).then(|| "its partner is alive".to_owned())
    }

    fn too_late(&self, role: Role, record: &Record) -> Option<String> {
        let late = self.late(role, record);
        (late > SLACK && !self.is_crowded()).then(|| format!("{late:?} late"))
    }

    /// How long after its deadline a wait ended.
    #[must_use]
    pub fn late(&self, role: Role, record: &Record) -> Duration {
        let after =
            |ns: u64, time: Duration| ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let mut limit = after(record.begun_ns, CHAIN);
        if self.stands_still(role) {
            limit = limit.max(self.struck.over_ns);
        }
        if self.ends_the_broker() {
            limit = limit.max(after(self.struck.at_ns, LOST));
        }
        let gated = format!("sec {GATED}");
        let may_stand = !matches!(self.blow.manner, Manner::Kill);
        if self.blow.victim == Victim::Driver("sec") && may_stand && record.what == gated {
            limit = after(record.begun_ns, CHAIN + CHAIN);
        }
        // It waits for a partner that stands still, and then as long as anybody.
        if self.blow.victim == Victim::Producer && role == Role::Consumer {
            limit = limit.max(after(self.struck.over_ns, CHAIN));
        }
        Duration::from_nanos(record.ended_ns.saturating_sub(limit))
    }

    /// Whether it is the end of a job whose healthy device, or client, had no core.
    fn is_starved(&self, failure: &Failure) -> bool {
        self.is_crowded()
            && failure.pid != Some(self.pid)
            && ["TimedOut", "Cancelled"].contains(&failure.code.as_str())
            && [" exceeded ", " has not signalled it", " did not promise "]
                .iter()
                .any(|how| failure.said.contains(how))
    }

    fn stands_still(&self, role: Role) -> bool {
        let victim = match role {
            Role::Producer => Victim::Producer,
            Role::Consumer => Victim::Consumer,
            Role::Bystander => Victim::Bystander,
            Role::Stage => Victim::Stage,
        };
        self.blow.victim == victim
    }

    fn is_continued_in_time(&self) -> bool {
        !self.is_crowded() && matches!(self.blow.manner, Manner::Pause(time) if time < IN_TIME)
    }

    fn ends_the_broker(&self) -> bool {
        matches!(self.blow.victim, Victim::Broker | Victim::Keeper)
    }
}
