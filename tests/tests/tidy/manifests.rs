//! Dependencies: each is written once, in the root manifest, with the reason beside it.
//!
//! The root table gives version and reason; a crate's manifest only points at it. Members of this
//! workspace need no reason, the crate map is theirs. Manifests are read line by line: a
//! dependency is one line, or one that ends where its brackets close.

use std::collections::BTreeMap;

use crate::tree::{File, Finding, Tree, assert_found, assert_tidy};

const ROOT: &str = "Cargo.toml";
const ROOT_TABLE: &str = "workspace.dependencies";

#[test]
fn every_dependency_has_a_reason() {
    assert_tidy(&unreasoned(&Tree::repository()));
}

#[test]
fn every_dependency_is_written_once() {
    assert_tidy(&not_shared(&Tree::repository()));
}

/// One entry of a dependency table.
struct Entry<'a> {
    line: usize,
    name: &'a str,
    value: &'a str,
    /// Prose after the entry, or on the lines right above it.
    reason: &'a str,
}

/// The entries of every table whose name the caller wants. `[table.name]` headers count as entries
/// without a reason: a dependency is one line.
fn entries(file: &File, wanted: impl Fn(&str) -> bool) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    let (mut inside, mut open, mut above) = (false, 0_isize, "");
    for (at, line) in file.text.lines().enumerate() {
        let (code, comment) = line.split_once('#').unwrap_or((line, ""));
        let (code, comment) = (code.trim(), comment.trim());
        if let Some(table) = code.strip_prefix('[').filter(|_| open == 0) {
            let table = table.trim_end_matches(']');
            inside = wanted(table);
            let parent = table.rsplit_once('.').filter(|(parent, _)| wanted(parent));
            if let Some((_, name)) = parent {
                entries.push(Entry { line: at + 1, name, value: "", reason: comment });
            }
        } else if inside
            && open == 0
            && let Some((name, value)) = code.split_once('=')
        {
            let name = name.trim().trim_end_matches(".workspace");
            let reason = if comment.is_empty() { above } else { comment };
            entries.push(Entry { line: at + 1, name, value: value.trim(), reason });
        }
        open += nesting(code);
        above = if code.is_empty() { comment } else { "" };
    }
    entries
}

fn nesting(code: &str) -> isize {
    let step = |c| match c {
        '[' | '{' => 1,
        ']' | '}' => -1,
        _ => 0,
    };
    code.chars().map(step).sum()
}

fn is_member(entry: &Entry<'_>) -> bool {
    entry.value.contains("path =")
}

fn unreasoned(tree: &Tree) -> Vec<Finding> {
    let Some(root) = tree.get(ROOT) else {
        return vec![Finding(format!("{ROOT}: does not exist"))];
    };
    entries(root, |table| table == ROOT_TABLE)
        .iter()
        .filter(|entry| !is_member(entry) && entry.reason.is_empty())
        .map(|entry| {
            let what = format!("`{}`: say what it is for in a comment on its line", entry.name);
            Finding::at(root, entry.line, what)
        })
        .collect()
}

fn is_dependency_table(table: &str) -> bool {
    let last = table.rsplit_once('.').map_or(table, |(_, last)| last);
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies")
}

/// Entries in the crates' manifests that do not come from the root table.
fn not_shared(tree: &Tree) -> Vec<Finding> {
    let root = tree.get(ROOT).map(|root| entries(root, |table| table == ROOT_TABLE));
    let shared: BTreeMap<&str, usize> =
        root.unwrap_or_default().iter().map(|entry| (entry.name, entry.line)).collect();
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        for entry in entries(file, is_dependency_table) {
            let inherits = entry.value == "true" || entry.value.contains("workspace = true");
            if !inherits || !shared.contains_key(entry.name) {
                let what = format!(
                    "`{}`: put it into [{ROOT_TABLE}] with a reason, and here `workspace = true`",
                    entry.name
                );
                findings.push(Finding::at(file, entry.line, what));
            }
        }
    }
    findings
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    let text = "\
[workspace]
members = [
    \"a\",
]
[workspace.dependencies]
a = { path = \"a\" }
libc = \"0.2\"   # constants
nix = { version = \"0.31\", features = [
    \"poll\",
] }
# Hashes.
sha2 = \"0.11\"
hmac = \"0.13\"
[workspace.dependencies.clap]
version = \"4\"
";
    let expected = ["Cargo.toml:8: `nix`", "Cargo.toml:13: `hmac`", "Cargo.toml:14: `clap`"];
    assert_found(&unreasoned(&Tree::sample(&[("Cargo.toml", text)])), &expected);
    assert_found(&unreasoned(&Tree::sample(&[])), &["does not exist"]);
}

#[test]
fn a_dependency_of_one_crate_alone_is_found() {
    let root = "[workspace.dependencies]\nlibc = \"0.2\" # constants\n";
    let member = "\
[package]
name = \"a\"
[dependencies]
libc.workspace = true
rand = \"0.9\"
[target.'cfg(loom)'.dependencies]
loom.workspace = true
[dev-dependencies]
libc = { workspace = true, features = [\"extra_traits\"] }
[dependencies.nix]
workspace = true
";
    let tree = Tree::sample(&[("Cargo.toml", root), ("a/Cargo.toml", member)]);
    let expected = ["a/Cargo.toml:5: `rand`", "a/Cargo.toml:7: `loom`", "a/Cargo.toml:10: `nix`"];
    assert_found(&not_shared(&tree), &expected);
}
