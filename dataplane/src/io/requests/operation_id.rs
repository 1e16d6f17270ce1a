//! What users call an operation under way: its identity, and whose it is.
//!
//! Slots and generations repeat from one proactor to the next. With the proactor's number in it, a
//! name kept for too long, or given to another proactor, means nothing instead of something else.

use crate::backend::OpId;
use std::fmt;

/// The name of an operation, for [`Proactor::cancel`](crate::Proactor::cancel) and dumps. It is
/// never another operation's, of whatever proactor.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OperationId {
    owner: u32,
    id: OpId,
}

impl OperationId {
    pub(crate) fn new(owner: u32, id: OpId) -> OperationId {
        OperationId { owner, id }
    }

    /// What the proactor with this number calls it; None: it is another's.
    pub(crate) fn within(self, owner: u32) -> Option<OpId> {
        (self.owner == owner).then_some(self.id)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationId({}#{})", self.id.index(), self.id.generation())
    }
}
