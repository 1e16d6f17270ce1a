//! The `dataplane` tool.

mod doctor;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Moves bytes through registered memory, and says how.
#[derive(Parser)]
#[command(name = "dataplane", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what this machine can do, each line known by doing it.
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Doctor(args) => doctor::run(&args),
    }
}
