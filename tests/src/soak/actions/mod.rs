//! Everything that is done in a soak, by noun, and how often.

mod bytes;
mod chain;
mod file;
mod net;
mod notify;
mod pass;
mod run;
mod signals;
mod threads;
mod wait;
mod watch;

pub(super) use net::pair;
pub(super) use notify::Notify;
pub(super) use run::{Gate, cancel_all};
pub(super) use signals::{OURS, Signaling, arrive};
pub(super) use threads::{Crew, Line};
pub(super) use wait::{Messages, handler};
pub(super) use watch::take_events;

use super::world::World;

/// One step, or what keeps the soak from going on.
pub(super) type Step = fn(&mut World<'_>) -> Result<(), String>;

/// Every action, and how often it is done beside the others.
pub(super) const STEPS: &[(usize, Step)] = &[
    (60, net::receive),
    (30, net::receive_vectored),
    (16, net::receive_pooled),
    (8, net::receive_stream),
    (60, net::send),
    (24, net::send_vectored),
    (24, net::datagram),
    (4, net::accept),
    (4, net::connect),
    (6, net::replace),
    (8, net::shut_down),
    (12, net::poll),
    (4, net::policy),
    (2, net::give_away),
    (24, file::read_or_write),
    (6, file::transfer),
    (3, file::open),
    (2, file::chunks),
    (1, file::sync_or_resolve),
    (4, file::register),
    (60, wait::nop),
    (30, wait::timer),
    (20, wait::semaphore),
    (12, wait::several_semaphores),
    (24, wait::signal),
    (4, wait::link),
    (20, wait::event),
    (20, wait::fence),
    (6, wait::export),
    (24, wait::message),
    (1, wait::handler),
    (20, notify::wait_for_word),
    (16, notify::wake_word),
    (16, notify::wait_for_notification),
    (16, notify::signal_notification),
    (4, notify::relay),
    (12, notify::fire),
    (16, chain::sequence),
    (12, chain::made_sequence),
    (12, chain::batch),
    (4, watch::watch),
    (4, watch::remote_watch),
    (4, watch::readiness),
    (4, watch::source),
    (12, watch::set),
    (2, bytes::stream),
    (2, pass::pass),
    (4, signals::raise),
    (2, signals::subscribe),
    (20, run::spawn),
    (12, run::wake),
    (6, run::abort),
    (12, run::in_context),
    (12, run::cancel_one),
    (2, run::cancel_descriptor),
    (40, run::look),
    (12, run::drop_one),
    (30, run::on_peer),
    (20, threads::in_context),
    (20, threads::in_line),
];

/// Things done so seldom that they have dice of their own: once in so many steps.
pub(super) const SELDOM: &[(usize, Step)] = &[
    (4_000, run::replace_peer),
    (3_000, run::cancel_all),
    (2_000, net::connect_over_tcp),
    (1_000, net::replace_pool),
    (500, wait::replace_semaphore),
    (500, run::call),
    (1_000, signals::replace),
    (2_000, threads::replace_runner),
    (4_000, threads::replace_line),
    (4_000, threads::own_thread),
    (4_000, threads::own_pool),
    (4_000, threads::own_context),
];
