//! Timers: never early, in order, and gone when nobody wants them.

use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Wait};
use futures_util::future::{Either, join_all, select};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "timers/not_before_their_instant", needs: &[], run: not_before_their_instant },
    Case { name: "timers/in_order", needs: &[], run: in_order },
    Case { name: "timers/equal_in_order_of_submission", needs: &[], run: equal },
    Case { name: "timers/past_at_the_next_poll", needs: &[], run: past },
    Case { name: "timers/sub_millisecond", needs: &[], run: sub_millisecond },
    Case { name: "timers/many", needs: &[], run: many },
    Case { name: "timers/far_away", needs: &[], run: far_away },
    Case { name: "timers/cancel", needs: &[], run: cancel },
    Case { name: "timers/dropped_is_forgotten", needs: &[], run: dropped_is_forgotten },
    Case { name: "timers/one_from_the_other", needs: &[], run: one_from_the_other },
    Case { name: "timers/end_a_poll", needs: &[], run: end_a_poll },
    Case { name: "timers/fire_under_load", needs: &[], run: fire_under_load },
    Case { name: "timers/lose_a_race_cleanly", needs: &[], run: lose_a_race_cleanly },
];

fn after(micros: u64) -> Instant {
    Instant::now() + Duration::from_micros(micros)
}

fn not_before_their_instant(cx: &Cx<'_>) -> Result<(), Skip> {
    for micros in [500, 1500, 3000] {
        let at = after(micros);
        cx.block_on(cx.io.sleep_until(at)).expect("it fires");
        assert!(Instant::now() >= at, "{micros} µs: early");
    }
    Ok(())
}

/// Submits timers by their microseconds from one instant; the places in the order of firing.
fn fired(cx: &Cx<'_>, micros: &[u64]) -> Vec<usize> {
    let base = Instant::now() + Duration::from_millis(1);
    let order = Rc::new(RefCell::new(Vec::new()));
    for (place, micros) in micros.iter().enumerate() {
        let order = order.clone();
        let at = base + Duration::from_micros(*micros);
        let told = move |ended: Result<(), _>| {
            assert!(ended.is_ok());
            assert!(Instant::now() >= at, "early");
            order.borrow_mut().push(place);
        };
        cx.io.sleep_until(at).on_complete(told).expect("room for a timer");
    }
    cx.poll_until("every timer", || order.borrow().len() == micros.len());
    order.take()
}

fn in_order(cx: &Cx<'_>) -> Result<(), Skip> {
    let order = fired(cx, &[3000, 1000, 2000, 0]);
    cx.note(format!("{order:?}"));
    assert_eq!(order, [3, 1, 2, 0]);
    Ok(())
}

fn equal(cx: &Cx<'_>) -> Result<(), Skip> {
    let order = fired(cx, &[100; 8]);
    cx.note(format!("{order:?}"));
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    Ok(())
}

fn past(cx: &Cx<'_>) -> Result<(), Skip> {
    let hour_ago = Instant::now().checked_sub(Duration::from_secs(3600));
    let at = hour_ago.unwrap_or_else(Instant::now);
    let mut submission = cx.io.sleep_until(at).submit().expect("room");
    assert!(submission.try_take().is_none(), "inside a poll, not before");
    assert_eq!(cx.io.poll(Wait::Now).expect("a poll"), 1);
    assert!(submission.try_take().is_some_and(|ended| ended.is_ok()));
    Ok(())
}

fn sub_millisecond(cx: &Cx<'_>) -> Result<(), Skip> {
    // On a quiet machine the fastest of these shows that nothing rounds up to milliseconds; on a
    // busy one it says nothing, so only the earliness is certain.
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        cx.block_on(cx.io.sleep_until(begun + Duration::from_micros(200))).expect("it fires");
        let took = begun.elapsed();
        assert!(took >= Duration::from_micros(200), "{took:?}");
        fastest = fastest.min(took);
    }
    assert!(fastest < Duration::from_millis(200), "{fastest:?}");
    Ok(())
}

fn many(cx: &Cx<'_>) -> Result<(), Skip> {
    let micros: Vec<u64> = (0..60).map(|n| n * 37 % 60 * 20).collect();
    let order = fired(cx, &micros);
    let times: Vec<u64> = order.iter().map(|&place| micros[place]).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(cx.io.stats().in_flight, 0);
    Ok(())
}

fn far_away(cx: &Cx<'_>) -> Result<(), Skip> {
    let century = Duration::from_secs(100 * 365 * 24 * 3600);
    let mut far = cx.io.sleep_until(Instant::now() + century).submit().expect("room");
    cx.block_on(cx.io.sleep_until(after(300))).expect("a near one fires all the same");
    assert!(far.try_take().is_none());
    assert_eq!(cx.io.stats().in_flight, 1);
    far.cancel().expect("it is pending");
    assert_eq!(cx.block_on(far).unwrap_err().kind(), ErrorKind::Cancelled);
    Ok(())
}

fn cancel(cx: &Cx<'_>) -> Result<(), Skip> {
    let timer = cx.io.sleep_until(after(60_000_000)).submit().expect("room");
    timer.cancel().expect("it is pending");
    let id = timer.id();
    let ended = cx.block_on(timer).unwrap_err();
    cx.note(format!("{:?}", ended.kind()));
    assert_eq!(ended.kind(), ErrorKind::Cancelled);
    assert!(ended.operation().is_some(), "it comes back");
    assert_eq!(cx.io.cancel(id).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn dropped_is_forgotten(cx: &Cx<'_>) -> Result<(), Skip> {
    drop(cx.io.sleep_until(after(60_000_000)).submit().expect("room"));
    cx.poll_until("its end", || cx.io.stats().in_flight == 0);
    assert!(cx.io.in_flight().is_empty());
    Ok(())
}

fn one_from_the_other(cx: &Cx<'_>) -> Result<(), Skip> {
    let count = Rc::new(Cell::new(0));
    again(cx.io.clone(), count.clone());
    cx.poll_until("five timers", || count.get() == 5);
    assert_eq!(cx.io.stats().in_flight, 0);
    Ok(())
}

/// A timer whose callback submits the next, five times.
fn again(io: dataplane::Proactor, count: Rc<Cell<u32>>) {
    let inside = io.clone();
    let told = move |ended: Result<(), _>| {
        assert!(ended.is_ok());
        count.set(count.get() + 1);
        if count.get() < 5 {
            again(inside, count);
        }
    };
    io.sleep_until(after(100)).on_complete(told).expect("room for a timer");
}

fn end_a_poll(cx: &Cx<'_>) -> Result<(), Skip> {
    let at = after(2000);
    let _timer = cx.io.sleep_until(at).submit().expect("room");
    let mut delivered = 0;
    while delivered == 0 {
        // Nothing else can end it: without the timer this would last for ever.
        delivered = cx.io.poll(Wait::Forever).expect("a poll");
    }
    assert!(Instant::now() >= at);
    assert_eq!(delivered, 1);
    Ok(())
}

fn fire_under_load(cx: &Cx<'_>) -> Result<(), Skip> {
    let over = Rc::new(Cell::new(false));
    let count = Rc::new(Cell::new(0u64));
    for _ in 0..16 {
        busy(cx.io.clone(), over.clone(), count.clone());
    }
    // Once is enough, unless a submission thread has not been given a processor meanwhile.
    while count.get() <= 16 {
        cx.block_on(cx.io.sleep_until(after(2000))).expect("it fires");
    }
    over.set(true);
    cx.poll_until("the load's end", || cx.io.stats().in_flight == 0);
    Ok(())
}

/// A no-op that submits the next until told to stop.
fn busy(io: dataplane::Proactor, over: Rc<Cell<bool>>, count: Rc<Cell<u64>>) {
    let inside = io.clone();
    let told = move |ended: Result<(), _>| {
        assert!(ended.is_ok());
        count.set(count.get() + 1);
        if !over.get() {
            busy(inside, over, count);
        }
    };
    io.nop().on_complete(told).expect("room for a no-op");
}

fn lose_a_race_cleanly(cx: &Cx<'_>) -> Result<(), Skip> {
    for _ in 0..10 {
        let nop = cx.io.nop().submit().expect("room");
        let timer = cx.io.sleep_until(after(60_000_000)).submit().expect("room");
        match cx.block_on(select(nop, timer)) {
            Either::Left((ended, timer)) => {
                ended.expect("a no-op succeeds");
                drop(timer);
            }
            Either::Right(_) => panic!("a minute passed"),
        }
    }
    cx.poll_until("the timers' end", || cx.io.stats().in_flight == 0);
    let short: Vec<_> =
        (0..10).map(|n| cx.io.sleep_until(after(n * 10)).submit().expect("room")).collect();
    assert!(cx.block_on(join_all(short)).into_iter().all(|ended| ended.is_ok()));
    Ok(())
}
