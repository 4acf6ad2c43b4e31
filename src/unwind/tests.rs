use std::path::PathBuf;

use super::*;
use crate::dump::Vmcore;
use crate::linux::Options;

/// Up to two crash dumps of the lab, of different kernels.
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut folders: Vec<(PathBuf, u8)> = crate::lab::dirs().into_iter().map(|d| (d, 2)).collect();
    let mut files = Vec::new();
    while let Some((folder, depth)) = folders.pop() {
        for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()) {
            if path.is_dir() && depth > 0 {
                folders.push((path, depth - 1));
            } else if ["z31.kdump", "k6.1-oops.kdump", "k6.12-oops.kdump"].iter().any(|n| path.ends_with(n)) {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut kernels: Vec<Kernel> = Vec::new();
    for path in files {
        let Ok(kernel) = Kernel::open(Vmcore::open(&[path]).unwrap(), Options::default()) else { continue };
        if kernels.iter().all(|k| k.utsname().release != kernel.utsname().release) {
            kernels.push(kernel);
        }
        if kernels.len() == 2 {
            break;
        }
    }
    if kernels.is_empty() {
        crate::lab::skip(&format!("no crash dump in {:?}", crate::lab::dirs()));
    }
    kernels
}

/// Any stack of any start ends, whatever the registers are.
#[test]
fn a_walk_from_garbage_is_bounded() {
    for kernel in kernels() {
        let task = kernel.panic_task().unwrap();
        let base = task.stack.0;
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let text = kernel.text_start().0;
        for _ in 0..2000 {
            let pc = match next() % 4 {
                0 => next(),
                1 => 0,
                _ => text + next() % (14 << 20),
            };
            let sp = base + next() % kernel.thread_size();
            let mut regs: Registers = [(Register::Rbp, base + next() % 0x4000)].into_iter().collect();
            if next() % 2 == 0 {
                use Register::{R10, R13, Rax, Rdi, Rdx};
                regs.extend([(R10, sp + 16), (R13, sp), (Rdi, base), (Rdx, next()), (Rax, sp)]);
            }
            let start = Start { pc, sp, regs, exact: next() % 2 == 0 };
            let trace = walk(&kernel, task, &start);
            assert!(trace.frames.len() <= FRAMES_MAX + 1);
        }
    }
}

/// A jump through a null pointer: the caller is what lies on top of the stack.
#[test]
fn a_call_of_null_leads_back_to_its_caller() {
    for kernel in kernels() {
        let task = kernel.panic_task().unwrap();
        let known = super::task(&kernel, task);
        // As if the second frame had called 0 at the place where it called on.
        let frame = known.frames[1];
        let start = Start { pc: 0, sp: frame.sp - 8, exact: true, ..Start::default() };
        for pc in [0, 0x1000, 0xffff_8880_0000_1000] {
            let trace = walk(&kernel, task, &Start { pc, ..start });
            let pcs = |frames: &[Frame]| frames.iter().map(|f| f.pc).collect::<Vec<_>>();
            assert_eq!(pcs(&trace.frames[1..]), pcs(&known.frames[1..]), "{pc:#x}");
            assert_eq!(trace.end, End::Complete);
        }
    }
}

/// A CPU interrupted at the first instruction of a retpoline thunk has callers, though
/// ORC before 6.4 calls that an end.
#[test]
fn a_thunk_leads_back_to_its_caller() {
    for kernel in kernels() {
        let thunk = |pc: u64| {
            let at = scan::call_target(&kernel, pc)?;
            let (symbol, _) = kernel.symbols().by_address(at).filter(|(_, offset)| *offset == 0)?;
            symbol.name.starts_with("__x86_indirect_thunk_").then_some(at)
        };
        // As if a frame that called on by a thunk were still within it.
        let mut found = None;
        for task in kernel.tasks().all() {
            let frames = super::task(&kernel, task).frames;
            let called = |i: usize| frames.get(i).filter(|f| f.kind == FrameKind::Call).map(|f| f.pc);
            let at = (1..frames.len()).find_map(|i| Some((i, thunk(called(i)?)?)));
            found = found.or(at.map(|(i, pc)| (task, frames[i..].to_vec(), pc)));
        }
        let Some((task, known, pc)) = found else {
            let version = &kernel.layout().version;
            crate::lab::not_here(&format!("{version:?}: no stack goes through a retpoline thunk"));
            continue;
        };
        let start = Start { pc, sp: known[0].sp - 8, exact: true, ..Start::default() };
        let trace = walk(&kernel, task, &start);
        let pcs = |frames: &[Frame]| frames.iter().map(|f| f.pc).collect::<Vec<_>>();
        assert_eq!(pcs(&trace.frames[1..]), pcs(&known));
    }
}

/// A stack pointer that does not go up ends the walk.
#[test]
fn a_frame_below_the_last_one_is_refused() {
    for kernel in kernels() {
        let task = kernel.panic_task().unwrap();
        let mut progress = Progress::new(&kernel, task, task.stack.0 + 0x1000);
        assert!(progress.step(&kernel, task, task.stack.0 + 0x1008));
        assert!(!progress.step(&kernel, task, task.stack.0 + 0x1008));
        assert!(!progress.step(&kernel, task, task.stack.0 + 0x800));
    }
}

/// The stacks of each CPU are found, are apart from each other, and have names.
#[test]
fn every_cpu_has_an_irq_and_an_nmi_stack() {
    for kernel in kernels() {
        let stacks = kernel.stacks().all();
        for &cpu in kernel.percpu().online() {
            for kind in [stacks::Kind::Irq, stacks::Kind::Exception("NMI"), stacks::Kind::Entry] {
                assert!(stacks.iter().any(|s| s.cpu == Some(cpu) && s.kind == kind), "{kind:?} of {cpu}");
            }
        }
        assert!(stacks.windows(2).all(|w| w[0].range.end <= w[1].range.start), "{stacks:#x?}");
    }
}

/// Below a task's stack is the page that catches an overflow, and behind that something else.
#[test]
fn an_overflowed_stack_is_the_tasks_own() {
    for kernel in kernels() {
        let tasks = kernel.tasks();
        let task = tasks.all().iter().find(|t| t.known_pid() == Some(1)).unwrap();
        let on = |sp: u64| stack_of(&kernel, task, &Frame::call(0, sp, By::Cfi)).map(|stack| stack.kind);
        let bottom = task.stack.0;
        assert_eq!([bottom, bottom - 8].map(on), [Some(stacks::Kind::Task); 2]);
        assert_eq!(on(bottom - 0x1008), None);
    }
}
