//! The `dataplane` tool: one file per subcommand, shared pieces beside them.
//!
//! A command returns a [`failure::Failure`] or nothing; what the process prints for a failure is
//! one line on standard error, and what it ends with is the failure's exit code. SIGPIPE is
//! ignored (the Rust runtime sees to that before `main`), so a closed pipe is an error value here.

mod args;
mod doctor;
mod failure;
mod fence;
mod metrics;
mod pipeline;
mod recv;
mod report;
mod send;
mod signals;
mod stream;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Moves data through memory that is registered once, and proves every byte.
#[derive(Parser)]
#[command(name = "dataplane", version, after_help = failure::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what this machine can do, each line known by doing it.
    Doctor(doctor::Args),
    /// Fences of drivers: what one is, waiting for it, and what works here.
    Fence(fence::Args),
    /// Stream a file over loopback TCP to a receiver in this process, and verify it.
    Stream(stream::Args),
    /// Send a file, a block device or standard input to `dataplane recv`. The bytes themselves
    /// are not encrypted.
    Send(send::Args),
    /// Receive what `dataplane send` sends. The bytes themselves are not encrypted.
    Recv(recv::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Doctor(args) => return doctor::run(&args),
        Command::Fence(args) => fence::run(&args),
        Command::Stream(args) => stream::run(&args),
        Command::Send(args) => send::run(&args),
        Command::Recv(args) => recv::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::say(format_args!("dataplane: {failure}"));
            ExitCode::from(failure.exit as u8)
        }
    }
}
