//! Plots as SVG: lines over a straight or a logarithmic axis, with what was done to nodes as marks.

use std::fmt::Write;

/// Size of a plot, and of the room for its axes, in units of the SVG.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 42.0;

/// One line of a plot.
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Its class, which says how it looks.
    pub class: &'static str,
    /// Its points, from left to right; none = a gap.
    pub points: Vec<(f64, Option<f64>)>,
}

/// A plot.
pub struct Plot {
    /// What it shows.
    pub title: &'static str,
    /// A sentence on how to read it.
    pub note: &'static str,
    /// What the axes stand for, with units.
    pub axes: (&'static str, &'static str),
    /// Its lines.
    pub lines: Vec<Line>,
    /// Whether a step up is a factor, not a sum.
    pub is_log: bool,
    /// Names of places on the horizontal axis; none = numbers.
    pub places: Option<Vec<(f64, String)>>,
    /// Moments that are marked: where, class and what happened.
    pub marks: Vec<(f64, &'static str, String)>,
}

/// Text that stands for itself in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// A number without digits that say nothing.
pub fn plain(number: f64) -> String {
    let text = match number.abs() {
        size if size >= 100.0 || number.fract() == 0.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Round numbers from `low` to `high`, about `wanted` of them.
fn ticks(low: f64, high: f64, wanted: f64) -> Vec<f64> {
    let raw = ((high - low) / wanted).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * power).find(|step| *step >= raw).unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    (0..100)
        .map(|number| (first + number) as f64 * step)
        .take_while(|tick| *tick <= high + step * 1e-9)
        .collect()
}

/// 1, 2 and 5 times powers of ten from `low` to `high`; only powers when that is many.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let parts: &[f64] = if powers.clone().count() > 4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = powers.flat_map(|power| parts.iter().map(move |part| part * 10f64.powi(power)));
    all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick)).collect()
}

impl Plot {
    /// The figure as HTML.
    pub fn figure(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _written = self.write(&mut out);
        out
    }

    fn range(&self) -> Option<((f64, f64), (f64, f64))> {
        let all: Vec<(f64, f64)> = self
            .lines
            .iter()
            .flat_map(|line| line.points.iter().filter_map(|(x, y)| Some((*x, (*y)?))))
            .filter(|(_, y)| !self.is_log || *y > 0.0)
            .collect();
        let edge = |pick: fn(&(f64, f64)) -> f64| {
            let values = all.iter().map(pick);
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            })
        };
        let (x, y) = (edge(|point| point.0), edge(|point| point.1));
        if all.is_empty() {
            return None;
        }
        let x = if x.1 > x.0 { x } else { (x.0 - 0.5, x.0 + 0.5) };
        let y = if self.is_log { (y.0 / 1.15, y.1 * 1.15) } else { (0.0, (y.1 * 1.08).max(1e-6)) };
        Some((x, y))
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        write!(
            out,
            "<figure class=plot><figcaption><h3>{}</h3><p>{}</p></figcaption>",
            self.title, self.note
        )?;
        let Some(((x0, x1), (y0, y1))) = self.range() else {
            return out.write_str("<p class=none>Nothing to show.</p></figure>");
        };
        let across = |x: f64| LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
        let up = |y: f64| {
            let part = match self.is_log {
                true => (y.ln() - y0.ln()) / (y1.ln() - y0.ln()),
                false => (y - y0) / (y1 - y0),
            };
            HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
        };
        out.write_str("<div class=legend>")?;
        for line in &self.lines {
            write!(out, "<span><i class={}></i>{}</span>", line.class, escape(&line.name))?;
        }
        write!(out, "</div><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{}\">", self.title)?;
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for tick in if self.is_log { log_ticks(y0, y1) } else { ticks(y0, y1, 5.0) } {
            let y = up(tick);
            write!(out, "<path class=grid d=\"M{LEFT} {y:.1}H{right}\"/>")?;
            write!(
                out,
                "<text class=tick x={} y={:.1} text-anchor=end>{}</text>",
                LEFT - 8.0,
                y + 4.0,
                plain(tick)
            )?;
        }
        let places = self
            .places
            .clone()
            .unwrap_or_else(|| ticks(x0, x1, 8.0).into_iter().map(|tick| (tick, plain(tick))).collect());
        for (place, name) in places.iter().filter(|(place, _)| (x0..=x1).contains(place)) {
            let x = across(*place);
            write!(out, "<path class=grid d=\"M{x:.1} {TOP}V{bottom}\"/>")?;
            write!(out, "<text class=tick x={x:.1} y={} text-anchor=middle>{name}</text>", bottom + 17.0)?;
        }
        write!(out, "<path class=axis d=\"M{LEFT} {bottom}H{right}\"/>")?;
        write!(out, "<text class=unit x={LEFT} y=13>{}</text>", self.axes.1)?;
        write!(out, "<text class=unit x={right} y={} text-anchor=end>{}</text>", HEIGHT - 6.0, self.axes.0)?;
        for (at, class, what) in self.marks.iter().filter(|(at, ..)| (x0..=x1).contains(at)) {
            let x = across(*at);
            write!(out, "<g class=\"mark {class}\"><path d=\"M{x:.1} {TOP}V{bottom}\"/>")?;
            write!(
                out,
                "<title>{what}</title><text x={:.1} y={}>{what}</text></g>",
                x + 3.0,
                TOP + 9.0,
                what = escape(what)
            )?;
        }
        // The first line comes to lie on top: where calls are few, the highest percentiles are the same call.
        for line in self.lines.iter().rev() {
            let (mut path, mut is_open) = (String::new(), false);
            for (x, y) in &line.points {
                match y.filter(|y| !self.is_log || *y > 0.0) {
                    None => is_open = false,
                    Some(y) => {
                        write!(path, "{}{:.1} {:.1}", if is_open { 'L' } else { 'M' }, across(*x), up(y))?;
                        is_open = true;
                    }
                }
            }
            write!(out, "<path class=\"line {}\" d=\"{path}\"/>", line.class)?;
        }
        write!(out, "<path class=cross d=\"\"/></svg>{}</figure>", self.data(x0, x1))
    }

    /// What the script shows at the place of the pointer.
    fn data(&self, x0: f64, x1: f64) -> String {
        let lines: Vec<_> = self
            .lines
            .iter()
            .map(|line| {
                let values: Vec<_> = line.points.iter().map(|(_, y)| y.map(plain)).collect();
                serde_json::json!({"name": line.name, "class": line.class, "y": values})
            })
            .collect();
        let x: Vec<f64> =
            self.lines.first().map_or_else(Vec::new, |line| line.points.iter().map(|(x, _)| *x).collect());
        let names: Vec<String> = x
            .iter()
            .map(|x| {
                let named = self.places.iter().flatten().find(|(place, _)| place == x);
                named.map_or_else(|| format!("{} {}", plain(*x), self.axes.0), |(_, name)| name.clone())
            })
            .collect();
        let data = serde_json::json!({
            "x": x, "names": names, "lines": lines, "x0": x0, "x1": x1,
            "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM, "unit": self.axes.1,
        });
        // A name could end the script early.
        format!("<script type=application/json>{}</script>", data.to_string().replace('<', "\\u003c"))
    }
}
