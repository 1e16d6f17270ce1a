//! A short soak of every backend, plain and with faults injected, in ordinary test runs.
//!
//! Each is a process of its own, for it counts the descriptors, memory and signals of a process. It
//! is long enough that the runner fails it unless every kind of operation was in it.
//!
//! For a long one: `cargo run --release -p conformance -- --soak 10000000 --seed 7`, with
//! `--configuration full-faults`, `epoll-faults` or `poll-faults`.

use std::io::Write;
use std::process::Command;

/// Operations for each seed and configuration: a second or two.
const OPERATIONS: u64 = 100_000;
const SEEDS: [u64; 2] = [1, 2];

fn soak(name: &str) {
    for seed in SEEDS {
        let (seed, operations) = (seed.to_string(), OPERATIONS.to_string());
        let output = Command::new(env!("CARGO_BIN_EXE_conformance"))
            .args(["--configuration", name, "--soak", &operations, "--seed", &seed])
            .output()
            .expect("the runner starts");
        let (said, errors) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{name}, seed {seed}: {said}\n{errors}");
        // What it did, or why it was skipped.
        let is_outcome = |line: &&str| line.contains("kinds: ") || line.contains("skipped: ");
        let outcome = said.lines().find(is_outcome).expect("a soak says what it did");
        // A closed standard error is no reason to fail.
        let _ = writeln!(std::io::stderr(), "soak, seed {seed}, {outcome}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

macro_rules! soaks {
    ($($test:ident => $name:literal;)*) => {
        $(#[test]
        fn $test() {
            soak($name);
        })*
    };
}

soaks! {
    full => "full";
    minimal => "minimal";
    epoll => "epoll";
    poll => "poll";
    full_with_faults => "full-faults";
    minimal_with_faults => "minimal-faults";
    epoll_with_faults => "epoll-faults";
    poll_with_faults => "poll-faults";
}
