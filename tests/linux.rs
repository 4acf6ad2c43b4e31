//! Damaged kernels: a real dump in which one link or number was overwritten.
//! What is left must still be found, and nothing may loop.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corestub::addr::{PhysAddr, VirtAddr};
use corestub::dump::Vmcore;
use corestub::linux::{Kernel, Options};
use tempfile::TempDir;

use crate::support;
use crate::support::dumps::{self, each, number};
use crate::support::program::{Gdb, Server, expect, have_gdb};

/// A copy of a raw ELF vmcore that can be written to by virtual address.
struct Patient {
    _dir: TempDir,
    path: PathBuf,
    healthy: Arc<Kernel>,
    /// Physical start, file offset, bytes: the copy's PT_LOAD segments.
    loads: Vec<(u64, u64, u64)>,
}

impl Patient {
    /// The smallest raw ELF vmcore of the lab.
    fn new() -> Option<Self> {
        let original = support::raw_vmcore()?;
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("vmcore.elf");
        fs::copy(&original, &path).unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        fs::set_permissions(&path, permissions).unwrap();
        Some(Self { healthy: Arc::new(open(&path)), loads: loads(&path), path, _dir: dir })
    }

    /// Overwrites memory of the copy, calls `check` with the opened kernel, and
    /// heals it again.
    fn with(&self, writes: &[(VirtAddr, &[u8])], check: impl FnOnce(&Kernel)) {
        let file = File::options().read(true).write(true).open(&self.path).unwrap();
        let mut before = Vec::new();
        for (addr, bytes) in writes {
            for at in self.offsets(self.healthy.tables().translate(*addr).unwrap()) {
                let mut old = vec![0; bytes.len()];
                file.read_exact_at(&mut old, at).unwrap();
                file.write_all_at(bytes, at).unwrap();
                before.push((at, old));
            }
        }
        check(&open(&self.path));
        for (at, old) in before.into_iter().rev() {
            file.write_all_at(&old, at).unwrap();
        }
    }

    /// Where the file holds it: /proc/vmcore lists the kernel image twice.
    fn offsets(&self, phys: PhysAddr) -> Vec<u64> {
        let holds = |(start, _, len): &&(u64, u64, u64)| (*start..start + len).contains(&phys.0);
        let found = self.loads.iter().filter(holds);
        found.map(|(start, offset, _)| offset + (phys.0 - start)).collect()
    }

    fn tasks_link(&self, pid: u32) -> VirtAddr {
        let task = self.healthy.tasks().by_pid(pid).next().unwrap();
        VirtAddr(task.addr.0 + self.healthy.layout().task.tasks.offset)
    }

    fn healthy_tasks(&self) -> Vec<u64> {
        addresses(&self.healthy)
    }
}

fn open(path: &Path) -> Kernel {
    let dump = Vmcore::open(&[path.to_owned()]).unwrap();
    Kernel::open(dump, Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn addresses(kernel: &Kernel) -> Vec<u64> {
    let mut all: Vec<u64> = kernel.tasks().all().iter().map(|t| t.addr.0).collect();
    all.sort_unstable();
    all
}

/// The PT_LOAD segments by a reader that shares nothing with the program's.
fn loads(path: &Path) -> Vec<(u64, u64, u64)> {
    let file = File::open(path).unwrap();
    let word = |at: u64| {
        let mut b = [0; 8];
        file.read_exact_at(&mut b, at).unwrap();
        u64::from_le_bytes(b)
    };
    let (phoff, count) = (word(32), word(56) & 0xffff);
    (0..count)
        .map(|i| phoff + i * 56)
        .filter(|at| word(*at) & 0xffff_ffff == 1)
        .map(|at| (word(at + 24), word(at + 8), word(at + 32)))
        .collect()
}

#[test]
fn a_damaged_task_list_loses_no_task_and_does_not_loop() {
    let Some(patient) = Patient::new() else { return support::skip("no raw ELF vmcore") };
    let whole = patient.healthy_tasks();
    let two = patient.tasks_link(2);
    let itself = two.0.to_le_bytes();
    // A link that points to itself, to nowhere, into user space, to unmapped memory.
    for bad in [itself, 0u64.to_le_bytes(), 0x1234u64.to_le_bytes(), 0xffff_f000_0000_0010u64.to_le_bytes()] {
        patient.with(&[(two, &bad)], |kernel| {
            assert_eq!(addresses(kernel), whole, "the pid map still has them all");
            assert!(!kernel.tasks().remarks.is_empty(), "the damage is told");
        });
    }
}

#[test]
fn a_damaged_pid_map_loses_no_task_of_the_list() {
    let Some(patient) = Patient::new() else { return support::skip("no raw ELF vmcore") };
    let whole = patient.healthy_tasks();
    let ns = patient.healthy.symbol("init_pid_ns").unwrap();
    let root = VirtAddr(ns.0 + patient.healthy.layout().pid_map_head.unwrap().offset);
    let node = patient.healthy.space().read_u64(root).unwrap();
    let slots = patient.healthy.layout().xarray.unwrap().slots.offset;
    // The root is gone; the root node is its own child.
    patient.with(&[(root, &0u64.to_le_bytes())], |kernel| assert_eq!(addresses(kernel), whole));
    let own_slot = VirtAddr((node & !3) + slots);
    patient.with(&[(own_slot, &node.to_le_bytes())], |kernel| {
        assert_eq!(addresses(kernel), whole);
        assert!(!kernel.tasks().remarks.is_empty(), "the damage is told");
    });
}

#[test]
fn with_both_damaged_the_search_of_memory_finds_the_rest() {
    let Some(patient) = Patient::new() else { return support::skip("no raw ELF vmcore") };
    let whole = patient.healthy_tasks();
    let ns = patient.healthy.symbol("init_pid_ns").unwrap();
    let root = VirtAddr(ns.0 + patient.healthy.layout().pid_map_head.unwrap().offset);
    let two = patient.tasks_link(2);
    patient.with(&[(root, &0u64.to_le_bytes()), (two, &0u64.to_le_bytes())], |kernel| {
        let left = addresses(kernel);
        assert!(left.iter().all(|t| whole.contains(t)), "nothing is invented");
        assert_eq!(left.len(), whole.len());
        // What runs is known by the run queues alone.
        for &cpu in kernel.percpu().online() {
            let current = corestub::linux::tasks::current(kernel, cpu).unwrap();
            assert!(left.contains(&current.0));
        }
    });
}

#[test]
fn a_task_with_an_absurd_pid_is_skipped_and_counted() {
    let Some(patient) = Patient::new() else { return support::skip("no raw ELF vmcore") };
    let task = patient.healthy.tasks().by_pid(2).next().unwrap().clone();
    let pid = VirtAddr(task.addr.0 + patient.healthy.layout().task.pid.offset);
    patient.with(&[(pid, &u32::MAX.to_le_bytes())], |kernel| {
        assert!(kernel.tasks().by_address(task.addr).is_none());
        assert_eq!(kernel.tasks().skipped, 1);
        assert_eq!(kernel.tasks().all().len(), patient.healthy.tasks().all().len() - 1);
    });
}

#[test]
fn a_module_list_that_loops_is_walked_from_its_other_end() {
    let Some(patient) = Patient::new() else { return support::skip("no raw ELF vmcore") };
    let modules = patient.healthy.modules();
    let link = patient.healthy.types().field("module", "list").unwrap().offset;
    let third = VirtAddr(modules[2].addr.0 + link);
    patient.with(&[(third, &(modules[0].addr.0 + link).to_le_bytes())], |kernel| {
        let names: Vec<&str> = kernel.modules().iter().map(|m| m.name.as_str()).collect();
        let expected: Vec<&str> = modules.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, expected);
    });
}

#[test]
fn user_registers_of_every_task_are_those_that_drgn_reads() {
    const NAMES: [(&str, &str); 21] = [
        ("r15", "r15"),
        ("r14", "r14"),
        ("r13", "r13"),
        ("r12", "r12"),
        ("bp", "rbp"),
        ("bx", "rbx"),
        ("r11", "r11"),
        ("r10", "r10"),
        ("r9", "r9"),
        ("r8", "r8"),
        ("ax", "rax"),
        ("cx", "rcx"),
        ("dx", "rdx"),
        ("si", "rsi"),
        ("di", "rdi"),
        ("orig_ax", "orig_rax"),
        ("ip", "rip"),
        ("cs", "cs"),
        ("flags", "eflags"),
        ("sp", "rsp"),
        ("ss", "ss"),
    ];
    each("user registers", &dumps::one_of_each(), |dump| {
        let kernel = open(&dump.path);
        let mut compared = 0;
        for task in dump.oracle().tasks.iter().filter(|t| !t.user_regs.is_empty() && !t.is_dead()) {
            let own = kernel.tasks().by_address(VirtAddr(number(&task.task))).ok_or("a task is missing")?;
            let regs = corestub::linux::registers::user(&kernel, own);
            let regs = regs.ok_or_else(|| format!("pid {}: no user registers", task.pid))?;
            if own.on_cpu {
                continue; // in user mode the CPU's own are newer than those on the stack
            }
            let value = |name| regs.values.iter().find(|(r, _)| r.name() == name).map(|(_, v)| v);
            for (theirs, ours) in NAMES {
                let (want, got) = (task.user_regs.get(theirs).map(|v| number(v)), value(ours));
                if want != got {
                    return Err(format!("pid {} {}: {ours} is {got:x?}, not {want:x?}", task.pid, task.comm));
                }
            }
            if task.fsbase.as_deref().map(number) != value("fs_base") {
                return Err(format!("pid {}: fs_base", task.pid));
            }
            compared += 1;
        }
        Ok(compared > 0)
    });
}

/// gdb in a further inferior that is attached to `pid`, of which it tells `$rip`.
fn attached(server: &Server, pid: u32) -> Gdb {
    Gdb::new(None).attach(server, pid).ex("printf \"rip %#lx\\n\", $rip")
}

#[test]
fn a_user_process_is_attached_to_and_left_again() {
    if !have_gdb() {
        return;
    }
    let dumps: Vec<_> = dumps::one_of_each().into_iter().take(2).collect();
    each("attach", &dumps, |dump| {
        let oracle = dump.oracle();
        let Some(task) = oracle.tasks.iter().find(|t| t.user_regs.contains_key("ip") && t.on_cpu == Some(0))
        else {
            return Ok(false);
        };
        let server = Server::start(&dump.path, &[])?;
        let said = attached(&server, task.pid)
            .ex("info auxv")
            .ex("x/bx 0xffffffff81000000")
            .ex("attach 2")
            .ex("detach")
            .ex("inferior 1")
            .ex("printf \"first %d\\n\", (int)$_gthread")
            .run()?;
        let wanted = format!("rip {:#x}", number(&task.user_regs["ip"]));
        let unmapped = "Cannot access memory at address 0xffffffff81000000";
        expect(&said, &[&wanted, "AT_PHDR", unmapped, "first "])?;
        Ok(true)
    });
}

/// gdb asserts that the process is the one it attached to.
#[test]
fn a_thread_that_leads_no_process_can_be_attached_to() {
    if !have_gdb() {
        return;
    }
    let dumps: Vec<_> = dumps::one_of_each().into_iter().take(2).collect();
    each("attach to a thread", &dumps, |dump| {
        let oracle = dump.oracle();
        let mut threads = oracle.tasks.iter().filter(|t| t.pid != t.tgid);
        let Some(task) = threads.find(|t| t.user_regs.contains_key("ip")) else {
            return Ok(false);
        };
        let server = Server::start(&dump.path, &[])?;
        let said = attached(&server, task.pid).ex("info threads").ex("detach").run()?;
        let wanted = format!("rip {:#x}", number(&task.user_regs["ip"]));
        let leader = format!("Thread {}.{}", task.pid, task.tgid);
        expect(&said, &[&wanted, &leader]).map(|()| true)
    });
}
