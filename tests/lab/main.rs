//! The lab: the workspace's own tests on other kernels, and beside devices this machine lacks.
//!
//! A run boots a packaged kernel in an emulator with an image made of the test programs as cargo
//! builds them, the libraries they are linked with, a shell and the modules of the wanted devices.
//! Nothing is installed on the machine but the emulator; packages are unpacked into a cache.
//!
//! One noun per file: `group` (which devices and which programs), `device`, `packages` (fetching
//! kernels and user lands; modules of our own), `program` (building), `image` (what the guest
//! boots), `machine` (the emulator and the two ways in which the verdict comes out), `here`
//! (without one), `report` (what is said, and what it comes to).

mod device;
mod group;
mod here;
mod image;
mod machine;
mod packages;
mod program;
mod report;
mod shell;

use clap::Parser;
use group::Group;
use machine::Boot;
use packages::Cache;
use packages::kernel::{self, Kernel};
use report::{Place, Report, Total};
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
    /// Without an emulator, on this machine's own kernel: the groups that have a user land.
    #[arg(long, conflicts_with = "kernel")]
    here: bool,
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
    let begun = Instant::now();
    let mut reports = Vec::new();
    let problem = run(&arguments, &mut reports).err();
    println!();
    for report in &reports {
        println!("{report}");
    }
    print!("\n{}", report::tables(&reports));
    if let Some(problem) = &problem {
        // Among what was printed, and before its last line.
        println!("lab: {problem}");
    }
    let elapsed = begun.elapsed();
    let total = Total { reports: &reports, problem: problem.as_deref(), elapsed };
    println!("{total}");
    match (&problem, total.is_good()) {
        (Some(_), _) => ExitCode::from(2),
        (None, true) => ExitCode::SUCCESS,
        (None, false) => ExitCode::FAILURE,
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

/// Runs every group, here or on every kernel; what came of those that were run is in `reports`.
fn run(arguments: &Arguments, reports: &mut Vec<Report>) -> Result<(), String> {
    let groups = group::named(&arguments.group)?;
    let cache = Cache::open()?;
    if arguments.here {
        return run_here(&groups, &cache, arguments, reports);
    }
    let lanes = kernel::named(&arguments.kernel)?;
    machine::ensure_emulator()?;
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
    match reports.is_empty() {
        true => Err("no group was run; `--list` says which kernel has which devices".into()),
        false => Ok(()),
    }
}

fn run_here(
    groups: &[&Group],
    cache: &Cache,
    arguments: &Arguments,
    reports: &mut Vec<Report>,
) -> Result<(), String> {
    for group in groups {
        let Some(user_land) = group.user_land() else {
            if arguments.group.is_empty() {
                continue;
            }
            return Err(format!(
                "--here runs what has a user land; {} has none, run it with cargo",
                group.name
            ));
        };
        let begun = Instant::now();
        println!("\n== {} here", group.name);
        let root = user_land.get(cache)?;
        let programs = program::build(&group.programs())?;
        let mut report = Report::new(group.name, Place::Here, arguments.quiet);
        here::run(group, (user_land, &root), &programs, &arguments.rest, &mut report)?;
        report.whole = begun.elapsed();
        reports.push(report);
    }
    Ok(())
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
    let user_land = group.user_land().map(|user_land| user_land.get(cache)).transpose()?;
    let programs = program::build(&group.programs())?;
    let folder = cache.run_folder(&format!("{}-{}", group.name, kernel.release))?;
    let image = image::make(group, kernel, cache, &programs, &arguments.rest, &folder)?;
    let place = Place::Guest { kernel: kernel.lane.name, release: kernel.release.clone() };
    let mut report = Report::new(group.name, place, arguments.quiet);
    let user_land = user_land.as_deref();
    let what = Boot { group, kernel, image: &image, user_land, folder: &folder };
    machine::boot(&what, &mut report)?;
    report.whole = begun.elapsed();
    if arguments.keep {
        println!("kept: {}", folder.display());
    } else {
        std::fs::remove_dir_all(&folder).map_err(shell::on(&folder))?;
    }
    Ok(report)
}
