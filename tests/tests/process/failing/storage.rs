//! The ring for polled storage refuses to be entered; whether the device can be polled or not.
#![allow(clippy::unwrap_used)]

use super::options;
use crate::child;
use dataplane::regions::Slab;
use dataplane::{Backend, OpenOptions, Proactor, Wait};
use std::io::Write;
use std::time::Duration;

/// An enter with this many entries is refused.
const REFUSED: u32 = 7;
const BYTES: usize = 4096;

#[test]
fn a_polled_ring_that_is_not_entered_loses_nothing() {
    child::alone(module_path!(), "a_polled_ring_that_is_not_entered_loses_nothing", || {
        let io = match Proactor::with(options(Backend::IoUring).iopoll(true)) {
            Ok(io) => io,
            Err(error) => return child::say(&format!("skipped: no polled ring here: {error}")),
        };
        // Beside the program: a temporary folder may be memory, which has no O_DIRECT.
        let program = std::env::current_exe().unwrap();
        let path = program.with_file_name(format!("direct-{}", std::process::id()));
        let mut made = std::fs::File::create(&path).unwrap();
        made.write_all(&vec![7; BYTES * (REFUSED as usize + 1)]).unwrap();
        drop(made);
        let opened = io.open(&path, OpenOptions::read().direct()).unwrap().submit().unwrap();
        let opened = io.block_on(opened).unwrap();
        std::fs::remove_file(&path).unwrap();
        let file = match opened {
            Ok(file) => file,
            Err(failed) => return child::say(&format!("skipped: no O_DIRECT here: {failed}")),
        };
        let slab = Slab::new(REFUSED as usize + 1, BYTES).unwrap();
        let read = |at: u32| {
            let lease = slab.lease().unwrap();
            file.read_at(lease, u64::from(at) * BYTES as u64).submit().unwrap()
        };
        child::refuse_enter(REFUSED, libc::ENOMEM);
        let mut reads: Vec<_> = (0..REFUSED).map(read).collect();
        for _ in 0..2 {
            let error = io.poll(Wait::Now).unwrap_err();
            assert_eq!(error.errno(), Some(libc::ENOMEM), "{error}");
        }
        // It cannot be called back, and ends by itself.
        reads[0].cancel().unwrap();
        reads.push(read(REFUSED));
        // What the device does not poll goes to the other ring, maybe as many at once as that.
        while io.stats().in_flight > 0 {
            if io.poll(Duration::from_millis(5)).is_err() {
                io.nop().submit().unwrap().detach();
            }
        }
        for mut read in reads {
            let filled = read.try_take().unwrap().unwrap();
            assert!(filled.len() == BYTES && filled.iter().all(|byte| *byte == 7));
        }
        assert_eq!(slab.available(), REFUSED as usize + 1);
    });
}
