//! Formatting, lints and documentation, as part of the one test command.
//!
//! Each gate runs cargo as a developer would. A missing rustfmt or clippy skips its gate with a
//! printed reason, and fails it when `CI` is set: there it can be installed.

mod gate;

use std::env;
use std::process::Command;

/// Skips or fails when a cargo subcommand is not installed; true when it is there.
fn is_installed(subcommand: &str, component: &str) -> bool {
    let is_there = gate::run(gate::command(env!("CARGO")).args([subcommand, "--version"]))
        .is_ok_and(|version| version.ok && !version.stdout.is_empty());
    if !is_there {
        let reason = format!(
            "`cargo {subcommand}` is not installed; add it with `rustup component add {component}`"
        );
        assert!(env::var_os("CI").is_none(), "{reason}");
        gate::say(&format!("skipped: {reason}"));
    }
    is_there
}

/// Runs a gate; its failure shows what cargo said and what to do.
fn assert_clean(command: &mut Command, remedy: &str) {
    let outcome = gate::run(command).expect("cargo runs this test, so it starts");
    assert!(outcome.ok, "{remedy}\n{}\n", outcome.tail());
}

#[test]
fn the_workspace_is_formatted() {
    if is_installed("fmt", "rustfmt") {
        assert_clean(
            gate::command(env!("CARGO"))
                .args(["fmt", "--all", "--check", "--", "--color", "never"]),
            "formatting differs: run `cargo fmt --all`",
        );
    }
}

#[test]
fn clippy_has_nothing_to_say() {
    if is_installed("clippy", "clippy") {
        let mut command = gate::command(env!("CARGO"));
        command.args(["clippy", "--workspace", "--all-targets", "--target-dir"]);
        command.arg(gate::target_dir("quality")).args(["--", "-D", "warnings"]);
        assert_clean(
            &mut command,
            "lints: run `cargo clippy --workspace --all-targets -- -D warnings`",
        );
    }
}

#[test]
fn the_documentation_builds_without_a_warning() {
    let mut command = gate::command(env!("CARGO"));
    command.env("RUSTDOCFLAGS", "-D warnings");
    command.args(["doc", "--workspace", "--no-deps", "--target-dir"]);
    command.arg(gate::target_dir("quality"));
    assert_clean(
        &mut command,
        "documentation: run `RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps`",
    );
}
