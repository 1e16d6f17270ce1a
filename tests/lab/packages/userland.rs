//! A user land: libraries newer than the machine's, and what they need down to the C library.
//!
//! It is unpacked into the cache and never installed. A program runs in it through its own loader,
//! on this machine or in a guest that has it mounted: built here, linked with what is there. So it
//! is asked for libraries that the machine has in an older form, or not at all. What such a program
//! takes for its own file (`/proc/self/exe`) is the loader.

use super::Cache;
use std::path::{Path, PathBuf};

/// Where guests have it.
pub(crate) const IN_GUEST: &str = "/userland";

const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// One user land.
pub(crate) struct UserLand {
    /// Of its folder in the cache.
    name: &'static str,
    suite: &'static str,
    /// Without those they depend on.
    packages: &'static [&'static str],
    /// Variables that name a file of it.
    files: &'static [(&'static str, &'static str)],
    /// Other variables.
    settings: &'static [(&'static str, &'static str)],
}

const LAVAPIPE: &str = "usr/share/vulkan/icd.d/lvp_icd.json";

/// Vulkan on the processor, new enough to export semaphores as sync_files (mesa 26.1) and memory as
/// dma-bufs.
pub(crate) const MESA: UserLand = UserLand {
    name: "mesa",
    suite: "trixie-backports",
    packages: &["mesa-vulkan-drivers", "libvulkan1"],
    // One driver alone, by the variable's name of today and the one before.
    files: &[("VK_DRIVER_FILES", LAVAPIPE), ("VK_ICD_FILENAMES", LAVAPIPE)],
    settings: &[
        // The machine's own layers are linked with the machine's own libraries.
        ("VK_LOADER_LAYERS_DISABLE", "~implicit~"),
        // Nothing is left in the home of whoever runs it.
        ("MESA_SHADER_CACHE_DISABLE", "true"),
    ],
};

/// For the programs that kernels are built with.
pub(crate) const TOOLS: UserLand = UserLand {
    name: "tools",
    suite: "trixie",
    packages: &["libc6", "libelf1t64"],
    files: &[],
    settings: &[],
};

impl UserLand {
    /// Its folder, fetched into the cache where it is not there yet.
    pub(crate) fn get(&self, cache: &Cache) -> Result<PathBuf, String> {
        cache.folder(&format!("userlands/{}", self.name), |into| {
            let suite = cache.suite(self.suite)?;
            suite.unpack(&suite.closure(self.packages)?, into)
        })
    }

    /// The beginning of a command line that runs a program in it.
    pub(crate) fn command(&self, root: &Path) -> [String; 3] {
        let at = |path: &str| root.join(path).display().to_string();
        [at(LOADER), "--library-path".to_owned(), at(LIBRARIES)]
    }

    /// The variables its libraries want.
    pub(crate) fn environment(&self, root: &Path) -> Vec<(&'static str, String)> {
        let files = self.files.iter().map(|(name, file)| (*name, root.join(file)));
        let files = files.map(|(name, file)| (name, file.display().to_string()));
        let settings = self.settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        files.chain(settings).collect()
    }
}
