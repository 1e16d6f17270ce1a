//! `--metrics ADDR`: what the loops of this process count, as Prometheus text over HTTP while a
//! command runs.
//!
//! One thread of its own accepts, reads one request, asks every loop for its numbers
//! ([`Handle::stats`]), publishes and answers; nothing is published unless somebody asks, and a
//! loop that does not answer within a second is shown as it was last seen. One request for each
//! connection, one at a time, two seconds for all of it: whoever is slow keeps the others waiting
//! no longer. The thread ends with the process.
//!
//! The address is a literal one, so that nothing but what was written is opened: `127.0.0.1:9100`,
//! `[::1]:0`, or a bare port, which means loopback. Port 0 takes one that is free; the one that was
//! bound is told on standard error. There is neither encryption nor a password.
//!
//! The text is [Prometheus's](https://prometheus.io/docs/instrumenting/exposition_formats/); names
//! and units are those of `dataplane::Stats::METRICS`.

use crate::failure::{Doing, Exit, Failure, Result};
use crate::report::say;
use dataplane::{Handle, MetricsExporter, Proactor, Stats};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Longest that one loop is waited for.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// Longest that one client is served.
const SERVED_WITHIN: Duration = Duration::from_secs(2);
/// Longest request that is read, in bytes.
const REQUEST_BYTES: usize = 8192;
/// What the text is.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The loops of this process and where their numbers are kept.
pub struct Metrics {
    recorder: PrometheusRecorder,
    loops: Mutex<Vec<(Handle, MetricsExporter)>>,
}

impl Metrics {
    /// Listens and serves from now on. Call it when signals are blocked: its thread inherits that.
    pub fn serve(address: SocketAddr, json: bool) -> Result<Arc<Metrics>> {
        let refused = |error: io::Error| {
            let next = match error.kind() {
                ErrorKind::AddrInUse => "; choose another port, or 0 for one that is free",
                ErrorKind::AddrNotAvailable => "; choose an address of this host",
                _ => "",
            };
            Failure::new(Exit::System, format!("--metrics {address}: {error}{next}"))
        };
        let listener = TcpListener::bind(address).map_err(refused)?;
        let bound = listener.local_addr().doing("--metrics")?;
        let url = format!("http://{bound}/metrics");
        match json {
            true => say(serde_json::json!({ "metrics": url })),
            false => say(format_args!("metrics on {url}")),
        }
        if !bound.ip().to_canonical().is_loopback() {
            say("note: whoever reaches this address can read the metrics");
        }
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = Arc::new(Metrics { recorder, loops: Mutex::default() });
        let served = metrics.clone();
        let builder = std::thread::Builder::new().name("metrics".to_owned());
        builder.spawn(move || served.accept(&listener)).doing("start the thread for --metrics")?;
        Ok(metrics)
    }

    /// Shows what this loop counts, too.
    pub fn watch(&self, io: &Proactor) {
        let exporter = metrics::with_local_recorder(&self.recorder, || MetricsExporter::new(io));
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.push((io.handle(), exporter));
    }

    fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept() {
                // What fails with one client is no matter of the others.
                Ok((client, _)) => drop(self.answer(client)),
                // Out of descriptors, or a client that is gone already.
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    fn answer(&self, mut client: TcpStream) -> io::Result<()> {
        let deadline = Instant::now() + SERVED_WITHIN;
        let request = read_request(&mut client, deadline)?;
        let (status, body, has_body) = match route(&request) {
            Route::Metrics { has_body } => ("200 OK", self.render(), has_body),
            Route::Refused(status) => (status, format!("{status}; see /metrics\n"), true),
        };
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n"
        );
        client.set_write_timeout(Some(SERVED_WITHIN))?;
        client.write_all(head.as_bytes())?;
        if has_body {
            client.write_all(body.as_bytes())?;
        }
        Ok(())
    }

    /// The text, with the numbers of now.
    fn render(&self) -> String {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + ANSWERS_WITHIN;
        // All are asked before the first is waited for.
        let asked: Vec<_> = loops.iter().map(|(handle, _)| handle.stats()).collect();
        for (call, (_, exporter)) in asked.into_iter().zip(loops.iter_mut()) {
            match wait(call, deadline) {
                Some(Ok(stats)) => exporter.publish(&stats),
                // It is gone: nothing of it is left, and its counters stay what they were.
                Some(Err(_)) => exporter.publish(&Stats::default()),
                None => {}
            }
        }
        drop(loops);
        self.recorder.handle().render()
    }
}

/// What a request gets.
#[derive(Debug, PartialEq)]
enum Route {
    Metrics { has_body: bool },
    Refused(&'static str),
}

fn route(request: &[u8]) -> Route {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|version| version.starts_with(b"HTTP/1.")) {
        return Route::Refused("400 Bad Request");
    }
    let path = target.and_then(|target| target.split(|byte| *byte == b'?').next());
    match (method, path) {
        (Some(b"GET"), Some(b"/" | b"/metrics")) => Route::Metrics { has_body: true },
        (Some(b"HEAD"), Some(b"/" | b"/metrics")) => Route::Metrics { has_body: false },
        (Some(b"GET" | b"HEAD"), _) => Route::Refused("404 Not Found"),
        _ => Route::Refused("405 Method Not Allowed"),
    }
}

/// Reads up to the empty line that ends a request's head.
fn read_request(client: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while request.len() < REQUEST_BYTES && !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut piece) {
            Ok(0) => break,
            Ok(bytes) => request.extend_from_slice(&piece[..bytes]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(request)
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Parks this thread until the future is ready or it is late.
fn wait<F: Future>(future: F, deadline: Instant) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

/// A literal address, or a port on loopback.
pub fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = text.strip_prefix(':').unwrap_or(text);
    match port.parse() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => Err(format!("`{text}`: write 127.0.0.1:9100, [::1]:9100 or a port (0: any)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_literal_and_a_port_means_loopback() {
        for (text, bound) in [
            ("9100", "127.0.0.1:9100"),
            (":0", "127.0.0.1:0"),
            ("[::1]:9100", "[::1]:9100"),
            ("0.0.0.0:80", "0.0.0.0:80"),
        ] {
            assert_eq!(address(text).map(|address| address.to_string()), Ok(bound.to_owned()));
        }
        for bad in ["", "localhost:9100", "127.0.0.1", "65536", "[::1]", "1.2.3.4:x"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_are_told_apart() {
        let get = Route::Metrics { has_body: true };
        assert_eq!(route(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), get);
        assert_eq!(route(b"GET /metrics?name=a HTTP/1.0\r\n\r\n"), get);
        assert_eq!(route(b"HEAD / HTTP/1.1\r\n\r\n"), Route::Metrics { has_body: false });
        assert_eq!(route(b"GET /etc HTTP/1.1\r\n\r\n"), Route::Refused("404 Not Found"));
        let refused = Route::Refused("405 Method Not Allowed");
        assert_eq!(route(b"POST /metrics HTTP/1.1\r\n\r\n"), refused);
        for bad in [&b""[..], b"GET", b"\0\xff \r\n\r\n", b"GET /metrics\r\n\r\n"] {
            assert_eq!(route(bad), Route::Refused("400 Bad Request"));
        }
    }

    #[test]
    fn a_wait_has_an_end() {
        assert_eq!(wait(std::future::ready(1), Instant::now()), Some(1));
        let soon = Instant::now() + Duration::from_millis(2);
        assert_eq!(wait(std::future::pending::<()>(), soon), None);
    }
}
