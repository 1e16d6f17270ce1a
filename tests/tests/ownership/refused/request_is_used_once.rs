//! A request holds its buffer; it is submitted once.
use dataplane::Request;
use dataplane::operations::Recv;

fn submit<P: dataplane::Port>(request: Request<P, Recv>) {
    let _ = request.submit();
}

fn twice<P: dataplane::Port>(request: Request<P, Recv>) {
    submit(request);
    submit(request);
}

fn main() {}
