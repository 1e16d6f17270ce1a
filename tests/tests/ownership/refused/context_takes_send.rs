//! What is posted to a context may run on any of its threads.
use dataplane::Context;
use std::rc::Rc;

fn post(context: &Context) {
    let counted = Rc::new(1);
    context.post(move || drop(counted));
}

fn main() {}
