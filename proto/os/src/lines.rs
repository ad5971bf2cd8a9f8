//! Lines to standard error, written so that nobody who reads it can stop who writes.
//!
//! A pipe or a socket whose reader stalls, and a terminal that is stopped, let a write wait. It cannot be made not to wait
//! by a flag of its own, because whoever started the daemon has the same open file. So a line is cut to what a pipe takes
//! whole, is written only if it is taken at once, and is counted else. A pipe and a socket can be asked so for this one call
//! (`RWF_NOWAIT`, of pipes from Linux 6.5 on). Where that cannot be, and for terminals, it is asked first whether there is
//! room: then a line may wait if somebody else takes the room between the two calls. To a file everything is written.

use std::borrow::Cow;
use std::io::{IoSlice, Stderr, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::FileType;
use rustix::io::{Errno, ReadWriteFlags};
use rustix::time::Timespec;

use crate::error::{Attempt, Result};

/// Longest line that a pipe takes whole or not at all (`PIPE_BUF`), bytes.
const LINE: usize = 4096;
/// The end of a line that was longer.
const CUT: &[u8] = b" [cut]\n";
/// The place to write at, for what has none.
const HERE: u64 = u64::MAX;

/// Where lines go: each write of a reference to it is one line, and never fails.
#[derive(Debug)]
pub struct Lines<F = Stderr> {
    to: F,
    waits: Waits,
    lost: Lost,
}

/// Whether a write may wait for somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Never,
    ForAReader,
}

/// Lines that whoever was to have them did not take: counted, and said before the next that is taken.
#[derive(Debug, Default)]
pub struct Lost {
    lines: AtomicU64,
}

impl Lines {
    /// To standard error.
    ///
    /// # Errors
    /// The errno of `fstat`: it is closed.
    pub fn to_stderr() -> Result<Self> {
        Self::to(std::io::stderr())
    }
}

impl<F: AsFd> Lines<F> {
    fn to(to: F) -> Result<Self> {
        let waits = match FileType::from_raw_mode(rustix::fs::fstat(&to).attempt("fstat")?.st_mode) {
            FileType::RegularFile => Waits::Never,
            _ => Waits::ForAReader,
        };
        Ok(Self { to, waits, lost: Lost::default() })
    }

    fn put(&self, line: &[u8]) {
        self.lost.before(|lost| self.takes(said(lost).as_bytes()), || self.takes(line));
    }

    /// Whether a line is taken.
    fn takes(&self, line: &[u8]) -> bool {
        match self.waits {
            Waits::Never => self.takes_all(line),
            Waits::ForAReader => self.takes_now(&cut(line)),
        }
    }

    fn takes_all(&self, mut line: &[u8]) -> bool {
        while !line.is_empty() {
            match rustix::io::write(&self.to, line) {
                Ok(len) if len > 0 => line = line.get(len..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                _ => return false,
            }
        }
        true
    }

    fn takes_now(&self, line: &[u8]) -> bool {
        match rustix::io::pwritev2(&self.to, &[IoSlice::new(line)], HERE, ReadWriteFlags::NOWAIT) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.takes_where_room_is(line),
            written => written == Ok(line.len()),
        }
    }

    fn takes_where_room_is(&self, line: &[u8]) -> bool {
        let mut room = [PollFd::from_borrowed_fd(self.to.as_fd(), PollFlags::OUT)];
        let is_room = poll(&mut room, Some(&Timespec::default())).is_ok()
            && room.iter().all(|fd| fd.revents().contains(PollFlags::OUT));
        is_room && rustix::io::write(&self.to, line) == Ok(line.len())
    }
}

impl<F: AsFd> Write for &Lines<F> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lost {
    /// Has what was lost said, if there is some, and then a line; both say whether they were taken.
    pub fn before(&self, say: impl FnOnce(u64) -> bool, line: impl FnOnce() -> bool) {
        // One of two threads says it, perhaps after the line of the other.
        let lost = self.lines.swap(0, Ordering::Relaxed);
        if lost > 0 && !say(lost) {
            self.lines.fetch_add(lost + 1, Ordering::Relaxed);
        } else if !line() {
            self.lines.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A line of at most [`LINE`] bytes.
fn cut(line: &[u8]) -> Cow<'_, [u8]> {
    match line.get(..LINE - CUT.len()) {
        Some(start) if line.len() > LINE => [start, CUT].concat().into(),
        _ => line.into(),
    }
}

/// The line that says how many were lost; its time is that of the line behind it.
fn said(lost: u64) -> String {
    format!("WARN {lost} log lines were lost: standard error did not take them\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A pipe of one page.
    fn pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        rustix::pipe::fcntl_setpipe_size(&writer, LINE).expect("a pipe");
        (reader, writer)
    }

    /// What there is to read.
    fn drain(reader: impl AsFd) -> String {
        rustix::io::ioctl_fionbio(&reader, true).expect("a pipe or a socket");
        let (mut all, mut buffer) = (Vec::new(), vec![0; 1 << 20]);
        while let Ok(len @ 1..) = rustix::io::read(&reader, &mut buffer) {
            all.extend_from_slice(&buffer[..len]);
        }
        String::from_utf8(all).expect("text")
    }

    /// Nobody reads for many lines, then somebody does.
    fn stall(reader: impl AsFd, lines: &Lines<impl AsFd>, put: impl Fn(&[u8])) {
        const MANY: usize = 20_000;
        (0..MANY).for_each(|number| put(format!("line {number}\n").as_bytes()));
        let taken = drain(&reader);
        let whole = (0..taken.lines().count()).map(|number| format!("line {number}\n")).collect::<String>();
        assert_eq!(taken, whole);
        let lost = MANY - taken.lines().count();
        lines.put(b"last\n");
        let rest = drain(&reader);
        let told = format!("WARN {lost} log lines were lost: standard error did not take them\nlast\n");
        assert!(lost > 0 && rest.lines().count() == 2 && rest.ends_with(&told), "{rest}");
    }

    #[test]
    fn atk_a_reader_who_stalls_stops_nobody_and_is_told_what_it_missed() {
        let (reader, writer) = pipe();
        let lines = Lines::to(writer).expect("an open file");
        stall(&reader, &lines, |line| lines.put(line));
        let (reader, writer) = UnixStream::pair().expect("a pair");
        let lines = Lines::to(writer).expect("an open file");
        stall(&reader, &lines, |line| lines.put(line));
    }

    #[test]
    fn where_a_call_cannot_be_asked_not_to_wait_it_is_made_where_there_is_room() {
        let (reader, writer) = pipe();
        let lines = Lines::to(writer).expect("an open file");
        let put = |line: &[u8]| lines.lost.before(|_| false, || lines.takes_where_room_is(line));
        stall(&reader, &lines, put);
    }

    #[test]
    fn a_line_is_cut_to_what_a_pipe_takes_whole_and_not_for_a_file() {
        let long = [vec![b'x'; 2 * LINE], b"\n".to_vec()].concat();
        let (reader, writer) = pipe();
        Lines::to(writer).expect("an open file").put(&long);
        let read = drain(&reader);
        assert!(read.len() == LINE && read.ends_with("x [cut]\n"), "{} bytes", read.len());
        let file = tempfile::tempfile().expect("a file");
        Lines::to(&file).expect("an open file").put(&long);
        assert_eq!(file.metadata().expect("a file").len(), long.len() as u64);
    }

    #[test]
    fn what_was_lost_is_said_once_before_the_next_line_that_is_taken() {
        let lost = Lost::default();
        let nothing = |_| panic!("nothing was lost");
        lost.before(nothing, || true);
        lost.before(nothing, || false);
        // Nor is that taken, and so neither is the line.
        lost.before(|lines| lines > 1, || panic!("it would come before what is said"));
        let mut said = 0;
        lost.before(
            |lines| {
                said = lines;
                true
            },
            || true,
        );
        assert_eq!(said, 2);
        lost.before(nothing, || true);
    }
}
