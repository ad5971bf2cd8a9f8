//! User queues, against a toy driver behind a real ring: what is asked of the broker, what an entry does and how it ends,
//! mistakes, guards, threads, and the end of the queue.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use vgem::{
    Access, AddressRange, After, Binding, Buffer, CellWord, Client, Error, ErrorCode, FaultReason,
    FenceError, LocalError, PageVec, Prepared, UserQueue, UserQueueOptions,
};
use vgem_os::fence::Woke;
use vgem_proto::message::client::ClientMessage;

use support::rings::ToyRing;
use support::{FakeBroker, Mood, SOON, cause};

const PAGE: u64 = 4096;

/// A client with a user queue and two bound buffers of sixteen pages.
struct Rig {
    broker: FakeBroker,
    client: Client,
    queue: UserQueue,
    from: Buffer,
    to: Buffer,
    src: Binding,
    dst: Binding,
}

impl Rig {
    fn new(depth: u32) -> Self {
        let (broker, client) = FakeBroker::with_client_of(Mood::Honest);
        let queue = client.device("zip").and_then(|device| device.user_queue(depth)).expect("a queue");
        let [from, to] = [(); 2].map(|()| client.create(16 * PAGE).expect("a buffer"));
        from.write(.., SOON)
            .expect("a guard")
            .iter_mut()
            .zip((0..=255).cycle())
            .for_each(|(byte, n)| *byte = n);
        let src = queue.bind(&from, Access::Read).expect("bound");
        let dst = queue.bind(&to, Access::Write).expect("bound");
        Self { broker, client, queue, from, to, src, dst }
    }

    fn ring(&self) -> std::sync::Arc<ToyRing> {
        self.broker.rings.ring(0)
    }

    /// Copies a page to a page.
    fn copy(&self, page: u64) -> Prepared {
        let range = page * PAGE..(page + 1) * PAGE;
        let draft = self.queue.entry("compress").input(self.src.range(range.clone()));
        draft.output(self.dst.range(range)).prepare().expect("a good entry")
    }

    /// A page to read and a page to write.
    fn page(&self) -> (AddressRange, AddressRange) {
        (self.src.range(..PAGE), self.dst.range(..PAGE))
    }
}

fn said<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.expect_err("a mistake").to_string()
}

#[test]
fn an_entry_copies_by_address_and_nobody_is_asked() {
    let rig = Rig::new(8);
    let sent = rig.client.counters().messages_sent;
    let draft = rig.queue.entry("compress").input(&rig.from).output(&rig.to).param("level", 5);
    let ticket = draft.push(SOON).expect("pushed");
    let done = rig.queue.wait(ticket, SOON).expect("it ends well");
    assert_eq!((done.produced, done.value, ticket.point().0), (16 * PAGE, 5, 1));
    assert_eq!(rig.client.counters().messages_sent, sent);
    let (from, to) = (rig.from.read(.., SOON).expect("a guard"), rig.to.read(.., SOON).expect("a guard"));
    assert!(from[..] == to[..]);
}

#[test]
fn opening_asks_for_a_queue_a_ring_and_an_arena_and_dropping_closes() {
    let rig = Rig::new(9);
    assert_eq!((rig.queue.depth(), rig.queue.device()), (16, "zip"));
    let attach = rig.broker.request(|request| match request {
        ClientMessage::AttachRing(attach) => Some(attach),
        _ => None,
    });
    assert_eq!((attach.queue.0, attach.depth), (1, 16));
    let binds: Vec<_> = (0..3)
        .map(|_| {
            rig.broker.request(|request| match request {
                ClientMessage::Bind(bind) => Some((bind.address, bind.len, bind.access)),
                _ => None,
            })
        })
        .collect();
    assert_eq!(
        binds[1..],
        [(rig.from.address(), 16 * PAGE, Access::Read), (rig.to.address(), 16 * PAGE, Access::Write)]
    );
    drop(rig.queue);
    let closed = rig.broker.request(|request| match request {
        ClientMessage::CloseQueue(close) => Some(close.queue),
        _ => None,
    });
    assert_eq!(closed.0, 1);
}

#[test]
fn a_prepared_entry_goes_elsewhere_without_lookups() {
    let rig = Rig::new(8);
    let mut entry = rig.copy(0);
    let (input, output) = (entry.key("input").expect("known"), entry.key("output").expect("known"));
    for page in 0..16 {
        entry.set(input, rig.src.range(page * PAGE..(page + 1) * PAGE)).expect("as long");
        entry.set(output, rig.dst.range((15 - page) * PAGE..(16 - page) * PAGE)).expect("as long");
        // Twice as many as the queue is deep.
        rig.queue.forget(rig.queue.push(&entry, SOON).expect("pushed")).expect("not taken");
    }
    rig.queue.wait_all(SOON).expect("all end well");
    assert!(entry.set_number(entry.param_key("level").expect("known"), 1).is_err());
    assert!(entry.set(entry.key("dictionary").expect("known"), rig.src).is_err());
    let (from, to) = (rig.from.read(.., SOON).expect("a guard"), rig.to.read(.., SOON).expect("a guard"));
    assert!(from.chunks(4096).eq(to.rchunks(4096)));
}

#[test]
fn numbers_of_a_prepared_entry_change_in_place_and_in_a_block() {
    let rig = Rig::new(8);
    let (from, to) = rig.page();
    let plain = rig.queue.entry("compress").input(from).output(to).param("level", 1);
    let block = rig.queue.entry("compress").input(from).output(to).param("level", 1).result();
    for draft in [plain, block] {
        let mut entry = draft.prepare().expect("a good entry");
        let level = entry.param_key("level").expect("known");
        entry.set_number(level, 9).expect("in range");
        let ticket = rig.queue.push(&entry, SOON).expect("pushed");
        assert_eq!(rig.queue.wait(ticket, SOON).expect("it ends well").value, 9);
        assert_eq!(
            said(entry.set_number(level, 23)),
            "parameter \"level\" of compress: 23 is not from 0 to 22"
        );
    }
}

#[test]
fn what_does_not_fit_into_an_entry_goes_through_the_arena() {
    let rig = Rig::new(8);
    let (from, to) = rig.page();
    let draft = rig.queue.entry("compress").input(from).output(to).operand("dictionary", from);
    let ticket = draft.param("comment", "abc").param("format", "zstd").result().push(SOON).expect("pushed");
    let done = rig.queue.wait(ticket, SOON).expect("it ends well");
    let cell = done.cell.expect("it was asked for");
    assert_eq!((done.value, cell.produced(), cell.value()), (97 + 98 + 99, PAGE, 97 + 98 + 99));
    assert_eq!(cell.digest()[..3], [0x57, 0x6e, 0xd1]);
}

#[test]
fn an_entry_that_is_chained_takes_the_length_that_the_one_before_it_found() {
    let rig = Rig::new(8);
    let cells = rig.client.cells(2).expect("cells");
    rig.queue.bind_cells(&cells).expect("bound");
    let small = rig.queue.entry("compress").input(rig.src.range(..100)).output(rig.dst.range(..PAGE));
    let small = small.result_in(cells.at(0)).prepare().expect("a good entry");
    let next = rig.queue.entry("compress").input_from(rig.src, cells.at(0), CellWord::Produced);
    let next =
        next.output(rig.dst.range(PAGE..2 * PAGE)).param_from("level", cells.at(0), CellWord::Value, 9);
    let next = next.chain().prepare().expect("a good entry");
    let mut tickets = Vec::new();
    rig.queue.push_many(&[small, next], &mut tickets, SOON).expect("pushed");
    let done = rig.queue.wait(tickets[1], SOON).expect("it ends well");
    assert_eq!((done.produced, done.value, cells.read(0).produced()), (100, 3, 100));
}

#[test]
fn a_batch_is_one_entry_and_says_which_of_its_own_failed_first() {
    let rig = Rig::new(8);
    let good: Vec<_> = (0..16).map(|page| rig.copy(page)).collect();
    let ticket = rig.queue.push_batch(&good, After::Barrier, SOON).expect("pushed");
    assert_eq!(rig.queue.wait(ticket, SOON).expect("it ends well").produced, 16);
    let (from, to) = rig.page();
    let bad = rig.queue.entry("compress").input(from).output(to).param("level", 13).param("comment", "x");
    let bad = bad.prepare().expect("a good entry");
    let ticket =
        rig.queue.push_batch(&[rig.copy(0), bad, rig.copy(1)], After::Nothing, SOON).expect("pushed");
    match rig.queue.wait(ticket, SOON) {
        Err(Error::Entry(failure)) => {
            assert_eq!((failure.code, failure.value, failure.produced), (ErrorCode::CorruptInput, 1, 2));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_entry_says_why_with_what_is_behind_it_and_the_queue_goes_on() {
    let rig = Rig::new(8);
    let (from, to) = rig.page();
    let bad =
        rig.queue.entry("compress").input(from).output(to).param("level", 13).push(SOON).expect("pushed");
    let chained = rig.queue.entry("compress").input(from).output(to).chain().push(SOON).expect("pushed");
    assert_eq!(
        said(rig.queue.wait(bad, SOON)),
        "zip: entry 1 failed: corrupt input (cause:3.7): zip: needs 90 bytes, has 10 (pid 321)"
    );
    let failed = rig.queue.wait(chained, SOON).expect_err("cancelled with it");
    assert_eq!(failed.code(), Some(ErrorCode::Cancelled));
    rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    rig.queue.wait_all(SOON).expect("it ends well");
}

/// The driver's own view is narrower than the client's: the broker was asked to unbind behind the client's back.
#[test]
fn an_address_that_the_driver_cannot_reach_is_a_fault_with_the_address_and_why() {
    let rig = Rig::new(8);
    let ticket = {
        let unbind = vgem_proto::message::client::Unbind {
            queue: vgem_proto::ids::QueueHandle(1),
            address: rig.src.address(),
        };
        rig.broker.rings.unbind(&unbind);
        rig.queue.push(&rig.copy(2), SOON).expect("pushed")
    };
    match rig.queue.wait(ticket, SOON) {
        Err(Error::Entry(failure)) => {
            let fault = failure.fault.expect("a fault");
            let address = rig.src.address() + 2 * PAGE;
            assert_eq!((fault.address, fault.reason), (address, FaultReason::Unbound));
            let said = failure.to_string();
            let wanted = format!(
                "zip: entry 1 failed: address fault: nothing is bound at {address:#x}, and it is in no window ("
            );
            assert!(said.starts_with(&wanted.replace("address fault", failure.code.phrase())), "{said}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mistake_in_an_entry_is_told_with_values_and_nothing_is_submitted() {
    let rig = Rig::new(8);
    let (from, to) = rig.page();
    let entry = |op| rig.queue.entry(op);
    let nowhere = AddressRange::new(rig.dst.address() + 16 * PAGE - 1, 2);
    let (address, limit) = (nowhere.address(), rig.dst.address());
    let said = [
        said(entry("shrink").input(from).try_push()),
        said(entry("compress").input(from).try_push()),
        said(entry("compress").input(from).output(to).inout(to).try_push()),
        said(entry("compress").input(from).output(to).operand("output", to).try_push()),
        said(entry("compress").input(from).output(to).param("level", 23).try_push()),
        said(entry("compress").input(from).output(to).param("size", 1).try_push()),
        said(entry("compress").input(from).output(to).param("comment", 5).try_push()),
        said(entry("compress").input(from).output(AddressRange::new(0, 9)).try_push()),
        said(entry("compress").input(rig.from.slice(PAGE..17 * PAGE)).output(to).try_push()),
        said(entry("compress").input(from).output(from).try_push()),
        said(entry("compress").input(from).output(nowhere).try_push()),
        said(entry("mix").inout(to).result().try_push()),
    ];
    let wanted = [
        "zip has no operation \"shrink\"; it has compress, mix".to_owned(),
        "compress needs operand \"output\"".into(),
        "compress has no further operand that is read and written; its operands are input, output, dictionary, result"
            .into(),
        "compress: operand \"output\" was given before".into(),
        "parameter \"level\" of compress: 23 is not from 0 to 22".into(),
        "compress has no parameter \"size\"; it has format, level, comment".into(),
        "parameter \"comment\" of compress: a number, bytes are asked for".into(),
        "9 bytes at 0x0 are no range of addresses".into(),
        "bytes 4096..69632 leave a buffer of 65536 bytes".into(),
        format!("4096 bytes at {:#x} are bound for reading only: bind them with Access::Write", from.address()),
        format!("nothing is bound to 2 bytes at {address:#x}; next to it {limit:#x}..{:#x} is", limit + 16 * PAGE),
        "mix has no result cell; its operands are data".into(),
    ];
    assert_eq!(said.map(Some), wanted.map(Some));
    assert_eq!((rig.queue.counters().pushed, rig.queue.under_way()), (0, 0));
}

#[test]
fn things_of_another_queue_are_refused() {
    let rig = Rig::new(8);
    let other = rig.client.device("zip").and_then(|device| device.user_queue(8)).expect("a queue");
    let ticket = rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    let of_other = |what: &str| format!("the {what} is of another user queue");
    assert_eq!(said(other.push(&rig.copy(0), SOON)), of_other("prepared entry"));
    assert_eq!(said(other.wait(ticket, SOON)), of_other("ticket"));
    assert_eq!(said(other.unbind(rig.src)), of_other("binding"));
    assert_eq!(said(other.fence(ticket)), of_other("ticket"));
    rig.queue.wait(ticket, SOON).expect("it ends well");
    assert_eq!(said(rig.queue.wait(ticket, SOON)), "how entry 1 ended was taken before");
}

#[test]
fn an_entry_that_cannot_be_in_a_batch_is_refused_by_its_place() {
    let rig = Rig::new(8);
    let (from, to) = rig.page();
    let chained = rig.queue.entry("compress").input(from).output(to).chain().prepare().expect("a good entry");
    let celled = rig.queue.entry("compress").input(from).output(to).result().prepare().expect("a good entry");
    let batch = |entries: &[Prepared]| said(rig.queue.try_push_batch(entries, After::Nothing));
    assert!(batch(&[chained.clone(), rig.copy(0)]).starts_with("entry 0 of the batch is chained"));
    assert!(batch(&[rig.copy(0), celled]).starts_with("entry 1 of the batch has a result cell"));
    assert_eq!(batch(&[]), "a batch needs an entry");
    assert_eq!(batch(&vec![rig.copy(0); 257]), "257 entries in a batch, the limit is 256");
    rig.queue.try_push_batch(&[rig.copy(0), chained], After::Nothing).expect("pushed");
    rig.queue.wait_all(SOON).expect("it ends well");
}

#[test]
fn what_is_bound_overlaps_nothing_and_is_bound_elsewhere_too() {
    let rig = Rig::new(8);
    let (start, end) = (rig.from.address(), rig.from.address() + 16 * PAGE);
    assert_eq!(
        said(rig.queue.bind(rig.from.slice(PAGE..2 * PAGE), Access::Read)),
        format!(
            "4096 bytes at {:#x} overlap what is bound at {start:#x}..{end:#x}: unbind that first",
            start + PAGE
        )
    );
    let said_of = |address| said(rig.queue.bind_at(rig.from.slice(..PAGE), address, Access::Read));
    assert_eq!(said_of(0), "4096 bytes at 0x0 are no range of addresses");
    assert!(said_of(u64::MAX - 5).ends_with("are no range of addresses"));
    assert_eq!(
        said(rig.queue.bind(rig.from.slice(..0), Access::Read)),
        "a range that is bound needs at least one byte"
    );
    let low = rig.queue.bind_at(rig.from.slice(PAGE..3 * PAGE), 0x1000, Access::Read).expect("bound");
    let ticket =
        rig.queue.entry("compress").input(0x1800_u64..0x1900).output(rig.dst).push(SOON).expect("pushed");
    assert_eq!(rig.queue.wait(ticket, SOON).expect("it ends well").produced, 0x100);
    assert_eq!(
        rig.to.read(..1, SOON).expect("a guard")[0],
        rig.from.read(0x1800.., SOON).expect("a guard")[0]
    );
    assert_eq!((low.address(), low.len(), low.access()), (0x1000, 2 * PAGE, Access::Read));
}

#[test]
fn a_binding_goes_when_nothing_uses_it_and_a_stale_one_is_found_out() {
    let rig = Rig::new(8);
    let ring = rig.ring();
    ring.takes_only(0);
    let ticket = rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    let used = said(rig.queue.unbind(rig.src));
    assert!(used.starts_with("1 operands of entries under way are in the 65536 bytes at "), "{used}");
    ring.goes_on();
    rig.queue.wait(ticket, SOON).expect("it ends well");
    rig.queue.unbind(rig.src).expect("unbound");
    assert_eq!(ring.bound(), [(rig.to.address(), 16 * PAGE)]);
    let again = rig.queue.bind(&rig.from, Access::Read).expect("bound");
    assert!(said(rig.queue.unbind(rig.src)).starts_with("nothing is bound"));
    rig.queue.push(&rig.copy(0), SOON).expect("an address is an address");
    rig.queue.wait_all(SOON).expect("it ends well");
    rig.queue.unbind(again).expect("unbound");
    assert!(said(rig.queue.try_push(&rig.copy(0))).starts_with("nothing is bound"));
}

#[test]
fn what_the_broker_refuses_to_bind_is_not_bound_and_to_unbind_stays() {
    let rig = Rig::new(8);
    rig.queue.unbind(rig.src).expect("unbound");
    rig.broker.rings.refuses.store(true, Ordering::Relaxed);
    assert!(matches!(rig.queue.bind(&rig.from, Access::Read), Err(Error::Refused(_))));
    assert!(matches!(rig.queue.unbind(rig.dst), Err(Error::Refused(_))));
    rig.broker.rings.refuses.store(false, Ordering::Relaxed);
    rig.queue.bind(&rig.from, Access::Read).expect("bound");
    rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    rig.queue.wait_all(SOON).expect("it ends well");
}

#[test]
fn adopted_memory_is_handed_over_by_its_own_pointers() {
    let rig = Rig::new(8);
    let pages = PageVec::from_slice(&[7; 10_000]);
    let pointers = pages.as_ptr_range();
    let (adopted, binding) = rig.queue.adopt_pages(pages).expect("adopted and bound");
    assert_eq!(AddressRange::from(binding), AddressRange::from(pointers.clone()));
    let ticket = rig.queue.entry("mix").inout(pointers).push(SOON).expect("pushed");
    rig.queue.wait(ticket, SOON).expect("it ends well");
    let still = adopted.release(SOON).expect_err("it is bound");
    assert!(matches!(still.error, Error::Local(LocalError::StillUsed { .. })));
    rig.queue.unbind(binding).expect("unbound");
    let pages = still.memory.expect("it comes back").release(SOON).expect("released");
    assert!(pages.len() == 10_000 && pages.iter().all(|byte| *byte == !7));
}

#[test]
fn memory_that_cannot_be_bound_comes_back_as_it_was() {
    let rig = Rig::new(8);
    rig.broker.rings.refuses.store(true, Ordering::Relaxed);
    let failed = rig.queue.adopt_pages(PageVec::from_slice(&[7; 100])).expect_err("refused");
    assert_eq!(failed.memory.as_deref(), Some(&[7_u8; 100][..]));
}

#[test]
fn a_full_queue_says_so_and_a_push_waits_for_room() {
    let rig = Rig::new(8);
    let (ring, entry) = (rig.ring(), rig.copy(0));
    ring.takes_only(0);
    let mut tickets = Vec::new();
    rig.queue.push_many(&vec![entry.clone(); 8], &mut tickets, SOON).expect("pushed");
    let full = "zip: the user queue has no more slots: 8 entries are under way and 0 have ended and were not taken, \
                of 8 at most";
    assert_eq!(said(rig.queue.try_push(&entry)), full);
    assert_eq!(said(rig.queue.push(&entry, Duration::from_millis(5))), full);
    assert_eq!(
        said(rig.queue.push_many(&vec![entry.clone(); 9], &mut tickets, SOON)),
        "9 entries pushed at once, the limit is 8"
    );
    ring.goes_on();
    // All have ended, and their slots hold how.
    while rig.queue.under_way() > 0 {
        assert!(rig.queue.try_push(&entry).is_err());
    }
    let full = said(rig.queue.push(&entry, Duration::from_millis(5)));
    assert!(full.contains("0 entries are under way and 8 have ended"), "{full}");
    rig.queue.wait(tickets[3], SOON).expect("it ends well");
    rig.queue.push(&entry, SOON).expect("there is room");
    assert_eq!(rig.queue.counters().pushed, 9);
}

#[test]
fn a_failure_that_nobody_asks_for_is_told_in_the_end() {
    let rig = Rig::new(8);
    let (from, to) = rig.page();
    let bad =
        rig.queue.entry("compress").input(from).output(to).param("level", 13).push(SOON).expect("pushed");
    rig.queue.forget(bad).expect("not taken");
    for _ in 0..20 {
        let ticket = rig.queue.push(&rig.copy(0), SOON).expect("there is room");
        rig.queue.forget(ticket).expect("not taken");
    }
    assert!(said(rig.queue.wait_all(SOON)).starts_with("zip: entry 1 failed: corrupt input"));
    assert_eq!(said(rig.queue.forget(bad)), "how entry 1 ended was taken before");
}

#[test]
fn a_push_that_waits_goes_on_when_another_thread_takes() {
    let rig = Rig::new(8);
    let (mut tickets, entry) = (Vec::new(), rig.copy(0));
    rig.queue.push_many(&vec![entry.clone(); 8], &mut tickets, SOON).expect("pushed");
    std::thread::scope(|threads| {
        let pusher = threads.spawn(|| rig.queue.push(&entry, SOON));
        for ticket in tickets {
            rig.queue.wait(ticket, SOON).expect("it ends well");
        }
        assert!(pusher.join().expect("no panic").is_ok());
    });
}

#[test]
fn a_wait_ends_at_its_deadline_and_the_ticket_stays_good() {
    let rig = Rig::new(8);
    let ring = rig.ring();
    ring.takes_only(0);
    let ticket = rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    let short = Duration::from_millis(3);
    assert!(matches!(rig.queue.wait(ticket, short), Err(Error::Timeout { .. })));
    assert!(matches!(rig.queue.reap(short), Err(Error::Timeout { .. })));
    assert!(matches!(rig.queue.wait_all(short), Err(Error::Timeout { .. })));
    assert!(matches!((rig.queue.try_take(ticket), rig.queue.try_reap()), (Ok(None), Ok(None))));
    ring.goes_on();
    rig.queue.wait(ticket, SOON).expect("it ends well");
    assert!(matches!(rig.queue.reap(SOON), Ok(None)));
}

#[test]
fn completions_are_taken_in_any_order_by_whoever_asks() {
    let rig = Rig::new(8);
    let ring = rig.ring();
    ring.backwards.store(true, Ordering::Relaxed);
    ring.takes_only(0);
    let mut tickets = Vec::new();
    rig.queue.push_many(&vec![rig.copy(0); 8], &mut tickets, SOON).expect("pushed");
    ring.goes_on();
    for ticket in [2, 7, 0] {
        rig.queue.wait(tickets[ticket], SOON).expect("it ends well");
    }
    let mut points = Vec::new();
    while let Some(reaped) = rig.queue.reap(SOON).expect("the queue goes on") {
        assert!(reaped.result.is_ok());
        points.push(reaped.ticket.point().0);
    }
    points.sort_unstable();
    assert_eq!(points, [2, 4, 5, 6, 7]);
}

#[test]
fn a_guard_waits_for_entries_that_use_its_bytes_and_for_no_others() {
    let rig = Rig::new(8);
    let ring = rig.ring();
    ring.takes_only(0);
    let ticket = rig.queue.push(&rig.copy(3), SOON).expect("pushed");
    let (used, other) = (3 * PAGE..4 * PAGE, 4 * PAGE..5 * PAGE);
    assert!(rig.to.try_read(used.clone()).expect("asked").is_none());
    assert!(rig.from.try_write(used.clone()).expect("asked").is_none());
    assert!(rig.from.try_read(used.clone()).expect("asked").is_some());
    assert!(rig.to.try_write(other).expect("asked").is_some());
    let late = rig.to.read(used.clone(), Duration::from_millis(3)).map(|guard| guard.len());
    assert!(matches!(late, Err(Error::Timeout { .. })));
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| rig.to.read(used.clone(), SOON).map(|guard| guard[1]));
        ring.goes_on();
        assert_eq!(reader.join().expect("no panic").expect("a guard"), 1);
    });
    // The guard took the completion in, and how the entry ended is still to be had.
    assert_eq!(rig.queue.wait(ticket, SOON).expect("it ends well").produced, PAGE);
}

#[test]
fn an_entry_over_bytes_under_a_guard_is_refused() {
    let rig = Rig::new(8);
    let entry = rig.copy(0);
    let guard = rig.to.read(10..20, SOON).expect("a guard");
    let under = |at: u64| format!("bytes {at}..{} of a buffer are under a guard; drop it first", at + 10);
    assert_eq!(said(rig.queue.try_push(&entry)), under(10));
    let mut tickets = Vec::new();
    assert_eq!(said(rig.queue.try_push_many(&[rig.copy(1), entry.clone()], &mut tickets)), under(10));
    assert!(tickets.is_empty() && rig.queue.under_way() == 0);
    rig.queue.push(&rig.copy(1), SOON).expect("other bytes");
    drop(guard);
    let reading = rig.from.read(.., SOON).expect("a guard");
    rig.queue.push(&entry, SOON).expect("both only read");
    drop(reading);
    rig.queue.wait_all(SOON).expect("all end well");
    let writing = rig.from.write(5..15, SOON).expect("a guard");
    assert_eq!(said(rig.queue.try_push(&entry)), under(5));
    drop(writing);
    rig.queue.unbind(rig.src).expect("nothing uses it");
}

/// A reader that checks what it sees, and a pusher whose entries change it: never both at a time.
#[test]
fn guards_and_entries_of_several_threads_keep_out_of_each_others_way() {
    let rig = Rig::new(16);
    rig.to.write(.., SOON).expect("a guard").fill(0);
    let mix = rig.queue.entry("mix").inout(rig.dst).prepare().expect("a good entry");
    let rounds = 300;
    std::thread::scope(|threads| {
        let pusher = threads.spawn(|| {
            let mut pushed = 0;
            while pushed < rounds {
                match rig.queue.push(&mix, SOON) {
                    Ok(ticket) => {
                        pushed += 1;
                        rig.queue.wait(ticket, SOON).expect("it ends well");
                    }
                    Err(Error::Local(LocalError::GuardHeld { .. })) => std::thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
        });
        while !pusher.is_finished() {
            if let Some(guard) = rig.to.try_read(..).expect("asked") {
                let first = guard[0];
                for _ in 0..4 {
                    std::thread::yield_now();
                    let bytes = std::hint::black_box(&guard[..]);
                    assert!(bytes.iter().all(|byte| *byte == first), "an entry writes under a guard");
                }
            }
            std::thread::yield_now();
        }
        pusher.join().expect("no panic");
    });
    assert_eq!(rig.to.read(..1, SOON).expect("a guard")[0], 0);
}

#[test]
fn the_end_of_the_ring_wakes_who_waits_with_the_cause() {
    let rig = Rig::new(8);
    let ring = rig.ring();
    ring.takes_only(0);
    let mut tickets = Vec::new();
    rig.queue.push_many(&[rig.copy(0), rig.copy(1)], &mut tickets, SOON).expect("pushed");
    let over = "zip: the user queue is over: device lost (cause:3.7): zip: needs 90 bytes, has 10 (pid 321)";
    std::thread::scope(|threads| {
        let waiters: Vec<_> =
            tickets.iter().map(|ticket| threads.spawn(|| rig.queue.wait(*ticket, SOON))).collect();
        ring.kill(ErrorCode::DeviceLost, cause());
        for waiter in waiters {
            assert_eq!(said(waiter.join().expect("no panic")), over);
        }
    });
    assert_eq!(said(rig.queue.try_push(&rig.copy(0))), over);
    assert_eq!(said(rig.queue.reap(SOON)), over);
    assert_eq!(said(rig.queue.bind(rig.to.slice(..1), Access::Read)), over);
}

#[test]
fn an_entry_that_ends_well_makes_up_for_what_a_failed_job_was_to_write() {
    let rig = Rig::new(8);
    let jobs = rig.client.device("zip").and_then(|device| device.queue(16)).expect("a queue");
    rig.broker.publish(1);
    let mut batch = rig.client.batch();
    batch.job(&jobs, "compress").input(&rig.from).output(rig.to.slice(..2 * PAGE));
    batch.submit().expect("sent");
    let is_good = |page: u64| rig.to.read(page * PAGE..(page + 1) * PAGE, SOON).is_ok();
    let (input, output) = rig.page();
    let fails = || rig.queue.entry("compress").input(input).output(output).param("level", 13);
    // Pushed before the job has failed, it comes before that, for all that anybody knows.
    rig.queue.wait(rig.queue.push(&rig.copy(0), SOON).expect("pushed"), SOON).expect("copied");
    let _woke: Woke = rig.broker.fail(1, 1, ErrorCode::Io, cause());
    assert_eq!([0, 1, 2].map(is_good), [false, false, true]);
    let failed = fails().push(SOON).expect("pushed");
    assert!(rig.queue.wait(failed, SOON).is_err());
    assert_eq!([0, 1, 2].map(is_good), [false, false, true], "nothing was written");
    rig.queue.wait(rig.queue.push(&rig.copy(0), SOON).expect("pushed"), SOON).expect("copied");
    assert_eq!([0, 1, 2].map(is_good), [true, false, true]);
}

#[test]
fn memory_of_a_queue_that_is_over_is_free_once_its_point_has_ended() {
    let rig = Rig::new(8);
    let ring = rig.ring();
    ring.takes_only(0);
    rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    ring.kill(ErrorCode::DeviceLost, cause());
    assert!(matches!(rig.queue.wait_all(SOON), Err(Error::QueueOver(_))));
    // The ring says no more; whether the driver still writes, the page tells.
    assert!(rig.to.try_write(..PAGE).expect("asked").is_none());
    rig.broker.kill_page(cause());
    assert!(rig.to.try_write(..PAGE).expect("asked").is_some());
    let failed = rig.to.read(PAGE.., SOON).map(|guard| guard.len());
    assert_eq!(failed.expect("no entry was to write there"), 15 * 4096);
}

#[test]
fn a_dropped_queue_leaves_its_memory_in_use_until_its_entries_have_ended() {
    let rig = Rig::new(8);
    let ring = rig.ring();
    ring.takes_only(0);
    rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    drop(rig.queue);
    assert!(rig.to.try_read(..PAGE).expect("asked").is_none());
    assert!(rig.to.try_read(PAGE..).expect("asked").is_some());
    ring.goes_on();
    assert_eq!(rig.to.read(..PAGE, SOON).expect("a guard")[1], 1);
}

#[test]
fn a_wait_that_ends_after_the_broker_says_that_it_is_gone_and_the_queue_goes_on() {
    let mut rig = Rig::new(8);
    let ring = rig.ring();
    rig.broker.hang_up();
    rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    rig.queue.wait_all(SOON).expect("nobody needs the broker");
    ring.takes_only(0);
    let ticket = rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    assert!(matches!(rig.queue.wait(ticket, Duration::from_millis(3)), Err(Error::BrokerLost { .. })));
}

#[test]
fn an_entry_is_waited_for_as_any_job() {
    let rig = Rig::new(8);
    let ticket = rig.queue.push(&rig.copy(0), SOON).expect("pushed");
    let fence = rig.queue.fence(ticket).expect("its own");
    fence.wait(SOON).expect("it ends");
    assert!(rig.queue.try_take(ticket).expect("it ended well").is_some());
    let never = rig.queue.fence(ticket).expect("its own").wait(Duration::ZERO);
    assert!(!matches!(never, Err(FenceError::Timeout { .. })));
}

#[test]
fn several_threads_push_and_wait_at_once() {
    let rig = Rig::new(8);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let (queue, entry) = (&rig.queue, rig.copy(thread));
            threads.spawn(move || {
                for _ in 0..500 {
                    let ticket = queue.push(&entry, SOON).expect("pushed");
                    assert_eq!(queue.wait(ticket, SOON).expect("it ends well").produced, PAGE);
                }
            });
        }
    });
    let counters = rig.queue.counters();
    assert_eq!((counters.pushed, counters.reaped, rig.queue.under_way()), (2000, 2000, 0));
}

#[test]
fn no_system_call_is_made_for_a_driver_that_is_awake() {
    let rig = Rig::new(64);
    let ring = rig.ring();
    // It takes nothing, and does not sleep either, once it has seen that.
    ring.takes_only(0);
    while !ring.refrains.load(Ordering::Relaxed) {
        std::thread::yield_now();
    }
    let before = rig.queue.counters();
    let mut tickets = Vec::new();
    for _ in 0..4 {
        rig.queue.push_many(&vec![rig.copy(0); 16], &mut tickets, SOON).expect("pushed");
    }
    let after = rig.queue.counters();
    assert_eq!((after.pushed - before.pushed, after.doorbells - before.doorbells), (64, 0));
}

#[test]
fn a_hundred_thousand_entries_reuse_a_small_arena() {
    let (_broker, client) = FakeBroker::with_client();
    let options = UserQueueOptions::new().depth(64).arena(4096);
    let queue = client.device("zip").and_then(|device| device.user_queue_with(options)).expect("a queue");
    let buffer = client.create(2 * PAGE).expect("a buffer");
    let bound = queue.bind(&buffer, Access::Write).expect("bound");
    let draft = queue.entry("compress").input(bound.range(..64)).output(bound.range(PAGE..PAGE + 64));
    let entry = draft.param("comment", "abc").result().prepare().expect("a good entry");
    let mut open = std::collections::VecDeque::new();
    for _ in 0..100_000 {
        // The arena holds fewer than the ring: a push waits for it.
        open.push_back(queue.push(&entry, SOON).expect("pushed"));
        if open.len() >= 32 {
            let done = queue.wait(open.pop_front().expect("full"), SOON).expect("it ends well");
            assert_eq!(done.cell.map(|cell| (cell.produced(), cell.value())), Some((64, 294)));
        }
    }
    queue.wait_all(SOON).expect("all end well");
    let whole = queue.entry("compress").input(bound.range(..1)).output(bound.range(PAGE..PAGE + 1));
    let whole = whole.param("comment", "x".repeat(3900).as_str()).prepare().expect("a good entry");
    queue.push(&whole, SOON).expect("all of it is free again");
    queue.wait_all(SOON).expect("it ends well");
    let more = queue.entry("compress").input(bound.range(..1)).output(bound.range(PAGE..PAGE + 1));
    let more = more.param("comment", "x".repeat(4096).as_str()).try_push();
    assert_eq!(said(more), "4128 bytes of the queue's arena for one entry, the limit is 4096");
}

#[test]
fn the_way_of_an_entry_there_and_back_allocates_nothing() {
    let rig = Rig::new(64);
    let (from, to) = rig.page();
    let mut plain = rig.copy(0);
    let input = plain.key("input").expect("known");
    let block = rig.queue.entry("compress").input(from).output(to).param("comment", "abc").result();
    let block = block.prepare().expect("a good entry");
    let (mut tickets, many) = (Vec::with_capacity(16), vec![rig.copy(1); 16]);
    let batch = vec![rig.copy(0); 2];
    let mut round = || {
        plain.set(input, rig.src.range(PAGE..2 * PAGE)).expect("as long");
        let one = rig.queue.push(&plain, SOON).expect("pushed");
        let other = rig.queue.push(&block, SOON).expect("pushed");
        tickets.clear();
        rig.queue.push_many(&many, &mut tickets, SOON).expect("pushed");
        let third = rig.queue.push_batch(&batch, After::Nothing, SOON).expect("pushed");
        for ticket in [one, other, third].into_iter().chain(tickets.drain(..)) {
            rig.queue.wait(ticket, SOON).expect("it ends well");
        }
    };
    // Slots get their storage on first use.
    (0..20).for_each(|_| round());
    let allocated = allocation_counter::measure(|| (0..50).for_each(|_| round()));
    assert_eq!(allocated.count_total, 0);
}

#[test]
fn options_that_cannot_be_met_are_refused_here() {
    let (_broker, client) = FakeBroker::with_client();
    let device = client.device("zip").expect("a device");
    assert_eq!(said(device.user_queue(5000)), "5000 entries of a user queue, the limit is 4096");
    let queue = device.user_queue(8).expect("a queue");
    let buffer = client.create(300 * PAGE).expect("a buffer");
    for page in 0..255 {
        queue.bind(buffer.slice(page * PAGE..(page + 1) * PAGE), Access::Read).expect("bound");
    }
    let more = queue.bind(buffer.slice(256 * PAGE..), Access::Read);
    assert_eq!(said(more), "256 bindings of a user queue, the limit is 255");
    let (_other_broker, other) = FakeBroker::with_client();
    let foreign = other.create(PAGE).expect("a buffer");
    assert_eq!(said(queue.bind(&foreign, Access::Read)), "the buffer belongs to another client");
}
