//! What runs in a container of the tests: it finds its broker where the library looks, and shares over its standard input.
//!
//! Its first argument is what it does, and it prints one line for each thing it did:
//!
//! | argument | does |
//! |---|---|
//! | `send` | has a device fill a buffer, and sends it on without waiting for that |
//! | `receive` | has a device copy the buffer that is sent to it, and waits for the copy |
//! | `exhaust` | makes buffers until that is refused |
//!
//! Before that it prints `place` with what it is and has here, and after it `sees` with what the broker shows it. It ends
//! with its standard input.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::Duration;

use serde_json::json;
use vgem::{Access, Buffer, BufferOptions, Client, Deadline, ErrorCode, Queue};
use vgem_os::seqpacket::Socket;

const LEN: u64 = 64 * 1024;
/// Buffers that are more than any test allows.
const MANY: usize = 1000;

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    let link = Socket::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a standard input"));
    say("place", &place());
    let client = Client::connect_default().expect("a broker listens");
    let mut held = Vec::new();
    match what.as_str() {
        "send" => held.push(send(&client, &link)),
        "receive" => held.push(receive(&client, &link)),
        "exhaust" => held.extend(exhaust(&client)),
        other => panic!("{other:?} is nothing that it does"),
    }
    say("sees", &sees(&client));
    // What it holds stays until whoever started it has seen enough.
    drop(link.recv_plain(&mut [0; 16]));
    drop(held);
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn copy(client: &Client) -> Queue {
    client.device("copy").and_then(|device| device.queue(0)).expect("a queue")
}

fn send(client: &Client, link: &Socket) -> Buffer {
    let buffer =
        client.create_with(LEN, &BufferOptions::new().name("secret of the sender")).expect("a buffer");
    let mut batch = client.batch();
    batch.job(&copy(client), "fill").output(&buffer).param("byte", 7);
    batch.submit().expect("accepted");
    buffer.send(link, Access::Read, soon()).expect("it is taken");
    say("sent", &json!(LEN));
    buffer
}

fn receive(client: &Client, link: &Socket) -> Buffer {
    let received = client.receive(link, soon()).expect("a buffer is sent").buffer;
    let own = client.create(received.len()).expect("a buffer");
    let mut batch = client.batch();
    batch.job(&copy(client), "copy").input(&received).output(&own);
    batch.submit().expect("accepted").last().wait(soon()).expect("copied");
    let bytes = own.read(.., soon()).expect("copied");
    say("received", &json!({ "len": bytes.len(), "all_7": bytes.iter().all(|byte| *byte == 7) }));
    drop(bytes);
    own
}

fn exhaust(client: &Client) -> Vec<Buffer> {
    let mut held = Vec::new();
    let refused = loop {
        assert!(held.len() < MANY, "there is no end");
        match client.create(LEN) {
            Ok(buffer) => held.push(buffer),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Some(ErrorCode::Exhausted), "{refused}");
    say("exhausted", &json!({ "buffers": held.len(), "why": refused.to_string() }));
    held
}

/// What this process is, and what it could share with others besides the broker.
fn place() -> serde_json::Value {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let networks = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let networks: Vec<&str> =
        networks.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    let shared = std::fs::read_dir("/dev/shm").map_or(0, Iterator::count);
    let namespaces: Vec<String> = ["user", "pid", "mnt", "net"]
        .iter()
        .filter_map(|kind| std::fs::read_link(format!("/proc/self/ns/{kind}")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    json!({
        "pid": std::process::id(), "capabilities": field("CapEff:"), "networks": networks,
        "shared_files": shared, "namespaces": namespaces,
    })
}

fn sees(client: &Client) -> serde_json::Value {
    let status = client.status().expect("a status");
    json!({
        "clients": client.client_entries().expect("clients"),
        "objects": client.object_entries().expect("objects"),
        "queues": client.queue_entries().expect("queues"),
        "domains": client.domain_entries().expect("domains"),
        "devices": client.device_entries().expect("devices"),
        "counts": { "clients": status.clients, "objects": status.objects, "bytes": status.object_bytes,
            "jobs": status.counters.jobs },
    })
}

fn say(what: &str, value: &serde_json::Value) {
    let mut out = std::io::stdout();
    writeln!(out, "{what} {value}").and_then(|()| out.flush()).expect("somebody reads");
}
