//! Domains, for who administers: make one with a socket of its own, say what it may hold, end it.
//!
//! A domain is a group of clients that share quotas and policy. One that is made here has a listening socket in a folder
//! of its own; whoever is given that folder, a container by a bind mount, is in the domain, whatever user it is.

use std::path::{Path, PathBuf};

use vgem_proto::message::DOMAIN_STAYS;
use vgem_proto::message::client::{
    ClientMessage, CloseDomain, CreateDomain, Disconnect, DrainDomain, SetQuota,
};
use vgem_proto::snapshot::{DomainEntry, Topic};

use crate::client::Client;
use crate::error::Result;
use crate::exchange::Reply;
use crate::link::unexpected;

pub use vgem_proto::domains::{QuotaKind, QuotaLimit};
pub use vgem_proto::ids::DomainId;

/// A domain that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "nothing is made before it is given to Client::create_domain"]
pub struct DomainOptions {
    name: String,
    quotas: Vec<QuotaLimit>,
    uses: Vec<String>,
    stays: bool,
}

/// A domain that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeDomain {
    /// Its number.
    pub domain: DomainId,
    /// Its socket, as the daemon sees it.
    pub socket: PathBuf,
}

impl DomainOptions {
    /// A domain with this name (1 to 32 of `a` to `z`, `0` to `9` and `-`), with the quotas and devices of everybody, that
    /// ends with this client.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), quotas: Vec::new(), uses: Vec::new(), stays: false }
    }

    /// It may hold so much of that: bytes for [`QuotaKind::Bytes`] and [`QuotaKind::Pinned`], numbers of things for the others.
    pub fn quota(mut self, kind: QuotaKind, limit: u64) -> Self {
        self.quotas.push(QuotaLimit::new(kind, limit));
        self
    }

    /// It may use this device (`zip`), or of it this operation (`zip/compress`); and of others only what is said too.
    pub fn may_use(mut self, what: impl Into<String>) -> Self {
        self.uses.push(what.into());
        self
    }

    /// It stays when this client goes, until it is closed.
    pub fn stays(mut self) -> Self {
        self.stays = true;
        self
    }

    /// The request for it, and its flags.
    pub(crate) fn request(&self) -> (CreateDomain, u16) {
        let create = CreateDomain {
            name: self.name.clone().into_bytes(),
            quotas: self.quotas.clone(),
            uses: self.uses.join("\n").into_bytes(),
        };
        (create, if self.stays { DOMAIN_STAYS } else { 0 })
    }
}

impl MadeDomain {
    /// The folder of its socket: what is mounted into a container.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.socket.parent().unwrap_or(&self.socket)
    }
}

impl Client {
    /// Makes a domain.
    ///
    /// # Errors
    /// Refused with Denied unless this client administers (root, or whom the daemon serves alone); for the others see
    /// CreateDomain in the specification.
    pub fn create_domain(&self, options: &DomainOptions) -> Result<MadeDomain> {
        let (create, flags) = options.request();
        made(&self.core().call_flagged(create, flags)?)
    }

    /// Lets nobody new into a domain; it ends with its last client.
    ///
    /// # Errors
    /// Refused with Denied, Gone, or Unsupported for one that is configured.
    pub fn drain_domain(&self, domain: DomainId) -> Result<()> {
        done(&self.core().call(DrainDomain { domain })?)
    }

    /// Ends a domain and disconnects its clients.
    ///
    /// # Errors
    /// As [`Client::drain_domain`].
    pub fn close_domain(&self, domain: DomainId) -> Result<()> {
        done(&self.core().call(CloseDomain { domain })?)
    }

    /// Says anew what a domain may hold; what is not said stays as it is.
    ///
    /// # Errors
    /// Refused with Denied, Gone, BadParameter, or Exhausted if more would be promised than the machine has.
    pub fn set_quota(&self, domain: DomainId, quotas: &[QuotaLimit]) -> Result<()> {
        done(&self.core().call(SetQuota { domain, quotas: quotas.to_vec() })?)
    }

    /// Disconnects a client, by its number.
    ///
    /// # Errors
    /// Refused with Denied, or Gone.
    pub fn disconnect(&self, client: u64) -> Result<()> {
        done(&self.core().call(Disconnect { client })?)
    }

    /// Every domain one may see.
    ///
    /// # Errors
    /// As every request.
    pub fn domain_entries(&self) -> Result<Vec<DomainEntry>> {
        self.inspect(Topic::Domains)
    }
}

/// The domain that was made, as the broker says.
pub(crate) fn made(reply: &Reply) -> Result<MadeDomain> {
    let ClientMessage::DomainCreated(created) = &reply.message else { return Err(unexpected(reply)) };
    let socket = String::from_utf8_lossy(&created.path).into_owned();
    Ok(MadeDomain { domain: created.domain, socket: socket.into() })
}

pub(crate) fn done(reply: &Reply) -> Result<()> {
    match reply.message {
        ClientMessage::Done(_) => Ok(()),
        _ => Err(unexpected(reply)),
    }
}
