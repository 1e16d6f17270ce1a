//! What the house promises, line by line, and the tests that show it.
//!
//! [`soundness`] lists who keeps what alive; [`pressure`] the branches of the loop for which there
//! is no room, no time or no kernel. Each row is a few words and the places where it is shown: a
//! case of the suite by its name (`remote/its_thread_may_end_first`), a test as
//! `package: function`, or a program that the compiler must refuse or take (a file below
//! `tests/tests/ownership`). The tests here check that all of them exist, so that no row can lose
//! its proof by a renaming.

mod pressure;
mod soundness;

use conformance::cases;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A rule, or a branch, and where it is shown.
struct Rule {
    rule: &'static str,
    shown_by: &'static [&'static str],
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("tests/ is in the repository").to_owned()
}

/// The Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let is_rust = |path: &Path| path.extension().is_some_and(|extension| extension == "rs");
    paths
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false => Some(path).filter(|path| is_rust(path)).into_iter().collect(),
        })
        .collect()
}

/// Whether the package has a test function of this name, wherever it stands.
fn has_test(package: &str, function: &str) -> bool {
    let head = format!("{function}(");
    let is_in = |text: String| {
        // The function follows its attributes.
        let mut tests = text.split("#[test]").skip(1);
        tests.any(|after| after.split("fn ").nth(1).is_some_and(|rest| rest.starts_with(&head)))
    };
    sources(&root().join(package)).iter().any(|path| std::fs::read_to_string(path).is_ok_and(is_in))
}

/// Why `place` shows nothing, if it does not.
fn missing(place: &str, cases: &BTreeSet<&str>) -> Option<String> {
    let is_there = match place.split_once(": ") {
        Some((package, function)) => has_test(package, function),
        None if place.ends_with(".rs") => root().join("tests/tests").join(place).is_file(),
        None => cases.contains(place),
    };
    (!is_there).then(|| format!("{place} is not there"))
}

#[test]
fn every_rule_is_shown_by_tests_that_exist() {
    let cases: BTreeSet<&str> = cases::all().iter().map(|case| case.name).collect();
    let mut problems = Vec::new();
    for Rule { rule, shown_by } in soundness::RULES.iter().chain(pressure::BRANCHES) {
        if shown_by.is_empty() {
            problems.push(format!("`{rule}` is shown by nothing"));
        }
        let missing = shown_by.iter().filter_map(|place| missing(place, &cases));
        problems.extend(missing.map(|what| format!("`{rule}`: {what}")));
    }
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn what_is_not_there_is_found_missing() {
    let cases = BTreeSet::from(["file/real"]);
    assert_eq!(missing("file/real", &cases), None);
    assert!(missing("file/imagined", &cases).is_some());
    assert!(missing("ownership/refused/imagined.rs", &cases).is_some());
    assert!(missing("tests: imagined", &cases).is_some());
    assert!(missing("tests: root", &cases).is_some(), "no test");
    let this = "tests: what_is_not_there_is_found_missing";
    assert_eq!(missing(this, &cases), None);
}
