//! A message to another proactor, as an operation: see the head of `remote/message.rs`.
//!
//! It never waits. What it does is a push to the target's queue, when it is submitted and on every
//! backend alike, and its result says how that went. Dropping its future does not call the message
//! back.

use super::{Attempt, Context, Forms, Operation, settle, variant};
use crate::capability::Capabilities;
use crate::engine::Outcome;
use crate::error::{Error, Failed};
use crate::io::Port;
use crate::remote::handle::Handle;
use crate::remote::message::MessageError;
use io_uring::squeue::Entry;

/// Sends 64 bits to the message handler of a proactor.
#[derive(Debug)]
pub struct Message {
    target: Handle,
    payload: u64,
}

variant!(Message);

impl Message {
    /// For the proactor that `target` belongs to.
    pub fn new(target: &Handle, payload: u64) -> Message {
        Message { target: target.clone(), payload }
    }

    /// What it carries.
    pub fn payload(&self) -> u64 {
        self.payload
    }
}

/// Each refusal with the number that stands for it in a result. Nothing else ends a message.
const REFUSALS: [(MessageError, i32); 3] = [
    (MessageError::Exhausted, libc::EXFULL),
    (MessageError::ShutDown, libc::ESHUTDOWN),
    (MessageError::Forked, libc::ESTALE),
];

impl Forms for Message {
    const NAME: &'static str = "message";

    fn is_own(&self, _: Capabilities) -> bool {
        true
    }

    fn entry(&mut self, _: &mut Context<'_>) -> Entry {
        unreachable!("messages go by the target's queue")
    }

    fn attempt(&mut self, _: &mut Context<'_>) -> Attempt {
        let refused = self.target.message(self.payload).err();
        let of = |refused| REFUSALS.iter().find(|(known, _)| *known == refused);
        Attempt::Done(refused.and_then(of).map_or(0, |(_, errno)| -errno))
    }

    fn error(&self, result: i32) -> Option<Error> {
        let refused = REFUSALS.iter().find(|(_, errno)| -errno == result);
        refused.map(|(refused, _)| Error::from(*refused))
    }

    /// It has been sent, or refused.
    fn withdraw(&mut self) -> Option<bool> {
        Some(false)
    }
}

impl Operation for Message {
    type Output<P: Port> = ();

    fn finish<P: Port>(self, outcome: Outcome, _: &P) -> Result<(), Failed<Self>> {
        let ended = match self.error(outcome.result) {
            Some(refused) => Err(refused),
            None => settle(&outcome, Self::NAME),
        };
        ended.map(drop).map_err(|error| Failed::new(error, self))
    }
}
