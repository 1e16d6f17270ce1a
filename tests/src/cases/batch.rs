//! Batches: all of it or nothing, and nothing is lost either way.

use crate::{Case, Cx, OPERATIONS, Skip};
use dataplane::operations::Nop;
use dataplane::{ErrorKind, Timer};
use futures_util::future::join_all;
use regions::Span;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "batch/empty", needs: &[], run: empty },
    Case { name: "batch/mixed_types", needs: &[], run: mixed_types },
    Case { name: "batch/in_order_on_a_stream", needs: &[], run: in_order_on_a_stream },
    Case { name: "batch/a_malformed_one_submits_none", needs: &[], run: malformed },
    Case { name: "batch/no_room_hands_all_back", needs: &[], run: no_room },
    Case { name: "batch/exactly_as_many_as_fit", needs: &[], run: as_many_as_fit },
    Case { name: "batch/taken_out_again", needs: &[], run: taken_out_again },
    Case { name: "batch/never_submitted", needs: &[], run: never_submitted },
    Case { name: "batch/what_is_not_taken_is_cancelled", needs: &[], run: not_taken },
];

fn empty(cx: &Cx<'_>) -> Result<(), Skip> {
    let batch = cx.io.batch();
    assert!(batch.is_empty());
    let submitted = batch.submit().expect("nothing to refuse");
    assert_eq!(cx.io.stats().in_flight, 0);
    drop(submitted);
    Ok(())
}

fn mixed_types(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 16);
    let mut batch = cx.io.batch();
    let nop = batch.add(Nop);
    let timer = batch.add(Timer::at(Instant::now() + Duration::from_micros(200)));
    let recv = batch.add(far.recv(slab.lease().expect("free")).into_operation());
    let send = batch.add(near.send_all(Span::from(b"batched".to_vec())).into_operation());
    assert_eq!((batch.len(), cx.io.stats().in_flight), (4, 0));
    let mut submitted = batch.submit().expect("room for four");
    assert_eq!(cx.io.stats().in_flight, 4);
    let nop = submitted.take(nop).expect("not taken yet");
    let timer = submitted.take(timer).expect("not taken yet");
    let recv = submitted.take(recv).expect("not taken yet");
    let send = submitted.take(send).expect("not taken yet");
    cx.block_on(async {
        nop.await.expect("a no-op succeeds");
        timer.await.expect("it fires");
        assert_eq!(send.await.expect("sent").bytes, 7);
        assert_eq!(&recv.await.expect("received")[..], b"batched");
    });
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn in_order_on_a_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let mut batch = cx.io.batch();
    let tickets: Vec<_> = (0..8u8)
        .map(|n| batch.add(near.send_all(Span::from(vec![n; 10])).into_operation()))
        .collect();
    let mut submitted = batch.submit().expect("room for eight");
    let sends: Vec<_> =
        tickets.into_iter().map(|ticket| submitted.take(ticket).expect("once")).collect();
    let slab = cx.slab(1, 80);
    let filled = cx.block_on(far.recv_all(slab.lease().expect("free"))).expect("received");
    let expected: Vec<u8> = (0..8u8).flat_map(|n| [n; 10]).collect();
    assert_eq!(filled[..], expected[..]);
    assert!(cx.block_on(join_all(sends)).into_iter().all(|sent| sent.is_ok()));
    Ok(())
}

fn malformed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let closed = near.clone();
    cx.block_on(near.close()).expect("closed");
    let slab = cx.slab(2, 16);
    let mut batch = cx.io.batch();
    let _nop = batch.add(Nop);
    let good = batch.add(far.recv(slab.lease().expect("free")).into_operation());
    let bad = batch.add(closed.recv(slab.lease().expect("free")).into_operation());
    let refused = *batch.submit().err().expect("the third is malformed");
    cx.note(format!("{:?} at {:?}", refused.error.kind(), refused.index));
    assert_eq!((refused.error.kind(), refused.index), (ErrorKind::Closed, Some(2)));
    assert_eq!((cx.io.stats().in_flight, slab.available()), (0, 0), "nothing was submitted");
    let mut batch = refused.batch;
    drop(batch.take(bad).expect("it is still there"));
    assert_eq!(slab.available(), 1);
    let mut submitted = batch.submit().expect("good without it");
    let receiving = submitted.take(good).expect("its ticket still holds");
    drop(submitted);
    // The other end is closed: the receive ends at once.
    assert_eq!(cx.block_on(receiving).expect("the end of the stream").len(), 0);
    assert_eq!(slab.available(), 2);
    Ok(())
}

fn no_room(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let later = Instant::now() + Duration::from_secs(60);
    let timers: Vec<_> =
        (0..OPERATIONS - 1).map(|_| cx.io.sleep_until(later).submit().expect("room")).collect();
    let slab = cx.slab(1, 16);
    let mut batch = cx.io.batch();
    let _nop = batch.add(Nop);
    let recv = batch.add(near.recv(slab.lease().expect("free")).into_operation());
    let refused = *batch.submit().err().expect("room for one only");
    cx.note(format!("{:?} at {:?}", refused.error.kind(), refused.index));
    assert_eq!((refused.error.kind(), refused.index), (ErrorKind::Exhausted, None));
    assert_eq!((refused.batch.len(), cx.io.stats().in_flight), (2, OPERATIONS - 1));
    drop(timers);
    cx.poll_until("room", || cx.io.stats().in_flight == 0);
    let mut submitted = refused.batch.submit().expect("room now");
    let receiving = submitted.take(recv).expect("its ticket still holds");
    receiving.cancel().expect("it is pending");
    assert_eq!(cx.block_on(receiving).err().expect("cancelled").kind(), ErrorKind::Cancelled);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn as_many_as_fit(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut batch = cx.io.batch();
    let tickets: Vec<_> = (0..OPERATIONS).map(|_| batch.add(Nop)).collect();
    let mut submitted = batch.submit().expect("exactly as many as fit");
    let nops: Vec<_> =
        tickets.into_iter().map(|ticket| submitted.take(ticket).expect("once")).collect();
    assert!(cx.block_on(join_all(nops)).into_iter().all(|ended| ended.is_ok()));
    let mut batch = cx.io.batch();
    for _ in 0..=OPERATIONS {
        batch.add(Nop);
    }
    let refused = batch.submit().err().expect("one too many, with nothing in flight");
    assert_eq!(refused.error.kind(), ErrorKind::Exhausted);
    assert_eq!(refused.batch.len() as u32, OPERATIONS + 1);
    Ok(())
}

fn taken_out_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(1, 16);
    let mut batch = cx.io.batch();
    let recv = batch.add(near.recv(slab.lease().expect("free")).into_operation());
    let nop = batch.add(Nop);
    let operation = batch.take(recv).expect("it is there");
    drop(operation);
    assert_eq!((slab.available(), batch.len()), (1, 1));
    let mut submitted = batch.submit().expect("the rest");
    assert_eq!(cx.io.stats().in_flight, 1);
    cx.block_on(submitted.take(nop).expect("its ticket still holds")).expect("a no-op");
    Ok(())
}

fn never_submitted(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(3, 16);
    let mut batch = cx.io.batch();
    for _ in 0..3 {
        batch.add(near.recv(slab.lease().expect("free")).into_operation());
    }
    assert_eq!(slab.available(), 0);
    drop(batch);
    assert_eq!((slab.available(), cx.io.stats().in_flight), (3, 0));
    Ok(())
}

fn not_taken(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 16);
    let mut batch = cx.io.batch();
    let kept = batch.add(near.recv(slab.lease().expect("free")).into_operation());
    batch.add(far.recv(slab.lease().expect("free")).into_operation());
    let mut submitted = batch.submit().expect("room");
    let kept = submitted.take(kept).expect("once");
    drop(submitted);
    cx.poll_until("the other's end", || slab.available() == 1);
    cx.block_on(far.send_all(Span::from(vec![1u8; 3]))).expect("sent");
    assert_eq!(cx.block_on(kept).expect("it goes on").len(), 3);
    Ok(())
}
