//! Run in a guest of the lab: each device is there and does what tests want of it; with `fences` as
//! its argument, what the toolkit makes of their fences.
//!
//! One line of JSON for each device or case, as `conformance --json` writes them. What
//! `REQUIRE_DEVICES` names must be there; what it does not name is skipped where it is missing. So
//! a test that is skipped for want of a device is known to be skipped for another reason.

mod checks;
mod fences;
mod ioctl;
mod sources;
mod vulkan;

use conformance::{Entry, Outcome};
use dataplane::Backend;
use std::process::ExitCode;
use std::time::Instant;

/// A device and what shows that it works.
type Check = (&'static str, fn() -> Result<String, String>);

const CHECKS: &[Check] = &[
    ("vgem", checks::vgem),
    ("syncobj", checks::syncobj),
    ("udmabuf", checks::udmabuf),
    ("failing-fence", checks::failing_fence),
    ("vulkan", vulkan::vulkan),
];

fn main() -> ExitCode {
    let required = std::env::var("REQUIRE_DEVICES").unwrap_or_default();
    let required: Vec<&str> = required.split(',').filter(|name| !name.is_empty()).collect();
    let mut is_good = true;
    if let Some(name) = required.iter().find(|name| CHECKS.iter().all(|check| check.0 != **name)) {
        println!("REQUIRE_DEVICES names {name}, of which nothing is known here");
        is_good = false;
    }
    if std::env::args().nth(1).as_deref() == Some("fences") {
        is_good &= toolkit(&required);
    } else {
        for &(name, check) in CHECKS {
            is_good &= report(name, "devices", required.contains(&name), check);
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every case on every backend.
fn toolkit(required: &[&str]) -> bool {
    let mut is_good = true;
    for backend in [Backend::IoUring, Backend::Epoll, Backend::Poll] {
        for &(name, devices, case) in fences::CASES {
            let must = devices.iter().all(|device| required.contains(device));
            is_good &= report(name, &backend.to_string(), must, || {
                let io = fences::proactor(backend).map_err(|error| error.to_string())?;
                case(&io).map(|()| String::new())
            });
        }
    }
    is_good
}

/// Runs it and says what came of it: what must hold fails, the rest is skipped.
fn report(
    case: &'static str,
    configuration: &str,
    must: bool,
    check: impl FnOnce() -> Result<String, String>,
) -> bool {
    let begun = Instant::now();
    let (outcome, reason) = match check() {
        Ok(what) => {
            if !what.is_empty() {
                println!("{case}: {what}");
            }
            (Outcome::Ok, String::new())
        }
        Err(problem) if must => (Outcome::Failed, problem),
        Err(problem) => (Outcome::Skipped, problem),
    };
    let is_good = outcome != Outcome::Failed;
    let (configuration, elapsed) = (configuration.to_owned(), begun.elapsed());
    println!("{}", Entry { case, configuration, outcome, reason, elapsed }.json());
    is_good
}
