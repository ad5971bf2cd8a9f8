//! `vgemctl domain`, `quota` and `disconnect`: who may hold what, for who administers.

use std::io::PipeWriter;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use vgem::snapshot::DomainEntry;
use vgem::{Client, DomainId, DomainOptions, MadeDomain, QuotaKind, QuotaLimit};

use crate::cli::{Common, Create, Disconnect, Domain, Domains, Drain, Quota};
use crate::exit::Ended;
use crate::pick::Among;
use crate::reach::{Otherwise, reach};
use crate::signals::interrupted;
use crate::table::Table;
use crate::verbs::show::CLIENTS;
use crate::{human, print};

/// How long we look at the domain before Ctrl-C is looked for.
const SLICE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Where a command that runs in a domain finds the folder of its socket.
const FOLDER: &str = "VGEM_DOMAIN_DIR";

pub(crate) fn run(common: &Common, domain: &Domain) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    match &domain.what {
        Domains::Create(create) => make(common, client, create),
        Domains::List => print::either(common.format, &client.domain_entries()?, |all| list(all)),
        Domains::Show { name } => print::either(common.format, &look(client, name)?, show),
        Domains::Drain { name } => drain_of(client, name),
        Domains::Close { name } => Ok(client.close_domain(DomainId(find(client, name)?.domain))?),
    }
}

pub(crate) fn quota(common: &Common, quota: &Quota) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    if !quota.quotas.is_empty() {
        let domain = match find(client, &quota.domain) {
            Ok(found) => found.domain,
            // That of a user who holds nothing now.
            Err(not_there) => quota.domain.parse().map_err(|_| not_there)?,
        };
        client.set_quota(DomainId(domain), &limits(&quota.quotas))?;
        return Ok(());
    }
    print::either(common.format, &look(client, &quota.domain)?, show)
}

pub(crate) fn drain(common: &Common, drain: &Drain) -> anyhow::Result<()> {
    drain_of(&reach(common, Otherwise::Fail)?.client, &drain.domain)
}

fn drain_of(client: &Client, name: &str) -> anyhow::Result<()> {
    Ok(client.drain_domain(DomainId(find(client, name)?.domain))?)
}

pub(crate) fn disconnect(common: &Common, disconnect: &Disconnect) -> anyhow::Result<()> {
    let client = &reach(common, Otherwise::Fail)?.client;
    // A number that nobody has is the broker's to refuse.
    let number = match disconnect.client.parse() {
        Ok(number) => number,
        Err(_) => CLIENTS.pick_whole(client.client_entries()?, &disconnect.client)?.client,
    };
    Ok(client.disconnect(number)?)
}

fn make(common: &Common, client: &Client, create: &Create) -> anyhow::Result<()> {
    let mut options = DomainOptions::new(&create.name);
    for QuotaLimit { kind, limit, .. } in limits(&create.quota) {
        options = options.quota(kind, limit);
    }
    for what in &create.devices {
        options = options.may_use(what);
    }
    if let Some(path) = &create.listen {
        return make_at(common, client, (&options, path), create);
    }
    if create.command.is_empty() {
        let made = client.create_domain(&options.stays())?;
        return print::either(common.format, &find(client, &create.name)?, |_| created(&made));
    }
    run_in(&client.create_domain(&options)?, &create.command)
}

/// Makes a domain at a socket that is bound here. It lives as long as we hold an end of a pipe.
fn make_at(
    common: &Common,
    client: &Client,
    (options, path): (&DomainOptions, &Path),
    create: &Create,
) -> anyhow::Result<()> {
    let path = std::path::absolute(path)?;
    let (close, held) = std::io::pipe()?;
    let listener = vgem::listen_at(&path, create.mode)?;
    let _file = Removed(&path);
    let made = client.create_domain_at(&listener, &close, options)?;
    // So that it is closed when the domain ends, and the other end hangs up.
    drop((listener, close));
    let made = MadeDomain { socket: path.clone(), ..made };
    if !create.command.is_empty() {
        return run_in(&made, &create.command);
    }
    let interrupted = interrupted()?;
    print::either(common.format, &find(client, &create.name)?, |_| created(&made))?;
    while !interrupted.load(Ordering::Acquire) {
        if has_hung_up(&held)? {
            print::note("the domain was ended");
            break;
        }
    }
    Ok(())
}

/// Looks for a while whether nobody has the other end of a pipe any more.
fn has_hung_up(held: &PipeWriter) -> anyhow::Result<bool> {
    let mut fds = [PollFd::new(held, PollFlags::empty())];
    match poll(&mut fds, Some(&SLICE)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// A file that is removed when this is dropped.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        // Somebody else may have been faster.
        drop(std::fs::remove_file(self.0));
    }
}

/// Runs a command with the domain's socket; the domain ends with it, and with us.
fn run_in(made: &MadeDomain, command: &[String]) -> anyhow::Result<()> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let mut child = Command::new(program);
    child.args(args).env("VGEM_SOCKET", &made.socket).env(FOLDER, made.folder());
    let status = child.status().map_err(|e| anyhow::anyhow!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(Ended(status).into()) }
}

fn created(made: &MadeDomain) -> Vec<String> {
    vec![made.socket.display().to_string()]
}

/// Domains, by number or name.
const DOMAINS: Among<'_, DomainEntry> = Among {
    what: "domain",
    listed_by: "domain list",
    id: |domain| domain.domain.to_string(),
    name: |domain| &domain.name,
};

/// The domain that is to be changed.
fn find(client: &Client, name: &str) -> anyhow::Result<DomainEntry> {
    DOMAINS.pick_whole(client.domain_entries()?, name)
}

/// The domain that is to be looked at.
fn look(client: &Client, name: &str) -> anyhow::Result<DomainEntry> {
    DOMAINS.pick(client.domain_entries()?, name)
}

fn limits(quotas: &[(QuotaKind, u64)]) -> Vec<QuotaLimit> {
    quotas.iter().map(|(kind, limit)| QuotaLimit::new(*kind, *limit)).collect()
}

fn list(all: &[DomainEntry]) -> Vec<String> {
    let titles = [">DOMAIN", "NAME", "ORIGIN", "STATE", ">CLIENTS", ">BYTES", ">LIMIT", "DEVICES"];
    let mut table = Table::new(&titles);
    for domain in all {
        let bytes = domain.quotas.get("bytes").copied().unwrap_or_default();
        table.row([
            domain.domain.to_string(),
            domain.name.clone(),
            domain.origin.clone(),
            domain.state.clone(),
            domain.clients.to_string(),
            human::bytes(bytes.used),
            human::bytes(bytes.limit),
            domain.devices.join(" "),
        ]);
    }
    table.lines()
}

fn show(domain: &DomainEntry) -> Vec<String> {
    let mut lines = vec![
        format!("domain    {} ({})", domain.name, domain.domain),
        format!("origin    {}", domain.origin),
        format!("state     {}", domain.state),
        format!("clients   {}", domain.clients),
        format!("devices   {}", domain.devices.join(" ")),
    ];
    if !domain.path.is_empty() {
        lines.push(format!("socket    {}", human::text(&domain.path)));
    }
    if domain.creator != 0 {
        lines.push(format!("ends with client {}", domain.creator));
    }
    for (device, operations) in &domain.operations {
        lines.push(format!("of {device}: {}", operations.join(" ")));
    }
    lines.push(String::new());
    let mut table = Table::new(&["QUOTA", ">USED", ">LIMIT"]);
    for kind in QuotaKind::ALL {
        let quota = domain.quotas.get(kind.name()).copied().unwrap_or_default();
        let say = |number| {
            if matches!(kind, QuotaKind::Bytes | QuotaKind::Pinned) {
                human::bytes(number)
            } else {
                number.to_string()
            }
        };
        let (used, limit) = match kind {
            // A rate is held by nobody, and 0 is no bound.
            QuotaKind::Requests if quota.limit == 0 => (String::new(), "none".to_owned()),
            QuotaKind::Requests => (String::new(), say(quota.limit)),
            _ => (say(quota.used), say(quota.limit)),
        };
        table.row([kind.name().to_owned(), used, limit]);
    }
    lines.extend(table.lines());
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vgem::snapshot::QuotaEntry;

    use super::*;

    #[test]
    fn a_domain_shows_what_it_uses_of_each_quota() {
        let quotas = BTreeMap::from([("bytes".to_owned(), QuotaEntry { used: 4096, limit: 1 << 30 })]);
        let lines = show(&DomainEntry { name: "stage".into(), quotas, ..DomainEntry::default() });
        assert!(
            lines
                .iter()
                .any(|line| line.contains("bytes") && line.contains("4 KiB") && line.contains("1 GiB"))
        );
        assert!(
            lines.iter().any(|line| line.contains("requests_per_s") && line.contains("none")),
            "{lines:?}"
        );
    }
}
