//! A process of its own for a test: what changes limits, identities, filters or signals, and what
//! counts system calls or allocations, must not meet other tests.
//!
//! [`alone`] runs the calling test again as the only test of a new process. Inside it [`forked`]
//! runs something in a forked child, and [`system_calls`] counts what such a child asks of the
//! kernel between two marks (`ptrace(2)`, no tool needed). Children are bounded by an alarm.
//!
//! Unsafe here: fork, ptrace, prctl and the limit calls have no safe form. A forked child of a
//! process with one busy thread may allocate (the C library sees to its own locks).
#![allow(unsafe_code)]

mod allocations;
mod system_calls;

pub(crate) use allocations::{Counting, allocations};
pub(crate) use system_calls::{Counts, io_uring_enter, mark, names, system_calls};

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};

/// Names the test that a process was started for.
const ONLY: &str = "DATAPLANE_ONLY_TEST";

/// Seconds after which a child is killed.
const LIMIT_S: u32 = 60;

/// Runs `body` in a process that runs the test `name` of the module `path` and nothing else.
///
/// What the process prints about skips is passed on, past the capture of passing tests.
pub(crate) fn alone(path: &str, name: &str, body: impl FnOnce()) {
    // The harness names tests without the crate.
    let path = path.split_once("::").map_or("", |(_, inside)| inside);
    let name = format!("{path}::{name}");
    let name = name.as_str();
    if std::env::var(ONLY).is_ok_and(|only| only == name) {
        alarm();
        return body();
    }
    let program = std::env::current_exe().expect("a test has a file");
    let mut command = Command::new(program);
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(ONLY, name);
    let output = command.stdin(Stdio::null()).output().expect("this file starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let is_one = said.contains("test result: ok. 1 passed");
    assert!(output.status.success() && is_one, "{name}: {}\n{said}", output.status);
    for line in said.lines().filter_map(|line| line.find("said: ").map(|at| &line[at + 6..])) {
        // A closed standard error is no reason to fail.
        let _ = io::stderr().write_all(format!("\n{name}: {line}\n").as_bytes());
    }
}

/// A line that is seen although the test passes.
pub(crate) fn say(line: &str) {
    let _ = io::stderr().write_all(format!("\nsaid: {line}\n").as_bytes());
}

fn alarm() {
    // SAFETY: asks for a signal that ends this process, whose only purpose is one test.
    unsafe { libc::alarm(LIMIT_S) };
}

/// How a forked child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It returned from its function with this.
    Code(i32),
    /// A signal killed it.
    Signal(i32),
}

/// The code of a child that panicked.
pub(crate) const PANICKED: i32 = 101;

/// Forks; the child runs `body` and ends with its value, whatever handlers the parent has.
fn fork(body: impl FnOnce() -> i32) -> libc::pid_t {
    // SAFETY: the child runs `body` and leaves by `_exit`; see the head of this file.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        alarm();
        let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANICKED);
        // SAFETY: ends the child at once, without the parent's exit handlers.
        unsafe { libc::_exit(code) };
    }
    pid
}

fn wait(pid: libc::pid_t) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: `status` is ours and `pid` is our own child.
        let found = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
        if found == pid {
            return status;
        }
        let error = io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR), "waitpid: {error}");
    }
}

/// Runs `body` in a forked child to its end.
pub(crate) fn forked(body: impl FnOnce() -> i32) -> Ended {
    let status = wait(fork(body));
    match libc::WIFEXITED(status) {
        true => Ended::Code(libc::WEXITSTATUS(status)),
        false => Ended::Signal(libc::WTERMSIG(status)),
    }
}

/// A forked process that keeps descriptors open so that this one need not count them.
pub(crate) struct Keeper(libc::pid_t);

impl Keeper {
    /// Hands the descriptors over: they are closed here.
    pub(crate) fn of<T>(descriptors: Vec<T>) -> Keeper {
        let keeper = Keeper(fork(|| {
            loop {
                // SAFETY: waits for a signal; the alarm ends it at the latest.
                unsafe { libc::pause() };
            }
        }));
        drop(descriptors);
        keeper
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // SAFETY: our own child, which nobody has waited for yet.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        wait(self.0);
    }
}

/// The most descriptors this process may have open.
pub(crate) fn descriptor_limit() -> u64 {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes a structure of ours.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits) };
    limits.rlim_cur
}

/// From now on the io_uring system calls of this thread and its children give `errno`, as under a
/// container's seccomp profile, or under kernel.io_uring_disabled. There is no way back.
pub(crate) fn forbid_io_uring(errno: i32) {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(load, 0, 0, 0), // seccomp_data.nr
        step(equal, 3, 0, libc::SYS_io_uring_setup as u32),
        step(equal, 2, 0, libc::SYS_io_uring_enter as u32),
        step(equal, 1, 0, libc::SYS_io_uring_register as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
    ];
    install(&mut program);
}

/// Which calls are refused, by the value of one argument (its lower 32 bits).
#[derive(Clone, Copy)]
pub(crate) enum If {
    Is(u32),
    Above(u32),
}

/// From now on an `io_uring_enter` of this thread that hands over exactly `entries` gives `errno`;
/// every other one is let through. There is no way back.
pub(crate) fn refuse_enter(entries: u32, errno: i32) {
    refuse(libc::SYS_io_uring_enter, 1, If::Is(entries), errno);
}

/// From now on a `call` of this thread whose argument number `argument` (from 0) is such gives
/// `errno`; every other one is let through. There is no way back; several add up.
pub(crate) fn refuse(call: libc::c_long, argument: u32, which: If, errno: i32) {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let jump = |how| libc::BPF_JMP | how | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    // seccomp_data: nr, arch, instruction pointer, then six arguments of eight bytes.
    let place = 16 + 8 * argument + if cfg!(target_endian = "big") { 4 } else { 0 };
    let (how, value) = match which {
        If::Is(value) => (libc::BPF_JEQ, value),
        If::Above(value) => (libc::BPF_JGT, value),
    };
    let mut program = [
        step(load, 0, 0, 0),
        step(jump(libc::BPF_JEQ), 0, 3, call as u32),
        step(load, 0, 0, place),
        step(jump(how), 0, 1, value),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    install(&mut program);
}

fn install(program: &mut [libc::sock_filter]) {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes a right away from this process; no memory is involved.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(done, 0, "no_new_privs: {}", io::Error::last_os_error());
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the kernel copies the program, which is here until the call returns.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) };
    assert_eq!(done, 0, "seccomp: {}", io::Error::last_os_error());
}

/// Sets soft and hard limit of this process.
pub(crate) fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limits = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the kernel reads a structure of ours.
    match unsafe { libc::setrlimit(resource, &raw const limits) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the soft limit of open descriptors, which can be raised again.
pub(crate) fn descriptors_at_most(value: u64) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes and reads a structure of ours.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limits);
        limits.rlim_cur = value.min(limits.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits), 0);
    }
}

/// Becomes an ordinary user, with none of root's exemptions. There is no way back.
pub(crate) fn become_nobody() -> io::Result<()> {
    const NOBODY: libc::uid_t = 65_534;
    // SAFETY: gives rights up; no memory is involved.
    match unsafe { libc::setuid(NOBODY) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets SIGPIPE kill again: Rust's runtime ignores it, a host program in C does not.
pub(crate) fn let_sigpipe_kill() {
    // SAFETY: installs the default action, which is no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// Ignores a signal, as a parent may have done for its children (nohup).
pub(crate) fn ignore(signal: i32) {
    // SAFETY: installs "ignore", which is no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
