//! Which inferiors one client is attached to, and what its next packet is about.
//!
//! The protocol names neither process nor thread in `g`, `m` or `qXfer`: the last
//! `H` decides, and gdb does not look at its refusal. So a thread that does not
//! exist is remembered as such; what is then asked must fail, not come from
//! another thread.

use std::sync::Arc;

use tracing::trace;

use super::answer::Id;
use super::served::Served;
use crate::addr::VirtAddr;
use crate::error::ReadFault;
use crate::inferior::{Inferior, RegisterFile, Tid};

/// The inferior and thread of the last `H`.
#[derive(Clone)]
pub(crate) struct Selected {
    pub(crate) served: Arc<Served>,
    /// `None` when the client chose a thread that does not exist.
    pub(crate) tid: Option<Tid>,
}

impl Selected {
    pub(crate) fn inferior(&self) -> &dyn Inferior {
        self.served.inferior()
    }
}

/// The inferiors of one client, and its choice among them.
pub(crate) struct Selection {
    main: Arc<Served>,
    attached: Vec<Arc<Served>>,
    selected: Option<Selected>,
    /// What the last `Hc` chose.
    pub(crate) resume: Option<(Id, Id)>,
    /// LLDB asks for registers one at a time: the last ones are kept.
    registers: Option<(u32, Tid, Arc<RegisterFile>)>,
    last_fault: Option<(VirtAddr, ReadFault)>,
    /// Addresses are physical.
    pub(crate) physical: bool,
}

impl Selection {
    pub(crate) fn new(main: &Arc<Served>) -> Self {
        let tid = main.inferior().initial_thread();
        Self {
            main: Arc::clone(main),
            attached: vec![Arc::clone(main)],
            selected: Some(Selected { served: Arc::clone(main), tid: Some(tid) }),
            resume: None,
            registers: None,
            last_fault: None,
            physical: false,
        }
    }

    /// What the server was started for.
    pub(crate) fn main(&self) -> &Arc<Served> {
        &self.main
    }

    /// What the client is attached to, the main inferior first.
    pub(crate) fn attached(&self) -> &[Arc<Served>] {
        &self.attached
    }

    pub(crate) fn selected(&self) -> Option<&Selected> {
        self.selected.as_ref()
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

    /// The attached process with this id.
    pub(crate) fn process(&self, pid: u64) -> Option<&Arc<Served>> {
        self.attached.iter().find(|s| u64::from(s.inferior().pid()) == pid)
    }

    /// What an id means: the inferior, and its thread if that exists.
    pub(crate) fn find(&self, (pid, tid): (Id, Id)) -> Option<Selected> {
        let current = self.selected.as_ref();
        let served = match pid {
            Id::Any => current.map(|s| &s.served).or_else(|| self.attached.first())?,
            Id::One(pid) => self.process(pid)?,
        };
        let inferior = served.inferior();
        let tid = match tid {
            Id::Any => {
                let kept = current.filter(|s| Arc::ptr_eq(&s.served, served)).and_then(|s| s.tid);
                Some(kept.unwrap_or_else(|| inferior.initial_thread()))
            }
            Id::One(tid) => Tid::try_from(tid).ok().filter(|tid| inferior.thread_exists(*tid)),
        };
        Some(Selected { served: Arc::clone(served), tid })
    }

    /// Selects; whether there is such a thread.
    pub(crate) fn select(&mut self, id: (Id, Id)) -> bool {
        self.selected = self.find(id);
        self.thread().is_some()
    }

    /// Attaches to a process and selects it.
    pub(crate) fn attach(&mut self, pid: u32) -> Option<&Selected> {
        let served = match self.process(pid.into()) {
            Some(known) => Arc::clone(known),
            None => {
                let served = match self.main.inferior().pid() == pid {
                    true => Arc::clone(&self.main),
                    false => Arc::new(Served::new(self.main.inferior().attach(pid)?)),
                };
                self.attached.push(Arc::clone(&served));
                served
            }
        };
        let tid = Some(served.inferior().initial_thread());
        Some(self.selected.insert(Selected { served, tid }))
    }

    /// Detaches from one process.
    pub(crate) fn leave(&mut self, pid: u64) {
        self.attached.retain(|s| u64::from(s.inferior().pid()) != pid);
        if self.inferior().is_some_and(|inferior| u64::from(inferior.pid()) == pid) {
            self.selected = None;
        }
        self.registers = None;
    }

    /// Detaches from all.
    pub(crate) fn leave_all(&mut self) {
        self.attached.clear();
        (self.selected, self.registers) = (None, None);
    }

    /// The registers of the selected thread.
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

    /// The last failure of [`Selection::read_memory`].
    pub(crate) fn last_fault(&self) -> Option<(VirtAddr, ReadFault)> {
        self.last_fault
    }

    /// Reads memory as the selected thread sees it, as far as it goes, and
    /// remembers a failure.
    pub(crate) fn read_memory(&mut self, addr: u64, buf: &mut [u8]) -> Option<usize> {
        let addr = VirtAddr(addr);
        let (served, tid) = self.thread()?;
        let inferior = served.inferior();
        let read = match self.physical {
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
