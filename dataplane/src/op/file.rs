//! Files: open, positioned read and write, sync.
//!
//! Unsafe code: a helper thread of the readiness backend reads or writes through a raw pointer
//! while the operation that owns the memory stays in its slot.

#![allow(unsafe_code)]

use super::{
    Attempt, Context, Filled, Forms, HoldsBuffer, Interest, Lane, Moves, Operation, Sent, Shape,
    settle, unit, variant,
};
use crate::engine::Outcome;
use crate::engine::descriptors::{Class, DescId, Descriptor};
use crate::engine::path::{CopyReason, Mechanism, Path};
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::{File, Port};
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry, types};
use regions::{Lease, Span};
use std::ffi::CString;

/// The offset that means "where the descriptor stands": pipes, terminals, sequential reads.
pub(crate) const CURRENT: u64 = u64::MAX;

/// How a file is opened; the flags of `open(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    pub(crate) flags: i32,
    pub(crate) mode: u32,
}

impl OpenOptions {
    /// For reading.
    pub fn read() -> OpenOptions {
        OpenOptions { flags: libc::O_RDONLY, mode: 0o644 }
    }

    /// For writing; the file must exist unless `create` is asked for.
    pub fn write() -> OpenOptions {
        OpenOptions { flags: libc::O_WRONLY, mode: 0o644 }
    }

    /// For both.
    pub fn read_write() -> OpenOptions {
        OpenOptions { flags: libc::O_RDWR, mode: 0o644 }
    }

    /// Makes the file when it does not exist, with `mode` less the umask.
    pub fn create(mut self, mode: u32) -> OpenOptions {
        self.flags |= libc::O_CREAT;
        self.mode = mode;
        self
    }

    /// With `create`: the file must not exist yet.
    pub fn new(mut self) -> OpenOptions {
        self.flags |= libc::O_EXCL;
        self
    }

    /// Empties the file.
    pub fn truncate(mut self) -> OpenOptions {
        self.flags |= libc::O_TRUNC;
        self
    }

    /// Past the page cache (O_DIRECT): memory, offset and length must be aligned, which is
    /// checked before anything is submitted.
    pub fn direct(mut self) -> OpenOptions {
        self.flags |= libc::O_DIRECT;
        self
    }
}

/// Opens a file by path (`openat(2)`), close-on-exec. Dropping it closes what was opened meanwhile;
/// a file it created or truncated stays so.
#[derive(Debug)]
pub struct Open {
    pub(crate) path: CString,
    pub(crate) options: OpenOptions,
}

/// Reads into a lease at an offset (`pread(2)`); fewer bytes at the end of the file, none after it.
/// Dropping it loses nothing, since the file still has the bytes; read where the descriptor stands
/// (pipes, terminals), they may be lost.
#[derive(Debug)]
pub struct Read {
    pub(crate) file: DescId,
    pub(crate) lease: Lease,
    pub(crate) offset: u64,
    path: Path,
}

/// Writes a span at an offset (`pwrite(2)`): all of it, unless the device is full.
/// Dropping it may leave all, some or none of it written.
#[derive(Debug)]
pub struct Write {
    pub(crate) file: DescId,
    pub(crate) span: Span,
    pub(crate) offset: u64,
    written: usize,
    path: Path,
}

/// Makes what was written durable (`fsync(2)`, `fdatasync(2)`). Dropping it loses the assurance, no
/// data.
#[derive(Debug)]
pub struct Sync {
    pub(crate) file: DescId,
    pub(crate) data_only: bool,
}

variant!(Open);
variant!(Read);
variant!(Write);
variant!(Sync);

impl Read {
    pub(crate) fn new(file: DescId, lease: Lease, offset: u64) -> Read {
        let path = Path::copied(Mechanism::File, CopyReason::PageCache);
        Read { file, lease, offset, path }
    }
}

impl Write {
    pub(crate) fn new(file: DescId, span: Span, offset: u64) -> Write {
        let path = Path::copied(Mechanism::File, CopyReason::PageCache);
        Write { file, span, offset, written: 0, path }
    }

    fn at(&self) -> u64 {
        if self.offset == CURRENT { CURRENT } else { self.offset + self.written as u64 }
    }
}

fn path_of(fixed: bool, direct: bool) -> Path {
    let mechanism = if fixed { Mechanism::FileFixed } else { Mechanism::File };
    match direct {
        true => Path::direct(mechanism),
        false => Path::copied(mechanism, CopyReason::PageCache),
    }
}

/// Offsets past what the kernel takes, and the alignment O_DIRECT wants.
fn check_file(
    name: &'static str,
    found: Option<&Descriptor>,
    at: *const u8,
    bytes: usize,
    offset: u64,
) -> Result<()> {
    let invalid = |message: String| Err(Error::new(name, ErrorKind::InvalidArgument, message));
    if offset != CURRENT && offset.checked_add(bytes as u64).is_none_or(|e| e > i64::MAX as u64) {
        return invalid(format!("offset {offset} + {bytes} bytes is past what a file can hold"));
    }
    let Some(Class::File { direct: Some(align) }) = found.map(|d| d.class()) else {
        return Ok(());
    };
    let (memory, unit) = (align.memory_bytes as usize, u64::from(align.offset_bytes));
    if !(at as usize).is_multiple_of(memory) {
        return invalid(format!(
            "the file is open with O_DIRECT, which wants memory aligned to {memory} bytes; \
             use a slab slot of whole pages"
        ));
    }
    if offset != CURRENT && !offset.is_multiple_of(unit) {
        return invalid(format!("O_DIRECT wants offsets in units of {unit} bytes, not {offset}"));
    }
    if !(bytes as u64).is_multiple_of(unit) {
        return invalid(format!("O_DIRECT wants lengths in units of {unit} bytes, not {bytes}"));
    }
    Ok(())
}

impl Forms for Open {
    const NAME: &'static str = "open";

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), self.path.as_ptr())
            .flags(self.options.flags | libc::O_CLOEXEC)
            .mode(self.options.mode)
            .build()
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        let (path, options) = (self.path.clone(), self.options);
        Attempt::Helper(Box::new(move || {
            calls::open(&path, options.flags | libc::O_CLOEXEC, options.mode)
        }))
    }
}

impl Operation for Open {
    type Output<P: Port> = File<P>;

    fn finish<P: Port>(self, outcome: Outcome, port: &P) -> Result<File<P>, Failed<Self>> {
        settle(&outcome, Self::NAME)
            .and_then(|_| port.adopt(Self::NAME, outcome.payload))
            .map(|found| File::new(port.clone(), found))
            .map_err(|error| {
                let message = format!("{}: {}", self.path.to_string_lossy(), error.message());
                Failed::new(error.with_message(message), self)
            })
    }
}

impl Forms for Read {
    const NAME: &'static str = "read";

    fn shape(&self) -> Shape {
        if self.offset == CURRENT { Shape::Ordinary } else { Shape::Single }
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.file)
    }

    fn lane(&self) -> Option<Lane> {
        (self.offset == CURRENT).then_some(Lane::Recv)
    }

    fn links(&self) -> bool {
        true
    }

    fn falls_short(&self, result: i32) -> bool {
        // Of a pipe some bytes are what a read gives.
        self.offset != CURRENT && result >= 0 && (result as usize) < self.lease.len()
    }

    fn moves(&self) -> Moves {
        if self.path.is_zero_copy() { Moves::ReadDirect } else { Moves::Read }
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        if self.lease.is_empty() {
            let message = "the lease has no room (length 0); call `reset` on it first";
            return Err(Error::new(Self::NAME, ErrorKind::InvalidArgument, message));
        }
        check_file(Self::NAME, descriptor, self.lease.as_ptr(), self.lease.len(), self.offset)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let (at, bytes) = (self.lease.as_mut_ptr(), self.lease.len());
        let fixed = match cx.plain {
            true => None,
            false => cx.registry.fixed_index_of(self.lease.region_id(), at, bytes),
        };
        self.path = path_of(fixed.is_some(), cx.is_direct());
        let entry = match fixed {
            Some(index) => opcode::ReadFixed::new(target.fd(), at, bytes as u32, index)
                .offset(self.offset)
                .build(),
            None => opcode::Read::new(target.fd(), at, bytes as u32).offset(self.offset).build(),
        };
        target.seal(entry)
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        self.path = path_of(false, cx.is_direct());
        let fd = cx.fd();
        if !cx.is_file() {
            return match calls::poll_now(fd, Interest::READABLE) {
                0 => Attempt::Blocked(Interest::READABLE),
                _ => Attempt::Done(calls::read(fd, &mut self.lease)),
            };
        }
        // SAFETY: the operation stays in its slot, and the descriptor open, until the helper's
        // result was delivered; nothing else touches the lease meanwhile.
        Attempt::Helper(unsafe {
            calls::read_job(fd, self.lease.as_mut_ptr(), self.lease.len(), self.offset)
        })
    }
}

impl Operation for Read {
    type Output<P: Port> = Filled;

    fn finish<P: Port>(mut self, outcome: Outcome, _: &P) -> Result<Filled, Failed<Self>> {
        match settle(&outcome, Self::NAME) {
            Ok(bytes) => {
                self.lease.truncate(bytes as usize);
                Ok(Filled::with_path(self.lease, self.path))
            }
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}

impl HoldsBuffer for Read {
    type Buffer = Lease;
    fn into_buffer(self) -> Lease {
        self.lease
    }
}

impl Forms for Write {
    const NAME: &'static str = "write";

    fn shape(&self) -> Shape {
        if self.offset == CURRENT { Shape::Ordinary } else { Shape::Single }
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.file)
    }

    fn lane(&self) -> Option<Lane> {
        (self.offset == CURRENT).then_some(Lane::Send)
    }

    fn links(&self) -> bool {
        true
    }

    fn moves(&self) -> Moves {
        if self.path.is_zero_copy() { Moves::WrittenDirect } else { Moves::Written }
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        check_file(Self::NAME, descriptor, self.span.as_ptr(), self.span.len(), self.offset)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let at = self.span.as_ptr().wrapping_add(self.written);
        let bytes = self.span.len() - self.written;
        let fixed = match cx.plain {
            true => None,
            false => cx.registry.fixed_index(&self.span, at, bytes),
        };
        self.path = path_of(fixed.is_some(), cx.is_direct());
        let entry = match fixed {
            Some(index) => opcode::WriteFixed::new(target.fd(), at, bytes as u32, index)
                .offset(self.at())
                .build(),
            None => opcode::Write::new(target.fd(), at, bytes as u32).offset(self.at()).build(),
        };
        target.seal(entry)
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        self.path = path_of(false, cx.is_direct());
        let fd = cx.fd();
        if !cx.is_file() {
            return match calls::poll_now(fd, Interest::WRITABLE) {
                0 => Attempt::Blocked(Interest::WRITABLE),
                _ => Attempt::unless_blocked(
                    calls::write_some(fd, &self.span, self.written),
                    Interest::WRITABLE,
                ),
            };
        }
        let at = self.span.as_ptr().wrapping_add(self.written);
        let bytes = self.span.len() - self.written;
        // SAFETY: as for the read: operation and descriptor outlive the helper's call.
        Attempt::Helper(unsafe { calls::write_job(fd, at, bytes, self.at()) })
    }

    fn advance(&mut self, result: i32, _: u32) -> super::Advance {
        if result > 0 {
            self.written += result as usize;
            if self.written < self.span.len() {
                return super::Advance::Again;
            }
        }
        match result {
            0.. => super::Advance::Done(self.written as i32),
            _ => super::Advance::Done(result),
        }
    }
}

impl Operation for Write {
    type Output<P: Port> = Sent;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Sent, Failed<Self>> {
        match settle(&outcome, Self::NAME) {
            Ok(_) => Ok(Sent { bytes: self.written, path: self.path }),
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}

impl HoldsBuffer for Write {
    type Buffer = Span;
    fn into_buffer(self) -> Span {
        self.span
    }
}

impl Forms for Sync {
    const NAME: &'static str = "sync";

    fn shape(&self) -> Shape {
        Shape::Single
    }

    fn links(&self) -> bool {
        true
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.file)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let flags = match self.data_only {
            true => types::FsyncFlags::DATASYNC,
            false => types::FsyncFlags::empty(),
        };
        target.seal(opcode::Fsync::new(target.fd()).flags(flags).build())
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        let (fd, data_only) = (cx.fd(), self.data_only);
        Attempt::Helper(Box::new(move || calls::sync(fd, data_only)))
    }
}

impl Operation for Sync {
    type Output<P: Port> = ();

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        unit(self, &outcome)
    }
}
