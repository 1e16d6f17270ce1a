//! A short soak of every backend, plain and with faults injected, in ordinary test runs.
//!
//! For a long one: `cargo run --release -p conformance -- --soak 10000000 --seed 7`, with
//! `--configuration full-faults`, `epoll-faults` or `poll-faults`.

use conformance::{matrix, soak};
use std::io::Write;

/// Operations for each seed and configuration: a few seconds altogether.
const OPERATIONS: u64 = 20_000;
const SEEDS: [u64; 2] = [1, 2];

/// Every operation there is, but connects: those are begun and awaited by one function.
const KINDS: [&str; 28] = [
    "Accept",
    "AcceptMany",
    "Close",
    "EventWait",
    "Message",
    "Nop",
    "Open",
    "Poll",
    "PollMany",
    "Read",
    "Recv",
    "RecvFrom",
    "RecvMany",
    "RecvPool",
    "RecvVectored",
    "Resolve",
    "SemaphoreSignal",
    "SemaphoreWait",
    "SemaphoreWaitAll",
    "SemaphoreWaitAny",
    "Send",
    "SendTo",
    "SendVectored",
    "Shutdown",
    "Sync",
    "Timer",
    "Transfer",
    "Write",
];

/// A closed standard error is no reason to fail.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("\n{line}\n").as_bytes());
}

fn soak(name: &str) {
    let mut all = soak::Tally::default();
    for seed in SEEDS {
        let configurations = matrix::named(&[name.to_owned()], seed);
        for configuration in configurations.expect("a name of the matrix") {
            if let Err(reason) = &configuration.capabilities {
                return say(&format!("soak {name}: skipped: {reason}"));
            }
            match soak::run(&configuration, OPERATIONS, seed, |_| {}) {
                Ok(tally) => {
                    say(&format!("soak {name}, seed {seed}: {tally}"));
                    all.add(&tally);
                }
                Err(problem) => panic!("{name}, seed {seed}: {problem}"),
            }
        }
    }
    assert!(all.succeeded() > OPERATIONS / 2, "idle: {all}");
    for kind in KINDS {
        let accepted = all.kinds.get(kind).map_or(0, |count| count.accepted);
        assert!(accepted > 0, "no {kind} in it: {}", all.table());
    }
    assert!(all.others.get("connects").is_some_and(|count| *count > 0), "{}", all.table());
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
