//! What a streaming copy costs for every distance of its two sides within a page, as a ratio to the plain copy.
//!
//! Loads that agree in their last twelve bits with a store that is still under way wait for it: a copy whose target lies
//! a little beyond its source, modulo 4096, can become many times slower. The fastest of many rounds counts.
//!
//! `cargo bench -p vgem-os --bench copy`

use std::io::Write as _;
use std::time::{Duration, Instant};

use vgem_os::mapping::{CopyStyle, Mapping, copy_span};

const DISTANCES: &[usize] = &[0, 8, 16, 24, 32, 64, 128, 256, 512, 1024, 2048, 3072, 3584, 4032, 4080];

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for len in [64 * 1024, 1024 * 1024, 16 * 1024 * 1024] {
        let from = Mapping::anonymous(len + 8192)?;
        let into = Mapping::anonymous(len + 8192)?;
        for mapping in [&from, &into] {
            mapping.span_mut()?.fill(1);
        }
        for distance in DISTANCES {
            let plain = fastest(&into, &from, len, *distance, CopyStyle::Plain);
            let stream = fastest(&into, &from, len, *distance, CopyStyle::Streaming);
            let ratio = stream.as_secs_f64() / plain.as_secs_f64();
            writeln!(
                out,
                "{len:>9} bytes, {distance:>4} apart: plain {plain:?}, streaming {stream:?}, {ratio:.2}"
            )?;
        }
    }
    Ok(())
}

fn fastest(into: &Mapping, from: &Mapping, len: usize, distance: usize, style: CopyStyle) -> Duration {
    // Both mappings begin at a page.
    let (start, rounds) = (64, (64 << 20) / len);
    let rounds = (0..rounds.clamp(8, 300)).map(|_| {
        let target = into.span_mut().ok().and_then(|span| span.sub(start + distance, len));
        let source = from.span().sub(start, len);
        let (target, source) = target.zip(source).expect("both have room for a page more");
        let began = Instant::now();
        copy_span(target, source, style).expect("the lengths are equal");
        began.elapsed()
    });
    rounds.min().unwrap_or_default()
}
