//! Sequences beside other operations on the same streams: a step that has not begun keeps nobody
//! waiting, whoever runs the sequence.

use super::net::{MUCH, idle_turns, narrow, read, settled, span, write};
use super::sequence::{links, receive};
use crate::{Case, Cx, Skip};
use dataplane::{Interest, RunningSequence, Socket, Wait};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case {
        name: "sequence_lanes/a_question_after_the_answer_is_awaited",
        needs: &[],
        run: question,
    },
    Case { name: "sequence_lanes/a_question_in_any_of_its_streams", needs: &[], run: any_stream },
    Case { name: "sequence_lanes/a_receive_that_opens_the_gate", needs: &[], run: gate },
    Case { name: "sequence_lanes/both_ends_of_a_stream", needs: &[], run: both_ends },
    Case { name: "sequence_lanes/question_and_answer_within_it", needs: &[], run: within },
    Case { name: "sequence_lanes/behind_another_sequence", needs: &[], run: behind_another },
    Case { name: "sequence_lanes/half_sent_bytes_stay_whole", needs: &[], run: half_sent },
    Case { name: "sequence_lanes/called_back_at_any_moment", needs: &[], run: any_moment },
    Case { name: "sequence_lanes/an_end_of_stream_goes_out", needs: &[], run: end_of_stream },
    Case { name: "sequence_lanes/cancelled_while_called_back", needs: &[], run: cancelled },
];

/// `[recv; send "thanks"]`, under way.
fn thanks(cx: &Cx<'_>, socket: &Socket) -> RunningSequence {
    let steps = cx.io.sequence().then(receive(cx, socket, 64));
    steps.send_all(socket, span(b"thanks")).submit().expect("room")
}

fn question(cx: &Cx<'_>) -> Result<(), Skip> {
    let before = cx.io.stats().called_back;
    for turns in [0, 1, 20] {
        let (near, far) = cx.unix_pair();
        let running = thanks(cx, &near);
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a turn");
        }
        let asking = near.send_all(span(b"question")).submit().expect("room");
        let slab = cx.slab(1, 64);
        let peer = async {
            assert_eq!(read(&far, &slab, 8).await, b"question");
            write(&far, b"answer").await;
            read(&far, &slab, 6).await
        };
        let (finished, asked, got) =
            cx.block_on(async { futures_util::join!(running, asking, peer) });
        assert_eq!(finished.expect("answered").steps(), 2);
        assert_eq!(asked.expect("sent").bytes, 8);
        assert_eq!(got, b"thanks");
    }
    let called_back = cx.io.stats().called_back - before;
    match (links(cx), cx.options.faults) {
        (linked, None) => assert_eq!(called_back, if linked { 3 } else { 0 }),
        (linked, Some(_)) => assert!(linked || called_back == 0),
    }
    Ok(())
}

/// Two later steps in two streams: who sends on either is not kept waiting.
fn any_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    for first in [true, false] {
        let (near, far) = cx.unix_pair();
        let (other, peer) = cx.tcp_pair();
        let steps = cx.io.sequence().then(receive(cx, &near, 64)).then(cx.io.nop());
        let steps = steps.send_all(&near, span(b"one")).send_all(&other, span(b"two"));
        let running = steps.send_all(&near, span(b"three")).submit().expect("room");
        idle_turns(cx);
        let (asked, hears) = if first { (&near, &far) } else { (&other, &peer) };
        let asking = asked.send_all(span(b"ask")).submit().expect("room");
        let slab = cx.slab(2, 64);
        let answer = async {
            assert_eq!(read(hears, &slab, 3).await, b"ask");
            write(&far, b"answer").await;
        };
        let gets = async { (read(&far, &slab, 8).await, read(&peer, &slab, 3).await) };
        let (finished, asked, ()) =
            cx.block_on(async { futures_util::join!(running, asking, answer) });
        assert_eq!(finished.expect("answered").steps(), 5);
        asked.expect("sent");
        assert_eq!(cx.block_on(gets), (b"onethree".to_vec(), b"two".to_vec()));
    }
    Ok(())
}

/// A receive beside the sequence gets the message whose reader opens the sequence's gate.
fn gate(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let (gate, opener) = cx.unix_pair();
    let steps = cx.io.sequence().then(gate.ready(Interest::READABLE)).then(receive(cx, &near, 64));
    let running = steps.submit().expect("room");
    idle_turns(cx);
    let slab = cx.slab(1, 64);
    let opens = async {
        assert_eq!(read(&near, &slab, 4).await, b"open");
        write(&opener, b"!").await;
        write(&far, b"rest").await;
    };
    let all = async { futures_util::join!(running, opens, write(&far, b"open")) };
    cx.block_on(all).0.expect("opened");
    settled(cx, 4);
    Ok(())
}

/// A sequence at each end, each of which needs what is sent beside the other.
fn both_ends(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let here = thanks(cx, &near);
    let there = cx.io.sequence().then(receive(cx, &far, 4)).then(far.send_all(span(b"pong")));
    let there = there.then(receive(cx, &far, 64)).submit().expect("room");
    idle_turns(cx);
    let ping = near.send_all(span(b"ping")).submit().expect("room");
    let (here, there, ping) = cx.block_on(async { futures_util::join!(here, there, ping) });
    ping.expect("sent");
    assert_eq!((here.expect("pong came").steps(), there.expect("thanks came").steps()), (2, 3));
    settled(cx, 2);
    Ok(())
}

/// Question, answer and thanks in one sequence, on one socket at each end.
fn within(cx: &Cx<'_>) -> Result<(), Skip> {
    for (near, far) in [cx.unix_pair(), cx.tcp_pair()] {
        let asks = cx.io.sequence().send_all(&near, span(b"question"));
        let asks = asks.then(receive(cx, &near, 64)).send_all(&near, span(b"thanks"));
        let answers = cx.io.sequence().then(receive(cx, &far, 8));
        let answers = answers.send_all(&far, span(b"answer")).then(receive(cx, &far, 64));
        let (asks, answers) = (asks.submit().expect("room"), answers.submit().expect("room"));
        let (asks, answers) = cx.block_on(async { futures_util::join!(asks, answers) });
        assert_eq!(asks.expect("answered").steps(), 3);
        assert_eq!(answers.expect("thanked").steps(), 3);
    }
    Ok(())
}

/// The second sequence sends where the first will, and the first waits for what the second sends.
fn behind_another(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let first = thanks(cx, &near);
    let second = cx.io.sequence().then(cx.io.nop()).send_all(&near, span(b"question"));
    let second = second.then(cx.io.nop()).submit().expect("room");
    let slab = cx.slab(1, 64);
    let peer = async {
        assert_eq!(read(&far, &slab, 8).await, b"question");
        write(&far, b"answer").await;
        read(&far, &slab, 6).await
    };
    let (first, second, got) = cx.block_on(async { futures_util::join!(first, second, peer) });
    first.expect("answered");
    second.expect("sent");
    assert_eq!(got, b"thanks");
    Ok(())
}

/// A send that is under way when it is called back goes out whole before anybody else's bytes.
fn half_sent(cx: &Cx<'_>) -> Result<(), Skip> {
    for turns in [0, 20] {
        let (near, far) = cx.tcp_pair();
        narrow(&near, &far);
        let bytes = Cx::pattern(MUCH, 11);
        let steps = cx.io.sequence().then(near.send_all(span(&bytes))).then(receive(cx, &near, 64));
        let running = steps.send_all(&near, span(b"thanks")).submit().expect("room");
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a turn");
        }
        let asking = near.send_all(span(b"question")).submit().expect("room");
        let slab = cx.slab(1, 1 << 16);
        let peer = async {
            let got = read(&far, &slab, MUCH + 8).await;
            write(&far, b"answer").await;
            (got, read(&far, &slab, 6).await)
        };
        let (finished, asked, (got, last)) =
            cx.block_on(async { futures_util::join!(running, asking, peer) });
        finished.expect("answered");
        asked.expect("sent");
        assert!(got[..MUCH] == bytes && &got[MUCH..] == b"question", "whole, in order");
        assert_eq!(last, b"thanks");
    }
    Ok(())
}

/// The answer comes while the sequence is called back: it is received once, whole.
fn any_moment(cx: &Cx<'_>) -> Result<(), Skip> {
    for (before, after) in (0..4).flat_map(|before| (0..4).map(move |after| (before, after))) {
        let (near, far) = cx.unix_pair();
        let slab = cx.slab(2, 64);
        let mut steps = cx.io.sequence();
        let one = steps.add(near.recv_all(cx.slab(1, 4).lease().expect("free")));
        let two = steps.add(near.recv_all(cx.slab(1, 4).lease().expect("free")));
        let running = steps.send_all(&near, span(b"got it")).submit().expect("room");
        let turns = |count| {
            (0..count).for_each(|_| {
                cx.io.poll(Wait::Now).expect("a turn");
            })
        };
        turns(before);
        let parts: Vec<_> = [&b"on"[..], b"e two"]
            .into_iter()
            .map(|part| far.send_all(span(part)).submit().expect("room"))
            .collect();
        turns(after);
        let beside = near.send_all(span(b"beside")).submit().expect("room");
        turns(1);
        let last = far.send_all(span(b".")).submit().expect("room");
        let peer = read(&far, &slab, 12);
        let all = async { futures_util::join!(running, beside, last, peer) };
        let (finished, beside, last, got) = cx.block_on(all);
        let mut finished = finished.expect("both parts came");
        let taken = [one, two].map(|ticket| finished.take(ticket).expect("there").expect("came"));
        assert_eq!([&taken[0][..], &taken[1][..]].concat(), b"one two.", "{before} {after}");
        beside.expect("sent");
        last.expect("sent");
        for part in parts {
            cx.block_on(part).expect("sent");
        }
        assert!(got == b"besidegot it" || got == b"got itbeside", "{got:?}");
    }
    Ok(())
}

/// The end of a stream waits for no step that has not begun either.
fn end_of_stream(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let running = thanks(cx, &near);
    idle_turns(cx);
    let slab = cx.slab(1, 64);
    let peer = async {
        assert!(read(&far, &slab, 1).await.is_empty(), "the end of the stream");
        write(&far, b"answer").await;
    };
    let all = async { futures_util::join!(running, near.finish().into_future(), peer) };
    let (finished, ended, ()) = cx.block_on(all);
    ended.expect("half closed");
    let failed = finished.expect_err("nothing goes out after the end");
    cx.note(format_args!("step {:?}: {:?}", failed.step, failed.kind()));
    assert_eq!(failed.step, Some(1));
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    for turns in 0..4 {
        let (near, far) = cx.unix_pair();
        let running = thanks(cx, &near);
        idle_turns(cx);
        let asking = near.send_all(span(b"question")).submit().expect("room");
        for _ in 0..turns {
            cx.io.poll(Wait::Now).expect("a turn");
        }
        running.cancel().expect("it waits");
        let (finished, asked) = cx.block_on(async { futures_util::join!(running, asking) });
        assert_eq!(finished.expect_err("nobody answered").step, Some(0));
        asked.expect("sent");
        assert_eq!(cx.block_on(read(&far, &cx.slab(1, 64), 8)), b"question");
        drop((near, far));
        settled(cx, 0);
    }
    Ok(())
}
