//! What helps: one-line remedies, and settings to paste.

use dataplane::diagnose::{UringReport, io_uring_disabled};
use dataplane::{Capabilities, Capability};
use nix::errno::Errno;

/// Settings to paste, printed by `doctor --remedies`.
pub const TEXT: &str = r#"Settings to paste. `dataplane doctor` says which of them would help here.

1. io_uring in a container (docker, podman)

   The default seccomp profiles of current docker and podman forbid io_uring. Take the profile
   your engine starts from (podman: /usr/share/containers/seccomp.json; docker: default.json of
   the moby profiles), add this element to its "syscalls" array, and name the file when the
   container starts:

       {
         "names": ["io_uring_setup", "io_uring_enter", "io_uring_register"],
         "action": "SCMP_ACT_ALLOW"
       }

       jq '.syscalls += [{"names": ["io_uring_setup", "io_uring_enter", "io_uring_register"],
           "action": "SCMP_ACT_ALLOW"}]' seccomp.json > seccomp-io_uring.json
       docker run --security-opt seccomp=seccomp-io_uring.json \
           --ulimit memlock=-1 --ulimit nofile=1048576 IMAGE ...

   Slabs bound to a NUMA node need mbind(2), which the same profiles tie to one capability:

       docker run --cap-add SYS_NICE ...

2. A systemd service

       [Service]
       LimitMEMLOCK=infinity
       LimitNOFILE=1048576
       # Only for a unit that filters system calls. The first such line makes an allow-list, so
       # keep @system-service (or your own list) in it; @aio holds io_uring_setup,
       # io_uring_enter and io_uring_register.
       SystemCallFilter=@system-service @aio

3. A login session: /etc/security/limits.d/dataplane.conf, then log in again

       *    soft    memlock    unlimited
       *    hard    memlock    unlimited
       *    soft    nofile     1048576
       *    hard    nofile     1048576

4. The system: /etc/sysctl.d/60-dataplane.conf, then `sysctl --system` (as root)

       # 0: everybody may use io_uring; 1: the group below and CAP_SYS_ADMIN; 2: nobody.
       kernel.io_uring_disabled = 0
       # With 1 above, the number of the group that may:
       # kernel.io_uring_group = 1000
       # Huge pages of the default size (2 MiB on x86-64): 512 of them are 1 GiB.
       vm.nr_hugepages = 512
       # Measuring over loopback: bbr paces it, cubic does not.
       # net.ipv4.tcp_congestion_control = cubic
"#;

/// What would raise RLIMIT_MEMLOCK.
pub const MEMLOCK: &str = "raise RLIMIT_MEMLOCK: `ulimit -l unlimited` in the shell (or limits.d), \
    `LimitMEMLOCK=infinity` in a systemd unit, `--ulimit memlock=-1` for a container";

/// What would raise RLIMIT_NOFILE.
pub const NOFILE: &str = "raise RLIMIT_NOFILE: `ulimit -n 1048576` in the shell (or limits.d), \
    `LimitNOFILE=1048576` in a systemd unit, `--ulimit nofile=1048576` for a container";

/// What makes /proc readable.
pub const PROC: &str = "mount /proc (`mount -t proc proc /proc`) in this container or chroot";

/// What makes files where checks can put them.
pub const TEMPORARY: &str = "name a writable folder on a disk file system (ext4, xfs, btrfs) in \
    TMPDIR";

/// What stands between this process and a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The sysctl kernel.io_uring_disabled, with its value.
    Sysctl(u32),
    /// A security policy: seccomp, or a security module.
    Policy,
    /// The kernel has no io_uring, or a policy makes it look so.
    Absent,
    /// The kernel's io_uring lacks what a proactor stands on.
    TooOld,
    /// Too little memory that may be locked.
    Memory,
    /// Too few descriptors.
    Descriptors,
    /// Anything else.
    Other,
}

/// Tells the obstacle from what the kernel answered and what the sysctl says.
pub fn obstacle(errno: Option<i32>, disabled: Option<u32>) -> Obstacle {
    match (errno.map(Errno::from_raw), disabled) {
        (Some(Errno::EPERM), Some(value)) if value > 0 => Obstacle::Sysctl(value),
        (Some(Errno::EPERM | Errno::EACCES), _) => Obstacle::Policy,
        // A kernel with the sysctl has io_uring: somebody else answered.
        (Some(Errno::ENOSYS), Some(_)) => Obstacle::Policy,
        (Some(Errno::ENOSYS), None) => Obstacle::Absent,
        (Some(Errno::EINVAL | Errno::EOPNOTSUPP), _) => Obstacle::TooOld,
        (Some(Errno::ENOMEM), _) => Obstacle::Memory,
        (Some(Errno::EMFILE | Errno::ENFILE), _) => Obstacle::Descriptors,
        _ => Obstacle::Other,
    }
}

/// What would bring io_uring here, or a larger ring where a small one can be made.
pub fn for_io_uring(uring: &UringReport) -> String {
    let Some(why) = &uring.unavailable else { return MEMLOCK.to_owned() };
    let errno = why.errno;
    let disabled = io_uring_disabled().ok().flatten();
    let text = match obstacle(errno, disabled) {
        Obstacle::Sysctl(1) => {
            "join the group of kernel.io_uring_group, or `sysctl -w kernel.io_uring_disabled=0` \
             as root"
        }
        Obstacle::Sysctl(_) => "`sysctl -w kernel.io_uring_disabled=0` as root",
        Obstacle::Policy => {
            "let the seccomp profile or service unit allow io_uring_setup, io_uring_enter and \
             io_uring_register: `dataplane doctor --remedies` has both to paste"
        }
        Obstacle::Absent => {
            "a kernel with CONFIG_IO_URING, 6.1 or newer; in a container, a seccomp profile that \
             allows it (`dataplane doctor --remedies`)"
        }
        Obstacle::TooOld => "a kernel of 6.1 or newer",
        Obstacle::Memory => MEMLOCK,
        Obstacle::Descriptors => NOFILE,
        Obstacle::Other => "none known; the readiness backends give the same results",
    };
    text.to_owned()
}

/// Capabilities that no operation of this version would use.
pub fn is_for_later(capability: Capability) -> bool {
    !Capabilities::used().contains(capability)
}

/// What would bring a capability to a kernel that has io_uring.
pub fn for_capability(capability: Capability) -> String {
    let kernel = match capability {
        _ if is_for_later(capability) => {
            return "none: this version of dataplane has no operation that would use it".to_owned();
        }
        Capability::ZeroCopySend => "6.2",
        Capability::Multishot
        | Capability::FixedFiles
        | Capability::RegisteredBuffers
        | Capability::BufferRings => "6.1",
        _ => return "a newer kernel".to_owned(),
    };
    format!(
        "a kernel of {kernel} or newer; on such a kernel, a security policy refuses it, or \
         RLIMIT_MEMLOCK or RLIMIT_NOFILE is too small"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_obstacle_is_told_by_errno_and_sysctl() {
        let eperm = Some(Errno::EPERM as i32);
        let enosys = Some(Errno::ENOSYS as i32);
        assert_eq!(obstacle(eperm, Some(2)), Obstacle::Sysctl(2));
        assert_eq!(obstacle(eperm, Some(0)), Obstacle::Policy);
        assert_eq!(obstacle(eperm, None), Obstacle::Policy);
        assert_eq!(obstacle(enosys, Some(0)), Obstacle::Policy);
        assert_eq!(obstacle(enosys, None), Obstacle::Absent);
        assert_eq!(obstacle(Some(Errno::EINVAL as i32), Some(0)), Obstacle::TooOld);
        assert_eq!(obstacle(Some(Errno::EMFILE as i32), Some(0)), Obstacle::Descriptors);
        assert_eq!(obstacle(Some(Errno::ENOMEM as i32), Some(0)), Obstacle::Memory);
        assert_eq!(obstacle(None, Some(0)), Obstacle::Other);
    }

    #[test]
    fn the_profile_element_is_json() {
        let from = TEXT.find("{\n").expect("the element is there");
        let to = from + TEXT[from..].find('}').expect("and ends") + 1;
        let element: serde_json::Value = serde_json::from_str(&TEXT[from..to]).unwrap();
        assert_eq!(element["action"], "SCMP_ACT_ALLOW");
        assert_eq!(element["names"].as_array().unwrap().len(), 3);
    }
}
