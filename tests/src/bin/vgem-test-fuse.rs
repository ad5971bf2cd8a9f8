//! A file whose close never returns: a FUSE file system of one file, in a mount namespace of its own, that answers
//! INIT, LOOKUP and OPEN and from then on nothing.
//!
//! It is given an empty directory to mount on, sends the open file over its standard input, a SEQPACKET socket, says there
//! of every close that it has it now, and ends when that is closed; then the kernel ends every call that waits for an
//! answer.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use vgem_os::seqpacket::Socket;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
/// What a close asks, and waits for.
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

fn main() {
    let link = Socket::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a standard input"));
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace of one's own: run this as root");
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts that stay private");
    let dir = PathBuf::from(std::env::args_os().nth(1).expect("an empty directory"));
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    mount(Some("vgem-test"), &dir, Some("fuse"), MsFlags::empty(), Some(options.as_str()))
        .expect("a FUSE mount");

    let silent = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&silent);
    let told = Socket::from(link.as_fd().try_clone_to_owned().expect("an fd"));
    std::thread::spawn(move || serve(device, &seen, &told));
    let file = File::open(dir.join("file")).expect("the server answers OPEN");
    link.send(b"file", &[file.as_fd()]).expect("somebody wants it");
    // Our own close is answered; those to come are not.
    drop(file);
    silent.store(true, Ordering::SeqCst);
    link.send(b"silent", &[]).expect("somebody waits for it");
    drop(link.recv_plain(&mut [0; 8]));
    // Without unmounting: the end of the device's last fd ends the connection.
    std::process::exit(0);
}

fn serve(mut device: File, silent: &AtomicBool, link: &Socket) {
    let mut buffer = vec![0_u8; 1 << 17];
    loop {
        let Ok(len) = device.read(&mut buffer) else { return };
        let Some(request) = buffer.get(..len) else { return };
        let (opcode, unique) = (word(request, 4), request.get(8..16).unwrap_or_default().to_vec());
        let body = match opcode {
            INIT => init(),
            LOOKUP => [&entry()[..], &attributes()].concat(),
            OPEN => vec![0; 16],
            FORGET | BATCH_FORGET | INTERRUPT => continue,
            FLUSH if silent.load(Ordering::SeqCst) => {
                link.send(b"held", &[]).expect("somebody counts them");
                continue;
            }
            _ if silent.load(Ordering::SeqCst) => continue,
            GETATTR => [&[0; 16][..], &attributes()].concat(),
            _ => Vec::new(),
        };
        let size = u32::try_from(16 + body.len()).unwrap_or(16);
        let answer = [&size.to_le_bytes()[..], &0_i32.to_le_bytes(), &unique, &body].concat();
        if device.write_all(&answer).is_err() {
            return;
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// `struct fuse_init_out` of version 7.31.
fn init() -> Vec<u8> {
    let mut out = Vec::new();
    for word in [7_u32, 31, 65_536, 0] {
        out.extend(word.to_le_bytes());
    }
    out.extend([0; 4]);
    for word in [4096_u32, 1] {
        out.extend(word.to_le_bytes());
    }
    out.resize(64, 0);
    out
}

/// `struct fuse_entry_out` up to its attributes: node 2.
fn entry() -> Vec<u8> {
    let mut out = Vec::from(2_u64.to_le_bytes());
    out.resize(40, 0);
    out
}

/// `struct fuse_attr` of a file of one page.
fn attributes() -> Vec<u8> {
    let mut out = Vec::new();
    for long in [2_u64, 4096, 8, 0, 0, 0] {
        out.extend(long.to_le_bytes());
    }
    for word in [0_u32, 0, 0, 0o100_644, 1, 0, 0, 0, 4096, 0] {
        out.extend(word.to_le_bytes());
    }
    out
}
