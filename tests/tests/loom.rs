//! The loom models of each crate, run in release: every interleaving of a few threads.
//!
//! A model is a unit test whose path contains `loom`, compiled only under `cfg(loom)`. A crate
//! whose models all vanished fails here: zero models run is a failure, not a success.

mod gate;

/// How many tests of one `cargo test` run passed and failed.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    passed: usize,
    failed: usize,
}

/// Adds up the test runner's summary lines, `test result: ok. 3 passed; 0 failed; ...`.
fn counts(stdout: &str) -> Counts {
    let mut counts = Counts::default();
    for line in stdout.lines().filter(|line| line.starts_with("test result:")) {
        let words: Vec<&str> = line.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            match (pair[0].parse::<usize>(), pair[1]) {
                (Ok(count), "passed") => counts.passed += count,
                (Ok(count), "failed") => counts.failed += count,
                _ => {}
            }
        }
    }
    counts
}

fn run_models(package: &str) {
    let mut command = gate::command(env!("CARGO"));
    command.env("RUSTFLAGS", "--cfg loom");
    // Linking across crates gains little here and costs minutes.
    command.env("CARGO_PROFILE_RELEASE_LTO", "off");
    command.args(["test", "--release", "--lib", "-p", package, "--target-dir"]);
    command.arg(gate::target_dir("loom")).arg("loom");
    let outcome = gate::run(&mut command).expect("cargo runs this test, so it starts");
    let counts = counts(&outcome.stdout);
    let again = format!("RUSTFLAGS='--cfg loom' cargo test --release --lib -p {package} loom");
    assert!(
        outcome.ok && counts.failed == 0,
        "{package}: {} models failed, or they do not build: run `{again}`\n{}\n",
        counts.failed,
        outcome.tail()
    );
    assert!(counts.passed > 0, "{package}: no model ran; is a `loom` module left? run `{again}`");
    gate::say(&format!("loom: {package}: {} models passed", counts.passed));
}

#[test]
fn the_models_of_regions_hold() {
    run_models("regions");
}

#[test]
fn the_models_of_fence_hold() {
    run_models("fence");
}

#[test]
fn the_models_of_dataplane_hold() {
    run_models("dataplane");
}

#[test]
fn summaries_are_added_up() {
    let text = "\
running 2 tests
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.01s
test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out
";
    assert_eq!(counts(text), Counts { passed: 3, failed: 3 });
    assert_eq!(counts("error: could not compile"), Counts::default());
}
