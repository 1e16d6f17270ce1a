//! Proactors on threads of their own, one for each chosen CPU or NUMA node.
//!
//! A proactor scales by being there several times: each core polls its own, with its own sockets,
//! and nothing is shared on the way of an operation. The pool starts and ends them together and
//! says which is nearest to a CPU, so that work goes where its memory and its interrupts are.
//!
//! Which CPUs there are comes from sysfs and the calling thread's affinity mask (see
//! [`topology`](super::topology)): a process narrowed by taskset(1) or a cpuset gets no thread
//! outside. Nothing follows CPUs that come or go later.
//!
//! Either every thread has started or none is left: when one cannot start, those before it are
//! stopped and joined before the error is returned.

use super::thread::ProactorThread;
use super::topology::{Node, Topology};
use crate::engine::shutdown::Leaked;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Options;
use crate::proactor::Proactor;
use crate::remote::handle::Handle;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const START: &str = "start a proactor pool";

/// Which threads a pool has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// One for each CPU the calling thread may use, pinned to it.
    EachCpu,
    /// One for each NUMA node with such a CPU, on the node's CPUs.
    EachNode,
    /// One for each of these CPUs, pinned to it. A CPU may be named more than once.
    Cpus(Vec<u32>),
    /// One for each of these NUMA nodes, on those of its CPUs that may be used.
    Nodes(Vec<u32>),
    /// So many, wherever the scheduler puts them.
    Anywhere(usize),
}

/// Where one thread of a pool runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The CPUs it may run on, ascending; empty when it is not pinned.
    pub cpus: Vec<u32>,
    /// Their NUMA node, when they are of one.
    pub node: Option<u32>,
}

impl Place {
    fn on(node: &Node, cpus: Vec<u32>) -> Place {
        Place { cpus, node: Some(node.id) }
    }

    /// What tells its thread from the others in a list of threads.
    fn suffix(&self, at: usize) -> String {
        match (self.cpus.as_slice(), self.node) {
            ([cpu], _) => format!("cpu{cpu}"),
            ([_, ..], Some(node)) => format!("node{node}"),
            _ => at.to_string(),
        }
    }
}

/// See the head of this module. `Send` and `Sync`.
pub struct ProactorPool {
    threads: Vec<ProactorThread>,
    handles: Vec<Handle>,
    places: Vec<Place>,
    topology: Topology,
    turn: AtomicUsize,
}

impl fmt::Debug for ProactorPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProactorPool").field("places", &self.places).finish_non_exhaustive()
    }
}

impl ProactorPool {
    /// Starts the threads, each with a proactor made with `options`; their names are that of the
    /// options with the CPU, the node or a number behind it. [`Options::cpu`] is not looked at,
    /// except with [`Placement::Anywhere`].
    ///
    /// # Errors
    ///
    /// InvalidArgument for no thread at all, and for a CPU or node that is not there or may not be
    /// used, with those that may; as [`ProactorThread::start`]. No thread is left then.
    pub fn start(placement: Placement, options: Options) -> Result<ProactorPool> {
        ProactorPool::start_with(placement, options, |_, _| Ok(()))
    }

    /// As [`start`](Self::start), and runs `set_up` on each thread, with its number, before the
    /// first poll.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and the first that `set_up` returns.
    pub fn start_with(
        placement: Placement,
        options: Options,
        set_up: impl Fn(usize, &Proactor) -> Result<()> + Send + Sync + 'static,
    ) -> Result<ProactorPool> {
        let topology = Topology::here().map_err(|error| Error::from_io(START, &error))?;
        let places = places(&placement, &topology)?;
        let set_up = Arc::new(set_up);
        let mut pool = ProactorPool {
            threads: Vec::with_capacity(places.len()),
            handles: Vec::with_capacity(places.len()),
            places,
            topology,
            turn: AtomicUsize::new(0),
        };
        for (at, place) in pool.places.iter().enumerate() {
            let mut options = options.clone();
            options.name = format!("{}-{}", short(&options.name), place.suffix(at));
            let pinned = !place.cpus.is_empty();
            if pinned {
                options.cpu = None;
            }
            let (set_up, cpus) = (set_up.clone(), pinned.then(|| place.cpus.clone()));
            // On an error the pool is dropped: all are asked, then joined.
            let thread = ProactorThread::start_on(options, cpus, move |io| set_up(at, io))?;
            pool.handles.push(thread.handle());
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// How many threads it has; at least one.
    #[allow(clippy::len_without_is_empty)] // it is never empty
    pub fn len(&self) -> usize {
        self.handles.len()
    }

    /// The handle of the thread `at`, counted from zero; None past the last.
    pub fn handle(&self, at: usize) -> Option<&Handle> {
        self.handles.get(at)
    }

    /// Every handle, in the order of [`places`](Self::places).
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Where each thread runs.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The next handle in turn: each as often as the others, whoever asks.
    pub fn next(&self) -> &Handle {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.handles[turn % self.handles.len()]
    }

    /// The handle of the thread nearest to `cpu`: on it, else on its NUMA node, else on the node at
    /// the least distance. Among equals the first; any, where nothing is known of the CPU.
    pub fn nearest(&self, cpu: u32) -> &Handle {
        let node = self.topology.node_of(cpu).map(|node| node.id);
        let distance = |place: &Place| match (node, place.node) {
            _ if place.cpus == [cpu] => 0,
            _ if place.cpus.contains(&cpu) => 1,
            (Some(from), Some(to)) => self.topology.distance(from, to),
            _ => u32::MAX,
        };
        let nearest = (0..self.places.len()).min_by_key(|at| distance(&self.places[*at]));
        &self.handles[nearest.unwrap_or(0)]
    }

    /// Asks every loop to end, without waiting.
    pub fn request_stop(&self) {
        self.threads.iter().for_each(ProactorThread::request_stop);
    }

    /// Asks every loop to end and waits until all have. What had to be leaked is reported, added
    /// up.
    ///
    /// # Errors
    ///
    /// The first with which a thread ended, as [`ProactorThread::join`]; the others were waited for
    /// all the same.
    pub fn join(mut self) -> Result<Option<Leaked>> {
        self.request_stop();
        let mut first_error = None;
        let mut operations = 0;
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(leaked) => operations += leaked.map_or(0, |leaked| leaked.operations),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            Some(error) => Err(error),
            None => Ok((operations > 0).then_some(Leaked { operations })),
        }
    }
}

impl Drop for ProactorPool {
    fn drop(&mut self) {
        // All are asked before the first is waited for.
        self.request_stop();
    }
}

/// As much of a name as leaves room for a suffix: the kernel keeps 15 bytes of a thread's.
fn short(name: &str) -> &str {
    let end = (0..=name.len().min(9)).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

fn places(placement: &Placement, topology: &Topology) -> Result<Vec<Place>> {
    let invalid = |message: String| Error::new(START, ErrorKind::InvalidArgument, message);
    let one = |cpu: u32| {
        let node = topology.node_of(cpu).ok_or_else(|| {
            let usable = topology.cpus();
            invalid(format!("CPU {cpu} is not there, or may not be used; these may: {usable:?}"))
        })?;
        Ok(Place::on(node, vec![cpu]))
    };
    let whole = |node: &Node| Place::on(node, node.cpus.clone());
    let places: Vec<Place> = match placement {
        Placement::EachCpu => topology.cpus().into_iter().map(one).collect::<Result<_>>()?,
        Placement::Cpus(cpus) => cpus.iter().copied().map(one).collect::<Result<_>>()?,
        Placement::EachNode => topology.nodes.iter().map(whole).collect(),
        Placement::Nodes(ids) => {
            let named = |id: &u32| {
                let usable = || topology.nodes.iter().map(|node| node.id).collect::<Vec<_>>();
                let found = topology.nodes.iter().find(|node| node.id == *id);
                found.map(whole).ok_or_else(|| {
                    let usable = usable();
                    invalid(format!(
                        "node {id} has no CPU that may be used; these have: {usable:?}"
                    ))
                })
            };
            ids.iter().map(named).collect::<Result<_>>()?
        }
        Placement::Anywhere(count) => vec![Place { cpus: Vec::new(), node: None }; *count],
    };
    match places.is_empty() {
        true => {
            Err(invalid("a pool has at least one thread; name a CPU, a node or a count".into()))
        }
        false => Ok(places),
    }
}
