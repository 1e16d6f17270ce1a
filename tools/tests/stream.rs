//! `dataplane stream` as its users run it: every backend, with and without O_DIRECT, and what it
//! says when things are not as wanted.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use std::process::{Command, Stdio};

/// True when the file system refuses O_DIRECT, which is said.
fn refuses_direct(ended: &Ended) -> bool {
    let refused = ended.code == 1 && ended.err.contains("no O_DIRECT");
    if refused {
        println!("skipped: {}", ended.err);
    }
    refused
}

#[test]
fn the_default_file_is_the_executable_on_every_backend() {
    let expected = blake3_of(&std::fs::read(env!("CARGO_BIN_EXE_dataplane")).unwrap());
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        for direct in [false, true] {
            let mut args = vec!["stream", "--json", "--backend", backend];
            args.extend(direct.then_some("--direct"));
            let ended = run(&args);
            if direct && refuses_direct(&ended) {
                continue;
            }
            let report = ended.expect(0).json();
            assert_eq!(report["command"], "stream");
            assert_eq!(report["backend"], backend);
            assert_eq!(report["verified"], true);
            assert_eq!(report["hash"]["algorithm"], "blake3");
            assert_eq!(report["hash"]["hex"], expected.as_str(), "{backend} direct {direct}");
            for stage in ["read", "send", "receive"] {
                assert_eq!(stage_bytes(&report, stage), report["bytes"].as_u64().unwrap());
            }
            let read = &report["stages"][0];
            assert_eq!(read["zero_copy"], direct, "{read}");
            assert_eq!(read["reason"].is_null(), direct);
        }
    }
}

#[test]
fn every_size_arrives_on_every_backend() {
    let folder = Folder::new();
    let out = folder.path("out");
    for bytes in [0, 1, 4095, 4096, 65536, 65537, 1 << 20, (1 << 20) + 4097] {
        let (path, content) = folder.file("in", bytes);
        for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
            let shape = ["--buffer-size", "16K", "--buffers", "3", "--into", &out];
            let args = [&["stream", &path, "--json", "--backend", backend], &shape[..]].concat();
            let report = run(&args).expect(0).json();
            assert_eq!(report["bytes"], bytes);
            assert_eq!(report["hash"]["hex"], blake3_of(&content).as_str());
            assert_eq!(stage_bytes(&report, "write"), bytes as u64);
            assert!(std::fs::read(&out).unwrap() == content, "{bytes} bytes on {backend}");
            assert_eq!(folder.names(), ["in", "out"], "no temporary file is left");
        }
    }
}

#[test]
fn a_tail_that_is_no_whole_block_is_read_with_o_direct() {
    let folder = Folder::new();
    for bytes in [1, 511, 4097, (1 << 20) + 1, 300_000] {
        let (path, content) = folder.file("in", bytes);
        for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
            let ended = run(&["stream", &path, "--json", "--direct", "--backend", backend]);
            if refuses_direct(&ended) {
                return;
            }
            let report = ended.expect(0).json();
            assert_eq!(report["bytes"], bytes);
            assert_eq!(report["hash"]["hex"], blake3_of(&content).as_str());
        }
    }
}

#[test]
fn hashes_are_the_published_ones_wherever_they_are_computed() {
    let folder = Folder::new();
    let (path, content) = folder.file("in", 700_001);
    for place in ["auto", "thread", "loop"] {
        for (hash, expected) in [("blake3", blake3_of(&content)), ("sha256", sha256_of(&content))] {
            let args = ["stream", &path, "--json", "--hash", hash, "--hash-on", place];
            let report = run(&args).expect(0).json();
            assert_eq!(report["hash"]["hex"], expected.as_str(), "{hash} on {place}");
        }
    }
    let report = run(&["stream", &path, "--json", "--hash", "none"]).expect(0).json();
    assert!(report["hash"]["hex"].is_null());
    assert_eq!(report["verified"], false, "nothing was verified but the length");
}

#[test]
fn standard_input_is_streamed_to_its_end() {
    let content = noise(1_000_003);
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let mut command = tool();
        command.args(["stream", "-", "--json", "--backend", backend]);
        let report = Running::of(command, &content).finish().expect(0).json();
        assert_eq!(report["bytes"], content.len());
        assert_eq!(report["hash"]["hex"], blake3_of(&content).as_str());
    }
}

#[test]
fn zero_copy_is_told_truly_on_loopback() {
    if !has_backend("io_uring") {
        return;
    }
    let folder = Folder::new();
    let (path, _) = folder.file("in", 2 << 20);
    let base = ["stream", &path, "--json", "--backend", "io_uring", "--zero-copy"];
    for (wanted, mechanism) in [("always", "send-zc"), ("never", "send")] {
        let report = run(&[&base[..], &[wanted]].concat()).expect(0).json();
        for stage in report["stages"].as_array().unwrap().iter().filter(|s| s["stage"] == "send") {
            let used = stage["mechanism"].as_str().unwrap();
            assert_eq!(used.starts_with("send-zc"), mechanism == "send-zc", "{stage}");
            assert_eq!(stage["zero_copy"], false, "loopback always copies: {stage}");
            assert!(stage["reason"].is_string());
        }
    }
}

#[test]
fn required_zero_copy_fails_where_there_is_none() {
    let folder = Folder::new();
    let (path, _) = folder.file("in", 2 << 20);
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let ended = run(&["stream", &path, "--backend", backend, "--require", "zero-copy"]);
        let ended = ended.expect(6);
        assert!(ended.err.contains("zero-copy"), "{}", ended.err);
        assert!(ended.out.is_empty());
    }
    run(&["stream", "--require", "zero-copy", "--zero-copy", "never"]).expect(2);
}

#[test]
fn what_cannot_be_read_or_written_is_one_line() {
    let folder = Folder::new();
    let (path, _) = folder.file("in", 10);
    let missing = folder.path("missing");
    assert!(run(&["stream", &missing]).expect(1).err.contains(&missing));
    assert!(run(&["stream", &folder.path(".")]).expect(1).err.contains("directory"));
    let under = folder.path("none/out");
    assert!(run(&["stream", &path, "--into", &under]).expect(1).err.contains("no folder"));
    assert!(run(&["stream", &path, "--into", "/dev/null"]).expect(1).err.contains("regular"));
    assert!(run(&["stream", &path, "--buffer-size", "1"]).expect(2).err.contains("4096"));
    assert!(run(&["stream", &path, "--buffers", "1"]).expect(2).err.contains("4096"));
    assert_eq!(run(&["stream", "--no-such-option"]).code, 2);
    assert_eq!(folder.names(), ["in"]);
}

#[test]
fn a_full_device_is_told_and_leaves_the_target() {
    let mut command = tool();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    command.args(["stream", "--into", "-", "--backend", "epoll"]);
    let ended = command.stdin(Stdio::null()).stdout(full).output().unwrap();
    let err = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{err}");
    assert!(err.contains("standard output"), "{err}");
}

#[test]
fn a_closed_pipe_is_a_quiet_end() {
    for args in [&["stream"][..], &["stream", "--json"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = tool();
        let ended = command.args(args).stdin(Stdio::null()).stdout(writer).output().unwrap();
        let err = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{args:?}: {err}");
        assert!(err.is_empty(), "{args:?}: {err}");
    }
}

#[test]
fn a_small_memlock_limit_falls_back_and_says_so() {
    if !has_backend("io_uring") {
        return;
    }
    // CAP_IPC_LOCK lifts the limit, so it must go from the set an executed program can have.
    let bare = |kib: &str, program: &str, args: &[&str]| {
        let mut command = Command::new("sh");
        let script = "ulimit -l $1 && shift && exec setpriv --bounding-set=-ipc_lock \
                      --inh-caps=-ipc_lock \"$@\"";
        command.args(["-c", script, "sh", kib, program]).args(args);
        Running::of(command, b"").finish()
    };
    if bare("64", "true", &[]).code != 0 {
        println!("skipped: setpriv (util-linux) cannot take CAP_IPC_LOCK away here");
        return;
    }
    // Room for two rings and not for a slab of 4 MiB; then not even for a ring.
    for (kib, backend) in [("2048", Some("io_uring")), ("0", None)] {
        let ended = bare(kib, env!("CARGO_BIN_EXE_dataplane"), &["stream", "--json"]);
        let report = ended.expect(0).json();
        assert_eq!(report["verified"], true);
        let fallbacks = report["fallbacks"].as_array().unwrap();
        let said = fallbacks.iter().any(|f| f.as_str().unwrap().contains("RLIMIT_MEMLOCK"));
        assert!(said, "{kib} KiB: {fallbacks:?}");
        assert!(backend.is_none_or(|name| report["backend"] == name), "{report}");
        assert_eq!(report["stages"][0]["mechanism"], "file", "not from registered buffers");
    }
}
