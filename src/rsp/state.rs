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
    /// It asked things that only LLDB asks.
    pub(crate) lldb: bool,
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
