//! Descriptors: whose they are, when they are closed, and that a name never reaches another one.

use crate::{Case, Cx, Skip};
use dataplane::{Capability, ErrorKind, InFlight, Proactor, Socket, Wait};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "descriptor/a_full_table_names_its_size", needs: &[], run: a_full_table },
    Case { name: "descriptor/an_old_name_reaches_nobody", needs: &[], run: an_old_name },
    Case { name: "descriptor/the_last_clone_closes", needs: &[], run: the_last_clone_closes },
    Case { name: "descriptor/closing_ends_what_is_in_flight", needs: &[], run: closing_ends },
    Case { name: "descriptor/dropped_in_flight_closes", needs: &[], run: dropped_in_flight },
    Case { name: "descriptor/adopting_changes_nothing", needs: &[], run: adopting },
    Case { name: "descriptor/ours_close_on_exec", needs: &[], run: close_on_exec },
    Case { name: "descriptor/accepted_for_nobody_is_closed", needs: &[], run: for_nobody },
    Case { name: "descriptor/registered_ones_close_too", needs: &[], run: registered_close },
    Case { name: "descriptor/numbers_are_used_again", needs: &[], run: numbers_again },
    Case { name: "descriptor/cancel_all_spares_the_others", needs: &[], run: cancel_all_spares },
];

fn a_full_table(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone().descriptors(4)).expect("a second proactor");
    let adopt = || io.adopt_socket(UnixStream::pair().expect("two descriptors").0);
    let mut held: Vec<Socket> = (0..4).map(|_| adopt().expect("room")).collect();
    let error = adopt().expect_err("full");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.message().contains("4 descriptors"), "{error}");
    assert!(error.message().contains("Options::descriptors"), "{error}");
    held.pop();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while io.stats().descriptors == 4 {
        io.poll(deadline).expect("a turn");
    }
    held.push(adopt().expect("there is room again"));
    assert_eq!(io.stats().descriptors, 4);
    Ok(())
}

/// The place in the table is taken again; the old name does not mean the new socket.
fn an_old_name(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(1, 64);
    let (one, _peer) = UnixStream::pair().expect("two descriptors");
    let socket = cx.io.adopt_socket(one).expect("room");
    let stale = socket.recv(slab.lease().expect("a slot"));
    drop(socket);
    cx.poll_until("the close", || cx.io.stats().descriptors == 0);
    let (new, mut peer) = UnixStream::pair().expect("two descriptors");
    let new = cx.io.adopt_socket(new).expect("room");
    std::io::Write::write_all(&mut peer, b"not for the old one").expect("sent");
    let failed = cx.block_on(stale).expect_err("its socket is closed");
    assert_eq!(failed.kind(), ErrorKind::Closed);
    let lease = failed.into_buffer().expect("the lease comes back");
    assert_eq!(cx.block_on(new.recv(lease)).expect("received").len(), 19);
    Ok(())
}

fn ends(cx: &Cx<'_>) -> (Socket, UnixStream) {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    (cx.io.adopt_socket(one).expect("room"), two)
}

/// What a read of the peer says without waiting: bytes, or nothing there yet.
fn seen(peer: &UnixStream) -> Option<usize> {
    peer.set_nonblocking(true).expect("a flag");
    let mut bytes = [0; 64];
    std::io::Read::read(&mut (&*peer), &mut bytes).ok()
}

fn the_last_clone_closes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (socket, peer) = ends(cx);
    let clone = socket.clone();
    drop(socket);
    for _ in 0..4 {
        cx.io.poll(Wait::Now).expect("a turn");
    }
    assert_eq!((seen(&peer), cx.io.stats().descriptors), (None, 1), "still open");
    drop(clone);
    cx.poll_until("the end", || seen(&peer) == Some(0));
    assert_eq!(cx.io.stats().descriptors, 0);
    Ok(())
}

fn closing_ends(cx: &Cx<'_>) -> Result<(), Skip> {
    let (socket, peer) = ends(cx);
    let slab = cx.slab(3, 64);
    let receives: Vec<_> = (0..3)
        .map(|_| socket.recv(slab.lease().expect("a slot")).submit().expect("room"))
        .collect();
    cx.io.poll(Wait::Now).expect("a turn");
    cx.block_on(socket.close()).expect("closed");
    assert_eq!(seen(&peer), Some(0), "close(2) had happened when it was told");
    for receive in receives {
        let failed = cx.block_on(receive).expect_err("it was closed");
        assert_eq!(failed.kind(), ErrorKind::Closed);
        cx.note(format!("{:?}", failed.kind()));
    }
    assert_eq!(slab.available(), 3);
    Ok(())
}

fn dropped_in_flight(cx: &Cx<'_>) -> Result<(), Skip> {
    let (socket, peer) = ends(cx);
    let slab = cx.slab(1, 64);
    let receive = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    cx.io.poll(Wait::Now).expect("a turn");
    drop(socket);
    cx.poll_until("the end", || seen(&peer) == Some(0));
    assert_eq!(cx.block_on(receive).expect_err("closed").kind(), ErrorKind::Closed);
    Ok(())
}

/// The flags of an open file, as the kernel tells them; the close-on-exec bit is among them.
fn flags(number: RawFd) -> i32 {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).expect("it is open");
    let line = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("it has flags");
    i32::from_str_radix(line.trim(), 8).expect("octal")
}

fn adopting(cx: &Cx<'_>) -> Result<(), Skip> {
    for is_nonblocking in [false, true] {
        let (one, _two) = UnixStream::pair().expect("two descriptors");
        one.set_nonblocking(is_nonblocking).expect("a flag");
        let number = one.as_raw_fd();
        let before = flags(number);
        let socket = cx.io.adopt_socket(one).expect("room");
        let slab = cx.slab(1, 64);
        let receive = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
        cx.io.poll(Wait::Now).expect("a turn");
        let dump = cx.io.in_flight();
        // One that was dropped before may still be ending.
        let waits =
            |entry: &InFlight| entry.operation == "recv" && entry.descriptor == Some(number);
        assert!(dump.iter().any(waits), "{dump:?}");
        assert_eq!(flags(number), before, "nothing on it was changed");
        assert_eq!(before & libc::O_NONBLOCK != 0, is_nonblocking);
        drop(receive);
    }
    Ok(())
}

fn close_on_exec(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("loopback");
    let accept = listener.accept().submit().expect("room");
    let to = listener.local_addr().expect("an address");
    let client = cx.block_on(cx.io.connect(to)).expect("connects");
    let server = cx.block_on(accept).expect("accepts");
    let path = super::file::made(cx, b"bytes");
    let _file = super::file::opened(cx, &path, dataplane::OpenOptions::read());
    let slab = cx.slab(2, 64);
    let _waiting = [&client, &server]
        .map(|socket| socket.recv(slab.lease().expect("a slot")).submit().expect("room"));
    let _accepting = listener.accept().submit().expect("room");
    cx.io.poll(Wait::Now).expect("a turn");
    let dump = cx.io.in_flight();
    assert_eq!(dump.len(), 3);
    for number in dump.iter().filter_map(|entry| entry.descriptor) {
        assert!(flags(number) & libc::O_CLOEXEC != 0, "descriptor {number} would be inherited");
    }
    for entry in std::fs::read_dir("/proc/self/fd").expect("descriptors").flatten() {
        let is_file = std::fs::read_link(entry.path()).is_ok_and(|target| target == path);
        let number = entry.file_name().to_string_lossy().parse().expect("a number");
        assert!(!is_file || flags(number) & libc::O_CLOEXEC != 0, "the file would be inherited");
    }
    Ok(())
}

/// An accept that completed for nobody closes what it brought: the client sees the end.
fn for_nobody(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("loopback");
    let to = listener.local_addr().expect("an address").to_string();
    listener.accept().submit().expect("room").detach();
    let client = std::net::TcpStream::connect(&to).expect("connects");
    client.set_nonblocking(true).expect("a flag");
    let end = || std::io::Read::read(&mut (&client), &mut [0; 8]).ok();
    cx.poll_until("the end", || end() == Some(0));
    // One that is done and then dropped.
    let accept = listener.accept().submit().expect("room");
    let other = std::net::TcpStream::connect(&to).expect("connects");
    cx.poll_until("the accept", || cx.io.stats().in_flight == 0);
    drop(accept);
    other.set_nonblocking(true).expect("a flag");
    cx.poll_until("the end", || std::io::Read::read(&mut (&other), &mut [0; 8]).ok() == Some(0));
    assert_eq!(cx.io.stats().descriptors, 1, "the listener");
    Ok(())
}

/// A descriptor in the backend's table is closed like any other: the table's share goes first.
fn registered_close(cx: &Cx<'_>) -> Result<(), Skip> {
    let (socket, peer) = ends(cx);
    let registered = socket.register().expect("room");
    assert!(registered || !cx.io.capabilities().contains(Capability::FixedFiles));
    let slab = cx.slab(1, 64);
    cx.block_on(socket.send_all(b"hello".to_vec())).expect("sent");
    assert_eq!(seen(&peer), Some(5));
    let receive = socket.recv(slab.lease().expect("a slot")).submit().expect("room");
    cx.io.poll(Wait::Now).expect("a turn");
    drop(socket);
    cx.poll_until("the end", || seen(&peer) == Some(0));
    assert_eq!(cx.block_on(receive).expect_err("closed").kind(), ErrorKind::Closed);
    let (again, _peer) = ends(cx);
    assert_eq!(again.register().expect("room"), registered);
    cx.block_on(again.close()).expect("closed");
    let (closed, _peer) = ends(cx);
    let clone = closed.clone();
    cx.block_on(closed.close()).expect("closed");
    assert_eq!(clone.register().expect_err("closed").kind(), ErrorKind::Closed);
    Ok(())
}

fn numbers_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(1, 64);
    for round in 0..50u8 {
        let (one, two) = cx.unix_pair();
        cx.block_on(two.send_all(vec![round; 5])).expect("sent");
        let filled = cx.block_on(one.recv(slab.lease().expect("a slot"))).expect("received");
        assert_eq!(filled[..], [round; 5]);
    }
    cx.poll_until("the closes", || cx.io.stats().descriptors == 0);
    Ok(())
}

fn cancel_all_spares(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, _two), (three, four)) = (cx.unix_pair(), cx.unix_pair());
    let slab = cx.slab(3, 64);
    let receive = |socket: &Socket| socket.recv(slab.lease().expect("a slot")).submit();
    let ours = [receive(&one).expect("room"), receive(&one).expect("room")];
    let theirs = receive(&three).expect("room");
    cx.io.poll(Wait::Now).expect("a turn");
    assert_eq!(one.cancel_all().expect("it is open"), 2);
    for receive in ours {
        let failed = cx.block_on(receive).expect_err("cancelled");
        assert_eq!(failed.kind(), ErrorKind::Cancelled);
    }
    cx.block_on(four.send_all(b"spared".to_vec())).expect("sent");
    assert_eq!(cx.block_on(theirs).expect("received")[..], *b"spared");
    Ok(())
}
