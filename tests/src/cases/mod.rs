//! The cases, one file for each noun.

pub mod batch;
pub mod callbacks;
pub mod cancel;
pub mod cancel_race;
pub mod core;
pub mod datagram;
mod net;
pub mod tcp;
pub mod timeouts;
pub mod timers;
pub mod unix;
pub mod wake;

use crate::Case;

/// Every list of cases.
const LISTS: &[&[Case]] = &[
    core::CASES,
    tcp::CASES,
    timers::CASES,
    cancel::CASES,
    cancel_race::CASES,
    batch::CASES,
    callbacks::CASES,
    timeouts::CASES,
    wake::CASES,
    unix::CASES,
    datagram::CASES,
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
