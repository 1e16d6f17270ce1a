//! A check, its state, and the report of all of them as text and as JSON.
//!
//! The JSON is one object with stable keys:
//! `{"backends": [check..], "checks": [check..]}`, a check being
//! `{"name", "state", "reason", "remedy", "proof"}`, all of them strings. `proof` says what was
//! done to know and is never empty; `reason` and `remedy` may be empty where the state is `ok`.

use serde::Serialize;
use std::fmt::Write;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was done.
    Ok,
    /// It is not here.
    Missing,
    /// It works in part, or slower than it could.
    Limited,
    /// It should have worked and did not.
    Failed,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Missing => "missing",
            State::Limited => "limited",
            State::Failed => "FAILED",
        }
    }

    /// The terminal's colour for it (ECMA-48, select graphic rendition).
    fn colour(self) -> &'static str {
        match self {
            State::Ok => "32",
            State::Missing => "2",
            State::Limited => "33",
            State::Failed => "1;31",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: String,
    pub state: State,
    /// Why it is not better, or what was found.
    pub reason: String,
    /// What would help.
    pub remedy: String,
    /// What was done to know.
    pub proof: String,
}

impl Check {
    fn new(state: State, name: &str, reason: String, proof: String) -> Check {
        Check { name: name.to_owned(), state, reason, remedy: String::new(), proof }
    }

    /// It works; `proof` says what was done.
    pub fn ok(name: &str, proof: impl Into<String>) -> Check {
        Check::new(State::Ok, name, String::new(), proof.into())
    }

    /// It is not here.
    pub fn missing(name: &str, reason: impl Into<String>, proof: impl Into<String>) -> Check {
        Check::new(State::Missing, name, reason.into(), proof.into())
    }

    /// It works in part.
    pub fn limited(name: &str, reason: impl Into<String>, proof: impl Into<String>) -> Check {
        Check::new(State::Limited, name, reason.into(), proof.into())
    }

    /// It should have worked; `tried` says what was begun.
    pub fn failed(name: &str, reason: impl Into<String>, tried: impl Into<String>) -> Check {
        Check::new(State::Failed, name, reason.into(), tried.into()).tried()
    }

    /// Says of the proof that it was begun, and not that it was done.
    pub fn tried(mut self) -> Check {
        self.proof.insert_str(0, "tried: ");
        self
    }

    /// Whether it is fine.
    pub fn is_ok(&self) -> bool {
        self.state == State::Ok
    }

    /// With what was found, for a check that is fine.
    pub fn found(mut self, found: impl Into<String>) -> Check {
        self.reason = found.into();
        self
    }

    /// With what would help.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Check {
        self.remedy = remedy.into();
        self
    }
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Report {
    pub backends: Vec<Check>,
    pub checks: Vec<Check>,
}

/// Columns of the state, with the space after it.
const STATE_COLUMNS: usize = 9;

impl Report {
    /// Whether at least one backend moved its bytes.
    pub fn meets_the_minimum(&self) -> bool {
        self.backends.iter().any(Check::is_ok)
    }

    /// One line of JSON.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("strings and unit variants only");
        text.push('\n');
        text
    }

    /// Aligned lines; every text begins in the same column. What was done to know stands in
    /// brackets; a remedy is not repeated on the next line.
    pub fn text(&self, colours: bool) -> String {
        let every = || self.backends.iter().chain(&self.checks);
        let width = every().map(|check| check.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for (title, checks) in [("Backends", &self.backends), ("Checks", &self.checks)] {
            text.push_str(title);
            text.push('\n');
            let mut before = "";
            for check in checks {
                line(&mut text, check, width, colours, check.remedy != before);
                before = &check.remedy;
            }
        }
        let count = |state| every().filter(|check| check.state == state).count();
        let _ = writeln!(
            text,
            "{} ok, {} limited, {} missing, {} failed; `dataplane doctor --remedies` prints \
             settings to paste",
            count(State::Ok),
            count(State::Limited),
            count(State::Missing),
            count(State::Failed)
        );
        text
    }
}

/// The checks of another command, laid out in the same way.
pub fn lines(checks: &[Check], colours: bool) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    let mut before = "";
    for check in checks {
        line(&mut text, check, width, colours, check.remedy != before);
        before = &check.remedy;
    }
    text
}

fn line(text: &mut String, check: &Check, width: usize, colours: bool, remedy: bool) {
    let state = format!("{:<STATE_COLUMNS$}", check.state.name());
    let state = match colours {
        true => format!("\x1b[{}m{state}\x1b[0m", check.state.colour()),
        false => state,
    };
    let told = match check.reason.is_empty() {
        true => plain(&check.proof),
        false => format!("{} [{}]", plain(&check.reason), plain(&check.proof)),
    };
    let _ = writeln!(text, "  {state}{:<width$}  {told}", plain(&check.name));
    if remedy && !check.remedy.is_empty() {
        let indent = 2 + STATE_COLUMNS + width + 2;
        let _ = writeln!(text, "{:indent$}remedy: {}", "", plain(&check.remedy));
    }
}

/// Text for a terminal: names read from files or the system may hold control characters.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            backends: vec![
                Check::missing("io_uring", "forbidden", "asked").remedy("allow it"),
                Check::ok("poll", "moved 16 bytes"),
            ],
            checks: vec![Check::ok("name\nof", "read \x1b[2J").found("two\nlines")],
        }
    }

    #[test]
    fn one_working_backend_is_enough() {
        let mut report = report();
        assert!(report.meets_the_minimum());
        report.backends.pop();
        assert!(!report.meets_the_minimum());
    }

    #[test]
    fn json_has_the_five_keys() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        let first = value["backends"][0].as_object().unwrap();
        let keys: Vec<_> = first.keys().map(String::as_str).collect();
        assert_eq!(keys, ["name", "proof", "reason", "remedy", "state"]);
        assert_eq!(first["state"], "missing");
    }

    #[test]
    fn text_is_aligned_and_holds_no_control_characters_of_others() {
        let text = report().text(false);
        let column = |what: &str| {
            text.lines()
                .find_map(|line| line.find(what))
                .unwrap_or_else(|| panic!("{what}: {text}"))
        };
        assert_eq!(column("forbidden"), column("moved"));
        assert!(text.contains("forbidden [asked]"), "{text}");
        assert_eq!(column("forbidden"), column("remedy: allow it"));
        assert!(!text.contains('\x1b'));
        assert!(report().text(true).contains("\x1b[32mok"));
    }
}
