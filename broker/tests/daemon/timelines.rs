//! Timelines that clients signal, over real pages: who sees what, and what the broker writes there.

use std::os::fd::OwnedFd;

use vgem_os::clock;
use vgem_os::fence::{ObserverFace, ObserverFds, PointState, SignallerFace, SignallerFds, Slot};
use vgem_os::futex::Wake;
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{Point, Time, TimelineHandle, TimelineKey};
use vgem_proto::message::client::{
    ClientMessage, CloseTimeline, CreateTimeline, ExportTimeline, ImportTimeline, ObserveTimeline, Promise,
    TakeShown, TimelineOpened,
};
use vgem_proto::rights::TimelineRights;

use crate::common::{Client, Daemon, refusal, status, until};

const SECOND: u64 = 1_000_000_000;

/// A timeline of this process.
struct Signals {
    handle: TimelineHandle,
    primary: SignallerFace,
    slot: Slot,
}

/// One that it sees.
struct Sees {
    key: TimelineKey,
    face: ObserverFace,
    slot: Slot,
}

fn two(fds: Vec<OwnedFd>) -> [OwnedFd; 2] {
    fds.try_into().expect("a page and an interest page")
}

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("a page has 15 slots")
}

impl Signals {
    fn new(client: &mut Client) -> Self {
        let (answer, fds) = client.ask(&CreateTimeline { name: b"stage".to_vec() }.into());
        Self::opened(answer, fds)
    }

    fn opened(answer: ClientMessage, fds: Vec<OwnedFd>) -> Self {
        let ClientMessage::TimelineOpened(opened) = answer else { panic!("{answer:?}") };
        let TimelineOpened { timeline: handle, key, slot: number, .. } = opened;
        let [page, interest] = two(fds);
        let primary = SignallerFace::map(SignallerFds { page, interest }).expect("two pages");
        let _nobody = primary.publish(slot(number), key.generation, 0, 0, &[]);
        Self { handle, primary, slot: slot(number) }
    }

    fn signal(&self, point: u64) {
        self.primary.signal(self.slot, point, clock::now(), None).expect("points grow");
    }

    fn promise(&self, client: &mut Client, point: u64, ns: u64) {
        let until = Time(clock::now() + ns);
        let promise = Promise { timeline: self.handle, point: Point(point), until };
        client.post(&promise.into());
    }

    fn token(&self, client: &mut Client, rights: TimelineRights) -> [u64; 2] {
        let export = ExportTimeline { timeline: self.handle, rights, reserved: Zero };
        match client.ask(&export.into()).0 {
            ClientMessage::TimelineExported(exported) => exported.token,
            other => panic!("{other:?}"),
        }
    }
}

impl Sees {
    fn import(client: &mut Client, token: [u64; 2]) -> Self {
        let (answer, _) = client.ask(&ImportTimeline { token }.into());
        let ClientMessage::TimelineOpened(opened) = answer else { panic!("{answer:?}") };
        let (answer, fds) = client.ask(&ObserveTimeline { timeline: opened.timeline }.into());
        let ClientMessage::TimelineObserved(observed) = answer else { panic!("{answer:?}") };
        let [page, interest] = two(fds);
        let face = ObserverFace::map(ObserverFds { page, interest }).expect("two pages");
        Self { key: observed.key, face, slot: slot(observed.slot) }
    }

    fn look(&self, point: u64) -> PointState {
        self.face.state(self.slot, self.key.generation, point)
    }

    fn wait(&self, point: u64) -> PointState {
        let end = clock::now() + 10 * SECOND;
        loop {
            let seen = self.face.doorbell();
            self.face.set_interest(self.slot, point);
            match self.look(point) {
                PointState::Pending => {
                    let woken = self.face.sleep(seen, end).expect("a mapped page");
                    assert_ne!(woken, Wake::TimedOut, "point {point} is still pending");
                }
                state => return state,
            }
        }
    }
}

/// A daemon, a client that signals, and one that looks.
fn stage() -> (Daemon, Client, Signals, Client, Sees) {
    let daemon = Daemon::start();
    let (mut one, mut other) = (daemon.client(), daemon.client());
    let signals = Signals::new(&mut one);
    signals.signal(3);
    let token = signals.token(&mut one, TimelineRights::WAIT);
    let sees = Sees::import(&mut other, token);
    (daemon, one, signals, other, sees)
}

// M-096
#[test]
fn a_late_observer_sees_what_was_signalled_before_it_came() {
    let (_daemon, _one, _signals, _other, sees) = stage();
    assert!(matches!(sees.look(3), PointState::Ok { .. }));
    assert_eq!(sees.look(4), PointState::Pending);
}

// M-094, M-095
#[test]
fn a_signaller_finds_the_news_and_goes_on_in_the_new_place() {
    let (_daemon, mut one, signals, _other, sees) = stage();
    assert_ne!(signals.primary.news(), 0);
    let (answer, fds) = one.ask(&TakeShown {}.into());
    let ClientMessage::Shown(shown) = answer else { panic!("{answer:?}") };
    assert_eq!((shown.news, shown.places.len()), (signals.primary.news(), 1));
    let [page, interest] = two(fds);
    let face = SignallerFace::map(SignallerFds { page, interest }).expect("two pages");
    let place = slot(shown.places[0].slot);
    let waiter = std::thread::spawn(move || sees.wait(4));
    face.signal(place, 4, clock::now(), None).expect("points grow");
    assert!(matches!(waiter.join().expect("no panic"), PointState::Ok { .. }));
}

// M-090
#[test]
fn f7_a_promise_that_is_not_kept_fails_in_the_page_of_whoever_waits() {
    let (_daemon, mut one, signals, mut other, sees) = stage();
    let began = clock::now();
    signals.promise(&mut one, 4, SECOND / 10);
    let state = sees.wait(4);
    let PointState::Failed { code, cause, .. } = state else { panic!("{state:?}") };
    assert_eq!(code, ErrorCode::TimedOut.number());
    assert!(clock::now() - began >= SECOND / 10, "before its time");
    let text = other.explain(cause);
    assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
    assert!(signals.primary.dead_from(signals.slot).is_some(), "its owner is not told");
}

// M-091
#[test]
fn l3_a_signaller_that_is_gone_fails_what_it_had_not_signalled() {
    let (daemon, one, signals, mut other, sees) = stage();
    signals.signal(4);
    drop(one);
    let state = sees.wait(5);
    let PointState::Failed { code, cause, .. } = state else { panic!("{state:?}") };
    assert_eq!(code, ErrorCode::OwnerDied.number());
    // It had not shown point 4 here yet: the broker has, from the primary page.
    assert!(matches!(sees.look(4), PointState::Ok { .. }), "{:?}", sees.look(4));
    assert!(other.explain(cause).contains("is gone"));
    drop(other);
    let mut last = daemon.client();
    until("everything is given back", || status(&mut last).timelines == 0);
}

// M-091
#[test]
fn a_timeline_that_is_closed_cannot_be_waited_for_in_vain() {
    let (_daemon, mut one, signals, _other, sees) = stage();
    one.ask(&CloseTimeline { timeline: signals.handle }.into());
    let state = sees.wait(4);
    assert!(
        matches!(state, PointState::Failed { code, .. } if code == ErrorCode::Cancelled.number()),
        "{state:?}"
    );
}

// M-093
#[test]
fn a_token_is_random_and_good_once() {
    let (_daemon, mut one, signals, mut other, _sees) = stage();
    let tokens = [(); 2].map(|()| signals.token(&mut one, TimelineRights::WAIT));
    assert!(tokens[0] != tokens[1] && tokens.iter().flatten().all(|half| *half != 0), "{tokens:?}");
    let (taken, _) = other.ask(&ImportTimeline { token: tokens[0] }.into());
    assert!(matches!(taken, ClientMessage::TimelineOpened(_)), "{taken:?}");
    let again = refusal(other.ask(&ImportTimeline { token: tokens[0] }.into()).0);
    assert_eq!(again.code, ErrorCode::NoSuchHandle);
}

// M-092
#[test]
fn t8_the_right_to_signal_moves_to_whoever_shows_its_token() {
    let daemon = Daemon::start();
    let (mut one, mut other) = (daemon.client(), daemon.client());
    let signals = Signals::new(&mut one);
    let token = signals.token(&mut one, TimelineRights::SIGNAL);
    let (answer, fds) = other.ask(&ImportTimeline { token }.into());
    let theirs = Signals::opened(answer, fds);
    let (answer, fds) = one.ask(&ObserveTimeline { timeline: signals.handle }.into());
    let ClientMessage::TimelineObserved(observed) = answer else { panic!("{answer:?}") };
    let [page, interest] = two(fds);
    let face = ObserverFace::map(ObserverFds { page, interest }).expect("two pages");
    let sees = Sees { key: observed.key, face, slot: slot(observed.slot) };
    // What the old signaller stores nobody sees.
    signals.signal(1);
    assert_eq!(sees.look(1), PointState::Pending);
    drop(theirs);
    drop(other);
    let state = sees.wait(1);
    assert!(
        matches!(state, PointState::Failed { code, .. } if code == ErrorCode::OwnerDied.number()),
        "{state:?}"
    );
}
