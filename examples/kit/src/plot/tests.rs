//! What a reader would miss: a series, a label, words cut off at the edge.

use super::*;

fn figure(series: usize) -> Figure {
    let panel = |title: &str, y: Axis| {
        let list = (0..series).map(|i| {
            let points: Vec<_> = (0..8).map(|t| (f64::from(t) + 1.0, 10f64.powi(-t) * (i as f64 + 1.0))).collect();
            Series::new(format!("series {i} <&>"), Style::nth(i))
                .line(points.clone())
                .mark_every(3)
                .band(points.iter().map(|p| (p.0, p.1 / 2.0, p.1 * 2.0)))
        });
        Panel::new(title, Axis::log("steps"), y, list.collect()).level("a floor", 1e-6)
    };
    let subtitle = "a long list of settings that has to be wrapped, since no page is as wide as all that we have to say: ".repeat(4);
    Figure::new(
        "A title",
        subtitle,
        vec![panel("one", Axis::log("loss")), panel("two", Axis::linear("share")), panel("three", Axis::log(""))],
    )
}

/// Attribute of an SVG element.
fn attribute<'a>(element: &'a str, name: &str) -> &'a str {
    let start = element.find(&format!(" {name}=\"")).map(|at| at + name.len() + 3);
    start.and_then(|at| element[at..].split('"').next()).unwrap_or("")
}

/// (x, middle, size, anchor, upright, words) of every text.
fn texts(svg: &str) -> Vec<(f64, f64, f64, String, bool, String)> {
    svg.split("<text")
        .skip(1)
        .map(|rest| {
            let (head, body) = rest.split_once('>').unwrap();
            let number = |name| attribute(head, name).parse().unwrap();
            let words = body.split("</text>").next().unwrap().trim();
            let words = words.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
            let size: f64 = number("font-size");
            // plotters puts the baseline .76 em below the top, or half an ex below the middle, or as much above the bottom.
            let middle = match attribute(head, "dy") {
                "0.76em" => 0.4 * size,
                "0.5ex" => 0.0,
                _ => -0.6 * size,
            };
            (
                number("x"),
                number("y") + middle,
                number("font-size"),
                attribute(head, "text-anchor").to_owned(),
                head.contains("rotate("),
                words,
            )
        })
        .collect()
}

#[test]
fn same_bytes() {
    assert_eq!(figure(9).svg().unwrap(), figure(9).svg().unwrap());
}

#[test]
fn every_series_is_drawn_and_named() {
    for count in [1, 3, 30] {
        let svg = figure(count).svg().unwrap();
        let words: Vec<String> = texts(&svg).into_iter().map(|t| t.5).collect();
        for i in 0..count {
            assert_eq!(words.iter().filter(|w| **w == format!("series {i} <&>")).count(), 1, "series {i} in the legend");
        }
        for name in ["one", "two", "three", "steps", "loss", "share", "a floor", "A title"] {
            assert!(words.iter().any(|w| w == name), "{name} is missing");
        }
        // Three panels, one band each.
        assert_eq!(svg.matches("opacity=\"0.16\"").count(), 3 * count, "bands");
    }
}

#[test]
fn one_series_less_is_seen() {
    let (mut less, full) = (figure(4), figure(4));
    less.panels[1].series.pop();
    let bands = |f: &Figure| f.svg().unwrap().matches("opacity=\"0.16\"").count();
    assert_eq!((bands(&less), bands(&full)), (11, 12));
}

#[test]
fn no_text_is_clipped() {
    for (count, columns) in [(1, 3), (9, 3), (30, 2), (30, 1)] {
        let mut figure = figure(count);
        figure.columns = columns;
        let svg = figure.svg().unwrap();
        let (right, bottom): (f64, f64) = (attribute(&svg, "width").parse().unwrap(), attribute(&svg, "height").parse().unwrap());
        for (x, y, size, anchor, upright, words) in texts(&svg) {
            // The mean width of English text in Helvetica is below .49 em.
            let long = 0.49 * size * words.chars().count() as f64;
            let (before, after) = match anchor.as_str() {
                "start" => (0.0, long),
                "end" => (long, 0.0),
                _ => (long / 2.0, long / 2.0),
            };
            let half = 0.55 * size;
            // Upright text lies to the right of its anchor: its top points to the left.
            let (x0, x1, y0, y1) = if upright { (x, x + size, y - before, y + after) } else { (x - before, x + after, y - half, y + half) };
            assert!(x0 >= 0.0 && x1 <= right && y0 >= 0.0 && y1 <= bottom, "`{words}` at {x}, {y} leaves {right} x {bottom}");
        }
    }
}

#[test]
fn theory_is_a_line_and_simulation_markers() {
    let only = |series| Figure::new("", "", vec![Panel::new("", Axis::linear("x"), Axis::linear("y"), vec![series])]).svg().unwrap();
    let points = [(0.0, 0.0), (1.0, 2.0), (2.0, 1.0)];
    let style = Style::nth(1).solid();
    let (line, dots) = (only(Series::new("", style).line(points)), only(Series::new("", style).markers(points)));
    let colour = "#D55E00";
    let of =
        |svg: &str, tag: &str| svg.split(tag).skip(1).filter(|rest| rest.split("/>").next().is_some_and(|e| e.contains(colour))).count();
    assert_eq!((of(&line, "<polyline"), of(&line, "<circle")), (1, 0));
    assert_eq!((of(&dots, "<polyline"), of(&dots, "<circle")), (0, 3));
}

#[test]
fn missing_values_interrupt_and_nothing_panics() {
    let hard = [(1.0, f64::NAN), (2.0, 0.0), (3.0, -1.0), (4.0, f64::INFINITY), (5.0, 1e-300), (6.0, 1e300), (f64::NAN, 1.0)];
    for axis in [Axis::log(""), Axis::linear("")] {
        for points in [&hard[..], &hard[..1], &[], &[(1.0, 5.0)], &[(1.0, 0.0), (2.0, 0.0)]] {
            let series = Series::new("s", Style::nth(0)).line(points.to_vec()).mark_every(1).band(points.iter().map(|p| (p.0, p.1, p.1)));
            let svg = Figure::new("t", "", vec![Panel::new("", axis.clone(), axis.clone(), vec![series])]).svg().unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}

#[test]
fn styles_of_methods_differ() {
    let names: Vec<&str> = layerwise::feature_learning::Method::ALL.iter().map(|m| m.name()).collect();
    assert!(names.iter().all(|name| label(name) != *name), "every method of the library has a label and a style");
    for (i, a) in names.iter().enumerate() {
        for b in &names[i + 1..] {
            let (x, y) = (Style::of(a), Style::of(b));
            assert!(x != y, "{a} and {b}");
            // Without colour, marker and dashes have to tell them apart.
            assert!((x.marker, x.filled, x.dash) != (y.marker, y.filled, y.dash), "{a} and {b} in black and white");
        }
    }
    assert_eq!(Style::of("unheard of"), Style::of("unheard of"));
}
