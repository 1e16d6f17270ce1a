//! Closing: what is in flight ends, the peer sees it, and a number used again is never touched.

use super::net::{
    MUCH, exchange, idle_turns, narrow, read, read_to_end, settled, span, why, write,
};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Interest};
use futures_util::StreamExt;
use futures_util::future::join_all;
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::unix::net::UnixStream;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "close/ends_a_receive", needs: &[], run: ends_a_receive },
    Case { name: "close/ends_all_that_is_queued", needs: &[], run: ends_all_that_is_queued },
    Case { name: "close/peer_sees_the_end", needs: &[], run: peer_sees_the_end },
    Case { name: "close/what_was_sent_arrives", needs: &[], run: what_was_sent_arrives },
    Case { name: "close/twice", needs: &[], run: twice },
    Case { name: "close/nothing_after_it", needs: &[], run: nothing_after_it },
    Case { name: "close/last_handle_dropped", needs: &[], run: last_handle_dropped },
    Case { name: "close/one_of_two_handles", needs: &[], run: one_of_two_handles },
    Case { name: "close/request_not_submitted", needs: &[], run: request_not_submitted },
    Case { name: "close/cancel_all_keeps_it_open", needs: &[], run: cancel_all_keeps_it_open },
    Case { name: "close/reused_numbers", needs: &[], run: reused_numbers },
    Case { name: "close/reused_numbers_and_sends", needs: &[], run: reused_numbers_and_sends },
    Case { name: "close/by_callback", needs: &[], run: by_callback },
    Case { name: "close/many", needs: &[], run: many },
    Case { name: "close/registered_descriptor", needs: &[], run: registered_descriptor },
];

fn ends_a_receive(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 8);
    let receiving = server.recv(slab.lease().expect("a slot")).submit().expect("room");
    idle_turns(cx);
    cx.block_on(server.close()).expect("closing");
    let failed = cx.block_on(receiving).expect_err("it was closed");
    assert_eq!(failed.kind(), ErrorKind::Closed);
    assert_eq!(failed.into_buffer().map(|lease| lease.len()), Some(8));
    assert_eq!(slab.available(), 1);
    settled(cx, 1);
    Ok(())
}

fn ends_all_that_is_queued(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, _server) = cx.tcp_pair();
    narrow(&client, &client);
    let slab = cx.slab(12, 8);
    let bytes = Cx::pattern(MUCH, 1);
    let receives: Vec<_> = (0..6)
        .map(|_| client.recv(slab.lease().expect("a slot")).submit().expect("room"))
        .collect();
    let sends: Vec<_> =
        (0..6).map(|_| client.send_all(span(&bytes)).submit().expect("room")).collect();
    let ready = client.ready(Interest::PRIORITY).submit().expect("room");
    idle_turns(cx);
    cx.block_on(client.close()).expect("closing");
    let received = cx.block_on(join_all(receives));
    assert!(received.into_iter().all(|ended| why(ended) == Some(ErrorKind::Closed)));
    let sent = cx.block_on(join_all(sends));
    assert!(sent.into_iter().all(|ended| why(ended) == Some(ErrorKind::Closed)));
    assert_eq!(why(cx.block_on(ready)), Some(ErrorKind::Closed));
    assert_eq!(slab.available(), 12);
    settled(cx, 1);
    Ok(())
}

fn peer_sees_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(2, 8);
    for explicit in [true, false] {
        let (client, server) = cx.tcp_pair();
        // The peer sees it although a receive was in flight here.
        let receiving = client.recv(slab.lease().expect("a slot")).submit().expect("room");
        idle_turns(cx);
        match explicit {
            true => cx.block_on(client.close()).expect("closing"),
            false => drop(client),
        }
        assert_eq!(cx.block_on(read_to_end(&server, &slab)), b"");
        assert_eq!(why(cx.block_on(receiving)), Some(ErrorKind::Closed));
    }
    settled(cx, 0);
    Ok(())
}

fn what_was_sent_arrives(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let bytes = Cx::pattern(30_000, 2);
    cx.block_on(write(&client, &bytes));
    drop(client);
    let slab = cx.slab(1, 1 << 16);
    assert!(cx.block_on(read_to_end(&server, &slab)) == bytes);
    Ok(())
}

fn twice(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, _server) = cx.tcp_pair();
    let (second, third) = (client.clone(), client.clone());
    cx.block_on(client.close()).expect("closing");
    assert_eq!(why(cx.block_on(second.close())), Some(ErrorKind::Closed));
    drop(third);
    settled(cx, 1);
    Ok(())
}

fn nothing_after_it(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, _server) = cx.tcp_pair();
    let left = client.clone();
    cx.block_on(client.close()).expect("closing");
    let slab = cx.slab(1, 8);
    let failed = cx.block_on(left.recv(slab.lease().expect("a slot"))).expect_err("closed");
    assert_eq!(failed.kind(), ErrorKind::Closed);
    assert!(failed.into_buffer().is_some());
    assert_eq!(why(cx.block_on(left.send_all(span(b"x")))), Some(ErrorKind::Closed));
    assert_eq!(why(cx.block_on(left.finish())), Some(ErrorKind::Closed));
    assert_eq!(why(cx.block_on(left.ready(Interest::READABLE))), Some(ErrorKind::Closed));
    assert_eq!(left.local_addr().map_err(|e| e.kind()), Err(ErrorKind::Closed));
    assert_eq!(left.peer_addr().map_err(|e| e.kind()), Err(ErrorKind::Closed));
    assert_eq!(left.cancel_all().map_err(|e| e.kind()), Err(ErrorKind::Closed));
    assert_eq!(left.register().map_err(|e| e.kind()), Err(ErrorKind::Closed));
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn last_handle_dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(4, 8);
    let waiting: Vec<_> = (0..4)
        .map(|_| server.recv(slab.lease().expect("a slot")).submit().expect("room"))
        .collect();
    let other = server.clone();
    drop(server);
    idle_turns(cx);
    assert_eq!(cx.io.stats().in_flight, 4, "a handle is left");
    drop(other);
    for ended in cx.block_on(join_all(waiting)) {
        assert_eq!(why(ended), Some(ErrorKind::Closed));
    }
    assert_eq!(slab.available(), 4);
    settled(cx, 1);
    drop(client);
    settled(cx, 0);
    Ok(())
}

fn one_of_two_handles(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    drop(client.clone());
    exchange(cx, &client, &server, b"still open");
    Ok(())
}

fn request_not_submitted(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    // A close nobody submits drops the handle like any other.
    drop(client.close());
    let slab = cx.slab(1, 8);
    assert_eq!(cx.block_on(read_to_end(&server, &slab)), b"");
    // A request outlives the last handle only to be refused.
    let request = server.recv(slab.lease().expect("a slot"));
    drop(server);
    assert_eq!(why(cx.block_on(request)), Some(ErrorKind::Closed));
    settled(cx, 0);
    Ok(())
}

fn cancel_all_keeps_it_open(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(4, 8);
    let waiting: Vec<_> = (0..4)
        .map(|_| server.recv(slab.lease().expect("a slot")).submit().expect("room"))
        .collect();
    idle_turns(cx);
    assert_eq!(server.cancel_all().expect("it is open"), 4);
    for ended in cx.block_on(join_all(waiting)) {
        assert_eq!(why(ended), Some(ErrorKind::Cancelled));
    }
    assert_eq!((slab.available(), server.cancel_all().expect("it is open")), (4, 0));
    exchange(cx, &client, &server, b"healthy");
    Ok(())
}

/// Two ends that stay outside the proactor and take the numbers that have just become free.
fn bystanders(count: usize) -> Vec<(UnixStream, UnixStream)> {
    (0..count).map(|_| UnixStream::pair().expect("two descriptors")).collect()
}

fn reused_numbers(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(8, 8);
    for _ in 0..10 {
        let (one, two) = cx.unix_pair();
        let waiting: Vec<_> = (0..4)
            .map(|_| one.recv(slab.lease().expect("a slot")).submit().expect("room"))
            .collect();
        let mut stream = two.readiness(Interest::READABLE).submit().expect("room");
        idle_turns(cx);
        drop((one, two));
        // As soon as the numbers are free they are somebody else's, with bytes to be stolen.
        cx.poll_until("the descriptors to be closed", || cx.io.stats().descriptors == 0);
        let mut others = bystanders(3);
        for (one, two) in &mut others {
            one.write_all(b"mine").expect("room in a socket");
            two.write_all(b"mine").expect("room in a socket");
        }
        for ended in cx.block_on(join_all(waiting)) {
            assert_eq!(why(ended), Some(ErrorKind::Closed));
        }
        let mut end = None;
        while let Some(next) = cx.block_on(stream.next()) {
            end = next.err();
        }
        assert_eq!(end.map(|error| error.kind()), Some(ErrorKind::Closed));
        idle_turns(cx);
        for (one, two) in &mut others {
            let mut bytes = [0; 8];
            assert_eq!(one.read(&mut bytes).expect("its own bytes"), 4);
            assert_eq!(two.read(&mut bytes).expect("its own bytes"), 4);
        }
    }
    assert_eq!(slab.available(), 8);
    Ok(())
}

fn reused_numbers_and_sends(cx: &Cx<'_>) -> Result<(), Skip> {
    for _ in 0..5 {
        let (one, two) = cx.unix_pair();
        narrow(&one, &two);
        let bytes = Cx::pattern(MUCH, 3);
        let sends: Vec<_> =
            (0..4).map(|_| one.send_all(span(&bytes)).submit().expect("room")).collect();
        idle_turns(cx);
        drop((one, two));
        cx.poll_until("the descriptors to be closed", || cx.io.stats().descriptors == 0);
        let mut others = bystanders(3);
        for ended in cx.block_on(join_all(sends)) {
            let kind = why(ended);
            let expected = [Some(ErrorKind::Closed), Some(ErrorKind::Disconnected)];
            assert!(expected.contains(&kind), "{kind:?}");
        }
        idle_turns(cx);
        for (one, two) in &mut others {
            for end in [one, two] {
                end.set_nonblocking(true).expect("a socket");
                let nothing = end.read(&mut [0; 8]).map_err(|error| error.kind());
                assert_eq!(nothing, Err(IoKind::WouldBlock), "nobody sent it anything");
            }
        }
    }
    Ok(())
}

fn by_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let closed = std::rc::Rc::new(std::cell::Cell::new(None));
    let told = closed.clone();
    let request = client.close();
    request.on_complete(move |ended| told.set(Some(ended.is_ok()))).expect("room");
    cx.poll_until("the callback", || closed.get().is_some());
    assert_eq!(closed.get(), Some(true));
    let slab = cx.slab(1, 8);
    assert_eq!(cx.block_on(read(&server, &slab, 1)), b"");
    Ok(())
}

fn many(cx: &Cx<'_>) -> Result<(), Skip> {
    // More than there may be operations in flight: the rest is closed all the same.
    let mut sockets = Vec::new();
    let mut peers = Vec::new();
    for (one, two) in bystanders(100) {
        sockets.push(cx.io.adopt_socket(one).expect("room for a descriptor"));
        peers.push(two);
    }
    assert_eq!(cx.io.stats().descriptors, 100);
    drop(sockets);
    settled(cx, 0);
    for peer in &mut peers {
        assert_eq!(peer.read(&mut [0]).expect("the end"), 0);
    }
    Ok(())
}

fn registered_descriptor(cx: &Cx<'_>) -> Result<(), Skip> {
    for _ in 0..5 {
        let (client, server) = cx.tcp_pair();
        let (one, two) = (client.register(), server.register());
        let same = (one.expect("room in the table"), two.expect("room in the table"));
        assert_eq!(same.0, same.1);
        assert_eq!(client.register().ok(), Some(same.0), "again is the same");
        exchange(cx, &client, &server, &Cx::pattern(70_000, 4));
        let slab = cx.slab(1, 8);
        let receiving = client.recv(slab.lease().expect("a slot")).submit().expect("room");
        idle_turns(cx);
        drop(client);
        assert_eq!(why(cx.block_on(receiving)), Some(ErrorKind::Closed));
        assert_eq!(cx.block_on(read_to_end(&server, &slab)), b"");
    }
    settled(cx, 0);
    Ok(())
}
