//! Line coverage of the backends and the engine, from one command:
//!
//! ```sh
//! cargo run -p conformance --features coverage --bin coverage
//! ```
//!
//! It builds the conformance runner, the tests of `dataplane` and the tests that need a process of
//! their own with `-C instrument-coverage` into `target/coverage`, runs them all (every
//! configuration of the matrix, faults included), reads what the compiler's counters say, and
//! prints the line coverage of each file. A line that nothing reaches must stand in a function that
//! [`gaps`] has a reason for, and no reason may outlive its lines (see [`verdict`]). Either is a
//! failure, as is a test that fails. No component of the toolchain is needed beyond the compiler:
//! the raw profiles and the coverage maps in the executables are read here (see [`lines`]).
//!
//! It is no part of `cargo test --workspace`: everything is built once more, with counters, which
//! takes minutes. What is built is kept, so that the next run builds what has changed.
//!
//! The reasons are those of a kernel that has every capability an operation uses. On another one
//! the lines that need what it lacks are missed; the first line of the output says what it has.
//!
//! The format belongs to the compiler's LLVM. When a toolchain brings a newer one, the crate that
//! reads it must follow (its feature in the root manifest), and says so here by failing to read.

mod gaps;
mod lines;
mod verdict;

use clap::Parser;
use dataplane::{Backend, Options, Proactor};
use lines::Lines;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use verdict::Verdict;

/// What is looked at, below the repository.
const SCOPE: [&str; 2] = ["dataplane/src/backend/", "dataplane/src/engine/"];

/// The program whose build says which lines there are.
const RUNNER: &str = "conformance";
/// Tests with a process of their own.
const PROCESS: &str = "process";

/// Counters in everything; atomic ones, because sums of counts lost by threads are below zero.
const FLAGS: &str = "-C instrument-coverage -C llvm-args=-instrprof-atomic-counter-update-all";

/// Measures the line coverage of the backends and the engine.
///
/// Builds the conformance runner, the tests of `dataplane` and the process tests with counters,
/// runs them, and prints the coverage of each file, then the lines that nothing reaches with the
/// reason for each. Exit status 1 when a test fails, when a line has no reason
/// (tests/src/coverage/gaps.rs), or when a reason is out of date. Takes minutes; no part of
/// `cargo test`.
#[derive(Parser)]
#[command(name = "coverage")]
struct Arguments {}

/// Something that runs, and whose counters are read.
struct Program {
    name: String,
    path: PathBuf,
    arguments: &'static [&'static str],
}

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| manifest.to_owned(), Path::to_owned)
}

/// Builds with counters; the executables that cargo made, by target name, tests apart.
fn build(work: &Path, arguments: &[&str]) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(arguments);
    command.args(["--message-format=json-render-diagnostics", "--target-dir"]).arg(work);
    command.env("RUSTFLAGS", FLAGS);
    // The maps are no debug information, which nobody looks at here and half the time goes into.
    command.env("CARGO_PROFILE_DEV_DEBUG", "0");
    // Build scripts have counters too, and would write them where they run.
    command.env("LLVM_PROFILE_FILE", work.join("build-scripts/%p.profraw"));
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cargo does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo {} failed", arguments.join(" ")));
    }
    let mut made = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let name = message["target"]["name"].as_str();
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            made.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(made)
}

/// The runner first, then the tests with a process of their own, then every test of the crate.
fn programs(work: &Path) -> Result<Vec<Program>, String> {
    // A build for integration tests makes the package's programs too, the runner among them; one
    // of its own would build the suite twice, for the features of dependencies differ.
    let mut suite = build(work, &["test", "--no-run", "-p", "conformance", "--test", PROCESS])?;
    let own = build(work, &["test", "--no-run", "-p", "dataplane", "--lib", "--tests"])?;
    let path = suite.remove(RUNNER).ok_or("cargo made no runner")?;
    // What else the package makes, the lab above all, is no test of its own.
    suite.retain(|name, _| name == PROCESS);
    let mut programs = vec![Program { name: RUNNER.to_owned(), path, arguments: &[] }];
    let tests = suite.into_iter().chain(own);
    programs.extend(tests.map(|(name, path)| Program { name, path, arguments: &["--quiet"] }));
    Ok(programs)
}

/// What a program left: the profiles of it and its children, and how it failed, if it did.
struct Ran {
    profiles: Vec<PathBuf>,
    failure: Option<String>,
}

/// Runs it to its end.
fn run(program: &Program, work: &Path) -> Result<Ran, String> {
    let folder = work.join("profiles").join(&program.name);
    // What an earlier run left would count for this one.
    let _ = std::fs::remove_dir_all(&folder);
    eprint!("     Running {}", program.name);
    let begun = Instant::now();
    let output = Command::new(&program.path)
        .args(program.arguments)
        .current_dir(root())
        .env("LLVM_PROFILE_FILE", folder.join("%p.profraw"))
        .output()
        .map_err(|error| format!("{}: {error}", program.path.display()))?;
    eprintln!(" ({} s)", begun.elapsed().as_secs());
    let failure = (!output.status.success()).then(|| {
        let said = String::from_utf8_lossy(&output.stdout);
        let tail: Vec<&str> = said.lines().rev().take(40).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!("{} failed ({}):\n{}", program.name, output.status, tail.join("\n"))
    });
    let entries = std::fs::read_dir(&folder).map_err(|error| format!("no profile: {error}"))?;
    let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    // A child that was killed may leave an empty one.
    let profiles = paths.filter(|path| path.metadata().is_ok_and(|file| file.len() > 0)).collect();
    Ok(Ran { profiles, failure })
}

/// What all runs came to.
#[derive(Default)]
struct Measured {
    /// The lines of every file in scope: those the runner's build has, hit by whatever ran.
    lines: BTreeMap<String, Lines>,
    /// Tests that failed; what they reached counts all the same.
    failures: Vec<String>,
}

fn measure(work: &Path) -> Result<Measured, String> {
    let mut measured = Measured::default();
    for program in programs(work)? {
        let ran = run(&program, work)?;
        measured.failures.extend(ran.failure);
        let found = lines::read(&program.path, &ran.profiles, &root(), &SCOPE)?;
        let all = &mut measured.lines;
        for (file, lines) in found {
            // Test modules of the files exist in the unit tests alone: their lines are not asked
            // for. The runner comes first.
            if program.name == RUNNER {
                all.insert(file, lines);
            } else if let Some(known) = all.get_mut(&file) {
                known.add(&lines);
            }
        }
    }
    for (file, lines) in &mut measured.lines {
        lines.keep_words(&source(file)?);
    }
    match measured.lines.is_empty() {
        true => Err("the coverage maps name no file in scope".to_owned()),
        false => Ok(measured),
    }
}

fn source(file: &str) -> Result<String, String> {
    std::fs::read_to_string(root().join(file)).map_err(|error| format!("{file}: {error}"))
}

fn table(all: &BTreeMap<String, Lines>) {
    let (mut reached, mut known) = (0, 0);
    let percent = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    for (file, lines) in all {
        let (hit, count) = lines.counts();
        println!("{:6.1} %  {hit:5} of {count:5}  {file}", percent(hit, count));
        (reached, known) = (reached + hit, known + count);
    }
    println!("{:6.1} %  {reached:5} of {known:5}  all\n", percent(reached, known));
}

fn report(measured: &Measured) -> Result<bool, String> {
    println!("{}", heading());
    table(&measured.lines);
    let mut verdict = Verdict::default();
    for (file, lines) in &measured.lines {
        verdict.look(file, &source(file)?, lines);
    }
    println!("{verdict}");
    measured.failures.iter().for_each(|failure| println!("\n{failure}"));
    Ok(verdict.is_good() && measured.failures.is_empty())
}

/// Which capabilities there were to be used.
fn heading() -> String {
    match Proactor::with(Options::default().backend(Backend::IoUring)) {
        Ok(io) => format!("io_uring here: {}", io.capabilities()),
        Err(why) => format!("no io_uring here, so its lines are missed: {why}"),
    }
}

fn main() -> ExitCode {
    let Arguments {} = Arguments::parse();
    let begun = Instant::now();
    let work = root().join("target").join("coverage");
    let good = measure(&work).and_then(|measured| report(&measured));
    eprintln!("    Finished in {} s", begun.elapsed().as_secs());
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("coverage: {problem}");
            ExitCode::FAILURE
        }
    }
}
