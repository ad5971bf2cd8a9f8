//! The primitives of target P5: what a user queue's ring costs, beside the bare mechanisms, in one run and in turns.
//!
//! | measured | against |
//! |---|---|
//! | a push, the driver awake or asleep | 50 ns; a futex wake |
//! | submit until the completion is seen, and until the point is seen in the fence page; both awake | a cache line there and back |
//! | the same, both asleep | a futex there and back |
//! | entries per second, submitted, taken, completed and reaped | a slot-sequence ring by hand, one way, and two of them |
//!
//! Client and driver are two threads on two cores, each with a mapping of its own. First with idle cores that poll (mode
//! P, if `/dev/cpu_dma_latency` may be written), which is where ratios are judged, then with idle cores as they are (D).
//!
//! `cargo bench -p vgem-os --bench ring -- [REPETITIONS]`

use std::hint::{black_box, spin_loop};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vgem_os::clock;
use vgem_os::fence::{ObserverFace, PagePair, PointState, SignallerFace, Slot};
use vgem_os::futex::{self, SharedWord};
use vgem_os::mapping::{Mapping, PAGE, Populate};
use vgem_os::memory::{Access, HugePages, ObjectMemory};
use vgem_os::ring::{Completer, Consumer, Done, KeeperRing, Owed, Producer, Reaper, map_client, map_driver};
use vgem_proto::ids::Time;
use vgem_proto::user_queue::{Arguments, Call, Completion, Depth, Entry, Order, VaRange, Work};

const DEPTH: u32 = 256;
/// Rounds there and back with both awake; ten of them per look at the clock.
const AWAKE: u64 = 40_000;
/// Rounds there and back with both asleep.
const ASLEEP: u64 = 1_500;
/// Entries of a measurement of throughput.
const MANY: u64 = 1_000_000;
/// What is handed over at once where that is measured.
const BURST: usize = 32;
const PATIENCE_NS: u64 = 10_000_000_000;

fn main() -> std::io::Result<()> {
    let repetitions = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(9);
    let mut out = std::io::stdout().lock();
    let polling = std::fs::OpenOptions::new().write(true).open("/dev/cpu_dma_latency");
    match polling.and_then(|mut device| device.write_all(&0_i32.to_ne_bytes()).map(|()| device)) {
        Ok(device) => {
            report(&mut out, "P: idle cores poll", repetitions)?;
            drop(device);
        }
        Err(error) => writeln!(out, "no mode P: /dev/cpu_dma_latency: {error}")?,
    }
    report(&mut out, "D: idle cores as they are", repetitions)
}

/// A cost, in nanoseconds per unit, and how it came about.
type Measure = fn() -> Vec<f64>;

/// A name, what is measured, and what it is held against.
const MEASURES: &[(&str, Measure, Option<&str>)] = &[
    ("cache line there and back", cache_line, None),
    ("submit until the completion, awake", awake_completion, Some("cache line there and back")),
    ("submit until the point in the fence page, awake", awake_point, Some("cache line there and back")),
    ("futex there and back", futex_there_and_back, None),
    ("submit until the completion, asleep", asleep_completion, Some("futex there and back")),
    ("the same, waiting as clients and drivers do", adaptive_completion, Some("futex there and back")),
    ("push, driver awake", push_awake, None),
    ("push of 32 at once, each, driver awake", push_many_awake, None),
    ("push, driver asleep", push_asleep, None),
    ("slot-sequence ring by hand, one way", by_hand_one_way, None),
    ("two of them, there and back", by_hand_both_ways, Some("slot-sequence ring by hand, one way")),
    (
        "entries submitted, completed and reaped, one by one",
        one_by_one,
        Some("slot-sequence ring by hand, one way"),
    ),
    ("the same in bursts of 32", in_bursts, Some("slot-sequence ring by hand, one way")),
];

fn report(out: &mut impl std::io::Write, mode: &str, repetitions: usize) -> std::io::Result<()> {
    let mut medians = vec![Vec::new(); MEASURES.len()];
    let mut tails = vec![Vec::new(); MEASURES.len()];
    for _ in 0..repetitions {
        for ((_, measure, _), (medians, tails)) in
            MEASURES.iter().zip(medians.iter_mut().zip(tails.iter_mut()))
        {
            let mut times = measure();
            times.sort_by(f64::total_cmp);
            medians.push(at(&times, 50));
            tails.push(at(&times, 99));
        }
    }
    writeln!(
        out,
        "\n{mode}; {repetitions} repetitions; ns: median of p50, of p99; ratio of p50 in one repetition"
    )?;
    for (index, (name, _, against)) in MEASURES.iter().enumerate() {
        let (p50, p99) = (median(&medians[index]), median(&tails[index]));
        write!(out, "{name:<52} {p50:>9.1} {p99:>9.1}")?;
        let floor = against.and_then(|floor| MEASURES.iter().position(|(name, ..)| *name == floor));
        if let Some(floor) = floor {
            let ratios: Vec<f64> = medians[index].iter().zip(&medians[floor]).map(|(a, b)| a / b).collect();
            let (least, most) = ratios.iter().fold((f64::MAX, 0_f64), |(l, m), r| (l.min(*r), m.max(*r)));
            write!(out, "   x{:.2} ({least:.2} to {most:.2})", median(&ratios))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A percentile of sorted times.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted.get(sorted.len() * percent / 100).or(sorted.last()).copied().unwrap_or(0.0)
}

fn median(of: &[f64]) -> f64 {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    at(&sorted, 50)
}

#[expect(clippy::cast_precision_loss, reason = "times are far below 2^52 ns")]
fn ns(of: u64) -> f64 {
    of as f64
}

/// Puts this thread on the first or the second of the cores there are.
fn sit(second: bool) {
    let all = sched_getaffinity(None).expect("a mask");
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).collect();
    assert!(cores.len() > 1, "this measures two cores");
    let mut one = CpuSet::new();
    one.set(cores[usize::from(second)]);
    sched_setaffinity(None, &one).expect("a core of the mask");
}

/// Runs both sides, each on its core, until the client is done. The main thread keeps all cores: what it may use counts
/// as what the process may use.
fn beside<T: Send>(driver: impl FnOnce(&AtomicBool) + Send, client: impl FnOnce() -> T + Send) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let driver = threads.spawn(|| {
            sit(true);
            driver(&over);
        });
        let client = threads.spawn(|| {
            sit(false);
            client()
        });
        let found = client.join().expect("the client does not panic");
        over.store(true, Ordering::SeqCst);
        driver.join().expect("the driver does not panic");
        found
    })
}

/// Times of so many rounds, several per look at the clock, after a tenth of them unmeasured.
fn timed(rounds: u64, at_once: u64, mut round: impl FnMut()) -> Vec<f64> {
    (0..rounds / 10).for_each(|_| round());
    let batch = |_| {
        let began = clock::now();
        (0..at_once).for_each(|_| round());
        ns(clock::now() - began) / ns(at_once)
    };
    (0..rounds / at_once).map(batch).collect()
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU64);

fn cache_line() -> Vec<f64> {
    let (out, back) = (Line::default(), Line::default());
    let mut number = 0;
    beside(
        |over| {
            let mut last = 0;
            while !over.load(Ordering::Relaxed) {
                let found = out.0.load(Ordering::Acquire);
                if found != last {
                    last = found;
                    back.0.store(found, Ordering::Release);
                }
                spin_loop();
            }
        },
        || {
            timed(AWAKE, 10, || {
                number += 1;
                out.0.store(number, Ordering::Release);
                while back.0.load(Ordering::Acquire) != number {
                    spin_loop();
                }
            })
        },
    )
}

fn futex_there_and_back() -> Vec<f64> {
    let memory = ObjectMemory::create(PAGE as u64, HugePages::None, "words").expect("memory");
    let map = || {
        let fd = memory.export(Access::Write).expect("an fd");
        Mapping::map(fd.as_fd(), PAGE, Access::Write, Populate::Now).expect("mapped")
    };
    let (here, there) = (map(), map());
    let word =
        |mapping, at| SharedWord::of(Mapping::span_mut(mapping).expect("writable"), at).expect("inside");
    let (out, back) = (word(&here, 0), word(&here, 128));
    let wait = |word: SharedWord<'_>, seen: u32| {
        while word.atomic().load(Ordering::Acquire) == seen {
            futex::wait(word.futex(), seen, clock::deadline_in(PATIENCE_NS)).expect("mapped");
        }
    };
    let send = |word: SharedWord<'_>, number: u32| {
        word.atomic().store(number, Ordering::SeqCst);
        futex::wake(word.futex(), 1).expect("mapped");
    };
    let mut number: u32 = 0;
    beside(
        |_| {
            let (out, back) = (word(&there, 0), word(&there, 128));
            let mut seen: u32 = 0;
            while seen != u32::MAX {
                wait(out, seen);
                seen = out.atomic().load(Ordering::Acquire);
                send(back, seen);
            }
        },
        || {
            let times = timed(ASLEEP, 1, || {
                number += 1;
                send(out, number);
                wait(back, number - 1);
            });
            send(out, u32::MAX);
            times
        },
    )
}

fn entry(user: u64) -> Entry {
    let range = |address| VaRange::new(address, 4096).ok();
    let call = Call { op: 0, operands: [range(0x1000), range(0x9000)], arguments: Arguments::NONE };
    Entry { user, order: Order::empty(), work: Work::Call(call) }
}

fn ring() -> (Producer, Reaper, Consumer, Completer) {
    let keeper = KeeperRing::create(Depth::new(DEPTH).expect("a depth")).expect("memory");
    let (producer, reaper) = map_client(keeper.export().expect("an fd").as_fd()).expect("mapped");
    let (consumer, completer) = map_driver(keeper.export().expect("an fd").as_fd()).expect("mapped");
    (producer, reaper, consumer, completer)
}

/// The next entry, from a client that is honest.
#[inline]
fn pop(consumer: &mut Consumer) -> Option<Owed> {
    let popped = consumer.pop().expect("an honest client")?;
    black_box(popped.entry).expect("a good entry");
    Some(popped.owed)
}

/// The next completion, of a driver that is honest; spins for it.
#[inline]
fn reap(reaper: &mut Reaper) -> Completion {
    loop {
        if let Some(completion) = reaper.reap().expect("an honest driver") {
            return completion;
        }
        spin_loop();
    }
}

/// A driver that never sleeps.
fn serve_awake(
    consumer: &mut Consumer,
    completer: &mut Completer,
    over: &AtomicBool,
    mut after: impl FnMut(u64),
) {
    while !over.load(Ordering::Relaxed) {
        if let Some(owed) = pop(consumer) {
            let point = owed.point().0;
            completer.complete(owed, Done::OK, Time(point));
            after(point);
        }
        spin_loop();
    }
}

fn awake_completion() -> Vec<f64> {
    let (mut producer, mut reaper, mut consumer, mut completer) = ring();
    beside(
        |over| serve_awake(&mut consumer, &mut completer, over, |_| ()),
        || {
            timed(AWAKE, 10, || {
                producer.push(&entry(1)).expect("there is room");
                black_box(reap(&mut reaper));
            })
        },
    )
}

fn awake_point() -> Vec<f64> {
    let (mut producer, mut reaper, mut consumer, mut completer) = ring();
    let keeper = PagePair::create().expect("memory");
    let signaller = SignallerFace::map(keeper.signaller_fds().expect("fds")).expect("mapped");
    let observer = ObserverFace::map(keeper.observer_fds().expect("fds")).expect("mapped");
    let slot = Slot::new(0).expect("the first");
    signaller.publish(slot, 1, 0, 0, &[]);
    beside(
        |over| {
            serve_awake(&mut consumer, &mut completer, over, |point| {
                signaller.signal(slot, point, point, None).expect("points grow");
            });
        },
        || {
            timed(AWAKE, 10, || {
                let point = producer.push(&entry(1)).expect("there is room").point.0;
                while observer.state(slot, 1, point) == PointState::Pending {
                    spin_loop();
                }
                black_box(reap(&mut reaper));
            })
        },
    )
}

/// Sleeps at once, until there is something in the ring.
fn sleep_for_entries(consumer: &mut Consumer, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let Some(asleep) = consumer.fall_asleep() else { return };
        let (word, seen) = asleep.word();
        futex::wait(word, seen, asleep.until(clock::deadline_in(10_000_000))).expect("mapped");
    }
}

fn serve_asleep(consumer: &mut Consumer, completer: &mut Completer, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        sleep_for_entries(consumer, over);
        while let Some(owed) = pop(consumer) {
            completer.complete(owed, Done::OK, Time(1));
        }
    }
}

fn asleep_completion() -> Vec<f64> {
    let (mut producer, mut reaper, mut consumer, mut completer) = ring();
    beside(
        |over| serve_asleep(&mut consumer, &mut completer, over),
        || {
            timed(ASLEEP, 1, || {
                producer.push(&entry(1)).expect("there is room");
                while let Some(asleep) = reaper.fall_asleep() {
                    let (word, seen) = asleep.word();
                    futex::wait(word, seen, asleep.until(clock::deadline_in(PATIENCE_NS))).expect("mapped");
                }
                black_box(reap(&mut reaper));
            })
        },
    )
}

fn adaptive_completion() -> Vec<f64> {
    let (mut producer, mut reaper, mut consumer, mut completer) = ring();
    beside(
        |over| {
            while !over.load(Ordering::Relaxed) {
                if consumer.wait(clock::deadline_in(10_000_000)).expect("mapped")
                    && let Some(owed) = pop(&mut consumer)
                {
                    completer.complete(owed, Done::OK, Time(1));
                }
            }
        },
        || {
            timed(ASLEEP, 1, || {
                producer.push(&entry(1)).expect("there is room");
                let completion = reaper.wait(clock::deadline_in(PATIENCE_NS)).expect("an honest driver");
                black_box(completion.expect("in time"));
            })
        },
    )
}

/// What pushes cost; the driver answers meanwhile, and the client reaps between measurements.
fn pushes(at_once: usize, driver_sleeps: bool, rounds: u64) -> Vec<f64> {
    let (mut producer, mut reaper, mut consumer, mut completer) = ring();
    let asleep = AtomicU32::new(0);
    let entries: Vec<Entry> = (0..BURST as u64).map(entry).collect();
    beside(
        |over| {
            while !over.load(Ordering::Relaxed) {
                if driver_sleeps {
                    asleep.store(1, Ordering::SeqCst);
                    sleep_for_entries(&mut consumer, over);
                    asleep.store(0, Ordering::SeqCst);
                }
                while let Some(owed) = pop(&mut consumer) {
                    completer.complete(owed, Done::OK, Time(1));
                }
                spin_loop();
            }
        },
        || {
            let measured = |_| {
                if driver_sleeps {
                    // Until it sleeps, and a while, so that it is out of the way.
                    while asleep.load(Ordering::SeqCst) == 0 {
                        spin_loop();
                    }
                    let end = clock::deadline_in(60_000);
                    while clock::now() < end {
                        spin_loop();
                    }
                }
                let began = clock::now();
                let count = if at_once == 1 && !driver_sleeps {
                    for entry in &entries {
                        producer.push(entry).expect("there is room");
                    }
                    entries.len()
                } else {
                    producer.push_many(&entries[..at_once]).expect("there is room").count
                };
                let spent = clock::now() - began;
                for _ in 0..count {
                    black_box(reap(&mut reaper));
                }
                ns(spent) / ns(count as u64)
            };
            (0..rounds).map(measured).collect()
        },
    )
}

fn push_awake() -> Vec<f64> {
    pushes(1, false, 2000)
}

fn push_many_awake() -> Vec<f64> {
    pushes(BURST, false, 2000)
}

fn push_asleep() -> Vec<f64> {
    pushes(1, true, 500)
}

/// A ring as it is written by hand: one process, nobody checks anything, nobody sleeps.
struct ByHand {
    slots: Vec<ByHandSlot>,
    head: Line,
}

#[derive(Default)]
#[repr(align(64))]
struct ByHandSlot([AtomicU64; 8]);

impl ByHand {
    fn new() -> Self {
        Self { slots: (0..DEPTH).map(|_| ByHandSlot::default()).collect(), head: Line::default() }
    }

    #[inline]
    fn slot(&self, number: u64) -> &ByHandSlot {
        &self.slots[usize::try_from(number).unwrap_or(0) % self.slots.len()]
    }

    #[inline]
    fn put(&self, number: u64, head: &mut u64) {
        while number - *head >= u64::from(DEPTH) {
            *head = self.head.0.load(Ordering::Acquire);
            spin_loop();
        }
        let slot = self.slot(number);
        for (word, cell) in slot.0.iter().enumerate().skip(1) {
            cell.store(number + word as u64, Ordering::Relaxed);
        }
        slot.0[0].store(number + 1, Ordering::Release);
    }

    #[inline]
    fn take(&self, number: u64) -> u64 {
        let slot = self.slot(number);
        while slot.0[0].load(Ordering::Acquire) != number + 1 {
            spin_loop();
        }
        let sum =
            slot.0.iter().skip(1).fold(0, |sum: u64, cell| sum.wrapping_add(cell.load(Ordering::Relaxed)));
        if (number + 1).is_multiple_of(64) {
            self.head.0.store(number + 1, Ordering::Release);
        }
        sum
    }
}

/// What each of `MANY` costs.
fn each(run: impl FnOnce()) -> Vec<f64> {
    let began = clock::now();
    run();
    vec![ns(clock::now() - began) / ns(MANY)]
}

fn by_hand_one_way() -> Vec<f64> {
    let (ring, done) = (ByHand::new(), Line::default());
    beside(
        |_| {
            black_box((0..MANY).fold(0, |sum: u64, number| sum.wrapping_add(ring.take(number))));
            done.0.store(1, Ordering::Release);
        },
        || {
            each(|| {
                let mut head = 0;
                (0..MANY).for_each(|number| ring.put(number, &mut head));
                while done.0.load(Ordering::Acquire) == 0 {
                    spin_loop();
                }
            })
        },
    )
}

fn by_hand_both_ways() -> Vec<f64> {
    let (there, back) = (ByHand::new(), ByHand::new());
    beside(
        |_| {
            let mut head = 0;
            for number in 0..MANY {
                black_box(there.take(number));
                back.put(number, &mut head);
            }
        },
        || {
            each(|| {
                let (mut head, mut taken) = (0, 0);
                for number in 0..MANY {
                    while number - taken >= u64::from(DEPTH) - 1 {
                        black_box(back.take(taken));
                        taken += 1;
                    }
                    there.put(number, &mut head);
                }
                while taken < MANY {
                    black_box(back.take(taken));
                    taken += 1;
                }
            })
        },
    )
}

/// The whole way of `MANY` entries, so many at once on both sides.
fn stream(at_once: usize) -> Vec<f64> {
    let (mut producer, mut reaper, mut consumer, mut completer) = ring();
    let entries: Vec<Entry> = (0..at_once as u64).map(entry).collect();
    beside(
        |over| {
            while !over.load(Ordering::Relaxed) {
                let mut taken = 0;
                while taken < at_once
                    && let Some(owed) = pop(&mut consumer)
                {
                    completer.put(owed, Done::OK, Time(1));
                    taken += 1;
                }
                match taken {
                    0 => spin_loop(),
                    _ => drop(completer.ring()),
                }
            }
        },
        || {
            each(|| {
                let mut reaped = 0;
                while reaped < MANY {
                    if producer.next().0 <= MANY {
                        // A queue that is full is tried again after the next completions.
                        black_box(producer.push_many(&entries)).ok();
                    }
                    while let Some(completion) = reaper.reap().expect("an honest driver") {
                        black_box(completion);
                        reaped += 1;
                    }
                }
            })
        },
    )
}

fn one_by_one() -> Vec<f64> {
    stream(1)
}

fn in_bursts() -> Vec<f64> {
    stream(BURST)
}
