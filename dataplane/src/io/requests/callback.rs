//! Callbacks: the third way to be told, on the owner's thread only.

use super::operation_id::OperationId;
use super::request::{Multi, Request};
use super::stream::Next;
use super::{Local, conclude};
use crate::engine::slots::Notify;
use crate::error::{Failed, Result};
use crate::op::{Multishot, Operation, settle};

impl<O: Operation> Request<Local, O> {
    /// Submits it with a callback, which runs inside a later [`poll`](crate::Proactor::poll), on
    /// this thread, exactly once. Everything but polling is allowed inside.
    ///
    /// # Errors
    ///
    /// A refused operation comes back; the callback is dropped without being run.
    pub fn on_complete(
        self,
        callback: impl FnOnce(Result<O::Output<Local>, Failed<O>>) + 'static,
    ) -> Result<OperationId, Failed<O>> {
        let (port, op, deadline_ns, _last) = self.into_parts();
        let inside = port.clone();
        let notify = Notify::Once(Box::new(move |mut op, outcome| {
            let op = O::take(&mut op);
            callback(conclude(op, outcome, &inside));
        }));
        let id = port.place_op(op, notify, deadline_ns)?;
        Ok(OperationId::new(port.inner.owner, id))
    }
}

impl<O: Multishot> Multi<Local, O> {
    /// Submits it with a callback for each result and one for the end; see
    /// [`Request::on_complete`].
    ///
    /// # Errors
    ///
    /// A refused operation comes back; the callback is dropped without being run.
    pub fn on_each(
        self,
        mut callback: impl FnMut(Next<O::Output<Local>>) + 'static,
    ) -> Result<OperationId, Failed<O>> {
        let (port, op, deadline_ns) = self.into_parts();
        let inside = port.clone();
        let notify = Notify::Each(Box::new(move |end, op, outcome| {
            drop(op);
            if end {
                return callback(Next::End(settle(&outcome, "stream").map(|_| ())));
            }
            match O::item(outcome, &inside) {
                Ok(Some(item)) => callback(Next::Item(item)),
                Ok(None) => {}
                Err(error) => callback(Next::End(Err(error))),
            }
        }));
        let id = port.place_op(op, notify, deadline_ns)?;
        Ok(OperationId::new(port.inner.owner, id))
    }
}
