//! A server that ends in order when it is told to: it stops accepting, lets connections finish,
//! and cuts off those that do not by a deadline.
//!
//! Signals come as a stream inside the loop, never as handlers. A signal belongs to the process,
//! and any thread that does not block it may get it: so `block_signals_early` is the first line of
//! `main`, before there are other threads, and all later ones inherit the mask. The program sends
//! itself the SIGTERM that an operator would. Run it with
//! `cargo run -p dataplane --example graceful_shutdown`.

use dataplane::{Proactor, ReceivePool, Result, Signal, SignalStream, Socket, block_signals_early};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use nix::sys::signal::{self, kill};
use nix::unistd::Pid;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// What connections may still take once the server was told to end.
const GRACE: Duration = Duration::from_millis(500);

/// Sends back what arrives until the client has finished, or this task is dropped.
async fn serve(connection: Socket, pool: ReceivePool) -> Result<()> {
    let mut input = connection.receive_all(&pool).submit()?;
    while let Some(received) = input.next().await {
        connection.send_all(received?.freeze()).await?;
    }
    connection.finish().await?;
    Ok(())
}

/// Accepts until the signal comes. Connections that are served go on as tasks of their own.
async fn accept(io: Proactor, listener: Socket, mut told: SignalStream) -> Result<usize> {
    let pool = io.receive_pool(16, 4096)?;
    let mut incoming = listener.incoming().submit()?;
    let mut accepted = 0;
    loop {
        match select(incoming.next(), told.next()).await {
            Either::Left((connection, _)) => {
                let connection = connection.expect("listening until dropped")?;
                io.spawn(serve(connection, pool.clone())).detach();
                accepted += 1;
            }
            Either::Right((signal, _)) => {
                let signal = signal.expect("owned while this runs");
                println!("{} from process {}", signal.signal, signal.sender_pid);
                break;
            }
        }
    }
    // Dropping it would do, and would not wait: from here on the kernel refuses connections.
    listener.close().await?;
    Ok(accepted)
}

/// One question, and the answer to it.
fn ask(stream: &mut TcpStream, question: &[u8]) -> io::Result<()> {
    stream.write_all(question)?;
    let mut answer = vec![0; question.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, question);
    Ok(())
}

/// Two clients, one in the middle of something when the server is told to end, and one that is
/// silent for ever. How long the silent one was let be.
fn clients(server: SocketAddr, accepted: Receiver<()>) -> io::Result<Duration> {
    let (mut busy, mut silent) = (TcpStream::connect(server)?, TcpStream::connect(server)?);
    ask(&mut busy, b"before")?;
    ask(&mut silent, b"hello")?;

    let told_at = Instant::now();
    kill(Pid::this(), signal::Signal::SIGTERM)?;
    // Disconnected when the accepting task is over, and the listener closed.
    let _ = accepted.recv();
    let refused = TcpStream::connect(server).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

    ask(&mut busy, b"afterwards")?;
    busy.shutdown(Shutdown::Write)?;
    assert_eq!(busy.read(&mut [0])?, 0, "the server finished this connection in order");
    assert_eq!(silent.read(&mut [0])?, 0, "nothing but the end comes to the silent one");
    Ok(told_at.elapsed())
}

/// Runs it. It must be the only thread of its process that does not block the signals.
///
/// # Errors
///
/// What the machine refuses: descriptors, memory, loopback; Busy when threads are there already.
pub fn main() -> Result<()> {
    block_signals_early([Signal::Terminate])?;
    let io = Proactor::new()?;
    let signals = io.signals([Signal::Terminate])?;
    let listener = io.listen("127.0.0.1:0")?;
    let address = listener.local_addr()?.inet().expect("an address of TCP");
    let (accepting, accepted) = mpsc::channel();
    let clients = thread::spawn(move || clients(address, accepted));

    let told = signals.stream([Signal::Terminate])?;
    let accepted = io.block_on(io.spawn_with(|io| accept(io, listener, told)))???;
    drop(accepting);
    // It would count as something that is not over.
    drop(signals);
    println!("{accepted} connections; those in use may finish for {GRACE:?}");
    let leaked = io.shutdown(Instant::now() + GRACE)?;

    assert!(leaked.is_none(), "the kernel gave everything back");
    let let_be = clients.join().expect("no panic").expect("clients that are served to the end");
    assert!(let_be >= GRACE, "the silent client had its time");
    println!("the silent one was cut off after {let_be:?}");
    Ok(())
}
