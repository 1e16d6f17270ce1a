//! Where unsafe code may be: one table, with a reason each.
//!
//! The workspace denies `unsafe_code`; a module opts in at its head and appears here, so a reader
//! sees in one place what to audit. A module missing from the table fails, and so does an entry
//! whose module is gone, no longer opts in, or no longer holds unsafe code.

use crate::rust;
use crate::tree::{File, Finding, Tree, assert_found, assert_tidy};

/// The modules that opt in, with what they need it for. Sorted by path.
const MODULES: &[(&str, &str)] = &[
    (
        "benches/src/limit/echo.rs",
        "the hand-written loop: the kernel follows the pointers in its entries",
    ),
    (
        "benches/src/limit/fence.rs",
        "entries are pushed and a descriptor is asked what it is (ioctl)",
    ),
    (
        "benches/src/limit/memory.rs",
        "the hand-written loop: the kernel follows the pointers in its entries",
    ),
    (
        "benches/src/limit/noop.rs",
        "the hand-written loop: the kernel follows the pointers in its entries",
    ),
    (
        "benches/src/limit/read.rs",
        "the hand-written loop: the kernel follows the pointers in its entries",
    ),
    (
        "benches/src/limit/receive.rs",
        "the hand-written loop: the kernel follows the pointers in its entries",
    ),
    (
        "benches/src/limit/ring.rs",
        "the hand-written loop: the kernel follows the pointers in its entries",
    ),
    (
        "benches/src/limit/send.rs",
        "the hand-written loop: the kernel follows the pointers in its entries",
    ),
    (
        "benches/src/limit/stream.rs",
        "the hand-written loop: the kernel follows the pointers in its entries",
    ),
    ("dataplane/examples/vulkan_send.rs", "a program of Vulkan's"),
    (
        "dataplane/src/backend/ready/poller.rs",
        "epoll and poll(2) calls that take descriptors by number",
    ),
    ("dataplane/src/backend/uring/buf_ring.rs", "a buffer ring in memory shared with the kernel"),
    ("dataplane/src/backend/uring/chain.rs", "entries that are staged already"),
    ("dataplane/src/backend/uring/mod.rs", "entries whose pointers the slots keep alive"),
    ("dataplane/src/backend/uring/pools.rs", "buffers handed to the kernel"),
    ("dataplane/src/backend/uring/probe.rs", "trials of kernel features"),
    ("dataplane/src/backend/uring/ring.rs", "the queues shared with the kernel"),
    ("dataplane/src/backend/uring/sqe.rs", "fields the entry builders of the ring crate lack"),
    ("dataplane/src/backend/uring/storage.rs", "entries whose pointers the slots keep alive"),
    ("dataplane/src/backend/uring/tables.rs", "registration calls the ring crate lacks"),
    ("dataplane/src/backend/uring/trial.rs", "trials of kernel features"),
    ("dataplane/src/backend/uring/trial_send.rs", "trials of kernel features"),
    ("dataplane/src/engine/complete.rs", "a descriptor number from the kernel becomes owned"),
    ("dataplane/src/engine/state/groups.rs", "a slot the kernel held becomes a lease again"),
    (
        "dataplane/src/engine/state/scratch.rs",
        "message headers and addresses the kernel reads and writes",
    ),
    ("dataplane/src/io/pass.rs", "promises about memory that another process can write"),
    ("dataplane/src/op/file.rs", "a helper thread reads or writes memory its operation owns"),
    ("dataplane/src/remote/queue.rs", "values handed from thread to thread in shared cells"),
    ("dataplane/src/run/tokio.rs", "a promise to tokio's reactor about a descriptor"),
    ("dataplane/src/sys/calls.rs", "the system calls of the readiness backend"),
    ("dataplane/src/sys/fork.rs", "the page that is wiped in a forked child"),
    ("dataplane/src/sys/futex.rs", "futex(2) and futex_waitv(2)"),
    ("dataplane/src/sys/helpers.rs", "signal masks of helper threads"),
    ("dataplane/src/sys/limits.rs", "sysconf(3)"),
    ("dataplane/src/sys/mod.rs", "raw calls that make what its tests try the functions on"),
    ("dataplane/src/sys/rights.rs", "control messages with descriptors the kernel wrote"),
    ("dataplane/src/sys/signals.rs", "sigaction(2)"),
    ("dataplane/src/sys/words.rs", "words in a mapped memfd"),
    ("dataplane/tests/soundness/memory.rs", "a test"),
    ("dataplane/tests/soundness/wakers.rs", "a test with wakers of its own"),
    ("fence/src/device/fence.rs", "descriptors that C interfaces give away"),
    ("fence/src/device/uapi.rs", "ioctl(2) with structures of the kernel"),
    ("fence/src/vulkan/calls.rs", "functions of Vulkan's"),
    ("fence/src/vulkan/descriptors.rs", "descriptors given to and taken from a driver"),
    ("fence/src/vulkan/fence.rs", "a fence whose life the caller vouches for"),
    ("fence/src/vulkan/mod.rs", "a device whose life the caller vouches for"),
    ("fence/src/vulkan/timeline.rs", "a timeline whose life the caller vouches for"),
    ("fence/tests/allocations.rs", "a counting allocator"),
    ("regions/src/lease.rs", "bytes of a slot as slices"),
    ("regions/src/memory/copy.rs", "copies of memory others may write"),
    ("regions/src/memory/dma_buf.rs", "an ioctl of dma-bufs"),
    ("regions/src/memory/mapping.rs", "mmap(2) and its like"),
    ("regions/src/memory/source.rs", "memory the caller vouches for"),
    ("regions/src/memory/vulkan.rs", "functions of Vulkan's, and memory shared with a device"),
    ("regions/src/region.rs", "pointers into regions, memory the caller vouches for"),
    ("regions/src/slab/mod.rs", "slots over memory the caller vouches for"),
    ("regions/src/slab/slot.rs", "reference counts of slots"),
    ("regions/src/span.rs", "bytes of a shared range as a slice"),
    ("regions/tests/region.rs", "a test with foreign memory"),
    ("regions/tests/slab.rs", "a test with foreign memory"),
    ("tests/lab/guest/devices/ioctl.rs", "ioctls whose structures drivers read and write"),
    ("tests/lab/guest/devices/vulkan.rs", "a C library that is found at run time"),
    ("tests/src/cases/pass.rs", "the promise that comes with a passed slab"),
    ("tests/src/cases/vulkan.rs", "promises about fences and timelines of Vulkan's"),
    ("tests/src/cases/vulkan_descriptors.rs", "promises about what is exported and imported"),
    ("tests/src/cases/vulkan_memory.rs", "promises about memory that a device writes"),
    ("tests/src/cases/zero_copy.rs", "a page of the kernel's as memory"),
    ("tests/src/soak/actions/pass.rs", "the promise that comes with a passed slab"),
    ("tests/src/stand_in.rs", "a forked server that makes system calls only"),
    ("tests/src/vulkan/faults.rs", "functions in the place of a driver's"),
    ("tests/src/vulkan/mod.rs", "a program of Vulkan's"),
    ("tests/src/vulkan/work.rs", "a program of Vulkan's"),
    ("tests/tests/process/child/allocations.rs", "a counting allocator"),
    ("tests/tests/process/child/mod.rs", "a test that forks"),
    ("tests/tests/process/child/system_calls.rs", "a test that counts system calls by ptrace"),
    ("tests/tests/process/fork.rs", "promises about a device that a child inherits"),
    ("tests/tests/process/handoff.rs", "a test with a signal handler of its own"),
    ("tests/tests/process/passing.rs", "the promise that comes with a passed slab"),
    ("tools/src/fence/vulkan.rs", "a program of Vulkan's"),
    (
        "tools/tests/doctor.rs",
        "a test with system calls between fork and exec, and a pseudo-terminal",
    ),
];

#[test]
fn unsafe_code_is_where_the_table_says() {
    assert_tidy(&misplaced(&Tree::repository(), MODULES));
}

#[test]
fn every_unsafe_module_says_why() {
    assert_tidy(&unexplained(&Tree::repository()));
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    assert_tidy(&without_lints(&Tree::repository()));
}

/// The line of the first `allow(.. unsafe_code ..)` or `expect(..)` in a file, if any.
fn opt_in(file: &File) -> Option<usize> {
    rust::words(&file.code, "unsafe_code")
        .find(|&at| {
            let before = &file.code[..at];
            let attribute = before.rfind("#").map_or("", |start| &before[start..]);
            attribute.contains("allow(") || attribute.contains("expect(")
        })
        .map(|at| rust::line_of(&file.code, at))
}

fn misplaced(tree: &Tree, table: &[(&str, &str)]) -> Vec<Finding> {
    assert!(table.is_sorted(), "MODULES is sorted by path");
    let mut findings = Vec::new();
    for file in tree.rust() {
        let listed = table.iter().any(|(path, _)| *path == file.path);
        if let Some(line) = opt_in(file).filter(|_| !listed) {
            let what = "opts into unsafe code: do without, or add it to MODULES in \
                        tests/tests/tidy/unsafety.rs with a reason";
            findings.push(Finding::at(file, line, what));
        }
    }
    for (path, reason) in table {
        let problem = match tree.get(path) {
            None => "does not exist",
            Some(file) if opt_in(file).is_none() => "no longer opts in",
            Some(file) if rust::words(&file.code, "unsafe").next().is_none() => {
                "opts in and holds no unsafe code: take the attribute out, or into the module \
                 that needs it"
            }
            Some(_) if reason.is_empty() => "has no reason",
            Some(_) => continue,
        };
        findings.push(Finding(format!("{path}: listed in MODULES, but {problem}")));
    }
    findings
}

fn unexplained(tree: &Tree) -> Vec<Finding> {
    let explains = |file: &File| {
        file.head().iter().any(|line| {
            let line = line.to_lowercase();
            rust::words(&line, "unsafe").next().is_some()
        })
    };
    tree.rust()
        .filter(|file| !explains(file))
        .filter_map(|file| Some((file, opt_in(file)?)))
        .map(|(file, line)| {
            Finding::at(file, line, "say in the prose at the head what the unsafe code is for")
        })
        .collect()
}

/// Without this line in a crate's manifest the compiler would not hold the crate to anything.
fn without_lints(tree: &Tree) -> Vec<Finding> {
    tree.files
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
        .filter(|file| !file.text.contains("[lints]\nworkspace = true"))
        .map(|file| Finding::at(file, 1, "add `[lints]` with `workspace = true`"))
        .collect()
}

const OPTS_IN: &str = "//! Maps memory; needs unsafe to do it.\n#![allow(unsafe_code)]\n";

#[test]
fn a_module_missing_from_the_table_is_found() {
    let unsafe_code = format!("{OPTS_IN}unsafe fn f() {{}}\n");
    let several = "//! x\n#[expect(\n    dead_code,\n    unsafe_code\n)]\nunsafe fn f() {}\n";
    let prose = "//! `#![allow(unsafe_code)]` is prose here.\n#![deny(unsafe_code)]\n";
    let files =
        [("a.rs", unsafe_code.as_str()), ("b.rs", several), ("c.rs", prose), ("d.rs", "//! x\n")];
    let tree = Tree::sample(&files);
    assert_found(&misplaced(&tree, &[]), &["a.rs:2:", "b.rs:4:"]);
    assert_found(&misplaced(&tree, &[("a.rs", "maps memory")]), &["b.rs:4:"]);
}

#[test]
fn a_stale_entry_is_found() {
    let idle = format!("{OPTS_IN}// unsafe only in prose\n");
    let used = format!("{OPTS_IN}unsafe fn f() {{}}\n");
    let tree = Tree::sample(&[("idle.rs", &idle), ("safe.rs", "//! x\n"), ("used.rs", &used)]);
    let table = [("gone.rs", "x"), ("idle.rs", "x"), ("safe.rs", "x"), ("used.rs", "")];
    let expected = ["does not exist", "holds no unsafe", "no longer opts in", "has no reason"];
    assert_found(&misplaced(&tree, &table), &expected);
}

#[test]
fn a_head_without_the_reason_is_found() {
    let silent = "//! Maps memory with unsafe_code.\n#![allow(unsafe_code)]\nunsafe fn f() {}\n";
    let tree = Tree::sample(&[("good.rs", OPTS_IN), ("silent.rs", silent)]);
    assert_found(&unexplained(&tree), &["silent.rs:2:"]);
}

#[test]
fn a_crate_without_the_lints_is_found() {
    let good = "[package]\n\n[lints]\nworkspace = true\n";
    let tree = Tree::sample(&[("a/Cargo.toml", good), ("b/Cargo.toml", "[package]\n")]);
    assert_found(&without_lints(&tree), &["b/Cargo.toml:1:"]);
}
