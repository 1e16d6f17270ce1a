//! A loop on a thread of its own: a bounded queue met by trying or by waiting in line, and an end
//! that comes when the last submit handle goes.

use super::remote::parked;
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Handle, Nop, Proactor, Request, Submit, Submitter};
use futures_util::future::{FutureExt, join_all};
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "submitter/runs_and_ends", needs: &[], run: runs_and_ends },
    Case { name: "submitter/options_refused", needs: &[], run: options_refused },
    Case { name: "submitter/thread_has_its_name", needs: &[], run: thread_has_its_name },
    Case { name: "submitter/a_nul_in_its_name", needs: &[], run: a_nul_in_its_name },
    Case { name: "submitter/try_hands_back_when_full", needs: &[], run: try_hands_back },
    Case { name: "submitter/waits_for_room", needs: &[], run: waits_for_room },
    Case { name: "submitter/first_come_first_served", needs: &[], run: first_come },
    Case { name: "submitter/a_try_does_not_overtake", needs: &[], run: does_not_overtake },
    Case { name: "submitter/dropped_waiting_submits_nothing", needs: &[], run: dropped_waiting },
    Case { name: "submitter/dropped_unpolled_submits_nothing", needs: &[], run: dropped_unpolled },
    Case { name: "submitter/the_front_goes_away", needs: &[], run: front_goes_away },
    Case { name: "submitter/the_woken_front_goes_away", needs: &[], run: woken_front_goes },
    Case { name: "submitter/one_in_the_middle_goes_away", needs: &[], run: middle_goes_away },
    Case { name: "submitter/polled_again_keeps_its_place", needs: &[], run: keeps_its_place },
    Case { name: "submitter/the_last_waker_counts", needs: &[], run: last_waker_counts },
    Case { name: "submitter/a_full_proactor_makes_wait", needs: &[], run: full_proactor },
    Case { name: "submitter/of_another_proactor", needs: &[], run: of_another },
    Case { name: "submitter/drains_what_is_queued", needs: &[], run: drains_queued },
    Case { name: "submitter/drains_calls_and_what_was_dropped", needs: &[], run: drains_a_call },
    Case { name: "submitter/drains_what_is_in_flight", needs: &[], run: drains_in_flight },
    Case { name: "submitter/waiting_keeps_it_alive", needs: &[], run: waiting_keeps_alive },
    Case { name: "submitter/a_plain_handle_does_not", needs: &[], run: plain_handle },
    Case { name: "submitter/clones_share_the_end", needs: &[], run: clones },
    Case { name: "submitter/dropped_on_its_own_thread", needs: &[], run: dropped_inside },
    Case { name: "submitter/a_dropped_submission_lets_it_end", needs: &[], run: lets_it_end },
    Case { name: "submitter/survives_a_panic", needs: &[], run: survives_a_panic },
    Case { name: "submitter/timeouts_count_while_waiting", needs: &[], run: timeouts },
    Case { name: "submitter/sockets_of_it", needs: &[], run: sockets },
    Case { name: "submitter/many_threads", needs: &[], run: many_threads },
    Case { name: "submitter/many_threads_that_give_up", needs: &[], run: that_give_up },
];

const LIMIT: Duration = Duration::from_secs(10);

fn start(cx: &Cx<'_>, room: usize) -> Submitter {
    Submitter::start(cx.options.clone().inbox(room)).expect("a thread")
}

/// Waits until the loop is gone.
fn ended(handle: &Handle) {
    let deadline = Instant::now() + LIMIT;
    while !handle.is_closed() {
        assert!(Instant::now() < deadline, "the loop does not end");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Holds the loop's thread up, with an empty queue, until it is dropped.
struct Held(mpsc::Sender<()>);

impl Held {
    fn new(submitter: &Submitter) -> Held {
        let ((begun, wait), (go, going)) = (mpsc::channel(), mpsc::channel::<()>());
        let call = submitter.handle().call(move |_| {
            begun.send(()).expect("somebody waits");
            // An error is the other end's drop.
            let _ = going.recv();
        });
        wait.recv_timeout(LIMIT).expect("the loop runs it");
        drop(call);
        Held(go)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// A waker that says whether it was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Flag {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn wait(&self) {
        let deadline = Instant::now() + LIMIT;
        while !self.is_set() {
            assert!(Instant::now() < deadline, "it is not woken");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// A waiting submission that is polled by hand.
struct Waiting {
    future: Submit<Nop>,
    flag: Arc<Flag>,
}

impl Waiting {
    /// Stands in line.
    fn new(submitter: &Submitter) -> Waiting {
        let future = submitter.submit(submitter.handle().nop());
        let mut waiting = Waiting { future, flag: Arc::default() };
        assert!(!waiting.poll(), "there is no room");
        waiting
    }

    /// Whether it was submitted.
    fn poll(&mut self) -> bool {
        self.flag = Arc::default();
        let waker = Waker::from(self.flag.clone());
        match Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => false,
            Poll::Ready(submitted) => {
                parked(submitted.expect("room")).expect("a no-op");
                true
            }
        }
    }
}

/// As many no-ops as there is room for, and what was refused then.
fn fill(submitter: &Submitter, room: usize) -> Vec<dataplane::RemoteSubmission<Nop>> {
    let nop = |_| submitter.try_submit(submitter.handle().nop()).expect("room");
    let filled = (0..room).map(nop).collect();
    let failed = submitter.try_submit(submitter.handle().nop()).map(drop).expect_err("full");
    assert_eq!(failed.kind(), ErrorKind::Exhausted);
    filled
}

fn all(submissions: Vec<dataplane::RemoteSubmission<Nop>>) {
    parked(join_all(submissions)).into_iter().for_each(|ended| ended.expect("a no-op"));
}

fn runs_and_ends(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 8);
    let handle = submitter.handle();
    parked(submitter.try_submit(handle.nop()).expect("room")).expect("a no-op");
    let submitted = parked(submitter.submit(handle.nop())).expect("room");
    parked(submitted).expect("a no-op");
    drop(submitter);
    ended(&handle);
    assert_eq!(parked(handle.nop().into_future()).expect_err("over").kind(), ErrorKind::ShutDown);
    Ok(())
}

fn options_refused(cx: &Cx<'_>) -> Result<(), Skip> {
    let refused = Submitter::start(cx.options.clone().inbox(0)).map(drop).expect_err("no room");
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    Ok(())
}

fn thread_has_its_name(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = Submitter::start(cx.options.clone().name("lane")).expect("a thread");
    let name = |_: &Proactor| std::thread::current().name().map(str::to_owned);
    let name = parked(submitter.handle().call(name)).expect("it runs");
    assert_eq!(name.as_deref(), Some("lane"));
    Ok(())
}

fn a_nul_in_its_name(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = Submitter::start(cx.options.clone().name("a\0b")).expect("a thread");
    let handle = submitter.handle();
    drop(submitter);
    ended(&handle);
    Ok(())
}

fn try_hands_back(cx: &Cx<'_>) -> Result<(), Skip> {
    for room in [1, 3] {
        let submitter = start(cx, room);
        let held = Held::new(&submitter);
        let filled = fill(&submitter, room);
        let failed = submitter.try_submit(submitter.handle().nop()).map(drop).expect_err("full");
        assert!(failed.error.message().contains("Options::inbox"));
        assert!(failed.into_operation().is_some(), "it comes back");
        drop(held);
        all(filled);
        parked(submitter.try_submit(submitter.handle().nop()).expect("room")).expect("a no-op");
    }
    Ok(())
}

fn waits_for_room(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 2);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 2);
    let mut waiting = Waiting::new(&submitter);
    assert!(!waiting.flag.is_set(), "nothing has moved");
    drop(held);
    waiting.flag.wait();
    assert!(waiting.poll(), "woken because there is room");
    all(filled);
    Ok(())
}

fn first_come(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let mut line: Vec<_> = (0..5).map(|_| Waiting::new(&submitter)).collect();
    drop(held);
    all(filled);
    while !line.is_empty() {
        line[0].flag.wait();
        for later in &mut line[1..] {
            assert!(!later.flag.is_set(), "not before its turn");
            assert!(!later.poll(), "not even when it asks");
        }
        assert!(line.remove(0).poll());
    }
    Ok(())
}

fn does_not_overtake(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let mut waiting = Waiting::new(&submitter);
    drop(held);
    waiting.flag.wait();
    let failed = submitter.try_submit(submitter.handle().nop()).map(drop).expect_err("not past it");
    assert_eq!(failed.kind(), ErrorKind::Exhausted);
    assert!(waiting.poll());
    all(filled);
    parked(submitter.try_submit(submitter.handle().nop()).expect("room")).expect("a no-op");
    Ok(())
}

fn foreign(submitter: &Submitter) -> u64 {
    let deadline = Instant::now() + LIMIT;
    loop {
        // A call needs room too.
        match parked(submitter.handle().call(|io| io.stats().foreign_submissions)) {
            Ok(count) => return count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Exhausted),
        }
        assert!(Instant::now() < deadline, "no room for a call");
        std::thread::yield_now();
    }
}

fn dropped_waiting(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    drop(Waiting::new(&submitter));
    drop(held);
    all(filled);
    assert_eq!(foreign(&submitter), 1, "the one that had room");
    parked(submitter.try_submit(submitter.handle().nop()).expect("the line is empty"))
        .expect("a no-op");
    Ok(())
}

fn dropped_unpolled(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    drop(submitter.submit(submitter.handle().nop()));
    assert_eq!(foreign(&submitter), 0);
    Ok(())
}

fn front_goes_away(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let (front, mut second) = (Waiting::new(&submitter), Waiting::new(&submitter));
    drop(front);
    drop(held);
    second.flag.wait();
    // Woken by the front's end it may be before there is room.
    while !second.poll() {
        second.flag.wait();
    }
    all(filled);
    Ok(())
}

/// Room it was woken for and did not use is the next one's.
fn woken_front_goes(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let (front, mut second) = (Waiting::new(&submitter), Waiting::new(&submitter));
    drop(held);
    all(filled);
    front.flag.wait();
    assert!(!second.flag.is_set());
    drop(front);
    assert!(second.flag.is_set() && second.poll());
    Ok(())
}

fn middle_goes_away(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let mut front = Waiting::new(&submitter);
    let middle = Waiting::new(&submitter);
    let mut last = Waiting::new(&submitter);
    drop(middle);
    assert!(!last.flag.is_set());
    drop(held);
    all(filled);
    front.flag.wait();
    assert!(front.poll());
    last.flag.wait();
    assert!(last.poll());
    Ok(())
}

fn keeps_its_place(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let (mut front, mut second) = (Waiting::new(&submitter), Waiting::new(&submitter));
    for _ in 0..3 {
        assert!(!front.poll() && !second.poll());
    }
    drop(held);
    all(filled);
    front.flag.wait();
    assert!(!second.poll(), "polling does not help");
    assert!(front.poll());
    second.flag.wait();
    assert!(second.poll());
    Ok(())
}

fn last_waker_counts(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let mut waiting = Waiting::new(&submitter);
    let first = waiting.flag.clone();
    assert!(!waiting.poll());
    assert_eq!(Arc::strong_count(&first), 1, "the first waker is gone");
    drop(held);
    waiting.flag.wait();
    assert!(!first.is_set() && waiting.poll());
    all(filled);
    Ok(())
}

/// The queue stays full while as many operations are in flight as may be.
fn full_proactor(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let far = Instant::now() + Duration::from_secs(3600);
    let mut timers = Vec::new();
    for _ in 0..crate::cx::OPERATIONS {
        let request = submitter.handle().sleep_until(far);
        timers.push(parked(submitter.submit(request)).expect("room"));
    }
    // One in the queue, one in line.
    let queued = parked(submitter.submit(submitter.handle().nop())).expect("room");
    let mut waiting = submitter.submit(submitter.handle().nop());
    assert!((&mut waiting).now_or_never().is_none());
    timers.truncate(1);
    let submitted = parked(waiting).expect("room");
    all(vec![queued, submitted]);
    Ok(())
}

fn of_another(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let request = || cx.io.handle().nop();
    let failed = submitter.try_submit(request()).map(drop).expect_err("not its own");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    assert!(failed.into_operation().is_some());
    let failed = parked(submitter.submit(request())).map(drop).expect_err("not its own");
    assert_eq!(failed.kind(), ErrorKind::InvalidArgument);
    Ok(())
}

fn drains_queued(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 8);
    let handle = submitter.handle();
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 8);
    drop(submitter);
    drop(held);
    all(filled);
    ended(&handle);
    Ok(())
}

fn drains_in_flight(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 8);
    let handle = submitter.handle();
    let at = Instant::now() + Duration::from_millis(5);
    let timer = submitter.try_submit(handle.sleep_until(at)).expect("room");
    drop(submitter);
    parked(timer).expect("it ends by itself");
    assert!(Instant::now() >= at);
    ended(&handle);
    Ok(())
}

fn waiting_keeps_alive(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let handle = submitter.handle();
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let mut waiting = Waiting::new(&submitter);
    drop(submitter);
    drop(held);
    all(filled);
    waiting.flag.wait();
    assert!(!handle.is_closed() && waiting.poll());
    drop(waiting);
    ended(&handle);
    Ok(())
}

fn plain_handle(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let (handle, other) = (submitter.handle(), submitter.handle());
    drop(submitter);
    ended(&handle);
    assert_eq!(other.message(1).map_err(|refused| refused.kind()), Err(ErrorKind::ShutDown));
    Ok(())
}

fn clones(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let (handle, other) = (submitter.handle(), submitter.clone());
    drop(submitter);
    parked(parked(other.submit(other.handle().nop())).expect("room")).expect("a no-op");
    assert!(!handle.is_closed());
    std::thread::spawn(move || drop(other)).join().expect("no panic");
    ended(&handle);
    Ok(())
}

fn dropped_inside(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let handle = submitter.handle();
    parked(handle.call(move |_| drop(submitter))).expect("it runs");
    ended(&handle);
    Ok(())
}

/// A call that still stands in the queue runs, and ends nothing else's sleep.
fn drains_a_call(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 2);
    let handle = submitter.handle();
    let held = Held::new(&submitter);
    let call = handle.call(|_| 5);
    drop(submitter.try_submit(handle.nop()).expect("room"));
    drop(submitter);
    drop(held);
    assert_eq!(parked(call).expect("it runs"), 5);
    ended(&handle);
    Ok(())
}

fn lets_it_end(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 2);
    let handle = submitter.handle();
    let far = Instant::now() + Duration::from_secs(3600);
    let timer = submitter.try_submit(handle.sleep_until(far)).expect("room");
    drop(submitter);
    std::thread::sleep(Duration::from_millis(2));
    assert!(!handle.is_closed(), "it waits for what is in flight");
    drop(timer);
    ended(&handle);
    Ok(())
}

fn survives_a_panic(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 2);
    let failed = parked(submitter.handle().call(|_| panic!("on purpose")));
    assert!(failed.is_err());
    parked(submitter.try_submit(submitter.handle().nop()).expect("room")).expect("it goes on");
    Ok(())
}

fn timeouts(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let (one, _two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let socket = parked(submitter.handle().adopt_socket(one)).expect("room");
    let held = Held::new(&submitter);
    let filled = fill(&submitter, 1);
    let slab = cx.slab(1, 16);
    let until = Instant::now() + Duration::from_millis(3);
    let mut waiting = submitter.submit(socket.recv(slab.lease().expect("a slot")).deadline(until));
    assert!((&mut waiting).now_or_never().is_none());
    drop(held);
    let submitted = parked(waiting).expect("room");
    assert_eq!(parked(submitted).expect_err("nothing arrives").kind(), ErrorKind::TimedOut);
    assert!(Instant::now() >= until);
    assert_eq!(slab.available(), 1);
    all(filled);
    Ok(())
}

fn sockets(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 4);
    let handle = submitter.handle();
    let (one, two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let slab = cx.slab(1, 16);
    let bytes = parked(async {
        let near = handle.adopt_socket(one).await.expect("room");
        let far = handle.adopt_socket(two).await.expect("room");
        let receive: Request<Handle, _> = far.recv(slab.lease().expect("a slot"));
        let receiving = submitter.submit(receive).await.expect("room");
        submitter
            .submit(near.send(b"by the line".to_vec()))
            .await
            .expect("room")
            .await
            .expect("ok");
        receiving.await.expect("received").to_vec()
    });
    assert_eq!(bytes, b"by the line");
    drop(submitter);
    ended(&handle);
    assert_eq!(slab.available(), 1);
    Ok(())
}

fn many_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 2);
    let handle = submitter.handle();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let submitter = submitter.clone();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    let request = submitter.handle().nop();
                    parked(parked(submitter.submit(request)).expect("room")).expect("a no-op");
                }
            })
        })
        .collect();
    drop(submitter);
    threads.into_iter().for_each(|thread| thread.join().expect("each was served"));
    ended(&handle);
    Ok(())
}

/// Whoever goes away at whatever moment leaves the line in order.
fn that_give_up(cx: &Cx<'_>) -> Result<(), Skip> {
    let submitter = start(cx, 1);
    let served = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (submitter, served) = (submitter.clone(), served.clone());
            std::thread::spawn(move || {
                for round in 0..50 {
                    let mut waiting = submitter.submit(submitter.handle().nop());
                    if (round + thread) % 2 == 0 && (&mut waiting).now_or_never().is_none() {
                        drop(waiting);
                        continue;
                    }
                    if (round + thread) % 2 == 0 {
                        served.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    parked(parked(waiting).expect("room")).expect("a no-op");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("nobody waits for ever"));
    assert!(served.load(Ordering::Relaxed) >= 100);
    assert_eq!(foreign(&submitter), served.load(Ordering::Relaxed) as u64);
    Ok(())
}
