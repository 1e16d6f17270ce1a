//! What a proactor counts about itself, and what it says under load.

use super::net::{MUCH, exchange, idle_turns, narrow, settled, span, write};
use super::remote::{beside, parked};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Interest, OpenOptions, Proactor, Stats, Wait, ZeroCopy};
use futures_util::future::join_all;
use futures_util::{StreamExt, join};
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "metrics/a_new_proactor_has_counted_nothing", needs: &[], run: new_one },
    Case { name: "metrics/completions_add_up", needs: &[], run: completions },
    Case { name: "metrics/refused_submissions_are_not_counted", needs: &[], run: refused },
    Case { name: "metrics/items_are_results_and_no_completions", needs: &[], run: items },
    Case { name: "metrics/bytes_of_a_stream", needs: &[], run: stream_bytes },
    Case { name: "metrics/bytes_of_parts", needs: &[], run: part_bytes },
    Case { name: "metrics/bytes_of_several_spans", needs: &[], run: vectored_bytes },
    Case { name: "metrics/bytes_of_datagrams", needs: &[], run: datagram_bytes },
    Case { name: "metrics/bytes_from_a_pool", needs: &[], run: pool_bytes },
    Case { name: "metrics/bytes_of_a_pool_stream", needs: &[], run: pool_stream_bytes },
    Case { name: "metrics/bytes_of_a_file", needs: &[], run: file_bytes },
    Case { name: "metrics/bytes_past_the_page_cache", needs: &[], run: direct_bytes },
    Case { name: "metrics/bytes_of_a_transfer", needs: &[], run: transfer_bytes },
    Case { name: "metrics/bytes_of_a_send_that_was_cut_short", needs: &[], run: cut_short },
    Case { name: "metrics/descriptors_and_polls_are_no_bytes", needs: &[], run: no_bytes },
    Case { name: "metrics/timeouts", needs: &[], run: timeouts },
    Case { name: "metrics/a_cancel_is_no_timeout", needs: &[], run: cancelled },
    Case { name: "metrics/wakes_coalesce", needs: &[], run: wakes },
    Case { name: "metrics/a_sleeping_loop_is_rung", needs: &[], run: bells },
    Case { name: "metrics/submissions_of_other_threads", needs: &[], run: foreign },
    Case { name: "metrics/read_from_another_thread", needs: &[], run: from_elsewhere },
    Case { name: "metrics/read_after_the_end", needs: &[], run: after_the_end },
    Case { name: "metrics/zero_copy_sends", needs: &[], run: zero_copy },
    Case {
        name: "metrics/a_socket_without_zero_copy_falls_back_once",
        needs: &[],
        run: falls_back,
    },
    Case { name: "metrics/helper_threads", needs: &[], run: helpers },
    Case { name: "metrics/an_empty_pool", needs: &[], run: pool_empty },
    Case { name: "metrics/system_calls_are_few", needs: &[], run: system_calls },
    Case { name: "metrics/counters_never_go_down", needs: &[], run: monotonic },
    Case { name: "metrics/the_table_reads_what_the_fields_say", needs: &[], run: table },
];

fn new_one(cx: &Cx<'_>) -> Result<(), Skip> {
    let stats = cx.io.stats();
    let counted: Vec<&str> = Stats::METRICS
        .iter()
        .filter(|metric| (metric.read)(&stats) != 0)
        .map(|metric| metric.name)
        .collect();
    assert!(counted.is_empty(), "{counted:?}");
    assert!(!stats.is_fallback, "this backend was asked for");
    Ok(())
}

fn completions(cx: &Cx<'_>) -> Result<(), Skip> {
    let nops: Vec<_> = (0..20).map(|_| cx.io.nop().submit().expect("room")).collect();
    assert_eq!((cx.io.stats().in_flight, cx.io.stats().completed), (20, 0));
    cx.block_on(join_all(nops));
    let stats = cx.io.stats();
    assert_eq!((stats.in_flight, stats.completed, stats.delivered), (0, 20, 20));
    let refused = cx.block_on(cx.io.connect("127.0.0.1:1"));
    assert!(refused.is_err(), "nobody listens there");
    assert!(cx.io.stats().completed > 20, "a failure is an end too");
    Ok(())
}

fn refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.tcp_pair();
    let before = cx.io.stats();
    let mut lease = cx.slab(1, 8).lease().expect("free");
    lease.truncate(0);
    let failed = near.recv(lease).submit().err().expect("a lease without room");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    drop(failed);
    let after = cx.io.stats();
    assert_eq!((after.in_flight, after.completed), (before.in_flight, before.completed));
    Ok(())
}

fn items(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let to = listener.local_addr().expect("an address");
    let mut incoming = listener.incoming().submit().expect("room");
    let before = cx.io.stats();
    let clients = cx.block_on(join_all((0..3).map(|_| cx.io.connect(to.clone()))));
    for _ in 0..3 {
        let accepted = cx.block_on(incoming.next()).expect("no end");
        drop(accepted.expect("accepting"));
    }
    // What is accepted are items; the three connects ended, and the accept goes on.
    let after = cx.io.stats();
    let (ended, told) = (after.completed - before.completed, after.delivered - before.delivered);
    assert!(told >= ended + 3, "{ended} ends, {told} results");
    assert!(clients.iter().all(Result::is_ok));
    drop((incoming, clients));
    settled(cx, 1);
    Ok(())
}

/// Bytes counted since: received, sent, read, written, transferred.
fn bytes_since(cx: &Cx<'_>, before: &Stats) -> [u64; 5] {
    let of = |s: &Stats| {
        [s.bytes_received, s.bytes_sent, s.bytes_read, s.bytes_written, s.bytes_transferred]
    };
    let (before, now) = (of(before), of(&cx.io.stats()));
    std::array::from_fn(|at| now[at] - before[at])
}

fn stream_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let before = cx.io.stats();
    for (near, far) in [cx.tcp_pair(), cx.unix_pair()] {
        exchange(cx, &near, &far, &Cx::pattern(100_003, 1));
        exchange(cx, &far, &near, b"x");
    }
    assert_eq!(bytes_since(cx, &before), [200_008, 200_008, 0, 0, 0]);
    Ok(())
}

fn part_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let before = cx.io.stats();
    let slab = cx.slab(1, 1000);
    let receiving = far.recv_all(slab.lease().expect("free")).submit().expect("room");
    for part in [1, 99, 900] {
        cx.block_on(write(&near, &Cx::pattern(part, 2)));
        idle_turns(cx);
    }
    assert_eq!(cx.block_on(receiving).expect("receiving").len(), 1000);
    assert_eq!(bytes_since(cx, &before), [1000, 1000, 0, 0, 0], "each part once");
    Ok(())
}

fn vectored_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let before = cx.io.stats();
    let spans = (1..=5).map(|len| span(&Cx::pattern(len * 10, 3))).collect();
    let sent = cx.block_on(near.send_vectored(spans)).expect("sending").bytes as u64;
    let slab = cx.slab(2, 80);
    let leases = (0..2).map(|_| slab.lease().expect("free")).collect();
    let got = cx.block_on(far.recv_vectored(leases)).expect("receiving");
    let got: usize = got.iter().map(|lease| lease.len()).sum();
    assert_eq!(bytes_since(cx, &before), [got as u64, sent, 0, 0, 0]);
    Ok(())
}

fn datagram_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let one = cx.io.bind_datagram("127.0.0.1:0", &dataplane::SocketOptions::new()).expect("bound");
    let two = cx.io.bind_datagram("127.0.0.1:0", &dataplane::SocketOptions::new()).expect("bound");
    let to = two.local_addr().expect("an address");
    let before = cx.io.stats();
    let slab = cx.slab(1, 64);
    for len in [0, 1, 50] {
        cx.block_on(one.send_to(span(&Cx::pattern(len, 4)), to.clone())).expect("sending");
        let got = cx.block_on(two.recv_from(slab.lease().expect("free"))).expect("receiving");
        assert_eq!(got.0.len(), len);
    }
    assert_eq!(bytes_since(cx, &before), [51, 51, 0, 0, 0]);
    Ok(())
}

fn pool_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(4, 64).expect("a pool");
    let before = cx.io.stats();
    for len in [1, 60] {
        cx.block_on(write(&near, &Cx::pattern(len, 5)));
        let mut left = len;
        while left > 0 {
            let got = cx.block_on(far.recv_pool(&pool)).expect("receiving").expect("no end");
            left -= got.len();
        }
    }
    assert_eq!(bytes_since(cx, &before), [61, 61, 0, 0, 0]);
    Ok(())
}

fn pool_stream_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(4, 64).expect("a pool");
    let before = cx.io.stats();
    let mut stream = far.receive_all(&pool).submit().expect("room");
    let bytes = Cx::pattern(1000, 6);
    let taking = async {
        let mut left = bytes.len();
        while left > 0 {
            left -= stream.next().await.expect("no end").expect("receiving").len();
        }
    };
    cx.block_on(async { join!(write(&near, &bytes), taking) });
    drop(stream);
    settled(cx, 2);
    assert_eq!(bytes_since(cx, &before), [1000, 1000, 0, 0, 0]);
    Ok(())
}

fn file_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("file");
    let options = OpenOptions::read_write().create(0o600);
    let file = cx.block_on(cx.io.open(path, options).expect("a path")).expect("made");
    let before = cx.io.stats();
    cx.block_on(file.write_at(span(&Cx::pattern(5000, 7)), 0)).expect("writing");
    let slab = cx.slab(1, 4000);
    for (offset, len) in [(0, 4000), (4000, 1000), (5000, 0)] {
        let got = cx.block_on(file.read_at(slab.lease().expect("free"), offset)).expect("reading");
        assert!(got.len() <= len);
    }
    let [received, sent, read, written, moved] = bytes_since(cx, &before);
    assert_eq!((received, sent, written, moved), (0, 0, 5000, 0));
    assert!((1..=5000).contains(&read), "{read}");
    assert_eq!(cx.io.stats().bytes_direct, 0, "through the page cache");
    Ok(())
}

fn direct_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("file");
    std::fs::write(&path, Cx::pattern(8192, 8)).expect("a file");
    let opening = cx.io.open(path, OpenOptions::read().direct()).expect("a path");
    let Ok(file) = cx.block_on(opening) else {
        return Err(Skip("this filesystem has no O_DIRECT".into()));
    };
    let before = cx.io.stats();
    let slab = cx.slab(1, 4096);
    let got = cx.block_on(file.read_at(slab.lease().expect("free"), 4096)).expect("reading");
    let (len, path) = (got.len() as u64, got.path());
    assert!(path.is_zero_copy(), "{path}");
    let after = cx.io.stats();
    assert_eq!(after.bytes_read - before.bytes_read, len);
    assert_eq!(after.bytes_direct - before.bytes_direct, len);
    Ok(())
}

fn transfer_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let path = cx.scratch_dir().join("file");
    std::fs::write(&path, Cx::pattern(100_000, 9)).expect("a file");
    let opening = cx.io.open(path, OpenOptions::read()).expect("a path");
    let file = cx.block_on(opening).expect("it is there");
    let (near, far) = cx.unix_pair();
    let before = cx.io.stats();
    let moving = near.transfer(&file, 0, 100_000).expect("a pipe").into_future();
    let slab = cx.slab(1, 1 << 16);
    let (moved, got) = cx.block_on(async { join!(moving, super::net::read(&far, &slab, 100_000)) });
    assert_eq!((moved.expect("transferring").bytes, got.len()), (100_000, 100_000));
    assert_eq!(bytes_since(cx, &before), [100_000, 0, 0, 0, 100_000], "counted once");
    Ok(())
}

fn cut_short(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    narrow(&near, &far);
    let before = cx.io.stats();
    let sending = near.send_all(span(&Cx::pattern(MUCH, 10))).submit().expect("room");
    idle_turns(cx);
    sending.cancel().expect("it waits for a reader");
    let failed = cx.block_on(sending).err().expect("it was cut short");
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    let told = failed.operation().map(|send| send.sent_bytes()).expect("it comes back");
    drop(failed);
    assert!(told > 0 && told < MUCH, "{told}");
    assert_eq!(bytes_since(cx, &before), [0, told as u64, 0, 0, 0], "what went out is counted");
    Ok(())
}

fn no_bytes(cx: &Cx<'_>) -> Result<(), Skip> {
    let before = cx.io.stats();
    let (near, far) = cx.tcp_pair();
    cx.block_on(near.ready(Interest::WRITABLE)).expect("room to send");
    cx.block_on(near.finish()).expect("shut down");
    let slab = cx.slab(1, 8);
    let end = cx.block_on(far.recv(slab.lease().expect("free"))).expect("receiving");
    assert!(end.is_empty());
    drop(end);
    assert_eq!(bytes_since(cx, &before), [0; 5], "numbers and bits are no bytes");
    Ok(())
}

fn timeouts(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.tcp_pair();
    let slab = cx.slab(2, 8);
    for count in 1..=2 {
        let lease = slab.lease().expect("free");
        let ended = cx.block_on(near.recv(lease).timeout(Duration::from_millis(2)));
        assert_eq!(ended.err().map(|failed| failed.kind()), Some(ErrorKind::TimedOut));
        assert_eq!(cx.io.stats().timed_out, count);
    }
    cx.block_on(cx.io.sleep_until(Instant::now())).expect("a timer");
    assert_eq!(cx.io.stats().timed_out, 2, "a timer that fires is no timeout");
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(1, 8);
    let receiving = near.recv(slab.lease().expect("free")).timeout(Duration::from_secs(5));
    let receiving = receiving.submit().expect("room");
    idle_turns(cx);
    let before = cx.io.stats();
    receiving.cancel().expect("it waits");
    assert!(cx.block_on(receiving).is_err());
    let after = cx.io.stats();
    assert_eq!((after.timed_out, after.completed - before.completed), (0, 1));
    Ok(())
}

fn wakes(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    for _ in 0..10 {
        handle.wake();
    }
    cx.io.poll(Wait::Now).expect("polls");
    cx.io.poll(Wait::Now).expect("polls");
    assert_eq!(cx.io.stats().wakes, 1, "ten before one poll are one");
    handle.wake();
    cx.io.poll(Wait::Forever).expect("polls");
    assert_eq!(cx.io.stats().wakes, 2);
    assert_eq!(cx.io.stats().bells, 0, "nobody slept");
    Ok(())
}

fn bells(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    let before = cx.io.stats().bells;
    let thread = std::thread::spawn(move || {
        // Long enough that the loop sleeps; if it does not, the wake is taken without a ring.
        std::thread::sleep(Duration::from_millis(10));
        handle.wake();
    });
    let mut delivered = 0;
    while cx.io.stats().wakes == 0 {
        delivered += cx.io.poll(Wait::Forever).expect("polls");
    }
    thread.join().expect("it only wakes");
    assert_eq!(delivered, 0);
    assert!(cx.io.stats().bells - before <= 1, "one wake is one ring at most");
    Ok(())
}

fn foreign(cx: &Cx<'_>) -> Result<(), Skip> {
    let before = cx.io.stats();
    beside(cx, |handle| {
        for _ in 0..5 {
            parked(handle.nop().into_future()).expect("a no-op");
        }
    });
    let after = cx.io.stats();
    assert_eq!(after.foreign_submissions - before.foreign_submissions, 5);
    assert_eq!(after.completed - before.completed, 5);
    Ok(())
}

fn from_elsewhere(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.block_on(cx.io.nop()).expect("a no-op");
    let here = cx.io.stats();
    let there = beside(cx, |handle| parked(handle.stats()).expect("the loop answers"));
    assert_eq!((there.completed, there.in_flight), (here.completed, here.in_flight));
    assert!(there.turns > here.turns, "read inside a poll");
    // Nobody waits for this one.
    drop(cx.io.handle().stats());
    cx.io.poll(Wait::Now).expect("polls");
    Ok(())
}

fn after_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second proactor");
    let handle = io.handle();
    let asked = handle.stats();
    drop(io);
    for call in [asked, handle.stats()] {
        let error = parked(call).expect_err("nobody is left to answer");
        assert_eq!(error.kind(), ErrorKind::ShutDown);
    }
    Ok(())
}

fn zero_copy(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    near.zero_copy(ZeroCopy::Always).expect("a policy");
    let before = cx.io.stats();
    exchange(cx, &near, &far, &Cx::pattern(50_000, 11));
    let stats = cx.io.stats();
    let notified = stats.zero_copy_sent + stats.zero_copy_copied;
    let has = cx.io.capabilities().contains(dataplane::Capability::ZeroCopySend);
    assert_eq!(notified > 0, has, "{stats:?}");
    assert_eq!(stats.copies_avoided(), stats.zero_copy_sent);
    assert_eq!(bytes_since(cx, &before)[1], 50_000, "a notification is no bytes");
    Ok(())
}

fn falls_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    near.zero_copy(ZeroCopy::Always).expect("a policy");
    exchange(cx, &near, &far, b"a Unix socket has no zero-copy send");
    exchange(cx, &near, &far, b"which is found out once");
    let fell_back = cx.io.stats().fell_back;
    let has = cx.io.capabilities().contains(dataplane::Capability::ZeroCopySend);
    assert!(fell_back <= 1 && (has || fell_back == 0), "{fell_back}");
    assert_eq!(cx.io.stats().zero_copy_sent, 0);
    Ok(())
}

fn helpers(cx: &Cx<'_>) -> Result<(), Skip> {
    let before = cx.io.stats();
    assert_eq!(before.helper_threads, 0, "they start on first use");
    let found = cx.block_on(cx.io.resolve("localhost:80"));
    if found.is_err() {
        return Err(Skip("localhost does not resolve here".into()));
    }
    let after = cx.io.stats();
    assert!(after.helper_threads >= 1);
    assert_eq!(after.helped - before.helped, 1);
    Ok(())
}

fn pool_empty(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let pool = cx.io.receive_pool(1, 16).expect("a pool");
    cx.block_on(write(&near, b"abcd"));
    let held = cx.block_on(far.recv_pool(&pool)).expect("receiving").expect("no end");
    let before = cx.io.stats().pool_dry;
    let mut waiting = far.recv_pool(&pool).submit().expect("room");
    cx.block_on(write(&near, b"efgh"));
    idle_turns(cx);
    assert!(waiting.try_take().is_none());
    assert!(cx.io.stats().pool_dry > before);
    drop(held);
    cx.block_on(waiting).expect("receiving").expect("no end");
    Ok(())
}

fn system_calls(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.io.poll(Wait::Now).expect("polls");
    let before = cx.io.stats();
    let nops: Vec<_> = (0..50).map(|_| cx.io.nop().submit().expect("room")).collect();
    cx.poll_until("the no-ops", || cx.io.stats().in_flight == 0);
    drop(nops);
    let after = cx.io.stats();
    let (enters, turns) = (after.enters - before.enters, after.turns - before.turns);
    assert!(enters <= turns, "{enters} system calls in {turns} turns: one each at most");
    assert_eq!(after.completed - before.completed, 50);
    Ok(())
}

fn monotonic(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut last = cx.io.stats();
    let (near, far) = cx.tcp_pair();
    for round in 0..5 {
        exchange(cx, &near, &far, &Cx::pattern(1 + round * 1000, 12));
        let now = cx.io.stats();
        for metric in Stats::METRICS {
            let grew = (metric.read)(&now) >= (metric.read)(&last);
            let grows = metric.kind == dataplane::MetricKind::Counter;
            assert!(grew || !grows, "{} went down", metric.name);
        }
        last = now;
    }
    Ok(())
}

fn table(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    exchange(cx, &near, &far, &Cx::pattern(999, 13));
    let stats = cx.io.stats();
    let read = |name: &str, label: Option<&str>| {
        let found = Stats::METRICS
            .iter()
            .find(|metric| metric.name == name && metric.label.map(|(_, value)| value) == label);
        found.map(|metric| (metric.read)(&stats))
    };
    assert_eq!(read("dataplane_completions_total", None), Some(stats.completed));
    assert_eq!(read("dataplane_bytes_total", Some("sent")), Some(999));
    assert_eq!(read("dataplane_bytes_total", Some("received")), Some(999));
    assert_eq!(read("dataplane_descriptors", None), Some(stats.descriptors as u64));
    assert_eq!(read("dataplane_no_such_thing", None), None);
    Ok(())
}
