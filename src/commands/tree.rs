//! `tree`: what hangs in one of the kernel's trees, red-black, xarray or maple, with crash's options.

use clap::{Args, ValueEnum};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::answer::streamed;
use super::walk::{Shapes, Shown, maybe_offset};
use super::{Answer, Command, CommandError, Context, Result, Text, address};
use crate::addr::VirtAddr;
use crate::linux::Kernel;
use crate::linux::maple::Maple;
use crate::linux::object::Object;
use crate::linux::rbtree::RbTree;
use crate::linux::xarray::XArray;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "tree",
        "what hangs in a tree of the kernel's: red-black, xarray (radix) or maple",
        "START is the root: a struct rb_root, xarray, radix_tree_root or maple_tree, or what holds it at the \
         offset of -r. A red-black tree is shown from the root down, with -l in its order.\n\n\
         Examples:\n  \
           $ corestub tree vmcore -t rb -o vmap_area.rb_node vmap_area_root -s vmap_area.va_start,va_end\n  \
           $ corestub tree vmcore -t maple -r mm_struct.mm_mt ffff8d4342081b00 -s vm_area_struct.vm_start",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    #[arg(value_name = "START", help = address::HELP)]
    start: String,
    /// Of which kind the tree is
    #[arg(short = 't', value_enum, default_value_t = Kind::Rbtree)]
    kind: Kind,
    /// Where START has the root
    #[arg(short, value_name = "OFFSET")]
    root: Option<String>,
    /// Where an element has its rb_node
    #[arg(short, value_name = "OFFSET")]
    offset: Option<String>,
    /// START is the node at the top of a red-black tree
    #[arg(short = 'N')]
    node: bool,
    /// A red-black tree in its order, from the leftmost element on
    #[arg(short)]
    linear: bool,
    /// Where each element hangs: its index, and the way from the root
    #[arg(short)]
    position: bool,
    #[command(flatten)]
    shown: Shown,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "rb")]
    Rbtree,
    #[value(alias = "xa")]
    Xarray,
    #[value(alias = "ra")]
    Radix,
    #[value(alias = "ma")]
    Maple,
}

/// Elements that are followed.
const MOST: usize = 1 << 20;
/// No red-black tree of that many elements is deeper.
const DEEPEST: usize = 64;

/// An element, or of an xarray a value.
struct Found {
    at: u64,
    /// Of an xarray; of a maple tree which element it is, as crash counts.
    index: Option<u64>,
    /// Below `root`.
    place: String,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let start = address::of_kernel(kernel, context, &args.start)?;
    let offset = maybe_offset(kernel, args.offset.as_ref())?;
    let root = start
        .checked_add(maybe_offset(kernel, args.root.as_ref())?)
        .ok_or_else(|| CommandError::failed("the root would lie beyond the last address"))?;
    let held = |ty: &str, member: &str| {
        let field = kernel.types().field(ty, member)?;
        Some(kernel.space().read_u64(root.checked_add(field.offset)?))
    };
    let unknown = |what: &str| CommandError::Failed(format!("the kernel has no {what}"));
    let unreadable = |fault| CommandError::Failed(format!("the root cannot be read: {fault}"));
    let (found, lost) = match args.kind {
        Kind::Rbtree => {
            // It is the first word of struct rb_root, and of rb_root_cached.
            let top = if args.node { root.0 } else { kernel.space().read_u64(root).map_err(unreadable)? };
            red_black(kernel, top, offset, args.linear, context)?
        }
        Kind::Xarray | Kind::Radix => {
            let head = held("xarray", "xa_head").or_else(|| held("radix_tree_root", "rnode"));
            let head = head.ok_or_else(|| unknown("xarray and no radix tree"))?.map_err(unreadable)?;
            let layout = kernel.layout().xarray.ok_or_else(|| unknown("nodes of such trees"))?;
            let mut tree = XArray::new(kernel, layout, head);
            // Each is a walk of its own from the root.
            let place = |index| match args.position {
                true => joined(&XArray::place(kernel, layout, head, index)),
                false => String::new(),
            };
            let found = tree
                .by_ref()
                .take(MOST)
                .map(|(index, at)| Found { at, index: Some(index), place: place(index) })
                .collect();
            (found, tree.unread + tree.again.len())
        }
        Kind::Maple => {
            let head = held("maple_tree", "ma_root").ok_or_else(|| unknown("maple tree"))?;
            let tree = Maple::with_places(kernel, head.map_err(unreadable)?);
            let places = tree.places.unwrap_or_default();
            let found = tree.entries.iter().zip(&places).zip(1..);
            let found = found.map(|((at, place), index)| Found {
                at: at.0,
                index: Some(index),
                place: joined(place),
            });
            (found.collect(), tree.unread)
        }
    };
    let shapes = args.shown.resolve(kernel, 0)?;
    Ok(Tree { kernel, context, found, position: args.position, shapes, lost }.into())
}

fn joined(slots: &[u8]) -> String {
    slots.iter().map(|slot| format!("/{slot}")).collect()
}

/// The elements of a red-black tree, and how many branches of it are lost.
fn red_black(
    kernel: &Kernel,
    top: u64,
    offset: u64,
    linear: bool,
    context: Context<'_>,
) -> Result<(Vec<Found>, usize)> {
    let element = |node: VirtAddr| node.0.wrapping_sub(offset);
    let root = Some(VirtAddr(top)).filter(|root| root.0 >= kernel.user_limit());
    let lost = usize::from(top != 0 && root.is_none());
    if linear {
        let mut tree = RbTree::new(kernel, root, MOST);
        let found = tree.by_ref().map(|node| Found { at: element(node), index: None, place: String::new() });
        let found = found.collect();
        return Ok((found, lost + usize::from(tree.broken())));
    }
    let mut lost = lost;
    let mut found: Vec<Found> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut waiting = Vec::from_iter(root.map(|root| (root, String::new())));
    while let Some((node, place)) = waiting.pop() {
        context.check()?;
        if found.len() >= MOST || place.len() >= DEEPEST * 2 || !seen.insert(node) {
            lost += 1;
            continue;
        }
        let object = Object::new(kernel, "rb_node", node);
        for (side, letter) in [("rb_right", "/r"), ("rb_left", "/l")] {
            match object.number(side) {
                Some(0) => {}
                Some(child) if child >= kernel.user_limit() => {
                    waiting.push((VirtAddr(child), format!("{place}{letter}")));
                }
                _ => lost += 1,
            }
        }
        found.push(Found { at: element(node), index: None, place });
    }
    Ok((found, lost))
}

/// What was met.
struct Tree<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    found: Vec<Found>,
    position: bool,
    shapes: Shapes<'d>,
    lost: usize,
}

/// One element.
#[derive(Serialize)]
struct Element {
    address: VirtAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<Value>,
}

impl Tree<'_> {
    /// Whether it is a pointer, of which something can be shown.
    fn is_element(&self, found: &Found) -> bool {
        found.at >= self.kernel.user_limit()
    }
}

impl Serialize for Tree<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let one = |found: &Found| {
            let address = VirtAddr(found.at);
            let values = if self.is_element(found) { self.shapes.values(address) } else { Vec::new() };
            let position = self.position.then(|| format!("root{}", found.place));
            Element { address, index: found.index, position, values }
        };
        streamed(to, self.context, self.found.iter().map(one))
    }
}

impl Text for Tree<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for found in &self.found {
            self.context.check()?;
            row!(screen, "{:x}", found.at)?;
            let index = found.index.map(|index| format!("index: {index}  ")).unwrap_or_default();
            if self.position {
                row!(screen, "  {index}position: root{}", found.place)?;
            }
            if self.is_element(found) {
                self.shapes.text(VirtAddr(found.at), screen)?;
            }
        }
        if self.found.is_empty() && self.lost == 0 {
            row!(screen, "(empty)")?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        (self.lost > 0).then(|| format!("the tree is not whole: {} branches cannot be followed", self.lost))
    }
}
