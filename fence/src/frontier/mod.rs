//! Frontiers: how far several timelines have got, as one value that can be compared, merged, sent.
//!
//! A [`Frontier`] is a vector clock (C. Fidge and F. Mattern, 1988): pairs of an *axis*, which
//! names a timeline, and an *epoch*, a value of that timeline. It stands for "each of these axes
//! has reached its epoch", and one frontier dominates another if it claims at least as much. Two
//! of which neither dominates are concurrent: neither's work happened before the other's.
//!
//! An axis that is not named is at epoch 0, where every timeline starts; so a pair with epoch 0
//! says nothing and is never kept. With the pairs sorted and no axis twice, every value has one
//! form, in memory and on the wire.
//!
//! # Truth and claims
//!
//! A frontier that a peer sent says what the peer claims, and a wrong epoch merged into the local
//! clock would stay there for ever: clocks only grow. Therefore [`Frontier::decode`] gives a
//! [`Tainted`] frontier, which can be shown, forwarded, waited for, and checked, and merged only
//! after a check. A [`Tracker`] has the semaphores behind the axes, so it can tell: its
//! [`confirm`](Tracker::confirm) lets a claim through whose every pair has been reached here.
//!
//! # Frontiers carried by signals
//!
//! Somebody who sees axis A reach 5 may already know more: that A's owner had waited for B to
//! reach 3 before it signalled, so B's 3 need not be waited for again, and whatever is done next
//! is known to come after both. This knowledge travels with the signal: [`Tracker::signal`] takes
//! the frontier that the signaller knew and merges it into the axis's *history* in the same step,
//! so whoever sees the epoch finds the history there. A wait for a frontier ([`Tracker::reach`])
//! gives back the target merged with the histories of its axes, which is what the waiter then
//! knows, and passes on with its own signal.
//!
//! A history holds no more than what is true here: a signal that carries a pair that has not been
//! reached is refused, and nothing changed. Its semaphore may have advanced further than the epoch
//! the waiter asked for; then the history is that of the later epoch, and as true.
//!
//! A signal made on the semaphore itself carries nothing and leaves the history as it was, which
//! then says less than could be known, never anything false.
//!
//! # Limits
//!
//! Axes and epochs are any `u64`; there is no limit on the number of pairs but memory. Up to four
//! pairs are kept without an allocation. Lookups are a binary search; merges are linear.

mod error;
mod pairs;
mod reach;
mod tainted;
mod tracker;
mod wire;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

pub use error::{DecodeError, FrontierError};
use pairs::{Pair, Pairs};
pub use reach::{Reach, ReachCallback};
pub use tainted::Tainted;
pub use tracker::Tracker;

/// The name of a timeline, the same for everybody who exchanges frontiers. What the number means
/// (a queue of a machine, a link of a session) is for them to agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Axis(u64);

impl Axis {
    /// The axis with this number.
    pub const fn new(number: u64) -> Axis {
        Axis(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A vector clock: which epoch each of some axes has reached. A plain value: `Clone`, `Send`,
/// `Sync`.
///
/// `<=` is dominance, a partial order: `a <= b` if `b` claims at least what `a` does. For
/// concurrent frontiers none of `<`, `==`, `>` holds.
///
/// ```
/// use fence::{Axis, Frontier};
///
/// let (copy, send) = (Axis::new(1), Axis::new(2));
/// let left = Frontier::from_iter([(copy, 5), (send, 1)]);
/// let right = Frontier::from_iter([(copy, 3), (send, 2)]);
/// assert!(left.is_concurrent(&right));
///
/// let mut both = left.clone();
/// both.merge(&right);
/// assert_eq!((both.get(copy), both.get(send)), (5, 2));
/// assert!(both > left && both.dominates(&right));
/// ```
#[derive(Clone)]
pub struct Frontier {
    /// Sorted by axis, no axis twice, no epoch 0.
    pairs: Pairs,
}

impl Frontier {
    /// The empty frontier, which everything dominates.
    pub const fn new() -> Frontier {
        Frontier { pairs: Pairs::EMPTY }
    }

    /// The epoch of `axis`; 0 if it is not named.
    pub fn get(&self, axis: Axis) -> u64 {
        self.find(axis).map_or(0, |at| self.pairs.as_slice()[at].1)
    }

    /// Puts `axis` at `epoch`, higher or lower than before; 0 takes it out. Gives what it was.
    pub fn set(&mut self, axis: Axis, epoch: u64) -> u64 {
        match self.find(axis) {
            Ok(at) if epoch == 0 => {
                let old = self.pairs.as_slice()[at].1;
                self.pairs.remove(at);
                old
            }
            Ok(at) => std::mem::replace(&mut self.pairs.as_mut_slice()[at].1, epoch),
            Err(at) => {
                if epoch > 0 {
                    self.pairs.insert(at, (axis, epoch));
                }
                0
            }
        }
    }

    /// Puts `axis` at `epoch` unless it is there or further.
    pub fn raise(&mut self, axis: Axis, epoch: u64) {
        if epoch > self.get(axis) {
            self.set(axis, epoch);
        }
    }

    /// Raises every axis to its epoch in `other`: the pointwise maximum. Allocates nothing if
    /// `other` names no axis that is new here, or if no more than four are named then.
    pub fn merge(&mut self, other: &Frontier) {
        let new = other.iter().filter(|&(axis, _)| self.find(axis).is_err()).count();
        if new == 0 {
            return other.iter().for_each(|(axis, epoch)| self.raise(axis, epoch));
        }
        let mut union = Pairs::with_capacity(self.len() + new);
        unite(self.pairs.as_slice(), other.pairs.as_slice(), &mut union);
        self.pairs = union;
    }

    /// Whether every axis is at its epoch in `other` or further; true for an equal one.
    pub fn dominates(&self, other: &Frontier) -> bool {
        self.len() >= other.len() && other.iter().all(|(axis, epoch)| self.get(axis) >= epoch)
    }

    /// Whether neither dominates the other.
    pub fn is_concurrent(&self, other: &Frontier) -> bool {
        self.partial_cmp(other).is_none()
    }

    /// The pairs, in the order of their axes. Every epoch is above 0.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Axis, u64)> + '_ {
        self.pairs.as_slice().iter().copied()
    }

    /// How many axes are named.
    pub fn len(&self) -> usize {
        self.pairs.as_slice().len()
    }

    /// Whether no axis is named.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&self, axis: Axis) -> Result<usize, usize> {
        self.pairs.as_slice().binary_search_by_key(&axis, |&(axis, _)| axis)
    }
}

/// Appends the union of two sorted lists, each axis with its greater epoch.
fn unite(left: &[Pair], right: &[Pair], into: &mut Pairs) {
    let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some((left, _)), Some((right, _))) => left.cmp(right),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        // The axes are equal where both are taken, so the greater pair has the greater epoch.
        let pair = match order {
            Ordering::Less => left.next(),
            Ordering::Greater => right.next(),
            Ordering::Equal => left.next().max(right.next()),
        };
        into.push(*pair.expect("one that was peeked at is taken"));
    }
}

impl Default for Frontier {
    fn default() -> Frontier {
        Frontier::new()
    }
}

impl PartialEq for Frontier {
    fn eq(&self, other: &Frontier) -> bool {
        self.pairs.as_slice() == other.pairs.as_slice()
    }
}

impl Eq for Frontier {}

impl PartialOrd for Frontier {
    fn partial_cmp(&self, other: &Frontier) -> Option<Ordering> {
        match (self.dominates(other), other.dominates(self)) {
            (true, true) => Some(Ordering::Equal),
            (true, false) => Some(Ordering::Greater),
            (false, true) => Some(Ordering::Less),
            (false, false) => None,
        }
    }
}

impl Hash for Frontier {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pairs.as_slice().hash(state);
    }
}

impl FromIterator<(Axis, u64)> for Frontier {
    /// Pairs in any order; of an axis that comes twice the greater epoch counts.
    fn from_iter<I: IntoIterator<Item = (Axis, u64)>>(pairs: I) -> Frontier {
        let mut frontier = Frontier::new();
        pairs.into_iter().for_each(|(axis, epoch)| frontier.raise(axis, epoch));
        frontier
    }
}

impl fmt::Debug for Frontier {
    /// `{axis: epoch, ...}`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(axis, epoch)| (axis.0, epoch))).finish()
    }
}
