//! Links: a change of one semaphore passed on to others, without recursion and without a lock
//! held across two of them.
//!
//! # How a change travels
//!
//! The semaphore that changed starts a work list. The list is walked from its front: each entry's
//! links are relayed to, and every target that really changed is appended; then it is walked
//! again, telling each entry's waiters. So all values are set, breadth first, before any user
//! code runs.
//!
//! - It ends: a target is appended only when its value grew or it failed for the first time, and
//!   within one call every entry relays the same value (or the same failure), so a semaphore is
//!   appended once, in a cycle too.
//! - It cannot deadlock: one lock is held at a time.
//! - It is right under concurrency: a slower thread's relayed value that is no longer above the
//!   target's is refused like any signal, and whoever wrote the greater value tells the waiters
//!   and relays onwards. So a signal may return while another thread's is still on its way along
//!   the same links; none is left behind once both have returned.
//!   A failure carries the value its source had reached, so a target that the failure overtakes
//!   still reaches what was signalled before it.
//! - It allocates nothing per signal: the links of a semaphore are an immutable list taken by
//!   counting it, and the work list lives with the thread and keeps its memory. A signal from
//!   inside a callback works above the entries of the outer one, and leaves them as they were.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::error::Failure;
use crate::semaphore::waiters::FirstPanic;
use crate::semaphore::{Change, Core, Effects};

/// The links that lead away from a semaphore, as of some moment.
pub(crate) type Links = Arc<Vec<LinkEnd>>;

/// One link, as its source keeps it.
#[derive(Clone)]
pub(crate) struct LinkEnd {
    /// Its name at the source, never used twice.
    pub(crate) id: u64,
    pub(crate) target: Arc<Core>,
}

/// A link made by [`Semaphore::link`](crate::Semaphore::link). Dropping it leaves the link in
/// place; [`unlink`](Link::unlink) ends it.
///
/// It keeps neither semaphore alive.
pub struct Link {
    source: Weak<Core>,
    /// `None` if there was nothing to keep: a link to itself, or from a failed semaphore.
    id: Option<u64>,
}

impl Link {
    /// Ends the link: no change that begins after this returns is relayed. One that another thread
    /// began before may still arrive.
    ///
    /// False if it had ended already, with the failure or the end of its source, or never had
    /// anything to relay.
    pub fn unlink(self) -> bool {
        let source = self.source.upgrade();
        source.zip(self.id).and_then(|(source, id)| source.remove_link(id)).is_some()
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Links `source` to `target`, and brings `target` up to it.
pub(crate) fn connect(source: &Arc<Core>, target: &Arc<Core>) -> Link {
    if Arc::ptr_eq(source, target) {
        return Link { source: Weak::new(), id: None };
    }
    let (id, value, failure) = source.add_link(target);
    if let Ok(effects) = target.apply(relayed(value, failure.as_ref())) {
        settle(target, effects, failure.as_ref());
    }
    Link { source: Arc::downgrade(source), id }
}

/// Does what follows from a change that `origin` has taken: relays it, then tells the waiters of
/// every semaphore that changed. No lock may be held. Goes on with a user's panic at its end.
pub(crate) fn settle(origin: &Arc<Core>, effects: Effects, failure: Option<&Failure>) {
    let mut panic = FirstPanic::default();
    if effects.links.is_none() {
        if effects.due {
            origin.release(bound(effects.value, failure), &mut panic);
        }
        return panic.resume();
    }
    let mut work = WorkList::begin();
    work.push(Step { core: Arc::clone(origin), effects });
    let mut count = 0;
    while let Some((value, links)) = work.relay_at(count) {
        count += 1;
        for end in links.iter().flat_map(|links| links.iter()) {
            if let Ok(effects) = end.target.apply(relayed(value, failure)) {
                work.push(Step { core: Arc::clone(&end.target), effects });
            }
        }
    }
    for at in 0..count {
        let Some(step) = work.take(at) else { continue };
        if step.effects.due {
            step.core.release(bound(step.effects.value, failure), &mut panic);
        }
        // The step may be the last to hold its semaphore, whose callbacks are then dropped.
        panic.catch(|| drop(step));
    }
    drop(work);
    panic.resume();
}

fn relayed(value: u64, failure: Option<&Failure>) -> Change<'_> {
    match failure {
        None => Change::Advance(value),
        Some(failure) => Change::Fail { at_least: value, failure },
    }
}

/// The greatest value whose waiters are to be told.
fn bound(value: u64, failure: Option<&Failure>) -> u64 {
    if failure.is_some() { u64::MAX } else { value }
}

/// A semaphore that changed, and what follows from it.
struct Step {
    core: Arc<Core>,
    effects: Effects,
}

type Steps = Vec<Option<Step>>;

#[cfg(not(loom))]
thread_local! {
    static STEPS: RefCell<Steps> = const { RefCell::new(Vec::new()) };
}
#[cfg(loom)]
loom::thread_local! {
    static STEPS: RefCell<Steps> = RefCell::new(Vec::new());
}

/// This call's part of the thread's list of steps. It borrows the list for single pushes and
/// takes only, never while user code runs.
struct WorkList {
    /// Where this call's part begins: above those of the calls it is nested in.
    base: usize,
    /// Used instead when the thread is ending and its list is gone.
    own: Option<Steps>,
}

impl WorkList {
    fn begin() -> WorkList {
        match STEPS.try_with(|steps| steps.borrow().len()) {
            Ok(base) => WorkList { base, own: None },
            Err(_) => WorkList { base: 0, own: Some(Vec::new()) },
        }
    }

    fn with<R>(&mut self, access: impl FnOnce(&mut Steps, usize) -> R) -> R {
        match &mut self.own {
            Some(own) => access(own, self.base),
            None => STEPS.with(|steps| access(&mut steps.borrow_mut(), self.base)),
        }
    }

    fn push(&mut self, step: Step) {
        self.with(|steps, _| steps.push(Some(step)));
    }

    /// What the step at `at` relays, and to whom; `None` past the last step.
    fn relay_at(&mut self, at: usize) -> Option<(u64, Option<Links>)> {
        self.with(|steps, base| {
            let step = steps.get(base + at)?.as_ref()?;
            Some((step.effects.value, step.effects.links.clone()))
        })
    }

    fn take(&mut self, at: usize) -> Option<Step> {
        self.with(|steps, base| steps.get_mut(base + at).and_then(Option::take))
    }
}

impl Drop for WorkList {
    /// Leaves the thread's list as it was found. The steps have been taken, except under a panic
    /// of our own; those are dropped one by one, outside the borrow.
    fn drop(&mut self) {
        while let Some(step) =
            self.with(|steps, base| if steps.len() > base { steps.pop() } else { None })
        {
            drop(step);
        }
    }
}
