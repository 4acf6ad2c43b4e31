//! Functions: prototypes at their addresses, and names for interrupted frames.

use std::ops::Range;

use super::{Abbrev, Put, Writer, len32};
use crate::debuginfo::btf::{Kind, TypeId};

/// One subprogram.
struct Function<'a> {
    range: Range<u64>,
    /// Its prototype; without one only the name is known.
    prototype: Option<TypeId>,
    name: &'a str,
    name_offset: u32,
    /// The parts that are interrupted frames to gdb.
    signal: Vec<Range<u64>>,
}

impl<'a> Writer<'a> {
    pub(super) fn functions(&mut self) {
        let mut functions = self.with_prototypes();
        self.add_signal_frames(&mut functions);
        let gap = tail(&mut functions, self.input.text);
        for f in &functions {
            if self.is_too_much() {
                return;
            }
            self.function(f);
        }
        if let Some(at) = gap {
            self.address_map(at);
        }
    }

    /// Every `Func` at each address that has its name. Names with `.isra` or
    /// `.constprop` do not match, rightly: their parameters differ.
    fn with_prototypes(&self) -> Vec<Function<'a>> {
        let symbols = self.input.symbols;
        let mut found: Vec<Function<'a>> = Vec::new();
        for t in self.btf.own_types().filter(|t| t.kind == Kind::Func) {
            let name = t.name();
            for s in symbols.all_by_name(name) {
                self.look(1);
                if self.is_too_much() {
                    return found;
                }
                if s.is_text() && s.size > 0 && self.input.text.contains(&s.address) {
                    found.push(Function {
                        range: s.address..s.address.saturating_add(s.size).min(self.input.text.end),
                        prototype: t.target(),
                        name,
                        name_offset: t.name_offset(),
                        signal: Vec::new(),
                    });
                }
            }
        }
        // One subprogram per address: the name that the symbol table prefers.
        let best =
            |f: &Function<'_>| symbols.by_address(f.range.start).is_some_and(|(s, _)| s.name == f.name);
        found.sort_by_key(|f| f.range.start);
        let mut kept: Vec<Function<'a>> = Vec::with_capacity(found.len());
        for f in found {
            match kept.last_mut() {
                Some(last) if last.range.start == f.range.start => {
                    if best(&f) && !best(last) {
                        *last = f;
                    }
                }
                Some(last) => {
                    last.range.end = last.range.end.min(f.range.start);
                    kept.push(f);
                }
                None => kept.push(f),
            }
        }
        kept
    }

    /// Cuts the signal ranges at symbols, and gives each piece to its function.
    fn add_signal_frames(&self, functions: &mut Vec<Function<'a>>) {
        let mut extra: Vec<Function<'a>> = Vec::new();
        for range in self.input.signal_ranges {
            let mut at = range.start;
            while at < range.end {
                let Some((s, _)) = self.input.symbols.by_address(at) else { break };
                let end = s.address.saturating_add(s.size).min(range.end);
                if end <= at {
                    break;
                }
                let piece = at..end;
                at = end;
                let after = functions.partition_point(|f| f.range.start <= piece.start);
                let inside = after.checked_sub(1).and_then(|i| functions.get_mut(i));
                if let Some(f) = inside.filter(|f| f.range.end >= piece.end) {
                    f.signal.push(piece);
                } else if let Some(f) = extra.last_mut().filter(|f| f.range.start == s.address) {
                    f.signal.push(piece);
                } else if self.input.text.contains(&s.address) {
                    extra.push(Function {
                        range: s.address..s.address.saturating_add(s.size),
                        prototype: None,
                        name: s.name,
                        name_offset: 0,
                        signal: vec![piece],
                    });
                }
            }
        }
        functions.extend(extra);
        functions.sort_by_key(|f| f.range.start);
        // Blocks must be disjoint.
        let starts: Vec<u64> = functions.iter().skip(1).map(|f| f.range.start).collect();
        for (f, next) in functions.iter_mut().zip(starts) {
            f.range.end = f.range.end.min(next);
            let end = f.range.end;
            f.signal.retain(|s| s.end <= end);
        }
        functions.retain(|f| f.range.start < f.range.end);
    }

    fn function(&mut self, f: &Function<'a>) {
        let proto = f.prototype.and_then(|id| self.btf.get(id)).filter(|t| t.kind == Kind::FuncProto);
        if !f.signal.is_empty() {
            let origin = len32(self.info.len());
            self.abbrev(Abbrev::FunctionAbstract);
            self.function_name(f);
            self.info.push(1); // DW_INL_inlined
            self.concrete(f, proto.as_ref(), true);
            for piece in &f.signal {
                // Without call_file and call_line gdb ignores it; line 0 is not
                // printed.
                self.abbrev(Abbrev::Inlined);
                self.info.u32(origin);
                self.address_range(piece);
                self.info.extend([1, 0]);
            }
            self.abbrev(Abbrev::End);
        } else if proto.is_some() {
            self.concrete(f, proto.as_ref(), false);
        }
    }

    /// The subprogram itself; its list of children stays open if there are
    /// `more`.
    fn concrete(&mut self, f: &Function<'a>, proto: Option<&super::Type<'a>>, more: bool) {
        let Some(proto) = proto else {
            self.abbrev(Abbrev::FunctionBare);
            self.function_name(f);
            self.address_range(&f.range);
            return;
        };
        let returns = proto.target().and_then(|id| self.resolve_ending(id));
        let children = more || proto.params().len() > 0;
        self.abbrev(match (returns.is_some(), children) {
            (true, true) => Abbrev::Function,
            (false, true) => Abbrev::FunctionVoid,
            (true, false) => Abbrev::FunctionEmpty,
            (false, false) => Abbrev::FunctionVoidEmpty,
        });
        self.function_name(f);
        self.address_range(&f.range);
        if let Some(id) = returns {
            self.reference(id, true);
        }
        self.params(proto);
        if children && !more {
            self.abbrev(Abbrev::End);
        }
    }

    fn function_name(&mut self, f: &Function<'a>) {
        if f.name_offset == 0 {
            self.text(f.name);
        } else {
            self.name(f.name_offset);
        }
    }

    /// Only where some function has more than one range does gdb build a map
    /// from addresses to blocks. Without it every pc that is in no function
    /// (assembly, user space) costs a walk over 42,000 of them.
    fn address_map(&mut self, at: u64) {
        let base = self.input.text.start;
        let list = len32(self.ranges.len());
        for start in [at, at + 2] {
            self.ranges.u64(start.saturating_sub(base));
            self.ranges.u64(start.saturating_sub(base) + 1);
        }
        self.ranges.u64(0);
        self.ranges.u64(0);
        self.abbrev(Abbrev::FunctionRanges);
        self.text("__corestub_padding");
        self.info.u32(list);
    }
}

/// Four bytes that are no function's: the last of the text, cut off the function
/// whose size counts the padding behind it.
fn tail(functions: &mut [Function<'_>], text: &Range<u64>) -> Option<u64> {
    let at = text.end.checked_sub(4)?;
    if let Some(last) = functions.last_mut() {
        if last.range.end <= at {
            return Some(at);
        }
        if last.range.start >= at || last.signal.iter().any(|s| s.end > at) {
            return None;
        }
        last.range.end = at;
    }
    (at > text.start).then_some(at)
}
