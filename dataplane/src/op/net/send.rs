//! Sending from a span or several, copied or zero-copy.
//!
//! A zero-copy send posts its result first and a notification when the kernel no longer needs the
//! memory (`io_uring_prep_send_zc(3)`): the operation completes with the notification, while the
//! socket's send queue moves on with the result. Which of the two forms runs is the socket's
//! policy, decided when the entry is written; the completion says what happened.

use crate::backend::uring::sqe;
use crate::capability::Capability;
use crate::engine::Outcome;
use crate::engine::descriptors::{Class, Decision, DescId, Descriptor};
use crate::engine::path::{CopyReason, Mechanism, Path};
use crate::engine::scratch;
use crate::error::{Error, ErrorKind, Failed, Result};
use crate::io::Port;
use crate::op::{
    Advance, Attempt, Context, Forms, HoldsBuffer, Interest, Lane, Moves, Operation, settle,
    variant,
};
use crate::sys::calls;
use io_uring::{opcode, squeue::Entry};
use regions::{Span, SpanList};

/// Asks the notification to say whether the kernel copied (IORING_SEND_ZC_REPORT_USAGE).
const REPORT_USAGE: u16 = 1 << 3;
/// The longest single send handed to the kernel, in bytes: what one system call may move.
const MAX_SEND_BYTES: usize = 0x7fff_f000;

/// What a send did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// How many bytes went out.
    pub bytes: usize,
    /// Which way they went.
    pub path: Path,
}

/// Sends a span (`send(2)`): some of it, or with `all` the whole.
///
/// Dropping it cancels it; how much had gone out is then unknown to the caller. The span stays
/// alive until the kernel is done with it.
#[derive(Debug)]
pub struct Send {
    pub(crate) socket: DescId,
    pub(crate) span: Span,
    progress: Progress,
}

/// Sends several spans in order (`sendmsg(2)`); up to 8 without allocation. Dropping it cancels it,
/// as for [`Send`].
#[derive(Debug)]
pub struct SendVectored {
    pub(crate) socket: DescId,
    spans: SpanList,
    vectors: scratch::Vectors,
    progress: Progress,
}

variant!(Send);
variant!(SendVectored);

/// The state both sends share.
#[derive(Debug)]
struct Progress {
    sent: usize,
    all: bool,
    more: bool,
    require: bool,
    /// The kernel could not pin the memory: the rest goes out copied.
    unpinnable: bool,
    /// The kernel has it, or had it last, as a zero-copy send.
    notifies: bool,
    /// The next notification is of a send that never began, or that failed.
    cut_off: bool,
    path: Path,
}

impl Progress {
    fn new() -> Progress {
        let path = Path::copied(Mechanism::Send, CopyReason::NotAsked);
        Progress {
            sent: 0,
            all: false,
            more: false,
            require: false,
            unpinnable: false,
            notifies: false,
            cut_off: false,
            path,
        }
    }

    fn flags(&self) -> i32 {
        let more = if self.more { libc::MSG_MORE } else { 0 };
        libc::MSG_NOSIGNAL | more
    }

    /// Ring sends retry short transfers inside the kernel when the whole is asked for.
    fn ring_flags(&self) -> i32 {
        self.flags() | if self.all { libc::MSG_WAITALL } else { 0 }
    }

    /// The reason to copy, when there is one; a send that may not copy never has one from here.
    fn copies(&self, decision: &Decision) -> Option<CopyReason> {
        decision.copied.or(self.unpinnable.then_some(CopyReason::NotPinned))
    }

    /// Whether a zero-copy send failed because the memory could not be pinned, where a copy will
    /// do: for want of memory, or since it is a driver's (a mapped dma-buf, say).
    fn copies_instead(&self, result: i32) -> bool {
        let refused = [libc::ENOMEM, libc::ENOBUFS, libc::EFAULT].contains(&-result);
        let asked = matches!(
            self.path.mechanism,
            Mechanism::SendZeroCopy
                | Mechanism::SendZeroCopyFixed
                | Mechanism::SendMessageZeroCopy
                | Mechanism::SendMessageZeroCopyFixed
        );
        refused && asked && !self.require && !self.unpinnable
    }

    fn advance(&mut self, result: i32, total: usize) -> Advance {
        if self.copies_instead(result) {
            self.unpinnable = true;
            return Advance::Again;
        }
        if result > 0 {
            self.sent += result as usize;
            if self.all && self.sent < total {
                return Advance::Again;
            }
        }
        match result {
            0.. => Advance::Done(self.sent.min(i32::MAX as usize) as i32),
            // A plain send that moved something succeeded; a send of everything did not.
            _ if self.sent > 0 && !self.all => Advance::Done(self.sent as i32),
            _ => Advance::Done(result),
        }
    }

    /// Families differ: AF_UNIX has no zero-copy send.
    fn falls_back(&self, result: i32) -> bool {
        result == -libc::EOPNOTSUPP && self.path.is_zero_copy() && !self.require
    }

    fn cut_off(&mut self) -> bool {
        self.cut_off = self.notifies;
        self.notifies
    }

    fn notified(&mut self, copied: bool) -> bool {
        if std::mem::take(&mut self.cut_off) {
            return false;
        }
        if copied {
            self.path.copied = Some(CopyReason::KernelCopied);
        }
        true
    }

    fn sent(&self, outcome: &Outcome, name: &'static str) -> Result<Sent> {
        settle(outcome, name)?;
        if self.require && !self.path.is_zero_copy() {
            return Err(Error::new(
                name,
                ErrorKind::Unavailable,
                format!(
                    "zero-copy was required, but: {} ({} bytes went out)",
                    self.path, self.sent
                ),
            ));
        }
        Ok(Sent { bytes: self.sent, path: self.path })
    }
}

fn check_send(name: &'static str, bytes: usize, descriptor: Option<&Descriptor>) -> Result<()> {
    let Some(descriptor) = descriptor else { return Ok(()) };
    if bytes == 0 && descriptor.class() != Class::Datagram {
        return Err(Error::new(
            name,
            ErrorKind::InvalidArgument,
            "nothing to send (0 bytes); only a datagram may be empty",
        ));
    }
    Ok(())
}

impl Send {
    pub(crate) fn new(socket: DescId, span: Span) -> Send {
        Send { socket, span, progress: Progress::new() }
    }

    pub(crate) fn all(mut self) -> Send {
        self.progress.all = true;
        self
    }

    pub(crate) fn more(mut self) -> Send {
        self.progress.more = true;
        self
    }

    /// Bytes that have not gone out yet.
    pub(crate) fn left_bytes(&self) -> usize {
        self.span.len() - self.progress.sent
    }

    /// Bytes that had gone out when it ended.
    pub fn sent_bytes(&self) -> usize {
        self.progress.sent
    }

    fn rest(&self) -> (*const u8, usize) {
        let left = (self.span.len() - self.progress.sent).min(MAX_SEND_BYTES);
        (self.span.as_ptr().wrapping_add(self.progress.sent), left)
    }
}

impl Forms for Send {
    const NAME: &'static str = "send";

    fn moves(&self) -> Moves {
        Moves::Sent
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn lane(&self) -> Option<Lane> {
        Some(Lane::Send)
    }

    fn links(&self) -> bool {
        true
    }

    fn falls_short(&self, result: i32) -> bool {
        result >= 0 && (result as usize) < self.span.len()
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        check_send(Self::NAME, self.span.len(), descriptor)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let (at, bytes) = self.rest();
        let decision = cx.zero_copy(bytes);
        self.progress.require = decision.require;
        let copies = self.progress.copies(&decision);
        self.progress.notifies = copies.is_none();
        if let Some(reason) = copies {
            self.progress.path = Path::copied(Mechanism::Send, reason);
            let entry = opcode::Send::new(target.fd(), at, bytes as u32);
            return target
                .seal(entry.flags(self.progress.ring_flags() | cx.no_second_try()).build());
        }
        let fixed = cx.registry.fixed_index(&self.span, at, bytes);
        let mechanism = match fixed {
            Some(_) => Mechanism::SendZeroCopyFixed,
            None => Mechanism::SendZeroCopy,
        };
        // A copy reported for an earlier part stays reported.
        if self.progress.sent == 0 || self.progress.path.is_zero_copy() {
            self.progress.path = Path::direct(mechanism);
        }
        let entry = opcode::SendZc::new(target.fd(), at, bytes as u32)
            .flags(self.progress.ring_flags())
            .buf_index(fixed)
            .zc_flags(REPORT_USAGE)
            .build();
        target.seal(entry)
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        let decision = cx.zero_copy(self.left_bytes());
        self.progress.require = decision.require;
        let reason = decision.copied.unwrap_or(CopyReason::Unsupported);
        self.progress.path = Path::copied(Mechanism::Send, reason);
        Attempt::unless_blocked(
            calls::send(cx.fd(), &self.span, self.progress.sent, self.progress.flags()),
            Interest::WRITABLE,
        )
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        let total = self.span.len();
        self.progress.advance(result, total)
    }

    fn cut_off(&mut self) -> bool {
        self.progress.cut_off()
    }

    fn notified(&mut self, copied: bool) -> bool {
        self.progress.notified(copied)
    }

    fn falls_back(&self, result: i32) -> bool {
        self.progress.falls_back(result)
    }
}

impl Operation for Send {
    type Output<P: Port> = Sent;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Sent, Failed<Self>> {
        self.progress.sent(&outcome, Self::NAME).map_err(|error| Failed::new(error, self))
    }
}

impl HoldsBuffer for Send {
    type Buffer = Span;
    fn into_buffer(self) -> Span {
        self.span
    }
}

impl SendVectored {
    pub(crate) fn new(socket: DescId, spans: SpanList) -> SendVectored {
        let vectors = scratch::Vectors::default();
        SendVectored { socket, spans, vectors, progress: Progress::new() }
    }

    /// Bytes that have not gone out yet.
    pub(crate) fn left_bytes(&self) -> usize {
        self.spans.total_bytes() - self.progress.sent
    }

    pub(crate) fn all(mut self) -> SendVectored {
        self.progress.all = true;
        self
    }

    /// Bytes that had gone out when it ended.
    pub fn sent_bytes(&self) -> usize {
        self.progress.sent
    }

    /// The registered buffer that holds every span, where the kernel takes vectors of one.
    fn fixed_index(&self, cx: &Context<'_>) -> Option<u16> {
        if !cx.capabilities.contains(Capability::VectoredFixed) {
            return None;
        }
        let mut indexes = self
            .spans
            .iter()
            .filter(|span| !span.is_empty())
            .map(|span| cx.registry.fixed_index(span, span.as_ptr(), span.len()));
        let first = indexes.next()??;
        indexes.all(|index| index == Some(first)).then_some(first)
    }
}

impl Forms for SendVectored {
    const NAME: &'static str = "send";

    fn moves(&self) -> Moves {
        Moves::Sent
    }

    fn desc(&self) -> Option<DescId> {
        Some(self.socket)
    }

    fn lane(&self) -> Option<Lane> {
        Some(Lane::Send)
    }

    fn links(&self) -> bool {
        true
    }

    fn falls_short(&self, result: i32) -> bool {
        result >= 0 && (result as usize) < self.spans.total_bytes()
    }

    fn check(&self, descriptor: Option<&Descriptor>) -> Result<()> {
        scratch::check_vectors(Self::NAME, self.spans.len())?;
        check_send(Self::NAME, self.spans.total_bytes(), descriptor)
    }

    fn entry(&mut self, cx: &mut Context<'_>) -> Entry {
        let target = cx.target();
        let message = self.vectors.gather(cx.scratch, &self.spans, self.progress.sent);
        let decision = cx.zero_copy(self.spans.total_bytes() - self.progress.sent);
        self.progress.require = decision.require;
        let copies = self.progress.copies(&decision);
        self.progress.notifies = copies.is_none();
        if let Some(reason) = copies {
            self.progress.path = Path::copied(Mechanism::SendMessage, reason);
            let entry = opcode::SendMsg::new(target.fd(), message);
            let flags = self.progress.ring_flags() | cx.no_second_try();
            return target.seal(entry.flags(flags as u32).build());
        }
        let fixed = self.fixed_index(cx);
        if self.progress.sent == 0 || self.progress.path.is_zero_copy() {
            self.progress.path = Path::direct(match fixed {
                Some(_) => Mechanism::SendMessageZeroCopyFixed,
                None => Mechanism::SendMessageZeroCopy,
            });
        }
        let entry = opcode::SendMsgZc::new(target.fd(), message)
            .ioprio(REPORT_USAGE)
            .flags(self.progress.ring_flags() as u32);
        let entry = target.seal(entry.build());
        match fixed {
            Some(index) => sqe::from_registered(entry, index),
            None => entry,
        }
    }

    fn attempt(&mut self, cx: &mut Context<'_>) -> Attempt {
        let decision = cx.zero_copy(self.left_bytes());
        self.progress.require = decision.require;
        let reason = decision.copied.unwrap_or(CopyReason::Unsupported);
        self.progress.path = Path::copied(Mechanism::SendMessage, reason);
        let message = self.vectors.gather(cx.scratch, &self.spans, self.progress.sent);
        Attempt::unless_blocked(
            calls::sendmsg(cx.fd(), message, self.progress.flags()),
            Interest::WRITABLE,
        )
    }

    fn advance(&mut self, result: i32, _: u32) -> Advance {
        let total = self.spans.total_bytes();
        self.progress.advance(result, total)
    }

    fn cut_off(&mut self) -> bool {
        self.progress.cut_off()
    }

    fn notified(&mut self, copied: bool) -> bool {
        self.progress.notified(copied)
    }

    fn falls_back(&self, result: i32) -> bool {
        self.progress.falls_back(result)
    }
}

impl Operation for SendVectored {
    type Output<P: Port> = Sent;

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<Sent, Failed<Self>> {
        self.progress.sent(&outcome, Self::NAME).map_err(|error| Failed::new(error, self))
    }
}

impl HoldsBuffer for SendVectored {
    type Buffer = SpanList;
    fn into_buffer(self) -> SpanList {
        self.spans
    }
}
