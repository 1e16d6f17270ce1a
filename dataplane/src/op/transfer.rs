//! File to socket without passing through user memory: `splice(2)` through a pipe.
//!
//! The operation alternates between two steps, file into pipe and pipe into socket, each a
//! submission of its own, until the length or the end of the file is reached. Bytes that stand in
//! the pipe when it is cancelled were read but not sent; `moved_bytes` counts what was sent.

use super::{
    Advance, Attempt, Context, Forms, Interest, Lane, Moves, Operation, Sent, settle, variant,
};
use crate::engine::Outcome;
use crate::engine::descriptors::DescId;
use crate::engine::path::{CopyReason, Mechanism, Path};
use crate::error::Failed;
use crate::io::Port;
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry, types};
use std::os::fd::{AsRawFd, OwnedFd};

/// Moves a range of a file to a stream socket. Dropping it cancels it; how much had gone out is
/// then unknown to the caller, and nothing is lost from the file.
#[derive(Debug)]
pub struct Transfer {
    pub(crate) file: DescId,
    pub(crate) socket: DescId,
    offset: u64,
    left: u64,
    moved: u64,
    in_pipe: usize,
    pipe: Box<PipePair>,
}

/// The pipe between the two.
#[derive(Debug)]
pub(crate) struct PipePair {
    pub(crate) reader: OwnedFd,
    pub(crate) writer: OwnedFd,
    pub(crate) capacity_bytes: usize,
}

variant!(Transfer);

impl Transfer {
    pub(crate) fn new(
        socket: DescId,
        file: DescId,
        offset: u64,
        length: u64,
        pipe: PipePair,
    ) -> Transfer {
        let pipe = Box::new(pipe);
        Transfer { file, socket, offset, left: length, moved: 0, in_pipe: 0, pipe }
    }

    /// Bytes that reached the socket.
    pub fn moved_bytes(&self) -> u64 {
        self.moved
    }

    fn chunk(&self) -> usize {
        self.left.min(self.pipe.capacity_bytes as u64) as usize
    }
}

impl Forms for Transfer {
    const NAME: &'static str = "transfer";

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn source(&self) -> Option<DescId> {
        Some(self.file)
    }

    fn lane(&self) -> Option<Lane> {
        Some(Lane::Send)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let flags = libc::SPLICE_F_MOVE;
        if self.in_pipe > 0 {
            let (from, to) = (self.pipe.reader.as_raw_fd(), cx.fd());
            let bytes = self.in_pipe as u32;
            return opcode::Splice::new(types::Fd(from), -1, types::Fd(to), -1, bytes)
                .flags(flags)
                .build();
        }
        let (from, to) = (cx.source.unwrap_or(-1), self.pipe.writer.as_raw_fd());
        let (offset, bytes) = (self.offset as i64, self.chunk() as u32);
        opcode::Splice::new(types::Fd(from), offset, types::Fd(to), -1, bytes).flags(flags).build()
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        if self.in_pipe > 0 {
            if calls::poll_now(cx.fd(), Interest::WRITABLE) == 0 {
                return Attempt::Blocked(Interest::WRITABLE);
            }
            return Attempt::unless_blocked(
                calls::splice_out(&self.pipe.reader, cx.fd(), self.in_pipe),
                Interest::WRITABLE,
            );
        }
        let (from, to) = (cx.source.unwrap_or(-1), self.pipe.writer.as_raw_fd());
        let (offset, bytes) = (self.offset, self.chunk());
        Attempt::Helper(Box::new(move || calls::splice_in(from, offset, to, bytes)))
    }

    fn moves(&self) -> Moves {
        if self.in_pipe > 0 { Moves::Transferred } else { Moves::Nothing }
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        if result < 0 {
            return Advance::Done(result);
        }
        let bytes = result as usize;
        if self.in_pipe > 0 {
            self.in_pipe -= bytes.min(self.in_pipe);
            self.moved += bytes as u64;
        } else {
            if bytes == 0 {
                return Advance::Done(0);
            }
            self.in_pipe = bytes;
            self.offset += bytes as u64;
            self.left -= (bytes as u64).min(self.left);
        }
        match self.in_pipe == 0 && self.left == 0 {
            true => Advance::Done(0),
            false => Advance::Again,
        }
    }
}

impl Operation for Transfer {
    type Output<P: Port> = Sent;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Sent, Failed<Self>> {
        let path = Path::copied(Mechanism::Splice, CopyReason::PageCache);
        match settle(&outcome, Self::NAME) {
            Ok(_) => Ok(Sent { bytes: self.moved as usize, path }),
            Err(error) => Err(Failed::new(error, self)),
        }
    }
}
