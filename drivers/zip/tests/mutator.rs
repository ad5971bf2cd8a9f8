//! Another thread writes the operands of every operation while it runs: errors and wrong bytes, never worse.
//!
//! This is what a process of the same domain can do. A crash here is the failure of the whole test process.
#![expect(clippy::expect_used, reason = "a test ends where its arrangement fails")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{From, compress, decompress, noise, run, text};
use vgem_driver::SpanMut;
use vgem_driver_zip::Format;
use vgem_driver_zip::description::op;
use vgem_os::mapping::Mapping;

/// How long each operation is run against the mutator.
const EACH: Duration = Duration::from_millis(200);
const LEN: usize = 256 * 1024;

/// Flips bytes until told to stop: singly, and in runs, all over `memory`.
fn mutate(memory: SpanMut<'_>, stop: &AtomicBool, seed: u64) {
    let mut state = seed | 1;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below")
    };
    let runs = [vec![0_u8; 512], vec![0xff; 512], noise(512), text(512)];
    while !stop.load(Ordering::Relaxed) {
        let run = &runs[random(runs.len())];
        let longest = if random(4) == 0 { run.len() } else { 4 };
        let len = 1 + random(longest);
        memory.copy_from(random(memory.len() - len), &run[..len]).expect("inside");
    }
}

/// Runs one operation again and again on operands that change; between runs the input is made whole.
fn race(op: u16, format: Format, level: Option<u64>, original: &[u8], output_len: usize) {
    let input = Mapping::anonymous(original.len()).expect("memory");
    // The output ends where the mapping ends: what is written beyond it is a fault, not somebody's data.
    let room = output_len.next_multiple_of(4096);
    let output = Mapping::anonymous(room).expect("memory");
    let input = input.span_mut().expect("writable");
    let output = output.span_mut().expect("writable").sub(room - output_len, output_len).expect("inside");
    input.copy_from(0, original).expect("inside");
    let stop = AtomicBool::new(false);
    let mut runs = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| mutate(input, &stop, 7));
        scope.spawn(|| mutate(output, &stop, 11));
        let end = Instant::now() + EACH;
        while runs < 3 || Instant::now() < end {
            match run(From::OwnDomain, op, format, level, input.as_span(), output) {
                Ok(done) => assert!(done.len <= output_len as u64),
                Err(error) => assert!(!error.text.is_empty()),
            }
            input.copy_from(0, original).expect("inside");
            runs += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
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

#[test]
fn compressing_one_letter_that_becomes_all_letters_stays_inside_its_output() {
    // Counted as one short code each and then replaced by letters with long codes: what a writer that trusts its
    // count would write beyond the end.
    let data = vec![b'a'; LEN];
    for format in Format::ALL {
        race(op::COMPRESS, format, Some(1), &data, 2000);
    }
}
