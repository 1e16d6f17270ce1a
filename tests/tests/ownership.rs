//! Who may touch what, and from which thread, as the compiler sees it: programs it must refuse and
//! programs it must take. They are built in a project of their own, with this workspace's lock.
//!
//! The expected words are those of the compiler named as the workspace's Rust version; with another
//! one the refused programs are not compared, and the reason is printed. To write them again:
//! `TRYBUILD=overwrite cargo test -p conformance --test ownership`.

use std::io::Write;
use std::process::Command;

/// The compiler's version, as `rustc --version` says it.
fn compiler() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).arg("--version").output().expect("a compiler built this");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_compiler_holds_the_rules_of_ownership() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ownership/allowed/*.rs");
    let (wanted, found) = (env!("CARGO_PKG_RUST_VERSION"), compiler());
    if found.starts_with(&format!("rustc {wanted}.")) {
        cases.compile_fail("tests/ownership/refused/*.rs");
    } else {
        let reason = format!("\nownership: skipped the refused ones: {found} is not {wanted}\n");
        // A closed standard error is no reason to fail.
        let _ = std::io::stderr().write_all(reason.as_bytes());
    }
}
