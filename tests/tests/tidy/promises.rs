//! What the repository holds as a whole: its licences, its pages, and two commands that work.
//!
//! The README gives a newcomer two commands, and the script of the automatic runs calls the second
//! one as it stands there, so what is promised is what is tested. What the script runs of the lab
//! after it is in the README too.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::tree::{Finding, Tree, assert_found, assert_tidy, root};

const RUN: &str = "cargo run --release -- stream";
const TEST: &str = "cargo test --workspace";
/// The rows of the matrix, and the devices, whose skip is a failure in the automatic runs.
const REQUIRED_ROWS: &str = "REQUIRE=io_uring,epoll,poll REQUIRE_DEVICES=vulkan-timeline";
const SCRIPT: &str = ".ci/run";
const README: &str = "README.md";
/// What begins a command of the lab, and what it is called with beside what the README says.
const LAB: &str = "tests/lab/run ";
const QUIETLY: &str = " --quiet";

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

/// The script runs the promised command with the rows required, and after it nothing but commands
/// of the lab that the README names: each of them ends with a test runner's summary.
fn script(tree: &Tree) -> Vec<Finding> {
    let Some(file) = tree.get(SCRIPT) else {
        return vec![Finding(format!("{SCRIPT}: does not exist; write it"))];
    };
    let command = format!("{REQUIRED_ROWS} {TEST}");
    let readme = tree.get(README).map_or("", |file| file.text.as_str());
    let lines = file.text.lines().map(str::trim).enumerate();
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    if lines.all(|(_, line)| line != command) {
        return vec![Finding(format!("{SCRIPT}: holds no line `{command}`"))];
    }
    let mut findings = Vec::new();
    for (at, line) in lines {
        let of_lab = line.strip_suffix(QUIETLY).unwrap_or(line);
        if !line.starts_with(LAB) {
            let what = format!("end with `{command}` and commands of the lab");
            findings.push(Finding::at(file, at + 1, what));
        } else if !readme.contains(&format!("`{of_lab}`")) {
            let what = format!("{README} does not name `{of_lab}`; add it");
            findings.push(Finding::at(file, at + 1, what));
        }
    }
    findings
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
fn a_script_that_does_otherwise_is_found() {
    let found = |script_text: &str| {
        let readme = "`tests/lab/run a --kernel 1`";
        script(&Tree::sample(&[(SCRIPT, script_text), (README, readme)]))
    };
    let good = format!("set -e\n{REQUIRED_ROWS} {TEST}\n\n# done\n");
    let with = |line: &str| format!("{good}{line}\n");
    assert_tidy(&found(&good));
    assert_tidy(&found(&with("tests/lab/run a --kernel 1 --quiet")));
    assert_found(&found(&with("tests/lab/run b")), &[".ci/run:5: README.md does not name"]);
    assert_found(&found(&with("true")), &[".ci/run:5: end with"]);
    assert_found(&found(&format!("{REQUIRED_ROWS} {TEST} -- --quiet\n")), &["holds no line"]);
    assert_found(&found(TEST), &["holds no line"]);
    assert_found(&found("# x\n"), &["holds no line"]);
    assert_found(&script(&Tree::sample(&[])), &["does not exist"]);
}
