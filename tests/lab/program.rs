//! Programs that are run: the workspace's own, as cargo builds them, with the libraries they need.

use crate::packages::userland::UserLand;
use crate::shell::{on, output};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A program of the workspace.
pub(crate) struct Program {
    /// The crate it is in.
    pub(crate) package: &'static str,
    pub(crate) target: Target,
    pub(crate) arguments: &'static [&'static str],
    /// Whether it is given what the command line has after `--`.
    pub(crate) takes_rest: bool,
    /// How long it may run in the guest, where everything takes ten times as long.
    pub(crate) limit: Duration,
}

/// Which of the crate's programs.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// `cargo build --bin`.
    Binary(&'static str),
    /// `cargo test --no-run --test`: one under the test harness.
    Test(&'static str),
}

/// A program that is built.
pub(crate) struct Built {
    pub(crate) program: &'static Program,
    pub(crate) name: &'static str,
    pub(crate) file: PathBuf,
    /// Shared libraries and their loader, at the paths they have here and will have there.
    pub(crate) libraries: Vec<PathBuf>,
}

/// Builds the programs, each as `cargo` would by itself.
pub(crate) fn build(programs: &[&'static Program]) -> Result<Vec<Built>, String> {
    programs.iter().map(|program| build_one(program)).collect()
}

fn build_one(program: &'static Program) -> Result<Built, String> {
    let (verb, kind, name) = match program.target {
        Target::Binary(name) => (&["build"][..], "--bin", name),
        Target::Test(name) => (&["test", "--no-run"][..], "--test", name),
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(verb).args(["-p", program.package, kind, name, "--message-format=json"]);
    // Inside the workspace, wherever the lab was called from.
    let told = output(cargo.current_dir(env!("CARGO_MANIFEST_DIR")))?;
    let file = told.lines().filter_map(|line| executable(line, name)).next_back();
    let file = file.ok_or_else(|| format!("cargo built {name} and named no program"))?;
    let libraries = libraries(&file)?;
    Ok(Built { program, name, file, libraries })
}

/// The program a line of cargo's messages names, if it is that of the target.
fn executable(line: &str, target: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_it = message["target"]["name"] == target;
    message["executable"].as_str().filter(|_| is_it).map(PathBuf::from)
}

/// What the loader would map; its own path is among it.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let told = output(Command::new("ldd").arg(program))?;
    let paths = told.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

impl Built {
    /// The words that run it, as `file`, in the user land that lies at a place.
    pub(crate) fn command(
        &self,
        file: &Path,
        user_land: Option<(&UserLand, &Path)>,
        rest: &[String],
    ) -> Vec<String> {
        let loader = user_land.map(|(user_land, at)| user_land.command(at));
        let own = self.program.arguments.iter().map(|argument| (*argument).to_owned());
        let rest = if self.program.takes_rest { rest } else { &[] };
        let mut words: Vec<String> = loader.into_iter().flatten().collect();
        words.push(file.display().to_string());
        words.extend(own.chain(rest.iter().cloned()));
        words
    }

    /// The program without what only a debugger reads, which is most of it.
    pub(crate) fn content(&self, folder: &Path) -> Result<Vec<u8>, String> {
        let stripped = folder.join(self.name);
        let strip = Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(&stripped)
            .arg(&self.file)
            .output();
        // Where there is no such tool the guest reads a few more megabytes.
        let file = match strip {
            Ok(output) if output.status.success() => &stripped,
            _ => &self.file,
        };
        fs::read(file).map_err(on(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_among_cargos_messages() {
        let library = r#"{"reason":"compiler-artifact","target":{"name":"a"},"executable":null}"#;
        let program = r#"{"reason":"compiler-artifact","target":{"name":"a"},"executable":"/t/a"}"#;
        assert_eq!(executable(library, "a"), None);
        assert_eq!(executable(program, "a"), Some(PathBuf::from("/t/a")));
        assert_eq!(executable(program, "b"), None);
        assert_eq!(executable("not json", "a"), None);
    }
}
