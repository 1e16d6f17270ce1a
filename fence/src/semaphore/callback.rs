//! One wait for one semaphore, as a callback.

use std::fmt;
use std::sync::Arc;

use crate::semaphore::Core;
use crate::semaphore::waiters::Key;

/// A callback made by [`Semaphore::on_reach`](crate::Semaphore::on_reach).
///
/// Dropping this detaches the callback, which stays registered; only [`cancel`](Callback::cancel)
/// takes it back. The handle keeps the semaphore alive.
pub struct Callback {
    core: Arc<Core>,
    key: Option<Key>,
}

impl Callback {
    pub(crate) fn pending(core: &Arc<Core>, key: Key) -> Callback {
        Callback { core: Arc::clone(core), key: Some(key) }
    }

    /// The handle of a callback that was called at once.
    pub(crate) fn told(core: &Arc<Core>) -> Callback {
        Callback { core: Arc::clone(core), key: None }
    }

    /// Takes the callback back. True: it will never run, and what it owned has been dropped here.
    /// False: it ran, or a signalling thread has taken it and runs it without fail, even if other
    /// callbacks before it panic. There is no third case, in any race: the set of waiters gives
    /// each callback out once, to the canceller or to the one who tells it, and the handle keeps
    /// the semaphore alive until then.
    ///
    /// May be called from inside any callback, itself included (false).
    pub fn cancel(self) -> bool {
        // The callback is dropped by this thread, after the lock.
        self.key.and_then(|key| self.core.deregister(key)).is_some()
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback")
            .field("wanted", &self.key.map(|key| key.value()))
            .field("value", &self.core.current())
            .finish()
    }
}
