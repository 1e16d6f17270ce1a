//! The books of a soak: what was accepted, and what became of each.
//!
//! An operation is entered before it is submitted and struck out when it is refused; an accepted
//! one is told of once, or its handle was dropped. What nobody was told of by the end is a debt,
//! and what is told of twice a lie: both fail the soak. A book belongs to one thread; a thread of
//! its own keeps its own and hands over its [`Tally`].

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;

/// Of one kind of operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// Accepted.
    pub accepted: u64,
    /// Told of: by a callback, by asking, or to a task.
    pub told: u64,
    /// Of those, how many succeeded.
    pub succeeded: u64,
    /// Dropped by whoever would have been told.
    pub dropped: u64,
}

/// What a soak did.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Operations, by the names of their types.
    pub kinds: BTreeMap<&'static str, Count>,
    /// Everything that is done to a proactor and is no operation.
    pub others: BTreeMap<&'static str, u64>,
    /// Submissions that were refused.
    pub refused: u64,
}

impl Tally {
    fn sum(&self, of: impl Fn(&Count) -> u64) -> u64 {
        self.kinds.values().map(of).sum()
    }

    /// Operations that were accepted.
    pub fn accepted(&self) -> u64 {
        self.sum(|count| count.accepted)
    }

    /// Operations that succeeded, as far as somebody was told.
    pub fn succeeded(&self) -> u64 {
        self.sum(|count| count.succeeded)
    }

    /// Adds what another book has.
    pub fn add(&mut self, other: &Tally) {
        for (name, more) in &other.kinds {
            let count = self.kinds.entry(name).or_default();
            count.accepted += more.accepted;
            count.told += more.told;
            count.succeeded += more.succeeded;
            count.dropped += more.dropped;
        }
        for (name, more) in &other.others {
            *self.others.entry(name).or_default() += more;
        }
        self.refused += other.refused;
    }

    /// One line for each kind.
    pub fn table(&self) -> String {
        let mut lines = Vec::new();
        for (name, Count { accepted, told, succeeded, dropped }) in &self.kinds {
            lines.push(format!(
                "  {name:<18} {accepted:>10} accepted {told:>10} told {succeeded:>10} succeeded \
                 {dropped:>10} dropped"
            ));
        }
        let others = self.others.iter().map(|(name, count)| format!("{name} {count}"));
        lines.push(format!("  besides: {}", others.collect::<Vec<_>>().join(", ")));
        lines.join("\n")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (told, dropped) = (self.sum(|count| count.told), self.sum(|count| count.dropped));
        let (accepted, succeeded, refused) = (self.accepted(), self.succeeded(), self.refused);
        write!(
            f,
            "{accepted} operations of {} kinds: {told} told of ({succeeded} succeeded), {dropped} \
             dropped; {refused} refused",
            self.kinds.len()
        )
    }
}

/// The name of an operation's type, without its path.
pub(super) fn name_of<O>() -> &'static str {
    let name = std::any::type_name::<O>();
    name.rsplit("::").next().unwrap_or(name)
}

#[derive(Default)]
struct State {
    serial: u64,
    accepted: u64,
    /// By serial, the place in `kinds`.
    owed: HashMap<u64, usize>,
    kinds: Vec<(&'static str, Count)>,
    others: BTreeMap<&'static str, u64>,
    refused: u64,
    wrong: Option<String>,
}

impl State {
    fn place(&mut self, name: &'static str) -> usize {
        let found = self.kinds.iter().position(|(known, _)| *known == name);
        found.unwrap_or_else(|| {
            self.kinds.push((name, Count::default()));
            self.kinds.len() - 1
        })
    }
}

/// See the head of this file. A clone is the same book.
#[derive(Clone, Default)]
pub(super) struct Books(Rc<RefCell<State>>);

/// An operation in the books, to be told of once.
pub(super) struct Entry {
    books: Books,
    serial: u64,
}

impl Entry {
    /// Its number, for striking it out when the entry itself is gone.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// It is over.
    pub(super) fn told(self, succeeded: bool) {
        let mut state = self.books.0.borrow_mut();
        let Some(place) = state.owed.remove(&self.serial) else {
            state.wrong = Some(format!("operation {} was told of twice", self.serial));
            return;
        };
        let count = &mut state.kinds[place].1;
        count.told += 1;
        count.succeeded += u64::from(succeeded);
    }

    /// Nobody wants to know any more.
    pub(super) fn dropped(self) {
        let mut state = self.books.0.borrow_mut();
        let Some(place) = state.owed.remove(&self.serial) else {
            state.wrong = Some(format!("operation {} was dropped after its end", self.serial));
            return;
        };
        state.kinds[place].1.dropped += 1;
    }

    /// It was never accepted.
    pub(super) fn refused(self) {
        self.books.strike(self.serial);
    }
}

impl Books {
    /// An operation about to be submitted.
    pub(super) fn enter<O>(&self) -> Entry {
        self.enter_as(name_of::<O>())
    }

    pub(super) fn enter_as(&self, name: &'static str) -> Entry {
        let mut state = self.0.borrow_mut();
        state.serial += 1;
        state.accepted += 1;
        let (serial, place) = (state.serial, state.place(name));
        state.owed.insert(serial, place);
        state.kinds[place].1.accepted += 1;
        Entry { books: self.clone(), serial }
    }

    /// An operation was refused, and its callback dropped with the entry.
    pub(super) fn strike(&self, serial: u64) {
        let mut state = self.0.borrow_mut();
        state.refused += 1;
        let Some(place) = state.owed.remove(&serial) else {
            state.wrong = Some(format!("operation {serial} was told of and refused"));
            return;
        };
        state.kinds[place].1.accepted -= 1;
        state.accepted -= 1;
    }

    /// Something that is no operation was done.
    pub(super) fn did(&self, what: &'static str) {
        *self.0.borrow_mut().others.entry(what).or_default() += 1;
    }

    /// Something else does not add up.
    pub(super) fn wrong(&self, what: String) {
        self.0.borrow_mut().wrong.get_or_insert(what);
    }

    /// Operations accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.0.borrow().accepted
    }

    /// Operations nobody was told of yet.
    pub(super) fn owed(&self) -> usize {
        self.0.borrow().owed.len()
    }

    /// Their kinds, for a message.
    pub(super) fn debts(&self) -> String {
        let state = self.0.borrow();
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for place in state.owed.values() {
            *kinds.entry(state.kinds[*place].0).or_default() += 1;
        }
        format!("{kinds:?}")
    }

    /// What it says.
    ///
    /// # Errors
    ///
    /// What does not add up.
    pub(super) fn tally(&self) -> Result<Tally, String> {
        let state = self.0.borrow();
        if let Some(wrong) = &state.wrong {
            return Err(wrong.clone());
        }
        if !state.owed.is_empty() {
            return Err(format!("nobody was told of {}", self.debts()));
        }
        for (name, count) in &state.kinds {
            if count.accepted != count.told + count.dropped {
                return Err(format!("{name}: {count:?}"));
            }
        }
        let kinds = state.kinds.iter().copied().collect();
        Ok(Tally { kinds, others: state.others.clone(), refused: state.refused })
    }
}
