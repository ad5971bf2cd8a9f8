//! Printing: lines for people or one JSON document for programs, to standard output.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::cli::Format;
use crate::exit::Usage;

/// Prints `value` as JSON, or the lines that `lines` makes of it.
pub(crate) fn either<T: Serialize>(
    format: Format,
    value: &T,
    lines: impl FnOnce(&T) -> Vec<String>,
) -> anyhow::Result<()> {
    match format {
        Format::Json => json(value),
        Format::Jsonl => self::lines(&each(value)?),
        Format::Table => self::lines(&lines(value)),
        Format::Dot => Err(not_drawn()),
    }
}

/// A line for each thing of a list; one for anything else.
fn each<T: Serialize>(value: &T) -> serde_json::Result<Vec<String>> {
    match serde_json::to_value(value)? {
        serde_json::Value::Array(all) => all.iter().map(serde_json::to_string).collect(),
        // Not by way of the value, which has another order of keys.
        _ => Ok(vec![serde_json::to_string(value)?]),
    }
}

/// Only some things can be drawn.
pub(crate) fn not_drawn() -> anyhow::Error {
    Usage("--format dot is for `vgemctl why`".to_owned()).into()
}

/// Prints lines.
pub(crate) fn lines(lines: &[String]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

/// Prints one JSON document.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Says something beside the output, to standard error.
pub(crate) fn note(what: &str) {
    // A note that nobody can read is no failure.
    drop(writeln!(io::stderr(), "vgemctl: {what}"));
}
