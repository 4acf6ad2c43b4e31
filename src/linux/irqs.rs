//! Interrupts: their descriptors, who handles them, and how often they came.
//!
//! The descriptors hang in a maple tree (`sparse_irqs`, 6.5 and later), before in a radix
//! tree (`irq_desc_tree`). Sources: `kernel/irq/irqdesc.c`, `include/linux/interrupt.h`.

use super::View;
use super::maple::Maple;
use super::object::Object;
use super::xarray::XArray;
use crate::addr::VirtAddr;

/// Descriptors that are looked at.
const MOST: usize = 1 << 16;
/// Handlers that share one interrupt.
const MOST_ACTIONS: usize = 256;
/// A name of a handler or a chip.
const LONGEST: usize = 128;

/// One interrupt.
pub(crate) struct Irq<'a> {
    view: &'a View,
    object: Object<'a>,
    pub(crate) number: Option<u64>,
    pub(crate) desc: VirtAddr,
    pub(crate) actions: Vec<Action>,
}

/// One handler of an interrupt: a `struct irqaction`.
pub(crate) struct Action {
    pub(crate) at: VirtAddr,
    pub(crate) name: Option<String>,
    pub(crate) handler: Option<VirtAddr>,
}

/// The interrupts by number, and how many parts of the tree were lost. `Err` says what is missing.
pub(crate) fn all(view: &View) -> Result<(Vec<Irq<'_>>, usize), String> {
    let (descs, lost) = descriptors(view)?;
    let mut all: Vec<_> = descs.into_iter().take(MOST).map(|at| Irq::read(view, at)).collect();
    all.sort_by_key(|irq| (irq.number.is_none(), irq.number));
    Ok((all, lost))
}

fn descriptors(view: &View) -> Result<(Vec<VirtAddr>, usize), String> {
    let root = |symbol: &str, ty, members: &[&str]| {
        let tree = Object::of_symbol(view, symbol, ty)?;
        Some(members.iter().find_map(|m| tree.number(m)).ok_or_else(|| format!("{symbol} cannot be read")))
    };
    if let Some(root) = root("sparse_irqs", "maple_tree", &["ma_root"]) {
        let tree = Maple::read(view, root?);
        return Ok((tree.entries, tree.unread));
    }
    // The radix tree became an xarray in 4.20.
    let ty = if view.types().size_of("xarray").is_some() { "xarray" } else { "radix_tree_root" };
    let root = root("irq_desc_tree", ty, &["xa_head", "rnode"])
        .ok_or("no symbol sparse_irqs or irq_desc_tree")??;
    let layout = view.layout().xarray.ok_or("the kernel's tree by index is not known")?;
    let mut tree = XArray::new(view, layout, root);
    let descs = tree.by_ref().take(MOST).map(|(_, entry)| VirtAddr(entry)).collect();
    Ok((descs, tree.unread))
}

impl<'a> Irq<'a> {
    fn read(view: &'a View, desc: VirtAddr) -> Self {
        let object = Object::new(view, "irq_desc", desc);
        let mut actions: Vec<Action> = Vec::new();
        let mut next = object.follow("action", "irqaction");
        while let Some(action) = next {
            if actions.len() >= MOST_ACTIONS || actions.iter().any(|known| known.at == action.base) {
                break;
            }
            actions.push(Action {
                at: action.base,
                name: text(view, action.pointer("name")),
                handler: action.pointer("handler"),
            });
            next = action.follow("next", "irqaction");
        }
        Self { view, object, number: object.number("irq_data.irq"), desc, actions }
    }

    /// How often it came to a CPU.
    #[must_use]
    pub(crate) fn count(&self, cpu: u32) -> Option<u32> {
        // The address of a per-CPU variable; since 6.10 of a structure that begins with the count.
        let counts = VirtAddr(self.object.number("kstat_irqs").filter(|&at| at != 0)?);
        self.view.space().read_u32(self.view.percpu().address(counts, cpu)?).ok()
    }

    /// The interrupt controller and how it signals: `IO-APIC-edge`.
    #[must_use]
    pub(crate) fn chip(&self) -> Option<String> {
        let chip = self.object.follow("irq_data.chip", "irq_chip")?;
        let name = text(self.view, chip.pointer("name"))?;
        Some(match text(self.view, self.object.pointer("name")) {
            Some(flow) => format!("{name}-{flow}"),
            None => name,
        })
    }
}

fn text(view: &View, at: Option<VirtAddr>) -> Option<String> {
    view.space().read_cstr(at?, LONGEST).ok().filter(|name| !name.is_empty())
}
