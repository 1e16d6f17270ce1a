//! Missed lines against reasons: every line without one is found, and so is every reason without
//! its lines.

use super::gaps::{GAPS, Gap, Kind};
use super::lines::Lines;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Missed lines of one function that nothing excuses.
struct Unexcused {
    file: String,
    function: String,
    missed: Vec<usize>,
    /// How many its reason is for, if it has one.
    allowed: Option<usize>,
}

/// What the comparison of lines and reasons came to.
pub struct Verdict {
    gaps: &'static [Gap],
    /// The missed lines of each gap whose function is there, by its place in the list.
    found: BTreeMap<usize, Vec<usize>>,
    unexcused: Vec<Unexcused>,
}

impl Default for Verdict {
    fn default() -> Verdict {
        Verdict::against(GAPS)
    }
}

impl Verdict {
    fn against(gaps: &'static [Gap]) -> Verdict {
        Verdict { gaps, found: BTreeMap::new(), unexcused: Vec::new() }
    }

    /// Looks at the lines of one file.
    pub fn look(&mut self, file: &str, source: &str, lines: &Lines) {
        for (function, missed) in by_function(source, lines) {
            let is_it = |gap: &Gap| file.ends_with(gap.file) && gap.function == function;
            let Some(at) = self.gaps.iter().position(is_it) else {
                self.refuse(file, function, missed, None);
                continue;
            };
            let allowed = self.gaps[at].lines;
            if missed.len() > allowed {
                self.refuse(file, function, missed.clone(), Some(allowed));
            }
            self.found.insert(at, missed);
        }
    }

    fn refuse(&mut self, file: &str, function: String, missed: Vec<usize>, allowed: Option<usize>) {
        if !missed.is_empty() {
            self.unexcused.push(Unexcused { file: file.to_owned(), function, missed, allowed });
        }
    }

    /// Reasons that are no longer true, with what became of them.
    fn stale(&self) -> Vec<(&Gap, String)> {
        let judge = |(at, gap): (usize, &'static Gap)| match self.found.get(&at).map(Vec::len) {
            None => Some((gap, "there is no such function: drop or move its reason".to_owned())),
            Some(missed) if missed < gap.lines && gap.kind == Kind::Never => {
                let said = gap.lines;
                Some((gap, format!("{missed} of its {said} lines are left: correct its reason")))
            }
            Some(_) => None,
        };
        self.gaps.iter().enumerate().filter_map(judge).collect()
    }

    /// Every line is reached or has a reason, and every reason is true.
    pub fn is_good(&self) -> bool {
        self.unexcused.is_empty() && self.stale().is_empty()
    }

    fn reasons(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: usize = self.found.values().map(Vec::len).sum();
        writeln!(f, "{count} lines are not reached, with these reasons:")?;
        let mut file = "";
        for (at, missed) in &self.found {
            let gap = &self.gaps[*at];
            if gap.file != file {
                writeln!(f, "  {}", gap.file)?;
                file = gap.file;
            }
            let lines = match missed.is_empty() {
                true => "reached this time".to_owned(),
                false => ranges(missed),
            };
            writeln!(f, "    {} ({lines}): {}", gap.function, gap.reason)?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reasons(f)?;
        for Unexcused { file, function, missed, allowed } in &self.unexcused {
            let (count, lines) = (missed.len(), ranges(missed));
            match allowed {
                None => writeln!(f, "NO REASON: {file}, {function}: {count} lines ({lines})")?,
                Some(allowed) => writeln!(
                    f,
                    "NO REASON: {file}, {function}: {count} lines ({lines}), and its reason is for \
                     {allowed}"
                )?,
            }
        }
        let stale = self.stale();
        for (gap, what) in &stale {
            writeln!(f, "OUT OF DATE: {}, {}: {what}", gap.file, gap.function)?;
        }
        match self.unexcused.len() + stale.len() {
            0 => write!(f, "every line is reached or has its reason"),
            _ => write!(
                f,
                "{} functions have lines without a reason, {} reasons are out of date; add a test \
                 that reaches the line, or correct tests/src/coverage/gaps.rs",
                self.unexcused.len(),
                stale.len()
            ),
        }
    }
}

/// `3, 5-7`.
fn ranges(lines: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &line in lines {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == line => *last = line,
            _ => runs.push((line, line)),
        }
    }
    let said = runs.into_iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    said.collect::<Vec<_>>().join(", ")
}

/// The missed lines of every function: the nearest `fn` above at a smaller indent. Functions of one
/// name are one.
fn by_function(source: &str, lines: &Lines) -> BTreeMap<String, Vec<usize>> {
    let text: Vec<&str> = source.lines().collect();
    let missed: BTreeSet<usize> = lines.missed().into_iter().collect();
    let mut functions: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for line in lines.known() {
        let of = functions.entry(function_at(&text, line)).or_default();
        of.extend(missed.contains(&line).then_some(line));
    }
    functions
}

fn function_at(text: &[&str], line: usize) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let here = text.get(line - 1).copied().unwrap_or_default();
    if let Some(name) = function_name(here) {
        return name.to_owned();
    }
    let mut deepest = if here.trim().is_empty() { usize::MAX } else { indent(here) + 1 };
    for above in text[..line.min(text.len())].iter().rev() {
        if above.trim().is_empty() {
            continue;
        }
        // Its own last line is no deeper than the function.
        if indent(above) < deepest
            && let Some(name) = function_name(above)
        {
            return name.to_owned();
        }
        deepest = deepest.min(indent(above) + 1);
    }
    "top".to_owned()
}

fn function_name(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let at = if line.starts_with("fn ") { 0 } else { line.find(" fn ")? + 1 };
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let before = line[..at].split_whitespace();
    let is_item = |word: &str| {
        word.starts_with("pub") || matches!(word, "const" | "unsafe" | "async" | "extern" | "\"C\"")
    };
    if line.starts_with("//") || !before.into_iter().all(|word| is_item(word) || word == "super)") {
        return None;
    }
    let name = &line[at + 3..];
    Some(&name[..name.find(|c| !is_word(c)).unwrap_or(name.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
impl A {
    /// Says what fn means.
    pub(crate) fn one(&self) -> u32 {
        match 1 {
            2 => 3,
        }
    }

    unsafe fn two(
        &self,
    ) {
        let inner = || {
            4
        };
    }
}
fn three() { 5 }
";

    static SAMPLE: [Gap; 2] = [
        Gap { file: "a.rs", function: "one", lines: 2, kind: Kind::Never, reason: "none" },
        Gap { file: "a.rs", function: "two", lines: 1, kind: Kind::Chance, reason: "luck" },
    ];

    /// The verdict on the sample when these lines are missed.
    fn judged(missed: &[usize]) -> Verdict {
        let lines = [3, 4, 5, 12, 13, 17].map(|line| (line, !missed.contains(&line)));
        let mut verdict = Verdict::against(&SAMPLE);
        verdict.look("dataplane/src/a.rs", SOURCE, &Lines::from_iter(lines));
        verdict
    }

    fn said(missed: &[usize], words: &str) {
        let verdict = judged(missed);
        assert!(!verdict.is_good());
        assert!(verdict.to_string().contains(words), "{verdict}");
    }

    #[test]
    fn lines_belong_to_the_function_around_them() {
        let missed = [3, 5, 7, 11, 13, 17];
        let lines = Lines::from_iter(missed.map(|line| (line, false)));
        let found: Vec<_> = by_function(SOURCE, &lines).into_iter().collect();
        let expected = [("one", vec![3, 5, 7]), ("three", vec![17]), ("two", vec![11, 13])];
        assert_eq!(found, expected.map(|(name, lines)| (name.to_owned(), lines)));
    }

    #[test]
    fn reasons_that_are_true_are_printed_and_good() {
        let verdict = judged(&[4, 5, 13]);
        assert!(verdict.is_good(), "{verdict}");
        let text = verdict.to_string();
        assert!(text.contains("one (4-5): none") && text.contains("two (13): luck"), "{text}");
        let lucky = judged(&[4, 5]);
        assert!(lucky.is_good() && lucky.to_string().contains("two (reached this time): luck"));
    }

    #[test]
    fn a_line_without_a_reason_is_a_failure() {
        said(&[4, 5, 13, 17], "NO REASON: dataplane/src/a.rs, three: 1 lines (17)");
        said(&[3, 4, 5], "one: 3 lines (3-5), and its reason is for 2");
        said(&[4, 5, 12, 13], "two: 2 lines (12-13), and its reason is for 1");
    }

    #[test]
    fn a_reason_without_its_lines_is_a_failure() {
        said(&[4], "OUT OF DATE: a.rs, one: 1 of its 2 lines are left");
        said(&[], "OUT OF DATE: a.rs, one: 0 of its 2 lines are left");
        let nothing = Verdict::against(&SAMPLE);
        assert!(!nothing.is_good());
        assert!(nothing.to_string().contains("OUT OF DATE: a.rs, two: there is no such function"));
    }
}
