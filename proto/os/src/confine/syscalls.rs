//! seccomp: the system calls a confined process is left with.
//!
//! Two filters. The first kills the process for calls that only an attacker makes. The second is a list per role:
//! what is not on it answers `ENOSYS`. That also serves threads: `clone3` passes its flags through memory, where a
//! filter cannot look, so it is not on the list, and the C library falls back to `clone`, whose flags are checked to
//! make threads only. The lists of porters and doormen are their own, and short: they meet strangers' fds.

use std::collections::BTreeMap;

use nix::libc;
use rustix::io::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::ConfineSpec;
use crate::arrival::FIGETBSZ;
use crate::error::{OsError, Result};

/// Whose list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Broker,
    Driver,
    Porter,
    Doorman,
    Control,
    Web,
}

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

/// Calls that have no honest use in a confined process.
const DEADLY: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_open_by_handle_at,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

/// What every Rust process needs to live: memory, threads, time, signals, its own ends.
const LIFE: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_capget,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_tgkill,
    libc::SYS_uname,
];

/// Waiting for, and talking over, fds that are open.
const TALK: &[libc::c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_ioctl,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_statx,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Older forms of the above that C libraries on x86-64 still use.
#[cfg(target_arch = "x86_64")]
const OLDER: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_dup2, libc::SYS_arch_prctl];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[libc::c_long] = &[];

/// How much of a file is in the page cache (Linux 6.5); the C library does not name it yet.
const CACHESTAT: libc::c_long = 451;

/// Opening paths and looking at them; landlock says which.
const OPEN: &[libc::c_long] = &[
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_openat,
    libc::SYS_openat2,
    CACHESTAT,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
];

/// The same, in the forms some C libraries on x86-64 still use.
#[cfg(target_arch = "x86_64")]
const OPEN_OLDER: &[libc::c_long] = &[libc::SYS_open, libc::SYS_readlink, libc::SYS_stat, libc::SYS_lstat];
#[cfg(not(target_arch = "x86_64"))]
const OPEN_OLDER: &[libc::c_long] = &[];

/// What the broker alone needs: objects, watches, connections, processes it was told of.
const BROKER: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_fallocate,
    libc::SYS_fchmod,
    libc::SYS_ftruncate,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_memfd_create,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_waitid,
];

/// What drivers alone need: files they hold.
const DRIVER: &[libc::c_long] = &[
    libc::SYS_copy_file_range,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_memfd_create,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_sync_file_range,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_mkdirat,
];

/// What control alone needs: to connect to a bus or take peers, and pipes that say when a job has ended.
const CONTROL: &[libc::c_long] =
    &[libc::SYS_accept4, libc::SYS_connect, libc::SYS_pipe2, libc::SYS_pidfd_open];

/// What the page server alone needs: to be called, and to connect to the broker.
const WEB: &[libc::c_long] = &[libc::SYS_accept4, libc::SYS_connect];

const IO_URING: &[libc::c_long] =
    &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// All that a porter does: wait, receive, look, send, log, end. No thread, no open, no process of any kind.
const PORTER: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What a doorman does besides: accept, ask where its socket is, and live in two threads.
const DOORMAN: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_prctl,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
];

#[cfg(target_arch = "x86_64")]
const PORTER_OLDER: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_readlink];
#[cfg(not(target_arch = "x86_64"))]
const PORTER_OLDER: &[libc::c_long] = &[];

/// What a porter asks of an fd, its own or a stranger's: its flags, its seals, a duplicate.
const PORTER_FCNTL: &[libc::c_int] = &[
    libc::F_ADD_SEALS,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_GETFL,
    libc::F_GET_SEALS,
    libc::F_SETFD,
    libc::F_SETFL,
];

/// What a porter asks of its sockets: not to wait, and what is unread (SIOCOUTQ); and of a stranger's fd how long its
/// file system's blocks are.
const PORTER_IOCTL: &[libc::Ioctl] = &[libc::FIONBIO, libc::TIOCOUTQ, FIGETBSZ];

/// Installs both filters in all threads.
pub(super) fn install(spec: &ConfineSpec, role: Role) -> Result<()> {
    let deadly: Rules = DEADLY.iter().map(|call| (*call, Vec::new())).collect();
    apply(deadly, SeccompAction::Allow, SeccompAction::KillProcess)?;
    let refuse = SeccompAction::Errno(Errno::NOSYS.raw_os_error().unsigned_abs());
    apply(allowed(spec, role)?, refuse, SeccompAction::Allow)
}

fn allowed(spec: &ConfineSpec, role: Role) -> Result<Rules> {
    let own = match role {
        Role::Broker => BROKER,
        Role::Driver => DRIVER,
        Role::Control => CONTROL,
        Role::Web => WEB,
        Role::Porter => return porter(),
        Role::Doorman => return doorman(),
    };
    let mut lists = vec![LIFE, TALK, OLDER, own];
    if !spec.no_open {
        lists.extend([OPEN, OPEN_OLDER]);
    }
    if spec.io_uring {
        lists.push(IO_URING);
    }
    let mut rules = whole(&lists);
    rules.insert(libc::SYS_clone, vec![threads()?]);
    // Unix sockets, no other family.
    let unix = libc::AF_UNIX.unsigned_abs().into();
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        rules.insert(call, vec![only(0, SeccompCmpOp::Eq, unix)?]);
    }
    Ok(rules)
}

/// Threads, not processes.
fn threads() -> Result<SeccompRule> {
    let thread = libc::CLONE_THREAD.unsigned_abs().into();
    only(0, SeccompCmpOp::MaskedEq(thread), thread)
}

fn doorman() -> Result<Rules> {
    let mut rules = porter()?;
    rules.extend(whole(&[DOORMAN]));
    rules.insert(libc::SYS_clone, vec![threads()?]);
    Ok(rules)
}

fn porter() -> Result<Rules> {
    let mut rules = whole(&[PORTER, PORTER_OLDER]);
    let commands =
        PORTER_FCNTL.iter().map(|command| only(1, SeccompCmpOp::Eq, command.unsigned_abs().into()));
    rules.insert(libc::SYS_fcntl, commands.collect::<Result<_>>()?);
    let requests = PORTER_IOCTL.iter().map(|request| only(1, SeccompCmpOp::Eq, *request));
    rules.insert(libc::SYS_ioctl, requests.collect::<Result<_>>()?);
    // A panic that aborts signals the process itself, and no other.
    let own = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs().into();
    rules.insert(libc::SYS_tgkill, vec![only(0, SeccompCmpOp::Eq, own)?]);
    Ok(rules)
}

/// Calls that are allowed whatever their arguments are.
fn whole(lists: &[&[libc::c_long]]) -> Rules {
    lists.iter().copied().flatten().map(|call| (*call, Vec::new())).collect()
}

fn only(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    let condition =
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(refused)?;
    SeccompRule::new(vec![condition]).map_err(refused)
}

fn apply(rules: Rules, otherwise: SeccompAction, on_match: SeccompAction) -> Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(refused)?;
    let filter = SeccompFilter::new(rules, otherwise, on_match, arch).map_err(refused)?;
    let program = BpfProgram::try_from(filter).map_err(refused)?;
    seccompiler::apply_filter_all_threads(&program).map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> OsError {
    OsError::with_detail("seccomp", Errno::INVAL, error.to_string())
}
