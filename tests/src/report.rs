//! What came of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Ok,
    /// It does not.
    Failed,
    /// It was not run.
    Skipped,
}

impl Outcome {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        }
    }
}

/// One case in one configuration.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The case's name.
    pub case: &'static str,
    /// The configuration's.
    pub configuration: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed or was skipped; else empty.
    pub reason: String,
    /// How long it took, with the proactor's beginning and end.
    pub elapsed: Duration,
}

impl Entry {
    /// As one line of JSON.
    pub fn json(&self) -> String {
        serde_json::json!({
            "case": self.case,
            "configuration": self.configuration,
            "outcome": self.outcome.name(),
            "reason": self.reason,
        })
        .to_string()
    }
}

/// Everything that came of a run, in order. It prints as text.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One for each case and configuration.
    pub entries: Vec<Entry>,
    /// Why the run ended before its end, if it did: a case that hangs.
    pub cut_short: Option<String>,
}

impl Report {
    /// How many ended this way.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.entries.iter().filter(|entry| entry.outcome == outcome).count()
    }

    /// Whether something ran, nothing failed, and the run reached its end.
    pub fn is_good(&self) -> bool {
        self.count(Outcome::Ok) > 0 && self.count(Outcome::Failed) == 0 && self.cut_short.is_none()
    }

    /// The ten cases that took longest, one a line.
    pub fn slowest(&self) -> String {
        let mut all: Vec<&Entry> = self.entries.iter().collect();
        all.sort_by_key(|entry| std::cmp::Reverse(entry.elapsed));
        let mut text = String::from("slowest:\n");
        for entry in all.iter().take(10) {
            let millis = entry.elapsed.as_secs_f64() * 1000.0;
            let _ = writeln!(text, "  {millis:8.1} ms  {} ({})", entry.case, entry.configuration);
        }
        text
    }

    fn of(&self, configuration: &str, outcome: Outcome) -> Vec<&Entry> {
        let here =
            |entry: &&Entry| entry.configuration == configuration && entry.outcome == outcome;
        self.entries.iter().filter(here).collect()
    }
}

/// Skips with the same reason stand in one line.
fn skips(f: &mut fmt::Formatter<'_>, skipped: &[&Entry]) -> fmt::Result {
    let mut by_reason = BTreeMap::<&str, Vec<&str>>::new();
    for entry in skipped {
        by_reason.entry(&entry.reason).or_default().push(entry.case);
    }
    for (reason, cases) in by_reason {
        let named = match cases.len() {
            1..=4 => cases.join(", "),
            many => format!("{many} cases"),
        };
        writeln!(f, "    skipped: {named}: {reason}")?;
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !names.contains(&entry.configuration.as_str()) {
                names.push(&entry.configuration);
            }
        }
        for name in names {
            let of = |outcome| self.of(name, outcome);
            let (ok, failed, skipped) =
                (of(Outcome::Ok), of(Outcome::Failed), of(Outcome::Skipped));
            let counts = [ok.len(), failed.len(), skipped.len()];
            let [ok, bad, not_run] = counts;
            writeln!(f, "{name}: {ok} ok, {bad} failed, {not_run} skipped")?;
            skips(f, &skipped)?;
            for entry in failed {
                writeln!(f, "    FAILED {}: {}", entry.case, entry.reason)?;
            }
        }
        f.write_str(&self.slowest())?;
        if let Some(reason) = &self.cut_short {
            writeln!(f, "the run ended early: {reason}")?;
        }
        let [ok, failed, skipped] =
            [Outcome::Ok, Outcome::Failed, Outcome::Skipped].map(|outcome| self.count(outcome));
        writeln!(f, "{ok} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(outcome: Outcome, reason: &str) -> Entry {
        let (configuration, reason) = ("full".to_owned(), reason.to_owned());
        Entry { case: "a/b", configuration, outcome, reason, elapsed: Duration::ZERO }
    }

    #[test]
    fn a_report_is_good_when_something_ran_and_nothing_failed() {
        let mut report = Report::default();
        assert!(!report.is_good(), "nothing ran");
        report.entries.push(entry(Outcome::Skipped, "no such device"));
        assert!(!report.is_good(), "only skips");
        report.entries.push(entry(Outcome::Ok, ""));
        assert!(report.is_good());
        report.cut_short = Some("a hang".into());
        assert!(!report.is_good());
        report.cut_short = None;
        report.entries.push(entry(Outcome::Failed, "left \"quotes\""));
        assert!(!report.is_good());
        let text = report.to_string();
        assert!(text.contains("full: 1 ok, 1 failed, 1 skipped"), "{text}");
        assert!(text.contains("no such device") && text.contains("FAILED a/b"), "{text}");
        assert!(text.ends_with("1 passed, 1 failed, 1 skipped\n"), "{text}");
    }

    #[test]
    fn a_line_of_json_reads_back() {
        let line = entry(Outcome::Failed, "left \"quotes\"\nand lines").json();
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["outcome"], "failed");
        assert_eq!(value["reason"], "left \"quotes\"\nand lines");
    }
}
