//! A proactor inside a host runtime: tokio on one thread, a host written by hand, and handles in
//! tokio's threads. On poll(2) there is nothing a host could watch, which is said plainly.

use super::tasks::Sum;
use crate::{Case, Cx, Skip};
use dataplane::{Backend, ErrorKind, Hosted, Proactor, Turn, Wait};
use futures_util::StreamExt;
use futures_util::future::join_all;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::future::{Future, pending, poll_fn};
use std::io::{Read, Write};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::task::{LocalSet, spawn_local};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "hosted/unavailable_on_poll", needs: &[], run: unavailable_on_poll },
    Case { name: "hosted/a_future_in_tokio", needs: &[], run: a_future_in_tokio },
    Case { name: "hosted/a_deadline_wakes_the_host", needs: &[], run: a_deadline },
    Case { name: "hosted/an_earlier_deadline_later", needs: &[], run: an_earlier_deadline },
    Case { name: "hosted/another_task_submits", needs: &[], run: another_task_submits },
    Case { name: "hosted/another_task_cancels", needs: &[], run: another_task_cancels },
    Case { name: "hosted/another_task_spawns", needs: &[], run: another_task_spawns },
    Case { name: "hosted/another_task_wakes_ours", needs: &[], run: another_task_wakes },
    Case { name: "hosted/another_task_fills_a_pool", needs: &[], run: another_task_fills },
    Case { name: "hosted/another_task_closes", needs: &[], run: another_task_closes },
    Case { name: "hosted/another_thread_submits", needs: &[], run: another_thread_submits },
    Case { name: "hosted/sockets_of_both", needs: &[], run: sockets_of_both },
    Case { name: "hosted/many_tasks_at_once", needs: &[], run: many_tasks },
    Case { name: "hosted/two_proactors", needs: &[], run: two_proactors },
    Case { name: "hosted/driven_again", needs: &[], run: driven_again },
    Case { name: "hosted/polled_by_hand_in_between", needs: &[], run: polled_in_between },
    Case { name: "hosted/a_host_that_fails", needs: &[], run: a_host_that_fails },
    Case { name: "hosted/the_end_wakes_the_host", needs: &[], run: the_end },
    Case { name: "hosted/a_host_by_hand", needs: &[], run: by_hand },
    Case { name: "hosted/it_rests_when_idle", needs: &[], run: it_rests },
    Case { name: "hosted/handles_in_tokio_threads", needs: &[], run: handles_in_threads },
    Case { name: "hosted/an_echo_in_tokio_threads", needs: &[], run: an_echo_in_threads },
    Case { name: "hosted/byte_streams_in_tokio_threads", needs: &[], run: byte_streams_in_threads },
    Case { name: "hosted/a_tokio_task_is_aborted", needs: &[], run: a_task_is_aborted },
];

const LONG: Duration = Duration::from_secs(3600);

fn far() -> Instant {
    Instant::now() + LONG
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(2)
}

/// None on poll(2), where it is refused.
fn hosted(io: &Proactor) -> Option<Hosted> {
    match Hosted::new(io) {
        Ok(hosted) => {
            assert_ne!(io.backend(), Backend::Poll);
            Some(hosted)
        }
        Err(error) => {
            assert_eq!((io.backend(), error.kind()), (Backend::Poll, ErrorKind::Unavailable));
            assert!(error.message().contains("Handle"), "it names the way out: {error}");
            None
        }
    }
}

/// Runs `work` in tokio while the proactor is driven by a task of its own.
fn beside<F: Future>(cx: &Cx<'_>, work: impl FnOnce(Proactor) -> F) -> Option<F::Output> {
    let driven = hosted(cx.io)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let value = LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let driver = spawn_local(driven.drive_in_tokio(pending::<()>()));
        // Asleep before the work begins: nothing is handed over unless the work wakes it.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        let value = work(cx.io.clone()).await;
        driver.abort();
        value
    });
    Some(value)
}

/// Runs `work` as the future that is driven.
fn inside<F: Future>(cx: &Cx<'_>, work: impl FnOnce(Proactor) -> F) -> Option<F::Output> {
    let driven = hosted(cx.io)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let value = runtime.expect("a runtime").block_on(driven.drive_in_tokio(work(cx.io.clone())));
    Some(value.expect("driven to its end"))
}

fn unavailable_on_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let driven = hosted(cx.io);
    assert_eq!(driven.is_none(), cx.io.backend() == Backend::Poll);
    assert_eq!(cx.io.watchable().is_none(), cx.io.backend() == Backend::Poll);
    Ok(())
}

fn a_future_in_tokio(cx: &Cx<'_>) -> Result<(), Skip> {
    let number = inside(cx, |io| async move {
        for _ in 0..50 {
            io.nop().await.expect("a no-op");
        }
        8
    });
    assert!(number.is_none_or(|number| number == 8));
    Ok(())
}

fn a_deadline(cx: &Cx<'_>) -> Result<(), Skip> {
    assert_eq!(cx.io.next_deadline(), None);
    inside(cx, |io| async move {
        for _ in 0..3 {
            let at = soon();
            let sleep = io.sleep_until(at).submit().expect("room");
            let next = io.next_deadline().expect("there is one");
            // On a busy machine it may have passed already; then it is now.
            let latest = at.max(Instant::now()) + Duration::from_millis(1);
            assert!(next <= latest && next > Instant::now() - LONG);
            sleep.await.expect("slept");
            assert!(Instant::now() >= at, "too early");
        }
        let (one, _two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
        let socket = io.adopt_socket(one).expect("room for a descriptor");
        let silent = socket.ready(dataplane::Interest::READABLE);
        let late = silent.timeout(Duration::from_millis(1)).await;
        assert_eq!(late.expect_err("too late").kind(), ErrorKind::TimedOut);
    });
    Ok(())
}

fn an_earlier_deadline(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        let far_off = io.sleep_until(far()).submit().expect("room");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        io.sleep_until(soon()).await.expect("the host has slept by the later one");
        drop(far_off);
    });
    Ok(())
}

fn another_task_submits(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        for round in 0..20 {
            io.nop().await.expect("a no-op");
            // Now and then the driver is asleep by the next one, now and then it is not.
            for _ in 0..round % 5 {
                tokio::task::yield_now().await;
            }
        }
    });
    Ok(())
}

/// Waits in tokio until `ready` says so; a wait of the proactor would wake its driver.
async fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(10), "waited for {what}");
        tokio::task::yield_now().await;
    }
}

fn another_task_cancels(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        let sleeping = io.sleep_until(far()).submit().expect("room");
        let (one, _two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
        let socket = io.adopt_socket(one).expect("room for a descriptor");
        let waiting = socket.ready(dataplane::Interest::READABLE).submit().expect("room");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(sleeping);
        waiting.cancel().expect("it is pending");
        assert_eq!(waiting.await.expect_err("cancelled").kind(), ErrorKind::Cancelled);
        until("both ends", || io.stats().in_flight == 0).await;
    });
    Ok(())
}

fn another_task_spawns(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        for _ in 0..10 {
            let nop = io.nop();
            let task = io.spawn(async move { nop.await.map(|()| 6) });
            tokio::task::yield_now().await;
            assert_eq!(task.await.expect("not aborted").expect("a no-op"), 6);
        }
    });
    Ok(())
}

fn another_task_wakes(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        let sum: Arc<Sum> = Arc::default();
        let task = io.spawn(sum.clone().of(2));
        for _ in 0..2 {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            // On the loop's own thread, while the driver is asleep.
            sum.add(4);
        }
        assert_eq!(task.await.expect("it ends by itself"), 8);
    });
    Ok(())
}

fn another_task_fills(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        let (mut one, two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
        let socket = io.adopt_socket(two).expect("room for a descriptor");
        let pool = io.receive_pool(1, 64).expect("memory for a small pool");
        let mut input = socket.receive_all(&pool).submit().expect("room");
        for round in 0..3 {
            one.write_all(b"more").expect("room in the socket");
            let filled = input.next().await.expect("not the end").expect("bytes");
            assert_eq!(&filled[..], b"more", "round {round}");
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            // The pool is dry until this goes back, on the loop's own thread.
            drop(filled);
        }
    });
    Ok(())
}

fn another_task_closes(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        let (mut one, two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
        let socket = io.adopt_socket(two).expect("room for a descriptor");
        let receiving = socket.ready(dataplane::Interest::READABLE).submit().expect("room");
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(socket);
        until("the close", || io.stats().descriptors == 0).await;
        assert_eq!(one.read(&mut [0; 1]).expect("the end"), 0, "the peer sees it");
        assert_eq!(receiving.await.expect_err("closed").kind(), ErrorKind::Closed);
    });
    Ok(())
}

fn another_thread_submits(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        let handle = io.handle();
        let thread = std::thread::spawn(move || {
            for _ in 0..20 {
                super::remote::parked(async { handle.nop().await }).expect("a no-op");
            }
        });
        // The host sleeps in between: only the bell wakes it.
        let done = io.handle().call(|_| ()).await;
        done.expect("the proactor lives");
        until("the other thread", || thread.is_finished()).await;
        thread.join().expect("it only submits");
    });
    Ok(())
}

fn sockets_of_both(cx: &Cx<'_>) -> Result<(), Skip> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    beside(cx, |io| async move {
        let listener = io.listen("127.0.0.1:0").expect("listening on loopback");
        let to = listener.local_addr().expect("a listener has an address");
        let server = spawn_local(async move {
            let conn = listener.accept().await.expect("a connection");
            let slab = dataplane::regions::Slab::new(1, 64).expect("memory");
            let filled = conn.recv(slab.lease().expect("a slot")).await.expect("bytes");
            conn.send_all(filled.freeze()).await.expect("sent");
        });
        let to = to.inet().expect("an inet address");
        let mut client = tokio::net::TcpStream::connect(to).await.expect("connected");
        client.write_all(b"of tokio").await.expect("sent");
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.expect("received");
        assert_eq!(back, b"of tokio");
        server.await.expect("the server");
    });
    Ok(())
}

fn many_tasks(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        let tasks = (0..30u64).map(|number| {
            let io = io.clone();
            spawn_local(async move {
                for _ in 0..10 {
                    io.nop().await.expect("a no-op");
                }
                io.sleep_until(Instant::now() + Duration::from_micros(100 * number)).await
            })
        });
        for ended in join_all(tasks.collect::<Vec<_>>()).await {
            ended.expect("no panic").expect("slept");
        }
    });
    Ok(())
}

fn two_proactors(cx: &Cx<'_>) -> Result<(), Skip> {
    let other = Proactor::with(cx.options.clone()).expect("a second one");
    let Some(second) = hosted(&other) else { return Ok(()) };
    beside(cx, |io| async move {
        let driver = spawn_local(second.drive_in_tokio(pending::<()>()));
        for _ in 0..10 {
            io.nop().await.expect("of the first");
            other.nop().await.expect("of the second");
            let nop = other.nop();
            let task = io.spawn(async move { nop.await });
            task.await.expect("not aborted").expect("of both");
        }
        driver.abort();
    });
    Ok(())
}

fn driven_again(cx: &Cx<'_>) -> Result<(), Skip> {
    let (Some(one), Some(two)) = (hosted(cx.io), hosted(cx.io)) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.expect("a runtime");
    let sleep = cx.io.sleep_until(far()).submit().expect("room");
    {
        // Dropped while it sleeps.
        let mut asleep = pin!(one.drive_in_tokio(sleep));
        runtime.block_on(async {
            for _ in 0..10 {
                let pending = poll_fn(|cx| Poll::Ready(asleep.as_mut().poll(cx).is_pending()));
                assert!(pending.await);
                tokio::task::yield_now().await;
            }
        });
    }
    let nop = cx.io.nop();
    let ended = runtime.block_on(two.drive_in_tokio(async move { nop.await }));
    ended.expect("driven to its end").expect("a no-op");
    Ok(())
}

fn polled_in_between(cx: &Cx<'_>) -> Result<(), Skip> {
    beside(cx, |io| async move {
        for _ in 0..10 {
            let mut nop = io.nop().submit().expect("room");
            while nop.try_take().map(|ended| ended.expect("a no-op")).is_none() {
                io.poll(LONG).expect("it may be polled by hand too");
            }
            io.nop().await.expect("and the driver goes on");
        }
    });
    cx.block_on(cx.io.nop()).expect("and after it");
    Ok(())
}

fn a_host_that_fails(cx: &Cx<'_>) -> Result<(), Skip> {
    let Some(driven) = hosted(cx.io) else { return Ok(()) };
    let fails = || async { Err(std::io::Error::other("no reactor")) };
    let mut driving = pin!(driven.drive(fails, pending::<()>()));
    let error = cx.block_on(poll_fn(|cx| driving.as_mut().poll(cx)));
    assert!(error.expect_err("it failed").to_string().contains("no reactor"));
    Ok(())
}

fn the_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a second one");
    let Some(driven) = hosted(&io) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let ended = LocalSet::new().block_on(&runtime.expect("a runtime"), async {
        let driver = spawn_local(driven.drive_in_tokio(pending::<()>()));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        io.shutdown(Wait::Now).expect("shut down");
        driver.await.expect("it is not aborted")
    });
    assert_eq!(ended.expect_err("it is gone").kind(), ErrorKind::ShutDown);
    Ok(())
}

fn by_hand(cx: &Cx<'_>) -> Result<(), Skip> {
    let Some(driven) = hosted(cx.io) else { return Ok(()) };
    let host = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("a descriptor");
    host.add(&driven, EpollEvent::new(EpollFlags::EPOLLIN, 0)).expect("it can be watched");
    let handle = cx.io.handle();
    let remote = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1));
        super::remote::parked(async { handle.nop().await }).expect("a no-op");
    });
    let nops = [cx.io.nop(), cx.io.nop()].map(|nop| nop.submit().expect("room"));
    let sleep = cx.io.sleep_until(soon()).submit().expect("room");
    let mut work =
        pin!(async { (join_all(nops).await.len(), sleep.await.map(drop).map_err(drop)) });
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    let mut ended = None;
    while ended.is_none() || !remote.is_finished() {
        if ended.is_none()
            && let Poll::Ready(value) = work.as_mut().poll(&mut context)
        {
            ended = Some(value);
        }
        if driven.turn().expect("a turn") == Turn::Rest {
            let mut events = [EpollEvent::empty()];
            let limit = EpollTimeout::try_from(Duration::from_millis(20)).expect("short");
            match host.wait(&mut events, limit) {
                // A ring that was closed on this thread interrupts its waits, without a signal.
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => panic!("a wait: {errno}"),
            }
        }
    }
    assert_eq!(ended, Some((2, Ok(()))));
    remote.join().expect("it only submits");
    Ok(())
}

fn it_rests(cx: &Cx<'_>) -> Result<(), Skip> {
    let Some(driven) = hosted(cx.io) else { return Ok(()) };
    let rest = |what: &str| {
        let begun = Instant::now();
        while driven.turn().expect("a turn") == Turn::Again {
            assert!(begun.elapsed() < Duration::from_secs(5), "{what}: never at rest");
        }
        assert!(driven.check().is_err(), "{what}: not readable at rest");
    };
    rest("new");
    cx.io.nop().submit().expect("room").detach();
    driven.check().expect("a submission is seen");
    rest("after a no-op");
    cx.io.handle().wake();
    driven.check().expect("a wake is seen");
    rest("after a wake");
    cx.io.spawn(async {}).detach();
    driven.check().expect("a task is seen");
    rest("after a task");
    let sleep = cx.io.sleep_until(far()).submit().expect("room");
    rest("with a timer");
    drop(sleep);
    cx.poll_until("its end", || cx.io.stats().in_flight == 0);
    Ok(())
}

fn threads(count: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(count).build().expect("a runtime")
}

fn handles_in_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    let runtime = threads(2);
    let tasks = (0..8).map(|number| {
        let handle = cx.io.handle();
        runtime.spawn(async move {
            for _ in 0..10 {
                handle.nop().await.expect("a no-op");
            }
            handle.sleep_until(soon()).await.expect("slept");
            handle.call(move |_| number).await.expect("called")
        })
    });
    let ended = cx.block_on(join_all(tasks.collect::<Vec<_>>()));
    let numbers: Vec<i32> = ended.into_iter().map(|number| number.expect("no panic")).collect();
    assert_eq!(numbers, (0..8).collect::<Vec<_>>());
    Ok(())
}

fn an_echo_in_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    let runtime = threads(2);
    let handle = cx.io.handle();
    let slab = cx.slab(4, 1 << 12);
    let work = runtime.spawn(async move {
        let listener = handle.listen("127.0.0.1:0").await.expect("listening on loopback");
        let to = listener.local_addr().await.expect("a listener has an address");
        let lease = slab.lease_async();
        let server = tokio::spawn(async move {
            let conn = listener.accept().await.expect("a connection");
            let filled = conn.recv(lease.await).await.expect("bytes");
            conn.send_all(filled.freeze()).await.expect("sent");
        });
        let client = handle.connect(to).await.expect("connected");
        client.send_all(b"across threads".to_vec()).await.expect("sent");
        let back = client.recv(slab.lease_async().await).await.expect("bytes");
        server.await.expect("the server");
        back.to_vec()
    });
    assert_eq!(cx.block_on(work).expect("no panic"), b"across threads");
    cx.poll_until("what was dropped to be gone", || cx.io.stats().descriptors == 0);
    Ok(())
}

fn a_task_is_aborted(cx: &Cx<'_>) -> Result<(), Skip> {
    let runtime = threads(1);
    let handle = cx.io.handle();
    let task = runtime.spawn(async move { handle.sleep_until(far()).await.map_err(drop) });
    cx.poll_until("a timer in flight", || cx.io.stats().in_flight == 1);
    task.abort();
    cx.poll_until("its end", || cx.io.stats().in_flight == 0);
    assert!(cx.block_on(task).expect_err("aborted").is_cancelled());
    Ok(())
}

fn byte_streams_in_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
    let runtime = threads(2);
    let handle = cx.io.handle();
    let work = runtime.spawn(async move {
        let slab = dataplane::regions::Slab::new(8, 1 << 10).expect("memory");
        let received = dataplane::regions::Slab::new(8, 1 << 10).expect("memory");
        let pool = handle.receive_pool_over(&received).await.expect("a small pool");
        let listener = handle.listen("127.0.0.1:0").await.expect("listening on loopback");
        let to = listener.local_addr().await.expect("a listener has an address");
        let (own, slots) = (pool.clone(), slab.clone());
        let server = tokio::spawn(async move {
            let conn = listener.accept().await.expect("a connection");
            let (mut reader, mut writer) = conn.duplex(&own, &slots).expect("room").into_split();
            tokio::io::copy_buf(&mut reader, &mut writer).await.expect("echoed");
            writer.shutdown().await.expect("closed");
        });
        let socket = handle.connect(to).await.expect("connected");
        let mut duplex = socket.duplex(&pool, &slab).expect("room");
        duplex.write_all(b"a line\nand the rest").await.expect("sent");
        duplex.shutdown().await.expect("closed");
        let (mut line, mut rest) = (String::new(), Vec::new());
        duplex.read_line(&mut line).await.expect("received");
        duplex.read_to_end(&mut rest).await.expect("received");
        server.await.expect("the server");
        (line, rest)
    });
    let (line, rest) = cx.block_on(work).expect("no panic");
    assert_eq!((line.as_str(), &rest[..]), ("a line\n", &b"and the rest"[..]));
    super::net::settled(cx, 0);
    Ok(())
}
