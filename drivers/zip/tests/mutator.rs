//! Another thread writes the operands of every operation while it runs: errors and wrong bytes, never worse.
//!
//! This is what a process of the same domain can do. A crash here is the failure of the whole test process.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{Peer, compress, decompress, noise, run, text};
use vgem_driver::SpanMut;
use vgem_driver::mapping::Mapping;
use vgem_driver::testing::{Random, beside, flip};
use vgem_driver_zip::Format;
use vgem_driver_zip::description::op;

const LEN: usize = 256 * 1024;

/// Bytes behind an output that must never change, and what they hold.
const BEYOND_LEN: usize = 1 << 20;
const BEYOND: u8 = 0xc5;

/// An output operand with bytes behind it.
struct Output {
    memory: Mapping,
    len: usize,
}

impl Output {
    fn new(len: usize) -> Self {
        let memory = Mapping::anonymous(len + BEYOND_LEN).expect("memory");
        memory.span_mut().expect("writable").fill(BEYOND);
        Self { memory, len }
    }

    fn span(&self) -> SpanMut<'_> {
        self.memory.span_mut().expect("writable").sub(0, self.len).expect("inside")
    }

    fn assert_nothing_beyond(&self, what: &str) {
        let mut beyond = vec![0; BEYOND_LEN];
        self.memory.span().copy_to(self.len, &mut beyond).expect("inside");
        let written = beyond.iter().rposition(|byte| *byte != BEYOND);
        assert_eq!(written, None, "{what}: bytes behind the output were written");
    }
}

/// Runs one operation again and again on operands that change; between runs the input is made whole.
fn race(op: u16, format: Format, level: Option<u64>, original: &[u8], output_len: usize) {
    let input = Mapping::anonymous(original.len()).expect("memory");
    let output = Output::new(output_len);
    let input = input.span_mut().expect("writable");
    input.copy_from(0, original).expect("inside");
    let harm = |random: &mut Random| {
        flip(input, random);
        flip(output.span(), random);
    };
    beside(harm, || {
        let done = run(Peer::OwnDomain, op, format, level, input.as_span(), output.span());
        match &done {
            Ok(done) => assert!(done.len <= output_len as u64),
            Err(error) => assert!(!error.text.is_empty()),
        }
        input.copy_from(0, original).expect("inside");
        done.is_ok()
    });
    output.assert_nothing_beyond(&format!("{format:?} level {level:?}"));
    let packed = compress(format, None, b"still alive");
    assert_eq!(decompress(format, &packed, 100).expect("decompress"), b"still alive");
}

#[test]
fn compressing_bears_operands_that_change() {
    let data = [text(LEN / 2), vec![b'a'; LEN / 4], noise(LEN / 4)].concat();
    for format in Format::ALL {
        let levels: &[u64] = match format {
            Format::Zstd => &[1, 3, 5, 9, 19],
            Format::Gzip => &[0, 1, 6, 9, 12],
            Format::Zlib | Format::Deflate => &[6],
            Format::Lz4 => &[0],
        };
        for level in levels {
            race(op::COMPRESS, format, Some(*level), &data, LEN * 2);
            race(op::COMPRESS, format, Some(*level), &data, LEN / 3);
        }
    }
}

#[test]
fn decompressing_bears_operands_that_change() {
    let data = [text(LEN / 2), vec![b'a'; LEN / 4], noise(LEN / 4)].concat();
    for format in Format::ALL {
        for level in [1, u64::try_from(format.level_max()).expect("not negative")] {
            let packed = compress(format, Some(level), &data);
            race(op::DECOMPRESS, format, None, &packed, data.len());
            race(op::DECOMPRESS, format, None, &packed, data.len() * 2);
        }
    }
}

/// Letters that nothing matches: `common` of 32 parts from the first 64, the others from the last 192.
fn letters(common: u8) -> Vec<u8> {
    let (choices, letters) = (noise(LEN + 1000), noise(LEN));
    let letter = |(choice, letter): (&u8, u8)| match choice % 32 < common {
        true => letter % 64,
        false => 64 + letter % 192,
    };
    choices[1000..].iter().zip(letters).map(letter).collect()
}

/// Compresses `LEN` bytes that are replaced by others once, at any moment of the run, into an output that just
/// holds the first.
fn replace(format: Format, level: u64) {
    // The letters of the second get long codes, if those are made for the first.
    let (first, second) = (letters(31), letters(0));
    let memory = Mapping::anonymous(LEN).expect("memory");
    let input = memory.span_mut().expect("writable");
    let output = Output::new(compress(format, Some(level), &first).len() + 64);
    let (begun, replaced) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut longest = Duration::ZERO;
    for round in 0..3 {
        let begin = Instant::now();
        compress(format, Some(level), &first[..LEN - round]);
        longest = longest.max(begin.elapsed());
    }
    std::thread::scope(|scope| {
        const ROUNDS: u64 = 60;
        scope.spawn(|| {
            for round in 1..=ROUNDS {
                while begun.load(Ordering::Acquire) < round {
                    std::hint::spin_loop();
                }
                let at = longest.mul_f64(round as f64 / ROUNDS as f64);
                let begin = Instant::now();
                while begin.elapsed() < at {
                    std::hint::spin_loop();
                }
                input.copy_from(0, &second).expect("inside");
                replaced.store(round, Ordering::Release);
            }
        });
        for round in 1..=ROUNDS {
            input.copy_from(0, &first).expect("inside");
            begun.store(round, Ordering::Release);
            drop(run(Peer::OwnDomain, op::COMPRESS, format, Some(level), input.as_span(), output.span()));
            while replaced.load(Ordering::Acquire) < round {
                std::hint::spin_loop();
            }
        }
    });
    output.assert_nothing_beyond(&format!("{format:?} level {level:?}"));
}

#[test]
fn content_that_is_replaced_after_it_was_counted_stays_inside_the_output() {
    for format in Format::ALL {
        for level in [1, u64::try_from(format.level_default()).expect("not negative")] {
            replace(format, level);
        }
    }
}
