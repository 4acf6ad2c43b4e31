//! `qXfer` objects: documents that gdb reads in slices.
//!
//! Threads, osdata, siginfo and vmcoreinfo are answered here; features,
//! exec-file, auxv and the libraries go through gdbstub once their arguments
//! are known to be well formed.

use std::sync::Arc;

use super::answer::{Answer, PIECE, split};
use super::state::State;
use super::{frame, served};

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
            b"threads" => piece(&self.threads_document(), offset, length),
            b"osdata" => match self.osdata_document(annex, offset) {
                Some(document) => piece(document.as_bytes(), offset, length),
                None => Answer::error(),
            },
            b"siginfo" => match self.thread().and_then(|(s, tid)| s.inferior().siginfo(tid)) {
                Some(siginfo) => piece(&siginfo, offset, length),
                None => Answer::error(),
            },
            b"vmcoreinfo" => match self.main.inferior().vmcoreinfo() {
                Some(text) => piece(text.as_bytes(), offset, length),
                None => Answer::error(),
            },
            b"features" if annex == b"target.xml" => self.pass_transfer(object, annex, offset, length),
            b"features" => Answer::text("E00"),
            b"exec-file" => {
                // gdb names a process; the selected one is meant without.
                let pid = if annex.is_empty() { Some(0) } else { frame::number(annex) };
                match pid.filter(|pid| *pid == 0 || self.inferior_of(*pid).is_some()) {
                    Some(0) => self.pass_transfer(object, b"", offset, length),
                    Some(pid) => self.pass_transfer(object, format!("{pid:x}").as_bytes(), offset, length),
                    None => Answer::error(),
                }
            }
            b"auxv" | b"libraries" | b"libraries-svr4" if annex.is_empty() => {
                self.pass_transfer(object, annex, offset, length)
            }
            b"auxv" | b"libraries" | b"libraries-svr4" => Answer::error(),
            _ => Answer::empty(),
        }
    }

    /// The process with this id among the attached ones.
    pub(crate) fn inferior_of(&self, pid: u64) -> Option<&dyn crate::inferior::Inferior> {
        self.inferiors.iter().map(|s| s.inferior()).find(|inferior| u64::from(inferior.pid()) == pid)
    }

    fn pass_transfer(&self, object: &[u8], annex: &[u8], offset: u64, length: usize) -> Answer {
        if self.selected.is_none() {
            return Answer::error();
        }
        let mut packet = [b"qXfer:", object, b":read:", annex].concat();
        packet.extend_from_slice(format!(":{offset:x},{length:x}").as_bytes());
        Answer::pass(packet, length)
    }

    fn threads_document(&mut self) -> Arc<[u8]> {
        // gdb reads 4 KiB at a time: the whole is put together once.
        let make = || served::threads_document(&self.inferiors, self.client.multiprocess);
        Arc::clone(self.documents.threads.get_or_insert_with(make))
    }

    /// A table is made anew when it is read from its start, and kept for the
    /// slices behind it.
    fn osdata_document(&mut self, annex: &[u8], offset: u64) -> Option<Arc<str>> {
        if let Some((name, document)) = &self.documents.osdata
            && offset > 0
            && name == annex
        {
            return Some(Arc::clone(document));
        }
        let table = std::str::from_utf8(annex).ok()?;
        let main = self.main.inferior();
        let document = self.inferior().and_then(|i| i.osdata(table)).or_else(|| main.osdata(table))?;
        self.documents.osdata = Some((annex.to_vec(), Arc::clone(&document)));
        Some(document)
    }
}
