//! Running cargo from a test: the quality, loom and sanitizer gates share this.
//!
//! A gate builds into a folder of its own below `target/`, so that it neither waits for the build
//! that runs it nor invalidates it. Commands run one at a time: on a small machine two builds side
//! by side take longer and need twice the memory. What a gate has to say goes straight to standard
//! error, past the capture of passing tests, so that a skip is seen.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a command printed and whether it succeeded.
pub(crate) struct Outcome {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// The end of everything printed, for a message: errors come last.
    pub(crate) fn tail(&self) -> String {
        let all: Vec<&str> = self.stdout.lines().chain(self.stderr.lines()).collect();
        all[all.len().saturating_sub(80)..].join("\n")
    }
}

/// A program set to run in the repository root, without the flags that the caller set for its own
/// build: those would take precedence over the gate's.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository");
    command.current_dir(root).stdin(Stdio::null());
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTDOCFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    command.env("CARGO_TERM_COLOR", "never");
    command
}

/// `--target-dir` for a gate: a folder in this build's own target folder.
pub(crate) fn target_dir(gate: &str) -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().expect("cargo's scratch folder is in the target folder").join(gate)
}

/// Runs a command to its end, after any other gate's.
pub(crate) fn run(command: &mut Command) -> Result<Outcome, String> {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Output { status, stdout, stderr } = command
        .output()
        .map_err(|error| format!("{} did not start: {error}", command.get_program().display()))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Outcome { ok: status.success(), stdout: text(stdout), stderr: text(stderr) })
}

/// Prints a line that is seen although the test passes.
pub(crate) fn say(line: &str) {
    // A closed standard error is no reason to fail a gate.
    let _ = std::io::stderr().write_all(format!("\n{line}\n").as_bytes());
}
