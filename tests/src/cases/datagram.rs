//! UDP: datagrams with and without addresses, whole, cut, empty and refused.

use super::net::{QUIET_TURNS, idle_turns, settled, span, why};
use crate::{Case, Cx, Skip};
use dataplane::regions::SpanList;
use dataplane::{Address, ErrorKind, Socket, SocketKind, SocketOptions};
use futures_util::StreamExt;
use futures_util::future::join_all;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "datagram/there_and_back", needs: &[], run: there_and_back },
    Case { name: "datagram/over_ipv6", needs: &[], run: over_ipv6 },
    Case { name: "datagram/cut_to_the_lease", needs: &[], run: cut_to_the_lease },
    Case { name: "datagram/empty_one_is_a_datagram", needs: &[], run: empty_one_is_a_datagram },
    Case { name: "datagram/largest_and_larger", needs: &[], run: largest_and_larger },
    Case { name: "datagram/connected", needs: &[], run: connected },
    Case { name: "datagram/refused_leaves_it_healthy", needs: &[], run: refused_leaves_it_healthy },
    Case { name: "datagram/several_spans", needs: &[], run: several_spans },
    Case { name: "datagram/several_receives", needs: &[], run: several_receives },
    Case { name: "datagram/empty_ones_from_a_pool", needs: &[], run: empty_ones_from_a_pool },
    Case { name: "datagram/empty_lease_is_refused", needs: &[], run: empty_lease_is_refused },
    Case { name: "datagram/timeout_loses_none", needs: &[], run: timeout_loses_none },
    Case { name: "datagram/from_a_pool", needs: &[], run: from_a_pool },
    Case { name: "datagram/close_ends_a_receive", needs: &[], run: close_ends_a_receive },
];

fn bound(cx: &Cx<'_>) -> (Socket, Address) {
    let socket = cx.io.bind_datagram("127.0.0.1:0", &SocketOptions::new()).expect("binding");
    let address = socket.local_addr().expect("its address");
    (socket, address)
}

fn send(cx: &Cx<'_>, from: &Socket, bytes: &[u8], to: &Address) {
    let sent = cx.block_on(from.send_to(span(bytes), to.clone())).expect("sending");
    assert_eq!(sent, bytes.len());
}

fn there_and_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, at_one), (two, at_two)) = (bound(cx), bound(cx));
    let slab = cx.slab(1, 2000);
    for len in [1, 512, 1400] {
        let bytes = Cx::pattern(len, len as u64);
        send(cx, &one, &bytes, &at_two);
        let receiving = two.recv_from(slab.lease().expect("a slot"));
        let (filled, from) = cx.block_on(receiving).expect("receiving");
        assert!(filled[..] == bytes && from == at_one);
        let sent = cx.block_on(two.send_to(filled.freeze(), from)).expect("sending");
        assert_eq!(sent, len);
        let receiving = one.recv_from(slab.lease().expect("it came back"));
        let (filled, from) = cx.block_on(receiving).expect("receiving");
        assert!(filled[..] == bytes && from == at_two);
    }
    assert_eq!(slab.available(), 1);
    drop((one, two));
    settled(cx, 0);
    Ok(())
}

fn over_ipv6(cx: &Cx<'_>) -> Result<(), Skip> {
    let bind = || cx.io.bind_datagram("[::1]:0", &SocketOptions::new());
    let (one, two) = match (bind(), bind()) {
        (Ok(one), Ok(two)) => (one, two),
        (Err(error), _) | (_, Err(error)) => {
            return Err(Skip(format!("no IPv6 loopback here: {error}")));
        }
    };
    let slab = cx.slab(1, 64);
    send(cx, &one, b"six", &two.local_addr().expect("its address"));
    let receiving = two.recv_from(slab.lease().expect("a slot"));
    let (filled, from) = cx.block_on(receiving).expect("receiving");
    assert_eq!((&filled[..], from), (&b"six"[..], one.local_addr().expect("its address")));
    Ok(())
}

fn cut_to_the_lease(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, _), (two, at_two)) = (bound(cx), bound(cx));
    let slab = cx.slab(1, 10);
    for bytes in [&b"more than ten bytes"[..], b"next", b"and a third one"] {
        send(cx, &one, bytes, &at_two);
    }
    let lease = || slab.lease().expect("a slot");
    let (filled, _) = cx.block_on(two.recv_from(lease())).expect("receiving");
    assert_eq!(&filled[..], b"more than ");
    drop(filled);
    let filled = cx.block_on(two.recv(lease())).expect("receiving");
    assert_eq!(&filled[..], b"next", "what was cut off is gone");
    drop(filled);
    let filled = cx.block_on(two.recv(lease())).expect("receiving");
    assert_eq!(&filled[..], b"and a thir");
    Ok(())
}

fn empty_one_is_a_datagram(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, at_one), (two, at_two)) = (bound(cx), bound(cx));
    let slab = cx.slab(1, 10);
    send(cx, &one, b"", &at_two);
    send(cx, &one, b"after", &at_two);
    let (filled, from) =
        cx.block_on(two.recv_from(slab.lease().expect("a slot"))).expect("an empty one");
    assert_eq!((filled.len(), from), (0, at_one));
    drop(filled);
    let filled = cx.block_on(two.recv(slab.lease().expect("a slot"))).expect("receiving");
    assert_eq!(&filled[..], b"after", "an empty datagram is no end");
    Ok(())
}

fn empty_ones_from_a_pool(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, _), (two, at_two)) = (bound(cx), bound(cx));
    let pool = cx.io.receive_pool(2, 16).expect("a pool");
    let mut stream = two.receive_all(&pool).submit().expect("room");
    for bytes in [&b""[..], b"", b"", b"after"] {
        send(cx, &one, bytes, &at_two);
        let filled = cx.block_on(stream.next()).expect("no end").expect("receiving");
        assert_eq!(filled[..], *bytes, "an empty datagram is no end");
    }
    drop(stream);
    settled(cx, 2);
    Ok(())
}

fn largest_and_larger(cx: &Cx<'_>) -> Result<(), Skip> {
    const LARGEST: usize = 65_507;
    let ((one, _), (two, at_two)) = (bound(cx), bound(cx));
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(LARGEST, 1);
    send(cx, &one, &bytes, &at_two);
    let filled = cx.block_on(two.recv(slab.lease().expect("a slot"))).expect("receiving");
    assert!(filled[..] == bytes);
    let sending = one.send_to(span(&vec![1; LARGEST + 1]), at_two);
    let failed = cx.block_on(sending).expect_err("too large");
    assert_eq!(failed.error.errno(), Some(libc::EMSGSIZE));
    assert_eq!(failed.into_buffer().map(|span| span.len()), Some(LARGEST + 1));
    Ok(())
}

fn connected(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((server, at_server), (stranger, _)) = (bound(cx), bound(cx));
    let connecting = cx.io.connect_with(&at_server, SocketKind::Datagram, SocketOptions::new());
    let client = cx.block_on(connecting).expect("connecting");
    let at_client = client.local_addr().expect("its address");
    assert_eq!(client.peer_addr().expect("connected"), at_server);
    let slab = cx.slab(1, 64);
    cx.block_on(async {
        assert_eq!(client.send(span(b"ask")).await.expect("sending").bytes, 3);
        let (filled, from) =
            server.recv_from(slab.lease().expect("a slot")).await.expect("receiving");
        assert_eq!((&filled[..], &from), (&b"ask"[..], &at_client));
    });
    send(cx, &stranger, b"noise", &at_client);
    send(cx, &server, b"answer", &at_client);
    let filled = cx.block_on(client.recv(slab.lease().expect("a slot"))).expect("receiving");
    assert_eq!(&filled[..], b"answer", "a stranger's datagram does not arrive");
    Ok(())
}

fn refused_leaves_it_healthy(cx: &Cx<'_>) -> Result<(), Skip> {
    let (server, at_server) = bound(cx);
    let connecting = cx.io.connect_with(&at_server, SocketKind::Datagram, SocketOptions::new());
    let client = cx.block_on(connecting).expect("connecting");
    cx.block_on(server.close()).expect("closing");
    let slab = cx.slab(1, 64);
    cx.block_on(client.send(span(b"anybody?"))).expect("it leaves all the same");
    let failed = cx.block_on(client.recv(slab.lease().expect("a slot"))).expect_err("refused");
    assert_eq!(failed.kind(), ErrorKind::Refused);
    drop(failed);
    // Of a datagram socket that is an answer, not its end.
    let server = cx.io.bind_datagram(&at_server, &SocketOptions::new()).expect("binding again");
    cx.block_on(client.send(span(b"again"))).expect("sending");
    let filled = cx.block_on(server.recv(slab.lease().expect("a slot"))).expect("receiving");
    assert_eq!(&filled[..], b"again");
    Ok(())
}

fn several_spans(cx: &Cx<'_>) -> Result<(), Skip> {
    let (server, at_server) = bound(cx);
    let connecting = cx.io.connect_with(&at_server, SocketKind::Datagram, SocketOptions::new());
    let client = cx.block_on(connecting).expect("connecting");
    let slab = cx.slab(3, 4);
    let list: SpanList = ["ab", "cde", "f"].map(|part| span(part.as_bytes())).into_iter().collect();
    let sent = cx.block_on(client.send_vectored(list)).expect("sending");
    assert_eq!(sent.bytes, 6);
    let leases = (0..3).map(|_| slab.lease().expect("a slot")).collect();
    let leases = cx.block_on(server.recv_vectored(leases)).expect("receiving");
    let parts: Vec<&[u8]> = leases.iter().map(|lease| &lease[..]).collect();
    assert_eq!(parts, [&b"abcd"[..], b"ef", b""]);
    Ok(())
}

fn several_receives(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, at_one), (two, at_two)) = (bound(cx), bound(cx));
    let slab = cx.slab(16, 64);
    let receives: Vec<_> = (0..16)
        .map(|_| two.recv_from(slab.lease().expect("a slot")).submit().expect("room"))
        .collect();
    idle_turns(cx);
    for i in 0..16u8 {
        send(cx, &one, &[i; 20], &at_two);
    }
    let mut seen = Vec::new();
    for received in cx.block_on(join_all(receives)) {
        let (filled, from) = received.expect("receiving");
        assert_eq!((filled.len(), &from), (20, &at_one));
        seen.push(filled[0]);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..16).collect::<Vec<u8>>(), "each once");
    assert_eq!(slab.available(), 16);
    Ok(())
}

fn empty_lease_is_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _) = bound(cx);
    let slab = cx.slab(1, 8);
    let mut lease = slab.lease().expect("a slot");
    lease.truncate(0);
    let failed = one.recv_from(lease).submit().err().expect("no room in it");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    assert!(failed.into_buffer().is_some());
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn timeout_loses_none(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, _), (two, at_two)) = (bound(cx), bound(cx));
    let slab = cx.slab(1, 8);
    let receiving = two.recv_from(slab.lease().expect("a slot"));
    let ended = cx.block_on(receiving.timeout(Duration::from_millis(2)));
    assert_eq!(why(ended), Some(ErrorKind::TimedOut));
    send(cx, &one, b"later", &at_two);
    let filled = cx.block_on(two.recv(slab.lease().expect("a slot"))).expect("receiving");
    assert_eq!(&filled[..], b"later");
    Ok(())
}

fn from_a_pool(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, _), (two, at_two)) = (bound(cx), bound(cx));
    let pool = cx.io.receive_pool(4, 16).expect("a pool");
    let mut stream = two.receive_all(&pool).submit().expect("room");
    let datagrams = [&b"first"[..], b"", b"this one is too long", b"last"];
    for bytes in datagrams {
        send(cx, &one, bytes, &at_two);
        let filled = cx.block_on(stream.next()).expect("no end").expect("receiving");
        assert_eq!(&filled[..], &bytes[..bytes.len().min(16)]);
    }
    for _ in 0..QUIET_TURNS {
        assert!(stream.try_next().is_none());
    }
    Ok(())
}

fn close_ends_a_receive(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _) = bound(cx);
    let slab = cx.slab(1, 8);
    let receiving = one.recv_from(slab.lease().expect("a slot")).submit().expect("room");
    idle_turns(cx);
    drop(one);
    assert_eq!(why(cx.block_on(receiving)), Some(ErrorKind::Closed));
    assert_eq!(slab.available(), 1);
    settled(cx, 0);
    Ok(())
}
