//! The kernel's view of a vmcore: symbols, layouts, tasks, registers, modules.
//!
//! [`Kernel`] is an opened dump together with what its own memory says of the
//! kernel that ran. All of it is immutable; each part is made at first use.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::addr::{PhysAddr, VirtAddr};
use crate::debuginfo::btf::Btf;
use crate::debuginfo::dwarf::DwarfTypes;
use crate::debuginfo::elf::Vmlinux;
use crate::debuginfo::symbols::{Symbol, SymbolTable};
use crate::debuginfo::{Types, kallsyms, kallsyms_scan};
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::dump::{PhysicalMemory, Vmcore};
use crate::error::{Error, ReadFault, Result};
use crate::memory::paging::PageTables;
use crate::memory::{self, AddressSpace};

pub mod clock;
pub mod debug_files;
pub mod kaslr;
pub mod layout;
pub mod log;
pub mod modules;
pub mod object;
pub mod orc;
pub mod percpu;
pub mod registers;
pub mod stacks;
pub mod taint;
pub mod tasks;
pub mod usage;
pub mod utsname;

pub use layout::{KernelVersion, Layout};
pub use modules::Module;
pub use registers::TaskRegisters;
pub use tasks::{Task, TaskList};
pub use utsname::Utsname;

/// What the user says about a kernel dump.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A vmlinux with symbols, BTF or DWARF.
    pub vmlinux: Option<PathBuf>,
    /// Where separate debug files are looked for.
    pub debug_dirs: Vec<PathBuf>,
    /// The text of VMCOREINFO in a file, instead of the dump's own.
    pub vmcoreinfo: Option<PathBuf>,
    /// How far KASLR moved the kernel.
    pub kaslr_offset: Option<u64>,
    /// `phys_base`.
    pub phys_base: Option<i64>,
}

/// An opened kernel dump.
pub struct Kernel {
    dump: Arc<Vmcore>,
    options: Options,
    vmcoreinfo: Arc<VmcoreInfo>,
    kaslr_offset: u64,
    phys_base: i64,
    tables: Arc<PageTables>,
    symbols: Arc<SymbolTable>,
    btf: Option<Arc<Btf>>,
    dwarf: Option<DwarfTypes>,
    vmlinux: Option<Arc<Vmlinux>>,
    layout: Layout,
    percpu: percpu::PerCpu,
    tasks: OnceLock<TaskList>,
    panic_task: OnceLock<Option<Arc<Task>>>,
    modules: OnceLock<Vec<Module>>,
    module_symbols: OnceLock<Vec<SymbolTable>>,
    stacks: OnceLock<stacks::Stacks>,
    orc: OnceLock<orc::OrcTables>,
    debug_files: OnceLock<debug_files::DebugFiles>,
    text: OnceLock<std::ops::Range<u64>>,
    spaces: Mutex<HashMap<u64, Arc<PageTables>>>,
}

/// Page tables kept for user address spaces; beyond it they are made again.
const SPACES: usize = 1024;

/// Bytes that the symbols of all modules may take; those of a distribution's kernel
/// with everything loaded take 50 MiB. Damaged modules may share one large table.
const MODULE_SYMBOLS: usize = 512 << 20;

/// `KERNEL_IMAGE_SIZE`: the kernel image lies within so many bytes.
const KERNEL_IMAGE: u64 = 1 << 30;

/// Largest BTF that is believed (today's kernels have 5 to 10 MB).
const BTF_MAX: u64 = 256 << 20;

impl Kernel {
    /// Opens the kernel in `dump`: finds its page tables, its symbols and its
    /// types. `Err` says which of these is missing and which option supplies it.
    pub fn open(dump: Vmcore, options: Options) -> Result<Self> {
        let dump = Arc::new(dump);
        let place = kaslr::locate(&dump, &options)?;
        tracing::debug!(kaslr_offset = format_args!("{:#x}", place.kaslr_offset), "page tables found");
        let version = KernelVersion::parse(place.vmcoreinfo.release().unwrap_or_default());
        let vmlinux = options.vmlinux.as_deref().map(Vmlinux::open).transpose()?.map(Arc::new);
        if let Some(vmlinux) = &vmlinux {
            check_build_id(vmlinux, version.build_id(&place.vmcoreinfo))?;
        }
        let symbols = Arc::new(symbols(&dump, &place, &version, vmlinux.as_deref())?);
        tracing::debug!(symbols = symbols.len(), origin = symbols.origin(), "symbols read");
        let tables = Arc::new(place.tables);
        let (btf, dwarf) = types(&dump, tables.as_ref(), &symbols, vmlinux.as_ref())?;
        let all: &dyn Types = match (&btf, &dwarf) {
            (Some(btf), _) => btf.as_ref(),
            (None, Some(dwarf)) => dwarf,
            (None, None) => unreachable_types(&dump)?,
        };
        tracing::debug!(origin = all.origin(), "types read");
        let layout = Layout::resolve(all, version).map_err(|what| Error::Missing {
            path: dump.path().to_owned(),
            what,
            hint: "give --vmlinux FILE, the vmlinux with DWARF of this kernel",
        })?;
        tracing::debug!("layout resolved");
        let percpu = percpu::PerCpu::read(tables.as_ref(), &symbols);
        Ok(Self {
            dump,
            options,
            vmcoreinfo: place.vmcoreinfo,
            kaslr_offset: place.kaslr_offset,
            phys_base: place.phys_base,
            tables,
            symbols,
            btf,
            dwarf,
            vmlinux,
            layout,
            percpu,
            tasks: OnceLock::new(),
            panic_task: OnceLock::new(),
            modules: OnceLock::new(),
            module_symbols: OnceLock::new(),
            stacks: OnceLock::new(),
            orc: OnceLock::new(),
            debug_files: OnceLock::new(),
            text: OnceLock::new(),
            spaces: Mutex::new(HashMap::new()),
        })
    }

    /// The dump file.
    #[must_use]
    pub fn dump(&self) -> &Arc<Vmcore> {
        &self.dump
    }

    /// What the user said.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The VMCOREINFO in use.
    #[must_use]
    pub fn vmcoreinfo(&self) -> &VmcoreInfo {
        &self.vmcoreinfo
    }

    /// How far KASLR moved the kernel from its link addresses.
    #[must_use]
    pub fn kaslr_offset(&self) -> u64 {
        self.kaslr_offset
    }

    /// Physical address of `__START_KERNEL_map`; may be negative.
    #[must_use]
    pub fn phys_base(&self) -> i64 {
        self.phys_base
    }

    /// The kernel's own address space.
    #[must_use]
    pub fn space(&self) -> &Arc<PageTables> {
        &self.tables
    }

    /// Symbols of the kernel image at run-time addresses (not those of modules).
    #[must_use]
    pub fn symbols(&self) -> &Arc<SymbolTable> {
        &self.symbols
    }

    /// Run-time address of a symbol.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<VirtAddr> {
        self.symbols.by_name(name).map(|s| VirtAddr(s.address))
    }

    /// The kernel's BTF, if the dump or vmlinux has it.
    #[must_use]
    pub fn btf(&self) -> Option<&Arc<Btf>> {
        self.btf.as_ref()
    }

    /// The vmlinux given by the user.
    #[must_use]
    pub fn vmlinux(&self) -> Option<&Arc<Vmlinux>> {
        self.vmlinux.as_ref()
    }

    /// The kernel's types.
    #[must_use]
    pub fn types(&self) -> &dyn Types {
        match (&self.btf, &self.dwarf) {
            (Some(btf), _) => btf.as_ref(),
            (None, Some(dwarf)) => dwarf,
            (None, None) => &NoTypes,
        }
    }

    /// Offsets of the members that corestub itself reads.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Per-CPU offsets and CPU masks.
    #[must_use]
    pub fn percpu(&self) -> &percpu::PerCpu {
        &self.percpu
    }

    /// All tasks. Read at first use.
    #[must_use]
    pub fn tasks(&self) -> &TaskList {
        self.tasks.get_or_init(|| tasks::collect(self))
    }

    /// The task that was running where the kernel panicked, if it did. Does not
    /// need the list of tasks.
    #[must_use]
    pub fn panic_task(&self) -> Option<&Arc<Task>> {
        self.panic_task.get_or_init(|| tasks::panicked(self).map(Arc::new)).as_ref()
    }

    /// All modules, the newest first. Read at first use.
    #[must_use]
    pub fn modules(&self) -> &[Module] {
        self.modules.get_or_init(|| modules::collect(self))
    }

    /// The symbols of each module, in the order of [`Kernel::modules`].
    #[must_use]
    pub fn module_symbols(&self) -> &[SymbolTable] {
        self.module_symbols.get_or_init(|| {
            let mut left = MODULE_SYMBOLS;
            let tables = self.modules().iter().map(|module| {
                if left == 0 {
                    return SymbolTable::empty(format!("module {}: too many symbols before it", module.name));
                }
                let table = modules::symbols(self, module);
                left = left.saturating_sub(table.memory());
                table
            });
            tables.collect()
        })
    }

    /// The module in whose memory `addr` lies, with its symbols.
    #[must_use]
    pub fn module_at(&self, addr: VirtAddr) -> Option<(&Module, &SymbolTable)> {
        let i = self.modules().iter().position(|m| m.contains(addr))?;
        Some((self.modules().get(i)?, self.module_symbols().get(i)?))
    }

    /// The IRQ, exception and entry stacks of the CPUs. Read at first use.
    #[must_use]
    pub fn stacks(&self) -> &stacks::Stacks {
        self.stacks.get_or_init(|| stacks::Stacks::read(self))
    }

    /// The real vmlinux and modules with DWARF, where they are installed. Looked
    /// for at first use.
    #[must_use]
    pub fn debug_files(&self) -> &debug_files::DebugFiles {
        self.debug_files.get_or_init(|| debug_files::DebugFiles::find(self))
    }

    /// The ORC tables of the kernel and its modules. Read at first use.
    #[must_use]
    pub fn orc(&self) -> &orc::OrcTables {
        self.orc.get_or_init(|| orc::OrcTables::read(self))
    }

    /// Whether `addr` lies in code of the kernel or of a module.
    #[must_use]
    pub fn is_text(&self, addr: VirtAddr) -> bool {
        let own = self.text.get_or_init(|| {
            // The init text comes last; that it was freed is no harm.
            let end = ["_einittext", "_etext"].iter().find_map(|n| self.symbol(n));
            self.text_start().0..end.map_or(0, |a| a.0)
        });
        own.contains(&addr.0)
            || self
                .modules()
                .iter()
                .flat_map(|m| &m.ranges)
                .any(|r| r.text && addr.0.wrapping_sub(r.base.0) < r.size)
    }

    /// The symbol that holds `addr`, the offset into it, and the module it
    /// belongs to (`None`: the kernel itself).
    #[must_use]
    pub fn symbolise(&self, addr: VirtAddr) -> Option<(Symbol<'_>, u64, Option<&Module>)> {
        if let Some((module, symbols)) = self.module_at(addr) {
            return symbols.by_address(addr.0).map(|(s, offset)| (s, offset, Some(module)));
        }
        self.symbols.by_address(addr.0).map(|(s, offset)| (s, offset, None))
    }

    /// The BTF of each module that carries one: name, address, bytes.
    #[must_use]
    pub fn module_btf(&self) -> Vec<(String, VirtAddr, u64)> {
        modules::btf(self)
    }

    /// The first run-time address of the kernel image.
    #[must_use]
    pub fn text_start(&self) -> VirtAddr {
        self.symbol("_text")
            .or_else(|| self.vmcoreinfo.symbol("_stext").map(|a| VirtAddr(a & !0xfff)))
            .unwrap_or(VirtAddr(kaslr::LINK_TEXT.wrapping_add(self.kaslr_offset)))
    }

    /// First address that is not a user's.
    #[must_use]
    pub fn user_limit(&self) -> u64 {
        if self.tables.paging().levels == 5 { 1 << 56 } else { 1 << 47 }
    }

    /// The address space of a task's process: `mm->pgd`, the kernel half of the
    /// pair that page-table isolation keeps. `None` for kernel threads.
    pub fn task_space(&self, task: &Task) -> Option<Arc<PageTables>> {
        let mm = task.mm?;
        if let Some(space) = self.spaces.lock().unwrap_or_else(PoisonError::into_inner).get(&mm.0) {
            return Some(space.clone());
        }
        let pgd = self.tables.read_u64(mm.checked_add(self.layout.mm_pgd.offset)?).ok()?;
        let root: PhysAddr = self.tables.translate(VirtAddr(pgd)).ok()?;
        let memory: Arc<dyn PhysicalMemory> = self.dump.clone();
        let space = Arc::new(PageTables::new(memory, root, self.tables.paging()));
        let mut spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
        if spaces.len() >= SPACES {
            spaces.clear();
        }
        spaces.insert(mm.0, space.clone());
        Some(space)
    }

    /// Reads memory as `task` sees it: user addresses through its own tables.
    pub fn read_as(&self, task: Option<&Task>, addr: VirtAddr, buf: &mut [u8]) -> Result<usize, ReadFault> {
        if addr.0 < self.user_limit() {
            let space = task.and_then(|t| self.task_space(t));
            return space.ok_or(ReadFault::NoUserSpace { addr: addr.0 })?.read(addr, buf);
        }
        self.tables.read(addr, buf)
    }

    /// `THREAD_SIZE`, the size of a kernel stack.
    #[must_use]
    pub fn thread_size(&self) -> u64 {
        // `union thread_union` left the debug info with 4.16; the linker script
        // says it too, under another name since 6.10.
        let by_symbols = || {
            [("__start_init_task", "__end_init_task"), ("__start_init_stack", "__end_init_stack")]
                .iter()
                .find_map(|(a, b)| self.symbol(b)?.0.checked_sub(self.symbol(a)?.0))
        };
        let plausible = |n: &u64| n.is_power_of_two() && (0x1000..=0x40000).contains(n);
        by_symbols().filter(plausible).or(self.layout.thread_size.filter(plausible)).unwrap_or(0x4000)
    }

    /// The kernel's name for itself.
    #[must_use]
    pub fn utsname(&self) -> Utsname {
        utsname::read(self)
    }
}

/// Stands in where there are no types; [`Kernel::open`] does not let it happen.
struct NoTypes;

impl Types for NoTypes {
    fn size_of(&self, _: &str) -> Option<u64> {
        None
    }
    fn field(&self, _: &str, _: &str) -> Option<crate::debuginfo::Field> {
        None
    }
    fn enumerator(&self, _: &str) -> Option<i64> {
        None
    }
    fn array_len(&self, _: &str, _: &str) -> Option<u64> {
        None
    }
    fn origin(&self) -> &str {
        "no source of types"
    }
}

fn unreachable_types(dump: &Vmcore) -> Result<&'static dyn Types> {
    Err(Error::Missing {
        path: dump.path().to_owned(),
        what: "this kernel carries no BTF, so the layout of its structures is unknown".to_owned(),
        hint: "give --vmlinux FILE, the vmlinux with DWARF of this kernel",
    })
}

fn check_build_id(vmlinux: &Vmlinux, wanted: Option<String>) -> Result<()> {
    let (Some(found), Some(wanted)) = (vmlinux.build_id(), wanted) else { return Ok(()) };
    let found = found.to_string();
    if found.eq_ignore_ascii_case(&wanted) {
        return Ok(());
    }
    Err(Error::WrongBuildId { path: vmlinux.path().to_owned(), wanted, found })
}

fn symbols(
    dump: &Vmcore,
    place: &kaslr::Place,
    version: &KernelVersion,
    vmlinux: Option<&Vmlinux>,
) -> Result<SymbolTable> {
    let (vmcoreinfo, tables) = (&place.vmcoreinfo, &place.tables);
    let long_names = version.marks_long_names();
    let stext = vmcoreinfo.symbol("_stext");
    let own = kallsyms::Tables::from_lookup(&|name| vmcoreinfo.symbol(name))
        .ok_or_else(|| "VMCOREINFO does not name its kallsyms tables (kernels before 6.0)".to_owned())
        .and_then(|t| kallsyms::read(tables, &t, stext, long_names))
        .or_else(|why| {
            // Found by what they look like, and proven by `_stext`.
            tracing::info!("{why}; looking for kallsyms in the kernel image");
            let image = (VirtAddr(stext.unwrap_or(kaslr::KERNEL_MAP)), KERNEL_IMAGE);
            kallsyms_scan::find_and_read(tables, &[image], stext, long_names)
                .map_err(|scan| format!("{why}; {scan}"))
        });
    let why = match own {
        Ok(table) => return Ok(table),
        Err(why) => why,
    };
    if let Some(vmlinux) = vmlinux {
        tracing::info!(
            "kallsyms of the dump not usable ({why}); symbols are those of {}",
            vmlinux.path().display()
        );
        return vmlinux.symbols(place.kaslr_offset);
    }
    Err(Error::Missing {
        path: dump.path().to_owned(),
        what: format!("no symbols: {why}"),
        hint: "give --vmlinux FILE, the vmlinux of this kernel",
    })
}

type TypeSources = (Option<Arc<Btf>>, Option<DwarfTypes>);

fn types(
    dump: &Vmcore,
    space: &dyn AddressSpace,
    symbols: &SymbolTable,
    vmlinux: Option<&Arc<Vmlinux>>,
) -> Result<TypeSources> {
    match btf_of_dump(space, symbols) {
        Ok(btf) => return Ok((Some(Arc::new(btf)), None)),
        Err(why) => tracing::info!("no BTF in {}: {why}", dump.path().display()),
    }
    let Some(vmlinux) = vmlinux else { return Ok((None, None)) };
    if let Some(bytes) = vmlinux.section_data(".BTF")? {
        match Btf::parse(bytes.into_owned(), format!("BTF of {}", vmlinux.path().display())) {
            Ok(btf) => return Ok((Some(Arc::new(btf)), None)),
            Err(why) => tracing::warn!("BTF of {} not usable: {why}", vmlinux.path().display()),
        }
    }
    DwarfTypes::new(vmlinux.clone()).map(|dwarf| (None, Some(dwarf)))
}

fn btf_of_dump(space: &dyn AddressSpace, symbols: &SymbolTable) -> Result<Btf, String> {
    let at = |name: &str| symbols.by_name(name).map(|s| s.address).ok_or_else(|| format!("no symbol {name}"));
    let (start, stop) = (at("__start_BTF")?, at("__stop_BTF")?);
    let len = stop.checked_sub(start).filter(|n| (24..BTF_MAX).contains(n)).ok_or("its bounds contradict")?;
    let len = usize::try_from(len).map_err(|e| e.to_string())?;
    let bytes = memory::read_large(space, VirtAddr(start), len).map_err(|fault| fault.to_string())?;
    Btf::parse(bytes, "BTF in the dump").map_err(|e| e.to_string())
}
