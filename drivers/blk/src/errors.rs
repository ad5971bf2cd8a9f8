//! From errno to the code a program acts on and the words for people.

use rustix::io::Errno;
use vgem_driver::JobError;
use vgem_proto::error::ErrorCode;

/// A failed system call, with what was attempted on what.
pub(crate) fn failed(errno: Errno, attempt: impl std::fmt::Display) -> JobError {
    JobError::new(code_of(errno), format!("{attempt}: {errno}"))
}

fn code_of(errno: Errno) -> ErrorCode {
    match errno {
        Errno::NOENT | Errno::NOTDIR => ErrorCode::NotFound,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorCode::NoSpace,
        // LOOP and XDEV are how a resolution that may not leave its root refuses a path that would.
        Errno::ACCESS
        | Errno::PERM
        | Errno::ROFS
        | Errno::XDEV
        | Errno::LOOP
        | Errno::EXIST
        | Errno::ISDIR
        | Errno::TXTBSY
        | Errno::BADF => ErrorCode::NotPermitted,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => ErrorCode::Exhausted,
        Errno::NAMETOOLONG => ErrorCode::BadParameter,
        Errno::FAULT => ErrorCode::MapFailed,
        _ => ErrorCode::Io,
    }
}
