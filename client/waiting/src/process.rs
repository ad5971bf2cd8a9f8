//! What a process does, as `/proc` says: whether it runs at all is often all there is to know about why something waits.
//!
//! A process is stopped as a whole, so its first thread tells; but any thread may be stuck in the kernel, so all are
//! looked at. A number is looked up at a moment and may be another process's by then: what comes out is for people.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Doing {
    /// It runs, or sleeps of its own will.
    Runs,
    /// A thread of it is in the kernel and cannot be interrupted.
    Kernel,
    /// It is stopped: SIGSTOP, or a terminal.
    Stopped,
    /// A debugger has stopped it.
    Traced,
    /// It has ended; its parent has not noticed.
    Ended,
    /// There is none of this number here: it is gone, or not to be seen from here.
    Unseen,
}

impl Doing {
    /// Whether it cannot do anything, however long one waits.
    pub fn is_at_a_stand(self) -> bool {
        match self {
            Self::Stopped | Self::Traced | Self::Ended => true,
            Self::Runs | Self::Kernel | Self::Unseen => false,
        }
    }

    /// The same in a word or two, if there is anything to say.
    pub fn note(self) -> &'static str {
        match self {
            Self::Runs => "",
            Self::Kernel => "in the kernel",
            Self::Stopped => "stopped",
            Self::Traced => "stopped by a debugger",
            Self::Ended => "ended",
            Self::Unseen => "not to be seen here",
        }
    }

    /// What to say of it behind its number, if anything.
    pub fn words(self) -> &'static str {
        match self {
            Self::Runs => "",
            Self::Kernel => ", which is in the kernel",
            Self::Stopped => ", which is stopped",
            Self::Traced => ", which a debugger has stopped",
            Self::Ended => ", which has ended",
            Self::Unseen => ", which is not to be seen here",
        }
    }
}

/// What the process of this number does.
pub fn doing(proc: &Path, pid: u32) -> Doing {
    let process = proc.join(pid.to_string());
    let whole = state(&process).map_or(Doing::Unseen, of_letter);
    if whole != Doing::Runs {
        return whole;
    }
    let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| state(&thread.path()));
    if states.any(|letter| letter == 'D') { Doing::Kernel } else { Doing::Runs }
}

fn of_letter(letter: char) -> Doing {
    match letter {
        'D' => Doing::Kernel,
        'T' => Doing::Stopped,
        't' => Doing::Traced,
        'Z' | 'X' => Doing::Ended,
        _ => Doing::Runs,
    }
}

/// The letter in `stat`: behind the name, which is in parentheses and may hold any character.
fn state(process: &Path) -> Option<char> {
    let stat = fs::read(process.join("stat")).ok()?;
    let behind = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(behind + 1..)?.iter().find(|byte| **byte != b' ').map(|byte| char::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place that looks like /proc, with one process whose threads are in these states.
    fn proc_of(name: &str, states: &[char]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().expect("a folder");
        for (thread, state) in states.iter().enumerate() {
            let task = proc.path().join("7/task").join(thread.to_string());
            fs::create_dir_all(&task).expect("a folder");
            fs::write(task.join("stat"), format!("7 ({name}) {state} 1 7")).expect("a file");
        }
        fs::copy(proc.path().join("7/task/0/stat"), proc.path().join("7/stat")).expect("a file");
        proc
    }

    #[test]
    fn a_state_is_behind_the_name_whatever_the_name_is() {
        let of = |name, state| doing(proc_of(name, &[state]).path(), 7);
        assert_eq!(of("x) D (y", 'T'), Doing::Stopped);
        assert_eq!((of("x", 'S'), of("x", 't'), of("x", 'Z')), (Doing::Runs, Doing::Traced, Doing::Ended));
    }

    #[test]
    fn one_thread_in_the_kernel_is_enough() {
        assert_eq!(doing(proc_of("x", &['S', 'S', 'D']).path(), 7), Doing::Kernel);
    }

    #[test]
    fn a_process_that_is_not_there_is_unseen_and_this_one_runs() {
        assert_eq!(doing(proc_of("x", &['S']).path(), 8), Doing::Unseen);
        assert!(!doing(Path::new("/proc"), std::process::id()).is_at_a_stand());
    }
}
