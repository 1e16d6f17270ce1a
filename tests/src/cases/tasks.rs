//! Tasks of the proactor's own: fairness, wakes from here and elsewhere, and each kind of end.

use super::net::{read_to_end, settled, write};
use super::spawn::{BOMB, Bomb, Dropped, words, yield_now};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Options, Proactor, Wait};
use futures_util::StreamExt;
use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "tasks/a_busy_task_shares_the_loop", needs: &[], run: a_busy_task },
    Case { name: "tasks/a_busy_task_keeps_no_deadline_waiting", needs: &[], run: a_deadline },
    Case { name: "tasks/more_than_one_turn_polls", needs: &[], run: more_than_one_turn },
    Case { name: "tasks/a_wake_is_one_poll", needs: &[], run: a_wake_is_one_poll },
    Case { name: "tasks/woken_by_another_thread", needs: &[], run: woken_by_another_thread },
    Case { name: "tasks/woken_by_many_threads", needs: &[], run: woken_by_many_threads },
    Case { name: "tasks/woken_while_the_loop_sleeps", needs: &[], run: woken_while_it_sleeps },
    Case { name: "tasks/a_stale_waker_does_no_harm", needs: &[], run: a_stale_waker },
    Case { name: "tasks/a_waker_outlives_the_proactor", needs: &[], run: a_waker_outlives },
    Case { name: "tasks/the_end_drops_it_unpolled", needs: &[], run: the_end_drops_it },
    Case { name: "tasks/the_end_tells_the_joiner", needs: &[], run: the_end_tells_the_joiner },
    Case { name: "tasks/the_end_survives_panicking_drops", needs: &[], run: the_end_and_panics },
    Case { name: "tasks/a_drop_at_the_end_may_spawn", needs: &[], run: a_drop_that_spawns },
    Case { name: "tasks/after_the_end", needs: &[], run: after_the_end },
    Case { name: "tasks/a_lent_proactor_keeps_nothing_alive", needs: &[], run: a_lent_proactor },
    Case { name: "tasks/polling_inside_is_refused", needs: &[], run: polling_inside },
    Case { name: "tasks/an_echo_server_of_tasks", needs: &[], run: an_echo_server },
    Case { name: "tasks/a_polite_shutdown_lets_them_finish", needs: &[], run: a_polite_shutdown },
    Case { name: "tasks/counted_while_it_lives", needs: &[], run: counted },
    Case { name: "tasks/two_loops_on_one_thread", needs: &[], run: two_loops },
];

/// Longer than any case lasts.
const LONG: Duration = Duration::from_secs(3600);

/// A proactor like the case's, for what ends it.
fn another(cx: &Cx<'_>) -> Proactor {
    Proactor::with(Options { shutdown: LONG, ..cx.options.clone() }).expect("a second one")
}

/// A task that is always ready to go on, until told to stop.
fn busy(cx: &Cx<'_>, turns: &Rc<Cell<u64>>) -> dataplane::Task<()> {
    let turns = turns.clone();
    cx.io.spawn(async move {
        loop {
            turns.set(turns.get() + 1);
            yield_now().await;
        }
    })
}

fn a_busy_task(cx: &Cx<'_>) -> Result<(), Skip> {
    let turns = Rc::new(Cell::new(0));
    let task = busy(cx, &turns);
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 16);
    let receive = far.recv(slab.lease().expect("a slot"));
    let received = cx.io.spawn(async move { receive.await.map(|filled| filled.len()) });
    cx.io.spawn(async move { near.send_all(b"through".to_vec()).await.map(drop) }).detach();
    let bytes = cx.block_on(received).expect("it ends by itself").expect("bytes");
    assert_eq!(bytes, 7);
    assert!(turns.get() > 0);
    task.abort();
    Ok(())
}

fn a_deadline(cx: &Cx<'_>) -> Result<(), Skip> {
    let turns = Rc::new(Cell::new(0));
    let task = busy(cx, &turns);
    cx.block_on(cx.io.sleep_until(Instant::now() + Duration::from_millis(2))).expect("slept");
    let until = Instant::now() + Duration::from_millis(1);
    while Instant::now() < until {
        cx.io.poll(until).expect("a poll returns though there is always a task to run");
    }
    task.abort();
    Ok(())
}

fn more_than_one_turn(cx: &Cx<'_>) -> Result<(), Skip> {
    let ran = Rc::new(Cell::new(0));
    for _ in 0..1000 {
        let ran = ran.clone();
        cx.io.spawn(async move { ran.set(ran.get() + 1) }).detach();
    }
    cx.io.poll(Wait::Now).expect("a poll");
    let first = ran.get();
    assert!((1..1000).contains(&first), "{first}: a poll runs some, not all");
    let mut polls = 0;
    while ran.get() < 1000 {
        cx.io.poll(LONG).expect("it does not sleep while tasks wait");
        polls += 1;
    }
    assert!(polls < 1000, "and more than one");
    Ok(())
}

/// A future that counts its polls and shows its waker.
fn counting(
    polls: &Rc<Cell<u32>>,
    waker: &Rc<RefCell<Option<Waker>>>,
) -> impl Future<Output = ()> + use<> {
    let (polls, shown) = (polls.clone(), waker.clone());
    poll_fn(move |cx: &mut Context<'_>| {
        polls.set(polls.get() + 1);
        *shown.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
}

fn a_wake_is_one_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let (polls, shown) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
    let task = cx.io.spawn(counting(&polls, &shown));
    cx.io.poll(Wait::Now).expect("a poll");
    let waker = shown.borrow().clone().expect("it was polled");
    for _ in 0..100 {
        waker.wake_by_ref();
    }
    for _ in 0..3 {
        cx.io.poll(Wait::Now).expect("a poll");
    }
    assert_eq!(polls.get(), 2, "many wakes count as one, and none as none");
    task.abort();
    Ok(())
}

/// Waits until another thread has raised a flag; its waker goes there.
fn flagged(flag: &Arc<AtomicBool>, to: Sender<Waker>) -> impl Future<Output = ()> + use<> {
    let flag = flag.clone();
    poll_fn(move |cx| match flag.load(Ordering::Acquire) {
        true => Poll::Ready(()),
        false => {
            to.send(cx.waker().clone()).expect("the other thread lives");
            Poll::Pending
        }
    })
}

fn woken_by_another_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let flag = Arc::new(AtomicBool::new(false));
    let (to, from) = std::sync::mpsc::channel();
    let task = cx.io.spawn(flagged(&flag, to));
    let waking = std::thread::spawn(move || {
        let waker: Waker = from.recv().expect("it is polled once");
        flag.store(true, Ordering::Release);
        waker.wake();
    });
    cx.block_on(task).expect("it ends by itself");
    waking.join().expect("it only wakes");
    Ok(())
}

/// A sum that other threads add to, one wake for each number.
#[derive(Default)]
pub(super) struct Sum(Mutex<(u32, u32, Option<Waker>)>);

impl Sum {
    pub(super) fn add(&self, number: u32) {
        let mut state = self.0.lock().expect("nobody panics with it");
        state.0 += number;
        state.1 += 1;
        let waker = state.2.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The sum once `count` numbers have come.
    pub(super) async fn of(self: Arc<Self>, count: u32) -> u32 {
        poll_fn(|cx| {
            let mut state = self.0.lock().expect("nobody panics with it");
            if state.1 == count {
                return Poll::Ready(state.0);
            }
            state.2 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

fn woken_by_many_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    let sums: Vec<Arc<Sum>> = (0..4).map(|_| Arc::default()).collect();
    let tasks: Vec<_> = sums.iter().map(|sum| cx.io.spawn(sum.clone().of(100))).collect();
    let adds = |sums: Vec<Arc<Sum>>| {
        move || (0..50).for_each(|number| sums.iter().for_each(|sum| sum.add(number)))
    };
    let threads = [std::thread::spawn(adds(sums.clone())), std::thread::spawn(adds(sums))];
    for task in tasks {
        assert_eq!(cx.block_on(task).expect("it ends by itself"), 2 * 49 * 50 / 2);
    }
    for thread in threads {
        thread.join().expect("it only adds");
    }
    Ok(())
}

fn woken_while_it_sleeps(cx: &Cx<'_>) -> Result<(), Skip> {
    for _ in 0..5 {
        let sum: Arc<Sum> = Arc::default();
        let task = cx.io.spawn(sum.clone().of(1));
        cx.io.poll(Wait::Now).expect("it is polled once");
        let waking = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1));
            sum.add(3);
        });
        let begun = Instant::now();
        while !task.is_finished() {
            cx.io.poll(LONG).expect("a poll");
        }
        assert!(begun.elapsed() < LONG);
        waking.join().expect("it only adds");
    }
    Ok(())
}

fn a_stale_waker(cx: &Cx<'_>) -> Result<(), Skip> {
    let (polls, shown) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
    let task = cx.io.spawn(counting(&polls, &shown));
    cx.io.poll(Wait::Now).expect("a poll");
    task.abort();
    let stale = shown.take().expect("it was polled");
    stale.wake_by_ref();
    cx.io.poll(Wait::Now).expect("nobody is there to be polled");
    let next = cx.io.spawn(async {
        yield_now().await;
        9
    });
    stale.wake_by_ref();
    let elsewhere = std::thread::spawn(move || stale.wake());
    elsewhere.join().expect("it only wakes");
    assert_eq!(cx.block_on(next).expect("it ends by itself"), 9);
    assert_eq!(polls.get(), 1);
    Ok(())
}

fn a_waker_outlives(cx: &Cx<'_>) -> Result<(), Skip> {
    let (polls, shown) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
    let io = another(cx);
    io.spawn(counting(&polls, &shown)).detach();
    io.poll(Wait::Now).expect("a poll");
    drop(io);
    let waker = shown.take().expect("it was polled");
    waker.wake_by_ref();
    std::thread::spawn(move || waker.wake()).join().expect("it only wakes");
    assert_eq!(polls.get(), 1, "and never again");
    Ok(())
}

fn the_end_drops_it(cx: &Cx<'_>) -> Result<(), Skip> {
    let (dropped, ran) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let io = another(cx);
    for polled in [true, false] {
        let (guard, ran, sleep) = (Dropped::counted(&dropped), ran.clone(), io.sleep_until(far()));
        io.spawn(async move {
            let _guard = guard;
            ran.set(ran.get() + 1);
            sleep.await.expect_err("it ends before that");
            ran.set(100);
        })
        .detach();
        if polled {
            io.poll(Wait::Now).expect("a poll");
        }
    }
    drop(io);
    assert_eq!((dropped.get(), ran.get()), (2, 1), "dropped, and polled no more");
    Ok(())
}

fn far() -> Instant {
    Instant::now() + LONG
}

fn the_end_tells_the_joiner(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let task = io.spawn(pending::<()>());
    let done = io.spawn(async { 4 });
    io.poll(Wait::Now).expect("a poll");
    // The joiner is a task of the other loop, asleep by then.
    let joiner = cx.io.spawn(async move { task.await.map_err(|error| error.kind()) });
    cx.io.poll(Wait::Now).expect("a poll");
    drop(io);
    cx.note(format!("{:?}", cx.block_on(joiner).expect("it ends by itself")));
    assert_eq!(cx.block_on(done).expect("it was over before"), 4);
    Ok(())
}

fn the_end_and_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let dropped = Rc::new(Cell::new(0));
    let io = another(cx);
    for _ in 0..3 {
        let (bomb, guard) = (Bomb, Dropped::counted(&dropped));
        io.spawn(async move {
            let _held = (guard, bomb);
            pending::<()>().await;
        })
        .detach();
    }
    let sleep = io.sleep_until(far()).submit().expect("room");
    let ended = catch_unwind(AssertUnwindSafe(move || drop(io)));
    assert_eq!(ended.map_err(words), Err(BOMB.to_owned()), "the first panic goes on");
    assert_eq!(dropped.get(), 3, "after everything was dropped");
    assert_eq!(cx.block_on(sleep).expect_err("cancelled").kind(), ErrorKind::ShutDown);
    Ok(())
}

/// Spawns when it is dropped.
struct SpawnsLate(Proactor, Rc<Cell<u32>>);

impl Drop for SpawnsLate {
    fn drop(&mut self) {
        let guard = Dropped::counted(&self.1);
        self.0.spawn(async move { drop(guard) }).detach();
    }
}

fn a_drop_that_spawns(cx: &Cx<'_>) -> Result<(), Skip> {
    let dropped = Rc::new(Cell::new(0));
    let (io, inside) = (another(cx), dropped.clone());
    io.spawn_with(|io| async move {
        let _late = SpawnsLate(io, inside);
        pending::<()>().await;
    })
    .detach();
    io.poll(Wait::Now).expect("a poll");
    drop(io);
    assert_eq!(dropped.get(), 1, "dropped at once, never run");
    Ok(())
}

fn after_the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let other = io.clone();
    io.shutdown(Wait::Now).expect("shut down");
    let task = other.spawn(async { 1 });
    task.abort();
    assert!(task.is_finished());
    cx.note(format!("{:?}", cx.block_on(task).map_err(|error| error.kind())));
    Ok(())
}

fn a_lent_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = another(cx);
    let handle = io.handle();
    let kept = Rc::new(RefCell::new(None));
    let inside = kept.clone();
    io.spawn_with(|io| async move {
        io.nop().await.expect("a no-op");
        *inside.borrow_mut() = Some(io);
        pending::<()>().await;
    })
    .detach();
    while kept.borrow().is_none() {
        io.poll(LONG).expect("a poll");
    }
    drop(io);
    assert!(handle.is_closed(), "the loop has ended though its task held a proactor");
    let lent = kept.take().expect("it was put there");
    assert_eq!(lent.poll(Wait::Now).expect_err("it is gone").kind(), ErrorKind::ShutDown);
    Ok(())
}

fn polling_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let task = cx.io.spawn_with(|io| async move {
        let polled = io.poll(Wait::Now).map_err(|error| error.kind());
        (polled, io.block_on(async {}).map_err(|error| error.kind()))
    });
    let (polled, blocked) = cx.block_on(task).expect("it ends by itself");
    // A future that is ready at once needs no poll.
    assert_eq!((polled, blocked), (Err(ErrorKind::Busy), Ok(())));
    Ok(())
}

fn an_echo_server(cx: &Cx<'_>) -> Result<(), Skip> {
    let listener = cx.io.listen("127.0.0.1:0").expect("listening on loopback");
    let to = listener.local_addr().expect("a listener has an address");
    let pool = cx.io.receive_pool(8, 512).expect("memory for a small pool");
    let server = cx.io.spawn_with(|io| async move {
        let mut incoming = listener.incoming().submit().expect("room");
        for _ in 0..3 {
            let conn = incoming.next().await.expect("a connection").expect("a good one");
            let pool = pool.clone();
            io.spawn(async move {
                let mut input = conn.receive_all(&pool).submit().expect("room");
                while let Some(filled) = input.next().await {
                    conn.send_all(filled.expect("bytes").freeze()).await.expect("sent");
                }
                conn.finish().await.expect("the end of the stream");
            })
            .detach();
        }
    });
    let slab = cx.slab(3, 512);
    let clients: Vec<_> = (0..3u64)
        .map(|seed| {
            let (slab, to) = (slab.clone(), to.clone());
            cx.io.spawn_with(move |io| async move {
                let socket = io.connect(to).await.expect("connecting over loopback");
                let bytes = Cx::pattern(2000, seed);
                write(&socket, &bytes).await;
                socket.finish().await.expect("the end of the stream");
                assert!(read_to_end(&socket, &slab).await == bytes, "other bytes came back");
            })
        })
        .collect();
    for client in clients {
        cx.block_on(client).expect("a client");
    }
    cx.block_on(server).expect("the server");
    settled(cx, 0);
    Ok(())
}

fn a_polite_shutdown(cx: &Cx<'_>) -> Result<(), Skip> {
    let (io, done) = (another(cx), Rc::new(Cell::new(0)));
    let inside = done.clone();
    io.spawn_with(|io| async move {
        for _ in 0..3 {
            yield_now().await;
            io.nop().await.expect("a no-op");
            inside.set(inside.get() + 1);
        }
    })
    .detach();
    io.shutdown(LONG).expect("shut down");
    assert_eq!(done.get(), 3, "what goes on by itself is finished");
    Ok(())
}

fn counted(cx: &Cx<'_>) -> Result<(), Skip> {
    let waiting = cx.io.spawn(pending::<()>());
    let short = cx.io.spawn(async {});
    assert_eq!(cx.io.stats().tasks, 2);
    cx.io.poll(Wait::Now).expect("a poll");
    assert_eq!(cx.io.stats().tasks, 1);
    waiting.abort();
    assert_eq!(cx.io.stats().tasks, 0);
    cx.block_on(short).expect("it was over");
    Ok(())
}

fn two_loops(cx: &Cx<'_>) -> Result<(), Skip> {
    let other = another(cx);
    let (polls, shown) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
    let task = other.spawn(counting(&polls, &shown));
    other.poll(Wait::Now).expect("a poll");
    // Woken from a task of another loop of this thread: it finds the right one.
    let waker = shown.take().expect("it was polled");
    let waking = cx.io.spawn(async move { waker.wake() });
    cx.block_on(waking).expect("it ends by itself");
    cx.io.poll(Wait::Now).expect("a poll");
    assert_eq!(polls.get(), 1);
    other.poll(LONG).expect("it has a task to run");
    assert_eq!(polls.get(), 2);
    task.abort();
    Ok(())
}
