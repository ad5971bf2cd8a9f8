//! How fast connections are let in: a bucket for each door, which fills all the time.
//!
//! When it is empty, and when the process has no fd left, the listening socket is not looked at until a moment
//! that is known. Meanwhile its backlog throttles those who connect, and only them.
//!
//! Who comes to the door of everybody has a bucket of its own beside (`callers`), which is empty long before that of the
//! door is: so one user leaves the door open for others.

/// How many at once, and how fast one more may come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// At once.
    pub(super) burst: u64,
    /// One more after this long, nanoseconds.
    pub(super) each_ns: u64,
}

/// Of one user, or of one domain: 1000 connections per second.
pub(super) const OF_ONE: Rate = Rate { burst: 256, each_ns: 1_000_000 };
/// Of everybody: two users' at once, and per second those of ten.
pub(super) const OF_ALL: Rate = Rate { burst: 2 * OF_ONE.burst, each_ns: OF_ONE.each_ns / 10 };

/// How long nobody is let in after the kernel refused, nanoseconds.
const REFUSED_NS: u64 = 100_000_000;

/// What is left of a rate.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When it will be full again, in the limit of many.
    full_at: u64,
}

impl Bucket {
    /// From when on there is one share; that is over if there is one now.
    pub(super) const fn share_at(&self, rate: Rate) -> u64 {
        self.full_at.saturating_sub((rate.burst - 1) * rate.each_ns)
    }

    /// Takes one.
    pub(super) fn take(&mut self, rate: Rate, now: u64) {
        self.full_at = self.full_at.max(now).saturating_add(rate.each_ns);
    }

    /// Whether it is as if nothing had ever been taken.
    pub(super) const fn is_full(&self, now: u64) -> bool {
        self.full_at <= now
    }
}

/// The gate of one listening socket.
#[derive(Debug)]
pub(super) struct Gate {
    rate: Rate,
    bucket: Bucket,
    /// When to look again, while nobody is let in.
    opens_at: Option<u64>,
}

impl Gate {
    /// One that lets in so fast.
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, bucket: Bucket::default(), opens_at: None }
    }

    /// Whether there is one connection's share; if there is none the gate is closed then.
    pub(super) fn has_share(&mut self, now: u64) -> bool {
        let at = self.bucket.share_at(self.rate);
        if at > now {
            self.opens_at = Some(at);
        }
        at <= now
    }

    /// Takes the share of a connection that was let in.
    pub(super) fn take(&mut self, now: u64) {
        self.bucket.take(self.rate, now);
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
        let mut gate = Gate::new(OF_ONE);
        let admitted = (0..1000).take_while(|_| gate.admit(5)).count();
        assert_eq!(admitted as u64, OF_ONE.burst);
        let opens = gate.opens_at().expect("closed");
        assert_eq!((opens, gate.open(opens)), (5 + OF_ONE.each_ns, true));
        assert!(gate.admit(opens) && !gate.admit(opens));
    }

    #[test]
    fn an_open_gate_needs_no_timer() {
        let mut gate = Gate::new(OF_ALL);
        assert!(gate.admit(5));
        assert_eq!(gate.opens_at(), None);
    }
}
