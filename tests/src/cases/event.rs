//! Events: set from anywhere, taken by one wait, never lost; and their pool.

use super::net::{idle_turns, settled};
use crate::{Case, Cx, Skip};
use dataplane::{ErrorKind, Event, EventPool};
use std::time::Duration;

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "event/set_before", needs: &[], run: set_before },
    Case { name: "event/set_later", needs: &[], run: set_later },
    Case { name: "event/many_sets_are_one", needs: &[], run: many_sets_are_one },
    Case { name: "event/one_wait_per_set", needs: &[], run: one_wait_per_set },
    Case { name: "event/from_another_thread", needs: &[], run: from_another_thread },
    Case { name: "event/cancel", needs: &[], run: cancel },
    Case { name: "event/timeout", needs: &[], run: timeout },
    Case { name: "event/a_drop_loses_no_set", needs: &[], run: a_drop_loses_no_set },
    Case { name: "event/pool", needs: &[], run: pool },
];

fn set_before(cx: &Cx<'_>) -> Result<(), Skip> {
    let event = Event::new().expect("a descriptor");
    let waiter = cx.io.event_waiter(&event).expect("room");
    event.set();
    assert!(event.is_set());
    cx.block_on(waiter.wait()).expect("it is set");
    assert!(!event.is_set(), "the wait took it");
    Ok(())
}

fn set_later(cx: &Cx<'_>) -> Result<(), Skip> {
    let event = Event::new().expect("a descriptor");
    let waiter = cx.io.event_waiter(&event).expect("room");
    let mut wait = waiter.wait().submit().expect("room");
    idle_turns(cx);
    assert!(wait.try_take().is_none());
    event.set();
    cx.block_on(wait).expect("it is set");
    drop(waiter);
    settled(cx, 0);
    Ok(())
}

fn many_sets_are_one(cx: &Cx<'_>) -> Result<(), Skip> {
    let event = Event::new().expect("a descriptor");
    let waiter = cx.io.event_waiter(&event).expect("room");
    (0..5).for_each(|_| event.set());
    cx.block_on(waiter.wait()).expect("it is set");
    let mut wait = waiter.wait().submit().expect("room");
    idle_turns(cx);
    assert!(wait.try_take().is_none());
    event.set();
    assert!(cx.block_on(wait).is_ok());
    assert!(!event.reset());
    Ok(())
}

fn one_wait_per_set(cx: &Cx<'_>) -> Result<(), Skip> {
    let event = Event::new().expect("a descriptor");
    let waiter = cx.io.event_waiter(&event).expect("room");
    let mut waits: Vec<_> = (0..4).map(|_| waiter.wait().submit().expect("room")).collect();
    for left in (0..4).rev() {
        event.set();
        cx.poll_until("one wait's end", || {
            waits.retain_mut(|wait| wait.try_take().is_none());
            waits.len() <= left
        });
        idle_turns(cx);
        waits.retain_mut(|wait| wait.try_take().is_none());
        assert_eq!(waits.len(), left, "a set ends one wait");
    }
    Ok(())
}

fn from_another_thread(cx: &Cx<'_>) -> Result<(), Skip> {
    let (ping, pong) = (Event::new().expect("one"), Event::new().expect("another"));
    let waiter = cx.io.event_waiter(&ping).expect("room");
    let thread = std::thread::spawn({
        let (ping, pong) = (ping.clone(), pong.clone());
        move || {
            for _ in 0..50 {
                ping.set();
                while !pong.reset() {
                    std::thread::yield_now();
                }
            }
        }
    });
    for _ in 0..50 {
        cx.block_on(waiter.wait()).expect("it is set");
        pong.set();
    }
    thread.join().expect("no panic");
    Ok(())
}

fn cancel(cx: &Cx<'_>) -> Result<(), Skip> {
    let event = Event::new().expect("a descriptor");
    let waiter = cx.io.event_waiter(&event).expect("room");
    let wait = waiter.wait().submit().expect("room");
    idle_turns(cx);
    wait.cancel().expect("pending");
    assert_eq!(cx.block_on(wait).unwrap_err().kind(), ErrorKind::Cancelled);
    event.set();
    cx.block_on(waiter.wait()).expect("nobody took it");
    Ok(())
}

fn timeout(cx: &Cx<'_>) -> Result<(), Skip> {
    let event = Event::new().expect("a descriptor");
    let waiter = cx.io.event_waiter(&event).expect("room");
    let ended = cx.block_on(waiter.wait().timeout(Duration::from_millis(1)));
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::TimedOut);
    Ok(())
}

fn a_drop_loses_no_set(cx: &Cx<'_>) -> Result<(), Skip> {
    let event = Event::new().expect("a descriptor");
    let waiter = cx.io.event_waiter(&event).expect("room");
    for _ in 0..10 {
        let wait = waiter.wait().submit().expect("room");
        event.set();
        cx.poll_until("the wait's end", || !event.is_set());
        drop(wait);
        cx.poll_until("the set to be back", || event.is_set());
        assert!(event.reset());
    }
    Ok(())
}

fn pool(cx: &Cx<'_>) -> Result<(), Skip> {
    let pool = EventPool::new(1);
    let (one, two) = (pool.take().expect("one"), pool.take().expect("another"));
    one.set();
    drop(one);
    drop(two);
    assert_eq!(pool.idle(), 1, "no more than its bound");
    let again = pool.take().expect("the unused one");
    assert!(!again.is_set(), "drained");
    let waiter = cx.io.event_waiter(&again).expect("room");
    drop(again);
    assert_eq!(pool.idle(), 0, "somebody still waits on it");
    drop(waiter);
    Ok(())
}
