//! Documents that are kept while one client reads them slice by slice.

use std::sync::Arc;

use super::answer::PIECE;
use super::selection::Selection;
use super::served;

/// What a client is in the midst of reading.
#[derive(Default)]
pub(crate) struct Documents {
    threads: Option<Arc<[u8]>>,
    osdata: Option<(Vec<u8>, Arc<str>)>,
    /// Where `qsThreadInfo` goes on: an inferior and one of its threads.
    cursor: (usize, usize),
}

impl Documents {
    /// The inferiors have changed.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// `qXfer:threads`: gdb reads 4 KiB at a time, the whole is put together once.
    pub(crate) fn threads(&mut self, selection: &Selection, multiprocess: bool) -> Arc<[u8]> {
        let make = || served::threads_document(selection.attached(), multiprocess);
        Arc::clone(self.threads.get_or_insert_with(make))
    }

    /// `qXfer:osdata`: a table is made anew when it is read from its start, and kept
    /// for the slices behind it.
    pub(crate) fn osdata(&mut self, selection: &Selection, annex: &[u8], offset: u64) -> Option<Arc<str>> {
        if let Some((name, document)) = &self.osdata
            && offset > 0
            && name == annex
        {
            return Some(Arc::clone(document));
        }
        let table = std::str::from_utf8(annex).ok()?;
        let main = selection.main().inferior();
        let document = selection.inferior().and_then(|i| i.osdata(table)).or_else(|| main.osdata(table))?;
        self.osdata = Some((annex.to_vec(), Arc::clone(&document)));
        Some(document)
    }

    /// `qfThreadInfo` starts anew.
    pub(crate) fn first_page(&mut self) {
        self.cursor = (0, 0);
    }

    /// The next page of thread ids: `m` and as many as a packet takes, or `l`.
    pub(crate) fn page(&mut self, selection: &Selection, multiprocess: bool) -> String {
        const LONGEST_ID: usize = "p12345678.12345678,".len();
        let mut page = String::new();
        while let Some(served) = selection.attached().get(self.cursor.0) {
            let Some(thread) = served.inferior().threads().get(self.cursor.1) else {
                self.cursor = (self.cursor.0 + 1, 0);
                continue;
            };
            if page.len() + LONGEST_ID > PIECE {
                break;
            }
            page.push(if page.is_empty() { 'm' } else { ',' });
            page.push_str(&served.thread_id(multiprocess, thread.tid));
            self.cursor.1 += 1;
        }
        if page.is_empty() { "l".to_owned() } else { page }
    }
}
