//! Memory of this process that becomes a buffer and comes back.

mod support;

use std::time::Duration;

use support::{FakeBroker, Mood, SOON};
use vgem::{Access, Client, Error, LocalError, PageVec};

fn pages(len: usize) -> PageVec {
    let bytes: Vec<u8> = (0..len).map(|place| u8::try_from(place % 251).expect("small")).collect();
    PageVec::from_slice(&bytes)
}

fn adopted(client: &Client, len: usize) -> vgem::AdoptedPages {
    client.adopt_pages(pages(len)).expect("adopted")
}

#[test]
fn adopted_pages_are_a_buffer_with_their_contents() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = adopted(&client, 10_000);
    assert_eq!((buffer.len(), buffer.pinned(), buffer.is_writable()), (10_000, 12_288, true));
    assert!(*buffer.read(.., SOON).expect("nobody uses it") == *pages(10_000));
}

#[test]
fn an_adopted_region_keeps_its_address_both_ways() {
    let (_broker, client) = FakeBroker::with_client();
    let (region, _used) = pages(8192).into_region();
    let address = region.as_ptr();
    let buffer = client.adopt(region).expect("adopted");
    assert_eq!(buffer.read(.., SOON).expect("nobody uses it").as_ptr(), address.cast_const());
    let region = buffer.release(SOON).expect("nobody uses it");
    assert_eq!((region.as_ptr(), region.len()), (address, 8192));
}

#[test]
fn released_pages_hold_what_was_written_meanwhile() {
    let (broker, client) = FakeBroker::with_client();
    let buffer = adopted(&client, 5000);
    let handle = buffer.handle();
    buffer.write(4998.., SOON).expect("nobody uses it").copy_from_slice(b"xy");
    let back = buffer.release(SOON).expect("nobody uses it");
    assert_eq!(
        (back.len(), &back[4996..]),
        (5000, [pages(5000)[4996], pages(5000)[4997], b'x', b'y'].as_slice())
    );
    client.devices().expect("an answer");
    assert_eq!(broker.sharing.count(handle), 0);
}

#[test]
fn adopted_memory_is_shared_with_whoever_has_an_export_until_it_is_released() {
    let (_broker, client) = FakeBroker::with_client();
    let buffer = adopted(&client, 4096);
    let fd = buffer.export(Access::Write).expect("an export");
    rustix::io::pwrite(&fd, b"new", 0).expect("the same memory");
    assert_eq!(&buffer.read(..3, SOON).expect("nobody uses it")[..], b"new");
    let back = buffer.release(SOON).expect("nobody uses it");
    rustix::io::pwrite(&fd, b"old", 0).expect("memory of the object");
    assert_eq!(&back[..3], b"new");
}

#[test]
fn a_release_waits_for_unfinished_jobs() {
    let (broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    broker.publish(0);
    let buffer = adopted(&client, 4096);
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&*buffer);
    let fence = batch.submit().expect("sent").last().clone();
    let late = buffer.release(Duration::from_millis(20)).expect_err("the job has not ended");
    assert!(matches!(late.error, Error::Timeout { .. }), "{late:?}");
    let buffer = late.memory.expect("still adopted");
    let _woke: vgem_os::fence::Woke = broker.signal(0, fence.point().0);
    assert_eq!(buffer.release(SOON).expect("it ended").len(), 4096);
}

#[test]
fn memory_that_a_batch_names_is_not_released() {
    let (_broker, client) = FakeBroker::with_client();
    let queue = client.device("zip").expect("it is there").queue(0).expect("a queue");
    let buffer = adopted(&client, 4096);
    let mut batch = client.batch();
    batch.job(&queue, "mix").inout(&*buffer);
    let used = buffer.release(SOON).expect_err("the batch names it");
    assert!(matches!(used.error, Error::Local(LocalError::StillUsed { .. })), "{used:?}");
    batch.clear();
    assert!(used.memory.expect("still adopted").release(SOON).is_ok());
}

#[test]
fn dropped_adopted_memory_gives_its_handle_up() {
    let (broker, client) = FakeBroker::with_client();
    let handle = adopted(&client, 4096).handle();
    client.devices().expect("an answer");
    assert_eq!(broker.sharing.count(handle), 0);
}

#[test]
fn memory_that_cannot_be_adopted_comes_back_as_it_was() {
    for mood in [Mood::MakesTooFew, Mood::ReadOnlyExport, Mood::SocketExport, Mood::UnsealedExport] {
        let (_broker, client) = FakeBroker::with_client_of(mood);
        let failed = client.adopt_pages(pages(8192)).map(drop).expect_err("no memory for it");
        assert!(failed.memory.is_some_and(|back| *back == *pages(8192)), "{mood:?}");
    }
}

#[test]
fn a_commit_that_fails_restores_the_memory() {
    let (mut broker, client) = FakeBroker::with_client_of(Mood::NoCommit);
    let (region, _used) = pages(8192).into_region();
    let address = region.as_ptr();
    let failed = client.adopt(region).map(drop).expect_err("the broker does not commit");
    assert_eq!(failed.memory.map(|region| region.as_ptr()), Some(address));
    broker.hang_up();
}

#[test]
fn no_bytes_are_not_adopted() {
    let (_broker, client) = FakeBroker::with_client();
    let failed = client.adopt_pages(PageVec::new()).map(drop).expect_err("there is nothing");
    assert!(matches!(failed.error, Error::Local(LocalError::Empty { .. })));
}
