//! The traits of tokio (feature `tokio`; of tokio itself nothing else is used).

use super::{Duplex, Reader, Writer};
use crate::io::Port;
use std::io::Result;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

type Cx<'a, 'b> = &'a mut Context<'b>;

impl<P: Port> AsyncRead for Reader<P> {
    fn poll_read(self: Pin<&mut Self>, cx: Cx, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let room = into.remaining();
        ready!(self.get_mut().poll_copy(cx, room, |bytes| into.put_slice(bytes)))?;
        Poll::Ready(Ok(()))
    }
}

impl<P: Port> AsyncBufRead for Reader<P> {
    fn poll_fill_buf<'a>(self: Pin<&'a mut Self>, cx: Cx) -> Poll<Result<&'a [u8]>> {
        Poll::Ready(Ok(ready!(self.get_mut().poll_fill(cx))?))
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        self.get_mut().take(count);
    }
}

impl<P: Port> AsyncWrite for Writer<P> {
    fn poll_write(self: Pin<&mut Self>, cx: Cx, bytes: &[u8]) -> Poll<Result<usize>> {
        self.get_mut().poll_put(cx, bytes).map_err(Into::into)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: Cx) -> Poll<Result<()>> {
        Writer::poll_flush(self.get_mut(), cx).map_err(Into::into)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: Cx) -> Poll<Result<()>> {
        self.get_mut().poll_finish(cx).map_err(Into::into)
    }
}

impl<P: Port> AsyncRead for Duplex<P> {
    fn poll_read(self: Pin<&mut Self>, cx: Cx, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().reader).poll_read(cx, into)
    }
}

impl<P: Port> AsyncBufRead for Duplex<P> {
    fn poll_fill_buf<'a>(self: Pin<&'a mut Self>, cx: Cx) -> Poll<Result<&'a [u8]>> {
        Pin::new(&mut self.get_mut().reader).poll_fill_buf(cx)
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        self.get_mut().reader.take(count);
    }
}

impl<P: Port> AsyncWrite for Duplex<P> {
    fn poll_write(self: Pin<&mut Self>, cx: Cx, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().writer).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: Cx) -> Poll<Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.get_mut().writer), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: Cx) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().writer).poll_shutdown(cx)
    }
}
