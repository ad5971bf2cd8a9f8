//! Batches: an array of entries, one completion.

use super::*;

/// Where arrays are.
const ARRAY: u64 = BASE + 0x4000;

impl Rig {
    /// Puts an array of entries into memory; the entry that names it.
    fn batch(&self, entries: &[Entry]) -> Entry {
        let words = entries.iter().flat_map(|entry| entry.encode());
        let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        self.put(ARRAY, &bytes);
        array(entries.len() as u64)
    }
}

fn array(count: u64) -> Entry {
    entry(Work::Batch(Batch::new(ARRAY, count).expect("a batch")))
}

#[test]
fn a_batch_runs_all_its_entries_and_completes_once() {
    let (rig, mut client) = Rig::new();
    for count in [1, 31, 32, 33, 256] {
        let before = rig.ran();
        let entries: Vec<_> = (0..count).map(|n: u64| copy(BASE + n, BASE + 0x2000 + n, 1)).collect();
        let source: Vec<u8> = (0..count).map(|n| (n ^ count).to_le_bytes()[0]).collect();
        rig.put(BASE, &source);
        let done = client.run_one(rig.batch(&entries));
        assert_eq!((done.failure, done.produced, rig.ran() - before), (None, count, count));
        assert!(rig.bytes(BASE + 0x2000, source.len()) == source);
    }
    assert_eq!(client.reaper.reap(), Ok(None));
}

#[test]
fn a_batch_says_which_entry_failed_first_and_how_many_did_not() {
    let (rig, mut client) = Rig::new();
    let fault = copy(0x10, BASE, 8);
    let entries = [good(), fault, chained(good()), chained(good()), good(), bare(op::FAIL), chained(good())];
    let done = client.run(&[rig.batch(&entries), chained(good())]);
    assert_eq!(code(&done[0]), Some(ErrorCode::AddressFault));
    assert_eq!((done[0].produced, done[0].value, done[0].address), (2, 1, 0x10));
    // What is chained to what failed does not run, everything else does.
    assert_eq!(rig.ran(), 3);
    let told = rig.hear_cause();
    assert!(String::from_utf8_lossy(&told.text).starts_with("entry 1 of a batch: "));
    assert_eq!((done[0].failure.map(|f| f.cause), rig.heard().len()), (Some(told.cause), 0));
    assert_eq!(code(&done[1]), Some(ErrorCode::Cancelled), "chained to the batch");
}

// M-157
#[test]
fn a_batch_holds_no_batch_and_begins_unchained() {
    let (rig, mut client) = Rig::new();
    let done = client.run_one(rig.batch(&[good(), array(1), good()]));
    assert_eq!((code(&done), done.produced, done.value), (Some(ErrorCode::Unsupported), 2, 1));
    let done = client.run_one(rig.batch(&[chained(good()), good()]));
    assert_eq!((code(&done), done.produced, done.value), (Some(ErrorCode::Unsupported), 1, 0));
}

// M-167
#[test]
fn a_batch_that_cannot_be_reached_whole_does_not_begin() {
    let (rig, mut client) = Rig::new();
    let at = BASE + LEN - 40 * 64;
    let words = good().encode().map(u64::to_le_bytes).concat();
    for place in 0..40 {
        rig.put(at + 64 * place, &words);
    }
    let done = client.run_one(entry(Work::Batch(Batch::new(at, 41).expect("a batch"))));
    assert_eq!((code(&done), done.address), (Some(ErrorCode::AddressFault), BASE + LEN));
    assert_eq!((done.produced, rig.ran()), (0, 0));
}

// M-177
#[test]
fn who_unbinds_waits_for_one_entry_of_a_batch_and_not_for_all_of_them() {
    let (mut rig, mut client) = Rig::new();
    client.push(&[rig.batch(&[bare(op::GATE), good(), bare(op::NONE)])]);
    rig.wait_at_gate();
    assert_eq!(rig.rings.unbind(QUEUE, BASE), Unbinding::UnderWay);
    rig.open_gate();
    let done = client.reap();
    // What has not begun finds nothing there.
    assert_eq!((code(&done), done.produced, done.value), (Some(ErrorCode::AddressFault), 1, 1));
    assert!(matches!(rig.hear(), DriverMessage::Unbound(_)));
    assert!(matches!(rig.hear(), DriverMessage::Cause(_)));
    assert_eq!(rig.ran(), 1);
}

#[test]
fn a_batch_ends_with_the_entry_that_runs_when_its_queue_closes() {
    let (mut rig, mut client) = Rig::new();
    client.push(&[rig.batch(&[good(), bare(op::GATE), good(), good()])]);
    rig.wait_at_gate();
    assert!(rig.rings.close(QUEUE));
    rig.open_gate();
    let done = client.reap();
    assert_eq!((code(&done), done.produced, done.value), (Some(ErrorCode::Cancelled), 2, 2));
    assert_eq!(rig.ran(), 2);
    assert_eq!(rig.hear_cause().code, ErrorCode::Cancelled);
}
