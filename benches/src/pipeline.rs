//! The pipeline from end to end: a sender on this thread, a receiver on another.
//!
//! Both ends are of the same side. The receiver's thread is told how far to receive, and answers
//! when it has: a pass is over when every byte has arrived and was looked at.

use crate::fixture::{FILE_BYTES, Fixture};
use crate::{Contender, Error, Result, limit, ours, wire};
use std::fs::File;
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Slots and their bytes, at either end.
const BUFFERS: (usize, usize) = (8, 1 << 20);

/// One pass through the file.
type Pass = Box<dyn FnMut() -> Result<()>>;
/// Receives until so many bytes have come in all.
type Until = Box<dyn FnMut(u64) -> Result<()>>;

/// How the two ends are made.
pub struct Ends {
    sender: fn(File, TcpStream) -> Result<Pass>,
    receiver: fn(TcpStream) -> Result<Until>,
}

impl Ends {
    /// The toolkit's.
    pub const OURS: Ends = Ends {
        sender: |file, socket| {
            let mut sender = ours::stream::Sender::new(file, socket, BUFFERS.0, BUFFERS.1)?;
            Ok(Box::new(move || sender.pass()))
        },
        receiver: |socket| {
            let (count, bytes) = BUFFERS;
            let mut end = ours::receive::Receiver::new(socket, count, bytes, FILE_BYTES)?;
            Ok(Box::new(move |until| end.receive_until(until)))
        },
    };

    /// The limit's.
    pub const LIMIT: Ends = Ends {
        sender: |file, socket| {
            let mut sender = limit::stream::Sender::new(file, socket, BUFFERS.0, BUFFERS.1)?;
            Ok(Box::new(move || sender.pass()))
        },
        receiver: |socket| {
            let (count, bytes) = BUFFERS;
            let mut end = limit::receive::Receiver::new(socket, count, bytes, FILE_BYTES)?;
            Ok(Box::new(move |until| end.receive_until(until)))
        },
    };
}

/// Both ends. A step is one pass through the file.
pub struct Pipeline {
    pass: Pass,
    end: u64,
    /// None when it is being dropped: that ends the thread.
    orders: Option<Sender<u64>>,
    answers: Receiver<Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pipeline {
    /// Makes both ends.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn new(ends: Ends, fixture: &Fixture, direct: bool) -> Result<Pipeline> {
        let (near, far) = wire::pair()?;
        let (orders, until) = channel::<u64>();
        let (answer, answers) = channel();
        let receiver = ends.receiver;
        let thread = std::thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            let mut receive = match receiver(far) {
                Ok(receive) => receive,
                // The receiver of answers is gone only when nobody asks any more.
                Err(error) => return drop(answer.send(Err(error))),
            };
            for until in until {
                if answer.send(receive(until)).is_err() {
                    return;
                }
            }
        })?;
        let pass = (ends.sender)(fixture.open(direct)?, near)?;
        Ok(Pipeline { pass, end: 0, orders: Some(orders), answers, thread: Some(thread) })
    }
}

impl Contender for Pipeline {
    fn run(&mut self, steps: u64) -> Result<()> {
        self.end += steps * FILE_BYTES;
        let gone = || Error::from("the receiver ended");
        self.orders.as_ref().ok_or_else(gone)?.send(self.end).map_err(|_| gone())?;
        for _ in 0..steps {
            (self.pass)()?;
        }
        self.answers.recv()?
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
