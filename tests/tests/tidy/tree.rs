//! The files the rules look at: what git tracks or would track, else a walk of the folder.
//!
//! A tree is read once per test and holds text only; paths are relative to the repository root and
//! written with `/`. A rule is a function from a tree to findings, so every rule can be shown a bad
//! sample made in memory (`Tree::sample`) beside the real tree.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rust;

/// One text file: its path from the root, its text, and for Rust its text without prose.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
    /// Same lines and columns as `text`, with comments, strings and characters blanked.
    pub(crate) code: String,
}

impl File {
    fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") { rust::blank_prose(&text) } else { String::new() };
        Self { path: path.to_owned(), text, code }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The `//!` prose at the head, without its markers; it ends at the first other line.
    pub(crate) fn head(&self) -> Vec<&str> {
        self.text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect()
    }
}

/// The repository as the rules see it, sorted by path.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

impl Tree {
    /// The repository this test was built from.
    pub(crate) fn repository() -> Self {
        let root = root();
        let mut paths = tracked(&root).unwrap_or_else(|| walked(&root));
        paths.sort();
        paths.dedup();
        let read = |path: String| {
            let text = String::from_utf8(fs::read(root.join(&path)).ok()?).ok()?;
            Some(File::new(&path, text))
        };
        let files: Vec<File> = paths.into_iter().filter_map(read).collect();
        assert!(
            files.iter().any(|file| file.path == "Cargo.toml"),
            "no Cargo.toml among the {} files found under {}: the rules would check nothing",
            files.len(),
            root.display()
        );
        Self { files }
    }

    /// A tree made of the given paths and texts.
    pub(crate) fn sample(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| File::new(path, (*text).into())).collect() }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_rust())
    }

    /// Every file and every folder that holds one.
    pub(crate) fn paths(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::from([String::new()]);
        for file in &self.files {
            let mut end = Some(file.path.as_str());
            while let Some(path) = end {
                all.insert(path.to_owned());
                end = path.rsplit_once('/').map(|(folder, _)| folder);
            }
        }
        all
    }
}

/// Something to put right: where, and what to do about it.
#[derive(Debug)]
pub(crate) struct Finding(pub(crate) String);

impl Finding {
    /// `line` counts from 1.
    pub(crate) fn at(file: &File, line: usize, what: impl AsRef<str>) -> Self {
        Self(format!("{}:{line}: {}", file.path, what.as_ref()))
    }
}

/// Fails with one line per finding.
pub(crate) fn assert_tidy(findings: &[Finding]) {
    let lines: Vec<&str> = findings.iter().map(|finding| finding.0.as_str()).collect();
    assert!(lines.is_empty(), "{} to put right:\n{}\n", lines.len(), lines.join("\n"));
}

/// For self-tests: fails unless the findings are exactly one per expected fragment, in order.
pub(crate) fn assert_found(findings: &[Finding], expected: &[&str]) {
    assert_eq!(findings.len(), expected.len(), "{findings:?} for {expected:?}");
    for (finding, fragment) in findings.iter().zip(expected) {
        assert!(finding.0.contains(fragment), "{:?} does not say {fragment:?}", finding.0);
    }
}

/// The repository root: the parent of this crate's folder.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests crate lies inside the repository").to_path_buf()
}

/// What git tracks, and what it would track: a file is checked before it is committed.
/// `None` where there is no git, no checkout, or git refuses the folder.
fn tracked(root: &Path) -> Option<Vec<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    let listed = String::from_utf8(output.stdout).ok()?;
    let exists = |path: &&str| root.join(path).is_file();
    let paths: Vec<String> = listed.split('\0').filter(exists).map(str::to_owned).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

/// Every file under the root but git's own and what cargo built.
fn walked(root: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && name != "target" && name != ".git" => {
                    folders.push(path);
                }
                Ok(kind) if kind.is_file() => {
                    paths.extend(
                        path.strip_prefix(root).ok().and_then(Path::to_str).map(Into::into),
                    );
                }
                _ => {}
            }
        }
    }
    paths
}

#[test]
fn git_and_the_walk_see_the_same_manifests() {
    let manifests = |paths: Vec<String>| {
        paths.into_iter().filter(|path| path.ends_with("Cargo.toml")).collect::<BTreeSet<_>>()
    };
    let walked = manifests(walked(&root()));
    assert!(walked.contains("Cargo.toml") && walked.contains("tests/Cargo.toml"), "{walked:?}");
    if let Some(tracked) = tracked(&root()) {
        assert!(manifests(tracked).is_subset(&walked));
    }
}

#[test]
fn folders_are_paths_too() {
    let paths = Tree::sample(&[("a/b/c.rs", "")]).paths();
    assert_eq!(paths, ["", "a", "a/b", "a/b/c.rs"].map(String::from).into());
}
