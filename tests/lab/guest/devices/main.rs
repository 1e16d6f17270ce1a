//! Run in a guest of the lab: each device is there and does what tests will want of it.
//!
//! One line of JSON for each device, as `conformance --json` writes them. What `REQUIRE_DEVICES`
//! names must be there; what it does not name is skipped where it is missing. So a test that is
//! skipped for want of a device is known to be skipped for another reason.

mod checks;
mod ioctl;

use conformance::{Entry, Outcome};
use std::process::ExitCode;
use std::time::Instant;

/// A device and what shows that it works.
type Check = (&'static str, fn() -> Result<String, String>);

const CHECKS: &[Check] = &[
    ("vgem", checks::vgem),
    ("syncobj", checks::syncobj),
    ("udmabuf", checks::udmabuf),
    ("failing-fence", checks::failing_fence),
];

fn main() -> ExitCode {
    let required = std::env::var("REQUIRE_DEVICES").unwrap_or_default();
    let required: Vec<&str> = required.split(',').filter(|name| !name.is_empty()).collect();
    let mut is_good = true;
    if let Some(name) = required.iter().find(|name| CHECKS.iter().all(|check| check.0 != **name)) {
        println!("REQUIRE_DEVICES names {name}, of which nothing is known here");
        is_good = false;
    }
    for &(name, check) in CHECKS {
        let begun = Instant::now();
        let (outcome, reason) = match check() {
            Ok(what) => {
                println!("{name}: {what}");
                (Outcome::Ok, String::new())
            }
            Err(problem) if required.contains(&name) => (Outcome::Failed, problem),
            Err(problem) => (Outcome::Skipped, problem),
        };
        is_good &= outcome != Outcome::Failed;
        let configuration = "devices".to_owned();
        let elapsed = begun.elapsed();
        println!("{}", Entry { case: name, configuration, outcome, reason, elapsed }.json());
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
