//! `dataplane fence`: fences of drivers, by descriptor; and what of them works on this machine.

mod self_test;
mod time;
mod vulkan;

use crate::failure::{Doing, Exit, Failure, Result};
use clap::Subcommand;
use dataplane::fence::{Fence, FenceStatus, Semaphore, SyncFileInfo};
use dataplane::{Proactor, Wait};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::RawFd;
use std::time::Duration;

/// Options of `fence`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say what a descriptor is and how it stands.
    Info {
        /// The number of an inherited descriptor (`3`), or a path to open.
        #[arg(value_name = "FD-OR-PATH")]
        fence: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Wait until it signals: exit code 0, or 1 with its errno when it failed.
    Wait {
        /// The number of an inherited descriptor (`3`), or a path to open.
        #[arg(value_name = "FD-OR-PATH")]
        fence: String,
        /// Seconds to wait at most; exit code 4 when they are over. No limit when not given.
        #[arg(long, value_name = "SECONDS", value_parser = crate::args::seconds)]
        timeout: Option<Duration>,
    },
    /// Run every bridge this machine can run, and prove each line.
    SelfTest {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Time from a fence's signal to the semaphore's, beside a bare poll(2) of the same descriptor.
    Time {
        /// Signals of each kind.
        #[arg(long, default_value_t = 20_000)]
        count: u32,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Command::Info { fence, json } => info(&open(fence)?, *json),
        Command::Wait { fence, timeout } => wait(open(fence)?, *timeout),
        Command::SelfTest { json } => self_test::run(*json),
        Command::Time { count, json } => time::run(*count, *json),
    }
}

/// A number is a descriptor that came with the process, anything else a path.
fn open(name: &str) -> Result<Fence> {
    if let Ok(number) = name.parse::<RawFd>() {
        return Fence::duplicate_of(number).doing(format_args!("descriptor {number}"));
    }
    let file = OpenOptions::new().read(true).write(true).open(name);
    let file = file.or_else(|_| OpenOptions::new().read(true).open(name));
    Fence::from_fd(file.doing(format_args!("open {name}"))?.into()).doing(name)
}

/// What is known of a fence.
#[derive(Serialize)]
struct Known {
    kind: &'static str,
    status: String,
    /// Positive, when it failed.
    errno: Option<i32>,
    name: Option<String>,
    fences: Vec<Part>,
}

#[derive(Serialize)]
struct Part {
    driver: String,
    timeline: String,
    status: String,
    timestamp_ns: u64,
}

fn words(status: FenceStatus) -> String {
    match status {
        FenceStatus::Pending => "pending".to_owned(),
        FenceStatus::Signalled => "signalled".to_owned(),
        FenceStatus::Failed(errno) => {
            format!("failed: {}", std::io::Error::from_raw_os_error(errno))
        }
    }
}

impl Known {
    fn of(fence: &Fence) -> Result<Known> {
        let status = fence.status().doing("ask for the status")?;
        let errno = match status {
            FenceStatus::Failed(errno) => Some(errno),
            _ => None,
        };
        let (kind, info): (_, Option<SyncFileInfo>) = match fence {
            Fence::SyncFile(file) => ("sync_file", Some(file.info().doing("ask for its fences")?)),
            Fence::Point(_) => ("point of a syncobj", None),
            Fence::Signalled => ("nothing", None),
            _ => ("event", None),
        };
        let (name, parts) = info.map_or((None, Vec::new()), |info| (Some(info.name), info.fences));
        let part = |part: dataplane::fence::FenceInfo| Part {
            driver: part.driver,
            timeline: part.timeline,
            status: words(part.status),
            timestamp_ns: part.timestamp_ns,
        };
        let fences = parts.into_iter().map(part).collect();
        Ok(Known { kind, status: words(status), errno, name, fences })
    }

    fn text(&self) -> String {
        let mut text = format!("{}: {}\n", self.kind, self.status);
        if let Some(name) = &self.name {
            text += &format!("  name: {}\n", name.escape_debug());
        }
        for fence in &self.fences {
            let (driver, timeline) = (fence.driver.escape_debug(), fence.timeline.escape_debug());
            text += &format!("  {driver} {timeline}: {}", fence.status);
            if fence.timestamp_ns > 0 {
                text += &format!(" at {} ns", fence.timestamp_ns);
            }
            text.push('\n');
        }
        text
    }
}

fn info(fence: &Fence, json: bool) -> Result<()> {
    let known = Known::of(fence)?;
    print(&if json { as_json(&known) } else { known.text() })
}

/// Waits by importing it, as a program would.
fn wait(fence: Fence, timeout: Option<Duration>) -> Result<()> {
    let io = Proactor::new().doing("make a proactor")?;
    let done = Semaphore::new(0);
    let imported = match timeout {
        Some(timeout) => io.import_fence_within(fence, &done, 1, timeout),
        None => io.import_fence(fence, &done, 1),
    };
    imported.doing("import the fence")?;
    loop {
        match done.value() {
            Ok(0) => io.poll(Wait::Forever).doing("wait")?,
            Ok(_) => return print("signalled\n"),
            Err(failed) if failed.failure.errno() == Some(nix::errno::Errno::ETIME as i32) => {
                let text = "the fence is still pending; wait longer, or ask its driver";
                return Err(Failure::new(Exit::Peer, text));
            }
            Err(failed) => return Err(Failure::system("the fence", failed.failure)),
        };
    }
}

fn as_json(value: &impl Serialize) -> String {
    let mut text = serde_json::to_string(value).expect("plain values");
    text.push('\n');
    text
}

/// To standard output. A reader that went away has what it wanted.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::system("write to standard output", error))
        }
        _ => Ok(()),
    }
}
