//! The spans of one gathered send.
//!
//! A [`SpanList`] is one pointer wide, so an operation that carries one stays small. Its storage is
//! a box that goes back to a small store of the thread that drops it, so building lists of up to
//! eight spans allocates nothing once that store has some. A list may move to another thread; its
//! box then serves that one.
//!
//! Limits: 1024 spans, IOV_MAX (sysconf(3), readv(2)).

use std::cell::RefCell;
use std::fmt;
use std::ops::Index;

use crate::span::Span;

/// The most spans a list holds: what one writev(2) takes.
pub const SPAN_LIST_LIMIT: usize = 1024;

/// Spans a new box has room for, and the most a box in store keeps room for.
const USUAL_SPANS: usize = 8;
/// Boxes a thread keeps.
const STORED_BOXES: usize = 64;

#[derive(Default)]
struct Storage {
    spans: Vec<Span>,
}

thread_local! {
    #[allow(clippy::vec_box)] // the boxes themselves are what is stored
    static STORE: RefCell<Vec<Box<Storage>>> = const { RefCell::new(Vec::new()) };
}

/// Spans in order, for one gathered send. `Send`, and one pointer wide.
///
/// ```
/// use regions::{Span, SpanList};
/// let list: SpanList = [Span::from("head"), Span::from("body")].into_iter().collect();
/// assert_eq!((list.len(), list.total_bytes()), (2, 8));
/// ```
#[derive(Default)]
pub struct SpanList {
    storage: Option<Box<Storage>>,
}

/// A list has all the spans one system call takes; the refused span comes back.
#[derive(Debug)]
pub struct SpanListFull(pub Span);

impl fmt::Display for SpanListFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "span list: it holds {SPAN_LIST_LIMIT} spans; send it and start another")
    }
}

impl std::error::Error for SpanListFull {}

impl SpanList {
    /// An empty list.
    pub const fn new() -> Self {
        Self { storage: None }
    }

    /// Adds a span at the end.
    ///
    /// # Errors
    /// The span itself, when the list has [`SPAN_LIST_LIMIT`] already.
    pub fn push(&mut self, span: Span) -> Result<(), SpanListFull> {
        if self.len() >= SPAN_LIST_LIMIT {
            return Err(SpanListFull(span));
        }
        self.storage.get_or_insert_with(stored_or_new).spans.push(span);
        Ok(())
    }

    /// How many spans it has.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether it has no span.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    /// The bytes of all spans together (saturating).
    pub fn total_bytes(&self) -> usize {
        self.iter().fold(0, |sum: usize, span| sum.saturating_add(span.len()))
    }

    /// Its spans in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Span> {
        self.as_slice().iter()
    }

    /// Its spans as a slice.
    pub fn as_slice(&self) -> &[Span] {
        self.storage.as_ref().map_or(&[], |storage| &storage.spans)
    }

    /// The span at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&Span> {
        self.as_slice().get(index)
    }

    /// Drops all spans.
    pub fn clear(&mut self) {
        if let Some(storage) = &mut self.storage {
            storage.spans.clear();
        }
    }
}

fn stored_or_new() -> Box<Storage> {
    let stored = STORE.try_with(|store| store.try_borrow_mut().ok()?.pop()).ok().flatten();
    stored.unwrap_or_else(|| Box::new(Storage { spans: Vec::with_capacity(USUAL_SPANS) }))
}

impl Drop for SpanList {
    fn drop(&mut self) {
        let Some(mut storage) = self.storage.take() else { return };
        storage.spans.clear(); // runs owners' code: before the store is borrowed
        storage.spans.shrink_to(USUAL_SPANS);
        let _ = STORE.try_with(|store| {
            if let Ok(mut store) = store.try_borrow_mut()
                && store.len() < STORED_BOXES
            {
                store.push(storage);
            }
        });
    }
}

impl Index<usize> for SpanList {
    type Output = Span;

    fn index(&self, index: usize) -> &Span {
        &self.as_slice()[index]
    }
}

impl<'a> IntoIterator for &'a SpanList {
    type Item = &'a Span;
    type IntoIter = std::slice::Iter<'a, Span>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// # Panics
/// When there are more than [`SPAN_LIST_LIMIT`] spans.
impl FromIterator<Span> for SpanList {
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut list = Self::new();
        for span in spans {
            list.push(span).expect("a span list holds at most 1024 spans");
        }
        list
    }
}

impl From<Span> for SpanList {
    fn from(span: Span) -> Self {
        std::iter::once(span).collect()
    }
}

impl From<Vec<Span>> for SpanList {
    fn from(spans: Vec<Span>) -> Self {
        spans.into_iter().collect()
    }
}

impl fmt::Debug for SpanList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<SpanList>();
    assert!(size_of::<SpanList>() <= 16);
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn storage_is_used_again() {
        let mut list = SpanList::new();
        list.push(Span::from("a")).expect("room");
        let first = list.as_slice().as_ptr();
        drop(list);
        let list = SpanList::from(Span::from("b"));
        assert_eq!(list.as_slice().as_ptr(), first);
        assert_eq!(list[0].bytes().expect("ordinary memory"), b"b");
    }

    #[test]
    fn the_limit_hands_the_span_back() {
        let mut list: SpanList = (0..SPAN_LIST_LIMIT).map(|_| Span::from("xy")).collect();
        assert_eq!((list.len(), list.total_bytes()), (1024, 2048));
        let refused = list.push(Span::from("late")).expect_err("the list is full");
        assert_eq!(refused.0.len(), 4);
        assert!(refused.to_string().contains("1024"));
        list.clear();
        assert!(list.is_empty() && list.get(0).is_none());
        list.push(Span::from("again")).expect("room");
        assert_eq!((&list).into_iter().count(), 1);
    }

    #[test]
    fn a_list_may_end_on_another_thread_and_inside_a_drop() {
        struct Nested(#[allow(dead_code)] SpanList);
        impl AsRef<[u8]> for Nested {
            fn as_ref(&self) -> &[u8] {
                b"nested"
            }
        }
        let inner = SpanList::from(vec![Span::from("in"), Span::from("ner")]);
        let owner = Span::from(bytes::Bytes::from_owner(Nested(inner)));
        let list = SpanList::from(owner);
        let total = std::thread::spawn(move || list.total_bytes()).join().expect("no panic");
        assert_eq!(total, 6);
    }
}
