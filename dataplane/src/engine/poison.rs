//! After lost completions: nobody may wait for what will never come.
//!
//! When the kernel drops completions there is no telling which operations it still has. Every
//! waiter gets an error; what the operations hold is leaked, and so is the backend with everything
//! the kernel may still touch. Nothing is handed to a backend any more, so nothing revives what was
//! given up: who stood in line for a pool or for a descriptor to become idle stands there no
//! longer, and polls say what happened until the proactor is dropped.

use super::slots::State;
use super::{Engine, Reason};
use crate::backend::OpId;

impl Engine {
    pub(crate) fn poison(&mut self) {
        self.poisoned = true;
        let live: Vec<OpId> = self
            .table
            .slots
            .live()
            .filter(|(_, slot, _)| slot.state != State::Done)
            .map(|(index, slot, _)| OpId::new(index, slot.generation))
            .collect();
        for id in &live {
            self.give_up(id.index(), libc::EBADR, Reason::Kernel);
        }
        self.counters.leaked += live.len() as u64;
        self.trace.poisoned(live.len());
        self.keep_counts();
        self.table.groups.forget_parked();
        self.table.descriptors.forget_waiting();
        std::mem::forget(self.backend.take());
    }
}

#[cfg(test)]
mod tests {
    use crate::{Backend, ErrorKind, Options, Proactor, Wait};
    use regions::Slab;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn poisoned(io: &Proactor) {
        io.inner().with("test", |engine| engine.poison()).expect("nothing is borrowed");
        let polled = io.poll(Wait::Now).map_err(|error| error.kind());
        assert_eq!(polled, Err(ErrorKind::DataLoss));
        let flushed = io.flush().map_err(|error| error.kind());
        assert_eq!(flushed, Err(ErrorKind::DataLoss));
    }

    #[test]
    fn a_receive_that_waited_for_a_buffer_stays_over() {
        for backend in [Backend::IoUring, Backend::Epoll] {
            let io = Proactor::with(Options::default().backend(backend)).expect("proactor");
            let slab = Slab::new(1, 64).expect("slab");
            let only = slab.lease().expect("free");
            let pool = io.receive_pool_over(&slab).expect("pool");
            let (a, _peer) = UnixStream::pair().expect("pair");
            let a = io.adopt_socket(OwnedFd::from(a)).expect("room");
            let mut stream = a.receive_all(&pool).submit().expect("room");
            io.poll(Wait::Now).expect("poll");
            poisoned(&io);
            drop(only);
            let _ = io.poll(Wait::Now);
            assert_eq!(io.stats().in_flight, 0, "{backend}");
            let end = stream.try_next().expect("it is over").map_err(|error| error.kind());
            assert_eq!(end.map(drop), Err(ErrorKind::DataLoss), "{backend}");
            assert!(stream.try_next().is_none());
        }
    }

    #[test]
    fn a_close_that_waited_for_its_descriptor_stays_over() {
        let io = Proactor::with(Options::default()).expect("proactor");
        let slab = Slab::new(1, 64).expect("slab");
        let (a, _peer) = UnixStream::pair().expect("pair");
        let a = io.adopt_socket(OwnedFd::from(a)).expect("room");
        let mut receiving = a.recv(slab.lease().expect("free")).submit().expect("room");
        io.poll(Wait::Now).expect("poll");
        let mut closing = a.clone().close().submit().expect("room");
        poisoned(&io);
        let ended = receiving.try_take().expect("it is over").map_err(|failed| failed.kind());
        assert_eq!(ended.map(drop), Err(ErrorKind::DataLoss));
        let ended = closing.try_take().expect("it is over").map_err(|failed| failed.kind());
        assert_eq!(ended, Err(ErrorKind::DataLoss));
        drop(a);
        let _ = io.poll(Wait::Now);
        assert_eq!(io.stats().in_flight, 0);
        assert_eq!(slab.available(), 0, "the kernel may still write the buffer");
        let refused = io.nop().submit().map_err(|failed| failed.kind());
        assert_eq!(refused.map(drop), Err(ErrorKind::DataLoss));
    }
}
