//! A short soak of every backend, plain and with faults injected, in ordinary test runs.
//!
//! For a long one: `cargo run -p conformance -- --soak 10000000 --seed 7 --configuration full`.

use conformance::{matrix, soak};
use std::io::Write;

/// Steps for each seed and configuration: a second or two altogether.
const OPERATIONS: u64 = 2000;
const SEEDS: [u64; 2] = [1, 2];

fn soak(name: &str) {
    for seed in SEEDS {
        let configurations = matrix::named(&[name.to_owned()], seed);
        for configuration in configurations.expect("a name of the matrix") {
            let said = match &configuration.capabilities {
                Err(reason) => format!("skipped: {reason}"),
                Ok(_) => match soak::run(&configuration, OPERATIONS, seed, |_| {}) {
                    Ok(tally) => {
                        assert!(tally.succeeded() > OPERATIONS / 20, "idle: {tally}");
                        tally.to_string()
                    }
                    Err(problem) => panic!("{name}: {problem}"),
                },
            };
            // A closed standard error is no reason to fail.
            let line = format!("\nsoak {name}, seed {seed}: {said}\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
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
