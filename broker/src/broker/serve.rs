//! The loop: wait, take, pass on.

use vgem_core::io::Input;
use vgem_os::clock;

use super::poller::{EVENTS, Readiness, Source, TURN};
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
        let were_all = ready.len() < EVENTS;
        // Drivers before clients: what has ended makes room for what is asked, and a client that saw its points
        // pass must not be refused for jobs whose end is already in our socket.
        for (source, readiness) in ready.iter().filter(|(source, _)| !source.asks()) {
            dispatch(shell, *source, *readiness);
        }
        ready.retain(|(source, _)| source.asks());
        serve_in_turn(shell, &mut ready, were_all);
        ready.clear();
        on_time(shell);
    }
}

/// How long to sleep, nanoseconds; without an end when nothing is to be done at any time.
fn timeout(shell: &Shell) -> Option<u64> {
    let gates = shell.doors.values().filter_map(|door| door.gate.opens_at());
    let next = shell.core.next_deadline().map(|at| at.0).into_iter().chain(gates);
    next.min().map(|at| at.saturating_sub(clock::now()))
}

/// Lets those who ask for work have their turns, by domain if there are several.
fn serve_in_turn(shell: &mut Shell, ready: &mut [(Source, Readiness)], were_all: bool) {
    if !shell.turns.are_shared() {
        for (source, readiness) in ready {
            dispatch(shell, *source, *readiness);
        }
        return;
    }
    ready.sort_by_key(|(source, _)| match source {
        Source::Client(link) => shell.turns.place(*link),
        _ => 0,
    });
    let mut connections = 0;
    for (source, mut readiness) in ready.iter().copied() {
        let domain = match source {
            Source::Client(link) => shell.clients.get(&link).map(|client| (client.domain(), link)),
            _ => None,
        };
        let Some((domain, link)) = domain else {
            dispatch(shell, source, readiness);
            continue;
        };
        connections += 1;
        readiness.readable &= shell.turns.has(domain, link);
        if readiness.readable || readiness.writable {
            let began = clock::now();
            dispatch(shell, source, readiness);
            shell.turns.took(domain, clock::now().saturating_sub(began));
        }
    }
    shell.turns.looked_at(connections, were_all);
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
        Source::Control => {
            if readiness.writable {
                shell.control_writable();
            }
            if readiness.readable {
                shell.control_ready();
            }
        }
        Source::Listener(door) => shell.accept(door),
    }
    // Connections that ended on the way.
    shell.go_on();
}

/// Does what it is time for. The clock is asked only if something has a time.
fn on_time(shell: &mut Shell) {
    shell.reopen_gates();
    if shell.core.next_deadline().is_some_and(|at| at.0 <= clock::now()) {
        shell.happen(Input::Tick);
    }
}
