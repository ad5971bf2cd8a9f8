//! The journal, spoken natively: one datagram per line, so that its fields are fields and not text.
//!
//! systemd says by `JOURNAL_STREAM` that standard error is a stream to the journal: its device and inode. If that is so
//! now, lines go to the journal's socket instead, with a priority and with the fields of the event:
//!
//! ```text
//!   MESSAGE   PRIORITY   SYSLOG_IDENTIFIER=vgemd   VGEMD_ROLE=broker   VGEMD_TARGET=..   VGEMD_<FIELD>=..
//! ```
//!
//! A field with a line break in it is sent with its length, as the protocol wants it, so no value can begin a field of its
//! own. A value longer than [`VALUE`] is cut, so that a line is a datagram: who is confined cannot do better, for a porter makes
//! no memory files.
//!
//! Each datagram is sent to the path of the journal's socket, which confinement allows, as it does not to connect again. So
//! one that was made again is found. One that is not taken (the journal is away, or slow) is lost and counted, and the next
//! that is taken comes after a line with `VGEMD_LOST`. Standard error is not written: it is a stream to the same journal, and
//! one that waits.

use std::fmt::{Debug, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use vgem_os::lines::Lost;

/// The environment variable that names the stream.
pub(crate) const STREAM: &str = "JOURNAL_STREAM";
/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// What our own fields begin with.
const PREFIX: &str = "VGEMD_";
/// Longest name of a field, as the journal has it.
const NAME_LEN: usize = 64;
/// Longest value of a field, bytes: a dozen of them are a datagram still.
const VALUE: usize = 16 * 1024;

/// The journal, if standard error is a stream to it.
pub(super) fn of_stderr(role: &'static str) -> Option<Journal> {
    let stream = std::env::var(STREAM).ok()?;
    let stat = rustix::fs::fstat(std::io::stderr()).ok()?;
    if !is_stream(&stream, stat.st_dev, stat.st_ino) {
        return None;
    }
    Journal::at(Path::new(SOCKET), role).ok()
}

/// Whether a word of the environment names this file.
fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream == format!("{device}:{inode}")
}

/// A layer that writes to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    role: &'static str,
    lost: Lost,
}

impl Journal {
    fn at(path: &Path, role: &'static str) -> std::io::Result<Self> {
        // Whether somebody is there.
        UnixDatagram::unbound()?.connect(path)?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path: path.to_owned(), role, lost: Lost::default() })
    }

    /// A line with what is the same in all.
    fn line(&self, level: &Level, target: &str) -> Line {
        let mut line = Line::default();
        line.put("PRIORITY", priority(level));
        line.put("SYSLOG_IDENTIFIER", "vgemd");
        line.put(&name("role"), self.role);
        line.put(&name("target"), target);
        line
    }

    /// Whether the journal takes a line, now.
    fn takes(&self, line: &Line) -> bool {
        self.socket.send_to(&line.bytes, &self.path).is_ok()
    }

    /// Whether it takes the line that says how many were lost.
    fn hears(&self, lost: u64) -> bool {
        let mut line = self.line(&Level::WARN, module_path!());
        line.put(&name("lost"), &lost.to_string());
        line.put("MESSAGE", &format!("{lost} log lines were lost: the journal did not take them"));
        self.takes(&line)
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = self.line(event.metadata().level(), event.metadata().target());
        event.record(&mut line);
        self.lost.before(|lost| self.hears(lost), || self.takes(&line));
    }
}

/// The priority of syslog.
fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// The journal's name of a field of ours: upper case, digits and `_`.
fn name(field: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    PREFIX.chars().chain(field.chars().map(plain)).take(NAME_LEN).collect()
}

/// A datagram.
#[derive(Debug, Default)]
struct Line {
    bytes: Vec<u8>,
}

impl Line {
    fn put(&mut self, name: &str, value: &str) {
        if value.len() > VALUE {
            let start = value.get(..value.floor_char_boundary(VALUE)).unwrap_or_default();
            return self.put_whole(name, &format!("{start} [cut, of {} bytes]", value.len()));
        }
        self.put_whole(name, value);
    }

    fn put_whole(&mut self, name: &str, value: &str) {
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            bytes.push(b'\n');
            bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            bytes.push(b'=');
        }
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("MESSAGE", value),
            other => self.put(&name(other), value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        let written = write!(text, "{value:?}");
        debug_assert!(written.is_ok(), "a string takes all");
        self.record_str(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// A journal in a folder of its own.
    struct Rig {
        folder: TempDir,
        journal: UnixDatagram,
    }

    impl Rig {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let journal = Self::bind(&folder);
            Self { folder, journal }
        }

        fn bind(folder: &TempDir) -> UnixDatagram {
            let journal = UnixDatagram::bind(folder.path().join("socket")).expect("a socket");
            journal.set_nonblocking(true).expect("a socket of ours");
            journal
        }

        fn log(&self, log: impl FnOnce()) {
            let layer = self.layer();
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        }

        fn layer(&self) -> Journal {
            Journal::at(&self.folder.path().join("socket"), "broker").expect("somebody listens")
        }

        /// The datagrams that are there.
        fn taken(&self) -> Vec<Vec<u8>> {
            let mut room = vec![0; 1 << 20];
            let next = || self.journal.recv(&mut room).ok().map(|len| room[..len].to_vec());
            std::iter::from_fn(next).collect()
        }
    }

    /// What the journal is sent when something is logged.
    fn sent(log: impl FnOnce()) -> Vec<u8> {
        let rig = Rig::new();
        rig.log(log);
        rig.taken().remove(0)
    }

    fn text(datagram: &[u8]) -> String {
        String::from_utf8_lossy(datagram).into_owned()
    }

    #[test]
    fn fields_of_an_event_are_fields_of_the_journal() {
        let sent = sent(|| tracing::warn!(client = 7, domain = "stage-2", "it is {}", "late"));
        let text = String::from_utf8(sent).expect("text");
        for line in ["PRIORITY=4", "SYSLOG_IDENTIFIER=vgemd", "VGEMD_ROLE=broker", "VGEMD_CLIENT=7"] {
            assert!(text.lines().any(|other| other == line), "{line} in {text}");
        }
        assert!(text.contains("VGEMD_DOMAIN=stage-2\n") && text.contains("MESSAGE=it is late\n"), "{text}");
    }

    #[test]
    fn atk_a_value_with_a_line_break_begins_no_field() {
        let sent = sent(|| tracing::info!(name = "a\nPRIORITY=0", "x"));
        let value = [b"VGEMD_NAME\n".as_slice(), &12_u64.to_le_bytes(), b"a\nPRIORITY=0\n"].concat();
        assert!(sent.windows(value.len()).any(|part| part == value), "{}", String::from_utf8_lossy(&sent));
    }

    #[test]
    fn atk_a_journal_that_does_not_read_stops_nobody_and_is_told_how_much_it_missed() {
        const MANY: usize = 20_000;
        let rig = Rig::new();
        rig.log(|| {
            (0..MANY).for_each(|number| tracing::info!("line {number}"));
            let lost = MANY - rig.taken().len();
            tracing::info!("last");
            let [told, last] = <[_; 2]>::try_from(rig.taken()).expect("two lines");
            let wanted = format!("VGEMD_LOST={lost}\nMESSAGE={lost} log lines were lost");
            assert!(lost > 0 && text(&told).contains(&wanted), "{}", text(&told));
            assert!(text(&last).contains("MESSAGE=last\n"));
        });
    }

    #[test]
    fn a_journal_whose_socket_is_made_again_is_found() {
        let mut rig = Rig::new();
        let subscriber = tracing_subscriber::registry().with(rig.layer());
        tracing::subscriber::with_default(subscriber, || {
            std::fs::remove_file(rig.folder.path().join("socket")).expect("it is there");
            tracing::info!("nobody has it");
            rig.journal = Rig::bind(&rig.folder);
            tracing::info!("next");
            let taken = rig.taken();
            assert!(text(&taken[0]).contains("VGEMD_LOST=1\n") && text(&taken[1]).contains("MESSAGE=next\n"));
        });
    }

    #[test]
    fn atk_a_value_that_is_too_long_for_a_datagram_is_cut() {
        let sent = sent(|| tracing::info!("{}{}", "x".repeat(VALUE - 1), "ä".repeat(1 << 20)));
        let wanted = format!("x [cut, of {} bytes]\n", VALUE - 1 + (2 << 20));
        assert!(text(&sent).ends_with(&wanted) && sent.len() < 2 * VALUE, "{} bytes", sent.len());
    }

    #[test]
    fn standard_error_is_the_journal_only_if_it_is_the_very_stream() {
        assert!(is_stream("8:77", 8, 77));
        assert!(!is_stream("8:78", 8, 77) && !is_stream("", 8, 77) && !is_stream("8:77:1", 8, 77));
    }
}
