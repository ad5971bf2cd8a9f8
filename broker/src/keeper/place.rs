//! The place where the daemon is found: a directory, the lock in it, the socket in it.
//!
//! The lock decides who serves there; it is the process's own, so it goes with it however that ends, and no child has it
//! between its fork and its exec, as it would have one of an open file (`flock`).
//! A socket that a killed daemon left behind is replaced; one that somebody answers at never is.
//!
//! Two daemons cannot both hold the lock: the file is looked at again after locking, because the one that ended
//! a moment ago has removed it.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, fcntl_lock};
use vgem_os::seqpacket::Listener;
use vgem_os::{Errno, OsError, clock};

use super::family::nanos;
use crate::cli::Mode;
use crate::exit::{Exit, Failure};

const LOCK: &str = "vgemd.lock";
pub(super) const SOCKET: &str = "vgemd.sock";
/// How long the broker of a killed keeper may still answer.
const LEFTOVER_END: Duration = Duration::from_secs(1);
/// How long between two looks whether it still does.
const LEFTOVER_LOOK: Duration = Duration::from_millis(10);
/// The folder below a runtime directory.
const FOLDER: &str = "vgemd";

/// The place, until drop: then the socket, the lock and a directory that was made here are removed.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    socket: PathBuf,
    own_dir: bool,
    bound: bool,
    // Locked. Closing it unlocks, and so would closing another open file of it.
    _lock: File,
}

impl Place {
    /// Makes the directory if there is none and locks it.
    pub(super) fn take(asked: Option<&Path>, mode: Mode) -> Result<Self, Failure> {
        let dir = match asked {
            Some(dir) => dir.to_owned(),
            None => usual(mode)?,
        };
        let made = make(&dir, mode)?;
        let locked = lock(&dir.join(LOCK));
        if locked.is_err() && made {
            // What was just made and is of no use goes again; if it is in use meanwhile it stays.
            drop(std::fs::remove_dir(&dir));
        }
        // The process that an embedded daemon serves makes its directory, but may not live to remove it.
        let own_dir = made || matches!(mode, Mode::Embedded(_));
        Ok(Self { socket: dir.join(SOCKET), dir, own_dir, bound: false, _lock: locked? })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where clients connect.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes the socket.
    pub(super) fn listen(&mut self, mode: Mode) -> Result<Listener, Failure> {
        let listener = self.bind(mode).map_err(|e| match e.errno() {
            Errno::ADDRINUSE => Failure::new(
                Exit::Running,
                format!(
                    "{} is in use by something else; end that, or choose another --dir",
                    self.socket.display()
                ),
            ),
            Errno::NAMETOOLONG => Failure::new(
                Exit::Place,
                format!(
                    "{} is longer than a socket's path may be; choose a shorter --dir",
                    self.socket.display()
                ),
            ),
            _ => Failure::new(Exit::Place, format!("cannot make {}: {e}", self.socket.display())),
        })?;
        self.bound = true;
        Ok(listener)
    }

    /// We hold the lock, so whoever answers is either not of us, or the broker of a keeper that was killed a moment
    /// ago, which the kernel is about to end.
    fn bind(&self, mode: Mode) -> Result<Listener, OsError> {
        let deadline = clock::deadline_in(nanos(LEFTOVER_END));
        loop {
            match Listener::bind(&self.socket, mode.socket_bits()) {
                Err(e) if e.errno() == Errno::ADDRINUSE && clock::now() < deadline => {
                    std::thread::sleep(LEFTOVER_LOOK);
                }
                bound => return bound,
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.bound {
            gone(std::fs::remove_file(&self.socket), &self.socket);
        }
        let lock = self.dir.join(LOCK);
        gone(std::fs::remove_file(&lock), &lock);
        if self.own_dir {
            // Something of somebody else in it keeps it.
            drop(std::fs::remove_dir(&self.dir));
        }
    }
}

fn gone(removed: std::io::Result<()>, path: &Path) {
    match removed {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => tracing::warn!("{} stays behind: {e}", path.display()),
    }
}

fn usual(mode: Mode) -> Result<PathBuf, Failure> {
    match mode {
        Mode::System => Ok(Path::new("/run").join(FOLDER)),
        Mode::User | Mode::Embedded(_) => match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(runtime) if Path::new(&runtime).is_absolute() => Ok(Path::new(&runtime).join(FOLDER)),
            _ => Err(Failure::new(
                Exit::Place,
                "XDG_RUNTIME_DIR is not set, so there is no place for the socket; say --dir DIR",
            )),
        },
    }
}

/// Makes the directory; false if it was there.
fn make(dir: &Path, mode: Mode) -> Result<bool, Failure> {
    let failed = |e: std::io::Error| {
        let exit = if e.kind() == ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Place };
        Failure::new(exit, format!("cannot make the directory {}: {e}; choose another --dir", dir.display()))
    };
    match DirBuilder::new().mode(mode.dir_bits()).create(dir) {
        Ok(()) => {
            // And now what the umask took away.
            std::fs::set_permissions(dir, Permissions::from_mode(mode.dir_bits())).map_err(failed)?;
            Ok(true)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            check(dir, mode)?;
            Ok(false)
        }
        Err(e) => Err(failed(e)),
    }
}

/// A directory that others could put a socket into is not one to serve in.
fn check(dir: &Path, mode: Mode) -> Result<(), Failure> {
    let found =
        std::fs::metadata(dir).map_err(|e| Failure::new(Exit::Place, format!("{}: {e}", dir.display())))?;
    if !found.is_dir() {
        return Err(Failure::new(
            Exit::Place,
            format!("{} is not a directory; choose another --dir", dir.display()),
        ));
    }
    let me = rustix::process::geteuid().as_raw();
    let others_write = found.mode() & 0o022 != 0;
    if found.uid() != me || (others_write && mode == Mode::System) {
        let what =
            format!("{} belongs to uid {} with mode {:o}", dir.display(), found.uid(), found.mode() & 0o7777);
        return Err(Failure::new(
            Exit::Permission,
            format!("{what}: others could take the socket's place; use a directory of your own"),
        ));
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, Failure> {
    let failed = |e: std::io::Error| {
        let exit = if e.kind() == ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Place };
        Failure::new(exit, format!("cannot make {}: {e}", path.display()))
    };
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN | Errno::ACCESS) => {
                return Err(Failure::new(
                    Exit::Running,
                    format!(
                        "another vgemd serves there: {} is locked; end it, or choose another --dir",
                        path.display()
                    ),
                ));
            }
            Err(e) => return Err(failed(e.into())),
        }
        let locked = file.metadata().map_err(failed)?;
        match std::fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (locked.dev(), locked.ino()) => return Ok(file),
            // The one that held it removed it before it let go: start again with the name's new file.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use vgem_os::process::Launch;

    use super::*;

    const MODE: Mode = Mode::User;

    // That it is taken once, two daemons show: a process may lock what it has locked.
    #[test]
    fn a_place_that_is_left_leaves_nothing() {
        let parent = tempfile::tempdir().expect("a directory");
        let dir = parent.path().join("d");
        let mut place = Place::take(Some(&dir), MODE).expect("free");
        let listener = place.listen(MODE).expect("a socket");
        drop((place, listener));
        assert!(!dir.exists());
    }

    #[test]
    fn a_child_that_is_not_yet_another_program_does_not_hold_the_lock() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join(LOCK);
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let locked = lock(&path).expect("free");
        // As between fork and exec, for as long as the test wants.
        let fds = vec![(locked.into(), 3), (theirs.into(), 4)];
        let args = vec!["-c".into(), "read end <&4".into()];
        let mut child = Launch { args, fds, ..Launch::new("/bin/sh") }.start().expect("a shell");
        let again = lock(&path).map(drop);
        drop(ours);
        child.wait().expect("a child of ours");
        assert_eq!(again, Ok(()));
    }

    #[test]
    fn a_place_whose_socket_is_answered_for_a_moment_longer_is_taken_then() {
        let parent = tempfile::tempdir().expect("a directory");
        let leftover = Listener::bind(parent.path().join(SOCKET), 0o600).expect("a socket");
        // It ends once it was asked whether it lives.
        let ends = std::thread::spawn(move || leftover.accept().map(drop));
        let mut place = Place::take(Some(parent.path()), MODE).expect("free");
        assert!(place.listen(MODE).is_ok());
        assert_eq!(ends.join().expect("no panic"), Ok(()));
    }

    #[test]
    fn a_socket_that_somebody_else_answers_at_is_left_alone() {
        let parent = tempfile::tempdir().expect("a directory");
        let _theirs = Listener::bind(parent.path().join(SOCKET), 0o600).expect("a socket");
        let mut place = Place::take(Some(parent.path()), MODE).expect("free");
        assert_eq!(place.listen(MODE).map(drop).map_err(|e| e.exit()), Err(Exit::Running));
        drop(place);
        assert!(parent.path().join(SOCKET).exists());
    }

    #[test]
    fn a_directory_of_somebody_else_stays() {
        let parent = tempfile::tempdir().expect("a directory");
        drop(Place::take(Some(parent.path()), MODE).expect("free"));
        assert_eq!(std::fs::read_dir(parent.path()).expect("still there").count(), 0);
    }

    #[test]
    fn a_place_that_cannot_be_is_said_with_its_code() {
        let parent = tempfile::tempdir().expect("a directory");
        let file = parent.path().join("f");
        std::fs::write(&file, "").expect("a file");
        let long = parent.path().join("x".repeat(100));
        let of =
            |dir: &Path| Place::take(Some(dir), MODE).and_then(|mut p| p.listen(MODE)).map_err(|e| e.exit());
        assert_eq!(of(&file).err(), Some(Exit::Place));
        assert_eq!(of(&long).err(), Some(Exit::Place));
        assert!(!long.exists());
    }
}
