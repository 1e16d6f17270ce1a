//! The books of a soak: what was accepted, and what became of each.
//!
//! An operation is entered before it is submitted and struck out when it is refused; an accepted
//! one is told of once, or its handle was dropped. What nobody was told of by the end is a debt,
//! and what is told of twice a lie: both fail the soak. A clone is the same book, on whichever
//! thread.
//!
//! What must be in a soak is not written here for operations: [`kinds`] reads the list that the
//! toolkit itself is built from, so a new operation that no action submits fails a long soak. What
//! is no operation is in [`ACTS`], and nothing else can be entered.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Operations after which each kind and each act must have been there: the rarest are done once in
/// a few thousand steps.
const COMPLETE_AFTER: u64 = 100_000;

/// Everything that is done to a proactor and is no operation.
const ACTS: &[&str] = &[
    "batches",
    "bytes read as a stream",
    "bytes written as a stream",
    "calls",
    "calls from another thread",
    "cancels",
    "cancels of a descriptor",
    "cancels of all",
    "chunks",
    "connects over TCP",
    "contexts of their own",
    "descriptors passed",
    "event waiters",
    "fence waiters",
    "fences imported",
    "fences imported from another thread",
    "files registered",
    "handlers",
    "handlers of a context",
    "kinds of passed descriptors mistaken",
    "memory passed",
    "message handlers",
    "messages",
    "notifications signalled at once",
    "notifications slept on by a thread",
    "policies",
    "pools",
    "pools of proactors",
    "readiness registrations",
    "registrations",
    "registrations from another thread",
    "relays",
    "relays fired",
    "relays from a notification",
    "remote watches",
    "runners replaced",
    "semaphores exported",
    "semaphores linked",
    "semaphores replaced",
    "semaphores unlinked",
    "sequences",
    "shutdowns in the middle",
    "signals from the system",
    "signals owned",
    "signals sent",
    "sockets given to another thread",
    "sources",
    "submitters",
    "takes from sources",
    "tasks",
    "tasks aborted",
    "tasks of a context",
    "tasks woken",
    "threads with a proactor",
    "turns of a host",
    "waits for readiness",
    "waits in line",
    "watches",
    "watches from another thread",
    "words slept on by a thread",
    "words woken at once",
];

/// Every kind of operation: the variants of the toolkit's `enum Op`.
fn kinds() -> impl Iterator<Item = &'static str> {
    const SOURCE: &str = include_str!("../../../dataplane/src/op/mod.rs");
    let body = SOURCE.split_once("pub enum Op {").and_then(|(_, rest)| rest.split_once("\n}"));
    let lines = body.map_or("", |(body, _)| body).lines().map(str::trim);
    let variants = lines.filter(|line| !line.starts_with("//"));
    variants.filter_map(|line| Some(line.split_once('(')?.0))
}

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

    /// What a soak of this length must have done, and this one has not.
    ///
    /// # Errors
    ///
    /// The names of what is missing, and of kinds that the toolkit does not have.
    pub fn complete(&self) -> Result<(), String> {
        let is_long = self.accepted() >= COMPLETE_AFTER;
        let kind = |name: &&str| self.kinds.get(name).is_none_or(|count| count.accepted == 0);
        let act = |name: &&str| self.others.get(name).is_none_or(|count| *count == 0);
        let missing = kinds().filter(kind).chain(ACTS.iter().copied().filter(act));
        let missing: Vec<&str> = missing.filter(|_| is_long).collect();
        let unknown = self.kinds.keys().filter(|name| kinds().all(|known| known != **name));
        let unknown: Vec<&str> = unknown.copied().collect();
        match missing.is_empty() && unknown.is_empty() {
            true => Ok(()),
            false => Err(format!("never done: {missing:?}; no kinds of operations: {unknown:?}")),
        }
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

struct State {
    serial: u64,
    accepted: u64,
    /// By serial, the place in `kinds`.
    owed: HashMap<u64, usize>,
    kinds: Vec<(&'static str, Count)>,
    /// As [`ACTS`].
    acts: [u64; ACTS.len()],
    refused: u64,
    wrong: Option<String>,
}

impl Default for State {
    fn default() -> State {
        State {
            serial: 0,
            accepted: 0,
            owed: HashMap::new(),
            kinds: Vec::new(),
            acts: [0; ACTS.len()],
            refused: 0,
            wrong: None,
        }
    }
}

impl State {
    fn place(&mut self, name: &'static str) -> usize {
        let found = self.kinds.iter().position(|(known, _)| *known == name);
        found.unwrap_or_else(|| {
            self.kinds.push((name, Count::default()));
            self.kinds.len() - 1
        })
    }

    fn debts(&self) -> String {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for place in self.owed.values() {
            *kinds.entry(self.kinds[*place].0).or_default() += 1;
        }
        format!("{kinds:?}")
    }
}

/// See the head of this file.
#[derive(Clone, Default)]
pub(super) struct Books(Arc<Mutex<State>>);

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
        let mut state = self.books.lock();
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
        let mut state = self.books.lock();
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
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operation about to be submitted.
    pub(super) fn enter<O>(&self) -> Entry {
        self.enter_as(name_of::<O>())
    }

    pub(super) fn enter_as(&self, name: &'static str) -> Entry {
        let mut state = self.lock();
        state.serial += 1;
        state.accepted += 1;
        let (serial, place) = (state.serial, state.place(name));
        state.owed.insert(serial, place);
        state.kinds[place].1.accepted += 1;
        Entry { books: self.clone(), serial }
    }

    /// An operation was refused, and its callback dropped with the entry.
    pub(super) fn strike(&self, serial: u64) {
        let mut state = self.lock();
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
        self.did_many(what, 1);
    }

    /// As often as that.
    pub(super) fn did_many(&self, what: &'static str, times: u64) {
        match ACTS.iter().position(|known| *known == what) {
            Some(at) => self.lock().acts[at] += times,
            None => self.wrong(format!("{what:?} is not among what can be done")),
        }
    }

    /// Something else does not add up.
    pub(super) fn wrong(&self, what: String) {
        self.lock().wrong.get_or_insert(what);
    }

    /// Operations accepted so far.
    pub(super) fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// Operations nobody was told of yet.
    pub(super) fn owed(&self) -> usize {
        self.lock().owed.len()
    }

    /// Their kinds, for a message.
    pub(super) fn debts(&self) -> String {
        self.lock().debts()
    }

    /// What it says.
    ///
    /// # Errors
    ///
    /// What does not add up.
    pub(super) fn tally(&self) -> Result<Tally, String> {
        let state = self.lock();
        if let Some(wrong) = &state.wrong {
            return Err(wrong.clone());
        }
        if !state.owed.is_empty() {
            return Err(format!("nobody was told of {}", state.debts()));
        }
        for (name, count) in &state.kinds {
            if count.accepted != count.told + count.dropped {
                return Err(format!("{name}: {count:?}"));
            }
        }
        let kinds = state.kinds.iter().copied().collect();
        let acts = ACTS.iter().copied().zip(state.acts).filter(|(_, count)| *count > 0);
        Ok(Tally { kinds, others: acts.collect(), refused: state.refused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(kinds: impl Iterator<Item = &'static str>, accepted: u64) -> Tally {
        let count = Count { accepted, ..Count::default() };
        let kinds = kinds.map(|name| (name, count)).collect();
        let others = ACTS.iter().map(|act| (*act, 1)).collect();
        Tally { kinds, others, refused: 0 }
    }

    #[test]
    fn every_kind_is_known() {
        let kinds: Vec<&str> = kinds().collect();
        assert!(kinds.len() >= 34, "{kinds:?}");
        for name in ["Nop", "FutexWait", "SignalNotification"] {
            assert!(kinds.contains(&name), "{kinds:?}");
        }
    }

    #[test]
    fn a_long_soak_without_a_kind_or_an_act_is_not_complete() {
        assert_eq!(tally(kinds(), COMPLETE_AFTER).complete(), Ok(()));
        let without = || kinds().filter(|name| *name != "FutexWake");
        let missing = tally(without(), COMPLETE_AFTER).complete().unwrap_err();
        assert!(missing.contains("FutexWake"), "{missing}");
        assert_eq!(tally(without(), 1).complete(), Ok(()), "too short to have it");
        let mut idle = tally(kinds(), COMPLETE_AFTER);
        idle.others.remove("relays");
        assert!(idle.complete().unwrap_err().contains("relays"));
    }

    #[test]
    fn a_kind_that_is_not_there_is_told() {
        let unknown = tally(kinds().chain(["Nopp"]), 1).complete().unwrap_err();
        assert!(unknown.contains("Nopp"), "{unknown}");
    }

    #[test]
    fn what_is_told_of_twice_or_never_is_wrong() {
        let books = Books::default();
        books.enter_as("Nop").told(true);
        books.did("tasks");
        assert!(books.tally().is_ok());
        let entry = books.enter_as("Nop");
        assert!(books.tally().unwrap_err().contains("nobody was told"));
        books.strike(entry.serial());
        entry.told(true);
        assert!(books.tally().unwrap_err().contains("twice"));
        let other = Books::default();
        other.did("nothing that is known");
        assert!(other.tally().is_err());
    }
}
