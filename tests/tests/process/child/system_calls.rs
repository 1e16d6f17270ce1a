//! Counting a child's system calls.
//!
//! Unsafe here: ptrace(2) and a system call that nobody else makes, which marks the section.
#![allow(unsafe_code)]

use super::{PANICKED, fork, wait};
use std::collections::BTreeMap;
use std::io;

/// An argument of getpgid(2) that no program uses: the marks of begin and end.
const MARK: libc::pid_t = 0x7fff_0d0d;

/// How often each system call was made, by number.
pub(crate) type Counts = BTreeMap<i64, usize>;

/// Begins the section that is counted, or ends it.
pub(crate) fn mark() {
    // SAFETY: asks for the group of a process that does not exist, and gets ESRCH.
    unsafe { libc::getpgid(MARK) };
}

/// Runs `body` in a forked child and counts its system calls, and those of its threads that are
/// followed, between two [`mark`]s.
///
/// # Panics
///
/// When the child does not end with 0.
pub(crate) fn system_calls(body: impl FnOnce()) -> Counts {
    let pid = fork(|| {
        // SAFETY: lets the parent look at this child.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        // SAFETY: stops here until the parent has set its options.
        unsafe { libc::raise(libc::SIGSTOP) };
        body();
        0
    });
    let status = wait(pid);
    assert!(libc::WIFSTOPPED(status), "it stops before it begins: {status:#x}");
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    request(libc::PTRACE_SETOPTIONS, pid, options as usize);
    let mut counts = Counts::new();
    let mut is_counted = false;
    let mut signal = 0;
    loop {
        request(libc::PTRACE_SYSCALL, pid, signal);
        let status = wait(pid);
        if libc::WIFEXITED(status) {
            let code = libc::WEXITSTATUS(status);
            assert_eq!(
                code,
                0,
                "the child failed{}",
                if code == PANICKED { ": panic" } else { "" }
            );
            assert!(!counts.is_empty(), "the child made no mark");
            return counts;
        }
        assert!(libc::WIFSTOPPED(status), "the child was killed: {status:#x}");
        match libc::WSTOPSIG(status) {
            stop if stop == libc::SIGTRAP | 0x80 => {
                signal = 0;
                let Some((number, argument)) = entered(pid) else { continue };
                match number == libc::SYS_getpgid && argument == MARK as u64 {
                    true => is_counted = !is_counted,
                    false if is_counted => *counts.entry(number).or_default() += 1,
                    false => {}
                }
            }
            other => signal = other as usize,
        }
    }
}

fn request(what: libc::c_uint, pid: libc::pid_t, data: usize) {
    // SAFETY: these requests take a number and touch no memory of ours.
    let done = unsafe { libc::ptrace(what, pid, 0, data) };
    assert!(done >= 0, "ptrace: {}", io::Error::last_os_error());
}

/// The number and first argument of the call a stopped child is about to make; none at its end.
fn entered(pid: libc::pid_t) -> Option<(i64, u64)> {
    // SAFETY: the structure is plain numbers, for which zero is a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    let (what, place) = (libc::PTRACE_GET_SYSCALL_INFO, &raw mut info);
    // SAFETY: the kernel writes at most `size` bytes to a structure of ours.
    let got = unsafe { libc::ptrace(what, pid, size, place) };
    assert!(got > 0, "ptrace: {}", io::Error::last_os_error());
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: `op` says that this is the member in use.
    let entry = unsafe { info.u.entry };
    Some((entry.nr as i64, entry.args[0]))
}

/// How often the ring was entered.
pub(crate) fn io_uring_enter(counts: &Counts) -> usize {
    counts.get(&libc::SYS_io_uring_enter).copied().unwrap_or(0)
}

/// The counts with the names of the calls this suite meets.
pub(crate) fn names(counts: &Counts) -> String {
    let name = |number: i64| match number {
        libc::SYS_io_uring_enter => "io_uring_enter".to_owned(),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => "epoll".to_owned(),
        libc::SYS_epoll_ctl => "epoll_ctl".to_owned(),
        libc::SYS_read => "read".to_owned(),
        libc::SYS_write => "write".to_owned(),
        libc::SYS_recvfrom => "recvfrom".to_owned(),
        libc::SYS_sendto => "sendto".to_owned(),
        libc::SYS_poll => "poll".to_owned(),
        other => format!("call {other}"),
    };
    let named: Vec<String> =
        counts.iter().map(|(number, count)| format!("{count} {}", name(*number))).collect();
    named.join(", ")
}
