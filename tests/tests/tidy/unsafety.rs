//! Where unsafe code may be: one table, with a reason each.
//!
//! The workspace denies `unsafe_code`; a module opts in at its head and appears here, so a reader
//! sees in one place what to audit. A module missing from the table fails, and so does an entry
//! whose module is gone, no longer opts in, or no longer holds unsafe code.

use crate::rust;
use crate::tree::{File, Finding, Tree, assert_found, assert_tidy};

/// The modules that opt in, with what they need it for. Sorted by path.
const MODULES: &[(&str, &str)] = &[];

#[test]
fn unsafe_code_is_where_the_table_says() {
    assert_tidy(&misplaced(&Tree::repository(), MODULES));
}

#[test]
fn every_unsafe_module_says_why() {
    assert_tidy(&unexplained(&Tree::repository()));
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    assert_tidy(&without_lints(&Tree::repository()));
}

/// The line of the first `allow(.. unsafe_code ..)` or `expect(..)` in a file, if any.
fn opt_in(file: &File) -> Option<usize> {
    rust::words(&file.code, "unsafe_code")
        .find(|&at| {
            let before = &file.code[..at];
            let attribute = before.rfind("#").map_or("", |start| &before[start..]);
            attribute.contains("allow(") || attribute.contains("expect(")
        })
        .map(|at| rust::line_of(&file.code, at))
}

fn misplaced(tree: &Tree, table: &[(&str, &str)]) -> Vec<Finding> {
    assert!(table.is_sorted(), "MODULES is sorted by path");
    let mut findings = Vec::new();
    for file in tree.rust() {
        let listed = table.iter().any(|(path, _)| *path == file.path);
        if let Some(line) = opt_in(file).filter(|_| !listed) {
            let what = "opts into unsafe code: do without, or add it to MODULES in \
                        tests/tests/tidy/unsafety.rs with a reason";
            findings.push(Finding::at(file, line, what));
        }
    }
    for (path, reason) in table {
        let problem = match tree.get(path) {
            None => "does not exist",
            Some(file) if opt_in(file).is_none() => "no longer opts in",
            Some(file) if rust::words(&file.code, "unsafe").next().is_none() => {
                "opts in and holds no unsafe code: take the attribute out, or into the module \
                 that needs it"
            }
            Some(_) if reason.is_empty() => "has no reason",
            Some(_) => continue,
        };
        findings.push(Finding(format!("{path}: listed in MODULES, but {problem}")));
    }
    findings
}

fn unexplained(tree: &Tree) -> Vec<Finding> {
    let explains = |file: &File| {
        file.head().iter().any(|line| {
            let line = line.to_lowercase();
            rust::words(&line, "unsafe").next().is_some()
        })
    };
    tree.rust()
        .filter(|file| !explains(file))
        .filter_map(|file| Some((file, opt_in(file)?)))
        .map(|(file, line)| {
            Finding::at(file, line, "say in the prose at the head what the unsafe code is for")
        })
        .collect()
}

/// Without this line in a crate's manifest the compiler would not hold the crate to anything.
fn without_lints(tree: &Tree) -> Vec<Finding> {
    tree.files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
        .filter(|file| !file.text.contains("[lints]\nworkspace = true"))
        .map(|file| Finding::at(file, 1, "add `[lints]` with `workspace = true`"))
        .collect()
}

const OPTS_IN: &str = "//! Maps memory; needs unsafe to do it.\n#![allow(unsafe_code)]\n";

#[test]
fn a_module_missing_from_the_table_is_found() {
    let unsafe_code = format!("{OPTS_IN}unsafe fn f() {{}}\n");
    let several = "//! x\n#[expect(\n    dead_code,\n    unsafe_code\n)]\nunsafe fn f() {}\n";
    let prose = "//! `#![allow(unsafe_code)]` is prose here.\n#![deny(unsafe_code)]\n";
    let files =
        [("a.rs", unsafe_code.as_str()), ("b.rs", several), ("c.rs", prose), ("d.rs", "//! x\n")];
    let tree = Tree::sample(&files);
    assert_found(&misplaced(&tree, &[]), &["a.rs:2:", "b.rs:4:"]);
    assert_found(&misplaced(&tree, &[("a.rs", "maps memory")]), &["b.rs:4:"]);
}

#[test]
fn a_stale_entry_is_found() {
    let idle = format!("{OPTS_IN}// unsafe only in prose\n");
    let used = format!("{OPTS_IN}unsafe fn f() {{}}\n");
    let tree = Tree::sample(&[("idle.rs", &idle), ("safe.rs", "//! x\n"), ("used.rs", &used)]);
    let table = [("gone.rs", "x"), ("idle.rs", "x"), ("safe.rs", "x"), ("used.rs", "")];
    let expected = ["does not exist", "holds no unsafe", "no longer opts in", "has no reason"];
    assert_found(&misplaced(&tree, &table), &expected);
}

#[test]
fn a_head_without_the_reason_is_found() {
    let silent = "//! Maps memory with unsafe_code.\n#![allow(unsafe_code)]\nunsafe fn f() {}\n";
    let tree = Tree::sample(&[("good.rs", OPTS_IN), ("silent.rs", silent)]);
    assert_found(&unexplained(&tree), &["silent.rs:2:"]);
}

#[test]
fn a_crate_without_the_lints_is_found() {
    let good = "[package]\n\n[lints]\nworkspace = true\n";
    let tree = Tree::sample(&[("a/Cargo.toml", good), ("b/Cargo.toml", "[package]\n")]);
    assert_found(&without_lints(&tree), &["b/Cargo.toml:1:"]);
}
