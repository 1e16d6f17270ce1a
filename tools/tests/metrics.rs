//! What a running command serves with `--metrics`, and what it shows when it is asked by a signal.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ChildStdin;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

/// A command with open standard input that serves metrics, and where.
fn served(args: &[&str]) -> (Running, ChildStdin, SocketAddr) {
    let mut command = tool();
    command.args(args).args(["--metrics", "0"]);
    let (mut running, stdin) = Running::fed(command);
    let line = running.line("/metrics");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next());
    (running, stdin, address.unwrap().parse().unwrap())
}

/// One request; status line and head, and body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn scrape(address: SocketAddr) -> String {
    let (head, body) = ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    body
}

/// The number of the first line that begins with `name` and has all of `labels`.
fn number(text: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let line = text.lines().find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|label| line.contains(label))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Scrapes until a number is at least `least`.
fn until(address: SocketAddr, name: &str, labels: &[&str], least: f64) -> String {
    let end = Instant::now() + LIMIT;
    loop {
        let text = scrape(address);
        if number(&text, name, labels).is_some_and(|found| found >= least) {
            return text;
        }
        assert!(Instant::now() < end, "{name} {labels:?} stays below {least}:\n{text}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn signal(name: &str, id: u32) {
    let status = std::process::Command::new("kill").args([name, &id.to_string()]).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_slow_stream_is_scraped_while_it_runs() {
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let (running, mut stdin, at) = served(&["stream", "-", "--json", "--backend", backend]);
        let own = format!("backend=\"{backend}\"");
        let of = |end: &'static str| [format!("proactor=\"{end}\""), own.clone()];
        let (sender, receiver) = (of("sender"), of("receiver"));
        let sent = [&sender[0], &sender[1], "direction=\"sent\""];
        let received = [&receiver[0], &receiver[1], "direction=\"received\""];
        for round in 1..=2 {
            stdin.write_all(&noise(MIB)).unwrap();
            until(at, "dataplane_bytes_total", &sent, (round * MIB) as f64);
            let text = until(at, "dataplane_bytes_total", &received, (round * MIB) as f64);
            assert!(number(&text, "dataplane_bytes_total", &sent).unwrap() < 3e6, "no more yet");
        }
        let text = scrape(at);
        for metric in dataplane::Stats::METRICS {
            let name = metric.name;
            assert!(text.contains(&format!("# HELP {name} ")), "{name} in\n{text}");
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            assert!(text.contains(&format!("# TYPE {name} {kind}")), "{name} in\n{text}");
            for labels in [&sender, &receiver] {
                let labels = labels.each_ref().map(String::as_str);
                assert!(number(&text, name, &labels).is_some(), "{name} {labels:?} in\n{text}");
            }
        }
        let pending = number(&text, "dataplane_operations_pending", &[&sender[0]]).unwrap();
        assert!((1.0..100.0).contains(&pending), "it waits for input: {pending}");
        drop(stdin);
        let report = running.finish().expect(0).json();
        assert_eq!((report["bytes"].as_u64(), &report["verified"]), (Some(2 << 20), &true.into()));
    }
}

#[test]
fn both_ends_of_a_transfer_are_scraped() {
    let folder = Folder::new();
    let out = folder.path("out");
    let (mut receiver, _, receiver_at) = served(&["recv", "--into", &out]);
    let to = receiver.address().to_string();
    until(receiver_at, "dataplane_operations_pending", &["proactor=\"receiver\""], 1.0);
    let (sender, mut stdin, sender_at) = served(&["send", "-", "--to", &to]);
    stdin.write_all(&noise(MIB)).unwrap();
    until(sender_at, "dataplane_bytes_total", &["direction=\"sent\""], MIB as f64);
    until(receiver_at, "dataplane_bytes_total", &["direction=\"written\""], MIB as f64);
    drop(stdin);
    sender.finish().expect(0);
    receiver.finish().expect(0);
    assert_eq!(std::fs::read(&out).unwrap().len(), MIB);
}

#[test]
fn other_requests_get_clear_answers_and_silent_clients_are_left() {
    let (running, stdin, at) = served(&["stream", "-"]);
    let silent: Vec<_> = (0..2).map(|_| TcpStream::connect(at).unwrap()).collect();
    for (request, status) in [
        ("GET /secret HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let (head, body) = ask(at, request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        assert!(body.contains("/metrics"), "it says where to look: {body}");
    }
    let (head, body) = ask(at, "HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.is_empty(), "{head}\n{body}");
    let endless = "GET /metrics HTTP/1.1\r\n".to_owned() + &"X: y\r\n".repeat(2000);
    let mut client = TcpStream::connect(at).unwrap();
    let _ = client.write_all(endless.as_bytes());
    scrape(at);
    drop((silent, client, stdin));
    running.finish().expect(0);
}

#[test]
fn an_address_that_cannot_be_had_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap().to_string();
    let ended = run(&["stream", "--metrics", &at]).expect(1);
    assert!(ended.err.contains(&at) && ended.err.contains("choose another port"), "{}", ended.err);
    let ended = run(&["stream", "--metrics", "192.0.2.1:0"]).expect(1);
    assert!(ended.err.contains("an address of this host"), "{}", ended.err);
    for bad in ["localhost:9100", "no", "127.0.0.1"] {
        let ended = run(&["stream", "--metrics", bad]);
        assert_eq!(ended.code, 2, "{}", ended.err);
        assert!(ended.err.contains("127.0.0.1:9100"), "{}", ended.err);
    }
}

#[test]
fn the_address_is_told_as_json_where_everything_is() {
    let (mut running, stdin) = {
        let mut command = tool();
        command.args(["stream", "-", "--json", "--metrics", "[::1]:0"]);
        Running::fed(command)
    };
    let line = running.line("metrics");
    if line.contains("dataplane: ") {
        println!("skipped: no IPv6 loopback here: {line}");
        return;
    }
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(value["metrics"].as_str().unwrap().starts_with("http://[::1]:"), "{line}");
    drop(stdin);
    running.finish().expect(0).json();
}

#[test]
fn a_signal_shows_what_both_ends_of_a_stream_wait_for() {
    for backend in BACKENDS.into_iter().filter(|name| has_backend(name)) {
        let (mut running, mut stdin, at) = served(&["stream", "-", "--backend", backend]);
        stdin.write_all(&noise(MIB)).unwrap();
        let labels = ["proactor=\"receiver\"", "direction=\"received\""];
        until(at, "dataplane_bytes_total", &labels, MIB as f64);
        signal("-USR1", running.id());
        let own = running.line("this loop: ");
        assert!(own.contains("in flight on") && !own.contains(": 0 "), "{own}");
        running.line("read");
        let other = running.line("receiver: ");
        assert!(other.contains("in flight on") && !other.contains(": 0 "), "{other}");
        running.line("recv");
        drop(stdin);
        running.finish().expect(0);
    }
}

#[test]
fn a_signal_shows_what_a_sender_waits_for() {
    let folder = Folder::new();
    let mut receiver = Running::start(&["recv", "--into", &folder.path("out")]);
    let to = receiver.address().to_string();
    let (mut sender, stdin, at) = served(&["send", "-", "--to", &to]);
    // The handshake is over when it waits for its input.
    until(at, "dataplane_bytes_total", &["direction=\"received\""], 1.0);
    signal("-USR1", sender.id());
    sender.line("in flight on");
    sender.line("waited for by");
    drop(stdin);
    sender.finish().expect(0);
    receiver.finish().expect(0);
}
