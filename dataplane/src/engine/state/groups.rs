//! Receive pools: slabs whose slots receives fill.
//!
//! A pool *is* a slab seen from the receiving side. With provided buffer rings the proactor leases
//! slots from the slab and hands them to the kernel under a buffer number; a completion turns the
//! number back into a lease, and the lease, dropped anywhere, returns its slot to the slab, where
//! the next sweep finds it and hands it to the kernel again. So the slab's own free list is the
//! way back, and there is no other. Where the kernel has no buffer rings, a receive takes its
//! lease at the moment it needs one.
//!
//! A pool and its slab live until the last event of every operation armed on it: unregistering a
//! buffer ring is no barrier (the kernel was seen to write a buffer after it).
//!
//! Unsafe code: a slot the kernel held is turned back into a lease when its completion arrives.

#![allow(unsafe_code)]

use crate::backend::Provided;
use crate::backend::uring::buf_ring::FIRST_GROUP;
use regions::{Lease, LeaseFuture, Slab};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Name of a receive pool: whose it is, buffer group and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolId {
    pub(crate) owner: u32,
    pub(crate) index: u16,
    pub(crate) generation: u32,
}

impl PoolId {
    /// The kernel's buffer group.
    pub(crate) fn group(self) -> u16 {
        FIRST_GROUP + self.index
    }
}

/// Most buffers the kernel holds for one pool.
pub(crate) const MAX_ENTRIES: u16 = 32768;
/// Most pools of one proactor.
const MAX_POOLS: usize = 4096;

pub(crate) struct Group {
    /// None when the pool has ended: its memory is not kept any longer.
    slab: Option<Slab>,
    generation: u32,
    /// The kernel holds buffers itself.
    kernel: bool,
    /// Slot by buffer number; the numbers not in use.
    slot_of: Vec<u32>,
    numbers: Vec<u16>,
    /// Operations armed on it.
    armed: u32,
    /// Operations waiting for buffers, by slot of the operation.
    pub(crate) parked: VecDeque<u32>,
    waiter: Option<Pin<Box<LeaseFuture>>>,
    closing: bool,
    live: bool,
}

/// The pools of one proactor.
#[derive(Default)]
pub(crate) struct Groups {
    /// The proactor's number, part of every name given out here.
    owner: u32,
    groups: Vec<Group>,
    /// Where leases without room are split from; made when the first is wanted.
    blank: Option<Lease>,
    /// Leases an attempt took and had no use for.
    unused: Vec<Lease>,
}

impl Groups {
    pub(crate) fn new(owner: u32) -> Groups {
        Groups { owner, groups: Vec::new(), blank: None, unused: Vec::new() }
    }

    /// Whether a name was given out here, however long ago.
    pub(crate) fn owns(&self, id: PoolId) -> bool {
        id.owner == self.owner
    }

    /// A place for a new pool: the lowest group id not in use.
    pub(crate) fn vacant(&self) -> Option<u16> {
        let free = self.groups.iter().position(|group| !group.live);
        free.or((self.groups.len() < MAX_POOLS).then_some(self.groups.len())).map(|i| i as u16)
    }

    pub(crate) fn install(&mut self, index: u16, slab: Slab, kernel: bool, entries: u16) -> PoolId {
        let generation = self.groups.get(index as usize).map_or(1, |g| g.generation + 1);
        let entries = if kernel { entries } else { 0 };
        let group = Group {
            slab: Some(slab),
            generation,
            kernel,
            slot_of: vec![u32::MAX; entries as usize],
            numbers: (0..entries).rev().collect(),
            armed: 0,
            parked: VecDeque::new(),
            waiter: None,
            closing: false,
            live: true,
        };
        match self.groups.get_mut(index as usize) {
            Some(place) => *place = group,
            None => self.groups.push(group),
        }
        PoolId { owner: self.owner, index, generation }
    }

    pub(crate) fn find(&mut self, id: PoolId) -> Option<&mut Group> {
        let is_ours = self.owns(id);
        self.groups
            .get_mut(id.index as usize)
            .filter(|group| is_ours && group.live && group.generation == id.generation)
    }

    pub(crate) fn is_open(&self, id: PoolId) -> bool {
        let found = self.groups.get(id.index as usize).filter(|_| self.owns(id));
        found.is_some_and(|g| g.live && !g.closing && g.generation == id.generation)
    }

    /// A lease for a receive that carries its own buffer.
    pub(crate) fn lease(&mut self, id: PoolId) -> Option<Lease> {
        self.find(id)?.slab.as_ref()?.try_lease()
    }

    /// Nobody waits for buffers any more.
    pub(crate) fn forget_parked(&mut self) {
        self.groups.iter_mut().for_each(|group| group.parked.clear());
    }

    /// Keeps a lease until it can be dropped with nothing borrowed: others may wait for it.
    pub(crate) fn put_aside(&mut self, lease: Lease) {
        self.unused.push(lease);
    }

    pub(crate) fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// What was put aside, to be dropped with nothing borrowed.
    pub(crate) fn take_unused(&mut self) -> Vec<Lease> {
        std::mem::take(&mut self.unused)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// A lease without room, for an empty datagram: the kernel keeps its buffer for the next one.
    pub(crate) fn blank(&mut self) -> Option<Lease> {
        let mut without_room = match self.blank.take() {
            Some(lease) => lease,
            None => Slab::new(1, 1).ok()?.try_lease()?,
        };
        self.blank = Some(without_room.split_off(0));
        Some(without_room)
    }

    pub(crate) fn indexes(&self) -> std::ops::Range<u16> {
        0..self.groups.len() as u16
    }

    pub(crate) fn at(&mut self, index: u16) -> &mut Group {
        &mut self.groups[index as usize]
    }
}

impl Group {
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    pub(crate) fn arm(&mut self) {
        self.armed += 1;
    }

    pub(crate) fn disarm(&mut self) {
        self.armed -= 1;
    }

    pub(crate) fn close(&mut self) {
        self.closing = true;
    }

    /// Closed, and no operation is armed on it any more.
    pub(crate) fn is_finished(&self) -> bool {
        self.live && self.closing && self.armed == 0
    }

    /// Buffers the kernel holds.
    pub(crate) fn provided(&self) -> usize {
        self.slot_of.len() - self.numbers.len()
    }

    /// Whether a receive would find a buffer.
    pub(crate) fn has_buffers(&self) -> bool {
        match self.kernel {
            true => self.provided() > 0,
            false => self.slab.as_ref().is_some_and(Slab::has_available),
        }
    }

    /// Leases what the slab has and the ring has room for, as buffers to hand to the kernel.
    pub(crate) fn refill(&mut self, out: &mut Vec<Provided>) {
        let Some(slab) = self.slab.as_ref().filter(|slab| self.kernel && slab.has_available())
        else {
            return;
        };
        while let Some(&number) = self.numbers.last() {
            let Some(mut lease) = slab.try_lease() else { break };
            self.numbers.pop();
            let (at, bytes) = (lease.as_mut_ptr(), lease.len() as u32);
            self.slot_of[number as usize] = lease.into_slot();
            out.push(Provided { at, bytes, number });
        }
    }

    /// The buffer a completion selected, as a lease of the bytes that arrived.
    pub(crate) fn selected(&mut self, number: u16, bytes: usize) -> Option<Lease> {
        let slab = self.slab.as_ref()?;
        let slot = std::mem::replace(self.slot_of.get_mut(number as usize)?, u32::MAX);
        if slot == u32::MAX {
            return None;
        }
        self.numbers.push(number);
        // SAFETY: `slot` is a reference this pool took with `into_slot`; the kernel has just said
        // that it is done with it, and the entry was cleared, so it is taken back once.
        let mut lease = unsafe { slab.lease_from_slot(slot, 0, slab.slot_bytes()) };
        lease.truncate(bytes);
        Some(lease)
    }

    /// Takes back what the kernel held. Only after its ring is gone and nothing is armed. To be
    /// dropped with nothing borrowed: it may be the last of the slab, and others wait for slots.
    pub(crate) fn finish(&mut self) -> Box<dyn std::any::Any> {
        let numbers = 0..self.slot_of.len() as u16;
        let leases: Vec<Lease> = numbers.filter_map(|number| self.selected(number, 0)).collect();
        self.live = false;
        Box::new((leases, self.waiter.take(), self.slab.take()))
    }

    /// Wakes `waker` when the slab gets a slot back. A lease: it has one now, and the lease goes
    /// straight back, with nothing borrowed, since others may wait for it.
    pub(crate) fn watch(&mut self, waker: &Waker) -> Option<Lease> {
        let slab = self.slab.as_ref()?;
        let mut waiter = match self.waiter.take() {
            Some(waiter) => waiter,
            None => Box::pin(slab.lease_async()),
        };
        match waiter.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(lease) => Some(lease),
            Poll::Pending => {
                self.waiter = Some(waiter);
                None
            }
        }
    }
}
