//! The connection to the broker, and a look at it.
//!
//! A look is a handful of requests, one after the other, so what they answer is not of one moment. The connection is made when
//! somebody first wants to see something, and again when it was lost; a broker that was started again is another one, and
//! what is remembered of the old one's devices is forgotten with it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use vgem::snapshot::{ClientEntry, DeviceEntry, DomainEntry, ObjectEntry, ObligationEntry, Status};
use vgem::{Client, ClientOptions, Error};
use vgem_waiting::human;
use vgem_waiting::restart::{Restart, Restarts};

/// How long the broker may take to answer one request.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a broker says of itself at about one moment.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// When, CLOCK_MONOTONIC nanoseconds.
    pub(crate) at_ns: u64,
    /// The broker as a whole.
    pub(crate) status: Status,
    /// Its devices.
    pub(crate) devices: Vec<DeviceEntry>,
    /// How many jobs each runs at the same time, as far as that is known.
    pub(crate) executors: HashMap<String, u32>,
    /// Its clients.
    pub(crate) clients: Vec<ClientEntry>,
    /// Its domains.
    pub(crate) domains: Vec<DomainEntry>,
    /// Its objects.
    pub(crate) objects: Vec<ObjectEntry>,
    /// What is owed.
    pub(crate) owed: Vec<ObligationEntry>,
    /// By device and domain, what is known of a driver that is being started and that something waits for.
    pub(crate) restarts: BTreeMap<(String, u32), Restart>,
}

/// Where the broker is, and the connection to it while there is one.
#[derive(Debug)]
pub(crate) struct Broker {
    socket: Option<PathBuf>,
    connected: Option<Connected>,
}

#[derive(Debug)]
struct Connected {
    client: Client,
    executors: HashMap<String, u32>,
}

impl Broker {
    /// The one at this socket, or where brokers usually are.
    pub(crate) fn new(socket: Option<PathBuf>) -> Self {
        Self { socket, connected: None }
    }

    /// Looks, over a new connection if there is none or the old one is lost.
    ///
    /// # Errors
    /// As every request, and as connecting.
    pub(crate) fn look(&mut self) -> Result<Look, Error> {
        if let Some(mut connected) = self.connected.take()
            && let Ok(look) = connected.look()
        {
            self.connected = Some(connected);
            return Ok(look);
        }
        let options = ClientOptions::new().name("vgem-web").request_timeout(PATIENCE);
        let client = match &self.socket {
            Some(path) => options.connect(path)?,
            None => options.connect_default()?,
        };
        let mut connected = Connected { client, executors: HashMap::new() };
        let look = connected.look()?;
        self.connected = Some(connected);
        Ok(look)
    }
}

impl Connected {
    fn look(&mut self) -> Result<Look, Error> {
        let client = &self.client;
        let (status, devices) = (client.status()?, client.device_entries()?);
        for device in &devices {
            if !self.executors.contains_key(&device.name)
                && let Ok(known) = client.device(&device.name)
            {
                self.executors.insert(device.name.clone(), known.description().executors.into());
            }
        }
        let (owed, at_ns) = (client.obligation_entries()?, human::now());
        Ok(Look {
            restarts: restarts(client, &owed, at_ns)?,
            at_ns,
            status,
            devices,
            executors: self.executors.clone(),
            clients: client.client_entries()?,
            domains: client.domain_entries()?,
            objects: client.object_entries()?,
            owed,
        })
    }
}

fn restarts(
    client: &Client,
    owed: &[ObligationEntry],
    now: u64,
) -> Result<BTreeMap<(String, u32), Restart>, Error> {
    let mut all = BTreeMap::new();
    let waited_for = || owed.iter().filter(|entry| entry.state == "restarting");
    if waited_for().next().is_none() {
        return Ok(all);
    }
    let known = Restarts::of(client)?;
    for entry in waited_for() {
        let key = (entry.device.clone(), entry.domain);
        if !all.contains_key(&key)
            && let Some(restart) = known.named(client, &entry.device, entry.domain, now)
        {
            all.insert(key, restart);
        }
    }
    Ok(all)
}
