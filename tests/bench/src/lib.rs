//! Benches: vgemd, the bare mechanism and the peers, measured interleaved in one run and judged by ratios.
//!
//! Absolute times move with the machine's neighbours: a core that halts costs 60 us per round trip, a core that
//! moved to another socket four times the cache-line time. So nothing here is judged by a time. In every repetition
//! the bare mechanism is measured beside vgemd, in short turns, and only the ratio of the two is held against a
//! target. The cache line's round trip is printed with every result, to say where the host had put the cores.
//!
//! ```text
//!   Options ─► for each mode: Power held ─► for each bench: open ─┬─► repetition ─► disturbed? ─no─► kept
//!                                                                 │      ▲              └─yes─► dropped, bounded
//!                                                                 │      └─ quiet machine awaited, bounded
//!                                                                 └─► claims ─► Verdict ─► table or JSON
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`machine`] | cores, pinning, what the machine is |
//! | [`mode`] | modes D and P |
//! | [`noise`] | who else used the machine |
//! | [`sample`] | times of one repetition; medians of all |
//! | [`harness`] | repetitions |
//! | [`report`] | targets, verdicts, table and JSON |
//! | [`role`] | second processes: this program again, with a hidden first argument |
//! | [`mod@reference`] | null system call, cache line, futex, SEQPACKET |
//! | [`floor`] | the hand-written versions |
//! | [`peer`] | other systems, run by `vgem-peers` |
//! | [`subject`] | vgemd, as the benches use it |
//! | [`mod@bench`] | one file per bench |
//!
//! What it is not: a test. A missed target is printed with by how much, and the program still ends with 0; a bench
//! that cannot run at all ends it with 1.
//!
//! Invariants: every wait is bounded; every process started here dies with this one; a number is never printed
//! without its spread, nor a ratio without the machine's state.
#![forbid(unsafe_code)]

pub mod bench;
pub mod floor;
pub mod harness;
pub mod machine;
pub mod mode;
pub mod noise;
pub mod options;
pub mod peer;
pub mod reference;
pub mod report;
pub mod role;
pub mod sample;
pub mod subject;

use std::io::Write as _;

use anyhow::{Context as _, bail};

use crate::bench::Entry;
use crate::harness::{Context, tell};
use crate::machine::{Cores, Machine};
use crate::mode::Power;
use crate::options::{Format, Options};

/// Runs what the options ask for and prints the results.
///
/// # Errors
/// A name that is no bench; a bench that cannot run, after all others have run and were printed.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.list {
        return print(&bench::listing());
    }
    let chosen = bench::choose(&options.names)?;
    let machine = Machine::look();
    let cores = Cores::of_this_process()?;
    let mut notes = Vec::new();
    if !machine::raise_priority() {
        notes.push("not allowed to run before other processes: expect more disturbed repetitions".to_owned());
    }
    if options.quick {
        notes.push("a quick run: it shows that everything runs; its numbers are not to be quoted".to_owned());
    }
    let mut printed = Printer::begin(options.format, &machine, &notes)?;
    let mut failures = Vec::new();
    for (number, mode) in options.mode.each().iter().enumerate() {
        let power = Power::of(*mode, cores);
        for entry in chosen.iter().filter(|entry| number == 0 || entry.in_every_mode) {
            let context = Context { options, power: &power };
            match measure(entry, &context) {
                Ok(outcome) => printed.add(outcome)?,
                Err(error) => {
                    tell(entry.name, &format!("{error:#}"));
                    failures.push(format!("{} in mode {}: {error:#}", entry.name, power.mode.letter()));
                }
            }
        }
    }
    printed.end(&machine, &notes, &failures)?;
    match failures.as_slice() {
        [] => Ok(()),
        failures => bail!("{} could not be measured: {}", failures.len(), failures.join("; ")),
    }
}

fn measure(entry: &Entry, context: &Context<'_>) -> anyhow::Result<report::Outcome> {
    let mut bench = (entry.open)(context)?;
    harness::measure(entry.name, bench.as_mut(), context)
}

/// Prints outcomes as they come, or all of them at the end as one document.
#[derive(Debug)]
struct Printer {
    format: Format,
    outcomes: Vec<report::Outcome>,
}

impl Printer {
    fn begin(format: Format, machine: &Machine, notes: &[String]) -> anyhow::Result<Self> {
        if format == Format::Table {
            let notes = notes.iter().map(|note| format!("note: {note}\n")).collect::<String>();
            print(&format!("{}\n{notes}", machine.line()))?;
        }
        Ok(Self { format, outcomes: Vec::new() })
    }

    fn add(&mut self, outcome: report::Outcome) -> anyhow::Result<()> {
        if self.format == Format::Table {
            print(&outcome.table())?;
        }
        self.outcomes.push(outcome);
        Ok(())
    }

    fn end(self, machine: &Machine, notes: &[String], failures: &[String]) -> anyhow::Result<()> {
        match self.format {
            Format::Table => Ok(()),
            Format::Json => {
                let notes: Vec<String> = notes.iter().chain(failures).cloned().collect();
                let document = report::document(machine, &notes, &self.outcomes);
                print(&format!("{}\n", serde_json::to_string_pretty(&document)?))
            }
        }
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to stdout")
}
