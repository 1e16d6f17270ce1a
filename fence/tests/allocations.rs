//! A signal allocates nothing, through any number of links; small frontiers allocate nothing.
//!
//! `unsafe` because a global allocator is an unsafe trait; this one counts and passes on.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use fence::{Axis, Failure, Frontier, Semaphore, Tracker};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nobody who asks for it.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to the system's allocator with the arguments as they came; counting
// touches a constant-initialised thread local, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size_bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.realloc(block, layout, size_bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on unchanged.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of this thread while `work` runs.
fn during(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(during(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn a_signal_and_a_refused_signal() {
    let semaphore = Semaphore::new(0);
    let allocations = during(|| {
        for value in 1..=1000 {
            assert_eq!(semaphore.signal(value), Ok(()));
            assert!(semaphore.signal(value).is_err());
            assert_eq!(semaphore.value(), Ok(value));
        }
    });
    assert_eq!(allocations, 0);
}

#[test]
fn a_relay_through_a_chain_a_fan_and_a_cycle() {
    let all: Vec<Semaphore> = (0..40).map(|_| Semaphore::new(0)).collect();
    for pair in all[..20].windows(2) {
        pair[0].link(&pair[1]);
    }
    for target in &all[20..] {
        all[0].link(target);
    }
    all[39].link(&all[0]);
    all[0].signal(1).unwrap();
    let allocations = during(|| {
        for value in 2..=1000 {
            assert_eq!(all[0].signal(value), Ok(()));
        }
    });
    assert_eq!(allocations, 0, "the first signal of a thread sizes its work list, once");
    assert!(all.iter().all(|semaphore| semaphore.value() == Ok(1000)));
}

#[test]
fn a_relay_from_inside_a_relay() {
    let outer: Vec<Semaphore> = (0..2).map(|_| Semaphore::new(0)).collect();
    let inner: Vec<Semaphore> = (0..9).map(|_| Semaphore::new(0)).collect();
    outer[0].link(&outer[1]);
    for target in &inner[1..] {
        inner[0].link(target);
    }
    for value in 1..=100 {
        let source = inner[0].clone();
        outer[1].on_reach(value, move |_| assert_eq!(source.signal(value), Ok(())));
    }
    outer[0].signal(1).unwrap();
    let allocations = during(|| {
        for value in 2..=100 {
            assert_eq!(outer[0].signal(value), Ok(()));
        }
    });
    assert_eq!(allocations, 0);
    assert_eq!(inner[8].value(), Ok(100));
}

#[test]
fn a_failure_is_cloned_without_allocating() {
    let (source, target) = (Semaphore::new(0), Semaphore::new(0));
    source.link(&target);
    source.signal(1).unwrap();
    let failure = Failure::new("lost");
    assert_eq!(during(|| assert!(source.fail(failure))), 0);
    assert!(target.value().is_err());
}

#[test]
fn frontiers_of_up_to_four_axes_and_merges_without_a_new_axis() {
    let of = |axes: std::ops::Range<u64>| axes.map(|axis| (Axis::new(axis), axis + 1));
    let allocations = during(|| {
        let mut small: Frontier = of(0..2).collect();
        small.merge(&of(1..4).collect());
        assert_eq!(std::hint::black_box(small.clone()).len(), 4);
        assert_eq!(Frontier::decode(&[1, 2, 0, 1, 0, 2]).map(|claim| claim.iter().len()), Ok(2));
    });
    assert_eq!(allocations, 0);
    let mut large: Frontier = of(0..100).collect();
    let same = large.clone();
    assert_eq!(during(|| large.merge(&same)), 0);
    let five: Frontier = of(98..103).collect();
    assert_eq!(during(|| large.merge(&five)), 1, "the union, at its size");
}

#[test]
fn a_signal_that_carries_a_frontier_of_known_axes() {
    let tracker = Tracker::new();
    for axis in (0..9).map(Axis::new) {
        tracker.add(axis, &Semaphore::new(1)).unwrap();
    }
    let carried = tracker.current();
    tracker.signal(Axis::new(0), 2, &carried).unwrap();
    let allocations = during(|| {
        for epoch in 3..=100 {
            assert_eq!(tracker.signal(Axis::new(0), epoch, &carried), Ok(()));
        }
    });
    assert_eq!(allocations, 0);
}

#[test]
fn an_absurd_count_is_refused_before_anything_is_allocated() {
    let announced = [1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 5, 5];
    assert_eq!(during(|| assert!(Frontier::decode(&announced).is_err())), 0);
}
