//! Readiness: once and persistently, merged when nobody takes it, and what has none.

use super::net::{QUIET_TURNS, exchange, idle_turns, read, reset, settled, why, write};
use crate::{Case, Cx, Skip};
use dataplane::operations::PollMany;
use dataplane::{ErrorKind, Interest, LocalStream, Socket};
use futures_util::StreamExt;
use futures_util::future::FutureExt;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "readiness/readable", needs: &[], run: readable },
    Case { name: "readiness/writable", needs: &[], run: writable },
    Case { name: "readiness/listener", needs: &[], run: listener },
    Case { name: "readiness/hang_up", needs: &[], run: hang_up },
    Case { name: "readiness/hang_up_with_bytes_left", needs: &[], run: hang_up_with_bytes_left },
    Case { name: "readiness/reset", needs: &[], run: reset_is_an_error },
    Case { name: "readiness/cancelled", needs: &[], run: cancelled },
    Case { name: "readiness/times_out", needs: &[], run: times_out },
    Case { name: "readiness/of_nothing", needs: &[], run: of_nothing },
    Case { name: "readiness/of_a_file", needs: &[], run: of_a_file },
    Case { name: "readiness/of_a_pipe", needs: &[], run: of_a_pipe },
    Case { name: "readiness/persistent", needs: &[], run: persistent },
    Case { name: "readiness/persistent_is_merged", needs: &[], run: persistent_is_merged },
    Case { name: "readiness/merged_for_another_thread", needs: &[], run: merged_elsewhere },
    Case { name: "readiness/persistent_does_not_spin", needs: &[], run: does_not_spin },
    Case { name: "readiness/persistent_hang_up", needs: &[], run: persistent_hang_up },
    Case { name: "readiness/persistent_cancelled", needs: &[], run: persistent_cancelled },
    Case { name: "readiness/beside_receives", needs: &[], run: beside_receives },
];

fn ready(cx: &Cx<'_>, socket: &Socket, interest: Interest) -> Interest {
    cx.block_on(socket.ready(interest)).expect("readiness")
}

fn next(cx: &Cx<'_>, reports: &mut LocalStream<PollMany>) -> Interest {
    cx.block_on(reports.next()).expect("no end").expect("a report")
}

fn readable(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let mut waiting = server.ready(Interest::READABLE).submit().expect("room");
    idle_turns(cx);
    assert!(waiting.try_take().is_none(), "there is nothing to read");
    cx.block_on(write(&client, b"x"));
    assert_eq!(cx.block_on(waiting).expect("readiness"), Interest::READABLE);
    // It is a state: as long as the byte is there.
    assert_eq!(ready(cx, &server, Interest::READABLE), Interest::READABLE);
    let slab = cx.slab(1, 8);
    assert_eq!(cx.block_on(read(&server, &slab, 1)), b"x");
    settled(cx, 2);
    Ok(())
}

fn writable(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, _server) = cx.tcp_pair();
    assert_eq!(ready(cx, &client, Interest::WRITABLE), Interest::WRITABLE);
    let either = Interest::READABLE | Interest::WRITABLE;
    assert_eq!(ready(cx, &client, either), Interest::WRITABLE, "only what is so");
    Ok(())
}

fn listener(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let to = listener.local_addr().expect("its address");
    let mut waiting = listener.ready(Interest::READABLE).submit().expect("room");
    idle_turns(cx);
    assert!(waiting.try_take().is_none(), "nobody called");
    let _client = cx.block_on(cx.io.connect(to)).expect("connecting");
    assert_eq!(cx.block_on(waiting).expect("readiness"), Interest::READABLE);
    cx.block_on(listener.accept()).expect("accepting");
    Ok(())
}

fn hang_up(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let waiting = two.ready(Interest::PRIORITY).submit().expect("room");
    idle_turns(cx);
    drop(one);
    let seen = cx.block_on(waiting).expect("a hang-up is reported, asked for or not");
    assert!(seen.contains(Interest::HANG_UP) && seen.failed(), "{seen:?}");
    Ok(())
}

fn hang_up_with_bytes_left(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    cx.block_on(write(&one, b"last words"));
    drop(one);
    settled(cx, 1);
    let seen = ready(cx, &two, Interest::READABLE);
    assert!(seen.contains(Interest::READABLE | Interest::HANG_UP), "{seen:?}");
    let slab = cx.slab(1, 64);
    assert_eq!(cx.block_on(super::net::read_to_end(&two, &slab)), b"last words");
    Ok(())
}

fn reset_is_an_error(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let waiting = server.ready(Interest::READABLE).submit().expect("room");
    idle_turns(cx);
    reset(client);
    let seen = cx.block_on(waiting).expect("readiness");
    assert!(seen.contains(Interest::ERROR), "{seen:?}");
    let slab = cx.slab(1, 8);
    let ended = cx.block_on(server.recv(slab.lease().expect("a slot")));
    assert_eq!(why(ended), Some(ErrorKind::Disconnected), "looking did not take the error");
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let waiting = server.ready(Interest::READABLE).submit().expect("room");
    idle_turns(cx);
    waiting.cancel().expect("it waits");
    assert_eq!(why(cx.block_on(waiting)), Some(ErrorKind::Cancelled));
    exchange(cx, &client, &server, b"healthy");
    Ok(())
}

fn times_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let waiting = server.ready(Interest::READABLE).timeout(Duration::from_millis(2));
    assert_eq!(why(cx.block_on(waiting)), Some(ErrorKind::TimedOut));
    exchange(cx, &client, &server, b"healthy");
    Ok(())
}

fn of_nothing(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_client, server) = cx.tcp_pair();
    let nothing = Interest::default();
    assert_eq!(why(cx.block_on(server.ready(nothing))), Some(ErrorKind::InvalidArgument));
    let refused = server.readiness(nothing).submit().err().expect("nothing to wait for");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    Ok(())
}

fn of_a_file(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("file");
    let file = std::fs::File::create_new(path).expect("a file");
    let folder = std::fs::File::open(cx.scratch_dir()).expect("a folder");
    for fd in [OwnedFd::from(file), OwnedFd::from(folder)] {
        let socket = cx.io.adopt_socket(fd).expect("room for a descriptor");
        let ended = cx.block_on(socket.ready(Interest::READABLE));
        assert_eq!(why(ended), Some(ErrorKind::InvalidArgument), "a file is always ready");
        let refused = socket.readiness(Interest::READABLE).submit().err().expect("likewise");
        assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
        assert!(refused.error.message().contains("read or write"), "{}", refused.error);
    }
    // What lives in memory and has no readiness either.
    let memory = memfd_create("conformance", MFdFlags::MFD_CLOEXEC).expect("memory");
    let socket = cx.io.adopt_socket(memory).expect("room for a descriptor");
    assert_eq!(
        why(cx.block_on(socket.ready(Interest::READABLE))),
        Some(ErrorKind::InvalidArgument)
    );
    drop(socket);
    settled(cx, 0);
    Ok(())
}

fn of_a_pipe(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = std::io::pipe().expect("two descriptors");
    let reader = cx.io.adopt_socket(OwnedFd::from(reader)).expect("room");
    let writer = cx.io.adopt_socket(OwnedFd::from(writer)).expect("room");
    assert_eq!(ready(cx, &writer, Interest::WRITABLE), Interest::WRITABLE);
    let waiting = reader.ready(Interest::READABLE).submit().expect("room");
    idle_turns(cx);
    let broken = writer.ready(Interest::PRIORITY).submit().expect("room");
    idle_turns(cx);
    drop(reader);
    assert_eq!(why(cx.block_on(waiting)), Some(ErrorKind::Closed));
    let seen = cx.block_on(broken).expect("readiness");
    assert!(seen.contains(Interest::ERROR), "{seen:?}");
    Ok(())
}

fn persistent(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let mut reports = server.readiness(Interest::READABLE).submit().expect("room");
    let slab = cx.slab(1, 8);
    for _ in 0..5 {
        idle_turns(cx);
        assert!(reports.try_next().is_none(), "nothing is there");
        cx.block_on(write(&client, b"x"));
        assert!(next(cx, &mut reports).contains(Interest::READABLE));
        assert_eq!(cx.block_on(read(&server, &slab, 1)), b"x");
    }
    drop(reports);
    settled(cx, 2);
    Ok(())
}

fn persistent_is_merged(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let mut reports = server.readiness(Interest::READABLE).submit().expect("room");
    idle_turns(cx);
    for _ in 0..100 {
        cx.block_on(write(&client, b"x"));
    }
    idle_turns(cx);
    let seen = reports.try_next().expect("a report").expect("no error");
    assert_eq!(seen, Interest::READABLE);
    assert!(reports.try_next().is_none(), "a hundred reports nobody took are one");
    assert_eq!(cx.io.stats().paused, 0);
    Ok(())
}

/// As above, with the reports waiting for a submitter elsewhere.
fn merged_elsewhere(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let server = server.into_remote(&cx.io.handle()).map_err(|(error, _)| error).expect("moves");
    let mut reports =
        server.readiness(Interest::READABLE).submit().map_err(|f| f.error).expect("room");
    idle_turns(cx);
    for _ in 0..100 {
        cx.block_on(write(&client, b"x"));
    }
    idle_turns(cx);
    let seen = reports.next().now_or_never().expect("it is there").expect("a report");
    assert_eq!(seen.expect("no error"), Interest::READABLE);
    assert!(reports.next().now_or_never().is_none(), "a hundred reports nobody took are one");
    Ok(())
}

fn does_not_spin(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    cx.block_on(write(&client, b"never read"));
    let mut reports = server.readiness(Interest::READABLE).submit().expect("room");
    assert_eq!(next(cx, &mut reports), Interest::READABLE, "what was there before");
    for _ in 0..QUIET_TURNS {
        idle_turns(cx);
        assert!(reports.try_next().is_none(), "nothing new happened");
    }
    Ok(())
}

fn persistent_hang_up(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let mut reports = two.readiness(Interest::READABLE).submit().expect("room");
    idle_turns(cx);
    cx.block_on(write(&one, b"last words"));
    drop(one);
    let mut seen = Interest::default();
    while !seen.contains(Interest::HANG_UP) {
        seen = seen | next(cx, &mut reports);
    }
    assert!(seen.contains(Interest::READABLE), "{seen:?}");
    let slab = cx.slab(1, 64);
    assert_eq!(cx.block_on(super::net::read_to_end(&two, &slab)), b"last words");
    Ok(())
}

fn persistent_cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let mut reports = server.readiness(Interest::READABLE).submit().expect("room");
    idle_turns(cx);
    cx.block_on(write(&client, b"x"));
    idle_turns(cx);
    reports.cancel().expect("the proactor is here");
    assert_eq!(next(cx, &mut reports), Interest::READABLE, "what was seen is delivered");
    let end = cx.block_on(reports.next()).expect("the reason").map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::Cancelled));
    assert!(cx.block_on(reports.next()).is_none());
    settled(cx, 2);
    Ok(())
}

fn beside_receives(cx: &Cx<'_>) -> Result<(), Skip> {
    // A watcher and a receiver of one descriptor, which is another descriptor's duplicate too.
    let (one, two) = UnixStream::pair().expect("two descriptors");
    let same = two.try_clone().expect("a descriptor");
    let one = cx.io.adopt_socket(one).expect("room");
    let two = cx.io.adopt_socket(two).expect("room");
    let same = cx.io.adopt_socket(same).expect("room");
    let mut reports = same.readiness(Interest::READABLE).submit().expect("room");
    let slab = cx.slab(1, 8);
    for _ in 0..5 {
        let receiving = two.recv(slab.lease().expect("a slot")).submit().expect("room");
        idle_turns(cx);
        cx.block_on(write(&one, b"x"));
        assert_eq!(cx.block_on(receiving).expect("receiving").len(), 1);
        assert!(next(cx, &mut reports).contains(Interest::READABLE));
    }
    drop(same);
    exchange(cx, &one, &two, b"the other number lives");
    Ok(())
}
