//! What a porter says of one message from its client.
//!
//! A Hand carries exactly one fd, and that is memory which fits, or the memory of a process, or else the message is Unfit
//! in words that name what came (M-131). Nothing here sends, receives or closes.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use vgem_os::OsError;
use vgem_os::arrival::{Admission, Fitting, Kind, process_memory};
use vgem_os::seqpacket::RecvError;
use vgem_proto::codec::Zero;
use vgem_proto::error::ErrorCode;
use vgem_proto::limits;
use vgem_proto::message::Sender;
use vgem_proto::message::porter::{Brought, BroughtProcess, PorterMessage, Unfit};

/// What came.
#[derive(Debug)]
pub(super) enum Found<'fds> {
    /// Memory that may be an object, and its fd.
    Memory {
        /// What the broker is told.
        brought: Brought,
        /// Goes with it.
        fd: BorrowedFd<'fds>,
    },
    /// The memory of a process.
    Process {
        /// What the broker is told.
        brought: BroughtProcess,
        /// Goes with it.
        fd: BorrowedFd<'fds>,
    },
    /// Something else.
    Unfit(Unfit),
}

/// Judges a message and its fds.
pub(super) fn judge<'fds>(bytes: &[u8], fds: &'fds [OwnedFd], admission: &Admission) -> Found<'fds> {
    let fd = match (PorterMessage::decode(bytes, Sender::Client, fds.len()), fds) {
        (Ok((_, PorterMessage::Hand(_))), [fd]) => fd.as_fd(),
        (Ok((_, other)), _) => {
            return malformed(&format_args!("{} with {} fds", other.row().name, fds.len()));
        }
        (Err(e), _) => return malformed(&e),
    };
    match admission.examine(fd) {
        Ok(Fitting { len, access, .. }) => {
            Found::Memory { brought: Brought { len, access, reserved: Zero }, fd }
        }
        Err(why) => match process_memory(fd) {
            Ok(access) => Found::Process { brought: BroughtProcess { access, reserved: Zero }, fd },
            Err(process) if process.kind == Kind::ProcessMemory => {
                Found::Unfit(unfit(ErrorCode::BadParameter, 0, 0, &process))
            }
            Err(_) => {
                let why =
                    format_args!("{why}; or, for a user queue, the memory of a process (/proc/self/mem)");
                Found::Unfit(unfit(ErrorCode::BadParameter, 0, 0, &why))
            }
        },
    }
}

/// What a message is that is longer than any may be.
pub(super) fn too_long(len: usize) -> Found<'static> {
    let (value, limit) = (len as u64, limits::MESSAGE_LEN as u64);
    let text = format_args!("a message of {value} bytes on the channel, at most {limit} are taken");
    Found::Unfit(unfit(ErrorCode::Malformed, value, limit, &text))
}

/// What a message is whose fds did not all arrive.
pub(super) fn cut_off(e: &RecvError) -> Found<'static> {
    malformed(e)
}

/// What is said of memory whose fd cannot be sent on.
pub(super) fn not_sent(e: &OsError) -> Unfit {
    let errno = u64::from(e.errno().raw_os_error().unsigned_abs());
    unfit(ErrorCode::System, errno, 0, &format_args!("the fd cannot be handed on: {e}"))
}

fn malformed(what: &dyn std::fmt::Display) -> Found<'static> {
    let text = format_args!("one Hand with one fd is taken on the channel: {what}").to_string();
    Found::Unfit(unfit(ErrorCode::Malformed, 0, 0, &text))
}

fn unfit(code: ErrorCode, value: u64, limit: u64, why: &dyn std::fmt::Display) -> Unfit {
    let mut text = why.to_string().into_bytes();
    text.truncate(limits::TEXT_LEN);
    Unfit { value, limit, code, reserved: Zero, text }
}
