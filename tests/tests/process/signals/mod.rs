//! SIGPIPE. No send raises it, also where its default action is in force: a host program in C does
//! not ignore it as Rust's runtime does. Writes and splices to a pipe or socket that nobody reads
//! do raise it there, having no flag against it; where it is ignored they are plain errors.
#![allow(clippy::unwrap_used)]

mod owned;

use crate::child;

use crate::child::{Ended, forked};
use dataplane::regions::{Slab, Span, SpanList};
use dataplane::{Backend, ErrorKind, OpenOptions, Options, Proactor, ZeroCopy};
use std::future::IntoFuture;
use std::io::Write;
use std::os::unix::net::UnixStream;

/// What the child ends with when everything was as it should be.
const GOOD: i32 = 42;

/// Sends in every way to a peer that is gone.
fn sends(backend: Backend) {
    let io = Proactor::with(Options::default().backend(backend)).unwrap();
    let gone = |kind: ErrorKind| assert_eq!(kind, ErrorKind::Disconnected, "{backend}");
    let socket = || {
        let (one, two) = UnixStream::pair().unwrap();
        drop(two);
        io.adopt_socket(one).unwrap()
    };
    io.block_on(async {
        gone(socket().send(vec![1; 100]).await.unwrap_err().kind());
        gone(socket().send_all(vec![1; 100_000]).await.unwrap_err().kind());
        let mut spans = SpanList::default();
        spans.push(Span::from(vec![1; 10])).unwrap();
        spans.push(Span::from(vec![2; 10])).unwrap();
        gone(socket().send_vectored(spans).await.unwrap_err().kind());
        let zero_copy = socket();
        zero_copy.zero_copy(ZeroCopy::Always).unwrap();
        gone(zero_copy.send_all(vec![1; 100_000]).await.unwrap_err().kind());
    })
    .unwrap();
}

/// Writes and splices to nobody: `write(2)` and `splice(2)` have no flag against the signal.
fn writes(backend: Backend) {
    let io = Proactor::with(Options::default().backend(backend)).unwrap();
    let path = std::env::temp_dir().join(format!("dataplane-sigpipe-{}", std::process::id()));
    std::fs::File::create(&path).unwrap().write_all(&[7; 10_000]).unwrap();
    let transferred = io.block_on(async {
        let (one, two) = UnixStream::pair().unwrap();
        drop(two);
        let socket = io.adopt_socket(one).unwrap();
        let file = io.open(&path, OpenOptions::read()).unwrap().await.unwrap();
        socket.transfer(&file, 0, 10_000).unwrap().await
    });
    let ended = transferred.unwrap().map(drop).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::Disconnected, "{backend}");
    let _ = std::fs::remove_file(&path);
    let (reader, writer) = std::io::pipe().unwrap();
    let writer = io.adopt_file(writer).unwrap();
    drop(reader);
    let ended = io.block_on(writer.write(vec![1; 10]).into_future()).unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Disconnected, "{backend}");
    let (one, two) = UnixStream::pair().unwrap();
    drop(two);
    let slab = Slab::new(1, 64).unwrap();
    let file = io.adopt_file(one).unwrap();
    let ended = io.block_on(file.write(slab.lease().unwrap().freeze()).into_future()).unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Disconnected, "{backend}");
}

fn each_backend(name: &str, is_ignored: bool, body: fn(Backend)) {
    child::alone(module_path!(), name, || {
        for backend in Backend::ALL {
            if let Err(error) = Proactor::with(Options::default().backend(backend)) {
                child::say(&format!("skipped on {backend}: {error}"));
                continue;
            }
            let ended = forked(|| {
                if !is_ignored {
                    child::let_sigpipe_kill();
                }
                body(backend);
                GOOD
            });
            assert_eq!(ended, Ended::Code(GOOD), "{backend}: signal {} is SIGPIPE", libc::SIGPIPE);
        }
    });
}

#[test]
fn a_send_to_nobody_is_an_error_and_no_signal() {
    each_backend("a_send_to_nobody_is_an_error_and_no_signal", false, sends);
}

/// With the signal ignored, as Rust's runtime leaves it, the error is all there is.
#[test]
fn a_write_to_nobody_is_an_error() {
    each_backend("a_write_to_nobody_is_an_error", true, writes);
}
