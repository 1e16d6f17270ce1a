//! Groups: what is run together in one guest.
//!
//! A new group is one entry in [`GROUPS`]: the devices it is about and the programs it runs. A
//! program passes when it exits with 0 within its limit and at least one of the cases it reports
//! passed; the forms of a case that are understood are in `report`. The devices are looked at
//! first, whatever the programs do.

use crate::device::{self, Device};
use crate::packages::kernel::Kernel;
use crate::packages::userland::UserLand;
use crate::program::{Program, Target};
use std::time::Duration;

/// Run first in a group that has devices: fails where one of them is not there or does not work.
const DEVICES: Program = Program {
    package: "conformance",
    target: Target::Binary("lab-devices"),
    arguments: &[],
    takes_rest: false,
    limit: Duration::from_secs(60),
};

/// What is run together in one guest.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// What must be there, on the kernels that have it.
    pub(crate) devices: &'static [&'static Device],
    /// Run in this order, whether those before passed or not.
    programs: &'static [Program],
    /// Memory of the guest, in MiB.
    pub(crate) memory_mib: u32,
}

/// Every group.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        name: "conformance",
        about: "the conformance suite: io_uring full and minimal, epoll, poll",
        devices: &[],
        programs: &[Program {
            package: "conformance",
            target: Target::Binary("conformance"),
            arguments: &[
                "--json",
                "--configuration=full",
                "--configuration=minimal",
                "--configuration=epoll",
                "--configuration=poll",
            ],
            takes_rest: true,
            limit: Duration::from_secs(900),
        }],
        memory_mib: 1024,
    },
    Group {
        name: "process",
        about: "what needs a process of its own: fork, signals, limits, refused system calls",
        devices: &[],
        programs: &[Program {
            package: "conformance",
            target: Target::Test("process"),
            arguments: &["--test-threads=1"],
            takes_rest: true,
            limit: Duration::from_secs(600),
        }],
        memory_mib: 1024,
    },
    Group {
        name: "fences",
        about: "fences and dma-bufs of real drivers",
        devices: &[&device::VGEM, &device::SYNCOBJ, &device::UDMABUF, &device::FAILING_FENCE],
        programs: &[
            Program {
                package: "conformance",
                target: Target::Binary("lab-devices"),
                arguments: &["fences"],
                takes_rest: false,
                limit: Duration::from_secs(300),
            },
            Program {
                package: "conformance",
                target: Target::Binary("conformance"),
                arguments: &[
                    "--json",
                    "--case=fence/",
                    "--configuration=full",
                    "--configuration=epoll",
                    "--configuration=poll",
                ],
                takes_rest: false,
                limit: Duration::from_secs(120),
            },
        ],
        memory_mib: 512,
    },
    Group {
        name: "vulkan",
        about: "Vulkan beside fences and dma-bufs of real drivers; with --here, beside none",
        devices: &[
            &device::VULKAN,
            &device::UDMABUF,
            &device::VGEM,
            &device::SYNCOBJ,
            &device::FAILING_FENCE,
        ],
        programs: &[Program {
            package: "conformance",
            target: Target::Binary("conformance"),
            arguments: &[
                "--json",
                "--case=vulkan/",
                "--configuration=full",
                "--configuration=epoll",
                "--configuration=poll",
            ],
            takes_rest: true,
            limit: Duration::from_secs(300),
        }],
        memory_mib: 2048,
    },
];

impl Group {
    /// What the guest runs.
    pub(crate) fn programs(&self) -> Vec<&'static Program> {
        let first = if self.devices.is_empty() { None } else { Some(&DEVICES) };
        first.into_iter().chain(self.programs).collect()
    }

    /// What its programs run in, where that is not what they were built on.
    pub(crate) fn user_land(&self) -> Option<&'static UserLand> {
        self.devices.iter().find_map(|device| device.user_land)
    }

    /// Whether the kernel has any of what the group is about.
    pub(crate) fn is_for(&self, kernel: &Kernel) -> bool {
        self.devices.is_empty() || self.devices.iter().any(|device| kernel.has(device))
    }
}

/// The groups with these names, in the order of [`GROUPS`]; all when there are none.
pub(crate) fn named(names: &[String]) -> Result<Vec<&'static Group>, String> {
    let known: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
    if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("no group `{name}`; there are {}", known.join(", ")));
    }
    let is_wanted =
        |group: &&Group| names.is_empty() || names.iter().any(|name| name == group.name);
    Ok(GROUPS.iter().filter(is_wanted).collect())
}
