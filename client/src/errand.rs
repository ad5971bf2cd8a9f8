//! Errands: requests that somebody needs but must not wait for. One thread per client runs them, one after the other.
//!
//! A signal must not wait for the broker, and neither must a task; what they have to ask is asked here, with blocking
//! calls. The thread is started by the first errand and ends with its client.
//!
//! Invariant: an errand ends, because every request does.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::Core;

type Errand = Box<dyn FnOnce() + Send>;

/// The way to a client's errand thread, once there is one.
#[derive(Debug, Default)]
pub(crate) struct Errands(Mutex<Option<Sender<Errand>>>);

/// Has `errand` run soon. Without a thread for it, it is run here.
pub(crate) fn run(core: &Arc<Core>, errand: impl FnOnce() + Send + 'static) {
    let mut way = core.errands.0.lock().unwrap_or_else(PoisonError::into_inner);
    let to = match way.as_ref() {
        Some(to) => to,
        None => match start() {
            Some(to) => way.insert(to),
            None => {
                drop(way);
                return errand();
            }
        },
    };
    // The thread lives for as long as the way to it.
    drop(to.send(Box::new(errand)));
}

fn start() -> Option<Sender<Errand>> {
    let (to, errands) = channel();
    let run = move || work(&errands);
    std::thread::Builder::new().name("vgem-errands".into()).spawn(run).ok()?;
    Some(to)
}

fn work(errands: &Receiver<Errand>) {
    while let Ok(errand) = errands.recv() {
        errand();
    }
}
