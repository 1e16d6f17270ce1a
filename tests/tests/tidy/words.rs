//! What must not be written: unfinished code, skipped tests, and words that do not belong here.
//!
//! The words are put together with `concat!`, so that this file passes its own rules.

use crate::rust;
use crate::tree::{File, Finding, Tree, assert_found, assert_tidy};

/// Macros that mean the work is not done, or that were meant for one run only.
const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];

/// Whole words that put work off: do it, or write down the limit as a fact.
const MARKERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("W", "IP"),
];

/// Phrases about how the repository came to be; it speaks of the project alone.
const PHRASES: &[&str] = &[
    concat!("as an", " AI"),
    concat!("language", " model"),
    concat!("this", " session"),
    concat!("issue", " #"),
];

/// Hosts of package registries: readers use their package manager's own setting.
const REGISTRIES: &[&str] =
    &[concat!("crates", ".io"), concat!("py", "pi.org"), concat!("npm", "js.com")];

/// Files written by a program or by lawyers.
const NOT_OURS: &[&str] = &["Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT"];

#[test]
fn nothing_is_left_unfinished() {
    assert_tidy(&unfinished(&Tree::repository()));
}

#[test]
fn no_test_is_ignored() {
    assert_tidy(&ignored(&Tree::repository()));
}

#[test]
fn every_word_belongs_here() {
    assert_tidy(&strangers(&Tree::repository()));
}

fn ours(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.files.iter().filter(|file| !NOT_OURS.contains(&file.path.as_str()))
}

fn unfinished(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in ours(tree) {
        for name in MACROS {
            for at in rust::words(&file.code, name) {
                if file.code[at + name.len()..].starts_with('!') {
                    let line = rust::line_of(&file.code, at);
                    let what = format!("`{name}!`: write the code, or return an error");
                    findings.push(Finding::at(file, line, what));
                }
            }
        }
        for marker in MARKERS {
            for at in rust::words(&file.text, marker) {
                let line = rust::line_of(&file.text, at);
                let what = format!("`{marker}`: do it, or state the limit as a fact");
                findings.push(Finding::at(file, line, what));
            }
        }
    }
    findings
}

/// `ignore` in an attribute, and code blocks in prose that are marked not to be compiled.
fn ignored(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in ours(tree) {
        for at in rust::words(&file.code, "ignore") {
            let before = &file.code[..at];
            let open = before.rfind("#[").max(before.rfind("#!["));
            if open.is_some_and(|open| !before[open..].contains(']')) {
                let what = "an ignored test looks green: run it, or skip with a printed reason";
                findings.push(Finding::at(file, rust::line_of(&file.code, at), what));
            }
        }
        for (at, line) in file.text.lines().enumerate() {
            let fence = line.trim_start_matches(['/', '!', ' ']).strip_prefix("```");
            if fence.is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == "ignore")) {
                let what = "an example nobody compiles: make it compile, or mark it `text`";
                findings.push(Finding::at(file, at + 1, what));
            }
        }
    }
    findings
}

fn strangers(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in ours(tree) {
        for (at, line) in file.text.lines().enumerate() {
            for phrase in PHRASES.iter().filter(|phrase| line.contains(**phrase)) {
                let what = format!("`{phrase}`: speak of the project, not of its making");
                findings.push(Finding::at(file, at + 1, what));
            }
            for host in REGISTRIES.iter().filter(|host| line.contains(**host)) {
                let what = format!("`{host}`: name the package, not the host it comes from");
                findings.push(Finding::at(file, at + 1, what));
            }
        }
    }
    findings
}

#[test]
fn unfinished_code_is_found() {
    let text = "//! x\nfn f() { todo!() }\n// todo!() in prose\nlet todo = dbg!(1);\n";
    let marked = format!("//! x\n// {}: later\n// {}S\n", MARKERS[0], MARKERS[0]);
    let page = format!("{}\n", MARKERS[2]);
    let tree =
        Tree::sample(&[("a.rs", text), ("b.rs", &marked), ("c.md", &page), ("Cargo.lock", &page)]);
    let expected = ["a.rs:2: `todo!`", "a.rs:4: `dbg!`", "b.rs:2:", "c.md:1:"];
    assert_found(&unfinished(&tree), &expected);
}

#[test]
fn an_ignored_test_is_found() {
    let tree = Tree::sample(&[
        ("a.rs", "//! x\n#[test]\n#[ignore = \"slow\"]\nfn f() {}\n"),
        ("b.rs", "//! x\n#[cfg_attr(miri, ignore)]\nfn f() {}\n"),
        ("c.rs", "//! ```ignore\n//! f();\n//! ```\n#[derive(A)]\nfn ignore() {}\n"),
        ("d.md", "```rust,ignore\n```\n```text\n```\n"),
    ]);
    assert_found(&ignored(&tree), &["a.rs:3:", "b.rs:2:", "c.rs:1:", "d.md:1:"]);
}

#[test]
fn a_strange_word_is_found() {
    let page = format!("fine\nsee {}12\nfrom {}\n", PHRASES[3], REGISTRIES[0]);
    assert_found(&strangers(&Tree::sample(&[("a.md", &page)])), &["a.md:2:", "a.md:3:"]);
}
