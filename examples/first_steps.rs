//! Two devices, one message: compress a buffer and digest the result, while this program sleeps.
//!
//! It starts a broker of its own. With a running one, `vgem::Client::connect_default()` takes the place of the first
//! two lines.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::Context as _;
use vgem::{CellWord, Deadline, Embedded};

fn main() -> anyhow::Result<()> {
    let broker = Embedded::start()?;
    let client = broker.client()?;
    let soon = || Deadline::after(Duration::from_secs(10));

    // Memory that every device and any process can map; its pages are charged to this process.
    let text = client.create(1 << 20)?;
    let packed = client.create(2 << 20)?;
    text.write(.., soon())?.fill(b'v');

    // One queue per device. A cell is where a job leaves its results, for this program and for later jobs.
    let zip = client.device("zip")?.queue(0)?;
    let sec = client.device("sec")?.queue(0)?;
    let cells = client.cells(2)?;

    let mut batch = client.batch();
    batch.job(&zip, "compress").input(&text).output(&packed).param("format", "gzip").result(cells.at(0));
    // How long the compressed form is, the second device reads from the first one's cell. That it must wait for the
    // first, the broker sees from what the two read and write.
    let digest = batch.job(&sec, "sha256").input_from(&packed, cells.at(0), CellWord::Produced);
    digest.result(cells.at(1));
    batch.submit()?.wait(soon())?;

    let len = usize::try_from(cells.read(0).produced()).context("more than memory can hold")?;
    let hex: String = cells.read(1).digest().iter().map(|byte| format!("{byte:02x}")).collect();
    eprintln!("{} bytes became {len}; their SHA-256 is {hex}", text.len());
    Ok(())
}
