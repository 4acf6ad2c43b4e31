//! What only LLDB asks.
//!
//! With `platform select remote-linux` and `platform connect` LLDB (14 to 22) fetches images
//! by itself: it asks for the list of libraries where the stop reply says so, for what
//! there is to each by `qModuleInfo`, and for the files by `vFile` over the platform's
//! connection. Without a platform it looks for these names on its own disk, in vain.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::answer::{Answer, split};
use super::served::Served;
use super::signal;
use super::state::State;
use crate::hex;
use crate::image::files::VirtualFile;
use crate::inferior::Tid;

impl State {
    /// LLDB has no other way to learn the threads' names.
    pub(super) fn lldb_query(&mut self, packet: &[u8]) -> Answer {
        if packet != b"jThreadsInfo" {
            return Answer::empty();
        }
        self.client.lldb = true;
        match self.selection.selected() {
            Some(selected) => Answer::Reply(selected.served.lldb_threads().to_vec()),
            None => Answer::error(),
        }
    }

    /// The answer to `?`.
    pub(super) fn lldb_stop_reason(&self, served: &Served, tid: Tid) -> Answer {
        let inferior = served.inferior();
        let libraries = if inferior.has_whole_libraries() { "library:;" } else { "" };
        let (signal, thread) = (signal::from_linux(inferior.stop_signal()), self.thread_id(served, tid));
        Answer::text(format!("T{signal:02x}thread:{thread};{libraries}"))
    }

    /// `qModuleInfo:PATH;TRIPLE`
    pub(super) fn module_info(&self, args: &[u8]) -> Answer {
        // Said of a process it would keep LLDB from looking elsewhere.
        if !self.selection.main().inferior().has_whole_libraries() {
            return Answer::empty();
        }
        let found = (|| {
            let (path, triple) = split(args, b';')?;
            let name = hex::decode(path)?;
            let wanted = Self::path(&name).ok()?;
            let file = self.look_up(|inferior| inferior.open_file(wanted)).ok()?;
            let VirtualFile::Bytes(bytes) = &file else { return None };
            // LLDB keeps files by this for ever, and the build-id is that of other dumps, too.
            let [a, b] = [0u8, 1].map(|salt| {
                let mut hasher = DefaultHasher::new();
                (salt, bytes).hash(&mut hasher);
                hasher.finish()
            });
            let id = hex::encode(format!("{a:016x}{b:016x}").as_bytes());
            let (path, triple) = (hex::encode(&name), hex::encode(&hex::decode(triple)?));
            let size = bytes.len();
            Some(format!("uuid:{id};triple:{triple};file_path:{path};file_offset:0;file_size:{size:x};"))
        })();
        found.map_or_else(Answer::error, Answer::text)
    }
}
