//! An opened kernel: its [`View`], and what was read through it once.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::log::Log;
use super::memory::Memory;
use super::open::{Opened, open};
use super::system_registers::StartUp;
use super::tasks::Scanned;
use super::{Module, Options, Panicked, Task, TaskList, Utsname, View};
use super::{cfi, debug_files, entry_text, log, modules, orc, stacks, task_scan, tasks, utsname, vmalloc};
use crate::addr::{PhysAddr, VirtAddr};
use crate::arch::map;
use crate::arch::stub::Stub;
use crate::debuginfo::btf::Btf;
use crate::debuginfo::elf::Vmlinux;
use crate::debuginfo::symbols::{Symbol, SymbolTable, plus};
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::dump::{PhysicalMemory, Vmcore};
use crate::error::{Error, ReadFault, Result};
use crate::memory::AddressSpace;
use crate::memory::paging::PageTables;

/// An opened kernel dump: immutable, each part made at first use. It is a
/// [`View`] too, for all that needs no more.
pub struct Kernel {
    opened: Opened,
    kept: Kept,
}

/// What was read, once.
#[derive(Default)]
struct Kept {
    tasks: OnceLock<TaskList>,
    panicked: OnceLock<Panicked>,
    modules: OnceLock<Vec<Module>>,
    module_symbols: OnceLock<Vec<SymbolTable>>,
    log: OnceLock<Log>,
    stacks: OnceLock<stacks::Stacks>,
    orc: OnceLock<orc::OrcTables>,
    cfi: cfi::Rules,
    stubs: OnceLock<Vec<(std::ops::Range<u64>, Stub)>>,
    debug_files: OnceLock<debug_files::DebugFiles>,
    text: OnceLock<[std::ops::Range<u64>; 2]>,
    start_up: OnceLock<StartUp>,
    spaces: Mutex<HashMap<u64, Arc<PageTables>>>,
    memory: OnceLock<Memory>,
}

/// Page tables kept for user address spaces; beyond it they are made again.
const SPACES: usize = 1024;

impl Deref for Kernel {
    type Target = View;

    fn deref(&self) -> &View {
        &self.opened.view
    }
}

impl Kernel {
    /// Opens the kernel in `dump`: finds its page tables, its symbols and its
    /// types. `Err` says which of these is missing and which option supplies it.
    pub fn open(dump: Vmcore, options: Options) -> Result<Self> {
        let mut kernel = Self::open_partly(dump, options)?;
        kernel.opened.lack.take().map_or(Ok(kernel), Err)
    }

    /// The same of whatever can be made out: see [`Self::lack`].
    pub fn open_partly(dump: Vmcore, options: Options) -> Result<Self> {
        Ok(Self { opened: open(dump, options)?, kept: Kept::default() })
    }

    /// A kernel that is read through `view` alone.
    #[cfg(test)]
    pub(super) fn made_up(view: View, vmlinux: Option<Vmlinux>) -> Self {
        let opened = Opened { vmlinux: vmlinux.map(Arc::new), ..Opened::made_up(view) };
        Self { opened, kept: Kept::default() }
    }

    /// The same kernel, read through another space; nothing that was read of this one is kept.
    #[must_use]
    pub fn through(&self, space: Arc<dyn AddressSpace>) -> Self {
        Self { opened: self.opened.through(space), kept: Kept::default() }
    }

    /// What is missing for anything more than memory, symbols and the log.
    #[must_use]
    pub fn lack(&self) -> Option<&Error> {
        self.opened.lack.as_ref()
    }

    /// The dump file.
    #[must_use]
    pub fn dump(&self) -> &Arc<Vmcore> {
        &self.opened.dump
    }

    /// What the user said.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.opened.options
    }

    /// The VMCOREINFO in use.
    #[must_use]
    pub fn vmcoreinfo(&self) -> &VmcoreInfo {
        &self.opened.vmcoreinfo
    }

    /// What is said of VMCOREINFO where the dump's copy of it was damaged.
    #[must_use]
    pub fn vmcoreinfo_mended(&self) -> Option<&str> {
        self.opened.mended.as_deref()
    }

    /// How far KASLR moved the kernel from its link addresses.
    #[must_use]
    pub fn kaslr_offset(&self) -> u64 {
        self.opened.kaslr_offset
    }

    /// Physical address of `__START_KERNEL_map`; may be negative.
    #[must_use]
    pub fn phys_base(&self) -> i64 {
        self.opened.phys_base
    }

    /// The kernel's own page tables.
    #[must_use]
    pub fn tables(&self) -> &Arc<PageTables> {
        &self.opened.tables
    }

    /// The kernel's BTF, if the dump or vmlinux has it.
    #[must_use]
    pub fn btf(&self) -> Option<&Arc<Btf>> {
        self.opened.btf.as_ref()
    }

    /// The vmlinux given by the user.
    #[must_use]
    pub fn vmlinux(&self) -> Option<&Arc<Vmlinux>> {
        self.opened.vmlinux.as_ref()
    }

    /// All tasks. Read at first use.
    #[must_use]
    pub fn tasks(&self) -> &TaskList {
        let scan = |view: &View| match self.opened.tables.direct_map() {
            Some(direct) => task_scan::scan(view, &self.opened.dump, direct),
            None => Scanned::default(),
        };
        self.kept.tasks.get_or_init(|| {
            let tasks = tasks::collect(self, &scan);
            vmalloc::know_stacks(&self.opened.tables, self, &tasks);
            tasks
        })
    }

    /// Who panicked. Needs the list of tasks only where the run queue is lost.
    #[must_use]
    pub fn panicked(&self) -> &Panicked {
        self.kept.panicked.get_or_init(|| match tasks::panicked(self, |cpu| self.tasks().running_on(cpu)) {
            Panicked::Unreadable(why) => match self.reported() {
                Some(task) => Panicked::Reported(task, why),
                None => Panicked::Unreadable(why),
            },
            known => known,
        })
    }

    /// The task of the log's last report, if the log tells of a crash and the task was still running there.
    fn reported(&self) -> Option<Arc<Task>> {
        log::panic_message(self.log())?;
        let report = log::last_report(self.log())?;
        let task = self.tasks().running_on(report.cpu)?;
        (task.known_pid() == Some(report.pid) && task.comm == report.comm).then_some(task)
    }

    /// The task that was running where the kernel panicked, if it did and that can be read.
    #[must_use]
    pub fn panic_task(&self) -> Option<&Arc<Task>> {
        match self.panicked() {
            Panicked::Task(task) | Panicked::Reported(task, _) => Some(task),
            Panicked::Nobody | Panicked::Unreadable(_) => None,
        }
    }

    /// All modules, the newest first. Read at first use.
    #[must_use]
    pub fn modules(&self) -> &[Module] {
        self.kept.modules.get_or_init(|| modules::collect(self))
    }

    /// The symbols of each module, in the order of [`Kernel::modules`].
    #[must_use]
    pub fn module_symbols(&self) -> &[SymbolTable] {
        self.kept.module_symbols.get_or_init(|| modules::all_symbols(self, self.modules()))
    }

    /// Every symbol of that name, of the kernel and then of its modules.
    pub(crate) fn symbols_named<'k>(
        &'k self,
        name: &str,
    ) -> impl Iterator<Item = (Symbol<'k>, Option<&'k Module>)> {
        let own: Vec<_> = self.symbols().all_by_name(name).map(|s| (s, None)).collect();
        let modules = self.modules().iter().zip(self.module_symbols());
        let theirs: Vec<_> =
            modules.flat_map(|(m, table)| table.all_by_name(name).map(move |s| (s, Some(m)))).collect();
        own.into_iter().chain(theirs)
    }

    /// The module in whose memory `addr` lies, with its symbols.
    #[must_use]
    pub fn module_at(&self, addr: VirtAddr) -> Option<(&Module, &SymbolTable)> {
        let i = self.modules().iter().position(|m| m.contains(addr))?;
        Some((self.modules().get(i)?, self.module_symbols().get(i)?))
    }

    /// The kernel's log. Read at first use.
    #[must_use]
    pub fn log(&self) -> &Log {
        self.kept.log.get_or_init(|| log::read(self))
    }

    /// The IRQ, exception and entry stacks of the CPUs. Read at first use.
    #[must_use]
    pub fn stacks(&self) -> &stacks::Stacks {
        self.kept.stacks.get_or_init(|| stacks::Stacks::read(self))
    }

    /// Pages, slab caches, vmalloc's areas and stacks by address. Each is read at first use.
    #[must_use]
    pub(crate) fn memory(&self) -> &Memory {
        self.kept.memory.get_or_init(|| Memory::of(self))
    }

    /// The real vmlinux and modules with DWARF, where they are installed. Looked
    /// for at first use.
    #[must_use]
    pub fn debug_files(&self) -> &debug_files::DebugFiles {
        self.kept.debug_files.get_or_init(|| debug_files::DebugFiles::find(self))
    }

    /// The ORC tables of the kernel and its modules. Read at first use.
    #[must_use]
    pub fn orc(&self) -> &orc::OrcTables {
        self.kept.orc.get_or_init(|| orc::OrcTables::read(self))
    }

    pub(super) fn cfi(&self) -> &cfi::Rules {
        &self.kept.cfi
    }

    /// The entry code of a kernel before 4.9, by address. Looked for at first use.
    #[must_use]
    pub fn stubs(&self) -> &[(std::ops::Range<u64>, Stub)] {
        self.kept.stubs.get_or_init(|| entry_text::stubs(self))
    }

    /// What CPUs are started with. Read at first use.
    pub(super) fn start_up(&self) -> &StartUp {
        self.kept.start_up.get_or_init(|| StartUp::read(self))
    }

    /// Whether `addr` lies in code of the kernel or of a module.
    #[must_use]
    pub fn is_text(&self, addr: VirtAddr) -> bool {
        let own = self.kept.text.get_or_init(|| {
            // Between the two lies data. That the init text was freed is no harm.
            let at = |name| self.symbol(name).map(|a| a.0);
            let init_end = at("_einittext").unwrap_or(0);
            let end = at("_etext").unwrap_or(init_end);
            // Where these names are lost the unwind rules tell.
            let by_rules = || Some(self.orc().of_kernel().filter(|_| end == 0)?.range().end);
            let end = by_rules().unwrap_or(end);
            [self.text_start().0..end, at("_sinittext").unwrap_or(init_end)..init_end]
        });
        own.iter().any(|range| range.contains(&addr.0))
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
        self.symbols().by_address(addr.0).map(|(s, offset)| (s, offset, None))
    }

    /// The symbol that holds `addr` by its name, `schedule+0x10`.
    #[must_use]
    pub(crate) fn name_at(&self, addr: VirtAddr) -> Option<String> {
        let (symbol, offset, _) = self.symbolise(addr)?;
        Some(plus(symbol.name, offset))
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
            .or_else(|| self.opened.vmcoreinfo.symbol("_stext").map(|a| VirtAddr(a & !0xfff)))
            .unwrap_or(VirtAddr(map::LINK_TEXT.wrapping_add(self.opened.kaslr_offset)))
    }

    /// The address space of a task's process: `mm->pgd`, the kernel half of the
    /// pair that page-table isolation keeps. `None` for kernel threads.
    pub fn task_space(&self, task: &Task) -> Option<Arc<PageTables>> {
        let mm = task.mm?;
        if let Some(space) = self.kept.spaces.lock().unwrap_or_else(PoisonError::into_inner).get(&mm.0) {
            return Some(space.clone());
        }
        let pgd = self.opened.tables.read_u64(mm.checked_add(self.layout().mm_pgd?.offset)?).ok()?;
        let root: PhysAddr = self.opened.tables.translate(VirtAddr(pgd)).ok()?;
        let memory: Arc<dyn PhysicalMemory> = self.opened.dump.clone();
        let space = Arc::new(PageTables::new(memory, root, self.opened.tables.paging()));
        let mut spaces = self.kept.spaces.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.opened.tables.read(addr, buf)
    }

    /// The kernel's name for itself.
    #[must_use]
    pub fn utsname(&self) -> Utsname {
        utsname::read(self)
    }
}
