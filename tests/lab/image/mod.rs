//! What the guest boots into: a shell, modules in the order to load them, programs, and a list of
//! what to run.
//!
//! `/init` (`guest/init`) reads three lists: `/lab/modules`, one name a line; `/lab/environment`,
//! sourced; `/lab/programs`, a line for each program with its name, its limit in seconds and its
//! command.

mod archive;

use crate::group::Group;
use crate::kernel::Kernel;
use crate::module;
use crate::package::Cache;
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
    let list = add_programs(&mut archive, programs, rest, folder)?;
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
    for built in programs {
        archive.program(&format!("/lab/{}", built.name), &built.content(folder)?);
        let (name, limit) = (built.name, built.program.limit.as_secs());
        let _ = write!(list, "{name} {limit} /lab/{name}");
        let rest = if built.program.takes_rest { rest } else { &[] };
        let arguments = built.program.arguments.iter().copied();
        for argument in arguments.chain(rest.iter().map(String::as_str)) {
            if argument.contains(char::is_whitespace) {
                return Err(format!("`{argument}`: an argument for the guest has no spaces"));
            }
            let _ = write!(list, " {argument}");
        }
        list.push('\n');
    }
    Ok(list)
}

fn environment(group: &Group, kernel: &Kernel) -> String {
    let devices = group.devices.iter().filter(|device| kernel.has(device));
    let devices: Vec<&str> = devices.map(|device| device.name).collect();
    let rows = if kernel.lane.has_ring { "io_uring,epoll,poll" } else { "epoll,poll" };
    format!("export REQUIRE_DEVICES={}\nexport REQUIRE={rows}\n", devices.join(","))
}
