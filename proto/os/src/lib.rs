//! The only door to the kernel.
//!
//! Everything in vgem that needs `unsafe` to talk to Linux is here, behind types that cannot be misused: object
//! memory, mappings and spans, fence pages, rings, futexes, SEQPACKET sockets, peers, processes, confinement. What is not
//! here: rules. This crate does not know who may do what; it says what the kernel said.
//!
//! | module | what |
//! |---|---|
//! | [`memory`] | memfd objects, own and foreign: create, seal, export, probe, free |
//! | [`hugepages`] | reserved huge pages: how many, and what is lacking |
//! | [`arrival`] | what a stranger's fd is, and whether it is memory to import |
//! | [`client_memory`] | a process's memory, through the fd of it that the process handed over |
//! | [`mapping`] | mappings, spans, copies |
//! | [`adopt`] | memory of this process becomes an object's, at its address |
//! | [`pin`] | locked pages |
//! | [`watch`] | close hints |
//! | [`selftest`] | may the lease probe be relied on |
//! | [`fence`] | fence pages: keeper, signaller and observer faces |
//! | [`ring`] | rings of user queues: the halves of client and driver, the keeper's face |
//! | [`spin`] | whether to look for a while before sleeping |
//! | [`futex`] | sleeping on words, one or many |
//! | [`alarm`] | sleeping until a moment that others set |
//! | [`seqpacket`] | sockets that carry messages and fds |
//! | [`gc`] | fds that are nowhere but in flight |
//! | [`peer`] | who is at the other end |
//! | [`process`] | starting processes with exactly the fds they are to have |
//! | [`confine`] | giving up what a role does not need |
//! | [`lines`] | lines to standard error that wait for nobody |
//! | [`clock`], [`signal`] | the one clock; signals that must not kill |
//!
//! # Invariants of the unsafe code
//!
//! Every `// SAFETY:` comment names one of these and says why it holds there.
//!
//! - **U1, peers write.** Memory that another process can write is reached only through atomics, volatile reads,
//!   bulk copies (U4), or a reference made under U5. The only references to it are to atomics.
//! - **U2, ranges live.** A pointer used here lies in a range that is mapped, with the access used, for as long as
//!   the owner (a [`mapping::Mapping`], a [`adopt::Region`], a borrowed slice) that the type's lifetime names. Offsets are checked
//!   against the length before they are added.
//! - **U3, no SIGBUS.** A received fd is mapped only after [`memory::verify_export`]: sealed against shrinking and
//!   at least as long as the mapping. That holds for ordinary pages. No seal but that against writing keeps a peer from
//!   punching a hole; where that was a reserved huge page and another took it, the next access raises `SIGBUS` and ends
//!   the process. It is never undefined: what serves several domains touches no such memory.
//! - **U4, copies are once.** A bulk copy between shared and private memory reads or writes each byte once through
//!   raw pointers; a peer that writes meanwhile makes the copy torn, and nothing is decided by reading it again.
//!   Lengths of both sides are equal and checked; non-temporal stores are fenced before return.
//! - **U5, quiet by contract.** A slice over shared memory is made only for a caller that holds a
//!   [`mapping::Quiescent`], whose documentation says what is promised.
//! - **U6, syscall shapes.** A raw system call gets the integers, or the pointer to and size of a live value of the
//!   type, that its manual page asks for; every bit pattern the kernel may write into it is valid.
//! - **U7, no handlers.** No signal handler is ever installed, only `SIG_IGN`.
//! - **U8, between fork and exec.** Only async-signal-safe system calls on numbers computed before the fork: no
//!   allocation, no lock, no panic.
//! - **U9, fds have one owner.** Fds are `OwnedFd` or `BorrowedFd`, close-on-exec from birth. A raw number becomes
//!   owned in one place ([`process::inherited`]), and only if it is open and not close-on-exec, that is, passed by
//!   the parent and not owned by anybody in this process yet.

#[cfg(not(target_os = "linux"))]
compile_error!("vgem runs on Linux");
#[cfg(not(all(target_pointer_width = "64", target_endian = "little")))]
compile_error!("vgem runs on 64-bit little-endian machines: its shared pages are read in place");

pub mod adopt;
pub mod alarm;
pub mod arrival;
pub mod barrier;
pub mod client_memory;
pub mod clock;
pub mod confine;
pub mod cores;
mod error;
pub mod fence;
pub mod futex;
pub mod gc;
pub mod hugepages;
pub mod lines;
pub mod mapping;
pub mod memory;
pub mod peer;
pub mod pin;
pub mod process;
pub mod ring;
pub mod selftest;
pub mod seqpacket;
pub mod signal;
pub mod spin;
pub mod watch;

pub use error::{OsError, Result};
pub use rustix::io::Errno;
