//! Events and spans through `tracing`, with the feature of that name; without it nothing of this
//! is compiled in and every call here is empty.
//!
//! - One span for each proactor (DEBUG, `proactor`: name, backend), entered while it is polled:
//!   what callbacks and tasks of that loop record stands inside it.
//! - Rare events, with that span as parent: why another backend was taken, an operation that goes
//!   on another way, an empty pool, an overflow, a refused registration, leaked operations, lost
//!   completions.
//! - One span for each operation (TRACE, `operation`: name, id, result), from its submission until
//!   its result is taken. While nobody listens at that level an operation costs one look at a
//!   static.
//!
//! A subscriber is code of the user's that runs with the engine borrowed: it must not call the
//! proactor, whose calls answer Busy there.

#[cfg(feature = "tracing")]
pub(crate) use on::{OpSpans, Trace, overflow};

#[cfg(not(feature = "tracing"))]
pub(crate) use off::{OpSpans, Trace, overflow};

#[cfg(feature = "tracing")]
mod on {
    use crate::backend::OpId;
    use crate::error::Error;
    use crate::options::Backend;
    use tracing::{Level, Span, debug, enabled, error, span, trace, warn};

    /// The span of one proactor.
    pub(crate) struct Trace(Span);

    impl Trace {
        pub(crate) fn new(name: &str, backend: Backend, fallback: Option<&str>) -> Trace {
            let span = span!(Level::DEBUG, "proactor", name, %backend);
            if let Some(reason) = fallback {
                warn!(parent: &span, %backend, reason, "io_uring is not to be had");
            }
            Trace(span)
        }

        /// The proactor's span, to be entered.
        pub(crate) fn span(&self) -> Span {
            self.0.clone()
        }

        pub(crate) fn fell_back(&self, operation: &str, errno: i32) {
            debug!(parent: &self.0, operation, errno, "goes on another way");
        }

        pub(crate) fn pool_dry(&self, operation: &str) {
            debug!(parent: &self.0, operation, "waits for its pool, which is empty");
        }

        pub(crate) fn refused(&self, error: &Error) {
            warn!(parent: &self.0, %error, "a registration was refused");
        }

        pub(crate) fn shut_down(&self, leaked: u64) {
            match leaked {
                0 => debug!(parent: &self.0, "shut down"),
                _ => error!(parent: &self.0, leaked, "shut down; the kernel still has operations"),
            }
        }

        pub(crate) fn poisoned(&self, lost: usize) {
            error!(parent: &self.0, lost, "the kernel dropped completions");
        }
    }

    /// The completion queue ran over, `times` in all. Inside a poll, and so inside its span.
    pub(crate) fn overflow(times: u64) {
        warn!(times, "the completion queue ran over");
    }

    /// The spans of operations, by slot.
    #[derive(Default)]
    pub(crate) struct OpSpans(Vec<Option<Span>>);

    impl OpSpans {
        #[inline]
        pub(crate) fn begin(&mut self, id: OpId, name: &'static str) {
            if enabled!(Level::TRACE) {
                self.begin_traced(id, name);
            }
        }

        #[cold]
        fn begin_traced(&mut self, id: OpId, name: &'static str) {
            let at = id.index() as usize;
            if self.0.len() <= at {
                self.0.resize_with(at + 1, || None);
            }
            let result = tracing::field::Empty;
            self.0[at] = Some(span!(Level::TRACE, "operation", name, ?id, result));
        }

        #[inline]
        pub(crate) fn end(&mut self, index: u32, result: i32) {
            if let Some(span) = self.0.get_mut(index as usize).and_then(Option::take) {
                span.record("result", result);
                trace!(parent: &span, result, "taken");
            }
        }
    }
}

#[cfg(not(feature = "tracing"))]
mod off {
    use crate::backend::OpId;
    use crate::error::Error;
    use crate::options::Backend;

    /// Stands for the span of one proactor.
    pub(crate) struct Trace;

    /// Stands for a span, and for being inside it.
    pub(crate) struct NoSpan;

    impl NoSpan {
        #[inline(always)]
        pub(crate) fn enter(&self) -> NoSpan {
            NoSpan
        }
    }

    impl Trace {
        pub(crate) fn new(_: &str, _: Backend, _: Option<&str>) -> Trace {
            Trace
        }

        #[inline(always)]
        pub(crate) fn span(&self) -> NoSpan {
            NoSpan
        }

        pub(crate) fn fell_back(&self, _: &str, _: i32) {}

        pub(crate) fn pool_dry(&self, _: &str) {}

        pub(crate) fn refused(&self, _: &Error) {}

        pub(crate) fn shut_down(&self, _: u64) {}

        pub(crate) fn poisoned(&self, _: usize) {}
    }

    pub(crate) fn overflow(_: u64) {}

    /// Stands for the spans of operations.
    #[derive(Default)]
    pub(crate) struct OpSpans(());

    impl OpSpans {
        #[inline(always)]
        pub(crate) fn begin(&mut self, _: OpId, _: &'static str) {}

        #[inline(always)]
        pub(crate) fn end(&mut self, _: u32, _: i32) {}
    }
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use crate::{Backend, Options, Proactor, Wait};
    use std::fmt::{Debug, Write as _};
    use std::sync::{Arc, Mutex};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// Writes down everything that is recorded, one line each.
    #[derive(Clone, Default)]
    struct Notebook(Arc<Mutex<Vec<String>>>);

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            let _ = write!(self.0, " {field}={value:?}");
        }
    }

    impl Notebook {
        fn note(&self, what: &str, name: &str, fields: impl FnOnce(&mut Line)) -> u64 {
            let mut line = Line(format!("{what} {name}"));
            fields(&mut line);
            let mut lines = self.0.lock().expect("no test panics with it");
            lines.push(line.0);
            lines.len() as u64
        }

        fn has(&self, parts: &[&str]) -> bool {
            let lines = self.0.lock().expect("no test panics with it");
            lines.iter().any(|line| parts.iter().all(|part| line.contains(part)))
        }
    }

    impl Subscriber for Notebook {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, span: &Attributes<'_>) -> Id {
            Id::from_u64(self.note("span", span.metadata().name(), |line| span.record(line)))
        }
        fn record(&self, _: &Id, values: &Record<'_>) {
            self.note("record", "", |line| values.record(line));
        }
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &Event<'_>) {
            let parent = event.parent().is_some();
            self.note("event", &format!("parent={parent}"), |line| event.record(line));
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_proactor_and_its_operations_have_spans() {
        for backend in [Backend::IoUring, Backend::Epoll] {
            let notes = Notebook::default();
            tracing::subscriber::with_default(notes.clone(), || {
                let options = Options::default().backend(backend).name("observed");
                let io = Proactor::with(options).expect("proactor");
                io.block_on(async { io.nop().await.expect("a no-op") }).expect("polls");
                io.poll(Wait::Now).expect("polls");
            });
            assert!(notes.has(&["span proactor", "observed", backend.name()]), "{backend}");
            assert!(notes.has(&["span operation", "name=\"nop\""]), "{backend}");
            assert!(notes.has(&["record", "result=0"]), "{backend}");
            assert!(notes.has(&["event parent=true", "shut down"]), "{backend}");
        }
    }

    #[test]
    fn lost_completions_are_an_event() {
        let notes = Notebook::default();
        tracing::subscriber::with_default(notes.clone(), || {
            let io = Proactor::new().expect("proactor");
            io.inner().with("test", |engine| engine.poison()).expect("nothing is borrowed");
        });
        assert!(notes.has(&["event parent=true", "dropped completions", "lost=0"]));
    }
}
