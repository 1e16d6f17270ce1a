//! Devices and libraries: what sysfs, /dev and the library folders list. Plain facts; nothing is
//! opened. Of it this version uses graphics drivers and Vulkan, for their fences.

use super::report::Check;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const UNUSED: &str = "not used by this version";
const FENCES: &str = "used for fences; `dataplane fence self-test` says which work";

/// All of them.
pub fn checks() -> Vec<Check> {
    vec![
        folder(
            "rdma",
            "/sys/class/infiniband",
            "",
            "a NIC with RDMA and its driver, or soft RoCE \
            on any NIC: `modprobe rdma_rxe`, `rdma link add rxe0 type rxe netdev NIC`",
        ),
        folder("nvme", "/sys/class/nvme", "", "an NVMe drive; other block devices work as well"),
        folder(
            "gpu",
            "/dev/dri",
            "renderD",
            "a GPU with a DRM driver, and /dev/dri in the \
            container (docker: --device /dev/dri)",
        ),
        folder(
            "dma-heaps",
            "/dev/dma_heap",
            "",
            "a kernel with CONFIG_DMABUF_HEAPS, and \
            /dev/dma_heap in the container",
        ),
        node(
            "udmabuf",
            "/dev/udmabuf",
            "`modprobe udmabuf` (CONFIG_UDMABUF), and /dev/udmabuf in \
            the container",
        ),
        vulkan(),
    ]
}

/// What a folder lists, of the entries that begin with `prefix`.
fn folder(name: &str, path: &str, prefix: &str, remedy: &str) -> Check {
    let proof = format!("listed {path}");
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Check::missing(name, "none", proof).remedy(remedy);
        }
        Err(error) => {
            return Check::limited(name, format!("{path}: {error}"), proof).remedy(remedy);
        }
    };
    let mut names: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|entry| entry.starts_with(prefix))
        .collect();
    names.sort();
    match names.is_empty() {
        true => Check::missing(name, "none", proof).remedy(remedy),
        false => {
            let used = if name == "gpu" { FENCES } else { UNUSED };
            Check::ok(name, proof).found(format!("{}; {used}", names.join(", ")))
        }
    }
}

fn node(name: &str, path: &str, remedy: &str) -> Check {
    let proof = format!("looked for {path}");
    match Path::new(path).try_exists() {
        Ok(true) => Check::ok(name, proof).found(format!("present; {UNUSED}")),
        Ok(false) => Check::missing(name, "none", proof).remedy(remedy),
        Err(error) => Check::limited(name, format!("{path}: {error}"), proof).remedy(remedy),
    }
}

const VULKAN: &str = "libvulkan.so.1";
const CACHE: &str = "/etc/ld.so.cache";

fn vulkan() -> Check {
    const NAME: &str = "vulkan-loader";
    let proof = format!("looked for {VULKAN} in LD_LIBRARY_PATH, {CACHE} and the system's folders");
    let listed = || in_cache(&fs::read(CACHE).unwrap_or_default(), VULKAN);
    let found = folders().into_iter().map(|folder| folder.join(VULKAN)).chain(listed());
    match found.into_iter().find(|path| path.exists()) {
        Some(path) => {
            Check::ok(NAME, proof).found(format!("present at {}; {FENCES}", path.display()))
        }
        None => Check::missing(NAME, "not found", proof).remedy(
            "for fences of Vulkan devices install it (the package is called libvulkan1 or \
             vulkan-loader) and a driver (mesa-vulkan-drivers, or the maker's)",
        ),
    }
}

/// Where the loader looks besides its cache (ld.so(8)).
fn folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::var_os("LD_LIBRARY_PATH")
        .map(|list| std::env::split_paths(&list).filter(|path| path.is_absolute()).collect())
        .unwrap_or_default();
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    for root in ["/lib", "/usr/lib", "/usr/local/lib"] {
        folders.extend([PathBuf::from(root), Path::new(root).join(&triplet)]);
        folders.push(PathBuf::from(format!("{root}64")));
    }
    folders
}

/// Paths in the loader's cache that end in `/name`: the cache holds them as strings that end in a
/// zero byte.
fn in_cache(cache: &[u8], name: &str) -> Vec<PathBuf> {
    let ending = format!("/{name}");
    cache
        .split(|&byte| byte == 0)
        .filter(|text| text.ends_with(ending.as_bytes()) && text.starts_with(b"/"))
        .map(|text| PathBuf::from(String::from_utf8_lossy(text).into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_searched_for_whole_names() {
        let cache = b"ld.so-1.7.0\0libvulkan.so.1\0/opt/v/libvulkan.so.1\0/x/notlibvulkan.so.1\0";
        assert_eq!(in_cache(cache, VULKAN), [PathBuf::from("/opt/v/libvulkan.so.1")]);
        assert!(in_cache(b"", VULKAN).is_empty());
    }

    #[test]
    fn a_folder_that_is_not_there_is_missing_with_a_remedy() {
        let check = folder("none", "/nonexistent/folder", "", "plug one in");
        assert_eq!(check.state, super::super::report::State::Missing);
        assert_eq!(check.remedy, "plug one in");
    }
}
