//! Sockets as byte streams, for code that knows only `AsyncRead` and `AsyncWrite`.
//!
//! [`Reader`] copies out of the buffers of a receive pool, [`Writer`] into leases of a slab: one
//! copy each way, which is the price of these traits (they lend memory for one call, the kernel
//! needs it until it is done). Code that can hold leases and spans has no need of them.
//!
//! Both implement the traits of `futures-io`, and with the feature `tokio` those of tokio. They
//! are made of ordinary requests, so they work on either kind of socket: on the loop's thread, or
//! through a [`Handle`](crate::Handle) in any runtime.
//!
//! # Cancel safety
//!
//! No call loses or repeats bytes when its future is dropped: what has arrived waits in the
//! reader, and what a write has taken is sent whether or not anybody asks again.

mod futures;
mod reader;
#[cfg(feature = "tokio")]
mod tokio;
mod writer;

pub use reader::Reader;
pub use writer::Writer;

use super::receive_pool::ReceivePool;
use super::{Local, Port, Socket};
use crate::error::Result;
use regions::Slab;

/// A socket as one object that is read and written; see [`Reader`] and [`Writer`].
#[derive(Debug)]
pub struct Duplex<P: Port = Local> {
    reader: Reader<P>,
    writer: Writer<P>,
}

impl<P: Port> Duplex<P> {
    /// Its two halves, which may go to two tasks. Either keeps the socket open: dropping one ends
    /// nothing for the other.
    pub fn into_split(self) -> (Reader<P>, Writer<P>) {
        (self.reader, self.writer)
    }
}

impl<P: Port> Socket<P> {
    /// A byte stream of what arrives, received into buffers of `pool`.
    ///
    /// # Errors
    ///
    /// A refused receive: Closed, Exhausted, a pool of another proactor.
    pub fn reader(&self, pool: &ReceivePool) -> Result<Reader<P>> {
        Ok(Reader::new(self, self.receive_all(pool).submit()?))
    }

    /// A byte stream to the peer, sent from leases of `slab`: up to eight are under way at once.
    pub fn writer(&self, slab: &Slab) -> Writer<P> {
        Writer::new(self.clone(), slab.clone())
    }

    /// Both directions in one.
    ///
    /// # Errors
    ///
    /// As [`reader`](Self::reader).
    pub fn duplex(&self, pool: &ReceivePool, slab: &Slab) -> Result<Duplex<P>> {
        Ok(Duplex { reader: self.reader(pool)?, writer: self.writer(slab) })
    }
}
