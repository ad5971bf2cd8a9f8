//! The journal, spoken natively: one datagram per line, so that its fields are fields and not text.
//!
//! systemd says by `JOURNAL_STREAM` that standard error is a stream to the journal: its device and inode. If that is so
//! now, lines go to the journal's socket instead, with a priority and with the fields of the event:
//!
//! ```text
//!   MESSAGE   PRIORITY   SYSLOG_IDENTIFIER=vgemd   VGEMD_ROLE=broker   VGEMD_TARGET=..   VGEMD_<FIELD>=..
//! ```
//!
//! The socket is connected before a role confines itself. A field with a line break in it is sent with its length, as
//! the protocol wants it, so no value can begin a field of its own. A datagram that is not taken (the journal is away, or
//! slow) is written to standard error instead, as everything is where there is no journal.

use std::fmt::{Debug, Write as _};
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The environment variable that names the stream.
pub(crate) const STREAM: &str = "JOURNAL_STREAM";
/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// What our own fields begin with.
const PREFIX: &str = "VGEMD_";
/// Longest name of a field, as the journal has it.
const NAME_LEN: usize = 64;

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
    role: &'static str,
}

impl Journal {
    fn at(path: &Path, role: &'static str) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, role })
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        line.put("PRIORITY", priority(event.metadata().level()));
        line.put("SYSLOG_IDENTIFIER", "vgemd");
        line.put(&name("role"), self.role);
        line.put(&name("target"), event.metadata().target());
        event.record(&mut line);
        if self.socket.send(&line.bytes).is_err() {
            // Nobody is left to be told that this failed, too.
            drop(writeln!(std::io::stderr(), "{}", line.message));
        }
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
    /// What it says to people.
    message: String,
}

impl Line {
    fn put(&mut self, name: &str, value: &str) {
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
            "message" => {
                self.put("MESSAGE", value);
                value.clone_into(&mut self.message);
            }
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
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// What the journal is sent when something is logged.
    fn sent(log: impl FnOnce()) -> Vec<u8> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("a socket");
        let layer = Journal::at(&path, "broker").expect("somebody listens");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let mut room = [0; 4096];
        let len = journal.recv(&mut room).expect("a datagram");
        room[..len].to_vec()
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
    fn standard_error_is_the_journal_only_if_it_is_the_very_stream() {
        assert!(is_stream("8:77", 8, 77));
        assert!(!is_stream("8:78", 8, 77) && !is_stream("", 8, 77) && !is_stream("8:77:1", 8, 77));
    }
}
