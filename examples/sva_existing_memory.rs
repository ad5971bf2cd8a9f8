//! Existing memory: a program with ordinary vectors, and no memory of the broker's, has two devices compress and hash them,
//! by pointer.
//!
//! Nothing of this program's memory becomes an object. Its devices run in processes of this client's own, which reach its
//! addresses; what they may write is lent to them, and comes back as the vector it was. It starts a broker of its own.
//! With a running one, `vgem::Client::connect_default()` takes the place of the first two lines.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use vgem::{Deadline, Embedded, Sva, UserQueueOptions};

/// What this program works on, as it comes: strings in vectors.
fn documents() -> Vec<Vec<u8>> {
    let line =
        |n: usize| format!("{n}: all that is gold does not glitter, not all those who wander are lost\n");
    (1..=8).map(|size| (0..size * 2000).map(line).collect::<String>().into_bytes()).collect()
}

fn main() -> anyhow::Result<()> {
    let broker = Embedded::start()?;
    let client = broker.client()?;
    let soon = || Deadline::after(Duration::from_secs(10));
    let open = |device: &str, sva| client.device(device)?.user_queue_with(UserQueueOptions::new().sva(sva));

    // One device reads and writes this program's memory, the other only reads it.
    let zip = open("zip", Sva::ReadWrite)?;
    let sec = open("sec", Sva::Read)?;

    let began = Instant::now();
    let (mut bytes, mut packed_bytes) = (0, 0);
    for document in documents() {
        // The vector is named where it is. Its hash is taken while it is compressed.
        let hash = sec.entry("sha256").input(&document[..]).result().push(soon())?;

        // Room for the result: a vector like any other, lent for as long as the device may write there.
        let room = zip.lend(vec![0; document.len() / 2 + 4096])?;
        let pack = zip.entry("compress").input(&document[..]).output(&room).push(soon())?;
        let len = usize::try_from(zip.wait(pack, soon())?.produced)?;
        let mut packed = zip.reclaim(room, soon())?;
        packed.truncate(len);

        // And back, to see that it is right.
        let room = zip.lend(vec![0; document.len()])?;
        let unpack = zip.entry("decompress").input(&packed[..]).output(&room).push(soon())?;
        zip.wait(unpack, soon())?;
        let again = zip.reclaim(room, soon())?;
        ensure!(again == document, "what was unpacked is not what was packed");

        let digest = sec.wait(hash, soon())?.cell.context("a digest without its cell")?.digest();
        let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{:>8} bytes, {len:>6} packed, sha256 {hex}..", document.len());
        (bytes, packed_bytes) = (bytes + document.len(), packed_bytes + len);
    }
    let took = began.elapsed();
    eprintln!("{bytes} bytes in {packed_bytes}, none of them in an object, in {took:?}");

    // An address that is not there is an error that names it, and the queue goes on.
    let nowhere = zip.entry("compress").input(vgem::AddressRange::new(0x1000, 64));
    let room = zip.lend(vec![0; 4096])?;
    let failed = nowhere.output(&room).push(soon()).and_then(|ticket| zip.wait(ticket, soon()));
    eprintln!("{}", failed.expect_err("nothing is at 0x1000"));
    Ok(())
}
