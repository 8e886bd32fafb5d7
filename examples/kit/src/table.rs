//! Tables as text, Markdown and HTML.

use std::fmt::Write as _;

/// A column's heading and alignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    name: String,
    numeric: bool,
}

impl Column {
    /// Words: aligned to the left.
    pub fn text(name: impl Into<String>) -> Self {
        Column { name: name.into(), numeric: false }
    }

    /// Numbers: aligned to the right.
    pub fn number(name: impl Into<String>) -> Self {
        Column { name: name.into(), numeric: true }
    }
}

/// A table of cells that are formatted already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its title.
    pub title: String,
    /// What a reader has to know to read it; may be empty.
    pub note: String,
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(title: impl Into<String>, columns: impl IntoIterator<Item = Column>) -> Self {
        Table { title: title.into(), note: String::new(), columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row. Missing cells stay empty; cells beyond the last column widen the table by columns without a heading.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        while self.columns.len() < cells.len() {
            self.columns.push(Column::number(""));
        }
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// Rows so far.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    fn cell(&self, row: &[String], column: usize) -> String {
        row.get(column).cloned().unwrap_or_default()
    }

    /// Aligned columns for a terminal.
    pub fn text(&self) -> String {
        let lines = || std::iter::once(self.columns.iter().map(|c| c.name.clone()).collect::<Vec<_>>()).chain(self.rows.iter().cloned());
        let widths: Vec<usize> =
            (0..self.columns.len()).map(|i| lines().map(|row| self.cell(&row, i).chars().count()).max().unwrap_or(0)).collect();
        let mut out = format!("{}\n", self.title);
        for row in lines() {
            let cells = self.columns.iter().zip(&widths).enumerate().map(|(i, (column, &width))| {
                let cell = self.cell(&row, i);
                if column.numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        if !self.note.is_empty() {
            let _ = writeln!(out, "{}", self.note);
        }
        out
    }

    /// A Markdown table under a bold title.
    pub fn markdown(&self) -> String {
        let plain = |s: &str| s.replace('|', "\\|");
        let mut out = format!("**{}**\n\n|", plain(&self.title));
        for column in &self.columns {
            let _ = write!(out, " {} |", plain(&column.name));
        }
        out.push_str("\n|");
        for column in &self.columns {
            out.push_str(if column.numeric { "---:|" } else { "---|" });
        }
        out.push('\n');
        for row in &self.rows {
            out.push('|');
            for cell in row {
                let _ = write!(out, " {} |", plain(cell));
            }
            out.push('\n');
        }
        if !self.note.is_empty() {
            let _ = write!(out, "\n{}\n", self.note);
        }
        out
    }

    /// An HTML table with a caption.
    pub fn html(&self) -> String {
        let mut out = format!("<table>\n<caption>{}</caption>\n", escape(&self.title));
        let line = |out: &mut String, tag: &str, cells: &mut dyn Iterator<Item = (&Column, &str)>| {
            out.push_str("<tr>");
            for (column, cell) in cells {
                let class = if column.numeric { " class=\"number\"" } else { "" };
                let _ = write!(out, "<{tag}{class}>{}</{tag}>", escape(cell));
            }
            out.push_str("</tr>\n");
        };
        line(&mut out, "th", &mut self.columns.iter().map(|c| (c, c.name.as_str())));
        for row in &self.rows {
            line(&mut out, "td", &mut self.columns.iter().zip(row.iter().map(String::as_str)));
        }
        out.push_str("</table>\n");
        if !self.note.is_empty() {
            let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(&self.note));
        }
        out
    }
}

/// Text as HTML shows it.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::{Column, Table};

    fn table() -> Table {
        let mut table = Table::new("A|B", [Column::text("method"), Column::number("x < 1")]);
        table.row(["kfac".to_owned(), "0.5".to_owned()]);
        table.row(["a|b".to_owned()]);
        table.note = "x & y".into();
        table
    }

    #[test]
    fn bytes_of_each_form() {
        assert_eq!(table().text(), "A|B\nmethod  x < 1\nkfac      0.5\na|b\nx & y\n");
        assert_eq!(table().markdown(), "**A\\|B**\n\n| method | x < 1 |\n|---|---:|\n| kfac | 0.5 |\n| a\\|b |  |\n\nx & y\n");
        let html = "<table>\n<caption>A|B</caption>\n<tr><th>method</th><th class=\"number\">x &lt; 1</th></tr>\n<tr><td>kfac</td>\
                    <td class=\"number\">0.5</td></tr>\n<tr><td>a|b</td><td class=\"number\"></td></tr>\n</table>\n<p class=\"note\">x &amp; y</p>\n";
        assert_eq!(table().html(), html);
    }

    #[test]
    fn a_long_row_loses_nothing() {
        let mut table = Table::new("t", [Column::text("a")]);
        table.row(["1".to_owned(), "2".to_owned()]);
        assert!(table.text().contains('2') && table.markdown().contains("| 1 | 2 |") && table.html().contains(">2<"));
    }
}
