//! Domains, for who administers: make one with a socket of its own, say what it may hold, end it.
//!
//! A domain is a group of clients that share quotas and policy. One that is made here has a listening socket in a folder
//! of its own; whoever is given that folder, a container by a bind mount, is in the domain, whatever user it is. Or whoever
//! makes it has bound the socket itself, and hands it over with an fd that ends the domain when it hangs up.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use vgem_proto::message::DOMAIN_STAYS;
use vgem_proto::message::client::{
    ClientMessage, CloseDomain, CreateDomain, Disconnect, DrainDomain, SetQuota,
};
use vgem_proto::snapshot::{DomainEntry, Topic};

use crate::client::Client;
use crate::door;
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
    /// Its socket, as the daemon sees it; of one that was handed over, as it was bound, and empty if that is no path.
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

    /// Makes a domain of whoever connects to `listen`, a listening `SOCK_SEQPACKET` socket of `AF_UNIX` that the caller has
    /// bound, wherever it likes; and which ends when `close` hangs up, whether this client is there or not: a pipe or a
    /// socket of which nobody has the other end any more, a pidfd whose process has ended, or an eventfd that was signalled.
    /// Nothing is read from it.
    ///
    /// Both are duplicated: close the own copies. Whoever keeps one of `listen` can accept there, too, and shut it
    /// (the domain is drained then); and after the domain's end who connects waits for nobody until that copy is closed.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = vgem::Client::connect_default()?;
    /// let listen = vgem::listen_at("/run/box/vgemd.sock", 0o600)?;
    /// let (close, held) = std::io::pipe()?;
    /// let made = client.create_domain_at(&listen, &close, &vgem::DomainOptions::new("box"))?;
    /// println!("{} lives until `held` is closed", made.domain);
    /// drop(held);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::create_domain`]; refused with BadParameter, and what it is, for an fd that is none of these, for a
    /// close fd that has hung up already, and for options that let the domain stay; with Exhausted where this client's
    /// domain may have no more porters, of which each such domain costs one; with Late where the fds come to nothing
    /// within a second. [`crate::Error::System`] if the fds cannot be handed over.
    pub fn create_domain_at(
        &self,
        listen: impl AsFd,
        close: impl AsFd,
        options: &DomainOptions,
    ) -> Result<MadeDomain> {
        door::create(self.core(), [listen.as_fd(), close.as_fd()], options)
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
