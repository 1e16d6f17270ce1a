//! The lab: the workspace's own tests on other kernels, and beside devices this machine lacks.
//!
//! A run boots a packaged kernel in an emulator with an image made of the test programs as cargo
//! builds them, the libraries they are linked with, a shell and the modules of the wanted devices.
//! Nothing is installed on the machine but the emulator; packages are unpacked into a cache.
//!
//! One noun per file: `group` (which devices and which programs), `device`, `kernel` (which there
//! are, where they come from, their modules), `package` (fetching), `module` (one of our own),
//! `program` (building), `image` (what the guest boots), `machine` (the emulator and the two ways
//! in which the verdict comes out), `report` (what the guest says).

mod device;
mod group;
mod image;
mod kernel;
mod machine;
mod module;
mod package;
mod program;
mod report;
mod shell;

use clap::Parser;
use group::Group;
use kernel::Kernel;
use package::Cache;
use report::Report;
use std::process::ExitCode;
use std::time::Instant;

/// Boots other kernels in an emulator and runs the workspace's tests in them.
///
/// The first run with a kernel fetches its packages (100 to 200 MB) into the cache; from then on no
/// network is needed. Exit status 1 when a test failed, a device that should be there is missing,
/// no test ran, or a guest died; 2 when a run could not be set up.
#[derive(Parser)]
#[command(name = "tests/lab/run", after_help = AFTER_HELP)]
struct Arguments {
    /// Groups to run; without any, all.
    group: Vec<String>,
    /// A kernel to run them on; may be given several times. `all` is every one.
    #[arg(long, value_name = "VERSION", default_values_t = [kernel::USUAL.to_owned()])]
    kernel: Vec<String>,
    /// Say which groups and kernels there are, and run none.
    #[arg(long)]
    list: bool,
    /// Keep what a run was made of and what the guest wrote, and say where.
    #[arg(long)]
    keep: bool,
    /// Say what failed, and of the rest how much it was.
    #[arg(long, short)]
    quiet: bool,
    /// Handed on to the test programs.
    #[arg(last = true)]
    rest: Vec<String>,
}

const AFTER_HELP: &str = "\
The cache is ${XDG_CACHE_HOME:-~/.cache}/dataplane-lab; removing it is the way to newer packages.
LAB_MIRROR names a Debian mirror where the machine's own package sources have none.";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        print!("{}", list());
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("lab: {problem}");
            ExitCode::from(2)
        }
    }
}

fn list() -> String {
    let mut text = String::from("groups:\n");
    for group in group::GROUPS {
        text += &format!("  {:<12} {}\n", group.name, group.about);
        for device in group.devices {
            text += &format!("  {:<12}   {device}\n", "");
        }
    }
    text += "kernels:\n";
    for lane in kernel::LANES {
        text += &format!("  {:<12} {}, from {}\n", lane.name, lane.release, lane.suite);
    }
    text
}

/// Whether every group passed on every kernel.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let groups = group::named(&arguments.group)?;
    let lanes = kernel::named(&arguments.kernel)?;
    let cache = Cache::open()?;
    machine::ensure_emulator()?;
    let mut reports = Vec::new();
    for lane in lanes {
        let kernel = Kernel::get(lane, &cache)?;
        for group in &groups {
            if !group.is_for(&kernel) {
                println!("\n== {} is not for {}: none of its devices", group.name, kernel.release);
                continue;
            }
            reports.push(run_group(group, &kernel, &cache, arguments)?);
        }
    }
    println!();
    for report in &reports {
        println!("{report}");
    }
    if reports.is_empty() {
        return Err("no group was run; `--list` says which kernel has which devices".into());
    }
    Ok(reports.iter().all(Report::is_good))
}

fn run_group(
    group: &Group,
    kernel: &Kernel,
    cache: &Cache,
    arguments: &Arguments,
) -> Result<Report, String> {
    let begun = Instant::now();
    println!("\n== {} on {}", group.name, kernel.release);
    for device in group.devices.iter().filter(|device| !kernel.has(device)) {
        println!("not on this kernel: {device}");
    }
    let programs = program::build(&group.programs())?;
    let folder = cache.run_folder(&format!("{}-{}", group.name, kernel.release))?;
    let image = image::make(group, kernel, cache, &programs, &arguments.rest, &folder)?;
    let name = format!("{} on {}", group.name, kernel.release);
    let mut report = Report::new(&name, arguments.quiet);
    machine::boot(group, kernel, &image, &folder, &mut report)?;
    report.whole = begun.elapsed();
    if arguments.keep {
        println!("kept: {}", folder.display());
    } else {
        std::fs::remove_dir_all(&folder).map_err(shell::on(&folder))?;
    }
    Ok(report)
}
