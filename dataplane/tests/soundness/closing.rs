//! Closing: every descriptor is closed once, by whoever has it last, and a close that was asked
//! for is answered.

use super::{MS, proactor, turns};
use dataplane::{Backend, Interest, OpenOptions, Options, Proactor};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

#[test]
fn a_refused_watch_closes_its_duplicate() {
    let io = proactor(Backend::IoUring);
    let file = std::fs::File::open("/etc/passwd").unwrap();
    let before = io.stats().descriptors;
    for _ in 0..3 {
        io.watch(&file, Interest::READABLE, |_, _| {}).map(drop).unwrap_err();
    }
    turns(&io, 20);
    assert_eq!(io.stats().descriptors, before);
}

#[test]
fn a_refused_callback_closes_the_socket_it_holds() {
    let io = Proactor::with(Options::default().operations(1)).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let _full = io.sleep_until(Instant::now() + 1000 * MS).submit().unwrap();
    io.nop().on_complete(move |_| drop(a)).unwrap_err();
    drop(_full);
    turns(&io, 50);
    peer.set_read_timeout(Some(300 * MS)).unwrap();
    let mut byte = [0];
    assert_eq!(peer.read(&mut byte).expect("end of stream, not a timeout"), 0);
}

#[test]
fn closing_the_last_handle_succeeds() {
    let io = proactor(Backend::IoUring);
    let (a, _peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let closed = io.block_on(async { a.close().await }).unwrap();
    assert_eq!(closed.map_err(|failed| failed.error.to_string()), Ok(()));
}

#[test]
fn two_closes_of_a_socket_in_one_batch_both_end() {
    let io = Proactor::with(Options::default().shutdown(200 * MS)).unwrap();
    let (a, _peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let mut batch = io.batch();
    let first = batch.add(a.clone().close().into_operation());
    let second = batch.add(a.clone().close().into_operation());
    let Ok(mut submitted) = batch.submit() else { return };
    let mut first = submitted.take(first).unwrap();
    let mut second = submitted.take(second).unwrap();
    turns(&io, 100);
    assert!(first.try_take().is_some(), "the first close hangs");
    assert!(second.try_take().is_some(), "the second close hangs");
}

#[test]
fn a_dropped_close_still_closes() {
    let options = Options::default().backend(Backend::IoUring).operations(16).submissions(1);
    let io = Proactor::with(options).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let nops: Vec<_> = (0..4).map(|_| io.nop().submit().unwrap()).collect();
    let keep = a.clone();
    let closing = a.close().submit().unwrap();
    drop(closing);
    turns(&io, 50);
    drop(nops);
    drop(keep);
    turns(&io, 50);
    peer.set_read_timeout(Some(300 * MS)).unwrap();
    let mut byte = [0];
    assert_eq!(peer.read(&mut byte).expect("end of stream, not a timeout"), 0);
}

#[test]
fn cancelling_everything_leaves_closes_alone() {
    let options = Options::default().backend(Backend::IoUring).operations(16).submissions(1);
    let io = Proactor::with(options).unwrap();
    let (a, mut peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let nops: Vec<_> = (0..4).map(|_| io.nop().submit().unwrap()).collect();
    drop(a);
    io.cancel_all().unwrap();
    turns(&io, 50);
    drop(nops);
    peer.set_read_timeout(Some(300 * MS)).unwrap();
    let mut byte = [0];
    assert_eq!(peer.read(&mut byte).expect("end of stream, not a timeout"), 0);
}

#[test]
fn closing_a_file_ends_the_transfer_from_it() {
    let io = Proactor::with(Options::default().shutdown(200 * MS)).unwrap();
    let path = std::env::temp_dir().join(format!("sound-transfer-{}", std::process::id()));
    std::fs::write(&path, vec![1u8; 8 << 20]).unwrap();
    let (a, _peer) = UnixStream::pair().unwrap();
    let a = io.adopt_socket(OwnedFd::from(a)).unwrap();
    let file = io.adopt_file(std::fs::File::open(&path).unwrap()).unwrap();
    let mut moving = a.transfer(&file, 0, 8 << 20).unwrap().submit().unwrap();
    turns(&io, 50);
    let mut closing = file.clone().close().submit().unwrap();
    turns(&io, 100);
    std::fs::remove_file(&path).unwrap();
    assert!(closing.try_take().is_some(), "the close waits for a peer that never reads");
    assert!(moving.try_take().is_some());
    let _ = OpenOptions::read();
}
