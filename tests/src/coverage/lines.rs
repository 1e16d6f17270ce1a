//! From the compiler's regions to lines.
//!
//! With `-C instrument-coverage` each function carries a map of regions (a span of source and a
//! counter), and a run leaves the counters' values. A line counts when a region begins on it, or
//! else when the innermost region around it does; it is reached when one of those that begin on it,
//! or that innermost one, ran. Instances of a generic function add up.
//!
//! See <https://llvm.org/docs/CoverageMappingFormat.html>.

use llvm_profparser::coverage::SourceLocation;
use llvm_profparser::instrumentation_profile::types::InstrumentationProfile;
use llvm_profparser::{CoverageMapping, parse};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Lines of one file that have code, and whether they were reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines(BTreeMap<usize, bool>);

impl Lines {
    /// Of regions with their counts.
    fn of<'a>(regions: impl Iterator<Item = (&'a SourceLocation, usize)> + Clone) -> Lines {
        let mut lines = BTreeMap::new();
        for (at, count) in regions.clone() {
            // A difference of counters may come out below zero when threads count at once.
            let hit = (count as isize) > 0;
            *lines.entry(at.line_start).or_insert(false) |= hit;
        }
        // Innermost last: it overwrites what is around it.
        let mut by_size: Vec<_> = regions.filter(|(at, _)| at.line_end > at.line_start).collect();
        by_size.sort_by_key(|(at, _)| std::cmp::Reverse(at.line_end - at.line_start));
        let mut inside = BTreeMap::new();
        for (at, count) in by_size {
            inside.extend((at.line_start + 1..=at.line_end).map(|line| (line, count as isize > 0)));
        }
        for (line, hit) in inside {
            lines.entry(line).or_insert(hit);
        }
        Lines(lines)
    }

    /// Lines known here that were reached there are reached.
    pub fn add(&mut self, other: &Lines) {
        for (line, hit) in &mut self.0 {
            *hit |= other.0.get(line).copied().unwrap_or(false);
        }
    }

    /// Leaves out lines without a word: a closing brace is where a branch not taken joins again.
    pub fn keep_words(&mut self, source: &str) {
        let text: Vec<&str> = source.lines().collect();
        let says = |line: &str| line.chars().any(char::is_alphanumeric);
        self.0.retain(|line, _| text.get(line - 1).is_some_and(|line| says(line)));
    }

    /// How many were reached, and how many there are.
    pub fn counts(&self) -> (usize, usize) {
        (self.0.values().filter(|hit| **hit).count(), self.0.len())
    }

    /// All of them, from 1.
    pub fn known(&self) -> impl Iterator<Item = usize> {
        self.0.keys().copied()
    }

    /// Those nothing reached, from 1.
    pub fn missed(&self) -> Vec<usize> {
        self.0.iter().filter(|(_, hit)| !**hit).map(|(line, _)| *line).collect()
    }
}

impl FromIterator<(usize, bool)> for Lines {
    fn from_iter<I: IntoIterator<Item = (usize, bool)>>(lines: I) -> Lines {
        Lines(lines.into_iter().collect())
    }
}

/// Reads what a program's runs left; files in `scope`, by their path below `root`.
pub fn read(
    program: &Path,
    profiles: &[PathBuf],
    root: &Path,
    scope: &[&str],
) -> Result<BTreeMap<String, Lines>, String> {
    let name = program.display();
    let merged = merged(profiles).map_err(|error| format!("profiles of {name}: {error}"))?;
    let objects = [program.to_owned()];
    let mapping = CoverageMapping::new(&objects, &merged, false);
    let mapping = mapping.map_err(|error| format!("coverage map of {name}: {error}"))?;
    let inside = |path: &Path| -> Option<String> {
        let below = path.strip_prefix(root).ok()?.to_str()?;
        scope.iter().any(|part| below.starts_with(part)).then(|| below.to_owned())
    };
    let report = mapping
        .generate_subreport(|paths| paths.iter().any(|path| inside(path).is_some()))
        .map_err(|error| format!("coverage of {name}: {error}"))?;
    let files = report.files.iter();
    Ok(files
        .filter_map(|(path, found)| {
            let regions = found.hits.iter().map(|(at, count)| (at, *count));
            Some((inside(path)?, Lines::of(regions)))
        })
        .collect())
}

/// The sum of what several runs counted.
///
/// A function that is inlined is there once for each unit of code generation, each with counters of
/// its own and all with one name. Of the profile that it begins with the crate keeps one of those;
/// of profiles that are merged into it, it adds them all up. So it begins with an empty one.
fn merged(profiles: &[PathBuf]) -> io::Result<InstrumentationProfile> {
    let mut sum = InstrumentationProfile::default();
    for profile in profiles {
        sum.merge(&parse(profile)?);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(lines: (usize, usize), count: usize) -> (SourceLocation, usize) {
        let (line_start, line_end) = lines;
        (SourceLocation { line_start, column_start: 1, line_end, column_end: 9 }, count)
    }

    fn of(regions: &[(SourceLocation, usize)]) -> Lines {
        Lines::of(regions.iter().map(|(at, count)| (at, *count)))
    }

    #[test]
    fn the_innermost_region_decides() {
        // A function of ten lines with a branch that never ran, and a call inside that branch.
        let lines = of(&[region((1, 10), 3), region((4, 6), 0), region((5, 5), 0)]);
        assert_eq!(lines.counts(), (7, 10));
        assert_eq!(lines.missed(), [4, 5, 6]);
    }

    #[test]
    fn a_line_is_reached_by_any_region_that_begins_on_it() {
        let lines = of(&[region((1, 1), 0), region((1, 1), 2), region((2, 2), usize::MAX)]);
        assert_eq!(lines.missed(), [2], "a count below zero is none");
    }

    #[test]
    fn a_brace_is_no_line() {
        let mut lines = of(&[region((1, 1), 1), region((2, 2), 0), region((3, 3), 0)]);
        lines.keep_words("if a {\n    b();\n});\n");
        assert_eq!((lines.counts(), lines.missed()), ((1, 2), vec![2]));
    }

    #[test]
    fn another_run_adds_hits_and_no_lines() {
        let mut lines = of(&[region((1, 2), 0)]);
        lines.add(&of(&[region((2, 3), 1)]));
        assert_eq!((lines.counts(), lines.missed()), ((1, 2), vec![1]));
    }
}
