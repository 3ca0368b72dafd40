//! `junit.xml`, which every build server shows: one test case for each milestone and each check.

use std::fmt::Write as _;

use super::milestone::Milestone;
use super::report::Report;
use crate::verdict::Outcome;

enum Case {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Renders the report as JUnit's XML. A milestone's time is what passed since the one before it.
pub(crate) fn render(report: &Report) -> String {
    let cases = milestones(report).into_iter().chain(checks(report)).collect::<Vec<_>>();
    let count = |kind: fn(&Case) -> bool| cases.iter().filter(|(_, _, _, case)| kind(case)).count();
    let failures = count(|case| matches!(case, Case::Failed(_)));
    let skipped = count(|case| matches!(case, Case::Skipped(_)));
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let suite = format!(
        "name=\"{}\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\" errors=\"0\" time=\"{:.3}\"",
        escape(&format!("edgepress test {}", report.image.file)),
        cases.len(),
        report.end()
    );
    // Writing to a String cannot fail.
    let _ = writeln!(xml, "<testsuites>\n  <testsuite {suite}>");
    for (class, name, seconds, case) in &cases {
        let open = format!(
            "    <testcase classname=\"edgepress.{class}\" name=\"{}\" time=\"{seconds:.3}\"",
            escape(name)
        );
        let _ = match case {
            Case::Passed => writeln!(xml, "{open}/>"),
            Case::Skipped(why) => {
                writeln!(xml, "{open}>\n      <skipped message=\"{}\"/>\n    </testcase>", escape(why))
            }
            Case::Failed(why) => {
                writeln!(xml, "{open}>\n      <failure message=\"{}\"/>\n    </testcase>", escape(why))
            }
        };
    }
    let tail = report.console_tail.join("\n");
    let _ = writeln!(xml, "    <system-out>{}</system-out>\n  </testsuite>\n</testsuites>", escape(&tail));
    xml
}

type Row = (&'static str, String, f64, Case);

fn milestones(report: &Report) -> Vec<Row> {
    let mut before = 0.0;
    let mut missing = 0;
    let mut rows = Vec::new();
    for milestone in Milestone::ALL.into_iter().filter(|milestone| *milestone <= report.goal) {
        let (seconds, case) = match report.seconds.get(&milestone) {
            Some(at) => {
                let seconds = (at - before).max(0.0);
                before = f64::max(before, *at);
                (seconds, Case::Passed)
            }
            None if report.passed || report.before_cut(milestone).is_some() => {
                (0.0, Case::Skipped("it came before the power cut".into()))
            }
            None => {
                missing += 1;
                let why = report.reason.clone().unwrap_or_else(|| "it did not come".to_owned());
                // Only the first is at fault, and was waited for: those behind it had no chance.
                let waited = report.waited().filter(|(waited, _, _)| *waited == milestone);
                let seconds = waited.map_or(0.0, |(_, from, to)| to - from);
                (seconds, if missing == 1 { Case::Failed(why) } else { Case::Skipped("not reached".into()) })
            }
        };
        rows.push(("milestones", milestone.name().to_owned(), seconds, case));
    }
    rows
}

fn checks(report: &Report) -> Vec<Row> {
    let row = |check: &crate::verdict::Check| {
        let case = match check.outcome {
            Outcome::Passed => Case::Passed,
            Outcome::Failed => Case::Failed(check.detail.clone()),
            Outcome::Skipped => Case::Skipped(check.detail.clone()),
        };
        ("checks", check.name.clone(), 0.0, case)
    };
    report.checks.iter().map(row).collect()
}

/// Text for XML 1.0, in an element or an attribute; what XML cannot hold becomes U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' => out.push(c),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{escape, render};
    use crate::prove::report::tests::{bad, cut, good};

    #[test]
    fn good_ones() {
        let xml = render(&good());
        assert!(xml.contains("tests=\"11\" failures=\"0\" skipped=\"1\""), "{xml}");
        assert!(
            xml.contains("<testcase classname=\"edgepress.milestones\" name=\"engine\" time=\"25.450\"/>"),
            "{xml}"
        );
        assert!(xml.contains("<skipped message=\"&lt;&amp;&gt;\"/>"), "{xml}");
    }

    #[test]
    fn bad_ones() {
        let xml = render(&bad());
        assert!(xml.contains("tests=\"12\" failures=\"2\" skipped=\"4\""), "{xml}");
        assert!(xml.contains("errors=\"0\" time=\"180.000\""), "{xml}");
        assert!(xml.contains("name=\"dps-registered\" time=\"131.100\""), "{xml}");
        let message = "DPS answered 401 &lt;Unauthorized&gt; &amp; &quot;more&quot;\u{fffd}";
        assert!(xml.contains(&format!("<failure message=\"{message}\"/>")), "{xml}");
        assert!(xml.contains("<system-out>the last line</system-out>"), "{xml}");
    }

    #[test]
    fn what_came_before_the_cut_is_no_failure() {
        let xml = render(&cut());
        assert!(xml.contains("failures=\"0\" skipped=\"2\""), "{xml}");
        assert!(xml.contains("it came before the power cut"), "{xml}");
    }

    #[test]
    fn escapes() {
        assert_eq!(escape("a\x1b[1m<b>\n"), "a\u{fffd}[1m&lt;b&gt;\n");
    }
}
