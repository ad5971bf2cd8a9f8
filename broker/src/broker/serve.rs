//! The loop: wait, take, pass on.

use vgem_core::io::Input;
use vgem_os::clock;
use vgem_proto::ids::DomainId;

use super::poller::{EVENTS, Readiness, Source, TURN};
use super::shell::Shell;
use super::turns::{NEVER, Place};
use crate::exit::Failure;

/// Serves until the keeper says stop, or is gone.
pub(super) fn serve(shell: &mut Shell) -> Result<(), Failure> {
    let (mut ready, mut shared) = (Vec::new(), Vec::new());
    loop {
        if let Some(how) = shell.over() {
            shell.fail_all_pages();
            return how;
        }
        let timeout = timeout(shell);
        shell.poller.wait(timeout, &mut ready)?;
        let shows_all = ready.len() < EVENTS;
        if shell.turns.are_shared() {
            serve_in_turn(shell, &mut ready, shows_all, &mut shared);
        } else {
            serve_all(shell, &ready);
        }
        ready.clear();
        on_time(shell);
    }
}

/// How long to sleep, nanoseconds; without an end when nothing is to be done at any time.
fn timeout(shell: &Shell) -> Option<u64> {
    let gates = shell.doors.values().filter_map(|door| door.gate.opens_at());
    let gates = gates.chain(shell.porters.iter().filter_map(|(_, porter)| porter.post.opens_at()));
    let next = shell
        .core
        .next_deadline()
        .map(|at| at.0)
        .into_iter()
        .chain(gates)
        .chain(shell.newcomers.due())
        .chain(shell.callers.due());
    next.min().map(|at| at.saturating_sub(clock::now()))
}

/// Serves everybody who is ready.
fn serve_all(shell: &mut Shell, ready: &[(Source, Readiness)]) {
    // Drivers before clients: what has ended makes room for what is asked, and a client that saw its points
    // pass must not be refused for jobs whose end is already in our socket.
    for asks in [false, true] {
        for (source, readiness) in ready.iter().filter(|(source, _)| source.asks() == asks) {
            dispatch(shell, *source, *readiness, NEVER);
        }
    }
}

/// Somebody whose time is that of a domain.
#[derive(Debug)]
struct Sharer {
    place: Place,
    domain: DomainId,
    source: Source,
    readiness: Readiness,
}

/// Serves who is ready in the order and for as long as domains have turns; what is of no domain is served first.
fn serve_in_turn(
    shell: &mut Shell,
    ready: &mut Vec<(Source, Readiness)>,
    shows_all: bool,
    sharers: &mut Vec<Sharer>,
) {
    ready.retain(|(source, readiness)| match shell.domain_of(*source) {
        Some(domain) => {
            let place = Place::default();
            sharers.push(Sharer { place, domain, source: *source, readiness: *readiness });
            false
        }
        None => true,
    });
    serve_all(shell, ready);
    shell.turns.begin(sharers.iter().map(|sharer| sharer.domain));
    for sharer in sharers.iter_mut() {
        sharer.place = shell.turns.place(sharer.domain, sharer.source.client());
    }
    sharers.sort_unstable_by_key(|sharer| sharer.place);
    let mut connections = 0;
    for Sharer { domain, source, mut readiness, .. } in sharers.drain(..) {
        let left = shell.turns.left(domain, shows_all);
        readiness.readable &= left > 0;
        if let Some(link) = source.client() {
            connections += 1;
            // Who went in this very look was forgotten already.
            if shell.clients.contains_key(&link) {
                shell.turns.note(link, left > 0);
            }
        }
        if readiness.readable || readiness.writable {
            let began = clock::now();
            dispatch(shell, source, readiness, began.saturating_add(left));
            shell.turns.took(domain, clock::now().saturating_sub(began));
        }
    }
    shell.turns.end(connections, shows_all);
}

/// Does what can be done with a source; of what it has sent as much as is taken until `until`.
fn dispatch(shell: &mut Shell, source: Source, readiness: Readiness, until: u64) {
    match source {
        Source::Client(link) => {
            if readiness.writable {
                shell.client_writable(link);
            }
            if readiness.readable {
                shell.client_ready(link, until);
            }
        }
        Source::Instance(instance) => {
            if readiness.writable {
                shell.instance_writable(instance);
            }
            if readiness.readable {
                shell.instance_ready(instance, TURN, until);
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
    shell.reopen_doormen();
    shell.let_in_late();
    shell.give_up_newcomers(clock::now);
    if shell.core.next_deadline().is_some_and(|at| at.0 <= clock::now()) {
        shell.happen(Input::Tick);
    }
}
