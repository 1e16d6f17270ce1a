//! Handles and what is made through them, buffers, registrations and pools cross threads.
use dataplane::operations::{AcceptMany, Recv};
use dataplane::regions::{Lease, Region, Slab, Span};
use dataplane::{
    Call, Context, ContextHandle, Error, Failed, File, Filled, Handle, Join, Nop, Options,
    ProactorPool, ProactorThread, ReceivePool, Registration, RemoteStream, RemoteSubmission, Sent,
    Socket, WorkGuard,
};

fn is_send<T: Send>() {}
fn is_sync<T: Sync>() {}

fn main() {
    is_send::<Handle>();
    is_sync::<Handle>();
    is_send::<Socket<Handle>>();
    is_sync::<Socket<Handle>>();
    is_send::<File<Handle>>();
    is_sync::<File<Handle>>();
    is_send::<RemoteSubmission<Nop>>();
    is_sync::<RemoteSubmission<Nop>>();
    is_send::<RemoteSubmission<Recv>>();
    is_send::<RemoteStream<AcceptMany>>();
    is_send::<Context>();
    is_sync::<Context>();
    is_send::<ContextHandle>();
    is_sync::<ContextHandle>();
    is_send::<Join<Lease>>();
    is_send::<WorkGuard>();
    is_send::<ProactorThread>();
    is_sync::<ProactorThread>();
    is_send::<ProactorPool>();
    is_sync::<ProactorPool>();
    is_send::<Call<Lease>>();
    is_send::<Failed<Recv>>();
    is_send::<Recv>();
    is_send::<Filled>();
    is_send::<Sent>();
    is_send::<Error>();
    is_sync::<Error>();
    is_send::<Lease>();
    is_send::<Span>();
    is_send::<Slab>();
    is_sync::<Slab>();
    is_send::<Region>();
    is_sync::<Region>();
    is_send::<Registration>();
    is_send::<ReceivePool>();
    is_send::<Options>();
    is_send::<dataplane::fence::Semaphore>();
    is_sync::<dataplane::fence::Semaphore>();
}
