//! `dataplane fence` as its users meet it: the built binary, with a pipe for a fence.

#![allow(clippy::unwrap_used, reason = "a test ends where something unexpected is")]

use serde_json::Value;
use std::io::Write;
use std::process::{Command, Output, Stdio};

fn fence(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dataplane"));
    command.arg("fence").args(arguments);
    command
}

/// Standard input is a pipe into which `bytes` were written; it ends when `ends`.
fn with_input(arguments: &[&str], bytes: &[u8], ends: bool) -> Output {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(bytes).unwrap();
    let writer = (!ends).then_some(writer);
    let output = fence(arguments).stdin(reader).output().unwrap();
    drop(writer);
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn info_says_what_a_descriptor_is() {
    let known = |output: Output| -> Value {
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let info = ["info", "0", "--json"];
    let pending = known(with_input(&info, b"", false));
    assert_eq!((&pending["kind"], &pending["status"]), (&"event".into(), &"pending".into()));
    assert_eq!(known(with_input(&info, b"x", false))["status"], "signalled");
    assert_eq!(known(with_input(&info, b"", true))["errno"], 32);
    let plain = with_input(&["info", "0"], b"x", false);
    assert_eq!(text(&plain.stdout), "event: signalled\n");
}

#[test]
fn what_is_no_fence_is_refused() {
    for (name, expected) in [("/", "cannot be waited for"), ("999", "999"), ("/none", "/none")] {
        let output = fence(&["info", name]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let line = text(&output.stderr);
        assert!(line.starts_with("dataplane: ") && line.contains(expected), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}

#[test]
fn wait_ends_as_the_fence_does() {
    let signalled = with_input(&["wait", "0"], b"x", false);
    assert_eq!((signalled.status.code(), text(&signalled.stdout)), (Some(0), "signalled\n"));
    let failed = with_input(&["wait", "0"], b"", true);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("errno 32"), "{}", text(&failed.stderr));
    let late = with_input(&["wait", "0", "--timeout", "0.05"], b"", false);
    assert_eq!(late.status.code(), Some(4));
    assert!(text(&late.stderr).contains("still pending"), "{}", text(&late.stderr));
}

#[test]
fn the_self_test_proves_every_line_or_says_what_is_missing() {
    let output = fence(&["self-test", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let named = |name: &str| checks.iter().find(|check| check["name"] == name);
    for backend in ["epoll", "poll"] {
        for line in ["event-to-semaphore", "hang-up-to-failure", "gated-send", "failed-gate"] {
            let check = named(&format!("{backend}/{line}")).unwrap();
            assert_eq!(check["state"], "ok", "{check}");
        }
    }
    for check in checks {
        assert!(["ok", "missing"].map(Value::from).contains(&check["state"]), "{check}");
        assert_ne!(check["proof"], "", "{check}");
        assert!(check["state"] == "ok" || check["reason"] != "", "{check}");
    }
    let plain = fence(&["self-test"]).output().unwrap();
    assert_eq!(text(&plain.stdout).lines().filter(|line| line.contains("poll/")).count(), 12);
}

#[test]
fn time_gives_both_and_their_ratio() {
    let output = fence(&["time", "--count", "100", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let times: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |key: &str| times[key].as_f64().unwrap();
    assert!(number("import_ns") > 0.0 && number("poll_ns") > 0.0);
    let ratio = number("import_ns") / number("poll_ns");
    assert!((number("ratio") - ratio).abs() < 0.01);
}
