//! The registers of a CPU that no dump but QEMU's holds: control registers, descriptor
//! tables, the base of per-CPU memory. The kernel keeps copies of most of them, and of the
//! rest it tells what it loads.
//!
//! | register | where | source |
//! |---|---|---|
//! | cr4 | per-CPU `cpu_tlbstate.cr4`, which each change goes through (4.0 and later) | `arch/x86/kernel/cpu/common.c` |
//! | cr3 | `cpu_tlbstate.loaded_mm` and its address-space number (4.13 and later); of a task that is off its CPU, its own tables | `arch/x86/mm/tlb.c` |
//! | cr0 | the constant that `secondary_startup_64` loads, once the FPU is no longer switched by it (4.13) | `arch/x86/kernel/head_64.S` |
//! | efer | the trampoline's copy, which CPUs start with | `arch/x86/realmode/init.c` |
//! | cr2 | the fault that the log tells of last, for the CPU that panicked | `arch/x86/mm/fault.c` |
//! | IDT | `idt_descr` | `arch/x86/kernel/idt.c` |
//! | GDT, TR | the CPU's entry area (4.15 and later), and the descriptor in its `gdt_page` | `arch/x86/include/asm/cpu_entry_area.h` |
//! | gs base | `__per_cpu_offset`; the user's is in the task | `arch/x86/kernel/cpu/common.c` |
//!
//! Each value comes with how it is known. What only is usual is not told at all.

use std::fmt;

use super::object::Object;
use super::{Kernel, Task};
use crate::addr::{PhysAddr, VirtAddr};
use crate::arch::Register;
use crate::bytes::u64_at;
use crate::dump::notes::{QemuCpu, Segment};

/// How a value is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// QEMU's note for the CPU.
    Note,
    /// A copy that the kernel keeps, by the variable's name.
    Copy(&'static str),
    /// What the kernel's start-up code loads into it.
    StartUp,
    /// What CPUs are started with.
    Trampoline,
    /// What is loaded with the process's memory, by the kernel's record of that.
    LoadedMm,
    /// The root of the task's own page tables, which would be loaded; without an
    /// address-space number.
    OwnTables,
    /// The kernel's message of the fault.
    Log,
    /// Where the kernel maps it for the CPU.
    EntryArea,
    /// Nothing: the process has none.
    None,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "QEMU's note for the CPU",
            Self::Copy(name) => return write!(f, "the kernel's own copy, {name}"),
            Self::StartUp => "what secondary_startup_64 loads on each CPU",
            Self::Trampoline => "what CPUs are started with (trampoline_header)",
            Self::LoadedMm => "the tables that the CPU has loaded (cpu_tlbstate.loaded_mm)",
            Self::OwnTables => "the root of the task's page tables, as it would be loaded",
            Self::Log => "the fault that the log tells of",
            Self::EntryArea => "where the kernel maps it (cpu_entry_area)",
            Self::None => "the process has none",
        })
    }
}

/// A value and how it is known.
pub type Known<T> = Option<(T, Origin)>;

/// What is known of a CPU's system registers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SystemRegisters([Known<u64>; REGISTERS.len()]);

/// What is known of the registers that point to tables of descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DescriptorTables {
    /// The interrupt descriptor table.
    pub idt: Known<Segment>,
    /// The global descriptor table.
    pub gdt: Known<Segment>,
    /// The task state segment.
    pub tr: Known<Segment>,
    /// The local descriptor table.
    pub ldt: Known<Segment>,
}

/// What is the same on all CPUs, and read once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StartUp {
    cr0: Option<u64>,
    efer: Option<u64>,
}

impl StartUp {
    pub(super) fn read(kernel: &Kernel) -> Self {
        Self { cr0: cr0(kernel), efer: efer(kernel) }
    }
}

/// The registers that are told here.
pub const REGISTERS: [Register; 6] =
    [Register::Cr0, Register::Cr2, Register::Cr3, Register::Cr4, Register::Efer, Register::GsBase];

impl SystemRegisters {
    /// One register.
    #[must_use]
    pub fn get(&self, register: Register) -> Known<u64> {
        let at = REGISTERS.iter().position(|&r| r == register)?;
        self.0.get(at).copied().flatten()
    }

    /// Those that are known.
    pub fn iter(&self) -> impl Iterator<Item = (Register, u64, Origin)> {
        REGISTERS.into_iter().zip(self.0).filter_map(|(r, known)| known.map(|(v, from)| (r, v, from)))
    }

    fn set(&mut self, register: Register, value: Option<u64>, from: Origin) {
        let at = REGISTERS.iter().position(|&r| r == register);
        if let Some(slot) = at.and_then(|at| self.0.get_mut(at)).filter(|slot| slot.is_none()) {
            *slot = value.map(|v| (v, from));
        }
    }

    /// Those of `task`: of the CPU that it is on, or as that CPU would have them.
    #[must_use]
    pub fn of(kernel: &Kernel, task: &Task) -> Self {
        Self::with_note(kernel, task, note(kernel, task))
    }

    /// The same by what the kernel itself tells.
    #[must_use]
    pub fn derived(kernel: &Kernel, task: &Task) -> Self {
        Self::with_note(kernel, task, None)
    }

    fn with_note(kernel: &Kernel, task: &Task, note: Option<&QemuCpu>) -> Self {
        use Register::{Cr0, Cr2, Cr3, Cr4, Efer, GsBase};
        let (mut all, cpu) = (Self::default(), task.cpu);
        if let Some(q) = note {
            for (register, value) in [(Cr0, q.cr0), (Cr2, q.cr2), (Cr3, q.cr3), (Cr4, q.cr4)] {
                all.set(register, Some(value), Origin::Note);
            }
            all.set(GsBase, q.regs.get(GsBase), Origin::Note);
        }
        let tlb = cpu.and_then(|cpu| Object::of_cpu(kernel, "cpu_tlbstate", cpu, "tlb_state"));
        all.set(Cr4, tlb.and_then(|t| t.number("cr4")), Origin::Copy("cpu_tlbstate.cr4"));
        let StartUp { cr0, efer } = *kernel.start_up();
        all.set(Cr0, cr0, Origin::StartUp);
        all.set(Efer, efer, Origin::Trampoline);
        all.set(GsBase, cpu.and_then(|cpu| kernel.percpu().offset(cpu)), Origin::Copy("__per_cpu_offset"));
        if task.on_cpu {
            if kernel.panic_task().is_some_and(|t| t.addr == task.addr) {
                all.set(Cr2, last_fault(kernel), Origin::Log);
            }
            let paged = all.get(Cr4).map(|(cr4, _)| cr4 >> PCIDE & 1 != 0);
            all.set(Cr3, tlb.and_then(|t| loaded(kernel, t, paged?)), Origin::LoadedMm);
        }
        let own = match task.mm {
            Some(_) => kernel.task_space(task).map(|s| s.root().0),
            None if task.unread => None,
            None => Some(kernel.tables().root().0),
        };
        all.set(Cr3, own, Origin::OwnTables);
        all
    }
}

/// QEMU's note for the CPU that `task` is on.
fn note<'k>(kernel: &'k Kernel, task: &Task) -> Option<&'k QemuCpu> {
    kernel.dump().notes().qemu_cpus.get(task.running_on()? as usize)
}

impl DescriptorTables {
    /// Those of `task`: of the CPU that it is on, or as that CPU would have them.
    #[must_use]
    pub fn of(kernel: &Kernel, task: &Task) -> Self {
        let Some(q) = note(kernel, task) else { return Self::derived(kernel, task) };
        let [idt, gdt, tr, ldt] = [q.idt, q.gdt, q.tr, q.ldt].map(|s| Some((s, Origin::Note)));
        Self { idt, gdt, tr, ldt }
    }

    /// The same by what the kernel itself tells.
    #[must_use]
    pub fn derived(kernel: &Kernel, task: &Task) -> Self {
        let none = || {
            let mm = task.mm.map(|mm| Object::new(kernel, "mm_struct", mm));
            (!task.unread && mm.is_none_or(|mm| mm.number("context.ldt") == Some(0))).then(Segment::default)
        };
        Self {
            idt: idt(kernel).map(|s| (s, Origin::Copy("idt_descr"))),
            gdt: task.cpu.and_then(|cpu| gdt(kernel, cpu)).map(|s| (s, Origin::EntryArea)),
            tr: task.cpu.and_then(|cpu| tr(kernel, cpu)).map(|s| (s, Origin::Copy("gdt_page"))),
            ldt: none().map(|s| (s, Origin::None)),
        }
    }
}

/// `X86_CR4_PCIDE`: cr3 holds an address-space number.
const PCIDE: u32 = 17;

/// `cpu_tlbstate.loaded_mm` as it is in cr3 (`build_cr3()`).
fn loaded(kernel: &Kernel, tlb: Object<'_>, numbered: bool) -> Option<u64> {
    let pgd = tlb.follow("loaded_mm", "mm_struct")?.pointer("pgd")?;
    let root = kernel.tables().translate(pgd).ok()?;
    // kern_pcid(): 0 is what no process has.
    let number =
        if numbered { tlb.number("loaded_mm_asid")?.checked_add(1).filter(|&n| n < 0x1000)? } else { 0 };
    Some(root.0 | number)
}

/// `mov $imm32, %eax; mov %rax, %cr0` in `secondary_startup_64`.
fn cr0(kernel: &Kernel) -> Option<u64> {
    // Where the FPU is handed over lazily, TS is set and cleared all the time (until 4.12).
    let lazy = ["thread.fpu.fpregs_active", "thread.fpu.has_fpu", "thread.has_fpu"];
    if lazy.iter().any(|path| kernel.types().field("task_struct", path).is_some()) {
        return None;
    }
    let mut code = [0; 1024];
    let read = kernel.space().read(kernel.symbol("secondary_startup_64")?, &mut code).ok()?;
    code.get(..read)?.windows(8).find_map(|w| match *w {
        [0xb8, a, b, c, d, 0x0f, 0x22, 0xc0] => Some(u64::from(u32::from_le_bytes([a, b, c, d]))),
        _ => None,
    })
}

/// `trampoline_header->efer`, and LMA, which the CPU sets itself with paging.
fn efer(kernel: &Kernel) -> Option<u64> {
    const LMA: u64 = 1 << 10;
    let header = VirtAddr(kernel.space().read_u64(kernel.symbol("real_mode_header")?).ok()?);
    // Relocated to where it was copied, below 1 MB.
    let at = Object::new(kernel, "real_mode_header", header).number("trampoline_header")?;
    let efer = kernel.types().field("trampoline_header", "efer")?.offset;
    let mut bytes = [0; 8];
    let read = kernel.tables().memory().read_phys(PhysAddr(at.checked_add(efer)?), &mut bytes).ok()?;
    // SCE, LME and NXE are what the kernel needs; another page has other bits.
    let value = u64::from_le_bytes(bytes);
    (read == 8 && at < 1 << 20 && value & 0x101 == 0x101 && value >> 32 == 0).then_some(value | LMA)
}

/// `CR2: ADDRESS` alone on a line, by which the message of a fault ends.
fn last_fault(kernel: &Kernel) -> Option<u64> {
    let lines = kernel.log().records.iter().rev().flat_map(|r| r.text.lines().rev());
    let mut faults = lines.filter_map(|l| l.trim().strip_prefix("CR2: ").filter(|rest| rest.len() == 16));
    u64::from_str_radix(faults.next()?, 16).ok()
}

fn table(base: u64, limit: u64) -> Option<Segment> {
    Some(Segment { selector: 0, limit: u32::try_from(limit).ok()?, flags: 0, base })
}

/// `struct desc_ptr`: a limit of two bytes, and the address.
fn idt(kernel: &Kernel) -> Option<Segment> {
    let at = kernel.symbol("idt_descr")?;
    let bytes = kernel.space().read_vec(at, 10).ok()?;
    let base = u64_at(&bytes, 2).filter(|&base| base >= kernel.user_limit())?;
    table(base, u64_at(&bytes, 0)? & 0xffff)
}

/// `get_cpu_gdt_ro()`: the first page of the CPU's entry area.
fn gdt(kernel: &Kernel, cpu: u32) -> Option<Segment> {
    /// `CPU_ENTRY_AREA_PER_CPU`: behind a page of its own for the IDT.
    const AREAS: u64 = 0xffff_fe00_0000_1000;
    let types = kernel.types();
    let size = types.size_of("cpu_entry_area")?;
    let gdt = types.field("cpu_entry_area", "gdt")?.offset;
    // Since 6.2 the places are shuffled (97e3d26b5e5f).
    let place = match kernel.symbol("_cea_offset") {
        Some(at) => kernel.space().read_u32(kernel.percpu().address(at, cpu)?).ok()?,
        None => cpu,
    };
    let base = u64::from(place).checked_mul(size)?.checked_add(AREAS)?.checked_add(gdt)?;
    table(base, types.field("gdt_page", "gdt")?.size.checked_sub(1)?)
}

/// The descriptor that `ltr` loads (`GDT_ENTRY_TSS`; Intel SDM 3A, figure 8-4).
fn tr(kernel: &Kernel, cpu: u32) -> Option<Segment> {
    const SELECTOR: u64 = 0x40;
    let gdt = Object::of_cpu(kernel, "gdt_page", cpu, "gdt_page")?.address("gdt")?;
    let bytes = kernel.space().read_vec(gdt.checked_add(SELECTOR)?, 16).ok()?;
    let (low, high) = (u64_at(&bytes, 0)?, u64_at(&bytes, 8)?);
    // Present, and of one of the two kinds that a TSS has.
    if low >> 40 & 0x9d != 0x89 {
        return None;
    }
    let base = (low >> 16 & 0xff_ffff) | (low >> 56 << 24) | (high << 32);
    let limit = (low & 0xffff) | (low >> 32 & 0xf_0000);
    let flags = u32::try_from(low >> 32 & 0xf0_ff00).ok()?;
    Some(Segment { selector: 0x40, limit: u32::try_from(limit).ok()?, flags, base })
}
