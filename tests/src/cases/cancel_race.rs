//! Cancel against completion: whoever wins, no byte is lost or doubled.

use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Wait};
use regions::Span;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "cancel_race/recv_keeps_its_bytes", needs: &[], run: recv_keeps_its_bytes },
    Case { name: "cancel_race/recv_all_half_full", needs: &[], run: recv_all_half_full },
    Case { name: "cancel_race/accept_keeps_its_connection", needs: &[], run: accept_keeps },
    Case { name: "cancel_race/send_half_sent", needs: &[], run: send_half_sent },
    Case { name: "cancel_race/queued_send", needs: &[], run: queued_send },
    Case { name: "cancel_race/stream_keeps_its_items", needs: &[], run: stream_keeps_its_items },
    Case { name: "cancel_race/timer", needs: &[], run: timer },
];

fn recv_keeps_its_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    for round in 0..30u8 {
        let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
        if round % 3 == 0 {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        let sending = far.send_all(Span::from(vec![round])).submit().expect("room");
        if round % 2 == 0 {
            cx.io.flush().expect("a flush");
        }
        let asked = receiving.cancel();
        cx.block_on(sending).expect("sent");
        let byte = match cx.block_on(receiving) {
            Ok(filled) => filled[0],
            Err(failed) => {
                assert!(asked.is_ok(), "nobody asked");
                assert_eq!(failed.kind(), ErrorKind::Cancelled);
                let lease = failed.into_buffer().expect("it comes back");
                cx.block_on(near.recv(lease)).expect("the byte waits")[0]
            }
        };
        assert_eq!(byte, round, "lost or doubled");
        assert_eq!(slab.available(), 1);
    }
    Ok(())
}

fn recv_all_half_full(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 16);
    let receiving = near.recv_all(slab.lease().expect("free")).submit().expect("room");
    cx.block_on(far.send_all(Span::from(b"half...".to_vec()))).expect("sent");
    for _ in 0..3 {
        cx.io.poll(Wait::Now).expect("a poll");
    }
    receiving.cancel().expect("it wants more");
    // What had moved is a result; what had not, is still in the socket.
    let moved = match cx.block_on(receiving) {
        Ok(filled) => filled.to_vec(),
        Err(failed) => {
            assert_eq!(failed.kind(), ErrorKind::Cancelled);
            Vec::new()
        }
    };
    cx.block_on(far.send_all(Span::from(b"the rest.".to_vec()))).expect("sent");
    let mut lease = slab.lease().expect("free");
    lease.truncate(16 - moved.len());
    let filled = cx.block_on(near.recv_all(lease)).expect("received");
    assert_eq!([&moved[..], &filled[..]].concat(), b"half...the rest.");
    Ok(())
}

fn accept_keeps(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let to = listener.local_addr().expect("an address");
    for round in 0..6 {
        let accepting = listener.accept().submit().expect("room");
        let client = cx.block_on(cx.io.connect(to.clone())).expect("connecting");
        if round % 2 == 0 {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        let _asked = accepting.cancel();
        let server = match cx.block_on(accepting) {
            Ok(server) => server,
            Err(failed) => {
                assert_eq!(failed.kind(), ErrorKind::Cancelled);
                cx.block_on(listener.accept()).expect("the connection waits")
            }
        };
        let peer = server.peer_addr().expect("connected");
        assert_eq!(peer, client.local_addr().expect("connected"), "another connection");
    }
    Ok(())
}

/// Fills a socket's buffers until nothing more goes in; how much went in.
pub(super) fn fill(cx: &Cx<'_>, socket: &dataplane::Socket) -> usize {
    let mut filled = 0;
    loop {
        let chunk = Span::from(Cx::pattern(64 << 10, 3));
        let ended = cx.block_on(socket.send(chunk).timeout(Duration::from_millis(4)));
        match ended {
            Ok(sent) => filled += sent.bytes,
            Err(failed) => {
                assert_eq!(failed.kind(), ErrorKind::TimedOut);
                return filled;
            }
        }
    }
}

/// Receives until `count` bytes came, and not one more.
pub(super) fn drain(cx: &Cx<'_>, socket: &dataplane::Socket, count: usize) {
    let slab = cx.slab(1, 64 << 10);
    let mut rest = count;
    while rest > 0 {
        let mut lease = slab.lease().expect("free");
        lease.truncate(rest.min(64 << 10));
        rest -= cx.block_on(socket.recv(lease)).expect("it was sent").len();
    }
    let more = socket.recv(slab.lease().expect("free")).timeout(Duration::from_millis(1));
    let none = cx.block_on(more).err().expect("a byte nobody sent");
    assert_eq!(none.kind(), ErrorKind::TimedOut);
}

fn send_half_sent(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let bytes = 2 << 20;
    let sending = near.send_all(Span::from(Cx::pattern(bytes, 5))).submit().expect("room");
    for _ in 0..4 {
        cx.io.poll(Wait::Now).expect("a poll");
    }
    sending.cancel().expect("more than the buffers hold");
    // It ends with what it had sent; nothing at all is Cancelled.
    let sent = match cx.block_on(sending) {
        Ok(sent) => sent.bytes,
        Err(failed) => {
            assert_eq!(failed.kind(), ErrorKind::Cancelled);
            failed.operation().map_or(0, |send| send.sent_bytes())
        }
    };
    assert!(sent < bytes, "it was cancelled");
    drain(cx, &far, sent);
    Ok(())
}

fn queued_send(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let filled = fill(cx, &near);
    let first = near.send_all(Span::from(vec![1u8; 3])).submit().expect("room");
    let second = near.send_all(Span::from(vec![2u8; 5])).submit().expect("room");
    cx.io.poll(Wait::Now).expect("a poll");
    second.cancel().expect("it waits for the first");
    let failed = cx.block_on(second).err().expect("nothing of it was sent");
    cx.note(format!("{:?}", failed.kind()));
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    assert_eq!(failed.into_buffer().expect("it comes back").len(), 5);
    drain(cx, &far, filled + 3);
    assert_eq!(cx.block_on(first).expect("sent").bytes, 3);
    Ok(())
}

fn stream_keeps_its_items(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(8, 64).expect("a pool");
    for round in 0..8u8 {
        let mut stream = near.receive_all(&pool).submit().expect("room");
        let sending = far.send_all(Span::from(vec![round; 3])).submit().expect("room");
        for _ in 0..round % 4 {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        stream.cancel().expect("it is pending");
        cx.block_on(sending).expect("sent");
        let mut bytes = Vec::new();
        let ended = cx.block_on(async {
            use futures_util::StreamExt;
            loop {
                match stream.next().await.expect("its end is told before none") {
                    Ok(filled) => bytes.extend_from_slice(&filled),
                    Err(error) => break error,
                }
            }
        });
        assert_eq!(ended.kind(), ErrorKind::Cancelled);
        while bytes.len() < 3 {
            let rest = cx.block_on(near.recv_pool(&pool)).expect("received");
            bytes.extend_from_slice(&rest.expect("not the end"));
        }
        assert_eq!(bytes, [round; 3], "lost or doubled");
    }
    Ok(())
}

fn timer(cx: &Cx<'_>) -> Result<(), Skip> {
    for round in 0..30u64 {
        let at = std::time::Instant::now() + Duration::from_micros(round * 5);
        let timer = cx.io.sleep_until(at).submit().expect("room");
        if round % 2 == 0 {
            cx.io.poll(Wait::Now).expect("a poll");
        }
        let asked = timer.cancel();
        match (asked, cx.block_on(timer)) {
            (_, Ok(())) => {}
            (Ok(()), Err(failed)) => assert_eq!(failed.kind(), ErrorKind::Cancelled),
            (Err(late), Err(_)) => panic!("neither fired nor cancelled: {late}"),
        }
    }
    Ok(())
}
