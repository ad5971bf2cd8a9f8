//! How fast the sec device is beside the plain library call, in MB/s of plaintext.
//!
//! `cargo bench -p vgem-driver-sec`. Engine (operands of the own domain, then of another) and reference take turns;
//! medians. For `seal` and `open` there are two references: within one buffer that stays in the cache, which no
//! pipeline has, and from one buffer to another. All on one core and warm: what a buffer on another core costs is
//! the business of the system's benches.
#![expect(clippy::print_stdout, reason = "a bench prints its numbers")]
#![expect(clippy::expect_used, reason = "a bench ends where its arrangement fails")]

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use vgem_driver::mapping::Mapping;
use vgem_driver::{Engine as _, OperandBytes, Options, ParamValue, Span, SpanMut, Task, TaskOperand};
use vgem_driver_sec::SecEngine;
use vgem_driver_sec::description::op;
use vgem_driver_sec::frame::OVERHEAD_LEN;
use vgem_proto::describe::Touch;
use vgem_proto::ids::ObjectKey;

/// Plaintext that is measured per row, bytes.
const VOLUME: usize = 256 << 20;
const KEY: [u8; 32] = [7; 32];

static ENGINE: LazyLock<SecEngine> = LazyLock::new(|| SecEngine::new(&Options::default()));

fn main() {
    println!(
        "{:<24} {:>8}  {:>8} {:>8} {:>10} {:>10}",
        "operation", "bytes", "engine", "foreign", "lib buf", "lib a to b"
    );
    for len in [4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20] {
        aead(len);
        digests(len);
    }
}

fn aead(len: usize) {
    for (word, name, algorithm) in
        [(0, "aes-256-gcm", &AES_256_GCM), (1, "chacha20-poly1305", &CHACHA20_POLY1305)]
    {
        let key = LessSafeKey::new(UnboundKey::new(algorithm, &KEY).expect("a key"));
        let nonce = || Nonce::assume_unique_for_key([1; 12]);
        // Each contender has buffers of its own: stores past the cache by one would slow down another.
        let memory = [len, len + OVERHEAD_LEN, len, len + OVERHEAD_LEN];
        let memory = memory.map(|len| Mapping::anonymous(len).expect("memory"));
        let [plain, frame, foreign_plain, foreign_frame] =
            memory.each_ref().map(|memory| memory.span_mut().expect("writable"));
        let own = (plain, frame, false);
        let foreign = (foreign_plain, foreign_frame, true);
        for (plain, ..) in [own, foreign] {
            plain.fill(3);
        }
        let (mut buf, mut from, mut to) = (vec![3; len], vec![3; len], vec![4; len]);
        let mut tag = [0; 16];
        let seal = |(plain, frame, foreign): (SpanMut<'_>, SpanMut<'_>, bool)| {
            let operands = [OperandBytes::Read(plain.as_span()), OperandBytes::Write(frame)];
            engine(op::SEAL, word, foreign, Touch::InPlace, &operands, true);
        };
        report(
            &format!("seal {name}"),
            len,
            &mut [
                &mut || seal(own),
                &mut || seal(foreign),
                &mut || {
                    let sealed = key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut buf);
                    drop(black_box(sealed).expect("sealed"));
                },
                &mut || {
                    key.seal_out_of_place_scatter(nonce(), Aad::empty(), &from, &mut to, &[], &mut tag)
                        .expect("sealed");
                },
            ],
        );
        let open = |(plain, frame, foreign): (SpanMut<'_>, SpanMut<'_>, bool)| {
            let operands = [OperandBytes::Read(frame.as_span()), OperandBytes::Write(plain)];
            engine(op::OPEN, word, foreign, Touch::Windows, &operands, true);
        };
        let mut sealed = vec![0; len];
        key.seal_out_of_place_scatter(nonce(), Aad::empty(), &to, &mut sealed, &[], &mut tag)
            .expect("sealed");
        report(
            &format!("open {name}"),
            len,
            &mut [&mut || open(own), &mut || open(foreign), &mut || {}, &mut || {
                key.open_separate_gather(nonce(), Aad::empty(), &sealed, &tag, &mut from).expect("opened");
            }],
        );
    }
}

fn digests(len: usize) {
    let data = vec![5_u8; len];
    let operands = [OperandBytes::Read(Span::of_slice(&data))];
    let mac = hmac::Key::new(hmac::HMAC_SHA256, &KEY);
    let run = |op, foreign, keyed| engine(op, 0, foreign, Touch::Windows, &operands, keyed);
    report(
        "sha256",
        len,
        &mut [&mut || run(op::SHA256, false, false), &mut || run(op::SHA256, true, false), &mut || {
            black_box(digest::digest(&digest::SHA256, &data));
        }],
    );
    report(
        "hmac-sha256",
        len,
        &mut [
            &mut || run(op::HMAC_SHA256, false, true),
            &mut || run(op::HMAC_SHA256, true, true),
            &mut || {
                black_box(hmac::sign(&mac, &data));
            },
        ],
    );
    report(
        "blake3",
        len,
        &mut [&mut || run(op::BLAKE3, false, false), &mut || run(op::BLAKE3, true, false), &mut || {
            black_box(blake3::hash(&data));
        }],
    );
}

/// Runs the contenders in turn and prints the median of each.
fn report(name: &str, len: usize, contenders: &mut [&mut dyn FnMut()]) {
    let rounds = (VOLUME / len).clamp(64, 4096);
    let mut times = vec![Vec::with_capacity(rounds); contenders.len()];
    for _ in 0..rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            let begin = Instant::now();
            contender();
            times.push(begin.elapsed());
        }
    }
    let rates: Vec<String> = times.iter_mut().map(|times| rate(len, times)).collect();
    println!("{name:<24} {len:>8}  {}", rates.join(" "));
}

fn rate(len: usize, times: &mut [Duration]) -> String {
    times.sort_unstable();
    let median = times[times.len() / 2];
    if median < Duration::from_nanos(100) {
        return format!("{:>8}", "-");
    }
    format!("{:>8.0}", len as f64 / median.as_secs_f64() / 1e6)
}

fn engine(op: u16, word: u64, foreign: bool, touch: Touch, operands: &[OperandBytes<'_>], keyed: bool) {
    let object = ObjectKey { index: 1, generation: 1 };
    let key = OperandBytes::Read(Span::of_slice(&KEY));
    let numbered = (0..).zip(operands).map(|(number, bytes)| (number, *bytes));
    let operands: Vec<_> = numbered
        .chain(keyed.then_some((2, key)))
        .map(|(number, bytes)| TaskOperand { number, bytes, object, offset: 0, foreign })
        .collect();
    let params = [ParamValue::Number(word)];
    let touch = [touch, touch, Touch::Windows];
    let mut task = Task::for_test(op, &operands, &params, &touch);
    ENGINE.run(&mut task).expect("done");
    black_box(task.produced());
}
