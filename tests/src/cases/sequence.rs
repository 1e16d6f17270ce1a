//! Sequences: one step after the other, in the kernel or out of it, with the same outcome.

use super::net::{MUCH, idle_turns, narrow, read, settled, span, write};
use crate::{Case, Cx, OPERATIONS, Skip};
use dataplane::operations::Recv;
use dataplane::{
    Backend, Capability, ErrorKind, Finished, Interest, OpenOptions, Request, SequenceFailed,
    Socket, Wait, ZeroCopy,
};
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "sequence/empty_is_refused", needs: &[], run: empty },
    Case { name: "sequence/one_step", needs: &[], run: one_step },
    Case { name: "sequence/steps_run_in_order", needs: &[], run: in_order },
    Case { name: "sequence/linked_where_it_can_be", needs: &[], run: linked },
    Case { name: "sequence/outcomes_by_ticket", needs: &[], run: outcomes },
    Case { name: "sequence/first_step_fails", needs: &[], run: first_fails },
    Case { name: "sequence/middle_step_fails", needs: &[], run: middle_fails },
    Case { name: "sequence/last_step_fails", needs: &[], run: last_fails },
    Case { name: "sequence/steps_not_run_give_buffers_back", needs: &[], run: buffers_back },
    Case { name: "sequence/short_read_ends_it", needs: &[], run: short_read },
    Case { name: "sequence/short_receive_goes_on", needs: &[], run: short_receive },
    Case { name: "sequence/end_of_stream_goes_on", needs: &[], run: end_of_stream },
    Case { name: "sequence/part_of_a_whole_receive_ends_it", needs: &[], run: part_of_a_whole },
    Case { name: "sequence/long_send_is_completed", needs: &[], run: long_send },
    Case { name: "sequence/two_sends_on_one_stream", needs: &[], run: two_sends },
    Case { name: "sequence/behind_a_busy_stream", needs: &[], run: busy_stream },
    Case { name: "sequence/two_on_one_stream", needs: &[], run: two_on_one_stream },
    Case { name: "sequence/many_at_once", needs: &[], run: many },
    Case { name: "sequence/others_are_unaffected", needs: &[], run: others_unaffected },
    Case { name: "sequence/malformed_step_refuses_all", needs: &[], run: malformed },
    Case { name: "sequence/no_room_refuses_all", needs: &[], run: no_room },
    Case { name: "sequence/would_block_goes_on", needs: &[], run: would_block },
    Case { name: "sequence/gate_by_readiness", needs: &[], run: gate },
    Case { name: "sequence/zero_copy_send_does_not_hold_it_up", needs: &[], run: zero_copy },
    Case { name: "sequence/timer_between", needs: &[], run: timer_between },
    Case { name: "sequence/timer_after_the_deadline", needs: &[], run: timer_after_deadline },
    Case { name: "sequence/cancelled_at_its_first_step", needs: &[], run: cancelled },
    Case { name: "sequence/cancelled_before_a_poll", needs: &[], run: cancelled_early },
    Case { name: "sequence/cancelled_when_over", needs: &[], run: cancelled_late },
    Case { name: "sequence/cancelled_at_any_moment", needs: &[], run: cancelled_any },
    Case { name: "sequence/cancelled_after_a_failure", needs: &[], run: cancelled_failed },
    Case { name: "sequence/dropped_while_it_runs", needs: &[], run: dropped },
    Case { name: "sequence/times_out_at_its_first_step", needs: &[], run: times_out },
    Case { name: "sequence/times_out_at_a_later_step", needs: &[], run: times_out_later },
    Case { name: "sequence/descriptor_of_a_later_step_closes", needs: &[], run: later_closes },
];

/// Whether chains go to the kernel here; under faults some do.
pub(super) fn links(cx: &Cx<'_>) -> bool {
    cx.io.backend() == Backend::IoUring
        && cx.io.capabilities().contains(Capability::LinkedOperations)
}

pub(super) fn failed(outcome: Result<Finished, Box<SequenceFailed>>) -> Box<SequenceFailed> {
    outcome.expect_err("a step fails")
}

/// A receive of at most `len` bytes.
pub(super) fn receive(cx: &Cx<'_>, socket: &Socket, len: usize) -> Request<dataplane::Local, Recv> {
    socket.recv(cx.slab(1, len).lease().expect("a free slot"))
}

/// A file of `len` bytes, open for reading; and one open for writing only.
pub(super) fn files(cx: &Cx<'_>, len: usize) -> (dataplane::File, dataplane::File) {
    let folder = cx.scratch_dir();
    let (full, other) = (folder.join("full"), folder.join("other"));
    std::fs::write(&full, Cx::pattern(len, 7)).expect("a scratch file");
    let read = cx.io.open(&full, OpenOptions::read()).expect("a path");
    let write = cx.io.open(&other, OpenOptions::write().create(0o600)).expect("a path");
    (cx.block_on(read).expect("opened"), cx.block_on(write).expect("opened"))
}

pub(super) fn nothing_arrives(cx: &Cx<'_>, socket: &Socket) {
    let slab = cx.slab(1, 64);
    let mut receiving = socket.recv(slab.lease().expect("free")).submit().expect("room");
    idle_turns(cx);
    assert!(receiving.try_take().is_none(), "something arrived");
    // Seen to its end: a cancel that comes late must not lose what is sent next.
    receiving.cancel().expect("it waits");
    cx.block_on(receiving).expect_err("nothing arrived");
}

fn empty(cx: &Cx<'_>) -> Result<(), Skip> {
    let refused = cx.io.sequence().submit().expect_err("it has no step");
    assert_eq!(refused.error.kind(), ErrorKind::InvalidArgument);
    assert!(refused.sequence.is_empty());
    let awaited = failed(cx.block_on(cx.io.sequence()));
    assert_eq!((awaited.step, awaited.kind()), (None, ErrorKind::InvalidArgument));
    Ok(())
}

fn one_step(cx: &Cx<'_>) -> Result<(), Skip> {
    let finished = cx.block_on(cx.io.sequence().then(cx.io.nop())).expect("a no-op succeeds");
    assert_eq!((finished.steps(), finished.linked(), finished.stopped_at()), (1, 0, None));
    settled(cx, 0);
    Ok(())
}

fn in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let mut steps = cx.io.sequence();
    for byte in 0..8u8 {
        steps.add(near.send_all(span(&[byte; 100])));
    }
    assert_eq!(steps.len(), 8);
    let slab = cx.slab(1, 1024);
    let running = steps.submit().expect("room");
    let (finished, got) =
        cx.block_on(async { futures_util::join!(running, read(&far, &slab, 800)) });
    assert_eq!(finished.expect("all went out").steps(), 8);
    assert!(got.chunks(100).enumerate().all(|(i, part)| part.iter().all(|b| *b == i as u8)));
    Ok(())
}

fn linked(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 64);
    let before = cx.io.stats().linked_steps;
    let mut steps = cx.io.sequence();
    let got = steps.add(near.recv(slab.lease().expect("free")));
    let steps = steps.then(near.send_all(span(b"answer")));
    let running = steps.submit().expect("room");
    let both = async { futures_util::join!(running, write(&far, b"question")) };
    let mut finished = cx.block_on(both).0.expect("both steps");
    let linked = (cx.io.stats().linked_steps - before) as usize;
    match (links(cx), cx.options.faults) {
        (true, None) => assert_eq!((linked, finished.linked()), (2, 2)),
        (true, Some(_)) => assert!(linked <= 2 && finished.linked() <= linked),
        (false, _) => assert_eq!((linked, finished.linked()), (0, 0)),
    }
    let got = finished.take(got).expect("not taken").expect("received");
    assert_eq!(&got[..], b"question");
    assert_eq!(cx.block_on(read(&far, &slab, 6)), b"answer");
    Ok(())
}

fn outcomes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (readable, writable) = files(cx, 4096);
    let slab = cx.slab(1, 4096);
    let mut steps = cx.io.sequence();
    let filled = steps.add(readable.read_at(slab.lease().expect("free"), 0));
    let written = steps.add(writable.write_at(span(&[9; 300]), 0));
    let synced = steps.add(writable.sync());
    let mut finished = cx.block_on(steps).expect("three steps");
    let filled = finished.take(filled).expect("there").expect("read");
    assert!(filled[..] == Cx::pattern(4096, 7)[..]);
    assert_eq!(finished.take(written).expect("there").expect("written").bytes, 300);
    finished.take(synced).expect("there").expect("synced");
    drop(filled);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn first_fails(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_, writable) = files(cx, 10);
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let mut steps = cx.io.sequence();
    let reading = steps.add(writable.read_at(slab.lease().expect("free"), 0));
    let sending = steps.add(near.send_all(span(b"never")));
    let nop = steps.add(cx.io.nop());
    let mut failed = failed(cx.block_on(steps));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!(failed.step, Some(0));
    let finished = failed.finished.as_mut().expect("it ran");
    let kinds = [
        finished.take(reading).expect("there").map(drop).map_err(|failed| failed.kind()),
        finished.take(sending).expect("there").map(drop).map_err(|failed| failed.kind()),
        finished.take(nop).expect("there").map_err(|failed| failed.kind()),
    ];
    cx.note(format_args!("{kinds:?}"));
    assert_eq!(kinds[1..], [Err(ErrorKind::Cancelled), Err(ErrorKind::Cancelled)]);
    nothing_arrives(cx, &far);
    Ok(())
}

fn middle_fails(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_, writable) = files(cx, 10);
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let steps = cx
        .io
        .sequence()
        .then(near.send_all(span(b"first")))
        .then(writable.read_at(slab.lease().expect("free"), 0))
        .then(near.send_all(span(b"third")));
    let failed = failed(cx.block_on(steps));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!(failed.step, Some(1));
    drop(failed);
    assert_eq!(cx.block_on(read(&far, &slab, 5)), b"first");
    nothing_arrives(cx, &far);
    // The stream is as good as before.
    cx.block_on(write(&near, b"later"));
    assert_eq!(cx.block_on(read(&far, &slab, 5)), b"later");
    Ok(())
}

fn last_fails(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_, writable) = files(cx, 10);
    let lease = cx.slab(1, 64).lease().expect("free");
    let steps = cx.io.sequence().then(cx.io.nop()).then(writable.read_at(lease, 0));
    let failed = failed(cx.block_on(steps));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!(failed.step, Some(1));
    assert!(failed.to_string().contains("step 1"), "{failed}");
    Ok(())
}

fn buffers_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_, writable) = files(cx, 10);
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(2, 64);
    let mut steps = cx.io.sequence();
    steps.add(writable.read_at(slab.lease().expect("free"), 0));
    let second = steps.add(near.recv(slab.lease().expect("free")));
    let mut failed = failed(cx.block_on(steps));
    let finished = failed.finished.as_mut().expect("it ran");
    let not_run = finished.take(second).expect("there").expect_err("it did not run");
    assert_eq!(not_run.kind(), ErrorKind::Cancelled);
    let lease = not_run.into_buffer().expect("the buffer comes back");
    assert_eq!(lease.len(), 64);
    drop((lease, failed));
    settled(cx, 3);
    assert_eq!(slab.available(), 2);
    Ok(())
}

fn short_read(cx: &Cx<'_>) -> Result<(), Skip> {
    let (readable, _) = files(cx, 10);
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let mut steps = cx.io.sequence();
    let reading = steps.add(readable.read_at(slab.lease().expect("free"), 0));
    let steps = steps.then(near.send_all(span(b"never")));
    let mut failed = failed(cx.block_on(steps));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!((failed.step, failed.kind()), (Some(0), ErrorKind::DataLoss));
    assert!(failed.error.message().contains("10 bytes"), "{}", failed.error);
    // What was read is not lost.
    let finished = failed.finished.as_mut().expect("it ran");
    let filled = finished.take(reading).expect("there").expect("ten bytes were read");
    assert!(filled[..] == Cx::pattern(10, 7)[..]);
    nothing_arrives(cx, &far);
    Ok(())
}

fn short_receive(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    cx.block_on(write(&far, b"few"));
    let steps = cx.io.sequence().then(receive(cx, &near, 64)).then(near.send_all(span(b"on")));
    cx.block_on(steps).expect("some bytes are what a receive gives");
    assert_eq!(cx.block_on(read(&far, &cx.slab(1, 64), 2)), b"on");
    Ok(())
}

fn end_of_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    cx.block_on(far.finish()).expect("half closed");
    let steps = cx.io.sequence().then(receive(cx, &near, 64)).then(near.send_all(span(b"bye")));
    cx.block_on(steps).expect("the end of a stream is a result");
    assert_eq!(cx.block_on(read(&far, &cx.slab(1, 64), 3)), b"bye");
    Ok(())
}

fn part_of_a_whole(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    cx.block_on(async {
        write(&far, b"half").await;
        far.finish().await.expect("half closed");
    });
    let lease = cx.slab(1, 8).lease().expect("free");
    let steps = cx.io.sequence().then(near.recv_all(lease)).then(near.send_all(span(b"never")));
    let failed = failed(cx.block_on(steps));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!(failed.step, Some(0));
    nothing_arrives(cx, &far);
    Ok(())
}

fn long_send(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    narrow(&near, &far);
    let bytes = Cx::pattern(MUCH, 3);
    let steps =
        cx.io.sequence().then(near.send_all(span(&bytes))).then(near.send_all(span(b"end")));
    let running = steps.submit().expect("room");
    let slab = cx.slab(1, 1 << 16);
    let (finished, got) =
        cx.block_on(async { futures_util::join!(running, read(&far, &slab, MUCH + 3)) });
    finished.expect("all of it went out");
    assert!(got[..MUCH] == bytes && &got[MUCH..] == b"end");
    Ok(())
}

fn two_sends(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let steps = cx
        .io
        .sequence()
        .then(near.send_all(span(b"one ")))
        .then(cx.io.nop())
        .then(near.send_all(span(b"two ")));
    let running = steps.submit().expect("room");
    let after = near.send_all(span(b"three")).submit().expect("room");
    let (finished, after) = cx.block_on(async { futures_util::join!(running, after) });
    finished.expect("sent");
    after.expect("sent");
    let got = cx.block_on(read(&far, &cx.slab(1, 64), 13));
    // A send beside the sequence may come before, between or after, but whole.
    assert_eq!(got.len(), 13);
    let text = String::from_utf8(got).expect("ascii");
    assert!(text.contains("three") && text.find("one ") < text.find("two "), "{text}");
    Ok(())
}

fn busy_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    narrow(&near, &far);
    let bytes = Cx::pattern(MUCH, 5);
    let first = near.send_all(span(&bytes)).submit().expect("room");
    let steps = cx.io.sequence().then(cx.io.nop()).then(near.send_all(span(b"after")));
    let running = steps.submit().expect("room");
    let slab = cx.slab(1, 1 << 16);
    let (first, finished, got) =
        cx.block_on(async { futures_util::join!(first, running, read(&far, &slab, MUCH + 5)) });
    assert_eq!(first.expect("sent").bytes, MUCH);
    finished.expect("sent");
    assert!(got[..MUCH] == bytes && &got[MUCH..] == b"after", "order of submission");
    Ok(())
}

fn two_on_one_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let sequence = |bytes: [u8; 2]| {
        let steps = cx.io.sequence().then(near.send_all(span(&[bytes[0]; 50])));
        steps.then(near.send_all(span(&[bytes[1]; 50]))).submit().expect("room")
    };
    let (one, two) = (sequence(*b"ab"), sequence(*b"xy"));
    let slab = cx.slab(1, 256);
    let all = async { futures_util::join!(one, two, read(&far, &slab, 200)) };
    let (one, two, got) = cx.block_on(all);
    one.expect("sent");
    two.expect("sent");
    let place = |byte| got.iter().position(|got| *got == byte).expect("it arrived");
    assert!(place(b'a') < place(b'b') && place(b'x') < place(b'y'));
    assert!(got.chunks(50).all(|part| part.iter().all(|byte| *byte == part[0])));
    Ok(())
}

fn many(cx: &Cx<'_>) -> Result<(), Skip> {
    let running: Vec<_> = (0..16)
        .map(|_| {
            let steps = cx.io.sequence().then(cx.io.nop()).then(cx.io.nop()).then(cx.io.nop());
            steps.submit().expect("room for 48 steps")
        })
        .collect();
    assert_eq!(cx.io.stats().in_flight, 48);
    for running in running {
        assert_eq!(cx.block_on(running).expect("no-ops").steps(), 3);
    }
    settled(cx, 0);
    Ok(())
}

fn others_unaffected(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_, writable) = files(cx, 10);
    let lease = cx.slab(1, 64).lease().expect("free");
    let before = cx.io.nop().submit().expect("room");
    let steps = cx.io.sequence().then(writable.read_at(lease, 0)).then(cx.io.nop());
    let running = steps.submit().expect("room");
    let after = cx.io.nop().submit().expect("room");
    let (before, failing, after) =
        cx.block_on(async { futures_util::join!(before, running, after) });
    before.expect("beside the sequence");
    after.expect("beside the sequence");
    assert_eq!(failed(failing).step, Some(0));
    Ok(())
}

fn malformed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let empty = near.send_all(span(b""));
    let steps = cx.io.sequence().then(near.send_all(span(b"one"))).then(empty).then(cx.io.nop());
    let refused = steps.submit().expect_err("nothing to send");
    assert_eq!((refused.step, refused.error.kind()), (Some(1), ErrorKind::InvalidArgument));
    assert_eq!((refused.sequence.len(), cx.io.stats().in_flight), (3, 0));
    nothing_arrives(cx, &far);
    Ok(())
}

fn no_room(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut steps = cx.io.sequence();
    for _ in 0..OPERATIONS {
        steps.add(cx.io.nop());
    }
    let held = cx.io.nop().submit().expect("room");
    let refused = steps.submit().expect_err("one too many");
    assert_eq!(refused.error.kind(), ErrorKind::Exhausted);
    cx.block_on(held).expect("a no-op");
    let finished = cx.block_on(refused.sequence).expect("now there is room");
    assert_eq!(finished.steps(), OPERATIONS as usize);
    Ok(())
}

fn would_block(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    near.set_nonblocking(true).expect("a flag");
    let near = cx.io.adopt_socket(near).expect("room");
    let far = cx.io.adopt_socket(far).expect("room");
    let steps = cx.io.sequence().then(receive(cx, &near, 64)).then(near.send_all(span(b"back")));
    let running = steps.submit().expect("room");
    idle_turns(cx);
    let slab = cx.slab(1, 64);
    let all = async { futures_util::join!(running, write(&far, b"there"), read(&far, &slab, 4)) };
    let (finished, (), got) = cx.block_on(all);
    finished.expect("it waited");
    assert_eq!(got, b"back");
    Ok(())
}

fn gate(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let (gate, opener) = cx.unix_pair();
    let steps =
        cx.io.sequence().then(gate.ready(Interest::READABLE)).then(near.send_all(span(b"open")));
    let running = steps.submit().expect("room");
    nothing_arrives(cx, &far);
    let slab = cx.slab(1, 64);
    let all = async { futures_util::join!(running, write(&opener, b"!"), read(&far, &slab, 4)) };
    let (finished, (), got) = cx.block_on(all);
    finished.expect("the gate opened");
    assert_eq!(got, b"open");
    Ok(())
}

fn zero_copy(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    near.zero_copy(ZeroCopy::Always).expect("a policy");
    let bytes = Cx::pattern(50_000, 1);
    let mut steps = cx.io.sequence();
    let sent = steps.add(near.send_all(span(&bytes)));
    let steps = steps.then(far.recv_all(cx.slab(1, 50_000).lease().expect("free")));
    let mut finished = cx.block_on(steps).expect("sent and received");
    assert_eq!(finished.take(sent).expect("there").expect("sent").bytes, 50_000);
    settled(cx, 2);
    Ok(())
}

fn timer_between(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = Instant::now() + Duration::from_millis(3);
    let steps = cx.io.sequence().then(cx.io.nop()).then(cx.io.sleep_until(at)).then(cx.io.nop());
    cx.block_on(steps).expect("three steps");
    assert!(Instant::now() >= at);
    Ok(())
}

fn timer_after_deadline(cx: &Cx<'_>) -> Result<(), Skip> {
    let late = Instant::now() + Duration::from_secs(60);
    let steps = cx.io.sequence().then(cx.io.nop()).then(cx.io.sleep_until(late));
    let refused =
        steps.timeout(Duration::from_millis(5)).submit().expect_err("never to be reached");
    assert_eq!((refused.step, refused.error.kind()), (Some(1), ErrorKind::InvalidArgument));
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let steps = cx.io.sequence().then(receive(cx, &near, 64)).then(near.send_all(span(b"never")));
    let running = steps.submit().expect("room");
    idle_turns(cx);
    running.cancel().expect("it runs");
    let failed = failed(cx.block_on(running));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!((failed.step, failed.kind()), (Some(0), ErrorKind::Cancelled));
    drop(failed);
    nothing_arrives(cx, &far);
    // The sockets are as good as before.
    super::net::exchange(cx, &far, &near, b"still");
    Ok(())
}

fn cancelled_early(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let steps = cx.io.sequence().then(receive(cx, &near, 64)).then(near.send_all(span(b"never")));
    let running = steps.submit().expect("room");
    running.cancel().expect("it is staged");
    assert_eq!(failed(cx.block_on(running)).kind(), ErrorKind::Cancelled);
    nothing_arrives(cx, &far);
    Ok(())
}

fn cancelled_late(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut running = cx.io.sequence().then(cx.io.nop()).submit().expect("room");
    cx.poll_until("the no-op", || cx.io.stats().in_flight == 0);
    assert_eq!(running.cancel().expect_err("it is over").kind(), ErrorKind::NotFound);
    running.try_take().expect("it is over").expect("it won");
    assert!(running.try_take().expect("answered").is_err(), "taken once");
    Ok(())
}

fn cancelled_any(cx: &Cx<'_>) -> Result<(), Skip> {
    for turns in 0..6 {
        let (near, far) = cx.unix_pair();
        let mut steps = cx.io.sequence();
        for byte in 0..5u8 {
            steps.add(near.send_all(span(&[byte; 10])));
            steps.add(cx.io.nop());
        }
        let running = steps.submit().expect("room");
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("polling");
        }
        let asked = running.cancel().is_ok();
        let outcome = cx.block_on(running);
        assert!(asked || outcome.is_ok(), "what was over stays over");
        let went = outcome.map_or_else(|failed| failed.step.unwrap_or(0), |done| done.steps());
        cx.block_on(near.finish()).expect("half closed");
        let got = cx.block_on(super::net::read_to_end(&far, &cx.slab(1, 64)));
        // Whole steps in order, and none after the one that was cancelled.
        assert_eq!(got.len() % 10, 0, "{got:?}");
        assert!(got.len() / 10 >= went.div_ceil(2).saturating_sub(1), "{went} {got:?}");
        assert!(got.chunks(10).enumerate().all(|(i, part)| part.iter().all(|b| *b == i as u8)));
    }
    Ok(())
}

/// The steps after a failed one end by themselves; whatever asks for their end meanwhile.
fn cancelled_failed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    drop(far);
    for turns in (0..4).flat_map(|turns| [turns; 4]) {
        let steps = cx.io.sequence().send_all(&near, span(b"to nobody")).then(cx.io.nop());
        let running = steps.then(cx.io.nop()).submit().expect("room");
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a turn");
        }
        cx.io.cancel_all().expect("here");
        drop(running);
        settled(cx, 1);
    }
    Ok(())
}

fn dropped(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let steps = cx.io.sequence().then(near.recv(slab.lease().expect("free")));
    let running = steps.then(near.send_all(span(b"never"))).submit().expect("room");
    idle_turns(cx);
    drop(running);
    settled(cx, 2);
    assert_eq!(slab.available(), 1);
    nothing_arrives(cx, &far);
    Ok(())
}

fn times_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let steps = cx.io.sequence().then(receive(cx, &near, 64)).then(near.send_all(span(b"never")));
    let failed = failed(cx.block_on(steps.timeout(Duration::from_millis(4))));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!((failed.step, failed.kind()), (Some(0), ErrorKind::TimedOut));
    drop(failed);
    nothing_arrives(cx, &far);
    Ok(())
}

fn times_out_later(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let steps = cx.io.sequence().then(cx.io.nop()).then(receive(cx, &near, 64)).then(cx.io.nop());
    let at = Instant::now() + Duration::from_millis(4);
    let failed = failed(cx.block_on(steps.deadline(at)));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!((failed.step, failed.kind()), (Some(1), ErrorKind::TimedOut));
    Ok(())
}

/// Whatever closes ends the sequence at the step it is at: nothing waits behind a close.
fn later_closes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let (other, peer) = cx.unix_pair();
    let steps = cx.io.sequence().then(receive(cx, &near, 64)).then(other.send_all(span(b"no")));
    let running = steps.submit().expect("room");
    idle_turns(cx);
    cx.block_on(other.close()).expect("closed");
    let failed = failed(cx.block_on(running));
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!((failed.step, failed.kind()), (Some(0), ErrorKind::Closed));
    let end = cx.block_on(read(&peer, &cx.slab(1, 64), 1));
    assert!(end.is_empty(), "the peer sees the end and nothing else");
    Ok(())
}
