//! A backend that misbehaves within the contract, for tests: whatever it does, a correct engine
//! comes to the same outcomes.
//!
//! It wraps another backend and, by a seeded generator (the same seed and the same calls give the
//! same decisions), injects:
//!
//! - *late events*: held back for one to three turns; a wait does not sleep meanwhile;
//! - *reordered events*, except where order means something: events of one operation (a result
//!   comes before its notification), and events that select buffers, whose order is that of the
//!   bytes in a buffer consumed piece by piece;
//! - *-EINTR and -EAGAIN* for one-shot transfers, *-ECONNABORTED* for accepts (and *-EINTR* for
//!   streams of them), instead of running them: the engine pushes them again;
//! - *-ENOBUFS* for receives from a pool, likewise; also when the pool is not empty, as when
//!   buffers came back a moment later;
//! - *chains that are refused*, which the engine then runs itself; those that are not give late and
//!   reordered events like everything else;
//! - *late cancels*, handed on after up to three turns, so that operations win their race;
//! - *ended multishots*: an accept or pool receive is cancelled underneath. Its last result is kept
//!   back until the operation has ended and then given without MORE; the -ECANCELED that nobody
//!   asked for is swallowed. When it ends with something else, both are given.
//!
//! Not injected: short transfers (the operation itself decides what it asks for, so they are made
//! by small socket buffers), and early ends of persistent polls, which would report the same
//! readiness again and thereby change what is observed.
//!
//! Belongs to the poll owner's thread, like what it wraps.

use super::{
    BUFFER, Backend, Counts, EVENTS_PER_TURN, Event, Fatal, Kind, MORE, NOTIFICATION, OpId,
    Provided, RegisterError, Until,
};
use crate::capability::Capabilities;
use crate::engine::table::Table;
use crate::op::Op;
use crate::options::Backend as Choice;
use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::RawFd;

/// Most turns that anything is held back.
const TURNS: u64 = 3;

/// A xorshift generator (Marsaglia, "Xorshift RNGs", 2003): good enough to choose faults by.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        // Neighbouring seeds give unlike sequences, and the state must not be zero.
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d | 1)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// True once in `n` on average.
    fn one_in(&mut self, n: u64) -> bool {
        self.roll().is_multiple_of(n)
    }

    fn turns(&mut self) -> u64 {
        1 + self.roll() % TURNS
    }
}

/// Whether the order of two events means something.
fn is_ordered(a: &Event, b: &Event) -> bool {
    a.user_data == b.user_data || a.flags & b.flags & BUFFER != 0
}

/// Events on their way, some of them late.
struct Late {
    /// Turns left, and the event. Turns never decrease between two events that are ordered.
    queue: VecDeque<(u64, Event)>,
}

impl Late {
    fn new() -> Late {
        Late { queue: VecDeque::new() }
    }

    fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes an event in, late by choice, and possibly before the one that came before it.
    fn enter(&mut self, event: Event, dice: &mut Dice) {
        let chosen = if dice.one_in(8) { dice.turns() } else { 0 };
        let ordered = self.queue.iter().filter(|(_, earlier)| is_ordered(earlier, &event));
        let turns = ordered.map(|(turns, _)| *turns).max().unwrap_or(0).max(chosen);
        self.queue.push_back((turns, event));
        let last = self.queue.len() - 1;
        if last > 0 && dice.one_in(4) && !is_ordered(&self.queue[last - 1].1, &event) {
            self.queue.swap(last - 1, last);
        }
    }

    /// Hands out what is due, at most `room` events, and lets a turn pass for the rest.
    fn leave(&mut self, room: usize, out: &mut Vec<Event>) {
        let end = out.len() + room;
        self.queue.retain_mut(|(turns, event)| {
            if *turns > 0 {
                *turns -= 1;
                return true;
            }
            if out.len() >= end {
                return true;
            }
            out.push(*event);
            false
        });
    }
}

/// Multishot operations that are being ended underneath, each with its last result.
struct Endings(HashMap<u64, Event>);

impl Endings {
    /// What of `event` may be passed on now: none, one or two events, in order.
    fn filter(&mut self, event: Event) -> [Option<Event>; 2] {
        let Some(last) = self.0.get_mut(&event.user_data) else { return [Some(event), None] };
        let last = std::mem::replace(last, event);
        if event.flags & MORE != 0 {
            return [Some(last), None];
        }
        self.0.remove(&event.user_data);
        match event.result == -libc::ECANCELED {
            true => [Some(Event { flags: last.flags & !MORE, ..last }), None],
            false => [Some(last), Some(event)],
        }
    }
}

/// See the head of this file.
pub(crate) struct Faulty {
    inner: Box<dyn Backend>,
    dice: Dice,
    late: Late,
    /// Operations answered here, whose push the inner backend never saw.
    injected: HashSet<OpId>,
    /// Cancels to be handed on, with the turns left.
    cancels: VecDeque<(u64, OpId)>,
    endings: Endings,
    fresh: Vec<Event>,
    watched: Cell<bool>,
}

/// The errno to answer with instead of running `op`, where the engine would try again.
fn refusal(op: &Op, dice: &mut Dice) -> Option<i32> {
    let transient = match op {
        Op::RecvPool(_) | Op::RecvMany(_) => libc::ENOBUFS,
        Op::AcceptMany(_) if dice.one_in(2) => libc::EINTR,
        Op::Accept(_) | Op::AcceptMany(_) => libc::ECONNABORTED,
        Op::Recv(_) | Op::RecvVectored(_) | Op::RecvFrom(_) => libc::EINTR,
        Op::Send(_) | Op::SendVectored(_) | Op::SendTo(_) => libc::EAGAIN,
        Op::Read(_) | Op::Write(_) => libc::EINTR,
        _ => return None,
    };
    dice.one_in(16).then_some(transient)
}

impl Faulty {
    /// Wraps `inner`; `seed` decides.
    pub(crate) fn new(inner: Box<dyn Backend>, seed: u64) -> Faulty {
        Faulty {
            inner,
            dice: Dice::new(seed),
            late: Late::new(),
            injected: HashSet::new(),
            cancels: VecDeque::new(),
            endings: Endings(HashMap::new()),
            fresh: Vec::new(),
            watched: Cell::new(false),
        }
    }

    fn is_holding(&self) -> bool {
        !self.late.is_empty() || !self.cancels.is_empty()
    }

    /// Hands on the cancels whose time has come.
    fn cancel_due(&mut self, table: &mut Table) {
        let inner = &mut self.inner;
        self.cancels.retain_mut(|(turns, id)| {
            *turns -= 1;
            if *turns == 0 {
                inner.cancel(*id, table);
            }
            *turns > 0
        });
    }

    /// An event of the inner backend.
    fn receive(&mut self, event: Event, table: &mut Table) {
        if event.kind() != Kind::Operation as u8 {
            return self.late.enter(event, &mut self.dice);
        }
        if event.flags & MORE == 0 {
            // It is over: a cancel on its way must not meet who comes after it.
            self.cancels.retain(|(_, id)| *id != event.op());
        } else if event.flags & NOTIFICATION == 0
            && !self.endings.0.contains_key(&event.user_data)
            && self.dice.one_in(16)
            && table.resolve(event.op(), |op, _| matches!(op, Op::AcceptMany(_) | Op::RecvMany(_)))
        {
            self.endings.0.insert(event.user_data, event);
            return self.inner.cancel(event.op(), table);
        }
        for passed in self.endings.filter(event).into_iter().flatten() {
            self.late.enter(passed, &mut self.dice);
        }
    }

    /// Who watches a descriptor instead of waiting must be told of what is held back.
    fn remind(&self, table: &Table) {
        if self.watched.get() && (self.is_holding() || !self.endings.0.is_empty()) {
            // It fails only when the descriptor is not ours any more; then nothing helps.
            let _ = table.shared.bell.ring();
        }
    }
}

impl Backend for Faulty {
    fn choice(&self) -> Choice {
        self.inner.choice()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn push(&mut self, id: OpId, table: &mut Table) {
        let dice = &mut self.dice;
        match table.resolve(id, |op, _| refusal(op, dice)) {
            Some(errno) => {
                self.injected.insert(id);
                self.late.queue.push_back((0, Event::of(id, -errno, 0)));
            }
            None => self.inner.push(id, table),
        }
    }

    fn longest_chain(&self) -> usize {
        self.inner.longest_chain()
    }

    fn push_chain(&mut self, ids: &[OpId], table: &mut Table) -> bool {
        !self.dice.one_in(4) && self.inner.push_chain(ids, table)
    }

    fn cancel(&mut self, id: OpId, table: &mut Table) {
        if self.injected.contains(&id) {
            // Its answer is on the way and wins.
        } else if self.dice.one_in(4) {
            self.cancels.push_back((self.dice.turns(), id));
        } else {
            self.inner.cancel(id, table);
        }
    }

    fn flush(&mut self, table: &mut Table) -> Result<(), Fatal> {
        let outcome = self.inner.flush(table);
        self.remind(table);
        outcome
    }

    fn wait(&mut self, until: Until, table: &mut Table, out: &mut Vec<Event>) -> Result<(), Fatal> {
        self.cancel_due(table);
        let until = if self.is_holding() { Until::Now } else { until };
        let mut fresh = std::mem::take(&mut self.fresh);
        let outcome = self.inner.wait(until, table, &mut fresh);
        for event in fresh.drain(..) {
            self.receive(event, table);
        }
        self.fresh = fresh;
        let before = out.len();
        self.late.leave(EVENTS_PER_TURN, out);
        for event in &out[before..] {
            self.injected.remove(&event.op());
        }
        self.remind(table);
        outcome
    }

    fn register_memory(&mut self, pieces: &[(*mut u8, usize)]) -> Result<u32, RegisterError> {
        self.inner.register_memory(pieces)
    }

    fn unregister_memory(&mut self, first: u32, count: u32) {
        self.inner.unregister_memory(first, count);
    }

    fn released(&mut self, index: u32) {
        self.inner.released(index);
    }

    fn register_file(&mut self, fd: RawFd) -> Result<u32, RegisterError> {
        self.inner.register_file(fd)
    }

    fn unregister_file(&mut self, index: u32) {
        self.inner.unregister_file(index);
    }

    fn open_pool(&mut self, group: u16, entries: u16) -> Result<bool, RegisterError> {
        self.inner.open_pool(group, entries)
    }

    fn provide(&mut self, group: u16, buffers: &[Provided]) {
        self.inner.provide(group, buffers);
    }

    fn close_pool(&mut self, group: u16) {
        self.inner.close_pool(group);
    }

    fn selects_buffers(&self) -> bool {
        self.inner.selects_buffers()
    }

    fn watchable(&self) -> Option<RawFd> {
        self.watched.set(true);
        self.inner.watchable()
    }

    fn has_hidden_work(&self) -> bool {
        self.is_holding() || self.inner.has_hidden_work()
    }

    fn counts(&self) -> Counts {
        self.inner.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(op: u32, result: i32, flags: u32) -> Event {
        Event::of(OpId::new(op, 1), result, flags)
    }

    fn plain(event: &Event) -> (u32, i32, u32) {
        (event.op().index(), event.result, event.flags)
    }

    /// Runs 400 events of 7 operations through, a few per turn; what came out in which turn.
    fn journey(seed: u64, flags: u32) -> Vec<(usize, (u32, i32, u32))> {
        let (mut dice, mut late) = (Dice::new(seed), Late::new());
        let mut seen = Vec::new();
        for turn in 0..104 {
            for step in 0..4 {
                let number = turn * 4 + step;
                if number < 400 {
                    late.enter(event(number as u32 % 7, number as i32, flags), &mut dice);
                }
            }
            let mut out = Vec::new();
            late.leave(EVENTS_PER_TURN, &mut out);
            seen.extend(out.iter().map(|event| (turn, plain(event))));
        }
        assert!(late.is_empty(), "nothing is held for ever");
        seen
    }

    #[test]
    fn nothing_is_lost_and_operations_keep_their_order() {
        for seed in 0..50 {
            let seen = journey(seed, 0);
            for op in 0..7 {
                let results: Vec<i32> =
                    seen.iter().filter(|(_, e)| e.0 == op).map(|(_, e)| e.1).collect();
                assert!(results.is_sorted(), "seed {seed}, operation {op}: {results:?}");
            }
            let mut all: Vec<i32> = seen.iter().map(|(_, e)| e.1).collect();
            assert!(!all.is_sorted(), "seed {seed} reordered nothing");
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..400), "seed {seed} lost or doubled events");
            assert!(seen.iter().any(|(turn, e)| *turn > e.1 as usize / 4), "nothing was late");
        }
    }

    #[test]
    fn events_that_select_buffers_keep_their_order_among_all_operations() {
        for seed in 0..50 {
            let seen = journey(seed, BUFFER);
            assert!(seen.iter().map(|(_, e)| e.1).eq(0..400), "seed {seed}");
        }
    }

    #[test]
    fn a_seed_decides() {
        assert_eq!(journey(3, 0), journey(3, 0));
        assert_ne!(journey(3, 0), journey(4, 0));
    }

    #[test]
    fn a_turn_is_bounded_and_the_rest_follows_in_order() {
        let mut late = Late::new();
        late.queue.extend((0..5).map(|result| (0, event(1, result, 0))));
        let mut out = Vec::new();
        late.leave(3, &mut out);
        assert_eq!(out.iter().map(|e| e.result).collect::<Vec<_>>(), [0, 1, 2]);
        late.leave(3, &mut out);
        assert_eq!(out.iter().map(|e| e.result).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    fn filtered(endings: &mut Endings, given: Event) -> Vec<(u32, i32, u32)> {
        endings.filter(given).iter().flatten().map(plain).collect()
    }

    #[test]
    fn an_ended_multishot_gives_its_last_result_without_more() {
        let mut endings = Endings(HashMap::new());
        let first = event(1, 10, MORE);
        endings.0.insert(first.user_data, first);
        assert_eq!(filtered(&mut endings, event(2, 5, MORE)), [(2, 5, MORE)]);
        assert_eq!(filtered(&mut endings, event(1, 11, MORE | BUFFER)), [(1, 10, MORE)]);
        assert_eq!(filtered(&mut endings, event(1, -libc::ECANCELED, 0)), [(1, 11, BUFFER)]);
        let own = -libc::ECANCELED;
        assert_eq!(filtered(&mut endings, event(1, own, 0)), [(1, own, 0)], "not ours: passed on");
    }

    #[test]
    fn a_multishot_that_ends_by_itself_meanwhile_keeps_both_events() {
        let mut endings = Endings(HashMap::new());
        let first = event(1, 10, MORE);
        endings.0.insert(first.user_data, first);
        assert_eq!(filtered(&mut endings, event(1, 0, 0)), [(1, 10, MORE), (1, 0, 0)]);
        assert!(endings.0.is_empty());
    }
}
