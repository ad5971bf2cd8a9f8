//! A user queue that one thread has locked, against a toy driver behind a real ring.

mod support;

use vgem::{Access, After, Error, LocalError};

use support::{FakeBroker, Mood, SOON};

const PAGE: u64 = 4096;

#[test]
fn who_has_locked_a_queue_pushes_and_takes_and_others_come_after() {
    let (_broker, client) = FakeBroker::with_client_of(Mood::Honest);
    let queue = client.device("zip").and_then(|device| device.user_queue(8)).expect("a queue");
    let [from, to] = [(); 2].map(|()| client.create(2 * PAGE).expect("a buffer"));
    let (src, dst) =
        (queue.bind(&from, Access::Read).expect("bound"), queue.bind(&to, Access::Write).expect("bound"));
    let entries = [0..PAGE, PAGE..2 * PAGE].map(|range| {
        let draft = queue.entry("compress").input(src.range(range.clone()));
        draft.output(dst.range(range)).prepare().expect("a good entry")
    });
    let mut locked = queue.lock();
    std::thread::scope(|all| {
        let other = all.spawn(|| queue.push(&entries[1], SOON).expect("pushed").point().0);
        let first = locked.try_push(&entries[0]).expect("pushed");
        let mut tickets = Vec::new();
        locked.try_push_many(&entries, &mut tickets).expect("pushed");
        let batch = locked.try_push_batch(&entries, After::Barrier).expect("pushed");
        let points: Vec<u64> = [first].iter().chain(&tickets).chain([&batch]).map(|t| t.point().0).collect();
        assert_eq!(points, [1, 2, 3, 4]);
        let done = loop {
            if let Some(done) = locked.try_take(first).expect("it ends well") {
                break done;
            }
        };
        assert_eq!(done.produced, PAGE);
        let Err(Error::Local(LocalError::Taken { point })) = locked.forget(first) else {
            panic!("it was taken")
        };
        assert_eq!(point, first.point());
        locked.forget(tickets[0]).expect("it was not taken");
        let mut reaped = Vec::new();
        while reaped.len() < 2 {
            reaped.extend(locked.try_reap().expect("the queue is good").map(|reaped| reaped.ticket));
        }
        assert_eq!(reaped, [tickets[1], batch]);
        drop(locked);
        assert_eq!(other.join().expect("it pushes"), 5);
    });
}
