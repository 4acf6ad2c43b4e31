//! Everything that one client changes: what it has said, selected and opened.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tracing::trace;

use super::Options;
use super::answer::Id;
use super::open_files::Files;
use super::served::Served;
use super::wire::{Stop, Wire};
use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::inferior::{Inferior, RegisterFile, Tid};

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
    /// Addresses of `m` are physical: QEMU's `Qqemu.PhyMemMode:1`.
    pub(crate) physical: bool,
}

/// The inferior and thread of the last `H`.
#[derive(Clone)]
pub(crate) struct Selected {
    pub(crate) served: Arc<Served>,
    /// `None` when the client chose a thread that does not exist. gdb does not
    /// look at the refusal; what it then asks for must fail, not come from
    /// another thread.
    pub(crate) tid: Option<Tid>,
}

impl Selected {
    pub(crate) fn inferior(&self) -> &dyn Inferior {
        self.served.inferior()
    }
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
    /// What the server was started for.
    pub(crate) main: Arc<Served>,
    /// What this client is attached to, the main inferior first.
    pub(crate) inferiors: Vec<Arc<Served>>,
    pub(crate) selected: Option<Selected>,
    /// What the last `Hc` chose.
    pub(crate) resume: Option<(Id, Id)>,
    pub(crate) last_fault: Option<(VirtAddr, ReadFault)>,
    pub(crate) registers: Option<(u32, Tid, Arc<RegisterFile>)>,
    pub(crate) files: Files,
    pub(crate) documents: Documents,
    /// Where `qsThreadInfo` goes on: an inferior and one of its threads.
    pub(crate) thread_cursor: (usize, usize),
    pub(crate) link: Link,
}

impl State {
    pub(crate) fn new(main: &Arc<Served>, options: &Options, device: u32, link: Link) -> Self {
        let tid = main.inferior().initial_thread();
        Self {
            options: *options,
            client: Client::default(),
            main: Arc::clone(main),
            inferiors: vec![Arc::clone(main)],
            selected: Some(Selected { served: Arc::clone(main), tid: Some(tid) }),
            resume: None,
            last_fault: None,
            registers: None,
            files: Files::new(device),
            documents: Documents::default(),
            thread_cursor: (0, 0),
            link,
        }
    }

    /// The selected inferior and thread, if there is one.
    pub(crate) fn thread(&self) -> Option<(&Arc<Served>, Tid)> {
        let selected = self.selected.as_ref()?;
        Some((&selected.served, selected.tid?))
    }

    /// The selected inferior.
    pub(crate) fn inferior(&self) -> Option<&dyn Inferior> {
        Some(self.selected.as_ref()?.inferior())
    }

    /// The registers of the selected thread. The last ones are kept: LLDB asks
    /// for them one at a time.
    pub(crate) fn registers(&mut self) -> Option<Arc<RegisterFile>> {
        let (served, tid) = self.thread()?;
        let pid = served.inferior().pid();
        if let Some((p, t, registers)) = &self.registers
            && (*p, *t) == (pid, tid)
        {
            return Some(Arc::clone(registers));
        }
        let registers = Arc::new(served.inferior().registers(tid)?);
        self.registers = Some((pid, tid, Arc::clone(&registers)));
        Some(registers)
    }

    /// Reads memory as the selected thread sees it, and remembers a failure.
    pub(crate) fn read_memory(&mut self, addr: u64, buf: &mut [u8]) -> Option<usize> {
        let addr = VirtAddr(addr);
        let (served, tid) = self.thread()?;
        let inferior = served.inferior();
        let read = match self.client.physical {
            true => inferior.read_physical(addr.0, buf),
            false => inferior.read_memory(tid, addr, buf),
        };
        match read {
            Ok(n) => (n > 0).then_some(n.min(buf.len())),
            Err(fault) => {
                trace!(%addr, %fault, "unreadable");
                self.last_fault = Some((addr, fault));
                None
            }
        }
    }
}

/// Documents that are kept while a client reads them.
#[derive(Default)]
pub(crate) struct Documents {
    pub(crate) threads: Option<Arc<[u8]>>,
    pub(crate) osdata: Option<(Vec<u8>, Arc<str>)>,
}

impl Documents {
    /// The inferiors have changed.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}
