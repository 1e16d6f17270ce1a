//! The cases, one file for each noun.

pub mod accept;
pub mod adapters;
pub mod adopt;
pub mod batch;
pub mod callbacks;
pub mod cancel;
pub mod cancel_race;
pub mod close;
pub mod context;
pub mod core;
pub mod datagram;
pub mod descriptor;
pub mod driver;
pub mod event;
pub mod fence;
pub mod file;
pub mod futex;
pub mod hosted;
pub mod io_source;
pub mod local_context;
pub mod memory;
pub mod message;
pub mod metrics;
mod net;
pub mod notification;
pub mod options;
pub mod pass;
pub mod pass_hostile;
pub mod pool;
pub mod pressure;
pub mod readiness;
pub mod ready_events;
pub mod registration;
pub mod relay;
pub mod remote;
pub mod semaphore;
pub mod sequence;
pub mod sequence_lanes;
pub mod sequence_made;
pub mod shutdown;
pub mod spawn;
pub mod spin;
pub mod sqpoll;
pub mod stream;
pub mod submitter;
pub mod tasks;
pub mod tcp;
pub mod thread;
pub mod timeouts;
pub mod timers;
pub mod transfer;
pub mod unix;
pub mod vectored;
pub mod vulkan;
pub mod vulkan_descriptors;
pub mod vulkan_memory;
pub mod wake;
pub mod watch;
pub mod watch_ends;
pub mod watch_remote;
pub mod zero_copy;

use crate::Case;

/// Every list of cases.
const LISTS: &[&[Case]] = &[
    accept::CASES,
    adapters::CASES,
    adopt::CASES,
    batch::CASES,
    callbacks::CASES,
    cancel::CASES,
    cancel_race::CASES,
    close::CASES,
    context::CASES,
    core::CASES,
    datagram::CASES,
    descriptor::CASES,
    driver::CASES,
    event::CASES,
    fence::CASES,
    file::CASES,
    futex::CASES,
    hosted::CASES,
    io_source::CASES,
    local_context::CASES,
    memory::CASES,
    message::CASES,
    metrics::CASES,
    notification::CASES,
    options::CASES,
    pass::CASES,
    pass_hostile::CASES,
    pool::CASES,
    pressure::CASES,
    readiness::CASES,
    ready_events::CASES,
    registration::CASES,
    relay::CASES,
    remote::CASES,
    semaphore::CASES,
    sequence::CASES,
    sequence_lanes::CASES,
    sequence_made::CASES,
    shutdown::CASES,
    spawn::CASES,
    spin::CASES,
    sqpoll::CASES,
    stream::CASES,
    submitter::CASES,
    tasks::CASES,
    tcp::CASES,
    thread::CASES,
    timeouts::CASES,
    timers::CASES,
    transfer::CASES,
    unix::CASES,
    vectored::CASES,
    vulkan::CASES,
    vulkan_descriptors::CASES,
    vulkan_memory::CASES,
    wake::CASES,
    watch::CASES,
    watch_ends::CASES,
    watch_remote::CASES,
    zero_copy::CASES,
];

/// Every case of a normal run.
pub fn all() -> Vec<Case> {
    LISTS.concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_say_their_file() {
        let mut seen = BTreeSet::new();
        for case in super::all() {
            assert!(seen.insert(case.name), "{} is there twice", case.name);
            let (file, what) = case.name.split_once('/').expect("file/what_it_shows");
            let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(file.chars().chain(what.chars()).all(is_word), "{}", case.name);
        }
    }
}
