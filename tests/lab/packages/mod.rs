//! Packages: fetched by name from a suite of the machine's own mirror, unpacked into a cache.
//!
//! What they are fetched for: `kernel` (which there are, and their modules), `module` (one of our
//! own, built against a kernel's headers), `userland` (libraries newer than the machine's).
//!
//! Each suite has an apt directory of its own in the cache: sources, lists, and an empty list of
//! installed packages. So packages of a suite the machine does not follow can be had, and the
//! machine's own packages stay as they are. Each thing in the cache is made beside its place and
//! moved there when it is whole; what is there is used as it is, without asking the network.

pub(crate) mod kernel;
pub(crate) mod module;
pub(crate) mod userland;

use crate::shell::{on, output};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Suites of which a mirror that carries one carries all.
const SUITES: &[&str] = &["bullseye", "bookworm", "trixie", "forky", "stable", "testing", "sid"];

/// Keys of every suite.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What the name of a suite ends with that only adds to another one.
const ADDS: &str = "-backports";

/// What is kept between runs.
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache of this user.
    pub(crate) fn open() -> Result<Cache, String> {
        let user = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
            (Some(folder), _) if !folder.is_empty() => PathBuf::from(folder),
            (_, Some(home)) => PathBuf::from(home).join(".cache"),
            _ => return Err("no place for the cache; set XDG_CACHE_HOME or HOME".into()),
        };
        let root = user.join("dataplane-lab");
        fs::create_dir_all(&root).map_err(on(&root))?;
        Ok(Cache { root })
    }

    /// The folder of that name; made whole by `fill` where it is not there yet.
    pub(crate) fn folder(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<PathBuf, String> {
        let folder = self.root.join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        let unfinished = self.root.join(format!("{name}.unfinished-{}", std::process::id()));
        fs::create_dir_all(&unfinished).map_err(on(&unfinished))?;
        let filled = fill(&unfinished);
        if let Err(problem) = filled {
            // The problem is what matters; what could not be removed is in nobody's way.
            let _ = fs::remove_dir_all(&unfinished);
            return Err(problem);
        }
        fs::rename(&unfinished, &folder).map_err(on(&folder))?;
        Ok(folder)
    }

    /// An empty folder for one run.
    pub(crate) fn run_folder(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.root.join("runs").join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(on(&folder))?;
        Ok(folder)
    }

    /// A suite with lists as of now.
    pub(crate) fn suite(&self, name: &str) -> Result<Suite, String> {
        let sources = sources(&mirror()?, name);
        let suite = Suite { name: name.to_owned(), folder: self.root.join("apt").join(name) };
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = suite.folder.join(part);
            fs::create_dir_all(&part).map_err(on(&part))?;
        }
        let settings = suite.settings();
        let written =
            [("status", String::new()), ("sources.list", sources), ("apt.conf", settings)];
        for (file, text) in written {
            let file = suite.folder.join(file);
            fs::write(&file, text).map_err(on(&file))?;
        }
        eprintln!("lab: reading what {name} has");
        output(suite.apt("apt-get").args(["--error-on=any", "update"])).map_err(|problem| {
            format!("the packages of {name} cannot be had; is there a network?\n{problem}")
        })?;
        Ok(suite)
    }
}

/// Address of the mirror this machine's own packages come from.
fn mirror() -> Result<String, String> {
    if let Ok(address) = std::env::var("LAB_MIRROR") {
        return Ok(address);
    }
    let remedy = "the lab takes its kernels from packages of Debian and needs its apt-get and \
                  dpkg; run it on Debian, a container will do, or name a mirror in LAB_MIRROR";
    let format = ["indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"];
    let targets = output(Command::new("apt-get").args(format));
    let targets = targets.map_err(|problem| format!("{problem}\n{remedy}"))?;
    let mut sources = targets.lines().filter_map(|line| line.split_once(' '));
    let of_debian = sources.find(|(suite, _)| SUITES.contains(suite));
    let of_debian = of_debian.map(|(_, address)| address.to_owned());
    of_debian.ok_or_else(|| format!("no package source of this machine has Debian\n{remedy}"))
}

/// What `sources.list` says: the suite, and the one it adds to.
fn sources(mirror: &str, suite: &str) -> String {
    // Where the keyring is not installed, apt trusts what the machine trusts.
    let keys = match Path::new(KEYRING).exists() {
        true => format!(" signed-by={KEYRING}"),
        false => String::new(),
    };
    let line = |suite: &str| format!("deb [arch=amd64{keys}] {mirror} {suite} main\n");
    line(suite) + &suite.strip_suffix(ADDS).map(line).unwrap_or_default()
}

/// A suite of the mirror.
pub(crate) struct Suite {
    name: String,
    folder: PathBuf,
}

impl Suite {
    /// What points apt at the suite's directory, and away from the machine's own.
    fn settings(&self) -> String {
        let folder = self.folder.display();
        let settings = [
            ("Dir::Etc::SourceList", format!("{folder}/sources.list")),
            ("Dir::Etc::SourceParts", "/dev/null".into()),
            ("Dir::Etc::Preferences", "/dev/null".into()),
            ("Dir::Etc::PreferencesParts", "/dev/null".into()),
            ("Dir::State::Lists", format!("{folder}/lists")),
            ("Dir::State::status", format!("{folder}/status")),
            ("Dir::Cache", format!("{folder}/cache")),
            ("APT::Architecture", "amd64".into()),
            ("Acquire::Retries", "3".into()),
            // Before the suite it adds to, which apt would prefer.
            ("APT::Default-Release", self.name.clone()),
            // The unprivileged user that root fetches as may not write here.
            ("APT::Sandbox::User", "root".into()),
        ];
        settings.map(|(key, value)| format!("{key} \"{value}\";\n")).concat()
    }

    /// One of apt's programs with these settings.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf"));
        command
    }

    /// Whether the suite has such a package.
    pub(crate) fn has(&self, package: &str) -> Result<bool, String> {
        let names = output(self.apt("apt-cache").args(["pkgnames", package]))?;
        Ok(names.lines().any(|name| name == package))
    }

    /// The names of what a package depends on.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>, String> {
        let told = output(self.apt("apt-cache").args(["show", "--no-all-versions", package]))?;
        let line = told.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let name = |one: &str| one.split_whitespace().next().map(str::to_owned);
        Ok(line.split(',').filter_map(name).collect())
    }

    /// The packages and everything they depend on, each as `NAME=VERSION`: what apt would install
    /// on a machine that has none.
    pub(crate) fn closure(&self, packages: &[&str]) -> Result<Vec<String>, String> {
        let mut apt = self.apt("apt-get");
        apt.args(["--simulate", "--no-install-recommends", "install"]).args(packages);
        let told = output(&mut apt).map_err(|problem| {
            format!("{} has not all that {} needs\n{problem}", self.name, packages.join(", "))
        })?;
        Ok(told.lines().filter_map(installed).collect())
    }

    /// Fetches packages and unpacks them over each other.
    pub(crate) fn unpack(&self, packages: &[String], into: &Path) -> Result<(), String> {
        match packages.len() {
            0..=5 => eprintln!("lab: fetching {} from {}", packages.join(", "), self.name),
            many => eprintln!("lab: fetching {many} packages from {}", self.name),
        }
        let files = into.join("packages");
        fs::create_dir_all(&files).map_err(on(&files))?;
        let fetched =
            output(self.apt("apt-get").arg("download").args(packages).current_dir(&files));
        fetched.map_err(|problem| {
            format!("a package of {} cannot be had; is there a network?\n{problem}", self.name)
        })?;
        for file in fs::read_dir(&files).map_err(on(&files))? {
            let file = file.map_err(on(&files))?.path();
            output(Command::new("dpkg").arg("-x").arg(&file).arg(into))?;
        }
        fs::remove_dir_all(&files).map_err(on(&files))
    }
}

/// What a line of a simulation installs: `Inst NAME (VERSION ORIGIN [ARCHITECTURE])`.
fn installed(line: &str) -> Option<String> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
    let version = rest.split_whitespace().next()?;
    Some(format!("{name}={version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_names_what_it_would_install() {
        let line = "Inst libgcc-s1 (14.2.0-19 Debian:13.8/stable [amd64]) []";
        assert_eq!(installed(line).as_deref(), Some("libgcc-s1=14.2.0-19"));
        assert_eq!(installed("Conf libgcc-s1 (14.2.0-19 Debian:13.8/stable [amd64])"), None);
    }

    #[test]
    fn a_suite_that_adds_to_another_comes_with_it() {
        let suites = |name: &str| -> Vec<String> {
            let text = sources("mirror", name);
            let word = |line: &str| line.split(' ').nth_back(1).map(str::to_owned);
            text.lines().filter_map(word).collect()
        };
        assert_eq!(suites("trixie-backports"), ["trixie-backports", "trixie"]);
        assert_eq!(suites("bookworm"), ["bookworm"]);
    }
}
