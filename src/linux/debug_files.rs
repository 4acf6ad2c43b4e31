//! The real files with DWARF that belong to a dumped kernel, where there are any.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Kernel, Module};
use crate::addr::VirtAddr;
use crate::debuginfo::elf::Vmlinux;
use crate::debuginfo::locate::{Locator, Search};
use crate::elf::BuildId;
use crate::memory::AddressSpace;

/// What was found, each checked by build-id.
pub struct DebugFiles {
    /// The kernel's build-id.
    pub build_id: Option<BuildId>,
    /// vmlinux with DWARF: the one given, else the one found.
    pub vmlinux: Option<Arc<Vmlinux>>,
    /// A file with DWARF for each module, in the order of [`Kernel::modules`].
    pub modules: Vec<Option<PathBuf>>,
    /// How vmlinux was looked for, if it was.
    pub vmlinux_search: Option<Search>,
    /// How the file of each module was looked for.
    pub module_searches: Vec<Search>,
    /// Where things are looked for, in words.
    pub places: String,
}

impl DebugFiles {
    pub(super) fn find(kernel: &Kernel) -> Self {
        let locator = Locator::new(kernel.options().debug_dirs.clone(), kernel.dump().path());
        let release = kernel.layout().version.release();
        let build_id = build_id(kernel);
        let given = kernel.vmlinux().filter(|v| v.has_dwarf()).cloned();
        let wanted = build_id.as_ref().filter(|_| given.is_none());
        let vmlinux_search = wanted.map(|id| locator.vmlinux(release, id));
        let vmlinux = given.or_else(|| {
            let path = vmlinux_search.as_ref()?.found.as_ref()?;
            let file = Vmlinux::open(path).inspect_err(|e| tracing::warn!("{e}")).ok()?;
            file.has_dwarf().then(|| Arc::new(file))
        });
        let search = |module: &Module| locator.module(release, &module.name, module.build_id.as_ref());
        let module_searches: Vec<Search> = kernel.modules().iter().map(search).collect();
        let with_dwarf = |path: &PathBuf| Vmlinux::open(path).is_ok_and(|file| file.has_dwarf());
        let modules = module_searches.iter().map(|s| s.found.clone().filter(with_dwarf)).collect();
        Self { build_id, vmlinux, modules, vmlinux_search, module_searches, places: locator.places() }
    }
}

/// By VMCOREINFO where that is to be trusted, else by the kernel's own notes.
fn build_id(kernel: &Kernel) -> Option<BuildId> {
    if let Some(id) = kernel.layout().version.build_id(kernel.vmcoreinfo()) {
        return Some(id);
    }
    let (start, stop) = (kernel.symbol("__start_notes")?, kernel.symbol("__stop_notes")?);
    in_memory(kernel.space(), start, stop)
}

/// The build-id of a running kernel: in the notes from `start` to `stop`.
fn in_memory(space: &dyn AddressSpace, start: VirtAddr, stop: VirtAddr) -> Option<BuildId> {
    let len = usize::try_from(stop.0.checked_sub(start.0)?).ok().filter(|len| *len <= 1 << 16)?;
    BuildId::from_notes(&space.read_vec(start, len).ok()?, 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debuginfo::{kallsyms, lab};

    #[test]
    fn in_the_memory_of_a_kernel() {
        for scenario in lab::scenarios("qemu.elf") {
            let guest = lab::Guest::open(&scenario);
            let tables = kallsyms::Tables::from_lookup(&|name| guest.symbol(name)).unwrap();
            let table = kallsyms::read(&guest, &tables, None, true).unwrap();
            let at = |name| VirtAddr(table.address(name).unwrap());
            let id = in_memory(&guest, at("__start_notes"), at("__stop_notes")).unwrap();
            assert_eq!(id.to_string(), guest.get("BUILD-ID").unwrap());
        }
    }
}
