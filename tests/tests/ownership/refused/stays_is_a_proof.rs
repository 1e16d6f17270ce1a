//! The proof in `allowed/what_stays_on_its_thread.rs` works: of a type that is Send it is refused.
trait Stays<Which> {
    fn stays() {}
}
impl<T> Stays<()> for T {}
impl<T: Send> Stays<u8> for T {}

fn main() {
    <dataplane::Handle as Stays<_>>::stays();
}
