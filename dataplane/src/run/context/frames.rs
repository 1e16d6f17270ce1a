//! Which contexts the calling thread is inside of, innermost last, each with what is left of the
//! budget of the handler it is running.

use std::cell::{Cell, RefCell};

/// Names a context: the address of what its owners share.
pub(super) type Name = usize;

struct Entered {
    name: Name,
    budget: Cell<u32>,
}

thread_local! {
    static FRAMES: RefCell<Vec<Entered>> = const { RefCell::new(Vec::new()) };
}

/// One run of a context on this thread; leaves it when dropped, also by a panic.
pub(super) struct Frame {
    /// Of this thread.
    _stays: std::marker::PhantomData<*const ()>,
}

impl Frame {
    pub(super) fn enter(name: Name) -> Frame {
        FRAMES.with_borrow_mut(|frames| frames.push(Entered { name, budget: Cell::new(0) }));
        Frame { _stays: std::marker::PhantomData }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        FRAMES.with_borrow_mut(|frames| frames.pop());
    }
}

/// A handler of the innermost run begins.
pub(super) fn begin_handler(budget: u32) {
    FRAMES.with_borrow(|frames| {
        if let Some(entered) = frames.last() {
            entered.budget.set(budget);
        }
    });
}

pub(super) fn is_inside(name: Name) -> bool {
    FRAMES.with_borrow(|frames| frames.iter().any(|entered| entered.name == name))
}

/// Takes one call from the budget of the innermost run of that context; false: it is spent, or the
/// thread is not inside.
pub(super) fn spend(name: Name) -> bool {
    FRAMES.with_borrow(|frames| {
        let Some(entered) = frames.iter().rev().find(|entered| entered.name == name) else {
            return false;
        };
        let left = entered.budget.get().checked_sub(1);
        left.map(|left| entered.budget.set(left)).is_some()
    })
}
