//! The limit of handing work to another thread and its result back: two bounded channels of
//! crossbeam, a request through the one and a reply through the other, and nothing done between.

use crate::{Contender, Result, expect};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::thread::JoinHandle;

/// `depth` requests outstanding. A step is one request and its reply.
pub struct Handoff {
    requests: Option<Sender<u64>>,
    replies: Receiver<u64>,
    thread: Option<JoinHandle<()>>,
    depth: u64,
}

impl Handoff {
    /// With a thread that replies.
    ///
    /// # Errors
    ///
    /// When there is no thread.
    pub fn new(depth: u64) -> Result<Handoff> {
        let (requests, asked) = bounded(depth as usize);
        let (answers, replies) = bounded(depth as usize);
        let thread = std::thread::Builder::new().name("replies".into()).spawn(move || {
            for request in asked {
                if answers.send(request + 1).is_err() {
                    return;
                }
            }
        })?;
        Ok(Handoff { requests: Some(requests), replies, thread: Some(thread), depth })
    }
}

impl Contender for Handoff {
    fn run(&mut self, steps: u64) -> Result<()> {
        let Some(requests) = &self.requests else { return Ok(()) };
        for _ in 0..steps.div_ceil(self.depth) {
            for request in 0..self.depth {
                requests.send(request)?;
            }
            for request in 0..self.depth {
                let reply = self.replies.recv()?;
                expect(reply == request + 1, || format!("{reply} is no reply to {request}"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Handoff {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
