//! Contexts that several threads run: work and its end, stops, panics, runners that come and go.
//!
//! The driver is the case's own proactor on a thread of a [`Context`], made with its options.

use super::remote::parked;
use crate::{Case, Cx, Skip};
use dataplane::{Context, ContextHandle, ErrorKind, Wait};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "context/out_of_work_is_stopped", needs: &[], run: out_of_work },
    Case { name: "context/runs_what_was_posted_in_order", needs: &[], run: in_order },
    Case { name: "context/run_one_runs_one", needs: &[], run: run_one },
    Case { name: "context/poll_does_not_wait", needs: &[], run: poll_does_not_wait },
    Case { name: "context/poll_ends_whatever_is_posted", needs: &[], run: poll_ends },
    Case { name: "context/wait_one_ends_in_time", needs: &[], run: wait_one },
    Case { name: "context/a_guard_is_work", needs: &[], run: a_guard },
    Case { name: "context/the_last_guard_ends_every_run", needs: &[], run: the_last_guard },
    Case { name: "context/a_stop_ends_every_run", needs: &[], run: a_stop },
    Case { name: "context/a_stop_that_is_restarted_at_once", needs: &[], run: stop_and_restart },
    Case { name: "context/what_a_stop_leaves_is_run_later", needs: &[], run: left_by_a_stop },
    Case { name: "context/an_operation_is_work", needs: &[], run: an_operation },
    Case { name: "context/its_runner_may_leave_first", needs: &[], run: its_runner_leaves },
    Case { name: "context/runners_leave_at_any_time", needs: &[], run: runners_leave },
    Case { name: "context/each_handler_runs_once", needs: &[], run: each_once },
    Case { name: "context/two_runners_run_at_once", needs: &[], run: two_at_once },
    Case { name: "context/a_task_runs_on_one_thread_at_a_time", needs: &[], run: one_at_a_time },
    Case { name: "context/a_task_gives_its_value", needs: &[], run: a_task },
    Case { name: "context/a_cancelled_task_is_dropped", needs: &[], run: a_cancelled_task },
    Case { name: "context/a_panic_leaves_its_runner", needs: &[], run: a_panic },
    Case { name: "context/a_task_that_panics_is_over", needs: &[], run: a_task_panics },
    Case { name: "context/a_busy_runner_delays_no_timer", needs: &[], run: a_busy_runner },
    Case { name: "context/knows_where_it_runs", needs: &[], run: where_it_runs },
    Case { name: "context/nested_in_itself_it_never_waits", needs: &[], run: nested_in_itself },
    Case { name: "context/dispatch_keeps_to_its_budget", needs: &[], run: dispatch },
    Case { name: "context/its_end_drops_what_never_ran", needs: &[], run: its_end },
    Case { name: "context/handles_outlive_it", needs: &[], run: handles_outlive_it },
];

fn context(cx: &Cx<'_>) -> Context {
    Context::start(cx.options.clone()).expect("a driver")
}

/// A counter for handlers.
pub(super) fn counter() -> (Arc<AtomicUsize>, impl Fn() + Clone + Send + 'static) {
    let count = Arc::new(AtomicUsize::new(0));
    let theirs = count.clone();
    (count, move || {
        theirs.fetch_add(1, Ordering::Relaxed);
    })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(2)
}

/// Longer and longer: in a short one a slow machine does little, and a fast one has done enough.
fn moments() -> impl Iterator<Item = Duration> {
    (1..=8).map(|doubled| Duration::from_millis(1 << doubled))
}

pub(super) fn hour() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

fn out_of_work(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    assert!(!context.stopped());
    assert_eq!(context.run(), Ok(0));
    assert!(context.stopped(), "nothing to do is the end of it");
    let (count, add) = counter();
    context.post(add);
    for run in [Context::run, Context::run_one, Context::poll, Context::poll_one] {
        assert_eq!(run(&context), Ok(0), "until it is restarted");
    }
    context.restart();
    assert_eq!((context.run(), count.load(Ordering::Relaxed)), (Ok(1), 1));
    assert!(context.stopped());
    Ok(())
}

fn in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handle = context.handle();
    for at in 0..5 {
        let (seen, handle) = (seen.clone(), handle.clone());
        context.post(move || {
            seen.lock().expect("nobody panicked").push(at);
            let posted = handle.post(move || seen.lock().expect("nobody panicked").push(10 + at));
            posted.expect("it is there");
        });
    }
    assert_eq!(context.run(), Ok(10));
    let seen = seen.lock().expect("nobody panicked");
    assert_eq!(*seen, [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]);
    Ok(())
}

fn run_one(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let (count, add) = counter();
    context.post(add.clone());
    context.post(add);
    assert_eq!((context.run_one(), count.load(Ordering::Relaxed)), (Ok(1), 1));
    assert!(!context.stopped());
    assert_eq!((context.run_one(), count.load(Ordering::Relaxed)), (Ok(1), 2));
    assert!(context.stopped(), "that was the last");
    assert_eq!(context.run_one(), Ok(0));
    Ok(())
}

fn poll_does_not_wait(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let work = context.work();
    assert_eq!((context.poll(), context.poll_one()), (Ok(0), Ok(0)));
    assert!(!context.stopped());
    let (count, add) = counter();
    (0..3).for_each(|_| context.post(add.clone()));
    assert_eq!((context.poll_one(), context.poll()), (Ok(1), Ok(2)));
    assert_eq!(count.load(Ordering::Relaxed), 3);
    drop(work);
    assert!(context.stopped());
    Ok(())
}

/// Posts itself for ever.
fn again(handle: &ContextHandle) {
    let next = handle.clone();
    // Refused only at the end.
    let _ = handle.post(move || again(&next));
}

fn poll_ends(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    again(&context.handle());
    assert_eq!((context.poll(), context.poll()), (Ok(1), Ok(1)));
    assert!(moments().any(|moment| {
        let until = Instant::now() + moment;
        context.run_until(until).expect("no fork here") > 2
    }));
    Ok(())
}

fn wait_one(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let _work = context.work();
    let until = soon();
    assert_eq!(context.wait_one(until), Ok(0));
    assert!(Instant::now() >= until, "it waited");
    let (_, add) = counter();
    context.post(add);
    assert_eq!(context.wait_one(Wait::Forever), Ok(1));
    assert_eq!(context.wait_one(Duration::ZERO), Ok(0));
    Ok(())
}

fn a_guard(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let work = context.work();
    let second = work.clone();
    assert_eq!(context.run_until(soon()), Ok(0));
    drop(work);
    assert_eq!(context.run_until(soon()), Ok(0));
    assert!(!context.stopped(), "the clone counts too");
    drop(second);
    assert!(context.stopped());
    Ok(())
}

/// Threads that run the context; what each of them ran when it left.
fn runners(context: &Context, count: usize) -> Vec<std::thread::JoinHandle<usize>> {
    let run = |context: Context| move || context.run().expect("no fork here");
    (0..count).map(|_| std::thread::spawn(run(context.clone()))).collect()
}

fn ran(runners: Vec<std::thread::JoinHandle<usize>>) -> usize {
    runners.into_iter().map(|runner| runner.join().expect("no panic here")).sum()
}

fn the_last_guard(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let work = context.work();
    let runners = runners(&context, 3);
    let (count, add) = counter();
    (0..20).for_each(|_| context.post(add.clone()));
    cx.poll_until("the handlers", || count.load(Ordering::Relaxed) == 20);
    assert!(runners.iter().all(|runner| !runner.is_finished()), "there is work");
    drop(work);
    assert_eq!(ran(runners), 20);
    Ok(())
}

fn a_stop(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let _work = context.work();
    let runners = runners(&context, 3);
    let handle = context.handle();
    context.post(move || handle.stop());
    assert_eq!(ran(runners), 1);
    assert!(context.stopped());
    assert_eq!(context.run(), Ok(0));
    Ok(())
}

fn stop_and_restart(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let _work = context.work();
    let entered = Arc::new(AtomicUsize::new(0));
    let runners: Vec<_> = (0..2)
        .map(|_| {
            let (context, entered) = (context.clone(), entered.clone());
            std::thread::spawn(move || {
                // A handler of its own shows that it is inside.
                context.post(move || {
                    entered.fetch_add(1, Ordering::Release);
                });
                context.run().expect("no fork here")
            })
        })
        .collect();
    cx.poll_until("two handlers", || entered.load(Ordering::Acquire) == 2);
    std::thread::sleep(Duration::from_millis(2));
    context.stop();
    context.restart();
    cx.poll_until("who was inside to leave", || runners.iter().all(|one| one.is_finished()));
    ran(runners);
    let (count, add) = counter();
    context.post(add);
    assert_eq!((context.run_one(), count.load(Ordering::Relaxed)), (Ok(1), 1));
    Ok(())
}

fn left_by_a_stop(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let (count, add) = counter();
    let handle = context.handle();
    context.post(move || handle.stop());
    (0..3).for_each(|_| context.post(add.clone()));
    assert_eq!((context.run(), count.load(Ordering::Relaxed)), (Ok(1), 0));
    context.restart();
    assert_eq!((context.run(), count.load(Ordering::Relaxed)), (Ok(3), 3));
    Ok(())
}

fn an_operation(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let at = Instant::now() + Duration::from_millis(3);
    let (count, add) = counter();
    let inside = Arc::new(AtomicBool::new(false));
    let (seen, handle) = (inside.clone(), context.handle());
    drop(context.submit(context.driver().sleep_until(at), move |ended| {
        ended.expect("a timer");
        seen.store(handle.is_running_here(), Ordering::Relaxed);
        add();
    }));
    assert!(context.run().expect("no fork here") >= 1, "it waited for the operation");
    assert!(Instant::now() >= at);
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert!(inside.load(Ordering::Relaxed), "its handler ran in the context, not on the driver");
    assert!(context.stopped());
    Ok(())
}

/// The thread that started an operation ends; another runs its handler.
fn its_runner_leaves(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let (count, add) = counter();
    let theirs = context.clone();
    let first = std::thread::spawn(move || {
        let inside = theirs.clone();
        theirs.post(move || {
            let timer = inside.driver().sleep_until(soon());
            drop(inside.submit(timer, move |ended| {
                ended.expect("a timer");
                add();
            }));
        });
        theirs.run_one().expect("no fork here")
    });
    assert_eq!(first.join().expect("no panic here"), 1);
    assert_eq!(count.load(Ordering::Relaxed), 0);
    context.run().expect("no fork here");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    Ok(())
}

/// Four threads run a few handlers each and leave, others come; operations go on through all of it.
fn runners_leave(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let (count, add) = counter();
    let work = context.work();
    for at in 0..40 {
        let add = add.clone();
        let timer = context.driver().sleep_until(Instant::now() + Duration::from_micros(at * 50));
        drop(context.submit(timer, move |ended| {
            ended.expect("a timer");
            add();
        }));
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while count.load(Ordering::Relaxed) < 40 && Instant::now() < deadline {
        let come: Vec<_> = (0..4)
            .map(|few| {
                let context = context.clone();
                std::thread::spawn(move || {
                    for _ in 0..=few {
                        context.wait_one(soon()).expect("no fork here");
                    }
                })
            })
            .collect();
        come.into_iter().for_each(|runner| runner.join().expect("no panic here"));
    }
    assert_eq!(count.load(Ordering::Relaxed), 40, "none was lost with its runner");
    drop(work);
    assert_eq!(context.run(), Ok(0));
    Ok(())
}

fn each_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..300).map(|_| AtomicUsize::new(0)).collect());
    let work = context.work();
    let runners = runners(&context, 3);
    let posters: Vec<_> = (0..3)
        .map(|part| {
            let (context, counts) = (context.clone(), counts.clone());
            std::thread::spawn(move || {
                for at in part * 100..(part + 1) * 100 {
                    let counts = counts.clone();
                    context.post(move || {
                        counts[at].fetch_add(1, Ordering::Relaxed);
                    });
                }
            })
        })
        .collect();
    posters.into_iter().for_each(|poster| poster.join().expect("no panic here"));
    drop(work);
    assert_eq!(ran(runners), 300);
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    Ok(())
}

/// Each handler waits for the other: only two runners at once can end them.
fn two_at_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let meet = Arc::new(Barrier::new(2));
    for _ in 0..2 {
        let meet = meet.clone();
        context.post(move || {
            meet.wait();
        });
    }
    assert_eq!(ran(runners(&context, 2)), 2);
    Ok(())
}

fn one_at_a_time(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let (inside, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (theirs, counted) = (inside.clone(), turns.clone());
    let task = context.spawn(poll_fn(move |cx| {
        assert!(!theirs.swap(true, Ordering::SeqCst), "two runners poll one task");
        // Woken while it runs: queued again when this turn is over.
        cx.waker().wake_by_ref();
        std::thread::yield_now();
        theirs.store(false, Ordering::SeqCst);
        match counted.fetch_add(1, Ordering::Relaxed) {
            99 => Poll::Ready("done"),
            _ => Poll::Pending,
        }
    }));
    assert_eq!(ran(runners(&context, 3)), 100);
    assert_eq!(parked(task), Ok("done"));
    Ok(())
}

fn a_task(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let driver = context.driver();
    let inner = context.handle();
    let mut outer = context.spawn(async move {
        driver.nop().await.expect("a no-op");
        let one = inner.spawn(async { 20 });
        one.await.expect("it ends") + 22
    });
    assert!(outer.try_take().is_none() && !outer.is_finished());
    context.run().expect("no fork here");
    assert!(outer.is_finished());
    assert_eq!(outer.try_take(), Some(Ok(42)));
    assert!(outer.try_take().is_none());
    assert_eq!(parked(outer).expect_err("it was taken").kind(), ErrorKind::NotFound);
    Ok(())
}

fn a_cancelled_task(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let held = Arc::new(());
    let (inside, driver) = (held.clone(), context.driver());
    let task = context.spawn(async move {
        let _inside = inside;
        driver.sleep_until(hour()).await.expect("an hour");
    });
    assert_eq!(context.wait_one(Wait::Forever), Ok(1));
    task.cancel();
    assert_eq!(context.run(), Ok(1));
    assert_eq!(Arc::strong_count(&held), 1);
    assert!(context.stopped(), "it is no work any more");
    assert_eq!(parked(task).expect_err("it has no value").kind(), ErrorKind::Cancelled);
    Ok(())
}

/// Expected: thrown past the hook.
fn thrown<T>() -> T {
    resume_unwind(Box::new("out of a handler"))
}

fn a_panic(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let (count, add) = counter();
    context.post(add.clone());
    context.post(thrown::<()>);
    context.post(add.clone());
    context.post(add);
    let run = catch_unwind(AssertUnwindSafe(|| context.run()));
    let words = run.expect_err("it left by the panic");
    assert_eq!(words.downcast_ref(), Some(&"out of a handler"));
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert!(!context.is_running_here() && !context.stopped());
    assert_eq!((context.run(), count.load(Ordering::Relaxed)), (Ok(2), 3));
    assert!(context.stopped(), "the one that panicked is no work any more");
    Ok(())
}

fn a_task_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let driver = context.driver();
    let held = Arc::new(());
    let inside = held.clone();
    let task = context.spawn(async move {
        let _inside = inside;
        driver.nop().await.expect("a no-op");
        thrown::<()>()
    });
    assert!(catch_unwind(AssertUnwindSafe(|| context.run())).is_err());
    assert!(context.stopped(), "it was the last piece of work");
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(parked(task).expect_err("it has no value").kind(), ErrorKind::Panicked);
    Ok(())
}

fn a_busy_runner(cx: &Cx<'_>) -> Result<(), Skip> {
    let stops_after = |moment| {
        let context = context(cx);
        again(&context.handle());
        let (handle, at) = (context.handle(), Instant::now() + moment);
        drop(context.submit(context.driver().sleep_until(at), move |ended| {
            ended.expect("a timer");
            handle.stop();
        }));
        // Handlers without end: only the timer's stops it.
        let ran = context.run_until(Duration::from_secs(10)).expect("no fork here");
        assert!(context.stopped());
        ran
    };
    assert!(moments().any(|moment| stops_after(moment) > 2));
    Ok(())
}

fn where_it_runs(cx: &Cx<'_>) -> Result<(), Skip> {
    let (one, two) = (context(cx), Context::with_driver(cx.io.handle()));
    assert!(!one.is_running_here());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (outer, inner, theirs) = (one.handle(), two.clone(), seen.clone());
    one.post(move || {
        let (within, first) = (inner.handle(), theirs.clone());
        let around = outer.clone();
        inner.post(move || {
            let both = (around.is_running_here(), within.is_running_here());
            first.lock().expect("nobody panicked").push(both);
        });
        assert_eq!(inner.run(), Ok(1), "another one is run to its end");
        let both = (outer.is_running_here(), inner.is_running_here());
        theirs.lock().expect("nobody panicked").push(both);
    });
    assert_eq!(one.run(), Ok(1));
    assert_eq!(*seen.lock().expect("nobody panicked"), [(true, true), (true, false)]);
    assert!(!one.is_running_here() && !two.is_running_here());
    Ok(())
}

fn nested_in_itself(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let (count, add) = counter();
    let inner = context.clone();
    context.post(move || {
        inner.post(add);
        // The handler it is called from is work that it must not wait for.
        assert_eq!(inner.run(), Ok(1));
        assert_eq!(inner.run_one(), Ok(0));
        assert!(!inner.stopped());
    });
    assert_eq!((context.run(), count.load(Ordering::Relaxed)), (Ok(1), 1));
    assert!(context.stopped());
    Ok(())
}

fn dispatch(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    context.set_inline_budget(3);
    let (outside, count) = counter();
    context.dispatch(count.clone());
    assert_eq!(outside.load(Ordering::Relaxed), 0, "outside of it a dispatch is a post");
    assert_eq!(context.run(), Ok(1));
    context.restart();
    let order = Arc::new(Mutex::new(Vec::new()));
    let (inner, theirs) = (context.clone(), order.clone());
    context.post(move || {
        for at in 0..5 {
            let order = theirs.clone();
            inner.dispatch(move || order.lock().expect("nobody panicked").push(at));
        }
        theirs.lock().expect("nobody panicked").push(99);
    });
    assert_eq!(context.run(), Ok(3), "two were left for the queue");
    assert_eq!(*order.lock().expect("nobody panicked"), [0, 1, 2, 99, 3, 4]);
    Ok(())
}

fn its_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let held = Arc::new(());
    let (posted, spawned, waiting) = (held.clone(), held.clone(), held.clone());
    let driver = context.driver();
    let task = context.spawn(async move {
        let _waiting = waiting;
        driver.sleep_until(hour()).await.expect("an hour");
    });
    assert_eq!(context.run_one(), Ok(1));
    context.post(move || panic!("dropped without being run: {posted:?}"));
    let second = context.spawn(async move { drop(spawned) });
    let guard = context.work();
    drop(context);
    assert_eq!(Arc::strong_count(&held), 1);
    drop(guard);
    for ended in [parked(task), parked(second)] {
        assert_eq!(ended.expect_err("it has no value").kind(), ErrorKind::Cancelled);
    }
    Ok(())
}

fn handles_outlive_it(cx: &Cx<'_>) -> Result<(), Skip> {
    let context = context(cx);
    let handle = context.handle();
    drop(context);
    let (count, add) = counter();
    let refused = handle.post(add).expect_err("it is gone");
    assert_eq!(refused.kind(), ErrorKind::ShutDown);
    refused.into_operation().expect("the handler comes back")();
    assert_eq!(count.load(Ordering::Relaxed), 1);
    let task = handle.spawn(async { 1 });
    assert_eq!(parked(task).expect_err("nobody runs it").kind(), ErrorKind::Cancelled);
    drop(handle.work());
    assert!(!handle.is_running_here());
    Ok(())
}
