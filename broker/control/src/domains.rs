//! Domains that are made over the bus.
//!
//! ```text
//!   CreateDomain ─► a session that administers makes it ─► number, socket, `hold` ── the last `hold` is closed ─► it ends
//! ```
//!
//! `hold` is the end of a pipe of ours: nothing that a caller has is waited for or read, and whoever has the fd, a
//! container's first process for example, is what the domain lives as long as. The session that made the domain is kept
//! with the other end, so the broker ends the domain when control ends, too.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;
use vgem::aio::Client;
use vgem::snapshot::DomainEntry;
use vgem::{DomainOptions, ErrorCode, QuotaKind, QuotaLimit};

use crate::error::{Error, Result};
use crate::options::{Options, take_flag, take_numbers, take_texts};
use crate::values::{Dict, entry};

/// What is to be made, as the options of the call say.
pub(crate) fn wanted(name: &str, options: &mut Options) -> Result<DomainOptions> {
    let mut wanted = DomainOptions::new(name);
    for QuotaLimit { kind, limit, .. } in quotas(take_numbers(options, "quotas")?)? {
        wanted = wanted.quota(kind, limit);
    }
    for what in take_texts(options, "uses")? {
        wanted = wanted.may_use(what);
    }
    let stays = take_flag(options, "stays")?;
    Ok(if stays { wanted.stays() } else { wanted })
}

/// Quotas by the names that ListDomains has for them.
pub(crate) fn quotas(named: Vec<(String, u64)>) -> Result<Vec<QuotaLimit>> {
    let one = |(name, limit): (String, u64)| {
        let kind = QuotaKind::ALL.iter().find(|kind| kind.name() == name);
        let known = || QuotaKind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
        let unknown = || format!("there is no quota {name:?}; there are {}", known());
        let kind = kind.ok_or_else(|| Error::new(ErrorCode::BadParameter, unknown()))?;
        Ok(QuotaLimit::new(*kind, limit))
    };
    named.into_iter().map(one).collect()
}

/// Keeps a domain's creator for as long as somebody has the fd that this gives.
pub(crate) fn hold(creator: Client) -> Result<OwnedFd> {
    let failed = |e: &dyn std::fmt::Display| Error::new(ErrorCode::System, format!("pipe: {e}"));
    let (ours, hold) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| failed(&e))?;
    let ours = Receiver::from_owned_fd(ours).map_err(|e| failed(&e))?;
    tokio::spawn(async move {
        until_let_go(&ours).await;
        drop(creator);
    });
    Ok(hold)
}

/// What is written there means nothing.
async fn until_let_go(ours: &Receiver) {
    let mut nothing = [0; 512];
    while ours.readable().await.is_ok() {
        match ours.try_read(&mut nothing) {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            Ok(_) => tokio::task::yield_now().await,
        }
    }
}

/// A domain as methods tell of it; quotas are what is used, and what may be.
pub(crate) fn dict(domain: &DomainEntry) -> Dict {
    let DomainEntry { name, origin, state, path, devices, operations, .. } = domain.clone();
    let quotas: std::collections::HashMap<String, (u64, u64)> =
        domain.quotas.iter().map(|(name, quota)| (name.clone(), (quota.used, quota.limit))).collect();
    let operations: std::collections::HashMap<String, Vec<String>> = operations.into_iter().collect();
    [
        entry("domain", domain.domain),
        entry("name", name),
        entry("origin", origin),
        entry("state", state),
        entry("socket", path),
        entry("clients", domain.clients),
        entry("devices", devices),
        entry("operations", operations),
        entry("quotas", quotas),
    ]
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_that_is_none_is_named_with_those_there_are() {
        let refused = quotas(vec![("colour".into(), 3)]).expect_err("no quota");
        assert!(refused.text().contains("\"colour\"; there are bytes"), "{refused}");
        assert_eq!(
            quotas(vec![("bytes".into(), 3)]).expect("a quota"),
            [QuotaLimit::new(QuotaKind::Bytes, 3)]
        );
    }

    #[test]
    fn what_is_written_to_a_hold_ends_nothing_and_closing_it_does() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (ours, hold) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).expect("a pipe");
            let ours = Receiver::from_owned_fd(ours).expect("a pipe");
            rustix::io::write(&hold, b"nonsense").expect("room");
            let held = tokio::time::timeout(std::time::Duration::from_millis(20), until_let_go(&ours));
            assert!(held.await.is_err(), "it is held");
            drop(hold);
            until_let_go(&ours).await;
        });
    }
}
