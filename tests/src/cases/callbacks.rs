//! Callbacks: once each, inside a poll, and free to do everything but poll.

use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Next, Proactor, Wait};
use regions::Span;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "callbacks/submit_inside", needs: &[], run: submit_inside },
    Case { name: "callbacks/cancel_inside", needs: &[], run: cancel_inside },
    Case { name: "callbacks/drop_handles_inside", needs: &[], run: drop_handles_inside },
    Case { name: "callbacks/close_inside", needs: &[], run: close_inside },
    Case { name: "callbacks/drop_the_proactor_inside", needs: &[], run: drop_the_proactor_inside },
    Case { name: "callbacks/poll_inside_is_busy", needs: &[], run: poll_inside_is_busy },
    Case { name: "callbacks/a_panic_loses_nobody_else", needs: &[], run: a_panic },
    Case { name: "callbacks/refused_is_dropped_unrun", needs: &[], run: refused },
    Case { name: "callbacks/in_the_order_of_the_stream", needs: &[], run: in_order },
    Case { name: "callbacks/on_each_until_the_end", needs: &[], run: on_each },
    Case { name: "callbacks/on_each_panics", needs: &[], run: on_each_panics },
    Case { name: "callbacks/timed_out_once", needs: &[], run: timed_out_once },
    Case { name: "callbacks/a_buffer_goes_round", needs: &[], run: a_buffer_goes_round },
];

fn submit_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    fn next(io: Proactor, left: u32, count: Rc<Cell<u32>>) {
        let inside = io.clone();
        let told = move |ended: Result<(), _>| {
            assert!(ended.is_ok());
            count.set(count.get() + 1);
            if left > 0 {
                next(inside, left - 1, count);
            }
        };
        io.nop().on_complete(told).expect("room for a no-op");
    }
    let count = Rc::new(Cell::new(0));
    next(cx.io.clone(), 19, count.clone());
    cx.poll_until("twenty no-ops", || count.get() == 20);
    assert_eq!(cx.io.stats().in_flight, 0);
    Ok(())
}

fn cancel_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let slab = cx.slab(1, 16);
    let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
    let (io, id) = (cx.io.clone(), receiving.id());
    let told = move |_: Result<(), _>| io.cancel(id).expect("it is pending");
    cx.io.nop().on_complete(told).expect("room");
    let failed = cx.block_on(receiving).err().expect("cancelled");
    assert_eq!(failed.kind(), ErrorKind::Cancelled);
    drop(failed);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn drop_handles_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 16);
    let receiving = near.recv(slab.lease().expect("free")).submit().expect("room");
    let pool = cx.io.receive_pool(2, 16).expect("a pool");
    let stream = far.receive_all(&pool).submit().expect("room");
    let ran = Rc::new(Cell::new(false));
    let set = ran.clone();
    let told = move |_: Result<(), _>| {
        drop((receiving, near, stream, far, pool));
        set.set(true);
    };
    cx.io.nop().on_complete(told).expect("room");
    cx.poll_until("the callback", || ran.get());
    cx.poll_until("the end of all", || {
        let stats = cx.io.stats();
        (stats.descriptors, stats.in_flight) == (0, 0)
    });
    assert_eq!(slab.available(), 2);
    Ok(())
}

fn close_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(2, 16);
    let second = near.clone();
    let told = move |first: Result<dataplane::Filled, _>| {
        assert_eq!(first.expect("received").len(), 2);
        second.close().submit().expect("room for a close").detach();
    };
    near.recv(slab.lease().expect("free")).on_complete(told).expect("room");
    let queued = near.recv(slab.lease().expect("free")).submit().expect("room");
    cx.block_on(far.send_all(Span::from(vec![1u8; 2]))).expect("sent");
    let failed = cx.block_on(queued).err().expect("it was closed under it");
    cx.note(format!("queued: {:?}", failed.kind()));
    assert_eq!(failed.kind(), ErrorKind::Closed);
    drop(failed);
    assert_eq!(slab.available(), 2);
    let end = cx.block_on(far.recv(slab.lease().expect("free"))).expect("the end");
    assert_eq!(end.len(), 0);
    Ok(())
}

/// A handle that does not own its loop, as code inside a poll is lent one.
fn lent(io: &Proactor) -> Proactor {
    thread_local!(static LENT: RefCell<Option<Proactor>> = const { RefCell::new(None) });
    let call = io.handle().call(|lent| LENT.set(Some(lent.clone())));
    io.block_on(call).expect("polling").expect("the call ran");
    LENT.take().expect("it was set")
}

fn drop_the_proactor_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let owner = Proactor::with(cx.options.clone()).expect("a second one");
    let borrowed = lent(&owner);
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let socket = owner.adopt_socket(one).expect("room");
    let slab = cx.slab(1, 16);
    let mut receiving = socket.recv(slab.lease().expect("free")).submit().expect("room");
    let handle = owner.handle();
    let inside = handle.clone();
    let told = move |_: Result<(), _>| {
        drop(owner);
        assert!(!inside.is_closed(), "it takes effect when the poll returns");
    };
    borrowed.nop().on_complete(told).expect("room");
    while !handle.is_closed() {
        // The poll in which it goes may say so or not; a later one must.
        let _ = borrowed.poll(Duration::from_secs(5));
    }
    assert_eq!(borrowed.poll(Wait::Now).unwrap_err().kind(), ErrorKind::ShutDown);
    let ended = receiving.try_take().expect("shutting down ended it").unwrap_err();
    cx.note(format!("pending: {:?}", ended.kind()));
    drop(ended);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn poll_inside_is_busy(cx: &Cx<'_>) -> Result<(), Skip> {
    let seen = Rc::new(Cell::new(None));
    let (io, set) = (cx.io.clone(), seen.clone());
    let told = move |_: Result<(), _>| {
        let poll = io.poll(Wait::Now).map_err(|error| error.kind());
        let block = io.block_on(async { io.nop().await.is_ok() }).map_err(|error| error.kind());
        set.set(Some((poll, block)));
    };
    cx.io.nop().on_complete(told).expect("room");
    cx.poll_until("the callback", || seen.get().is_some());
    let (poll, block) = seen.get().expect("just seen");
    cx.note(format!("poll {poll:?}, block_on {block:?}"));
    assert_eq!((poll, block), (Err(ErrorKind::Busy), Err(ErrorKind::Busy)));
    cx.block_on(cx.io.nop()).expect("and goes on outside");
    Ok(())
}

/// Polls, and catches what panics inside; how often something did.
fn poll_through_panics(cx: &Cx<'_>, over: impl Fn() -> bool) -> u32 {
    let mut panics = 0;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !over() {
        assert!(Instant::now() < deadline, "somebody is not told");
        let poll = catch_unwind(AssertUnwindSafe(|| cx.io.poll(Duration::from_millis(1))));
        match poll {
            Ok(polled) => drop(polled.expect("a poll")),
            Err(_) => panics += 1,
        }
    }
    panics
}

fn a_panic(cx: &Cx<'_>) -> Result<(), Skip> {
    let told = Rc::new(Cell::new(0));
    for n in 0..9 {
        let told = told.clone();
        let callback = move |_: Result<(), _>| {
            told.set(told.get() + 1);
            assert!(n % 3 != 0, "on purpose");
        };
        cx.io.nop().on_complete(callback).expect("room");
    }
    let panics = poll_through_panics(cx, || told.get() == 9);
    cx.note(format!("{panics} panics, {} told", told.get()));
    assert_eq!(panics, 3);
    assert_eq!(Rc::strong_count(&told), 1, "every callback is gone");
    cx.block_on(cx.io.nop()).expect("the loop goes on");
    Ok(())
}

fn refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, _far) = cx.unix_pair();
    let closed = near.clone();
    cx.block_on(near.close()).expect("closed");
    let slab = cx.slab(1, 16);
    let alive = Rc::new(Cell::new(0));
    let count = alive.clone();
    let told = move |_: Result<dataplane::Filled, _>| count.set(1);
    let failed = closed.recv(slab.lease().expect("free")).on_complete(told).err();
    let failed = failed.expect("the socket is closed");
    cx.note(format!("{:?}", failed.kind()));
    assert_eq!(failed.kind(), ErrorKind::Closed);
    assert_eq!((Rc::strong_count(&alive), alive.get()), (1, 0), "dropped, not run");
    drop(failed.into_buffer().expect("it comes back"));
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(6, 2);
    let bytes = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..6 {
        let bytes = bytes.clone();
        let told = move |filled: Result<dataplane::Filled, _>| {
            bytes.borrow_mut().extend_from_slice(&filled.expect("received"));
        };
        near.recv_all(slab.lease().expect("free")).on_complete(told).expect("room");
    }
    cx.block_on(far.send_all(Span::from(b"abcdefghijkl".to_vec()))).expect("sent");
    cx.poll_until("six receives", || bytes.borrow().len() == 12);
    assert_eq!(&bytes.borrow()[..], b"abcdefghijkl");
    assert_eq!(slab.available(), 6);
    Ok(())
}

/// What an `on_each` callback was told: bytes, and its ends.
type Told = Rc<RefCell<(Vec<u8>, Vec<Option<ErrorKind>>)>>;

fn on_each(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(4, 32).expect("a pool");
    let told = Told::default();
    let inside = told.clone();
    let callback = move |next: Next<dataplane::Filled>| match next {
        Next::Item(filled) => inside.borrow_mut().0.extend_from_slice(&filled),
        Next::End(end) => inside.borrow_mut().1.push(end.err().map(|error| error.kind())),
    };
    near.receive_all(&pool).on_each(callback).expect("room");
    let bytes = Cx::pattern(1000, 9);
    for part in bytes.chunks(100) {
        cx.block_on(far.send_all(Span::from(part.to_vec()))).expect("sent");
    }
    cx.block_on(far.finish()).expect("the end is sent");
    cx.poll_until("the end", || !told.borrow().1.is_empty());
    let (got, ends) = told.take();
    cx.note(format!("{} bytes, then {ends:?}", got.len()));
    assert_eq!((got, ends), (bytes, vec![None]));
    assert_eq!(Rc::strong_count(&told), 1, "the callback is gone");
    Ok(())
}

fn on_each_panics(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let pool = cx.io.receive_pool(4, 32).expect("a pool");
    let callback = |next: Next<dataplane::Filled>| match next {
        Next::Item(filled) => {
            drop(filled);
            panic!("on purpose");
        }
        Next::End(_) => {}
    };
    let id = near.receive_all(&pool).on_each(callback).expect("room");
    far.send_all(Span::from(vec![1u8; 4])).submit().expect("room").detach();
    let panicked = Rc::new(Cell::new(0));
    for _ in 0..100 {
        let poll = catch_unwind(AssertUnwindSafe(|| cx.io.poll(Duration::from_millis(1))));
        panicked.set(panicked.get() + u32::from(poll.is_err()));
        if poll.is_err() {
            break;
        }
    }
    assert_eq!(panicked.get(), 1, "it was told of the item");
    // Its callback is gone with the panic; the operation can still be ended, and holds nothing.
    let _over_already = cx.io.cancel(id);
    cx.poll_until("its end", || cx.io.stats().in_flight == 0);
    assert_eq!(pool.slab().slots(), 4);
    Ok(())
}

fn timed_out_once(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 16);
    let told = Rc::new(RefCell::new(Vec::new()));
    let inside = told.clone();
    let callback = move |ended: Result<dataplane::Filled, dataplane::Failed<_>>| {
        inside.borrow_mut().push(ended.map(|filled| filled.len()).map_err(|e| e.kind()));
    };
    let receiving = near.recv(slab.lease().expect("free")).timeout(Duration::from_millis(1));
    receiving.on_complete(callback).expect("room");
    cx.poll_until("the time-out", || !told.borrow().is_empty());
    cx.block_on(far.send_all(Span::from(vec![1u8]))).expect("sent");
    cx.block_on(cx.io.nop()).expect("one more turn");
    assert_eq!(*told.borrow(), [Err(ErrorKind::TimedOut)]);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn a_buffer_goes_round(cx: &Cx<'_>) -> Result<(), Skip> {
    let (near, far) = cx.unix_pair();
    let slab = cx.slab(1, 64);
    let over = Rc::new(Cell::new(false));
    // What arrives is sent back from the buffer it arrived in, all inside callbacks.
    let (back, set) = (near.clone(), over.clone());
    let echo = move |filled: Result<dataplane::Filled, _>| {
        let span = filled.expect("received").freeze();
        let sent = move |sent: Result<dataplane::Sent, _>| {
            assert_eq!(sent.expect("sent").bytes, 5);
            set.set(true);
        };
        back.send_all(span).on_complete(sent).expect("room");
    };
    near.recv(slab.lease().expect("free")).on_complete(echo).expect("room");
    cx.block_on(far.send_all(Span::from(b"round".to_vec()))).expect("sent");
    cx.poll_until("the answer", || over.get());
    assert_eq!(slab.available(), 1, "the buffer is back before anybody reads");
    let filled = cx.block_on(far.recv_all(slab.lease().map(cut).expect("free"))).expect("got");
    assert_eq!(&filled[..], b"round");
    Ok(())
}

fn cut(mut lease: regions::Lease) -> regions::Lease {
    lease.truncate(5);
    lease
}
