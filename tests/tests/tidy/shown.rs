//! What a page names as shown is there: cases of the suite and test functions.
//!
//! A link says where a proof is, and its text names it. `[noun/name](tests/src/cases/noun.rs)` is a
//! case, which that file must list; `[a_function](some/file.rs)` is a function of that file, which
//! is a test or, in the models of loom, becomes one. Any other text is prose. That the files exist
//! is `links`' business.

use crate::rust;
use crate::tree::{File, Finding, Tree, assert_found, assert_tidy};

/// Where the cases are.
const CASES: &str = "tests/src/cases/";

#[test]
fn what_pages_name_is_there() {
    let tree = Tree::repository();
    assert_tidy(&missing(&tree));
    let page = tree.get("README.md").expect("there is a front page");
    let named = page.text.lines().flat_map(links).filter(is_named);
    assert!(named.count() > 0, "the front page names nothing: has its form changed?");
}

fn missing(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for page in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (at, line) in page.text.lines().enumerate() {
            for link in links(line).into_iter().filter(is_named) {
                let (text, target) = link;
                let holds = tree.get(target).is_some_and(|file| holds(file, text));
                if !holds {
                    let what = format!("`{text}` is not in {target}; name what shows it");
                    findings.push(Finding::at(page, at + 1, what));
                }
            }
        }
    }
    findings
}

/// Text and target of each link of a line.
fn links(line: &str) -> Vec<(&str, &str)> {
    let link = |(at, _): (usize, &str)| {
        let text = &line[line[..at].rfind('[')? + 1..at];
        let target = line[at + 2..].split(')').next()?;
        Some((text, target))
    };
    line.match_indices("](").filter_map(link).collect()
}

/// Whether the text of a link is a name, not prose.
fn is_named(&(text, target): &(&str, &str)) -> bool {
    let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match text.split_once('/') {
        Some((noun, name)) => target.starts_with(CASES) && is_word(noun) && is_word(name),
        None => target.ends_with(".rs") && !target.contains("/examples/") && is_word(text),
    }
}

fn holds(file: &File, text: &str) -> bool {
    match text.contains('/') {
        true => file.text.contains(&format!("name: \"{text}\"")),
        false => rust::words(&file.code, text).any(|at| {
            let (before, after) = (&file.code[..at], &file.code[at + text.len()..]);
            before.ends_with("fn ") && after.starts_with('(')
        }),
    }
}

#[test]
fn what_is_named_and_not_there_is_found() {
    let page = "\
| [recv/one](tests/src/cases/recv.rs) [a_test](src/a.rs) | [src/a.rs](src/a.rs) |
[recv/gone](tests/src/cases/recv.rs)
[a_helper](src/a.rs) [gone](src/a.rs)
[the pages](src/a.rs) [recv](dataplane/examples/recv.rs)
[recv/one](tests/src/cases/send.rs)
";
    let tree = Tree::sample(&[
        ("README.md", page),
        ("tests/src/cases/recv.rs", "Case { name: \"recv/one\", needs: &[], run: one }"),
        ("tests/src/cases/send.rs", "// name: recv/one"),
        (
            "src/a.rs",
            "#[test]\nfn a_test() {}\nfn other() { let a_helper = gone(); }\n// fn gone()",
        ),
        ("dataplane/examples/recv.rs", "fn main() {}"),
    ]);
    let expected = ["README.md:2:", "README.md:3:", "README.md:3:", "README.md:5:"];
    assert_found(&missing(&tree), &expected);
}
