//! Scatter and gather: a few spans, eight, nine, and as many as one call takes.

use super::net::{MUCH, narrow, read, settled, span, why, write};
use crate::{Case, Cx, Skip};
use dataplane::ErrorKind;
use dataplane::regions::SpanList;
use futures_util::future::join_all;
use futures_util::join;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "vectored/eight_spans", needs: &[], run: eight_spans },
    Case { name: "vectored/nine_spans", needs: &[], run: nine_spans },
    Case { name: "vectored/many_spans", needs: &[], run: many_spans },
    Case { name: "vectored/most_spans", needs: &[], run: most_spans },
    Case { name: "vectored/empty_spans_between", needs: &[], run: empty_spans_between },
    Case { name: "vectored/partly_out", needs: &[], run: partly_out },
    Case { name: "vectored/receive_into_several", needs: &[], run: receive_into_several },
    Case { name: "vectored/receive_into_many", needs: &[], run: receive_into_many },
    Case { name: "vectored/receive_at_the_end", needs: &[], run: receive_at_the_end },
    Case { name: "vectored/nothing_to_receive_into", needs: &[], run: nothing_to_receive_into },
    Case { name: "vectored/several_in_order", needs: &[], run: several_in_order },
];

/// Sends `bytes` in `pieces` spans and checks what arrives.
fn gather(cx: &Cx<'_>, bytes: &[u8], pieces: usize) {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 1 << 16);
    let list: SpanList = bytes.chunks(bytes.len().div_ceil(pieces)).map(span).collect();
    assert_eq!((list.len(), list.total_bytes()), (pieces, bytes.len()));
    let sending = client.send_vectored(list).into_future();
    let (sent, got) = cx.block_on(async { join!(sending, read(&server, &slab, bytes.len())) });
    assert_eq!(sent.expect("sending").bytes, bytes.len());
    assert!(got == bytes, "{} bytes in {pieces} spans", bytes.len());
    drop((client, server));
    settled(cx, 0);
}

fn eight_spans(cx: &Cx<'_>) -> Result<(), Skip> {
    gather(cx, &Cx::pattern(800, 1), 8);
    gather(cx, &Cx::pattern(80_000, 2), 8);
    Ok(())
}

fn nine_spans(cx: &Cx<'_>) -> Result<(), Skip> {
    gather(cx, &Cx::pattern(900, 3), 9);
    gather(cx, &Cx::pattern(90_000, 4), 9);
    Ok(())
}

fn many_spans(cx: &Cx<'_>) -> Result<(), Skip> {
    gather(cx, &Cx::pattern(64, 5), 64);
    gather(cx, &Cx::pattern(64 * 1500, 6), 64);
    Ok(())
}

fn most_spans(cx: &Cx<'_>) -> Result<(), Skip> {
    gather(cx, &Cx::pattern(1024 * 100, 7), 1024);
    let mut list: SpanList = (0..1024).map(|_| span(b"x")).collect();
    assert!(list.push(span(b"one too many")).is_err());
    Ok(())
}

fn empty_spans_between(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 64);
    let parts = ["", "first,", "", "", "second", ""];
    let list: SpanList = parts.iter().map(|part| span(part.as_bytes())).collect();
    cx.block_on(async {
        assert_eq!(client.send_vectored(list).await.expect("sending").bytes, 12);
        assert_eq!(read(&server, &slab, 12).await, b"first,second");
    });
    Ok(())
}

fn partly_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    // Spans of every length, so that what goes out ends inside one, at its end, and in later ones.
    let bytes = Cx::pattern(MUCH, 8);
    let mut rest = &bytes[..];
    let mut list = SpanList::new();
    let mut len = 1;
    while !rest.is_empty() {
        let (part, left) = rest.split_at(len.min(rest.len()));
        list.push(span(part)).expect("far less than the most");
        (rest, len) = (left, len * 3 % 20_011);
    }
    let mut sending = client.send_vectored(list).submit().expect("room");
    super::net::idle_turns(cx);
    assert!(sending.try_take().is_none(), "it waits for the reader");
    let (sent, got) = cx.block_on(async { join!(sending, read(&server, &slab, MUCH)) });
    assert_eq!(sent.expect("sending").bytes, MUCH);
    assert!(got == bytes, "bytes out of order");
    Ok(())
}

fn receive_into_several(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(3, 5);
    let mut leases: Vec<_> = (0..3).map(|_| slab.lease().expect("a slot")).collect();
    leases[1].truncate(2);
    cx.block_on(async {
        write(&client, b"abcdefgh").await;
        let leases = server.recv_vectored(leases).await.expect("receiving");
        let parts: Vec<&[u8]> = leases.iter().map(|lease| &lease[..]).collect();
        assert_eq!(parts, [&b"abcde"[..], b"fg", b"h"]);
        let mut leases = leases;
        leases.iter_mut().for_each(|lease| lease.reset());
        write(&client, b"ijk").await;
        let leases = server.recv_vectored(leases).await.expect("receiving");
        let parts: Vec<&[u8]> = leases.iter().map(|lease| &lease[..]).collect();
        assert_eq!(parts, [&b"ijk"[..], b"", b""]);
    });
    assert_eq!(slab.available(), 3);
    Ok(())
}

fn receive_into_many(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.unix_pair();
    for count in [8, 9, 64] {
        let slab = cx.slab(count, 100);
        let bytes = Cx::pattern(count * 100, count as u64);
        let leases = (0..count).map(|_| slab.lease().expect("a slot")).collect();
        cx.block_on(write(&client, &bytes));
        let leases = cx.block_on(server.recv_vectored(leases)).expect("receiving");
        let got: Vec<u8> = leases.iter().flat_map(|lease| lease.iter().copied()).collect();
        assert!(got == bytes, "{count} leases");
        drop(leases);
        assert_eq!(slab.available(), count);
    }
    Ok(())
}

fn receive_at_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    drop(client);
    let slab = cx.slab(2, 8);
    let leases = (0..2).map(|_| slab.lease().expect("a slot")).collect();
    let leases = cx.block_on(server.recv_vectored(leases)).expect("an end is no error");
    assert!(leases.iter().all(|lease| lease.is_empty()));
    Ok(())
}

fn nothing_to_receive_into(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_client, server) = cx.tcp_pair();
    let ended = cx.block_on(server.recv_vectored(Vec::new()));
    assert_eq!(why(ended), Some(ErrorKind::InvalidArgument));
    Ok(())
}

fn several_in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(32 * 4000, 9);
    let sends: Vec<_> = bytes
        .chunks(4000)
        .enumerate()
        .map(|(i, part)| {
            let list: SpanList = part.chunks(4000 / (1 + i % 12) + 1).map(span).collect();
            client.send_vectored(list).submit().expect("room")
        })
        .collect();
    let (sent, got) =
        cx.block_on(async { join!(join_all(sends), read(&server, &slab, bytes.len())) });
    assert!(sent.into_iter().all(|sent| sent.expect("sending").bytes == 4000));
    assert!(got == bytes, "bytes out of order");
    Ok(())
}
