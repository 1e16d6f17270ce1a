//! Operations finished on the spot: a system call that does not block, attempted at submission.
//!
//! Only while a context runs one of its handlers, and only as often as that handler's budget allows
//! ([`Engine::inline`]). The result takes the same way as a completion, at once instead of in the
//! next turn, so a future finds it when it is first polled.
//!
//! Order of bytes is kept because an operation is attempted only when it is at the head of its
//! stream's line. What would go out without a copy goes to the ring: the plain call copies. What
//! would block goes to the backend as if nothing had been attempted.

use super::Engine;
use crate::backend::{Event, OpId};
use crate::capability::Capability;
use crate::op::{Attempt, Forms, Op};

impl Engine {
    /// Attempts an operation that is about to go to the backend. True: it has its result, which
    /// [`deliver_inline`](Self::deliver_inline) brings.
    #[cold]
    pub(crate) fn attempt_inline(&mut self, id: OpId) -> bool {
        if !self.table.slots.at(id.index()).holds_lane {
            return false;
        }
        let attempt = self.table.resolve(id, |op, cx| {
            let supported = cx.capabilities.contains(Capability::ZeroCopySend);
            let bytes = match op {
                Op::Recv(_) | Op::RecvVectored(_) => None,
                Op::Send(send) => Some(send.left_bytes()),
                Op::SendVectored(send) => Some(send.left_bytes()),
                _ => return None,
            };
            let descriptor = cx.descriptor.as_ref();
            let copies = |bytes| descriptor.is_some_and(|d| d.policy.copies(bytes, supported));
            bytes.is_none_or(copies).then(|| op.attempt(cx))
        });
        let Some(Attempt::Done(result)) = attempt else { return false };
        self.inline -= 1;
        self.counters.inline += 1;
        self.table.slots.at(id.index()).owed += 1;
        self.own_events.push_back(Event::of(id, result, 0));
        true
    }

    /// Delivers what was finished on the spot. A transfer that moved a part only is attempted again
    /// for the rest, which costs budget too.
    #[cold]
    pub(crate) fn deliver_inline(&mut self, before: u32) {
        let mut rounds = 0;
        while rounds < before - self.inline && !self.own_events.is_empty() {
            self.run_own_events();
            rounds += 1;
        }
    }
}
