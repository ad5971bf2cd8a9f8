//! Keeping the objects on a bus, or before peers, as the broker is.
//!
//! ```text
//!   event ─► wait a moment, take those that came meanwhile ─► ask the broker ─► tell what differs ─► next event
//! ```
//!
//! Nothing is asked until something has happened, and then at most ten times a second. An object that changed is one signal
//! with all that changed; one that did not is none.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use vgem::aio::Client;
use vgem::{Deadline, Monitor};
use zbus::Connection;
use zbus::connection::Builder;
use zbus::fdo::Properties;

use crate::error::Result;
use crate::manager::Shared;
use crate::objects::{ClientObject, DeviceObject, DomainObject, Shown};

/// How long events are gathered.
const GATHER: Duration = Duration::from_millis(100);
/// How long one wait for an event lasts.
const LONG: Duration = Duration::from_secs(3600);
/// How long a place may take to be told.
const TELLING: Duration = Duration::from_secs(5);

/// What is shown, by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    devices: BTreeMap<String, DeviceObject>,
    clients: BTreeMap<String, ClientObject>,
    domains: BTreeMap<String, DomainObject>,
}

/// Where objects are shown: a bus, or a peer.
#[derive(Debug)]
pub(crate) struct Place {
    connection: Connection,
    shared: Arc<Shared>,
    shown: Objects,
}

/// A place that came, or went.
#[derive(Debug)]
pub(crate) enum Change {
    /// It came, under this number.
    Came(u64, Place),
    /// It went.
    Went(u64),
}

/// The objects, and where they are shown.
#[derive(Debug)]
pub(crate) struct Tree {
    client: Client,
    one_user: bool,
    now: Arc<Mutex<Objects>>,
    places: BTreeMap<u64, Place>,
}

impl Tree {
    /// Nothing yet, nowhere. `client`: whom to ask; nothing is shown but what it may see.
    pub(crate) fn new(client: Client, one_user: bool) -> Self {
        Self { client, one_user, now: Arc::default(), places: BTreeMap::new() }
    }

    /// What is shown, for whoever begins to show it.
    pub(crate) fn objects(&self) -> Arc<Mutex<Objects>> {
        Arc::clone(&self.now)
    }

    /// Shows it there from now on.
    ///
    /// # Errors
    /// As of the bus.
    pub(crate) async fn show_at(&mut self, number: u64, mut place: Place) -> Result<()> {
        let now = copy(&self.now);
        place.show(&now).await?;
        self.places.insert(number, place);
        Ok(())
    }

    /// Follows the broker until it is gone.
    ///
    /// # Errors
    /// How it was noticed.
    pub(crate) async fn follow(
        mut self,
        watcher: Client,
        mut monitor: Monitor,
        mut changes: mpsc::Receiver<Change>,
    ) -> Result<()> {
        loop {
            tokio::select! {
                event = watcher.event(&mut monitor, LONG) => {
                    if event?.is_none() {
                        continue;
                    }
                    tokio::time::sleep(GATHER).await;
                    while watcher.event(&mut monitor, Deadline::NOW).await?.is_some() {}
                    self.refresh().await?;
                }
                Some(change) = changes.recv() => match change {
                    // One that cannot be told is gone, and that is told too.
                    Change::Came(number, place) => drop(self.show_at(number, place).await),
                    Change::Went(number) => drop(self.places.remove(&number)),
                },
            }
        }
    }

    /// Asks the broker, and shows what is different. A place that does not take it is given up.
    ///
    /// # Errors
    /// As requests of the broker.
    pub(crate) async fn refresh(&mut self) -> Result<()> {
        let mut now = Objects::default();
        let devices = self.client.device_entries().await?.into_iter().map(DeviceObject::of);
        now.devices = by_path(devices);
        if self.one_user {
            let clients = self.client.client_entries().await?.into_iter();
            let clients: Vec<ClientObject> = clients.map(ClientObject::of).collect();
            now.domains = by_path(DomainObject::of(&clients).into_iter());
            now.clients = by_path(clients.into_iter());
        }
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&now);
        let mut lost = Vec::new();
        for (number, place) in &mut self.places {
            if !matches!(tokio::time::timeout(TELLING, place.show(&now)).await, Ok(Ok(()))) {
                lost.push(*number);
            }
        }
        for place in lost.iter().filter_map(|number| self.places.remove(number)) {
            tracing::warn!("a connection takes no signals and is closed");
            drop(place.connection.close().await);
        }
        Ok(())
    }
}

impl Place {
    /// One where nothing is shown yet.
    pub(crate) fn empty(connection: Connection, shared: Arc<Shared>) -> Self {
        Self { connection, shared, shown: Objects::default() }
    }

    /// One where these were shown from the first moment on ([`Objects::begin`]).
    pub(crate) const fn with(connection: Connection, shared: Arc<Shared>, shown: Objects) -> Self {
        Self { connection, shared, shown }
    }

    async fn show(&mut self, now: &Objects) -> Result<()> {
        let Self { connection, shared, shown } = self;
        show(connection, shared, &mut shown.devices, &now.devices).await?;
        show(connection, shared, &mut shown.domains, &now.domains).await?;
        show(connection, shared, &mut shown.clients, &now.clients).await
    }
}

impl Objects {
    /// Shows all of it on a connection that is still to be made.
    pub(crate) fn begin<'a>(&self, mut builder: Builder<'a>, shared: &Arc<Shared>) -> Builder<'a> {
        for (path, object) in &self.devices {
            builder = builder.serve_at(path.clone(), object.clone().told_by(shared));
        }
        for (path, object) in &self.clients {
            builder = builder.serve_at(path.clone(), object.clone());
        }
        for (path, object) in &self.domains {
            builder = builder.serve_at(path.clone(), object.clone());
        }
        builder
    }
}

/// What is shown at this moment.
pub(crate) fn copy(objects: &Mutex<Objects>) -> Objects {
    objects.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn by_path<T: Shown>(objects: impl Iterator<Item = T>) -> BTreeMap<String, T> {
    objects.map(|object| (object.path(), object)).collect()
}

/// Makes what is shown of one kind be `now`.
async fn show<T: Shown>(
    bus: &Connection,
    shared: &Arc<Shared>,
    shown: &mut BTreeMap<String, T>,
    now: &BTreeMap<String, T>,
) -> Result<()> {
    let server = bus.object_server();
    for path in shown.keys().filter(|path| !now.contains_key(*path)) {
        server.remove::<T, _>(path.as_str()).await?;
    }
    for (path, object) in now {
        match shown.get(path) {
            None => {
                server.at(path.as_str(), object.clone().told_by(shared)).await?;
            }
            Some(was) if was == object => {}
            Some(was) => {
                let interface = server.interface::<_, T>(path.as_str()).await?;
                *interface.get_mut().await = object.clone().told_by(shared);
                let changed: HashMap<&str, _> = was.changes(object).into_iter().collect();
                let emitter = interface.signal_emitter();
                Properties::properties_changed(emitter, T::name(), changed, Cow::Borrowed(&[])).await?;
            }
        }
    }
    shown.clone_from(now);
    Ok(())
}
