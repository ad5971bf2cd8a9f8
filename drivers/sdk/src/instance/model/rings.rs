//! The thread of a ring, the control thread and a client, in thousands of orders.
//!
//! What runs is the code of [`Rings`], its desk and its worker; the ring's memory is private, and its order of words is
//! tried by loom (`proto/os/tests/loom_ring.rs`). The test's own thread is the control thread and the broker at once: it
//! binds, unbinds, unmaps and closes in any order that a broker may.
//!
//! The engine and the client check, entry by entry: nothing is used after it was told that nobody uses it, an entry finds
//! what was bound before it was submitted and not what was unbound before, every object that is to go is gone, and once.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::thread::{self, JoinHandle};
use vgem_os::mapping::Mapping;
use vgem_os::memory::Identity;
use vgem_os::ring::{Producer, Reaper, within_process};
use vgem_os::seqpacket::{Packet, Socket};
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Description, Direction, Operation, Touch};
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{ClientKey, DomainId, ObjectKey, TimelineKey};
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::driver::{Bind, DriverMessage, Unbound};
use vgem_proto::rights::Access;
use vgem_proto::user_queue::{Arguments, Call, Depth, Entry, Order, VaRange, Work};

use super::super::Instance;
use super::futexes::Kernel;
use super::in_many_orders;
use crate::engine::{Engine, JobError, Task};
use crate::objects::MappedObject;
use crate::schedule::{Priority, Standing};
use crate::timeline::Timeline;
use crate::user::{Halves, Rings, Unbinding};

const QUEUE: TimelineKey = TimelineKey { index: 0, generation: 1 };
const OBJECTS: usize = 2;
const LEN: u64 = 4096;
const ENTRIES: u64 = 4;

fn object(n: usize) -> ObjectKey {
    ObjectKey { index: u32::try_from(n).expect("few"), generation: 1 }
}

fn address(n: usize) -> u64 {
    0x10_0000 * (n as u64 + 1)
}

/// What the broker and the client know of an object. Each step of it has a number, so that who finds the same number twice
/// knows that nothing happened in between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    bound: Reach,
    step: u32,
    unmapped: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Reach {
    /// Told to be bound to nothing.
    #[default]
    Nowhere,
    /// Being bound, or unbound.
    Unsure,
    Bound,
}

/// Behind a lock of the system's, so that asking changes no order.
#[derive(Debug, Default)]
struct Log {
    known: [Known; OBJECTS],
    closed: u32,
    wrong: Vec<String>,
}

#[derive(Debug, Default, Clone)]
struct Shared(Arc<Mutex<Log>>);

impl Shared {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self, n: usize, bound: Reach) {
        let known = &mut self.log().known[n];
        (known.bound, known.step) = (bound, known.step + 1);
    }

    fn check(&self, n: usize, when: &str) {
        let mut log = self.log();
        if log.known[n].bound == Reach::Nowhere || log.known[n].unmapped > 0 || log.closed > 0 {
            let text = format!("object {n} is used {when} and {:?}, closed: {}", log.known[n], log.closed);
            log.wrong.push(text);
        }
    }
}

/// An engine that looks at which object it is given, twice.
struct Looker(Shared);

impl Engine for Looker {
    fn description(&self) -> Description {
        let look = Operation::new(0, "look", "looks").operand("data", Direction::In, Touch::InPlace);
        Description::new("looker", "looks at what it is given", 1).operation(look.with_result(""))
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        let mut byte = [0];
        task.input(0)?.copy_to(0, &mut byte)?;
        let n = usize::from(byte[0]);
        self.0.check(n, "first");
        thread::yield_now();
        self.0.check(n, "in the end");
        Ok(())
    }
}

/// The control thread's side.
struct World {
    instance: Arc<Instance<Looker, Kernel>>,
    rings: Rings<Kernel>,
    broker: Socket,
    shared: Shared,
    threads: Vec<JoinHandle<()>>,
    /// What was told to be unmapped.
    leaving: [bool; OBJECTS],
}

/// The client's side.
struct Client {
    producer: Producer,
    reaper: Reaper,
    kernel: Kernel,
    shared: Shared,
}

fn start() -> (World, Client) {
    let (kernel, shared) = (Kernel::default(), Shared::default());
    let (link, broker) = Socket::pair().expect("a socket pair");
    broker.set_nonblocking(true).expect("a socket of ours");
    let engine = Looker(shared.clone());
    let description = engine.description();
    let instance = Instance::new(engine, &description, Arc::new(link), kernel.clone()).expect("a model");
    let instance = Arc::new(instance);
    let standing =
        Standing { domain: DomainId(0), client: ClientKey::default(), priority: Priority::ORDINARY };
    assert!(instance.schedule().open(Arc::new(Timeline::new(QUEUE)), standing));
    let depth = Depth::new(8).expect("a depth");
    let (producer, reaper, consumer, completer) = within_process(depth).expect("memory");
    let (mut rings, threads) = (Rings::default(), RefCell::new(Vec::new()));
    rings
        .begin(&instance, QUEUE, Halves { consumer, completer }, &|_, life| {
            threads.borrow_mut().push(thread::spawn(life));
            Ok(())
        })
        .expect("a thread");
    let mut world = World {
        instance,
        rings,
        broker,
        shared: shared.clone(),
        threads: threads.into_inner(),
        leaving: [false; OBJECTS],
    };
    (0..OBJECTS).for_each(|n| world.map(n));
    (world, Client { producer, reaper, kernel, shared })
}

impl World {
    fn map(&mut self, n: usize) {
        let mapping = Arc::new(Mapping::anonymous(4096).expect("memory"));
        let byte = [u8::try_from(n).expect("few")];
        mapping.span_mut().expect("writable").copy_from(0, &byte).expect("inside");
        let identity = Identity { dev: 1, inode: n as u64 };
        let mapped = MappedObject { mapping, access: Access::Write, identity };
        drop(self.instance.schedule().objects.map(object(n), mapped));
    }

    /// Binds an object where nothing of it is bound, or says again whether others may write there.
    fn bind(&mut self, n: usize, foreign: u8) {
        let found =
            self.instance.schedule().objects.find(object(n)).map(|mapped| Arc::clone(&mapped.mapping));
        let Some(mapping) = found else { return };
        let again = self.shared.log().known[n].bound == Reach::Bound;
        if !again {
            self.shared.now(n, Reach::Unsure);
        }
        let (object, address, access) = (object(n), address(n), Access::Read);
        let bind =
            Bind { timeline: QUEUE, object, offset: 0, len: LEN, address, access, foreign, reserved: Zero };
        assert_eq!(self.rings.bind(&bind, Some(mapping)), Ok(()));
        if !again {
            self.shared.now(n, Reach::Bound);
        }
    }

    fn unbind(&mut self, n: usize) {
        self.shared.now(n, Reach::Unsure);
        if self.rings.unbind(QUEUE, address(n)) == Unbinding::Done {
            self.shared.now(n, Reach::Nowhere);
        }
    }

    fn unmap(&mut self, n: usize) {
        assert!(!std::mem::replace(&mut self.leaving[n], true));
        let gone = self.instance.schedule().objects.unmap(object(n));
        self.instance.gone(gone);
    }

    /// The broker reads what there is.
    fn hear(&mut self) {
        let mut buf = vec![0; limits::MESSAGE_LEN];
        while let Ok(Packet::Data { len }) = self.broker.recv_plain(&mut buf) {
            match DriverMessage::decode(&buf[..len], Sender::Driver, 0).expect("well spoken").1 {
                DriverMessage::Unbound(Unbound { address: at, .. }) => {
                    let n = (0..OBJECTS).find(|n| address(*n) == at).expect("one of them");
                    assert_eq!(self.shared.log().known[n].bound, Reach::Unsure, "told twice");
                    self.shared.now(n, Reach::Nowhere);
                }
                DriverMessage::Unmapped(m) => {
                    self.shared.log().known[m.object.index as usize].unmapped += 1;
                }
                DriverMessage::TimelineClosed(_) => self.shared.log().closed += 1,
                DriverMessage::Cause(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Something that a broker may do now.
    fn act(&mut self, choice: u32, n: usize) {
        self.hear();
        let known = self.shared.log().known[n];
        match known.bound {
            Reach::Bound if choice == 0 => self.bind(n, 1),
            // No broker would; a driver does not rely on it.
            Reach::Bound if choice == 1 && !self.leaving[n] => self.unmap(n),
            Reach::Bound => self.unbind(n),
            Reach::Nowhere if choice == 0 && !self.leaving[n] => self.unmap(n),
            Reach::Nowhere => self.bind(n, 0),
            Reach::Unsure => thread::yield_now(),
        }
    }

    fn hear_until(&mut self, what: impl Fn(&Self) -> bool) {
        loop {
            self.hear();
            if what(self) {
                return;
            }
            thread::yield_now();
        }
    }

    /// Closes the queue, and has all objects go.
    fn close(mut self, client: JoinHandle<()>) {
        // What nobody uses goes at once, and not when something else happens.
        let is_free = |world: &Self, n: usize| {
            let known = world.shared.log().known[n];
            !world.leaving[n] || known.bound == Reach::Bound || known.unmapped > 0
        };
        self.hear_until(|world| (0..OBJECTS).all(|n| is_free(world, n)));
        assert!(self.rings.close(QUEUE));
        self.hear_until(|world| world.shared.log().closed > 0);
        for n in 0..OBJECTS {
            if !self.leaving[n] {
                self.unmap(n);
            }
        }
        self.hear_until(|world| world.shared.log().known.iter().all(|known| known.unmapped > 0));
        self.end(client);
    }

    /// The link is gone: nobody is told anything any more.
    fn leave(mut self, client: JoinHandle<()>) {
        self.rings = Rings::default();
        self.shared.log().closed += 1;
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic");
        }
        // What runs when the link closes runs on.
        self.shared.log().wrong.clear();
        self.end(client);
    }

    fn end(self, client: JoinHandle<()>) {
        for thread in self.threads {
            thread.join().expect("no panic");
        }
        client.join().expect("no panic");
        let log = self.shared.log();
        assert!(log.wrong.is_empty(), "{:?}", log.wrong);
        assert!(log.closed == 1 && log.known.iter().all(|known| known.unmapped <= 1), "{log:?}");
    }
}

impl Client {
    fn run(mut self) {
        for place in 0..ENTRIES {
            let n = thread_rng().gen_range(0..OBJECTS);
            let before = self.shared.log().known[n];
            let operand = VaRange::new(address(n), LEN).expect("addresses");
            let call = Call { op: 0, operands: [Some(operand), None], arguments: Arguments::NONE };
            let entry = Entry { user: place, order: Order::empty(), work: Work::Call(call) };
            // It is over when it is not pushed.
            let Ok(pushed) = self.producer.push_many(&[entry]) else { return };
            assert_eq!(pushed.count, 1, "there is room");
            self.kernel.ring_rings();
            let Some(code) = self.ended(place + 1) else { return };
            let mut log = self.shared.log();
            let wanted = match before.bound {
                Reach::Bound => None,
                Reach::Nowhere => Some(ErrorCode::AddressFault),
                Reach::Unsure => continue,
            };
            if log.known[n].step == before.step && code != wanted {
                let text = format!("entry {place} of object {n} ended with {code:?}, not {wanted:?}");
                log.wrong.push(text);
            }
        }
    }

    /// How the next entry ends, if it is not the queue that does.
    fn ended(&mut self, point: u64) -> Option<Option<ErrorCode>> {
        loop {
            match self.reaper.reap() {
                Ok(Some(done)) => {
                    assert_eq!(done.point.0, point, "one completion each");
                    return Some(done.failure.map(|failure| failure.code));
                }
                Ok(None) if self.shared.log().closed > 0 => return None,
                Ok(None) => thread::yield_now(),
                Err(_) => return None,
            }
        }
    }
}

#[test]
fn entries_reach_what_is_bound_and_what_was_let_go_of_is_used_by_none() {
    in_many_orders(600, || {
        let (mut world, client) = start();
        world.bind(0, 0);
        let client = thread::spawn(move || client.run());
        let mut random = thread_rng();
        for _ in 0..random.gen_range(1..8) {
            world.act(random.gen_range(0..3), random.gen_range(0..OBJECTS));
        }
        world.close(client);
    });
}

#[test]
fn the_thread_of_a_ring_ends_when_there_is_nobody_to_tell() {
    in_many_orders(200, || {
        let (mut world, client) = start();
        world.bind(0, 0);
        let client = thread::spawn(move || client.run());
        let mut random = thread_rng();
        for _ in 0..random.gen_range(0..4) {
            world.act(random.gen_range(0..3), random.gen_range(0..OBJECTS));
        }
        world.leave(client);
    });
}
