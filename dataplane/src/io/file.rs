//! Files: regular files, block devices, and anything else that is read and written in place.

use super::request::Request;
use super::submission::Submission;
use super::{Local, Named, Port, socket};
use crate::engine::descriptors::{Class, DescId, Descriptor};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Close, Filled, Open, OpenOptions, Read, Sync, Write};
use crate::proactor::Proactor;
use crate::remote::handle::Handle;
use crate::sys::calls;
use futures_core::Stream;
use regions::{Lease, LeaseFuture, Slab, Span};
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A shared handle of an open file; dropping the last clone closes it.
pub struct File<P: Port = Local> {
    port: P,
    descriptor: P::Descriptor,
}

impl<P: Port> Clone for File<P> {
    fn clone(&self) -> File<P> {
        File { port: self.port.clone(), descriptor: self.descriptor.clone() }
    }
}

impl<P: Port> std::fmt::Debug for File<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "File({:?})", self.desc())
    }
}

impl<P: Port> File<P> {
    pub(crate) fn new(port: P, descriptor: P::Descriptor) -> File<P> {
        File { port, descriptor }
    }

    pub(crate) fn desc(&self) -> DescId {
        self.descriptor.desc()
    }

    /// Reads into a lease at an offset: fewer bytes at the end of the file, none after it. With
    /// O_DIRECT memory, offset and length must be aligned.
    #[inline]
    pub fn read_at(&self, lease: Lease, offset: u64) -> Request<P, Read> {
        Request::new(&self.port, Read::new(self.desc(), lease, position(offset)))
    }

    /// Reads where the descriptor stands: pipes, terminals, sequential files.
    pub fn read(&self, lease: Lease) -> Request<P, Read> {
        Request::new(&self.port, Read::new(self.desc(), lease, crate::op::CURRENT))
    }

    /// Writes a span at an offset, all of it.
    #[inline]
    pub fn write_at(&self, span: impl Into<Span>, offset: u64) -> Request<P, Write> {
        Request::new(&self.port, Write::new(self.desc(), span.into(), position(offset)))
    }

    /// Writes where the descriptor stands.
    pub fn write(&self, span: impl Into<Span>) -> Request<P, Write> {
        Request::new(&self.port, Write::new(self.desc(), span.into(), crate::op::CURRENT))
    }

    /// Makes data and metadata durable (`fsync(2)`).
    pub fn sync(&self) -> Request<P, Sync> {
        Request::new(&self.port, Sync { file: self.desc(), data_only: false })
    }

    /// Makes data durable (`fdatasync(2)`).
    pub fn sync_data(&self) -> Request<P, Sync> {
        Request::new(&self.port, Sync { file: self.desc(), data_only: true })
    }

    /// Closes it for every clone, and says what `close(2)` said.
    pub fn close(self) -> Request<P, Close> {
        Request::new(&self.port, Close::new(self.desc())).with_last(self.descriptor)
    }
}

/// An offset the caller named is never the mark for "where the descriptor stands": one that high
/// is refused as past what a file can hold.
fn position(offset: u64) -> u64 {
    offset.min(crate::op::CURRENT - 1)
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        Error::new("open", ErrorKind::InvalidArgument, "the path contains a zero byte")
    })
}

impl Proactor {
    /// Opens a file (close-on-exec).
    ///
    /// # Errors
    ///
    /// InvalidArgument for a path with a zero byte; the request's own errors come from `open(2)`.
    pub fn open(
        &self,
        path: impl AsRef<Path>,
        options: OpenOptions,
    ) -> Result<Request<Local, Open>> {
        let path = c_path(path.as_ref())?;
        Ok(Request::new(&self.local(), Open { path, options }))
    }

    /// Takes over an existing file. Nothing on the descriptor is changed.
    ///
    /// # Errors
    ///
    /// Exhausted when the descriptor table is full.
    pub fn adopt_file(&self, fd: impl Into<OwnedFd>) -> Result<File> {
        let local = self.local();
        let descriptor = local.take_over(fd.into())?;
        Ok(File::new(local, descriptor))
    }
}

impl Handle {
    /// Opens a file that belongs to no thread.
    ///
    /// # Errors
    ///
    /// As [`Proactor::open`].
    pub fn open(
        &self,
        path: impl AsRef<Path>,
        options: OpenOptions,
    ) -> Result<Request<Handle, Open>> {
        let path = c_path(path.as_ref())?;
        Ok(Request::new(self, Open { path, options }))
    }
}

impl File<Local> {
    /// Another descriptor of the same open file.
    pub(crate) fn duplicate(&self, name: &'static str) -> Result<OwnedFd> {
        let desc = self.desc();
        let duplicate = |descriptor: &mut Descriptor| {
            calls::dup(descriptor.raw()).map_err(|error| Error::from_io(name, &error))
        };
        self.port.inner.with(name, |engine| socket::inspect(engine, name, desc, duplicate))?
    }

    /// Its size in bytes; of a block device, its capacity.
    ///
    /// # Errors
    ///
    /// Closed, or what `fstat(2)` says.
    pub fn size_bytes(&self) -> Result<u64> {
        const NAME: &str = "size";
        let desc = self.desc();
        self.port.inner.with(NAME, |engine| {
            super::socket::inspect(engine, NAME, desc, |descriptor| {
                calls::file_bytes(descriptor.raw()).map_err(|error| Error::from_io(NAME, &error))
            })
        })?
    }

    /// What O_DIRECT wants on it, when it is open that way: alignment of memory and of offsets
    /// and lengths, in bytes.
    ///
    /// # Errors
    ///
    /// Closed.
    pub fn direct_alignment(&self) -> Result<Option<(u32, u32)>> {
        const NAME: &str = "alignment";
        let desc = self.desc();
        self.port.inner.with(NAME, |engine| {
            super::socket::inspect(engine, NAME, desc, |descriptor| {
                Ok(match descriptor.class() {
                    Class::File { direct: Some(align) } => {
                        Some((align.memory_bytes, align.offset_bytes))
                    }
                    _ => None,
                })
            })
        })?
    }

    /// Registers the descriptor with the backend; see [`crate::Socket::register`].
    ///
    /// # Errors
    ///
    /// Exhausted when the table is full.
    pub fn register(&self) -> Result<bool> {
        let desc = self.desc();
        self.port.inner.with("register descriptor", |engine| engine.register_descriptor(desc))?
    }

    /// The file from `offset` on as a stream of chunks, one slot of the slab each: several reads
    /// in flight, results in file order.
    ///
    /// # Errors
    ///
    /// What [`size_bytes`](Self::size_bytes) says: the stream ends at the size the file has now.
    pub fn stream(&self, slab: &Slab, offset: u64) -> Result<Chunks> {
        let end = self.size_bytes()?;
        Ok(Chunks {
            file: self.clone(),
            slab: slab.clone(),
            next: offset,
            end,
            depth: 8,
            reading: VecDeque::new(),
            waiting: None,
        })
    }
}

/// Chunks of a file in order. See [`File::stream`].
pub struct Chunks {
    file: File<Local>,
    slab: Slab,
    next: u64,
    end: u64,
    depth: usize,
    /// Reads in flight: the offset they end at, and the submission.
    reading: VecDeque<(u64, Submission<Read>)>,
    waiting: Option<Pin<Box<LeaseFuture>>>,
}

impl Chunks {
    /// How many reads are in flight at most. Default 8.
    pub fn depth(mut self, depth: usize) -> Chunks {
        self.depth = depth.max(1);
        self
    }

    /// Bytes from here to the end of the file.
    pub fn left_bytes(&self) -> u64 {
        self.end - self.next.min(self.end)
    }

    fn read_into(&mut self, lease: Lease) -> Result<()> {
        let from = self.next;
        let to = from + lease.len() as u64;
        let submission = self.file.read_at(lease, from).submit()?;
        self.reading.push_back((to, submission));
        self.next = to;
        Ok(())
    }

    /// Starts reads while there is room, file and a free slot. True: a read is in flight.
    fn start(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        while self.next < self.end && self.reading.len() < self.depth {
            if let Some(lease) = self.slab.try_lease() {
                self.waiting = None;
                self.read_into(lease)?;
                continue;
            }
            if !self.reading.is_empty() {
                break;
            }
            let slab = &self.slab;
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(slab.lease_async()));
            match waiting.as_mut().poll(cx) {
                Poll::Ready(lease) => {
                    self.waiting = None;
                    self.read_into(lease)?;
                }
                Poll::Pending => return Ok(false),
            }
        }
        Ok(!self.reading.is_empty())
    }
}

impl Stream for Chunks {
    type Item = Result<Filled>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.start(cx) {
            Err(error) => return Poll::Ready(Some(Err(error))),
            Ok(false) if self.next >= self.end => return Poll::Ready(None),
            Ok(false) => return Poll::Pending,
            Ok(true) => {}
        }
        let Some((to, submission)) = self.reading.front_mut() else { return Poll::Ready(None) };
        let to = *to;
        let Poll::Ready(result) = Pin::new(submission).poll(cx) else { return Poll::Pending };
        self.reading.pop_front();
        let filled = match result {
            Ok(filled) => filled,
            Err(failed) => return Poll::Ready(Some(Err(failed.into()))),
        };
        let short = filled.len() < filled.capacity() && filled.slot_offset() == 0;
        let got_to = to - (filled.capacity() - filled.len()) as u64;
        if short && got_to < self.end {
            // The file shrank, or the system read less than it could: everything after this
            // chunk would stand at the wrong place.
            self.next = self.end;
            self.reading.clear();
            let message = format!("the file ended at {got_to} instead of {}", self.end);
            return Poll::Ready(Some(Err(Error::new("read", ErrorKind::DataLoss, message))));
        }
        Poll::Ready(Some(Ok(filled)))
    }
}
