//! The cases, one file for each noun.

pub mod accept;
pub mod adopt;
pub mod batch;
pub mod callbacks;
pub mod cancel;
pub mod cancel_race;
pub mod close;
pub mod core;
pub mod datagram;
pub mod descriptor;
pub mod event;
pub mod file;
pub mod memory;
mod net;
pub mod options;
pub mod pool;
pub mod readiness;
pub mod registration;
pub mod remote;
pub mod semaphore;
pub mod shutdown;
pub mod stream;
pub mod tcp;
pub mod timeouts;
pub mod timers;
pub mod transfer;
pub mod unix;
pub mod vectored;
pub mod wake;
pub mod watch;
pub mod zero_copy;

use crate::Case;

/// Every list of cases.
const LISTS: &[&[Case]] = &[
    accept::CASES,
    adopt::CASES,
    batch::CASES,
    callbacks::CASES,
    cancel::CASES,
    cancel_race::CASES,
    close::CASES,
    core::CASES,
    datagram::CASES,
    descriptor::CASES,
    event::CASES,
    file::CASES,
    memory::CASES,
    options::CASES,
    pool::CASES,
    readiness::CASES,
    registration::CASES,
    remote::CASES,
    semaphore::CASES,
    shutdown::CASES,
    stream::CASES,
    tcp::CASES,
    timeouts::CASES,
    timers::CASES,
    transfer::CASES,
    unix::CASES,
    vectored::CASES,
    wake::CASES,
    watch::CASES,
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
