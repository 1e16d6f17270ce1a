//! Where an operation may be submitted is a closed set.
struct Elsewhere;

fn submitted<P: dataplane::Port>(_: P) {}

fn main() {
    submitted(Elsewhere);
}
