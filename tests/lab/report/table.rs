//! What several runs come to: a table for each group, with a row for each kernel, and one line.
//!
//! A table is Markdown, so that it can be put into a page as it is. Of io_uring it says what a
//! kernel has, and why not what others in the table have: there a fallback was taken. The line has
//! the form of the test harness's last one, so that what reads that reads this too.

use super::lines::Means;
use super::{Counts, Place, Report};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// The configuration on io_uring with nothing masked.
const ALL_OF_IO_URING: &str = "full";

/// A table for each group that was run in guests.
pub(crate) fn tables(reports: &[Report]) -> String {
    let mut groups: Vec<&str> = Vec::new();
    for report in reports.iter().filter(|report| report.place != Place::Here) {
        if !groups.contains(&report.group) {
            groups.push(report.group);
        }
    }
    let of = |group: &str| -> Vec<&Report> {
        reports.iter().filter(|report| report.group == group).collect()
    };
    groups.iter().map(|group| table(group, &of(group))).collect()
}

fn table(group: &str, reports: &[&Report]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for (row, _) in reports.iter().flat_map(|report| &report.rows) {
        if !columns.contains(&row.as_str()) {
            columns.push(row);
        }
    }
    let means: Vec<&Means> = reports.iter().copied().filter_map(ring_of).collect();
    let shows_means = !means.is_empty();
    let somewhere: BTreeSet<&String> = means.iter().flat_map(|means| &means.has).collect();
    let mut head = vec!["kernel", "package"];
    head.extend(&columns);
    if shows_means {
        head.push("io_uring there");
    }
    let rule = vec!["---"; head.len()];
    let mut text = format!("{group}:\n\n{}{}", line(&head), line(&rule));
    for report in reports {
        let Place::Guest { kernel, release } = &report.place else { continue };
        let mut cells = vec![(*kernel).to_owned(), release.clone()];
        cells.extend(columns.iter().map(|column| cell(report, column)));
        if shows_means {
            cells.push(ring_of(report).map_or_else(String::new, |one| ring(one, &somewhere)));
        }
        text += &line(&cells);
    }
    text + "\n"
}

fn line<T: AsRef<str>>(cells: &[T]) -> String {
    let cells = cells.iter().map(|cell| cell.as_ref().replace('|', "\\|"));
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

fn cell(report: &Report, column: &str) -> String {
    let counts = report.rows.iter().find(|(row, _)| row == column);
    let Some((_, counts)) = counts else { return "not run".to_owned() };
    if counts.means.as_ref().is_some_and(|means| means.unavailable.is_some()) {
        return "not there".to_owned();
    }
    let mut text = format!("{} passed", counts.ok);
    for (count, word) in [(counts.skipped(), "skipped"), (counts.failed, "**failed**")] {
        if count > 0 {
            text += &format!(", {count} {word}");
        }
    }
    text
}

/// What the configuration on io_uring with nothing masked can do.
fn ring_of(report: &Report) -> Option<&Means> {
    report.rows.iter().find(|(row, _)| row == ALL_OF_IO_URING)?.1.means.as_ref()
}

/// What it has, and why not the rest of what there is somewhere.
fn ring(means: &Means, somewhere: &BTreeSet<&String>) -> String {
    if let Some(reason) = &means.unavailable {
        return reason.clone();
    }
    let mut text = means.has.join(", ");
    let lacks = means.lacks.iter().filter(|(name, _)| somewhere.contains(name));
    for (name, reason) in lacks {
        text += &format!("; no {name}: {reason}");
    }
    text
}

/// The cases of several runs.
pub(crate) struct Total<'a> {
    pub(crate) reports: &'a [Report],
    /// Why the rest was not run.
    pub(crate) problem: Option<&'a str>,
    pub(crate) elapsed: Duration,
}

impl Total<'_> {
    /// Whether all of it passed, and there was something.
    pub(crate) fn is_good(&self) -> bool {
        let are_good = self.reports.iter().all(Report::is_good);
        self.problem.is_none() && !self.reports.is_empty() && are_good
    }
}

impl fmt::Display for Total<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |count: fn(&Counts) -> usize| -> usize {
            self.reports.iter().flat_map(|report| &report.rows).map(|row| count(&row.1)).sum()
        };
        // What is wrong and no case's fault is a failure like any other.
        let wrong =
            |report: &Report| report.problems.len() + usize::from(report.contradiction().is_some());
        let problems: usize = self.reports.iter().map(wrong).sum();
        let failed = all(|counts| counts.failed) + problems + usize::from(self.problem.is_some());
        write!(
            f,
            "test result: {}. {} passed; {failed} failed; {} ignored; 0 measured; \
             0 filtered out; finished in {:.2}s",
            if self.is_good() { "ok" } else { "FAILED" },
            all(|counts| counts.ok),
            all(Counts::skipped),
            self.elapsed.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kernel: &'static str, lines: &[&str]) -> Report {
        let place = Place::Guest { kernel, release: format!("{kernel}.0") };
        let mut report = Report::new("sample", place, true);
        lines.iter().for_each(|line| report.line(line));
        report.exit = Some(33);
        report
    }

    fn sample() -> Vec<Report> {
        let old = r#"{"configuration":"full","unavailable":"too old"}"#;
        let new = r#"{"configuration":"full","has":["a"],"lacks":{"b":"not yet","c":"never"}}"#;
        let newest = r#"{"configuration":"full","has":["a","b"],"lacks":{"c":"never"}}"#;
        let epoll = r#"{"configuration":"epoll","has":["a"],"lacks":{}}"#;
        let case = |outcome: &str| {
            format!(r#"{{"case":"x","configuration":"full","outcome":"{outcome}","reason":""}}"#)
        };
        let (ok, skipped) = (case("ok"), case("skipped"));
        let end = ["LAB end p 0", "LAB verdict 16 2.0"];
        vec![
            report("1.0", &["LAB begin p", old, epoll, "test x ... ok", end[0], end[1]]),
            report("2.0", &["LAB begin p", new, &ok, &skipped, "test x ... ok", end[0], end[1]]),
            report("3.0", &["LAB begin p", newest, &ok, end[0], end[1]]),
        ]
    }

    #[test]
    fn kernels_are_side_by_side() {
        let text = tables(&sample());
        let rows: Vec<&str> = text.lines().skip(4).collect();
        assert_eq!(
            rows,
            [
                "| 1.0 | 1.0.0 | not there | 0 passed | 1 passed | too old |",
                "| 2.0 | 2.0.0 | 1 passed, 1 skipped | not run | 1 passed | a; no b: not yet |",
                "| 3.0 | 3.0.0 | 1 passed | not run | not run | a, b |",
                "",
            ],
            "{text}"
        );
    }

    #[test]
    fn the_last_line_counts_every_case_and_problem() {
        let mut reports = sample();
        let said = |reports: &[Report], problem| {
            let elapsed = Duration::from_millis(1500);
            let total = Total { reports, problem, elapsed };
            (total.is_good(), total.to_string())
        };
        let (is_good, line) = said(&reports, None);
        assert!(is_good && line.starts_with("test result: ok. 4 passed; 0 failed; 1 ignored; "));
        assert!(line.ends_with("; finished in 1.50s"), "{line}");
        let (is_good, line) = said(&reports, Some("no network"));
        assert!(!is_good && line.starts_with("test result: FAILED. 4 passed; 1 failed;"), "{line}");
        reports[0].problem("a fault".to_owned());
        reports[1].exit = Some(0);
        let (is_good, line) = said(&reports, None);
        assert!(!is_good && line.starts_with("test result: FAILED. 4 passed; 2 failed;"), "{line}");
        assert!(!said(&[], None).0, "nothing was run");
    }
}
