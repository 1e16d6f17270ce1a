//! Many threads on the same semaphores: nothing is lost, nothing happens twice.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use fence::{Callback, Failure, Semaphore, SignalError, wait_all, wait_any};
use support::{Counter, Random, block_on, poll};

const THREADS: usize = 4;

#[test]
fn racing_signallers_advance_once_for_each_value() {
    const VALUES: u64 = 5_000;
    let semaphore = Semaphore::new(0);
    let told = Arc::new(AtomicUsize::new(0));
    for value in 1..=VALUES {
        let told = Arc::clone(&told);
        semaphore.on_reach(value, move |outcome| {
            assert!(outcome.is_ok_and(|seen| seen >= value));
            told.fetch_add(1, Ordering::SeqCst);
        });
    }
    let won: usize = thread::scope(|scope| {
        let signaller = || {
            let signals = (1..=VALUES).map(|value| semaphore.signal(value));
            signals.filter(Result::is_ok).count()
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(signaller)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(won as u64 <= VALUES, "no value is won twice");
    assert_eq!(semaphore.value(), Ok(VALUES));
    assert_eq!(told.load(Ordering::SeqCst) as u64, VALUES);
}

#[test]
fn waiters_of_every_kind_see_every_value() {
    const VALUES: u64 = 2_000;
    let semaphore = Semaphore::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for value in 1..=VALUES {
                assert!(semaphore.wait_blocking(value, None).unwrap() >= value);
            }
        });
        scope.spawn(|| {
            for value in 1..=VALUES {
                assert!(block_on(semaphore.wait(value)).unwrap() >= value);
            }
        });
        scope.spawn(|| {
            for value in 1..=VALUES {
                let list = [(&semaphore, value), (&semaphore, VALUES)];
                assert!(block_on(wait_any(&list)).unwrap().value >= value);
                assert_eq!(block_on(wait_all(&[(&semaphore, value)])), Ok(()));
            }
        });
        for value in 1..=VALUES {
            semaphore.signal(value).unwrap();
            if value % 16 == 0 {
                thread::yield_now();
            }
        }
    });
}

/// Cancelled callbacks never run, the others run exactly once; dropped futures leave no entry.
#[test]
fn cancels_race_signals() {
    const ROUNDS: u64 = 3_000;
    let semaphore = Semaphore::new(0);
    let (ran, kept) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let start = Barrier::new(THREADS + 1);
    thread::scope(|scope| {
        for seed in 1..=THREADS as u64 {
            let (semaphore, ran, kept, start) = (&semaphore, &ran, &kept, &start);
            scope.spawn(move || {
                let mut random = Random(seed * 0x9E37_79B9);
                let counter = Arc::<Counter>::default();
                start.wait();
                for _ in 0..ROUNDS {
                    let value = semaphore.value().unwrap() + random.below(3);
                    let count = Arc::clone(ran);
                    let callback: Callback = semaphore.on_reach(value, move |_| {
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                    let mut wait = semaphore.wait(value);
                    let _ = poll(&mut wait, &counter);
                    if random.below(2) == 0 {
                        thread::yield_now();
                    }
                    let _ = poll(&mut wait, &counter);
                    drop(wait);
                    if random.below(3) > 0 && callback.cancel() {
                        continue;
                    }
                    kept.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        start.wait();
        for value in 1..=ROUNDS {
            semaphore.signal(value).unwrap();
            thread::yield_now();
        }
    });
    semaphore.signal(u64::MAX).unwrap();
    assert_eq!(ran.load(Ordering::SeqCst), kept.load(Ordering::SeqCst));
    assert!(format!("{semaphore:?}").contains("waiters: 0"), "{semaphore:?}");
}

#[test]
fn a_failure_in_the_middle_reaches_everybody_once() {
    for round in 0..200_u64 {
        let semaphore = Semaphore::new(0);
        let counts = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let start = Barrier::new(3);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for value in 1..=50 {
                    let counts = Arc::clone(&counts);
                    semaphore.on_reach(value, move |outcome| {
                        let count = if outcome.is_ok() { &counts.0 } else { &counts.1 };
                        count.fetch_add(1, Ordering::SeqCst);
                    });
                }
            });
            scope.spawn(|| {
                start.wait();
                for value in 1..=50 {
                    if let Err(error) = semaphore.signal(value) {
                        assert!(matches!(error, SignalError::Failed { .. }));
                        break;
                    }
                }
            });
            start.wait();
            for _ in 0..round {
                std::hint::spin_loop();
            }
            assert!(semaphore.fail(Failure::new("lost")));
        });
        let total = counts.0.load(Ordering::SeqCst) + counts.1.load(Ordering::SeqCst);
        assert_eq!(total, 50, "round {round}");
    }
}

/// Signals at every node of a ring with chords, while links come and go.
#[test]
fn a_changing_web_of_links_settles() {
    const VALUES: u64 = 2_000;
    let web: Vec<Semaphore> = (0..6).map(|_| Semaphore::new(0)).collect();
    for at in 0..web.len() {
        web[at].link(&web[(at + 1) % web.len()]);
    }
    thread::scope(|scope| {
        for seed in 1..=THREADS as u64 {
            let web = &web;
            scope.spawn(move || {
                let mut random = Random(seed * 0x9E37_79B9);
                let mut pick = move || random.below(web.len() as u64) as usize;
                for value in 1..=VALUES {
                    let chord = web[pick()].link(&web[pick()]);
                    let _ = web[pick()].signal(value);
                    chord.unlink();
                }
            });
        }
    });
    let value = web[0].value().unwrap();
    assert!(web.iter().all(|semaphore| semaphore.value() == Ok(value)), "{web:?}");
    assert_eq!(value, VALUES);
    web[0].fail(Failure::new("over"));
    assert!(web.iter().all(|semaphore| semaphore.value().is_err()));
}
