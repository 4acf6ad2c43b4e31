//! `qXfer` objects: documents that gdb reads in slices.
//!
//! Threads, osdata, siginfo and vmcoreinfo are answered here; features,
//! exec-file, auxv and the libraries go through gdbstub once their arguments
//! are known to be well formed.

use super::answer::{Answer, PIECE, split};
use super::frame;
use super::state::State;

/// All of memory, as what gdb does not write to. Each half of it alone: a length of
/// 2^64 cannot be written.
const MEMORY_MAP: &str = concat!(
    "<?xml version=\"1.0\"?>\n<memory-map>\n",
    "<memory type=\"flash\" start=\"0x0\" length=\"0x8000000000000000\">",
    "<property name=\"blocksize\">0x1000</property></memory>\n",
    "<memory type=\"flash\" start=\"0x8000000000000000\" length=\"0x8000000000000000\">",
    "<property name=\"blocksize\">0x1000</property></memory>\n",
    "</memory-map>\n",
);

/// The part of `document` that starts at `offset`, as far as `length`.
pub(crate) fn slice(document: &[u8], offset: u64, length: usize) -> &[u8] {
    let rest = usize::try_from(offset).ok().and_then(|at| document.get(at..)).unwrap_or_default();
    rest.get(..length).unwrap_or(rest)
}

/// A `qXfer` reply: `m` with more to come, `l` with the last of it.
fn piece(document: &[u8], offset: u64, length: usize) -> Answer {
    let data = slice(document, offset, length.min(PIECE));
    let end = u64::try_from(data.len()).ok().and_then(|n| offset.checked_add(n));
    let last = end.is_none_or(|end| end >= document.len() as u64);
    let mut reply = vec![if last { b'l' } else { b'm' }];
    frame::escape(&mut reply, data);
    Answer::Reply(reply)
}

impl State {
    /// `OBJECT:read:ANNEX:OFFSET,LENGTH`
    pub(crate) fn transfer(&mut self, args: &[u8]) -> Answer {
        let parsed = (|| {
            let (object, rest) = split(args, b':')?;
            let (operation, rest) = split(rest, b':')?;
            // An annex may hold colons, the numbers behind it cannot.
            let colon = rest.iter().rposition(|&b| b == b':')?;
            let (annex, numbers) = (rest.get(..colon)?, rest.get(colon + 1..)?);
            let (offset, length) = split(numbers, b',')?;
            let length = usize::try_from(frame::number(length)?).unwrap_or(usize::MAX).min(PIECE);
            Some((object, operation, annex, frame::number(offset)?, length))
        })();
        let Some((object, operation, annex, offset, length)) = parsed else { return Answer::error() };
        if operation != b"read" {
            return self.refuse("this is a post-mortem dump; it cannot be changed");
        }
        match object {
            b"threads" => {
                let document = self.documents.threads(&self.selection, self.client.multiprocess);
                piece(&document, offset, length)
            }
            b"osdata" => match self.documents.osdata(&self.selection, annex, offset) {
                Some(document) => piece(document.as_bytes(), offset, length),
                None => Answer::error(),
            },
            b"siginfo" => match self.selection.thread().and_then(|(s, tid)| s.inferior().siginfo(tid)) {
                Some(siginfo) => piece(&siginfo, offset, length),
                None => Answer::error(),
            },
            b"vmcoreinfo" => match self.selection.main().inferior().vmcoreinfo() {
                Some(text) => piece(text.as_bytes(), offset, length),
                None => Answer::error(),
            },
            b"memory-map" if annex.is_empty() => piece(MEMORY_MAP.as_bytes(), offset, length),
            b"features" if annex == b"target.xml" => self.pass_transfer(object, annex, offset, length),
            b"features" => Answer::text("E00"),
            b"exec-file" => {
                self.client.asked_main = true;
                // gdb names a process; the selected one is meant without.
                let pid = if annex.is_empty() { Some(0) } else { frame::number(annex) };
                match pid.filter(|pid| *pid == 0 || self.selection.process(*pid).is_some()) {
                    Some(0) => self.pass_transfer(object, b"", offset, length),
                    Some(pid) => self.pass_transfer(object, format!("{pid:x}").as_bytes(), offset, length),
                    None => Answer::error(),
                }
            }
            b"auxv" | b"libraries" | b"libraries-svr4" if annex.is_empty() => {
                if object != b"auxv" {
                    self.asks_for_libraries();
                }
                self.pass_transfer(object, annex, offset, length)
            }
            b"auxv" | b"libraries" | b"libraries-svr4" => Answer::error(),
            _ => Answer::empty(),
        }
    }

    fn pass_transfer(&self, object: &[u8], annex: &[u8], offset: u64, length: usize) -> Answer {
        if self.selection.selected().is_none() {
            return Answer::error();
        }
        let mut packet = [b"qXfer:", object, b":read:", annex].concat();
        packet.extend_from_slice(format!(":{offset:x},{length:x}").as_bytes());
        Answer::pass(packet, length)
    }
}
