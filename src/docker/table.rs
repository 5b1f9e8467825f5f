//! Docker's tables: left-aligned columns, three spaces between, at least ten wide, no borders.

use std::fmt;

const LEAST: usize = 10;
const PADDING: usize = 3;

/// A table to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this header.
    pub fn new<I: IntoIterator<Item: Into<String>>>(header: I) -> Self {
        Self { rows: vec![header.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row.
    pub fn row<I: IntoIterator<Item: Into<String>>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            (cells.map(|cell| cell.chars().count()).max().unwrap_or(0) + PADDING).max(LEAST)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            for (column, cell) in row.iter().enumerate() {
                if column + 1 == row.len() {
                    write!(f, "{cell}")?;
                } else {
                    write!(f, "{cell:<width$}", width = widths.get(column).copied().unwrap_or(LEAST))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_draws_it() {
        let mut table = Table::new(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]);
        table.row(["Local Volumes", "3", "2", "9B", "0B (0%)"]);
        let lines = [
            "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE",
            "Local Volumes   3         2         9B        0B (0%)",
        ];
        assert_eq!(table.to_string(), lines.join("\n"));
    }
}
