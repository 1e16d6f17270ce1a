//! Adopting what others made: sockets, listeners, pipes and events, blocking or not, unchanged.

use super::net::{exchange, idle_turns, read, settled, span, write};
use crate::{Case, Cx, Skip};
use dataplane::ErrorKind;
use futures_util::future::join_all;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "adopt/tcp_stream", needs: &[], run: tcp_stream },
    Case { name: "adopt/unix_stream", needs: &[], run: unix_stream },
    Case { name: "adopt/listener", needs: &[], run: listener },
    Case { name: "adopt/datagram_socket", needs: &[], run: datagram_socket },
    Case { name: "adopt/pipe", needs: &[], run: pipe },
    Case { name: "adopt/event", needs: &[], run: event },
    Case { name: "adopt/blocking_does_not_block", needs: &[], run: blocking_does_not_block },
    Case { name: "adopt/blocking_sends_do_not_block", needs: &[], run: blocking_sends },
    Case { name: "adopt/two_duplicates", needs: &[], run: two_duplicates },
    Case { name: "adopt/table_is_full", needs: &[], run: table_is_full },
    Case { name: "adopt/made_here_is_released", needs: &[], run: made_here_is_released },
];

/// The status flags of an open file, shared by all of its duplicates (proc_pid_fdinfo(5)).
fn flags(number: RawFd) -> i32 {
    let path = format!("/proc/self/fdinfo/{number}");
    let text = std::fs::read_to_string(path).expect("the descriptor is open");
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("a line of it");
    // Close-on-exec is of the descriptor, not of the file.
    i32::from_str_radix(flags.trim(), 8).expect("an octal number") & !libc::O_CLOEXEC
}

/// Two connected TCP streams.
fn tcp_ends() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
    let one = TcpStream::connect(listener.local_addr().expect("its address")).expect("connecting");
    (one, listener.accept().expect("it is there").0)
}

fn tcp_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    for nonblocking in [false, true] {
        let (one, two) = tcp_ends();
        one.set_nonblocking(nonblocking).expect("a socket");
        two.set_nonblocking(nonblocking).expect("a socket");
        let kept = one.try_clone().expect("a descriptor");
        let before = flags(kept.as_raw_fd());
        assert_eq!(before & libc::O_NONBLOCK != 0, nonblocking);
        let one = cx.io.adopt_socket(one).expect("room");
        let two = cx.io.adopt_socket(two).expect("room");
        exchange(cx, &one, &two, &Cx::pattern(100_000, 1));
        exchange(cx, &two, &one, &Cx::pattern(100_000, 2));
        assert_eq!(flags(kept.as_raw_fd()), before, "nothing was changed on it");
        let name = kept.local_addr().expect("its address");
        assert_eq!(one.local_addr().expect("its address").inet(), Some(name));
    }
    settled(cx, 0);
    Ok(())
}

fn unix_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    for nonblocking in [false, true] {
        let (one, two) = UnixStream::pair().expect("two descriptors");
        one.set_nonblocking(nonblocking).expect("a socket");
        let kept = one.try_clone().expect("a descriptor");
        let before = flags(kept.as_raw_fd());
        let one = cx.io.adopt_socket(one).expect("room");
        let two = cx.io.adopt_socket(two).expect("room");
        exchange(cx, &one, &two, &Cx::pattern(100_000, 3));
        exchange(cx, &two, &one, &Cx::pattern(100_000, 4));
        assert_eq!(flags(kept.as_raw_fd()), before);
    }
    settled(cx, 0);
    Ok(())
}

fn listener(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("listener");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("listening");
    let at = tcp.local_addr().expect("its address");
    let unix = UnixListener::bind(&path).expect("listening");
    let tcp = cx.io.adopt_socket(tcp).expect("room");
    let unix = cx.io.adopt_socket(unix).expect("room");
    let (one, two) = (tcp.accept().submit(), unix.accept().submit());
    idle_turns(cx);
    let callers = (TcpStream::connect(at), UnixStream::connect(&path));
    let one = cx.block_on(one.expect("room")).expect("accepting");
    let two = cx.block_on(two.expect("room")).expect("accepting");
    let there = cx.io.adopt_socket(callers.0.expect("connecting")).expect("room");
    exchange(cx, &there, &one, b"over TCP");
    let there = cx.io.adopt_socket(callers.1.expect("connecting")).expect("room");
    exchange(cx, &two, &there, b"over a Unix socket");
    Ok(())
}

fn datagram_socket(cx: &Cx<'_>) -> Result<(), Skip> {
    let bind = || UdpSocket::bind("127.0.0.1:0").expect("binding");
    let (one, two) = (bind(), bind());
    let at = two.local_addr().expect("its address");
    let one = cx.io.adopt_socket(one).expect("room");
    let two = cx.io.adopt_socket(two).expect("room");
    let slab = cx.slab(1, 64);
    let receiving = two.recv_from(slab.lease().expect("a slot")).submit().expect("room");
    idle_turns(cx);
    cx.block_on(one.send_to(span(b"hello"), at)).expect("sending");
    let (filled, from) = cx.block_on(receiving).expect("receiving");
    assert_eq!((&filled[..], from), (&b"hello"[..], one.local_addr().expect("its address")));
    Ok(())
}

fn pipe(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, writer) = std::io::pipe().expect("two descriptors");
    let reader = cx.io.adopt_file(OwnedFd::from(reader)).expect("room");
    let writer = cx.io.adopt_file(OwnedFd::from(writer)).expect("room");
    let slab = cx.slab(1, 64);
    let reading = reader.read(slab.lease().expect("a slot")).submit().expect("room");
    idle_turns(cx);
    assert_eq!(cx.io.stats().in_flight, 1, "there is nothing to read yet");
    cx.block_on(writer.write(span(b"through a pipe"))).expect("writing");
    let filled = cx.block_on(reading).expect("reading");
    assert_eq!(&filled[..], b"through a pipe");
    drop(filled);
    drop(writer);
    let end = cx.block_on(reader.read(slab.lease().expect("a slot"))).expect("the end");
    assert!(end.is_empty());
    Ok(())
}

fn event(cx: &Cx<'_>) -> Result<(), Skip> {
    for flags in [EfdFlags::EFD_CLOEXEC, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK] {
        let event = EventFd::from_value_and_flags(0, flags).expect("an event");
        let ours = OwnedFd::from(event);
        let theirs = ours.try_clone().expect("a descriptor");
        let (reader, writer) = (cx.io.adopt_file(ours), cx.io.adopt_file(theirs));
        let (reader, writer) = (reader.expect("room"), writer.expect("room"));
        let slab = cx.slab(1, 8);
        let reading = reader.read(slab.lease().expect("a slot")).submit().expect("room");
        idle_turns(cx);
        assert_eq!(cx.io.stats().in_flight, 1, "it was not signalled");
        cx.block_on(writer.write(span(&5u64.to_ne_bytes()))).expect("signalling");
        let filled = cx.block_on(reading).expect("reading");
        assert_eq!(filled[..], 5u64.to_ne_bytes());
    }
    settled(cx, 0);
    Ok(())
}

fn blocking_does_not_block(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = tcp_ends();
    let one = cx.io.adopt_socket(one).expect("room");
    let two = cx.io.adopt_socket(two).expect("room");
    let slab = cx.slab(4, 8);
    let receives: Vec<_> =
        (0..4).map(|_| one.recv(slab.lease().expect("a slot")).submit().expect("room")).collect();
    // The loop turns although a plain call on this socket would sleep.
    for _ in 0..3 {
        cx.block_on(cx.io.nop()).expect("a no-op");
    }
    for byte in *b"abcd" {
        cx.block_on(write(&two, &[byte]));
        idle_turns(cx);
    }
    let mut got = Vec::new();
    for filled in cx.block_on(join_all(receives)) {
        got.extend_from_slice(&filled.expect("receiving"));
    }
    assert_eq!(got, b"abcd");
    Ok(())
}

fn blocking_sends(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    let one = cx.io.adopt_socket(one).expect("room");
    let two = cx.io.adopt_socket(two).expect("room");
    super::net::narrow(&one, &two);
    let bytes = Cx::pattern(super::net::MUCH, 5);
    let sending = one.send_all(span(&bytes)).submit().expect("room");
    cx.block_on(cx.io.nop()).expect("a no-op beside a send that waits");
    let slab = cx.slab(1, 1 << 16);
    let both = async { futures_util::join!(sending, read(&two, &slab, bytes.len())) };
    let (sent, got) = cx.block_on(both);
    assert!(sent.is_ok() && got == bytes);
    Ok(())
}

fn two_duplicates(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    let twin = one.try_clone().expect("a descriptor");
    let one = cx.io.adopt_socket(one).expect("room");
    let twin = cx.io.adopt_socket(twin).expect("room");
    let two = cx.io.adopt_socket(two).expect("room");
    let slab = cx.slab(2, 8);
    let first = one.recv(slab.lease().expect("a slot")).submit().expect("room");
    let second = twin.recv(slab.lease().expect("a slot")).submit().expect("room");
    idle_turns(cx);
    // Closing one number leaves the other, and what waits on it, alone.
    drop(one);
    assert_eq!(super::net::why(cx.block_on(first)), Some(ErrorKind::Closed));
    cx.block_on(write(&two, b"still"));
    assert_eq!(&cx.block_on(second).expect("receiving")[..], b"still");
    exchange(cx, &twin, &two, b"open");
    Ok(())
}

fn table_is_full(cx: &Cx<'_>) -> Result<(), Skip> {
    let options = cx.options.clone().descriptors(3);
    let io = dataplane::Proactor::with(options).expect("a second proactor");
    let cx = &Cx::new(&io, cx.options);
    let (one, two) = cx.unix_pair();
    let (third, mut fourth) = UnixStream::pair().expect("two descriptors");
    let third = io.adopt_socket(third).expect("room for a third");
    let refused = io.adopt_socket(fourth.try_clone().expect("a descriptor")).err();
    let error = refused.expect("three is the most");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.to_string().contains("3 descriptors"), "{error}");
    // An accept or connect that finds no room closes what it got.
    let connecting = cx.block_on(io.connect("127.0.0.1:9"));
    assert_eq!(connecting.map_err(|e| e.kind()).err(), Some(ErrorKind::Exhausted));
    exchange(cx, &one, &two, b"the others live");
    drop(third);
    settled(cx, 2);
    assert_eq!(std::io::Read::read(&mut fourth, &mut [0]).expect("the end"), 0);
    io.adopt_socket(fourth).expect("room again");
    Ok(())
}

fn made_here_is_released(cx: &Cx<'_>) -> Result<(), Skip> {
    let open = || std::fs::read_dir("/proc/self/fd").expect("a folder").count();
    let _warm = cx.tcp_pair();
    settled(cx, 2);
    let before = open();
    for _ in 0..5 {
        let (client, server) = cx.tcp_pair();
        exchange(cx, &client, &server, b"short life");
    }
    settled(cx, 2);
    assert_eq!(open(), before, "every number is given back");
    Ok(())
}
