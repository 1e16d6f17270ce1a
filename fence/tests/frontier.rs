//! The frontier as a value: a partial order with a join, by example and by seeded properties.

mod support;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use fence::{Axis, Frontier};
use support::Random;

fn of(pairs: &[(u64, u64)]) -> Frontier {
    pairs.iter().map(|&(axis, epoch)| (Axis::new(axis), epoch)).collect()
}

/// Up to 9 pairs of few axes and epochs, so that frontiers meet often; some beyond the inline ones.
fn random(random: &mut Random) -> Frontier {
    let count = random.below(10);
    (0..count).map(|_| (Axis::new(random.below(12)), random.below(4))).collect()
}

#[test]
fn get_set_and_raise_keep_one_form() {
    let mut frontier = Frontier::new();
    assert!(frontier.is_empty());
    assert_eq!(frontier.set(Axis::new(7), 3), 0);
    assert_eq!(frontier.set(Axis::new(7), 1), 3);
    frontier.raise(Axis::new(7), 5);
    frontier.raise(Axis::new(7), 4);
    frontier.raise(Axis::new(8), 0);
    assert_eq!((frontier.get(Axis::new(7)), frontier.get(Axis::new(8))), (5, 0));
    assert_eq!(frontier.len(), 1, "an epoch of 0 is not kept");
    assert_eq!(frontier.set(Axis::new(7), 0), 5);
    assert_eq!(frontier.set(Axis::new(7), 0), 0);
    assert_eq!(frontier, Frontier::default());
    assert_eq!(of(&[(2, 1), (1, 9), (2, 5), (2, 3)]), of(&[(1, 9), (2, 5)]));
    assert_eq!(format!("{:?}", of(&[(3, 4), (1, 2)])), "{1: 2, 3: 4}");
}

#[test]
fn the_heap_and_the_inline_form_are_the_same_value() {
    let mut shrunk: Frontier = (0..40).rev().map(|axis| (Axis::new(axis), axis + 1)).collect();
    assert!(shrunk.iter().map(|(axis, _)| axis.number()).eq(0..40));
    for axis in 3..40 {
        assert_eq!(shrunk.set(Axis::new(axis), 0), axis + 1);
    }
    let small = of(&[(0, 1), (1, 2), (2, 3)]);
    assert_eq!(shrunk, small);
    assert_eq!(shrunk.partial_cmp(&small), Some(Ordering::Equal));
    assert_eq!(HashSet::from([shrunk, small]).len(), 1);
}

#[test]
fn dominance_is_a_partial_order() {
    let (low, high) = (of(&[(1, 1)]), of(&[(1, 2), (2, 1)]));
    assert_eq!(low.partial_cmp(&high), Some(Ordering::Less));
    assert_eq!(high.partial_cmp(&low), Some(Ordering::Greater));
    assert!(high.dominates(&low) && !low.dominates(&high));
    let other = of(&[(3, 1)]);
    assert!(high.is_concurrent(&other) && !high.is_concurrent(&low));
    assert!(of(&[(1, 9), (2, 1)]).is_concurrent(&of(&[(1, 1), (2, 2)])));
    assert!(Frontier::new() <= low && low <= low.clone());
    let greatest = of(&[(u64::MAX, u64::MAX)]);
    assert!(greatest > of(&[(u64::MAX, u64::MAX - 1)]));
}

/// The same operations on a map, which is too plain to be wrong.
#[test]
fn it_does_what_a_map_does() {
    for seed in 1..=300 {
        let mut random = Random(seed * 0x9E37_79B9);
        let (mut frontier, mut map) = (Frontier::new(), BTreeMap::new());
        for _ in 0..60 {
            let (axis, epoch) = (random.below(9), random.below(4));
            let old = map.insert(axis, epoch).unwrap_or(0);
            if random.below(2) == 0 {
                assert_eq!(frontier.set(Axis::new(axis), epoch), old);
            } else {
                map.insert(axis, old.max(epoch));
                frontier.raise(Axis::new(axis), epoch);
            }
            map.retain(|_, epoch| *epoch > 0);
            let pairs = frontier.iter().map(|(axis, epoch)| (axis.number(), epoch));
            assert!(pairs.eq(map.iter().map(|(&axis, &epoch)| (axis, epoch))), "seed {seed}");
        }
    }
}

#[test]
fn merge_is_the_least_that_dominates_both() {
    for seed in 1..=3_000 {
        let mut source = Random(seed * 0x9E37_79B9);
        let [a, b, c] = [(); 3].map(|()| random(&mut source));
        let join = |left: &Frontier, right: &Frontier| {
            let mut joined = left.clone();
            joined.merge(right);
            joined
        };
        let ab = join(&a, &b);
        assert_eq!(ab, join(&b, &a), "commutative, seed {seed}");
        assert_eq!(join(&ab, &c), join(&a, &join(&b, &c)), "associative, seed {seed}");
        assert_eq!(join(&ab, &b), ab, "idempotent, seed {seed}");
        assert!(ab.dominates(&a) && ab.dominates(&b), "seed {seed}");
        assert_eq!(a.dominates(&b), ab == a, "dominance agrees with merge, seed {seed}");
        assert_eq!(c.dominates(&ab), c.dominates(&a) && c.dominates(&b), "least, seed {seed}");
        assert_eq!(a.is_concurrent(&b), ab != a && ab != b, "seed {seed}");
        assert_eq!(a.partial_cmp(&b), b.partial_cmp(&a).map(Ordering::reverse), "seed {seed}");
        for axis in (0..12).map(Axis::new) {
            assert_eq!(ab.get(axis), a.get(axis).max(b.get(axis)), "pointwise, seed {seed}");
        }
    }
}
