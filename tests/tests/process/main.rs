//! What can only be shown in a process of its own: forked children, limits, filters, signals, and
//! what a running loop asks of the kernel and of the allocator.
//!
//! Each test runs itself again as the only test of a new process; see [`child`].

mod child;

mod failing;
mod fork;
mod handoff;
mod limits;
mod notification;
mod passing;
mod pressure;
mod refused;
mod signals;
mod steady;

#[global_allocator]
static ALLOCATOR: child::Counting = child::Counting;
