//! Domains, for who administers, as [`crate::Client`] has them.

use vgem_proto::domains::QuotaLimit;
use vgem_proto::ids::DomainId;
use vgem_proto::message::client::{CloseDomain, Disconnect, DrainDomain, SetQuota};
use vgem_proto::snapshot::{DomainEntry, Topic};

use super::Client;
use crate::domain::{DomainOptions, MadeDomain, done, made};
use crate::error::Result;

impl Client {
    /// As [`crate::Client::create_domain`].
    ///
    /// # Errors
    /// As there.
    pub async fn create_domain(&self, options: &DomainOptions) -> Result<MadeDomain> {
        let (create, flags) = options.request();
        made(&self.at(self.core.deadline()).run_flagged(create, flags).await?)
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
