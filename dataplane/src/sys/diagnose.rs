//! What this process may use, and how that is known: readings for people and diagnosing tools.
//!
//! Nothing here changes how a proactor works; every function reads or tries something now and
//! returns plain values. Any thread. [`io_uring()`] tries real operations (a few milliseconds, a
//! few descriptors, one pinned page) and its answer is kept for the process; the limits are read on
//! every call, since any of them can change while the process runs.

use crate::backend::uring::probe::{self, State};
use crate::capability::{Capabilities, Capability};
use crate::error::{Error, Result};
use crate::sys::limits;
use std::fmt;
use std::time::Duration;

/// What io_uring can do here, and how that is known.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UringReport {
    /// What was seen to work.
    pub capabilities: Capabilities,
    /// One entry per capability, in the order of [`Capability::ALL`].
    pub proofs: Vec<CapabilityProof>,
    /// Why no ring can be made at all; then no capability is there.
    pub unavailable: Option<UringUnavailable>,
    /// How long trying took.
    pub elapsed: Duration,
}

impl UringReport {
    /// The proof of one capability.
    pub fn proof(&self, capability: Capability) -> Option<&CapabilityProof> {
        self.proofs.iter().find(|proof| proof.capability == capability)
    }
}

/// One capability and how its state is known.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CapabilityProof {
    /// What was tried.
    pub capability: Capability,
    /// Whether it was done and its outcome checked.
    pub available: bool,
    /// What was done to know; of a capability that is not available, what stood in the way.
    pub proof: String,
}

/// Why no ring can be made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UringUnavailable {
    /// The kernel's errno for `io_uring_setup(2)`, if it gave one.
    pub errno: Option<i32>,
    /// The reason, with the next step.
    pub message: String,
}

/// What io_uring can do here, found by doing it. Any thread; a few milliseconds the first time.
///
/// Never an error: a machine without io_uring is an answer, see [`UringReport::unavailable`].
pub fn io_uring() -> UringReport {
    let probe = probe::probe();
    let proofs = Capability::ALL.into_iter().filter_map(|capability| probe.proof(capability));
    let proofs = proofs.map(|proof| CapabilityProof {
        capability: proof.capability,
        available: proof.state == State::Available,
        proof: proof.proof.clone(),
    });
    let unavailable = probe.unavailable.as_ref();
    UringReport {
        capabilities: probe.capabilities,
        proofs: proofs.collect(),
        unavailable: unavailable
            .map(|why| UringUnavailable { errno: why.errno, message: why.message.clone() }),
        elapsed: probe.elapsed,
    }
}

/// A resource limit of this process, see getrlimit(2). `None` means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is enforced. The process may raise it up to `hard`.
    pub soft: Option<u64>,
    /// How far it can be raised without privileges.
    pub hard: Option<u64>,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: Option<u64>| value.map_or("unlimited".into(), |value| value.to_string());
        write!(f, "{} (hard limit {})", text(self.soft), text(self.hard))
    }
}

fn limit(name: &'static str, read: std::io::Result<limits::Limit>) -> Result<Limit> {
    let bounded = |value| Some(value).filter(|&value| value != limits::UNLIMITED);
    let limits::Limit { soft, hard } = read.map_err(|error| Error::from_io(name, &error))?;
    Ok(Limit { soft: bounded(soft), hard: bounded(hard) })
}

/// RLIMIT_MEMLOCK in bytes: what registered buffers may pin, counted per user. It does not bind a
/// process with CAP_IPC_LOCK.
///
/// # Errors
///
/// What getrlimit(2) says; a seccomp filter can refuse it.
pub fn memlock_bytes() -> Result<Limit> {
    limit("RLIMIT_MEMLOCK", limits::memlock_bytes())
}

/// RLIMIT_NOFILE: how many descriptors this process may have open. It bounds tables of registered
/// descriptors too.
///
/// # Errors
///
/// As [`memlock_bytes`].
pub fn open_files() -> Result<Limit> {
    limit("RLIMIT_NOFILE", limits::nofile())
}

/// Raises the soft RLIMIT_NOFILE of the whole process to `wanted`, or as near as the hard limit
/// allows; never lowers it. Returns the soft limit now in force.
///
/// Programs started later inherit it: one that uses select(2) must not get more than 1024.
///
/// # Errors
///
/// What getrlimit(2) and setrlimit(2) say. Falling short of `wanted` is no error.
pub fn raise_open_files(wanted: u64) -> Result<u64> {
    limits::raise_nofile(wanted).map_err(|error| Error::from_io("RLIMIT_NOFILE", &error))
}

/// The sysctl kernel.io_uring_disabled (Documentation/admin-guide/sysctl/kernel.rst): 0, everybody
/// may make a ring; 1, members of kernel.io_uring_group and holders of CAP_SYS_ADMIN; 2, nobody.
/// `None` on a kernel without the setting (before 6.6, or built without io_uring).
///
/// # Errors
///
/// What reading it says, for instance where /proc is hidden.
pub fn io_uring_disabled() -> Result<Option<u32>> {
    const NAME: &str = "kernel.io_uring_disabled";
    limits::io_uring_disabled().map_err(|error| Error::from_io(NAME, &error))
}

/// The size of a base page in bytes, a power of two. Huge pages: [`regions::PageSize::huge_pools`].
pub fn page_bytes() -> usize {
    limits::page_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_a_proof_for_every_capability_and_agrees_with_the_set() {
        let report = io_uring();
        for capability in Capability::ALL {
            let proof = report.proof(capability).expect("every capability is tried");
            assert_eq!(proof.available, report.capabilities.contains(capability));
            assert!(!proof.proof.is_empty(), "{capability}");
        }
        if let Some(why) = &report.unavailable {
            assert!(report.capabilities.is_empty());
            assert!(!why.message.is_empty());
        }
    }

    #[test]
    fn no_limit_is_no_number() {
        let read = limits::Limit { soft: 65_536, hard: limits::UNLIMITED };
        let shown = limit("RLIMIT_MEMLOCK", Ok(read)).unwrap();
        assert_eq!(shown, Limit { soft: Some(65_536), hard: None });
        assert_eq!(shown.to_string(), "65536 (hard limit unlimited)");
        let refused = std::io::Error::from_raw_os_error(libc::EPERM);
        let error = limit("RLIMIT_MEMLOCK", Err(refused)).unwrap_err();
        assert_eq!((error.operation(), error.errno()), ("RLIMIT_MEMLOCK", Some(libc::EPERM)));
    }

    #[test]
    fn readings_agree_with_their_sources() {
        assert_eq!(page_bytes(), regions::PageSize::base().bytes());
        assert_eq!(open_files().unwrap().soft, Some(limits::nofile().unwrap().soft));
        assert_eq!(memlock_bytes().is_ok(), limits::memlock_bytes().is_ok());
    }
}
