//! Jobs that wait because a driver's process is stopped.

use rustix::process::{Pid, Signal, kill_process};
use vgem::{Client, ClientOptions, Embedded, Submitted};

/// A process that is stopped until this goes.
#[derive(Debug)]
pub struct Stopped(Pid);

impl Stopped {
    /// Stops it.
    ///
    /// # Panics
    /// If there is no such process, or it is not ours to stop.
    #[must_use]
    pub fn new(pid: u32) -> Self {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
        kill_process(pid, Signal::STOP).expect("ours to stop");
        Self(pid)
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.0
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that was ended meanwhile needs nothing.
        kill_process(self.0, Signal::CONT).unwrap_or(());
    }
}

/// The process of a device's driver.
///
/// # Panics
/// If none runs.
#[must_use]
pub fn driver(client: &Client, name: &str) -> u32 {
    let devices = client.device_entries().expect("an answer");
    let device = devices.into_iter().find(|device| device.name == name).expect("it is there");
    device.instances.first().expect("it runs").pid
}

/// A broker, and a client of it whose jobs wait for a driver that is stopped.
#[derive(Debug)]
pub struct Stalled {
    /// The driver, until this goes.
    pub stopped: Stopped,
    /// The jobs.
    pub sent: Submitted,
    /// Whose they are.
    pub client: Client,
    /// Where.
    pub broker: Embedded,
}

/// Three jobs on three devices, each reading what the one before writes; the first device's driver is stopped.
///
/// # Panics
/// If the programs are missing.
#[must_use]
pub fn stalled(name: &str) -> Stalled {
    let broker = Embedded::start().expect("a private broker");
    let client = broker.client_with(&ClientOptions::new().name(name)).expect("a client");
    let [copy, zip, sec] = ["copy", "zip", "sec"]
        .map(|name| client.device(name).expect("it is there").queue(0).expect("a queue"));
    let [raw, packed] = [4096, 8192].map(|len| client.create(len).expect("memory"));
    let cells = client.cells(2).expect("cells");
    let stopped = Stopped::new(driver(&client, "copy"));
    let mut batch = client.batch();
    batch.job(&copy, "fill").output(&raw).param("byte", 1);
    batch.job(&zip, "compress").input(&raw).output(&packed).result(cells.at(0));
    batch.job(&sec, "sha256").input(&packed).result(cells.at(1));
    let sent = batch.submit_acknowledged().expect("accepted");
    Stalled { stopped, sent, client, broker }
}
