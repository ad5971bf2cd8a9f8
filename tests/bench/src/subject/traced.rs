//! A second process whose system calls are counted from outside: this one traces it.

use anyhow::{bail, ensure};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use vgem_os::seqpacket::Socket;

use crate::floor::{PACKET, receive};
use crate::machine;

/// A process whose system calls are counted. It answers each packet with one packet.
#[derive(Debug)]
pub struct Traced {
    pid: Pid,
    link: Socket,
}

impl Traced {
    /// Traces a process that waits for its first packet.
    ///
    /// # Errors
    /// When tracing is forbidden.
    pub fn new(pid: i32, link: Socket) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(pid);
        ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACESYSGOOD)?;
        Ok(Self { pid, link })
    }

    /// Every system call of the process from a packet to its answer, and the answer. The call that receives the packet and
    /// the one that sends the answer are among them.
    ///
    /// # Errors
    /// When it has threads that are not counted, got a signal, or ended.
    pub fn calls(&self, order: &[u8; PACKET]) -> anyhow::Result<(u64, [u8; PACKET])> {
        let threads = machine::threads(self.pid.as_raw())?.len();
        ensure!(threads == 1, "the traced process has {threads} threads, one is traced");
        // It is stopped on its way into or out of the call that waits for the packet, which then is sent.
        ptrace::interrupt(self.pid)?;
        waitpid(self.pid, None)?;
        ptrace::syscall(self.pid, None)?;
        self.link.send(order, &[])?;
        let mut stops = 0_u64;
        let answer = loop {
            match waitpid(self.pid, None)? {
                WaitStatus::PtraceSyscall(_) => stops += 1,
                WaitStatus::Stopped(_, signal) if signal != Signal::SIGTRAP => {
                    bail!("the traced process got {signal}");
                }
                WaitStatus::PtraceEvent(..) | WaitStatus::Stopped(..) => {}
                other => bail!("the traced process ended: {other:?}"),
            }
            // An answer is there as soon as the call that sends it has returned.
            if let Some(answer) = self.answer()? {
                break answer;
            }
            ptrace::syscall(self.pid, None)?;
        };
        ptrace::cont(self.pid, None)?;
        Ok((stops.div_ceil(2), answer))
    }

    fn answer(&self) -> anyhow::Result<Option<[u8; PACKET]>> {
        self.link.set_nonblocking(true)?;
        let mut packet = [0; PACKET];
        let got = match receive(&self.link, &mut packet) {
            Ok(Some(_)) => Ok(Some(packet)),
            Ok(None) => bail!("the traced process has gone"),
            Err(error) => match error.downcast_ref::<vgem_os::OsError>() {
                Some(error) if error.would_block() => Ok(None),
                _ => Err(error),
            },
        };
        self.link.set_nonblocking(false)?;
        got
    }
}
