//! Quota truth: each quota is reached to its last unit, refused one beyond with what is used and the limit, and given
//! back to the last unit when everybody is gone.

use vgem_core::Usage;
use vgem_core::io::LinkId;
use vgem_proto::codec::Zero;
use vgem_proto::domains::QuotaKind;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{PorterId, QueueHandle};
use vgem_proto::message::client::{
    ClientMessage, CreateTimeline, ListDevices, Monitor, OpenPorter, OpenQueue, Refused,
};

use crate::batch::Batch;
use crate::rings::attach;
use crate::world::{COPY, DOMAIN, World, commit, config, create};

/// How much of everything there may be.
const MOST: u64 = 3;

/// A world in which a domain may hold so much of one thing, and the clients that used it.
struct Trial {
    world: World,
    kind: QuotaKind,
    clients: Vec<LinkId>,
    queues: Vec<(LinkId, QueueHandle)>,
}

/// Uses one unit more of what a trial is of, or says how that is refused.
type Use = fn(&mut Trial) -> Result<(), Refused>;

impl Trial {
    fn new(kind: QuotaKind, limit: u64) -> Self {
        let mut config = config();
        config.policy.defaults.quotas.set(kind, limit);
        let mut world = World::with(config);
        if kind == QuotaKind::Exports {
            world.reads_at_once = false;
            world.clients_read = false;
        }
        Self { world, kind, clients: Vec::new(), queues: Vec::new() }
    }

    /// A new client.
    fn client(&mut self) -> LinkId {
        let link = self.world.client();
        self.clients.push(link);
        link
    }

    /// The same client as before.
    fn same(&mut self) -> LinkId {
        self.clients.first().copied().unwrap_or_else(|| self.client())
    }

    fn ask(&mut self, link: LinkId, message: impl Into<ClientMessage>) -> Result<ClientMessage, Refused> {
        match self.world.ask(link, message).expect("an answer") {
            ClientMessage::Refused(refused) => Err(refused),
            answer => Ok(answer),
        }
    }

    fn used(&self) -> u64 {
        let usage: Usage = self.world.usage(DOMAIN);
        match self.kind {
            QuotaKind::Bytes => usage.bytes,
            QuotaKind::Objects => usage.objects,
            QuotaKind::Handles => usage.handles,
            QuotaKind::Queues => usage.queues,
            QuotaKind::Jobs => usage.jobs,
            QuotaKind::Connections => usage.connections,
            QuotaKind::Exports => usage.exports,
            QuotaKind::Porters => usage.porters,
            QuotaKind::Monitors => usage.monitors,
            QuotaKind::Pages => usage.pages,
            QuotaKind::Timelines => usage.timelines,
            QuotaKind::Rings => usage.rings,
            QuotaKind::Pinned => usage.pinned,
            QuotaKind::Requests => 0,
        }
    }
}

/// Uses a quota up, one after the other in steps of so many units, and gives it back.
fn is_true_of(kind: QuotaKind, unit: u64, use_one: Use) {
    let limit = MOST * unit;
    let mut trial = Trial::new(kind, limit);
    for n in 1..=MOST {
        assert_eq!(use_one(&mut trial).map_err(|refused| refused.text), Ok(()), "{}", kind.name());
        assert_eq!(trial.used(), n * unit, "{}", kind.name());
    }
    let before = trial.world.usage(DOMAIN);
    let refused = use_one(&mut trial).expect_err("one more than there may be");
    let found = (refused.code, refused.value, refused.limit);
    assert_eq!(found, (ErrorCode::Exhausted, limit + unit, limit), "{}", kind.name());
    let Usage { connections, .. } = trial.world.usage(DOMAIN);
    assert_eq!(trial.world.usage(DOMAIN), Usage { connections, ..before }, "nothing else is charged");
    gives_back(trial);
}

/// When everybody is gone nothing is owed.
fn gives_back(mut trial: Trial) {
    trial.world.run_all();
    for link in std::mem::take(&mut trial.clients) {
        trial.world.hang_up(link);
    }
    trial.world.run_all();
    let porters: Vec<PorterId> = trial.world.porters.keys().copied().collect();
    porters.into_iter().for_each(|porter| trial.world.end_porter(porter));
    trial.world.let_ms_pass(120_000);
    trial.world.run_all();
    assert!(trial.world.broker.ledger().domains.is_empty(), "{:?}", trial.world.broker.ledger().domains);
}

fn make_object(trial: &mut Trial) -> Result<(), Refused> {
    let link = trial.same();
    trial.ask(link, create(4096)).map(drop)
}

fn open_queue(trial: &mut Trial) -> Result<(), Refused> {
    let link = trial.same();
    let open = OpenQueue { device: COPY, depth: 0, priority: 0, reserved: Zero };
    match trial.ask(link, open)? {
        ClientMessage::QueueOpened(opened) => trial.queues.push((link, opened.queue)),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn of_bytes() {
    is_true_of(QuotaKind::Bytes, 4096, make_object);
}

/// Makes an object and commits it.
fn commit_object(trial: &mut Trial) -> Result<(), Refused> {
    let link = trial.same();
    let object = trial.world.raw_object(link, 4096);
    let committed = trial.ask(link, commit(object)).map(drop);
    if committed.is_err() {
        trial.world.close(link, object);
        trial.world.run_all();
    }
    committed
}

#[test]
fn of_pinned_bytes() {
    is_true_of(QuotaKind::Pinned, 4096, commit_object);
}

#[test]
fn a_commit_that_fails_owes_no_pinned_bytes() {
    let mut trial = Trial::new(QuotaKind::Pinned, 4096);
    let link = trial.same();
    let object = trial.world.raw_object(link, 4096);
    let populate = |trial: &mut Trial, is| trial.world.memory.values_mut().for_each(|m| m.populated = is);
    populate(&mut trial, false);
    assert_eq!(trial.ask(link, commit(object)).map_err(|refused| refused.code), Err(ErrorCode::NotReady));
    assert_eq!(trial.used(), 0);
    populate(&mut trial, true);
    // A second Commit of what is ready owes nothing more.
    assert!(trial.ask(link, commit(object)).is_ok() && trial.ask(link, commit(object)).is_ok());
    assert_eq!(trial.used(), 4096);
    gives_back(trial);
}

#[test]
fn of_objects() {
    is_true_of(QuotaKind::Objects, 1, make_object);
}

#[test]
fn of_handles() {
    is_true_of(QuotaKind::Handles, 1, make_object);
}

#[test]
fn of_exports_that_nobody_received() {
    is_true_of(QuotaKind::Exports, 1, make_object);
}

#[test]
fn of_queues() {
    is_true_of(QuotaKind::Queues, 1, open_queue);
}

#[test]
fn of_user_queues() {
    is_true_of(QuotaKind::Rings, 1, |trial| {
        open_queue(trial)?;
        let &(link, queue) = trial.queues.last().expect("a queue");
        let request = trial.world.send(link, attach(queue, 8), 0, vgem_proto::ids::Time(u64::MAX));
        let copy = trial.world.instance(COPY);
        trial.world.flush(copy);
        match trial.world.answer_to(request).expect("an answer").message {
            ClientMessage::Refused(refused) => {
                trial.world.close_queue(link, queue);
                trial.world.run_all();
                Err(refused)
            }
            _ => Ok(()),
        }
    });
}

#[test]
fn of_jobs_in_flight() {
    is_true_of(QuotaKind::Jobs, 1, |trial| {
        if trial.queues.is_empty() {
            open_queue(trial)?;
        }
        let (link, queue) = trial.queues[0];
        let batch = Batch::new().job(queue, trial.used() + 1);
        match trial.world.ask(link, batch.0) {
            None => Ok(()),
            Some(ClientMessage::Refused(refused)) => Err(refused),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn of_connections() {
    is_true_of(QuotaKind::Connections, 1, |trial| {
        let link = trial.world.connect(DOMAIN);
        match trial.world.answer_to(0).map(|reply| reply.message) {
            Some(ClientMessage::Refused(refused)) => Err(refused),
            _ => {
                trial.clients.push(link);
                Ok(())
            }
        }
    });
}

#[test]
fn of_porters() {
    is_true_of(QuotaKind::Porters, 1, |trial| {
        let link = trial.client();
        trial.ask(link, OpenPorter {}).map(drop)
    });
}

#[test]
fn of_clients_that_monitor() {
    is_true_of(QuotaKind::Monitors, 1, |trial| {
        let link = trial.client();
        trial.ask(link, Monitor {}).map(drop)
    });
}

#[test]
fn of_fence_pages() {
    is_true_of(QuotaKind::Pages, 1, |trial| {
        let link = trial.client();
        trial.ask(link, CreateTimeline { name: vec![] }).map(drop)
    });
}

#[test]
fn of_handles_of_timelines() {
    is_true_of(QuotaKind::Timelines, 1, |trial| {
        let link = trial.same();
        trial.ask(link, CreateTimeline { name: vec![] }).map(drop)
    });
}

#[test]
fn of_requests_in_a_second() {
    let mut trial = Trial::new(QuotaKind::Requests, MOST);
    // The greeting is one of them.
    let link = trial.client();
    for _ in 1..MOST {
        trial.ask(link, ListDevices {}).expect("in time");
    }
    let refused = trial.ask(link, ListDevices {}).expect_err("too many");
    assert_eq!((refused.code, refused.value, refused.limit), (ErrorCode::Exhausted, MOST + 1, MOST));
    trial.world.wait_ms(1000 / MOST + 1);
    trial.ask(link, ListDevices {}).expect("in time again");
    gives_back(trial);
}

#[test]
fn every_quota_has_its_test() {
    let here = include_str!("quotas.rs");
    let has_one = |kind: &QuotaKind| here.contains(&format!("(QuotaKind::{kind:?}, "));
    let missing: Vec<&QuotaKind> = QuotaKind::ALL.iter().filter(|kind| !has_one(kind)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
