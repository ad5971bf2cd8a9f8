//! What an instance costs and how it shares, on the system's own threads.

use std::collections::HashMap;
use std::hint::spin_loop;

use vgem_os::mapping::Mapping;
use vgem_os::memory::Identity;
use vgem_os::seqpacket::Packet;
use vgem_proto::codec::Zero;
use vgem_proto::describe::{Direction, Operation, Touch};
use vgem_proto::ids::{CauseId, ClientKey, DomainId, ObjectKey};
use vgem_proto::jobs::{DriverJob, DriverOperand};
use vgem_proto::limits;
use vgem_proto::rights::Access;

use super::*;
use crate::engine::{JobError, OperandBytes, Task};
use crate::objects::MappedObject;
use crate::schedule::Standing;

const DATA: ObjectKey = ObjectKey { index: 0, generation: 1 };

/// Keeps its executor busy for as many microseconds as its operand has bytes, until all have had enough.
struct Spinner {
    enough_ns: u64,
    had: std::sync::Mutex<HashMap<TimelineKey, u64>>,
}

impl Spinner {
    fn had(&self) -> std::sync::MutexGuard<'_, HashMap<TimelineKey, u64>> {
        self.had.lock().expect("no panic")
    }
}

impl Engine for Spinner {
    fn description(&self) -> Description {
        let spin = Operation::new(0, "spin", "spins").operand("data", Direction::InOut, Touch::InPlace);
        Description::new("spinner", "keeps its executor busy", 2).operation(spin)
    }

    fn run(&self, task: &mut Task<'_>) -> Result<(), JobError> {
        let Some(OperandBytes::Write(data)) = task.operand(0).map(|o| o.bytes) else { panic!("no operand") };
        let us = data.len() as u64;
        let begun = clock::now();
        while clock::now() < begun + 1_000 * us {
            spin_loop();
        }
        let mut had = self.had();
        if had.values().sum::<u64>() < self.enough_ns {
            *had.entry(task.queue).or_default() += clock::now() - begun;
        }
        Ok(())
    }

    fn inline_bytes(&self, _op: u16) -> u64 {
        1
    }
}

fn instance(enough_ns: u64) -> (Arc<Instance<Spinner>>, Socket) {
    let (link, broker) = Socket::pair().expect("a socket pair");
    let engine = Spinner { enough_ns, had: std::sync::Mutex::default() };
    let description = engine.description();
    let instance = Instance::new(engine, &description, Arc::new(link), Os).expect("an fd");
    let mapping = Arc::new(Mapping::anonymous(4096).expect("memory"));
    let mapped = MappedObject { mapping, access: Access::Write, identity: Identity { dev: 1, inode: 1 } };
    drop(instance.schedule().objects.map(DATA, mapped));
    (Arc::new(instance), broker)
}

fn key(queue: u32) -> TimelineKey {
    TimelineKey { index: queue, generation: 1 }
}

fn open<E: Engine>(instance: &Instance<E>, queue: u32, client: u32) -> Arc<Timeline> {
    let client = ClientKey { index: client, generation: 1 };
    let standing = Standing { domain: DomainId(0), client, priority: Priority::ORDINARY };
    let timeline = Arc::new(Timeline::new(key(queue)));
    assert!(instance.schedule().open(Arc::clone(&timeline), standing));
    timeline
}

/// Jobs from `first` on, each of `len` bytes.
fn jobs(queue: u32, first: u64, count: u64, len: u64) -> Run {
    let job = |point| DriverJob {
        queue: key(queue),
        point: Point(point),
        run_ns: 0,
        failed_cause: CauseId::NONE,
        failed_code: 0,
        op: 0,
        flags: 0,
        operands: 1,
        params: 0,
        waits: 0,
        reserved: Zero,
    };
    let operand = DriverOperand {
        object: DATA,
        offset: 0,
        len,
        cell_object: ObjectKey::default(),
        cell_offset: 0,
        number: 0,
        cell_word: 0,
        access: Access::Write,
        flags: 0,
        reserved: Zero,
    };
    let jobs: Vec<DriverJob> = (first..first + count).map(job).collect();
    Run { operands: vec![operand; jobs.len()], jobs, params: vec![], waits: vec![], bytes: vec![] }
}

/// Jain's index: 1 if all have the same, 1/n if one has everything.
fn jain(had: &[f64]) -> f64 {
    let sum: f64 = had.iter().sum();
    sum * sum / (had.len() as f64 * had.iter().map(|x| x * x).sum::<f64>())
}

#[test]
fn t47_nine_clients_have_their_share_of_real_executors_beside_a_hog() {
    // Long, since an executor may lose its core for some 20 ms, which counts as time its job had.
    const ENOUGH_NS: u64 = 1_000_000_000;
    let (instance, broker) = instance(ENOUGH_NS);
    // Queue 0 to 8 are of a client each; all others of the hog, with jobs four times as long.
    for queue in 0..39 {
        open(&instance, queue, queue.min(9));
        let (count, us) = if queue < 9 { (2_000, 100) } else { (20, 400) };
        let mut schedule = instance.schedule();
        for pending in split(jobs(queue, 1, count, us)) {
            schedule.push(pending).expect("its queue takes it");
        }
    }
    let executors: Vec<_> = (0..2)
        .map(|_| {
            std::thread::spawn({
                let instance = Arc::clone(&instance);
                move || instance.executor()
            })
        })
        .collect();
    let mut buf = vec![0; limits::MESSAGE_LEN];
    while instance.engine.had().values().sum::<u64>() < ENOUGH_NS {
        // Reads, or the link fills.
        assert!(matches!(broker.recv_plain(&mut buf), Ok(Packet::Data { .. })));
    }
    instance.stop();
    drop(broker);
    for executor in executors {
        executor.join().expect("no panic");
    }
    let mut had = [0.0; 10];
    for (queue, ns) in instance.engine.had().iter() {
        had[queue.index.min(9) as usize] += *ns as f64;
    }
    assert!(jain(&had) >= 0.95, "{}: {had:?}", jain(&had));
}

#[test]
fn f6_a_job_costs_no_allocation_from_its_message_to_its_signal() {
    let (instance, broker) = instance(0);
    let timeline = open(&instance, 0, 0);
    let mut next = 1;
    // Half a bundle of completions each: none is sent meanwhile.
    let mut cost = |count| {
        instance.outbox.flush();
        let run = jobs(0, next, count, 1);
        next += count;
        allocation_counter::measure(|| instance.accept(run).expect("its queue takes it")).count_total
    };
    let _warm = cost(60);
    let (few, many) = (cost(2), cost(60));
    assert_eq!((few, many), (1, 1), "one for the message, however many jobs it has");
    assert_eq!(timeline.value(), Point(122));
    drop(broker);
}
