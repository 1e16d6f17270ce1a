//! File to socket without passing through user memory.

use super::net::{MUCH, exchange, idle_turns, narrow, read, read_to_end, settled, span, why};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, File, Mechanism, OpenOptions};
use futures_util::join;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "transfer/whole_file", needs: &[], run: whole_file },
    Case { name: "transfer/parts", needs: &[], run: parts },
    Case { name: "transfer/past_the_end", needs: &[], run: past_the_end },
    Case { name: "transfer/nothing", needs: &[], run: nothing },
    Case { name: "transfer/large_to_a_slow_reader", needs: &[], run: slow_reader },
    Case { name: "transfer/between_sends", needs: &[], run: between_sends },
    Case { name: "transfer/several_in_order", needs: &[], run: several_in_order },
    Case { name: "transfer/over_unix", needs: &[], run: over_unix },
    Case { name: "transfer/cancelled", needs: &[], run: cancelled },
    Case { name: "transfer/dropped", needs: &[], run: dropped },
    Case { name: "transfer/socket_closed", needs: &[], run: socket_closed },
    Case { name: "transfer/file_closed_meanwhile", needs: &[], run: file_closed_meanwhile },
    Case { name: "transfer/peer_gone", needs: &[], run: peer_gone },
    Case { name: "transfer/descriptors_come_back", needs: &[], run: descriptors_come_back },
];

/// A file with these bytes, open for reading.
fn file(cx: &Cx<'_>, bytes: &[u8]) -> File {
    let path = cx.scratch_dir().join("source");
    std::fs::write(&path, bytes).expect("a file");
    let opening = cx.io.open(path, OpenOptions::read()).expect("a path");
    cx.block_on(opening).expect("it is there")
}

fn whole_file(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(200_001, 1);
    let (source, (client, server)) = (file(cx, &bytes), cx.tcp_pair());
    let slab = cx.slab(1, 1 << 16);
    let moving = client.transfer(&source, 0, bytes.len() as u64).expect("a pipe").into_future();
    let (moved, got) = cx.block_on(async { join!(moving, read(&server, &slab, bytes.len())) });
    let moved = moved.expect("transferring");
    assert_eq!((moved.bytes, moved.path.mechanism), (bytes.len(), Mechanism::Splice));
    assert!(got == bytes);
    exchange(cx, &client, &server, b"nothing was left over");
    drop((client, server, source));
    settled(cx, 0);
    Ok(())
}

fn parts(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(50_000, 2);
    let (source, (client, server)) = (file(cx, &bytes), cx.tcp_pair());
    let slab = cx.slab(1, 1 << 16);
    for (offset, len) in [(0, 1), (1, 4095), (4096, 4096), (12_345, 20_000), (49_999, 1)] {
        let moving = client.transfer(&source, offset as u64, len as u64).expect("a pipe");
        let both = async { join!(moving.into_future(), read(&server, &slab, len)) };
        let (moved, got) = cx.block_on(both);
        assert_eq!(moved.expect("transferring").bytes, len);
        assert!(got == bytes[offset..][..len], "{len} bytes at {offset}");
    }
    Ok(())
}

fn past_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(1000, 3);
    let (source, (client, server)) = (file(cx, &bytes), cx.tcp_pair());
    let slab = cx.slab(1, 4096);
    for offset in [1000, 5000] {
        let moving = client.transfer(&source, offset, 100).expect("a pipe");
        assert_eq!(cx.block_on(moving).expect("an end is no error").bytes, 0);
    }
    let moving = client.transfer(&source, 900, 5000).expect("a pipe").into_future();
    let (moved, got) = cx.block_on(async { join!(moving, read(&server, &slab, 100)) });
    assert_eq!(moved.expect("as much as there was").bytes, 100);
    assert!(got == bytes[900..]);
    Ok(())
}

fn nothing(cx: &Cx<'_>) -> Result<(), Skip> {
    let (source, (client, server)) = (file(cx, b"something"), cx.tcp_pair());
    let moving = client.transfer(&source, 0, 0).expect("a pipe");
    match cx.block_on(moving) {
        Ok(moved) => assert_eq!(moved.bytes, 0),
        Err(failed) => assert_eq!(failed.kind(), ErrorKind::InvalidArgument),
    }
    exchange(cx, &client, &server, b"healthy");
    Ok(())
}

fn slow_reader(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(4 * MUCH, 4);
    let (source, (client, server)) = (file(cx, &bytes), cx.unix_pair());
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    let moving = client.transfer(&source, 0, bytes.len() as u64).expect("a pipe");
    let mut moving = moving.submit().expect("room");
    idle_turns(cx);
    cx.block_on(cx.io.nop()).expect("the loop turns while a transfer waits");
    assert!(moving.try_take().is_none(), "nobody reads yet");
    let (moved, got) = cx.block_on(async { join!(moving, read(&server, &slab, bytes.len())) });
    assert_eq!(moved.expect("transferring").bytes, bytes.len());
    assert!(got == bytes);
    Ok(())
}

fn between_sends(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(150_000, 5);
    let (source, (client, server)) = (file(cx, &bytes), cx.tcp_pair());
    let slab = cx.slab(1, 1 << 16);
    let header = client.send_all(span(b"header:")).submit().expect("room");
    let moving = client.transfer(&source, 0, bytes.len() as u64).expect("a pipe");
    let moving = moving.submit().expect("room");
    let trailer = client.send_all(span(b":trailer")).submit().expect("room");
    let finish = client.finish().submit().expect("room");
    let all = async { join!(header, moving, trailer, finish, read_to_end(&server, &slab)) };
    let (header, moved, trailer, finished, got) = cx.block_on(all);
    assert!(header.is_ok() && trailer.is_ok() && finished.is_ok());
    assert_eq!(moved.expect("transferring").bytes, bytes.len());
    assert!(got == [b"header:", &bytes[..], b":trailer"].concat(), "order of submission");
    Ok(())
}

fn several_in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(80_000, 6);
    let (source, (client, server)) = (file(cx, &bytes), cx.tcp_pair());
    let slab = cx.slab(1, 1 << 16);
    let moves: Vec<_> = (0..8u64)
        .map(|i| client.transfer(&source, i * 10_000, 10_000).expect("a pipe"))
        .map(|moving| moving.submit().expect("room"))
        .collect();
    let all = futures_util::future::join_all(moves);
    let (moved, got) = cx.block_on(async { join!(all, read(&server, &slab, bytes.len())) });
    assert!(moved.into_iter().all(|moved| moved.is_ok_and(|moved| moved.bytes == 10_000)));
    assert!(got == bytes, "bytes out of order");
    Ok(())
}

fn over_unix(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(100_000, 7);
    let (source, (one, two)) = (file(cx, &bytes), cx.unix_pair());
    let slab = cx.slab(1, 1 << 16);
    let moving = one.transfer(&source, 0, bytes.len() as u64).expect("a pipe").into_future();
    let (moved, got) = cx.block_on(async { join!(moving, read(&two, &slab, bytes.len())) });
    assert_eq!(moved.expect("transferring").bytes, bytes.len());
    assert!(got == bytes);
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(4 * MUCH, 8);
    let (source, (client, server)) = (file(cx, &bytes), cx.tcp_pair());
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    let moving = client.transfer(&source, 0, bytes.len() as u64).expect("a pipe");
    let mut moving = moving.submit().expect("room");
    idle_turns(cx);
    assert!(moving.try_take().is_none(), "nobody reads yet");
    moving.cancel().expect("it waits");
    let failed = cx.block_on(moving).expect_err("not all of it fits");
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    let moved = failed.operation().expect("it comes back").moved_bytes() as usize;
    let (finished, got) =
        cx.block_on(async { join!(client.finish().into_future(), read_to_end(&server, &slab)) });
    finished.expect("finishing");
    assert!(got == bytes[..moved], "it says {moved} bytes, the peer got {}", got.len());
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(4 * MUCH, 9);
    let (source, (client, server)) = (file(cx, &bytes), cx.tcp_pair());
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    let moving = client.transfer(&source, 0, bytes.len() as u64).expect("a pipe");
    let moving = moving.submit().expect("room");
    idle_turns(cx);
    drop(moving);
    drop((client, source));
    let got = cx.block_on(read_to_end(&server, &slab));
    assert!(got == bytes[..got.len()], "what got out is a beginning");
    settled(cx, 1);
    Ok(())
}

fn socket_closed(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(4 * MUCH, 10);
    let (source, (client, server)) = (file(cx, &bytes), cx.tcp_pair());
    narrow(&client, &server);
    let moving = client.transfer(&source, 0, bytes.len() as u64).expect("a pipe");
    let moving = moving.submit().expect("room");
    idle_turns(cx);
    drop(client);
    assert_eq!(why(cx.block_on(moving)), Some(ErrorKind::Closed));
    drop(source);
    settled(cx, 1);
    Ok(())
}

fn file_closed_meanwhile(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(4 * MUCH, 11);
    let (source, (client, server)) = (file(cx, &bytes), cx.unix_pair());
    narrow(&client, &server);
    let slab = cx.slab(1, 1 << 16);
    let moving = client.transfer(&source, 0, bytes.len() as u64).expect("a pipe");
    let moving = moving.submit().expect("room");
    idle_turns(cx);
    // Closing the file ends the transfer, and whoever gets its number is not read from.
    drop(source);
    let others: Vec<_> =
        (0..4).map(|_| std::fs::File::open("/dev/zero").expect("a device")).collect();
    let failed = cx.block_on(moving).expect_err("its file was closed");
    assert_eq!(failed.kind(), ErrorKind::Closed);
    let moved = failed.operation().expect("it comes back").moved_bytes() as usize;
    let (finished, got) =
        cx.block_on(async { join!(client.finish().into_future(), read_to_end(&server, &slab)) });
    finished.expect("finishing");
    assert!(got == bytes[..moved], "it says {moved} bytes, the peer got {}", got.len());
    drop(others);
    settled(cx, 2);
    Ok(())
}

fn peer_gone(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(MUCH, 12);
    let (source, (one, two)) = (file(cx, &bytes), cx.unix_pair());
    drop(two);
    cx.poll_until("the peer to be gone", || cx.io.stats().descriptors == 2);
    let moving = one.transfer(&source, 0, bytes.len() as u64).expect("a pipe");
    let failed = cx.block_on(moving).expect_err("nobody is there");
    assert_eq!(failed.kind(), ErrorKind::Disconnected);
    assert_eq!(failed.operation().map(|moving| moving.moved_bytes()), Some(0));
    Ok(())
}

fn descriptors_come_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let open = || std::fs::read_dir("/proc/self/fd").expect("a folder").count();
    let (source, (client, server)) = (file(cx, b"some bytes"), cx.tcp_pair());
    let slab = cx.slab(1, 64);
    settled(cx, 3);
    let before = open();
    for _ in 0..5 {
        let moving = client.transfer(&source, 0, 10).expect("a pipe").into_future();
        let (moved, got) = cx.block_on(async { join!(moving, read(&server, &slab, 10)) });
        assert_eq!((moved.expect("transferring").bytes, &got[..]), (10, &b"some bytes"[..]));
        drop(client.transfer(&source, 0, 10).expect("a pipe"));
    }
    settled(cx, 3);
    assert_eq!(open(), before, "pipes are closed");
    Ok(())
}
