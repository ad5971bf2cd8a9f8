//! Domains, for who administers, as [`crate::Client`] has them.

use std::os::fd::AsFd;

use vgem_proto::domains::QuotaLimit;
use vgem_proto::ids::DomainId;
use vgem_proto::message::OPEN_DOORMAN;
use vgem_proto::message::client::{CloseDomain, Disconnect, DrainDomain, OpenPorter, SetQuota};
use vgem_proto::snapshot::{DomainEntry, Topic};

use super::{Awaited, Client};
use crate::deadline::Deadline;
use crate::domain::{DomainOptions, MadeDomain, done, made};
use crate::door;
use crate::error::Result;
use crate::link::accepted;
use crate::porter::{AGAIN, is_busy};

impl Client {
    /// As [`crate::Client::create_domain`].
    ///
    /// # Errors
    /// As there.
    pub async fn create_domain(&self, options: &DomainOptions) -> Result<MadeDomain> {
        let (create, flags) = options.request();
        made(&self.at(self.core.deadline()).run_flagged(create, flags).await?)
    }

    /// As [`crate::Client::create_domain_at`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// Dropped, the domain may be made all the same, and lives until its close fd hangs up.
    pub async fn create_domain_at(
        &self,
        listen: impl AsFd,
        close: impl AsFd,
        options: &DomainOptions,
    ) -> Result<MadeDomain> {
        let (call, link) = (self.at(self.core.deadline()), &self.core.link);
        let channel = loop {
            match call.run_flagged(OpenPorter {}, OPEN_DOORMAN).await {
                Ok(reply) => break door::opened(reply)?,
                Err(error) if is_busy(&error) && !call.deadline.passed() => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error),
            }
        };
        let (create, flags) = door::request(options);
        let create = create.into();
        let id = call.when_writable(|| link.start(&create, flags, call.deadline, Deadline::NOW)).await?;
        let awaited = Awaited { link, id };
        door::hand(&channel, id, [listen.as_fd(), close.as_fd()], call.deadline)?;
        let reply = call.collect(awaited.id).await?;
        made(&accepted(reply)?)
    }

    /// As [`crate::Client::drain_domain`].
    ///
    /// # Errors
    /// As there.
    pub async fn drain_domain(&self, domain: DomainId) -> Result<()> {
        done(&self.call(DrainDomain { domain }).await?)
    }

    /// As [`crate::Client::close_domain`].
    ///
    /// # Errors
    /// As there.
    pub async fn close_domain(&self, domain: DomainId) -> Result<()> {
        done(&self.call(CloseDomain { domain }).await?)
    }

    /// As [`crate::Client::set_quota`].
    ///
    /// # Errors
    /// As there.
    pub async fn set_quota(&self, domain: DomainId, quotas: &[QuotaLimit]) -> Result<()> {
        done(&self.call(SetQuota { domain, quotas: quotas.to_vec() }).await?)
    }

    /// As [`crate::Client::disconnect`].
    ///
    /// # Errors
    /// As there.
    pub async fn disconnect(&self, client: u64) -> Result<()> {
        done(&self.call(Disconnect { client }).await?)
    }

    /// As [`crate::Client::domain_entries`].
    ///
    /// # Errors
    /// As every request.
    pub async fn domain_entries(&self) -> Result<Vec<DomainEntry>> {
        self.inspect(Topic::Domains).await
    }
}
