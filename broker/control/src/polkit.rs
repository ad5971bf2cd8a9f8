//! Who may administer over the bus: root, the user that the daemon serves, and whom polkit lets.
//!
//! ```text
//!   call ─► root, or the user that the daemon serves? ─► may
//!            └─ no ─► the system's bus, and polkit on it? ── says yes ─► may
//!                      └─ no ─► refused                       └─ no ─► refused
//! ```
//!
//! Polkit is asked about the caller by its name on the bus, for each call anew. It is whoever owns polkit's name there, and
//! only the system's bus lets nobody else own it: on any other polkit is not asked (M-250). A caller that allows it (the
//! message's flag) may be asked for a password meanwhile, so a user has at most [`ASKED`] such calls under way.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use vgem::ErrorCode;
use zbus::message::{Flags, Header};
use zbus::proxy::CacheProperties;
use zbus::{Connection, Variant};

use crate::error::{Error, Result};
use crate::link::Identity;

/// Calls of one user that polkit thinks about at once.
const ASKED: usize = 4;
/// How long it may think: a person types.
const PATIENCE: Duration = Duration::from_secs(120);
/// Polkit's flag: a person may be asked.
const INTERACTIVE: u32 = 1;

/// What one may be let do: the actions of `packaging/dbus/org.vgemd.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Make and end domains.
    Domains,
    /// Say what domains may hold.
    Quotas,
    /// Disconnect clients.
    Clients,
    /// See what belongs to others.
    See,
}

impl Right {
    /// All of them.
    #[cfg(test)]
    const ALL: [Self; 4] = [Self::Domains, Self::Quotas, Self::Clients, Self::See];

    const fn action(self) -> &'static str {
        match self {
            Self::Domains => "org.vgemd.manage-domains",
            Self::Quotas => "org.vgemd.set-quotas",
            Self::Clients => "org.vgemd.disconnect-clients",
            Self::See => "org.vgemd.see-all",
        }
    }
}

#[zbus::proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action_id: &str,
        details: HashMap<&str, &str>,
        flags: u32,
        cancellation_id: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
}

/// Whether polkit is asked at all, and the calls that it thinks about, by user.
#[derive(Debug, Default)]
pub(crate) struct Rights {
    asks: bool,
    asked: Mutex<HashMap<u32, usize>>,
}

/// One of them; over on drop.
struct Asked<'a> {
    all: &'a Rights,
    uid: u32,
}

impl Rights {
    /// Those of the system's bus, where polkit is asked, or of another.
    pub(crate) fn of(is_system: bool) -> Self {
        Self { asks: is_system, ..Self::default() }
    }

    /// Whether the sender of this call may do that.
    ///
    /// # Errors
    /// Denied, with the way to be let; Exhausted while too many calls of this user wait for polkit.
    pub(crate) async fn check(
        &self,
        bus: Option<&Connection>,
        header: &Header<'_>,
        whose: Identity,
        right: Right,
    ) -> Result<()> {
        // The daemon serves the user of this process alone, or it is an account that nobody else has.
        if whose.uid == 0 || whose.uid == rustix::process::geteuid().as_raw() {
            return Ok(());
        }
        let (Some(bus), Some(sender)) = (bus, header.sender()) else {
            return Err(denied(whose, "without a bus there is no polkit to ask"));
        };
        if !self.asks {
            return Err(denied(whose, "this is not the system's bus, so there is no polkit to ask"));
        }
        let _asked = self.begin(whose.uid)?;
        let subject = ("system-bus-name", HashMap::from([("name", Variant::from(sender.as_str()))]));
        let may_ask = header.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
        let asking = async {
            let authority =
                AuthorityProxy::builder(bus).cache_properties(CacheProperties::No).build().await?;
            let flags = if may_ask { INTERACTIVE } else { 0 };
            authority.check_authorization(&subject, right.action(), HashMap::new(), flags, "").await
        };
        let late = || denied(whose, "polkit has not answered for too long");
        let answer = tokio::time::timeout(PATIENCE, asking).await.map_err(|_| late())?;
        match answer {
            Ok((true, ..)) => Ok(()),
            Ok((false, true, _)) => {
                let text = format!("polkit wants to ask somebody before {}; allow it to", right.action());
                Err(denied(whose, &text))
            }
            Ok((false, false, _)) => Err(denied(whose, &format!("polkit refuses {}", right.action()))),
            Err(e) => Err(denied(whose, &format!("there is no polkit to ask ({e}), so root alone may"))),
        }
    }

    fn begin(&self, uid: u32) -> Result<Asked<'_>> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let count = asked.entry(uid).or_default();
        if *count >= ASKED {
            let text = format!("{count} calls of uid {uid} wait for polkit, the limit is {ASKED}");
            return Err(Error::new(ErrorCode::Exhausted, text));
        }
        *count += 1;
        Ok(Asked { all: self, uid })
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut asked = self.all.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(asked.remove(&self.uid)),
        }
    }
}

fn denied(whose: Identity, why: &str) -> Error {
    Error::new(ErrorCode::Denied, format!("uid {} does not administer: {why}", whose.uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_waits_for_polkit_so_often_at_once_and_others_too() {
        let rights = Rights::default();
        let held: Vec<_> = (0..ASKED).map(|_| rights.begin(1).expect("room")).collect();
        assert_eq!(rights.begin(1).map(drop).expect_err("too many").code(), ErrorCode::Exhausted);
        assert!(rights.begin(2).is_ok());
        drop(held);
        assert!(rights.begin(1).is_ok() && rights.asked.lock().expect("whole").is_empty());
    }

    #[test]
    fn the_installed_actions_are_those_that_are_asked_for() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/dbus/org.vgemd.policy");
        let installed = std::fs::read_to_string(file).expect("the installed actions");
        let ids: Vec<&str> =
            installed.split("<action id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(ids, Right::ALL.map(Right::action));
    }
}
