//! A span is shared: it gives no way to write, not even to its only owner.
use dataplane::regions::Span;

fn main() {
    let mut span = Span::from(vec![1, 2, 3]);
    let bytes: &mut [u8] = &mut span;
    bytes[0] = 9;
}
