//! Cancelling each kind of operation: it ends with Cancelled, gives back what it was given, and
//! leaves what it worked on as good as before.

use super::net::idle_turns;
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, HoldsBuffer, Interest, Local, Operation, SocketOptions, Submission};
use futures_util::StreamExt;
use futures_util::future::join_all;
use nix::sys::socket::{Backlog, listen};
use regions::{Slab, Span};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "cancel/accept", needs: &[], run: accept },
    Case { name: "cancel/incoming", needs: &[], run: incoming },
    Case { name: "cancel/connect", needs: &[], run: connect },
    Case { name: "cancel/recv", needs: &[], run: recv },
    Case { name: "cancel/recv_vectored", needs: &[], run: recv_vectored },
    Case { name: "cancel/recv_from", needs: &[], run: recv_from },
    Case { name: "cancel/recv_pool", needs: &[], run: recv_pool },
    Case { name: "cancel/receive_all", needs: &[], run: receive_all },
    Case { name: "cancel/ready", needs: &[], run: ready },
    Case { name: "cancel/readiness", needs: &[], run: readiness },
    Case { name: "cancel/pipe_read", needs: &[], run: pipe_read },
    Case { name: "cancel/nonblocking_read", needs: &[], run: nonblocking_read },
    Case { name: "cancel/queued_recv", needs: &[], run: queued_recv },
    Case { name: "cancel/twice", needs: &[], run: twice },
    Case { name: "cancel/everything", needs: &[], run: everything },
    Case { name: "cancel/everything_on_a_descriptor", needs: &[], run: on_a_descriptor },
    Case { name: "cancel/not_found_after_the_end", needs: &[], run: not_found },
];

fn cancelled<O: Operation>(cx: &Cx<'_>, submission: Submission<O>) -> dataplane::Failed<O> {
    cx.io.poll(dataplane::Wait::Now).expect("a poll");
    submission.cancel().expect("it is pending");
    let failed = cx.block_on(submission).err().expect("cancelled");
    cx.note(format!("{:?}", failed.kind()));
    assert_eq!(failed.kind(), ErrorKind::Cancelled, "{failed}");
    failed
}

/// Cancels a receive and looks at the slab: the buffer comes back with the operation.
fn cancelled_with_buffer<O>(cx: &Cx<'_>, submission: Submission<O>, slab: &Slab)
where
    O: Operation + HoldsBuffer,
{
    let available = slab.available();
    let failed = cancelled(cx, submission);
    assert_eq!(slab.available(), available, "the operation still has it");
    drop(failed.into_buffer().expect("it comes back"));
    assert_eq!(slab.available(), slab.slots());
}

/// A stream socket carries what is sent now.
fn assert_usable(cx: &Cx<'_>, from: &dataplane::Socket<Local>, to: &dataplane::Socket<Local>) {
    let slab = cx.slab(1, 16);
    let receiving = to.recv_all(slab.try_lease().expect("free")).submit().expect("room");
    let sent = cx.block_on(from.send_all(Span::from(vec![42u8; 16]))).expect("sent");
    let filled = cx.block_on(receiving).expect("received");
    assert_eq!((sent.bytes, &filled[..]), (16, &[42u8; 16][..]));
}

fn accept(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    cancelled(cx, listener.accept().submit().expect("room"));
    let to = listener.local_addr().expect("an address");
    let accepting = listener.accept().submit().expect("room");
    let client = cx.block_on(cx.io.connect(to)).expect("connecting");
    let server = cx.block_on(accepting).expect("the listener still accepts");
    assert_usable(cx, &client, &server);
    Ok(())
}

fn incoming(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let to = listener.local_addr().expect("an address");
    let mut incoming = listener.incoming().submit().expect("room");
    let _client = cx.block_on(cx.io.connect(to.clone())).expect("connecting");
    let _server = cx.block_on(incoming.next()).expect("one came").expect("accepted");
    incoming.cancel().expect("it is pending");
    let ended = cx.block_on(incoming.next()).expect("its end is told");
    cx.note(format!("{:?}", ended.as_ref().err().map(|error| error.kind())));
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(cx.block_on(incoming.next()).is_none(), "nothing after the end");
    let accepting = listener.accept().submit().expect("room");
    let _second = cx.block_on(cx.io.connect(to)).expect("connecting");
    cx.block_on(accepting).expect("the listener still accepts");
    Ok(())
}

/// A listener with no room for a second connection, and the one that takes the room: whoever
/// connects now waits.
pub(super) fn crowded() -> (TcpListener, std::net::TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listening");
    let none = Backlog::new(0).expect("a valid backlog");
    listen(&listener, none).expect("a smaller backlog");
    let to = listener.local_addr().expect("an address");
    let first = std::net::TcpStream::connect(to).expect("there is room for one");
    (listener, first)
}

fn connect(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, _first) = crowded();
    let to = listener.local_addr().expect("an address");
    let ended = cx.block_on(async {
        let connecting = cx.io.connect(to);
        let cancelling = async {
            let soon = Instant::now() + Duration::from_millis(1);
            cx.io.sleep_until(soon).await.expect("a timer");
            let dump = cx.io.in_flight();
            let found = dump.iter().find(|entry| entry.operation == "connect");
            cx.io.cancel(found.expect("it waits").id).expect("it is pending");
        };
        futures_util::future::join(connecting, cancelling).await.0
    });
    let error = ended.err().expect("cancelled");
    cx.note(format!("{:?}", error.kind()));
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    Ok(())
}

fn recv(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.tcp_pair();
    let slab = cx.slab(1, 64);
    let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
    cancelled_with_buffer(cx, receiving, &slab);
    assert_usable(cx, &far, &near);
    Ok(())
}

fn recv_vectored(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(3, 16);
    let leases = (0..3).map(|_| slab.lease().expect("free")).collect();
    let receiving = near.recv_vectored(leases).submit().expect("room");
    cancelled_with_buffer(cx, receiving, &slab);
    assert_usable(cx, &far, &near);
    Ok(())
}

fn recv_from(cx: &Cx<'_>) -> Result<(), Skip> {
    let options = SocketOptions::default();
    let socket = cx.io.bind_datagram("127.0.0.1:0", &options).expect("a datagram socket");
    let slab = cx.slab(1, 64);
    let receiving = socket.recv_from(slab.lease().expect("free")).submit().expect("room");
    cancelled_with_buffer(cx, receiving, &slab);
    let to = socket.local_addr().expect("an address");
    cx.block_on(socket.send_to(Span::from(b"self".to_vec()), to)).expect("sent");
    let receiving = socket.recv_from(slab.lease().expect("free"));
    cx.block_on(receiving).expect("the socket still receives");
    Ok(())
}

fn recv_pool(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(4, 64).expect("a pool");
    cancelled(cx, near.recv_pool(&pool).submit().expect("room"));
    cx.block_on(far.send_all(Span::from(b"pooled".to_vec()))).expect("sent");
    let filled = cx.block_on(near.recv_pool(&pool)).expect("received").expect("not the end");
    assert_eq!(&filled[..], b"pooled");
    Ok(())
}

fn receive_all(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(4, 64).expect("a pool");
    let mut stream = near.receive_all(&pool).submit().expect("room");
    cx.block_on(far.send_all(Span::from(b"first".to_vec()))).expect("sent");
    let first = cx.block_on(stream.next()).expect("an item").expect("received");
    assert_eq!(&first[..], b"first");
    stream.cancel().expect("it is pending");
    let ended = cx.block_on(stream.next()).expect("its end is told").unwrap_err();
    cx.note(format!("{:?}", ended.kind()));
    assert_eq!(ended.kind(), ErrorKind::Cancelled);
    assert!(cx.block_on(stream.next()).is_none(), "nothing after the end");
    assert_usable(cx, &far, &near);
    Ok(())
}

fn ready(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    cancelled(cx, near.ready(Interest::READABLE).submit().expect("room"));
    let waiting = near.ready(Interest::READABLE).submit().expect("room");
    cx.block_on(far.send_all(Span::from(vec![1u8]))).expect("sent");
    let seen = cx.block_on(waiting).expect("ready");
    assert!(seen.contains(Interest::READABLE));
    Ok(())
}

fn readiness(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let mut stream = near.readiness(Interest::READABLE).submit().expect("room");
    cx.io.poll(dataplane::Wait::Now).expect("a poll");
    stream.cancel().expect("it is pending");
    let ended = cx.block_on(stream.next()).expect("its end is told").unwrap_err();
    cx.note(format!("{:?}", ended.kind()));
    assert_eq!(ended.kind(), ErrorKind::Cancelled);
    Ok(())
}

fn pipe_read(cx: &Cx<'_>) -> Result<(), Skip> {
    let (reader, mut writer) = std::io::pipe().expect("two descriptors");
    let file = cx.io.adopt_file(reader).expect("room");
    let slab = cx.slab(1, 64);
    let reading = file.read(slab.lease().expect("free")).submit().expect("room");
    cancelled_with_buffer(cx, reading, &slab);
    std::io::Write::write_all(&mut writer, b"later").expect("a pipe has room");
    let filled = cx.block_on(file.read(slab.lease().expect("free"))).expect("read");
    assert_eq!(&filled[..], b"later", "the cancelled read took nothing");
    Ok(())
}

/// A terminal that is not to block: whoever waits for it all the same is called back.
fn nonblocking_read(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let terminal =
        options.open("/dev/ptmx").map_err(|error| Skip(format!("/dev/ptmx: {error}")))?;
    let file = cx.io.adopt_file(terminal).expect("room");
    let slab = cx.slab(1, 64);
    for _ in 0..2 {
        let reading = file.read(slab.lease().expect("free")).submit().expect("room");
        idle_turns(cx);
        cancelled_with_buffer(cx, reading, &slab);
    }
    Ok(())
}

fn queued_recv(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(3, 4);
    let mut queue: Vec<_> = (0..3)
        .map(|_| near.recv_all(slab.lease().expect("free")).submit().expect("room"))
        .collect();
    let second = queue.remove(1);
    let failed = cancelled(cx, second);
    drop(failed);
    cx.block_on(far.send_all(Span::from(b"firstone".to_vec()))).expect("sent");
    for filled in cx.block_on(join_all(queue)) {
        cx.note(String::from_utf8_lossy(&filled.expect("received")));
    }
    assert_eq!(slab.available(), 3);
    Ok(())
}

fn twice(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(1, 4);
    let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
    receiving.cancel().expect("it is pending");
    // It may or may not be over by now; asking again changes nothing.
    let again = receiving.cancel().map_err(|error| error.kind());
    assert!(matches!(again, Ok(()) | Err(ErrorKind::NotFound)), "{again:?}");
    let failed = cx.block_on(receiving).err().expect("cancelled");
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    Ok(())
}

fn everything(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(2, 4);
    let lease = || slab.lease().expect("free");
    let accepting = listener.accept().submit().expect("room");
    let one = near.recv(lease()).submit().expect("room");
    let two = near.recv(lease()).submit().expect("room");
    let later = Instant::now() + Duration::from_secs(60);
    let timer = cx.io.sleep_until(later).submit().expect("room");
    assert_eq!(cx.io.cancel_all().expect("cancelled"), 4);
    let kinds = cx.block_on(async {
        let accepted = accepting.await.err().map(|failed| failed.kind());
        let one = one.await.err().map(|failed| failed.kind());
        let two = two.await.err().map(|failed| failed.kind());
        [accepted, one, two, timer.await.err().map(|failed| failed.kind())]
    });
    assert_eq!(kinds, [Some(ErrorKind::Cancelled); 4]);
    assert_eq!((slab.available(), cx.io.stats().in_flight), (2, 0));
    assert_eq!(cx.io.cancel_all().expect("with nothing to do"), 0);
    Ok(())
}

fn on_a_descriptor(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(3, 4);
    let lease = || slab.lease().expect("free");
    let one = near.recv(lease()).submit().expect("room");
    let two = near.recv(lease()).submit().expect("room");
    let other = far.recv(lease()).submit().expect("room");
    assert_eq!(near.cancel_all().expect("cancelled"), 2);
    for ended in cx.block_on(join_all([one, two])) {
        assert_eq!(ended.err().expect("cancelled").kind(), ErrorKind::Cancelled);
    }
    cx.block_on(near.send_all(Span::from(vec![9u8]))).expect("near still sends");
    assert_eq!(cx.block_on(other).expect("not touched").len(), 1);
    assert_eq!(slab.available(), 3);
    let clone = near.clone();
    cx.block_on(near.close()).expect("closed");
    assert_eq!(clone.cancel_all().unwrap_err().kind(), ErrorKind::Closed);
    Ok(())
}

fn not_found(cx: &Cx<'_>) -> Result<(), Skip> {
    let mut submission = cx.io.nop().submit().expect("room");
    let id = submission.id();
    cx.poll_until("its end", || cx.io.stats().in_flight == 0);
    // Over, although nobody took the result yet.
    let late = submission.cancel().unwrap_err();
    cx.note(format!("{:?}", late.kind()));
    assert_eq!(late.kind(), ErrorKind::NotFound);
    assert!(submission.try_take().is_some_and(|ended| ended.is_ok()), "the result stays");
    assert_eq!(cx.io.cancel(id).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}
