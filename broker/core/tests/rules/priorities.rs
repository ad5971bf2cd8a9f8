//! Priorities that jobs lend to what they wait for (SPEC 7, 8).

use vgem_core::io::LinkId;
use vgem_proto::ids::{DeviceId, Handle, TimelineKey};
use vgem_proto::message::client::QueueOpened;
use vgem_proto::rights::{Access, WaitKind};

use crate::batch::Batch;
use crate::world::{COPY, MS, OTHER_DOMAIN, SEC, World, ZIP};

/// A client, two objects, and a queue on each of three devices, the last of them with a priority.
struct Chain {
    world: World,
    client: LinkId,
    objects: [Handle; 2],
    queues: [QueueOpened; 3],
}

fn chain(priority: u8) -> Chain {
    let mut world = World::new();
    let client = world.client();
    let objects = [4096; 2].map(|len| world.object(client, len));
    let queues = [(COPY, 0), (ZIP, 0), (SEC, priority)].map(|(device, p)| world.open_with(client, device, p));
    Chain { world, client, objects, queues }
}

impl Chain {
    /// A job on the first device, and one on the second that needs it.
    fn submit_two(&mut self) {
        let [copy, zip, _] = self.queues.each_ref().map(|opened| opened.queue);
        let [a, b] = self.objects;
        self.world.submit(self.client, Batch::new().job(copy, 1).writes(a, 0..64));
        self.world.submit(self.client, Batch::new().job(zip, 1).reads(a, 0..64).writes(b, 0..64));
    }

    /// A job on the third device that needs both.
    fn submit_third(&mut self, point: u64) {
        let batch = Batch::new().job(self.queues[2].queue, point).reads(self.objects[1], 0..64);
        self.world.submit(self.client, batch);
    }

    fn told(&mut self, device: DeviceId) -> Vec<(TimelineKey, u64, u8)> {
        self.world.driver(device).boosts.clone()
    }
}

#[test]
fn priority_is_lent_along_a_chain_over_three_devices() {
    let mut c = chain(5);
    c.submit_two();
    c.submit_third(1);
    let lines = c.queues.each_ref().map(|opened| opened.timeline);
    let told = [COPY, ZIP, SEC].map(|device| c.told(device));
    assert_eq!(told, [vec![(lines[0], 1, 5)], vec![(lines[1], 1, 5)], vec![]]);
}

#[test]
fn nothing_is_lent_while_every_queue_is_ordinary() {
    let mut c = chain(0);
    c.submit_two();
    c.submit_third(1);
    assert_eq!([COPY, ZIP, SEC].map(|device| c.told(device).len()), [0, 0, 0]);
}

#[test]
fn a_loan_is_told_once_however_many_wait() {
    let mut c = chain(5);
    c.submit_two();
    (1..=3).for_each(|point| c.submit_third(point));
    assert_eq!([COPY, ZIP].map(|device| c.told(device).len()), [1, 1]);
}

#[test]
fn who_has_as_high_a_priority_is_lent_nothing_and_neither_is_what_it_waits_for() {
    let mut c = chain(3);
    c.queues[1] = c.world.open_with(c.client, ZIP, 3);
    c.submit_two();
    let before = c.told(COPY);
    c.submit_third(1);
    assert_eq!((c.told(ZIP), c.told(COPY)), (vec![], before));
}

#[test]
fn a_higher_loan_is_told_after_a_lower_one() {
    let mut c = chain(3);
    c.submit_two();
    c.submit_third(1);
    let higher = c.world.open_with(c.client, SEC, 6).queue;
    c.world.submit(c.client, Batch::new().job(higher, 1).reads(c.objects[1], 0..64));
    assert_eq!(c.told(COPY).iter().map(|(_, _, priority)| *priority).collect::<Vec<_>>(), [3, 6]);
}

#[test]
fn the_jobs_before_one_in_its_queue_are_lent_to_with_it() {
    let mut c = chain(5);
    let [copy, zip, sec] = c.queues.each_ref().map(|opened| opened.queue);
    let [a, b] = c.objects;
    c.world.submit(c.client, Batch::new().job(copy, 1).writes(a, 0..64));
    // The first job of the second queue waits, the second does not but is behind it.
    c.world.submit(c.client, Batch::new().job(zip, 1).reads(a, 0..64).job(zip, 2).writes(b, 0..64));
    c.world.submit(c.client, Batch::new().job(sec, 1).reads(b, 0..64));
    assert_eq!((c.told(ZIP), c.told(COPY).len()), (vec![(c.queues[1].timeline, 2, 5)], 1));
}

#[test]
fn what_a_job_waits_for_in_its_own_instance_its_driver_sees_itself_but_not_what_is_behind_that() {
    let mut c = chain(0);
    let important = c.world.open_with(c.client, ZIP, 4).queue;
    c.submit_two();
    c.world.submit(c.client, Batch::new().job(important, 1).reads(c.objects[1], 0..64));
    assert_eq!((c.told(ZIP), c.told(COPY)), (vec![], vec![(c.queues[0].timeline, 1, 4)]));
}

#[test]
fn nothing_is_lent_to_another_domain() {
    let mut world = World::new();
    let (ours, theirs) = (world.client(), world.client_of(OTHER_DOMAIN));
    let object = world.object(ours, 4096);
    let key = world.last_object();
    let porter = world.porter(theirs);
    let imported = world.import(theirs, porter, key, Access::Write).object;
    let (queue, important) = (world.queue(ours, COPY), world.open_with(theirs, ZIP, 7).queue);
    world.submit(ours, Batch::new().job(queue, 1).writes(object, 0..64));
    world.submit(theirs, Batch::new().job(important, 1).reads(imported, 0..64));
    assert!(world.drivers.values().all(|driver| driver.boosts.is_empty()));
}

#[test]
fn a_loan_to_a_point_that_is_to_come_counts_for_the_jobs_up_to_it_and_goes_on() {
    let mut c = chain(5);
    let [copy, zip, sec] = c.queues.each_ref().map(|opened| opened.queue);
    let until = c.world.now.after(100 * MS);
    let awaited = vgem_proto::ids::TimelineHandle(zip.0);
    let batch = Batch::new().job(sec, 1).waits_for(awaited, 1, WaitKind::Data, Some(until));
    c.world.submit(c.client, batch);
    assert_eq!(c.told(ZIP), [(c.queues[1].timeline, 1, 5)]);
    c.world.submit(c.client, Batch::new().job(copy, 1).writes(c.objects[0], 0..64));
    c.world.submit(c.client, Batch::new().job(zip, 1).reads(c.objects[0], 0..64).job(zip, 2));
    assert_eq!((c.told(ZIP).len(), c.told(COPY)), (1, vec![(c.queues[0].timeline, 1, 5)]));
}

#[test]
fn a_loan_ends_with_its_point() {
    let mut c = chain(5);
    c.submit_two();
    c.submit_third(1);
    c.world.run_all();
    let [copy, zip, sec] = c.queues.each_ref().map(|opened| opened.queue);
    c.world.submit(c.client, Batch::new().job(copy, 2).writes(c.objects[0], 0..64));
    c.world.submit(c.client, Batch::new().job(zip, 2).reads(c.objects[0], 0..64));
    assert_eq!(c.told(COPY).len(), 1);
    c.world.submit(c.client, Batch::new().job(sec, 2).updates(c.objects[0], 0..64));
    assert_eq!(c.told(COPY).last(), Some(&(c.queues[0].timeline, 2, 5)));
}

#[test]
fn one_batch_lends_to_a_bounded_number_of_queues() {
    let mut world = World::new();
    let client = world.client();
    let objects: Vec<Handle> = (0..80).map(|_| world.object(client, 4096)).collect();
    for pair in objects.windows(2) {
        let queue = world.queue(client, ZIP);
        world.submit(client, Batch::new().job(queue, 1).reads(pair[0], 0..64).writes(pair[1], 0..64));
    }
    let important = world.open_with(client, COPY, 1).queue;
    world.submit(client, Batch::new().job(important, 1).reads(objects[79], 0..64));
    assert_eq!(world.driver(ZIP).boosts.len(), 64);
}
