//! `vgemctl monitor`: what happens in the broker, one line per event, until Ctrl-C or the broker's end.

use std::io::{self, Write as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use vgem::{Error, Told};

use crate::cli::{Common, Format, Monitor};
use crate::print;
use crate::reach::{Otherwise, reach};
use crate::signals::interrupted;

/// How long a wait for an event lasts before Ctrl-C is looked for.
const SLICE: Duration = Duration::from_millis(100);

pub(crate) fn run(common: &Common, asked: &Monitor) -> anyhow::Result<()> {
    let interrupted = interrupted()?;
    let reached = reach(common, Otherwise::Fail)?;
    let mut monitor = reached.client.monitor()?;
    let mut left = asked.count.unwrap_or(u64::MAX);
    while left > 0 && !interrupted.load(Ordering::Acquire) {
        match monitor.next(SLICE) {
            Ok(Some(told)) => {
                if told.lost > 0 {
                    print::note(&format!("{} events were left out here", told.lost));
                }
                if !asked.late || told.is_late() {
                    print(common.format, &told)?;
                    left -= 1;
                }
            }
            Ok(None) => {}
            Err(Error::BrokerLost { .. }) => {
                print::note("the broker has ended");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn print(format: Format, told: &Told) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Json | Format::Jsonl => writeln!(out, "{}", told.json)?,
        Format::Table => writeln!(out, "{told}")?,
        Format::Dot => return Err(print::not_drawn()),
    }
    // Whoever reads a pipe wants each event when it happens.
    Ok(out.flush()?)
}
