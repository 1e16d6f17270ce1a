//! The conformance suite under AddressSanitizer: no use after free, no overflow, on io_uring with
//! everything, io_uring with the least, and epoll.
//!
//! The sanitizer sees what this process reads and writes. What the kernel writes into freed memory
//! it does not see. Leaks are not looked for: dropping a proactor that cannot drain leaks on
//! purpose.
//!
//! It needs a nightly toolchain no older than the workspace's Rust version; without one the test is
//! skipped with a printed reason. Zero cases run in a configuration is a failure, and a
//! configuration whose every case was skipped fails when `REQUIRE` names its row.

mod gate;

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

/// The configurations to run, each with the row that `REQUIRE` knows it by.
const CONFIGURATIONS: [(&str, &str); 3] =
    [("full", "io_uring"), ("minimal", "io_uring"), ("epoll", "epoll")];

/// What `rustc -vV` of a usable nightly says of its host, or why there is none.
fn nightly_host() -> Result<String, String> {
    let mut command = gate::command("rustup");
    command.args(["run", "nightly", "rustc", "-vV"]);
    let outcome = gate::run(&mut command)?;
    if !outcome.ok {
        return Err(format!("no nightly toolchain: {}", outcome.stderr.trim()));
    }
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    match (field(&outcome.stdout, "release: "), field(&outcome.stdout, "host: ")) {
        (Some(release), Some(_)) if version(release) < version(oldest) => {
            Err(format!("nightly {release} is older than {oldest}: run `rustup update nightly`"))
        }
        (Some(_), Some(host)) => Ok(host.to_owned()),
        _ => Err(format!("nightly's rustc does not say its version: {}", outcome.stdout)),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// Major and minor of a version such as `1.95` or `1.97.0-nightly`.
fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The conformance runner, built with the sanitizer: one JSON object per case and configuration.
fn runner(host: &str) -> Command {
    let mut command = gate::command("rustup");
    command.args(["run", "nightly", "cargo", "run", "-p", "conformance", "--target", host]);
    command.arg("--target-dir").arg(gate::target_dir("asan")).args(["--", "--json"]);
    for (configuration, _) in CONFIGURATIONS {
        command.args(["--configuration", configuration]);
    }
    command.env("RUSTFLAGS", "-Zsanitizer=address");
    command.env("ASAN_OPTIONS", "detect_leaks=0");
    // The rows outside this run are not this run's to require.
    command.env_remove("REQUIRE");
    command
}

/// Outcomes of one configuration.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    ok: usize,
    skipped: usize,
    failed: Vec<String>,
    /// The first skip's reason.
    reason: String,
}

/// Reads the runner's lines; a line that is not a known outcome is an error.
fn counts(stdout: &str) -> Result<BTreeMap<String, Counts>, String> {
    let mut all = BTreeMap::<String, Counts>::new();
    for line in stdout.lines().filter(|line| !line.trim().is_empty()) {
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("{error} in {line:?}"))?;
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        if value["case"].is_null() && value["has"].is_array() {
            continue; // what a configuration has and lacks
        }
        let counts = all.entry(text("configuration").to_owned()).or_default();
        match text("outcome") {
            "ok" => counts.ok += 1,
            "skipped" => {
                counts.skipped += 1;
                if counts.reason.is_empty() {
                    counts.reason = text("reason").to_owned();
                }
            }
            "failed" => counts.failed.push(format!("{}: {}", text("case"), text("reason"))),
            _ => return Err(format!("no known outcome in {line:?}")),
        }
    }
    Ok(all)
}

/// What is wrong with a run: a sanitizer report, a failed case, a configuration without cases.
fn verdict(outcome: &gate::Outcome, required: &str) -> Result<String, String> {
    let printed = || outcome.stdout.lines().chain(outcome.stderr.lines());
    if let Some(at) = printed().position(|line| line.contains("ERROR: AddressSanitizer")) {
        let report: Vec<&str> = printed().skip(at).take(60).collect();
        return Err(report.join("\n"));
    }
    let all = counts(&outcome.stdout).map_err(|e| format!("{e}\n{}", outcome.tail()))?;
    let mut summary = Vec::new();
    for (configuration, row) in CONFIGURATIONS {
        let none = Counts::default();
        let counts = all.get(configuration).unwrap_or(&none);
        if !counts.failed.is_empty() {
            return Err(format!("{configuration} failed:\n{}", counts.failed.join("\n")));
        }
        let is_required = required.split(',').any(|name| name.trim() == row);
        if counts.ok == 0 && (counts.skipped == 0 || is_required) {
            let why = if counts.skipped == 0 { "no case ran" } else { &counts.reason };
            return Err(format!("{configuration}: nothing was checked: {why}\n{}", outcome.tail()));
        }
        let mut line = format!("{configuration}: {} ok, {} skipped", counts.ok, counts.skipped);
        if counts.ok == 0 {
            line += &format!(" ({})", counts.reason);
        }
        summary.push(line);
    }
    if !outcome.ok {
        return Err(format!("the runner failed\n{}", outcome.tail()));
    }
    Ok(summary.join("; "))
}

#[test]
fn the_conformance_suite_holds_under_address_sanitizer() {
    let host = match nightly_host() {
        Ok(host) => host,
        Err(reason) => {
            gate::say(&format!("skipped: AddressSanitizer: {reason}"));
            return;
        }
    };
    let outcome = gate::run(&mut runner(&host)).expect("rustup started a moment ago");
    match verdict(&outcome, &env::var("REQUIRE").unwrap_or_default()) {
        Ok(summary) => gate::say(&format!("AddressSanitizer: {summary}")),
        Err(problem) => panic!("AddressSanitizer run: {problem}\n"),
    }
}

mod tests {
    use super::{gate, verdict, version};

    fn line(configuration: &str, outcome: &str) -> String {
        format!(
            "{{\"case\":\"c\",\"configuration\":\"{configuration}\",\
             \"outcome\":\"{outcome}\",\"reason\":\"why\"}}\n"
        )
    }

    fn judged(stdout: String, stderr: &str, required: &str) -> Result<String, String> {
        let outcome = gate::Outcome { ok: true, stdout, stderr: stderr.to_owned() };
        verdict(&outcome, required)
    }

    #[test]
    fn a_good_run_is_told_from_bad_ones() {
        let good = line("full", "ok") + &line("minimal", "ok") + &line("epoll", "ok");
        let skips = line("full", "skipped") + &line("minimal", "skipped") + &line("epoll", "ok");
        assert!(judged(good.clone(), "", "io_uring,epoll").is_ok());
        assert!(judged(skips.clone(), "", "epoll").is_ok_and(|summary| summary.contains("why")));
        assert!(judged(skips, "", "io_uring").is_err());
        assert!(judged(good.clone(), "==1==ERROR: AddressSanitizer: heap", "").is_err());
        assert!(judged(good.clone() + &line("epoll", "failed"), "", "").is_err());
        assert!(judged(good.clone() + &line("epoll", "lost"), "", "").is_err());
        assert!(judged(good + "not json\n", "", "").is_err());
        assert!(judged(line("full", "ok") + &line("minimal", "ok"), "", "").is_err());
        assert!(judged(String::new(), "", "").is_err());
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(version("1.97.0-nightly") > version("1.95"));
        assert!(version("1.100.0-nightly") > version("1.95"));
        assert!(version("1.9.0") < version("1.95"));
    }
}
