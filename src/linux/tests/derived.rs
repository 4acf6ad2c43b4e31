//! Layouts derived from memory: a machine laid out here by numbers of its own.

use std::sync::Arc;

use super::machine::Machine;
use crate::addr::VirtAddr;
use crate::debuginfo::Types;
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::linux::derived;

const INIT: u64 = 0xffff_ffff_8180_0000;
const TABLES: u64 = 0xffff_ffff_8190_0000;
const TASKS: u64 = 0xffff_8800_0100_0000;
const MODULE: u64 = 0xffff_ffff_a000_2080;

/// Offsets in this machine's `task_struct`.
const STACK: u64 = 0x10;
const FLAGS: u64 = 0x1c;
const LIST: u64 = 0x48;
const MM: u64 = 0x88;
const EXIT: u64 = 0x9c;
const PID: u64 = 0xb4;
const PARENT: u64 = 0xc8;
const GROUP: u64 = 0xe8;
const COMM: u64 = 0x118;
const SP: u64 = 0x140;
const SIGNAL: u64 = 0x158;

fn task(m: &mut Machine, at: u64, pid: u32, comm: &str, parent: u64) {
    m.write(at, &[0; 0x300]);
    let stack = at & !0x3fff | 0x8000;
    m.word(at + STACK, stack);
    m.write(stack, &[0; 0x40]);
    m.word(stack, at);
    m.word(at + SP, stack + 0x3e00 + u64::from(pid) * 8);
    m.write(at + PID, &[pid.to_le_bytes(), pid.to_le_bytes()].concat());
    m.write(at + COMM, comm.as_bytes());
    m.word(at + PARENT, parent);
    m.word(at + PARENT + 8, parent);
    m.word(at + SIGNAL, at + 0x2000);
    m.word(at + GROUP, at + GROUP);
    m.write(at + EXIT + 8, &17u32.to_le_bytes());
}

fn place(n: u64) -> u64 {
    TASKS + n * 0x10000
}

fn machine() -> Machine {
    let mut m = Machine::old();
    for (name, at) in [
        ("init_task", INIT),
        ("init_level4_pgt", TABLES),
        ("init_signals", TABLES + 0x2000),
        ("runqueues", 0x1000),
        ("__per_cpu_offset", TABLES + 0x3000),
        ("nr_cpu_ids", TABLES + 0x3100),
        ("cpu_online_bits", TABLES + 0x3108),
        ("cpu_present_bits", TABLES + 0x3110),
        ("modules", TABLES + 0x3200),
    ] {
        m.symbol(name, at);
    }
    task(&mut m, INIT, 0, "swapper/0", INIT);
    m.word(INIT + SIGNAL, TABLES + 0x2000);
    m.write(INIT + EXIT + 8, &[0; 4]);
    for (n, comm, parent) in
        [(1u32, "init", INIT), (2, "kthreadd", INIT), (3, "kworker", place(2)), (4, "sh", place(1))]
    {
        task(&mut m, place(n.into()), n, comm, parent);
    }
    m.circle(INIT + LIST, &[1, 2, 3, 4].map(|n| place(n) + LIST));
    // A thread of the shell; the idle task of CPU 1.
    task(&mut m, place(5), 5, "sh", place(1));
    m.write(place(5) + PID + 4, &4u32.to_le_bytes());
    m.circle(place(4) + GROUP, &[place(5) + GROUP]);
    task(&mut m, place(6), 0, "swapper/1", INIT);
    for at in [INIT, place(2), place(3), place(6)] {
        m.write(at + FLAGS, &0x0020_0040u32.to_le_bytes());
    }
    // Address spaces: the kernel's half is the same in all.
    m.write(TABLES, &[0; 4096]);
    for n in [1, 4] {
        let (mm, pgd) = (place(n) + 0x3000, place(n) + 0x4000);
        m.word(place(n) + MM, mm);
        m.word(place(n) + MM + 8, mm);
        m.write(mm, &[0; 0x100]);
        m.word(mm + 0x58, pgd);
        m.write(pgd, &[0; 4096]);
        m.word(pgd, 0x1234_5067);
        for entry in [272, 300, 511] {
            m.word(pgd + entry * 8, entry << 12 | 0x63);
            m.word(TABLES + entry * 8, entry << 12 | 0x63);
        }
    }
    // Two CPUs; the first runs the shell.
    m.write(TABLES + 0x3100, &2u32.to_le_bytes());
    m.word(TABLES + 0x3108, 3);
    m.word(TABLES + 0x3110, 3);
    for (cpu, idle, current) in [(0u64, INIT, place(4)), (1, place(6), place(6))] {
        let area = place(8 + cpu);
        m.word(TABLES + 0x3000 + cpu * 8, area);
        m.write(area + 0x1000, &[0; 0x200]);
        m.word(area + 0x1000 + 0x70, current);
        m.word(area + 0x1000 + 0x78, idle);
    }
    let idle_stack = place(6) & !0x3fff | 0x8000;
    m.write(idle_stack + 0x18, &1u32.to_le_bytes());
    // A module, in its own memory.
    m.write(MODULE, &[0; 0x300]);
    m.circle(TABLES + 0x3200, &[MODULE + 8]);
    m.write(MODULE + 24, b"loop");
    m.word(MODULE + 0x158, MODULE & !0xfff);
    m.write(MODULE + 0x164, &0x3000u32.to_le_bytes());
    for (at, value) in [(0x190, 0x500), (0x198, 0x500), (0x1a8, 0x900), (0x1b0, 0x900)] {
        m.word(MODULE + at, MODULE + value);
    }
    m.write(MODULE + 0x1a0, &[33u32.to_le_bytes(), 33u32.to_le_bytes()].concat());
    m
}

fn derived(damage: impl FnOnce(&mut Machine)) -> Result<derived::Derived, String> {
    let mut m = machine();
    damage(&mut m);
    let info = "SIZE(log)=16\nOFFSET(log.ts_nsec)=0\nOFFSET(log.len)=8\nOFFSET(log.text_len)=10\nOFFSET(log.dict_len)=12\n";
    let view = m.view();
    derived::types(view.space(), view.symbols(), &VmcoreInfo::parse(info.as_bytes()), &|_| Vec::new())
}

/// It was searched for the first task from there on, page by page.
#[test]
fn an_image_that_begins_outside_of_images_is_none() {
    let mut m = machine();
    m.lose_name("init_task");
    m.symbol("_stext", 0xffff_ffff_8100_0000 & !(1 << 53));
    let view = m.view();
    let why = derived::types(view.space(), view.symbols(), &VmcoreInfo::parse(b""), &|_| Vec::new());
    assert_eq!(why.err().unwrap(), "no symbol init_task");
}

/// A VMCOREINFO and symbols may say anything.
#[test]
fn what_lies_at_the_end_of_all_addresses_is_no_task() {
    const LAST: u64 = u64::MAX - 0x1ff;
    let mut m = Machine::old();
    m.symbol("init_task", LAST);
    m.write(LAST, &[0; 0x100]);
    m.write(LAST + 0x40, b"swapper/0");
    let view = m.view();
    let info = VmcoreInfo::parse(b"SIZE(log)=16\nOFFSET(log.dict_len)=18446744073709551615\n");
    let Err(why) = derived::types(view.space(), view.symbols(), &info, &|_| Vec::new()) else {
        panic!("tasks are found")
    };
    assert_eq!(why, "no list of tasks goes through init_task");
}

/// Members of task_struct that are found in every way.
const FOUND: [(&str, u64); 11] = [
    ("stack", STACK),
    ("flags", FLAGS),
    ("tasks", LIST),
    ("mm", MM),
    ("exit_state", EXIT),
    ("pid", PID),
    ("tgid", PID + 4),
    ("real_parent", PARENT),
    ("comm", COMM),
    ("thread.sp", SP),
    ("signal", SIGNAL),
];

#[test]
fn members_are_found_by_what_they_hold() {
    let found = derived(|_| ()).unwrap();
    let at = |ty: &str, path: &str| found.field(ty, path).map(|f| f.offset);
    for (path, offset) in FOUND.into_iter().chain([("thread_group", GROUP)]) {
        assert_eq!(at("task_struct", path), Some(offset), "{path}");
    }
    assert_eq!(
        (at("mm_struct", "pgd"), at("rq", "curr"), at("rq", "idle")),
        (Some(0x58), Some(0x70), Some(0x78))
    );
    assert_eq!((at("thread_info", "cpu"), found.size_of("thread_union")), (Some(0x18), Some(0x4000)));
    assert_eq!((at("module", "module_core"), at("module", "core_size")), (Some(0x158), Some(0x164)));
    assert_eq!((at("module", "symtab"), at("module", "strtab")), (Some(0x190), Some(0x1a8)));
    assert_eq!(
        (at("log", "text_len"), at("log", "level"), found.size_of("log")),
        (Some(10), Some(15), Some(16))
    );
    assert_eq!(at("task_struct", "start_time"), None);
}

#[test]
fn a_cpu_that_a_panic_stopped_proves_as_much_as_one_that_runs() {
    let found = derived(|m| m.word(TABLES + 0x3108, 1)).unwrap();
    assert_eq!(found.field("thread_info", "cpu").map(|f| f.offset), Some(0x18));
    // One that never ran has no idle task, and is none of the proof.
    let found = derived(|m| {
        m.word(TABLES + 0x3108, 1);
        m.word(place(9) + 0x1000 + 0x78, 0);
    });
    assert_eq!(found.unwrap().field("rq", "idle").map(|f| f.offset), Some(0x78));
}

#[test]
fn what_proves_nothing_is_not_found() {
    let why = |damage: &dyn Fn(&mut Machine)| derived(|m| damage(m)).err().unwrap();
    assert_eq!(why(&|m| m.forget(INIT, 0x300)), "init_task is not in the dump");
    assert_eq!(why(&|m| m.write(INIT + COMM, b"nothing  ")), "init_task has no name");
    // A list that does not come back.
    assert_eq!(why(&|m| m.word(place(3) + LIST, place(1) + LIST)), "no list of tasks goes through init_task");
    // Stacks that do not point back.
    assert_eq!(why(&|m| m.word(INIT & !0x3fff | 0x8000, 0)), "no member stack is told by content");
    // Page tables of another kernel.
    let other = |m: &mut Machine| m.word(TABLES + 300 * 8, 0x63);
    assert_eq!(why(&other), "no member mm is told by content");
}

/// A machine as from 4.9 on: thread_info in the task, its stack guarded by a mark.
fn newer(m: &mut Machine) {
    const STACKS: u64 = TASKS + 0x100_0000;
    m.function("__schedule", 0xffff_ffff_8100_1000, &[0x90; 0x100]);
    m.function("ret_from_fork", 0xffff_ffff_8100_2000, &[0x90; 0x20]);
    for (n, at) in (0u64..).zip([INIT, place(1), place(2), place(3), place(4), place(5), place(6)]) {
        let (stack, sp) = (STACKS + n * 0x4000, STACKS + n * 0x4000 + 0x3e00);
        m.write(stack, &[0; 0x4000]);
        m.word(stack, 0x57ac_6e9d);
        m.word(at + STACK, stack);
        m.word(at + SP, sp);
        m.word(sp + 6 * 8, if n == 3 { 0xffff_ffff_8100_2000 } else { 0xffff_ffff_8100_1080 });
    }
    // on_cpu and cpu, of what runs and of the idle tasks.
    for (at, on_cpu, cpu) in [(INIT, 0u32, 0u32), (place(4), 1, 0), (place(6), 1, 1)] {
        m.write(at + 0x168, &[on_cpu.to_le_bytes(), cpu.to_le_bytes()].concat());
    }
    // The module says it in other words: size, text, read-only, read-only after init.
    let sizes = [0x4000u32, 0x1000, 0x2000, 0x3000];
    m.write(MODULE, &[0; 0x300]);
    m.circle(TABLES + 0x3200, &[MODULE + 8]);
    m.write(MODULE + 24, b"loop");
    m.word(MODULE + 0x140, MODULE & !0xfff);
    m.write(MODULE + 0x148, &sizes.map(u32::to_le_bytes).concat());
    m.word(MODULE + 0x1c0, MODULE + 0x1c8);
    for (at, value) in [(0x1c8, 0x500), (0x1d8, 0x900)] {
        m.word(MODULE + at, MODULE + value);
    }
    m.write(MODULE + 0x1d0, &9u32.to_le_bytes());
    m.write(MODULE + 0x1a0, &2u32.to_le_bytes());
    m.word(MODULE + 0x1a8, (MODULE & !0xfff) + 0x1800);
    m.word(MODULE + 0x1b0, (MODULE & !0xfff) + 0x1900);
    m.write((MODULE & !0xfff) + 0x1800, &(-0x1400i32).to_le_bytes());
}

#[test]
fn a_kernel_with_thread_info_in_the_task_is_derived_too() {
    let found = derived(newer).unwrap();
    let at = |ty: &str, path: &str| found.field(ty, path).map(|f| f.offset);
    for (path, offset) in [
        ("thread_info", 0),
        ("stack", STACK),
        ("state", STACK - 8),
        ("cpu", 0x16c),
        ("on_cpu", 0x168),
        ("pid", PID),
    ] {
        assert_eq!(at("task_struct", path), Some(offset), "{path}");
    }
    assert_eq!((at("rq", "curr"), at("rq", "idle")), (Some(0x70), Some(0x78)));
    let frame = (found.size_of("inactive_task_frame"), at("inactive_task_frame", "ret_addr"));
    assert_eq!((frame, at("inactive_task_frame", "bp")), ((Some(0x38), Some(0x30)), Some(0x28)));
    assert_eq!(
        (at("module", "core_layout.base"), at("module", "core_layout.size")),
        (Some(0x140), Some(0x148))
    );
    assert_eq!((at("module", "kallsyms"), at("mod_kallsyms", "strtab")), (Some(0x1c0), Some(16)));
    assert_eq!((at("module", "arch.num_orcs"), at("mod_kallsyms", "typetab")), (Some(0x1a0), None));
    assert_eq!((at("thread_info", "cpu"), at("module", "module_core")), (None, None));
}

/// A stack overflow writes over the mark of the task that runs, here a thread.
#[test]
fn a_stack_that_overflowed_hides_no_run_queue() {
    let found = derived(|m| {
        newer(m);
        m.word(place(8) + 0x1000 + 0x70, place(5));
        m.write(place(5) + 0x168, &1u32.to_le_bytes());
        m.word(TASKS + 0x100_0000 + 5 * 0x4000, 0x1111);
    });
    let found = found.unwrap();
    let at = |ty: &str, path: &str| found.field(ty, path).map(|f| f.offset);
    assert_eq!((at("rq", "curr"), at("task_struct", "cpu")), (Some(0x70), Some(0x16c)));
}

/// What a module starts with can lie below the rest of it, and is freed.
#[test]
fn tables_of_orc_may_begin_with_code_that_was_freed() {
    let base = MODULE & !0xfff;
    let orcs = |rows: [i32; 2]| {
        let found = derived(|m| {
            newer(m);
            m.write(base + 0x1800, &rows.map(i32::to_le_bytes).concat());
        });
        found.unwrap().field("module", "arch.num_orcs").map(|f| f.offset)
    };
    assert_eq!(orcs([-0x9000, -0x1400]), Some(0x1a0));
    assert_eq!(orcs([-0x1400, 0x9000]), Some(0x1a0));
    assert_eq!(orcs([-0x9000, 0x9000]), None);
}

/// 5.1 to 5.7 save the flags as well, below the registers.
#[test]
fn the_switch_frame_is_told_by_its_return_addresses() {
    let found = derived(|m| {
        newer(m);
        for n in 0..7 {
            let frame = TASKS + 0x100_0000 + n * 0x4000 + 0x3e00;
            m.word(frame + 7 * 8, 0xffff_ffff_8100_1080);
            m.word(frame + 6 * 8, 0x246);
        }
    });
    let found = found.unwrap();
    let at = |path| found.field("inactive_task_frame", path).map(|f| f.offset);
    assert_eq!(
        (found.size_of("inactive_task_frame"), at("r15"), at("ret_addr")),
        (Some(0x40), Some(8), Some(0x38))
    );
    // Where nobody returns to the scheduler it is not known.
    let found = derived(|m| {
        newer(m);
        (0..7).for_each(|n| m.word(TASKS + 0x100_0000 + n * 0x4000 + 0x3e00 + 6 * 8, 0x246));
    });
    assert_eq!(found.unwrap().size_of("inactive_task_frame"), None);
}

/// What is derived of real kernels is what their BTF says.
#[test]
fn real_kernels_are_derived_as_their_types_say() {
    for kernel in crate::unwind::tests::kernels() {
        let found =
            derived::types(kernel.space(), kernel.symbols(), kernel.vmcoreinfo(), &|_| Vec::new()).unwrap();
        let mut same = 0;
        for (ty, path, offset) in found.offsets() {
            let name = if path == "state" { "__state" } else { path };
            if let Some(theirs) = kernel.types().field(ty, name).filter(|_| ty != "printk_log") {
                assert_eq!(offset, theirs.offset, "{ty}.{path} of {}", kernel.utsname().release);
                same += 1;
            }
        }
        assert!(same >= 20, "{same} of {}", kernel.utsname().release);
    }
}

/// A page of the types is lost, and so are a task in the middle of the circle, a stack and
/// the run queue of a CPU.
#[test]
fn what_types_with_holes_lack_is_derived_from_what_is_there() {
    const LEADER: u64 = 0xe0;
    let holed = |m: &mut Machine| {
        m.symbol("init_sighand", TABLES + 0x2800);
        m.word(INIT + SIGNAL + 8, TABLES + 0x2800);
        for at in [INIT, place(1), place(2), place(4)] {
            m.word(at + LEADER, at);
        }
        m.forget(place(3), 0x300);
        m.forget(place(4) & !0x3fff | 0x8000, 0x40);
        m.forget(place(9) + 0x1000, 0x200);
    };
    assert_eq!(derived(holed).err().unwrap(), "no list of tasks goes through init_task");
    let mut m = machine();
    holed(&mut m);
    let view = m.view();
    let own = Arc::new(derived::Derived::default());
    let found = derived::over(own, view.space(), view.symbols(), &|_| Vec::new()).unwrap();
    for (path, offset) in FOUND.into_iter().chain([("sighand", SIGNAL + 8), ("group_leader", LEADER)]) {
        assert_eq!(found.field("task_struct", path).map(|f| f.offset), Some(offset), "{path}");
    }
    assert_eq!(found.field("rq", "curr"), None);
}

/// Both neighbours of the first task are lost: others are found by how they lead to each other.
#[test]
fn the_list_of_tasks_is_found_where_it_breaks_at_once() {
    let mut m = machine();
    for n in 10..=15u32 {
        task(&mut m, place(n.into()), n, "worker", place(2));
        m.write(place(n.into()) + FLAGS, &0x0020_0040u32.to_le_bytes());
    }
    let leaders = [1, 2, 10, 3, 11, 12, 13, 4, 14, 15].map(|n| place(n) + LIST);
    m.circle(INIT + LIST, &leaders);
    for n in [1, 15, 3] {
        m.forget(place(n), 0x300);
    }
    m.write(place(12) + COMM, &[0; 16]);
    let view = m.view();
    let word = |at| view.space().read_u64(VirtAddr(at)).unwrap_or(0);
    let types = |pages: derived::Pages<'_>| {
        let own = Arc::new(derived::Derived::default());
        derived::over(own, view.space(), view.symbols(), pages)
    };
    assert_eq!(types(&|_| Vec::new()).err().unwrap(), "no list of tasks goes through init_task");
    let found = types(&|visit| {
        let mut found = Vec::new();
        for at in (0..16).map(place) {
            let mut page = [0; 4096];
            for (i, to) in page.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                *to = word(at + 8 * i as u64).to_le_bytes();
            }
            visit(at, &page, &mut found);
        }
        // That between one that is lost and one without a name is not among them.
        assert_eq!(found.iter().map(|&(_, task)| task).collect::<Vec<_>>(), [2, 4, 10, 13, 14].map(place));
        found
    });
    let found = found.unwrap();
    for (path, offset) in FOUND {
        assert_eq!(found.field("task_struct", path).map(|f| f.offset), Some(offset), "{path}");
    }
}

/// The first task is known by its own name, signals and their handlers by being each leader's own.
#[test]
fn what_lacks_names_is_derived_by_content() {
    let mut m = machine();
    for name in ["init_task", "init_signals", "init_level4_pgt"] {
        m.lose_name(name);
    }
    m.symbol("_stext", 0xffff_ffff_8100_0000);
    for at in (1..5).map(place).chain([INIT]) {
        m.write(at + 0x300, &[0; 0xd00]);
    }
    m.word(INIT + SIGNAL + 8, TABLES + 0x2800);
    (1..5).for_each(|n| m.word(place(n) + SIGNAL + 8, place(n) + 0x2800));
    let view = m.view();
    let found =
        derived::types(view.space(), view.symbols(), &VmcoreInfo::parse(b""), &|_| Vec::new()).unwrap();
    for (path, offset) in FOUND.into_iter().filter(|(path, _)| *path != "stack") {
        assert_eq!(found.field("task_struct", path).map(|f| f.offset), Some(offset), "{path}");
    }
    // The page tables that an address space is told by are not known.
    assert_eq!(found.field("mm_struct", "pgd"), None);
}
