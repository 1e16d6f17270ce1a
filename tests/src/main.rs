//! The runner: `cargo run -p conformance`.
//!
//! Without flags every case in every configuration. Exit status 1 when something failed, a
//! configuration that `REQUIRE` names was skipped, or nothing ran; 2 for a wrong command line.

use clap::Parser;
use conformance::{Case, Entry, Report, Runner, cases, matrix, soak};
use std::process::ExitCode;

/// What the help says after the flags.
const ELSEWHERE: &str = "\
Which lines of the backends and the engine all this reaches, and why some are not reached, is \
printed by: cargo run -p conformance --features coverage --bin coverage";

/// Runs the conformance suite.
#[derive(Parser)]
#[command(name = "conformance", after_help = ELSEWHERE)]
struct Arguments {
    /// List cases and configurations, and run none.
    #[arg(long)]
    list: bool,
    /// One JSON object per configuration, then one per case and configuration, on standard output;
    /// everything else on standard error.
    #[arg(long)]
    json: bool,
    /// Only this configuration; may be given several times.
    #[arg(long, value_name = "NAME")]
    configuration: Vec<String>,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "PATTERN")]
    case: Option<String>,
    /// Seed of the injected faults, and of a soak.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Instead of the cases, this many random operations in each configuration.
    #[arg(long, value_name = "OPS")]
    soak: Option<u64>,
}

fn chosen(pattern: Option<&str>) -> Vec<Case> {
    let mut all = cases::all();
    all.retain(|case| pattern.is_none_or(|pattern| case.name.contains(pattern)));
    all
}

fn list(cases: &[Case], configurations: &[matrix::Configuration]) {
    for case in cases {
        println!("{}", case.name);
    }
    println!("{} cases in {} configurations:", cases.len(), configurations.len());
    for configuration in configurations {
        match &configuration.capabilities {
            Ok(have) => println!("  {} ({have})", configuration.name),
            Err(reason) => println!("  {} (skipped: {reason})", configuration.name),
        }
    }
}

fn print(report: &Report, json: bool) {
    match json {
        true => eprint!("{report}"),
        false => print!("{report}"),
    }
}

/// Soaks each configuration that is to be had; whether all books balance.
fn soak_all(configurations: &[matrix::Configuration], operations: u64, seed: u64) -> bool {
    let mut is_good = true;
    for configuration in configurations {
        let name = &configuration.name;
        if let Err(reason) = &configuration.capabilities {
            println!("{name}: skipped: {reason}");
            continue;
        }
        let each = |sample: &soak::Sample| println!("{name}: {sample}");
        let outcome = soak::run(configuration, operations, seed, each).and_then(|tally| {
            println!("{name}: {tally}\n{}", tally.table());
            tally.complete()
        });
        match outcome {
            Ok(()) => {}
            Err(problem) => {
                println!("{name}: FAILED: {problem}");
                is_good = false;
            }
        }
    }
    is_good
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Err(problem)) = arguments.soak.map(|_| soak::prepare()) {
        eprintln!("{problem}");
        return ExitCode::FAILURE;
    }
    let configurations = match matrix::named(&arguments.configuration, arguments.seed) {
        Ok(configurations) => configurations,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if let Some(operations) = arguments.soak {
        return match soak_all(&configurations, operations, arguments.seed) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        };
    }
    let cases = chosen(arguments.case.as_deref());
    if arguments.list {
        list(&cases, &configurations);
        return ExitCode::SUCCESS;
    }
    if arguments.json {
        configurations.iter().for_each(|configuration| println!("{}", configuration.json()));
    }
    let tell = |entry: &Entry| {
        if arguments.json {
            println!("{}", entry.json());
        }
    };
    let report = Runner::from_env().run(&cases, &configurations, tell);
    print(&report, arguments.json);
    if report.entries.is_empty() {
        eprintln!("no case was run: no name contains {:?}", arguments.case.unwrap_or_default());
    }
    match report.is_good() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
