//! The benches, one file each, and the list of them.
//!
//! A name is the number of a target (`P3`) or what is compared (`peers`). To add one: a file here that implements
//! [`Bench`], and a row in [`ALL`].

pub mod limits;
pub mod p1;
pub mod p10;
pub mod p11;
pub mod p12;
pub mod p13;
pub mod p14;
pub mod p15;
pub mod p16;
pub mod p17;
pub mod p2;
pub mod p3;
pub mod p4;
pub mod p5;
pub mod p6;
pub mod p7;
pub mod p9;
pub mod peers;

use anyhow::bail;

use crate::harness::{Bench, Context};

/// A bench in the list.
#[derive(Debug)]
pub struct Entry {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures, in a line.
    pub what: &'static str,
    /// Whether it runs in every mode, or only in the first, because the mode changes nothing.
    pub in_every_mode: bool,
    /// Whether it runs when no bench is named.
    pub by_default: bool,
    /// Starts what it needs.
    pub open: fn(&Context<'_>) -> anyhow::Result<Box<dyn Bench>>,
}

/// All benches, in the order in which they run.
pub const ALL: &[Entry] = &[
    Entry {
        name: "limits",
        what: "the floors alone: what the machine can do, without vgemd",
        in_every_mode: true,
        by_default: false,
        open: limits::open,
    },
    Entry {
        name: "P1",
        what: "1 MiB filled by one client and read by another, both asleep, against the same by hand",
        in_every_mode: true,
        by_default: true,
        open: p1::open,
    },
    Entry {
        name: "P2",
        what: "a buffer handed over untouched, both awake, against a cache line there and back",
        in_every_mode: true,
        by_default: true,
        open: p2::open,
    },
    Entry {
        name: "P3",
        what: "a tracked job until its fence is signalled, against a SEQPACKET round trip",
        in_every_mode: true,
        by_default: true,
        open: p3::open,
    },
    Entry {
        name: "P4",
        what: "tracked jobs per second, in batches and one per message",
        in_every_mode: true,
        by_default: true,
        open: p4::open,
    },
    Entry {
        name: "P5",
        what: "user queues: push, there and back, throughput, and beside tracked jobs of every size",
        in_every_mode: true,
        by_default: true,
        open: p5::open,
    },
    Entry {
        name: "P6",
        what: "one device to another that sleeps, one way, against a futex there and back",
        in_every_mode: true,
        by_default: true,
        open: p6::open,
    },
    Entry {
        name: "P7",
        what: "a large object, fresh, pinned and mapped twice, against the bare system calls",
        in_every_mode: true,
        by_default: true,
        open: p7::open_large,
    },
    Entry {
        name: "P8",
        what: "a small object, fresh, against the bare system calls and one round trip",
        in_every_mode: true,
        by_default: true,
        open: p7::open_small,
    },
    Entry {
        name: "P9",
        what: "system calls of reusing a buffer from the client's pool",
        in_every_mode: false,
        by_default: true,
        open: p9::open,
    },
    Entry {
        name: "P10",
        what: "a pipeline of three clients, against the same by hand and by copy through sockets",
        in_every_mode: true,
        by_default: true,
        open: p10::open,
    },
    Entry {
        name: "P11",
        what: "the main job of the demo, against the same engines in one process",
        in_every_mode: true,
        by_default: true,
        open: p11::open,
    },
    Entry {
        name: "P12",
        what: "100 000 objects and 4096 idle clients: times, memory, and giving all back",
        in_every_mode: false,
        by_default: true,
        open: p12::open,
    },
    Entry {
        name: "P13",
        what: "a process is killed, until all who wait have their errors, against SIGKILL to hang-up",
        in_every_mode: true,
        by_default: true,
        open: p13::open,
    },
    Entry {
        name: "P14",
        what: "wake-ups of an idle vgemd",
        in_every_mode: false,
        by_default: true,
        open: p14::open,
    },
    Entry {
        name: "P15",
        what: "connect, object and queue, until ready; and what peers need for the same",
        in_every_mode: true,
        by_default: true,
        open: p15::open,
    },
    Entry {
        name: "P16",
        what: "ten domains on one device, one of them greedy: who gets what, and how much later",
        in_every_mode: true,
        by_default: true,
        open: p16::open,
    },
    Entry {
        name: "P17",
        what: "a tracked job while control is flooded over a bus, on the other core, against the same alone",
        in_every_mode: true,
        by_default: true,
        open: p17::open,
    },
    Entry {
        name: "peers",
        what: "1 MiB from process to process: by hand, vgemd, iceoryx2, Plasma",
        in_every_mode: true,
        by_default: true,
        open: peers::open,
    },
];

/// The benches of these names, in the list's order; the default ones if no name is given.
///
/// # Errors
/// A name that is no bench, with those that are.
pub fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Entry>> {
    let is_named = |entry: &Entry| names.iter().any(|name| name.eq_ignore_ascii_case(entry.name));
    if let Some(unknown) = names.iter().find(|name| !ALL.iter().any(|e| name.eq_ignore_ascii_case(e.name))) {
        let known: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
        bail!("there is no bench {unknown:?}; there are {}", known.join(", "));
    }
    let chosen = |entry: &&Entry| if names.is_empty() { entry.by_default } else { is_named(entry) };
    Ok(ALL.iter().filter(chosen).collect())
}

/// The list for people.
#[must_use]
pub fn listing() -> String {
    ALL.iter().map(|entry| format!("{:<8} {}\n", entry.name, entry.what)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_any_case() {
        let chosen = choose(&["LIMITS".to_owned()]).expect("it is in the list");
        assert_eq!(chosen.len(), 1);
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_there_are() {
        let refused = choose(&["P999".to_owned()]).map(drop).expect_err("there is no such bench");
        assert!(refused.to_string().contains("limits"), "{refused}");
    }
}
