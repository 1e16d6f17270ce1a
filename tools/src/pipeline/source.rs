//! Where bytes come from: a file of known size, or whatever a descriptor gives until its end.
//!
//! Regular files and block devices are read by position with several reads in flight
//! ([`File::stream`]); with O_DIRECT every read is a whole aligned block, the one past the end
//! included, and the kernel says how much of it there was. Pipes, terminals, and files that claim
//! to be empty (as those under `/proc` do) are read in order, one read at a time, until they end;
//! the next read is in flight while the last one is hashed and sent.

use super::{End, Leases, failed};
use crate::failure::{Doing, Exit, Failure, Result};
use dataplane::operations::Read;
use dataplane::{File, Filled, OpenOptions, Submission};
use futures_core::Stream;
use std::future::Future;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

type Chunk = dataplane::Result<Filled>;

/// Bytes in order, a slot each.
pub struct Source {
    /// How many there will be, when that is known.
    pub length: Option<u64>,
    chunks: Pin<Box<dyn Stream<Item = Chunk>>>,
}

impl Source {
    /// Opens a path, `-` for standard input.
    pub async fn open(end: &End, path: &Path, direct: bool) -> Result<Source> {
        if path == Path::new("-") {
            let stdin = std::io::stdin();
            let own = stdin.as_fd().try_clone_to_owned().doing("standard input")?;
            let file = end.io.adopt_file(own).doing("standard input")?;
            return Source::in_order(end, file, direct);
        }
        let shown = path.display();
        let found = std::fs::metadata(path).doing(format_args!("open {shown}"))?;
        if found.is_dir() {
            let text = format!("open {shown}: it is a directory; name a file, or pipe `tar` in");
            return Err(Failure::new(Exit::System, text));
        }
        let file = Source::file(end, path, direct).await?;
        let sized = found.file_type().is_block_device() || found.len() > 0;
        if !(found.is_file() || found.file_type().is_block_device()) || !sized {
            return Source::in_order(end, file, direct);
        }
        if let Some((_, unit)) = file.direct_alignment().doing(format_args!("open {shown}"))?
            && !end.slab.slot_bytes().is_multiple_of(unit as usize)
        {
            let text = format!(
                "--direct: {shown} wants reads in units of {unit} bytes, --buffer-size is {}; \
                 make it a multiple",
                end.slab.slot_bytes()
            );
            return Err(Failure::new(Exit::Usage, text));
        }
        let depth = (end.slab.slots() / 2).max(1);
        let chunks = file.stream(&end.slab, 0).doing(format_args!("open {shown}"))?.depth(depth);
        let length = Some(chunks.left_bytes());
        Ok(Source { length, chunks: Box::pin(chunks) })
    }

    async fn file(end: &End, path: &Path, direct: bool) -> Result<File> {
        let options = match direct {
            true => OpenOptions::read().direct(),
            false => OpenOptions::read(),
        };
        let shown = path.display();
        let opening = end.io.open(path, options).doing(format_args!("open {shown}"))?;
        let file = opening.await.map_err(|refused| {
            let hint = match direct && refused.error.errno() == Some(EINVAL) {
                true => "; this file system has no O_DIRECT, leave out --direct",
                false => "",
            };
            Failure::new(Exit::System, format!("{}{hint}", refused.error))
        })?;
        // A table that is full or missing costs a look-up per operation and nothing else.
        let _ = file.register();
        Ok(file)
    }

    fn in_order(end: &End, file: File, direct: bool) -> Result<Source> {
        if direct {
            let text = "--direct: only regular files and block devices that are not empty can be \
                        read with O_DIRECT; leave it out";
            return Err(Failure::new(Exit::Usage, text));
        }
        let sequence =
            Sequence { file, leases: Leases::new(&end.slab), reading: None, over: false };
        Ok(Source { length: None, chunks: Box::pin(sequence) })
    }

    /// The next piece; None at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Filled>>> {
        let next = ready!(self.chunks.as_mut().poll_next(cx));
        Poll::Ready(next.map(|chunk| chunk.map_err(|error| failed("read the source", &error))))
    }
}

const EINVAL: i32 = nix::errno::Errno::EINVAL as i32;

/// A descriptor read where it stands.
struct Sequence {
    file: File,
    leases: Leases,
    reading: Option<Submission<Read>>,
    over: bool,
}

impl Sequence {
    fn start(&mut self, cx: &mut Context<'_>) -> Poll<dataplane::Result<()>> {
        if self.reading.is_none() && !self.over {
            let lease = ready!(self.leases.poll(cx));
            self.reading = Some(self.file.read(lease).submit()?);
        }
        Poll::Ready(Ok(()))
    }
}

impl Stream for Sequence {
    type Item = Chunk;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        if let Err(error) = ready!(self.start(cx)) {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let result = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        match result {
            Ok(filled) if filled.is_empty() => {
                self.over = true;
                Poll::Ready(None)
            }
            Ok(filled) => Poll::Ready(Some(Ok(filled))),
            Err(failed) => Poll::Ready(Some(Err(failed.into()))),
        }
    }
}
