//! Doors: the listening sockets of domains, `domains/NAME/vgemd.sock` below the daemon's directory.
//!
//! The keeper makes them, because the broker opens no path, and because a socket that came from somebody else would be
//! shared with them: they could clear its O_NONBLOCK and hold the broker up in `accept`, or take connections themselves.
//!
//! `domains` is for the daemon's own account only, so on the host nobody else gets as far as a door. `NAME` and the socket
//! in it are for everybody: whoever is given the folder `NAME`, by a bind mount, is meant to come in, as whatever user.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tracing::{info, warn};
use vgem_os::seqpacket::Listener;
use vgem_proto::domains::is_domain_name;
use vgem_proto::ids::DomainId;
use vgem_proto::limits;
use vgem_proto::message::keeper::{DoorFailed, DoorOpened};

use super::link::{Link, LinkError};
use super::place::SOCKET;
use crate::exit::{Exit, Failure};

const FOLDER: &str = "domains";

/// The doors there are, until drop: then they are removed.
#[derive(Debug)]
pub(super) struct Doors {
    folder: PathBuf,
    open: BTreeMap<DomainId, PathBuf>,
}

impl Doors {
    /// Doors below this directory, which nobody else serves in. What a killed daemon left there is removed.
    pub(super) fn below(dir: &Path) -> Self {
        let doors = Self { folder: dir.join(FOLDER), open: BTreeMap::new() };
        if let Err(e) = std::fs::remove_dir_all(&doors.folder)
            && e.kind() != ErrorKind::NotFound
        {
            warn!("{} stays: {e}", doors.folder.display());
        }
        doors
    }

    /// Makes a door and gives it to the broker.
    pub(super) fn open(&mut self, domain: DomainId, name: &[u8], link: &Link) -> Result<(), LinkError> {
        match self.make(domain, name) {
            Ok((listener, path)) => {
                info!("{domain} is served on {path}");
                link.send(&DoorOpened { domain, path: path.into_bytes() }.into(), &[listener.as_fd()])
            }
            Err(failure) => {
                warn!("{domain} has no socket: {failure}");
                let mut text = failure.to_string().into_bytes();
                text.truncate(limits::TEXT_LEN);
                link.send(&DoorFailed { domain, text }.into(), &[])
            }
        }
    }

    /// Takes a door away. Whoever has its folder mounted finds it empty.
    pub(super) fn close(&mut self, domain: DomainId) {
        if let Some(folder) = self.open.remove(&domain) {
            remove(&folder);
        }
    }

    fn make(&mut self, domain: DomainId, name: &[u8]) -> Result<(Listener, String), Failure> {
        // The broker has looked already; but a name that is none would be a path that is another.
        let name = std::str::from_utf8(name).ok().filter(|name| is_domain_name(name));
        let name = name.ok_or_else(|| Failure::new(Exit::Internal, "the broker sent a name that is none"))?;
        make_folder(&self.folder, 0o700)?;
        let folder = self.folder.join(name);
        remove(&folder);
        make_folder(&folder, 0o755)?;
        let path = folder.join(SOCKET);
        let made = Listener::bind(&path, 0o666).and_then(|listener| {
            // Here, because the broker's confinement has no reason to allow it: fds of clients are refused.
            listener.set_pass_rights(false)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        match (made, path.to_str()) {
            (Ok(listener), Some(text)) => {
                let text = text.to_owned();
                self.open.insert(domain, folder);
                Ok((listener, text))
            }
            (made, _) => {
                remove(&folder);
                let why = made.err().map_or_else(|| "its path is no text".to_owned(), |e| e.to_string());
                Err(Failure::new(Exit::Place, format!("{}: {why}", path.display())))
            }
        }
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        for folder in self.open.values() {
            remove(folder);
        }
        // Not there if there was never a door.
        drop(std::fs::remove_dir(&self.folder));
    }
}

fn make_folder(path: &Path, bits: u32) -> Result<(), Failure> {
    let made = match DirBuilder::new().mode(bits).create(path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(e),
        _ => std::fs::set_permissions(path, Permissions::from_mode(bits)),
    };
    made.map_err(|e| Failure::new(Exit::Place, format!("{}: {e}", path.display())))
}

fn remove(folder: &Path) {
    for removed in [std::fs::remove_file(folder.join(SOCKET)), std::fs::remove_dir(folder)] {
        if let Err(e) = removed
            && e.kind() != ErrorKind::NotFound
        {
            warn!("{} stays behind: {e}", folder.display());
        }
    }
}
