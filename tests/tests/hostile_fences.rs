//! T41, T42: fence pages. Whoever writes what it likes into its own, sleeps on them with five hundred threads, or moves
//! sleepers about, hurts itself.
//!
//! A futex has no owner: whoever maps a word, read-only even, can wake, outnumber and move those who sleep on it. So no two
//! processes that may be at odds ever sleep on one word. Each test here also shows what the attack does to those who
//! would, so that it is known to be one.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use vgem::{Client, Deadline, Embedded, FenceError, Timeline, TimelineRights, TimelineToken};
use vgem_os::clock;
use vgem_os::fence::{ObserverFace, ObserverFds, PagePair, SignallerFace, Slot};
use vgem_proto::codec::Zero;
use vgem_proto::ids::{Handle, QueueHandle, TimelineHandle};
use vgem_proto::layout::fence_page;
use vgem_proto::message::client::{
    ClientMessage, CreateTimeline, ExportTimeline, ImportTimeline, ObserveTimeline,
};
use vgem_proto::rights::Access;
use vgem_tests::daemon::{Daemon, USERS};
use vgem_tests::honest::{Felt, Honest, in_turns, percentile};
use vgem_tests::raw::{Raw, fill};
use vgem_tests::stranger::Stranger;

const PAGE: u64 = 4096;
const SLEEPERS: u32 = 500;

/// These tests measure time, so one at a time runs.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every word of a fence page that somebody might sleep on: its doorbell, and the start of each slot.
fn words() -> Vec<usize> {
    let slots = (1..=usize::from(fence_page::SLOTS)).map(|slot| slot * fence_page::SLOT_LEN);
    [fence_page::H_DOORBELL].into_iter().chain(slots).collect()
}

/// A client that uses a device, and has what the broker gives everybody who does.
struct Attacker {
    raw: Raw,
    queue: QueueHandle,
    op: u16,
    object: Handle,
    point: u64,
    /// The fence page and the interest page of its queue.
    pages: [OwnedFd; 2],
}

impl Attacker {
    fn new(mut raw: Raw) -> Self {
        let device = raw.device("copy");
        let op = raw.description(device).by_name("fill").expect("copy can fill").number;
        let queue = raw.queue(device, 64);
        let pages = <[OwnedFd; 2]>::try_from(std::mem::take(&mut raw.fds)).expect("two pages");
        let object = raw.object(true);
        Self { raw, queue, op, object, point: 0, pages }
    }

    /// Has its driver signal its page, and wake who sleeps there.
    fn job(&mut self) {
        self.point += 1;
        let answer = self.raw.ask(fill(self.queue, self.point, self.op, self.object));
        assert!(matches!(answer, ClientMessage::Accepted(_)), "{answer:?}");
    }

    /// Says that it sleeps, whether it does or not: so every signal costs a system call.
    fn always_sleeps(&self) {
        let [page, interest] = [0, 1].map(|at| self.pages[at].try_clone().expect("a dup"));
        let face = ObserverFace::map(ObserverFds { page, interest }).expect("its own pages");
        Slot::all().for_each(|slot| face.set_interest(slot, 1));
    }

    /// The page in which it sees somebody's timeline.
    fn sees(&mut self, timeline: &mut Timeline) -> OwnedFd {
        let token = timeline.export(TimelineRights::WAIT).expect("a token").to_bytes();
        let half = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| token[at + byte]));
        let timeline = opened(self.raw.ask(ImportTimeline { token: [half(0), half(8)] }));
        loop {
            match self.raw.ask(ObserveTimeline { timeline }) {
                ClientMessage::TimelineObserved(_) => return self.raw.fds.remove(0),
                // The broker makes a page first.
                ClientMessage::Refused(_) => std::thread::park_timeout(Duration::from_millis(5)),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn opened(answer: ClientMessage) -> TimelineHandle {
    match answer {
        ClientMessage::TimelineOpened(opened) => opened.timeline,
        other => panic!("no timeline: {other:?}"),
    }
}

/// How much five hundred sleepers move the p99 of a client that waits for jobs and signals a timeline they see.
fn beside_sleepers(honest: Client, mut attacker: Attacker, mut stranger: Stranger) {
    let mut seen = honest.timeline("seen").expect("a timeline");
    let shared = honest.create(PAGE).expect("a buffer");
    let pages = [
        attacker.pages[0].try_clone().expect("a dup"),
        attacker.sees(&mut seen),
        shared.export(Access::Read).expect("an export"),
    ];
    attacker.always_sleeps();
    let fds: Vec<_> = pages.iter().map(OwnedFd::as_fd).collect();
    stranger.must(json!({ "do": "sleepers", "len": PAGE, "words": words(), "count": SLEEPERS }), &fds);
    let honest = Honest::new(honest);
    let (on, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let felt = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Acquire) {
                if on.load(Ordering::Acquire) {
                    attacker.job();
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        let mut round = || {
            let begun = Instant::now();
            honest.round();
            seen.signal_next().expect("its own timeline");
            begun.elapsed()
        };
        let felt = Felt::settled(|| {
            in_turns(10, &mut round, |turn| {
                stranger.must(json!({ "do": "turn_sleepers", "on": turn, "count": SLEEPERS }), &[]);
                on.store(turn, Ordering::Release);
            })
        });
        ended.store(true, Ordering::Release);
        felt
    });
    felt.assert_within_twice("five hundred sleepers");
}

/// T42: of another domain, with drivers of its own.
#[test]
fn atk_waiters_five_hundred_sleepers_of_another_domain_are_not_felt() {
    let _alone = alone();
    let daemon = Daemon::system().start();
    let honest = Client::connect(daemon.socket()).expect("a client");
    let mut stranger = Stranger::of_uid(USERS[0]);
    let raw = Raw::over(stranger.connect(&daemon.socket()));
    beside_sleepers(honest, Attacker::new(raw), stranger);
}

/// T42: of the same domain, woken by the same driver.
#[test]
fn atk_waiters_five_hundred_sleepers_of_the_same_domain_are_not_felt() {
    let _alone = alone();
    let broker = Embedded::start().expect("a private broker");
    let honest = broker.client().expect("a client");
    let raw = Raw::greeted(&broker.socket());
    beside_sleepers(honest, Attacker::new(raw), Stranger::start());
}

/// When an attack on a shared page begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    Before,
    WhileOneSleeps,
}

/// How long somebody sleeps who is to be woken at once, on a page that a stranger has mapped, too. The measure of
/// these tests: what would be felt if two observers shared a page.
fn shared_page(begins: Begins, attack: impl FnOnce(&OwnedFd)) -> Duration {
    const PATIENCE_NS: u64 = 400_000_000;
    let slot = Slot::new(0).expect("the first");
    let pair = PagePair::create().expect("pages");
    let signaller = SignallerFace::map(pair.signaller_fds().expect("fds")).expect("pages");
    signaller.publish(slot, 1, 0, 0, &[]);
    let theirs = pair.observer_fds().expect("fds").page;
    let observer = &ObserverFace::map(pair.observer_fds().expect("fds")).expect("pages");
    observer.set_interest(slot, 1);
    let mut attack = Some(attack);
    let mut attack = |when| {
        if when == begins
            && let Some(attack) = attack.take()
        {
            attack(&theirs);
        }
    };
    std::thread::scope(|scope| {
        attack(Begins::Before);
        let seen = observer.doorbell();
        let sleeper = scope.spawn(move || observer.sleep(seen, clock::deadline_in(PATIENCE_NS)));
        attack(Begins::WhileOneSleeps);
        std::thread::park_timeout(Duration::from_millis(50));
        let begun = Instant::now();
        signaller.signal(slot, 1, clock::now(), None).expect("the first point");
        drop(sleeper.join().expect("it wakes up"));
        begun.elapsed()
    })
}

/// The measure: who sleeps on a page behind others is not woken in its turn. Who comes in front of whom is chance.
#[test]
fn sleepers_on_a_page_that_one_shares_with_them_are_felt() {
    let _alone = alone();
    let undisturbed = shared_page(Begins::Before, |_| {});
    assert!(undisturbed < Duration::from_millis(200), "{undisturbed:?}");
    let outnumbered = |attempt| {
        let mut stranger = Stranger::start();
        shared_page(Begins::Before, |page| {
            let ask = json!({ "do": "sleepers", "len": PAGE, "words": [fence_page::H_DOORBELL], "count": SLEEPERS });
            stranger.must(ask, &[page.as_fd()]);
            stranger.must(json!({ "do": "turn_sleepers", "on": true, "count": SLEEPERS }), &[]);
            // They are many, and on their way: the more so on a busy machine.
            std::thread::park_timeout(Duration::from_millis(200) * attempt);
        })
    };
    let is_felt = (0..8).any(|attempt| outnumbered(attempt) > Duration::from_millis(200));
    assert!(is_felt, "woken at once eight times: the attack is none");
}

/// T42: who maps a page read-only can move everybody who sleeps on it, and nobody else.
#[test]
fn atk_requeue_moves_who_shares_the_page_and_nobody_else() {
    let _alone = alone();
    let daemon = Daemon::system().start();
    let mut stranger = Stranger::of_uid(USERS[0]);
    let to = fence_page::SLOTS as usize * fence_page::SLOT_LEN;
    let ask = |for_s: f64| json!({ "do": "requeue", "len": PAGE, "words": words(), "to": to + 128, "for_s": for_s });

    // If they shared a page: nobody is woken, and the sleep ends with its patience.
    let robbed = shared_page(Begins::WhileOneSleeps, |page| {
        let moved = stranger.must(ask(5.0), &[page.as_fd()]);
        assert_eq!(moved["moved"], 1, "the attack is none: {moved}");
    });
    assert!(robbed > Duration::from_millis(200), "woken after {robbed:?}: the attack is none");

    // They do not. The honest one sleeps on its page while the attacker moves whatever it finds in all that it has.
    let honest = Client::connect(daemon.socket()).expect("a client");
    let mut attacker = Attacker::new(Raw::over(stranger.connect(&daemon.socket())));
    let mut seen = honest.timeline("seen").expect("a timeline");
    let pages = [attacker.pages[0].try_clone().expect("a dup"), attacker.sees(&mut seen)];
    let queue = honest.device("copy").and_then(|copy| copy.queue(0)).expect("a queue");
    let buffer = honest.create(1 << 20).expect("a buffer");
    let (before, ended) = (honest.counters(), AtomicBool::new(false));
    let waits = std::thread::scope(|scope| {
        let thief = scope.spawn(|| {
            let mut moved = 0;
            while !ended.load(Ordering::Acquire) {
                for page in &pages {
                    let answer = stranger.must(ask(0.02), &[page.as_fd()]);
                    moved += answer["moved"].as_u64().expect("a number");
                }
            }
            moved
        });
        let wait = |_| {
            let mut batch = honest.batch();
            batch.job(&queue, "fill").output(&buffer).param("byte", 7);
            let begun = Instant::now();
            batch.submit().expect("accepted").wait(Deadline::after(Duration::from_secs(10))).expect("done");
            begun.elapsed()
        };
        let waits: Vec<Duration> = (0..400).map(wait).collect();
        ended.store(true, Ordering::Release);
        assert_eq!(thief.join().expect("no panic"), 0, "somebody else sleeps on a page of the attacker");
        waits
    });
    let slept = honest.counters().sleeps - before.sleeps;
    let (half, most) = (percentile(waits.clone(), 50), percentile(waits, 98));
    eprintln!("400 waits, {slept} of them asleep: p50 {half:?}, p98 {most:?}");
    assert!(slept > 40, "the honest one hardly slept");
    // A stolen wake-up would cost a tenth of a second, until the sleeper looks by itself.
    assert!(most < Duration::from_millis(90), "p98 {most:?}");
}

/// T41: what a client may only read it cannot write, and nobody's pages can be sealed, cut or given away.
#[test]
fn atk_fence_write_of_the_page_that_one_observes_is_refused() {
    let daemon = Daemon::system().start();
    let mut stranger = Stranger::of_uid(USERS[0]);
    let attacker = Attacker::new(Raw::over(stranger.connect(&daemon.socket())));
    let [page, interest] = &attacker.pages;
    for (fd, families) in
        [(page, &["writes", "sizes", "owners", "seals"][..]), (interest, &["sizes", "owners", "seals"])]
    {
        for family in families {
            let ended = stranger.attack(family, fd, PAGE);
            let done: Vec<_> = ended.iter().filter(|(_, how)| *how == "done").collect();
            assert!(!ended.is_empty() && done.is_empty(), "{family}: {done:?} of {ended:?}");
        }
    }
}

/// T41: into its interest page and into the page in which it signals a client writes what it likes. Who waits for its
/// timeline gets some answer by the deadline; nobody else notices.
#[test]
fn atk_fence_write_of_ones_own_pages_hurts_oneself() {
    let _alone = alone();
    let daemon = Daemon::system().start();
    let client = || Client::connect(daemon.socket()).expect("a client");
    let honest = Honest::new(client());
    let mut stranger = Stranger::of_uid(USERS[0]);
    let mut attacker = Attacker::new(Raw::over(stranger.connect(&daemon.socket())));
    let timeline = opened(attacker.raw.ask(CreateTimeline { name: b"torn".to_vec() }));
    let primary = attacker.raw.fds.remove(0);
    let rights = TimelineRights::WAIT;
    let ClientMessage::TimelineExported(exported) =
        attacker.raw.ask(ExportTimeline { timeline, rights, reserved: Zero })
    else {
        panic!("no token")
    };
    let token: Vec<u8> = exported.token.iter().flat_map(|half| half.to_le_bytes()).collect();
    let token = TimelineToken::from_bytes(token.try_into().expect("16 bytes"));
    let (observer, ended) = (client(), AtomicBool::new(false));
    let torn = observer.import_timeline(token).expect("a timeline");
    let pages = [attacker.pages[1].try_clone().expect("a dup"), primary];
    let mut seed = clock::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let (mut answers, mut point) = (0, 0);
            while !ended.load(Ordering::Acquire) {
                point += 1;
                let begun = Instant::now();
                let waited = torn.wait_for_submit(vgem::Point(point), Duration::from_millis(20));
                assert!(!matches!(waited, Err(FenceError::BrokerLost { .. })), "{waited:?}");
                assert!(begun.elapsed() < Duration::from_secs(2), "{:?} for {waited:?}", begun.elapsed());
                answers += 1;
            }
            answers
        });
        let felt = Felt::settled(|| {
            honest.beside(10, || {
                seed += 1;
                let fds: Vec<_> = pages.iter().map(OwnedFd::as_fd).collect();
                stranger.must(json!({ "do": "scribble", "len": PAGE, "seed": seed, "for_s": 0.0002 }), &fds);
                attacker.job();
                // It is what is written that is to be felt, or not, and not that somebody computes.
                std::thread::park_timeout(Duration::from_millis(6));
            })
        });
        ended.store(true, Ordering::Release);
        eprintln!("{} waits for a torn timeline had an answer", waiting.join().expect("no panic"));
        felt.assert_within_twice("pages that their owner scribbles in");
    });
    // The broker goes on, and the attacker is one of its clients still, or was thrown out.
    assert!(honest.round() < Duration::from_secs(2));
}
