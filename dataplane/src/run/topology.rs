//! CPUs and NUMA nodes: which there are, which this thread may use, and how far apart they lie.
//!
//! Read from sysfs (`cpu/online`, `node/node*/cpulist`, `node/node*/distance`; see
//! Documentation/ABI/stable/sysfs-devices-node in the kernel's sources) and narrowed to the
//! affinity mask of the calling thread, which is what the threads it starts inherit. A kernel
//! without NUMA, or a container that hides the files, is one node with every CPU of the mask. Read
//! anew each time: CPUs come and go.

use crate::sys::limits;
use std::io;
use std::path::Path;

/// Where the kernel lists both.
const SYSFS: &str = "/sys/devices/system";

/// Distance of a node to itself, in the table's unit: every other is at least as far.
const NEAREST: u32 = 10;

/// One NUMA node with the CPUs that may be used there; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: u32,
    /// Ascending.
    pub(super) cpus: Vec<u32>,
    /// To the nodes of this machine, in the order of their numbers, as firmware tells it.
    distances: Vec<u32>,
}

/// The nodes with a CPU that may be used, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    pub(super) nodes: Vec<Node>,
    /// The numbers of all nodes, which is what the columns of `distances` are.
    columns: Vec<u32>,
}

impl Topology {
    /// Of this machine, for the calling thread.
    ///
    /// # Errors
    ///
    /// What sched_getaffinity(2) says.
    pub(super) fn here() -> io::Result<Topology> {
        Ok(Topology::read(Path::new(SYSFS), &limits::allowed_cpus()?))
    }

    fn read(root: &Path, allowed: &[u32]) -> Topology {
        let list = |path: &str| std::fs::read_to_string(root.join(path)).ok().map(|l| numbers(&l));
        let mut usable = allowed.to_vec();
        if let Some(online) = list("cpu/online").filter(|online| !online.is_empty()) {
            usable.retain(|cpu| online.contains(cpu));
        }
        let columns = list("node/online").unwrap_or_default();
        let mut nodes = Vec::new();
        for &id in &columns {
            let mut cpus = list(&format!("node/node{id}/cpulist")).unwrap_or_default();
            cpus.retain(|cpu| usable.contains(cpu));
            let distances = std::fs::read_to_string(root.join(format!("node/node{id}/distance")));
            let distances = distances.unwrap_or_default();
            let distances = distances.split_whitespace().filter_map(|n| n.parse().ok()).collect();
            if !cpus.is_empty() {
                nodes.push(Node { id, cpus, distances });
            }
        }
        if nodes.is_empty() {
            nodes.push(Node { id: 0, cpus: usable, distances: Vec::new() });
        }
        Topology { nodes, columns }
    }

    /// Every CPU that may be used.
    pub(super) fn cpus(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.nodes.iter().flat_map(|node| node.cpus.clone()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The node of a CPU, if the CPU may be used.
    pub(super) fn node_of(&self, cpu: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.cpus.contains(&cpu))
    }

    /// How far two nodes lie apart; what firmware did not tell counts as twice the nearest.
    pub(super) fn distance(&self, from: u32, to: u32) -> u32 {
        if from == to {
            return NEAREST;
        }
        let column = self.columns.iter().position(|id| *id == to);
        let row = self.nodes.iter().find(|node| node.id == from);
        let told = row.zip(column).and_then(|(node, at)| node.distances.get(at));
        told.copied().unwrap_or(2 * NEAREST)
    }
}

/// The numbers of a list as the kernel prints it: `0-3,8,10-11`. What is no number is left out.
fn numbers(list: &str) -> Vec<u32> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) {
            // A machine has thousands at most; a list that says otherwise is not the kernel's.
            all.extend((first..=last).take(1 << 16));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder laid out as sysfs is, gone with the test.
    struct Sysfs(std::path::PathBuf);

    impl Sysfs {
        fn new(name: &str, files: &[(&str, &str)]) -> Sysfs {
            let folder = format!("dataplane-topology-{name}-{}", std::process::id());
            let root = std::env::temp_dir().join(folder);
            for (path, text) in files {
                let path = root.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Sysfs(root)
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lists_are_read_as_the_kernel_prints_them() {
        assert_eq!(numbers("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(numbers("5\n"), [5]);
        assert_eq!(numbers("\n"), [] as [u32; 0]);
        assert_eq!(numbers("x,3-1,2"), [2]);
    }

    #[test]
    fn two_sockets_and_a_mask_that_leaves_out_part_of_one() {
        let sysfs = Sysfs::new(
            "two",
            &[
                ("cpu/online", "0-7\n"),
                ("node/online", "0-2\n"),
                ("node/node0/cpulist", "0-3\n"),
                ("node/node0/distance", "10 21 15\n"),
                ("node/node1/cpulist", "4-7\n"),
                ("node/node1/distance", "21 10 31\n"),
                ("node/node2/cpulist", "\n"),
            ],
        );
        let found = Topology::read(&sysfs.0, &[2, 3, 4, 9]);
        assert_eq!(found.cpus(), [2, 3, 4], "CPU 9 is not online");
        assert_eq!(found.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(found.node_of(4).map(|node| node.id), Some(1));
        assert_eq!(found.node_of(5), None, "it may not be used");
        assert_eq!(
            (found.distance(0, 1), found.distance(1, 0), found.distance(1, 1)),
            (21, 21, 10)
        );
        assert_eq!(found.distance(1, 2), 31, "memory without a CPU has a distance too");
        assert_eq!(found.distance(7, 0), 20, "nobody told");
    }

    #[test]
    fn without_numa_there_is_one_node() {
        let sysfs = Sysfs::new("none", &[("cpu/online", "0-1\n")]);
        let found = Topology::read(&sysfs.0, &[0, 1, 2]);
        assert_eq!(found.nodes.len(), 1);
        assert_eq!((found.nodes[0].id, found.cpus()), (0, vec![0, 1]));
        let hidden = Topology::read(&sysfs.0.join("nothing"), &[3]);
        assert_eq!(hidden.cpus(), [3], "the mask is all that is known");
    }

    #[test]
    fn this_machine_has_what_the_mask_says() {
        let allowed = limits::allowed_cpus().unwrap();
        let here = Topology::here().unwrap();
        assert!(!here.cpus().is_empty());
        assert!(here.cpus().iter().all(|cpu| allowed.contains(cpu)));
    }
}
