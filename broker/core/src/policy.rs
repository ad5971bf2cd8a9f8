//! Who may do what: the only place that makes a [`Grant`].
//!
//! A grant is proof that policy was asked. The functions that change something take one; nobody else can make
//! it, and it says for whom and for what it holds. Rights of handles are checked here too: they only shrink.

use vgem_proto::describe::Operation;
use vgem_proto::error::{ErrorCode, Refusal};
use vgem_proto::ids::{DomainId, ObjectKey, TimelineKey};
use vgem_proto::rights::{Access, Rights, TimelineRights};

use crate::devices::Device;
use crate::domains::Allowed;
use crate::import::tampered_with;
use crate::io::Scope;
use crate::objects::Kind;

/// How far what a client may goes beyond its own domain. Who has which, [`crate::domains::Domains::reach`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Not at all.
    Own,
    /// It sees what is other domains', and changes nothing of it.
    Observes,
    /// It sees and changes what is other domains'.
    Administers,
}

impl Reach {
    fn sees_others(self) -> bool {
        match self {
            Self::Own => false,
            Self::Observes | Self::Administers => true,
        }
    }

    fn changes_others(self) -> bool {
        match self {
            Self::Own | Self::Observes => false,
            Self::Administers => true,
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) reach: Reach,
    pub(crate) domain: DomainId,
}

/// What is asked, for things that need no right of a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    CreateObject,
    OpenQueue,
    Submit,
    OpenPorter,
    Import,
    Monitor,
    CreateTimeline,
    ImportTimeline,
    /// Changing what is other domains'.
    Administer,
}

/// Proof that a subject may act.
#[derive(Debug)]
#[must_use]
pub(crate) struct Grant {
    domain: DomainId,
}

impl Grant {
    /// The domain that acts, and pays.
    pub(crate) fn domain(&self) -> DomainId {
        self.domain
    }
}

/// Proof that a handle allows an access to its object.
#[derive(Debug)]
#[must_use]
pub(crate) struct UseGrant {
    object: ObjectKey,
    access: Access,
}

impl UseGrant {
    pub(crate) fn object(&self) -> ObjectKey {
        self.object
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }
}

/// Proof that a handle allows what is wanted of its timeline.
#[derive(Debug)]
#[must_use]
pub(crate) struct TimelineGrant {
    timeline: TimelineKey,
}

impl TimelineGrant {
    pub(crate) fn timeline(&self) -> TimelineKey {
        self.timeline
    }
}

/// Asks whether a handle with `rights` allows `needed` of its timeline.
pub(crate) fn authorise_timeline(
    timeline: TimelineKey,
    rights: TimelineRights,
    needed: TimelineRights,
) -> Result<TimelineGrant, Refusal> {
    if rights.contains(needed) && !needed.is_empty() {
        return Ok(TimelineGrant { timeline });
    }
    let text = format!("the handle's rights are {rights:?}, this needs {needed:?}");
    Err(Refusal::new(ErrorCode::Denied, text).with(u64::from(needed.bits()), u64::from(rights.bits())))
}

/// Asks whether `subject` may do `action`.
///
/// Every client may use what its own domain pays for.
pub(crate) fn authorise(subject: Subject, action: Action) -> Result<Grant, Refusal> {
    match action {
        Action::Administer if !subject.reach.changes_others() => {
            let text = "for root, or whom the daemon serves alone, and not through a domain's own socket";
            Err(Refusal::new(ErrorCode::Denied, text))
        }
        Action::CreateObject
        | Action::OpenQueue
        | Action::Submit
        | Action::OpenPorter
        | Action::Import
        | Action::Monitor
        | Action::CreateTimeline
        | Action::ImportTimeline
        | Action::Administer => Ok(Grant { domain: subject.domain }),
    }
}

/// Asks whether a domain may use a device; `domain` is its name.
pub(crate) fn authorise_device(
    allowed: &Allowed,
    device: &Device,
    domain: impl FnOnce() -> String,
) -> Result<(), Refusal> {
    match allowed {
        Allowed::Whole | Allowed::Operations(_) => Ok(()),
        Allowed::Nothing => {
            let text = format!("device {}: domain {} may not use it", device.name(), domain());
            Err(Refusal::new(ErrorCode::Denied, text).with(u64::from(device.id.0), 0))
        }
    }
}

/// Asks whether a domain may use an operation of a device; `domain` is its name.
pub(crate) fn authorise_operation(
    allowed: &Allowed,
    device: &Device,
    operation: &Operation,
    domain: impl FnOnce() -> String,
) -> Result<(), Refusal> {
    match allowed {
        Allowed::Whole => return Ok(()),
        Allowed::Operations(some) if some.contains(&operation.number) => return Ok(()),
        Allowed::Operations(_) | Allowed::Nothing => {}
    }
    let (name, number) = (device.name(), u64::from(operation.number));
    let text = format!("operation {} of device {name}: domain {} may not use it", operation.name, domain());
    Err(Refusal::new(ErrorCode::Denied, text).with(number, 0))
}

/// Asks whether a handle with `rights` allows a job `access` to `object`.
#[inline]
pub(crate) fn authorise_use(object: ObjectKey, rights: Rights, access: Access) -> Result<UseGrant, Refusal> {
    let needed = match access {
        Access::Read => Rights::READ,
        Access::Write => Rights::WRITE,
    };
    if rights.contains(needed) { Ok(UseGrant { object, access }) } else { Err(lacks(rights, needed)) }
}

/// Asks whether `subject` may have a handle of an object that it showed an fd of: having the fd is the proof, so
/// only an object whose inode somebody tampered with is refused.
pub(crate) fn authorise_import(subject: Subject, is_tampered: bool) -> Result<Grant, Refusal> {
    if is_tampered { Err(tampered_with()) } else { authorise(subject, Action::Import) }
}

/// What a handle allows that was imported by an fd with `access`: no more than the fd shows.
pub(crate) fn rights_of_import(kind: Kind, access: Access) -> Rights {
    match (kind, access) {
        (Kind::Own | Kind::Foreign, Access::Write) => Rights::READ | Rights::WRITE | Rights::EXPORT,
        (Kind::Own | Kind::Foreign, Access::Read) | (Kind::Sealed(_), Access::Read | Access::Write) => {
            Rights::READ | Rights::EXPORT
        }
    }
}

/// Asks whether a handle with `rights` allows its object to be committed: who made it may, others if they could
/// have filled it.
pub(crate) fn authorise_commit(
    object: ObjectKey,
    rights: Rights,
    is_creator: bool,
) -> Result<UseGrant, Refusal> {
    if is_creator {
        Ok(UseGrant { object, access: Access::Write })
    } else {
        authorise_use(object, rights, Access::Write)
    }
}

/// Asks whether a handle with `rights` allows an fd with `access` to leave.
pub(crate) fn authorise_export(
    object: ObjectKey,
    kind: Kind,
    rights: Rights,
    access: Access,
) -> Result<UseGrant, Refusal> {
    if matches!(kind, Kind::Sealed(_)) && access == Access::Write {
        return Err(Refusal::new(ErrorCode::Denied, "a sealed result leaves only read-only"));
    }
    let needed = match access {
        Access::Read => Rights::EXPORT | Rights::READ,
        Access::Write => Rights::EXPORT | Rights::WRITE,
    };
    if rights.contains(needed) { Ok(UseGrant { object, access }) } else { Err(lacks(rights, needed)) }
}

fn lacks(rights: Rights, needed: Rights) -> Refusal {
    let text = format!("the handle's rights are {rights:?}, this needs {needed:?}");
    Refusal::new(ErrorCode::Denied, text).with(u64::from(needed.bits()), u64::from(rights.bits()))
}

/// How much of the state `subject` may look at: who administers or observes everything, others their own domain.
pub(crate) fn scope(subject: Subject) -> Scope {
    if subject.reach.sees_others() { Scope::All } else { Scope::Domain(subject.domain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: ObjectKey = ObjectKey { index: 1, generation: 1 };

    #[test]
    fn a_right_that_is_missing_is_named_with_what_there_is() {
        let refusal = authorise_use(OBJECT, Rights::READ, Access::Write).unwrap_err();
        assert_eq!((refusal.code, refusal.value, refusal.limit), (ErrorCode::Denied, 2, 1));
    }

    // M-036
    #[test]
    fn an_export_needs_the_right_to_export_and_that_of_its_access() {
        let refused =
            |rights, access| authorise_export(OBJECT, Kind::Own, rights, access).err().map(|e| e.code);
        assert_eq!(refused(Rights::READ | Rights::EXPORT, Access::Read), None);
        assert_eq!(refused(Rights::READ | Rights::EXPORT, Access::Write), Some(ErrorCode::Denied));
        assert_eq!(refused(Rights::READ | Rights::WRITE, Access::Read), Some(ErrorCode::Denied));
    }

    // M-230, M-231
    #[test]
    fn to_see_other_domains_is_one_right_and_to_change_them_another() {
        let domain = DomainId(4);
        let may = |reach| {
            let subject = Subject { reach, domain };
            (scope(subject), authorise(subject, Action::Administer).is_ok())
        };
        assert_eq!(may(Reach::Own), (Scope::Domain(domain), false));
        assert_eq!(may(Reach::Observes), (Scope::All, false));
        assert_eq!(may(Reach::Administers), (Scope::All, true));
    }
}
