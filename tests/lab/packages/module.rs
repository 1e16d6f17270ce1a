//! A kernel module of our own, built against the headers of a packaged kernel.
//!
//! The headers lie in the cache and not where their makefile expects them, so its paths are put
//! right. The machine's own compiler builds it, which may be older than the kernel's; what it does
//! not understand is taken out of the kernel's configuration. A module is built once for each
//! kernel and each text of its source.

use super::Cache;
use super::kernel::Kernel;
use crate::shell::{on, output, which};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Settings that need a newer compiler than gcc 12, and that a module does without.
const TOO_NEW: &[&str] = &["CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT="];

/// The programs of the headers package that want a newer C library, and are not spared.
const TOOLS: &[&str] = &["scripts/mod/modpost.real-lsb-64", "tools/objtool/objtool.real-x86"];

/// The module's content, built where it is not in the cache.
pub(crate) fn built(name: &str, kernel: &Kernel, cache: &Cache) -> Result<Vec<u8>, String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/guest").join(name);
    let release = &kernel.release;
    let key = format!("modules/{release}/{name}-{:016x}", text_hash(&source)?);
    let folder = cache.folder(&key, |into| {
        for tool in ["make", "gcc"] {
            which(tool).ok_or_else(|| format!("{name} is built with {tool}: install it"))?;
        }
        let headers = headers(kernel, cache)?;
        eprintln!("lab: building the module {name} for {release}");
        for file in files(&source)? {
            let copy = into.join(file.file_name().unwrap_or_default());
            fs::copy(&file, &copy).map_err(on(&file))?;
        }
        let headers = headers.join(format!("usr/src/linux-headers-{release}"));
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(headers)
            .arg(format!("M={}", into.display()))
            .args(["CC=gcc", "modules"]);
        output(&mut make).map(drop)
    })?;
    let file = folder.join(format!("{name}.ko"));
    fs::read(&file).map_err(on(&file))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(on(folder))? {
        files.push(entry.map_err(on(folder))?.path());
    }
    files.sort();
    Ok(files)
}

fn text_hash(folder: &Path) -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    for file in files(folder)? {
        fs::read(&file).map_err(on(&file))?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// The folder the headers of a kernel are unpacked in.
fn headers(kernel: &Kernel, cache: &Cache) -> Result<PathBuf, String> {
    let release = &kernel.release;
    let name = format!("headers/{release}");
    let folder = cache.folder(&name, |into| {
        let suite = cache.suite(kernel.lane.suite)?;
        let own = format!("linux-headers-{release}");
        let needed = suite.depends(&own)?.into_iter();
        let mut packages: Vec<String> = needed
            .filter(|name| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-"))
            .collect();
        packages.push(own);
        suite.unpack(&packages, into)
    })?;
    let ours = folder.join("usr/src").join(format!("linux-headers-{release}"));
    relocate(&ours.join("Makefile"), &folder)?;
    without_lines(&ours.join("include/config/auto.conf"), TOO_NEW)?;
    // Type information for the debugger, made of this file by a program that may be missing.
    let vmlinux = ours.join("vmlinux");
    if vmlinux.exists() {
        fs::remove_file(&vmlinux).map_err(on(&vmlinux))?;
    }
    if let Some(user_land) = kernel.lane.tools {
        let root = user_land.get(cache)?;
        for tool in TOOLS {
            run_in(&user_land.command(&root), &ours.join(tool))?;
        }
    }
    Ok(folder)
}

/// Makes the absolute paths of a makefile lead into `folder`.
fn relocate(makefile: &Path, folder: &Path) -> Result<(), String> {
    let text = fs::read_to_string(makefile).map_err(on(makefile))?;
    let here = format!("{}/usr/src/", folder.display());
    let text = text.replace(&here, "/usr/src/").replace("/usr/src/", &here);
    fs::write(makefile, text).map_err(on(makefile))
}

fn without_lines(file: &Path, beginnings: &[&str]) -> Result<(), String> {
    let text = fs::read_to_string(file).map_err(on(file))?;
    let is_kept = |line: &&str| !beginnings.iter().any(|beginning| line.starts_with(beginning));
    let kept: String = text.lines().filter(is_kept).map(|line| format!("{line}\n")).collect();
    fs::write(file, kept).map_err(on(file))
}

/// Puts a script in the tool's place that runs it in a user land.
fn run_in(user_land: &[String], tool: &Path) -> Result<(), String> {
    let mut real = tool.as_os_str().to_owned();
    real.push(".unwrapped");
    let real = PathBuf::from(real);
    if real.exists() || !tool.exists() {
        return Ok(());
    }
    let script = format!("#!/bin/sh\nexec {} {} \"$@\"\n", user_land.join(" "), real.display());
    fs::rename(tool, &real).map_err(on(tool))?;
    fs::write(tool, script).map_err(on(tool))?;
    fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).map_err(on(tool))
}
