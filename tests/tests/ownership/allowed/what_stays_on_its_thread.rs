//! What belongs to the thread that made it is not Send, and this program is the proof: were one of
//! these types Send, two implementations would fit and the call below would not say which.
use dataplane::operations::{AcceptMany, Recv};
use dataplane::{Batch, File, LocalContext, LocalContextHandle, LocalStream, LocalWorkGuard};
use dataplane::{Multi, Request, Submitted, Task};
use dataplane::{Nop, Proactor, Socket, Submission, Watch};

trait Stays<Which> {
    fn stays() {}
}
impl<T> Stays<()> for T {}
impl<T: Send> Stays<u8> for T {}

fn main() {
    <Proactor as Stays<_>>::stays();
    <Socket as Stays<_>>::stays();
    <File as Stays<_>>::stays();
    <Submission<Nop> as Stays<_>>::stays();
    <Submission<Recv> as Stays<_>>::stays();
    <LocalStream<AcceptMany> as Stays<_>>::stays();
    <Request<dataplane::Local, Recv> as Stays<_>>::stays();
    <Multi<dataplane::Local, AcceptMany> as Stays<_>>::stays();
    <LocalContext as Stays<_>>::stays();
    <LocalContextHandle as Stays<_>>::stays();
    <LocalWorkGuard as Stays<_>>::stays();
    <Task<u8> as Stays<_>>::stays();
    <Batch as Stays<_>>::stays();
    <Submitted as Stays<_>>::stays();
    <Watch as Stays<_>>::stays();
}
