//! P9: a buffer from the client's own pool costs no system call.
//!
//! A second process takes two buffers from its pool and gives them back, as often as it is told; this one traces it and
//! counts every system call it makes, once for few and once for many reuses. What grows with the number of reuses is
//! what a reuse costs: nothing. The time of a reuse is taken untraced, beside a fresh buffer.

use vgem_os::clock;
use vgem_os::seqpacket::Socket;

use crate::floor::PACKET;
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat};
use crate::report::{Bound, Claim, JudgedIn, Unit};
use crate::role::{Part, Role};
use crate::sample::{Times, ns_f64};
use crate::subject::{Traced, Vgemd, reuse};

/// Reuses of the shorter turn, and what the longer one has more.
const FEW: u64 = 10;
const MORE: u64 = 10_000;

/// The series.
const CALLS: &str = "system calls per 10 000 reuses from a pool";
const REUSED: &str = "two buffers of 64 KiB taken and given back";
const FRESH: &str = "two buffers of 64 KiB, fresh";

/// Starts vgemd and the process that is traced.
///
/// # Errors
/// When one cannot start, or tracing is forbidden.
pub fn open(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    let vgemd = Vgemd::start()?;
    let connection = Socket::connect(vgemd.embedded.socket())?;
    let (link, there) = Socket::pair()?;
    let user = Role::start(Part::PoolUser, vec![connection.into(), there.into()])?;
    let traced = Traced::new(user.pid(), link)?;
    let (cores, rounds) = (context.power.cores, context.options.rounds(500));
    Ok(Box::new(P9 { cores, rounds, traced, _user: user, vgemd }))
}

#[derive(Debug)]
struct P9 {
    cores: Cores,
    rounds: usize,
    traced: Traced,
    _user: Role,
    vgemd: Vgemd,
}

impl P9 {
    /// The system calls of so many reuses, and a few.
    fn calls(&self, times: u64) -> anyhow::Result<u64> {
        let mut packet = [0; PACKET];
        packet[..8].copy_from_slice(&times.to_le_bytes());
        Ok(self.traced.calls(&packet)?.0)
    }
}

impl Bench for P9 {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        let few = self.calls(FEW)?;
        let many = self.calls(FEW + MORE)?;
        found.number(CALLS, Unit::Count, ns_f64(many) - ns_f64(few));
        self.cores.sit(Seat::Here)?;
        let pool = self.vgemd.client.pool(64 << 10);
        pool.reserve(2)?;
        let (mut reused, mut fresh) = (Times::default(), Times::default());
        for _ in 0..self.rounds {
            let before = clock::now();
            reuse(&pool, 100)?;
            reused.push((clock::now() - before) / 100);
            let before = clock::now();
            let made = [self.vgemd.client.create(64 << 10)?, self.vgemd.client.create(64 << 10)?];
            fresh.push(clock::now() - before);
            drop(made);
        }
        found.times(REUSED, reused);
        found.times(FRESH, fresh);
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        vec![
            Claim::number("P9", CALLS, Bound::AtMost(0.0)).judged_in(JudgedIn::Any),
            Claim::ratio("P9", REUSED, FRESH, Bound::Shown),
        ]
    }
}
