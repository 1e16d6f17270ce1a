//! The kernel reads a send's bytes after the call has returned, so nothing borrowed makes a span.
use dataplane::regions::Span;

fn main() {
    let bytes = [1u8, 2, 3];
    let _span: Span = Span::from(&bytes[..]);
}
