//! `timeline.svg`: where the seconds from power-on went, one bar a milestone.

use std::fmt::Write as _;

use super::junit::escape;
use super::report::Report;

const WIDTH: f64 = 960.0;
const TOP: f64 = 98.0;
const ROW: f64 = 34.0;
const BAR: f64 = 20.0;
/// Room for the names at the left and the last number at the right.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 96.0;

/// What the machine does by itself, what the services see, and what stopped it.
const CONSOLE: &str = "#2f6fb7";
const SERVICE: &str = "#2a9d6f";
const FAILURE: &str = "#c8453b";
const INK: &str = "#1f2933";
const FAINT: &str = "#66727f";
const LINE: &str = "#dfe5ea";

/// Numbers stand on the lines of the scale, and keep clear of them.
const NUMBER: &str = "font-weight=\"600\" stroke=\"#ffffff\" stroke-width=\"4\" paint-order=\"stroke\"";

/// Renders the report's milestones as an SVG picture.
pub(crate) fn render(report: &Report) -> String {
    let mut rows: Vec<_> = report.seconds.iter().map(|(milestone, at)| (*milestone, *at)).collect();
    rows.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    let waited = report.waited();
    let count = rows.len() + usize::from(waited.is_some());
    let bottom = TOP + ROW * f64::from(u32::try_from(count + 1).unwrap_or(u32::MAX));
    let reason = if report.reason.is_some() { ROW } else { 0.0 };
    let (width, height) = (WIDTH, bottom + reason + 24.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
         {height}\" font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    head(&mut svg, report);
    let scale = Scale::of(report.end());
    scale.draw(&mut svg, bottom);
    let mut before = 0.0;
    for (at, (milestone, seconds)) in rows.iter().enumerate() {
        let y = TOP + ROW * f64::from(u32::try_from(at).unwrap_or(u32::MAX));
        let colour = if milestone.on_console() { CONSOLE } else { SERVICE };
        bar(&mut svg, &scale, y, (milestone.name(), milestone.meaning(), colour), (before, *seconds));
        before = *seconds;
    }
    if let Some((missing, from, to)) = waited {
        let meaning = format!("waited in vain: {}", missing.meaning());
        bar(&mut svg, &scale, bottom - 2.0 * ROW, (missing.name(), &meaning, FAILURE), (from, to));
    }
    verdict(&mut svg, report, bottom - ROW + 14.0);
    legend(&mut svg, bottom + reason + 4.0);
    svg.push_str("</svg>\n");
    svg
}

fn head(svg: &mut String, report: &Report) {
    let machine = &report.machine;
    let title = if report.provisioned {
        format!("{}: provisioned {:.1} s after power-on", report.image.name, report.total())
    } else {
        format!("{}: not provisioned", report.image.name)
    };
    text(svg, (24.0, 34.0), INK, "font-size=\"19\" font-weight=\"600\"", &title);
    let cut = report.power_cut.as_ref().map(|cut| format!("; {cut}")).unwrap_or_default();
    let line = format!(
        "{} under {}, {} processors, {} of memory{}; limit {:.0} s{cut}",
        machine.arch,
        machine.accel.to_string().to_uppercase(),
        machine.cpus,
        machine.memory,
        if machine.secure_boot { ", secure boot" } else { "" },
        report.timeout
    );
    text(svg, (24.0, 56.0), FAINT, "", &line);
}

/// Seconds to the picture's width.
struct Scale {
    step: f64,
    end: f64,
}

impl Scale {
    /// Five to ten lines, at round numbers.
    fn of(total: f64) -> Self {
        let total = total.clamp(1.0, 86_400.0);
        let steps = [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 600.0, 3600.0, 14_400.0];
        let step = steps.into_iter().find(|step| total / step <= 10.0).unwrap_or(14_400.0);
        Self { step, end: (total / step).ceil() * step }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.end).clamp(0.0, 1.0)
    }

    fn draw(&self, svg: &mut String, bottom: f64) {
        let mut seconds = 0.0;
        while seconds <= self.end + self.step / 2.0 {
            let x = self.x(seconds);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\" stroke=\"{LINE}\"/>",
                TOP - 8.0,
                bottom - ROW + 2.0
            );
            let label = if self.step < 1.0 { format!("{seconds:.1}") } else { format!("{seconds:.0} s") };
            text(svg, (x, TOP - 13.0), FAINT, "font-size=\"11\" text-anchor=\"middle\"", &label);
            seconds += self.step;
        }
    }
}

/// A bar by its name, what it means, and its colour.
fn bar(
    svg: &mut String,
    scale: &Scale,
    y: f64,
    (name, meaning, colour): (&str, &str, &str),
    (from, to): (f64, f64),
) {
    let (left, right) = (scale.x(from), scale.x(to));
    // A phase of no length is still to be seen.
    let width = (right - left).max(2.0);
    let middle = y + BAR / 2.0 + 4.5;
    text(svg, (LEFT - 12.0, middle), INK, "text-anchor=\"end\"", name);
    let _ = writeln!(
        svg,
        "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"3\" fill=\"{colour}\">\
         <title>{}</title></rect>",
        escape(meaning)
    );
    text(svg, (left + width + 8.0, middle), INK, NUMBER, &format!("{to:.1} s"));
    let inside = format!("+{:.1}", to - from);
    // About seven units a character.
    if width > 44.0 {
        text(
            svg,
            (left + width / 2.0, middle),
            "#ffffff",
            "font-size=\"11.5\" text-anchor=\"middle\"",
            &inside,
        );
    }
}

fn verdict(svg: &mut String, report: &Report, y: f64) {
    /// Characters that fit into the picture's width.
    const FIT: usize = 118;
    let Some(reason) = &report.reason else { return };
    let line: String = reason.lines().next().unwrap_or_default().chars().take(FIT).collect();
    let dots = if line.chars().count() == FIT { "…" } else { "" };
    text(svg, (24.0, y + 8.0), FAILURE, "font-weight=\"600\"", &format!("{line}{dots}"));
}

fn legend(svg: &mut String, y: f64) {
    let mut x = 24.0;
    for (colour, words) in
        [(CONSOLE, "read off the serial console"), (SERVICE, "seen by the simulated services")]
    {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{}\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{colour}\"/>",
            y - 10.0
        );
        text(svg, (x + 17.0, y), FAINT, "font-size=\"12\"", words);
        x += 210.0;
    }
    let right = format!("x=\"{}\" text-anchor=\"end\"", WIDTH - 24.0);
    let _ = writeln!(
        svg,
        "<text {right} y=\"{y}\" fill=\"{FAINT}\" font-size=\"12\">seconds since power-on; a bar begins where the one \
         before it ends</text>"
    );
}

fn text(svg: &mut String, (x, y): (f64, f64), fill: &str, more: &str, words: &str) {
    let space = if more.is_empty() { "" } else { " " };
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{fill}\"{space}{more}>{}</text>",
        escape(words)
    );
}

#[cfg(test)]
mod tests {
    use super::{Scale, render};
    use crate::prove::report::tests::{bad, cut, good};

    #[test]
    fn one_bar_a_milestone() {
        let svg = render(&good());
        assert_eq!(svg.matches("<title>").count(), 9);
        assert!(svg.contains("demo: provisioned 65.5 s after power-on"), "{svg}");
        assert!(svg.contains(">+25.4</text>"), "{svg}");
        let svg = render(&bad());
        assert_eq!(svg.matches("<title>").count(), 6);
        assert!(svg.contains("<title>waited in vain: DPS took the registration</title>"), "{svg}");
        assert!(svg.contains(">180.0 s</text>") && svg.contains(">+131.1</text>"), "{svg}");
        assert!(svg.contains("DPS answered 401 &lt;Unauthorized&gt;"), "{svg}");
        let svg = render(&cut());
        assert_eq!(svg.matches("<title>").count(), 8);
        assert!(svg.contains("limit 180 s; the power was cut 50.9 s after the first power-on"), "{svg}");
    }

    #[test]
    fn nothing_at_all_is_a_picture() {
        let mut report = bad();
        report.seconds.clear();
        assert!(render(&report).ends_with("</svg>\n"));
    }

    #[test]
    fn scales_are_round() {
        for (total, step, end) in
            [(0.0, 0.2, 1.0), (9.5, 1.0, 10.0), (65.5, 10.0, 70.0), (1e9, 14_400.0, 86_400.0)]
        {
            let scale = Scale::of(total);
            assert_eq!((scale.step, scale.end), (step, end), "{total}");
        }
    }
}
