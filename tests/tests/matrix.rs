//! The conformance suite as ordinary tests: one for each group of configurations.
//!
//! The tests share a runner, so that what a case tells is compared between all of them. Cases run
//! one at a time whatever the number of test threads, because descriptors are counted around each.
//! `REQUIRE=io_uring,epoll,poll` makes a skipped row a failure. Counts and skips go straight to
//! standard error, past the capture of passing tests.

use conformance::{Configuration, Outcome, Report, Runner, cases, matrix};
use std::io::Write;
use std::sync::LazyLock;

/// Seeds of the injected faults: each row under each.
const SEEDS: [u64; 2] = [1, 2];

/// Fewer cases than this means that a list was lost.
const FEWEST_CASES: usize = 400;

static RUNNER: LazyLock<Runner> = LazyLock::new(Runner::from_env);

fn say(text: &str) {
    // A closed standard error is no reason to fail.
    let _ = std::io::stderr().write_all(format!("\n{text}").as_bytes());
}

fn assert_good(report: &Report) {
    say(&report.to_string());
    assert_eq!(report.count(Outcome::Failed), 0, "\n{report}");
    assert!(report.cut_short.is_none(), "{:?}", report.cut_short);
    assert!(!report.entries.is_empty(), "no case was run");
}

fn run(configurations: &[Configuration]) {
    assert_good(&RUNNER.run(&cases::all(), configurations, |_| {}));
}

fn one(name: &str) {
    run(&matrix::named(&[name.to_owned()], 1).expect("a name of the matrix"));
}

fn with_faults(name: &str) {
    for seed in SEEDS {
        let configurations = matrix::named(&[format!("{name}-faults")], seed);
        run(&configurations.expect("a name of the matrix"));
    }
}

#[test]
fn full() {
    one("full");
}

#[test]
fn minimal() {
    one("minimal");
}

#[test]
fn each_capability_masked() {
    let mut masks = matrix::all(1);
    masks.retain(|one| one.name.starts_with("without-"));
    run(&masks);
}

#[test]
fn sqpoll() {
    one("sqpoll");
}

#[test]
fn epoll() {
    one("epoll");
}

#[test]
fn poll() {
    one("poll");
}

#[test]
fn full_with_faults() {
    with_faults("full");
}

#[test]
fn minimal_with_faults() {
    with_faults("minimal");
}

#[test]
fn epoll_with_faults() {
    with_faults("epoll");
}

#[test]
fn poll_with_faults() {
    with_faults("poll");
}

#[test]
fn no_list_of_cases_is_lost() {
    let count = cases::all().len();
    assert!(count >= FEWEST_CASES, "{count} cases");
}

#[test]
fn the_canary_fails_everywhere() {
    let report = Runner::new("").run(&[cases::core::CANARY], &matrix::all(1), |_| {});
    assert_eq!(report.count(Outcome::Ok), 0, "{report}");
    assert!(report.count(Outcome::Failed) > 0 && !report.is_good(), "{report}");
    let failed = report.entries.iter().filter(|entry| entry.outcome == Outcome::Failed);
    for entry in failed {
        assert!(entry.reason.contains("meant to fail"), "{}", entry.reason);
        assert!(entry.reason.contains("core.rs:"), "it names the place: {}", entry.reason);
    }
}

/// What the runner must notice by itself, whatever a case asserts.
mod noticed {
    use conformance::{Case, Cx, Outcome, Runner, Skip, matrix};
    use std::os::fd::IntoRawFd;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn reason(run: fn(&Cx<'_>) -> Result<(), Skip>, names: &[&str]) -> String {
        let case = Case { name: "noticed/this", needs: &[], run };
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let configurations = matrix::named(&names, 1).expect("names of the matrix");
        let report = Runner::new("").run(&[case], &configurations, |_| {});
        assert_eq!(report.count(Outcome::Failed), 1, "{report}");
        report.entries.last().expect("it ran").reason.clone()
    }

    fn leaves_a_descriptor(_: &Cx<'_>) -> Result<(), Skip> {
        let file = std::fs::File::open("/dev/null").expect("/dev/null is there");
        LEFT.store(file.into_raw_fd() as usize, Ordering::Relaxed);
        Ok(())
    }

    static LEFT: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn a_descriptor_left_open() {
        let reason = reason(leaves_a_descriptor, &["poll"]);
        assert!(reason.contains("/dev/null"), "{reason}");
        // It stays open: the number may be another's by the time this runs.
        assert!(LEFT.load(Ordering::Relaxed) > 2);
    }

    fn leaves_an_operation(cx: &Cx<'_>) -> Result<(), Skip> {
        let (near, far) = cx.unix_pair();
        let receiving = near.recv(cx.slab(1, 64).lease().expect("a free slot"));
        receiving.submit().expect("room for a receive").detach();
        std::mem::forget((near, far));
        Ok(())
    }

    #[test]
    fn an_operation_left_in_flight() {
        let reason = reason(leaves_an_operation, &["poll"]);
        assert!(reason.contains("recv"), "{reason}");
    }

    fn tells_another_story(cx: &Cx<'_>) -> Result<(), Skip> {
        cx.note("alike");
        cx.note(cx.io.backend());
        Ok(())
    }

    #[test]
    fn another_transcript() {
        let reason = reason(tells_another_story, &["epoll", "poll"]);
        assert!(reason.contains("line 2") && reason.contains("in `epoll`"), "{reason}");
    }
}
