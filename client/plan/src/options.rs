//! What a plan is to be.

use std::time::Duration;

use vgem::{Sva, UserQueueOptions};

use crate::engines;
use crate::way::Aim;

/// What a plan is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOptions {
    pub(crate) devices: Option<Vec<String>>,
    pub(crate) depth: u32,
    pub(crate) aim: Aim,
    pub(crate) budget: Duration,
    pub(crate) sizes: Vec<u64>,
    pub(crate) longest: Duration,
    pub(crate) sva: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            devices: None,
            depth: 0,
            aim: Aim::Latency,
            budget: Duration::from_millis(200),
            sizes: vec![256, 16 << 10, 256 << 10],
            longest: Duration::from_millis(1),
            sva: false,
        }
    }
}

impl PlanOptions {
    /// Every device that there is an engine of in this program; done first is best; 200 ms for measuring.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These devices, and no others. One without an engine in this program goes by its queues alone and is not measured.
    #[must_use]
    pub fn devices<S: Into<String>>(mut self, devices: impl IntoIterator<Item = S>) -> Self {
        self.devices = Some(devices.into_iter().map(Into::into).collect());
        self
    }

    /// How deep the queues are: of jobs and of entries under way, as [`vgem::UserQueueOptions::depth`].
    #[must_use]
    pub const fn depth(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// What the best way is the best at, where a call does not say.
    #[must_use]
    pub const fn aim(mut self, aim: Aim) -> Self {
        self.aim = aim;
        self
    }

    /// How long measuring may take, once the drivers are up; 200 ms otherwise. It is exceeded by one probe at most, and by a
    /// second if a device does not answer, which ends the measuring. Zero measures nothing.
    #[must_use]
    pub const fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    /// The sizes that are measured, bytes; 256 B, 16 KiB and 256 KiB otherwise. Less than two measure nothing.
    #[must_use]
    pub fn sizes(mut self, sizes: impl IntoIterator<Item = u64>) -> Self {
        self.sizes = sizes.into_iter().collect();
        self
    }

    /// Also opens user queues that reach plain memory, for calls over that ([`crate::Plan::plain`]): each takes a driver
    /// process of this client's own. They read whatever a call names, and write vectors that are lent to them meanwhile.
    #[must_use]
    pub const fn sva(mut self) -> Self {
        self.sva = true;
        self
    }

    pub(crate) fn plain_queue(&self) -> Option<UserQueueOptions> {
        self.sva.then(|| UserQueueOptions::new().depth(self.depth).sva(Sva::ReadWrite))
    }

    /// How long an operation on the CPU may keep a task's thread (of `aio`), as far as was measured; 1 ms otherwise. Beyond
    /// it goes to the device, unless nothing but the CPU is allowed.
    #[must_use]
    pub const fn longest_on_task(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// The devices to open, of those that there are.
    pub(crate) fn wanted(&self, there: &[vgem::DeviceName]) -> Vec<String> {
        let is_there = |name: &&&str| there.iter().any(|one| one.name == ***name);
        match &self.devices {
            Some(devices) => devices.clone(),
            None => engines::DEVICES.iter().filter(is_there).map(|name| (*name).to_owned()).collect(),
        }
    }
}
