//! Accepting: one, many, as a stream nobody reads, and what becomes of connections nobody takes.

use super::net::{exchange, idle_turns, read, settled, why};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Next, Proactor, Socket, SocketKind, SocketOptions};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::join;
use std::cell::RefCell;
use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "accept/one", needs: &[], run: one },
    Case { name: "accept/several_at_once", needs: &[], run: several_at_once },
    Case { name: "accept/later_than_the_connection", needs: &[], run: later_than_the_connection },
    Case { name: "accept/incoming", needs: &[], run: incoming },
    Case { name: "accept/incoming_nobody_takes", needs: &[], run: incoming_nobody_takes },
    Case { name: "accept/incoming_pauses_again", needs: &[], run: incoming_pauses_again },
    Case { name: "accept/incoming_by_callback", needs: &[], run: incoming_by_callback },
    Case { name: "accept/incoming_cancelled", needs: &[], run: incoming_cancelled },
    Case { name: "accept/incoming_times_out", needs: &[], run: incoming_times_out },
    Case { name: "accept/dropped_incoming_closes", needs: &[], run: dropped_incoming_closes },
    Case { name: "accept/dropped_closes_what_it_got", needs: &[], run: dropped_closes_what_it_got },
    Case { name: "accept/cancelled_and_again", needs: &[], run: cancelled_and_again },
    Case { name: "accept/times_out_and_again", needs: &[], run: times_out_and_again },
    Case { name: "accept/on_what_does_not_listen", needs: &[], run: on_what_does_not_listen },
    Case { name: "accept/listener_closed", needs: &[], run: listener_closed },
    Case { name: "accept/address_in_use", needs: &[], run: address_in_use },
    Case { name: "accept/listen_on_a_name", needs: &[], run: listen_on_a_name },
    Case { name: "accept/shared_port", needs: &[], run: shared_port },
    Case { name: "accept/reset_before_accept", needs: &[], run: reset_before_accept },
];

fn listen(io: &Proactor) -> (Socket, SocketAddr) {
    let listener = io.listen("127.0.0.1:0").expect("listening");
    let at = listener.local_addr().expect("its address").inet().expect("an IP address");
    (listener, at)
}

/// Connects without the proactor; the connection waits in the listener's queue.
fn call(at: SocketAddr) -> TcpStream {
    TcpStream::connect(at).expect("room in the listener's queue")
}

/// Polls until the caller sees that nobody holds the other end.
fn hung_up(cx: &Cx<'_>, mut caller: &TcpStream) {
    caller.set_nonblocking(true).expect("a socket");
    cx.poll_until("the caller to see the end", || match caller.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => panic!("nobody sent anything"),
        Err(error) if error.kind() == IoKind::WouldBlock => false,
        Err(error) => {
            assert_eq!(error.kind(), IoKind::ConnectionReset);
            true
        }
    });
}

/// Shows that `socket` and `caller` are two ends of one connection.
fn greet(cx: &Cx<'_>, socket: &Socket, mut caller: &TcpStream, greeting: u8) {
    caller.write_all(&[greeting]).expect("room in a socket");
    let slab = cx.slab(1, 8);
    assert_eq!(cx.block_on(read(socket, &slab, 1)), [greeting]);
}

fn one(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, server) = cx.tcp_pair();
    assert_eq!(client.local_addr().expect("named"), server.peer_addr().expect("connected"));
    assert_eq!(client.peer_addr().expect("connected"), server.local_addr().expect("named"));
    settled(cx, 2);
    Ok(())
}

fn several_at_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let accepts: Vec<_> = (0..16).map(|_| listener.accept().submit().expect("room")).collect();
    let connects = (0..16).map(|_| cx.io.connect(at));
    let (clients, servers) = cx.block_on(async { join!(join_all(connects), join_all(accepts)) });
    let clients: Vec<Socket> = clients.into_iter().map(|one| one.expect("connecting")).collect();
    let servers: Vec<Socket> = servers.into_iter().map(|one| one.expect("accepting")).collect();
    for client in &clients {
        let name = client.local_addr().expect("named");
        let peers = servers.iter().filter(|one| one.peer_addr().is_ok_and(|peer| peer == name));
        assert_eq!(peers.count(), 1, "each connection is accepted once");
    }
    drop((clients, servers, listener));
    settled(cx, 0);
    Ok(())
}

fn later_than_the_connection(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let callers: Vec<TcpStream> = (0..3).map(|_| call(at)).collect();
    for (i, caller) in callers.iter().enumerate() {
        let socket = cx.block_on(listener.accept()).expect("accepting");
        greet(cx, &socket, caller, i as u8);
    }
    Ok(())
}

fn incoming(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let mut incoming = listener.incoming().submit().expect("room");
    for _ in 0..10 {
        let both = async { join!(cx.io.connect(at), incoming.next()) };
        let (client, server) = cx.block_on(both);
        let server = server.expect("no end").expect("accepting");
        exchange(cx, &client.expect("connecting"), &server, b"hello");
    }
    drop((incoming, listener));
    settled(cx, 0);
    Ok(())
}

/// A proactor like the case's that pauses a multishot operation after four results.
fn impatient(cx: &Cx<'_>) -> Proactor {
    Proactor::with(cx.options.clone().undelivered(4)).expect("a second proactor")
}

fn incoming_nobody_takes(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = impatient(cx);
    let (listener, at) = listen(&io);
    let mut incoming = listener.incoming().submit().expect("room");
    let callers: Vec<TcpStream> = (0..20).map(|_| call(at)).collect();
    let cx = &Cx::new(&io, cx.options);
    cx.poll_until("a pause", || io.stats().paused > 0);
    idle_turns(cx);
    let mut sockets = Vec::new();
    for (i, caller) in callers.iter().enumerate() {
        let socket = cx.block_on(incoming.next()).expect("no end").expect("accepting");
        greet(cx, &socket, caller, i as u8);
        sockets.push(socket);
    }
    assert!(incoming.try_next().is_none(), "there were no more than 20");
    assert!(io.stats().paused > 0);
    Ok(())
}

fn incoming_pauses_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = impatient(cx);
    let (listener, at) = listen(&io);
    let mut incoming = listener.incoming().submit().expect("room");
    let cx = &Cx::new(&io, cx.options);
    for round in 1..=3 {
        let callers: Vec<TcpStream> = (0..6).map(|_| call(at)).collect();
        cx.poll_until("another pause", || io.stats().paused >= round);
        for (i, caller) in callers.iter().enumerate() {
            let socket = cx.block_on(incoming.next()).expect("no end").expect("accepting");
            greet(cx, &socket, caller, i as u8);
        }
    }
    Ok(())
}

fn incoming_by_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let seen = Rc::new(RefCell::new((Vec::new(), None)));
    let inside = seen.clone();
    let id = listener.incoming().on_each(move |next| match next {
        Next::Item(socket) => inside.borrow_mut().0.push(socket),
        Next::End(end) => inside.borrow_mut().1 = Some(end.map_err(|error| error.kind())),
    });
    let id = id.expect("room");
    let callers: Vec<TcpStream> = (0..5).map(|_| call(at)).collect();
    cx.poll_until("five callbacks", || seen.borrow().0.len() == 5);
    for (i, caller) in callers.iter().enumerate() {
        let socket = seen.borrow().0[i].clone();
        greet(cx, &socket, caller, i as u8);
    }
    assert!(seen.borrow().1.is_none());
    cx.io.cancel(id).expect("it is pending");
    cx.poll_until("the end", || seen.borrow().1.is_some());
    assert_eq!(seen.borrow().1, Some(Err(ErrorKind::Cancelled)));
    assert_eq!(seen.borrow().0.len(), 5);
    Ok(())
}

fn incoming_cancelled(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let mut incoming = listener.incoming().submit().expect("room");
    let caller = call(at);
    let socket = cx.block_on(incoming.next()).expect("no end").expect("accepting");
    greet(cx, &socket, &caller, 1);
    incoming.cancel().expect("the proactor is here");
    let end = cx.block_on(incoming.next()).expect("the reason").map_err(|error| error.kind());
    assert_eq!(end.err(), Some(ErrorKind::Cancelled));
    assert!(cx.block_on(incoming.next()).is_none(), "nothing after the end");
    // The listener goes on.
    let caller = call(at);
    let socket = cx.block_on(listener.accept()).expect("accepting");
    greet(cx, &socket, &caller, 2);
    Ok(())
}

fn incoming_times_out(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, _) = listen(cx.io);
    let incoming = listener.incoming().timeout(Duration::from_millis(3)).submit();
    let mut incoming = incoming.expect("room");
    let end = cx.block_on(incoming.next()).expect("the reason").map_err(|error| error.kind());
    assert_eq!(end.err(), Some(ErrorKind::TimedOut));
    assert!(cx.block_on(incoming.next()).is_none());
    Ok(())
}

fn dropped_incoming_closes(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let mut incoming = listener.incoming().submit().expect("room");
    let callers: Vec<TcpStream> = (0..4).map(|_| call(at)).collect();
    let socket = cx.block_on(incoming.next()).expect("no end").expect("accepting");
    idle_turns(cx);
    drop(incoming);
    drop(listener);
    settled(cx, 1);
    greet(cx, &socket, &callers[0], 7);
    for caller in &callers[1..] {
        hung_up(cx, caller);
    }
    Ok(())
}

fn dropped_closes_what_it_got(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let accepting = listener.accept().submit().expect("room");
    let caller = call(at);
    cx.poll_until("the connection to be accepted", || cx.io.stats().in_flight == 0);
    drop(accepting);
    hung_up(cx, &caller);
    settled(cx, 1);
    Ok(())
}

fn cancelled_and_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    for round in 0..5 {
        let accepting = listener.accept().submit().expect("room");
        idle_turns(cx);
        accepting.cancel().expect("nobody called");
        assert_eq!(why(cx.block_on(accepting)), Some(ErrorKind::Cancelled));
        let caller = call(at);
        let socket = cx.block_on(listener.accept()).expect("accepting");
        greet(cx, &socket, &caller, round);
    }
    settled(cx, 1);
    Ok(())
}

fn times_out_and_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let accepting = listener.accept().timeout(Duration::from_millis(2));
    assert_eq!(why(cx.block_on(accepting)), Some(ErrorKind::TimedOut));
    let caller = call(at);
    let socket = cx.block_on(listener.accept()).expect("accepting");
    greet(cx, &socket, &caller, 1);
    Ok(())
}

fn on_what_does_not_listen(cx: &Cx<'_>) -> Result<(), Skip> {
    let (client, _server) = cx.tcp_pair();
    assert_eq!(why(cx.block_on(client.accept())), Some(ErrorKind::InvalidArgument));
    let refused = client.incoming().submit().err().expect("it does not listen");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.error.message().contains("listen"), "{}", refused.error);
    Ok(())
}

fn listener_closed(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let accepting = listener.accept().submit().expect("room");
    let mut incoming = listener.incoming().submit().expect("room");
    idle_turns(cx);
    cx.block_on(listener.close()).expect("closing");
    assert_eq!(why(cx.block_on(accepting)), Some(ErrorKind::Closed));
    let end = cx.block_on(incoming.next()).expect("the reason").map_err(|error| error.kind());
    assert_eq!(end.err(), Some(ErrorKind::Closed));
    assert_eq!(TcpStream::connect(at).map_err(|e| e.kind()).err(), Some(IoKind::ConnectionRefused));
    settled(cx, 0);
    Ok(())
}

fn address_in_use(cx: &Cx<'_>) -> Result<(), Skip> {
    let (_listener, at) = listen(cx.io);
    let error = cx.io.listen(at).expect_err("the port is taken");
    assert_eq!(error.errno(), Some(libc::EADDRINUSE));
    assert!(error.to_string().contains(&at.to_string()), "{error}");
    settled(cx, 1);
    Ok(())
}

fn listen_on_a_name(cx: &Cx<'_>) -> Result<(), Skip> {
    let error = cx.io.listen("localhost:0").expect_err("names are not resolved here");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("IP:PORT"), "{error}");
    Ok(())
}

fn shared_port(cx: &Cx<'_>) -> Result<(), Skip> {
    let options = SocketOptions::new().reuse_port(true);
    let listen = |at| cx.io.listen_with(at, SocketKind::Stream, &options).expect("listening");
    let first = listen(SocketAddr::from(([127, 0, 0, 1], 0)));
    let at = first.local_addr().expect("its address").inet().expect("an IP address");
    let second = listen(at);
    let mut accepts = vec![first.incoming(), second.incoming()]
        .into_iter()
        .map(|one| one.submit().expect("room"))
        .collect::<Vec<_>>();
    let callers: Vec<TcpStream> = (0..8).map(|_| call(at)).collect();
    let mut sockets = Vec::new();
    cx.poll_until("all of them to be accepted by either", || {
        for incoming in &mut accepts {
            while let Some(socket) = incoming.try_next() {
                sockets.push(socket.expect("accepting"));
            }
        }
        sockets.len() == callers.len()
    });
    Ok(())
}

fn reset_before_accept(cx: &Cx<'_>) -> Result<(), Skip> {
    let (listener, at) = listen(cx.io);
    let rude = cx.block_on(cx.io.connect(at)).expect("connecting");
    super::net::reset(rude);
    settled(cx, 1);
    let caller = call(at);
    // The dead one may be accepted or skipped; the one that lives is not lost.
    let slab = cx.slab(1, 8);
    (&caller).write_all(b"x").expect("room in a socket");
    for _ in 0..2 {
        let socket = cx.block_on(listener.accept()).expect("accepting");
        let received = cx.block_on(socket.recv(slab.lease().expect("a slot")));
        if received.is_ok_and(|filled| filled[..] == b"x"[..]) {
            return Ok(());
        }
    }
    panic!("the connection that lives was not accepted");
}
