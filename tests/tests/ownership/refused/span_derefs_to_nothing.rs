//! Others may be writing what a span is over: asking for its bytes can fail.
use dataplane::regions::Span;

fn main() {
    let span = Span::from(vec![1, 2, 3]);
    let _first = span[0];
}
