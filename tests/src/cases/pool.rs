//! Receive pools: the same bytes whoever picks the buffers, and what happens when they run out.
//!
//! A dropped stream's receive goes on until its cancel arrives, and what it takes by then is gone:
//! so these cases wait for its end before they use the socket again.

use super::net::{exchange, idle_turns, reset, settled, span, why, write};
use crate::{Case, Cx, Skip};
use dataplane::operations::RecvMany;
use dataplane::regions::Slab;
use dataplane::{ErrorKind, Filled, LocalStream, Proactor, ReceivePool, Socket};
use futures_util::future::join_all;
use futures_util::{StreamExt, join};
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "pool/stream_of_bytes", needs: &[], run: stream_of_bytes },
    Case { name: "pool/slots_not_a_power_of_two", needs: &[], run: slots_not_a_power_of_two },
    Case { name: "pool/once", needs: &[], run: once },
    Case { name: "pool/once_in_order", needs: &[], run: once_in_order },
    Case { name: "pool/once_when_dry", needs: &[], run: once_when_dry },
    Case { name: "pool/once_cancelled", needs: &[], run: once_cancelled },
    Case { name: "pool/dry_pauses_and_goes_on", needs: &[], run: dry_pauses_and_goes_on },
    Case { name: "pool/dry_again_and_again", needs: &[], run: dry_again_and_again },
    Case { name: "pool/leases_held_across", needs: &[], run: leases_held_across },
    Case { name: "pool/lease_dropped_elsewhere", needs: &[], run: lease_dropped_elsewhere },
    Case { name: "pool/slots_leased_elsewhere", needs: &[], run: slots_leased_elsewhere },
    Case { name: "pool/dropped_gives_its_slots_back", needs: &[], run: dropped_gives_slots_back },
    Case { name: "pool/dropped_while_armed", needs: &[], run: dropped_while_armed },
    Case { name: "pool/dropped_before_submit", needs: &[], run: dropped_before_submit },
    Case { name: "pool/two_pools", needs: &[], run: two_pools },
    Case { name: "pool/two_sockets", needs: &[], run: two_sockets },
    Case { name: "pool/end_of_stream", needs: &[], run: end_of_stream },
    Case { name: "pool/reset_ends_it", needs: &[], run: reset_ends_it },
    Case { name: "pool/stream_dropped", needs: &[], run: stream_dropped },
    Case { name: "pool/stream_cancelled", needs: &[], run: stream_cancelled },
    Case { name: "pool/stream_cancelled_when_dry", needs: &[], run: stream_cancelled_when_dry },
    Case { name: "pool/stream_times_out", needs: &[], run: stream_times_out },
    Case { name: "pool/socket_closed", needs: &[], run: socket_closed },
    Case { name: "pool/nobody_takes", needs: &[], run: nobody_takes },
    Case { name: "pool/nobody_takes_and_dry", needs: &[], run: nobody_takes_and_dry },
];

/// The next `len` bytes; each lease is given back at once.
async fn take(stream: &mut LocalStream<RecvMany>, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let filled = stream.next().await.expect("no end yet").expect("receiving");
        assert!(!filled.is_empty());
        bytes.extend_from_slice(&filled);
    }
    bytes
}

/// Why a stream ended: what comes next is an error, and after it nothing.
fn ending(cx: &Cx<'_>, stream: &mut LocalStream<RecvMany>) -> Option<ErrorKind> {
    let last = cx.block_on(stream.next()).map(|end| end.map_err(|error| error.kind()));
    assert!(cx.block_on(stream.next()).is_none(), "nothing comes after the end");
    last.and_then(Result::err)
}

/// Drops the pool and waits until all of its slab's slots are free.
fn all_back(cx: &Cx<'_>, pool: ReceivePool) {
    let slab = pool.slab().clone();
    drop(pool);
    cx.poll_until("every slot to be free", || slab.available() == slab.slots());
}

fn stream_of_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(8, 4096).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    let bytes = Cx::pattern(300_000, 1);
    let both = async { join!(write(&client, &bytes), take(&mut stream, bytes.len())) };
    let ((), got) = cx.block_on(both);
    assert!(got == bytes);
    drop(client);
    assert!(cx.block_on(stream.next()).is_none(), "the end of the stream is the stream's end");
    drop(stream);
    all_back(cx, pool);
    Ok(())
}

fn slots_not_a_power_of_two(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.unix_pair();
    for slots in [1, 3, 7] {
        let pool = cx.io.receive_pool(slots, 1000).expect("a pool");
        let mut stream = server.receive_all(&pool).submit().expect("room");
        let bytes = Cx::pattern(30_000, slots as u64);
        let both = async { join!(write(&client, &bytes), take(&mut stream, bytes.len())) };
        let ((), got) = cx.block_on(both);
        assert!(got == bytes);
        drop(stream);
        settled(cx, 2);
        all_back(cx, pool);
    }
    Ok(())
}

fn once(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 16).expect("a pool");
    cx.block_on(async {
        write(&client, b"hello").await;
        let filled = server.recv_pool(&pool).await.expect("receiving").expect("no end");
        assert_eq!(&filled[..], b"hello");
        drop(filled);
        let waiting = server.recv_pool(&pool).submit().expect("room");
        write(&client, b"more than sixteen").await;
        let filled = waiting.await.expect("receiving").expect("no end");
        assert_eq!(&filled[..], b"more than sixtee");
        drop(filled);
        let filled = server.recv_pool(&pool).await.expect("receiving").expect("no end");
        assert_eq!(&filled[..], b"n");
        drop(client);
        assert!(server.recv_pool(&pool).await.expect("an end is no error").is_none());
    });
    all_back(cx, pool);
    Ok(())
}

fn once_in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(16, 100).expect("a pool");
    let receives: Vec<_> =
        (0..16).map(|_| server.recv_pool(&pool).submit().expect("room")).collect();
    let bytes = Cx::pattern(1600, 2);
    let ((), received) = cx.block_on(async { join!(write(&client, &bytes), join_all(receives)) });
    let mut got = Vec::new();
    for filled in received {
        got.extend_from_slice(&filled.expect("receiving").expect("no end"));
    }
    assert!(got == bytes[..got.len()] && !got.is_empty(), "bytes out of order");
    Ok(())
}

fn once_when_dry(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(1, 4).expect("a pool");
    cx.block_on(write(&client, b"abcdefgh"));
    let first = cx.block_on(server.recv_pool(&pool)).expect("receiving").expect("no end");
    let mut second = server.recv_pool(&pool).submit().expect("room");
    idle_turns(cx);
    assert!(second.try_take().is_none(), "it waits for a buffer");
    assert!(cx.io.stats().pool_dry > 0);
    assert_eq!(&first[..], b"abcd");
    drop(first);
    let second = cx.block_on(second).expect("receiving").expect("no end");
    assert_eq!(&second[..], b"efgh");
    Ok(())
}

fn once_cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("a pool");
    for _ in 0..3 {
        let receiving = server.recv_pool(&pool).submit().expect("room");
        idle_turns(cx);
        receiving.cancel().expect("it waits");
        assert_eq!(why(cx.block_on(receiving)), Some(ErrorKind::Cancelled));
        cx.block_on(write(&client, b"healthy"));
        let filled = cx.block_on(server.recv_pool(&pool)).expect("receiving").expect("no end");
        assert_eq!(&filled[..], b"healthy");
    }
    all_back(cx, pool);
    Ok(())
}

/// Takes what there is until nothing more comes.
fn drain(cx: &Cx<'_>, stream: &mut LocalStream<RecvMany>) -> Vec<Filled> {
    let mut held = Vec::new();
    for _ in 0..super::net::QUIET_TURNS {
        idle_turns(cx);
        while let Some(filled) = stream.try_next() {
            held.push(filled.expect("receiving"));
        }
    }
    held
}

fn dry_pauses_and_goes_on(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(4, 1024).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    let bytes = Cx::pattern(16 * 1024, 3);
    cx.block_on(write(&client, &bytes));
    let held = drain(cx, &mut stream);
    let mut got: Vec<u8> = held.iter().flat_map(|filled| filled.iter().copied()).collect();
    assert!(held.len() <= 4 && got.len() < bytes.len(), "there are four buffers");
    assert!(cx.io.stats().pool_dry > 0);
    drop(held);
    let rest = bytes.len() - got.len();
    got.extend(cx.block_on(take(&mut stream, rest)));
    assert!(got == bytes, "nothing is lost to a dry pool");
    drop(stream);
    settled(cx, 2);
    exchange(cx, &client, &server, b"the socket lives");
    all_back(cx, pool);
    Ok(())
}

fn dry_again_and_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.unix_pair();
    let pool = cx.io.receive_pool(2, 100).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    let bytes = Cx::pattern(20_000, 4);
    cx.block_on(write(&client, &bytes));
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let first = cx.block_on(stream.next()).expect("no end").expect("receiving");
        idle_turns(cx);
        got.extend_from_slice(&first);
        // Held until the pool is dry again.
        while let Some(filled) = stream.try_next() {
            got.extend_from_slice(&filled.expect("receiving"));
        }
    }
    assert!(got == bytes);
    drop(stream);
    all_back(cx, pool);
    Ok(())
}

fn leases_held_across(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(8, 64).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    let mut held = Vec::new();
    for i in 0..4u8 {
        cx.block_on(write(&client, &[i; 64]));
        while held.iter().map(|filled: &Filled| filled.len()).sum::<usize>() < 64 * (i as usize + 1)
        {
            held.push(cx.block_on(stream.next()).expect("no end").expect("receiving"));
        }
    }
    // Others come and go; these stay as they are.
    let bytes = Cx::pattern(10_000, 5);
    let both = async { join!(write(&client, &bytes), take(&mut stream, bytes.len())) };
    let ((), got) = cx.block_on(both);
    assert!(got == bytes);
    let kept: Vec<u8> = held.iter().flat_map(|filled| filled.iter().copied()).collect();
    let expected: Vec<u8> = (0..4u8).flat_map(|i| [i; 64]).collect();
    assert!(kept == expected, "a lease in hand was written to");
    drop((held, stream));
    all_back(cx, pool);
    Ok(())
}

fn lease_dropped_elsewhere(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(1, 8).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    for i in 0..5u8 {
        cx.block_on(write(&client, &[i; 8]));
        let mut got = 0;
        while got < 8 {
            let filled = cx.block_on(stream.next()).expect("no end").expect("receiving");
            assert!(filled.iter().all(|byte| *byte == i));
            got += filled.len();
            // The only buffer comes back from another thread, without a word to the loop.
            std::thread::spawn(move || drop(filled)).join().expect("dropping does not panic");
        }
    }
    Ok(())
}

fn slots_leased_elsewhere(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(3, 16);
    let mine: Vec<_> = (0..2).map(|_| slab.lease().expect("a slot")).collect();
    let pool = cx.io.receive_pool_over(&slab).expect("a pool");
    cx.block_on(write(&client, &[7; 40]));
    let mut stream = server.receive_all(&pool).submit().expect("room");
    let held = drain(cx, &mut stream);
    assert_eq!(held.len(), 1, "one slot was left for the pool");
    drop((mine, held));
    assert_eq!(cx.block_on(take(&mut stream, 24)), [7; 24]);
    Ok(())
}

fn dropped_gives_slots_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab: Slab = cx.slab(4, 64);
    for _ in 0..3 {
        let pool = cx.io.receive_pool_over(&slab).expect("a pool");
        all_back(cx, pool);
    }
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool_over(&slab).expect("a pool");
    cx.block_on(write(&client, b"kept"));
    let filled = cx.block_on(server.recv_pool(&pool)).expect("receiving").expect("no end");
    drop(pool);
    cx.poll_until("the other slots to be free", || slab.available() == 3);
    assert_eq!(&filled[..], b"kept", "a lease outlives its pool");
    drop(filled);
    assert_eq!(slab.available(), 4);
    Ok(())
}

fn dropped_while_armed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(4, 512);
    let pool = cx.io.receive_pool_over(&slab).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    idle_turns(cx);
    drop(pool);
    idle_turns(cx);
    // Many times what its buffers hold.
    let bytes = Cx::pattern(50_000, 6);
    let both = async { join!(write(&client, &bytes), take(&mut stream, bytes.len())) };
    let ((), got) = cx.block_on(both);
    assert!(got == bytes);
    drop(stream);
    cx.poll_until("every slot to be free", || slab.available() == 4);
    Ok(())
}

fn dropped_before_submit(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("a pool");
    let request = server.recv_pool(&pool);
    all_back(cx, pool);
    idle_turns(cx);
    assert_eq!(why(cx.block_on(request)), Some(ErrorKind::Closed));
    Ok(())
}

fn two_pools(cx: &Cx<'_>) -> Result<(), Skip> {
    let ((a, b), (c, d)) = (cx.tcp_pair(), cx.tcp_pair());
    let small = cx.io.receive_pool(4, 16).expect("a pool");
    let large = cx.io.receive_pool(4, 4096).expect("a pool");
    let mut into_small = b.receive_all(&small).submit().expect("room");
    let mut into_large = d.receive_all(&large).submit().expect("room");
    let (one, two) = (Cx::pattern(2000, 7), Cx::pattern(50_000, 8));
    let (got_one, got_two) = cx.block_on(async {
        let ((), (), one, two) = join!(
            write(&a, &one),
            write(&c, &two),
            take(&mut into_small, one.len()),
            take(&mut into_large, two.len())
        );
        (one, two)
    });
    assert!(got_one == one && got_two == two);
    drop((into_small, into_large));
    all_back(cx, small);
    all_back(cx, large);
    Ok(())
}

fn two_sockets(cx: &Cx<'_>) -> Result<(), Skip> {
    let pairs: Vec<(Socket, Socket)> = (0..3).map(|_| cx.tcp_pair()).collect();
    let pool = cx.io.receive_pool(4, 256).expect("a pool");
    let each = pairs.iter().enumerate().map(|(i, (client, server))| {
        let bytes = Cx::pattern(10_000, i as u64);
        let mut stream = server.receive_all(&pool).submit().expect("room");
        async move {
            let ((), got) = join!(write(client, &bytes), take(&mut stream, bytes.len()));
            got == bytes
        }
    });
    assert_eq!(cx.block_on(join_all(each)), [true; 3]);
    all_back(cx, pool);
    Ok(())
}

fn end_of_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("a pool");
    for _ in 0..2 {
        // The second one begins after the end.
        let mut stream = server.receive_all(&pool).submit().expect("room");
        idle_turns(cx);
        cx.block_on(client.finish()).expect("finishing");
        assert_eq!(ending(cx, &mut stream), None);
    }
    // One direction is over, not the other.
    exchange(cx, &server, &client, b"answer");
    settled(cx, 2);
    all_back(cx, pool);
    Ok(())
}

fn reset_ends_it(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    cx.block_on(write(&client, b"before"));
    assert_eq!(cx.block_on(take(&mut stream, 6)), b"before");
    reset(client);
    assert_eq!(ending(cx, &mut stream), Some(ErrorKind::Disconnected));
    assert_eq!(why(cx.block_on(server.recv_pool(&pool))), Some(ErrorKind::Disconnected));
    all_back(cx, pool);
    Ok(())
}

fn stream_dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(4, 64).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    cx.block_on(write(&client, b"taken"));
    assert_eq!(cx.block_on(take(&mut stream, 5)), b"taken");
    cx.block_on(write(&client, b"not taken"));
    idle_turns(cx);
    drop(stream);
    settled(cx, 2);
    exchange(cx, &client, &server, b"after");
    all_back(cx, pool);
    Ok(())
}

fn stream_cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(4, 64).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    cx.block_on(write(&client, b"arrived"));
    idle_turns(cx);
    idle_turns(cx);
    stream.cancel().expect("the proactor is here");
    assert_eq!(cx.block_on(take(&mut stream, 7)), b"arrived", "what had arrived is delivered");
    assert_eq!(ending(cx, &mut stream), Some(ErrorKind::Cancelled));
    exchange(cx, &client, &server, b"healthy");
    all_back(cx, pool);
    Ok(())
}

fn stream_cancelled_when_dry(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(1, 4).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    cx.block_on(write(&client, b"abcdefgh"));
    let held = drain(cx, &mut stream);
    assert_eq!(held.len(), 1);
    stream.cancel().expect("the proactor is here");
    assert_eq!(ending(cx, &mut stream), Some(ErrorKind::Cancelled));
    drop(held);
    let filled = cx.block_on(server.recv_pool(&pool)).expect("receiving").expect("no end");
    assert_eq!(&filled[..], b"efgh", "what waited for a buffer is still there");
    Ok(())
}

fn stream_times_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("a pool");
    let request = server.receive_all(&pool).timeout(Duration::from_millis(5));
    let mut stream = request.submit().expect("room");
    assert_eq!(ending(cx, &mut stream), Some(ErrorKind::TimedOut));
    exchange(cx, &client, &server, b"healthy");
    all_back(cx, pool);
    Ok(())
}

fn socket_closed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_client, server) = cx.tcp_pair();
    let pool = cx.io.receive_pool(2, 64).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    idle_turns(cx);
    drop(server);
    assert_eq!(ending(cx, &mut stream), Some(ErrorKind::Closed));
    settled(cx, 1);
    all_back(cx, pool);
    Ok(())
}

/// A proactor like the case's that pauses a multishot operation after four results.
fn impatient(cx: &Cx<'_>) -> Proactor {
    Proactor::with(cx.options.clone().undelivered(4)).expect("a second proactor")
}

fn nobody_takes(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = impatient(cx);
    let cx = &Cx::new(&io, cx.options);
    let (client, server) = cx.unix_pair();
    let pool = io.receive_pool(64, 100).expect("a pool");
    let mut stream = server.receive_all(&pool).submit().expect("room");
    let bytes = Cx::pattern(3000, 9);
    for round in 1..=3 {
        cx.block_on(write(&client, &bytes));
        cx.poll_until("a pause", || io.stats().paused >= round);
        idle_turns(cx);
        assert!(cx.block_on(take(&mut stream, bytes.len())) == bytes);
    }
    drop(stream);
    settled(cx, 2);
    exchange(cx, &client, &server, b"healthy");
    all_back(cx, pool);
    Ok(())
}

fn nobody_takes_and_dry(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = impatient(cx);
    let cx = &Cx::new(&io, cx.options);
    let (client, server) = cx.unix_pair();
    // The pause and the dry pool come together.
    for slots in [3, 4, 5] {
        let pool = io.receive_pool(slots, 100).expect("a pool");
        let mut stream = server.receive_all(&pool).submit().expect("room");
        let bytes = Cx::pattern(5000, slots as u64);
        let sending = client.send_all(span(&bytes)).submit().expect("room");
        idle_turns(cx);
        let (sent, got) = cx.block_on(async { join!(sending, take(&mut stream, bytes.len())) });
        assert_eq!(sent.expect("sending").bytes, bytes.len());
        assert!(got == bytes);
        drop(stream);
        settled(cx, 2);
        all_back(cx, pool);
    }
    Ok(())
}
