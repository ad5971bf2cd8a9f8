//! How a command ends: its exit code, and one line that says why.

use std::io::Write as _;
use std::process::ExitCode;

/// The table of exit codes, for `--help`.
pub(crate) const TABLE: &str = "\
Exit codes:
  0  done
  1  failed: a job, a file, or a check of doctor
  2  the command line is wrong
  3  no broker answers, or a private one did not start
  4  the broker refused
  5  no such device, object, client, domain or operation
domain create --run ends as its command does.";

/// A command that ran, and did not find what it should have.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotThere(pub(crate) String);

/// A command line that clap could not see to be wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Everything was printed already, and not all is well.
#[derive(Debug, thiserror::Error)]
#[error("not all is well")]
pub(crate) struct Unwell;

/// A command that was run ended so.
#[derive(Debug, thiserror::Error)]
#[error("the command ended: {0}")]
pub(crate) struct Ended(pub(crate) std::process::ExitStatus);

/// The exit code of a command; prints why it failed.
pub(crate) fn code(done: anyhow::Result<()>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    if error.chain().any(is_broken_pipe) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    if !error.is::<Unwell>() {
        // With standard error closed, the code says it all.
        drop(writeln!(std::io::stderr(), "vgemctl: {error:#}"));
    }
    ExitCode::from(number(&error))
}

fn number(error: &anyhow::Error) -> u8 {
    error.chain().find_map(number_of).unwrap_or(1)
}

fn number_of(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if error.is::<Usage>() {
        return Some(2);
    }
    if let Some(Ended(status)) = error.downcast_ref() {
        return Some(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
    }
    if error.is::<NotThere>() {
        return Some(5);
    }
    match error.downcast_ref::<vgem::Error>()? {
        vgem::Error::NotRunning { .. } | vgem::Error::Embedded(_) => Some(3),
        vgem::Error::Refused(_) => Some(4),
        vgem::Error::Local(
            vgem::LocalError::NoSuchDevice { .. } | vgem::LocalError::NoSuchOperation { .. },
        ) => Some(5),
        vgem::Error::Local(
            vgem::LocalError::NoSuchOperand { .. }
            | vgem::LocalError::NoSuchParam { .. }
            | vgem::LocalError::BadValue { .. },
        ) => Some(2),
        _ => None,
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_blame_has_its_code() {
        let tried = Vec::new();
        let refusal = vgem::Refusal::new(vgem::ErrorCode::Denied, "no");
        let of = |error: anyhow::Error| number(&error.context("more"));
        assert_eq!(of(vgem::Error::NotRunning { tried }.into()), 3);
        assert_eq!(of(vgem::Error::Refused(refusal).into()), 4);
        assert_eq!(of(NotThere("x".into()).into()), 5);
        assert_eq!(of(Usage("x".into()).into()), 2);
        assert_eq!(of(anyhow::anyhow!("x")), 1);
    }
}
