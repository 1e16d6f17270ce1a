//! Both pollers against real descriptors, each test on both unless it says which.

use super::*;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const IN: u32 = libc::POLLIN as u32;
const OUT: u32 = libc::POLLOUT as u32;

fn event() -> EventFd {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap()
}

fn both(test: impl Fn(Poller, &EventFd)) {
    let bell = event();
    test(Poller::Epoll(Epoll::new(bell.as_fd()).unwrap()), &bell);
    let bell = event();
    test(Poller::Poll(PollSet::new(bell.as_fd())), &bell);
}

fn look(poller: &mut Poller, until: Until) -> Vec<(Token, u32)> {
    let mut out = Vec::new();
    poller.wait(until, &mut out).unwrap();
    out.retain(|report| report.token != Token::Timer);
    out.iter().map(|report| (report.token, report.bits)).collect()
}

fn soon() -> Until {
    Until::At(now_ns() + 200_000)
}

#[test]
fn readiness_is_reported_with_its_token_and_not_after_disarm() {
    both(|mut poller, _| {
        let (mut a, b) = UnixStream::pair().unwrap();
        let fd = b.as_raw_fd();
        poller.arm(fd, 7, IN, Arming::New).unwrap();
        assert!(!look(&mut poller, Until::Now).iter().any(|(_, bits)| bits & IN != 0));
        a.write_all(b"x").unwrap();
        let seen = look(&mut poller, Until::Forever);
        assert_eq!(seen.len(), 1);
        assert_eq!((seen[0].0, seen[0].1 & IN), (Token::Descriptor(fd, 7), IN));
        a.write_all(b"y").unwrap();
        poller.disarm(fd);
        poller.disarm(fd);
        assert_eq!(look(&mut poller, soon()), []);
    });
}

#[test]
fn arming_again_finds_what_is_ready_already() {
    both(|mut poller, _| {
        let (mut a, b) = UnixStream::pair().unwrap();
        let fd = b.as_raw_fd();
        a.write_all(b"x").unwrap();
        poller.arm(fd, 1, IN, Arming::New).unwrap();
        for generation in [1, 2, 3] {
            poller.arm(fd, generation, IN, Arming::Again).unwrap();
            let seen = look(&mut poller, Until::Now);
            assert_eq!(seen.len(), 1);
            assert_eq!((seen[0].0, seen[0].1 & IN), (Token::Descriptor(fd, generation), IN));
        }
    });
}

#[test]
fn a_belief_about_the_registration_may_be_wrong() {
    both(|mut poller, _| {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"x").unwrap();
        let fd = b.as_raw_fd();
        poller.arm(fd, 1, IN, Arming::Again).unwrap();
        assert_eq!(look(&mut poller, Until::Now).len(), 1, "there was none");
        poller.arm(fd, 2, IN, Arming::New).unwrap();
        assert_eq!(look(&mut poller, Until::Now).len(), 1, "there was one");
    });
}

#[test]
fn data_is_reported_together_with_the_hang_up() {
    both(|mut poller, _| {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"last").unwrap();
        drop(a);
        poller.arm(b.as_raw_fd(), 1, IN, Arming::New).unwrap();
        let hang_up = libc::POLLHUP as u32;
        let seen = look(&mut poller, Until::Forever);
        assert_eq!(seen[0].1 & (IN | hang_up), IN | hang_up);
    });
}

#[test]
fn a_watch_reports_each_new_readiness_once() {
    both(|mut poller, _| {
        let (id, source) = (OpId::new(3, 9), event());
        source.write(1).unwrap();
        let own = poller.watch(id, source.as_fd().as_raw_fd(), IN).unwrap();
        let report = [(Token::Watch(id), IN)];
        assert_eq!(look(&mut poller, Until::Forever), report, "the state found at the start");
        assert_eq!(look(&mut poller, soon()), [], "the same readiness is not news");
        // Drained and filled between two looks: nobody saw it not ready.
        source.read().unwrap();
        source.write(1).unwrap();
        assert_eq!(look(&mut poller, Until::Forever), report);
        source.write(1).unwrap();
        source.write(1).unwrap();
        assert_eq!(look(&mut poller, Until::Forever), report, "two wake-ups, one look");
        poller.unwatch(own);
        source.write(1).unwrap();
        assert_eq!(look(&mut poller, soon()), []);
    });
}

#[test]
fn a_watch_and_operations_share_a_descriptor() {
    both(|mut poller, _| {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (fd, id) = (b.as_raw_fd(), OpId::new(0, 0));
        let own = poller.watch(id, fd, IN).unwrap();
        let other = poller.watch(OpId::new(1, 0), fd, IN).unwrap();
        poller.arm(fd, 1, IN, Arming::New).unwrap();
        look(&mut poller, Until::Now);
        a.write_all(b"x").unwrap();
        let mut tokens: Vec<Token> =
            look(&mut poller, Until::Forever).iter().map(|(token, _)| *token).collect();
        tokens.sort_by_key(|token| token.pack());
        let expected = [Token::Descriptor(fd, 1), Token::Watch(id), Token::Watch(OpId::new(1, 0))];
        assert_eq!(tokens, expected);
        poller.unwatch(own);
        poller.unwatch(other);
    });
}

#[test]
fn the_bell_ends_a_wait_until_it_is_cleared() {
    both(|mut poller, bell| {
        bell.write(1).unwrap();
        assert_eq!(look(&mut poller, Until::Forever), [(Token::Bell, IN)]);
        assert_eq!(look(&mut poller, Until::Forever), [(Token::Bell, IN)]);
        bell.read().unwrap();
        assert_eq!(look(&mut poller, Until::Now), []);
    });
}

#[test]
fn waits_end_at_their_instant_and_not_before() {
    both(|mut poller, _| {
        for wait_ns in [0, 100_000, 3_000_000] {
            let at_ns = now_ns() + wait_ns;
            // A timer left from before may end one wait early, never two.
            let waits = (1..).find(|_| {
                assert_eq!(look(&mut poller, Until::At(at_ns)), []);
                now_ns() >= at_ns
            });
            assert!(waits <= Some(2), "{waits:?} waits");
        }
        assert_eq!(look(&mut poller, Until::At(1)), [], "an instant long past");
    });
}

#[test]
fn an_earlier_instant_shortens_and_a_later_one_is_reached() {
    both(|mut poller, _| {
        poller.remind(now_ns() + 3_600_000_000_000).unwrap();
        let at_ns = now_ns() + 1_000_000;
        look(&mut poller, Until::At(at_ns));
        assert!(now_ns() >= at_ns);
        let at_ns = now_ns() + 1_000_000;
        look(&mut poller, Until::At(at_ns));
        assert!(now_ns() >= at_ns);
    });
}

#[test]
fn a_regular_file_is_refused_by_epoll_and_a_closed_number_by_both() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let bell = event();
    let mut poller = Poller::Epoll(Epoll::new(bell.as_fd()).unwrap());
    assert_eq!(poller.arm(file.as_raw_fd(), 1, IN, Arming::New), Err(libc::EPERM));
    both(|mut poller, _| {
        assert_eq!(poller.arm(-1, 1, IN, Arming::New), Err(libc::EBADF));
        let refused = poller.watch(OpId::new(0, 0), file.as_raw_fd(), IN).err();
        assert_eq!(refused, Some(libc::EPERM));
        assert_eq!(poller.watch(OpId::new(0, 0), -1, IN).err(), Some(libc::EBADF));
    });
}

#[test]
fn the_watchable_descriptor_shows_bell_descriptors_and_timer() {
    let bell = event();
    let mut poller = Poller::Epoll(Epoll::new(bell.as_fd()).unwrap());
    let set = poller.watchable().unwrap();
    let shows = |timeout_ms: i32| {
        let mut entry = libc::pollfd { fd: set, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry of our own.
        unsafe { libc::poll(&mut entry, 1, timeout_ms) == 1 }
    };
    assert!(!shows(0));
    bell.write(1).unwrap();
    assert!(shows(0));
    bell.read().unwrap();
    assert!(!shows(0));
    poller.remind(now_ns() + 100_000).unwrap();
    let begun = Instant::now();
    assert!(shows(10_000));
    assert!(begun.elapsed() < Duration::from_secs(9), "the timer, not the timeout");
    look(&mut poller, Until::Now);
    assert!(!shows(0));
    let (mut a, b) = UnixStream::pair().unwrap();
    poller.arm(b.as_raw_fd(), 1, IN, Arming::New).unwrap();
    look(&mut poller, Until::Now);
    a.write_all(b"x").unwrap();
    assert!(shows(0));
    assert!(Poller::Poll(PollSet::new(bell.as_fd())).watchable().is_none());
}

#[test]
fn entries_of_the_vector_come_and_go_in_any_order() {
    let bell = event();
    let mut poller = Poller::Poll(PollSet::new(bell.as_fd()));
    let mut pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
    for (_, b) in &pairs {
        poller.arm(b.as_raw_fd(), 1, IN, Arming::New).unwrap();
    }
    for (_, b) in pairs.iter().step_by(3) {
        poller.disarm(b.as_raw_fd());
    }
    for (a, _) in &mut pairs {
        a.write_all(b"x").unwrap();
    }
    let mut seen: Vec<_> = look(&mut poller, Until::Now).iter().map(|(token, _)| *token).collect();
    seen.sort_by_key(|token| token.pack());
    let kept = pairs.iter().enumerate().filter(|(index, _)| index % 3 != 0);
    let mut kept: Vec<_> = kept.map(|(_, (_, b))| Token::Descriptor(b.as_raw_fd(), 1)).collect();
    kept.sort_by_key(|token| token.pack());
    assert_eq!(seen, kept);
    // A changed interest replaces the old one.
    let (a, b) = &mut pairs[1];
    b.read_exact(&mut [0]).unwrap();
    poller.arm(b.as_raw_fd(), 2, OUT, Arming::Kept).unwrap();
    a.write_all(b"x").unwrap();
    let seen = look(&mut poller, Until::Now);
    assert!(seen.contains(&(Token::Descriptor(b.as_raw_fd(), 2), OUT)), "{seen:?}");
}
