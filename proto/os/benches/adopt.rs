//! What adopting and restoring cost, as a ratio to copying the same bytes with `memcpy` between pages that are there.
//!
//! Of each the fastest round counts: other processes only ever make a round slower.
//!
//! `cargo bench -p vgem-os --bench adopt`

use std::hint::black_box;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use vgem_os::adopt::PageVec;
use vgem_os::memory::{Access, HugePages, ObjectMemory};

const KIB: usize = 1024;

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:>12} {:>11} {:>11} {:>11}   ratios to memcpy", "bytes", "memcpy", "adopt", "restore")?;
    for len in [4 * KIB, 1024 * KIB, 64 * 1024 * KIB, 256 * 1024 * KIB] {
        let rounds = (512 * 1024 * KIB / len).clamp(10, 2000);
        let copy = fastest((0..rounds).map(|_| copied(len)));
        let (adopt, restore): (Vec<_>, Vec<_>) = (0..rounds).map(|_| adopted(len)).unzip();
        let (adopt, restore) = (fastest(adopt.into_iter()), fastest(restore.into_iter()));
        let ratio = |time: Duration| time.as_secs_f64() / copy.as_secs_f64();
        let us = |time: Duration| format!("{:.1} us", time.as_secs_f64() * 1e6);
        let (a, r) = (ratio(adopt), ratio(restore));
        writeln!(
            out,
            "{len:>12} {:>11} {:>11} {:>11}   adopt {a:.1}, restore {r:.1}",
            us(copy),
            us(adopt),
            us(restore)
        )?;
    }
    Ok(())
}

/// One plain copy between pages that are there.
fn copied(len: usize) -> Duration {
    let from = filled(len);
    let mut into = filled(len);
    let start = Instant::now();
    into.copy_from_slice(black_box(&from));
    let took = start.elapsed();
    black_box(&into);
    took
}

/// One adoption and one restoration.
fn adopted(len: usize) -> (Duration, Duration) {
    let object = ObjectMemory::create(len as u64, HugePages::Advise, "bench").expect("memory");
    let export = object.export(Access::Write).expect("an export");
    let (region, _) = filled(len).into_region();
    let start = Instant::now();
    let adopted = region.replace(export.as_fd()).map_err(|(_, error)| error).expect("adopted");
    let middle = Instant::now();
    let region = adopted.restore().map_err(|(_, error)| error).expect("restored");
    let end = Instant::now();
    drop(region);
    (middle - start, end - middle)
}

fn filled(len: usize) -> PageVec {
    let mut pages = PageVec::zeroed(len);
    pages.fill(0x5a);
    pages
}

fn fastest(times: impl Iterator<Item = Duration>) -> Duration {
    times.min().unwrap_or_default()
}
