//! What a new buffer is to be: its name, its pages, and who may write it. And what a new queue is to be.

use vgem_proto::codec::Zero;
use vgem_proto::ids::DeviceId;
use vgem_proto::limits;
use vgem_proto::message::client::{CreateObject, OpenQueue};
use vgem_proto::rights::HugePages;

use crate::core;
use crate::device::Device;
use crate::error::{LocalError, Result};
use crate::queue::room_for;

/// What a new queue is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueOptions {
    depth: u32,
    priority: u8,
}

impl QueueOptions {
    /// 256 jobs in flight, and no priority over others.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Jobs that may be in flight; 0 is 256, 1024 is the most.
    #[must_use]
    pub const fn depth(mut self, depth: u32) -> Self {
        self.depth = depth;
        self
    }

    /// 0, the ordinary one, to 7: among jobs of one domain that may run, a device prefers those of a higher priority. What
    /// they wait for, on this device or others, goes first with them.
    #[must_use]
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// The depth that was asked for.
    pub(crate) const fn asked_depth(self) -> u32 {
        self.depth
    }

    /// The request for such a queue.
    pub(crate) fn request(self, device: DeviceId) -> OpenQueue {
        OpenQueue { device, depth: room_for(self.depth), priority: self.priority, reserved: Zero }
    }
}

/// What a new buffer is to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BufferOptions {
    name: String,
    huge: HugePages,
    writer: Option<DeviceId>,
}

impl BufferOptions {
    /// No name, and huge pages where the machine has them to spare.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A name for people; cut to 64 bytes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Which pages.
    #[must_use]
    pub const fn huge(mut self, huge: HugePages) -> Self {
        self.huge = huge;
        self
    }

    /// A *sealed result*: only jobs on queues of `device` may write it. Every client, this one too, has it for reading
    /// only, so whoever gets it knows that no client forged it. Open a queue on the device first.
    #[must_use]
    pub fn sealed_for(mut self, device: &Device) -> Self {
        self.writer = Some(device.id());
        self
    }

    /// Whether it is to be a sealed result.
    pub(crate) const fn is_sealed(&self) -> bool {
        self.writer.is_some()
    }

    /// Which pages it is to have.
    pub(crate) const fn pages(&self) -> HugePages {
        self.huge
    }

    /// What people are to call it.
    pub(crate) fn people_call_it(&self) -> &str {
        &self.name
    }

    /// The request for `count` buffers of `len` bytes each, rounded up to whole pages.
    pub(crate) fn request(&self, count: u32, len: u64) -> Result<CreateObject> {
        if len == 0 {
            return Err(LocalError::Empty { what: "buffer" }.into());
        }
        let page = match self.huge {
            HugePages::Transparent | HugePages::Never => limits::PAGE_LEN,
            HugePages::Size2M => 2 << 20,
            HugePages::Size1G => 1 << 30,
        };
        // Too long for a u64 is too long for the broker as well: let it say so, with its limit.
        let len = len.checked_next_multiple_of(page).unwrap_or(u64::MAX - (page - 1));
        Ok(CreateObject {
            len,
            writer: self.writer.unwrap_or(DeviceId(0)),
            count,
            huge: self.huge,
            reserved: Zero,
            name: core::cut(&self.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn lengths_are_rounded_up_to_whole_pages() {
        let asked = |options: BufferOptions, len| options.request(1, len).map(|request| request.len).ok();
        assert_eq!(asked(BufferOptions::new(), 1), Some(4096));
        assert_eq!(asked(BufferOptions::new(), 8192), Some(8192));
        assert_eq!(asked(BufferOptions::new().huge(HugePages::Size2M), 1), Some(2 << 20));
    }

    #[test]
    fn a_buffer_of_nothing_is_refused_here() {
        assert!(matches!(BufferOptions::new().request(1, 0), Err(Error::Local(LocalError::Empty { .. }))));
    }
}
