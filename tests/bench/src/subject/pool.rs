//! A process that reuses buffers of its own pool, for somebody who counts its system calls.
//!
//! It is told how often by a packet, does it, and answers. So whoever counts sees the same few calls around every
//! turn, and what grows with the number of reuses is what a reuse costs.

use std::time::Duration;

use vgem::ClientOptions;
use vgem_os::seqpacket::Socket;

use crate::floor::{Fds, PACKET, next, receive};

/// Bytes of a buffer.
const LEN: u64 = 64 << 10;

/// Serves until its link closes: the first fd is a connection to a broker, the second the link.
///
/// # Errors
/// When the broker or the link fails.
pub(crate) fn use_pool(fds: &mut Fds) -> anyhow::Result<()> {
    let options = ClientOptions::new().name("pool user").request_timeout(Duration::from_secs(10));
    let client = options.over(Socket::from(next(fds)?))?;
    let link = Socket::from(next(fds)?);
    let pool = client.pool(LEN);
    pool.reserve(2)?;
    let mut packet = [0; PACKET];
    while receive(&link, &mut packet)?.is_some() {
        let (count, _) = packet.split_at(8);
        let times = count.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        reuse(&pool, times)?;
        link.send(&packet, &[])?;
    }
    Ok(())
}

/// Takes two buffers and gives them back, `times` times.
///
/// # Errors
/// When the pool has none and cannot make one.
pub(crate) fn reuse(pool: &vgem::BufferPool, times: u64) -> anyhow::Result<()> {
    for _ in 0..times {
        let (one, other) = (pool.take()?, pool.take()?);
        std::hint::black_box((&one, &other));
    }
    Ok(())
}
