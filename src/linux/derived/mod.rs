//! Layouts derived from the dump itself, for kernels that bring no types.
//!
//! Before BTF (5.x in distributions) a dump alone does not say where the members of a
//! structure lie. But enough of them prove themselves: the task at `init_task`
//! is named `swapper`, all leaders of thread groups hang on one circle through it, each
//! has a stack whose first word points back (before 4.9, `struct thread_info`) or is the
//! mark that guards its end, and so on. Each offset below is the first that holds for every
//! task that was looked at, and each step proves the one before; where nothing does,
//! that member is not known, and whoever needs it says so. Of members beside each other
//! (`pid` and `tgid`) one proof serves both. Layouts of the log's records are in
//! VMCOREINFO.
//!
//! The same makes up for a `task_struct` that BTF with holes lacks ([`mod@over`]). Then pages of
//! tasks are lost, too: what cannot be read proves nothing and disproves nothing, and of the
//! circle both ends are followed as far as they go.
//!
//! Sources: `include/linux/sched.h`, `include/linux/module.h`, `kernel/sched/sched.h`.

use std::collections::{HashMap, HashSet};

use super::kaslr;
use super::task_scan::PAGE;
use super::tasks::{PF_KTHREAD, PID_LIMIT};
use crate::addr::VirtAddr;
use crate::arch::map;
use crate::bytes::{cstr, u32_at, u64_at};
use crate::debuginfo::symbols::SymbolTable;
use crate::debuginfo::{Field, Types};
use crate::dump::vmcoreinfo::VmcoreInfo;
use crate::memory::AddressSpace;

mod circle;
mod modules;
mod over;
mod switch;

pub(super) use over::over;

/// No `task_struct` of such kernels is larger.
pub(super) const TASK_MAX: usize = 8 << 10;
/// Tasks that proofs are held against.
const SAMPLE: usize = 256;
/// `THREAD_SIZE` of x86-64: 16 KiB since 3.15 (6538b8ea886e), which distributions took
/// back, and 8 before.
const THREAD_SIZES: [u64; 2] = [16 << 10, 8 << 10];
const SIGCHLD: u32 = 17;
/// `STACK_END_MAGIC` (`include/uapi/linux/magic.h`): the lowest word of a stack since
/// `struct thread_info` moved into the task (4.9, c65eacbe290b).
const STACK_END: u64 = 0x57ac_6e9d;

type Key = (&'static str, &'static str);

/// What was found.
#[derive(Default)]
pub(super) struct Derived {
    fields: HashMap<Key, Field>,
    sizes: HashMap<&'static str, u64>,
}

impl Derived {
    /// Type, path and offset of each.
    #[cfg(test)]
    pub(super) fn offsets(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.fields.iter().map(|((ty, path), field)| (*ty, *path, field.offset))
    }

    fn put(&mut self, ty: &'static str, path: &'static str, offset: u64, size: u64) {
        self.fields.insert((ty, path), Field { offset, size, bits: None });
    }
}

impl Types for Derived {
    fn size_of(&self, name: &str) -> Option<u64> {
        self.sizes.get(name.strip_prefix("struct ").unwrap_or(name)).copied()
    }

    fn field(&self, name: &str, path: &str) -> Option<Field> {
        let name = name.strip_prefix("struct ").unwrap_or(name);
        let (_, field) = self.fields.iter().find(|(key, _)| **key == (name, path))?;
        Some(*field)
    }

    fn enumerator(&self, _: &str) -> Option<i64> {
        None
    }

    fn array_len(&self, _: &str, _: &str) -> Option<u64> {
        None
    }

    fn origin(&self) -> &str {
        "derived from the dump's own memory"
    }
}

/// Derives what can be. `Err` says what could not be found and nothing works without.
pub(super) fn types(
    space: &dyn AddressSpace,
    symbols: &SymbolTable,
    info: &VmcoreInfo,
    pages: Pages<'_>,
) -> Result<Derived, String> {
    let mut out = Derived::default();
    log_records(info, &mut out);
    // The CPU's own structure (Intel SDM 3A, figure 8-11), the first member of the kernel's.
    out.put("tss_struct", "x86_tss.sp0", 4, 8);
    out.put("tss_struct", "x86_tss.ist", 36, 56);
    // `struct entry_stack` of 4.15 and later.
    if symbols.address("cpu_tss_rw").is_some() {
        out.sizes.insert("entry_stack", 64 * 8);
    }
    modules::find(space, symbols, &mut out);
    // A dump that lost names lost other pages, too.
    let none = Derived::default();
    let holed = symbols.lacks_names().then_some(&none as &dyn Types);
    Finder { space, symbols, holed, pages }.tasks(&mut out)?;
    Ok(out)
}

/// `struct log` of 3.5 to 3.10, since then `struct printk_log`.
fn log_records(info: &VmcoreInfo, out: &mut Derived) {
    for ty in ["printk_log", "log"] {
        let Some(size) = info.size(ty) else { continue };
        out.sizes.insert(ty, size);
        for (path, key, size) in [
            ("ts_nsec", "ts_nsec", 8),
            ("len", "len", 2),
            ("text_len", "text_len", 2),
            ("dict_len", "dict_len", 2),
        ] {
            if let Some(offset) = info.offset(&format!("{ty}.{key}")) {
                out.put(ty, path, offset, size);
            }
        }
        // Behind them: a byte of facility, then five bits of flags and three of level.
        if let Some(dict) = info.offset(&format!("{ty}.dict_len")) {
            let behind = |n| dict.saturating_add(n);
            out.put(ty, "facility", behind(2), 1);
            out.fields.insert((ty, "level"), Field { offset: behind(3), size: 1, bits: Some((5, 3)) });
        }
    }
}

/// A task and the first bytes of its `task_struct`.
struct Sample {
    at: u64,
    bytes: Vec<u8>,
}

impl Sample {
    fn word(&self, offset: usize) -> Option<u64> {
        u64_at(&self.bytes, offset)
    }

    fn half(&self, offset: usize) -> Option<u32> {
        u32_at(&self.bytes, offset)
    }
}

/// What the lowest word of a stack tells.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bottom {
    ThreadInfo,
    Mark,
}

/// Visits each page that the dump has, by its address in the map of all memory, and gathers what
/// is found.
pub(super) type Pages<'a> = &'a (dyn Fn(&Visit<'_>) -> Vec<(usize, u64)> + Sync);
type Visit<'a> = dyn Fn(u64, &[u8; PAGE], &mut Vec<(usize, u64)>) + Sync + 'a;

struct Finder<'a> {
    space: &'a dyn AddressSpace,
    symbols: &'a SymbolTable,
    pages: Pages<'a>,
    /// The types that lack those of tasks, of a dump with lost pages.
    holed: Option<&'a dyn Types>,
}

impl Finder<'_> {
    fn symbol(&self, name: &str) -> Result<u64, String> {
        self.symbols.address(name).ok_or_else(|| format!("no symbol {name}"))
    }

    fn word(&self, at: u64) -> Option<u64> {
        self.space.read_u64(VirtAddr(at)).ok()
    }

    fn sample(&self, at: u64) -> Option<Sample> {
        let mut bytes = vec![0; TASK_MAX];
        let read = self.space.read(VirtAddr(at), &mut bytes).ok()?;
        bytes.truncate(read);
        Some(Sample { at, bytes })
    }

    fn tasks(&self, out: &mut Derived) -> Result<(), String> {
        let init = self.symbol("init_task").or_else(|why| self.init_task().ok_or(why))?;
        let first = self.sample(init).ok_or("init_task is not in the dump")?;
        let comm = memchr::memmem::find(&first.bytes, b"swapper").ok_or("init_task has no name")?;
        let (tasks, leaders) = self.circle(&first, comm).ok_or("no list of tasks goes through init_task")?;
        let mut all: Vec<Sample> = leaders.iter().filter_map(|&at| self.sample(at)).collect();
        if self.holed.is_some() {
            all.retain(|t| t.bytes.len() >= first.bytes.len());
        }
        let find = |what: &str, holds: &dyn Fn(usize) -> bool| {
            (0..TASK_MAX)
                .step_by(8)
                .find(|&o| holds(o))
                .ok_or_else(|| format!("no member {what} is told by content"))
        };
        let find_half = |what: &str, holds: &dyn Fn(usize) -> bool| {
            (0..TASK_MAX)
                .step_by(4)
                .find(|&o| holds(o))
                .ok_or_else(|| format!("no member {what} is told by content"))
        };
        let aligned = |t: &Sample, o| t.word(o).filter(|s| s % 8192 == 0 && kernel(*s));
        let has_stack = |t: &Sample, o| aligned(t, o).is_some_and(|s| self.bottom(s, t.at).is_some());
        let lost =
            |t: &Sample, o| self.holed.is_some() && aligned(t, o).is_some_and(|s| self.word(s).is_none());
        // Of those that died it was freed.
        let most = |n: usize| n * 10 >= all.len() * if self.holed.is_some() { 7 } else { 9 };
        let count = |holds: &dyn Fn(&Sample) -> bool| all.iter().filter(|t| holds(t)).count();
        let stack = find("stack", &|o| {
            let may = |t: &Sample| has_stack(t, o) || lost(t, o);
            may(&first) && most(count(&may)) && count(&|t| has_stack(t, o)) > 1
        })?;
        let alive: Vec<&Sample> = all.iter().filter(|t| has_stack(t, stack)).collect();
        // Whether thread_info is a member of the task.
        let bottom = |t: &Sample| self.bottom(t.word(stack)?, t.at);
        let inside = bottom(&first).or_else(|| alive.iter().find_map(|t| bottom(t))) == Some(Bottom::Mark);
        let base = |t: &Sample| t.word(stack).unwrap_or(0);
        let size =
            THREAD_SIZES.into_iter().find(|size| alive.iter().all(|t| base(t) % size == 0)).unwrap_or(8192);
        out.sizes.insert("thread_union", size);
        let in_stack = |t: &Sample, at: u64| at.wrapping_sub(base(t)) < size;
        // What was saved when it was switched out: below it rbp, another place of the stack.
        let sp = find("thread.sp", &|o| {
            let saved = |t: &Sample| t.word(o).filter(|&sp| in_stack(t, sp) && sp % 8 == 0 && sp > base(t));
            alive.iter().all(|t| saved(t).is_some())
        })?;
        let pid = find_half("pid", &|o| {
            let numbers = |t: &Sample| t.half(o).filter(|_| t.half(o) == t.half(o + 4));
            let mut seen = HashSet::new();
            first.half(o) == Some(0)
                && numbers(&first).is_some()
                && all
                    .iter()
                    .all(|t| numbers(t).is_some_and(|n| (1..PID_LIMIT).contains(&n.into()) && seen.insert(n)))
                && (self.holed.is_some() || seen.contains(&1) && seen.contains(&2))
        })?;
        let (mm, pgd) = self.mm(&first, &all)?;
        let user = |t: &Sample| t.word(mm).is_some_and(|mm| mm != 0);
        let flags = find_half("flags", &|o| {
            let kthread = |t: &Sample| t.half(o).is_some_and(|flags| u64::from(flags) & PF_KTHREAD != 0);
            kthread(&first)
                && alive.iter().filter(|t| user(t)).all(|t| !kthread(t))
                && alive.iter().any(|t| kthread(t))
                && alive.iter().filter(|t| !user(t) && !kthread(t)).count() * 10 <= alive.len()
        })?;
        // exit_state, exit_code, exit_signal.
        let exit = find_half("exit_state", &|o| {
            o > mm
                && all.iter().all(|t| matches!(t.half(o), Some(0 | 16 | 32)))
                && most(count(&|t| t.half(o + 8) == Some(SIGCHLD)))
        })?;
        let known: HashSet<u64> = leaders.iter().copied().chain([init]).collect();
        let parent_of = |p: u64| {
            known.contains(&p) || self.holed.is_some() && kernel(p) && self.named(p, comm) != Some(false)
        };
        // real_parent, before parent.
        let parent = find("real_parent", &|o| {
            o > pid
                && first.word(o) == Some(init)
                && first.word(o + 8) == Some(init)
                && most(count(&|t| t.word(o).is_some_and(parent_of)))
        })?;
        let init_signals = self.symbol("init_signals");
        let own = |o: usize| {
            let mut seen = HashSet::from([0]);
            all.iter().all(|t| t.word(o).is_some_and(|s| kernel(s) && s != t.at && seen.insert(s)))
        };
        let signal = find("signal", &|o| match &init_signals {
            Ok(signals) => first.word(o) == Some(*signals) && own(o),
            // Each leader's own, as what is behind them, the handlers.
            Err(_) => {
                self.holed.is_some()
                    && [o, o + 8].iter().all(|&o| {
                        first.word(o).is_some_and(|s| map::is_in_image(s) && s.is_multiple_of(8)) && own(o)
                    })
            }
        })?;
        let whole: &[(&'static str, usize, u64)] = &[
            ("comm", comm, 16),
            ("tasks", tasks, 16),
            ("stack", stack, 8),
            ("thread.sp", sp, 8),
            ("pid", pid, 4),
            ("tgid", pid + 4, 4),
            ("mm", mm, 8),
            ("flags", flags, 4),
            ("exit_state", exit, 4),
            ("real_parent", parent, 8),
            ("signal", signal, 8),
            // The first member since the first version; today behind thread_info, and
            // before the stack.
            ("state", if inside { stack.saturating_sub(8) } else { 0 }, if inside { 4 } else { 8 }),
        ];
        for &(path, offset, size) in whole {
            out.put("task_struct", path, offset as u64, size);
        }
        // Behind sp, as long as there was a variable for what it is saved from.
        if self.symbols.address("old_rsp").is_some() {
            out.put("task_struct", "thread.usersp", sp as u64 + 8, 8);
        }
        if let Some(pgd) = pgd {
            out.put("mm_struct", "pgd", pgd as u64, 8);
        }
        if let Some(group) = self.thread_group(&all, pid + 4) {
            out.put("task_struct", "thread_group", group as u64, 16);
        }
        if self.holed.is_some() {
            self.for_search(&first, &all, (pid, signal), out);
        }
        if inside {
            // The first member since there is one (`include/linux/sched.h`), and what is before `state`.
            out.put("task_struct", "thread_info", 0, stack.saturating_sub(8) as u64);
            switch::find(&alive, sp, &|at| self.word(at), self.symbols, out);
        }
        let queues = self.run_queues(comm, stack, inside, out);
        // Of a dump with lost pages those of a CPU may be among them.
        if self.holed.is_some() { Ok(()) } else { queues }
    }

    /// The first task, its name lost, by its own in the kernel's image: where the symbol around that
    /// begins, and what its parent is.
    fn init_task(&self) -> Option<u64> {
        const NAME: &[u8; 16] = b"swapper/0\0\0\0\0\0\0\0";
        let mut page = vec![0; 4096];
        let stext = kaslr::stext(|name| self.symbols.address(name));
        let from = stext.filter(|_| self.symbols.lacks_names())? & !0xfff;
        let mut pages = (from..map::KERNEL_MAP.checked_add(map::KERNEL_IMAGE_SIZE)?).step_by(4096);
        pages.find_map(|at| {
            self.space.read_exact(VirtAddr(at), &mut page).ok()?;
            let named = memchr::memmem::find(&page, NAME)?;
            let start = self.symbols.start_of(at + named as u64)?;
            let task = self.sample(start)?;
            let parents = |o: usize| [o, o + 8].iter().all(|&o| task.word(o) == Some(start));
            (0..TASK_MAX).step_by(8).any(parents).then_some(start)
        })
    }

    /// What lies at the bottom of `stack`, if that is the stack of `task`.
    fn bottom(&self, stack: u64, task: u64) -> Option<Bottom> {
        match self.word(stack).filter(|_| kernel(stack))? {
            // thread_info begins with a pointer to its task.
            word if word == task => Some(Bottom::ThreadInfo),
            STACK_END => Some(Bottom::Mark),
            _ => None,
        }
    }

    /// Whether a task at `task` has a name; `None` if that is not in the dump.
    fn named(&self, task: u64, comm: usize) -> Option<bool> {
        let mut name = [0; 16];
        self.space.read_exact(VirtAddr(task.wrapping_add(comm as u64)), &mut name).ok()?;
        let name = cstr(&name).into_owned();
        Some(!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() || b == b' '))
    }

    /// What a search of memory knows tasks by, beside the rest: a leader leads itself, and
    /// the shared signal handlers stand behind the signals.
    fn for_search(&self, first: &Sample, all: &[Sample], (pid, signal): (usize, usize), out: &mut Derived) {
        let leads = |t: &Sample, o: usize| t.word(o) == Some(t.at);
        let leader = (pid..TASK_MAX).step_by(4).filter(|o| o % 8 == 0);
        let leader = leader.clone().find(|&o| leads(first, o) && all.iter().all(|t| leads(t, o)));
        let handlers = signal + 8;
        let shared = self.symbols.address("init_sighand").is_none_or(|at| first.word(handlers) == Some(at));
        if let Some(leader) = leader.filter(|_| shared) {
            out.put("task_struct", "group_leader", leader as u64, 8);
            out.put("task_struct", "sighand", handlers as u64, 8);
        }
    }

    /// `mm`, and `pgd` in it: the top of page tables whose kernel half is the kernel's.
    /// Where pages are lost, the member alone will do.
    fn mm(&self, first: &Sample, all: &[Sample]) -> Result<(usize, Option<usize>), String> {
        let top = ["init_level4_pgt", "swapper_pg_dir", "init_top_pgt"]
            .iter()
            .find_map(|n| self.symbols.address(n));
        let half = |at: u64| self.space.read_vec(VirtAddr(at).checked_add(2048)?, 2048).ok();
        let own = match top.and_then(half) {
            Some(own) => own,
            None if self.holed.is_some() => Vec::new(),
            None => return Err("the kernel's page tables are not in the dump".to_owned()),
        };
        let is_top = |at: u64| {
            at.is_multiple_of(4096)
                && kernel(at)
                && half(at).is_some_and(|theirs| {
                    let mut pairs = own.chunks_exact(8).zip(theirs.chunks_exact(8));
                    let mut alike = 0;
                    pairs.all(|(own, their)| {
                        alike += usize::from(own == their && own != [0; 8]);
                        own == their || their == [0; 8]
                    }) && alike > 2
                })
        };
        let pgd =
            |mm: u64| (0..512).step_by(8).find(|&g| self.word(mm.wrapping_add(g as u64)).is_some_and(is_top));
        // mm before active_mm; a kernel thread has the latter only.
        let users =
            |o: usize| all.iter().filter_map(move |t| t.word(o).filter(|&mm| mm != 0).map(|mm| (t, mm)));
        (0..TASK_MAX)
            .step_by(8)
            .filter(|&o| first.word(o) == Some(0) && users(o).next().is_some())
            .filter(|&o| users(o).all(|(t, mm)| kernel(mm) && t.word(o + 8) == Some(mm)))
            .find_map(|o| {
                let pgd = users(o).find_map(|(_, mm)| pgd(mm));
                (pgd.is_some() || self.holed.is_some() && users(o).nth(1).is_some()).then_some((o, pgd))
            })
            .ok_or_else(|| "no member mm is told by content".to_owned())
    }

    /// The link of a thread group: a circle of tasks of one `tgid`.
    fn thread_group(&self, all: &[Sample], tgid: usize) -> Option<usize> {
        let group = |t: &Sample, o: usize| {
            let head = t.at.checked_add(o as u64)?;
            let (mut link, mut n) = (t.word(o)?, 1);
            while link != head {
                let theirs =
                    self.space.read_u32(VirtAddr(link.wrapping_sub(o as u64).wrapping_add(tgid as u64)));
                if !kernel(link) || n > SAMPLE || theirs.ok() != t.half(tgid) {
                    return None;
                }
                (link, n) = (self.word(link)?, n + 1);
            }
            Some(n)
        };
        ((tgid & !7) + 8..TASK_MAX).step_by(8).find(|&o| {
            let mut largest = 0;
            all.iter().all(|t| {
                group(t, o).is_some_and(|n| {
                    largest = largest.max(n);
                    true
                })
            }) && largest > 1
        })
    }

    /// `rq->curr` and `rq->idle` beside it; then the number of a task's CPU, in its
    /// `thread_info` or in itself.
    fn run_queues(&self, comm: usize, stack: usize, inside: bool, out: &mut Derived) -> Result<(), String> {
        const RQ_MAX: u64 = 8 << 10;
        let known = |path| self.holed.and_then(|types| types.field("rq", path)).map(|f| f.offset);
        let queues = self.symbol("runqueues")?;
        let percpu = super::percpu::PerCpu::read(self.space, self.symbols);
        let on =
            |cpu: u32, offset: u64| self.word(percpu.address(VirtAddr(queues), cpu)?.0.wrapping_add(offset));
        let is_task = |at: u64| {
            let stack = self.word(at.wrapping_add(stack as u64)).filter(|&s| kernel(s));
            stack.is_some_and(|s| self.bottom(s, at).is_some())
        };
        let idles = |cpu: u32, at: u64| {
            let name = self.space.read_cstr(VirtAddr(at.wrapping_add(comm as u64)), 16).unwrap_or_default();
            is_task(at) && (name == format!("swapper/{cpu}") || name == "swapper")
        };
        // A stack that overflowed has been written over to its bottom.
        let runs = |at: u64| {
            let stack = self.word(at.wrapping_add(stack as u64)).filter(|&s| s % 8192 == 0 && kernel(s));
            is_task(at) || stack.is_some() && self.named(at, comm) == Some(true)
        };
        let holds = |idle: u64, curr: u64| {
            // One that never ran has none; one that a panic stopped has.
            percpu.present().iter().all(|&cpu| match on(cpu, idle) {
                Some(0) => !percpu.online().contains(&cpu),
                Some(at) => idles(cpu, at) && on(cpu, curr).is_some_and(runs),
                None => false,
            })
        };
        // Since 6.8 there is a pointer between them (63ba8422f876).
        let by_content = || {
            (16..RQ_MAX)
                .step_by(8)
                .find_map(|o| Some((o, [8, 16].map(|n| o - n).into_iter().find(|&c| holds(o, c))?)))
        };
        let found = known("idle").zip(known("curr")).or_else(by_content);
        let (idle, curr) = found.ok_or("no run queue has an idle task")?;
        out.put("rq", "curr", curr, 8);
        out.put("rq", "idle", idle, 8);
        if inside {
            let of = |cpu| Some((cpu, on(cpu, curr)?, on(cpu, idle).filter(|&task| task != 0)?));
            let tasks: Vec<_> = percpu.present().iter().filter_map(|&cpu| of(cpu)).collect();
            self.own_cpu(&tasks, stack.saturating_sub(8), out);
            return Ok(());
        }
        let numbered = (8..64u64).step_by(4).find(|&o| {
            percpu.present().iter().all(|&cpu| {
                let Some(task) = on(cpu, idle).filter(|&task| task != 0) else { return true };
                let stack = self.word(task.wrapping_add(stack as u64));
                stack.and_then(|s| self.space.read_u32(VirtAddr(s.wrapping_add(o))).ok()) == Some(cpu)
            })
        });
        // One CPU, whose number is 0, would be told by any word.
        if let Some(cpu) = numbered.filter(|_| percpu.present().len() > 1) {
            out.put("thread_info", "cpu", cpu, 4);
            // Before it: flags, status.
            out.put("thread_info", "flags", cpu - 8, 4);
        }
        Ok(())
    }

    /// `cpu` of tasks that have it themselves, in `thread_info` (5.16 and later, bcf9033e5449)
    /// or beside `on_cpu`; `tasks` are for each CPU what it runs, and its idle task.
    fn own_cpu(&self, tasks: &[(u32, u64, u64)], state: usize, out: &mut Derived) {
        // One CPU, whose number is 0, would be told by any word.
        if tasks.len() < 2 {
            return;
        }
        let half = |task: u64, o: usize| self.space.read_u32(VirtAddr(task.wrapping_add(o as u64))).ok();
        let numbers = |o: usize| {
            tasks.iter().all(|&(cpu, now, idle)| half(now, o) == Some(cpu) && half(idle, o) == Some(cpu))
        };
        if let Some(at) = (4..state).step_by(4).find(|&o| numbers(o)) {
            out.put("task_struct", "thread_info.cpu", at as u64, 4);
            return;
        }
        let runs = |o: usize| {
            let idles = |now, idle| now == idle || half(idle, o) == Some(0);
            tasks.iter().all(|&(_, now, idle)| half(now, o) == Some(1) && idles(now, idle))
        };
        if let Some(at) = (state + 4..TASK_MAX).step_by(4).find(|&o| numbers(o) && runs(o - 4)) {
            out.put("task_struct", "cpu", at as u64, 4);
            out.put("task_struct", "on_cpu", at as u64 - 4, 4);
        }
    }
}

/// Whether `at` is an address of the kernel's half.
fn kernel(at: u64) -> bool {
    at >= crate::arch::Levels::Four.kernel_start().0 && at.is_multiple_of(8)
}
