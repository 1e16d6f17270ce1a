//! What a guest says, line by line, and what it comes to.
//!
//! Three kinds of lines mean something: those of `/init`, which begin with `LAB`; cases and
//! configurations as `conformance --json` prints them; and cases as the test harness prints them.
//! The rest is printed as it comes, and its end is shown again when the guest died.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// As `/init` writes it on the serial line when all is well.
const PASSED: i32 = 16;

/// How many of the last lines are shown when a guest died.
const LAST_LINES: usize = 15;

/// What a guest said and how it ended.
pub(crate) struct Report {
    name: String,
    is_quiet: bool,
    /// By configuration, or by program where a case names none.
    counts: BTreeMap<String, Counts>,
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
    /// What a configuration can do, what the kernel cannot, or why it is not there.
    means: Vec<String>,
    ok: usize,
    failed: usize,
    skipped: BTreeMap<String, usize>,
}

/// One case, however it was printed.
#[derive(Debug, PartialEq, Eq)]
struct Case {
    name: String,
    /// Empty: it names none.
    configuration: String,
    outcome: String,
    reason: String,
}

impl Report {
    pub(crate) fn new(name: &str, is_quiet: bool) -> Report {
        Report {
            name: name.to_owned(),
            is_quiet,
            counts: BTreeMap::new(),
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
        *self = Report::new(&self.name, self.is_quiet);
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
            ["LAB", "begin", name] => self.running = Some(((*name).to_owned(), 0)),
            ["LAB", "end", name, code] => self.end(name, code),
            ["LAB", "failed", what @ ..] => self.problem(what.join(" ")),
            ["LAB", "verdict", verdict, ..] => self.verdict = verdict.parse().ok(),
            _ => self.told(line),
        }
    }

    /// Takes a line of a program's.
    fn told(&mut self, line: &str) {
        if let Some(case) = case(line) {
            self.case(case);
        } else if let Some((configuration, means)) = configuration(line) {
            self.counts.entry(configuration).or_default().means = means;
        } else if !self.is_quiet && !line.is_empty() {
            println!("  | {line}");
        }
    }

    fn end(&mut self, name: &str, code: &str) {
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

    fn case(&mut self, case: Case) {
        let Case { name, configuration, outcome, reason } = case;
        let program = self.running.as_ref().map_or("", |(program, _)| program);
        let row = if configuration.is_empty() { program.to_owned() } else { configuration };
        let counts = self.counts.entry(row.clone()).or_default();
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
        let passed: usize = self.counts.values().map(|counts| counts.ok).sum();
        let is_said = self.verdict == Some(PASSED) && self.exit == Some(exit_status(PASSED));
        is_said && passed > 0 && self.failures.is_empty() && self.problems.is_empty()
    }

    /// What is said of a verdict that did not come out by both ways.
    fn contradiction(&self) -> Option<String> {
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

/// The case a line tells of, if it does.
fn case(line: &str) -> Option<Case> {
    if let Some(rest) = line.strip_prefix("test ") {
        let (name, outcome) = rest.rsplit_once(" ... ")?;
        let (outcome, reason) = outcome.split_once(", ").unwrap_or((outcome, ""));
        let outcome = match outcome {
            "ok" => "ok",
            "FAILED" => "failed",
            "ignored" => "skipped",
            _ => return None,
        };
        return Some(Case {
            name: name.to_owned(),
            configuration: String::new(),
            outcome: outcome.to_owned(),
            reason: reason.to_owned(),
        });
    }
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    Some(Case {
        name: text("case")?,
        configuration: text("configuration")?,
        outcome: text("outcome")?,
        reason: text("reason")?,
    })
}

/// The configuration a line tells of, if it does, and what it can and cannot do.
fn configuration(line: &str) -> Option<(String, Vec<String>)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let name = value["configuration"].as_str()?.to_owned();
    if let Some(reason) = value["unavailable"].as_str() {
        return Some((name, vec![format!("not there: {reason}")]));
    }
    let has: Vec<&str> = value["has"].as_array()?.iter().filter_map(|one| one.as_str()).collect();
    if has.is_empty() {
        return Some((name, vec!["has none".to_owned()]));
    }
    let mut means = vec![format!("has {}", has.join(", "))];
    // Without a reason it is no matter of the kernel's.
    for (name, reason) in value["lacks"].as_object()? {
        let reason = reason.as_str().filter(|reason| !reason.is_empty());
        means.extend(reason.map(|reason| format!("lacks {name}: {reason}")));
    }
    Some((name, means))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, if self.is_good() { "passed" } else { "FAILED" })?;
        for (row, counts) in &self.counts {
            let skipped: usize = counts.skipped.values().sum();
            writeln!(f, "  {row}: {} ok, {} failed, {skipped} skipped", counts.ok, counts.failed)?;
            for line in &counts.means {
                writeln!(f, "      {line}")?;
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
        let mut report = Report::new("sample", true);
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

    #[test]
    fn cases_are_read_in_both_forms() {
        let harness = case("test tests::a ... ignored, no device").expect("one");
        assert_eq!((harness.outcome.as_str(), harness.reason.as_str()), ("skipped", "no device"));
        assert_eq!(case("test result: ok. 1 passed"), None);
        assert_eq!(case(CASE).map(|case| case.configuration), Some("full".into()));
        let line = r#"{"configuration":"full","has":["a","b"],"lacks":{"c":"","d":"too old"}}"#;
        let means = ["has a, b", "lacks d: too old"].map(String::from).to_vec();
        assert_eq!((case(line), configuration(line)), (None, Some(("full".into(), means))));
    }
}
