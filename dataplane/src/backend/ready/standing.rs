//! Operations that wait: where each one stands, and which ones stand on a descriptor.
//!
//! Two tables of plain indices, no allocation per operation. A *node* per operation slot says in
//! which phase the operation is; a *place* per descriptor number heads a doubly linked list of the
//! nodes that wait for its readiness, in the order in which they came. Standing, leaving and
//! cancelling are O(1); a report walks the list of its own descriptor alone, so idle descriptors
//! cost nothing.
//!
//! # Numbers that are used again
//!
//! The kernel hands a closed number out again, and a registration can outlive the number. A
//! place therefore belongs to an *owner* (the identity of the descriptor in the engine's table) and
//! counts a generation: an operation of another owner finds the place unregistered and under a new
//! generation, and a report with an old one is stale and dropped.
//!
//! All ids are checked whole: a slot that was used again is another operation.

use crate::backend::OpId;
use std::os::fd::RawFd;

/// No node.
const NONE: u32 = u32::MAX;
/// The interests that are counted: readable, writable, urgent.
const COUNTED: [u32; 3] = [libc::POLLIN as u32, libc::POLLOUT as u32, libc::POLLPRI as u32];

/// Where an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not here.
    Absent,
    /// Waits for readiness of a descriptor.
    Standing,
    /// Tried again a moment later.
    Soon,
    /// Has more to do at the next turn.
    Hot,
    /// A persistent poll.
    Watching,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    id: OpId,
    phase: Phase,
    fd: RawFd,
    interest: u32,
    /// Reports in a row after which the operation would still block.
    false_reports: u8,
    before: u32,
    after: u32,
}

const ABSENT: Node = Node {
    id: OpId(u64::MAX),
    phase: Phase::Absent,
    fd: -1,
    interest: 0,
    false_reports: 0,
    before: NONE,
    after: NONE,
};

#[derive(Clone, Debug)]
struct Place<K> {
    owner: Option<K>,
    generation: u32,
    registered: bool,
    first: u32,
    last: u32,
    counts: [u32; 3],
}

impl<K> Place<K> {
    fn new() -> Place<K> {
        Place {
            owner: None,
            generation: 0,
            registered: false,
            first: NONE,
            last: NONE,
            counts: [0; 3],
        }
    }

    fn count(&mut self, interest: u32, change: impl Fn(u32) -> u32) {
        for (count, bit) in self.counts.iter_mut().zip(COUNTED) {
            if interest & bit != 0 {
                *count = change(*count);
            }
        }
    }
}

/// How the poller must be told after an operation took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stood {
    /// Of the registration, for its token.
    pub(super) generation: u32,
    /// Whether there is one already.
    pub(super) registered: bool,
    /// What all operations on the descriptor wait for.
    pub(super) needed: u32,
}

/// See the head of this file. `K` is what tells two owners of one number apart.
pub(super) struct Standing<K> {
    nodes: Vec<Node>,
    places: Vec<Place<K>>,
    waiting: usize,
}

impl<K: Copy + PartialEq> Standing<K> {
    pub(super) fn new() -> Standing<K> {
        Standing { nodes: Vec::new(), places: Vec::new(), waiting: 0 }
    }

    fn node(&self, id: OpId) -> Option<&Node> {
        self.nodes.get(id.index() as usize).filter(|node| node.id == id)
    }

    /// The node of `id`, made when it is new.
    fn enter(&mut self, id: OpId) -> &mut Node {
        let index = id.index() as usize;
        if index >= self.nodes.len() {
            self.nodes.resize((index + 1).next_power_of_two(), ABSENT);
        }
        let node = &mut self.nodes[index];
        if node.id != id {
            debug_assert_eq!(node.phase, Phase::Absent, "a slot was reused too early");
            *node = Node { id, ..ABSENT };
        }
        node
    }

    fn place(&self, fd: RawFd) -> Option<&Place<K>> {
        self.places.get(usize::try_from(fd).ok()?)
    }

    fn place_mut(&mut self, fd: RawFd) -> Option<&mut Place<K>> {
        self.places.get_mut(usize::try_from(fd).ok()?)
    }

    /// Where `id` is.
    pub(super) fn phase(&self, id: OpId) -> Phase {
        self.node(id).map_or(Phase::Absent, |node| node.phase)
    }

    /// Operations that wait in any phase.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Puts `id` into a phase that no descriptor ends.
    pub(super) fn set(&mut self, id: OpId, phase: Phase) {
        debug_assert_ne!(phase, Phase::Standing);
        self.unlink(id);
        let node = self.enter(id);
        let was = std::mem::replace(&mut node.phase, phase);
        self.waiting += usize::from(was == Phase::Absent);
    }

    /// Lets `id` stand on `fd` until one of `interest` is reported: at the end of the list, or
    /// where it stands already.
    pub(super) fn stand(&mut self, id: OpId, fd: RawFd, owner: Option<K>, interest: u32) -> Stood {
        let number = fd.max(0) as usize;
        if number >= self.places.len() {
            self.places.resize((number + 1).next_power_of_two(), Place::new());
        }
        let node = *self.enter(id);
        if node.phase != Phase::Standing || node.fd != fd {
            self.unlink(id);
            self.waiting += usize::from(node.phase == Phase::Absent);
            self.link(id, fd);
        } else {
            self.places[number].count(node.interest, |count| count - 1);
        }
        self.enter(id).interest = interest;
        let place = &mut self.places[number];
        place.count(interest, |count| count + 1);
        if place.owner != owner || owner.is_none() {
            place.owner = owner;
            place.registered = false;
            place.generation = (place.generation + 1) & 0x00ff_ffff;
        }
        let (generation, registered) = (place.generation, place.registered);
        Stood { generation, registered, needed: self.needed(fd) }
    }

    fn link(&mut self, id: OpId, fd: RawFd) {
        let index = id.index();
        let place = &mut self.places[fd.max(0) as usize];
        let last = std::mem::replace(&mut place.last, index);
        match last {
            NONE => place.first = index,
            last => self.nodes[last as usize].after = index,
        }
        let node = &mut self.nodes[index as usize];
        (node.phase, node.fd) = (Phase::Standing, fd);
        (node.before, node.after) = (last, NONE);
    }

    /// Takes `id` out of the list it stands in, if it does; its phase stays for the caller.
    fn unlink(&mut self, id: OpId) {
        let Some(&node) = self.node(id).filter(|node| node.phase == Phase::Standing) else {
            return;
        };
        match node.before {
            NONE => self.places[node.fd.max(0) as usize].first = node.after,
            before => self.nodes[before as usize].after = node.after,
        }
        match node.after {
            NONE => self.places[node.fd.max(0) as usize].last = node.before,
            after => self.nodes[after as usize].before = node.before,
        }
        self.places[node.fd.max(0) as usize].count(node.interest, |count| count - 1);
    }

    /// Forgets `id`. The descriptor it stood on, if it did.
    pub(super) fn leave(&mut self, id: OpId) -> Option<RawFd> {
        let node = *self.node(id)?;
        self.unlink(id);
        self.waiting -= usize::from(node.phase != Phase::Absent);
        self.nodes[id.index() as usize] = ABSENT;
        (node.phase == Phase::Standing).then_some(node.fd)
    }

    /// Counts a report that let `id` make no progress; how many there were in a row.
    pub(super) fn false_report(&mut self, id: OpId) -> u8 {
        let node = self.enter(id);
        node.false_reports = node.false_reports.saturating_add(1);
        node.false_reports
    }

    /// What the operations on `fd` wait for.
    pub(super) fn needed(&self, fd: RawFd) -> u32 {
        let counts = self.place(fd).map_or([0; 3], |place| place.counts);
        counts.iter().zip(COUNTED).filter(|(count, _)| **count > 0).map(|(_, bit)| bit).sum()
    }

    /// Whether nothing stands on `fd`.
    pub(super) fn is_idle(&self, fd: RawFd) -> bool {
        self.place(fd).is_none_or(|place| place.first == NONE)
    }

    /// Whether `fd` is registered with the poller, as far as is known.
    pub(super) fn is_registered(&self, fd: RawFd) -> bool {
        self.place(fd).is_some_and(|place| place.registered)
    }

    /// Generation and readable interest of what stands on `fd`, for a registration to be renewed.
    pub(super) fn generation(&self, fd: RawFd) -> u32 {
        self.place(fd).map_or(0, |place| place.generation)
    }

    /// Notes that the poller has, or no longer has, a registration of `fd`.
    pub(super) fn set_registered(&mut self, fd: RawFd, registered: bool) {
        if let Some(place) = self.place_mut(fd) {
            place.registered = registered;
        }
    }

    /// The first operation on `fd`, unless the report is stale.
    pub(super) fn first(&self, fd: RawFd, generation: u32) -> Option<OpId> {
        let place = self.place(fd).filter(|place| place.generation == generation)?;
        self.nodes.get(place.first as usize).map(|node| node.id)
    }

    /// The operation after `id` on the same descriptor.
    pub(super) fn next(&self, id: OpId) -> Option<OpId> {
        let node = self.node(id).filter(|node| node.phase == Phase::Standing)?;
        self.nodes.get(node.after as usize).map(|node| node.id)
    }

    /// What `id` waits for.
    pub(super) fn interest(&self, id: OpId) -> u32 {
        self.node(id).map_or(0, |node| node.interest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN: u32 = libc::POLLIN as u32;
    const OUT: u32 = libc::POLLOUT as u32;

    fn id(index: u32) -> OpId {
        OpId::new(index, 1)
    }

    fn standing_on(table: &Standing<u32>, fd: RawFd) -> Vec<u32> {
        let mut at = table.first(fd, table.generation(fd));
        std::iter::from_fn(|| {
            let here = at?;
            at = table.next(here);
            Some(here.index())
        })
        .collect()
    }

    #[test]
    fn operations_stand_in_order_and_leave_from_anywhere() {
        let mut table = Standing::new();
        for index in 0..4 {
            table.stand(id(index), 5, Some(1), IN);
        }
        assert_eq!(standing_on(&table, 5), [0, 1, 2, 3]);
        assert_eq!(table.leave(id(1)), Some(5));
        assert_eq!(table.leave(id(3)), Some(5));
        table.stand(id(0), 5, Some(1), IN);
        table.stand(id(7), 5, Some(1), IN);
        assert_eq!(standing_on(&table, 5), [0, 2, 7], "who blocks again keeps its place");
        assert_eq!(table.leave(id(0)), Some(5));
        assert_eq!(table.leave(id(0)), None);
        assert_eq!(standing_on(&table, 5), [2, 7]);
        assert_eq!(table.waiting(), 2);
    }

    #[test]
    fn needed_is_what_those_who_stand_there_wait_for() {
        let mut table = Standing::new();
        assert_eq!(table.stand(id(0), 3, Some(1), IN).needed, IN);
        assert_eq!(table.stand(id(1), 3, Some(1), OUT).needed, IN | OUT);
        assert_eq!(table.stand(id(1), 3, Some(1), IN).needed, IN);
        table.leave(id(0));
        assert_eq!(table.needed(3), IN);
        table.set(id(1), Phase::Soon);
        assert_eq!((table.needed(3), table.is_idle(3)), (0, true));
        assert_eq!((table.phase(id(1)), table.waiting()), (Phase::Soon, 1));
    }

    #[test]
    fn a_number_with_another_owner_is_unregistered_and_old_reports_are_stale() {
        let mut table = Standing::new();
        let first = table.stand(id(0), 9, Some(1), IN);
        assert!(!first.registered);
        table.set_registered(9, true);
        table.leave(id(0));
        let same = table.stand(id(0), 9, Some(1), IN);
        assert_eq!((same.registered, same.generation), (true, first.generation));
        table.leave(id(0));
        let other = table.stand(id(1), 9, Some(2), IN);
        assert!(!other.registered);
        assert_eq!(table.first(9, first.generation), None);
        assert_eq!(table.first(9, other.generation), Some(id(1)));
        assert_eq!(table.first(1000, 0), None);
    }

    #[test]
    fn a_slot_used_again_is_another_operation() {
        let mut table = Standing::new();
        table.stand(OpId::new(2, 1), 4, Some(1), IN);
        assert_eq!(table.leave(OpId::new(2, 2)), None);
        assert_eq!(table.phase(OpId::new(2, 2)), Phase::Absent);
        assert_eq!(table.leave(OpId::new(2, 1)), Some(4));
        table.set(OpId::new(2, 2), Phase::Hot);
        assert_eq!(table.phase(OpId::new(2, 1)), Phase::Absent);
        assert_eq!(table.phase(OpId::new(2, 2)), Phase::Hot);
    }

    #[test]
    fn false_reports_are_counted_per_operation() {
        let mut table = Standing::<u32>::new();
        table.stand(id(0), 4, Some(1), IN);
        assert_eq!((table.false_report(id(0)), table.false_report(id(0))), (1, 2));
        table.leave(id(0));
        table.stand(id(0), 4, Some(1), IN);
        assert_eq!(table.false_report(id(0)), 1);
    }
}
