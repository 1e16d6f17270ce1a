//! Callbacks of the owner's thread may hold what stays on it.
use std::cell::Cell;
use std::rc::Rc;

fn main() {
    let io = dataplane::Proactor::new().unwrap();
    let count = Rc::new(Cell::new(0));
    let inside = count.clone();
    let submitted = io.nop().on_complete(move |_| inside.set(inside.get() + 1));
    submitted.map_err(dataplane::Failed::into_error).unwrap();
    while count.get() == 0 {
        io.poll(dataplane::Wait::Forever).unwrap();
    }
}
