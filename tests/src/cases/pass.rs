//! Passing memory and descriptors over Unix sockets, and refusing what is not what it should be.
//!
//! Unsafe code: passing a slab is a promise about who writes which slot; here one thread does.
#![allow(unsafe_code)]

use super::net::{exchange, settled};
use crate::{Case, Cx, Skip};
use dataplane::{
    Error, ErrorKind, File, PASS_HEADER_BYTES, Pass, PassKind, PassedEvent, PassedSlab, Socket,
};
use futures_util::future::{FutureExt, join};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use regions::{Region, Slab};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "pass/region", needs: &[], run: region },
    Case { name: "pass/region_outlives_its_maker", needs: &[], run: region_outlives },
    Case { name: "pass/region_is_passed_on", needs: &[], run: region_is_passed_on },
    Case { name: "pass/slab", needs: &[], run: slab },
    Case { name: "pass/slab_is_used_for_io", needs: &[], run: slab_is_used_for_io },
    Case { name: "pass/socket", needs: &[], run: socket },
    Case { name: "pass/listener", needs: &[], run: listener },
    Case { name: "pass/file_shares_its_position", needs: &[], run: file },
    Case { name: "pass/event", needs: &[], run: event },
    Case { name: "pass/in_order", needs: &[], run: in_order },
    Case { name: "pass/over_seqpacket", needs: &[], run: over_seqpacket },
    Case { name: "pass/waits_for_the_peer", needs: &[], run: waits_for_the_peer },
    Case { name: "pass/waits_for_room", needs: &[], run: waits_for_room },
    Case { name: "pass/a_dropped_receive_takes_nothing", needs: &[], run: dropped_receive },
    Case { name: "pass/wrong_kind_is_closed", needs: &[], run: wrong_kind },
    Case { name: "pass/slabs_memory_as_a_region", needs: &[], run: slabs_memory },
    Case { name: "pass/memory_that_is_no_memfd", needs: &[], run: no_memfd },
    Case { name: "pass/not_what_it_is_called", needs: &[], run: not_what_it_is_called },
    Case { name: "pass/not_over_tcp", needs: &[], run: not_over_tcp },
    Case { name: "pass/closed_while_waiting", needs: &[], run: closed_while_waiting },
    Case { name: "pass/peer_is_gone", needs: &[], run: peer_is_gone },
    Case { name: "pass/peer_went_after_passing", needs: &[], run: went_after_passing },
];

fn pass(cx: &Cx<'_>, over: &Socket, what: &Pass) {
    cx.block_on(Box::pin(over.pass(what))).expect("passing");
}

pub(super) fn receive<T: dataplane::Passed>(cx: &Cx<'_>, over: &Socket) -> Result<T, Error> {
    cx.block_on(Box::pin(over.receive_passed()))
}

pub(super) fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

/// A socket of the proactor's and the bare other end, for what no decent peer sends.
pub(super) fn hostile_pair(cx: &Cx<'_>) -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("two descriptors");
    (cx.io.adopt_socket(ours).expect("room"), theirs)
}

/// A descriptor and the other end that sees when every copy of it is closed.
pub(super) fn witness() -> (OwnedFd, UnixStream) {
    let (one, two) = UnixStream::pair().expect("two descriptors");
    two.set_nonblocking(true).expect("a socket");
    (one.into(), two)
}

pub(super) fn assert_closed(mut witness: UnixStream) {
    assert_eq!(witness.read(&mut [0; 1]).expect("the end"), 0, "a copy is open");
}

fn region(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let made = Region::memfd(10_000).expect("memory");
    made.copy_in(9_990, b"here").expect("in range");
    pass(cx, &near, &Pass::region(&made).expect("a memfd"));
    let got: Region = receive(cx, &far).expect("a region");
    assert_eq!(got.len_bytes(), 10_000);
    assert!(!got.is_private() && !made.is_private(), "both can write it");
    assert!(got.span(..).expect("in range").bytes().is_err(), "no slice over it");
    let mut bytes = [0; 4];
    got.copy_out(9_990, &mut bytes).expect("in range");
    assert_eq!(&bytes, b"here");
    got.copy_in(0, b"back").expect("in range");
    made.copy_out(0, &mut bytes).expect("in range");
    assert_eq!(&bytes, b"back", "it is the same memory");
    Ok(())
}

fn region_outlives(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let made = Region::memfd(4096).expect("memory");
    made.copy_in(0, b"left").expect("in range");
    let passed = Pass::region(&made).expect("a memfd");
    drop(made);
    pass(cx, &near, &passed);
    drop((near, passed));
    let got: Region = receive(cx, &far).expect("a region");
    let mut bytes = [0; 4];
    got.copy_out(0, &mut bytes).expect("in range");
    assert_eq!(&bytes, b"left");
    Ok(())
}

fn region_is_passed_on(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let made = Region::memfd(4096).expect("memory");
    pass(cx, &near, &Pass::region(&made).expect("a memfd"));
    let got: Region = receive(cx, &far).expect("a region");
    pass(cx, &far, &Pass::region(&got).expect("still a memfd"));
    let again: Region = receive(cx, &near).expect("a region");
    again.copy_in(1, b"x").expect("in range");
    let mut byte = [0];
    made.copy_out(1, &mut byte).expect("in range");
    assert_eq!(&byte, b"x");
    Ok(())
}

/// Passes a slab from one socket to the other.
fn slab_over(cx: &Cx<'_>, slab: &Slab) -> PassedSlab {
    let (near, far) = cx.unix_pair();
    // SAFETY: this thread alone has both ends, and writes no slot that is leased on the other.
    let passed = unsafe { Pass::slab(slab) }.expect("a slab has a memfd");
    assert_eq!(passed.kind(), PassKind::Slab);
    pass(cx, &near, &passed);
    receive(cx, &far).expect("a slab")
}

fn slab(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(4, 5000);
    let got = slab_over(cx, &slab);
    assert_eq!((got.slots(), got.slot_bytes()), (4, 5000));
    assert!(!slab.region().is_private() && !got.region().is_private());
    // SAFETY: each slot is leased on one side at a time below.
    let theirs = unsafe { got.into_slab() }.expect("a slab");
    assert_eq!((theirs.slots(), theirs.stride_bytes()), (4, slab.stride_bytes()));
    let small = slab_over(cx, &cx.slab(3, 100));
    // SAFETY: nobody leases it on the other side.
    let small = unsafe { small.into_slab() }.expect("a slab");
    assert_eq!(small.slots(), 3, "what pads the page is no slot");
    let mut leases: Vec<_> = (0..4).map(|_| theirs.lease().expect("free")).collect();
    for (n, lease) in leases.iter_mut().enumerate() {
        lease.fill(n as u8);
    }
    drop(leases);
    let ours: Vec<_> = (0..4).map(|_| slab.lease().expect("free")).collect();
    let mut seen: Vec<u8> = ours.iter().map(|lease| lease[4999]).collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3], "what the other side wrote");
    Ok(())
}

fn slab_is_used_for_io(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(2, 4096);
    let got = slab_over(cx, &slab);
    got.region().copy_in(0, b"hello").expect("received memory is not leased");
    let span = got.region().span(..5).expect("in range");
    let (near, far) = cx.unix_pair();
    let into = cx.slab(1, 16);
    let receiving = far.recv_all({
        let mut lease = into.lease().expect("free");
        lease.truncate(5);
        lease
    });
    let (sent, filled) = cx.block_on(async {
        futures_util::join!(async { near.send_all(span).await }, async { receiving.await })
    });
    assert_eq!(sent.expect("sending").bytes, 5);
    assert_eq!(&filled.expect("receiving")[..], b"hello");
    Ok(())
}

fn socket(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let (client, server) = cx.tcp_pair();
    pass(cx, &near, &Pass::socket(&server).expect("a socket"));
    drop(server);
    let server: Socket = receive(cx, &far).expect("a socket");
    exchange(cx, &client, &server, b"through what was passed");
    exchange(cx, &server, &client, b"and back");
    drop((client, server, near, far));
    settled(cx, 0);
    Ok(())
}

fn listener(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let listener = cx.io.listen("127.0.0.1:0").expect("listening");
    let to = listener.local_addr().expect("an address");
    pass(cx, &near, &Pass::socket(&listener).expect("a socket"));
    drop(listener);
    let listener: Socket = receive(cx, &far).expect("a socket");
    let accepting = listener.accept().submit().expect("room");
    let (client, server) = cx.block_on(join(cx.io.connect(to), accepting));
    exchange(cx, &client.expect("connecting"), &server.expect("accepting"), b"x");
    Ok(())
}

fn file(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let path = cx.scratch_dir().join("file");
    std::fs::write(&path, b"0123456789").expect("a file");
    let mut bare = std::fs::File::open(&path).expect("a file");
    let file = cx.io.adopt_file(bare.try_clone().expect("a descriptor")).expect("room");
    pass(cx, &near, &Pass::file(&file).expect("a file"));
    let got: File = receive(cx, &far).expect("a file");
    assert_eq!(got.size_bytes().expect("a size"), 10);
    bare.seek(SeekFrom::Start(7)).expect("a position");
    let slab = cx.slab(1, 16);
    let read = cx.block_on(got.read(slab.lease().expect("free"))).expect("reading");
    assert_eq!(&read[..], b"789", "the position is the open file's");
    Ok(())
}

fn event(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let made = EventFd::new().expect("a descriptor");
    pass(cx, &near, &Pass::event(&made).expect("an event"));
    let got: PassedEvent = receive(cx, &far).expect("an event");
    made.write(41).expect("room");
    let mut count = [0; 8];
    std::fs::File::from(got.0).read_exact(&mut count).expect("a count");
    assert_eq!(u64::from_ne_bytes(count), 41);
    Ok(())
}

fn in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let made = EventFd::new().expect("a descriptor");
    let memory: Vec<_> = (1..=5).map(|n| Region::memfd(n * 100).expect("memory")).collect();
    for region in &memory {
        pass(cx, &near, &Pass::region(region).expect("a memfd"));
        pass(cx, &near, &Pass::event(&made).expect("an event"));
    }
    for n in 1..=5 {
        let got: Region = receive(cx, &far).expect("a region");
        assert_eq!(got.len_bytes(), n * 100);
        let _event: PassedEvent = receive(cx, &far).expect("an event");
    }
    Ok(())
}

pub(super) fn seqpacket(cx: &Cx<'_>) -> (Socket, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
    let (one, two) = pair.expect("two descriptors");
    (cx.io.adopt_socket(one).expect("room"), two)
}

fn over_seqpacket(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = seqpacket(cx);
    let far = cx.io.adopt_socket(far).expect("room");
    let made = EventFd::new().expect("a descriptor");
    for _ in 0..3 {
        pass(cx, &near, &Pass::event(&made).expect("an event"));
        let _event: PassedEvent = receive(cx, &far).expect("an event");
    }
    Ok(())
}

fn waits_for_the_peer(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let made = EventFd::new().expect("a descriptor");
    let passed = Pass::event(&made).expect("an event");
    let receiving = far.receive_passed::<PassedEvent>();
    let (got, sent) = cx.block_on(Box::pin(async {
        futures_util::join!(receiving, async {
            for _ in 0..5 {
                cx.io.nop().await.expect("a turn");
            }
            near.pass(&passed).await
        })
    }));
    sent.expect("passing");
    got.expect("an event");
    Ok(())
}

fn waits_for_room(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, mut far) = hostile_pair(cx);
    far.set_nonblocking(true).expect("a socket");
    let made = EventFd::new().expect("a descriptor");
    let passed = Pass::event(&made).expect("an event");
    let mut sent = 0;
    let mut waiting = loop {
        let mut passing = Box::pin(near.pass(&passed));
        match passing.as_mut().now_or_never() {
            Some(done) => done.expect("passing"),
            None => break passing,
        }
        sent += 1;
    };
    assert!(sent > 10);
    let mut chunk = [0; 4096];
    let mut read = 0;
    while let Ok(some) = far.read(&mut chunk) {
        read += some;
    }
    assert_eq!(read, sent * PASS_HEADER_BYTES, "whole headers only");
    cx.block_on(waiting.as_mut()).expect("passing");
    assert_eq!(far.read(&mut chunk).expect("one more"), PASS_HEADER_BYTES);
    Ok(())
}

fn dropped_receive(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    for _ in 0..3 {
        let receiving = Box::pin(far.receive_passed::<PassedEvent>());
        assert!(receiving.now_or_never().is_none());
    }
    let made = EventFd::new().expect("a descriptor");
    pass(cx, &near, &Pass::event(&made).expect("an event"));
    let _event: PassedEvent = receive(cx, &far).expect("it waits for the next one");
    Ok(())
}

fn wrong_kind(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let (fd, witness) = witness();
    let passed = cx.io.adopt_socket(fd).expect("room");
    pass(cx, &near, &Pass::socket(&passed).expect("a socket"));
    let error = receive::<File>(cx, &far).err().expect("it is a socket");
    cx.note(&error);
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    drop(passed);
    settled(cx, 2);
    assert_closed(witness);
    // Nothing is out of step: the next one comes as it should.
    let made = EventFd::new().expect("a descriptor");
    pass(cx, &near, &Pass::event(&made).expect("an event"));
    let _event: PassedEvent = receive(cx, &far).expect("an event");
    Ok(())
}

fn slabs_memory(cx: &Cx<'_>) -> Result<(), Skip> {
    let slab = cx.slab(2, 4096);
    assert!(Pass::region(slab.region()).is_err(), "its leases give slices");
    assert!(slab.region().is_private(), "and nothing changed");
    Ok(())
}

fn no_memfd(_cx: &Cx<'_>) -> Result<(), Skip> {
    let memory = Region::anonymous(4096).expect("memory");
    assert_eq!(kind(Pass::region(&memory)), Some(ErrorKind::Unavailable));
    Ok(())
}

fn not_what_it_is_called(cx: &Cx<'_>) -> Result<(), Skip> {
    let (fd, _witness) = witness();
    assert_eq!(kind(Pass::event(&fd)), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(Pass::fence(&fd)), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(Pass::dma_buf(&fd)), Some(ErrorKind::InvalidArgument));
    let event = EventFd::new().expect("a descriptor");
    assert_eq!(kind(Pass::fence(&event)), Some(ErrorKind::InvalidArgument));
    let file = cx.io.adopt_file(fd).expect("room");
    assert_eq!(kind(Pass::file(&file)), Some(ErrorKind::InvalidArgument), "it is a socket");
    Ok(())
}

fn not_over_tcp(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    let made = EventFd::new().expect("a descriptor");
    let passed = Pass::event(&made).expect("an event");
    let refused = cx.block_on(Box::pin(client.pass(&passed)));
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    assert_eq!(kind(receive::<PassedEvent>(cx, &server)), Some(ErrorKind::InvalidArgument));
    Ok(())
}

fn closed_while_waiting(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_near, far) = cx.unix_pair();
    let other = far.clone();
    let (received, closed) = cx.block_on(Box::pin(async {
        futures_util::join!(far.receive_passed::<PassedEvent>(), async {
            cx.io.nop().await.expect("a turn");
            other.close().await
        })
    }));
    closed.expect("closing");
    assert_eq!(kind(received), Some(ErrorKind::Closed));
    Ok(())
}

fn peer_is_gone(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = hostile_pair(cx);
    drop(far);
    assert_eq!(kind(receive::<PassedEvent>(cx, &near)), Some(ErrorKind::Disconnected));
    let (fd, witness) = witness();
    let passed = cx.io.adopt_socket(fd).expect("room");
    let what = Pass::socket(&passed).expect("a socket");
    let refused = cx.block_on(Box::pin(near.pass(&what)));
    assert_eq!(kind(refused), Some(ErrorKind::Disconnected));
    drop((passed, what));
    settled(cx, 1);
    assert_closed(witness);
    Ok(())
}

fn went_after_passing(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let made = EventFd::new().expect("a descriptor");
    pass(cx, &near, &Pass::event(&made).expect("an event"));
    drop(near);
    let _event: PassedEvent = receive(cx, &far).expect("what was passed comes first");
    assert_eq!(kind(receive::<PassedEvent>(cx, &far)), Some(ErrorKind::Disconnected));
    Ok(())
}
