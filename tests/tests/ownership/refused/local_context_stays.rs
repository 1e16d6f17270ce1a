//! A context without locks belongs to its thread: no other can post to it.
use dataplane::LocalContext;

fn post_elsewhere(context: LocalContext) {
    std::thread::spawn(move || context.post(|| ()));
}

fn main() {}
