//! What the documentation shows is what the repository has.

use libtest_mimic::Failed;

use crate::case::{Case, case_host};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case_host("docs::readme_program_is_the_quickstart", readme_program),
        case_host("docs::readme_shows_committed_files", readme_files),
        case_host("docs::public_types_are_send_and_sync", threads),
    ]
}

const README: &str = include_str!("../../README.md");
const QUICKSTART: &str = include_str!("../../examples/quickstart.rs");

/// The program without its doc comment, lint attribute and blank lines.
fn program(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("//!") && !line.starts_with("#!")).collect()
}

fn readme_program() -> Result<(), Failed> {
    let start = README.find("```rust\n").ok_or("no program in the README")? + "```rust\n".len();
    let length = README[start..].find("```").ok_or("the README's program does not end")?;
    let (shown, example) = (program(&README[start..start + length]), program(QUICKSTART));
    match shown.iter().zip(&example).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("the README has\n{a}\nwhere examples/quickstart.rs has\n{b}").into()),
        None if shown.len() != example.len() => {
            Err(format!("{} lines in the README, {} in the example", shown.len(), example.len()).into())
        }
        None => Ok(()),
    }
}

fn readme_files() -> Result<(), Failed> {
    let links: Vec<&str> = README.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|l| !l.contains("://")).collect();
    if links.is_empty() {
        return Err("no link to a file: this test can't fail".into());
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    match links.iter().find(|link| !root.join(link).is_file()) {
        Some(link) => Err(format!("the README links to `{link}`, which does not exist").into()),
        None => Ok(()),
    }
}

fn threads() -> Result<(), Failed> {
    fn shared<T: Send + Sync>() {}
    shared::<layerwise::Context>();
    shared::<layerwise::Tensor>();
    shared::<layerwise::Plan>();
    shared::<layerwise::Prepared>();
    shared::<layerwise::Bindings>();
    shared::<layerwise::Error>();
    shared::<layerwise::optim::Optimizer>();
    Ok(())
}
