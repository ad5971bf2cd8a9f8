//! THREATS T47 in virtual time: who has how much of the engines, over many claims.

use super::*;
use std::collections::HashMap;

/// A client that always has something to run: so many queues, jobs so long.
#[derive(Debug, Clone, Copy)]
struct Load {
    domain: u32,
    priority: u8,
    queues: u32,
    job_ns: u64,
}

const NINE: Load = Load { domain: 0, priority: 0, queues: 1, job_ns: 50_000 };
const HOG: Load = Load { queues: 40, job_ns: 400_000, ..NINE };

/// Engines in virtual time: each has the job it runs and when that ends.
struct Simulation {
    schedule: Schedule,
    now: u64,
    engines: Vec<Option<(u64, Claimed)>>,
    loads: Vec<Load>,
    /// Which client a queue is of.
    of: HashMap<TimelineKey, usize>,
    /// The engine time that each client had.
    had: Vec<u64>,
}

impl Simulation {
    fn new(engines: usize, loads: &[Load]) -> Self {
        let mut simulation = Self {
            schedule: Schedule::default(),
            now: 0,
            engines: (0..engines).map(|_| None).collect(),
            loads: loads.to_vec(),
            of: HashMap::new(),
            had: vec![0; loads.len()],
        };
        for (client, load) in (0..).zip(loads) {
            for _ in 0..load.queues {
                let index = u32::try_from(simulation.of.len()).expect("few");
                let key = TimelineKey { index, generation: 1 };
                let standing = Standing {
                    domain: DomainId(load.domain),
                    client: ClientKey { index: client, generation: 1 },
                    priority: Priority::new(load.priority),
                };
                open(&mut simulation.schedule, key, standing);
                simulation.of.insert(key, client as usize);
                // Two each: the next job is there when one ends.
                push(&mut simulation.schedule, job(key, 1, &[]));
                push(&mut simulation.schedule, job(key, 2, &[]));
            }
        }
        simulation
    }

    fn run(&mut self, for_ns: u64) {
        let until = self.now + for_ns;
        while self.now < until {
            for at in 0..self.engines.len() {
                if self.engines[at].is_none()
                    && let Some(claimed) = self.schedule.claim()
                {
                    let client = self.of[&claimed.pending.queue];
                    self.engines[at] = Some((self.now + self.loads[client].job_ns, claimed));
                }
            }
            let ends = self.engines.iter().flatten().map(|(ends, _)| *ends).min();
            self.now = ends.expect("somebody always has something to run");
            for at in 0..self.engines.len() {
                if let Some((_, claimed)) = self.engines[at].take_if(|(ends, _)| *ends == self.now) {
                    self.end(claimed);
                }
            }
        }
    }

    fn end(&mut self, claimed: Claimed) {
        let Claimed { timeline, pending, claim } = claimed;
        let client = self.of[&pending.queue];
        let ran_ns = self.loads[client].job_ns;
        timeline.signal(pending.point, self.now, None).expect("in order");
        push(&mut self.schedule, job(pending.queue, pending.point.0 + 2, &[]));
        assert!(self.schedule.ended(claim, ran_ns).is_none());
        self.had[client] += ran_ns;
    }
}

/// Jain's index: 1 if all have the same, 1/n if one has everything.
fn jain(had: &[u64]) -> f64 {
    let sum: f64 = had.iter().map(|x| *x as f64).sum();
    let squares: f64 = had.iter().map(|x| (*x as f64).powi(2)).sum();
    sum * sum / (had.len() as f64 * squares)
}

#[test]
fn t47_nine_clients_have_their_share_beside_a_hog() {
    for engines in [1, 2, 3] {
        let mut loads = vec![NINE; 9];
        loads.push(HOG);
        let mut simulation = Simulation::new(engines, &loads);
        simulation.run(400_000_000);
        let jain = jain(&simulation.had);
        assert!(jain >= 0.99, "{engines} engines: {jain}, {:?}", simulation.had);
    }
}

#[test]
fn t47_a_hogs_domain_has_no_more_than_a_quiet_one() {
    let hogs = Load { domain: 1, ..HOG };
    let mut simulation = Simulation::new(2, &[NINE, NINE, hogs, hogs, hogs]);
    simulation.run(400_000_000);
    let quiet: u64 = simulation.had.iter().take(2).sum();
    let loud: u64 = simulation.had.iter().skip(2).sum();
    assert!(jain(&[quiet, loud]) >= 0.99, "{quiet} and {loud}");
}

#[test]
fn t47_a_share_is_had_also_over_a_short_time() {
    let mut loads = vec![NINE; 9];
    loads.push(HOG);
    let mut simulation = Simulation::new(1, &loads);
    simulation.run(100_000_000);
    for window in 0..50 {
        let before = simulation.had.clone();
        simulation.run(8_000_000);
        let had: Vec<u64> = simulation.had.iter().zip(before).map(|(now, then)| now - then).collect();
        assert!(jain(&had) >= 0.95, "window {window}: {had:?}");
    }
}

#[test]
fn an_ordinary_client_has_a_sixteenth_of_the_claims_beside_one_that_always_goes_first() {
    let first = Load { priority: 7, ..NINE };
    let mut simulation = Simulation::new(1, &[NINE, first]);
    simulation.run(1_600 * NINE.job_ns);
    assert_eq!(simulation.had[0], 100 * NINE.job_ns);
}

#[test]
fn a_domain_has_its_share_whatever_priority_others_have() {
    let first = Load { priority: 7, domain: 1, ..HOG };
    let mut simulation = Simulation::new(1, &[NINE, first]);
    simulation.run(400_000_000);
    assert!(jain(&simulation.had) >= 0.99, "{:?}", simulation.had);
}
