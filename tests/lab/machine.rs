//! The emulator: one boot, watched until it ends, and the two ways in which its verdict comes out.
//!
//! Always interpreted code and one virtual processor: nested virtualisation is rarely to be had,
//! and with two processors a boot now and then dies before its first process. A boot that never
//! got there is tried once more; one that did is not, because then the fault may be ours.
//!
//! The guest writes its verdict on the serial line and to the exit port. Both must be there and
//! agree, so neither a guest that died nor a line that was cut off passes.

use crate::group::Group;
use crate::packages::kernel::Kernel;
use crate::report::Report;
use crate::shell::{on, output, which};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const EMULATOR: &str = "qemu-system-x86_64";
const PACKAGE: &str = "qemu-system-x86";

/// How long a guest may take beside its programs.
const BOOTS_WITHIN: Duration = Duration::from_secs(180);

/// Size of the disk for the guest's files; it takes up only what is written.
const DISK_BYTES: u64 = 1 << 30;

/// Installs the emulator where that is missing and we may, and says what to do where we may not.
pub(crate) fn ensure_emulator() -> Result<(), String> {
    if which(EMULATOR).is_some() {
        return Ok(());
    }
    let install = format!("apt-get install --no-install-recommends {PACKAGE}");
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root || which("apt-get").is_none() {
        return Err(format!("{EMULATOR} is not in PATH; as root: {install}"));
    }
    eprintln!("lab: installing {PACKAGE}");
    let update = output(Command::new("apt-get").arg("update"));
    let words = ["install", "--yes", "--no-install-recommends", PACKAGE];
    let installed = update.and_then(|_| {
        output(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(words))
    });
    installed.map_err(|problem| format!("{PACKAGE} cannot be installed: {install}\n{problem}"))?;
    which(EMULATOR).map(drop).ok_or_else(|| format!("{PACKAGE} brought no {EMULATOR}"))
}

/// What is booted, for which group.
pub(crate) struct Boot<'a> {
    pub(crate) group: &'a Group,
    pub(crate) kernel: &'a Kernel,
    pub(crate) image: &'a Path,
    /// A folder of this machine's that the guest may read.
    pub(crate) user_land: Option<&'a Path>,
    /// Where the guest's disk and what it writes are put.
    pub(crate) folder: &'a Path,
}

/// Boots the image and reads what the guest says into the report.
///
/// # Errors
///
/// The emulator could not be started. What goes wrong from then on is in the report.
pub(crate) fn boot(what: &Boot, report: &mut Report) -> Result<(), String> {
    attempt(what, report)?;
    if !report.has_begun() {
        let exit = report.exit;
        eprintln!("lab: the guest ended ({exit:?}) before its first process; once more");
        report.forget();
        attempt(what, report)?;
    }
    Ok(())
}

fn attempt(what: &Boot, report: &mut Report) -> Result<(), String> {
    let Boot { group, folder, .. } = what;
    let disk = folder.join("disk");
    File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).map_err(on(&disk))?;
    let serial = folder.join("serial");
    // The file that is read from now on; the emulator empties it and goes on writing to it.
    File::create(&serial).map_err(on(&serial))?;
    let mut line = Serial::open(&serial)?;
    let limit = BOOTS_WITHIN + group.programs().iter().map(|program| program.limit).sum();
    let begun = Instant::now();
    let mut guest = Guest::start(what, &disk, &serial)?;
    loop {
        let ended = guest.0.try_wait().map_err(|error| format!("{EMULATOR}: {error}"))?;
        // After that question: what was written before the end is read after it.
        line.read(report)?;
        report.peak_kib = report.peak_kib.max(peak_kib(guest.0.id()));
        if let Some(status) = ended {
            report.exit = status.code();
            break;
        }
        if begun.elapsed() > limit {
            report.problem(format!("no verdict within {} s", limit.as_secs()));
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    report.guest = begun.elapsed();
    Ok(())
}

/// A running emulator; ended when this is dropped, on every way out.
struct Guest(Child);

impl Guest {
    fn start(what: &Boot, disk: &Path, serial: &Path) -> Result<Guest, String> {
        let Boot { group, kernel, image, .. } = what;
        let drive = format!("file={},if=none,id=disk,format=raw,cache=unsafe", disk.display());
        let mut command = Command::new(EMULATOR);
        command
            .args(["-M", "q35,accel=tcg", "-cpu", "max", "-smp", "1"])
            .args(["-m", &group.memory_mib.to_string()])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .args(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"])
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(image)
            .args(["-append", "console=ttyS0 quiet oops=panic panic=-1"]);
        for device in group.devices.iter().filter(|device| kernel.has(device)) {
            command.args(device.plugged);
        }
        if let Some(folder) = what.user_land {
            // A comma ends a value of the emulator's, and two are one.
            let path = folder.display().to_string().replace(',', ",,");
            let shared = "security_model=none,readonly=on,multidevs=remap";
            command.arg("-fsdev").arg(format!("local,id=userland,path={path},{shared}"));
            command.args(["-device", "virtio-9p-pci,fsdev=userland,mount_tag=userland"]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        child.map(Guest).map_err(|error| format!("{EMULATOR} could not be started: {error}"))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The serial line, read while it is written.
struct Serial {
    file: File,
    /// A line of which the end is not there yet.
    rest: Vec<u8>,
}

impl Serial {
    fn open(path: &Path) -> Result<Serial, String> {
        Ok(Serial { file: File::open(path).map_err(on(path))?, rest: Vec::new() })
    }

    fn read(&mut self, report: &mut Report) -> Result<(), String> {
        let read = self.file.read_to_end(&mut self.rest);
        read.map_err(|error| format!("the serial line: {error}"))?;
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            report.line(String::from_utf8_lossy(&line).trim_end());
        }
        Ok(())
    }
}

/// The most memory the process has had so far.
fn peak_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
