//! The commands' answers for a userspace core.

pub(super) mod bt;
mod fault;
mod handling;
pub(super) mod maps;
pub(super) mod ps;
pub(super) mod sys;
pub(super) mod verify;
pub(super) mod why;

use std::borrow::Cow;

use crate::hex;
use crate::process::core_file::ThreadNotes;
use crate::process::{Process, names};

use super::{CommandError, Result};

/// What to do about a damaged file.
const REINSTALL: &str =
    "check the disk, and install its package again (`rpm -qf FILE` or `dpkg -S FILE` names it)";

/// A place in code, for people and machines.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
struct Place {
    pc: String,
    symbol: Option<String>,
    /// The symbol as its source has it, where that is not the same (C++, Rust).
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    /// Offset in the symbol.
    offset: Option<String>,
    /// The file that is mapped there.
    module: Option<String>,
    /// Offset from the module's first mapping: what a kernel log prints as `lib.so[..+OFFSET]`.
    module_offset: Option<String>,
    /// The module's link-time address: what addr2line and objdump take.
    link_address: Option<String>,
}

impl Place {
    /// `lookup` is the address whose function is named: the call before a return address.
    fn of(process: &Process, pc: u64, lookup: u64) -> Self {
        let image = process.image_at(lookup);
        let symbol = image.and_then(|i| i.symbol(process, lookup));
        let file = process.file_at(lookup);
        Self {
            pc: format!("{pc:#x}"),
            offset: symbol.as_ref().map(|(_, o)| format!("{:#x}", o.wrapping_add(pc.wrapping_sub(lookup)))),
            function: symbol.as_ref().and_then(|(name, _)| match names::plain(name) {
                Cow::Owned(plain) => Some(plain),
                Cow::Borrowed(_) => None,
            }),
            symbol: symbol.map(|(name, _)| name),
            module: image.map(|i| i.name.clone()).or_else(|| file.map(|(f, _)| f.name.clone())),
            module_offset: image.map(|i| format!("{:#x}", pc.wrapping_sub(i.start))),
            link_address: image.map(|i| format!("{:#x}", pc.wrapping_sub(i.bias))),
        }
    }

    fn has_no_symbol(&mut self) {
        (self.symbol, self.function, self.offset) = (None, None, None);
    }

    /// `strlen+0x12 in /usr/lib/libc.so.6+0x9c132`.
    fn text(&self) -> String {
        let name = self.function.as_ref().or(self.symbol.as_ref());
        let function = match (name, &self.offset) {
            (Some(symbol), Some(offset)) => format!("{symbol}+{offset}"),
            _ => "??".to_owned(),
        };
        match (&self.module, &self.module_offset) {
            (Some(module), Some(offset)) => format!("{function} in {module}+{offset}"),
            (Some(module), None) => format!("{function} in {module}"),
            _ => function,
        }
    }
}

/// The threads that words name by id, without words the selected one.
fn threads<'a>(
    process: &'a Process,
    words: &[String],
    selected: Option<u32>,
) -> Result<Vec<&'a ThreadNotes>> {
    if words.is_empty() {
        return Ok(vec![thread(process, selected)?]);
    }
    let of_word = |word: &String| {
        let tid = word.parse().ok();
        let found = tid.and_then(|tid| process.thread(tid));
        found.ok_or_else(|| CommandError::Failed(format!("no thread has the id {word}; `ps` lists them")))
    };
    words.iter().map(of_word).collect()
}

/// The selected thread, or the one that died.
pub(super) fn thread(process: &Process, selected: Option<u32>) -> Result<&ThreadNotes> {
    selected
        .and_then(|tid| process.thread(tid))
        .or_else(|| process.threads().first())
        .ok_or_else(|| CommandError::failed("the core has no threads"))
}

/// Bytes as `48 8b 07`.
fn spaced(bytes: &[u8]) -> String {
    bytes.iter().map(|b| hex::encode(&[*b])).collect::<Vec<_>>().join(" ")
}
