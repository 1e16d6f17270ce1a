//! Relative links in Markdown pages and in Rust's documentation prose lead somewhere.
//!
//! A target with a scheme is not followed: the network is not ours to test. In Rust, a target is
//! taken for a file when it holds a `/` or ends like one; anything else is an item, which the
//! documentation build checks. Headings are matched by the anchor a Markdown viewer gives them:
//! lower case, spaces to hyphens, punctuation dropped.

use crate::rust;
use crate::tree::{File, Finding, Tree, assert_found, assert_tidy};

#[test]
fn every_relative_link_leads_somewhere() {
    assert_tidy(&dead_links(&Tree::repository()));
}

fn dead_links(tree: &Tree) -> Vec<Finding> {
    let paths = tree.paths();
    let mut findings = Vec::new();
    for file in &tree.files {
        for (line, target) in links(file) {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let Some(path) = resolve(&file.path, path).filter(|path| paths.contains(path)) else {
                let what = format!("link to `{target}`: no such file; put the path right");
                findings.push(Finding::at(file, line, what));
                continue;
            };
            let page = tree.get(&path).filter(|page| page.path.ends_with(".md"));
            if page.is_some_and(|page| !anchor.is_empty() && !has_heading(page, anchor)) {
                let what = format!("link to `{target}`: {path} has no such heading");
                findings.push(Finding::at(file, line, what));
            }
        }
    }
    findings
}

/// The links of a file that must lead to a file, with their lines.
fn links(file: &File) -> Vec<(usize, String)> {
    let is_page = file.path.ends_with(".md");
    let text = if is_page { file.text.clone() } else { rust::blank_literals(&file.text) };
    let mut links = Vec::new();
    let mut in_code = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let prose = if is_page { Some(line) } else { documentation(line) };
        let Some(prose) = prose.filter(|_| is_page || file.is_rust()) else {
            in_code = false;
            continue;
        };
        if prose.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            let targets = targets(prose).into_iter().filter(|target| is_relative(target, is_page));
            links.extend(targets.map(|target| (at + 1, target)));
        }
    }
    links
}

fn documentation(line: &str) -> Option<&str> {
    line.strip_prefix("//!").or_else(|| line.strip_prefix("///"))
}

/// The targets of `[text](target)` and `[name]: target` in a line, code spans left out.
fn targets(prose: &str) -> Vec<String> {
    let outside = prose.split('`').step_by(2).collect::<Vec<_>>().join("``");
    let mut targets = Vec::new();
    for (at, _) in outside.match_indices("](") {
        let rest = &outside[at + 2..];
        targets.extend(rest.find(')').map(|end| rest[..end].to_owned()));
    }
    if let Some((name, target)) = outside.trim().split_once("]: ") {
        targets.extend(name.starts_with('[').then(|| target.to_owned()));
    }
    let first = |target: String| target.split_whitespace().next().map(str::to_owned);
    targets.into_iter().filter_map(first).collect()
}

fn is_relative(target: &str, is_page: bool) -> bool {
    let has_scheme = target.contains("://") || target.starts_with("mailto:");
    let ends_like_a_file = [".rs", ".md", ".toml", ".html"].iter().any(|end| target.ends_with(end));
    !has_scheme && (is_page || target.contains('/') || ends_like_a_file)
}

/// A target's path from the root; `None` when it leads out of the repository.
fn resolve(from: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

fn has_heading(page: &File, anchor: &str) -> bool {
    let headings = page.text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| slug(line.trim_start_matches('#').trim())).any(|slug| slug == anchor)
}

fn slug(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn a_dead_link_in_a_page_is_found() {
    let page = "\
[a](docs/b.md) [home](https://example.org/x) [top](#the-page) `[code](no)`
[c](docs/gone.md) and [d](../outside.md)
[e](docs/b.md#no-heading) [f](docs/b.md#some-heading-2)
[ref]: docs/none.md
```
[g](in/code.md)
```
[bad](#nowhere)
# The page
";
    let tree = Tree::sample(&[("README.md", page), ("docs/b.md", "## Some `heading`, 2\n")]);
    let expected = ["README.md:2:", "README.md:2:", "README.md:3:", "README.md:4:", "README.md:8:"];
    assert_found(&dead_links(&tree), &expected);
}

#[test]
fn a_dead_link_in_documentation_is_found() {
    let text = "\
//! [item](crate::slots::Slot), [item](Slot), [file](slots.rs), [dead](gone/slots.rs)
/// ```
/// let x = a[1](b/c);
/// ```
fn f() {} // not [prose](a/b)
    /// [dead](README.md)
fn g() {}
";
    let tree = Tree::sample(&[("a/lib.rs", text), ("a/slots.rs", "")]);
    assert_found(&dead_links(&tree), &["a/lib.rs:1:", "a/lib.rs:6:"]);
}
