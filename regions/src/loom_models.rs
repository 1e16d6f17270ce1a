//! Models of the lock-free parts, run by loom over every interleaving (up to its preemption bound).
//!
//! An ordinary command runs them:
//! `RUSTFLAGS="--cfg loom" cargo test -p regions --release --lib loom --target-dir target/loom`.
//! In these builds a word of the index set has two bits, so four members already have a summary.

use std::sync::Arc as StdArc;
use std::task::{Wake, Waker};

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::index_set::IndexSet;
use crate::pool::{Pool, Ticket};

/// Everything that is left, each index once; then the levels must agree that nothing is.
fn rest(set: &IndexSet) -> Vec<usize> {
    assert!(set.levels_agree(), "a word with members has its bit set in the level above");
    let mut rest = Vec::new();
    set.drain(|index| rest.push(index));
    assert!(set.is_empty() && set.take().is_none());
    rest
}

fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(body);
}

#[test]
fn two_takers_get_different_indexes() {
    model(|| {
        let set = Arc::new(IndexSet::full(3));
        let other = Arc::clone(&set);
        let taker = thread::spawn(move || other.take());
        let mine = set.take().expect("three members for two takers");
        let theirs = taker.join().expect("no panic").expect("three members for two takers");
        let mut all = rest(&set);
        all.extend([mine, theirs]);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    });
}

#[test]
fn an_insert_beside_a_take_is_never_missed() {
    model(|| {
        let set = Arc::new(IndexSet::empty(4));
        set.insert(0);
        let other = Arc::clone(&set);
        let taker = thread::spawn(move || other.take().expect("index 0 was there before"));
        assert!(set.insert(1));
        // Two members and one other taker: at least one is left for this thread.
        assert!(!set.is_empty());
        let mine = set.take().expect("an insert that happened before is not missed");
        let theirs = taker.join().expect("no panic");
        assert_eq!(mine + theirs, 1);
        assert!(rest(&set).is_empty());
    });
}

#[test]
fn inserts_and_a_take_under_different_words() {
    model(|| {
        let set = Arc::new(IndexSet::empty(4));
        set.insert(1);
        let first = Arc::clone(&set);
        let second = Arc::clone(&set);
        let inserter = thread::spawn(move || assert!(first.insert(0)));
        let taker = thread::spawn(move || second.take().expect("index 1 was there before"));
        assert!(set.insert(3));
        inserter.join().expect("no panic");
        let mut all = vec![taker.join().expect("no panic")];
        all.extend(rest(&set));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 3]);
    });
}

#[test]
fn an_insert_under_way_hides_no_other_member() {
    model(|| {
        let set = Arc::new(IndexSet::empty(2));
        let (first, second) = (Arc::clone(&set), Arc::clone(&set));
        let inserter = thread::spawn(move || assert!(first.insert(0)));
        let taker = thread::spawn(move || second.take());
        assert!(set.insert(1));
        let mine = set.take();
        inserter.join().expect("no panic");
        let theirs = taker.join().expect("no panic");
        // Index 1 was there before this thread's take: only the other taker excuses a miss.
        assert!(mine.is_some() || theirs == Some(1));
        let mut all = rest(&set);
        all.extend(mine.into_iter().chain(theirs));
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
    });
}

#[test]
fn a_sweep_beside_inserts_delivers_each_once() {
    model(|| {
        let set = Arc::new(IndexSet::empty(4));
        set.insert(0);
        let other = Arc::clone(&set);
        let inserter = thread::spawn(move || assert!(other.insert(1) && other.insert(2)));
        let mut all = Vec::new();
        set.drain(|index| all.push(index));
        assert!(all.contains(&0), "its insert happened before the sweep");
        inserter.join().expect("no panic");
        all.extend(rest(&set));
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    });
}

#[test]
fn remove_and_take_of_one_member() {
    model(|| {
        let set = Arc::new(IndexSet::empty(4));
        set.insert(2);
        let other = Arc::clone(&set);
        let remover = thread::spawn(move || other.remove(2));
        let taken = set.take().is_some();
        let removed = remover.join().expect("no panic");
        assert!(taken != removed, "exactly one of the two gets it");
        assert!(rest(&set).is_empty());
    });
}

/// A waker that loom can see: a flag under a lock.
#[derive(Default)]
struct Flag {
    set: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Flag {
    fn wake(self: StdArc<Self>) {
        *self.set.lock().expect("no panic under it") = true;
        self.changed.notify_one();
    }
}

/// Waits for a slot as a task would; loom calls a wake that never comes a deadlock.
fn acquire(pool: &Pool) -> usize {
    let flag = StdArc::new(Flag::default());
    let waker = Waker::from(StdArc::clone(&flag));
    let mut ticket: Ticket = None;
    loop {
        if let Some(slot) = pool.poll_acquire(&mut ticket, &waker) {
            return slot;
        }
        let mut set = flag.set.lock().expect("no panic under it");
        while !*set {
            set = flag.changed.wait(set).expect("no panic under it");
        }
        *set = false;
    }
}

#[test]
fn a_return_wakes_a_waiter() {
    model(|| {
        let pool = Arc::new(Pool::full(1));
        let slot = pool.acquire().expect("one slot");
        let other = Arc::clone(&pool);
        let waiter = thread::spawn(move || acquire(&other));
        pool.release(slot);
        assert_eq!(waiter.join().expect("no panic"), slot);
    });
}

#[test]
fn two_waiters_share_one_slot() {
    model(|| {
        let pool = Arc::new(Pool::full(1));
        let slot = pool.acquire().expect("one slot");
        let waiters = [Arc::clone(&pool), Arc::clone(&pool)].map(|pool| {
            thread::spawn(move || {
                let slot = acquire(&pool);
                pool.release(slot);
            })
        });
        pool.release(slot);
        waiters.into_iter().for_each(|waiter| waiter.join().expect("no panic"));
        assert_eq!(pool.available(), 1);
    });
}

#[test]
fn a_dropped_waiter_passes_its_wake_on() {
    model(|| {
        let pool = Arc::new(Pool::full(1));
        let slot = pool.acquire().expect("one slot");
        let (first, second) = (Arc::clone(&pool), Arc::clone(&pool));
        let quitter = thread::spawn(move || {
            let mut ticket: Ticket = None;
            let waker = Waker::from(StdArc::new(Flag::default()));
            if let Some(slot) = first.poll_acquire(&mut ticket, &waker) {
                first.release(slot);
            }
            first.cancel(&mut ticket);
        });
        let waiter = thread::spawn(move || acquire(&second));
        pool.release(slot);
        quitter.join().expect("no panic");
        assert_eq!(waiter.join().expect("no panic"), slot);
    });
}
