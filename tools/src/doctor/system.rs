//! Kernel, limits and policies.

use super::remedies::{self, Obstacle};
use super::report::Check;
use dataplane::diagnose::{self, UringReport};
use nix::sys::utsname::uname;
use std::fs;

/// Fewer descriptors than this bound the number of connections more than memory does.
const DESCRIPTORS_WANTED: u64 = 4096;

/// The kernel, and whether it gives us a ring.
pub fn kernel(uring: &UringReport) -> Vec<Check> {
    vec![release(), ring(uring), processors()]
}

/// What one process may use. `registers`: whether all the memory that was wanted was registered.
pub fn limits(registers: bool) -> Vec<Check> {
    vec![memlock(registers), descriptors()]
}

/// What was decided about this process or this machine.
pub fn policies(uring: &UringReport) -> Vec<Check> {
    vec![seccomp(uring), sysctl(uring), congestion()]
}

fn release() -> Check {
    const NAME: &str = "kernel";
    let proof = "asked uname(2)";
    match uname() {
        Ok(names) => {
            let part = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
            let found = [part(names.sysname()), part(names.release()), part(names.machine())];
            Check::ok(NAME, proof).found(found.join(" "))
        }
        Err(errno) => Check::limited(NAME, errno.to_string(), proof)
            .remedy("let the seccomp profile allow uname(2)"),
    }
}

fn ring(uring: &UringReport) -> Check {
    const NAME: &str = "io_uring";
    match &uring.unavailable {
        None => {
            let there = uring.capabilities.len();
            let tried = uring.proofs.len();
            let found = format!("{there} of {tried} capabilities");
            let proof = format!("made a ring and tried each, in {:?}", uring.elapsed);
            Check::ok(NAME, proof).found(found)
        }
        Some(why) => Check::missing(NAME, why.message.clone(), "asked for a ring")
            .remedy(remedies::for_io_uring(uring)),
    }
}

fn processors() -> Check {
    const NAME: &str = "processors";
    let proof = "asked sched_getaffinity(2) and the control groups";
    match std::thread::available_parallelism() {
        Ok(count) if count.get() > 1 => {
            Check::ok(NAME, proof).found(format!("{count} for this process"))
        }
        Ok(_) => Check::limited(NAME, "one: hashing and the loop take turns on it", proof)
            .remedy("give the process or container a second CPU"),
        Err(error) => Check::limited(NAME, error.to_string(), proof).remedy(remedies::PROC),
    }
}

fn memlock(registers: bool) -> Check {
    const NAME: &str = "limit-memlock";
    const WANTED_BYTES: u64 = 64 << 20;
    let proof = "asked getrlimit(2)";
    match diagnose::memlock_bytes() {
        Ok(limit) => {
            let found = format!("{limit} bytes");
            match limit.soft {
                Some(soft) if soft < WANTED_BYTES && registers => {
                    let why = "more was registered: it does not bind this process (CAP_IPC_LOCK)";
                    Check::ok(NAME, proof).found(format!("{found}; {why}"))
                }
                Some(soft) if soft < WANTED_BYTES => {
                    let reason = format!("{found}; registered-memory says what that allows");
                    Check::limited(NAME, reason, proof).remedy(remedies::MEMLOCK)
                }
                _ => Check::ok(NAME, proof).found(found),
            }
        }
        Err(error) => {
            Check::limited(NAME, error.to_string(), proof).remedy("let seccomp allow getrlimit(2)")
        }
    }
}

/// Opens as many as a server would, or as many as it gets.
fn descriptors() -> Check {
    const NAME: &str = "limit-nofile";
    let limit = match diagnose::open_files() {
        Ok(limit) => limit,
        Err(error) => {
            return Check::limited(NAME, error.to_string(), "asked getrlimit(2)")
                .remedy("let seccomp allow getrlimit(2)");
        }
    };
    let mut open = Vec::new();
    let mut ended = None;
    match fs::File::open("/dev/null") {
        Ok(first) => {
            while (open.len() as u64) < DESCRIPTORS_WANTED {
                match first.try_clone() {
                    Ok(clone) => open.push(clone),
                    Err(error) => {
                        ended = Some(error);
                        break;
                    }
                }
            }
        }
        Err(error) => ended = Some(error),
    }
    let proof = format!("asked getrlimit(2) and opened {} more descriptors", open.len());
    let raisable = limit.hard.is_none_or(|hard| hard >= DESCRIPTORS_WANTED);
    match ended {
        None => Check::ok(NAME, proof).found(limit.to_string()),
        Some(_) if raisable && limit.soft < limit.hard.or(Some(u64::MAX)) => {
            let found = format!("{limit}; a program may raise it to the hard limit by itself");
            Check::ok(NAME, proof).found(found)
        }
        Some(error) => {
            Check::limited(NAME, format!("{limit}: {error}"), proof).remedy(remedies::NOFILE)
        }
    }
}

fn seccomp(uring: &UringReport) -> Check {
    const NAME: &str = "seccomp";
    const STATUS: &str = "/proc/self/status";
    let asked = match &uring.unavailable {
        None => "a ring was made",
        Some(_) => "io_uring_setup(2) was refused",
    };
    let proof = format!("read {STATUS}; {asked}");
    let blamed = uring.unavailable.as_ref().is_some_and(|why| {
        let disabled = diagnose::io_uring_disabled().ok().flatten();
        matches!(remedies::obstacle(why.errno, disabled), Obstacle::Policy | Obstacle::Absent)
    });
    let mode = match fs::read_to_string(STATUS) {
        Ok(text) => filter_state(&text),
        Err(error) => {
            return Check::limited(NAME, format!("{STATUS}: {error}"), proof)
                .remedy(remedies::PROC);
        }
    };
    match (mode, blamed) {
        (None, _) => Check::ok(NAME, proof).found("this kernel has no seccomp"),
        (Some((0, _)), _) => Check::ok(NAME, proof).found("no filter is active"),
        (Some((_, filters)), false) => {
            let what = "and io_uring is not what it forbids";
            Check::ok(NAME, proof).found(format!("a filter is active ({filters}) {what}"))
        }
        (Some((_, filters)), true) => {
            let reason = format!(
                "a filter is active ({filters}) and io_uring_setup(2) is refused: \
                 most likely by it"
            );
            Check::limited(NAME, reason, proof).remedy(remedies::for_io_uring(uring))
        }
    }
}

/// Mode and number of filters, from the text of /proc/self/status (proc_pid_status(5)).
fn filter_state(status: &str) -> Option<(u32, String)> {
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mode = value("Seccomp:")?.parse().ok()?;
    let filters = value("Seccomp_filters:")
        .map_or("number unknown".into(), |count| format!("filters: {count}"));
    Some((mode, filters))
}

fn sysctl(uring: &UringReport) -> Check {
    const NAME: &str = "sysctl-io_uring";
    let proof = "read /proc/sys/kernel/io_uring_disabled and io_uring_group";
    let group = fs::read_to_string("/proc/sys/kernel/io_uring_group").unwrap_or_default();
    let group = match group.trim() {
        "" => "unknown",
        "-1" => "none",
        group => group,
    };
    let works = uring.unavailable.is_none();
    match diagnose::io_uring_disabled() {
        Ok(Some(0)) => Check::ok(NAME, proof).found("0: everybody may use io_uring"),
        Ok(Some(1)) => {
            let text = format!("1: only CAP_SYS_ADMIN and kernel.io_uring_group ({group})");
            match works {
                true => Check::ok(NAME, proof).found(format!("{text}; this process may")),
                false => Check::limited(NAME, format!("{text}; this process may not"), proof)
                    .remedy(remedies::for_io_uring(uring)),
            }
        }
        Ok(Some(value)) => Check::limited(NAME, format!("{value}: nobody may use it"), proof)
            .remedy("`sysctl -w kernel.io_uring_disabled=0` as root"),
        Ok(None) if works => Check::ok(NAME, proof).found("this kernel has no such setting"),
        Ok(None) => {
            let reason = "no such setting: before Linux 6.6, without io_uring, or /proc is hidden";
            Check::missing(NAME, reason, proof).remedy(remedies::PROC)
        }
        Err(error) => Check::limited(NAME, error.to_string(), proof).remedy(remedies::PROC),
    }
}

fn congestion() -> Check {
    const NAME: &str = "congestion-control";
    const PATH: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
    let proof = format!("read {PATH}");
    match fs::read_to_string(PATH) {
        Ok(text) if text.trim().starts_with("bbr") => {
            let reason = format!("{}: it paces, loopback too, so it bounds rates", text.trim());
            Check::limited(NAME, reason, proof).remedy(
                "to measure over loopback: `sysctl -w net.ipv4.tcp_congestion_control=cubic` as \
                 root",
            )
        }
        Ok(text) => Check::ok(NAME, proof).found(text.trim()),
        Err(error) => {
            Check::limited(NAME, format!("{PATH}: {error}"), proof).remedy(remedies::PROC)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_from_the_status() {
        let text = "Name:\tx\nNoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(filter_state(text), Some((2, "filters: 1".into())));
        assert_eq!(filter_state("Seccomp:\t0\n"), Some((0, "number unknown".into())));
        assert_eq!(filter_state("Name:\tx\n"), None);
    }
}
