//! Tables for people: a line of titles, columns as wide as their widest cell, numbers to the right.

use crate::human;

/// Which side a column's cells stand at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

/// A table that is being filled. Cells are made harmless when they are added.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; a title that begins with `>` stands to the right with its cells.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let columns = titles.iter().map(|title| match title.strip_prefix('>') {
            Some(title) => (title, Side::Right),
            None => (*title, Side::Left),
        });
        Self { columns: columns.collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| human::text(&cell)).collect());
    }

    /// The table's lines; a table without rows says so.
    pub(crate) fn lines(&self) -> Vec<String> {
        if self.rows.is_empty() {
            return vec!["none".to_owned()];
        }
        let widths: Vec<usize> = (0..self.columns.len()).map(|column| self.width(column)).collect();
        let titles = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        std::iter::once(&titles).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn width(&self, column: usize) -> usize {
        let title = self.columns.get(column).map_or(0, |(title, _)| title.len());
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([title]).max().unwrap_or(0)
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, (_, side)), width) in row.iter().zip(&self.columns).zip(widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            match side {
                Side::Left => line.extend([cell.as_str(), &padding]),
                Side::Right => line.extend([padding.as_str(), cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">SIZE", "NOTE"]);
        table.row(["a".into(), "100".into(), "x".into()]);
        table.row(["longer".into(), "7".into(), String::new()]);
        assert_eq!(table.lines(), ["NAME    SIZE  NOTE", "a        100  x", "longer     7"]);
    }

    #[test]
    fn a_cell_cannot_start_a_new_line() {
        let mut table = Table::new(&["NAME"]);
        table.row(["a\nb".into()]);
        assert_eq!(table.lines(), ["NAME", "a\\u{a}b"]);
    }

    #[test]
    fn a_table_of_nothing_says_so() {
        assert_eq!(Table::new(&["NAME"]).lines(), ["none"]);
    }
}
