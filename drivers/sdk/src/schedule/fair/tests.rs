use super::*;

/// A small generator: the same numbers each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % most
    }
}

/// A queue of the model: whose it is and, while it is runnable, its priority and when it came.
struct Modelled {
    lane: Lane,
    client: ClientNumber,
    state: Now,
}

#[derive(Clone, Copy)]
enum Now {
    Idle,
    Runnable(Priority, u64),
    Running(Charged),
}

fn runnable(queue: &Modelled) -> Option<(Priority, u64)> {
    match queue.state {
        Now::Runnable(priority, came) => Some((priority, came)),
        Now::Idle | Now::Running(_) => None,
    }
}

fn used(fair: &Fair, client: ClientNumber) -> (DomainNumber, u64) {
    let client = fair.clients[client.0 as usize].as_ref().expect("it has queues");
    (client.domain, client.meter.used)
}

/// Whether a choice is one that the policy allows, by a plain search.
fn is_right(fair: &Fair, queues: &[Modelled], choice: Choice) -> bool {
    let of = |q: &Modelled| Some((runnable(q)?, q.lane, q.client, used(fair, q.client)));
    let all: Vec<_> = queues.iter().filter_map(of).collect();
    let domain_used = |number: DomainNumber| fair.domains[number.0 as usize].meter.used;
    let least_domain = all.iter().map(|q| domain_used(q.3.0)).min();
    let of_domain: Vec<_> = all.iter().filter(|q| q.3.0 == choice.domain).collect();
    let highest = of_domain.iter().map(|q| q.0.0).max();
    let lowest = of_domain.iter().map(|q| q.0.0).min();
    let passed = fair.domains[choice.domain.0 as usize].passed;
    let asks_priority = highest == lowest || passed < PASSES;
    let candidates: Vec<_> = of_domain.iter().filter(|q| !asks_priority || Some(q.0.0) == highest).collect();
    let least = candidates.iter().map(|q| q.3.1).min();
    let its: Vec<_> = candidates.iter().filter(|q| q.2 == choice.client).collect();
    let first = its.iter().min_by_key(|q| q.0.1).map(|q| (q.1, q.0.0));
    least_domain == Some(domain_used(choice.domain))
        && least == Some(used(fair, choice.client).1)
        && first == Some((choice.lane, choice.priority))
}

#[test]
fn what_the_heaps_choose_is_what_a_plain_search_would() {
    for seed in 1..=40 {
        let (mut fair, mut dice, mut came) = (Fair::default(), Dice(seed), 0);
        let mut queues: Vec<Modelled> = (0..20)
            .map(|lane| {
                let client = client(&mut fair, lane % 7, lane % 7 % 3);
                Modelled { lane: Lane::for_test(lane), client, state: Now::Idle }
            })
            .collect();
        for _ in 0..3_000 {
            let at = dice.below(queues.len());
            let priority = Priority::new(u8::try_from(dice.below(4)).expect("few") * 2);
            let queue = &mut queues[at];
            match (queue.state, dice.below(8)) {
                (Now::Idle, 0..=5) => {
                    came += 1;
                    fair.enter(queue.lane, queue.client, priority);
                    queue.state = Now::Runnable(priority, came);
                }
                (Now::Idle, 6) => {
                    let owner = u32::try_from(dice.below(7)).expect("few");
                    fair.leave(queue.client);
                    queue.client = client(&mut fair, owner, owner % 3);
                }
                (Now::Runnable(from, came), 0) => {
                    fair.move_to(queue.lane, queue.client, from, priority);
                    queue.state = Now::Runnable(priority, came);
                }
                (Now::Runnable(from, _), 1) => {
                    fair.withdraw(queue.lane, queue.client, from);
                    queue.state = Now::Idle;
                }
                (Now::Running(charged), 0..=2) => {
                    fair.ended(charged, 500 * dice.below(100) as u64);
                    queue.state = Now::Idle;
                }
                _ => {}
            }
            let Some(choice) = fair.choose().filter(|_| dice.below(3) == 0) else { continue };
            assert!(is_right(&fair, &queues, choice), "seed {seed}: {choice:?}");
            let charged = fair.take(choice).expect("it was chosen");
            queues.iter_mut().find(|q| q.lane == choice.lane).expect("a queue").state = Now::Running(charged);
        }
        let left = queues.iter().filter_map(runnable).count();
        assert_eq!((fair.runnable, fair.is_empty()), (left, left == 0), "seed {seed}");
        for queue in &queues {
            match queue.state {
                Now::Idle => {}
                Now::Runnable(from, _) => fair.withdraw(queue.lane, queue.client, from),
                Now::Running(charged) => fair.ended(charged, 1),
            }
            fair.leave(queue.client);
        }
        assert!(fair.is_empty() && fair.by_key.is_empty() && fair.clients.iter().all(Option::is_none));
    }
}

/// One more queue of the client with this number.
fn client(fair: &mut Fair, number: u32, domain: u32) -> ClientNumber {
    fair.join(DomainId(domain), ClientKey { index: number, generation: 1 })
}

/// Serves whoever is next with a job of `ns`, and has that queue come back; which it was.
fn serve(fair: &mut Fair, clients: &[ClientNumber], ns: impl Fn(usize) -> u64) -> usize {
    let choice = fair.choose().expect("all are runnable");
    let charged = fair.take(choice).expect("it was chosen");
    let at = clients.iter().position(|c| *c == choice.client).expect("one of them");
    fair.enter(choice.lane, choice.client, choice.priority);
    fair.ended(charged, ns(at));
    at
}

#[test]
fn who_comes_back_is_owed_nothing_and_owes_nothing() {
    for own_domains in [0, 1] {
        let mut fair = Fair::default();
        let clients = [0, 1, 2].map(|lane| client(&mut fair, lane, own_domains * lane));
        for (lane, client) in (0..).zip(&clients) {
            fair.enter(Lane::for_test(lane), *client, Priority::ORDINARY);
        }
        for _ in 0..30 {
            serve(&mut fair, &clients, |_| 50_000);
        }
        // The third goes away for long.
        fair.withdraw(Lane::for_test(2), clients[2], Priority::ORDINARY);
        for _ in 0..1_000 {
            serve(&mut fair, &clients, |_| 50_000);
        }
        // From now on each has a third, at once and for good.
        fair.enter(Lane::for_test(2), clients[2], Priority::ORDINARY);
        let mut served = [0; 3];
        for round in 1..=100 {
            for _ in 0..3 {
                served[serve(&mut fair, &clients, |_| 50_000)] += 1;
            }
            assert!(served.iter().all(|n| (round - 1..=round + 1).contains(n)), "{round}: {served:?}");
        }
    }
}

#[test]
fn what_counts_in_the_end_is_what_was_measured_not_what_was_expected() {
    for own_domains in [0, 1] {
        let mut fair = Fair::default();
        let clients = [0, 1].map(|lane| client(&mut fair, lane, own_domains * lane));
        for (lane, client) in (0..).zip(&clients) {
            fair.enter(Lane::for_test(lane), *client, Priority::ORDINARY);
        }
        let (mut had, mut runs) = ([0, 0], 0);
        for _ in 0..4_000 {
            // Of the first, every tenth job is long; of the second, all are alike.
            let len = |at: usize| if at == 1 || runs % 10 == 9 { 100_000 } else { 2_000 };
            let at = serve(&mut fair, &clients, len);
            had[at] += len(at);
            runs += usize::from(at == 0);
        }
        let apart = had[0].abs_diff(had[1]);
        assert!(apart <= 200_000, "{had:?}");
    }
}

#[test]
fn a_client_that_opens_its_queue_anew_has_saved_nothing_up() {
    let mut fair = Fair::default();
    let mut clients = [0, 1].map(|lane| client(&mut fair, lane, 0));
    fair.enter(Lane::for_test(0), clients[0], Priority::ORDINARY);
    for _ in 0..100 {
        serve(&mut fair, &clients, |_| 50_000);
    }
    fair.leave(clients[1]);
    clients[1] = client(&mut fair, 1, 0);
    fair.enter(Lane::for_test(1), clients[1], Priority::ORDINARY);
    let served: usize = (0..10).map(|_| serve(&mut fair, &clients, |_| 50_000)).sum();
    assert!((4..=6).contains(&served), "{served} of 10");
}

#[test]
fn a_domain_does_not_gain_by_having_more_clients() {
    let mut fair = Fair::default();
    let clients: Vec<_> = (0..10).map(|lane| client(&mut fair, lane, u32::from(lane > 0))).collect();
    for (lane, client) in (0..).zip(&clients) {
        fair.enter(Lane::for_test(lane), *client, Priority::ORDINARY);
    }
    let alone = (0..1_000).filter(|_| serve(&mut fair, &clients, |_| 50_000) == 0).count();
    assert!((498..=502).contains(&alone), "{alone} of 1000");
}

#[test]
fn long_jobs_are_had_more_seldom() {
    let mut fair = Fair::default();
    let clients = [0, 1].map(|lane| client(&mut fair, lane, 0));
    for (lane, client) in (0..).zip(&clients) {
        fair.enter(Lane::for_test(lane), *client, Priority::ORDINARY);
    }
    let lens = [100_000, 10_000];
    let long = (0..1_100).filter(|_| serve(&mut fair, &clients, |at| lens[at]) == 0).count();
    assert!((98..=102).contains(&long), "{long} of 1100");
}

#[test]
fn a_priority_goes_first_but_passes_others_by_fifteen_times_in_a_row_at_most() {
    for busy in [1, 5] {
        let mut fair = Fair::default();
        let clients: Vec<_> = (0..=busy).map(|lane| client(&mut fair, lane, 0)).collect();
        for (lane, client) in (0..).zip(&clients) {
            let priority = if lane == 0 { Priority::ORDINARY } else { Priority::new(7) };
            fair.enter(Lane::for_test(lane), *client, priority);
        }
        let (mut passed, mut low, mut longest) = (0, 0, 0);
        for _ in 0..16_000 {
            match serve(&mut fair, &clients, |_| 20_000) {
                0 => (passed, low) = (0, low + 1),
                _ => passed += 1,
            }
            longest = longest.max(passed);
        }
        assert_eq!((longest, low), (PASSES, 1_000), "{busy} at the higher priority");
    }
}

#[test]
fn the_claim_that_asks_no_priority_goes_to_the_oldest_queue_of_who_had_least() {
    let mut fair = Fair::default();
    let one = client(&mut fair, 0, 0);
    let lanes: Vec<Lane> = (0..4).map(Lane::for_test).collect();
    fair.enter(lanes[0], one, Priority::ORDINARY);
    fair.enter(lanes[1], one, Priority::ORDINARY);
    fair.enter(lanes[2], one, Priority::new(3));
    let mut seen = Vec::new();
    for _ in 0..34 {
        let choice = fair.choose().expect("all are runnable");
        let charged = fair.take(choice).expect("it was chosen");
        fair.ended(charged, 5_000);
        seen.push(choice.lane);
        if choice.priority != Priority::ORDINARY {
            fair.enter(choice.lane, one, choice.priority);
        }
    }
    let low: Vec<_> = seen.iter().enumerate().filter(|(_, lane)| **lane != lanes[2]).collect();
    assert_eq!(low, [(15, &lanes[0]), (31, &lanes[1])]);
}
