//! Waiting for points of a fence page by hand: look, say so, look again, sleep.

use anyhow::bail;
use vgem_os::clock;
use vgem_os::fence::{ObserverFace, PointState, Slot};
use vgem_os::futex;

use super::{PATIENCE_NS, Rest};

/// The slot that floors use.
pub const SLOT: Slot = match Slot::new(0) {
    Some(slot) => slot,
    None => panic!("a page has a slot 0"),
};

/// The generation in it.
pub const GENERATION: u32 = 1;

/// The one sleeper of a fence page.
#[derive(Debug)]
pub struct Waiter {
    face: ObserverFace,
}

impl Waiter {
    /// The sleeper of this page.
    #[must_use]
    pub const fn new(face: ObserverFace) -> Self {
        Self { face }
    }

    /// Sleeps until `point` is signalled.
    ///
    /// # Errors
    /// When it failed, or did not come within five seconds.
    #[inline]
    pub fn wait(&self, point: u64) -> anyhow::Result<()> {
        if self.reached(point)? {
            return Ok(());
        }
        self.sleep(point, clock::deadline_in(PATIENCE_NS))
    }

    /// Waits until `point` is signalled, as told; the time its signaller gave it.
    ///
    /// # Errors
    /// As [`Self::wait`].
    #[inline]
    pub fn wait_as(&self, point: u64, rest: Rest) -> anyhow::Result<u64> {
        if !rest.spin(|| self.state(point) != PointState::Pending) && !self.reached(point)? {
            self.sleep(point, clock::deadline_in(PATIENCE_NS))?;
        }
        self.time_of(point)
    }

    /// As [`Self::wait_as`], without an end: for a process that is killed when it is not needed.
    ///
    /// # Errors
    /// When it failed.
    #[inline]
    pub fn wait_for_ever(&self, point: u64, rest: Rest) -> anyhow::Result<()> {
        if !rest.spin(|| self.state(point) != PointState::Pending) && !self.reached(point)? {
            self.sleep(point, u64::MAX)?;
        }
        Ok(())
    }

    fn sleep(&self, point: u64, deadline_ns: u64) -> anyhow::Result<()> {
        self.face.set_interest(SLOT, point);
        loop {
            let seen = self.face.doorbell();
            if self.reached(point)? {
                self.face.clear_interest(SLOT);
                return Ok(());
            }
            if futex::wait(self.face.word(), seen, deadline_ns)? == futex::Wake::TimedOut {
                bail!("point {point} did not come");
            }
        }
    }

    #[inline]
    fn reached(&self, point: u64) -> anyhow::Result<bool> {
        match self.state(point) {
            PointState::Pending => Ok(false),
            PointState::Ok { .. } => Ok(true),
            other => bail!("point {point}: {other:?}"),
        }
    }

    fn time_of(&self, point: u64) -> anyhow::Result<u64> {
        match self.state(point) {
            PointState::Ok { time_ns } => Ok(time_ns),
            other => bail!("point {point}: {other:?}"),
        }
    }

    #[inline]
    fn state(&self, point: u64) -> PointState {
        self.face.state(SLOT, GENERATION, point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vgem_os::fence::{PagePair, SignallerFace};

    #[test]
    fn a_sleeper_is_woken_for_its_point() {
        let keeper = PagePair::create().expect("two pages");
        let fence = SignallerFace::map(keeper.signaller_fds().expect("fds")).expect("mapped");
        let waiter = Waiter::new(ObserverFace::map(keeper.observer_fds().expect("fds")).expect("mapped"));
        fence.publish(SLOT, GENERATION, 0, 0, &[]);
        std::thread::scope(|threads| {
            let sleeping = threads.spawn(|| waiter.wait(2));
            fence.signal(SLOT, 1, 0, None).expect("it grows");
            fence.signal(SLOT, 2, 0, None).expect("it grows");
            sleeping.join().expect("the sleeper ends").expect("the point came");
        });
    }
}
