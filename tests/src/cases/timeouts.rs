//! Timeouts of operations: the operation ends, what it worked on stays good, no byte is lost.

use super::cancel::crowded;
use super::cancel_race::{drain, fill};
use super::remote::parked;
use crate::{Case, Cx, OPERATIONS, Skip};
use dataplane::{ErrorKind, Failed, Interest, Operation, Proactor, Wait};
use futures_util::StreamExt;
use regions::Span;
use std::future::IntoFuture;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "timeouts/recv_leaves_the_socket_usable", needs: &[], run: recv },
    Case { name: "timeouts/what_arrived_is_a_result", needs: &[], run: what_arrived },
    Case { name: "timeouts/what_was_sent_is_counted", needs: &[], run: what_was_sent },
    Case { name: "timeouts/queued_send", needs: &[], run: queued_send },
    Case { name: "timeouts/accept", needs: &[], run: accept },
    Case { name: "timeouts/ready", needs: &[], run: ready },
    Case { name: "timeouts/stream", needs: &[], run: stream },
    Case { name: "timeouts/past_deadline", needs: &[], run: past_deadline },
    Case { name: "timeouts/race_with_completion", needs: &[], run: race },
    Case { name: "timeouts/one_alone", needs: &[], run: one_alone },
    Case { name: "timeouts/default_of_the_options", needs: &[], run: default_of_the_options },
    Case { name: "timeouts/default_of_the_options_for_steps", needs: &[], run: default_for_steps },
    Case { name: "timeouts/connect", needs: &[], run: connect },
    Case { name: "timeouts/longest", needs: &[], run: longest },
    Case { name: "timeouts/make_room_at_the_bound", needs: &[], run: at_the_bound },
];

const SHORT: Duration = Duration::from_millis(2);

fn timed_out<T, O: Operation>(cx: &Cx<'_>, ended: Result<T, Failed<O>>) -> Failed<O> {
    let failed = ended.err().expect("nothing could end it but its deadline");
    cx.note(format!("{:?}", failed.kind()));
    assert_eq!(failed.kind(), ErrorKind::TimedOut, "{failed}");
    failed
}

fn recv(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let slab = cx.slab(1, 32);
    let begun = Instant::now();
    let ended = cx.block_on(near.recv(slab.lease().expect("free")).timeout(SHORT));
    let failed = timed_out(cx, ended);
    assert!(begun.elapsed() >= SHORT, "early");
    assert_eq!(cx.io.stats().timed_out, 1);
    let lease = failed.into_buffer().expect("it comes back");
    assert_eq!(lease.len(), 32, "as it was given");
    cx.block_on(far.send_all(Span::from(b"later".to_vec()))).expect("sent");
    let filled = cx.block_on(near.recv(lease)).expect("the socket is as good as before");
    assert_eq!(&filled[..], b"later");
    drop(filled);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn what_arrived(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 16);
    let receiving = near.recv_all(slab.lease().expect("free")).timeout(SHORT);
    let receiving = receiving.submit().expect("room");
    cx.block_on(far.send_all(Span::from(b"half...".to_vec()))).expect("sent");
    let moved = match cx.block_on(receiving) {
        Ok(filled) => filled.to_vec(),
        Err(failed) => {
            assert_eq!(failed.kind(), ErrorKind::TimedOut);
            Vec::new()
        }
    };
    cx.block_on(far.send_all(Span::from(b"the rest.".to_vec()))).expect("sent");
    let mut lease = slab.lease().expect("free");
    lease.truncate(16 - moved.len());
    let rest = cx.block_on(near.recv_all(lease)).expect("received");
    assert_eq!([&moved[..], &rest[..]].concat(), b"half...the rest.");
    Ok(())
}

fn what_was_sent(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let bytes = 2 << 20;
    let sending = near.send_all(Span::from(Cx::pattern(bytes, 6))).timeout(SHORT);
    let sent = match cx.block_on(sending) {
        Ok(sent) => sent.bytes,
        Err(failed) => {
            assert_eq!(failed.kind(), ErrorKind::TimedOut);
            failed.operation().map_or(0, |send| send.sent_bytes())
        }
    };
    assert!(sent < bytes, "more than the buffers hold");
    drain(cx, &far, sent);
    Ok(())
}

fn queued_send(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let filled = fill(cx, &near);
    let first = near.send_all(Span::from(vec![1u8; 3])).submit().expect("room");
    let second = near.send_all(Span::from(vec![2u8; 5])).timeout(SHORT);
    let failed = timed_out(cx, cx.block_on(second));
    assert_eq!(failed.into_buffer().expect("it comes back").len(), 5);
    drain(cx, &far, filled + 3);
    assert_eq!(cx.block_on(first).expect("sent").bytes, 3);
    Ok(())
}

fn accept(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    timed_out(cx, cx.block_on(listener.accept().timeout(SHORT)));
    let to = listener.local_addr().expect("an address");
    let _client = cx.block_on(cx.io.connect(to)).expect("connecting");
    cx.block_on(listener.accept()).expect("the listener still accepts");
    Ok(())
}

fn ready(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    timed_out(cx, cx.block_on(near.ready(Interest::READABLE).timeout(SHORT)));
    let seen = cx.block_on(near.ready(Interest::WRITABLE).timeout(Duration::from_secs(5)));
    assert!(seen.expect("it is writable").contains(Interest::WRITABLE));
    Ok(())
}

fn stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(4, 32).expect("a pool");
    cx.block_on(far.send_all(Span::from(b"before".to_vec()))).expect("sent");
    let mut stream = near.receive_all(&pool).timeout(4 * SHORT).submit().expect("room");
    let mut bytes = Vec::new();
    let ended = cx.block_on(async {
        loop {
            match stream.next().await.expect("its end is told before none") {
                Ok(filled) => bytes.extend_from_slice(&filled),
                Err(error) => break error,
            }
        }
    });
    cx.note(format!("{:?}", ended.kind()));
    assert_eq!(ended.kind(), ErrorKind::TimedOut);
    assert!(cx.block_on(stream.next()).is_none(), "nothing after the end");
    while bytes.len() < 6 {
        // On a machine so slow that the deadline came first.
        let rest = cx.block_on(near.recv_pool(&pool)).expect("received");
        bytes.extend_from_slice(&rest.expect("not the end"));
    }
    assert_eq!(bytes, b"before");
    Ok(())
}

fn past_deadline(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    let past = Instant::now();
    let ended = cx.block_on(near.recv(slab.lease().expect("free")).deadline(past));
    drop(timed_out(cx, ended));
    cx.block_on(far.send_all(Span::from(vec![5u8]))).expect("sent");
    let got = cx.block_on(near.recv(slab.lease().expect("free"))).expect("received");
    assert_eq!(got[..], [5]);
    Ok(())
}

fn race(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    let mut next = 0u8;
    for round in 0..40u8 {
        let micros = Duration::from_micros(u64::from(round) * 7);
        let receiving = near.recv(slab.lease().expect("free")).timeout(micros);
        let receiving = receiving.submit().expect("room");
        cx.block_on(far.send_all(Span::from(vec![round]))).expect("sent");
        match cx.block_on(receiving) {
            Ok(filled) => {
                // Those whose receive timed out wait in the socket.
                for &byte in filled.iter() {
                    assert_eq!(byte, next, "lost or doubled");
                    next += 1;
                }
            }
            Err(failed) => assert_eq!(failed.kind(), ErrorKind::TimedOut),
        }
    }
    while next < 40 {
        let filled = cx.block_on(near.recv(slab.lease().expect("free"))).expect("they wait");
        for &byte in filled.iter() {
            assert_eq!(byte, next, "lost or doubled");
            next += 1;
        }
    }
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn one_alone(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 8);
    let patient = near.recv(slab.lease().expect("free")).submit().expect("room");
    let hasty = far.recv(slab.lease().expect("free")).timeout(SHORT);
    drop(timed_out(cx, cx.block_on(hasty)));
    cx.block_on(far.send_all(Span::from(vec![1u8; 4]))).expect("sent");
    assert_eq!(cx.block_on(patient).expect("nobody hurried it").len(), 4);
    Ok(())
}

fn default_of_the_options(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone().timeout(SHORT)).expect("a second one");
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let socket = io.adopt_socket(one).expect("room");
    let slab = cx.slab(1, 8);
    let receiving = socket.recv(slab.lease().expect("free"));
    let ended = io.block_on(receiving.into_future()).expect("polling");
    drop(timed_out(cx, ended));
    // What an operation asks for itself goes before the default.
    let begun = Instant::now();
    let receiving = socket.recv(slab.lease().expect("free")).timeout(4 * SHORT);
    let ended = io.block_on(receiving.into_future()).expect("polling");
    drop(timed_out(cx, ended));
    assert!(begun.elapsed() >= 4 * SHORT, "the default ended it");
    let at = Instant::now() + 2 * SHORT;
    let ended = io.block_on(io.sleep_until(at).into_future()).expect("polling");
    ended.expect("a timer is its own deadline");
    assert!(Instant::now() >= at);
    Ok(())
}

/// A step's time begins with its turn.
fn default_for_steps(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone().timeout(SHORT)).expect("a second one");
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let socket = io.adopt_socket(one).expect("room");
    let slab = cx.slab(1, 8);
    let later = Instant::now() + 2 * SHORT;
    let steps = io.sequence().then(io.sleep_until(later));
    let steps = steps.then(socket.recv(slab.lease().expect("free"))).submit().expect("room");
    let failed = io.block_on(steps).expect("polling").expect_err("nothing arrives");
    assert_eq!((failed.step, failed.kind()), (Some(1), ErrorKind::TimedOut));
    assert!(Instant::now() >= later + SHORT, "its turn had come");
    Ok(())
}

fn connect(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, _first) = crowded();
    let to = listener.local_addr().expect("an address");
    let io = Proactor::with(cx.options.clone().timeout(SHORT)).expect("a second one");
    let ended = io.block_on(io.connect(to)).expect("polling");
    let error = ended.err().expect("nobody answers");
    cx.note(format!("{:?}", error.kind()));
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    while io.stats().descriptors > 0 {
        io.poll(SHORT).expect("a poll");
    }
    Ok(())
}

fn longest(cx: &Cx<'_>) -> Result<(), Skip> {
    // Beyond what the clock counts: never, and no overflow.
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    let receiving = near.recv(slab.lease().expect("free")).timeout(Duration::MAX);
    let mut receiving = receiving.submit().expect("room");
    cx.io.poll(Wait::Now).expect("a poll");
    assert!(receiving.try_take().is_none(), "it has all the time there is");
    cx.block_on(far.send_all(Span::from(vec![1u8]))).expect("sent");
    assert_eq!(cx.block_on(receiving).expect("received").len(), 1);
    Ok(())
}

/// The bound is reached by operations that wait for something behind them: what stands in the
/// inbox waits there, and the deadline of those in flight makes room.
fn at_the_bound(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let far = far.into_remote(&cx.io.handle()).map_err(|(error, _)| error).expect("nothing runs");
    let slab = cx.slab(OPERATIONS as usize, 16);
    let lease = || slab.lease().expect("a slot");
    let receiving: Vec<_> = (1..OPERATIONS)
        .map(|_| near.recv(lease()).timeout(Duration::from_secs(60)).submit().expect("room"))
        .collect();
    let first = near.recv(lease()).timeout(Duration::from_millis(8));
    let first = first.submit().expect("the last room there is");
    let refused = cx.io.nop().submit().map(drop).expect_err("the bound");
    assert_eq!(refused.kind(), ErrorKind::Exhausted);
    // It would end all of them, and finds no room.
    let bytes = vec![7; OPERATIONS as usize * 16];
    let sending = std::thread::spawn(move || parked(far.send_all(bytes).into_future()));
    let timed_out = cx.block_on(first).map(drop).expect_err("nothing can come to it");
    assert_eq!(timed_out.kind(), ErrorKind::TimedOut);
    for receiving in receiving {
        assert_eq!(cx.block_on(receiving).expect("the send had room at last").len(), 16);
    }
    sending.join().expect("no panic").expect("sent");
    Ok(())
}
