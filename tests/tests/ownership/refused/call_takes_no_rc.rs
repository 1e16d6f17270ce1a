//! What runs on the poll thread for another one crosses threads.
use std::rc::Rc;

fn call(handle: &dataplane::Handle) {
    let local = Rc::new(1);
    drop(handle.call(move |_| drop(local)));
}

fn main() {}
