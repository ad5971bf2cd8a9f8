//! SPEC.md as data: its headings and the tables under them.

use std::fs;

use super::here;

/// A `###` heading with the tables that follow it, up to the next heading.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    /// The words of the heading.
    pub(crate) words: Vec<String>,
    pub(crate) tables: Vec<Table>,
}

/// A table: its column names, and its rows by column.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// The cell of a row in the column with this name.
    pub(crate) fn cell<'a>(&self, row: &'a [String], column: &str) -> &'a str {
        let at = self.columns.iter().position(|name| name == column);
        let cell = at.and_then(|at| row.get(at));
        cell.unwrap_or_else(|| panic!("no column {column} in {:?}", self.columns))
    }

    /// All cells of a column.
    pub(crate) fn column(&self, column: &str) -> Vec<&str> {
        self.rows.iter().map(|row| self.cell(row, column)).collect()
    }
}

impl Part {
    /// The one table of a part.
    pub(crate) fn table(&self) -> &Table {
        assert_eq!(self.tables.len(), 1, "{:?} has one table", self.words);
        &self.tables[0]
    }
}

/// The text of SPEC.md.
pub(crate) fn text() -> String {
    fs::read_to_string(here().join("SPEC.md")).expect("SPEC.md is beside the crate's manifest")
}

/// All parts of SPEC.md, in order.
pub(crate) fn parts() -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut inside_table = false;
    for line in text().lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let words = heading.split_whitespace().map(str::to_owned).collect();
            parts.push(Part { words, tables: Vec::new() });
        } else if line.starts_with("## ") {
            parts.push(Part::default());
        }
        let row = line.strip_prefix("| ").and_then(|rest| rest.strip_suffix(" |"));
        let Some(part) = parts.last_mut() else { continue };
        match row {
            None if line.starts_with("|--") => {}
            None => inside_table = false,
            Some(row) => {
                let cells: Vec<String> =
                    row.split(" | ").map(|cell| cell.trim_matches('`').to_owned()).collect();
                match part.tables.last_mut() {
                    Some(table) if inside_table => table.rows.push(cells),
                    _ => part.tables.push(Table { columns: cells, rows: Vec::new() }),
                }
                inside_table = true;
            }
        }
    }
    parts
}

/// The part whose heading is these words.
pub(crate) fn part(heading: &str) -> Part {
    let wanted: Vec<&str> = heading.split_whitespace().collect();
    let found = parts().into_iter().find(|part| part.words == wanted);
    found.unwrap_or_else(|| panic!("SPEC.md has no heading ### {heading}"))
}
