//! Everything that one client changes: what it has said, selected and opened.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::Options;
use super::documents::Documents;
use super::open_files::Files;
use super::selection::Selection;
use super::served::Served;
use super::wire::{Stop, Wire};

/// What a client said it can do, or showed by what it asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Client {
    /// Thread ids are `pPID.TID`.
    pub(crate) multiprocess: bool,
    /// `E.text` is understood in every reply (gdb 16).
    pub(crate) error_messages: bool,
    /// `target extended-remote`.
    pub(crate) extended: bool,
    /// It offered what only gdb offers.
    pub(crate) gdb: bool,
    /// It asked things that only LLDB asks.
    pub(crate) lldb: bool,
    /// It asked for the name of the main image.
    pub(crate) asked_main: bool,
    /// It opened our types of the kernel, for which it looks last.
    pub(crate) took_types: bool,
    /// It asked for the list of the others: whether it had the main one by then.
    pub(crate) had_main: Option<bool>,
}

/// What the connection and a running command share with the loop.
pub(crate) struct LinkState {
    pub(crate) wire: Wire,
    /// Frames go out as soon as they are whole: a command is running.
    pub(crate) live: bool,
    /// What stopped the command that runs.
    pub(crate) stop: Option<Stop>,
    /// Why a frame of a running command did not go out.
    pub(crate) broken: Option<io::Error>,
}

/// The connection, shared by the loop and by gdbstub's side of it.
pub(crate) type Link = Rc<RefCell<LinkState>>;

/// Everything that one client changes.
pub(crate) struct State {
    pub(crate) options: Options,
    pub(crate) client: Client,
    pub(crate) selection: Selection,
    pub(crate) files: Files,
    pub(crate) documents: Documents,
    pub(crate) link: Link,
}

impl State {
    pub(crate) fn new(main: &Arc<Served>, options: &Options, device: u32, link: Link) -> Self {
        Self {
            options: *options,
            client: Client::default(),
            selection: Selection::new(main),
            files: Files::new(device),
            documents: Documents::default(),
            link,
        }
    }
}

/// Ctrl-C while gdb connects leaves it with the main image's name and without its
/// symbols, if it was just reading these. The next `target remote` takes the name for
/// the whole, and reads nothing more (gdb 13 and 18).
impl State {
    /// Whether this may be such a gdb: it did not open the main image, or only for its
    /// build-id, and one was interrupted before. At worst gdb has the symbols twice.
    pub(crate) fn is_without_main_image(&self) -> bool {
        self.client.gdb && self.client.had_main == Some(false) && self.selection.main().was_interrupted()
    }

    /// It asks for the list of libraries. What the first one held stays in the others,
    /// or gdb drops it again.
    pub(crate) fn asks_for_libraries(&mut self) {
        let has_main = self.files.has_main();
        self.client.had_main.get_or_insert(has_main);
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let Client { gdb, asked_main, had_main, .. } = self.client;
        if gdb && asked_main && had_main.is_none() {
            self.selection.main().interrupted();
        }
    }
}
