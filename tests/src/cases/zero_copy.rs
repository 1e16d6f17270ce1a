//! Zero-copy sends: the policies, what the path report says, and when a buffer may be used again.
//!
//! Which path was taken differs between configurations, so nothing here notes it; that the report
//! fits the policy, the capability and the counters is what is shown.
//!
//! # Unsafe
//!
//! One case sends from a page that the kernel maps into every process and never takes away.

#![allow(unsafe_code)]

use super::net::{MUCH, idle_turns, read, settled, span, why, write};
use crate::{Case, Cx, Skip};
use dataplane::regions::{Access, Region, Slab, SpanList};
use dataplane::{Capability, CopyReason, ErrorKind, Mechanism, Path, Socket, ZeroCopy};
use futures_util::future::join_all;
use futures_util::join;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ptr::NonNull;

const ZERO_COPY: &[Capability] = &[Capability::ZeroCopySend];

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "zero_copy/always", needs: &[], run: always },
    Case { name: "zero_copy/never", needs: &[], run: never },
    Case { name: "zero_copy/auto_small", needs: &[], run: auto_small },
    Case { name: "zero_copy/auto_large", needs: &[], run: auto_large },
    Case { name: "zero_copy/require", needs: &[], run: require },
    Case { name: "zero_copy/policy_of_a_closed_socket", needs: &[], run: closed_socket },
    Case { name: "zero_copy/registered_memory", needs: &[], run: registered_memory },
    Case { name: "zero_copy/vectored", needs: &[], run: vectored },
    Case { name: "zero_copy/vectored_registered", needs: &[], run: vectored_registered },
    Case { name: "zero_copy/order_of_many", needs: &[], run: order_of_many },
    Case { name: "zero_copy/order_when_mixed", needs: &[], run: order_when_mixed },
    Case { name: "zero_copy/slow_reader", needs: &[], run: slow_reader },
    Case { name: "zero_copy/buffer_comes_back", needs: &[], run: buffer_comes_back },
    Case { name: "zero_copy/buffer_waits_for_the_kernel", needs: ZERO_COPY, run: buffer_waits },
    Case { name: "zero_copy/dropped_in_flight", needs: &[], run: dropped_in_flight },
    Case { name: "zero_copy/cancelled", needs: &[], run: cancelled },
    Case { name: "zero_copy/peer_gone", needs: &[], run: peer_gone },
    Case { name: "zero_copy/closed_in_flight", needs: &[], run: closed_in_flight },
    Case { name: "zero_copy/over_unix", needs: &[], run: over_unix },
    Case { name: "zero_copy/cut_off_in_a_chain", needs: &[], run: cut_off },
    Case { name: "zero_copy/called_back_in_a_chain", needs: &[], run: called_back },
    Case { name: "zero_copy/memory_that_cannot_be_pinned", needs: &[], run: unpinnable },
];

fn supported(cx: &Cx<'_>) -> bool {
    cx.io.capabilities().contains(Capability::ZeroCopySend)
}

fn pair(cx: &Cx<'_>, policy: ZeroCopy) -> (Socket, Socket) {
    let (client, server) = cx.tcp_pair();
    client.zero_copy(policy).expect("a policy");
    (client, server)
}

/// Sends `bytes`, checks that they arrive, and says which way they went.
fn path_of(cx: &Cx<'_>, client: &Socket, server: &Socket, bytes: &[u8]) -> Path {
    let slab = cx.slab(1, 1 << 16);
    let sending = client.send_all(span(bytes)).into_future();
    let (sent, got) = cx.block_on(async { join!(sending, read(server, &slab, bytes.len())) });
    assert!(got == bytes);
    let sent = sent.expect("sending");
    assert_eq!(sent.bytes, bytes.len());
    sent.path
}

fn is_attempt(path: Path) -> bool {
    use Mechanism as M;
    matches!(
        path.mechanism,
        M::SendZeroCopy
            | M::SendZeroCopyFixed
            | M::SendMessageZeroCopy
            | M::SendMessageZeroCopyFixed
    )
}

/// The path of a send that asked for no copy fits what this proactor can do.
fn check_asked(cx: &Cx<'_>, path: Path) {
    match supported(cx) {
        true => {
            assert!(is_attempt(path), "{path}");
            assert!(matches!(path.copied, None | Some(CopyReason::KernelCopied)), "{path}");
        }
        false => {
            assert!(!is_attempt(path), "{path}");
            assert_eq!(path.copied, Some(CopyReason::Unsupported));
        }
    }
}

fn always(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    for len in [1, 1000, 100_000] {
        check_asked(cx, path_of(cx, &client, &server, &Cx::pattern(len, 1)));
    }
    let stats = cx.io.stats();
    let notified = stats.zero_copy_sent + stats.zero_copy_copied;
    assert_eq!(notified > 0, supported(cx), "{notified} notifications");
    Ok(())
}

fn never(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Never);
    let path = path_of(cx, &client, &server, &Cx::pattern(100_000, 2));
    let reason = if supported(cx) { CopyReason::NotAsked } else { CopyReason::Unsupported };
    assert_eq!((path.mechanism, path.copied), (Mechanism::Send, Some(reason)));
    assert_eq!(cx.io.stats().zero_copy_sent + cx.io.stats().zero_copy_copied, 0);
    Ok(())
}

fn auto_small(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let path = path_of(cx, &client, &server, b"small");
    let reason = if supported(cx) { CopyReason::BelowThreshold } else { CopyReason::Unsupported };
    assert_eq!(path.copied, Some(reason));
    Ok(())
}

fn auto_large(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    check_asked(cx, path_of(cx, &client, &server, &Cx::pattern(200_000, 3)));
    Ok(())
}

fn require(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    if !supported(cx) {
        let error = client.zero_copy(ZeroCopy::Require).expect_err("it cannot be had");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        cx.note("unavailable");
        return Ok(());
    }
    client.zero_copy(ZeroCopy::Require).expect("a policy");
    let slab = cx.slab(1, 5000);
    let lease = slab.lease().expect("a slot");
    let reading = cx.slab(1, 5000);
    let sending = client.send_all(lease.freeze()).into_future();
    let (sent, got) = cx.block_on(async { join!(sending, read(&server, &reading, 5000)) });
    assert_eq!(got.len(), 5000, "loopback delivers what it copied");
    let failed = sent.expect_err("loopback copies");
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    assert_eq!(failed.operation().map(|send| send.sent_bytes()), Some(5000));
    drop(failed);
    assert_eq!(slab.available(), 1);
    cx.note("unavailable");
    Ok(())
}

fn closed_socket(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, _server) = cx.tcp_pair();
    let other = client.clone();
    cx.block_on(client.close()).expect("closing");
    let error = other.zero_copy(ZeroCopy::Always).expect_err("it is closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    Ok(())
}

fn filled(slab: &Slab, byte: u8) -> dataplane::regions::Span {
    let mut lease = slab.lease().expect("a slot");
    lease.fill(byte);
    lease.freeze()
}

fn registered_memory(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(4, 1 << 15);
    let reading = cx.slab(1, 1 << 16);
    let registered = cx.io.register_slab(&slab);
    assert!(registered.is_ok() || supported_without_buffers(cx), "{registered:?}");
    for byte in 0..8u8 {
        // Sometimes a part of the slot only.
        let bytes = filled(&slab, byte).slice(byte as usize * 100..).expect("within the slot");
        let len = bytes.len();
        let sending = client.send_all(bytes).into_future();
        let (sent, got) = cx.block_on(async { join!(sending, read(&server, &reading, len)) });
        assert!(got.len() == len && got.iter().all(|got| *got == byte));
        let path = sent.expect("sending").path;
        check_asked(cx, path);
        let fixed = path.mechanism == Mechanism::SendZeroCopyFixed;
        let registers = cx.io.capabilities().contains(Capability::RegisteredBuffers);
        let on_ring = cx.io.backend() == dataplane::Backend::IoUring;
        assert_eq!(fixed, registers && supported(cx) && on_ring, "{path}");
    }
    assert_eq!(slab.available(), 4);
    Ok(())
}

fn supported_without_buffers(cx: &Cx<'_>) -> bool {
    !cx.io.capabilities().contains(Capability::RegisteredBuffers)
}

fn vectored(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(1, 1 << 16);
    for pieces in [2, 8, 9, 64] {
        let bytes = Cx::pattern(pieces * 1500, pieces as u64);
        let list: SpanList = bytes.chunks(1500).map(span).collect();
        let sending = client.send_vectored(list).into_future();
        let (sent, got) = cx.block_on(async { join!(sending, read(&server, &slab, bytes.len())) });
        let sent = sent.expect("sending");
        check_asked(cx, sent.path);
        assert!(got == bytes && sent.bytes == bytes.len());
    }
    Ok(())
}

/// Vectors of one registered buffer go out as such; one foreign vector among them and they do not.
fn vectored_registered(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(4, 1 << 14);
    let reading = cx.slab(1, 1 << 16);
    let registered = cx.io.register_slab(&slab);
    assert!(registered.is_ok() || supported_without_buffers(cx), "{registered:?}");
    for (parts, foreign) in [(1, false), (4, false), (12, false), (4, true)] {
        let whole = filled(&slab, parts as u8 + 1);
        let step = whole.len() / parts;
        let mut list: SpanList =
            (0..parts).map(|i| whole.slice(i * step..(i + 1) * step).expect("inside")).collect();
        if foreign {
            list.push(span(&[parts as u8 + 1; 100])).expect("room");
        }
        let len = list.total_bytes();
        let sending = client.send_vectored(list).into_future();
        let (sent, got) = cx.block_on(async { join!(sending, read(&server, &reading, len)) });
        assert!(got.len() == len && got.iter().all(|got| *got == parts as u8 + 1));
        let path = sent.expect("sending").path;
        check_asked(cx, path);
        let fixed = path.mechanism == Mechanism::SendMessageZeroCopyFixed;
        let able = cx.io.capabilities().contains(Capability::VectoredFixed)
            && cx.io.capabilities().contains(Capability::RegisteredBuffers);
        assert_eq!(fixed, able && supported(cx) && !foreign, "{path}");
    }
    assert_eq!(slab.available(), 4);
    Ok(())
}

fn order_of_many(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(32 * 9000, 4);
    let sends: Vec<_> = bytes
        .chunks(9000)
        .map(|part| client.send_all(span(part)).submit().expect("room for 32 sends"))
        .collect();
    let (sent, got) =
        cx.block_on(async { join!(join_all(sends), read(&server, &slab, bytes.len())) });
    assert!(sent.into_iter().all(|sent| sent.expect("sending").bytes == 9000));
    assert!(got == bytes, "bytes out of order");
    Ok(())
}

fn order_when_mixed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(32 * 9000, 5);
    let (mut whole, mut gathered) = (Vec::new(), Vec::new());
    for (i, part) in bytes.chunks(9000).enumerate() {
        let policy = [ZeroCopy::Always, ZeroCopy::Never][i % 2];
        client.zero_copy(policy).expect("a policy");
        match i % 3 {
            0 => whole.push(client.send_more(span(part)).submit().expect("room")),
            1 => whole.push(client.send_all(span(part)).submit().expect("room")),
            _ => {
                let list: SpanList = part.chunks(2000).map(span).collect();
                gathered.push(client.send_vectored(list).submit().expect("room"));
            }
        }
        // Some are with the kernel already when the others are submitted.
        if i % 8 == 0 {
            cx.io.flush().expect("flushing");
        }
    }
    let (whole, gathered, got) = cx.block_on(async {
        join!(join_all(whole), join_all(gathered), read(&server, &slab, bytes.len()))
    });
    assert!(whole.into_iter().all(|sent| sent.expect("sending").bytes == 9000));
    assert!(gathered.into_iter().all(|sent| sent.expect("sending").bytes == 9000));
    assert!(got == bytes, "bytes out of order");
    Ok(())
}

fn slow_reader(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    super::net::narrow(&client, &server);
    client.zero_copy(ZeroCopy::Always).expect("a policy");
    let bytes = Cx::pattern(MUCH, 6);
    let mut sending = client.send_all(span(&bytes)).submit().expect("room");
    idle_turns(cx);
    assert!(sending.try_take().is_none(), "nobody reads yet");
    let slab = cx.slab(1, 1 << 16);
    let (sent, got) = cx.block_on(async { join!(sending, read(&server, &slab, MUCH)) });
    assert_eq!(sent.expect("sending").bytes, MUCH);
    assert!(got == bytes);
    Ok(())
}

fn buffer_comes_back(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(1, 4096);
    let reading = cx.slab(1, 4096);
    for byte in 0..20u8 {
        // A buffer given back too early would be filled with the next byte while it is sent.
        let sending = client.send_all(filled(&slab, byte)).into_future();
        let (sent, got) = cx.block_on(async { join!(sending, read(&server, &reading, 4096)) });
        sent.expect("sending");
        assert!(got.iter().all(|got| *got == byte) && got.len() == 4096);
        assert_eq!(slab.available(), 1);
    }
    Ok(())
}

fn buffer_waits(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(1, 4096);
    let mut sending = client.send_all(filled(&slab, 9)).submit().expect("room");
    let reading = cx.slab(1, 4096);
    idle_turns(cx);
    // The result may be there; over loopback the notification comes when the peer has read.
    let early = sending.try_take().is_some();
    assert_eq!(slab.available() == 1, early, "the buffer is free when the send is over");
    assert!(cx.block_on(read(&server, &reading, 4096)).iter().all(|byte| *byte == 9));
    if !early {
        cx.block_on(sending).expect("sending");
    }
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn dropped_in_flight(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(4, 1 << 16);
    for byte in 0..4u8 {
        let sending = client.send_all(filled(&slab, byte)).submit().expect("room");
        idle_turns(cx);
        drop(sending);
    }
    cx.block_on(client.close()).expect("closing");
    let reading = cx.slab(1, 1 << 16);
    let got = cx.block_on(super::net::read_to_end(&server, &reading));
    assert!(got.is_sorted(), "whatever got out is in order");
    settled(cx, 1);
    assert_eq!(slab.available(), 4, "every buffer comes back");
    Ok(())
}

fn cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let bytes = Cx::pattern(8 << 20, 7);
    let mut sending = client.send_all(span(&bytes)).submit().expect("room");
    idle_turns(cx);
    assert!(sending.try_take().is_none(), "nobody reads yet");
    sending.cancel().expect("it is pending");
    let slab = cx.slab(1, 1 << 16);
    // The notification comes when what got out has been read.
    let finish = async {
        let ended = sending.await;
        client.finish().await.expect("finishing");
        ended
    };
    let (ended, got) =
        cx.block_on(async { join!(finish, super::net::read_to_end(&server, &slab)) });
    let failed = ended.expect_err("not all of it fits");
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    assert_eq!(failed.operation().map(|send| send.sent_bytes()), Some(got.len()));
    assert!(got == bytes[..got.len()]);
    Ok(())
}

fn peer_gone(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(1, 4096);
    super::net::reset(server);
    settled(cx, 1);
    let ended = cx.block_on(client.send_all(filled(&slab, 1)));
    let failed = match ended {
        Err(failed) => failed,
        // The reset was still on its way.
        Ok(_) => {
            cx.block_on(client.send_all(filled(&slab, 1))).expect_err("there is nobody any more")
        }
    };
    assert_eq!(failed.kind(), ErrorKind::Disconnected);
    assert!(failed.operation().is_some());
    drop(failed);
    settled(cx, 1);
    assert_eq!(slab.available(), 1, "the buffer of a failed send comes back");
    Ok(())
}

fn closed_in_flight(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = pair(cx, ZeroCopy::Always);
    let bytes = Cx::pattern(8 << 20, 8);
    let sends: Vec<_> =
        (0..3).map(|_| client.send_all(span(&bytes)).submit().expect("room")).collect();
    idle_turns(cx);
    drop(client);
    let slab = cx.slab(1, 1 << 16);
    let (ended, got) =
        cx.block_on(async { join!(join_all(sends), super::net::read_to_end(&server, &slab)) });
    for ended in ended {
        assert_eq!(why(ended), Some(ErrorKind::Closed));
    }
    assert!(got == bytes[..got.len()], "what got out is a beginning");
    settled(cx, 1);
    Ok(())
}

fn over_unix(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = cx.unix_pair();
    one.zero_copy(ZeroCopy::Always).expect("a policy");
    let slab = cx.slab(1, 1 << 16);
    let bytes = Cx::pattern(100_000, 9);
    let sending = one.send_all(span(&bytes)).into_future();
    let (sent, got) = cx.block_on(async { join!(sending, read(&two, &slab, bytes.len())) });
    let path = sent.expect("Unix sockets have no zero-copy, so it is copied").path;
    assert!(got == bytes);
    assert!(!path.is_zero_copy(), "{path}");
    let list: SpanList = bytes.chunks(20_000).map(span).collect();
    let sending = one.send_vectored(list).into_future();
    let (sent, got) = cx.block_on(async { join!(sending, read(&two, &slab, bytes.len())) });
    assert!(got == bytes && !sent.expect("sending").path.is_zero_copy());
    cx.block_on(write(&two, b"the other way"));
    Ok(())
}

/// Notifications that came.
fn notified(cx: &Cx<'_>) -> u64 {
    let stats = cx.io.stats();
    stats.zero_copy_copied + stats.zero_copy_sent
}

/// A step that the kernel had and never began is over when its memory is free, and nothing was sent
/// without a copy, or with one.
fn cut_off(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(2, 1 << 16);
    for turns in [0, 20] {
        let (near, _far) = pair(cx, ZeroCopy::Always);
        let (gate, _opener) = cx.unix_pair();
        let before = notified(cx);
        let waits = gate.recv(slab.lease().expect("a slot"));
        let steps = cx.io.sequence().then(waits).send_all(&near, filled(&slab, 7));
        let running = steps.submit().expect("room");
        for _ in 0..turns {
            cx.io.poll(dataplane::Wait::Now).expect("a turn");
        }
        running.cancel().expect("it runs");
        let failed = cx.block_on(running).err().expect("cancelled");
        assert_eq!(failed.kind(), ErrorKind::Cancelled);
        drop(failed);
        drop((near, gate));
        cx.poll_until("both slots to be free", || slab.available() == 2);
        assert_eq!(notified(cx), before, "of nothing that began");
    }
    Ok(())
}

/// A step that the loop takes over from the kernel sends once, and its memory is free when its own
/// notification has come. Everything it needs is there when it is taken over, so that it begins
/// before the notification of what was cut off.
fn called_back(cx: &Cx<'_>) -> Result<(), Skip> {
    const BYTES: usize = 4 << 10;
    let slab = cx.slab(4, BYTES);
    for _ in 0..4 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("a name")).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        let near = cx.io.adopt_socket(near).expect("room");
        near.zero_copy(ZeroCopy::Always).expect("a policy");
        let before = notified(cx);
        let waits = near.recv(slab.lease().expect("a slot"));
        let steps = cx.io.sequence().then(waits).send_all(&near, filled(&slab, 8));
        let running = steps.submit().expect("room");
        idle_turns(cx);
        far.write_all(b"answer").expect("room");
        let asking = near.send_all(filled(&slab, 9)).submit().expect("room");
        let (finished, asked) = cx.block_on(async { join!(running, asking) });
        drop((finished.expect("answered"), asked.expect("sent")));
        let mut got = vec![0; 2 * BYTES];
        far.read_exact(&mut got).expect("all of it");
        let (first, second) = got.split_at(BYTES);
        let whole = |part: &[u8]| part.iter().all(|&byte| byte == part[0]);
        assert!(whole(first) && whole(second) && first[0] + second[0] == 17, "both, and whole");
        cx.poll_until("every slot to be free", || slab.available() == 4);
        if cx.options.faults.is_none() {
            assert_eq!(notified(cx) - before, if supported(cx) { 2 } else { 0 });
        }
    }
    Ok(())
}

/// The page of the kernel's clocks, which belongs to no memory that could be pinned: as that of a
/// device, a dma-buf for example.
fn clocks() -> Result<Region, Skip> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc");
    let line = maps.lines().find(|line| line.ends_with("[vvar]"));
    let start = line.and_then(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
    let start = start.and_then(|start| NonNull::new(start as *mut u8));
    let start = start.ok_or_else(|| Skip("the kernel maps no page of its own here".to_owned()))?;
    // SAFETY: mapped for as long as the process runs, and read by the kernel alone here.
    let region = unsafe { Region::foreign(start, 4096, Access::READ, || ()) };
    Ok(region.expect("a page"))
}

/// It is copied, and the report says why; where a copy is forbidden, nothing is sent.
fn unpinnable(cx: &Cx<'_>) -> Result<(), Skip> {
    let page = clocks()?;
    let (client, server) = pair(cx, ZeroCopy::Always);
    let slab = cx.slab(1, 1 << 16);
    for turn in 0..3 {
        let sending = match turn {
            0 => client.send(page.span(..).expect("all of it")).into_future(),
            _ => client.send_all(page.span(..).expect("all of it")).into_future(),
        };
        let (sent, got) = cx.block_on(async { join!(sending, read(&server, &slab, 4096)) });
        let path = sent.expect("it is copied").path;
        assert_eq!(got.len(), 4096);
        let reason = if supported(cx) { CopyReason::NotPinned } else { CopyReason::Unsupported };
        assert_eq!((path.mechanism, path.copied), (Mechanism::Send, Some(reason)));
    }
    let list =
        SpanList::from_iter([page.span(..64).expect("some"), page.span(64..).expect("more")]);
    let sending = client.send_vectored(list).into_future();
    let (sent, got) = cx.block_on(async { join!(sending, read(&server, &slab, 4096)) });
    assert!(!sent.expect("it is copied").path.is_zero_copy());
    assert_eq!(got.len(), 4096);
    if supported(cx) {
        client.zero_copy(ZeroCopy::Require).expect("a policy");
        let refused = cx.block_on(client.send(page.span(..).expect("all of it")));
        assert_eq!(refused.err().expect("no copy is allowed").error.errno(), Some(libc::EFAULT));
        assert_eq!(cx.io.stats().zero_copy_sent, 0, "a failure is no success");
    }
    Ok(())
}
