//! R: what a job waits for, as its driver is told.

use vgem_core::io::LinkId;
use vgem_proto::error::ErrorCode;
use vgem_proto::ids::{DeviceId, Handle, QueueHandle, TimelineKey};
use vgem_proto::jobs::JOB_EXPLICIT;
use vgem_proto::rights::WaitKind::{self, Data, Order};

use crate::batch::Batch;
use crate::world::{COPY, SEC, World, ZIP};

/// A client with an object of 4 KiB and a queue on each of three devices.
pub(crate) struct Stage {
    pub(crate) world: World,
    pub(crate) client: LinkId,
    pub(crate) object: Handle,
    pub(crate) queues: [QueueHandle; 3],
    pub(crate) lines: [TimelineKey; 3],
}

pub(crate) fn stage() -> Stage {
    let mut world = World::new();
    let client = world.client();
    let object = world.object(client, 4096);
    let opened = [COPY, ZIP, SEC].map(|device| world.open(client, device));
    let (queues, lines) = (opened.clone().map(|o| o.queue), opened.map(|o| o.timeline));
    Stage { world, client, object, queues, lines }
}

impl Stage {
    /// Submits one job per batch.
    pub(crate) fn submit(&mut self, batch: Batch) {
        self.world.submit(self.client, batch);
    }

    /// What the last job of a device waits for: which of the three timelines, the point, and how.
    pub(crate) fn waits(&mut self, device: DeviceId) -> Vec<(usize, u64, WaitKind)> {
        let place = |key| self.lines.iter().position(|line| *line == key).expect("one of the three");
        let mut waits: Vec<_> = self
            .world
            .driver(device)
            .history
            .last()
            .expect("a job")
            .waits()
            .into_iter()
            .map(|(key, point, kind)| (place(key), point, kind))
            .collect();
        waits.sort_unstable();
        waits
    }
}

#[test]
fn r1_a_write_waits_for_writers_and_readers_alike() {
    let mut s = stage();
    let [a, b, c] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(b, 1).reads(s.object, 64..128));
    s.submit(Batch::new().job(c, 1).writes(s.object, 128..192));
    assert_eq!(s.waits(SEC), [(0, 1, Order), (1, 1, Order)]);
}

#[test]
fn r2_read_waits_for_writes_only() {
    let mut s = stage();
    let [a, b, c] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(b, 1).reads(s.object, 0..64));
    s.submit(Batch::new().job(c, 1).reads(s.object, 0..64));
    assert_eq!((s.waits(ZIP), s.waits(SEC)), (vec![(0, 1, Data)], vec![(0, 1, Data)]));
}

#[test]
fn r2_two_reads_wait_for_nothing() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).reads(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    assert_eq!(s.waits(ZIP), []);
}

#[test]
fn r2_a_read_of_another_range_waits_by_order() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 64..128));
    assert_eq!(s.waits(ZIP), [(0, 1, Order)]);
}

#[test]
fn r3_a_use_that_orders_nobody_still_keeps_the_object() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).reads(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    s.world.run(s.lines[0], None);
    s.world.close(s.client, s.object);
    assert_eq!((s.waits(ZIP), s.world.memory.len()), (vec![], 1));
    s.world.run_all();
    assert_eq!(s.world.memory.len(), 0);
}

#[test]
fn r4_a_point_that_reads_and_writes_counts_as_a_writer() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 64..128).reads(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    assert_eq!(s.waits(ZIP), [(0, 1, Order)]);
}

#[test]
fn r5_a_newer_point_of_a_timeline_stands_for_the_older_ones() {
    let mut s = stage();
    for point in 1..=3 {
        s.submit(Batch::new().job(s.queues[0], point).reads(s.object, 0..64));
    }
    s.submit(Batch::new().job(s.queues[1], 1).writes(s.object, 0..64));
    assert_eq!(s.waits(ZIP), [(0, 3, Order)]);
}

#[test]
fn r5_points_that_have_ended_are_waited_for_no_more() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.world.run(s.lines[0], None);
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64));
    assert_eq!(s.waits(ZIP), []);
}

#[test]
fn r5_an_older_failure_is_seen_behind_a_newer_success() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[0], 2).writes(s.object, 64..128));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..128));
    assert_eq!(s.waits(ZIP), [(0, 1, Data), (0, 2, Data)]);
}

#[test]
fn r6_a_job_sees_the_points_of_those_before_it_in_its_batch() {
    let mut s = stage();
    let [a, b, c] = s.queues;
    let batch = Batch::new().job(a, 1).writes(s.object, 0..64);
    let batch = batch.job(b, 1).updates(s.object, 0..64).job(c, 1).reads(s.object, 0..64);
    s.submit(batch);
    assert_eq!(s.waits(COPY), []);
    assert_eq!(s.waits(ZIP), [(0, 1, Data)]);
    assert_eq!(s.waits(SEC), [(0, 1, Data), (1, 1, Data)]);
}

#[test]
fn r6_a_refused_batch_leaves_no_point_in_any_reservation() {
    let mut s = stage();
    let bad = Batch::new().job(s.queues[0], 1).writes(s.object, 0..64).job(s.queues[1], 1).op(99);
    assert_eq!(s.world.refused(s.client, bad.0).code, ErrorCode::NoSuchOperation);
    s.submit(Batch::new().job(s.queues[2], 1).reads(s.object, 0..64));
    assert_eq!(s.waits(SEC), []);
}

#[test]
fn r7_only_jobs_enter_reservations_an_explicit_wait_does_not() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64).waits(s.queues[0], 1, Order));
    s.submit(Batch::new().job(s.queues[2], 1).writes(s.object, 0..64));
    assert_eq!(s.waits(SEC), [(1, 1, Order)]);
}

#[test]
fn r8_an_explicit_job_skips_implicit_waits_but_is_waited_for() {
    let mut s = stage();
    let [a, b, c] = s.queues;
    s.submit(Batch::new().job(a, 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(b, 1).flags(JOB_EXPLICIT).updates(s.object, 0..64));
    s.submit(Batch::new().job(c, 1).reads(s.object, 0..64));
    assert_eq!(s.waits(ZIP), []);
    assert_eq!(s.waits(SEC), [(0, 1, Data), (1, 1, Data)]);
}

#[test]
fn r9_an_object_named_twice_is_waited_for_once() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..4096));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..64).updates(s.object, 64..128));
    assert_eq!(s.waits(ZIP), [(0, 1, Data)]);
}

#[test]
fn r9_a_job_never_waits_for_its_own_point() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).reads(s.object, 0..64).writes(s.object, 0..64));
    assert_eq!(s.waits(COPY), []);
}

#[test]
fn order_in_its_own_queue_needs_no_wait_but_data_does() {
    let mut s = stage();
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[0], 2).writes(s.object, 0..64));
    s.submit(Batch::new().job(s.queues[0], 3).reads(s.object, 0..64));
    assert_eq!(s.waits(COPY), [(0, 2, Data)]);
}

#[test]
fn a_cell_that_a_job_reads_is_an_operand_like_any_other() {
    let mut s = stage();
    let cells = s.world.object(s.client, 4096);
    s.submit(Batch::new().job(s.queues[0], 1).writes(s.object, 0..4096).result(cells, 64));
    s.submit(Batch::new().job(s.queues[1], 1).reads(s.object, 0..4096).indirect(cells, 64, 0));
    assert_eq!(s.waits(ZIP), [(0, 1, Data)]);
}
