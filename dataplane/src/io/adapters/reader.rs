//! Reading a socket as a byte stream.
//!
//! One receive is armed for the life of the reader and pauses by itself while nobody reads, so a
//! slow reader holds the peer back. The bytes of one buffer are handed out until it is empty, then
//! it goes back to its pool.

use crate::error::{Error, Result};
use crate::io::{Local, Port, Socket};
use crate::op::{Filled, RecvMany};
use futures_core::Stream;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// What arrives on a socket as a byte stream: `AsyncRead` and `AsyncBufRead` of `futures-io`, and
/// of tokio with the feature `tokio`. Made by [`Socket::reader`](crate::Socket::reader).
///
/// Reading is cancel safe. An error is reported by every later read too, so that a broken stream
/// is never taken for one that ended. Dropping the reader loses what had arrived and was not read.
pub struct Reader<P: Port = Local> {
    stream: P::Stream<RecvMany>,
    /// The socket stays open for as long as it is read, whatever becomes of its writer.
    _socket: Socket<P>,
    filled: Option<Filled>,
    /// How much of `filled` was handed out.
    taken: usize,
    end: Option<Result<()>>,
}

impl<P: Port> fmt::Debug for Reader<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} bytes waiting, {:?})", self.waiting().len(), self.end)
    }
}

impl<P: Port> Reader<P> {
    pub(super) fn new(socket: &Socket<P>, stream: P::Stream<RecvMany>) -> Reader<P> {
        let _socket = socket.clone();
        Reader { stream, _socket, filled: None, taken: 0, end: None }
    }

    /// What has arrived and was not read yet, of the buffer at hand.
    pub fn waiting(&self) -> &[u8] {
        self.filled.as_ref().map_or(&[], |filled| &filled[self.taken..])
    }

    /// Some bytes, or none at the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<&[u8]>> {
        while self.waiting().is_empty() {
            self.filled = None;
            self.taken = 0;
            match &self.end {
                None => {}
                Some(Ok(())) => return Poll::Ready(Ok(&[])),
                Some(Err(error)) => return Poll::Ready(Err(Error::clone(error))),
            }
            match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
                Some(Ok(filled)) => self.filled = Some(filled),
                Some(Err(error)) => self.end = Some(Err(error)),
                None => self.end = Some(Ok(())),
            }
        }
        Poll::Ready(Ok(self.waiting()))
    }

    /// `count` bytes of the waiting ones were read.
    pub(super) fn take(&mut self, count: usize) {
        self.taken += count.min(self.waiting().len());
        if self.waiting().is_empty() {
            self.filled = None;
            self.taken = 0;
        }
    }

    pub(super) fn poll_copy(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        copy: impl FnOnce(&[u8]),
    ) -> Poll<Result<usize>> {
        if room == 0 {
            return Poll::Ready(Ok(0));
        }
        let bytes = ready!(self.poll_fill(cx))?;
        let count = bytes.len().min(room);
        copy(&bytes[..count]);
        self.take(count);
        Poll::Ready(Ok(count))
    }
}
