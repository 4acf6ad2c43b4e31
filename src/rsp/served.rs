//! What all clients of one inferior share: documents that are made once and
//! then only cut into slices.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::{frame, signal};
use crate::inferior::{Inferior, ThreadInfo, Tid};
use crate::text::printable;
use crate::xml::push_escaped;

const THREADS_HEAD: &str = "<?xml version=\"1.0\"?>\n<threads>\n";
const THREADS_TAIL: &str = "</threads>\n";

/// An inferior and what was made of it for the protocol.
pub(crate) struct Served {
    inferior: Arc<dyn Inferior>,
    /// The threads document, with plain ids and with `pPID.TID`.
    threads: [OnceLock<Arc<[u8]>>; 2],
    /// The reply to LLDB's `jThreadsInfo`, escaped.
    lldb_threads: OnceLock<Vec<u8>>,
    places: OnceLock<HashMap<Tid, usize>>,
    /// A client left while it connected.
    interrupted: AtomicBool,
}

impl Served {
    pub(crate) fn new(inferior: Arc<dyn Inferior>) -> Self {
        Self {
            inferior,
            threads: [OnceLock::new(), OnceLock::new()],
            lldb_threads: OnceLock::new(),
            places: OnceLock::new(),
            interrupted: AtomicBool::new(false),
        }
    }

    /// A client left while it was reading the main image.
    pub(crate) fn interrupted(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// Whether one ever did.
    pub(crate) fn was_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub(crate) fn inferior(&self) -> &dyn Inferior {
        &*self.inferior
    }

    /// The thread as `info threads` shows it. gdb may ask for each of 50,000.
    pub(crate) fn thread(&self, tid: Tid) -> Option<&ThreadInfo> {
        let threads = self.inferior.threads();
        let places =
            self.places.get_or_init(|| threads.iter().enumerate().map(|(at, t)| (t.tid, at)).collect());
        threads.get(*places.get(&tid)?)
    }

    /// A thread id as this client writes them.
    pub(crate) fn thread_id(&self, multiprocess: bool, tid: Tid) -> String {
        if multiprocess { format!("p{:x}.{tid:x}", self.inferior.pid()) } else { format!("{tid:x}") }
    }

    /// The document of `qXfer:threads` for this inferior alone.
    pub(crate) fn threads_document(&self, multiprocess: bool) -> Arc<[u8]> {
        let [plain, with_pid] = &self.threads;
        let cell = if multiprocess { with_pid } else { plain };
        Arc::clone(cell.get_or_init(|| self.make_threads_document(multiprocess)))
    }

    /// The reply to `jThreadsInfo`: LLDB has no other way to learn the threads'
    /// names. It may hold registers, too, but LLDB 14 has asked for them by then.
    pub(crate) fn lldb_threads(&self) -> &[u8] {
        self.lldb_threads.get_or_init(|| {
            let mut reply = Vec::new();
            frame::escape(&mut reply, self.make_lldb_threads().to_string().as_bytes());
            reply
        })
    }

    fn make_lldb_threads(&self) -> Value {
        let (initial, signal) = (self.inferior.initial_thread(), self.inferior.stop_signal());
        let threads = self.inferior.threads().iter().map(|thread| {
            let mut entry = Map::new();
            entry.insert("tid".to_owned(), thread.tid.into());
            entry.insert("name".to_owned(), printable(&thread.name).into_owned().into());
            if thread.tid == initial && signal > 0 {
                entry.insert("reason".to_owned(), "signal".into());
                entry.insert("signal".to_owned(), signal::from_linux(signal).into());
            }
            entry
        });
        threads.collect()
    }

    fn make_threads_document(&self, multiprocess: bool) -> Arc<[u8]> {
        let mut xml = THREADS_HEAD.to_owned();
        for thread in self.inferior.threads() {
            let _ = write!(xml, "<thread id=\"{}\"", self.thread_id(multiprocess, thread.tid));
            if let Some(core) = thread.core {
                let _ = write!(xml, " core=\"{core}\"");
            }
            if !thread.name.is_empty() {
                xml.push_str(" name=\"");
                push_escaped(&mut xml, &thread.name);
                xml.push('"');
            }
            xml.push('>');
            push_escaped(&mut xml, &thread.extra);
            xml.push_str("</thread>\n");
        }
        xml.push_str(THREADS_TAIL);
        xml.into_bytes().into()
    }
}

/// One threads document for all of `inferiors`.
pub(crate) fn threads_document(inferiors: &[Arc<Served>], multiprocess: bool) -> Arc<[u8]> {
    if let [one] = inferiors {
        return one.threads_document(multiprocess);
    }
    let mut xml = THREADS_HEAD.as_bytes().to_vec();
    for served in inferiors {
        let document = served.threads_document(multiprocess);
        let end = document.len().saturating_sub(THREADS_TAIL.len());
        xml.extend_from_slice(document.get(THREADS_HEAD.len()..end).unwrap_or_default());
    }
    xml.extend_from_slice(THREADS_TAIL.as_bytes());
    xml.into()
}
