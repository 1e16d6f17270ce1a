//! Buffers: whose they are at each moment, and that every one comes back, whatever happened.

use super::file::{made, opened};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, HoldsBuffer, OpenOptions};
use futures_util::future::{join, join_all};
use regions::{Access, Region, RegionErrorKind, Slab, Span};
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "memory/a_slot_goes_round", needs: &[], run: a_slot_goes_round },
    Case { name: "memory/failures_give_buffers_back", needs: &[], run: failures_give_back },
    Case { name: "memory/a_full_proactor_gives_back", needs: &[], run: a_full_proactor },
    Case { name: "memory/a_cancelled_receive_keeps_its_room", needs: &[], run: cancelled_keeps },
    Case { name: "memory/a_timeout_keeps_its_room", needs: &[], run: a_timeout_keeps },
    Case { name: "memory/a_span_is_shared_and_comes_back", needs: &[], run: a_span_comes_back },
    Case { name: "memory/a_span_outlives_its_slab", needs: &[], run: a_span_outlives },
    Case { name: "memory/a_dropped_send_keeps_its_span", needs: &[], run: a_dropped_send },
    Case { name: "memory/halves_of_a_slot_receive_at_once", needs: &[], run: halves_receive },
    Case { name: "memory/every_kind_of_span_is_sent", needs: &[], run: every_kind_of_span },
    Case { name: "memory/shared_memory_gives_no_slice", needs: &[], run: shared_memory },
    Case { name: "memory/device_memory_is_refused", needs: &[], run: device_memory },
    Case { name: "memory/leases_wait_for_completions", needs: &[], run: leases_wait },
    Case { name: "memory/received_bytes_are_the_length", needs: &[], run: length_is_received },
    Case { name: "memory/addresses_stay_where_they_are", needs: &[], run: addresses_stay },
    Case { name: "memory/a_dropped_stream_returns_buffers", needs: &[], run: a_dropped_stream },
];

fn a_slot_goes_round(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    for round in 0..100u8 {
        cx.block_on(two.send_all(vec![round; 9])).expect("sent");
        let lease = slab.lease().expect("the slot is back");
        let filled = cx.block_on(one.recv(lease)).expect("received");
        assert_eq!(filled[..], [round; 9]);
        cx.block_on(one.send_all(filled.freeze())).expect("sent");
        let echo = cx
            .block_on(two.recv(slab.lease().expect("free once its send is over")))
            .expect("received");
        assert_eq!(echo[..], [round; 9]);
    }
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn failures_give_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(2, 64);
    let (one, two) = cx.unix_pair();
    cx.block_on(two.close()).expect("closed");
    let mut lease = slab.lease().expect("a slot");
    lease.copy_from_slice(&[7; 64]);
    let failed = cx.block_on(one.send_all(lease.freeze())).expect_err("nobody is there");
    assert_eq!(failed.kind(), ErrorKind::Disconnected, "{failed}");
    let span = failed.into_buffer().expect("the span comes back");
    assert_eq!(span.bytes().expect("private"), [7; 64], "untouched");
    drop(span);
    let unconnected = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
    let socket = cx.io.adopt_socket(unconnected).expect("room");
    let failed = cx.block_on(socket.send_all(slab.lease().expect("a slot").freeze()));
    let failed = failed.expect_err("to whom?");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument, "{failed}");
    drop(failed);
    assert_eq!(slab.available(), 2);
    Ok(())
}

fn a_full_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, _two) = cx.unix_pair();
    let most = crate::OPERATIONS as usize;
    let slab = cx.slab(most + 1, 64);
    let receives: Vec<_> = (0..most)
        .map(|_| one.recv(slab.lease().expect("a slot")).submit().expect("room"))
        .collect();
    let failed = one.recv(slab.lease().expect("a slot")).submit().map(drop).expect_err("full");
    assert_eq!(failed.kind(), ErrorKind::Exhausted);
    let words = failed.error.message().to_owned();
    assert!(words.contains("64 of 64") && words.contains("Options::operations"), "{words}");
    assert_eq!(failed.into_operation().map(HoldsBuffer::into_buffer).expect("back").len(), 64);
    assert_eq!(slab.available(), 1);
    drop(receives);
    cx.poll_until("the slots", || slab.available() == most + 1);
    cx.block_on(cx.io.nop()).expect("there is room again");
    Ok(())
}

fn cancelled_keeps(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let receive = one.recv(slab.lease().expect("a slot")).submit().expect("room");
    cx.io.poll(dataplane::Wait::Now).expect("a turn");
    receive.cancel().expect("it is pending");
    let failed = cx.block_on(receive).expect_err("nothing arrived");
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    let lease = failed.into_buffer().expect("the lease comes back");
    assert_eq!((lease.len(), lease.capacity()), (64, 64));
    cx.block_on(two.send_all(b"after".to_vec())).expect("sent");
    assert_eq!(cx.block_on(one.recv(lease)).expect("the socket is fine")[..], *b"after");
    Ok(())
}

fn a_timeout_keeps(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let request = one.recv(slab.lease().expect("a slot")).timeout(Duration::from_millis(3));
    let failed = cx.block_on(request).expect_err("nothing arrived");
    assert_eq!(failed.kind(), ErrorKind::TimedOut);
    let lease = failed.into_buffer().expect("the lease comes back");
    assert_eq!(lease.len(), 64);
    cx.block_on(two.send_all(b"after".to_vec())).expect("sent");
    assert_eq!(cx.block_on(one.recv(lease)).expect("the socket is fine")[..], *b"after");
    Ok(())
}

fn a_span_comes_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.tcp_pair();
    let slab = cx.slab(3, 4096);
    let bytes = Cx::pattern(4096, 1);
    let mut lease = slab.lease().expect("a slot");
    lease.copy_from_slice(&bytes);
    let span = lease.freeze();
    let mine = span.clone();
    let span = span.try_unfreeze().expect_err("there are two of it");
    let receive = two.recv_all(slab.lease().expect("a slot"));
    let (sent, filled) = cx.block_on(join(one.send_all(span).into_future(), receive.into_future()));
    assert_eq!(sent.expect("sent").bytes, 4096);
    assert!(filled.expect("received")[..] == bytes);
    let lease = mine.try_unfreeze().expect("the send gave its share back with its result");
    assert!(lease[..] == bytes);
    drop(lease);
    assert_eq!(slab.available(), 3);
    Ok(())
}

fn a_span_outlives(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.tcp_pair();
    let bytes = Cx::pattern(60_000, 2);
    let mut lease = Slab::new(1, 60_000).expect("memory").lease().expect("a slot");
    lease.copy_from_slice(&bytes);
    let send = one.send_all(lease.freeze()).submit().expect("room");
    let slab = cx.slab(1, 60_000);
    let filled = cx.block_on(two.recv_all(slab.lease().expect("a slot"))).expect("received");
    assert!(filled[..] == bytes, "the slab's last handle was gone before the send began");
    cx.block_on(send).expect("sent");
    Ok(())
}

/// What the kernel still reads is not given to somebody else.
fn a_dropped_send(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 1 << 20);
    let mut lease = slab.lease().expect("a slot");
    lease.fill(5);
    let send = one.send_all(lease.freeze()).submit().expect("room");
    cx.io.poll(dataplane::Wait::Now).expect("a turn");
    drop(send);
    cx.poll_until("the slot", || slab.available() == 1);
    assert_eq!(cx.io.stats().in_flight, 0);
    drop(one);
    // What had gone out is whole; how much that is nobody promised.
    let theirs = cx.slab(1, 65_536);
    loop {
        let filled = cx.block_on(two.recv(theirs.lease().expect("a slot"))).expect("received");
        if filled.is_empty() {
            break;
        }
        assert!(filled.iter().all(|&byte| byte == 5));
    }
    Ok(())
}

fn halves_receive(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((one, two), (three, four)) = (cx.unix_pair(), cx.unix_pair());
    let slab = cx.slab(1, 64);
    let mut left = slab.lease().expect("a slot");
    let right = left.split_off(32);
    let receives = [one.recv_all(left), three.recv_all(right)];
    let receives = receives.map(|request| request.submit().expect("room"));
    cx.block_on(four.send_all(vec![4; 40])).expect("sent");
    cx.block_on(two.send_all(vec![2; 40])).expect("sent");
    let filled = cx.block_on(join_all(receives));
    let filled: Vec<_> = filled.into_iter().map(|ended| ended.expect("received")).collect();
    assert_eq!((&filled[0][..], &filled[1][..]), (&[2; 32][..], &[4; 32][..]));
    assert_eq!(slab.available(), 0);
    drop(filled);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn every_kind_of_span(cx: &Cx<'_>) -> Result<(), Skip> {
    static FIXED: &[u8] = b"static";
    let (one, two) = cx.unix_pair();
    let region = Region::anonymous(4096).expect("a page");
    region.copy_in(10, b"region").expect("it is writable");
    let slab = cx.slab(2, 64);
    let mut lease = slab.lease().expect("a slot");
    lease.truncate(4);
    lease.copy_from_slice(b"slot");
    let file = std::fs::File::open(made(cx, b"mapped")).expect("opens");
    let mapped = Region::map_file(&file, Access::READ).expect("maps");
    let spans: [Span; 5] = [
        Span::from(FIXED),
        Span::from(b"vector".to_vec()),
        region.span(10..16).expect("inside"),
        lease.freeze(),
        mapped.span(..).expect("inside"),
    ];
    for (span, expected) in spans.into_iter().zip(["static", "vector", "region", "slot", "mapped"])
    {
        let sent = cx.block_on(one.send_all(span)).expect("sent");
        assert_eq!(sent.bytes, expected.len());
        let lease = slab.lease().expect("a slot");
        let filled = cx.block_on(two.recv(lease)).expect("received");
        assert_eq!(filled[..], *expected.as_bytes());
        cx.note(expected);
    }
    Ok(())
}

/// From the moment that others may write the memory it is copied, never borrowed; I/O goes on.
fn shared_memory(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(2, 64);
    let mut lease = slab.lease().expect("a slot");
    lease.fill(3);
    let span = lease.freeze();
    assert_eq!(span.bytes().expect("private"), [3; 64]);
    slab.region().mark_shared();
    assert_eq!(span.bytes().expect_err("shared").kind, RegionErrorKind::Shared);
    let mut copy = [0; 64];
    span.copy_to(0, &mut copy).expect("a copy is allowed");
    assert_eq!(copy, [3; 64]);
    cx.block_on(one.send_all(span)).expect("sent");
    let filled = cx.block_on(two.recv(slab.lease().expect("a slot"))).expect("received");
    assert_eq!(filled.to_vec(), [3; 64]);
    Ok(())
}

/// No pointer, nothing to hand to the kernel: refused before it sees a null one.
fn device_memory(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let file = opened(cx, &made(cx, b"kept"), OpenOptions::write());
    let region = Region::device(4096, Access::LOCAL, None, || {}).expect("a length is enough");
    let span = region.span(..100).expect("inside");
    let sending = one.send_all(span.clone());
    let failed = cx.block_on(sending).expect_err("the CPU cannot address it");
    let writing = cx.block_on(file.write_at(span, 0)).expect_err("the CPU cannot address it");
    assert!(failed.into_buffer().is_some() && writing.into_buffer().is_some());
    cx.block_on(one.send_all(b"next".to_vec())).expect("the socket is fine");
    let slab = cx.slab(1, 64);
    let filled = cx.block_on(two.recv(slab.lease().expect("a slot"))).expect("received");
    assert_eq!(filled[..], *b"next", "not a byte of what was refused went out");
    Ok(())
}

fn leases_wait(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let receive = one.recv(slab.lease().expect("a slot")).submit().expect("room");
    let next = slab.lease_async();
    let send = two.send_all(b"go".to_vec());
    let (filled, sent) = cx.block_on(join(receive, send.into_future()));
    sent.expect("sent");
    drop(filled.expect("received"));
    let lease = cx.block_on(next);
    assert_eq!(lease.len(), 64);
    Ok(())
}

fn length_is_received(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    for length in [1, 33, 64] {
        cx.block_on(two.send_all(vec![9; length])).expect("sent");
        let mut filled = cx.block_on(one.recv(slab.lease().expect("a slot"))).expect("received");
        assert_eq!((filled.len(), filled.capacity()), (length, 64));
        filled.reset();
        assert_eq!(filled.len(), 64);
    }
    Ok(())
}

/// The kernel writes a sender's address long after the slots around it have come, gone and grown.
fn addresses_stay(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(16, 64);
    let bind = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("loopback");
        (socket.local_addr().expect("an address"), cx.io.adopt_socket(socket).expect("room"))
    };
    let receivers: Vec<_> = (0..16).map(|_| bind()).collect();
    let senders: Vec<_> = (0..16).map(|_| bind()).collect();
    let receives: Vec<_> = receivers
        .iter()
        .map(|(_, socket)| socket.recv_from(slab.lease().expect("a slot")).submit().expect("room"))
        .collect();
    cx.io.poll(dataplane::Wait::Now).expect("a turn");
    // Results that nobody takes stay in their slots, and more slots are made.
    let untaken: Vec<_> = (0..300)
        .map(|_| {
            let nop = cx.io.nop().submit().expect("results do not count");
            cx.poll_until("a no-op", || cx.io.stats().in_flight == 16);
            nop
        })
        .collect();
    for ((to, _), (_, sender)) in receivers.iter().zip(&senders) {
        cx.block_on(sender.send_to(vec![1], *to)).expect("sent");
    }
    for (receive, (from, _)) in receives.into_iter().zip(&senders) {
        let (filled, sender) = cx.block_on(receive).expect("received");
        assert_eq!((filled.len(), sender), (1, (*from).into()));
    }
    drop(untaken);
    Ok(())
}

/// What had been received for nobody goes back to the pool with the stream.
fn a_dropped_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let pool = cx.io.receive_pool(8, 64).expect("a pool");
    let slab = pool.slab().clone();
    for _ in 0..5 {
        let (one, two) = cx.unix_pair();
        let stream = one.receive_all(&pool).submit().expect("room");
        cx.block_on(two.send_all(vec![1; 300])).expect("sent");
        for _ in 0..4 {
            cx.io.poll(dataplane::Wait::Now).expect("a turn");
        }
        drop(stream);
        cx.poll_until("the end", || cx.io.stats().in_flight == 0);
        // All eight are to be had again, through the pool.
        let (one, two) = cx.unix_pair();
        cx.block_on(two.send_all(vec![2; 512])).expect("sent");
        let mut held = Vec::new();
        let mut found = 0;
        while found < 512 {
            let filled = cx.block_on(one.recv_pool(&pool)).expect("received").expect("bytes");
            found += filled.len();
            held.push(filled);
        }
        assert!(held.iter().all(|filled| filled.iter().all(|&byte| byte == 2)));
    }
    drop(pool);
    cx.poll_until("the slots", || slab.available() == 8);
    Ok(())
}
