//! The loop: wait, take, pass on.

use vgem_core::io::Input;
use vgem_os::clock;

use super::poller::{Readiness, Source, TURN};
use super::shell::Shell;
use crate::exit::Failure;

/// Serves until the keeper says stop, or is gone.
pub(super) fn serve(shell: &mut Shell) -> Result<(), Failure> {
    let mut ready = Vec::new();
    loop {
        if let Some(how) = shell.over() {
            shell.fail_all_pages();
            return how;
        }
        let timeout = timeout(shell);
        shell.poller.wait(timeout, &mut ready)?;
        // Drivers before clients: what has ended makes room for what is asked, and a client that saw its points
        // pass must not be refused for jobs whose end is already in our socket.
        for (source, readiness) in ready.iter().filter(|(source, _)| !source.asks()) {
            dispatch(shell, *source, *readiness);
        }
        for (source, readiness) in ready.iter().filter(|(source, _)| source.asks()) {
            dispatch(shell, *source, *readiness);
        }
        ready.clear();
        on_time(shell);
    }
}

/// How long to sleep, nanoseconds; without an end when nothing is to be done at any time.
fn timeout(shell: &Shell) -> Option<u64> {
    let next = [shell.core.next_deadline().map(|at| at.0), shell.gate.opens_at()];
    next.into_iter().flatten().min().map(|at| at.saturating_sub(clock::now()))
}

fn dispatch(shell: &mut Shell, source: Source, readiness: Readiness) {
    match source {
        Source::Client(link) => {
            if readiness.writable {
                shell.client_writable(link);
            }
            if readiness.readable {
                shell.client_ready(link);
            }
        }
        Source::Instance(instance) => {
            if readiness.writable {
                shell.instance_writable(instance);
            }
            if readiness.readable {
                shell.instance_ready(instance, TURN);
            }
        }
        Source::Process(instance) => shell.process_ended(instance),
        // Nothing is ever sent to a porter.
        Source::Porter(porter) => shell.porter_ready(porter, TURN),
        Source::PorterProcess(porter) => shell.porter_gone(porter),
        Source::Keeper => {
            if readiness.writable {
                shell.keeper_writable();
            }
            if readiness.readable {
                shell.keeper_ready();
            }
        }
        Source::Watcher => {
            for hint in shell.memory.hints() {
                shell.happen(hint);
            }
        }
        Source::Listener => shell.accept(),
    }
    // Connections that ended on the way.
    shell.go_on();
}

/// Does what it is time for. The clock is asked only if something has a time.
fn on_time(shell: &mut Shell) {
    if shell.gate.opens_at().is_some() {
        shell.reopen_gate();
    }
    if shell.core.next_deadline().is_some_and(|at| at.0 <= clock::now()) {
        shell.happen(Input::Tick);
    }
}
