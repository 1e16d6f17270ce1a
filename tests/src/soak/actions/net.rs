//! Sockets: bytes in and out in every form, connections, policies, ends.

use crate::soak::held::{awaited, connected};
use crate::soak::world::{PAIRS, World};
use dataplane::{Interest, Proactor, Socket, SocketOptions, ZeroCopy};
use regions::{Lease, Span, SpanList};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

pub(in crate::soak) fn pair(world: &mut World<'_>) -> Result<(), String> {
    let (one, two) = UnixStream::pair().map_err(|error| error.to_string())?;
    for end in [one, two] {
        let socket = world.io.adopt_socket(end).map_err(|error| error.to_string())?;
        if world.dice.one_in(4) {
            // Where there is no table for it, or no room, nothing changes.
            let _ = socket.register();
        }
        world.sockets.push(socket);
    }
    Ok(())
}

pub(super) fn receive(world: &mut World<'_>) -> Result<(), String> {
    let socket = world.socket();
    let Some(lease) = world.lease() else { return Ok(()) };
    match world.dice.one_in(4) {
        true => world.submit(socket.recv_all(lease)),
        false => world.submit(socket.recv(lease)),
    }
    Ok(())
}

pub(super) fn receive_vectored(world: &mut World<'_>) -> Result<(), String> {
    let socket = world.socket();
    let count = 1 + world.dice.below(4);
    let leases: Vec<Lease> = (0..count).map_while(|_| world.lease()).collect();
    if !leases.is_empty() {
        world.submit(socket.recv_vectored(leases));
    }
    Ok(())
}

pub(super) fn receive_pooled(world: &mut World<'_>) -> Result<(), String> {
    let request = world.socket().recv_pool(&world.pool);
    world.submit(request);
    Ok(())
}

pub(super) fn receive_stream(world: &mut World<'_>) -> Result<(), String> {
    let multi = world.socket().receive_all(&world.pool);
    world.stream(multi, drop);
    Ok(())
}

pub(super) fn send(world: &mut World<'_>) -> Result<(), String> {
    let (socket, span) = (world.socket(), world.span());
    match world.dice.below(4) {
        0 => world.submit(socket.send(span)),
        1 => world.submit(socket.send_more(span)),
        _ => world.submit(socket.send_all(span)),
    }
    Ok(())
}

pub(super) fn send_vectored(world: &mut World<'_>) -> Result<(), String> {
    let socket = world.socket();
    let count = 1 + world.dice.below(6);
    let spans: SpanList = (0..count).map(|_| world.span()).collect();
    world.submit(socket.send_vectored(spans));
    Ok(())
}

pub(super) fn datagram(world: &mut World<'_>) -> Result<(), String> {
    let at = world.dice.below(2);
    let (socket, to) = (world.datagrams[at].0.clone(), world.datagrams[1 - at].1.clone());
    if world.dice.one_in(2) {
        let Some(lease) = world.lease() else { return Ok(()) };
        world.submit(socket.recv_from(lease));
        return Ok(());
    }
    let span = match world.lease() {
        Some(lease) => lease.freeze(),
        None => Span::from(vec![1u8; 100]),
    };
    world.submit(socket.send_to(span, to));
    Ok(())
}

pub(super) fn accept(world: &mut World<'_>) -> Result<(), String> {
    let arrived = world.arrived.clone();
    if world.dice.one_in(4) {
        let multi = world.listener.incoming();
        world.stream(multi, move |socket| arrived.borrow_mut().push(socket));
        return Ok(());
    }
    let request = world.listener.accept();
    match world.dice.one_in(4) {
        true => world.hold(request),
        false => world.tell_with(request, move |socket| {
            arrived.borrow_mut().push(socket);
            true
        }),
    }
    Ok(())
}

/// Somebody to accept, beside the connect: without one the backlog runs full.
pub(super) fn connect(world: &mut World<'_>) -> Result<(), String> {
    accept(world)?;
    let (to, books, arrived) = (world.address.clone(), world.books.clone(), world.arrived.clone());
    let live = world.live.clone();
    let task = world.io.spawn_with(move |io: Proactor| async move {
        let _live = live;
        let socket = connected(books, io.connect(to)).await;
        arrived.borrow_mut().extend(socket);
    });
    world.keep_task(task);
    Ok(())
}

/// Seldom, for ports of closed connections stay taken for a while.
pub(super) fn connect_over_tcp(world: &mut World<'_>) -> Result<(), String> {
    let request = world.tcp.accept();
    let arrived = world.arrived.clone();
    world.tell_with(request, move |socket| {
        arrived.borrow_mut().push(socket);
        true
    });
    let to = world.tcp.local_addr().map_err(|error| error.to_string())?;
    let port = to.inet().map(|to| to.port()).ok_or("a listener without a port")?;
    // Nothing waits for it: the system completes connections from the backlog.
    let client = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
    let client = world.io.adopt_socket(client).map_err(|error| error.to_string())?;
    world.books.did("connects over TCP");
    world.sockets.push(client);
    Ok(())
}

/// Ends a socket, by closing or by dropping it, and makes a new pair when few are left.
pub(super) fn replace(world: &mut World<'_>) -> Result<(), String> {
    let at = world.dice.below(world.sockets.len());
    let gone: Socket = world.sockets.swap_remove(at);
    match world.dice.below(4) {
        0 => world.tell(gone.close()),
        1 => world.hold(gone.close()),
        2 => {
            let (books, live) = (world.books.clone(), world.live.clone());
            let closing = gone.close();
            let task = world.io.spawn(async move {
                let _live = live;
                let _ = awaited(books, closing).await;
            });
            world.keep_task(task);
        }
        _ => drop(gone),
    }
    if world.sockets.len() < 2 * PAIRS { pair(world) } else { Ok(()) }
}

pub(super) fn shut_down(world: &mut World<'_>) -> Result<(), String> {
    let socket = world.socket();
    match world.dice.below(4) {
        0 => world.submit(socket.shutdown(Shutdown::Read)),
        1 => world.submit(socket.shutdown(Shutdown::Both)),
        _ => world.submit(socket.finish()),
    }
    Ok(())
}

pub(super) fn poll(world: &mut World<'_>) -> Result<(), String> {
    let socket = world.socket();
    let interest = match world.dice.below(3) {
        0 => Interest::WRITABLE,
        1 => Interest::READABLE | Interest::WRITABLE,
        _ => Interest::READABLE,
    };
    match world.dice.one_in(4) {
        true => world.stream(socket.readiness(interest), drop),
        false => world.submit(socket.ready(interest)),
    }
    Ok(())
}

pub(super) fn policy(world: &mut World<'_>) -> Result<(), String> {
    let policies = [ZeroCopy::Auto, ZeroCopy::Always, ZeroCopy::Never, ZeroCopy::Require];
    let policy = policies[world.dice.below(policies.len())];
    let at = world.dice.below(2);
    // Required where there is none, or closed by now: refused, and nothing changes.
    let _ = match world.dice.one_in(3) {
        true => world.datagrams[at].0.zero_copy(policy),
        false => world.socket().zero_copy(policy),
    };
    let options = SocketOptions::new().send_buffer_bytes(4096 << world.dice.below(4));
    let socket = world.socket();
    let _ = (socket.set_options(&options), socket.local_addr(), socket.peer_addr());
    world.books.did("policies");
    Ok(())
}

/// The other thread has it from now on, unless something here works on it still.
pub(super) fn give_away(world: &mut World<'_>) -> Result<(), String> {
    let at = world.dice.below(world.sockets.len());
    let given = world.sockets.swap_remove(at).into_remote(&world.io.handle());
    match given {
        Ok(socket) => {
            world.books.did("sockets given to another thread");
            world.shared.give(socket);
        }
        Err((_, socket)) => world.sockets.push(socket),
    }
    if world.sockets.len() < 2 * PAIRS { pair(world) } else { Ok(()) }
}

/// A fresh pool; what is armed on the one before keeps it until it ends.
pub(super) fn replace_pool(world: &mut World<'_>) -> Result<(), String> {
    // Refused where there is no room for another.
    if let Ok(pool) = world.io.receive_pool(8, 256) {
        world.pool = pool;
    }
    world.books.did("pools");
    Ok(())
}
