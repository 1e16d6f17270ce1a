//! TCP streams: bytes whole and in order, both directions, and how a connection ends.

use super::net::{MUCH, exchange, narrow, read, read_to_end, reset, settled, span, why, write};
use crate::{Case, Cx, Skip};
use dataplane::regions::SpanList;
use dataplane::{ErrorKind, HoldsBuffer, SocketOptions};
use futures_util::future::join_all;
use futures_util::join;
use std::net::Shutdown;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "tcp/echo_small", needs: &[], run: echo_small },
    Case { name: "tcp/echo_large", needs: &[], run: echo_large },
    Case { name: "tcp/echo_megabyte", needs: &[], run: echo_megabyte },
    Case { name: "tcp/echo_over_ipv6", needs: &[], run: echo_over_ipv6 },
    Case { name: "tcp/several_connections", needs: &[], run: several_connections },
    Case { name: "tcp/order_of_many_sends", needs: &[], run: order_of_many_sends },
    Case { name: "tcp/order_of_many_receives", needs: &[], run: order_of_many_receives },
    Case { name: "tcp/order_of_sends_that_wait", needs: &[], run: order_of_sends_that_wait },
    Case { name: "tcp/send_all_to_a_slow_reader", needs: &[], run: send_all_to_a_slow_reader },
    Case { name: "tcp/send_tells_how_much", needs: &[], run: send_tells_how_much },
    Case { name: "tcp/send_more_is_one_stream", needs: &[], run: send_more_is_one_stream },
    Case { name: "tcp/recv_all_takes_short_parts", needs: &[], run: recv_all_takes_short_parts },
    Case { name: "tcp/recv_all_at_the_end", needs: &[], run: recv_all_at_the_end },
    Case { name: "tcp/recv_all_keeps_what_came", needs: &[], run: recv_all_keeps_what_came },
    Case { name: "tcp/recv_of_what_is_there", needs: &[], run: recv_of_what_is_there },
    Case { name: "tcp/end_is_told_again", needs: &[], run: end_is_told_again },
    Case { name: "tcp/reset_is_told_and_stays", needs: &[], run: reset_is_told_and_stays },
    Case { name: "tcp/reset_ends_what_waits", needs: &[], run: reset_ends_what_waits },
    Case { name: "tcp/broken_pipe", needs: &[], run: broken_pipe },
    Case { name: "tcp/half_close", needs: &[], run: half_close },
    Case { name: "tcp/send_after_finish", needs: &[], run: send_after_finish },
    Case { name: "tcp/finish_waits_for_sends", needs: &[], run: finish_waits_for_sends },
    Case { name: "tcp/shutdown_ends_a_receive", needs: &[], run: shutdown_ends_a_receive },
    Case { name: "tcp/empty_lease_is_refused", needs: &[], run: empty_lease_is_refused },
    Case { name: "tcp/empty_send_is_refused", needs: &[], run: empty_send_is_refused },
    Case { name: "tcp/timeout_leaves_it_healthy", needs: &[], run: timeout_leaves_it_healthy },
    Case { name: "tcp/cancelled_send_counts", needs: &[], run: cancelled_send_counts },
    Case { name: "tcp/connect_refused", needs: &[], run: connect_refused },
];

fn echo_small(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    for len in [1, 5, 64, 1500] {
        let bytes = Cx::pattern(len, len as u64);
        exchange(cx, &client, &server, &bytes);
        exchange(cx, &server, &client, &bytes);
    }
    drop((client, server));
    settled(cx, 0);
    Ok(())
}

fn echo_large(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let bytes = Cx::pattern(200_000, 1);
    exchange(cx, &client, &server, &bytes);
    exchange(cx, &server, &client, &bytes);
    Ok(())
}

fn echo_megabyte(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let bytes = Cx::pattern(1 << 20, 2);
    let slab = cx.slab(4, 1 << 16);
    let echo = async {
        loop {
            let filled = server.recv(slab.lease().expect("a slot")).await.expect("receiving");
            if filled.is_empty() {
                return server.finish().await.expect("finishing");
            }
            server.send_all(filled.freeze()).await.expect("echoing");
        }
    };
    let send = async {
        write(&client, &bytes).await;
        client.finish().await.expect("finishing");
    };
    let ((), (), back) = cx.block_on(async { join!(echo, send, read_to_end(&client, &slab)) });
    assert!(back == bytes, "{} bytes came back", back.len());
    assert_eq!(slab.available(), 4);
    cx.note(back.len());
    Ok(())
}

fn echo_over_ipv6(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = match cx.io.listen("[::1]:0") {
        Ok(listener) => listener,
        Err(error) => return Err(Skip(format!("no IPv6 loopback here: {error}"))),
    };
    let to = listener.local_addr().expect("its address");
    let accepting = listener.accept().submit().expect("room");
    let (client, server) = cx.block_on(async { join!(cx.io.connect(to.clone()), accepting) });
    let (client, server) = (client.expect("connecting"), server.expect("accepting"));
    assert_eq!(client.peer_addr().expect("connected"), to);
    exchange(cx, &client, &server, &Cx::pattern(3000, 3));
    Ok(())
}

fn several_connections(cx: &Cx<'_>) -> Result<(), Skip> {
    let pairs: Vec<_> = (0..8).map(|_| cx.tcp_pair()).collect();
    let slab = cx.slab(8, 4096);
    let each = pairs.iter().enumerate().map(|(i, (client, server))| {
        let bytes = Cx::pattern(20_000 + i, i as u64);
        let slab = &slab;
        async move {
            let ((), got) = join!(write(client, &bytes), read(server, slab, bytes.len()));
            got == bytes
        }
    });
    let right = cx.block_on(join_all(each));
    assert_eq!(right, [true; 8]);
    drop(pairs);
    settled(cx, 0);
    Ok(())
}

fn order_of_many_sends(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(32 * 3000, 4);
    let sends: Vec<_> = bytes
        .chunks(3000)
        .map(|part| client.send_all(span(part)).submit().expect("room for 32 sends"))
        .collect();
    let (sent, got) =
        cx.block_on(async { join!(join_all(sends), read(&server, &slab, bytes.len())) });
    assert!(sent.into_iter().all(|sent| sent.expect("sending").bytes == 3000));
    assert!(got == bytes, "bytes out of order");
    Ok(())
}

fn order_of_many_receives(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(16, 100);
    let bytes = Cx::pattern(1600, 5);
    let lease = || slab.lease().expect("16 slots");
    let receives: Vec<_> =
        (0..16).map(|_| server.recv_all(lease()).submit().expect("room")).collect();
    let send = async {
        // Pieces that do not match the receives.
        for part in bytes.chunks(333) {
            write(&client, part).await;
        }
    };
    let ((), received) = cx.block_on(async { join!(send, join_all(receives)) });
    for (i, filled) in received.into_iter().enumerate() {
        let filled = filled.expect("receiving");
        assert!(filled[..] == bytes[i * 100..][..100], "receive {i} has other bytes");
    }
    assert_eq!(slab.available(), 16);
    Ok(())
}

fn order_of_sends_that_wait(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    narrow(&client, &server);
    let slab = cx.slab(1, 60_000);
    let bytes = Cx::pattern(MUCH, 6);
    let sends: Vec<_> = bytes
        .chunks(MUCH / 16)
        .map(|part| {
            let (head, tail) = part.split_at(17_000);
            let list: SpanList = [span(head), span(tail)].into_iter().collect();
            client.send_vectored(list).submit().expect("room")
        })
        .collect();
    let (sent, got) =
        cx.block_on(async { join!(join_all(sends), read(&server, &slab, bytes.len())) });
    assert!(sent.into_iter().all(|sent| sent.expect("sending").bytes == MUCH / 16));
    assert!(got == bytes, "bytes out of order");
    Ok(())
}

fn send_all_to_a_slow_reader(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(MUCH, 7);
    let mut sending = client.send_all(span(&bytes)).submit().expect("room");
    super::net::idle_turns(cx);
    assert!(sending.try_take().is_none(), "so much does not fit in small buffers");
    let (sent, got) = cx.block_on(async { join!(sending, read(&server, &slab, bytes.len())) });
    assert_eq!(sent.expect("sending").bytes, bytes.len());
    assert!(got == bytes);
    Ok(())
}

fn send_tells_how_much(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(4 * MUCH, 8);
    let sent = cx.block_on(client.send(span(&bytes))).expect("some of it goes out").bytes;
    assert!(sent > 0 && sent < bytes.len(), "{sent} bytes of {} into small buffers", bytes.len());
    let (finished, got) =
        cx.block_on(async { join!(client.finish().into_future(), read_to_end(&server, &slab)) });
    finished.expect("finishing");
    assert!(got == bytes[..sent], "{} bytes arrived of {sent} that were sent", got.len());
    Ok(())
}

fn send_more_is_one_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 64);
    cx.block_on(async {
        let sent = client.send_more(span(b"head,")).await.expect("sending");
        assert_eq!(sent.bytes, 5);
        client.send_all(span(b"body")).await.expect("sending");
        assert_eq!(read(&server, &slab, 9).await, b"head,body");
    });
    Ok(())
}

fn recv_all_takes_short_parts(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 4);
    let mut receiving = server.recv_all(slab.lease().expect("a slot")).submit().expect("room");
    for byte in b"abc" {
        cx.block_on(write(&client, &[*byte]));
        super::net::idle_turns(cx);
        assert!(receiving.try_take().is_none(), "it is not full yet");
    }
    cx.block_on(write(&client, b"d"));
    let filled = cx.block_on(receiving).expect("receiving");
    assert_eq!(&filled[..], b"abcd");
    Ok(())
}

fn recv_all_at_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 10);
    let lease = || slab.lease().expect("a slot");
    cx.block_on(async {
        write(&client, b"abc").await;
        client.finish().await.expect("finishing");
        let filled = server.recv_all(lease()).await.expect("what there was");
        assert_eq!(&filled[..], b"abc");
        drop(filled);
        assert!(server.recv_all(lease()).await.expect("the end").is_empty());
    });
    Ok(())
}

fn recv_all_keeps_what_came(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 10);
    let lease = || slab.lease().expect("a slot");
    cx.block_on(async {
        write(&client, b"abc").await;
        let receiving = server.recv_all(lease()).timeout(Duration::from_millis(50));
        let filled = receiving.await.expect("bytes that moved are not lost to a timeout");
        assert_eq!(&filled[..], b"abc");
    });
    let receiving = server.recv_all(lease()).submit().expect("room");
    cx.block_on(write(&client, b"de"));
    super::net::idle_turns(cx);
    receiving.cancel().expect("it waits for more");
    let filled = cx.block_on(receiving).expect("bytes that moved are not lost to a cancel");
    assert_eq!(&filled[..], b"de");
    drop(filled);
    exchange(cx, &client, &server, b"healthy");
    Ok(())
}

fn recv_of_what_is_there(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 1000);
    cx.block_on(async {
        write(&client, b"some").await;
        let filled = server.recv(slab.lease().expect("a slot")).await.expect("receiving");
        assert_eq!(&filled[..], b"some", "a receive does not wait for a full lease");
        let mut lease = filled.into_lease();
        lease.reset();
        assert_eq!(lease.len(), 1000);
        lease.truncate(2);
        write(&client, b"more").await;
        let filled = server.recv(lease).await.expect("receiving");
        assert_eq!(&filled[..], b"mo", "a receive does not go beyond the lease's length");
        let filled = server.recv(filled.into_lease()).await.expect("receiving");
        assert_eq!(&filled[..], b"re");
    });
    Ok(())
}

fn end_is_told_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 8);
    drop(client);
    for _ in 0..3 {
        let lease = slab.lease().expect("a slot");
        let filled = cx.block_on(server.recv(lease)).expect("an end is no error");
        assert!(filled.is_empty());
    }
    Ok(())
}

fn reset_is_told_and_stays(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 8);
    reset(client);
    let failed = cx.block_on(server.recv(slab.lease().expect("a slot"))).expect_err("a reset");
    assert_eq!(failed.kind(), ErrorKind::Disconnected);
    assert_eq!(failed.error.errno(), Some(libc::ECONNRESET));
    drop(failed.into_buffer().expect("the lease comes back"));
    assert_eq!(slab.available(), 1);
    // The kernel tells it once; the socket remembers.
    for _ in 0..2 {
        let receiving = server.recv(slab.lease().expect("a slot"));
        assert_eq!(why(cx.block_on(receiving)), Some(ErrorKind::Disconnected));
        let sending = server.send_all(span(b"x"));
        assert_eq!(why(cx.block_on(sending)), Some(ErrorKind::Disconnected));
    }
    cx.block_on(server.close()).expect("a dead socket can be closed");
    settled(cx, 0);
    Ok(())
}

fn reset_ends_what_waits(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(3, 8);
    let lease = || slab.lease().expect("a slot");
    let waiting: Vec<_> = (0..3).map(|_| server.recv(lease()).submit().expect("room")).collect();
    super::net::idle_turns(cx);
    reset(client);
    let ended = cx.block_on(join_all(waiting));
    let first = ended.into_iter().map(why).next().flatten();
    assert_eq!(first, Some(ErrorKind::Disconnected));
    assert_eq!(slab.available(), 3);
    Ok(())
}

fn broken_pipe(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    drop(client);
    settled(cx, 1);
    // The first bytes reach a closed socket, whose answer is a reset; then sending fails.
    let slab = cx.slab(1, 1000);
    let failed = cx.block_on(async {
        for _ in 0..1000 {
            let lease = slab.lease().expect("each send gives its buffer back");
            if let Err(failed) = server.send_all(lease.freeze()).await {
                return Some(failed);
            }
        }
        None
    });
    let failed = failed.expect("nobody receives these");
    cx.note(format!("{:?}", failed.kind()));
    assert_eq!(failed.kind(), ErrorKind::Disconnected);
    drop(failed);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn half_close(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 64);
    cx.block_on(async {
        write(&client, b"question").await;
        client.finish().await.expect("finishing");
        assert_eq!(read_to_end(&server, &slab).await, b"question");
        write(&server, b"answer").await;
        server.finish().await.expect("finishing");
        assert_eq!(read_to_end(&client, &slab).await, b"answer");
    });
    Ok(())
}

fn send_after_finish(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    cx.block_on(client.finish()).expect("finishing");
    let failed = cx.block_on(client.send_all(span(b"late"))).expect_err("it was finished");
    assert_eq!((failed.kind(), failed.error.errno()), (ErrorKind::Disconnected, Some(libc::EPIPE)));
    let back = failed.into_buffer().expect("the bytes come back");
    assert_eq!(back.to_vec().expect("plain memory"), b"late");
    exchange(cx, &server, &client, b"the other direction lives");
    Ok(())
}

fn finish_waits_for_sends(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(MUCH, 9);
    let sends: Vec<_> = bytes
        .chunks(MUCH / 8)
        .map(|part| client.send_all(span(part)).submit().expect("room"))
        .collect();
    let mut finish = client.finish().submit().expect("room");
    super::net::idle_turns(cx);
    assert!(finish.try_take().is_none(), "the sends before it wait for a reader");
    let (sent, finished, got) =
        cx.block_on(async { join!(join_all(sends), finish, read_to_end(&server, &slab)) });
    assert!(sent.into_iter().all(|sent| sent.is_ok_and(|sent| sent.bytes == MUCH / 8)));
    finished.expect("finishing");
    assert!(got == bytes, "{} bytes before the end", got.len());
    Ok(())
}

fn shutdown_ends_a_receive(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 8);
    let receiving = server.recv(slab.lease().expect("a slot")).submit().expect("room");
    super::net::idle_turns(cx);
    cx.block_on(server.shutdown(Shutdown::Both)).expect("shutting down");
    assert!(cx.block_on(receiving).expect("an end, not an error").is_empty());
    Ok(())
}

fn empty_lease_is_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_client, server) = cx.tcp_pair();
    let slab = cx.slab(3, 8);
    let empty = || {
        let mut lease = slab.lease().expect("a slot");
        lease.truncate(0);
        lease
    };
    let failed = server.recv(empty()).submit().err().expect("no room in it");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    assert!(failed.error.message().contains("reset"), "{}", failed.error);
    let lease = failed.into_buffer().expect("refused operations come back whole");
    assert_eq!((lease.len(), lease.capacity()), (0, 8));
    drop(lease);
    let two = vec![slab.lease().expect("a slot"), empty()];
    let failed = cx.block_on(server.recv_vectored(two)).expect_err("one without room");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    assert_eq!(failed.into_buffer().map(|leases| leases.len()), Some(2));
    assert_eq!(slab.available(), 3);
    settled(cx, 2);
    Ok(())
}

fn empty_send_is_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let empty = client.send(span(b""));
    assert_eq!(why(cx.block_on(empty)), Some(ErrorKind::InvalidArgument));
    let failed = cx.block_on(client.send_vectored(SpanList::new())).expect_err("nothing");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    let list: SpanList = [span(b""), span(b"")].into_iter().collect();
    let operation = client.send_vectored(list).into_operation();
    assert_eq!(operation.into_buffer().len(), 2);
    exchange(cx, &client, &server, b"healthy");
    Ok(())
}

fn timeout_leaves_it_healthy(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 8);
    for _ in 0..3 {
        let receiving = server.recv(slab.lease().expect("a slot"));
        let failed = cx.block_on(receiving.timeout(Duration::from_millis(2))).expect_err("silence");
        assert_eq!(failed.kind(), ErrorKind::TimedOut);
        drop(failed);
        assert_eq!(slab.available(), 1);
        exchange(cx, &client, &server, b"healthy");
    }
    Ok(())
}

fn cancelled_send_counts(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(MUCH, 10);
    let sending = client.send_all(span(&bytes)).submit().expect("room");
    super::net::idle_turns(cx);
    sending.cancel().expect("it waits for a reader");
    let failed = cx.block_on(sending).expect_err("not all of it fits");
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    let sent = failed.operation().expect("it comes back").sent_bytes();
    assert!(sent > 0 && sent < bytes.len());
    let (finished, got) =
        cx.block_on(async { join!(client.finish().into_future(), read_to_end(&server, &slab)) });
    finished.expect("finishing");
    assert!(got == bytes[..sent], "it says {sent} bytes, the peer got {}", got.len());
    Ok(())
}

fn connect_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let to = listener.local_addr().expect("its address");
    cx.block_on(listener.close()).expect("closing");
    let error = cx.block_on(cx.io.connect(to.clone())).expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&to.to_string()), "{error}");
    settled(cx, 0);
    // The same with options.
    let options = SocketOptions::new().no_delay(true);
    let connecting = cx.io.connect_with(to, dataplane::SocketKind::Stream, options);
    assert_eq!(cx.block_on(connecting).err().map(|error| error.kind()), Some(ErrorKind::Refused));
    settled(cx, 0);
    Ok(())
}
