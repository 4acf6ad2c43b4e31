//! `rd`: memory as words, or as text.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use clap::Args;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::address::{self, Whose};
use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::{PhysAddr, VirtAddr};
use crate::dump::PhysicalMemory;
use crate::error::ReadFault;
use crate::linux::Kernel;
use crate::memory::AddressSpace;
use crate::memory::paging::PageTables;
use crate::text::{Screen, put, row};
use crate::{hex, number};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "rd",
        "read memory",
        "Examples:\n  \
           (gdb) monitor rd -s $rsp 32\n  \
           $ corestub rd vmcore -a linux_banner\n  \
           $ corestub rd vmcore -32 jiffies",
        run,
    )
    .partly()
}

#[derive(Args)]
struct Arguments {
    #[arg(value_name = "ADDRESS|SYMBOL", help = address::HELP)]
    address: String,
    /// How many words or characters
    #[arg(value_parser = number::unsigned, conflicts_with = "end")]
    count: Option<u64>,
    #[command(flatten)]
    width: Width,
    /// As text, as far as it is printable if no count is given
    #[arg(short = 'a')]
    text: bool,
    /// Words that are addresses of symbols by their names
    #[arg(short)]
    symbols: bool,
    /// The same, and addresses in slabs by the names of their caches, in brackets
    #[arg(short = 'S')]
    slabs: bool,
    /// Up to this address instead of a count
    #[arg(short)]
    end: Option<String>,
    /// The address is physical
    #[arg(short, conflicts_with_all = ["kernel", "user"])]
    physical: bool,
    #[command(flatten)]
    whose: Whose,
}

/// Size of a word. To the parser crash's `-16` is an option `1` with the value 6.
#[derive(Args)]
#[group(multiple = false)]
struct Width {
    /// Bits of a word: 8, 16, 32 or 64; also as crash has them: -8 -16 -32 -64
    #[arg(long, default_value = "64", value_parser = ["8", "16", "32", "64"], hide_possible_values = true)]
    bits: String,
    #[arg(short = '8', hide = true)]
    of_8: bool,
    #[arg(short = '1', hide = true, value_parser = ["6"])]
    of_16: Option<String>,
    #[arg(short = '3', hide = true, value_parser = ["2"])]
    of_32: Option<String>,
    #[arg(short = '6', hide = true, value_parser = ["4"])]
    of_64: Option<String>,
}

impl Width {
    fn bytes(&self) -> usize {
        match (self.of_8, &self.of_16, &self.of_32, &self.of_64) {
            (true, ..) => 1,
            (_, Some(_), ..) => 2,
            (_, _, Some(_), _) => 4,
            (_, _, _, Some(_)) => 8,
            _ => self.bits.parse().map_or(8, |bits: usize| bits / 8),
        }
    }
}

/// Bytes that one call shows at most.
const MAX: u64 = 64 << 20;
/// Text without a count ends here at the latest.
const TEXT_MAX: u64 = 4096;

/// What is read from.
enum From {
    Physical,
    Virtual(Arc<PageTables>),
}

/// Memory, read while it is shown.
struct Memory<'d> {
    kernel: &'d Kernel,
    context: Context<'d>,
    from: From,
    start: u64,
    len: u64,
    /// Bytes of a word.
    unit: usize,
    text: bool,
    symbols: bool,
    slabs: bool,
    /// Whether it is text that ends where it ends.
    open_end: bool,
    /// Why not all of it could be read.
    fault: Cell<Option<ReadFault>>,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let address = |word: &str| address::of_kernel(kernel, context, word);
    let start = match number::address(&args.address).filter(|_| args.physical) {
        Some(physical) => physical,
        None => address(&args.address)?.0,
    };
    let unit = if args.text { 1 } else { args.width.bytes() };
    let end = args.end.as_deref().map(address).transpose()?;
    let len = match (args.count, end) {
        (Some(n), _) => n.saturating_mul(unit as u64),
        (None, Some(end)) => end.0.saturating_sub(start),
        (None, None) if args.text => TEXT_MAX,
        (None, None) => unit as u64,
    };
    if len > MAX {
        return Err(CommandError::Usage(format!("{len} bytes are more than {MAX}; read them in parts")));
    }
    let from = if args.physical {
        From::Physical
    } else {
        From::Virtual(address::space(kernel, context, args.whose, None, VirtAddr(start))?)
    };
    let memory = Memory {
        kernel,
        context,
        from,
        start,
        len,
        unit,
        text: args.text,
        symbols: args.symbols || args.slabs,
        slabs: args.slabs,
        open_end: args.text && args.count.is_none() && end.is_none(),
        fault: Cell::new(None),
    };
    Ok(memory.into())
}

impl Memory<'_> {
    /// As much of `buf` as can be read at `at`, and why it is not all.
    fn read<'b>(&self, at: u64, buf: &'b mut [u8]) -> (&'b [u8], Option<ReadFault>) {
        let (mut got, mut fault) = (0, None);
        while let Some(rest) = buf.get_mut(got..).filter(|r| !r.is_empty() && fault.is_none()) {
            let at = at.wrapping_add(got as u64);
            let read = match &self.from {
                From::Physical => self.kernel.dump().read_phys(PhysAddr(at), rest),
                From::Virtual(space) => space.read_run(VirtAddr(at), rest),
            };
            match read {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(why) => fault = Some(why),
            }
        }
        (buf.get(..got).unwrap_or_default(), fault)
    }

    /// Hands all bytes to `take`, so many at once. Text of unknown length stops at a
    /// byte that `ends` it, and a fault behind that does not matter.
    fn each(
        &self,
        at_once: usize,
        ends: fn(&u8) -> bool,
        take: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let end = self.start.saturating_add(self.len);
        let (mut at, mut buf) = (self.start, [0; 4096]);
        while at < end {
            self.context.check()?;
            let want = usize::try_from(end - at).unwrap_or(at_once).min(at_once);
            let (bytes, fault) = self.read(at, buf.get_mut(..want).unwrap_or_default());
            let stop = bytes.iter().position(ends).filter(|_| self.open_end);
            let bytes = bytes.get(..stop.unwrap_or(bytes.len())).unwrap_or_default();
            if !bytes.is_empty() {
                take(at, bytes)?;
            }
            if stop.is_some() || bytes.len() < want {
                self.fault.set(fault.filter(|_| stop.is_none()));
                break;
            }
            at = at.saturating_add(want as u64);
        }
        Ok(())
    }

    /// What is shown for the address `value`.
    fn name(&self, value: u64) -> Option<String> {
        if let Some(p) = super::bt::place(self.kernel, value).filter(|_| self.symbols) {
            return Some(format!("{}+{} ", p.name, p.offset));
        }
        let cache = self.slabs.then(|| self.kernel.memory().cache_of(self.kernel, VirtAddr(value)));
        cache.flatten().map(|cache| format!("[{cache}] "))
    }

    fn row(&self, at: u64, bytes: &[u8], screen: &mut Screen<'_>) -> Result<()> {
        let width = if matches!(self.from, From::Physical) || at >> 48 == 0 { 12 } else { 16 };
        put!(screen, "{at:>width$x}:  ");
        if self.text {
            return Ok(row!(screen, "{}", ascii(bytes))?);
        }
        let digits = self.unit * 2;
        let mut column = 0;
        for word in bytes.chunks(self.unit) {
            let value = word.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
            let name = (self.unit == 8 && value >= self.kernel.user_limit()).then(|| self.name(value));
            let text = name.flatten().unwrap_or_else(|| format!("{value:0digits$x} "));
            column += text.len();
            put!(screen, "{text:<digits$}");
        }
        let full = 16 / self.unit * (digits + 1);
        let pad = full.saturating_sub(column);
        Ok(row!(screen, "{:pad$}  {}", "", ascii(bytes))?)
    }
}

pub(super) fn is_printable(byte: &u8) -> bool {
    (0x20..0x7f).contains(byte)
}

/// Bytes as text, a dot for each that is none.
pub(super) fn ascii<'b>(bytes: impl IntoIterator<Item = &'b u8>) -> String {
    bytes.into_iter().map(|b| if is_printable(b) { char::from(*b) } else { '.' }).collect()
}

impl Text for Memory<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let at_once = if self.text { 60 } else { 16 };
        // As crash: at what is not printable.
        self.each(at_once, |b| !is_printable(b), &mut |at, bytes| self.row(at, bytes, screen))
    }

    fn failure(&self) -> Option<String> {
        self.fault.get().map(|fault| fault.to_string())
    }
}

impl Serialize for Memory<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut value = to.serialize_struct("Memory", 3)?;
        value.serialize_field("address", &VirtAddr(self.start))?;
        value.serialize_field("hex", &Digits(self))?;
        value.serialize_field("fault", &self.failure())?;
        value.end()
    }
}

/// The bytes as one long text that is never in memory.
struct Digits<'a, 'd>(&'a Memory<'d>);

impl fmt::Display for Digits<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut written = Ok(());
        // What ends it else is the end of patience, and no error of the writer.
        let _ = self.0.each(4096, |&b| b == 0, &mut |_, bytes| {
            written = f.write_str(&hex::encode(bytes));
            written.map_err(|_| CommandError::given_up())
        });
        written
    }
}

impl Serialize for Digits<'_, '_> {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}
