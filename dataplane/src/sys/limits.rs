//! What this process may use: the limits that decide how a proactor starts, and why not better.
//!
//! Plain readings, made at start-up or by a diagnosis; none is cached, because any of them can
//! change while the process runs. Any thread.
//!
//! # Unsafe
//!
//! One call of sysconf(3), which takes no pointer.

#![allow(unsafe_code)]

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// [`Limit`] values that mean "no limit" (RLIM_INFINITY).
pub(crate) const UNLIMITED: u64 = u64::MAX;

/// Where the kernel says who may make a ring (since Linux 6.6).
const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";

/// A resource limit, see getrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What is enforced. An unprivileged process may move it up to `hard`.
    pub(crate) soft: u64,
    /// How far it can be raised.
    pub(crate) hard: u64,
}

impl Limit {
    fn read(resource: Resource) -> io::Result<Self> {
        let (soft, hard) = getrlimit(resource)?;
        Ok(Self { soft, hard })
    }
}

/// RLIMIT_MEMLOCK, in bytes: what registered buffers may pin per user. It does not bind a process
/// with CAP_IPC_LOCK.
///
/// # Errors
///
/// What getrlimit(2) says; a seccomp filter can refuse it.
pub(crate) fn memlock_bytes() -> io::Result<Limit> {
    Limit::read(Resource::RLIMIT_MEMLOCK)
}

/// RLIMIT_NOFILE: one more than the highest descriptor this process may open. It also bounds how
/// many entries a table of registered files may have.
///
/// # Errors
///
/// As [`memlock_bytes`].
pub(crate) fn nofile() -> io::Result<Limit> {
    Limit::read(Resource::RLIMIT_NOFILE)
}

/// Raises the soft RLIMIT_NOFILE to `wanted`, or as near as the hard limit allows, and returns
/// the soft limit now in force. Never lowers it.
///
/// It holds for the whole process, and for programs it starts: one that uses select(2) must not
/// inherit more than 1024.
///
/// # Errors
///
/// What getrlimit(2) and setrlimit(2) say. Being left short of `wanted` by the hard limit is no
/// error: compare.
pub(crate) fn raise_nofile(wanted: u64) -> io::Result<u64> {
    let limit = nofile()?;
    let target = wanted.min(limit.hard);
    if target <= limit.soft {
        return Ok(limit.soft);
    }
    setrlimit(Resource::RLIMIT_NOFILE, target, limit.hard)?;
    Ok(target)
}

/// The sysctl kernel.io_uring_disabled: 0, anyone may make a ring; 1, only members of
/// kernel.io_uring_group and holders of CAP_SYS_ADMIN; 2, nobody. `None` on a kernel that has no
/// such setting (before 6.6, or built without io_uring).
///
/// # Errors
///
/// What reading the file says, for instance EACCES where /proc is hidden, and `InvalidData` when
/// it holds no number.
pub(crate) fn io_uring_disabled() -> io::Result<Option<u32>> {
    match std::fs::read_to_string(IO_URING_DISABLED) {
        Ok(text) => parse_sysctl(&text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_sysctl(text: &str) -> io::Result<u32> {
    text.trim().parse().map_err(|_| {
        let message = format!("{IO_URING_DISABLED} holds {text:?}, expected 0, 1 or 2");
        io::Error::new(io::ErrorKind::InvalidData, message)
    })
}

/// The size of a memory page in bytes, a power of two.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf takes a number and returns one; every thread may call it at any time.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).expect("every Linux system knows its page size")
}

/// Pins the calling thread to one CPU (sched_setaffinity(2)).
pub(crate) fn pin_to_cpu(cpu: u32) -> io::Result<()> {
    pin_to_cpus(&[cpu])
}

/// Keeps the calling thread on these CPUs (sched_setaffinity(2)).
///
/// # Errors
///
/// EINVAL when none of them is there, or a number is past what the call can name.
pub(crate) fn pin_to_cpus(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu as usize)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

/// The CPUs the calling thread may run on (sched_getaffinity(2)), which is what a thread it starts
/// gets: narrowed by taskset(1), by a cpuset cgroup, or by a pin of its own. Ascending.
///
/// # Errors
///
/// What the call says: EINVAL on a machine with more CPUs than the call can name.
pub(crate) fn allowed_cpus() -> io::Result<Vec<u32>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let is_set = |cpu: &u32| set.is_set(*cpu as usize).unwrap_or(false);
    Ok((0..CpuSet::count() as u32).filter(is_set).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value in `column` (1: soft, 2: hard) of the kernel's own table of our limits.
    fn in_proc(name: &str, column: usize) -> u64 {
        let table = std::fs::read_to_string("/proc/self/limits").unwrap();
        let row = table.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let value = row.split_whitespace().nth(column - 1).unwrap();
        if value == "unlimited" { UNLIMITED } else { value.parse().unwrap() }
    }

    #[test]
    fn memlock_is_what_the_kernel_lists() {
        let limit = memlock_bytes().unwrap();
        assert_eq!(limit.soft, in_proc("Max locked memory", 1));
        assert_eq!(limit.hard, in_proc("Max locked memory", 2));
    }

    /// One test for the descriptor limit, since it changes it for the whole process. It takes
    /// away one descriptor that no test gets near, and gives it back.
    #[test]
    fn the_descriptor_limit_goes_up_and_never_down() {
        let before = nofile().unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, before.soft - 1, before.hard).unwrap();
        assert_eq!(raise_nofile(3).unwrap(), before.soft - 1, "never lowered");
        assert_eq!(raise_nofile(before.soft).unwrap(), before.soft);
        assert_eq!(in_proc("Max open files", 1), before.soft);

        let most = raise_nofile(UNLIMITED).unwrap();
        assert_eq!(most, before.hard, "as near as the hard limit allows");
        assert_eq!(in_proc("Max open files", 1), most);
        setrlimit(Resource::RLIMIT_NOFILE, before.soft, before.hard).unwrap();
        assert_eq!(nofile().unwrap(), before);
    }

    #[test]
    fn the_sysctl_is_read_where_the_kernel_has_it() {
        let value = io_uring_disabled().unwrap();
        assert_eq!(value.is_some(), std::path::Path::new(IO_URING_DISABLED).exists());
        assert!(value.is_none_or(|value| value <= 2));
    }

    #[test]
    fn a_strange_sysctl_is_an_error_that_says_what_it_read() {
        assert_eq!(parse_sysctl("2\n").unwrap(), 2);
        let error = parse_sysctl("maybe\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("maybe"), "{error}");
    }

    #[test]
    fn a_page_is_what_mappings_are_made_of() {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let kib = maps.lines().find_map(|line| line.strip_prefix("KernelPageSize:")).unwrap();
        let kib: usize = kib.trim().trim_end_matches(" kB").parse().unwrap();
        assert_eq!(page_bytes(), kib * 1024);
    }
}
