//! Waits for all and for any of several semaphores.

mod support;

use std::sync::Arc;
use std::task::Poll;

use fence::{Failure, Reached, Semaphore, WaitManyError, wait_all, wait_any};
use support::{Counter, block_on, poll};

fn waiters(semaphore: &Semaphore) -> bool {
    !format!("{semaphore:?}").contains("waiters: 0")
}

#[test]
fn all_waits_for_the_last_and_wakes_once() {
    let list: Vec<Semaphore> = (0..5).map(|_| Semaphore::new(0)).collect();
    let wanted: Vec<(&Semaphore, u64)> = list.iter().map(|semaphore| (semaphore, 2)).collect();
    let counter = Arc::<Counter>::default();
    list[3].signal(2).unwrap();
    let mut wait = wait_all(&wanted);
    assert!(poll(&mut wait, &counter).is_pending());
    for at in [4, 0, 2] {
        list[at].signal(1).unwrap();
        list[at].signal(7).unwrap();
        assert!(poll(&mut wait, &counter).is_pending());
    }
    assert_eq!(counter.wakes(), 0);
    list[1].signal(2).unwrap();
    assert_eq!(counter.wakes(), 1);
    assert_eq!(poll(&mut wait, &counter), Poll::Ready(Ok(())));
}

#[test]
fn ready_at_once() {
    let (one, two) = (Semaphore::new(3), Semaphore::new(0));
    assert_eq!(block_on(wait_all(&[(&one, 3), (&one, 1), (&two, 0)])), Ok(()));
    assert_eq!(block_on(wait_all(&[])), Ok(()));
    let reached = Reached { index: 1, value: 3 };
    assert_eq!(block_on(wait_any(&[(&two, 1), (&one, 2), (&one, 1)])), Ok(reached));
    assert!(!waiters(&two), "the entry made on the way is taken back");
    assert_eq!(block_on(wait_any(&[])), Err(WaitManyError::Empty));
}

#[test]
fn any_gives_the_first_and_leaves_the_others_clean() {
    let list: Vec<Semaphore> = (0..3).map(|_| Semaphore::new(0)).collect();
    let wanted: Vec<(&Semaphore, u64)> = list.iter().map(|semaphore| (semaphore, 1)).collect();
    let counter = Arc::<Counter>::default();
    let mut wait = wait_any(&wanted);
    assert!(poll(&mut wait, &counter).is_pending());
    list[2].signal(5).unwrap();
    list[0].signal(1).unwrap();
    list[1].fail(Failure::new("too late to matter"));
    assert_eq!(counter.wakes(), 1);
    assert_eq!(poll(&mut wait, &counter), Poll::Ready(Ok(Reached { index: 2, value: 5 })));
    let mut wait = wait_any(&[(&list[0], 2), (&list[2], 6)]);
    assert!(poll(&mut wait, &counter).is_pending());
    list[0].signal(2).unwrap();
    assert!(waiters(&list[2]));
    assert!(poll(&mut wait, &counter).is_ready());
    assert!(!waiters(&list[2]));
}

#[test]
fn a_failure_ends_both_and_is_named() {
    let (good, bad) = (Semaphore::new(0), Semaphore::new(0));
    let counter = Arc::<Counter>::default();
    let mut all = wait_all(&[(&good, 1), (&bad, 1)]);
    let mut any = wait_any(&[(&good, 1), (&bad, 1)]);
    assert!(poll(&mut all, &counter).is_pending());
    assert!(poll(&mut any, &counter).is_pending());
    bad.fail(Failure::with_errno(62, "late"));
    assert_eq!(counter.wakes(), 2);
    let error = WaitManyError::Failed { index: 1, failure: Failure::with_errno(62, "late") };
    assert_eq!(poll(&mut all, &counter), Poll::Ready(Err(error.clone())));
    assert_eq!(poll(&mut any, &counter), Poll::Ready(Err(error.clone())));
    assert!(!waiters(&good));
    assert_eq!(block_on(wait_all(&[(&good, 1), (&bad, 0)])), Err(error));
}

#[test]
fn dropped_futures_leave_nothing() {
    let (one, two) = (Semaphore::new(0), Semaphore::new(0));
    let counter = Arc::<Counter>::default();
    let mut all = wait_all(&[(&one, 1), (&two, 1)]);
    let mut any = wait_any(&[(&one, 1), (&two, 1)]);
    assert!(poll(&mut all, &counter).is_pending());
    assert!(poll(&mut any, &counter).is_pending());
    one.signal(1).unwrap();
    assert_eq!(counter.wakes(), 1, "any is decided, all is not");
    drop((all, any));
    assert!(!waiters(&two));
    two.signal(1).unwrap();
    assert_eq!(counter.wakes(), 1);
    assert_eq!(Arc::strong_count(&counter), 1);
}
