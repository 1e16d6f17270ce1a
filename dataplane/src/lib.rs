//! A caller-driven proactor over io_uring, with an honest fallback.
//!
//! # The parts
//!
//! - [`Proactor`]: owns the loop. One thread polls it; completions arrive inside
//!   [`poll`](Proactor::poll) as futures, callbacks or values to take.
//! - [`Socket`], [`File`], [`ReceivePool`]: what operations work on. Made on the proactor they stay
//!   on its thread and submit without a lock; made through a [`Handle`] they are `Send`.
//! - [`Request`]: an operation about to be submitted: `.await` it, give it a
//!   [`timeout`](Request::timeout), submit it for later, or hand it a callback. Several go as a
//!   [`Batch`], whole or not at all, or as a [`Sequence`], one after the other.
//! - [`regions`]: the memory. A [`regions::Lease`] is written to, a [`regions::Span`] is sent.
//! - [`fence`]: time. A [`fence::Semaphore`] is signalled by anybody, awaited by threads, futures
//!   and operations, and fails for good.
//!
//! # Ways to run it
//!
//! | the loop is polled by | with |
//! | --- | --- |
//! | your thread | [`Proactor::poll`], [`Proactor::block_on`], and its [tasks](Proactor::spawn) |
//! | a host runtime, such as tokio | [`Hosted`] |
//! | a thread of its own, or one for each CPU or node | [`ProactorThread`], [`ProactorPool`] |
//! | a thread of its own, for tasks that several threads run | [`Context`] |
//! | your thread, which runs handlers between its turns | [`LocalContext`] |
//! | a thread of its own, behind a bounded queue | [`Submitter`] |
//!
//! # Events
//!
//! [`Proactor::watch`] calls back when a foreign descriptor is ready; [`Readiness`] and
//! [`IoSource`] are the same by token and by `await`. An [`Event`] is a bit that any thread sets; a
//! [message](Handle::message) is 64 of them for another proactor's
//! [handler](Proactor::on_message); [`Proactor::signals`] brings those of the process into the
//! loop. A [`Pass`] carries memory, sockets, files and events to another process.
//!
//! # Threads
//!
//! `Proactor`, its submissions, sockets and files are `!Send`: they belong to the thread that made
//! the proactor. [`Handle`] is `Send + Sync` and works from everywhere.
//!
//! # Backends
//!
//! io_uring where the kernel allows it (6.1 or newer, found out by doing, never by version), else
//! readiness over `epoll(7)` or `poll(2)`, which gives the same results. [`Proactor::backend`] and
//! [`Proactor::fallback`] say which and why; completions say which way their bytes went.
//!
//! # What it counts
//!
//! [`Proactor::stats`] and [`Handle::stats`]; the features `metrics` and `tracing` publish the same
//! numbers and the way of operations. [`Proactor::in_flight`] is for finding what is stuck.

#[cfg(not(loom))]
mod backend;
#[cfg(not(loom))]
mod capability;
#[cfg(not(loom))]
mod engine;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod event;
#[cfg(not(loom))]
mod io;
#[cfg(not(loom))]
mod op;
#[cfg(not(loom))]
mod proactor;
mod remote;
#[cfg(not(loom))]
pub(crate) use proactor::options;
pub(crate) use remote::sync;
#[cfg(not(loom))]
mod run;
#[cfg(not(loom))]
mod sys;

#[cfg(not(loom))]
mod public {
    pub use crate::capability::{Capabilities, Capability};
    pub use crate::engine::descriptors::ZeroCopy;
    pub use crate::engine::path::{CopyReason, Mechanism, Path};
    pub use crate::engine::report::Stats;
    pub use crate::engine::report::dump::{InFlight, Waiter};
    #[cfg(feature = "metrics")]
    pub use crate::engine::report::export::MetricsExporter;
    pub use crate::engine::report::metric::{Metric, MetricKind, MetricUnit};
    pub use crate::engine::shutdown::Leaked;
    pub use crate::error::{Error, ErrorKind, Failed, Result};
    pub use crate::event::event::{Event, EventPool, EventWaiter, PooledEvent};
    pub use crate::event::fence::{FenceWaiter, RefusedFence};
    pub use crate::event::futex::{FutexWord, Woken};
    pub use crate::event::io_source::IoSource;
    pub use crate::event::notification::Notification;
    pub use crate::event::readiness::{Readiness, ReadyEvent, Token, Trigger, Waiting};
    pub use crate::event::relay::{NewRelay, Relay, RelaySink, RelaySource};
    pub use crate::event::signals::{
        ReceivedSignal, Signal, SignalStream, Signals, Subscription, block_signals_early,
        ignore_sigpipe,
    };
    pub use crate::event::watch::{
        RegisterWatch, RemoteWatch, UnregisterWatch, Watch, WatchControl,
    };
    pub use crate::io::adapters::{Duplex, Reader, Writer};
    pub use crate::io::address::{Address, MAX_UNIX_NAME_BYTES, UnixAddress};
    pub use crate::io::batch::{Batch, RefusedBatch, Submitted, Ticket};
    pub use crate::io::connect::Endpoint;
    pub use crate::io::file::{Chunks, File};
    pub use crate::io::operation_id::OperationId;
    pub use crate::io::pass::{
        HEADER_BYTES as PASS_HEADER_BYTES, Pass, PassKind, Passed, PassedDmaBuf, PassedEvent,
        PassedFence, PassedSlab,
    };
    pub use crate::io::receive_pool::ReceivePool;
    pub use crate::io::registration::Registration;
    pub use crate::io::request::{Multi, Request};
    pub use crate::io::sequence::{
        AwaitingSequence, Finished, Flow, RefusedSequence, RunningSequence, Sequence,
        SequenceFailed,
    };
    pub use crate::io::socket::Socket;
    pub use crate::io::stream::{LocalStream, Next, RemoteStream};
    pub use crate::io::submission::{RemoteSubmission, Submission};
    pub use crate::io::{Local, Port};
    pub use crate::op::{
        Filled, HoldsBuffer, Interest, Multishot, Nop, OpenOptions, Operation, Resolve, Sent, Timer,
    };
    /// The operations themselves, for naming their types.
    pub mod operations {
        pub use crate::op::{
            Accept, AcceptMany, Close, Connect, EventWait, FenceWait, FutexWait, FutexWake,
            Message, Nop, Open, Poll, PollMany, Read, Recv, RecvFrom, RecvMany, RecvPool,
            RecvVectored, Resolve, SemaphoreSignal, SemaphoreWait, SemaphoreWaitAll,
            SemaphoreWaitAny, Send, SendTo, SendVectored, Shutdown, SignalNotification, Sync,
            Timer, Transfer, WaitNotification, Write,
        };
    }
    pub use crate::options::{Backend, Options, SqPoll};
    pub use crate::proactor::{Proactor, Wait};
    pub use crate::remote::handle::{Call, Handle};
    pub use crate::remote::message::MessageError;
    pub use crate::run::context::local::{LocalContext, LocalContextHandle, LocalWorkGuard};
    pub use crate::run::context::{Context, ContextHandle, Join, WorkGuard};
    pub use crate::run::host::{Hosted, Turn};
    pub use crate::run::pool::{Place, Placement, ProactorPool};
    pub use crate::run::submitter::{Submit, Submitter};
    pub use crate::run::task::Task;
    pub use crate::run::thread::ProactorThread;
    pub use crate::sys::diagnose;
    pub use crate::sys::sockets::{Kind as SocketKind, SocketOptions};
    pub use fence;
    pub use regions;
}

#[cfg(not(loom))]
pub use public::*;

/// The example of the front page compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct FrontPage;
