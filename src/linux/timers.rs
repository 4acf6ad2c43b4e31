//! Timers that wait: the wheels of each CPU, in jiffies, and its high-resolution timers.
//!
//! A wheel is an array of lists (`timer_base.vectors`, 4.8 and later); of the others each clock
//! has a red-black tree. Sources: `kernel/time/timer.c`, `include/linux/hrtimer_defs.h`.

use super::View;
use super::list::List;
use super::object::Object;
use super::rbtree::RbTree;
use crate::addr::VirtAddr;
use crate::bytes::u64_at;

/// Timers of one wheel or clock.
const MOST: usize = 1 << 16;
/// Clocks of one CPU (`HRTIMER_MAX_CLOCK_BASES` is 8).
const MOST_CLOCKS: u64 = 16;

/// One wheel of a CPU.
pub(crate) struct Wheel {
    pub(crate) name: &'static str,
    pub(crate) at: VirtAddr,
    /// The next to expire first.
    pub(crate) timers: Vec<Timer>,
    /// Why some are missing.
    pub(crate) lost: Option<String>,
}

/// One `struct timer_list`.
pub(crate) struct Timer {
    pub(crate) at: VirtAddr,
    /// In jiffies.
    pub(crate) expires: Option<u64>,
    pub(crate) function: Option<VirtAddr>,
}

/// The wheels of one CPU. `Err` says what is missing.
pub(crate) fn wheels(view: &View, cpu: u32) -> Result<Vec<Wheel>, &'static str> {
    let symbol = view.symbols().by_name("timer_bases").ok_or("no symbol timer_bases")?;
    let size = view.types().size_of("timer_base").filter(|&size| size > 0).ok_or("no type timer_base")?;
    let first = view.percpu().address(VirtAddr(symbol.address), cpu).ok_or("per-CPU memory is not known")?;
    // With 6.9 those that stay on their CPU got a wheel of their own.
    let names: &[&str] = match symbol.size / size {
        0 | 1 => &["BASE_STD"],
        2 => &["BASE_STD", "BASE_DEF"],
        _ => &["BASE_LOCAL", "BASE_GLOBAL", "BASE_DEF"],
    };
    let at = |i: u64| VirtAddr(first.0.wrapping_add(i * size));
    Ok(names.iter().zip(0..).map(|(&name, i)| Wheel::read(view, name, at(i))).collect())
}

impl Wheel {
    fn read(view: &View, name: &'static str, at: VirtAddr) -> Self {
        let mut wheel = Self { name, at, timers: Vec::new(), lost: None };
        if wheel.fill(view).is_none() {
            wheel.lost = Some(format!("the wheel at {at} cannot be read"));
        }
        wheel.timers.sort_by_key(|timer| (timer.expires.is_none(), timer.expires));
        wheel
    }

    fn fill(&mut self, view: &View) -> Option<()> {
        let base = Object::new(view, "timer_base", self.at);
        let (vectors, link) = (base.field("vectors")?, view.types().field("timer_list", "entry")?.offset);
        let first = base.address("vectors")?;
        let bytes = usize::try_from(vectors.size).ok().filter(|&bytes| bytes <= 1 << 16)?;
        let heads = view.space().read_vec(first, bytes).ok()?;
        let mut left = MOST;
        for at in (0..bytes).step_by(8).filter(|&at| u64_at(&heads, at).is_some_and(|head| head != 0)) {
            let mut list = List::chain(view, first.checked_add(at as u64)?, link, left);
            self.timers.extend(list.by_ref().map(|at| {
                let timer = Object::new(view, "timer_list", at);
                Timer { at, expires: timer.number("expires"), function: timer.pointer("function") }
            }));
            left = list.steps_left();
            if let Some(broken) = list.broken() {
                self.lost = Some(broken.to_string());
            }
        }
        Some(())
    }
}

/// One clock of a CPU's high-resolution timers.
pub(crate) struct Clock {
    pub(crate) at: VirtAddr,
    /// The function that reads it, by crash's name.
    pub(crate) name: &'static str,
    /// What is to be added to the monotonic clock.
    pub(crate) offset: Option<i64>,
    /// The next to expire first.
    pub(crate) timers: Vec<HrTimer>,
    /// Some are missing.
    pub(crate) broken: bool,
}

/// One `struct hrtimer`; times are nanoseconds of its clock.
pub(crate) struct HrTimer {
    pub(crate) at: VirtAddr,
    pub(crate) soft: Option<i64>,
    pub(crate) hard: Option<i64>,
    pub(crate) function: Option<VirtAddr>,
}

/// The `struct hrtimer_cpu_base` of a CPU, and its clocks. `Err` says what is missing.
pub(crate) fn clocks(view: &View, cpu: u32) -> Result<(VirtAddr, Vec<Clock>), &'static str> {
    let base =
        Object::of_cpu(view, "hrtimer_bases", cpu, "hrtimer_cpu_base").ok_or("no symbol hrtimer_bases")?;
    let missing = "the layout of hrtimer_cpu_base is not known";
    let size = view.types().size_of("hrtimer_clock_base").filter(|&size| size > 0).ok_or(missing)?;
    let array = base.field("clock_base").ok_or(missing)?;
    let count = (array.size / size).min(MOST_CLOCKS);
    let at = |i: u64| VirtAddr(base.base.0.wrapping_add(array.offset).wrapping_add(i * size));
    Ok((base.base, (0..count).map(|i| Clock::read(view, at(i))).collect()))
}

impl Clock {
    fn read(view: &View, at: VirtAddr) -> Self {
        let base = Object::new(view, "hrtimer_clock_base", at);
        // CLOCK_... of include/uapi/linux/time.h.
        let name = match base.number("clockid") {
            Some(0) => "ktime_get_real",
            Some(1) => "ktime_get",
            Some(7) => "ktime_get_boottime",
            Some(11) => "ktime_get_clocktai",
            _ => "?",
        };
        // The root has its leftmost node beside it since 4.14.
        let root = ["active.rb_root.rb_root.rb_node", "active.head.rb_node"];
        let root = root.into_iter().find_map(|member| base.number(member));
        let link = view.types().field("hrtimer", "node");
        let mut clock = Self { at, name, offset: base.signed("offset"), timers: Vec::new(), broken: true };
        if let Some((root, link)) = root.zip(link) {
            let mut tree = RbTree::new(view, (root != 0).then_some(VirtAddr(root)), MOST);
            clock.timers.extend(
                tree.by_ref().map(|node| HrTimer::read(view, VirtAddr(node.0.wrapping_sub(link.offset)))),
            );
            clock.broken = tree.broken();
        }
        clock
    }
}

impl HrTimer {
    fn read(view: &View, at: VirtAddr) -> Self {
        let timer = Object::new(view, "hrtimer", at);
        Self {
            at,
            soft: timer.signed("_softexpires"),
            hard: timer.signed("node.expires"),
            function: timer.pointer("function"),
        }
    }
}
