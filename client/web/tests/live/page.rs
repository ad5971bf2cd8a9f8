//! The page in a browser.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::json;
use vgem::{
    BufferOptions, CellWord, Client, ClientOptions, Embedded, Point, Submitted, Timeline, TimelineRights,
};
use vgem_waiting::test_support::{Stopped, driver, stalled};

use crate::browser::{Browser, View};
use crate::support::{SOON, Web};

const DESK: View = View { width: 1280, height: 900, scheme: "light" };
const PHONE: View = View { width: 390, height: 844, scheme: "dark" };

#[test]
fn the_page_shows_who_waits_for_whom_in_the_words_of_why() {
    let stalled = stalled("encoder");
    let web = Web::of(&stalled.broker);
    let mut browser = Browser::start();
    browser.open(&web.address, DESK);
    browser.until("document.querySelectorAll('#ways li').length === 1");
    let lines = browser.value("[...document.querySelectorAll('#ways pre')].map((line) => line.textContent)");
    let lines: Vec<String> = serde_json::from_value(lines).expect("texts");
    let number = stalled.client.number();
    assert!(lines[0].starts_with(&format!("client {number} (encoder) waits for job 1 of")), "{lines:?}");
    let stopped = format!("driver copy, process {}, which is stopped, for", driver(&stalled.client, "copy"));
    assert!(
        lines.last().is_some_and(|line| line.contains(&stopped) && line.ends_with("<- here")),
        "{lines:?}"
    );
    // Three jobs, a client and a process, of which the last is at fault.
    let drawn = "document.querySelectorAll('#graph g').length === 5 && document.querySelectorAll('#graph > path').length === 6";
    assert_eq!(browser.value(drawn), json!(true));
    let fault =
        browser.value("[...document.querySelectorAll('#graph g.stands text')].map((one) => one.textContent)");
    assert!(fault.to_string().contains("driver copy") && fault.to_string().contains("stopped"), "{fault}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_name_that_is_markup_is_text() {
    let name = "<script>document.title='x'</script><img src=x>";
    let stalled = stalled(name);
    let web = Web::of(&stalled.broker);
    let mut browser = Browser::start();
    browser.open(&web.address, DESK);
    browser.until("document.querySelectorAll('#ways li').length === 1");
    let cells = "[...document.querySelectorAll('#clients td.name')].map((cell) => cell.textContent)";
    let cells = browser.value(cells);
    assert!(cells.as_array().expect("cells").contains(&json!(name)), "{cells}");
    let others =
        "document.querySelectorAll('script:not([src=\"/page.js\"]), img:not([src=\"/icon.svg\"])').length";
    assert_eq!((browser.value(others), browser.value("document.title")), (json!(0), json!("vgemd")));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_page_follows_the_broker_and_says_when_it_is_gone_and_when_another_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("broker");
    let first = Embedded::start().expect("a private broker");
    std::os::unix::fs::symlink(first.socket(), &socket).expect("a link");
    let web = Web::at("127.0.0.1:0", &socket, &[]);
    let mut browser = Browser::start();
    browser.open(&web.address, DESK);
    browser.until("document.querySelector('#live').textContent === 'live'");
    let _encoder = first.client_with(&ClientOptions::new().name("encoder")).expect("a client");
    browser.until("document.querySelector('#clients').textContent.includes('encoder')");
    drop(first);
    browser.until("!document.querySelector('#away').hidden");
    let second = Embedded::start().expect("another");
    std::fs::remove_file(&socket).expect("ours");
    std::os::unix::fs::symlink(second.socket(), &socket).expect("a link");
    browser.until(
        "document.querySelector('#live').textContent === 'live' && document.querySelector('#away').hidden",
    );
    browser.until("!document.querySelector('#clients').textContent.includes('encoder')");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn nothing_is_wider_than_a_phone() {
    let stalled = stalled("encoder");
    let web = Web::of(&stalled.broker);
    let mut browser = Browser::start();
    browser.open(&web.address, PHONE);
    browser.until("document.querySelectorAll('#ways li').length === 1");
    assert_eq!(browser.value("document.documentElement.scrollWidth"), json!(PHONE.width));
    assert_eq!(browser.value("getComputedStyle(document.body).backgroundColor"), json!("rgb(17, 17, 19)"));
}

/// With `PICTURE=write` in the environment this makes `page.png`, the picture in the README, after a minute of work.
#[test]
fn a_busy_broker_makes_a_picture() {
    let write = std::env::var_os("PICTURE").is_some_and(|what| what == "write");
    let busy = Busy::start(Embedded::start().expect("a private broker"));
    let web = Web::of(&busy.broker);
    let mut browser = Browser::start();
    browser.open(&web.address, DESK);
    let moments = if write { 45 } else { 3 };
    browser.until("document.querySelectorAll('figure .curve').length > 0");
    for _ in 0..moments {
        let before = browser.value("document.querySelector('#about').textContent");
        browser.until(&format!("document.querySelector('#about').textContent !== {before}"));
    }
    let _promise = promised(busy.named("camera"), busy.named("editor"));
    let _stopped = Stopped::new(driver(&busy.client, "sec"));
    browser.until("document.querySelectorAll('#graph g.stands').length > 0");
    browser.until("document.querySelectorAll('#ways li').length >= 3");
    let png = browser.picture(true);
    let at = |place: usize| u32::from_be_bytes([png[place], png[place + 1], png[place + 2], png[place + 3]]);
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"));
    let (width, height, len) = (at(16), at(20), png.len());
    assert!(width == DESK.width && height > DESK.height && len > 40_000, "{width} by {height}: {len} bytes");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    if write {
        for (view, whole, place) in views() {
            browser.look(view);
            browser.value("new Promise((done) => setTimeout(done, 1500))");
            std::fs::write(place, browser.picture(whole)).expect("a file");
        }
    }
}

/// What is written, whether all of the page, and where to: the upper part for the README, the others for whoever looks.
fn views() -> [(View, bool, PathBuf); 4] {
    let others = Path::new(env!("CARGO_TARGET_TMPDIR"));
    [
        (
            View { width: 1200, height: 1156, ..DESK },
            false,
            Path::new(env!("CARGO_MANIFEST_DIR")).join("page.png"),
        ),
        (DESK, true, others.join("page-light.png")),
        (View { scheme: "dark", ..DESK }, true, others.join("page-dark.png")),
        (PHONE, true, others.join("page-phone.png")),
    ]
}

/// A broker with a few clients that have it work all the time.
struct Busy {
    over: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    client: Client,
    broker: Embedded,
}

impl Busy {
    fn start(broker: Embedded) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let worker = |(name, len, pause_ms): (&'static str, u64, u64)| {
            let (client, over) = (named(&broker, name), Arc::clone(&over));
            thread::spawn(move || work(&client, name, len, Duration::from_millis(pause_ms), &over))
        };
        let workers =
            [("ingest", 1 << 20, 3), ("backup", 8 << 20, 40), ("thumbnails", 256 << 10, 12)].map(worker);
        let client = named(&broker, "watcher");
        Self { over, workers: workers.into(), client, broker }
    }

    fn named(&self, name: &str) -> Client {
        named(&self.broker, name)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            // Its work may have failed with the driver that was stopped.
            drop(worker.join());
        }
    }
}

fn named(broker: &Embedded, name: &str) -> Client {
    broker.client_with(&ClientOptions::new().name(name)).expect("a client")
}

/// A pipeline over and over: make, compress, and, but for thumbnails, seal and sum up.
fn work(client: &Client, name: &str, len: u64, pause: Duration, over: &AtomicBool) {
    let queue = |name| client.device(name).expect("it is there").queue(0).expect("a queue");
    let (copy, zip, sec, sums) = (queue("copy"), queue("zip"), queue("sec"), queue("copy"));
    let memory = |what: &str, len| {
        let options = BufferOptions::new().name(format!("{name}-{what}"));
        client.create_with(len, &options).expect("memory")
    };
    let (raw, packed, sealed) = (memory("raw", len), memory("packed", 2 * len), memory("sealed", 3 * len));
    let (key, cells) = (memory("key", 32), client.cells(3).expect("cells"));
    for round in 0u64.. {
        let mut batch = client.batch();
        batch.job(&copy, "fill").output(&raw).param("byte", round % 256);
        batch.job(&zip, "compress").input(&raw).output(&packed).result(cells.at(0));
        if name != "thumbnails" {
            let seal = batch.job(&sec, "seal").input_from(&packed, cells.at(0), CellWord::Produced);
            seal.output(&sealed).operand("key", &key).result(cells.at(1));
            let sum = batch.job(&sums, "crc32c").input_from(&sealed, cells.at(1), CellWord::Produced);
            sum.result(cells.at(2));
        }
        let done = batch.submit().and_then(|sent| Ok(sent.wait(SOON)?));
        if done.is_err() || over.load(Ordering::Relaxed) {
            return;
        }
        // Work comes in waves.
        thread::sleep(if round % 300 < 200 { pause } else { pause * 4 });
    }
}

/// A job of `editor` that waits for a frame that `camera` has promised.
fn promised(camera: Client, editor: Client) -> (Timeline, Submitted, [Client; 2]) {
    let mut timeline = camera.timeline("frames").expect("a timeline");
    let token = timeline.export(TimelineRights::WAIT).expect("a token");
    let theirs = editor.import_timeline(token).expect("a handle");
    timeline.promise_acknowledged(Point(1), Duration::from_secs(50)).expect("taken");
    let copy = editor.device("copy").expect("it is there").queue(0).expect("a queue");
    let frame = editor.create(1 << 20).expect("memory");
    let mut batch = editor.batch();
    let point = theirs.point(Point(1)).promised_by(Duration::from_secs(50));
    batch.job(&copy, "fill").output(&frame).param("byte", 1).after(&point);
    let sent = batch.submit_acknowledged().expect("accepted");
    (timeline, sent, [camera, editor])
}
