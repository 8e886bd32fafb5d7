//! A programme that is killed at any moment and started again ends with the files of one that was not; damage is found and mended.
#![allow(missing_docs, reason = "a test binary")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kit::programme::{Flags, Part, Summary, run};
use kit::{Axis, Common, Experiment, Figure, NoArguments, Panel, Progress, Report, Result, Series, Style, Verdict};

struct Slow<const N: u32>;

impl<const N: u32> Experiment for Slow<N> {
    const NAME: &'static str = ["first", "second", "third"][N as usize];
    const TITLE: &'static str = "A part that takes its time";
    type Arguments = NoArguments;

    fn applies(_: &Common, _: &NoArguments) -> std::result::Result<(), String> {
        Ok(())
    }

    fn run(common: &Common, _: &NoArguments, _: &layerwise::Context, progress: &Progress) -> Result<Report> {
        let mut report = Report::default();
        let mut value = f64::from(N + common.seed) + 0.5;
        progress.begin(5);
        let mut points = Vec::new();
        for step in 0..5 {
            value = (3.7 * value).fract() + 0.1;
            points.push((f64::from(step), value));
            std::thread::sleep(Duration::from_millis(10));
            progress.at(step as usize + 1);
        }
        // Large enough that a kill can hit the writing.
        let rows: String = (0..20_000).map(|i| format!("{i},{value}\n")).collect();
        report.files.push(("data.csv".into(), rows));
        let panel = Panel::new("", Axis::linear("x"), Axis::linear("y"), vec![Series::new("s", Style::nth(0)).line(points)]);
        report.plots.push(("plot.svg".into(), Figure::new("t", "", vec![panel]).svg()?));
        report.verdicts.push(Verdict::at_least("value", value, 0.0));
        Ok(report)
    }
}

fn parts() -> Vec<Part> {
    vec![Part::of::<Slow<0>>(), Part::of::<Slow<1>>(), Part::of::<Slow<2>>()]
}

fn flags(seed: u32) -> Flags {
    Flags { common: Common { device: "cpu".into(), seed, ..Common::default() }, ..Flags::default() }
}

fn fresh(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("layerwise-programme-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// Data and plots of every part. A half-written file of a killed run counts, too.
fn bytes(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for part in ["first", "second", "third"] {
        for entry in std::fs::read_dir(folder.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_owned();
            // These tell how long it took.
            if name != "done.txt" && name != "section.html" {
                found.insert(Path::new(part).join(name), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

const FOLDER: &str = "LAYERWISE_KIT_PROGRAMME";

/// Not a test of its own: what `survives_kills` starts and kills.
#[test]
fn child() {
    if let Ok(folder) = std::env::var(FOLDER) {
        run(&parts(), &flags(0), Path::new(&folder)).unwrap();
    }
}

#[test]
fn survives_kills() {
    let (calm, killed) = (fresh("calm"), fresh("killed"));
    run(&parts(), &flags(0), &calm).unwrap();
    let mut unfinished = 0;
    for moment in [5, 30, 55, 57, 60, 62, 66, 70, 90, 110, 130] {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact"])
            .env(FOLDER, &killed)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        // SIGKILL: no handler, no clean-up.
        process.kill().unwrap();
        unfinished += u32::from(!process.wait().unwrap().success());
    }
    assert!(unfinished >= 3, "the kills came too late: {unfinished}");
    run(&parts(), &flags(0), &killed).unwrap();
    let (want, got) = (bytes(&calm), bytes(&killed));
    assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    assert!(want == got, "the same names, other bytes");
    assert_eq!(want.len(), 9, "data, plot and notes of three parts");
    for folder in [calm, killed] {
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn finished_parts_are_kept_and_damage_is_mended() {
    let folder = fresh("damage");
    let go = |flags: &Flags| run(&parts(), flags, &folder).unwrap();
    let all = vec!["first", "second", "third"];
    assert_eq!(go(&flags(0)), Summary { ran: all.clone(), ..Summary::default() });
    let want = bytes(&folder);
    assert_eq!(go(&flags(0)), Summary { kept: all.clone(), ..Summary::default() });

    let victim = folder.join("second").join("data.csv");
    let text = std::fs::read_to_string(&victim).unwrap();
    let damages: [&dyn Fn(); 4] = [
        &|| std::fs::write(&victim, &text[..text.len() / 2]).unwrap(),
        // One digit, the same length.
        &|| std::fs::write(&victim, text.replacen('7', "8", 1)).unwrap(),
        &|| std::fs::remove_file(&victim).unwrap(),
        &|| std::fs::write(folder.join("second").join("done.txt"), "finished part, form 1\npart second\n").unwrap(),
    ];
    for (i, damage) in damages.iter().enumerate() {
        damage();
        let summary = go(&flags(0));
        assert_eq!((summary.ran, summary.kept), (vec!["second"], vec!["first", "third"]), "damage {i}");
        assert!(bytes(&folder) == want, "damage {i} was not mended");
    }
    assert_eq!(go(&flags(1)).ran, all, "other settings");
    assert!(bytes(&folder) != want, "the seed changes nothing");
    assert_eq!(go(&Flags { fresh: true, ..flags(1) }).ran, all, "--fresh");
    let some = go(&Flags { only: Some(vec!["third".into()]), ..flags(0) });
    assert_eq!(some.ran, ["third"]);
    assert!(run(&parts(), &Flags { only: Some(vec!["fourth".into()]), ..flags(0) }, &folder).is_err());

    run(&parts(), &flags(0), &folder).unwrap();
    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 3);
    assert!(["first", "second", "third"].iter().all(|name| page.contains(&format!("<section id=\"{name}\">"))));
    assert!(!page.contains("src=") && !page.contains("<link"), "the page needs no other file");
    std::fs::remove_dir_all(folder).unwrap();
}
