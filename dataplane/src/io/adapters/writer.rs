//! Writing to a socket as a byte stream.
//!
//! A write takes a lease, copies into it and submits its send; sends of one socket go out in the
//! order they were submitted, so several are under way at once: up to [`SENDS`], and as many as the
//! slab has slots. Beyond that the next write waits.

use crate::error::{Error, ErrorKind, Result};
use crate::io::{Local, Port, Socket};
use crate::op::{Send, Shutdown};
use regions::{Lease, LeaseFuture, Slab};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Most sends under way: enough for the next to be there when one is done, and few beside the
/// operations the loop has room for.
const SENDS: usize = 8;

/// A byte stream to a socket's peer: `AsyncWrite` of `futures-io`, and of tokio with the feature
/// `tokio`. Made by [`Socket::writer`](crate::Socket::writer).
///
/// A write is done when its bytes are copied and their send is submitted; flushing waits until the
/// kernel has taken all of them, and closing flushes and then ends the sending direction. Writing
/// is cancel safe. What a send failed with is reported by the next call and every later one; a
/// write
/// that is refused because the loop has no room (Exhausted) took nothing and may be tried again.
/// Dropping the writer cancels sends that were not flushed: their bytes may be lost.
pub struct Writer<P: Port = Local> {
    socket: Socket<P>,
    slab: Slab,
    room: Option<LeaseFuture>,
    sends: VecDeque<P::Submission<Send>>,
    ending: Option<P::Submission<Shutdown>>,
    end: Option<Result<()>>,
}

impl<P: Port> fmt::Debug for Writer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({:?}, {} sends under way, {:?})", self.socket, self.sends.len(), self.end)
    }
}

impl<P: Port> Writer<P> {
    pub(super) fn new(socket: Socket<P>, slab: Slab) -> Writer<P> {
        let (sends, room, ending, end) = (VecDeque::new(), None, None, None);
        Writer { socket, slab, room, sends, ending, end }
    }

    /// The error it ended with, if it has.
    fn check(&self) -> Result<()> {
        match &self.end {
            Some(Err(error)) => Err(Error::clone(error)),
            _ => Ok(()),
        }
    }

    fn fail(&mut self, error: Error) -> Error {
        self.end = Some(Err(error.clone()));
        // Nothing after a gap in the stream.
        self.sends.clear();
        self.room = None;
        error
    }

    /// Takes the results of sends that are done; pending while one is under way.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.check()?;
        while let Some(first) = self.sends.front_mut() {
            let sent = ready!(Pin::new(first).poll(cx));
            self.sends.pop_front();
            if let Err(failed) = sent {
                return Poll::Ready(Err(self.fail(failed.error)));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Lease> {
        if self.room.is_none()
            && let Some(lease) = self.slab.try_lease()
        {
            return Poll::Ready(lease);
        }
        let slab = &self.slab;
        let room = self.room.get_or_insert_with(|| slab.lease_async());
        let lease = ready!(Pin::new(room).poll(cx));
        self.room = None;
        Poll::Ready(lease)
    }

    pub(super) fn poll_put(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if let Poll::Ready(Err(error)) = self.poll_sent(cx) {
            return Poll::Ready(Err(error));
        }
        if self.end.is_some() || self.ending.is_some() {
            let message = "the writer is closed; nothing can be written after that";
            return Poll::Ready(Err(Error::new("write", ErrorKind::Closed, message)));
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.sends.len() >= SENDS {
            return Poll::Pending;
        }
        let mut lease = ready!(self.poll_room(cx));
        let count = bytes.len().min(lease.len());
        lease.truncate(count);
        lease.copy_from_slice(&bytes[..count]);
        match self.socket.send_all(lease.freeze()).submit() {
            Ok(send) => {
                self.sends.push_back(send);
                Poll::Ready(Ok(count))
            }
            // The end of a send that is under way makes room, and wakes. Without one the caller
            // may try again: nothing was taken.
            Err(full) if full.kind() == ErrorKind::Exhausted => match self.sends.is_empty() {
                true => Poll::Ready(Err(full.error)),
                false => Poll::Pending,
            },
            Err(failed) => Poll::Ready(Err(self.fail(failed.error))),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.poll_sent(cx)
    }

    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(self.poll_sent(cx))?;
        if self.end.is_some() {
            return Poll::Ready(Ok(()));
        }
        let mut ending = match self.ending.take() {
            Some(ending) => ending,
            None => match self.socket.finish().submit() {
                Ok(ending) => ending,
                Err(failed) => return Poll::Ready(Err(self.fail(failed.error))),
            },
        };
        match Pin::new(&mut ending).poll(cx) {
            Poll::Pending => {
                self.ending = Some(ending);
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                self.end = Some(Ok(()));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(failed)) => Poll::Ready(Err(self.fail(failed.error))),
        }
    }
}
