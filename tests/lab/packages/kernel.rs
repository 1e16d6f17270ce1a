//! Packaged kernels: which there are, where they come from, and their modules.
//!
//! The generic flavour, because the one for clouds lacks most drivers. A lane names one release
//! that was seen to work; a suite drops releases in time, and then the lane takes what the suite's
//! metapackage names, and says so.

use super::userland::{self, UserLand};
use super::{Cache, Suite};
use crate::device::Device;
use crate::shell::{on, output_bytes};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel a run without `--kernel` boots.
pub(crate) const USUAL: &str = "6.12";

/// A kernel one can ask for.
pub(crate) struct Lane {
    /// As `--kernel` names it.
    pub(crate) name: &'static str,
    /// The release to take while it is to be had.
    pub(crate) release: &'static str,
    pub(crate) suite: &'static str,
    /// What the programs of its headers package are linked with, where that is newer than what the
    /// oldest machine has that the lab runs on.
    pub(crate) tools: Option<&'static UserLand>,
    /// Whether io_uring there is new enough for the toolkit.
    pub(crate) has_ring: bool,
}

/// Every kernel.
pub(crate) const LANES: &[Lane] = &[
    Lane {
        name: "5.10",
        release: "5.10.0-32-amd64",
        suite: "bullseye",
        tools: None,
        has_ring: false,
    },
    Lane { name: "6.1", release: "6.1.0-50-amd64", suite: "bookworm", tools: None, has_ring: true },
    Lane {
        name: "6.12",
        release: "6.12.95+deb12-amd64",
        suite: "bookworm-backports",
        tools: None,
        has_ring: true,
    },
    Lane {
        name: "7.2",
        release: "7.2.12+deb13-amd64",
        suite: "trixie-backports",
        tools: Some(&userland::TOOLS),
        has_ring: true,
    },
];

/// The lanes with these names, in the order of [`LANES`].
pub(crate) fn named(names: &[String]) -> Result<Vec<&'static Lane>, String> {
    let known: Vec<&str> = LANES.iter().map(|lane| lane.name).collect();
    let is_known = |name: &&String| *name == "all" || known.contains(&name.as_str());
    if let Some(name) = names.iter().find(|name| !is_known(name)) {
        return Err(format!("no kernel `{name}`; there are {}, and `all`", known.join(", ")));
    }
    let is_wanted = |lane: &&Lane| names.iter().any(|name| name == lane.name || name == "all");
    Ok(LANES.iter().filter(is_wanted).collect())
}

/// A kernel that is there.
pub(crate) struct Kernel {
    pub(crate) lane: &'static Lane,
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// What the emulator boots.
    pub(crate) image: PathBuf,
    modules: PathBuf,
    /// The file of each module that is one, by name.
    files: BTreeMap<String, PathBuf>,
    /// Names of those that are part of the kernel.
    built_in: Vec<String>,
}

impl Kernel {
    /// From the cache, or fetched into it.
    pub(crate) fn get(lane: &'static Lane, cache: &Cache) -> Result<Kernel, String> {
        let name = format!("kernels/{}", lane.name);
        let folder = cache.folder(&name, |into| fetch(lane, &cache.suite(lane.suite)?, into))?;
        let file = folder.join("release");
        let release = fs::read_to_string(&file).map_err(on(&file))?;
        let is_there = |path: &PathBuf| path.exists();
        let missing = |what: &str| {
            format!("{}: holds no {what} of {release}; remove it and try again", folder.display())
        };
        let modules = ["usr/lib/modules", "lib/modules"].map(|at| folder.join(at).join(&release));
        let modules = modules.into_iter().find(is_there).ok_or_else(|| missing("modules"))?;
        let images = [folder.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
        let image = images.into_iter().find(is_there).ok_or_else(|| missing("image"))?;
        let mut files = BTreeMap::new();
        find_modules(&modules.join("kernel"), &mut files)?;
        let list = modules.join("modules.builtin");
        let list = fs::read_to_string(&list).map_err(on(&list))?;
        let built_in = list.lines().map(|line| module_name(Path::new(line))).collect();
        Ok(Kernel { lane, release, image, modules, files, built_in })
    }

    /// Whether the device is expected on this kernel.
    pub(crate) fn has(&self, device: &Device) -> bool {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let mut number = || numbers.next().and_then(Result::ok).unwrap_or(0);
        (number(), number()) >= device.since
    }

    /// Whether it has such a module, and not as a part of the kernel.
    pub(crate) fn has_module(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The modules' contents in an order in which they can be loaded, dependencies included.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut loaded = Vec::new();
        for name in names {
            self.load(&name.replace('-', "_"), &mut loaded)?;
        }
        Ok(loaded)
    }

    fn load(&self, name: &str, loaded: &mut Vec<(String, Vec<u8>)>) -> Result<(), String> {
        let is_loaded = loaded.iter().any(|(other, _)| other == name);
        if is_loaded || self.built_in.iter().any(|other| other == name) {
            return Ok(());
        }
        let Some(file) = self.files.get(name) else {
            return Err(format!("no module {name} in {}", self.modules.display()));
        };
        let bytes = decompressed(file)?;
        for needed in dependencies(&bytes) {
            self.load(&needed, loaded)?;
        }
        loaded.push((name.to_owned(), bytes));
        Ok(())
    }
}

/// Fetches the lane's packages, and notes the release they are of.
fn fetch(lane: &Lane, suite: &Suite, into: &Path) -> Result<(), String> {
    let mut release = lane.release.to_owned();
    if !suite.has(&format!("linux-image-{release}"))? {
        let named = suite.depends("linux-image-amd64")?;
        let newest = named.iter().find_map(|name| {
            let rest = name.strip_prefix("linux-image-")?;
            rest.starts_with(|c: char| c.is_ascii_digit()).then(|| rest.to_owned())
        });
        let newest = newest.ok_or_else(|| {
            format!("{} has no kernel {release}, and its metapackage names none", lane.suite)
        })?;
        eprintln!("lab: {} no longer has {release}; taking {newest}", lane.suite);
        release = newest;
    }
    // From 7.0 on the image, the modules, and the list of what is built in are packages each.
    let mut packages = Vec::new();
    for part in ["binary", "modules", "base"] {
        let package = format!("linux-{part}-{release}");
        if suite.has(&package)? {
            packages.push(package);
        }
    }
    if packages.len() < 3 {
        packages = vec![format!("linux-image-{release}")];
    }
    suite.unpack(&packages, into)?;
    let file = into.join("release");
    fs::write(&file, release).map_err(on(&file))
}

/// A module's name, as the kernel spells it: its file's up to the first dot.
fn module_name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().replace('-', "_")
}

fn find_modules(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), String> {
    for entry in fs::read_dir(folder).map_err(on(folder))? {
        let path = entry.map_err(on(folder))?.path();
        if path.is_dir() {
            find_modules(&path, files)?;
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".ko")) {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

fn decompressed(file: &Path) -> Result<Vec<u8>, String> {
    match file.extension().and_then(|end| end.to_str()) {
        Some("xz") => output_bytes(Command::new("xz").arg("-dc").arg(file)),
        _ => fs::read(file).map_err(on(file)),
    }
}

/// What a module says it depends on: a string `depends=a,b` among others that zeros end.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let end = rest.iter().position(|&byte| byte == 0).unwrap_or(rest.len());
    let names = String::from_utf8_lossy(&rest[..end]).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_depends_on() {
        let module = b"\x7fELF\0license=GPL\0depends=drm,drm-kms_helper\0name=vgem\0";
        assert_eq!(dependencies(module), ["drm", "drm_kms_helper"]);
        assert!(dependencies(b"\0depends=\0name=drm\0").is_empty());
        assert!(dependencies(b"nothing").is_empty());
    }

    #[test]
    fn a_module_is_named_as_the_kernel_does() {
        assert_eq!(module_name(Path::new("kernel/drivers/virtio-gpu.ko.xz")), "virtio_gpu");
    }

    #[test]
    fn an_unknown_kernel_is_refused_with_those_there_are() {
        let refused = named(&["2.4".to_owned()]).err().unwrap_or_default();
        assert!(refused.contains("2.4") && refused.contains("6.12"), "{refused}");
        assert_eq!(named(&["all".to_owned()]).map(|all| all.len()), Ok(LANES.len()));
    }
}
