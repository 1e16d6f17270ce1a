//! What a guest says, line by line, and what it comes to; or what programs say that ran here.
//!
//! Three kinds of lines mean something: those of `/init`, which begin with `LAB`; cases and
//! configurations as `conformance --json` prints them; and cases as the test harness prints them
//! (`lines`). The rest is printed as it comes, and its end is shown again when the guest died.
//! `table` is what several runs come to, side by side.

mod lines;
mod table;

pub(crate) use table::{Total, tables};

use lines::{Case, Means};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// As `/init` writes it on the serial line when all is well.
const PASSED: i32 = 16;

/// How many of the last lines are shown when a guest died.
const LAST_LINES: usize = 15;

/// Where something is run.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a guest; its kernel as `--kernel` names it, and as the package does.
    Guest { kernel: &'static str, release: String },
    /// On this machine, where the exit codes of the programs are all there is to be said.
    Here,
}

/// What was said by what ran, and how it ended.
pub(crate) struct Report {
    group: &'static str,
    place: Place,
    is_quiet: bool,
    /// By configuration, or by program where a case names none; in the order they came up.
    rows: Vec<(String, Counts)>,
    failures: Vec<String>,
    problems: Vec<String>,
    /// The program that runs now, and how many of its cases passed.
    running: Option<(String, usize)>,
    verdict: Option<i32>,
    /// The emulator's exit status.
    pub(crate) exit: Option<i32>,
    /// Seconds since the kernel began.
    init_s: Option<String>,
    ready_s: Option<String>,
    last: Vec<String>,
    pub(crate) guest: Duration,
    pub(crate) whole: Duration,
    pub(crate) peak_kib: u64,
}

#[derive(Default)]
struct Counts {
    means: Option<Means>,
    ok: usize,
    failed: usize,
    skipped: BTreeMap<String, usize>,
}

impl Report {
    pub(crate) fn new(group: &'static str, place: Place, is_quiet: bool) -> Report {
        Report {
            group,
            place,
            is_quiet,
            rows: Vec::new(),
            failures: Vec::new(),
            problems: Vec::new(),
            running: None,
            verdict: None,
            exit: None,
            init_s: None,
            ready_s: None,
            last: Vec::new(),
            guest: Duration::ZERO,
            whole: Duration::ZERO,
            peak_kib: 0,
        }
    }

    /// Whether the guest's first process was reached.
    pub(crate) fn has_begun(&self) -> bool {
        self.init_s.is_some()
    }

    /// Begins anew, for a boot that is tried once more.
    pub(crate) fn forget(&mut self) {
        *self = Report::new(self.group, self.place.clone(), self.is_quiet);
    }

    /// Something that must not be, whatever the guest says.
    pub(crate) fn problem(&mut self, what: String) {
        println!("PROBLEM: {what}");
        self.problems.push(what);
    }

    /// Takes a line of the serial line.
    pub(crate) fn line(&mut self, line: &str) {
        if self.last.len() == LAST_LINES {
            self.last.remove(0);
        }
        self.last.push(line.to_owned());
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["LAB", "init", at, ..] => self.init_s = Some((*at).to_owned()),
            ["LAB", "ready", at] => self.ready_s = Some((*at).to_owned()),
            ["LAB", "begin", name] => self.begin(name),
            ["LAB", "end", name, code] => self.end(name, code),
            ["LAB", "failed", what @ ..] => self.problem(what.join(" ")),
            ["LAB", "verdict", verdict, ..] => self.verdict = verdict.parse().ok(),
            _ => self.told(line),
        }
    }

    /// Takes a line of a program's.
    pub(crate) fn told(&mut self, line: &str) {
        if let Some(case) = lines::case(line) {
            self.case(case);
        } else if let Some((configuration, means)) = lines::configuration(line) {
            self.row(&configuration).means = Some(means);
        } else if !self.is_quiet && !line.is_empty() {
            println!("  | {line}");
        }
    }

    /// A program begins.
    pub(crate) fn begin(&mut self, name: &str) {
        self.running = Some((name.to_owned(), 0));
    }

    /// It ended, with this exit code.
    pub(crate) fn end(&mut self, name: &str, code: &str) {
        if code != "0" {
            self.problem(format!("{name} ended with {code}"));
        }
        match self.running.take() {
            Some((running, 0)) if running == name => {
                self.problem(format!("{name}: no case passed, so nothing was shown"));
            }
            Some(_) => {}
            None => self.problem(format!("{name} ended and had not begun")),
        }
    }

    fn row(&mut self, name: &str) -> &mut Counts {
        let at = self.rows.iter().position(|(row, _)| row == name).unwrap_or_else(|| {
            self.rows.push((name.to_owned(), Counts::default()));
            self.rows.len() - 1
        });
        &mut self.rows[at].1
    }

    fn case(&mut self, case: Case) {
        let Case { name, configuration, outcome, reason } = case;
        let program = self.running.as_ref().map_or("", |(program, _)| program);
        let row = if configuration.is_empty() { program.to_owned() } else { configuration };
        let counts = self.row(&row);
        match outcome.as_str() {
            "ok" => {
                counts.ok += 1;
                if let Some((_, passed)) = &mut self.running {
                    *passed += 1;
                }
            }
            "skipped" => *counts.skipped.entry(reason.clone()).or_default() += 1,
            _ => {
                counts.failed += 1;
                self.failures.push(format!("{row} {name}: {reason}"));
            }
        }
        if !self.is_quiet || outcome == "failed" {
            let colon = if reason.is_empty() { "" } else { ": " };
            println!("  {outcome:<7} {row} {name}{colon}{reason}");
        }
    }

    /// Whether all is well, by both ways in which the guest says so, and something was shown.
    pub(crate) fn is_good(&self) -> bool {
        let passed: usize = self.rows.iter().map(|(_, counts)| counts.ok).sum();
        let is_said = self.verdict == Some(PASSED) && self.exit == Some(exit_status(PASSED));
        (is_said || self.place == Place::Here)
            && passed > 0
            && self.failures.is_empty()
            && self.problems.is_empty()
    }

    /// What is said of a verdict that did not come out by both ways.
    fn contradiction(&self) -> Option<String> {
        if self.place == Place::Here {
            return None;
        }
        let said = |verdict: i32| self.exit == Some(exit_status(verdict));
        match self.verdict {
            Some(verdict) if said(verdict) => None,
            Some(verdict) => {
                Some(format!("said {verdict}, and the emulator ended with {:?}", self.exit))
            }
            None => Some(format!("gave no verdict; the emulator ended with {:?}", self.exit)),
        }
    }
}

/// What the emulator makes of a value written to its exit port.
fn exit_status(verdict: i32) -> i32 {
    (verdict << 1) | 1
}

impl Counts {
    fn skipped(&self) -> usize {
        self.skipped.values().sum()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Guest { release, .. } => f.write_str(release),
            Place::Here => f.write_str("this machine"),
        }
    }
}

impl fmt::Display for Means {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.unavailable {
            return write!(f, "not there: {reason}");
        }
        match self.has.as_slice() {
            [] => f.write_str("has none")?,
            has => write!(f, "has {}", has.join(", "))?,
        }
        for (name, reason) in &self.lacks {
            write!(f, "; lacks {name}: {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_good() { "passed" } else { "FAILED" };
        writeln!(f, "{} on {}: {word}", self.group, self.place)?;
        for (row, counts) in &self.rows {
            let Counts { ok, failed, .. } = counts;
            writeln!(f, "  {row}: {ok} ok, {failed} failed, {} skipped", counts.skipped())?;
            if let Some(means) = &counts.means {
                writeln!(f, "      {means}")?;
            }
            for (reason, count) in &counts.skipped {
                writeln!(f, "      {count} skipped: {reason}")?;
            }
        }
        for failure in &self.failures {
            writeln!(f, "  FAILED {failure}")?;
        }
        for problem in &self.problems {
            writeln!(f, "  PROBLEM {problem}")?;
        }
        if let Some(contradiction) = self.contradiction() {
            writeln!(f, "  PROBLEM the guest {contradiction}; its last lines:")?;
            for line in &self.last {
                writeln!(f, "    | {line}")?;
            }
        }
        if self.place == Place::Here {
            return write!(f, "  whole {:.1} s", self.whole.as_secs_f64());
        }
        let at = |time: &Option<String>| time.clone().unwrap_or("?".into());
        write!(
            f,
            "  first process at {} s, programs from {} s, guest {:.1} s, whole {:.1} s; {} MiB",
            at(&self.init_s),
            at(&self.ready_s),
            self.guest.as_secs_f64(),
            self.whole.as_secs_f64(),
            self.peak_kib >> 10
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: &str = r#"{"case":"a/b","configuration":"full","outcome":"ok","reason":""}"#;

    fn report(lines: &[&str], exit: i32) -> Report {
        let place = Place::Guest { kernel: "6.1", release: "6.1.0".into() };
        let mut report = Report::new("sample", place, true);
        lines.iter().for_each(|line| report.line(line));
        report.exit = Some(exit);
        report
    }

    #[test]
    fn both_ways_must_say_that_all_is_well() {
        let good = ["LAB init 1.0 6.1", "LAB begin a", CASE, "LAB end a 0", "LAB verdict 16 2.0"];
        assert!(report(&good, 33).is_good());
        assert!(!report(&good, 35).is_good(), "the port says otherwise");
        assert!(!report(&good, 0).is_good(), "it only powered off");
        assert!(!report(&good[..4], 33).is_good(), "no line says so");
        assert!(!report(&["LAB verdict 17 2.0"], 35).is_good());
    }

    #[test]
    fn a_failure_is_one_wherever_it_is_seen() {
        let with = |line: &str| {
            let lines = ["LAB begin a", CASE, line, "LAB end a 0", "LAB verdict 16 2.0"];
            report(&lines, 33)
        };
        assert!(with("anything").is_good());
        assert!(!with("LAB failed no disk for files").is_good());
        assert!(!with(&CASE.replace("ok", "failed")).is_good());
        assert!(!with("test x ... FAILED").is_good());
        let ended = ["LAB begin a", CASE, "LAB end a 137", "LAB verdict 16 2.0"];
        assert!(!report(&ended, 33).is_good());
    }

    #[test]
    fn a_program_that_shows_nothing_fails() {
        let skipped = CASE.replace("ok", "skipped");
        let empty = ["LAB begin a", &skipped, "LAB end a 0", "LAB verdict 16 2.0"];
        assert!(!report(&empty, 33).is_good());
        let second = ["LAB begin a", CASE, "LAB end a 0", "LAB begin b", "LAB end b 0"];
        assert!(!report(&[&second[..], &["LAB verdict 16 2.0"]].concat(), 33).is_good());
        assert!(!report(&["LAB verdict 16 2.0"], 33).is_good());
    }
}
