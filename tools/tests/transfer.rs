//! `dataplane send` and `dataplane recv` between processes, as their users run them.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn recv(extra: &[&str]) -> (Running, SocketAddr) {
    let mut receiver = Running::start(&[&["recv"], extra].concat());
    let address = receiver.address();
    (receiver, address)
}

fn send(path: &str, to: SocketAddr, extra: &[&str]) -> Ended {
    run(&[&["send", path, "--to", &to.to_string()], extra].concat())
}

fn signal(name: &str, process: u32) {
    let status = Command::new("kill").args([name, &process.to_string()]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_file_arrives_on_every_pair_of_backends() {
    let folder = Folder::new();
    let (path, content) = folder.file("in", 3_000_001);
    let out = folder.path("out");
    for (sender, receiver) in BACKENDS.into_iter().zip(["poll", "io_uring", "epoll"]) {
        if !has_backend(sender) || !has_backend(receiver) {
            continue;
        }
        let (process, to) = recv(&["--into", &out, "--backend", receiver]);
        let report = send(&path, to, &["--json", "--backend", sender]).expect(0).json();
        assert_eq!(report["command"], "send");
        assert_eq!(report["backend"], sender);
        assert_eq!(report["verified"], true);
        assert_eq!(report["hash"]["hex"], blake3_of(&content).as_str());
        let ended = process.finish().expect(0);
        let told = String::from_utf8(ended.out).unwrap();
        assert!(told.contains("both ends agree"), "{told}");
        assert!(std::fs::read(&out).unwrap() == content, "{sender} to {receiver}");
    }
    assert_eq!(folder.names(), ["in", "out"]);
    let mode = std::fs::metadata(&out).unwrap().permissions().mode();
    assert_eq!(mode & 0o7133, 0, "an ordinary file, {mode:o}");
}

#[test]
fn addresses_are_ipv4_ipv6_and_names() {
    let folder = Folder::new();
    let (path, content) = folder.file("in", 10_000);
    let out = folder.path("out");
    let mut listens = vec!["127.0.0.1:0", "localhost:0"];
    match TcpListener::bind("[::1]:0") {
        Ok(_) => listens.push("[::1]:0"),
        Err(error) => println!("skipped: no IPv6 loopback here: {error}"),
    }
    for listen in listens {
        let (process, to) = recv(&["--into", &out, "--listen", listen]);
        send(&path, to, &[]).expect(0);
        process.finish().expect(0);
        assert!(std::fs::read(&out).unwrap() == content);
        std::fs::remove_file(&out).unwrap();
    }
    let (process, to) = recv(&["--into", &out]);
    run(&["send", &path, "--to", &format!("localhost:{}", to.port())]).expect(0);
    process.finish().expect(0);
    let ended = run(&["send", &path, "--to", "no-such-host.invalid:1"]);
    assert!(ended.expect(1).err.contains("no-such-host.invalid"));
    run(&["recv", "--into", &out, "--listen", "nonsense"]).expect(2);
}

#[test]
fn standard_input_and_output_are_pipes_of_the_transfer() {
    let content = noise(2_500_001);
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let (process, to) = recv(&["--into", "-", "--backend", backend, "--json"]);
        let mut command = tool();
        let to = to.to_string();
        command.args(["send", "-", "--to", &to, "--json", "--backend", backend]);
        let report = Running::of(command, &content).finish().expect(0).json();
        assert_eq!(report["bytes"], content.len());
        assert_eq!(report["hash"]["hex"], blake3_of(&content).as_str());
        let ended = process.finish().expect(0);
        assert!(ended.out == content, "{backend}: the data and nothing else");
        assert!(ended.err.contains("\"verified\":true"), "{}", ended.err);
    }
}

#[test]
fn a_slow_source_is_no_stalled_peer() {
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let (process, to) = recv(&["--into", "-", "--timeout", "1", "--backend", backend]);
        let mut command = Command::new("sh");
        let script = "(printf one; sleep 1.6; printf two) | \"$0\" \"$@\"";
        let to = to.to_string();
        let send = ["send", "-", "--to", &to, "--timeout", "1", "--backend", backend];
        command.args(["-c", script, env!("CARGO_BIN_EXE_dataplane")]).args(send);
        Running::of(command, b"").finish().expect(0);
        assert_eq!(process.finish().expect(0).out, b"onetwo", "{backend}");
    }
}

#[test]
fn the_bound_address_is_told_in_json_too() {
    let folder = Folder::new();
    let (path, _) = folder.file("in", 5);
    let args = ["recv", "--into", &folder.path("out"), "--json"];
    let mut process = Running::start(&args);
    let line: serde_json::Value = serde_json::from_str(&process.line("listening")).unwrap();
    let to: SocketAddr = line["listening"].as_str().unwrap().parse().unwrap();
    assert_ne!(to.port(), 0);
    send(&path, to, &[]).expect(0);
    let report = process.finish().expect(0).json();
    assert_eq!(report["command"], "recv");
    assert_eq!(report["verified"], true);
}

#[test]
fn a_token_is_proven_by_both_ends_or_nothing_moves() {
    let folder = Folder::new();
    let (path, content) = folder.file("in", 100_000);
    let out = folder.path("out");
    let right = folder.path("right");
    let wrong = folder.path("wrong");
    std::fs::write(&right, "correct horse battery staple\n").unwrap();
    std::fs::write(&wrong, "incorrect horse battery staple\n").unwrap();
    let have = |token: Option<&str>| match token {
        Some(path) => vec!["--token-file".to_owned(), path.to_owned()],
        None => Vec::new(),
    };
    let cases: [(Option<&str>, Option<&str>); 4] =
        [(Some(&right), Some(&wrong)), (Some(&right), None), (None, Some(&right)), (None, None)];
    for (theirs, ours) in cases {
        let (theirs, ours) = (have(theirs), have(ours));
        let theirs: Vec<&str> = theirs.iter().map(String::as_str).collect();
        let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
        let (process, to) = recv(&[&["--into", &out], &theirs[..]].concat());
        let code = if theirs.is_empty() && ours.is_empty() { 0 } else { 5 };
        let ended = send(&path, to, &ours).expect(code);
        assert!(code == 0 || ended.err.contains("token"), "{}", ended.err);
        let received = process.finish();
        assert_eq!(received.code == 0, code == 0, "{}", received.err);
        assert_eq!(std::fs::exists(&out).unwrap(), code == 0);
        assert!(!received.err.contains("horse") && !ended.err.contains("horse"));
    }
    std::fs::remove_file(&out).unwrap();
    let (process, to) = recv(&["--into", &out, "--token-file", &right]);
    send(&path, to, &["--token-file", &right]).expect(0);
    process.finish().expect(0);
    assert!(std::fs::read(&out).unwrap() == content);
}

#[test]
fn other_addresses_than_loopback_demand_a_token() {
    let folder = Folder::new();
    let out = folder.path("out");
    for listen in ["0.0.0.0:0", "[::]:0", "[::ffff:0.0.0.0]:0", "192.0.2.1:0"] {
        let ended = run(&["recv", "--into", &out, "--listen", listen]).expect(5);
        assert!(ended.err.contains("--token-file"), "{}", ended.err);
    }
    let (path, _) = folder.file("in", 1000);
    let token = folder.path("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let args = ["--into", &out, "--listen", "0.0.0.0:0", "--token-file", &token];
    let (mut process, to) = recv(&args);
    assert!(process.line("not encrypted").contains("not encrypted"));
    let to = SocketAddr::from(([127, 0, 0, 1], to.port()));
    send(&path, to, &["--token-file", &token]).expect(0);
    process.finish().expect(0);
    std::fs::write(&token, "short").unwrap();
    let ended = run(&[&["recv"], &args[..]].concat()).expect(5);
    assert!(ended.err.contains("16 to 4096"), "{}", ended.err);
}

#[test]
fn an_existing_target_is_replaced_only_by_a_whole_file() {
    let folder = Folder::new();
    let (path, content) = folder.file("in", 50_000);
    let out = folder.path("out");
    std::fs::write(&out, "before").unwrap();
    let (process, to) = recv(&["--into", &out, "--hash", "sha256"]);
    let ended = send(&path, to, &["--hash", "blake3"]);
    assert_ne!(ended.code, 0);
    assert!(ended.err.contains("refused"), "{}", ended.err);
    process.finish().expect(2);
    assert_eq!(std::fs::read(&out).unwrap(), b"before");
    assert_eq!(folder.names(), ["in", "out"]);
    let (process, to) = recv(&["--into", &out, "--hash", "sha256"]);
    send(&path, to, &["--hash", "sha256"]).expect(0);
    process.finish().expect(0);
    assert!(std::fs::read(&out).unwrap() == content);
}

#[test]
fn a_receiver_that_keeps_takes_the_next_after_good_and_bad() {
    let folder = Folder::new();
    let out = folder.path("out");
    let (mut process, to) = recv(&["--into", &out, "--keep", "--timeout", "0.2"]);
    for bytes in [10, 70_000] {
        let (path, content) = folder.file("in", bytes);
        drop(std::net::TcpStream::connect(to).unwrap());
        process.line("dataplane: ");
        send(&path, to, &[]).expect(0);
        assert!(std::fs::read(&out).unwrap() == content);
        let ended = send(&folder.path("missing"), to, &[]).expect(1);
        assert!(ended.err.contains("missing"));
    }
    signal("-TERM", process.id());
    let ended = process.finish();
    assert_eq!(ended.code, 130, "{}", ended.err);
    assert_eq!(String::from_utf8(ended.out).unwrap().matches("both ends agree").count(), 2);
    assert_eq!(folder.names(), ["in", "out"]);
}

#[test]
fn a_signal_shows_what_is_in_flight_and_another_ends_in_order() {
    let folder = Folder::new();
    let out = folder.path("out");
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let (mut process, _) = recv(&["--into", &out, "--backend", backend]);
        signal("-USR1", process.id());
        process.line("in flight on");
        process.line("accept");
        signal("-INT", process.id());
        let ended = process.finish();
        assert_eq!(ended.code, 130, "{backend}: {}", ended.err);
    }
    assert!(folder.names().is_empty());
}

#[test]
fn nobody_listening_is_told() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = free.local_addr().unwrap();
    drop(free);
    let folder = Folder::new();
    let (path, _) = folder.file("in", 5);
    assert!(send(&path, to, &[]).expect(4).err.contains("is `dataplane recv` listening"));
}
