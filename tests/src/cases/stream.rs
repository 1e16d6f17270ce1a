//! A file as a stream of chunks: several reads in flight, results in file order, one slot each.

use super::file::{made, opened};
use crate::{Case, Cx, Skip};
use dataplane::{Capability, ErrorKind, Mechanism, OpenOptions};
use futures_util::StreamExt;
use futures_util::future::{FutureExt, join};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "stream/in_order_at_every_depth", needs: &[], run: in_order_at_every_depth },
    Case { name: "stream/fewer_slots_than_depth", needs: &[], run: fewer_slots_than_depth },
    Case { name: "stream/every_length_of_file", needs: &[], run: every_length_of_file },
    Case { name: "stream/from_an_offset", needs: &[], run: from_an_offset },
    Case { name: "stream/waits_for_slots_held", needs: &[], run: waits_for_slots_held },
    Case { name: "stream/two_share_a_slab", needs: &[], run: two_share_a_slab },
    Case { name: "stream/dropped_midway_gives_slots_back", needs: &[], run: dropped_midway },
    Case { name: "stream/a_file_that_shrinks_is_an_error", needs: &[], run: a_file_that_shrinks },
    Case { name: "stream/a_closed_file_is_an_error", needs: &[], run: a_closed_file },
    Case {
        name: "stream/registered_slots_are_used_as_such",
        needs: &[Capability::RegisteredBuffers],
        run: registered_slots,
    },
];

/// Reads everything the stream has.
async fn all(
    mut chunks: impl StreamExt<Item = dataplane::Result<dataplane::Filled>> + Unpin,
) -> Vec<u8> {
    let mut found = Vec::new();
    while let Some(chunk) = chunks.next().await {
        found.extend_from_slice(&chunk.expect("a chunk"));
    }
    found
}

fn in_order_at_every_depth(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(100_000, 1);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slab = cx.slab(32, 4096);
    for depth in [1, 2, 8, 32] {
        let chunks = file.stream(&slab, 0).expect("a size").depth(depth);
        assert_eq!(chunks.left_bytes(), 100_000);
        assert!(cx.block_on(all(chunks)) == bytes, "out of order at depth {depth}");
        assert_eq!(slab.available(), 32);
    }
    Ok(())
}

fn fewer_slots_than_depth(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(50_000, 2);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slab = cx.slab(2, 4096);
    let chunks = file.stream(&slab, 0).expect("a size").depth(16);
    assert!(cx.block_on(all(chunks)) == bytes);
    assert_eq!(slab.available(), 2);
    Ok(())
}

fn every_length_of_file(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(4, 1024);
    for length in [0, 1, 1023, 1024, 1025, 4096, 4097] {
        let bytes = Cx::pattern(length, length as u64);
        let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
        let mut chunks = file.stream(&slab, 0).expect("a size").depth(4);
        let lengths = cx.block_on(async {
            let mut lengths = Vec::new();
            let mut at = 0;
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.expect("a chunk");
                assert_eq!(chunk[..], bytes[at..at + chunk.len()]);
                at += chunk.len();
                lengths.push(chunk.len());
            }
            lengths
        });
        assert_eq!(lengths.iter().sum::<usize>(), length);
        assert_eq!(lengths.len(), length.div_ceil(1024), "one slot for each chunk");
        assert!(cx.block_on(chunks.next()).is_none(), "the end stays the end");
        cx.note(format!("{length}: {lengths:?}"));
    }
    Ok(())
}

fn from_an_offset(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(10_000, 3);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slab = cx.slab(4, 1024);
    let found = cx.block_on(all(file.stream(&slab, 777).expect("a size")));
    assert!(found == bytes[777..]);
    let past = file.stream(&slab, 10_001).expect("a size");
    assert_eq!(past.left_bytes(), 0);
    assert!(cx.block_on(all(past)).is_empty());
    Ok(())
}

/// Whoever holds every slot waits for himself; one slot given back is enough to go on.
fn waits_for_slots_held(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(5 * 1024, 4);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slab = cx.slab(2, 1024);
    let mut chunks = file.stream(&slab, 0).expect("a size").depth(8);
    let first = cx.block_on(chunks.next()).expect("a chunk").expect("read");
    let second = cx.block_on(chunks.next()).expect("a chunk").expect("read");
    assert!(chunks.next().now_or_never().is_none(), "every slot is held here");
    assert_eq!(cx.io.stats().in_flight, 0);
    drop(second);
    let third = cx.block_on(chunks.next()).expect("a chunk").expect("read");
    assert_eq!((&first[..], &third[..]), (&bytes[..1024], &bytes[2048..3072]));
    drop((first, third));
    assert!(cx.block_on(all(chunks)) == bytes[3072..]);
    Ok(())
}

fn two_share_a_slab(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(30_000, 5);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slab = cx.slab(3, 1000);
    let one = file.stream(&slab, 0).expect("a size").depth(8);
    let two = file.stream(&slab, 0).expect("a size").depth(8);
    let (one, two) = cx.block_on(join(all(one), all(two)));
    assert!(one == bytes && two == bytes, "neither starves, neither mixes");
    Ok(())
}

fn dropped_midway(cx: &Cx<'_>) -> Result<(), Skip> {
    let file = opened(cx, &made(cx, &Cx::pattern(64 * 1024, 6)), OpenOptions::read());
    let slab = cx.slab(8, 1024);
    let mut chunks = file.stream(&slab, 0).expect("a size").depth(8);
    let first = cx.block_on(chunks.next()).expect("a chunk").expect("read");
    drop(chunks);
    cx.poll_until("the reads to end", || cx.io.stats().in_flight == 0);
    assert_eq!(slab.available(), 7, "all but the chunk that is held");
    drop(first);
    assert_eq!(slab.available(), 8);
    Ok(())
}

/// What comes after the hole would stand at the wrong place, so it is not given.
fn a_file_that_shrinks(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = made(cx, &Cx::pattern(8 * 1024, 7));
    let file = opened(cx, &path, OpenOptions::read());
    let slab = cx.slab(4, 1024);
    let mut chunks = file.stream(&slab, 0).expect("a size").depth(1);
    assert!(cx.block_on(chunks.next()).is_some_and(|chunk| chunk.is_ok()));
    let writer = std::fs::OpenOptions::new().write(true).open(&path).expect("it is there");
    writer.set_len(1500).expect("cut");
    let error = cx.block_on(async {
        loop {
            match chunks.next().await {
                Some(Ok(chunk)) => assert!(chunk.len() == 1024, "a short chunk must not pass"),
                Some(Err(error)) => return error,
                None => panic!("the stream ended as if the file were whole"),
            }
        }
    });
    assert_eq!(error.kind(), ErrorKind::DataLoss);
    assert!(error.message().contains("8192"), "{error}");
    assert!(cx.block_on(chunks.next()).is_none(), "an error is the end");
    drop(chunks);
    cx.poll_until("the slots", || slab.available() == 4);
    Ok(())
}

fn a_closed_file(cx: &Cx<'_>) -> Result<(), Skip> {
    let file = opened(cx, &made(cx, &Cx::pattern(8192, 8)), OpenOptions::read());
    let slab = cx.slab(2, 1024);
    let mut chunks = file.stream(&slab, 0).expect("a size").depth(1);
    assert!(cx.block_on(chunks.next()).is_some_and(|chunk| chunk.is_ok()));
    cx.block_on(file.close()).expect("closed");
    let error = cx.block_on(chunks.next()).expect("not the end").expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    drop(chunks);
    assert_eq!(slab.available(), 2);
    Ok(())
}

fn registered_slots(cx: &Cx<'_>) -> Result<(), Skip> {
    let bytes = Cx::pattern(20_000, 9);
    let file = opened(cx, &made(cx, &bytes), OpenOptions::read());
    let slab = cx.slab(4, 4096);
    let registration = cx.io.register_slab(&slab).expect("room");
    let mut chunks = file.stream(&slab, 0).expect("a size");
    let mut found = Vec::new();
    while let Some(chunk) = cx.block_on(chunks.next()) {
        let chunk = chunk.expect("read");
        assert_eq!(chunk.path().mechanism, Mechanism::FileFixed);
        found.extend_from_slice(&chunk);
    }
    assert!(found == bytes);
    drop(registration);
    Ok(())
}
