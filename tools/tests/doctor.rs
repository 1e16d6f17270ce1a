//! `dataplane doctor` as its users meet it: the built binary, on this machine and on worse ones.
//!
//! Worse machines are made in the child, before it becomes the tool: a seccomp filter that answers
//! for a system call, lower limits, another user, a hidden /proc, a closed standard output. What
//! needs root and does not have it prints why it was left out.
//!
//! Unsafe code: system calls between fork and exec, each safe there (signal-safety(7)), and a
//! pseudo-terminal.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected is")]

use serde_json::Value;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const IO_URING_SETUP: libc::c_long = libc::SYS_io_uring_setup;

/// A copy of the tool that every user may run, since the build folder may be private. Gone when
/// this is dropped.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Copy {
        let folder = format!("doctor-test-{name}-{}", std::process::id());
        let copy = Copy(std::env::temp_dir().join(folder));
        std::fs::create_dir(&copy.0).unwrap();
        std::fs::set_permissions(&copy.0, PermissionsExt::from_mode(0o755)).unwrap();
        // By another process: a descriptor of ours, open for writing, could be inherited by a
        // child that another test starts, and then nobody could execute the copy (ETXTBSY).
        let mut install = Command::new("install");
        install.args(["-m", "755", env!("CARGO_BIN_EXE_dataplane")]).arg(copy.tool());
        assert!(install.status().unwrap().success());
        copy
    }

    fn tool(&self) -> PathBuf {
        self.0.join("dataplane")
    }

    fn doctor(&self, arguments: &[&str]) -> Command {
        doctor_of(&self.tool(), arguments)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn doctor(arguments: &[&str]) -> Command {
    doctor_of(Path::new(env!("CARGO_BIN_EXE_dataplane")), arguments)
}

fn doctor_of(tool: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(tool);
    command.arg("doctor").args(arguments).env_remove("NO_COLOR").env("TERM", "xterm");
    command.stdin(Stdio::null());
    command
}

fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Runs `confine` in the child, after fork and before exec.
fn confined(
    mut command: Command,
    confine: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) -> Command {
    // SAFETY: every closure of this file makes plain system calls and allocates nothing.
    unsafe { command.pre_exec(confine) };
    command
}

/// Answers `errno` for one system call, as the filters of containers do (seccomp(2)).
fn refusing(command: Command, call: libc::c_long, errno: i32) -> Command {
    confined(command, move || {
        let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
        let mut steps = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
            step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: numbers, and a filter that lives through the call.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            check(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program))
        }
    })
}

/// With a limit, and as a user without privileges where this process can become one.
fn limited(mut command: Command, resource: u32, value: u64, user: u32) -> Command {
    if is_root() {
        command.uid(user).gid(user);
    }
    confined(command, move || {
        let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: reads one structure that lives through the call.
        check(unsafe { libc::setrlimit(resource as _, &raw const limit) })
    })
}

fn run(mut command: Command) -> Output {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(output.status.code().is_some(), "ended by a signal: {}", output.status);
    output
}

/// The report of a run that meets the minimum.
fn report(command: Command) -> Value {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for check in every(&report) {
        let text = |key: &str| check[key].as_str().unwrap_or_else(|| panic!("{key}: {check}"));
        assert!(!text("name").is_empty() && !text("proof").is_empty(), "{check}");
        match text("state") {
            "ok" => {}
            "missing" | "limited" | "failed" => {
                assert!(!text("reason").is_empty() && !text("remedy").is_empty(), "{check}");
            }
            other => panic!("an unknown state `{other}`: {check}"),
        }
    }
    report
}

fn every(report: &Value) -> impl Iterator<Item = &Value> {
    let list = |key: &str| report[key].as_array().unwrap().iter();
    list("backends").chain(list("checks"))
}

fn named<'a>(report: &'a Value, list: &str, name: &str) -> &'a Value {
    let found = report[list].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {report}"))
}

fn state<'a>(report: &'a Value, list: &str, name: &str) -> &'a str {
    named(report, list, name)["state"].as_str().unwrap()
}

fn contains(check: &Value, key: &str, what: &str) {
    assert!(check[key].as_str().unwrap().contains(what), "no `{what}` in {key}: {check}");
}

#[test]
fn this_machine_is_described_and_every_line_says_how_it_is_known() {
    let report = report(doctor(&["--json"]));
    for backend in ["epoll", "poll"] {
        assert_eq!(state(&report, "backends", backend), "ok");
        contains(named(&report, "backends", backend), "proof", "received the same bytes");
    }
    for name in [
        "kernel",
        "io_uring",
        "auto-backend",
        "sqpoll",
        "io_uring/zero-copy-send",
        "zero-copy-send",
        "receive-pool",
        "registered-descriptors",
        "registered-memory",
        "huge-pages",
        "direct-files",
        "limit-memlock",
        "limit-nofile",
        "seccomp",
        "sysctl-io_uring",
        "congestion-control",
        "rdma",
        "nvme",
        "gpu",
        "dma-heaps",
        "udmabuf",
        "vulkan-loader",
    ] {
        named(&report, "checks", name);
    }
    assert_eq!(state(&report, "checks", "kernel"), "ok");
    assert_eq!(state(&report, "checks", "tcp-loopback"), "ok");
    let names: Vec<_> = every(&report).map(|check| check["name"].as_str().unwrap()).collect();
    let checks = &names[3..];
    let distinct: std::collections::HashSet<_> = checks.iter().collect();
    assert_eq!(distinct.len(), checks.len(), "every check has a name of its own");
}

#[test]
fn the_ring_and_its_capabilities_agree() {
    let report = report(doctor(&["--json"]));
    let ring = state(&report, "backends", "io_uring");
    assert_eq!(ring, state(&report, "checks", "io_uring"));
    if ring != "ok" {
        println!("no ring here: {}", named(&report, "backends", "io_uring")["reason"]);
        return assert_ne!(state(&report, "checks", "io_uring/multishot"), "ok");
    }
    assert_eq!(state(&report, "checks", "io_uring/multishot"), "ok");
    // What no operation uses is not called there, whatever the kernel has.
    assert_eq!(state(&report, "checks", "io_uring/messaging"), "missing");
    let pools = state(&report, "checks", "io_uring/buffer-rings") == "ok";
    assert_eq!(state(&report, "checks", "receive-pool") == "ok", pools);
}

#[test]
fn a_filter_that_forbids_io_uring_leaves_two_backends_and_is_named() {
    for (errno, words) in [(libc::EPERM, "forbidden"), (libc::ENOSYS, "no io_uring")] {
        let report = report(refusing(doctor(&["--json"]), IO_URING_SETUP, errno));
        assert_eq!(state(&report, "backends", "io_uring"), "missing");
        contains(named(&report, "backends", "io_uring"), "reason", words);
        contains(named(&report, "backends", "io_uring"), "remedy", "seccomp");
        for backend in ["epoll", "poll"] {
            assert_eq!(state(&report, "backends", backend), "ok");
        }
        let auto = named(&report, "checks", "auto-backend");
        contains(auto, "reason", "epoll, because: ");
        contains(auto, "reason", words);
        let filter = named(&report, "checks", "seccomp");
        assert_eq!(filter["state"], "limited", "{filter}");
        contains(filter, "reason", "a filter is active");
        for check in report["checks"].as_array().unwrap() {
            if check["name"].as_str().unwrap().starts_with("io_uring/") {
                assert_eq!(check["state"], "missing", "{check}");
            }
        }
        for name in ["zero-copy-send", "registered-descriptors", "registered-memory"] {
            assert_eq!(state(&report, "checks", name), "missing");
        }
        assert_eq!(state(&report, "checks", "receive-pool"), "limited");
        assert_eq!(state(&report, "checks", "tcp-loopback"), "ok");
    }
}

#[test]
fn a_filter_that_forbids_something_else_is_not_blamed() {
    let report = report(refusing(doctor(&["--json"]), libc::SYS_mbind, libc::EPERM));
    if state(&report, "backends", "io_uring") == "ok" {
        assert_eq!(state(&report, "checks", "seccomp"), "ok");
        contains(named(&report, "checks", "seccomp"), "reason", "a filter is active");
    }
    let checks = report["checks"].as_array().unwrap();
    let mut nodes =
        checks.iter().filter(|check| check["name"].as_str().unwrap().starts_with("numa-node-"));
    assert!(nodes.all(|node| node["state"] == "limited"), "{report}");
}

#[test]
fn a_small_memlock_limit_is_measured_and_the_rest_works() {
    let copy = Copy::new("memlock");
    for (limit, user) in [(0, 65_534), (65_536, 65_533)] {
        let report = report(limited(copy.doctor(&["--json"]), libc::RLIMIT_MEMLOCK, limit, user));
        assert_eq!(state(&report, "backends", "epoll"), "ok");
        assert_eq!(state(&report, "checks", "limit-memlock"), "limited");
        let ring = named(&report, "backends", "io_uring");
        let memory = named(&report, "checks", "registered-memory");
        match ring["state"] == "ok" {
            // Kernels that charge a ring's own queues to the limit make none at all.
            false if limit == 0 => contains(ring, "remedy", "RLIMIT_MEMLOCK"),
            false if ring["reason"].as_str().unwrap().contains("Cannot allocate") => {
                panic!("64 KiB are enough for a small ring: {ring}")
            }
            false => println!("skipped: {}", ring["reason"]),
            true => {
                assert_eq!(memory["state"], "limited", "{memory}");
                contains(memory, "remedy", "RLIMIT_MEMLOCK");
                match limit {
                    0 => contains(memory, "reason", "nothing can be registered"),
                    _ => contains(memory, "reason", " KiB can be registered, not "),
                }
                assert_eq!(state(&report, "checks", "receive-pool"), "ok");
            }
        }
        assert_eq!(state(&report, "checks", "tcp-loopback"), "ok");
    }
}

#[test]
fn few_descriptors_are_told_and_do_no_harm() {
    let copy = Copy::new("nofile");
    let report = report(limited(copy.doctor(&["--json"]), libc::RLIMIT_NOFILE, 64, 65_532));
    let files = named(&report, "checks", "limit-nofile");
    assert_eq!(files["state"], "limited", "{files}");
    contains(files, "remedy", "RLIMIT_NOFILE");
    // Too few for anything at all: told, with an exit code, and no panic.
    let output = run(limited(copy.doctor(&[]), libc::RLIMIT_NOFILE, 5, 65_532));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("FAILED"));
}

#[test]
fn without_any_backend_the_exit_code_says_so() {
    let output = run(refusing(doctor(&[]), libc::SYS_socketpair, libc::EACCES));
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no backend could move a byte"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.lines().filter(|line| line.contains("FAILED")).count() >= 2, "{stdout}");
}

#[test]
fn a_hidden_proc_is_no_trouble() {
    if !is_root() {
        return println!("skipped: hiding /proc in a mount namespace needs root");
    }
    let hidden = confined(doctor(&["--json"]), || {
        let none = c"none".as_ptr();
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        let nothing = std::ptr::null();
        // SAFETY: strings that live for ever, and numbers.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            let private = libc::mount(none, c"/".as_ptr(), std::ptr::null(), flags, nothing);
            check(private)?;
            check(libc::mount(none, c"/proc".as_ptr(), c"tmpfs".as_ptr(), 0, nothing))
        }
    });
    let report = report(hidden);
    assert_eq!(state(&report, "backends", "epoll"), "ok");
    for name in ["seccomp", "congestion-control"] {
        let check = named(&report, "checks", name);
        assert_eq!(check["state"], "limited", "{check}");
        contains(check, "remedy", "mount /proc");
    }
    assert_eq!(state(&report, "checks", "kernel"), "ok");
}

#[test]
fn a_loopback_that_is_down_is_told_and_the_backends_work() {
    if !is_root() {
        return println!("skipped: a network namespace of its own needs root");
    }
    let alone = confined(doctor(&["--json"]), || {
        // SAFETY: a number.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
    });
    let report = report(alone);
    assert_eq!(state(&report, "backends", "epoll"), "ok");
    assert_eq!(state(&report, "backends", "poll"), "ok");
    let loopback = named(&report, "checks", "tcp-loopback");
    assert_eq!(loopback["state"], "failed", "{loopback}");
    contains(loopback, "remedy", "ip link set lo up");
    contains(loopback, "proof", "tried: ");
}

#[test]
fn a_temporary_folder_that_is_not_there_costs_one_line() {
    let mut lost = doctor(&["--json"]);
    lost.env("TMPDIR", "/nonexistent/folder");
    let report = report(lost);
    let files = named(&report, "checks", "direct-files");
    assert_eq!(files["state"], "missing", "{files}");
    contains(files, "reason", "/nonexistent/folder");
    contains(files, "remedy", "TMPDIR");
    assert_eq!(state(&report, "checks", "tcp-loopback"), "ok");
}

#[test]
fn a_closed_standard_output_is_no_trouble() {
    for arguments in [&[][..], &["--json"], &["--remedies"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = doctor(arguments);
        let gone = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = gone.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "a reader that went away");

        let mut closed = confined(doctor(arguments), || {
            // SAFETY: a number.
            check(unsafe { libc::close(1) })
        });
        closed.stdout(Stdio::null());
        assert_eq!(run(closed).status.code(), Some(0), "closed before the start");
    }
    let mut full = doctor(&["--json"]);
    let device = File::options().write(true).open("/dev/full").unwrap();
    let full = full.stdout(device).stderr(Stdio::piped()).spawn().unwrap();
    let output = full.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("writing the report"), "{stderr}");
}

/// What it prints on a terminal.
fn on_a_terminal(mut command: Command) -> String {
    let (mut leader, mut follower) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: writes two locals; the other arguments may be null.
    let opened =
        unsafe { libc::openpty(&mut leader, &mut follower, null, null.cast(), null.cast()) };
    check(opened).unwrap();
    // SAFETY: just made, owned by nobody else.
    let (leader, follower) =
        unsafe { (OwnedFd::from_raw_fd(leader), OwnedFd::from_raw_fd(follower)) };
    let mut child = command.stdout(follower).stderr(Stdio::null()).spawn().unwrap();
    // The command holds the follower: the leader sees the end when the child is the last.
    drop(command);
    let (mut text, mut chunk) = (Vec::new(), [0; 4096]);
    let mut leader = File::from(leader);
    // A terminal whose other side is gone answers EIO.
    while let Ok(count @ 1..) = leader.read(&mut chunk) {
        text.extend_from_slice(&chunk[..count]);
    }
    assert!(child.wait().unwrap().success());
    String::from_utf8(text).unwrap()
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    assert!(on_a_terminal(doctor(&[])).contains("\x1b[32mok"));
    let mut plain = doctor(&[]);
    plain.env("NO_COLOR", "1");
    assert!(!on_a_terminal(plain).contains('\x1b'));
    let mut dumb = doctor(&[]);
    dumb.env("TERM", "dumb");
    assert!(!on_a_terminal(dumb).contains('\x1b'));
    assert!(!String::from_utf8(run(doctor(&[])).stdout).unwrap().contains('\x1b'));
}

#[test]
fn the_text_is_aligned_and_holds_what_the_json_holds() {
    let text = String::from_utf8(run(doctor(&[])).stdout).unwrap();
    let report = report(doctor(&["--json"]));
    for check in every(&report) {
        let name = check["name"].as_str().unwrap();
        let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
        assert!(line.is_some(), "no line for {name} in\n{text}");
    }
    let begins = |line: &str| line.len() - line.trim_start().len();
    let notes: Vec<_> =
        text.lines().filter(|line| line.trim_start().starts_with("remedy: ")).collect();
    assert!(notes.len() > 3 && notes.iter().all(|line| begins(line) == begins(notes[0])), "{text}");
}

#[test]
fn the_remedies_can_be_pasted() {
    let output = run(doctor(&["--remedies"]));
    let text = String::from_utf8(output.stdout).unwrap();
    for words in
        ["io_uring_setup", "LimitMEMLOCK=infinity", "SystemCallFilter=", "vm.nr_hugepages", "jq "]
    {
        assert!(text.contains(words), "no {words}");
    }
    let output = run(doctor(&["--remedies", "--json"]));
    assert_eq!(output.status.code(), Some(2), "one or the other");
}
