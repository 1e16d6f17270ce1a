//! Sizes and order: lines, files, functions, folders, and the prose at the head of each file.
//!
//! The limits are what fits a screen and a head: 100 columns, 600 lines with tests, 70 lines for a
//! function, a dozen entries in a folder.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust;
use crate::tree::{Finding, Tree, assert_found, assert_tidy};

const LINE_COLUMNS: usize = 100;
const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;
const FOLDER_ENTRIES: usize = 12;

/// Folders that may hold more than a dozen entries, each with the reason. Sorted.
const CROWDED: &[(&str, &str)] = &[("tests/src/cases", "one file of cases for each noun")];

#[test]
fn lines_fit() {
    assert_tidy(&long_lines(&Tree::repository()));
}

#[test]
fn files_fit() {
    assert_tidy(&long_files(&Tree::repository()));
}

#[test]
fn functions_fit_a_screen() {
    assert_tidy(&long_functions(&Tree::repository()));
}

#[test]
fn folders_hold_a_dozen() {
    assert_tidy(&crowded_folders(&Tree::repository(), CROWDED));
}

#[test]
fn every_file_begins_with_prose() {
    assert_tidy(&headless_files(&Tree::repository()));
}

fn long_lines(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for (at, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > LINE_COLUMNS && !line.contains("://") {
                let what = format!("{columns} columns, at most {LINE_COLUMNS}: break the line");
                findings.push(Finding::at(file, at + 1, what));
            }
        }
    }
    findings
}

fn long_files(tree: &Tree) -> Vec<Finding> {
    let long = tree.rust().filter(|file| file.text.lines().count() > FILE_LINES);
    long.map(|file| {
        let lines = file.text.lines().count();
        let what =
            format!("{lines} lines, at most {FILE_LINES}: find the second noun, move it out");
        Finding::at(file, lines, what)
    })
    .collect()
}

fn long_functions(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.rust() {
        for function in rust::functions(&file.code) {
            if function.lines > FUNCTION_LINES {
                let what = format!(
                    "`{}` has {} lines, at most {FUNCTION_LINES}: name its parts",
                    function.name, function.lines
                );
                findings.push(Finding::at(file, function.line, what));
            }
        }
    }
    findings
}

/// Counts the Rust files in a folder and the folders in it that hold Rust files.
fn crowded_folders(tree: &Tree, allowed: &[(&str, &str)]) -> Vec<Finding> {
    let mut entries: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in tree.rust() {
        let mut path = file.path.as_str();
        while let Some((folder, name)) = path.rsplit_once('/') {
            entries.entry(folder).or_default().insert(name);
            path = folder;
        }
    }
    let count = |folder: &str| entries.get(folder).map_or(0, BTreeSet::len);
    let listed = |folder: &str| allowed.iter().any(|(path, _)| *path == folder);
    let crowded = |folder: &str| count(folder) > FOLDER_ENTRIES;
    let mut findings: Vec<Finding> = entries
        .keys()
        .filter(|folder| crowded(folder) && !listed(folder))
        .map(|folder| {
            let count = count(folder);
            Finding(format!(
                "{folder}/: {count} entries, at most {FOLDER_ENTRIES}: group them in folders, \
                 or list it with a reason in CROWDED"
            ))
        })
        .collect();
    for (folder, reason) in allowed {
        if !crowded(folder) || reason.is_empty() {
            let what = "listed in CROWDED without a reason, or not crowded: drop the entry";
            findings.push(Finding(format!("{folder}/: {what}")));
        }
    }
    assert!(allowed.is_sorted(), "CROWDED is sorted by path");
    findings
}

fn headless_files(tree: &Tree) -> Vec<Finding> {
    let headless =
        tree.rust().filter(|file| file.head().first().is_none_or(|line| line.is_empty()));
    let what = "no prose at the head: begin with `//!` and say what it is and who owns what";
    headless.map(|file| Finding::at(file, 1, what)).collect()
}

#[test]
fn a_long_line_is_found_and_a_long_address_is_not() {
    let line = format!("//! {}\n", "é".repeat(97));
    let address = format!("//! https://example.org/{}\n", "x".repeat(100));
    let fits = format!("//! {}\n", "é".repeat(96));
    let text = fits + &address + &line;
    assert_found(&long_lines(&Tree::sample(&[("a.rs", &text)])), &["a.rs:3: 101 columns"]);
}

#[test]
fn a_long_file_is_found() {
    let (fits, long) = ("//!\n".repeat(600), "//!\n".repeat(601));
    let tree = Tree::sample(&[("fits.rs", &fits), ("long.rs", &long)]);
    assert_found(&long_files(&tree), &["long.rs:601: 601 lines"]);
}

#[test]
fn a_long_function_is_found() {
    let body = |lines| format!("//! x\nfn f() {{\n{}}}\n", "    a();\n".repeat(lines));
    let tree = Tree::sample(&[("fits.rs", &body(68)), ("long.rs", &body(69))]);
    assert_found(&long_functions(&tree), &["long.rs:2: `f` has 71 lines"]);
}

#[test]
fn a_crowded_folder_is_found_and_so_is_a_stale_exception() {
    let twelve: Vec<String> = (0..12).map(|name| format!("a/{name}.rs")).collect();
    let mut files: Vec<(&str, &str)> = twelve.iter().map(|path| (path.as_str(), "")).collect();
    files.push(("a/notes.md", ""));
    assert_tidy(&crowded_folders(&Tree::sample(&files), &[]));
    files.push(("a/b/c.rs", ""));
    let tree = Tree::sample(&files);
    assert_found(&crowded_folders(&tree, &[]), &["a/: 13 entries"]);
    assert_tidy(&crowded_folders(&tree, &[("a", "one file per case")]));
    assert_found(&crowded_folders(&tree, &[("a", "")]), &["without a reason"]);
    let stale = [("a", "one file per case"), ("a/b", "none")];
    assert_found(&crowded_folders(&tree, &stale), &["a/b/: listed in CROWDED"]);
}

#[test]
fn a_file_without_prose_is_found() {
    let tree = Tree::sample(&[
        ("good.rs", "//! Slots.\n"),
        ("none.rs", "use a::b;\n//! Late.\n"),
        ("void.rs", "//!\n//! Late.\n"),
        ("zero.rs", ""),
    ]);
    assert_found(&headless_files(&tree), &["none.rs:1:", "void.rs:1:", "zero.rs:1:"]);
}
