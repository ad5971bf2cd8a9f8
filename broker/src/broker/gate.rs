//! How fast connections are let in: a bucket of [`BURST`] that fills at one per [`EACH_NS`].
//!
//! When it is empty, and when the process has no fd left, the listening socket is not looked at until a moment
//! that is known. Meanwhile its backlog throttles those who connect, and only them.

/// Connections at once.
pub(super) const BURST: u64 = 256;
/// One more connection after this long, nanoseconds: 1000 per second.
const EACH_NS: u64 = 1_000_000;
/// How long nobody is let in after the kernel refused, nanoseconds.
const REFUSED_NS: u64 = 100_000_000;

/// The gate of one listening socket.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// When the bucket will be full again, in the limit of many connections.
    full_at: u64,
    /// When to look again, while nobody is let in.
    opens_at: Option<u64>,
}

impl Gate {
    /// Whether there is one connection's share; if there is none the gate is closed then.
    pub(super) fn has_share(&mut self, now: u64) -> bool {
        let most = now.saturating_add(BURST * EACH_NS);
        let early = self.after_one(now).saturating_sub(most);
        if early > 0 {
            self.opens_at = Some(now.saturating_add(early));
        }
        early == 0
    }

    /// Takes the share of a connection that was let in.
    pub(super) fn take(&mut self, now: u64) {
        self.full_at = self.after_one(now);
    }

    /// When the bucket will be full again if one share more is taken.
    fn after_one(&self, now: u64) -> u64 {
        self.full_at.max(now).saturating_add(EACH_NS)
    }

    /// Closes the gate for a while: the kernel has no fd or no memory for a connection.
    pub(super) fn refuse(&mut self, now: u64) {
        self.opens_at = Some(now.saturating_add(REFUSED_NS));
    }

    /// When it opens, while it is closed.
    pub(super) const fn opens_at(&self) -> Option<u64> {
        self.opens_at
    }

    /// Opens it if it is time; true if it was closed.
    pub(super) fn open(&mut self, now: u64) -> bool {
        let opens = self.opens_at.is_some_and(|at| at <= now);
        if opens {
            self.opens_at = None;
        }
        opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Gate {
        fn admit(&mut self, now: u64) -> bool {
            let admits = self.has_share(now);
            if admits {
                self.take(now);
            }
            admits
        }
    }

    #[test]
    fn a_burst_is_let_in_and_then_one_at_a_time() {
        let mut gate = Gate::default();
        let admitted = (0..1000).take_while(|_| gate.admit(5)).count();
        assert_eq!(admitted as u64, BURST);
        let opens = gate.opens_at().expect("closed");
        assert_eq!((opens, gate.open(opens)), (5 + EACH_NS, true));
        assert!(gate.admit(opens) && !gate.admit(opens));
    }

    #[test]
    fn an_open_gate_needs_no_timer() {
        let mut gate = Gate::default();
        assert!(gate.admit(5));
        assert_eq!(gate.opens_at(), None);
    }
}
