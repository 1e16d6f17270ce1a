//! The lines nothing reaches, and why.
//!
//! A gap is named by file and function, because lines move: every line of the function that no test
//! reaches is excused by its reason, and nothing else is. Keep functions short and reasons true; a
//! new branch without a test makes the command fail until it has one, or a reason here.

use std::collections::BTreeSet;
use std::fmt;

/// Lines of one function that are not reached.
struct Gap {
    file: &'static str,
    function: &'static str,
    reason: &'static str,
    /// Reached in some runs or on some kernels: no reason to fail when it is.
    is_sometimes_reached: bool,
}

/// Never reached here.
const fn never(file: &'static str, function: &'static str, reason: &'static str) -> Gap {
    Gap { file, function, reason, is_sometimes_reached: false }
}

/// Reached or not, by chance or by what the kernel has.
const fn chance(file: &'static str, function: &'static str, reason: &'static str) -> Gap {
    Gap { file, function, reason, is_sometimes_reached: true }
}

/// Every gap, by file.
const GAPS: &[Gap] = &[
    never(
        "backend/mod.rs",
        "fmt",
        "Debug of an operation's name, for messages of failed assertions",
    ),
    never(
        "ready/mod.rs",
        "provide",
        "no pool is ever open on this backend: receives carry their buffer",
    ),
    never(
        "ready/mod.rs",
        "close_pool",
        "no pool is ever open on this backend: receives carry their buffer",
    ),
    chance(
        "uring/buf_ring.rs",
        "release",
        "munmap(2) of a mapping of our own that is known to be there",
    ),
    chance(
        "uring/buf_ring.rs",
        "map",
        "no memory for the mapping, or a kernel without MADV_DONTFORK",
    ),
    chance("uring/probe.rs", "run", "a trial that the kernel never ends, and then no second ring"),
    chance("uring/probe.rs", "opcodes_there", "a kernel without the operation"),
    chance("uring/probe.rs", "bytes_are", "a kernel that says it read and did not"),
    chance("uring/probe.rs", "multishot_accept", "a kernel without multishot accepts"),
    chance("uring/probe.rs", "listener", "no descriptor, or no name, for a listener of the trial"),
    chance("uring/probe.rs", "with_fixed_page", "a kernel that tells of a released page otherwise"),
    chance("uring/probe.rs", "absolute_timeout", "a kernel that waits otherwise than it says"),
    chance("uring/probe.rs", "messaging", "a kernel that delivers another message than was sent"),
    chance("uring/probe.rs", "buffer_rings", "a kernel that selects another buffer than there was"),
    chance("uring/probe.rs", "incremental_buffers", "a kernel that consumes whole buffers only"),
    chance("uring/probe.rs", "receive_bundles", "a kernel without bundles (before 6.10)"),
    chance("uring/ring.rs", "fmt", "Debug of the ring, for people with a debugger"),
    chance("uring/setup.rs", "build", "a kernel without NO_SQARRAY (before 6.6) or NODROP"),
    chance("uring/setup.rs", "explain", "a code that io_uring_setup(2) does not name"),
    chance("uring/storage.rs", "holds", "needs a device that can be polled, to have one in flight"),
    chance(
        "uring/storage.rs",
        "turn",
        "needs a device that can be polled, and an enter that fails",
    ),
    chance("uring/tables.rs", "update_buffers", "a kernel that did nothing and does not say why"),
    chance("uring/tables.rs", "write", "a kernel that did nothing and does not say why"),
    chance("uring/trial.rs", "untried", "a trial for which there is no socket or pipe"),
    chance("uring/trial.rs", "from_ring", "a kernel that refuses a call of a trial"),
    chance("uring/trial.rs", "from", "a kernel that refuses a table of a trial"),
    chance("uring/trial.rs", "expect", "a kernel that answers a trial otherwise"),
    chance("uring/trial.rs", "fmt", "a kernel that answers a trial otherwise, in words"),
    chance("uring/trial.rs", "submit", "a trial longer than its ring, of which there is none"),
    chance("uring/trial.rs", "collect", "a trial that the kernel does not end within a second"),
    chance("uring/trial.rs", "drop", "a trial that the kernel never ends is leaked, not freed"),
    chance("uring/trial.rs", "stays_armed", "a kernel whose multishot ends after one completion"),
    chance("uring/trial_send.rs", "received", "a kernel that sends other bytes than it was given"),
    chance("uring/trial_send.rs", "notified", "a kernel that owes a notification and sends none"),
    chance("engine/complete.rs", "on_notification", "loopback always copies: needs a network card"),
];

/// What the comparison of lines and reasons came to.
#[derive(Default)]
pub struct Verdict {
    excused: BTreeSet<usize>,
    excused_lines: usize,
    /// File, function and lines without a reason.
    unexcused: Vec<(String, String, Vec<usize>)>,
}

impl Verdict {
    /// Looks at the missed lines of one file.
    pub fn look(&mut self, file: &str, source: &str, missed: &[usize]) {
        for (function, lines) in by_function(source, missed) {
            let is_it = |gap: &Gap| file.ends_with(gap.file) && gap.function == function;
            match GAPS.iter().position(is_it) {
                Some(at) => {
                    self.excused.insert(at);
                    self.excused_lines += lines.len();
                }
                None => self.unexcused.push((file.to_owned(), function, lines)),
            }
        }
    }

    /// Reasons for which there is no line any more.
    fn stale(&self) -> impl Iterator<Item = &Gap> {
        GAPS.iter()
            .enumerate()
            .filter(|(at, gap)| !self.excused.contains(at) && !gap.is_sometimes_reached)
            .map(|(_, gap)| gap)
    }

    /// Every line is reached or has a reason, and every reason a line.
    pub fn is_good(&self) -> bool {
        self.unexcused.is_empty() && self.stale().next().is_none()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} lines are not reached, with these reasons:", self.excused_lines)?;
        for at in &self.excused {
            let Gap { file, function, reason, .. } = &GAPS[*at];
            writeln!(f, "  {file} {function}: {reason}")?;
        }
        for (file, function, lines) in &self.unexcused {
            writeln!(f, "NOT REACHED, no reason: {file} {function}: lines {lines:?}")?;
        }
        for gap in self.stale() {
            writeln!(f, "OUT OF DATE: {} {} is reached: drop its reason", gap.file, gap.function)?;
        }
        let (missing, stale) = (self.unexcused.len(), self.stale().count());
        write!(f, "{missing} functions without a reason, {stale} reasons out of date")
    }
}

/// The lines grouped by the function they stand in: the nearest `fn` above at a smaller indent.
fn by_function(source: &str, lines: &[usize]) -> Vec<(String, Vec<usize>)> {
    let text: Vec<&str> = source.lines().collect();
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for &line in lines {
        let name = function_at(&text, line);
        match groups.last_mut() {
            Some((last, lines)) if *last == name => lines.push(line),
            _ => groups.push((name, vec![line])),
        }
    }
    groups
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

    #[test]
    fn lines_belong_to_the_function_around_them() {
        let found = by_function(SOURCE, &[3, 5, 7, 11, 13, 17]);
        let expected = [("one", vec![3, 5, 7]), ("two", vec![11, 13]), ("three", vec![17])];
        let expected = expected.map(|(name, lines)| (name.to_owned(), lines));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_line_without_a_reason_and_a_reason_without_a_line_are_failures() {
        let mut verdict = Verdict::default();
        assert!(verdict.is_good() == GAPS.iter().all(|gap| gap.is_sometimes_reached));
        verdict.look("no/such/file.rs", SOURCE, &[5]);
        assert!(!verdict.is_good());
        assert!(verdict.to_string().contains("no/such/file.rs one: lines [5]"));
    }

    #[test]
    fn reasons_name_a_function_once() {
        let mut seen = BTreeSet::new();
        for gap in GAPS {
            assert!(seen.insert((gap.file, gap.function)), "{} {}", gap.file, gap.function);
            assert!(gap.reason.len() > 20, "{} says little: {}", gap.function, gap.reason);
        }
    }
}
