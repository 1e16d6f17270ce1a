//! Looking before sleeping: what it finds, and what ends it. Each case makes a proactor with the
//! option set; the times are far apart, so that none depends on how fast the machine is.

use super::remote::parked;
use crate::{Case, Cx, Skip};
use dataplane::{Proactor, Stats};
use std::io::Write;
use std::time::{Duration, Instant};

/// The cases of this file.
pub const CASES: &[Case] = &[
    Case { name: "spin/is_off_by_default", needs: &[], run: off_by_default },
    Case { name: "spin/finds_what_comes_soon", needs: &[], run: finds },
    Case { name: "spin/sleeps_when_nothing_comes", needs: &[], run: in_vain },
    Case { name: "spin/ends_at_a_timer", needs: &[], run: a_timer },
    Case { name: "spin/ends_at_the_callers_time", needs: &[], run: callers_time },
    Case { name: "spin/sees_other_threads", needs: &[], run: other_threads },
    Case { name: "spin/is_not_for_polls_that_do_not_wait", needs: &[], run: no_wait },
    Case { name: "spin/more_than_a_second_is_refused", needs: &[], run: too_long },
];

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(1);

fn spinning(cx: &Cx<'_>, spin: Duration) -> Proactor {
    Proactor::with(cx.options.clone().spin(spin)).expect("a proactor")
}

/// Hits and misses.
fn spins(stats: Stats) -> (u64, u64) {
    (stats.spin_hits, stats.spin_misses)
}

/// Neither a timer nor what other threads hand over makes it look.
fn off_by_default(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = Proactor::with(cx.options.clone()).expect("a proactor");
    let handle = io.handle();
    let thread = std::thread::spawn(move || {
        (0..8).for_each(|_| parked(async { handle.nop().await }).expect("a no-op"));
    });
    let timer = io.sleep_until(Instant::now() + Duration::from_millis(2));
    io.block_on(async { timer.await }).expect("it polls").expect("a timer");
    while !thread.is_finished() {
        io.poll(Duration::from_millis(1)).expect("it polls");
    }
    thread.join().expect("no panic");
    assert_eq!(spins(io.stats()), (0, 0));
    Ok(())
}

fn finds(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = spinning(cx, LONG);
    let (one, mut two) = std::os::unix::net::UnixStream::pair().expect("two descriptors");
    let (one, slab) = (io.adopt_socket(one).expect("room"), cx.slab(1, 64));
    let receiving = one.recv(slab.lease().expect("a slot")).submit().expect("room");
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(2));
        two.write_all(b"soon").expect("written");
        two
    });
    let filled = io.block_on(receiving).expect("it polls").expect("received");
    assert_eq!(filled[..], *b"soon");
    let (hits, misses) = spins(io.stats());
    assert!(hits >= 1 && misses == 0, "{hits} hits, {misses} misses");
    drop(writer.join());
    Ok(())
}

fn in_vain(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = spinning(cx, Duration::from_micros(50));
    for _ in 0..2 {
        let until = Instant::now() + Duration::from_millis(4);
        assert_eq!(io.poll(until), Ok(0));
        assert!(Instant::now() >= until, "it slept for the rest");
    }
    let (_, misses) = spins(io.stats());
    assert!(misses >= 2, "{misses} misses");
    Ok(())
}

fn a_timer(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = spinning(cx, LONG);
    let (begun, at) = (Instant::now(), Instant::now() + Duration::from_millis(3));
    io.block_on(async { io.sleep_until(at).await }).expect("it polls").expect("a timer");
    let now = Instant::now();
    assert!(now >= at && now < begun + LONG, "{:?}", now - begun);
    Ok(())
}

fn callers_time(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = spinning(cx, LONG);
    let (begun, until) = (Instant::now(), Instant::now() + Duration::from_millis(3));
    assert_eq!(io.poll(until), Ok(0));
    let now = Instant::now();
    assert!(now >= until && now < begun + LONG, "{:?}", now - begun);
    Ok(())
}

fn other_threads(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = spinning(cx, LONG);
    let handle = io.handle();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(2));
        let answer = parked(handle.call(|_| 7));
        parked(async { handle.nop().await }).expect("a no-op");
        handle.wake();
        answer
    });
    while !thread.is_finished() {
        io.poll(Duration::from_millis(20)).expect("it polls");
    }
    assert_eq!(thread.join().expect("it was answered"), Ok(7));
    assert!(io.stats().spin_hits >= 1);
    Ok(())
}

fn no_wait(cx: &Cx<'_>) -> Result<(), Skip> {
    let io = spinning(cx, LONG);
    for _ in 0..3 {
        assert_eq!(io.poll(dataplane::Wait::Now), Ok(0));
    }
    assert_eq!(spins(io.stats()), (0, 0));
    Ok(())
}

fn too_long(cx: &Cx<'_>) -> Result<(), Skip> {
    let refused = Proactor::with(cx.options.clone().spin(LONG + Duration::from_nanos(1)));
    cx.note(format!("{:?}", refused.expect_err("it would never sleep").kind()));
    Ok(())
}
