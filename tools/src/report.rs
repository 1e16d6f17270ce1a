//! What happened: for people on the terminal, as one JSON object for programs.
//!
//! Bytes of a stage are counted per way they went, so a transfer that began without copies and went
//! on with them has two lines for its send. Written with `writeln!`: a closed pipe is a quiet end,
//! never a panic.

use crate::failure::{Doing, Exit, Failure, Result};
use crate::pipeline::hash::{Algorithm, Digest, hex};
use dataplane::Path;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

/// One way the bytes of one stage went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    /// read, send, receive or write.
    pub stage: &'static str,
    /// The kernel mechanism.
    pub mechanism: &'static str,
    /// How many went this way.
    pub bytes: u64,
    /// Whether nothing copied them.
    pub zero_copy: bool,
    /// Why they were copied, or not moved at all.
    pub reason: Option<String>,
}

/// Counts the bytes of one stage by the way they went.
pub struct Tally {
    stage: &'static str,
    paths: Vec<(Path, u64)>,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(stage: &'static str) -> Tally {
        Tally { stage, paths: Vec::new() }
    }

    /// Adds bytes that went this way.
    pub fn add(&mut self, path: Path, bytes: usize) {
        match self.paths.iter_mut().find(|(known, _)| *known == path) {
            Some((_, sum)) => *sum += bytes as u64,
            None => self.paths.push((path, bytes as u64)),
        }
    }

    /// The lines of the report.
    pub fn stages(&self) -> Vec<Stage> {
        let stage = |(path, bytes): &(Path, u64)| Stage {
            stage: self.stage,
            mechanism: path.mechanism.name(),
            bytes: *bytes,
            zero_copy: path.is_zero_copy(),
            reason: path.copied.map(|reason| reason.to_string()),
        };
        match self.paths.is_empty() {
            true => vec![idle(self.stage, "there were no bytes")],
            false => self.paths.iter().map(stage).collect(),
        }
    }
}

/// A stage in which nothing moved.
pub fn idle(stage: &'static str, reason: &str) -> Stage {
    let reason = Some(reason.to_owned());
    Stage { stage, mechanism: "none", bytes: 0, zero_copy: false, reason }
}

/// The hash of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hash {
    /// Its name.
    pub algorithm: &'static str,
    /// The digest; null for none.
    pub hex: Option<String>,
}

/// What a command reports. The names are stable: programs read them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// stream, send or recv.
    pub command: &'static str,
    /// Bytes of data.
    pub bytes: u64,
    /// From the first byte to the verdict.
    pub seconds: f64,
    /// Millions of bytes a second.
    pub mb_per_s: f64,
    /// CPU time of this process meanwhile, user and system.
    pub cpu_seconds: f64,
    /// The backend that ran.
    pub backend: String,
    /// The hash this end computed.
    pub hash: Hash,
    /// Whether both ends computed the same hash over as many bytes; false for hash none.
    pub verified: bool,
    /// Which way the bytes went.
    pub stages: Vec<Stage>,
    /// What was wanted and is not so, each with the reason.
    pub fallbacks: Vec<String>,
}

/// A stopwatch of wall-clock and CPU time.
pub struct Watch {
    started: Instant,
    cpu: Duration,
}

fn cpu_time() -> Duration {
    getrusage(UsageWho::RUSAGE_SELF).map_or(Duration::ZERO, |usage| {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    })
}

impl Watch {
    /// Starts now.
    pub fn start() -> Watch {
        Watch { started: Instant::now(), cpu: cpu_time() }
    }

    /// Wall-clock and CPU time since the start.
    pub fn read(&self) -> (Duration, Duration) {
        (self.started.elapsed(), cpu_time().saturating_sub(self.cpu))
    }
}

impl Report {
    /// A report of `bytes` that took as long as the watch says.
    pub fn new(command: &'static str, bytes: u64, watch: &Watch) -> Report {
        let (elapsed, cpu) = watch.read();
        let seconds = elapsed.as_secs_f64();
        Report {
            command,
            bytes,
            seconds,
            mb_per_s: if seconds > 0.0 { bytes as f64 / 1e6 / seconds } else { 0.0 },
            cpu_seconds: cpu.as_secs_f64(),
            backend: String::new(),
            hash: Hash { algorithm: Algorithm::None.name(), hex: None },
            verified: false,
            stages: Vec::new(),
            fallbacks: Vec::new(),
        }
    }

    /// Sets the hash, and whether the other end agreed with it.
    pub fn hashed(&mut self, algorithm: Algorithm, digest: Option<Digest>, agreed: bool) {
        self.hash = Hash { algorithm: algorithm.name(), hex: digest.as_ref().map(hex) };
        self.verified = agreed && digest.is_some();
    }

    /// Adds a fallback once.
    pub fn fell_back(&mut self, fallbacks: impl IntoIterator<Item = String>) {
        for fallback in fallbacks {
            if !self.fallbacks.contains(&fallback) {
                self.fallbacks.push(fallback);
            }
        }
    }

    fn people(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(
            out,
            "{}: {} bytes in {:.3} s, {:.1} MB/s, {:.3} s of CPU, backend {}",
            self.command, self.bytes, self.seconds, self.mb_per_s, self.cpu_seconds, self.backend
        )?;
        let hex = self.hash.hex.as_deref().unwrap_or("not computed");
        let verdict = match (self.verified, &self.hash.hex) {
            (true, _) => "both ends agree",
            (false, Some(_)) => "NOT VERIFIED",
            (false, None) => "only the length was compared",
        };
        writeln!(out, "  hash     {} {hex} ({verdict})", self.hash.algorithm)?;
        for stage in &self.stages {
            write!(out, "  {:<8} {} bytes by {}", stage.stage, stage.bytes, stage.mechanism)?;
            match (&stage.reason, stage.zero_copy) {
                (_, true) => writeln!(out, ", zero-copy")?,
                (Some(reason), _) if stage.mechanism == "none" => writeln!(out, ": {reason}")?,
                (Some(reason), _) => writeln!(out, ", copied: {reason}")?,
                (None, false) => writeln!(out, ", copied")?,
            }
        }
        for fallback in &self.fallbacks {
            writeln!(out, "  fallback {fallback}")?;
        }
        Ok(())
    }

    /// Writes it to standard output, or to standard error when the data goes to the former.
    pub fn print(&self, json: bool, stdout_is_data: bool) -> Result<()> {
        let mut text = Vec::new();
        let rendered = match json {
            true => serde_json::to_writer(&mut text, self)
                .map_err(std::io::Error::from)
                .and_then(|()| writeln!(text)),
            false => self.people(&mut text),
        };
        rendered.doing("render the report")?;
        let written = match stdout_is_data {
            true => std::io::stderr().write_all(&text),
            false => {
                let mut out = std::io::stdout().lock();
                out.write_all(&text).and_then(|()| out.flush())
            }
        };
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::new(Exit::System, format!("write the report: {error}"))),
            Ok(()) => Ok(()),
        }
    }
}

/// A line on standard error, for what happens on the way. Nobody reading it is no error.
pub fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
