//! A buffer from one process to another by hand: mapped once on both sides, a fence there and a fence back.

use vgem_os::fence::{ObserverFace, PagePair, SignallerFace};
use vgem_os::mapping::{Mapping, PAGE, Populate, Span};
use vgem_os::memory::{Access, HugePages, ObjectMemory};

use super::{Fds, GENERATION, SLOT, Waiter, next};
use crate::machine::{Cores, Seat};
use crate::role::{Part, Role};

/// The producer's side; the consumer is a second process.
#[derive(Debug)]
pub struct Handover {
    memory: Mapping,
    sends: SignallerFace,
    acknowledged: Waiter,
    point: u64,
    consumer: Role,
}

impl Handover {
    /// Starts the consumer of a buffer of `len` bytes.
    ///
    /// # Errors
    /// When a process, memory or a page cannot be had.
    pub fn start(len: usize) -> anyhow::Result<Self> {
        let object = ObjectMemory::create(len as u64, HugePages::None, "by-hand")?;
        let export = object.export(Access::Write)?;
        let memory = Mapping::map(std::os::fd::AsFd::as_fd(&export), len, Access::Write, Populate::Now)?;
        let (there, back) = (PagePair::create()?, PagePair::create()?);
        let (heard, answers) = (there.observer_fds()?, back.signaller_fds()?);
        let read_only = object.export(Access::Read)?;
        let fds = vec![heard.page, heard.interest, answers.page, answers.interest, read_only];
        let sends = SignallerFace::map(there.signaller_fds()?)?;
        sends.publish(SLOT, GENERATION, 0, 0, &[]);
        let acknowledged = Waiter::new(ObserverFace::map(back.observer_fds()?)?);
        Ok(Self { memory, sends, acknowledged, point: 0, consumer: Role::start(Part::Consumer, fds)? })
    }

    /// Puts the consumer on a seat.
    ///
    /// # Errors
    /// When it is gone.
    pub fn seat(&self, cores: &Cores, seat: Seat) -> anyhow::Result<()> {
        self.consumer.seat(cores, seat)
    }

    /// Copies `payload` in, hands it over, and sleeps until it was read.
    ///
    /// # Errors
    /// When the payload is longer than the buffer, or the consumer is gone.
    pub fn round(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.memory.span_mut()?.copy_from(0, payload)?;
        self.point += 1;
        self.sends.signal(SLOT, self.point, 0, None)?;
        self.acknowledged.wait(self.point)
    }
}

/// Reads one byte of each page of a buffer for each point, for ever: it is killed.
pub(crate) fn consume(fds: &mut Fds) -> anyhow::Result<()> {
    use vgem_os::fence::{ObserverFds, SignallerFds};
    let arrives = Waiter::new(ObserverFace::map(ObserverFds { page: next(fds)?, interest: next(fds)? })?);
    let answers = SignallerFace::map(SignallerFds { page: next(fds)?, interest: next(fds)? })?;
    answers.publish(SLOT, GENERATION, 0, 0, &[]);
    let object = next(fds)?;
    let fd = std::os::fd::AsFd::as_fd(&object);
    let len = usize::try_from(vgem_os::memory::verify_export(fd, 0, Access::Read)?)?;
    let memory = Mapping::map(fd, len, Access::Read, Populate::Now)?;
    for point in 1.. {
        arrives.wait_for_ever(point)?;
        std::hint::black_box(one_byte_of_each_page(memory.span())?);
        answers.signal(SLOT, point, 0, None)?;
    }
    Ok(())
}

fn one_byte_of_each_page(span: Span<'_>) -> anyhow::Result<u64> {
    let mut sum = 0u64;
    for offset in (0..span.len()).step_by(PAGE) {
        let mut byte = [0];
        span.copy_to(offset, &mut byte)?;
        sum = sum.wrapping_add(u64::from(byte[0]));
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_of_each_page_is_read() {
        let mut bytes = vec![0; 3 * PAGE];
        (bytes[0], bytes[PAGE], bytes[2 * PAGE], bytes[PAGE + 1]) = (1, 2, 4, 100);
        assert_eq!(one_byte_of_each_page(Span::of_slice(&bytes)).expect("all inside"), 7);
    }
}
