//! What the network cases share: moving whole byte strings, and looking at what was left.
//!
//! Every helper works on the case's own proactor; none waits longer than [`Cx::block_on`] does.

use crate::Cx;
use dataplane::regions::{Slab, Span};
use dataplane::{ErrorKind, Failed, Socket, SocketOptions, ZeroCopy};

/// How many turns "nothing happens" is watched for where nothing may happen.
pub(super) const QUIET_TURNS: usize = 20;

/// A span of a copy of `bytes`.
pub(super) fn span(bytes: &[u8]) -> Span {
    Span::from(bytes.to_vec())
}

/// Receives exactly `len` bytes in as many receives as that takes, or what comes before the end.
pub(super) async fn read(socket: &Socket, slab: &Slab, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let mut lease = slab.lease().expect("a free slot");
        lease.truncate(len - bytes.len());
        let filled = socket.recv(lease).await.expect("receiving");
        if filled.is_empty() {
            break;
        }
        bytes.extend_from_slice(&filled);
    }
    bytes
}

/// Receives until the end of the stream.
pub(super) async fn read_to_end(socket: &Socket, slab: &Slab) -> Vec<u8> {
    read(socket, slab, usize::MAX >> 40).await
}

/// Sends all of `bytes`.
pub(super) async fn write(socket: &Socket, bytes: &[u8]) {
    let sent = socket.send_all(span(bytes)).await.expect("sending");
    assert_eq!(sent.bytes, bytes.len());
}

/// Sends on one and receives the same on the other.
pub(super) fn exchange(cx: &Cx<'_>, from: &Socket, to: &Socket, bytes: &[u8]) {
    let slab = cx.slab(1, 1 << 16);
    let both = async { futures_util::join!(write(from, bytes), read(to, &slab, bytes.len())) };
    let ((), received) = cx.block_on(both);
    assert!(received == bytes, "{} other bytes arrived", received.len());
    assert_eq!(slab.available(), 1);
}

/// Makes a connection hold little, so that [`MUCH`] bytes wait for a reader.
pub(super) fn narrow(from: &Socket, to: &Socket) {
    let options = SocketOptions::new().send_buffer_bytes(1 << 15);
    from.set_options(&options).expect("small buffers");
    to.set_options(&options).expect("small buffers");
    // Without zero-copy, whose results come only when the reader has read.
    from.zero_copy(ZeroCopy::Never).expect("a policy");
}

/// More bytes than fit between two [`narrow`] ends.
pub(super) const MUCH: usize = 400_000;

/// Turns in which nothing that was asked for is expected to happen.
pub(super) fn idle_turns(cx: &Cx<'_>) {
    if cx.options.sqpoll.is_some() {
        // The thread that submits takes entries in order: behind this one it has seen them all. A
        // proactor without room for it is refused, which is as good.
        drop(cx.block_on(cx.io.nop()));
    }
    for _ in 0..QUIET_TURNS {
        cx.io.poll(dataplane::Wait::Now).expect("polling");
    }
}

/// Waits until nothing is in flight and only `descriptors` are open.
pub(super) fn settled(cx: &Cx<'_>, descriptors: usize) {
    cx.poll_until("what was dropped to be gone", || {
        let stats = cx.io.stats();
        stats.in_flight == 0 && stats.descriptors == descriptors
    });
}

/// Why an operation failed.
pub(super) fn why<T, O>(result: Result<T, Failed<O>>) -> Option<ErrorKind> {
    result.err().map(|failed| failed.kind())
}

/// Closes it so that the peer's connection is reset.
pub(super) fn reset(socket: Socket) {
    let abort = SocketOptions::new().linger(Some(std::time::Duration::ZERO));
    socket.set_options(&abort).expect("linger on a TCP socket");
    drop(socket);
}
