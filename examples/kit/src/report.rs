//! What an experiment hands back, and how it becomes files.

use std::fmt::{Display, Write as _};
use std::io::Write as _;
use std::path::Path;

use crate::table::{Table, escape};
use crate::verdict::Verdict;

/// What an experiment found. Everything but the durations is the same at every run with the same settings on the same device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What the numbers depend on: (name, value).
    pub settings: Vec<(String, String)>,
    /// Tables, in the order in which they are read.
    pub tables: Vec<Table>,
    /// Data files: (name, text), as a rule CSV.
    pub files: Vec<(String, String)>,
    /// Plots: (name, SVG).
    pub plots: Vec<(String, String)>,
    /// Thresholds; see [`Experiment::applies`](crate::Experiment::applies).
    pub verdicts: Vec<Verdict>,
    /// Wall-clock seconds: (of what, how many). Printed and shown, never written into data files.
    pub durations: Vec<(String, f64)>,
}

impl Report {
    /// Adds a setting.
    pub fn setting(&mut self, name: impl Into<String>, value: impl Display) {
        self.settings.push((name.into(), value.to_string()));
    }

    /// How many thresholds are missed.
    pub fn failed(&self) -> usize {
        self.verdicts.iter().filter(|v| !v.passed()).count()
    }

    /// Settings, tables and verdicts as Markdown, without times.
    pub fn markdown(&self, title: &str) -> String {
        let mut out = format!("# {title}\n\n");
        for (name, value) in &self.settings {
            let _ = writeln!(out, "- {name}: {value}");
        }
        for table in &self.tables {
            let _ = write!(out, "\n{}", table.markdown());
        }
        if !self.verdicts.is_empty() {
            out.push_str("\n| threshold | measured | allowed | |\n|---|---:|---|---|\n");
            for v in &self.verdicts {
                let verdict = if v.passed() { "ok" } else { "**failed**" };
                let _ = writeln!(out, "| {} | {} | {} | {verdict} |", v.what.replace('|', "\\|"), v.number(), v.condition());
            }
        }
        out
    }

    /// The files of a folder: data, plots, and `NAME.md` with settings, tables and verdicts.
    pub fn contents(&self, name: &str, title: &str) -> Vec<(String, String)> {
        let notes = (format!("{name}.md"), self.markdown(title));
        self.files.iter().chain(&self.plots).cloned().chain([notes]).collect()
    }

    /// A section of a page: settings, tables, plots, verdicts, durations.
    pub fn html(&self, name: &str, title: &str, device: &str, seconds: f64) -> String {
        let mut out = format!("<section id=\"{}\">\n<h2>{}</h2>\n", escape(name), escape(title));
        let _ = writeln!(out, "<p>Example <code>{}</code> on {}, {seconds:.1} s.</p>", escape(name), escape(device));
        if !self.verdicts.is_empty() {
            let _ = writeln!(out, "<table>\n<caption>Thresholds</caption>");
            for v in &self.verdicts {
                let (class, word) = if v.passed() { ("ok", "ok") } else { ("failed", "FAILED") };
                let cells = [v.what.clone(), v.number(), v.condition()].map(|cell| format!("<td>{}</td>", escape(&cell)));
                let _ = writeln!(out, "<tr><td class=\"{class}\">{word}</td>{}</tr>", cells.concat());
            }
            out.push_str("</table>\n");
        }
        for (_, svg) in &self.plots {
            let _ = writeln!(out, "<figure>{svg}</figure>");
        }
        for table in &self.tables {
            out.push_str(&table.html());
        }
        out.push_str(&pairs("Settings", &self.settings));
        let durations: Vec<_> = self.durations.iter().map(|(what, seconds)| (what.clone(), format!("{seconds:.2} s"))).collect();
        out.push_str(&pairs("Durations", &durations));
        out.push_str("</section>\n");
        out
    }
}

/// A folded list of names and values.
fn pairs(title: &str, list: &[(String, String)]) -> String {
    if list.is_empty() {
        return String::new();
    }
    let mut out = format!("<details><summary>{}</summary>\n<table>\n", escape(title));
    for (name, value) in list {
        let _ = writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value));
    }
    out.push_str("</table></details>\n");
    out
}

/// Writes a file whole or not at all: into a temporary file beside it, then renamed.
///
/// # Errors
/// What the file system says.
pub fn write_file(path: &Path, text: &str) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut file = std::fs::File::create(&partial)?;
    file.write_all(text.as_bytes())?;
    // Without this a power cut could leave a renamed file of no bytes.
    file.sync_all()?;
    drop(file);
    std::fs::rename(&partial, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Column;

    fn report() -> Report {
        let mut report = Report::default();
        report.setting("steps", 10);
        let mut table = Table::new("T", [Column::number("x")]);
        table.row(["1".to_owned()]);
        report.tables.push(table);
        report.files.push(("a.csv".into(), "x\n1\n".into()));
        report.plots.push(("a.svg".into(), "<svg/>".into()));
        report.verdicts.push(Verdict::at_most("x <= 1", 1.0, 1.0));
        report.durations.push(("all".into(), 1.5));
        report
    }

    #[test]
    fn a_corrupted_verdict_counts() {
        let mut report = report();
        assert_eq!(report.failed(), 0);
        report.verdicts[0].measured = f64::NAN;
        assert_eq!(report.failed(), 1);
        assert!(report.markdown("t").contains("**failed**") && report.html("n", "t", "CPU", 1.0).contains("class=\"failed\""));
    }

    #[test]
    fn files_hold_everything_but_times() {
        let contents = report().contents("name", "Title");
        let names: Vec<_> = contents.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.csv", "a.svg", "name.md"]);
        let want = "# Title\n\n- steps: 10\n\n**T**\n\n| x |\n|---:|\n| 1 |\n\n| threshold | measured | allowed | |\n|---|---:|---|---|\n\
                    | x <= 1 | 1.0000 | <= 1 | ok |\n";
        assert_eq!(contents[2].1, want);
        let mut slower = report();
        slower.durations[0].1 = 99.0;
        assert_eq!(slower.contents("name", "Title"), contents);
        assert_ne!(slower.html("name", "Title", "CPU", 1.0), report().html("name", "Title", "CPU", 1.0));
    }

    #[test]
    fn writing_replaces_the_whole_file() {
        let folder = std::env::temp_dir().join(format!("layerwise-kit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a.csv");
        write_file(&path, "a long first text\n").unwrap();
        write_file(&path, "short\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "short\n");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no temporary file is left");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
