//! What the guest boots into: a shell, modules in the order to load them, programs, and a list of
//! what to run.
//!
//! `/init` (`guest/init`) reads three lists: `/lab/modules`, one name a line; `/lab/environment`,
//! sourced; `/lab/programs`, a line for each program with its name, its limit in seconds and its
//! command.

mod archive;

use crate::group::Group;
use crate::packages::kernel::Kernel;
use crate::packages::userland::IN_GUEST;
use crate::packages::{Cache, module};
use crate::program::Built;
use crate::shell::on;
use archive::Archive;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const INIT: &[u8] = include_bytes!("../guest/init");

/// The suite of the shell, which is linked with nothing and runs on every kernel.
const SHELL_SUITE: &str = "trixie";

/// Modules every guest has: those of the disk for its files, and file systems in user space, by
/// which tests stand in for what is missing.
const USUAL: &[&str] = &["virtio_pci", "virtio_blk", "ext4", "fuse"];

/// What the file system looks for when it is mounted, on kernels that have it as a module.
const CHECKSUM: &str = "crc32c_generic";

/// Writes the image into the run's folder; `rest` is handed on to every program.
pub(crate) fn make(
    group: &Group,
    kernel: &Kernel,
    cache: &Cache,
    programs: &[Built],
    rest: &[String],
    folder: &Path,
) -> Result<PathBuf, String> {
    let mut archive = Archive::default();
    for folder in ["/dev", "/proc", "/sys", "/tmp", "/run"] {
        archive.folder(folder);
    }
    archive.program("/init", INIT);
    archive.program("/bin/busybox", &shell(cache)?);
    archive.link("/bin/sh", "busybox");
    archive.file("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
    let list = add_modules(&mut archive, group, kernel, cache)?;
    archive.file("/lab/modules", list.as_bytes());
    if group.user_land().is_some() {
        archive.folder(IN_GUEST);
    }
    let list = add_programs(&mut archive, group, programs, rest, folder)?;
    archive.file("/lab/programs", list.as_bytes());
    archive.file("/lab/environment", environment(group, kernel).as_bytes());
    let file = folder.join("image.cpio");
    fs::write(&file, archive.finish()).map_err(on(&file))?;
    Ok(file)
}

fn shell(cache: &Cache) -> Result<Vec<u8>, String> {
    let folder = cache.folder("busybox", |into| {
        cache.suite(SHELL_SUITE)?.unpack(&["busybox-static".to_owned()], into)
    })?;
    let places = ["usr/bin/busybox", "bin/busybox"].map(|at| folder.join(at));
    let file = places.iter().find(|file| file.exists()).unwrap_or(&places[0]);
    fs::read(file).map_err(on(file))
}

/// Adds what the group's devices need, and lists it in the order to load it.
fn add_modules(
    archive: &mut Archive,
    group: &Group,
    kernel: &Kernel,
    cache: &Cache,
) -> Result<String, String> {
    let devices: Vec<_> = group.devices.iter().filter(|device| kernel.has(device)).collect();
    let mut names = USUAL.to_vec();
    if kernel.has_module(CHECKSUM) {
        names.push(CHECKSUM);
    }
    names.extend(devices.iter().flat_map(|device| device.modules));
    let mut modules = kernel.modules(&names)?;
    for own in devices.iter().filter_map(|device| device.own) {
        modules.push((own.to_owned(), module::built(own, kernel, cache)?));
    }
    let mut list = String::new();
    for (name, content) in modules {
        archive.file(&format!("/lib/modules/{name}.ko"), &content);
        list += &format!("{name}\n");
    }
    Ok(list)
}

/// Adds the programs and their libraries, and lists how to call them.
fn add_programs(
    archive: &mut Archive,
    group: &Group,
    programs: &[Built],
    rest: &[String],
    folder: &Path,
) -> Result<String, String> {
    let mut list = String::new();
    let libraries: BTreeSet<&PathBuf> = programs.iter().flat_map(|one| &one.libraries).collect();
    for library in libraries {
        let content = fs::read(library).map_err(on(library))?;
        archive.program(&library.to_string_lossy(), &content);
    }
    let user_land = group.user_land().map(|user_land| (user_land, Path::new(IN_GUEST)));
    for built in programs {
        let file = format!("/lab/{}", built.name);
        archive.program(&file, &built.content(folder)?);
        let words = built.command(Path::new(&file), user_land, rest);
        if let Some(word) = words.iter().find(|word| word.contains(char::is_whitespace)) {
            return Err(format!("`{word}`: an argument for the guest has no spaces"));
        }
        let limit = built.program.limit.as_secs();
        let _ = writeln!(list, "{} {limit} {}", built.name, words.join(" "));
    }
    Ok(list)
}

fn environment(group: &Group, kernel: &Kernel) -> String {
    let devices = group.devices.iter().filter(|device| kernel.has(device));
    let devices: Vec<&str> = devices.map(|device| device.name).collect();
    let rows = if kernel.lane.has_ring { "io_uring,epoll,poll" } else { "epoll,poll" };
    let mut variables = vec![("REQUIRE_DEVICES", devices.join(",")), ("REQUIRE", rows.to_owned())];
    if let Some(user_land) = group.user_land() {
        variables.extend(user_land.environment(Path::new(IN_GUEST)));
    }
    let line = |(name, value): (&str, String)| format!("export {name}='{value}'\n");
    variables.into_iter().map(line).collect()
}
