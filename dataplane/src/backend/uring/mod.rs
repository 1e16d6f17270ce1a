//! The io_uring backend: operations become submission entries, completions come back as they are.
//!
//! One ring, entered by the owner thread only. Everything staged goes to the kernel with the one
//! `io_uring_enter(2)` that also waits. What finds no room in the submission queue stands in a
//! backlog, in order, and moves up after the next enter; cancels and re-arms take the same way.
//!
//! The bell of the inbox is watched by a multishot poll. When it fires the counter is read at
//! once, before the loop observes its wake word again: a later read could swallow the ring of a
//! producer whose poll event had not been posted yet, and the loop would sleep on a full inbox.
//!
//! An operation on a non-blocking descriptor that the kernel answers with EAGAIN is not an error:
//! a poll is armed under a name of its own and the operation pushed again when it fires.
//!
//! Unsafe code: the kernel follows the pointers in the entries pushed; the slot table keeps what
//! they point to until the operation's last event.

#![allow(unsafe_code)]

pub(crate) mod buf_ring;
mod chain;
mod pools;
pub(crate) mod probe;
pub(crate) mod ring;
pub(crate) mod setup;
pub(crate) mod sqe;
mod storage;
pub(crate) mod tables;
pub(crate) mod trial;
mod trial_send;

use super::{
    Backend, Counts, Event, Fatal, Kind, MORE, OpId, Provided, RegisterError, Until, tagged,
};
use crate::capability::{Capabilities, Capability};
use crate::engine::deadlines::now_ns;
use crate::engine::report::trace;
use crate::engine::table::Table;
use crate::op::{Forms, Interest, Lane, Op, Shape};
use crate::options::{Backend as Choice, MAX_OPERATIONS, Options};
use crate::remote::inbox::Shared;
use crate::remote::waker::Bell;
use io_uring::squeue::Entry;
use io_uring::{opcode, types};
use ring::{End, Ring};
use setup::Setup;
use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;
use tables::{BufferTable, FileTable, TableError};

/// Internal events: what the lower bits of the name mean.
const WAKE: u64 = 1 << 55;
/// A cancel of an operation; slot index and generation are in the lower bits, the generation
/// shortened to fit.
const CANCEL: u64 = 1 << 54;
/// A poll armed for an operation, named likewise.
const REARM: u64 = 1 << 53;

/// Fixed files and buffers asked for; the kernel may grant fewer.
const FILES: u32 = 65536;
/// How long a submission thread may take for what takes it microseconds, in nanoseconds.
const TAKEN_WITHIN_NS: u64 = 1_000_000_000;
/// The fewest submission entries that are tried when memory is short.
const SMALLEST: u32 = 8;

/// The io_uring backend of one proactor.
pub(crate) struct Uring {
    ring: Ring,
    capabilities: Capabilities,
    /// The errno for which it could not be seen whether memory can be registered.
    short_of: Option<i32>,
    backlog: VecDeque<Entry>,
    buffers: BufferTable,
    files: FileTable,
    pools: pools::Pools,
    shared: Arc<Shared>,
    wake_armed: bool,
    /// Operations for which a poll is armed instead.
    polling: Vec<OpId>,
    /// Events made here: refusals, tags.
    own: Vec<Event>,
    /// The spare half of a double buffer.
    batch: Vec<Event>,
    /// The ring for polled storage, if one was asked for and could be made.
    storage: Option<storage::Storage>,
    /// Those it counts itself; the ring counts enters.
    counts: Counts,
    /// What a host watches: an eventfd the ring signals, made when somebody asks for it.
    ///
    /// The ring's own descriptor would not do. Under DEFER_TASKRUN work that became pending makes
    /// it readable for who looks, but wakes nobody who sleeps on it with `epoll_wait(2)`.
    watched: OnceCell<Bell>,
    in_overflow: bool,
}

impl Uring {
    pub(crate) fn new(options: &Options, shared: &Arc<Shared>) -> io::Result<Uring> {
        let probe = probe::probe();
        if let Some(why) = &probe.unavailable {
            let kind = io::ErrorKind::Unsupported;
            return Err(io::Error::new(kind, why.message.clone()));
        }
        let operations = options.operations.clamp(1, MAX_OPERATIONS).next_power_of_two();
        let sq_entries = options.submissions.unwrap_or(operations).clamp(1, setup::SQ_ENTRIES_MAX);
        let completions = options.completions.unwrap_or((operations * 4).max(4096));
        let ring = fitting_ring(Setup {
            sq_entries: sq_entries.next_power_of_two(),
            cq_entries: completions
                .clamp(sq_entries.next_power_of_two(), setup::CQ_ENTRIES_MAX)
                .next_power_of_two(),
            sqpoll: options.sqpoll.map(|poll| setup::SqPoll { idle: poll.idle, cpu: poll.cpu }),
            iopoll: false,
        })?;
        Ok(Uring {
            ring,
            capabilities: probe.capabilities.intersection(options.allowed),
            short_of: probe.short_of(options.allowed),
            backlog: VecDeque::new(),
            buffers: BufferTable::new(tables::BUFFERS_MAX),
            files: FileTable::new(FILES),
            pools: pools::Pools::default(),
            shared: shared.clone(),
            wake_armed: false,
            polling: Vec::new(),
            own: Vec::new(),
            batch: Vec::with_capacity(super::EVENTS_PER_TURN),
            watched: OnceCell::new(),
            storage: options.iopoll.then(storage::Storage::new).transpose()?,
            counts: Counts::default(),
            in_overflow: false,
        })
    }

    /// The next enter hands over no more than so many entries.
    #[cfg(test)]
    pub(crate) fn take_at_most(&mut self, entries: u32) {
        self.ring.at_most = Some(entries);
    }

    /// Stages an entry, or puts it in line.
    #[inline]
    fn stage(&mut self, entry: Entry) {
        // SAFETY: what the entry points to is kept by its slot (or is the backend's own and
        // static) until its last event.
        if !self.backlog.is_empty() || !unsafe { self.ring.push(&entry) } {
            self.stand_in_line(entry);
        }
    }

    #[cold]
    fn stand_in_line(&mut self, entry: Entry) {
        self.backlog.push_back(entry);
        self.counts.queued += 1;
    }

    /// Stages an operation that refers to nothing in the table.
    #[inline]
    pub(crate) fn push_plain<F: Forms>(&mut self, id: OpId, op: &F) {
        self.stage(op.plain_entry().user_data(id.0));
    }

    fn move_up(&mut self) {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: as in `stage`.
            if !unsafe { self.ring.push(entry) } {
                break;
            }
            self.backlog.pop_front();
        }
    }

    /// Stages the watch of the inbox's bell, once and whenever the kernel ended it.
    #[inline]
    fn arm_wake(&mut self) {
        if !self.wake_armed {
            self.stage_wake();
        }
    }

    #[cold]
    fn stage_wake(&mut self) {
        self.wake_armed = true;
        let bell = types::Fd(self.shared.bell.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(bell, libc::POLLIN as u32).multi(true).build();
        self.stage(entry.user_data(tagged(Kind::Internal, WAKE)));
    }

    /// See [`Backend::wait`].
    #[inline(always)]
    pub(crate) fn wait_flat(
        &mut self,
        until: Until,
        table: &mut Table,
        out: &mut Vec<Event>,
    ) -> Result<(), Fatal> {
        self.arm_wake();
        if self.storage.is_some() {
            self.poll_storage(table, out)?;
        }
        // While a polled operation is in flight nobody sleeps: that is how it completes.
        let ready = self.ring.has_completions()
            || !self.own.is_empty()
            || !out.is_empty()
            || self.storage_is_busy();
        let (want, timeout) = match until {
            _ if ready => (0, None),
            Until::Now => (0, None),
            Until::Forever => (1, None),
            Until::At(at_ns) => (1, Some(Duration::from_nanos(at_ns.saturating_sub(now_ns())))),
        };
        let entered = self.enter(want, timeout);
        let mut ours = false;
        self.ring.reap(super::EVENTS_PER_TURN, |user_data, result, flags| {
            if !table.slots.finish_plain(user_data, result, flags) {
                ours |= is_ours(user_data, result);
                out.push(Event { user_data, result, flags });
            }
        });
        if ours {
            self.take_ours(table, out);
        }
        if !self.own.is_empty() {
            out.append(&mut self.own);
        }
        entered
    }

    /// Gives an operation to the polled ring. False: it belongs on the ordinary one.
    #[cold]
    fn push_polled(&mut self, id: OpId, table: &mut Table) -> bool {
        let Some(storage) = &mut self.storage else { return false };
        let entry = table.resolve(id, |op, cx| storage.entry(id, op, cx));
        let Some(entry) = entry else { return false };
        storage.push(id, &entry);
        true
    }

    /// Looks at the polled ring once; what its device refuses is staged here.
    #[cold]
    fn poll_storage(&mut self, table: &mut Table, out: &mut Vec<Event>) -> Result<(), Fatal> {
        let Some(storage) = self.storage.as_mut().filter(|storage| storage.is_busy()) else {
            return Ok(());
        };
        let mut refused = Vec::new();
        let polled = storage.turn(out, &mut refused);
        for id in refused {
            self.push(id, table);
        }
        polled
    }

    fn storage_is_busy(&self) -> bool {
        self.storage.as_ref().is_some_and(storage::Storage::is_busy)
    }

    /// One enter, which submits everything staged.
    #[inline(always)]
    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> Result<(), Fatal> {
        if !self.backlog.is_empty() {
            self.move_up();
        }
        if self.ring.overflow_flag() != self.in_overflow {
            self.note_overflow();
        }
        // A standing backlog must reach the kernel before anybody sleeps.
        let want = if self.backlog.is_empty() { want } else { 0 };
        match self.ring.enter(want, timeout) {
            Ok(entered) if entered.end == End::CompletionsLost => Err(Fatal::Dropped),
            Ok(entered) => {
                self.counts.busy += u64::from(entered.end == End::Busy);
                if self.ring.is_short() {
                    self.mend();
                }
                if !self.backlog.is_empty() {
                    self.move_up();
                }
                Ok(())
            }
            Err(error) => Err(Fatal::Failed(setup::errno_of(&error).unwrap_or(libc::EIO))),
        }
    }

    /// Hands everything over, the backlog too, and sees it taken, unless the kernel takes nothing
    /// more for now.
    #[cold]
    fn hand_over(&mut self) {
        let end_ns = now_ns() + TAKEN_WITHIN_NS;
        loop {
            let left = self.ring.untaken() + self.backlog.len();
            if left == 0 || self.enter(0, None).is_err() {
                return;
            }
            if self.ring.untaken() + self.backlog.len() >= left {
                // A submission thread was told and comes to it in its own time.
                if !self.ring.has_thread() || now_ns() >= end_ns {
                    return;
                }
                std::thread::yield_now();
            }
        }
    }

    #[cold]
    fn note_overflow(&mut self) {
        self.in_overflow = !self.in_overflow;
        self.counts.overflows += u64::from(self.in_overflow);
        if self.in_overflow {
            trace::overflow(self.counts.overflows);
        }
    }

    /// Takes the events that are the backend's own business out of the batch.
    #[cold]
    fn take_ours(&mut self, table: &mut Table, out: &mut Vec<Event>) {
        let mut batch = std::mem::take(&mut self.batch);
        std::mem::swap(&mut batch, out);
        for event in batch.drain(..) {
            match is_ours(event.user_data, event.result) {
                true => self.on_internal(event, table, out),
                false => out.push(event),
            }
        }
        self.batch = batch;
    }

    fn on_internal(&mut self, event: Event, table: &mut Table, out: &mut Vec<Event>) {
        if event.kind() == Kind::Operation as u8 {
            return match event.result == -libc::EAGAIN {
                true => self.poll_instead(event, table, out),
                false => out.push(chain::whole(event, table)),
            };
        }
        let value = event.user_data & 0x00ff_ffff_ffff_ffff;
        if value & WAKE != 0 {
            // A bell that cannot be read is no longer ours; the next arm tells.
            let _ = self.shared.bell.clear();
            self.counts.bells += 1;
            self.wake_armed = event.flags & MORE != 0;
        } else if value & REARM != 0 {
            self.rearmed(value, event.result, table, out);
        } else if value & CANCEL != 0 && event.result == -libc::ENOENT {
            self.cancel_again(value, table);
        }
    }

    /// The kernel had nothing and would not wait: wait with a poll.
    fn poll_instead(&mut self, event: Event, table: &mut Table, out: &mut Vec<Event>) {
        let id = event.op();
        if table.slots.find(id).is_none() {
            return out.push(event);
        }
        let (slot, body, _) = table.slots.parts(id.index());
        let interest = match &body.op {
            Some(op) if op.lane() == Some(Lane::Send) => Interest::WRITABLE,
            Some(Op::Connect(_) | Op::SendTo(_) | Op::Write(_)) => Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        let is_result = body.op.as_ref().is_some_and(|op| !op.means_again(event.result));
        let is_over = is_result || slot.cancel_sent;
        if slot.shape == Shape::Multishot || event.flags & MORE != 0 || is_over {
            return out.push(event);
        }
        let number = table.descriptor_of(id);
        self.polling.push(id);
        let entry = opcode::PollAdd::new(types::Fd(number), interest.bits()).build();
        self.stage(entry.user_data(rearm_name(id)));
    }

    fn stage_cancel(&mut self, id: OpId, name: u64) {
        let entry = opcode::AsyncCancel::new(name).build();
        self.stage(entry.user_data(short_name(CANCEL, id)));
    }

    /// The kernel did not find an operation that is still out: a submission thread had it in hand,
    /// between waiting and trying once more, or it is the next of a chain and the kernel has yet to
    /// begin it. Unless its end is among the events of this turn, the next time finds it.
    #[cold]
    fn cancel_again(&mut self, value: u64, table: &mut Table) {
        let id = table.slots.id(value as u32);
        let slot = table.slots.at(id.index());
        let is_out = slot.cancel_sent && slot.owed > 0 && !slot.settled;
        let is_it = short_name(CANCEL, id) & 0x00ff_ffff_ffff_ffff == value;
        if is_out && is_it && !self.polling.contains(&id) {
            self.stage_cancel(id, id.0);
        }
    }

    fn rearmed(&mut self, value: u64, result: i32, table: &mut Table, out: &mut Vec<Event>) {
        let name = |id: &OpId| rearm_name(*id) & 0x00ff_ffff_ffff_ffff == value;
        let Some(at) = self.polling.iter().position(name) else { return };
        let id = self.polling.swap_remove(at);
        match result {
            // Given up meanwhile: nobody waits for it.
            0.. if table.slots.find(id).is_none_or(|slot| slot.owed == 0) => {}
            0.. => self.push(id, table),
            errno => out.push(Event::of(id, errno, 0)),
        }
    }
}

/// The ring that was asked for or, where RLIMIT_MEMLOCK has no room for it, the largest smaller
/// one: fewer entries cost an enter more now and then, no ring at all would cost the backend.
fn fitting_ring(mut setup: Setup) -> io::Result<Ring> {
    loop {
        match Ring::new(&setup) {
            Err(error)
                if setup::errno_of(&error) == Some(libc::ENOMEM) && setup.sq_entries > SMALLEST =>
            {
                setup.sq_entries /= 2;
                setup.cq_entries = (setup.cq_entries / 2).max(setup.sq_entries * 2);
            }
            made => return made,
        }
    }
}

/// Whether an event is for the backend: its own, or an operation the kernel would not wait for or
/// never began.
#[inline]
fn is_ours(user_data: u64, result: i32) -> bool {
    let kind = (user_data >> 56) as u8;
    let looked_at = result == -libc::EAGAIN || result == -libc::ECANCELED;
    kind == Kind::Internal as u8 || (looked_at && kind == Kind::Operation as u8)
}

/// The name of the poll that stands for an operation.
fn rearm_name(id: OpId) -> u64 {
    short_name(REARM, id)
}

/// The name of something about an operation: 32 bits of index, 21 of generation.
fn short_name(what: u64, id: OpId) -> u64 {
    let short = u64::from(id.generation() & 0x001f_ffff);
    tagged(Kind::Internal, what | short << 32 | u64::from(id.index()))
}

fn register_error(error: TableError) -> RegisterError {
    match error {
        TableError::Exhausted { used, maximum, .. } => RegisterError::Full { used, maximum },
        TableError::Refused { errno, .. } => RegisterError::Refused(errno),
        TableError::Unavailable { .. } => RegisterError::Unavailable,
    }
}

impl Backend for Uring {
    fn choice(&self) -> Choice {
        Choice::IoUring
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    #[inline]
    fn push(&mut self, id: OpId, table: &mut Table) {
        if self.storage.is_some() && self.push_polled(id, table) {
            return;
        }
        let selects = self.selects_buffers();
        let entry = table.resolve(id, |op, cx| {
            if !selects && !pools::carry_buffer(op, cx) {
                return None;
            }
            Some(op.entry(cx).user_data(id.0))
        });
        match entry {
            Some(entry) => self.stage(entry),
            None => self.own.push(Event::of(id, -libc::ENOBUFS, 0)),
        }
    }

    fn longest_chain(&self) -> usize {
        match self.storage.is_some() || !self.backlog.is_empty() {
            true => 0,
            false => self.ring.capacity(),
        }
    }

    fn push_chain(&mut self, ids: &[OpId], table: &mut Table) -> bool {
        if self.ring.room() < ids.len() && self.enter(0, None).is_err() {
            return false;
        }
        if self.ring.room() < ids.len() {
            return false;
        }
        let entry = |id: &OpId| table.resolve(*id, |op, cx| op.entry(cx)).user_data(id.0);
        let chain: Vec<Entry> = ids.iter().map(entry).collect();
        // SAFETY: as in `stage`, for every entry.
        unsafe { self.ring.push_chain(chain) }
    }

    fn cancel(&mut self, id: OpId, _: &mut Table) {
        if self.storage.as_ref().is_some_and(|storage| storage.holds(id)) {
            return;
        }
        let name = if self.polling.contains(&id) { rearm_name(id) } else { id.0 };
        // Still in line: take it out, nothing of it is with the kernel.
        if let Some(at) = self.backlog.iter().position(|entry| entry.get_user_data() == name) {
            self.backlog.remove(at);
            self.polling.retain(|polled| *polled != id);
            return self.own.push(Event::of(id, -libc::ECANCELED, 0));
        }
        self.stage_cancel(id, name);
    }

    fn flush(&mut self, table: &mut Table) -> Result<(), Fatal> {
        self.arm_wake();
        if let Some(watched) = self.watched.get() {
            // Before looking: what comes from here on signals again.
            let _ = watched.clear();
        }
        let mut found = std::mem::take(&mut self.own);
        let polled = self.poll_storage(table, &mut found);
        self.own.append(&mut found);
        polled?;
        self.enter(0, None)
    }

    fn wait(&mut self, until: Until, table: &mut Table, out: &mut Vec<Event>) -> Result<(), Fatal> {
        self.wait_flat(until, table, out)
    }

    fn register_memory(&mut self, pieces: &[(*mut u8, usize)]) -> Result<u32, RegisterError> {
        if !self.capabilities.contains(Capability::RegisteredBuffers) {
            return Err(self.short_of.map_or(RegisterError::Unavailable, RegisterError::Refused));
        }
        let tag = |index: u32| tagged(Kind::Released, u64::from(index));
        self.buffers.insert_run(&mut self.ring, pieces, tag).map_err(register_error)
    }

    fn unregister_memory(&mut self, first: u32, count: u32) {
        // What was staged may name these entries, and the kernel looks them up when it starts
        // an operation: hand everything over first.
        self.hand_over();
        let _ = self.buffers.clear_run(&mut self.ring, first, count);
    }

    fn released(&mut self, index: u32) {
        self.buffers.on_tag(index);
    }

    fn register_file(&mut self, fd: RawFd) -> Result<u32, RegisterError> {
        if !self.capabilities.contains(Capability::FixedFiles) {
            return Err(RegisterError::Unavailable);
        }
        self.files.insert(&mut self.ring, fd).map_err(register_error)
    }

    fn unregister_file(&mut self, index: u32) {
        self.hand_over();
        let _ = self.files.clear(&mut self.ring, index);
    }

    fn open_pool(&mut self, group: u16, entries: u16) -> Result<bool, RegisterError> {
        if !self.selects_buffers() {
            return Ok(false);
        }
        self.pools.open(&mut self.ring, group, entries).map(|()| true)
    }

    fn provide(&mut self, group: u16, buffers: &[Provided]) {
        self.pools.provide(group, buffers);
    }

    fn close_pool(&mut self, group: u16) {
        self.pools.close(&mut self.ring, group);
    }

    fn selects_buffers(&self) -> bool {
        self.capabilities.contains(Capability::BufferRings)
    }

    fn watchable(&self) -> Option<RawFd> {
        if self.watched.get().is_none() {
            let eventfd = Bell::new().ok()?;
            self.ring.submitter().register_eventfd(eventfd.as_fd().as_raw_fd()).ok()?;
            // What completed before is to be seen too.
            let _ = eventfd.ring();
            let _ = self.watched.set(eventfd);
        }
        self.watched.get().map(|eventfd| eventfd.as_fd().as_raw_fd())
    }

    fn has_hidden_work(&self) -> bool {
        self.ring.has_completions()
            || !self.own.is_empty()
            || !self.backlog.is_empty()
            || self.storage_is_busy()
    }

    fn counts(&self) -> Counts {
        let (polled, unpolled) = self.storage.as_ref().map_or((0, 0), storage::Storage::counts);
        Counts { enters: self.ring.enters(), polled, unpolled, ..self.counts }
    }
}
