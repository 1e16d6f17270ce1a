//! Tasks of the proactor's own: what their handles tell, aborts, panics.

use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Wait};
use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "spawn/gives_its_value", needs: &[], run: gives_its_value },
    Case { name: "spawn/runs_only_inside_a_poll", needs: &[], run: runs_only_inside_a_poll },
    Case { name: "spawn/a_poll_returns_when_a_task_ran", needs: &[], run: a_poll_returns },
    Case { name: "spawn/many_in_order", needs: &[], run: many_in_order },
    Case { name: "spawn/from_inside_a_task", needs: &[], run: from_inside_a_task },
    Case { name: "spawn/from_a_callback", needs: &[], run: from_a_callback },
    Case { name: "spawn/from_a_call_of_another_thread", needs: &[], run: from_a_call },
    Case { name: "spawn/joined_by_another_task", needs: &[], run: joined_by_another_task },
    Case { name: "spawn/a_dropped_handle_detaches", needs: &[], run: a_dropped_handle_detaches },
    Case { name: "spawn/a_value_nobody_wants_is_dropped", needs: &[], run: unwanted_value },
    Case { name: "spawn/aborted_before_it_ran", needs: &[], run: aborted_before_it_ran },
    Case { name: "spawn/aborted_while_it_waits", needs: &[], run: aborted_while_it_waits },
    Case { name: "spawn/aborts_itself", needs: &[], run: aborts_itself },
    Case { name: "spawn/an_abort_too_late", needs: &[], run: an_abort_too_late },
    Case { name: "spawn/an_abort_wakes_its_joiner", needs: &[], run: an_abort_wakes_its_joiner },
    Case { name: "spawn/a_panic_reaches_the_joiner", needs: &[], run: a_panic_is_joined },
    Case { name: "spawn/a_panic_of_a_detached_task", needs: &[], run: a_panic_detached },
    Case { name: "spawn/a_panic_nobody_joined", needs: &[], run: a_panic_nobody_joined },
    Case { name: "spawn/a_panic_leaves_the_others_alone", needs: &[], run: a_panic_and_others },
    Case { name: "spawn/a_drop_that_panics_still_tells", needs: &[], run: a_drop_that_panics },
];

/// Longer than any case lasts.
const LONG: Duration = Duration::from_secs(3600);

/// Lets the others go first, once.
pub(super) fn yield_now() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |cx| match std::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
}

/// Counts its drop.
pub(super) struct Dropped(Rc<Cell<u32>>);

impl Dropped {
    pub(super) fn counted(count: &Rc<Cell<u32>>) -> Dropped {
        Dropped(count.clone())
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Panics when it is dropped, with [`BOMB`].
pub(super) struct Bomb;

/// What it says.
pub(super) const BOMB: &str = "of a drop";

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("{BOMB}");
        }
    }
}

fn gives_its_value(cx: &Cx<'_>) -> Result<(), Skip> {
    let text = Rc::new(String::from("not Send"));
    let own = text.clone();
    let nop = cx.io.nop();
    let task = cx.io.spawn(async move {
        nop.await.expect("a no-op");
        own.len()
    });
    assert_eq!(cx.block_on(task).expect("it ends by itself"), text.len());
    assert_eq!(Rc::strong_count(&text), 1, "its future is gone");
    Ok(())
}

fn runs_only_inside_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let ran = Rc::new(Cell::new(false));
    let inside = ran.clone();
    let task = cx.io.spawn(async move { inside.set(true) });
    cx.io.flush().expect("nothing is staged");
    assert!(!ran.get() && !task.is_finished());
    cx.io.poll(Wait::Now).expect("a poll");
    assert!(ran.get() && task.is_finished());
    Ok(())
}

fn a_poll_returns(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.io.spawn(async {}).detach();
    let begun = Instant::now();
    assert_eq!(cx.io.poll(LONG).expect("a poll"), 0, "a task is no completion");
    assert!(begun.elapsed() < LONG);
    Ok(())
}

fn many_in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let order = Rc::new(RefCell::new(Vec::new()));
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let order = order.clone();
            cx.io.spawn(async move {
                order.borrow_mut().push(number);
                yield_now().await;
                order.borrow_mut().push(100 + number);
            })
        })
        .collect();
    for task in tasks {
        cx.block_on(task).expect("it ends by itself");
    }
    let expected: Vec<i32> = (0..20).chain(100..120).collect();
    assert_eq!(*order.borrow(), expected, "first come, first served");
    Ok(())
}

fn from_inside_a_task(cx: &Cx<'_>) -> Result<(), Skip> {
    let task = cx.io.spawn_with(|io| async move {
        let inner = io.spawn_with(|io| async move { io.spawn(async { 3 }).await });
        inner.await.expect("the middle one").expect("the inner one")
    });
    assert_eq!(cx.block_on(task).expect("the outer one"), 3);
    Ok(())
}

fn from_a_callback(cx: &Cx<'_>) -> Result<(), Skip> {
    let (io, ran) = (cx.io.clone(), Rc::new(Cell::new(false)));
    let inside = ran.clone();
    let told = move |_: Result<(), _>| io.spawn(async move { inside.set(true) }).detach();
    cx.io.nop().on_complete(told).expect("room");
    cx.poll_until("the task of a callback", || ran.get());
    Ok(())
}

fn from_a_call(cx: &Cx<'_>) -> Result<(), Skip> {
    let handle = cx.io.handle();
    let here = std::thread::current().id();
    let (tell, told) = std::sync::mpsc::channel();
    let calling = std::thread::spawn(move || {
        handle.call(move |io| {
            io.spawn(async move { tell.send(std::thread::current().id()) }).detach();
        })
    });
    let call = calling.join().expect("it only submits");
    cx.block_on(call).expect("the proactor lives");
    cx.poll_until("the task of another thread", || told.try_recv().is_ok_and(|id| id == here));
    Ok(())
}

fn joined_by_another_task(cx: &Cx<'_>) -> Result<(), Skip> {
    let soon = Instant::now() + Duration::from_millis(2);
    let sleep = cx.io.sleep_until(soon);
    let first = cx.io.spawn(async move { sleep.await.map(|()| 7) });
    let second = cx.io.spawn(async move { first.await.expect("not aborted").expect("slept") + 1 });
    assert_eq!(cx.block_on(second).expect("it ends by itself"), 8);
    Ok(())
}

fn a_dropped_handle_detaches(cx: &Cx<'_>) -> Result<(), Skip> {
    let done = Rc::new(Cell::new(0));
    for _ in 0..3 {
        let (done, nop) = (done.clone(), cx.io.nop());
        drop(cx.io.spawn(async move {
            nop.await.expect("a no-op");
            done.set(done.get() + 1);
        }));
    }
    cx.poll_until("three tasks nobody joins", || done.get() == 3);
    assert_eq!(cx.io.stats().tasks, 0);
    Ok(())
}

fn unwanted_value(cx: &Cx<'_>) -> Result<(), Skip> {
    let dropped = Rc::new(Cell::new(0));
    let value = Dropped::counted(&dropped);
    let task = cx.io.spawn(async move { value });
    cx.poll_until("its end", || task.is_finished());
    assert_eq!(dropped.get(), 0, "its value waits for the joiner");
    drop(task);
    assert_eq!(dropped.get(), 1);
    let value = Dropped::counted(&dropped);
    cx.io.spawn(async move { value }).detach();
    cx.poll_until("a value nobody wants", || dropped.get() == 2);
    Ok(())
}

fn aborted_before_it_ran(cx: &Cx<'_>) -> Result<(), Skip> {
    let (ran, dropped) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    let (inside, guard) = (ran.clone(), Dropped::counted(&dropped));
    let task = cx.io.spawn(async move {
        let _guard = guard;
        inside.set(true);
    });
    task.abort();
    assert_eq!(dropped.get(), 1, "dropped before abort returns");
    let ended = cx.block_on(task).map_err(|error| error.kind());
    assert_eq!((ended, ran.get()), (Err(ErrorKind::Cancelled), false));
    Ok(())
}

fn aborted_while_it_waits(cx: &Cx<'_>) -> Result<(), Skip> {
    let sleep = cx.io.sleep_until(Instant::now() + LONG);
    let task = cx.io.spawn(async move { sleep.await.map(drop).map_err(drop) });
    cx.poll_until("a timer in flight", || cx.io.stats().in_flight == 1);
    task.abort();
    task.abort();
    cx.poll_until("the end of what it waited for", || cx.io.stats().in_flight == 0);
    assert!(task.is_finished());
    cx.note(format!("{:?}", cx.block_on(task).map_err(|error| error.kind())));
    Ok(())
}

fn aborts_itself(cx: &Cx<'_>) -> Result<(), Skip> {
    let own = Rc::new(RefCell::new(None::<dataplane::Task<()>>));
    let (inside, dropped) = (own.clone(), Rc::new(Cell::new(0)));
    let guard = Dropped::counted(&dropped);
    let (seen, count) = (Rc::new(Cell::new(0)), dropped.clone());
    let at_abort = seen.clone();
    let task = cx.io.spawn(async move {
        let _guard = guard;
        inside.borrow().as_ref().expect("it is there").abort();
        at_abort.set(1 + count.get());
        pending::<()>().await;
    });
    *own.borrow_mut() = Some(task);
    cx.poll_until("its end", || own.borrow().as_ref().is_some_and(|task| task.is_finished()));
    assert_eq!((seen.get(), dropped.get()), (1, 1), "dropped when its poll returned");
    let task = own.take().expect("it is there");
    assert_eq!(cx.block_on(task).expect_err("aborted").kind(), ErrorKind::Cancelled);
    Ok(())
}

fn an_abort_too_late(cx: &Cx<'_>) -> Result<(), Skip> {
    let task = cx.io.spawn(async { 5 });
    cx.poll_until("its end", || task.is_finished());
    task.abort();
    assert_eq!(cx.block_on(task).expect("it has a value"), 5);
    Ok(())
}

fn an_abort_wakes_its_joiner(cx: &Cx<'_>) -> Result<(), Skip> {
    let task = Rc::new(RefCell::new(cx.io.spawn(pending::<()>())));
    let awaited = task.clone();
    let joiner = cx.io.spawn(poll_fn(move |cx| Pin::new(&mut *awaited.borrow_mut()).poll(cx)));
    cx.io.poll(Wait::Now).expect("a poll");
    assert!(!joiner.is_finished());
    task.borrow().abort();
    let ended = cx.block_on(joiner).expect("it ends by itself");
    assert_eq!(ended.expect_err("aborted").kind(), ErrorKind::Cancelled);
    Ok(())
}

/// What a panic said.
pub(super) fn words(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref().cloned()).unwrap_or_default()
}

fn a_panic_is_joined(cx: &Cx<'_>) -> Result<(), Skip> {
    let task = cx.io.spawn(async { panic!("of a task") });
    cx.poll_until("its end", || task.is_finished());
    let joined = catch_unwind(AssertUnwindSafe(|| cx.block_on(task)));
    assert_eq!(joined.map_err(words).expect_err("a panic"), "of a task");
    cx.block_on(cx.io.nop()).expect("the loop goes on");
    Ok(())
}

/// Polls until a panic leaves a poll; what it said.
fn panic_of_poll(cx: &Cx<'_>) -> String {
    for _ in 0..10 {
        let poll = || cx.io.poll(Wait::Now);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(poll)) {
            return words(panic);
        }
    }
    "none".to_owned()
}

fn a_panic_detached(cx: &Cx<'_>) -> Result<(), Skip> {
    cx.io.spawn(async { panic!("of a detached task") }).detach();
    assert_eq!(panic_of_poll(cx), "of a detached task");
    assert_eq!(cx.io.stats().tasks, 0);
    cx.block_on(cx.io.nop()).expect("the loop goes on");
    Ok(())
}

fn a_panic_nobody_joined(cx: &Cx<'_>) -> Result<(), Skip> {
    let task = cx.io.spawn(async { panic!("nobody joined") });
    cx.poll_until("its end", || task.is_finished());
    drop(task);
    assert_eq!(panic_of_poll(cx), "nobody joined", "it is not lost with its handle");
    assert_eq!(panic_of_poll(cx), "none");
    Ok(())
}

fn a_panic_and_others(cx: &Cx<'_>) -> Result<(), Skip> {
    let before = cx.io.spawn(async { 1 });
    cx.io.spawn(async { panic!("in between") }).detach();
    let after = cx.io.spawn(async { 2 });
    assert_eq!(panic_of_poll(cx), "in between");
    assert!(before.is_finished() && !after.is_finished());
    assert_eq!(cx.block_on(after).expect("the next poll runs it"), 2);
    Ok(())
}

fn a_drop_that_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let bomb = Bomb;
    let task = cx.io.spawn(async move {
        let _bomb = bomb;
        pending::<()>().await;
    });
    cx.io.poll(Wait::Now).expect("a poll");
    let aborted = catch_unwind(AssertUnwindSafe(|| task.abort()));
    assert_eq!(aborted.map_err(words), Err(BOMB.to_owned()), "it leaves abort");
    assert_eq!(cx.block_on(task).expect_err("aborted").kind(), ErrorKind::Cancelled);
    Ok(())
}
