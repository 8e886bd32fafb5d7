//! `index.html`: everything on one page that needs no other file.

use std::fmt::Write as _;

use super::Part;
use super::mark::Mark;
use crate::table::escape;

/// A finished part.
pub(super) struct Section {
    pub(super) part: Part,
    pub(super) text: String,
    pub(super) mark: Mark,
}

const STYLE: &str = "body{font-family:Helvetica,Arial,sans-serif;color:#2d2d2d;max-width:1340px;margin:2em auto;padding:0 1em}\
table{border-collapse:collapse;margin:1em 0}caption{text-align:left;font-weight:bold;padding:.3em 0}\
td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}.number{text-align:right;font-variant-numeric:tabular-nums}\
.ok{color:#006b4f}.failed{color:#fff;background:#a11;font-weight:bold}figure{margin:1em 0}figure svg{max-width:100%;height:auto}\
.note{color:#555;font-size:.9em}section{border-top:2px solid #2d2d2d;margin-top:2em}";

/// The page of the parts that are finished, `of` in all.
pub(super) fn page(sections: &[Section], of: usize, settings: &str) -> String {
    let seconds: f64 = sections.iter().map(|s| s.mark.seconds).sum();
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>layerwise: results</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>layerwise: results</h1>\n<p>{} of {of} parts, {seconds:.1} s. Settings: {}. Plots: lines and markers are told apart without colour.</p>\n\
         <table>\n<tr><th>part</th><th>question</th><th class=\"number\">seconds</th><th>thresholds</th></tr>\n",
        sections.len(),
        escape(settings)
    );
    for Section { part, mark, .. } in sections {
        let class = if mark.failed > 0 { "failed" } else { "ok" };
        let verdict = match (mark.thresholds, mark.failed) {
            (0, _) => "none apply".to_owned(),
            (n, 0) => format!("all {n} met"),
            (n, failed) => format!("{failed} of {n} missed"),
        };
        let (name, title) = (escape(part.name), escape(part.title));
        let _ = writeln!(
            out,
            "<tr><td><a href=\"#{name}\">{name}</a></td><td>{title}</td><td class=\"number\">{:.1}</td><td class=\"{class}\">{verdict}</td></tr>",
            mark.seconds
        );
    }
    out.push_str("</table>\n");
    for section in sections {
        out.push_str(&section.text);
    }
    out.push_str("</body>\n</html>\n");
    out
}
