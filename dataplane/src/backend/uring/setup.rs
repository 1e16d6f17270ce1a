//! How a ring is set up, and why the kernel may say no.
//!
//! Two sets of flags exist. SINGLE_ISSUER, DEFER_TASKRUN and TASKRUN_FLAG for a ring whose owner
//! enters it, or SQPOLL for one with a kernel thread that submits. Both have SUBMIT_ALL, so a
//! malformed entry fails alone, and mappings that a forked child does not get. NODROP and EXT_ARG
//! are demanded. What is missing is found by asking for it, never by the kernel's version. See
//! io_uring_setup(2).

use std::fmt;
use std::io;
use std::time::Duration;

use io_uring::IoUring;

/// Most submission entries a ring may have.
pub(crate) const SQ_ENTRIES_MAX: u32 = 32_768;
/// Most completion entries a ring may have.
pub(crate) const CQ_ENTRIES_MAX: u32 = 2 * SQ_ENTRIES_MAX;

/// A kernel thread that submits in place of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SqPoll {
    /// How long the thread spins before it sleeps; rounded up to a millisecond, at least one
    /// (to the kernel, zero means one second).
    pub(crate) idle: Duration,
    /// The CPU the thread is bound to.
    pub(crate) cpu: Option<u32>,
}

/// What a ring is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    /// Submission entries, 1 to 32,768, rounded up to a power of two by the kernel.
    pub(crate) sq_entries: u32,
    /// Completion entries, at least `sq_entries`, at most 65,536, rounded up likewise.
    pub(crate) cq_entries: u32,
    /// Submit from a kernel thread instead of deferring work to the owner's enter.
    pub(crate) sqpoll: Option<SqPoll>,
    /// Busy-poll block devices for completions; only polled O_DIRECT reads and writes work then.
    pub(crate) iopoll: bool,
}

impl Setup {
    /// Makes the instance; its thread is the caller's.
    pub(super) fn build(&self) -> io::Result<IoUring> {
        check_sizes(self)?;
        let mut builder = IoUring::builder();
        builder.dontfork().setup_submit_all().setup_cqsize(self.cq_entries);
        match self.sqpoll {
            Some(SqPoll { idle, cpu }) => {
                builder.setup_sqpoll(idle_ms(idle));
                if let Some(cpu) = cpu {
                    builder.setup_sqpoll_cpu(cpu);
                }
            }
            None => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
        }
        if self.iopoll {
            builder.setup_iopoll();
        }
        // Entries are taken in order anyway, so the array of indices is left out where the
        // kernel can do without (since 6.6): one line less to write for each entry.
        let mut plain = builder.clone();
        let uring = match plain.setup_no_sqarray().build(self.sq_entries) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                builder.build(self.sq_entries)
            }
            made => made,
        };
        let uring = uring.map_err(Refusal::explain)?;
        if !uring.params().is_feature_nodrop() || !uring.params().is_feature_ext_arg() {
            return Err(Refusal { errno: libc::EOPNOTSUPP, advice: TOO_OLD }.into());
        }
        Ok(uring)
    }
}

fn check_sizes(setup: &Setup) -> io::Result<()> {
    let (sq, cq) = (setup.sq_entries, setup.cq_entries);
    let message = if !(1..=SQ_ENTRIES_MAX).contains(&sq) {
        format!("ring set-up: {sq} submission entries; choose 1 to {SQ_ENTRIES_MAX}")
    } else if !(sq..=CQ_ENTRIES_MAX).contains(&cq) {
        format!("ring set-up: {cq} completion entries; choose {sq} to {CQ_ENTRIES_MAX}")
    } else {
        return Ok(());
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn idle_ms(idle: Duration) -> u32 {
    u32::try_from(idle.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1)
}

const TOO_OLD: &str = "SINGLE_ISSUER, DEFER_TASKRUN, NODROP and EXT_ARG are needed, which kernel \
    6.1 and later have; use the readiness backend on this one";

/// A refused set-up: the kernel's code and what to do about it.
#[derive(Debug)]
struct Refusal {
    errno: i32,
    advice: &'static str,
}

impl Refusal {
    fn explain(error: io::Error) -> io::Error {
        let Some(errno) = error.raw_os_error() else { return error };
        let advice = match errno {
            libc::EINVAL => TOO_OLD,
            libc::ENOSYS => {
                "this kernel has no io_uring, or a seccomp filter hides it; allow it \
                there or use the readiness backend"
            }
            libc::EPERM | libc::EACCES => {
                "io_uring is forbidden here; see \
                kernel.io_uring_disabled in sysctl and the container's seccomp profile, or use \
                the readiness backend"
            }
            libc::ENOMEM => {
                "queues of this size need more memory, or more locked memory, than there is; ask \
                 for fewer entries, or raise RLIMIT_MEMLOCK (ulimit -l)"
            }
            libc::EMFILE | libc::ENFILE => "out of descriptors; raise RLIMIT_NOFILE",
            _ => return error,
        };
        Refusal { errno, advice }.into()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = io::Error::from_raw_os_error(self.errno);
        write!(f, "ring set-up (io_uring_setup): {code}: {}", self.advice)
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        let kind = match refusal.errno {
            libc::EINVAL => io::ErrorKind::Unsupported,
            errno => io::Error::from_raw_os_error(errno).kind(),
        };
        io::Error::new(kind, refusal)
    }
}

/// The kernel's code in an error of [`Ring::new`], if the kernel gave one.
pub(crate) fn errno_of(error: &io::Error) -> Option<i32> {
    let refusal = || error.get_ref()?.downcast_ref::<Refusal>().map(|refusal| refusal.errno);
    error.raw_os_error().or_else(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_limit() {
        for (sq_entries, cq_entries, limit) in
            [(0, 8, "32768"), (65_536, 65_536, "32768"), (8, 4, "8 to 65536"), (8, 99_999, "65536")]
        {
            let setup = Setup { sq_entries, cq_entries, sqpoll: None, iopoll: false };
            let error = setup.build().err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(limit), "{error}");
        }
    }

    #[test]
    fn a_refusal_keeps_the_code_and_names_the_remedy() {
        for (errno, remedy) in [
            (libc::EINVAL, "6.1"),
            (libc::EPERM, "kernel.io_uring_disabled"),
            (libc::ENOSYS, "seccomp"),
            (libc::ENOMEM, "RLIMIT_MEMLOCK"),
            (libc::EMFILE, "RLIMIT_NOFILE"),
        ] {
            let error = Refusal::explain(io::Error::from_raw_os_error(errno));
            assert!(error.to_string().contains(remedy), "{error}");
            assert_eq!(errno_of(&error), Some(errno));
        }
        let unnamed = Refusal::explain(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(unnamed.raw_os_error(), Some(libc::EIO), "told as it is");
    }

    #[test]
    fn idle_times_are_milliseconds_and_never_zero() {
        let ms = |idle| idle_ms(idle);
        assert_eq!(ms(Duration::ZERO), 1);
        assert_eq!(ms(Duration::from_micros(1_001)), 2);
        assert_eq!(ms(Duration::MAX), u32::MAX);
    }
}
