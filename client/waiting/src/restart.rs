//! Devices whose driver is gone and whose next one does not take work yet: who waits for one waits for nobody's process.
//!
//! The broker says of a device that it is not ready; when its last driver went, and which process that was, is behind
//! the cause of the newest job that failed with it, if one did.

use serde::Serialize;
use vgem::Client;
use vgem::snapshot::{DeviceEntry, QueueEntry};

use crate::human;

/// A device that is being started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restart {
    /// Its name.
    pub device: String,
    /// Why it is not ready, as the broker says it: `starting`, `backing off` or `failed`.
    state: String,
    /// How long its last driver has been gone, if that is known.
    gone_for_ns: Option<u64>,
    /// That driver's process, if it is known.
    instead_of: Option<u32>,
}

/// When a driver went, and which process it was.
type Loss = (u64, Option<u32>);

/// The codes that a job fails with when its driver is gone.
const LOSSES: [&str; 3] = ["DeviceLost", "TimedOut", "Cancelled"];

/// What is known of devices and their drivers at a moment.
#[derive(Debug)]
pub struct Restarts {
    devices: Vec<DeviceEntry>,
    queues: Vec<QueueEntry>,
}

impl Restarts {
    /// Asks a broker.
    ///
    /// # Errors
    /// As every request.
    pub fn of(client: &Client) -> vgem::Result<Self> {
        Ok(Self { devices: client.device_entries()?, queues: client.queue_entries()? })
    }

    /// Every device that takes no work from a domain because it is being started, or was lost too often.
    pub fn all(&self, client: &Client, domain: u32, now: u64) -> Vec<Restart> {
        let unready = self.devices.iter().filter(|device| is_unready(device, domain));
        unready.map(|device| self.restart(client, device, domain, now)).collect()
    }

    /// A device as something that is being started; nothing if there is none of this name.
    pub fn named(&self, client: &Client, name: &str, domain: u32, now: u64) -> Option<Restart> {
        let device = self.devices.iter().find(|device| device.name == name)?;
        Some(self.restart(client, device, domain, now))
    }

    /// A device that takes no work from a domain because it is being started; nothing if it does.
    pub fn unready(&self, client: &Client, name: &str, domain: u32, now: u64) -> Option<Restart> {
        self.all(client, domain, now).into_iter().find(|restart| restart.device == name)
    }

    fn restart(&self, client: &Client, device: &DeviceEntry, domain: u32, now: u64) -> Restart {
        let loss = self.losses(client, &device.name, domain).max();
        Restart {
            device: device.name.clone(),
            state: device.state.clone(),
            gone_for_ns: loss.map(|(at, _)| now.saturating_sub(at)),
            instead_of: loss.and_then(|(_, pid)| pid),
        }
    }

    /// The ends of drivers that the failures of a device's queues tell of, the newest of each queue.
    fn losses<'a>(
        &'a self,
        client: &'a Client,
        device: &'a str,
        domain: u32,
    ) -> impl Iterator<Item = Loss> + 'a {
        let of_device = move |queue: &&QueueEntry| queue.device == device && queue.domain == domain;
        self.queues.iter().filter(of_device).filter_map(move |queue| {
            let last = queue.failures.iter().rev().find(|failure| LOSSES.contains(&failure.code.as_str()))?;
            let told = client.explain(crate::asked::cause(&last.cause).ok()?).ok()?;
            (told.device.as_deref() == Some(device)).then_some((told.at?.0, told.pid))
        })
    }
}

/// A device that serves any domain that one sees calls itself ready, so of one of several domains this may say no.
fn is_unready(device: &DeviceEntry, domain: u32) -> bool {
    match device.state.as_str() {
        "starting" => device.instances.iter().any(|instance| instance.domain == domain),
        "backing off" | "failed" => true,
        _ => false,
    }
}

impl Restart {
    /// All of it as a line.
    pub fn line(&self) -> String {
        human::text(&format!("device {} {}", self.device, self.words()))
    }

    /// What it is doing, behind its name.
    pub fn words(&self) -> String {
        let gone = self.gone_for_ns.map(human::time);
        let does = match (self.state.as_str(), &gone) {
            ("failed", _) => "was lost too often and is left alone",
            ("starting", None) => "is being started",
            _ => "is being started again",
        };
        let time = gone.map(|gone| format!(", {gone}")).unwrap_or_default();
        let who = self.instead_of.map(|pid| format!(", instead of process {pid}")).unwrap_or_default();
        format!("{does}{time}{who}")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use vgem::snapshot::InstanceEntry;

    /// Of zip, whose driver 101 has been gone for 23 ms.
    pub(crate) fn of_zip() -> Restart {
        Restart {
            device: "zip".into(),
            state: "backing off".into(),
            gone_for_ns: Some(23_000_000),
            instead_of: Some(101),
        }
    }

    #[test]
    fn a_restart_says_since_when_and_instead_of_whom_if_that_is_known() {
        let unknown = Restart { gone_for_ns: None, instead_of: None, ..of_zip() };
        let first = Restart { state: "starting".into(), ..unknown.clone() };
        let failed = Restart { state: "failed".into(), instead_of: None, ..of_zip() };
        let said = [of_zip(), unknown, first, failed].map(|restart| restart.words());
        assert_eq!(
            said,
            [
                "is being started again, 23 ms, instead of process 101",
                "is being started again",
                "is being started",
                "was lost too often and is left alone, 23 ms",
            ]
        );
    }

    #[test]
    fn a_device_is_unready_for_the_domain_whose_driver_is_on_its_way_and_when_there_is_none() {
        let of = |state: &str, domains: &[u32]| DeviceEntry {
            state: state.into(),
            instances: domains.iter().map(|of| InstanceEntry { domain: *of, ..Default::default() }).collect(),
            ..DeviceEntry::default()
        };
        let unready = |device: DeviceEntry| is_unready(&device, 7);
        assert_eq!(
            [of("starting", &[7]), of("starting", &[8]), of("backing off", &[])].map(unready),
            [true, false, true]
        );
        assert_eq!(
            [of("ready", &[7]), of("idle", &[]), of("failed", &[])].map(unready),
            [false, false, true]
        );
    }
}
