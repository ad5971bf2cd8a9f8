//! Domains that are made over the bus.
//!
//! ```text
//!   MakeDomain   ─► a session that administers makes it ─► number, socket, `hold` ── the last `hold` is closed ─► it ends
//!   CreateDomain ─► the same, at a socket of the caller's ─► number, socket ── the caller's close fd hangs up ──► it ends
//! ```
//!
//! What CreateDomain is given goes to a doorman as it is: nothing here looks at it. The session is over with the call.
//!
//! `hold` is the end of a pipe of ours: nothing that a caller has is waited for or read, and whoever has the fd, a
//! container's first process for example, is what the domain lives as long as. It is the end that one reads from, and there
//! is nothing to read: whoever has it can do nothing with it that wakes control but close it (M-252), and finds it hung up
//! when control has ended. The session that made the domain is kept with the other end, so the broker ends the domain when
//! control ends, too.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
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
    let failed = |e| Error::new(ErrorCode::System, format!("pipe: {e}"));
    let (hold, ours) = ends().map_err(failed)?;
    tokio::spawn(async move {
        until_let_go(&ours).await;
        drop(creator);
    });
    Ok(hold)
}

/// Somebody's end, and ours, which is watched for there being no other end any more, and for nothing else: taken for one to
/// read from, it is never ready, while room to write would be news whenever somebody changes how much the pipe holds.
fn ends() -> std::io::Result<(OwnedFd, Receiver)> {
    let (hold, ours) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((hold, Receiver::from_owned_fd_unchecked(ours)?))
}

async fn until_let_go(ours: &Receiver) {
    // An error of its own would mean that the runtime ends.
    drop(ours.ready(Interest::ERROR).await);
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
    use std::time::Duration;

    use rustix::io::Errno;

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

    // M-252
    #[test]
    fn atk_whoever_has_a_hold_wakes_nobody_with_it_and_closing_it_ends_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (hold, ours) = ends().expect("a pipe");
            assert_eq!(rustix::io::write(&hold, b"nonsense"), Err(Errno::BADF));
            let mut looks = 0;
            let mut until_let_go = std::pin::pin!(until_let_go(&ours));
            let mut counted = std::pin::pin!(std::future::poll_fn(|context| {
                looks += 1;
                until_let_go.as_mut().poll(context)
            }));
            for bytes in [4096, 65536].into_iter().cycle().take(50) {
                rustix::pipe::fcntl_setpipe_size(&hold, bytes).expect("room");
                assert_eq!(rustix::io::read(&hold, &mut [0; 8]), Err(Errno::AGAIN), "there is nothing");
                let soon = Duration::from_millis(1);
                assert!(tokio::time::timeout(soon, counted.as_mut()).await.is_err(), "it is held");
            }
            drop(hold);
            counted.await;
            assert!(looks <= 102, "{looks} looks in 51 waits");
        });
    }
}
