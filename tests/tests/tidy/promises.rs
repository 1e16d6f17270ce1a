//! What the repository holds as a whole: its licences, its pages, and two commands that work.
//!
//! The README gives a newcomer two commands, and the script of the automatic runs calls the second
//! one as it stands there, so what is promised is what is tested.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::tree::{Finding, Tree, assert_found, assert_tidy, root};

const RUN: &str = "cargo run --release -- stream";
const TEST: &str = "cargo test --workspace";
/// The rows of the matrix whose skip is a failure in the automatic runs.
const REQUIRED_ROWS: &str = "REQUIRE=io_uring,epoll,poll";
const SCRIPT: &str = ".ci/run";

/// Files that must be there, with words that must be in them.
const FILES: &[(&str, &[&str])] = &[
    ("LICENSE-APACHE", &["Apache License", "Version 2.0"]),
    ("LICENSE-MIT", &["Permission is hereby granted, free of charge"]),
    ("Cargo.toml", &["license = \"MIT OR Apache-2.0\""]),
    ("README.md", &[RUN, TEST, "LICENSE-MIT", "LICENSE-APACHE"]),
    ("CHANGELOG.md", &["# Changelog", "## "]),
    ("CONTRIBUTING.md", &[TEST, "dataplane/src/op/", "dataplane/src/backend/"]),
];

#[test]
fn licences_and_pages_are_there() {
    assert_tidy(&missing(&Tree::repository()));
}

#[test]
fn the_script_runs_the_promised_command() {
    assert_tidy(&script(&Tree::repository()));
    let mode = fs::metadata(root().join(SCRIPT)).map(|script| script.permissions().mode());
    assert!(mode.is_ok_and(|mode| mode & 0o111 != 0), "{SCRIPT}: make it executable");
}

fn missing(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, words) in FILES {
        let Some(file) = tree.get(path) else {
            findings.push(Finding(format!("{path}: does not exist; write it")));
            continue;
        };
        for word in words.iter().filter(|word| !file.text.contains(**word)) {
            findings.push(Finding(format!("{path}: does not contain `{word}`; add it")));
        }
    }
    findings
}

/// The script's last command is the promised one with the rows required, so that a run ends with
/// the test runner's own summary.
fn script(tree: &Tree) -> Vec<Finding> {
    let Some(file) = tree.get(SCRIPT) else {
        return vec![Finding(format!("{SCRIPT}: does not exist; write it"))];
    };
    let command = format!("{REQUIRED_ROWS} {TEST}");
    let lines = file.text.lines().map(str::trim).enumerate();
    let last = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).last();
    match last {
        Some((_, line)) if line == command => Vec::new(),
        Some((at, _)) => vec![Finding::at(file, at + 1, format!("end with `{command}`"))],
        None => vec![Finding(format!("{SCRIPT}: holds no command; end with `{command}`"))],
    }
}

#[test]
fn a_missing_page_is_found() {
    let cargo = "license = \"MIT OR Apache-2.0\"";
    let readme = format!("`{RUN}`, LICENSE-MIT, LICENSE-APACHE");
    let tree = Tree::sample(&[
        ("LICENSE-APACHE", "Apache License, Version 2.0"),
        ("LICENSE-MIT", "Permission is hereby granted, free of charge"),
        ("Cargo.toml", cargo),
        ("README.md", &readme),
        ("CHANGELOG.md", "# Changelog\n\n## Unreleased\n"),
    ]);
    let expected = ["README.md: does not contain `cargo test", "CONTRIBUTING.md: does not exist"];
    assert_found(&missing(&tree), &expected);
}

#[test]
fn a_script_that_ends_otherwise_is_found() {
    let good = format!("set -e\n{REQUIRED_ROWS} {TEST}\n\n# done\n");
    let narrow = format!("{REQUIRED_ROWS} {TEST} -- --quiet\n");
    let hidden = format!("{REQUIRED_ROWS} {TEST}\ntrue\n");
    assert_tidy(&script(&Tree::sample(&[(SCRIPT, &good)])));
    assert_found(&script(&Tree::sample(&[(SCRIPT, &narrow)])), &[".ci/run:1: end with"]);
    assert_found(&script(&Tree::sample(&[(SCRIPT, &hidden)])), &[".ci/run:2: end with"]);
    assert_found(&script(&Tree::sample(&[(SCRIPT, TEST)])), &[".ci/run:1: end with"]);
    assert_found(&script(&Tree::sample(&[(SCRIPT, "# x\n")])), &["holds no command"]);
    assert_found(&script(&Tree::sample(&[])), &["does not exist"]);
}
