//! The objects below `/org/vgemd/Broker1`: devices, clients, domains. Nothing but properties.
//!
//! | path | interface | shown |
//! |---|---|---|
//! | `/devices/NAME` | `org.vgemd.Broker1.Device` | always |
//! | `/clients/N` | `org.vgemd.Broker1.Client` | where the daemon and the bus serve one user |
//! | `/domains/N` | `org.vgemd.Broker1.Domain` | there too |
//!
//! What is shown as a property changes with an event of the broker, so that nobody has to ask. What changes with every job
//! is asked for when somebody looks, and never signalled.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use vgem::snapshot::{ClientEntry, DeviceEntry};
use zbus::message::Header;
use zbus::{Variant, interface};

use crate::PATH;
use crate::manager::Shared;
use crate::values::{Dict, entry};

/// Properties that changed, with their new values.
pub(crate) type Changes = Vec<(&'static str, Variant<'static>)>;

/// An object that is shown.
pub(crate) trait Shown: zbus::object_server::Interface + Clone + PartialEq {
    /// Where.
    fn path(&self) -> String;
    /// What is different in `now`.
    fn changes(&self, now: &Self) -> Changes;
    /// The same, where it is shown: whom it asks for what it is not told.
    fn told_by(self, _shared: &Arc<Shared>) -> Self {
        self
    }
}

/// A device. Instances are number, domain, state, process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DeviceObject {
    name: String,
    summary: String,
    operations: Vec<String>,
    state: String,
    instances: Vec<(u32, u32, String, u32)>,
    asks: Asks,
}

/// Whom a device asks for its counters; no difference between one and another.
#[derive(Clone, Default)]
struct Asks(Option<Arc<Shared>>);

impl PartialEq for Asks {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Asks {}

impl std::fmt::Debug for Asks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asks")
    }
}

/// A client.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ClientObject {
    number: u64,
    name: String,
    pid: u32,
    uid: u32,
    domain: u32,
    handles: u64,
    bytes: u64,
}

/// A domain: what its clients hold together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DomainObject {
    number: u32,
    clients: u64,
    handles: u64,
    bytes: u64,
}

impl DeviceObject {
    pub(crate) fn of(device: DeviceEntry) -> Self {
        let instances = device.instances.into_iter();
        Self {
            name: device.name,
            summary: device.summary,
            operations: device.operations,
            state: device.state,
            instances: instances.map(|one| (one.instance, one.domain, one.state, one.pid)).collect(),
            asks: Asks::default(),
        }
    }

    pub(crate) fn dict(self) -> Dict {
        [
            entry("name", self.name),
            entry("summary", self.summary),
            entry("operations", self.operations),
            entry("state", self.state),
            entry("instances", self.instances),
        ]
        .into()
    }
}

impl ClientObject {
    pub(crate) fn of(client: ClientEntry) -> Self {
        let ClientEntry { client: number, name, pid, uid, domain, handles, bytes, .. } = client;
        Self { number, name, pid, uid, domain, handles, bytes }
    }

    pub(crate) fn dict(self) -> Dict {
        [
            entry("client", self.number),
            entry("name", self.name),
            entry("pid", self.pid),
            entry("uid", self.uid),
            entry("domain", self.domain),
            entry("handles", self.handles),
            entry("bytes", self.bytes),
        ]
        .into()
    }
}

impl DomainObject {
    /// The domains of these clients.
    pub(crate) fn of(clients: &[ClientObject]) -> Vec<Self> {
        let mut domains: BTreeMap<u32, Self> = BTreeMap::new();
        for client in clients {
            let number = client.domain;
            let domain = domains.entry(number).or_insert(Self { number, ..Self::default() });
            domain.clients += 1;
            domain.handles += client.handles;
            domain.bytes += client.bytes;
        }
        domains.into_values().collect()
    }
}

/// Adds what differs.
fn differ<T: PartialEq + Clone + Into<Variant<'static>>>(
    changes: &mut Changes,
    name: &'static str,
    was: &T,
    is: &T,
) {
    if was != is {
        changes.push((name, is.clone().into()));
    }
}

impl Shown for DeviceObject {
    fn path(&self) -> String {
        format!("{PATH}/devices/{}", element(&self.name))
    }

    fn changes(&self, now: &Self) -> Changes {
        let mut changes = Changes::new();
        differ(&mut changes, "State", &self.state, &now.state);
        differ(&mut changes, "Instances", &self.instances, &now.instances);
        changes
    }

    fn told_by(self, shared: &Arc<Shared>) -> Self {
        Self { asks: Asks(Some(Arc::clone(shared))), ..self }
    }
}

impl Shown for ClientObject {
    fn path(&self) -> String {
        format!("{PATH}/clients/{}", self.number)
    }

    fn changes(&self, now: &Self) -> Changes {
        let mut changes = Changes::new();
        differ(&mut changes, "Name", &self.name, &now.name);
        differ(&mut changes, "Handles", &self.handles, &now.handles);
        differ(&mut changes, "Bytes", &self.bytes, &now.bytes);
        changes
    }
}

impl Shown for DomainObject {
    fn path(&self) -> String {
        format!("{PATH}/domains/{}", self.number)
    }

    fn changes(&self, now: &Self) -> Changes {
        let mut changes = Changes::new();
        differ(&mut changes, "Clients", &self.clients, &now.clients);
        differ(&mut changes, "Handles", &self.handles, &now.handles);
        differ(&mut changes, "Bytes", &self.bytes, &now.bytes);
        changes
    }
}

#[interface(name = "org.vgemd.Broker1.Device")]
impl DeviceObject {
    /// Its name.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        &self.name
    }

    /// One line.
    #[zbus(property(emits_changed_signal = "const"))]
    fn summary(&self) -> &str {
        &self.summary
    }

    /// Names of its operations.
    #[zbus(property(emits_changed_signal = "const"))]
    fn operations(&self) -> Vec<String> {
        self.operations.clone()
    }

    /// `ready`, `starting`, `idle`, `backing off` or `failed`.
    #[zbus(property)]
    fn state(&self) -> &str {
        &self.state
    }

    /// What it has done for the caller's domain since its instances began, all at one moment: `jobs`, `in_flight` (its
    /// depth), `busy_ns`, `bytes`; of two looks the difference is the throughput. Empty where the caller has none, and in
    /// signals.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn counters(&self, #[zbus(header)] header: Option<Header<'_>>) -> HashMap<String, u64> {
        match (&self.asks.0, header) {
            (Some(shared), Some(header)) => shared.counters(&header, &self.name).await.unwrap_or_default(),
            _ => HashMap::new(),
        }
    }

    /// Its instances: number, domain, state, process.
    #[zbus(property)]
    fn instances(&self) -> Vec<(u32, u32, String, u32)> {
        self.instances.clone()
    }
}

#[interface(name = "org.vgemd.Broker1.Client")]
impl ClientObject {
    /// Its number.
    #[zbus(property(emits_changed_signal = "const"))]
    fn number(&self) -> u64 {
        self.number
    }

    /// What it calls itself; an allegation.
    #[zbus(property)]
    fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    #[zbus(property(emits_changed_signal = "const"))]
    fn pid(&self) -> u32 {
        self.pid
    }

    /// Its user.
    #[zbus(property(emits_changed_signal = "const"))]
    fn uid(&self) -> u32 {
        self.uid
    }

    /// Its domain.
    #[zbus(property(emits_changed_signal = "const"))]
    fn domain(&self) -> u32 {
        self.domain
    }

    /// Handles it holds.
    #[zbus(property)]
    fn handles(&self) -> u64 {
        self.handles
    }

    /// Bytes charged to it.
    #[zbus(property)]
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[interface(name = "org.vgemd.Broker1.Domain")]
impl DomainObject {
    /// Its number.
    #[zbus(property(emits_changed_signal = "const"))]
    fn number(&self) -> u32 {
        self.number
    }

    /// Its clients.
    #[zbus(property)]
    fn clients(&self) -> u64 {
        self.clients
    }

    /// Handles that its clients hold.
    #[zbus(property)]
    fn handles(&self) -> u64 {
        self.handles
    }

    /// Bytes charged to its clients.
    #[zbus(property)]
    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A name as an element of a path: what a path may not have is `_` and its two hexadecimal digits.
fn element(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("_{b:02x}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u64, domain: u32, bytes: u64) -> ClientObject {
        ClientObject { number, domain, bytes, handles: 1, ..ClientObject::default() }
    }

    #[test]
    fn only_what_changed_is_told() {
        let (was, now) = (client(1, 7, 10), client(1, 7, 20));
        assert_eq!(was.changes(&now), [("Bytes", Variant::U64(20))]);
        assert_eq!(now.changes(&now.clone()), []);
    }

    #[test]
    fn a_domain_is_what_its_clients_hold_together() {
        let domains = DomainObject::of(&[client(1, 7, 10), client(2, 8, 5), client(3, 7, 1)]);
        let seven = DomainObject { number: 7, clients: 2, handles: 2, bytes: 11 };
        assert_eq!(domains, [seven, DomainObject { number: 8, clients: 1, handles: 1, bytes: 5 }]);
    }

    #[test]
    fn a_name_that_no_path_may_have_is_spelled_out() {
        assert_eq!(element("gpu-0"), "gpu_2d0");
    }
}
