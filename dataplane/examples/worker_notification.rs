//! Worker threads outside the loop that sleep on a notification until the loop has work for them.
//!
//! The loop receives messages; each completion puts one into a queue and signals. A worker that
//! finds the queue empty sleeps until the epoch moves on from the one it saw *before* it looked, so
//! no message is left lying while everybody sleeps. When the last one has been worked off, the
//! workers in turn signal the loop, which waits for that as an operation beside its others.
//!
//! `cargo run -p dataplane --example worker_notification`

use dataplane::regions::{Slab, Span};
use dataplane::{Notification, Proactor, Result, Socket, Wait};
use std::cell::Cell;
use std::collections::VecDeque;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

const WORKERS: usize = 3;
const MESSAGES: usize = 300;
const MESSAGE_BYTES: usize = 64;

/// What the loop and the workers share.
#[derive(Default)]
struct Desk {
    queue: Mutex<VecDeque<Vec<u8>>>,
    /// Signalled for each message, and once at the end.
    has_work: Notification,
    /// Signalled when the last message has been worked off.
    is_done: Notification,
    handled: AtomicUsize,
    /// The sum of all bytes, by which the loop checks the work.
    sum: AtomicUsize,
    sleeps: AtomicUsize,
    closed: AtomicBool,
}

impl Desk {
    fn put(&self, message: Vec<u8>) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(message);
        self.has_work.signal(1);
    }

    fn take(&self) -> Option<Vec<u8>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The life of a worker.
    fn work(&self) -> Result<()> {
        loop {
            // First the epoch, then the look: what comes in between ends the wait at once.
            let seen = self.has_work.epoch();
            if let Some(message) = self.take() {
                self.handle(&message);
            } else if self.closed.load(Ordering::Acquire) {
                return Ok(());
            } else {
                self.sleeps.fetch_add(1, Ordering::Relaxed);
                self.has_work.wait(seen, None)?;
            }
        }
    }

    fn handle(&self, message: &[u8]) {
        let sum: usize = message.iter().copied().map(usize::from).sum();
        self.sum.fetch_add(sum, Ordering::Relaxed);
        if self.handled.fetch_add(1, Ordering::AcqRel) + 1 == MESSAGES {
            self.is_done.signal(1);
        }
    }
}

/// The message of that number.
fn message(number: usize) -> Vec<u8> {
    vec![(number % 251) as u8; MESSAGE_BYTES]
}

/// Sends every message, one after the other.
async fn send(socket: Socket) -> Result<()> {
    for number in 0..MESSAGES {
        socket.send_all(Span::from(message(number))).await?;
    }
    Ok(())
}

/// Receives until the end of the stream; each completion is work for a worker.
async fn receive(socket: Socket, slab: Slab, desk: Arc<Desk>) -> Result<usize> {
    for received in 0.. {
        let Ok(lease) = slab.lease() else { return Ok(received) };
        let filled = socket.recv_all(lease).await?;
        if filled.is_empty() {
            return Ok(received);
        }
        desk.put(filled.to_vec());
    }
    Ok(0)
}

/// See the head of this file.
pub fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let io = Proactor::new()?;
    let desk = Arc::new(Desk::default());
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let desk = desk.clone();
            thread::spawn(move || desk.work())
        })
        .collect();

    let done = Rc::new(Cell::new(false));
    let inside = done.clone();
    let seen = desk.is_done.epoch();
    io.wait_notification(&desk.is_done, seen)
        .on_complete(move |ended| inside.set(ended.is_ok()))?;

    let (near, far) = UnixStream::pair()?;
    let (near, far) = (io.adopt_socket(near)?, io.adopt_socket(far)?);
    let slab = Slab::new(1, MESSAGE_BYTES)?;
    let sending = io.spawn(send(far));
    let receiving = io.spawn(receive(near, slab, desk.clone()));
    while !done.get() {
        io.poll(Wait::Forever)?;
    }

    desk.closed.store(true, Ordering::Release);
    desk.has_work.signal_all();
    for worker in workers {
        worker.join().expect("a worker that did not panic")?;
    }
    drop((sending, receiving));
    let expected: usize = (0..MESSAGES).flat_map(message).map(usize::from).sum();
    assert_eq!(desk.sum.load(Ordering::Relaxed), expected, "every byte was worked on, once");
    assert_eq!(desk.handled.load(Ordering::Relaxed), MESSAGES);
    println!(
        "{MESSAGES} messages through {WORKERS} workers on {}; they slept {} times, {} wait now",
        io.backend(),
        desk.sleeps.load(Ordering::Relaxed),
        desk.has_work.waiting()
    );
    Ok(())
}
