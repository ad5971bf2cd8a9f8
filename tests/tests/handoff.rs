//! Devices hand fences to each other: neither the client nor the broker signals or wakes anybody.

#![forbid(unsafe_code)]

use std::time::Duration;

use vgem::{CellWord, Client, Deadline, Embedded, Queue};
use vgem_tests::{programs, samples};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn queue(client: &Client, device: &str) -> Queue {
    client.device(device).and_then(|d| d.queue(0)).expect("a queue")
}

#[test]
fn a_chain_over_three_devices_is_one_message_and_one_wake_up() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let (zip, sec, copy) = (queue(&client, "zip"), queue(&client, "sec"), queue(&client, "copy"));
    let text = samples::text(4 << 20);
    let (plain, packed, sealed, copied) = (
        client.create(4 << 20).expect("a buffer"),
        client.create(5 << 20).expect("a buffer"),
        client.create(6 << 20).expect("a buffer"),
        client.create(6 << 20).expect("a buffer"),
    );
    let (key, cells) = (client.create(32).expect("a buffer"), client.cells(3).expect("cells"));
    plain.write(.., soon()).expect("ours").copy_from_slice(&text);
    let before = (client.status().expect("a status").counters, client.counters());

    let mut batch = client.batch();
    let compress = batch.job(&zip, "compress").input(&plain).output(&packed).param("format", "zstd");
    compress.param("level", 1).result(cells.at(0));
    let seal = batch.job(&sec, "seal").input_from(&packed, cells.at(0), CellWord::Produced).output(&sealed);
    seal.operand("key", &key).result(cells.at(1));
    let moved = batch.job(&copy, "copy").input_from(&sealed, cells.at(1), CellWord::Produced).output(&copied);
    moved.result(cells.at(2));
    batch.submit().expect("accepted").last().wait(soon()).expect("done");

    let after = (client.counters(), client.status().expect("a status").counters);
    // The status itself is one message.
    assert_eq!(after.0.messages_sent - before.1.messages_sent, 1);
    assert!(after.0.wakeups - before.1.wakeups <= 1, "{:?}", after.0);
    assert_eq!(after.1.client_messages - before.0.client_messages, 2);
    assert_eq!((after.1.points_settled, after.1.sleepers_woken), (0, 0));
    let len = cells.read(1).produced();
    assert_eq!(len, cells.read(0).produced() + 48);
    let len = usize::try_from(len).expect("megabytes");
    let (a, b) = (sealed.read(.., soon()).expect("sealed"), copied.read(.., soon()).expect("copied"));
    assert_eq!(a[..len], b[..len]);
}

#[test]
fn many_chains_at_once_on_few_buffers_keep_their_order() {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client().expect("a client");
    let queues: Vec<Queue> =
        (0..6).map(|n| queue(&client, if n % 2 == 0 { "copy" } else { "sec" })).collect();
    let buffers: Vec<_> = (0..3).map(|_| client.create(65_536).expect("a buffer")).collect();
    let cells = client.cells(600).expect("cells");
    let mut rounds = Vec::new();
    for round in 0..200_usize {
        let (from, to) = (&buffers[round % 3], &buffers[(round + 1) % 3]);
        let mut batch = client.batch();
        let byte = u64::try_from(round % 256).expect("small");
        batch.job(&queues[(round * 2) % 6], "fill").output(from).param("byte", byte);
        batch.job(&queues[(round * 2 + 2) % 6], "copy").input(from).output(to);
        batch.job(&queues[(round * 2 + 1) % 6], "sha256").input(to).result(cells.at(round * 3));
        rounds.push(batch.submit().expect("accepted"));
    }
    for round in &rounds {
        round.wait(soon()).expect("done");
    }
    let digests: Vec<[u8; 32]> = (0..200).map(|round| cells.read(round * 3).digest()).collect();
    let dir = samples::place();
    for (round, digest) in digests.iter().enumerate().step_by(37) {
        let file = dir.path().join("block");
        let byte = u8::try_from(round % 256).expect("small");
        std::fs::write(&file, vec![byte; 65_536]).expect("a file of ours");
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, programs::digest("sha256sum", &file), "round {round}");
    }
}
