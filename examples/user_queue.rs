//! Work by pointer: this program hands its own pointers to two devices, and asks nobody on the way.
//!
//! It copies memory with one device and hashes it with another, a page at a time, and says what it took: how many entries
//! went there and back, and how many system calls that was. It starts a broker of its own. With a running one,
//! `vgem::Client::connect_default()` takes the place of the first two lines.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use vgem::{AddressRange, Deadline, Embedded, PageVec, UserQueue};

/// Bytes of an entry's work.
const PIECE: usize = 4096;

fn main() -> anyhow::Result<()> {
    let broker = Embedded::start()?;
    let client = broker.client()?;
    let soon = || Deadline::after(Duration::from_secs(10));

    // Memory that this program has already. Its addresses stay what they are while a device works on it.
    let text = PageVec::from_slice("all that glitters is not gold; ".repeat(35_000).as_bytes());
    let (len, start) = (text.len(), text.as_ptr());
    let (before, original) = (digest(&client, &text)?, text.to_vec());

    // Opening asks the broker, and so does binding. From then on the devices are spoken to directly.
    let copy = client.device("copy")?.user_queue(0)?;
    let (text, _reading) = copy.adopt_pages(text)?;
    let target = client.create(len as u64)?;
    let into = copy.bind(&target, vgem::Access::Write)?;

    // Looked up once; afterwards a push is a store of 64 bytes, and a doorbell only if the driver sleeps.
    let piece = |at: usize| AddressRange::at(start.wrapping_add(at), PIECE.min(len - at) as u64);
    let from_to = |at: usize| (piece(at), into.range(at as u64..(at + PIECE).min(len) as u64));
    let (first, first_into) = from_to(0);
    let mut entry = copy.entry("copy").input(first).output(first_into).prepare()?;
    let (src, dst) = (entry.key("input")?, entry.key("output")?);

    let began = Instant::now();
    for at in (0..len).step_by(PIECE) {
        let (from, to) = from_to(at);
        entry.set(src, from)?;
        entry.set(dst, to)?;
        // Nobody asks for this one alone; should it fail, `wait_all` says so.
        copy.forget(copy.push(&entry, soon())?)?;
    }
    copy.wait_all(soon())?;
    report("copied", len, began, &copy);

    // A guard knows of entries as of jobs: it would have waited for those that write these bytes.
    ensure!(target.read(.., soon())?[..] == original[..], "the copy is not what was copied");

    let after = {
        let hash = client.device("sec")?.user_queue(0)?;
        let bytes = hash.bind(&target, vgem::Access::Read)?;
        let began = Instant::now();
        let ticket = hash.entry("sha256").input(bytes).result().push(soon())?;
        let cell = hash.wait(ticket, soon())?.cell.context("a digest without its cell")?;
        report("hashed", len, began, &hash);
        cell.digest()
    };
    ensure!(before == after, "the digest of the copy is another one");
    drop(text);
    Ok(())
}

/// The SHA-256 of some bytes, by a tracked job: what it is compared with.
fn digest(client: &vgem::Client, bytes: &[u8]) -> anyhow::Result<[u8; 32]> {
    let (buffer, cells) = (client.create(bytes.len() as u64)?, client.cells(1)?);
    let soon = Duration::from_secs(10);
    buffer.copy_in(0, bytes, soon)?;
    let sec = client.device("sec")?.queue(0)?;
    let mut batch = client.batch();
    batch.job(&sec, "sha256").input(&buffer).result(cells.at(0));
    batch.submit()?.wait(soon)?;
    Ok(cells.read(0).digest())
}

fn report(what: &str, len: usize, began: Instant, queue: &UserQueue) {
    let (took, counters) = (began.elapsed(), queue.counters());
    eprintln!(
        "{what} {len} bytes on {} in {} entries and {took:?}: {} system calls to wake its driver, {} waits",
        queue.device(),
        counters.pushed,
        counters.doorbells,
        counters.waits
    );
}
