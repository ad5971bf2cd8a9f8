//! Deaths: a process of vgemd is killed while others wait for what it owes.
//!
//! A device that is killed restarts after a while, later each time, so every death is one of a fresh broker.

use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vgem::{Client, Fence, FenceError, Point};
use vgem_os::clock;

use super::partner::{given, in_time, pass_token, send_token, take_token, taken};
use super::{Kind, OBJECT_LEN, PATIENCE, Process, Vgemd};
use crate::floor::{Fds, Victims};
use crate::machine::{self, Cores, Seat};
use crate::noise::pause;
use crate::role::{Part, Role};

/// The device that is killed.
const VICTIM: &str = "copy";
/// A device that waits for it.
const OTHER: &str = "sec";
/// Until everybody who waits sleeps.
const SETTLE: Duration = Duration::from_millis(5);

/// What one death was.
#[derive(Debug, Clone, Copy)]
pub struct Death {
    /// From the signal until the last waiter had its error, nanoseconds.
    pub ns: u64,
    /// What the process that died was like.
    pub victim: Victims,
}

/// Somebody who waits on a thread of its own.
#[derive(Debug)]
struct Waiter(JoinHandle<(u64, Result<(), FenceError>)>);

impl Waiter {
    fn of(fence: Fence) -> Self {
        Self(spawn(move || {
            let ended = fence.wait(PATIENCE);
            (clock::now(), ended)
        }))
    }

    /// When it had its error.
    fn failed_at(self) -> anyhow::Result<u64> {
        match self.0.join() {
            Ok((at, Err(FenceError::Failed(_)))) => Ok(at),
            Ok((_, other)) => bail!("a waiter got {other:?}"),
            Err(_) => bail!("a waiter panicked"),
        }
    }
}

/// What a process is like, to make one like it.
fn likeness(process: &Process) -> anyhow::Result<Victims> {
    let threads = machine::threads(process.pid)?.len().saturating_sub(1);
    Ok(Victims { bytes: usize::try_from(process.memory()?)?, threads })
}

/// Kills, and waits until everybody has an error: how long that took, nanoseconds.
fn kill_and_wait(pid: Pid, waiters: Vec<Waiter>) -> anyhow::Result<u64> {
    pause(SETTLE);
    let before = clock::now();
    kill(pid, Signal::SIGKILL).context("SIGKILL")?;
    let mut last = before;
    for waiter in waiters {
        last = last.max(waiter.failed_at()?);
    }
    Ok(last - before)
}

/// Kills a device that is stopped in the middle of three clients' work: two wait for their own jobs of it, the third for
/// one of another device that was to read what the killed one writes.
///
/// # Errors
/// When vgemd cannot start, or a waiter gets anything but a failure.
pub fn of_a_driver(cores: &Cores, seat: Seat) -> anyhow::Result<Death> {
    let vgemd = Vgemd::start_to_die()?;
    let clients: Vec<Client> = (0..3).map(|_| vgemd.embedded.client()).collect::<Result<_, _>>()?;
    let mut works = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let queues = (client.device(VICTIM)?.queue(0)?, client.device(OTHER)?.queue(0)?);
        works.push((client, queues, client.create(OBJECT_LEN)?, number == 2));
    }
    let processes = vgemd.processes()?;
    let is_victim = |process: &&Process| process.kind == Kind::Driver(VICTIM.to_owned());
    let process = processes.all().iter().find(is_victim).context("no driver to kill")?;
    let victim = likeness(process)?;
    cores.seat_process(process.pid, seat)?;
    let pid = Pid::from_raw(process.pid);
    kill(pid, Signal::SIGSTOP).context("SIGSTOP")?;
    let mut waiters = Vec::new();
    for (client, (queue, other), buffer, is_behind) in &works {
        let mut batch = client.batch();
        batch.job(queue, "fill").output(buffer);
        if *is_behind {
            batch.job(other, "sha256").input(buffer);
        }
        waiters.push(Waiter::of(batch.submit_acknowledged()?.last().clone()));
    }
    Ok(Death { ns: kill_and_wait(pid, waiters)?, victim })
}

/// Kills a client that has promised a point of its timeline to three others: two wait for it themselves, of the third a
/// device's job does.
///
/// # Errors
/// As [`of_a_driver`].
pub fn of_a_client(cores: &Cores, seat: Seat) -> anyhow::Result<Death> {
    let vgemd = Vgemd::start_to_die()?;
    let clients: Vec<Client> = (0..3).map(|_| vgemd.embedded.client()).collect::<Result<_, _>>()?;
    let (link, fds) = given(&vgemd, &[])?;
    let role = Role::start(Part::ClientVictim, fds)?;
    let mut waiters = Vec::new();
    let mut kept = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let timeline = take_token(&link, client)?;
        let promised = timeline.point(Point(1));
        if number < 2 {
            waiters.push(Waiter::of(promised));
        } else {
            let (queue, buffer) = (client.device(VICTIM)?.queue(0)?, client.create(OBJECT_LEN)?);
            let mut batch = client.batch();
            batch.job(&queue, "fill").output(&buffer).after(&promised);
            waiters.push(Waiter::of(batch.submit_acknowledged()?.last().clone()));
            kept.push((queue, buffer));
        }
    }
    let process = Process { kind: Kind::Keeper, pid: role.pid() };
    let victim = likeness(&process)?;
    role.seat(cores, seat)?;
    let ns = kill_and_wait(Pid::from_raw(role.pid()), waiters)?;
    drop(kept);
    Ok(Death { ns, victim })
}

/// The client that is killed: promises a point to three others, and keeps nobody's promise.
pub(crate) fn victim(fds: &mut Fds) -> anyhow::Result<()> {
    let (client, link) = taken("victim", fds)?;
    let mut timeline = client.timeline("victim")?;
    timeline.promise_acknowledged(Point(1), in_time())?;
    for _ in 0..3 {
        send_token(&link, &mut timeline)?;
    }
    pass_token(&link).map(drop)
}
