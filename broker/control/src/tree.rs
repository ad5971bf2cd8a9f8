//! Keeping the objects on the bus as the broker is.
//!
//! ```text
//!   event ─► wait a moment, take those that came meanwhile ─► ask the broker ─► tell what differs ─► next event
//! ```
//!
//! Nothing is asked until something has happened, and then at most ten times a second. An object that changed is one signal
//! with all that changed; one that did not is none.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use vgem::aio::Client;
use vgem::{Deadline, Monitor};
use zbus::Connection;
use zbus::fdo::Properties;

use crate::error::Result;
use crate::objects::{ClientObject, DeviceObject, DomainObject, Shown};

/// How long events are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// How long one wait for an event lasts.
const LONG: Duration = Duration::from_secs(3600);

/// What is shown.
#[derive(Debug)]
pub(crate) struct Tree {
    bus: Connection,
    client: Client,
    one_user: bool,
    devices: BTreeMap<String, DeviceObject>,
    clients: BTreeMap<String, ClientObject>,
    domains: BTreeMap<String, DomainObject>,
}

impl Tree {
    /// Empty. `client`: whom to ask; nothing is shown but what it may see.
    pub(crate) fn new(bus: Connection, client: Client, one_user: bool) -> Self {
        let (devices, clients, domains) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { bus, client, one_user, devices, clients, domains }
    }

    /// Follows the broker until it, or the bus, is gone.
    ///
    /// # Errors
    /// How it was noticed.
    pub(crate) async fn follow(mut self, watcher: Client, mut monitor: Monitor) -> Result<()> {
        loop {
            if watcher.event(&mut monitor, LONG).await?.is_none() {
                continue;
            }
            tokio::time::sleep(GATHER).await;
            while watcher.event(&mut monitor, Deadline::NOW).await?.is_some() {}
            self.refresh().await?;
        }
    }

    /// Asks the broker, and shows what is different.
    ///
    /// # Errors
    /// As requests of the broker, and of the bus.
    pub(crate) async fn refresh(&mut self) -> Result<()> {
        let devices = self.client.device_entries().await?.into_iter().map(DeviceObject::of).collect();
        show(&self.bus, &mut self.devices, devices).await?;
        if self.one_user {
            let clients = self.client.client_entries().await?.into_iter();
            let clients: Vec<ClientObject> = clients.map(ClientObject::of).collect();
            show(&self.bus, &mut self.domains, DomainObject::of(&clients)).await?;
            show(&self.bus, &mut self.clients, clients).await?;
        }
        Ok(())
    }
}

/// Makes what is shown of one kind be `now`.
async fn show<T: Shown>(bus: &Connection, shown: &mut BTreeMap<String, T>, now: Vec<T>) -> Result<()> {
    let now: BTreeMap<String, T> = now.into_iter().map(|object| (object.path(), object)).collect();
    let server = bus.object_server();
    for path in shown.keys().filter(|path| !now.contains_key(*path)) {
        server.remove::<T, _>(path.as_str()).await?;
    }
    for (path, object) in &now {
        match shown.get(path) {
            None => {
                server.at(path.as_str(), object.clone()).await?;
            }
            Some(was) if was == object => {}
            Some(was) => {
                let interface = server.interface::<_, T>(path.as_str()).await?;
                *interface.get_mut().await = object.clone();
                let changed: HashMap<&str, _> = was.changes(object).into_iter().collect();
                let emitter = interface.signal_emitter();
                Properties::properties_changed(emitter, T::name(), changed, Cow::Borrowed(&[])).await?;
            }
        }
    }
    *shown = now;
    Ok(())
}
