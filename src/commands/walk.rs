//! `walk`, crash's `list`: the elements of a linked list. In a shell `corestub list` lists
//! dumps, so that it has a name of its own there; `monitor list` is the same.

use clap::Args;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::answer::streamed;
use super::struct_::Shape;
use super::{Answer, Command, CommandError, Context, Result, Text, address};
use crate::addr::VirtAddr;
use crate::linux::Kernel;
use crate::linux::list::{Broken, List};
use crate::number;
use crate::text::{Screen, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "walk",
        "the elements of a linked list (crash's `list`)",
        "Without -h and -H START is the first element, and each points to the next by its word at \
         OFFSET (a number, or STRUCT.MEMBER); the list ends with null, with START, or with the element \
         behind it. With -H and -h it is a circle of struct list_head.\n\n\
         Examples:\n  \
           (gdb) monitor list module.list -s module.name,state -H modules\n  \
           $ corestub walk vmcore task_struct.tasks -s task_struct.pid,comm -h init_task\n  \
           $ corestub walk vmcore file_system_type.next ffffffff96f818a0",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// Where an element has its link, and where the list starts
    #[arg(value_name = "[OFFSET] START", num_args = 1..=2, required = true, help = address::HELP)]
    words: Vec<String>,
    /// Where an element has its link, as -o
    #[arg(short, value_name = "OFFSET")]
    offset: Option<String>,
    /// START is a list_head that belongs to no element
    #[arg(short = 'H', conflicts_with = "element")]
    head: bool,
    /// START is an element, in which the list_head is embedded
    #[arg(short = 'h')]
    element: bool,
    /// With -h: START is of another structure, which has the head there
    #[arg(short = 'O', value_name = "OFFSET", requires = "element")]
    head_offset: Option<String>,
    /// Where to end
    #[arg(short, value_name = "ADDRESS|SYMBOL")]
    end: Option<String>,
    /// Backward, by the second word of a list_head
    #[arg(short)]
    reverse: bool,
    /// With -s: the addresses are of a member at this offset
    #[arg(short = 'l', value_name = "OFFSET", requires = "shapes")]
    inside: Option<String>,
    #[command(flatten)]
    shown: Shown,
}

/// What is shown of each element.
#[derive(Args)]
pub(super) struct Shown {
    /// Show each element as this structure, or these of its members (repeatable)
    #[arg(short = 's', short_alias = 'S', value_name = "NAME[.MEMBER,...]")]
    shapes: Vec<String>,
}

/// Elements that are followed.
const MOST: usize = 1 << 20;

/// A number, or the offset of STRUCT.MEMBER.
pub(super) fn offset(kernel: &Kernel, text: &str) -> Result<u64> {
    match text.split_once('.') {
        Some((name, member)) => {
            let field = kernel.types().field(name, member);
            field.map(|field| field.offset).ok_or_else(|| {
                CommandError::Failed(format!("{} has no member {member} of {name}", kernel.types().origin()))
            })
        }
        None => number::unsigned(text).map_err(CommandError::Usage),
    }
}

/// The same of an option, 0 if it was not given.
pub(super) fn maybe_offset(kernel: &Kernel, text: Option<&String>) -> Result<u64> {
    text.map_or(Ok(0), |text| offset(kernel, text))
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let (given, start) = match args.words.as_slice() {
        [offset, start] if args.offset.is_none() => (Some(offset), start),
        [start] => (args.offset.as_ref(), start),
        _ => return Err(CommandError::Usage("OFFSET is given twice".to_owned())),
    };
    let offset = maybe_offset(kernel, given)?;
    let start = address::of_kernel(kernel, context, start)?;
    let end = args.end.as_ref().map(|word| address::of_kernel(kernel, context, word)).transpose()?;
    let head_at = |offset| {
        let beyond = || CommandError::failed("the list would start beyond the last address");
        start.checked_add(offset).ok_or_else(beyond)
    };
    let circle = match (&args.head_offset, args.head, args.element) {
        (Some(head), ..) => Some(head_at(self::offset(kernel, head)?)?),
        (None, true, _) => Some(start),
        (None, _, true) => Some(head_at(offset)?),
        (None, ..) => None,
    };
    let mut list = match circle {
        Some(head) if args.reverse => List::circular(kernel, head, offset, MOST).backward(),
        Some(head) => List::circular(kernel, head, offset, MOST),
        None if args.reverse => {
            return Err(CommandError::Usage("-r is for circles of list_head: give -h or -H, too".to_owned()));
        }
        None => List::pointers(kernel, start, offset, MOST),
    };
    // A circle has no first element but the one that it was asked for by.
    let first = circle.is_none() || args.element && args.head_offset.is_none();
    let mut elements = Vec::from_iter(first.then_some(start));
    for element in list.by_ref().take_while(|element| end != Some(*element)) {
        context.check()?;
        elements.push(element);
    }
    let broken = match list.broken() {
        // crash takes it for an end: nothing may lead back to where the list was entered.
        Some(Broken::Circle(to)) if circle.is_none() && elements.get(1) == Some(&VirtAddr(to)) => None,
        broken => broken.map(|why| why.to_string()),
    };
    let shapes = args.shown.resolve(kernel, maybe_offset(kernel, args.inside.as_ref())?)?;
    Ok(Walked { context, elements, shapes, broken }.into())
}

impl Shown {
    pub(super) fn resolve<'k>(&self, kernel: &'k Kernel, inside: u64) -> Result<Shapes<'k>> {
        let all = self.shapes.iter().map(|text| Shape::named(kernel, text)).collect::<Result<_>>()?;
        Ok(Shapes { all, inside })
    }
}

/// As what an element is shown.
pub(super) struct Shapes<'k> {
    all: Vec<Shape<'k>>,
    /// Where in it the address is that the list has.
    inside: u64,
}

impl Shapes<'_> {
    /// The rows of the element at `at`, and its values; nothing if only addresses are wanted.
    pub(super) fn of(&self, at: VirtAddr) -> Result<Vec<(Vec<String>, Value)>> {
        self.all.iter().map(|shape| shape.at(VirtAddr(at.0.wrapping_sub(self.inside)))).collect()
    }

    /// The values alone, for machines.
    pub(super) fn values(&self, at: VirtAddr) -> Vec<Value> {
        self.of(at).map(|all| all.into_iter().map(|(_, value)| value).collect()).unwrap_or_default()
    }

    /// The rows alone.
    pub(super) fn text(&self, at: VirtAddr, screen: &mut Screen<'_>) -> Result<()> {
        for (rows, _) in self.of(at)? {
            rows.iter().try_for_each(|line| row!(screen, "{line}"))?;
        }
        Ok(())
    }
}

/// The elements that were met.
struct Walked<'d> {
    context: Context<'d>,
    elements: Vec<VirtAddr>,
    shapes: Shapes<'d>,
    /// What ended the walk too early.
    broken: Option<String>,
}

/// One of them.
#[derive(Serialize)]
struct Element {
    address: VirtAddr,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<Value>,
}

impl Serialize for Walked<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let one = |&address: &VirtAddr| Element { address, values: self.shapes.values(address) };
        streamed(to, self.context, self.elements.iter().map(one))
    }
}

impl Text for Walked<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        for element in &self.elements {
            self.context.check()?;
            row!(screen, "{:x}", element.0)?;
            self.shapes.text(*element, screen)?;
        }
        if self.elements.is_empty() && self.broken.is_none() {
            row!(screen, "(empty)")?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        self.broken.as_ref().map(|why| format!("the list is not whole: {why}"))
    }
}
