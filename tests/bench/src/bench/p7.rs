//! P7 and P8: a fresh object, exported, mapped and ready for every device, against the bare system calls.
//!
//! What is timed ends in the same state on both sides: memory sealed against change of size, of mode 0600, an open file
//! of it for its user that is mapped and populated, and its pages pinned by somebody else. vgemd makes it in two requests;
//! the floor by hand pays, for P8, one packet there and one back with an fd, which is the least that asking a broker
//! can cost. One more export, mapped for reading, is timed apart. Ends are not timed: after each turn the object is
//! gone from the broker's ledger before the next begins.
//!
//! P7 is about large objects, where pages decide: with ordinary pages, and with huge pages of shared memory, which this
//! bench allows for its time and then forbids again if it may (root). P8 is about small ones, where the broker does;
//! what it adds to the bare calls is printed in nanoseconds.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use vgem::{Access, Buffer};
use vgem_os::clock;
use vgem_os::mapping::{Mapping, Populate};
use vgem_os::memory;

use crate::floor::{FdPackets, Objects};
use crate::harness::{Bench, Context, Repetition};
use crate::machine::{Cores, Seat, ShmemHuge};
use crate::noise::pause;
use crate::report::{Bound, Claim, Unit};
use crate::sample::Times;
use crate::subject::{PATIENCE, Vgemd};

/// One size of object.
#[derive(Debug, Clone, Copy)]
struct Size {
    name: &'static str,
    len: usize,
    rounds: usize,
}

const LARGE: [Size; 2] =
    [Size { name: "64 MiB", len: 64 << 20, rounds: 4 }, Size { name: "2 MiB", len: 2 << 20, rounds: 40 }];
const SMALL: [Size; 2] =
    [Size { name: "4 KiB", len: 4 << 10, rounds: 300 }, Size { name: "1 MiB", len: 1 << 20, rounds: 60 }];

/// Which pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    Ordinary,
    Huge,
}

impl Pages {
    const fn name(self) -> &'static str {
        match self {
            Self::Ordinary => "4 KiB pages",
            Self::Huge => "huge pages",
        }
    }
}

/// Starts vgemd for P7.
///
/// # Errors
/// When it cannot start.
pub fn open_large(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    Ok(Box::new(Fresh::open(context, true)?))
}

/// Starts vgemd and the other end of the packets for P8.
///
/// # Errors
/// When one cannot start.
pub fn open_small(context: &Context<'_>) -> anyhow::Result<Box<dyn Bench>> {
    Ok(Box::new(Fresh::open(context, false)?))
}

#[derive(Debug)]
struct Fresh {
    cores: Cores,
    quick: bool,
    large: bool,
    packets: FdPackets,
    vgemd: Vgemd,
    notes: Vec<String>,
}

/// One more export of an object, mapped for reading.
fn share(buffer: &Buffer, len: usize) -> anyhow::Result<Mapping> {
    let export = buffer.export(Access::Read)?;
    Ok(Mapping::map(export.as_fd(), len, memory::Access::Read, Populate::Lazy)?)
}

impl Fresh {
    fn open(context: &Context<'_>, large: bool) -> anyhow::Result<Self> {
        let (cores, quick) = (context.power.cores, context.options.quick);
        let packets = FdPackets::start()?;
        Ok(Self { cores, quick, large, packets, vgemd: Vgemd::start()?, notes: Vec::new() })
    }

    /// Ends an object and waits until the broker has forgotten it.
    fn end(&self, buffer: Buffer) -> anyhow::Result<()> {
        drop(buffer);
        let patience = Instant::now() + PATIENCE;
        while self.vgemd.client.status()?.objects != 0 {
            anyhow::ensure!(Instant::now() < patience, "an object is not retired within {PATIENCE:?}");
            pause(Duration::from_micros(200));
        }
        Ok(())
    }

    fn measure(&mut self, size: Size, pages: Pages, found: &mut Repetition) -> anyhow::Result<()> {
        let rounds = if self.quick { (size.rounds / 10).max(1) } else { size.rounds };
        let (mut subject, mut floor) = (Times::default(), Times::default());
        let (mut shared, mut shared_floor) = (Times::default(), Times::default());
        for turn in 0..=rounds {
            let begin = clock::now();
            let made = self.vgemd.client.create(size.len as u64)?;
            let ready = clock::now();
            let second = share(&made, size.len)?;
            let both = clock::now();
            anyhow::ensure!(
                made.pinned() == size.len as u64,
                "{} of {} bytes are pinned: raise RLIMIT_MEMLOCK",
                made.pinned(),
                size.len
            );
            drop(second);
            self.end(made)?;
            let bare_begin = clock::now();
            let bare = Objects::make(size.len)?;
            if !self.large {
                self.packets.round_trip()?;
            }
            let bare_ready = clock::now();
            let second = bare.share()?;
            if !self.large {
                self.packets.round_trip()?;
            }
            let bare_both = clock::now();
            drop((second, bare));
            // The first turn warms up.
            if turn > 0 {
                subject.push(ready - begin);
                shared.push(both - ready);
                floor.push(bare_ready - bare_begin);
                shared_floor.push(bare_both - bare_ready);
            }
        }
        let (ours, bare) = (subject_series(size, pages), self.floor_series(size, pages));
        let medians = subject.median().zip(floor.median());
        found.times(&ours, subject);
        found.times(&bare, floor);
        if let Some((ours, bare)) = medians {
            found.number(&added_series(size, pages), Unit::Ns, ours - bare);
        }
        if !self.large {
            found.times(&shared_series(size), shared);
            found.times(&shared_floor_series(size), shared_floor);
        }
        Ok(())
    }

    const fn sizes(&self) -> [Size; 2] {
        if self.large { LARGE } else { SMALL }
    }

    fn floor_series(&self, size: Size, pages: Pages) -> String {
        let trip = if self.large { "" } else { " + SEQPACKET round trip with an fd" };
        format!("bare calls{trip}, {}, {}", size.name, pages.name())
    }
}

fn subject_series(size: Size, pages: Pages) -> String {
    format!("vgemd: create with export, map, commit, {}, {}", size.name, pages.name())
}

fn shared_series(size: Size) -> String {
    format!("vgemd: one more export, mapped, {}", size.name)
}

fn shared_floor_series(size: Size) -> String {
    format!("bare open and map + SEQPACKET round trip with an fd, {}", size.name)
}

fn added_series(size: Size, pages: Pages) -> String {
    format!("vgemd adds to that, {}, {}", size.name, pages.name())
}

impl Bench for Fresh {
    fn repetition(&mut self, found: &mut Repetition) -> anyhow::Result<()> {
        self.cores.sit(Seat::Here)?;
        self.packets.seat(&self.cores, Seat::There)?;
        self.vgemd.processes()?.seat(&self.cores, Seat::There, Seat::There)?;
        for size in self.sizes() {
            self.measure(size, Pages::Ordinary, found)?;
        }
        if self.large {
            match ShmemHuge::allow() {
                Ok(_allowed) => {
                    for size in self.sizes() {
                        self.measure(size, Pages::Huge, found)?;
                    }
                }
                Err(why) => {
                    let note = format!("no huge pages: {why:#}");
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
            }
        }
        self.cores.sit(Seat::Anywhere)
    }

    fn claims(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for size in self.sizes() {
            let (target, most) = if self.large { ("P7", 1.05) } else { ("P8", 1.3) };
            for (pages, most) in [(Pages::Ordinary, most), (Pages::Huge, 1.3)] {
                let (ours, bare) = (subject_series(size, pages), self.floor_series(size, pages));
                if pages == Pages::Ordinary || self.large {
                    claims.push(Claim::ratio(target, &ours, &bare, Bound::AtMost(most)));
                    claims.push(Claim::number(target, &added_series(size, pages), Bound::Shown));
                }
            }
            if !self.large {
                let (ours, bare) = (shared_series(size), shared_floor_series(size));
                claims.push(Claim::ratio(target, &ours, &bare, Bound::Shown));
            }
        }
        claims
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
