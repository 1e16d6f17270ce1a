//! Proactors on threads of their own: how they start, stop and end, and pools of them.
//!
//! Panics here are thrown with `resume_unwind`, which tells no hook: they are expected.

use super::remote::parked;
use crate::{Case, Cx, Skip};
use dataplane::{Handle, Options, Placement, Proactor, ProactorPool, ProactorThread};
use std::future::IntoFuture;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "thread/starts_and_joins", needs: &[], run: starts_and_joins },
    Case { name: "thread/is_named_after_its_options", needs: &[], run: is_named },
    Case { name: "thread/a_start_that_fails_leaves_no_thread", needs: &[], run: start_fails },
    Case { name: "thread/a_set_up_that_fails_leaves_no_thread", needs: &[], run: set_up_fails },
    Case { name: "thread/a_set_up_that_panics_is_an_error", needs: &[], run: set_up_panics },
    Case { name: "thread/set_up_runs_on_the_thread", needs: &[], run: set_up_is_there },
    Case { name: "thread/a_stop_ends_a_sleeping_poll", needs: &[], run: a_stop_ends_a_poll },
    Case { name: "thread/a_stop_may_be_asked_for_anywhere", needs: &[], run: stopped_from_within },
    Case { name: "thread/a_stop_cancels_what_is_in_flight", needs: &[], run: a_stop_cancels },
    Case { name: "thread/shutdown_delivers_what_completes", needs: &[], run: shutdown_delivers },
    Case { name: "thread/shutdown_waits_only_so_long", needs: &[], run: shutdown_is_bounded },
    Case { name: "thread/a_panic_is_the_error_of_join", needs: &[], run: a_panic_is_told },
    Case { name: "thread/after_a_panic_handles_are_closed", needs: &[], run: after_a_panic },
    Case { name: "thread/dropping_asks_and_waits", needs: &[], run: dropping_waits },
    Case { name: "thread/dropped_on_its_own_thread", needs: &[], run: dropped_within },
    Case { name: "thread/joined_on_its_own_thread_is_busy", needs: &[], run: joined_within },
    Case { name: "thread/a_socket_pair_through_its_handle", needs: &[], run: sockets },
    Case { name: "thread/is_pinned_to_its_cpu", needs: &[], run: is_pinned },
    Case { name: "thread/pool_has_one_for_each_cpu", needs: &[], run: pool_each_cpu },
    Case { name: "thread/pool_has_one_for_each_node", needs: &[], run: pool_each_node },
    Case { name: "thread/pool_takes_turns", needs: &[], run: pool_takes_turns },
    Case { name: "thread/pool_knows_the_nearest", needs: &[], run: pool_nearest },
    Case { name: "thread/pool_refuses_what_is_not_there", needs: &[], run: pool_refuses },
    Case { name: "thread/pool_starts_all_or_none", needs: &[], run: pool_all_or_none },
    Case { name: "thread/pool_waits_for_all_whatever_one_says", needs: &[], run: pool_join },
];

/// A name that no other thread has, short enough for the kernel.
fn unique() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("own{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Threads of this process whose name begins so.
fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("every process has threads");
    let names = tasks.flatten().map(|task| std::fs::read_to_string(task.path().join("comm")));
    names.flatten().filter(|comm| comm.starts_with(name)).count()
}

/// The kernel's list of threads is cleared a moment after a join.
fn no_thread_left(cx: &Cx<'_>, name: &str) {
    cx.poll_until("the threads to be gone", || threads_named(name) == 0);
}

fn start(cx: &Cx<'_>) -> ProactorThread {
    ProactorThread::start(cx.options.clone()).expect("a thread with a proactor")
}

/// An error as a set-up may return it.
fn refused() -> dataplane::Result<()> {
    Proactor::with(Options::default().operations(0)).map(drop)
}

fn id_of(handle: &Handle) -> ThreadId {
    parked(handle.call(|_| std::thread::current().id())).expect("it polls")
}

/// The CPUs the thread may run on, as the kernel prints them.
fn cpus_of(handle: &Handle) -> String {
    parked(handle.call(|_| allowed())).expect("it polls")
}

fn allowed() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("its own status");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("a line of it").trim().to_owned()
}

fn starts_and_joins(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    assert!(!thread.is_finished());
    parked(thread.handle().nop().into_future()).expect("a no-op");
    assert_eq!(thread.join().expect("a quiet end"), None);
    Ok(())
}

fn is_named(cx: &Cx<'_>) -> Result<(), Skip> {
    let name = unique();
    let thread = ProactorThread::start(cx.options.clone().name(&name)).expect("a thread");
    let told = parked(thread.handle().call(|_| std::thread::current().name().map(str::to_owned)));
    assert_eq!(told.expect("it polls").as_deref(), Some(&*name));
    drop(thread);
    // No name is a reason to panic.
    let strange = ProactorThread::start(cx.options.clone().name("a\0b")).expect("a thread");
    strange.join().expect("a quiet end");
    Ok(())
}

fn start_fails(cx: &Cx<'_>) -> Result<(), Skip> {
    let name = unique();
    let error = ProactorThread::start(cx.options.clone().name(&name).operations(0));
    cx.note(format!("{:?}", error.expect_err("no operations").kind()));
    no_thread_left(cx, &name);
    Ok(())
}

fn set_up_fails(cx: &Cx<'_>) -> Result<(), Skip> {
    let (name, dropped) = (unique(), Arc::new(()));
    let held = dropped.clone();
    let started = ProactorThread::start_with(cx.options.clone().name(&name), move |io| {
        drop(held);
        let far = Instant::now() + Duration::from_secs(3600);
        io.sleep_until(far).submit().expect("room").detach();
        refused()
    });
    cx.note(format!("{:?}", started.expect_err("the set-up's own error").kind()));
    assert_eq!(Arc::strong_count(&dropped), 1);
    no_thread_left(cx, &name);
    Ok(())
}

fn set_up_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let name = unique();
    let started = ProactorThread::start_with(cx.options.clone().name(&name), |_| {
        resume_unwind(Box::new("no set-up today"))
    });
    let error = started.expect_err("it panicked");
    assert!(error.message().contains("no set-up today"), "{error}");
    cx.note(format!("{:?}", error.kind()));
    no_thread_left(cx, &name);
    Ok(())
}

fn set_up_is_there(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = Arc::new(Mutex::new(None));
    let theirs = seen.clone();
    let thread = ProactorThread::start_with(cx.options.clone(), move |io| {
        assert_eq!(io.stats().turns, 0, "before the first poll");
        *theirs.lock().expect("nobody panicked") = Some(std::thread::current().id());
        Ok(())
    });
    let thread = thread.expect("a thread");
    let seen = *seen.lock().expect("nobody panicked");
    assert_eq!(seen, Some(id_of(&thread.handle())));
    assert_ne!(seen, Some(std::thread::current().id()));
    Ok(())
}

fn a_stop_ends_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    std::thread::sleep(Duration::from_millis(2));
    thread.request_stop();
    thread.request_stop();
    cx.poll_until("its end", || thread.is_finished());
    assert_eq!(thread.join().expect("a quiet end"), None);
    Ok(())
}

fn stopped_from_within(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = Arc::new(start(cx));
    let inside = thread.clone();
    let asked = thread.handle().call(move |_| inside.request_stop());
    parked(asked).expect("the call that asks is answered");
    cx.poll_until("its end", || thread.is_finished());
    cx.poll_until("the call to be dropped", || Arc::strong_count(&thread) == 1);
    let thread = Arc::try_unwrap(thread).expect("the only one");
    assert_eq!(thread.join().expect("a quiet end"), None);
    Ok(())
}

fn a_stop_cancels(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    let handle = thread.handle();
    let far = Instant::now() + Duration::from_secs(3600);
    let sleeping = handle.sleep_until(far).submit().expect("room");
    parked(handle.nop().into_future()).expect("by now it has the timer");
    assert_eq!(thread.join().expect("a quiet end"), None);
    let failed = parked(sleeping).expect_err("an hour has not passed");
    cx.note(format!("{:?}", failed.kind()));
    Ok(())
}

fn shutdown_delivers(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    let handle = thread.handle();
    let at = Instant::now() + Duration::from_millis(5);
    let sleeping = handle.sleep_until(at).submit().expect("room");
    parked(handle.nop().into_future()).expect("by now it has the timer");
    assert_eq!(thread.shutdown(Duration::from_secs(10)).expect("a quiet end"), None);
    parked(sleeping).expect("it completed by itself");
    assert!(Instant::now() >= at);
    Ok(())
}

fn shutdown_is_bounded(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    let handle = thread.handle();
    let far = Instant::now() + Duration::from_secs(3600);
    let sleeping = handle.sleep_until(far).submit().expect("room");
    parked(handle.nop().into_future()).expect("by now it has the timer");
    assert_eq!(thread.shutdown(Duration::from_millis(5)).expect("a quiet end"), None);
    cx.note(format!("{:?}", parked(sleeping).expect_err("cancelled").kind()));
    Ok(())
}

fn a_panic_is_told(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    let call =
        thread.handle().call(|_| -> () { resume_unwind(Box::new("words of it".to_owned())) });
    cx.note(format!("call: {:?}", parked(call).expect_err("it gave no value").kind()));
    let error = thread.join().expect_err("the loop ended by it");
    assert!(error.message().contains("words of it"), "{error}");
    cx.note(format!("join: {:?}", error.kind()));
    Ok(())
}

fn after_a_panic(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    let handle = thread.handle();
    let far = Instant::now() + Duration::from_secs(3600);
    let sleeping = handle.sleep_until(far).submit().expect("room");
    drop(handle.call(|_| resume_unwind(Box::new(7))));
    cx.note(format!("in flight: {:?}", parked(sleeping).expect_err("ended").kind()));
    cx.poll_until("its end", || thread.is_finished());
    assert!(handle.is_closed());
    let failed = parked(handle.nop().into_future()).expect_err("nobody polls");
    cx.note(format!("later: {:?}", failed.kind()));
    // A panic without words has none to pass on.
    cx.note(format!("join: {:?}", thread.join().expect_err("it panicked").kind()));
    Ok(())
}

fn dropping_waits(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    let handle = thread.handle();
    let far = Instant::now() + Duration::from_secs(3600);
    let sleeping = handle.sleep_until(far).submit().expect("room");
    drop(thread);
    assert!(handle.is_closed(), "it has ended by now");
    assert!(parked(sleeping).is_err());
    Ok(())
}

fn dropped_within(cx: &Cx<'_>) -> Result<(), Skip> {
    let name = unique();
    let thread = ProactorThread::start(cx.options.clone().name(&name)).expect("a thread");
    let handle = thread.handle();
    parked(handle.call(move |_| drop(thread))).expect("the call returns");
    cx.poll_until("its end", || handle.is_closed());
    no_thread_left(cx, &name);
    Ok(())
}

fn joined_within(cx: &Cx<'_>) -> Result<(), Skip> {
    let name = unique();
    let thread = ProactorThread::start(cx.options.clone().name(&name)).expect("a thread");
    let handle = thread.handle();
    let told = parked(handle.call(move |_| thread.join().expect_err("not here").kind()));
    cx.note(format!("{:?}", told.expect("the call returns")));
    no_thread_left(cx, &name);
    Ok(())
}

fn sockets(cx: &Cx<'_>) -> Result<(), Skip> {
    let thread = start(cx);
    let handle = thread.handle();
    let (one, two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let slab = cx.slab(1, 64);
    parked(async {
        let one = handle.adopt_socket(one).await.expect("adopted");
        let two = handle.adopt_socket(two).await.expect("adopted");
        one.send_all(b"through its handle".to_vec()).await.expect("sent");
        let filled = two.recv(slab.lease().expect("a slot")).await.expect("received");
        assert_eq!(filled[..], *b"through its handle");
    });
    assert_eq!(thread.join().expect("a quiet end"), None);
    Ok(())
}

/// The first CPU this thread may run on.
fn a_cpu() -> u32 {
    let first: String = allowed().chars().take_while(char::is_ascii_digit).collect();
    first.parse().expect("a number")
}

fn is_pinned(cx: &Cx<'_>) -> Result<(), Skip> {
    let cpu = a_cpu();
    let thread = ProactorThread::start(cx.options.clone().cpu(cpu)).expect("a thread");
    assert_eq!(cpus_of(&thread.handle()), cpu.to_string());
    Ok(())
}

fn pool(cx: &Cx<'_>, placement: Placement) -> ProactorPool {
    ProactorPool::start(placement, cx.options.clone()).expect("a pool")
}

fn pool_each_cpu(cx: &Cx<'_>) -> Result<(), Skip> {
    let pool = pool(cx, Placement::EachCpu);
    let expected = std::thread::available_parallelism().expect("a count").get();
    // A quota may allow less than the mask; never more.
    assert!(pool.len() >= expected, "{} threads, {expected} CPUs", pool.len());
    for (place, handle) in pool.places().iter().zip(pool.handles()) {
        assert_eq!(place.cpus.len(), 1, "{place:?}");
        assert_eq!(cpus_of(handle), place.cpus[0].to_string());
    }
    assert_eq!(pool.join().expect("a quiet end"), None);
    Ok(())
}

fn pool_each_node(cx: &Cx<'_>) -> Result<(), Skip> {
    let mine = allowed();
    let pool = pool(cx, Placement::EachNode);
    assert!(pool.places().iter().all(|place| !place.cpus.is_empty() && place.node.is_some()));
    if pool.len() == 1 {
        assert_eq!(cpus_of(&pool.handles()[0]), mine, "the one node has every CPU");
    }
    let node = pool.places()[0].node.expect("a node");
    let one = self::pool(cx, Placement::Nodes(vec![node]));
    assert_eq!(one.places()[0], pool.places()[0]);
    Ok(())
}

fn pool_takes_turns(cx: &Cx<'_>) -> Result<(), Skip> {
    let pool = pool(cx, Placement::Anywhere(3));
    let ids: Vec<ThreadId> = pool.handles().iter().map(id_of).collect();
    let turns: Vec<ThreadId> = (0..6).map(|_| id_of(pool.next())).collect();
    assert_eq!(turns, [&ids[..], &ids[..]].concat());
    assert!(pool.handle(2).is_some() && pool.handle(3).is_none());
    Ok(())
}

fn pool_nearest(cx: &Cx<'_>) -> Result<(), Skip> {
    let pool = pool(cx, Placement::EachCpu);
    for (place, handle) in pool.places().iter().zip(pool.handles()) {
        assert_eq!(id_of(pool.nearest(place.cpus[0])), id_of(handle));
    }
    // Of a CPU that nobody knows any is as near as any other.
    id_of(pool.nearest(u32::MAX));
    let last = pool.places().last().expect("at least one").cpus[0];
    let one = self::pool(cx, Placement::Cpus(vec![last]));
    assert_eq!(id_of(one.nearest(a_cpu())), id_of(&one.handles()[0]));
    Ok(())
}

fn pool_refuses(cx: &Cx<'_>) -> Result<(), Skip> {
    let cpu = a_cpu();
    let bad = [
        Placement::Cpus(vec![cpu, 100_000]),
        Placement::Nodes(vec![100_000]),
        Placement::Cpus(vec![]),
        Placement::Anywhere(0),
    ];
    for placement in bad {
        let error = ProactorPool::start(placement.clone(), cx.options.clone());
        let error = error.expect_err("nothing of the kind");
        cx.note(format!("{:?}", error.kind()));
        if placement == Placement::Cpus(vec![cpu, 100_000]) {
            let message = error.message();
            assert!(message.contains("100000") && message.contains(&cpu.to_string()), "{error}");
        }
    }
    Ok(())
}

fn pool_all_or_none(cx: &Cx<'_>) -> Result<(), Skip> {
    let name = unique();
    let started = Arc::new(Mutex::new(Vec::new()));
    let theirs = started.clone();
    let options = cx.options.clone().name(&name);
    let pool = ProactorPool::start_with(Placement::Anywhere(3), options, move |at, io| {
        theirs.lock().expect("nobody panicked").push(io.handle());
        if at == 2 { refused() } else { Ok(()) }
    });
    cx.note(format!("{:?}", pool.expect_err("the third did not start").kind()));
    let started = started.lock().expect("nobody panicked");
    assert_eq!(started.len(), 3);
    assert!(started.iter().all(Handle::is_closed), "those before it were ended");
    no_thread_left(cx, &name);
    Ok(())
}

fn pool_join(cx: &Cx<'_>) -> Result<(), Skip> {
    let pool = pool(cx, Placement::Anywhere(3));
    let handles = pool.handles().to_vec();
    drop(handles[1].call(|_| resume_unwind(Box::new("the second"))));
    cx.poll_until("the panic", || handles[1].is_closed());
    parked(handles[2].nop().into_future()).expect("the others go on");
    let error = pool.join().expect_err("one panicked");
    cx.note(format!("{:?}", error.kind()));
    assert!(handles.iter().all(Handle::is_closed));
    Ok(())
}
