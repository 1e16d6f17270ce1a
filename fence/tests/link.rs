//! Links between semaphores: chains, fans, cycles, failure, unlinking, panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fence::{Failure, Semaphore, SignalError};

fn chain(length: usize) -> Vec<Semaphore> {
    let all: Vec<Semaphore> = (0..length).map(|_| Semaphore::new(0)).collect();
    for pair in all.windows(2) {
        pair[0].link(&pair[1]);
    }
    all
}

#[test]
fn an_advance_is_relayed_and_the_target_stays_free() {
    let (source, target) = (Semaphore::new(4), Semaphore::new(0));
    let link = source.link(&target);
    assert_eq!(target.value(), Ok(4), "what was reached before is relayed at once");
    source.signal(6).unwrap();
    assert_eq!(target.value(), Ok(6));
    target.signal(9).unwrap();
    source.signal(8).unwrap();
    assert_eq!((source.value(), target.value()), (Ok(8), Ok(9)));
    assert!(link.unlink());
    source.signal(20).unwrap();
    assert_eq!(target.value(), Ok(9));
}

#[test]
fn dropping_the_handle_keeps_the_link_and_two_links_are_two() {
    let (source, target) = (Semaphore::new(0), Semaphore::new(0));
    drop(source.link(&target));
    assert!(source.link(&target).unlink());
    source.signal(1).unwrap();
    assert_eq!(target.value(), Ok(1));
    let link = source.link(&target);
    drop(source);
    assert!(!link.unlink(), "the source is gone, and its links with it");
}

#[test]
fn values_are_set_everywhere_before_the_first_callback() {
    let all = chain(3);
    let last = all[2].clone();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    all[0].on_reach(5, move |_| {
        assert_eq!(last.value(), Ok(5));
        count.fetch_add(1, Ordering::SeqCst);
    });
    all[0].signal(5).unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[test]
fn a_failure_goes_down_the_links_with_what_was_reached_before() {
    let all = chain(3);
    let ahead = Semaphore::new(100);
    all[1].link(&ahead);
    all[0].signal(2).unwrap();
    assert!(all[0].fail(Failure::with_errno(5, "lost")));
    for (semaphore, value) in [(&all[1], 2), (&all[2], 2), (&ahead, 100)] {
        let failed = semaphore.value().unwrap_err();
        assert_eq!((failed.value, failed.failure.errno()), (value, Some(5)));
    }
    let late = Semaphore::new(0);
    let link = all[0].link(&late);
    assert_eq!(late.value().unwrap_err().value, 2, "linked after the failure");
    assert!(!link.unlink());
    let (source, target) = (Semaphore::new(0), Semaphore::new(0));
    source.link(&target);
    target.fail(Failure::new("of its own"));
    assert_eq!(source.signal(1), Ok(()), "a failure does not travel upwards");
}

#[test]
fn loops_end() {
    let own = Semaphore::new(0);
    let link = own.link(&own);
    own.signal(1).unwrap();
    assert!(!link.unlink());
    let ring = chain(5);
    ring[4].link(&ring[0]);
    ring[2].signal(3).unwrap();
    assert!(ring.iter().all(|semaphore| semaphore.value() == Ok(3)));
    assert_eq!(ring[0].signal(3), Err(SignalError::NotAbove { value: 3, current: 3 }));
    assert!(ring[3].fail(Failure::new("lost")), "this also takes the ring apart");
    assert!(ring.iter().all(|semaphore| semaphore.value().is_err()));
}

#[test]
fn a_failed_ring_is_freed() {
    let owned = Arc::new(());
    let ring = chain(3);
    ring[2].link(&ring[0]);
    let (kept, cloned) = (Arc::clone(&owned), ring[1].clone());
    ring[1].on_reach(9, move |_| drop((kept, cloned)));
    ring[0].fail(Failure::new("lost"));
    drop(ring);
    assert_eq!(Arc::strong_count(&owned), 1);
}

#[test]
fn a_chain_longer_than_any_stack_is_signalled_failed_and_freed() {
    const LENGTH: usize = 200_000;
    let mut all = chain(LENGTH);
    all[0].signal(1).unwrap();
    assert_eq!(all[LENGTH - 1].value(), Ok(1));
    let (first, last) = (all.swap_remove(0), all.pop().unwrap());
    drop(all);
    first.signal(2).unwrap();
    assert_eq!(last.value(), Ok(2), "links keep their targets");
    drop(first);
    let all = chain(LENGTH);
    assert!(all[0].fail(Failure::new("lost")));
    assert!(all[LENGTH - 1].value().is_err());
}

#[test]
fn callbacks_may_signal_link_and_unlink_what_is_being_relayed() {
    let (source, target, other) = (Semaphore::new(0), Semaphore::new(0), Semaphore::new(0));
    let link = source.link(&target);
    let (inner, to) = (source.clone(), other.clone());
    source.on_reach(1, move |_| {
        assert!(link.unlink());
        inner.link(&to);
        inner.signal(2).unwrap();
    });
    source.signal(1).unwrap();
    assert_eq!((target.value(), other.value()), (Ok(1), Ok(2)));
}

#[test]
fn a_panic_at_the_source_does_not_stop_the_targets() {
    let all = chain(3);
    let told = Arc::new(AtomicUsize::new(0));
    all[0].on_reach(1, |_| std::panic::panic_any("first"));
    all[1].on_reach(1, |_| std::panic::panic_any("second"));
    let count = Arc::clone(&told);
    all[2].on_reach(1, move |_| {
        count.fetch_add(1, Ordering::SeqCst);
    });
    let caught = catch_unwind(AssertUnwindSafe(|| all[0].signal(1))).unwrap_err();
    assert_eq!(*caught.downcast::<&str>().unwrap(), "first");
    assert_eq!(told.load(Ordering::SeqCst), 1);
    all[0].signal(2).unwrap();
    assert_eq!(all[2].value(), Ok(2));
}
