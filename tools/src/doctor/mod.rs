//! `dataplane doctor`: what this machine can do.
//!
//! Every line is known by doing the thing: a byte moved through each backend, memory registered, a
//! zero-copy send and its notification, a file read past the page cache. A check never stops the
//! others; where something is not there, its line says why and what would help. Absence is no
//! failure: the exit code is 0 while at least one backend moved its bytes.
//!
//! - `report`: a check and its states; text and JSON.
//! - `exchange`: moving bytes and comparing them.
//! - `backends`: the backends, and the proofs of the io_uring capabilities.
//! - `work`: sends, receives, files, names, through the backend that `auto` picks.
//! - `memory`: registered memory, huge pages, NUMA nodes.
//! - `system`: kernel, limits, policies.
//! - `devices`: what sysfs, /dev and the library folders list.
//! - `remedies`: settings to paste.
//!
//! All of it runs on the calling thread, except name resolution, which the proactor gives to a
//! helper thread.

mod backends;
mod devices;
pub mod exchange;
mod memory;
mod remedies;
pub mod report;
mod system;
mod work;

use dataplane::diagnose::UringReport;
use exchange::Trouble;
use report::{Check, Report};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// Options of `doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Print the settings to paste (seccomp profile, service unit, sysctls) and nothing else.
    #[arg(long, conflicts_with = "json")]
    remedies: bool,
}

/// Runs the checks and prints them. 0 unless no backend could move a byte, or the report could not
/// be written.
pub fn run(args: &Args) -> ExitCode {
    if args.remedies {
        return written(print(remedies::TEXT));
    }
    let report = examine();
    let text = match args.json {
        true => report.json(),
        false => report.text(colours()),
    };
    match (written(print(&text)), report.meets_the_minimum()) {
        (code, true) => code,
        (_, false) => {
            eprintln!(
                "dataplane doctor: no backend could move a byte; the lines above say why, and \
                 `dataplane doctor --remedies` has settings to paste"
            );
            ExitCode::FAILURE
        }
    }
}

/// The order in which things are tried is not the order of the report: memory is measured before
/// more rings are made, which would have a share of RLIMIT_MEMLOCK.
fn examine() -> Report {
    let uring = dataplane::diagnose::io_uring();
    let mut checks = system::kernel(&uring);
    let (memory, work) = on_a_proactor(&uring);
    checks.extend(backends::capabilities(&uring));
    checks.extend(work);
    let registers = memory.iter().any(|check| check.name == memory::REGISTERED && check.is_ok());
    checks.extend(memory);
    checks.extend(system::limits(registers));
    checks.extend(system::policies(&uring));
    checks.extend(devices::checks());
    Report { backends: backends::backends(&uring), checks }
}

/// What needs a proactor: memory, then work.
fn on_a_proactor(uring: &UringReport) -> (Vec<Check>, Vec<Check>) {
    match exchange::proactor(exchange::options(), uring) {
        Ok(io) => (memory::checks(&io, uring), work::checks(&io)),
        Err(error) => {
            let trouble = Trouble::from(error);
            let remedy = trouble.remedy("report this");
            let check = Check::failed("proactor", trouble.to_string(), "asked for one");
            (Vec::new(), vec![check.remedy(remedy)])
        }
    }
}

fn colours() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !set("NO_COLOR") && !dumb
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A reader that went away has what it wanted; anything else is worth an exit code.
fn written(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell when standard error is gone too.
            let _ = writeln!(
                io::stderr(),
                "dataplane doctor: writing the report to standard output: {error}; free space or \
                 write elsewhere"
            );
            ExitCode::FAILURE
        }
    }
}
