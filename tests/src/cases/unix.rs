//! Unix sockets: streams, sequenced packets and datagrams; paths, abstract names and no name.

use super::net::{exchange, idle_turns, narrow, read, read_to_end, settled, span, why, write};
use crate::{Case, Cx, Skip};
use dataplane::SocketOptions;
use dataplane::regions::SpanList;
use dataplane::{Address, ErrorKind, MAX_UNIX_NAME_BYTES, Socket, SocketKind};
use futures_util::future::join_all;
use futures_util::join;
use nix::sys::socket::{Backlog, listen};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "unix/echo", needs: &[], run: echo },
    Case { name: "unix/slow_reader", needs: &[], run: slow_reader },
    Case { name: "unix/many_sends_in_order", needs: &[], run: many_sends_in_order },
    Case { name: "unix/end_of_stream", needs: &[], run: end_of_stream },
    Case { name: "unix/broken_pipe_at_once", needs: &[], run: broken_pipe_at_once },
    Case { name: "unix/reset_by_unread_bytes", needs: &[], run: reset_by_unread_bytes },
    Case { name: "unix/path", needs: &[], run: path },
    Case { name: "unix/path_is_missing", needs: &[], run: path_is_missing },
    Case { name: "unix/path_nobody_listens_at", needs: &[], run: path_nobody_listens_at },
    Case { name: "unix/connects_wait_for_a_backlog", needs: &[], run: connects_wait },
    Case { name: "unix/path_too_long", needs: &[], run: path_too_long },
    Case { name: "unix/abstract_name", needs: &[], run: abstract_name },
    Case { name: "unix/name_in_use", needs: &[], run: name_in_use },
    Case { name: "unix/wrong_kind", needs: &[], run: wrong_kind },
    Case { name: "unix/packets_keep_boundaries", needs: &[], run: packets_keep_boundaries },
    Case { name: "unix/packets_are_cut", needs: &[], run: packets_are_cut },
    Case { name: "unix/packets_of_several_spans", needs: &[], run: packets_of_several_spans },
    Case { name: "unix/datagram_pair", needs: &[], run: datagram_pair },
    Case { name: "unix/datagram_names", needs: &[], run: datagram_names },
    Case { name: "unix/datagrams_wait_for_room", needs: &[], run: datagrams_wait_for_room },
    Case { name: "unix/datagrams_to_a_full_peer", needs: &[], run: datagrams_to_a_full_peer },
];

/// A name of the abstract namespace nobody else has.
pub(super) fn fresh_name() -> Address {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("dataplane conformance {} {number}", std::process::id());
    Address::abstract_name(name.as_bytes()).expect("a short name")
}

/// Listens at `at` and connects to it: who connected, who accepted.
fn pair_at(cx: &Cx<'_>, at: &Address, kind: SocketKind) -> (Socket, Socket) {
    let options = SocketOptions::new();
    let listener = cx.io.listen_with(at, kind, &options).expect("listening");
    assert_eq!(listener.local_addr().expect("its name"), *at);
    let accepting = listener.accept().submit().expect("room");
    let connecting = cx.io.connect_with(at, kind, options);
    let (client, server) = cx.block_on(async { join!(connecting, accepting) });
    (client.expect("connecting"), server.expect("accepting"))
}

fn echo(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    for len in [1, 1000, 300_000] {
        let bytes = Cx::pattern(len, 1);
        exchange(cx, &one, &two, &bytes);
        exchange(cx, &two, &one, &bytes);
    }
    assert_eq!(one.local_addr().expect("no name"), Address::Unnamed);
    assert_eq!(one.peer_addr().expect("no name"), Address::Unnamed);
    drop((one, two));
    settled(cx, 0);
    Ok(())
}

fn slow_reader(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    narrow(&one, &two);
    let slab = cx.slab(1, 3000);
    let bytes = Cx::pattern(1 << 20, 2);
    let mut sending = one.send_all(span(&bytes)).submit().expect("room");
    idle_turns(cx);
    assert!(sending.try_take().is_none(), "nobody reads yet");
    let (sent, got) = cx.block_on(async { join!(sending, read(&two, &slab, bytes.len())) });
    assert_eq!(sent.expect("sending").bytes, bytes.len());
    assert!(got == bytes);
    Ok(())
}

fn many_sends_in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    narrow(&one, &two);
    let slab = cx.slab(1, 10_000);
    let bytes = Cx::pattern(32 * 9000, 3);
    let parts: Vec<&[u8]> = bytes.chunks(9000).collect();
    // Plain and gathered in turn, all at once.
    let mut plain = Vec::new();
    let mut gathered = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        if i % 2 == 0 {
            plain.push(one.send_all(span(part)).submit().expect("room"));
        } else {
            let list: SpanList = part.chunks(2000).map(span).collect();
            gathered.push(one.send_vectored(list).submit().expect("room"));
        }
    }
    let (plain, gathered, got) = cx.block_on(async {
        join!(join_all(plain), join_all(gathered), read(&two, &slab, bytes.len()))
    });
    assert!(
        plain
            .into_iter()
            .chain(gathered.into_iter().map(|sent| Ok(sent.expect("sending"))))
            .all(|sent| sent.expect("sending").bytes == 9000)
    );
    assert!(got == bytes, "bytes out of order");
    Ok(())
}

fn end_of_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    cx.block_on(async {
        write(&one, b"last words").await;
        drop(one);
        assert_eq!(read_to_end(&two, &slab).await, b"last words");
        assert_eq!(read_to_end(&two, &slab).await, b"");
    });
    Ok(())
}

fn broken_pipe_at_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    drop(two);
    settled(cx, 1);
    let slab = cx.slab(1, 64);
    for _ in 0..2 {
        let lease = slab.lease().expect("it came back");
        let failed = cx.block_on(one.send_all(lease.freeze())).expect_err("nobody is there");
        assert_eq!(failed.kind(), ErrorKind::Disconnected);
        assert_eq!(failed.error.errno(), Some(libc::EPIPE));
    }
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn reset_by_unread_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    cx.block_on(write(&one, b"never read"));
    drop(two);
    settled(cx, 1);
    let slab = cx.slab(1, 8);
    let failed = cx.block_on(one.recv(slab.lease().expect("a slot"))).expect_err("a reset");
    assert_eq!(failed.error.errno(), Some(libc::ECONNRESET));
    drop(failed);
    let again = cx.block_on(one.recv(slab.lease().expect("a slot")));
    assert_eq!(why(again), Some(ErrorKind::Disconnected), "it stays failed");
    Ok(())
}

fn path(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = Address::unix(cx.scratch_dir().join("socket")).expect("a short path");
    let (client, server) = pair_at(cx, &at, SocketKind::Stream);
    assert_eq!(client.peer_addr().expect("connected"), at);
    assert_eq!(server.local_addr().expect("accepted there"), at);
    assert_eq!(client.local_addr().expect("not bound"), Address::Unnamed);
    exchange(cx, &client, &server, &Cx::pattern(5000, 4));
    Ok(())
}

fn path_is_missing(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = Address::unix(cx.scratch_dir().join("missing")).expect("a short path");
    let error = cx.block_on(cx.io.connect(&at)).expect_err("there is nothing");
    assert_eq!((error.kind(), error.errno()), (ErrorKind::NotFound, Some(libc::ENOENT)));
    assert!(error.to_string().contains("missing"), "{error}");
    settled(cx, 0);
    Ok(())
}

fn path_nobody_listens_at(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = Address::unix(cx.scratch_dir().join("left over")).expect("a short path");
    let listener = cx.io.listen(&at).expect("listening");
    cx.block_on(listener.close()).expect("closing");
    let error = cx.block_on(cx.io.connect(&at)).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Refused);
    Ok(())
}

fn path_too_long(cx: &Cx<'_>) -> Result<(), Skip> {
    let error = Address::unix("p".repeat(MAX_UNIX_NAME_BYTES + 1)).expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let longest = Address::abstract_name(&[b'n'; MAX_UNIX_NAME_BYTES]).expect("just fits");
    let (client, server) = pair_at(cx, &longest, SocketKind::Stream);
    assert_eq!(client.peer_addr().expect("connected"), longest);
    exchange(cx, &server, &client, b"through the longest name");
    Ok(())
}

fn abstract_name(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = fresh_name();
    let (client, server) = pair_at(cx, &at, SocketKind::Stream);
    assert_eq!(client.peer_addr().expect("connected"), at);
    exchange(cx, &client, &server, &Cx::pattern(70_000, 5));
    drop((client, server));
    settled(cx, 0);
    // The name went away with its socket.
    let error = cx.block_on(cx.io.connect(&at)).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Refused);
    Ok(())
}

fn name_in_use(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = fresh_name();
    let _first = cx.io.listen(&at).expect("listening");
    let error = cx.io.listen(&at).expect_err("the name is taken");
    assert_eq!(error.errno(), Some(libc::EADDRINUSE));
    assert!(error.to_string().contains("dataplane conformance"), "{error}");
    settled(cx, 1);
    Ok(())
}

fn wrong_kind(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = Address::unix(cx.scratch_dir().join("stream")).expect("a short path");
    let _listener = cx.io.listen(&at).expect("listening");
    let connecting = cx.io.connect_with(&at, SocketKind::SeqPacket, SocketOptions::new());
    let error = cx.block_on(connecting).expect_err("a stream listens there");
    assert_eq!(error.errno(), Some(libc::EPROTOTYPE));
    settled(cx, 1);
    Ok(())
}

fn packets_keep_boundaries(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair_at(cx, &fresh_name(), SocketKind::SeqPacket);
    let slab = cx.slab(4, 4096);
    let sizes = [3, 1000, 1, 4096];
    let sends = sizes
        .map(|len| client.send_all(span(&Cx::pattern(len, len as u64))).submit().expect("room"));
    cx.block_on(async {
        for (sent, len) in join_all(sends).await.into_iter().zip(sizes) {
            assert_eq!(sent.expect("sending").bytes, len);
        }
        for len in sizes {
            let filled = server.recv(slab.lease().expect("a slot")).await.expect("receiving");
            assert!(filled[..] == Cx::pattern(len, len as u64), "a packet of {len} bytes");
        }
        drop(client);
        assert!(server.recv(slab.lease().expect("a slot")).await.expect("the end").is_empty());
    });
    Ok(())
}

fn packets_are_cut(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair_at(cx, &fresh_name(), SocketKind::SeqPacket);
    let slab = cx.slab(1, 4);
    cx.block_on(async {
        write(&client, b"longer than four").await;
        write(&client, b"next").await;
        for expected in [b"long", b"next"] {
            let filled = server.recv(slab.lease().expect("a slot")).await.expect("receiving");
            assert_eq!(&filled[..], expected);
        }
    });
    Ok(())
}

fn packets_of_several_spans(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair_at(cx, &fresh_name(), SocketKind::SeqPacket);
    let slab = cx.slab(2, 6);
    let list: SpanList = [span(b"one "), span(b"two "), span(b"three")].into_iter().collect();
    cx.block_on(async {
        assert_eq!(client.send_vectored(list).await.expect("sending").bytes, 13);
        write(&client, b"!").await;
        let leases = (0..2).map(|_| slab.lease().expect("a slot")).collect();
        let leases = server.recv_vectored(leases).await.expect("receiving");
        assert_eq!((&leases[0][..], &leases[1][..]), (&b"one tw"[..], &b"o thre"[..]));
        drop(leases);
        let filled = server.recv(slab.lease().expect("a slot")).await.expect("receiving");
        assert_eq!(&filled[..], b"!", "the rest of the first packet is cut off");
    });
    Ok(())
}

/// A connected pair of datagram sockets.
fn datagram_ends(cx: &Cx<'_>) -> (Socket, Socket) {
    let (one, two) = UnixDatagram::pair().expect("two descriptors");
    let adopt = |end| cx.io.adopt_socket(end).expect("room for a descriptor");
    (adopt(one), adopt(two))
}

fn datagram_pair(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = datagram_ends(cx);
    let slab = cx.slab(1, 64);
    cx.block_on(async {
        for bytes in [&b"first"[..], b"", b"third"] {
            write(&one, bytes).await;
        }
        for expected in [&b"first"[..], b"", b"third"] {
            let filled = two.recv(slab.lease().expect("a slot")).await.expect("receiving");
            assert_eq!(&filled[..], expected);
        }
    });
    Ok(())
}

fn datagram_names(cx: &Cx<'_>) -> Result<(), Skip> {
    let folder = cx.scratch_dir();
    let at = |name: &str| Address::unix(folder.join(name)).expect("a short path");
    let options = SocketOptions::new();
    let one = cx.io.bind_datagram(at("one"), &options).expect("binding");
    let two = cx.io.bind_datagram(fresh_name(), &options).expect("binding");
    let slab = cx.slab(1, 64);
    cx.block_on(async {
        let sent = two.send_to(span(b"hello"), at("one")).await.expect("sending");
        assert_eq!(sent, 5);
        let (filled, from) = one.recv_from(slab.lease().expect("a slot")).await.expect("hello");
        assert_eq!((&filled[..], &from), (&b"hello"[..], &two.local_addr().expect("its name")));
        drop(filled);
        one.send_to(span(b"back"), from).await.expect("sending");
        let (filled, from) = two.recv_from(slab.lease().expect("a slot")).await.expect("back");
        assert_eq!((&filled[..], from), (&b"back"[..], at("one")));
    });
    let failed = cx.block_on(two.send_to(span(b"lost"), at("missing"))).expect_err("no such path");
    assert_eq!(failed.kind(), ErrorKind::NotFound);
    assert_eq!(failed.into_buffer().map(|span| span.len()), Some(4));
    Ok(())
}

fn datagrams_wait_for_room(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = datagram_ends(cx);
    let slab = cx.slab(1, 64);
    // More than the queue of a Unix datagram socket holds (net.unix.max_dgram_qlen).
    let sends: Vec<_> =
        (0..40u8).map(|i| one.send_all(span(&[i; 8])).submit().expect("room")).collect();
    let receive = async {
        let mut seen = Vec::new();
        while seen.len() < 40 {
            let filled = two.recv(slab.lease().expect("a slot")).await.expect("receiving");
            assert_eq!(filled.len(), 8);
            seen.push(filled[0]);
        }
        seen.sort_unstable();
        seen
    };
    let (sent, seen) = cx.block_on(async { join!(join_all(sends), receive) });
    assert!(sent.into_iter().all(|sent| sent.expect("sending").bytes == 8));
    assert_eq!(seen, (0..40).collect::<Vec<u8>>(), "each once");
    Ok(())
}

fn datagrams_to_a_full_peer(cx: &Cx<'_>) -> Result<(), Skip> {
    let options = SocketOptions::new();
    let to = fresh_name();
    let receiver = cx.io.bind_datagram(&to, &options).expect("binding");
    let sender = cx.io.bind_datagram(fresh_name(), &options).expect("binding");
    let slab = cx.slab(1, 64);
    let sends: Vec<_> = (0..40u8)
        .map(|i| sender.send_to(span(&[i; 8]), to.clone()).submit().expect("room"))
        .collect();
    idle_turns(cx);
    let receive = async {
        let mut seen = Vec::new();
        while seen.len() < 40 {
            let lease = slab.lease().expect("a slot");
            let (filled, _) = receiver.recv_from(lease).await.expect("receiving");
            seen.push(filled[0]);
        }
        seen.sort_unstable();
        seen
    };
    let (sent, seen) = cx.block_on(async { join!(join_all(sends), receive) });
    assert!(sent.into_iter().all(|sent| sent.is_ok_and(|bytes| bytes == 8)));
    assert_eq!(seen, (0..40).collect::<Vec<u8>>(), "each once");
    Ok(())
}

/// No readiness tells that a backlog has room again: somebody else accepts, and it is asked again.
fn connects_wait(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("crowded");
    let listener = UnixListener::bind(&path).expect("listening");
    listen(&listener, Backlog::new(1).expect("a valid backlog")).expect("a smaller backlog");
    let at = Address::unix(path).expect("a short path");
    // A host that sleeps in the loop's place is told when to ask again.
    let _watched = cx.io.watchable();
    let accepting = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        (0..4).map(|_| listener.accept().expect("it connects").0).collect::<Vec<_>>()
    });
    let connected = cx.io.block_on(join_all((0..4).map(|_| cx.io.connect(&at))));
    assert!(connected.expect("polls").iter().all(Result::is_ok));
    assert_eq!(accepting.join().expect("it accepts").len(), 4);
    Ok(())
}
