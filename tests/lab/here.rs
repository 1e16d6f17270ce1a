//! A group's programs on this machine, in the group's user land: no emulator and no other kernel.
//!
//! Of the group's devices there is what the user land brings, and that is required. The verdict is
//! the exit codes of the programs, with the rules for reports of guests: a program that passes no
//! case fails.

use crate::group::Group;
use crate::packages::userland::UserLand;
use crate::program::Built;
use crate::report::Report;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Ends what runs for too long, with 137, as in a guest.
const TIMEOUT: &str = "timeout";

/// Runs them one after the other, and reads what they say into the report.
///
/// # Errors
///
/// One could not be started.
pub(crate) fn run(
    group: &Group,
    user_land: (&UserLand, &Path),
    programs: &[Built],
    rest: &[String],
    report: &mut Report,
) -> Result<(), String> {
    let brought = group.devices.iter().filter(|device| device.user_land.is_some());
    let devices: Vec<&str> = brought.map(|device| device.name).collect();
    for built in programs {
        let failed = |error| format!("{} could not be run: {error}", built.name);
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        let mut command = Command::new(TIMEOUT);
        command
            .args(["-s", "KILL", &built.program.limit.as_secs().to_string()])
            .args(built.command(&built.file, Some(user_land), rest))
            .envs(user_land.0.environment(user_land.1))
            .env("REQUIRE_DEVICES", devices.join(","))
            .stdin(Stdio::null())
            .stderr(writer.try_clone().map_err(failed)?)
            .stdout(writer);
        let mut child = command.spawn().map_err(failed)?;
        // It holds the ends for writing, without which reading comes to an end.
        drop(command);
        report.begin(built.name);
        for line in BufReader::new(reader).split(b'\n') {
            report.told(String::from_utf8_lossy(&line.map_err(failed)?).trim_end());
        }
        let status = child.wait().map_err(failed)?;
        let code = status.code().map_or_else(|| status.to_string(), |code| code.to_string());
        report.end(built.name, &code);
    }
    Ok(())
}
