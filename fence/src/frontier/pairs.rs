//! The pairs of a frontier: a sorted list that keeps up to [`INLINE`] of them in place.
//!
//! Most frontiers name a few axes (a queue, a link, a device), so these cost no allocation. A list
//! that has grown onto the heap stays there: its memory is kept for the next growth.

use super::Axis;

/// How many pairs need no allocation.
pub(super) const INLINE: usize = 4;

/// An axis, and how far it got.
pub(super) type Pair = (Axis, u64);

/// The list. Its order is its owner's to keep.
#[derive(Clone)]
pub(super) enum Pairs {
    Inline { len: usize, pairs: [Pair; INLINE] },
    Heap(Vec<Pair>),
}

impl Pairs {
    pub(super) const EMPTY: Pairs = Pairs::Inline { len: 0, pairs: [(Axis::new(0), 0); INLINE] };

    /// An empty list with room for `count` pairs.
    pub(super) fn with_capacity(count: usize) -> Pairs {
        if count <= INLINE { Pairs::EMPTY } else { Pairs::Heap(Vec::with_capacity(count)) }
    }

    pub(super) fn as_slice(&self) -> &[Pair] {
        match self {
            Pairs::Inline { len, pairs } => &pairs[..*len],
            Pairs::Heap(pairs) => pairs,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Pair] {
        match self {
            Pairs::Inline { len, pairs } => &mut pairs[..*len],
            Pairs::Heap(pairs) => pairs,
        }
    }

    pub(super) fn insert(&mut self, at: usize, pair: Pair) {
        match self {
            Pairs::Inline { len, pairs } if *len < INLINE => {
                pairs.copy_within(at..*len, at + 1);
                pairs[at] = pair;
                *len += 1;
            }
            Pairs::Inline { pairs, .. } => {
                let mut grown = Vec::with_capacity(2 * INLINE);
                grown.extend_from_slice(pairs);
                grown.insert(at, pair);
                *self = Pairs::Heap(grown);
            }
            Pairs::Heap(pairs) => pairs.insert(at, pair),
        }
    }

    pub(super) fn push(&mut self, pair: Pair) {
        self.insert(self.as_slice().len(), pair);
    }

    pub(super) fn remove(&mut self, at: usize) {
        match self {
            Pairs::Inline { len, pairs } => {
                pairs.copy_within(at + 1..*len, at);
                *len -= 1;
            }
            Pairs::Heap(pairs) => drop(pairs.remove(at)),
        }
    }
}
