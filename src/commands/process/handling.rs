//! What the thread that died was handling: a handler that writes a report and gives up (`abort`,
//! `raise`) makes a core whose own signal says nothing of the cause.

use std::io;

use serde::Serialize;

use super::{Place, fault};
use crate::arch::Register;
use crate::process::core_file::ThreadNotes;
use crate::process::sigframe::{FRAMES, SigFrame};
use crate::process::signal::SigInfo;
use crate::process::{Process, unwind};

/// A signal whose handler ran, and where it came.
#[derive(Serialize)]
pub(super) struct Handling {
    /// In words.
    pub what: String,
    /// If the handler takes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    siginfo: Option<SigInfo>,
    /// Of a page fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// Whether the handler had returned, and the signal came once more.
    returned: bool,
    /// What the instruction wanted, where the signal does not tell it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(flatten)]
    place: Place,
    /// The instruction there.
    code: Option<String>,
    #[serde(skip)]
    pub fault: Option<u64>,
}

impl Handling {
    /// Those of `thread`, which died by `last`: what the innermost handler was called for first.
    pub(super) fn of(process: &Process, thread: &ThreadNotes, last: Option<&SigInfo>) -> Vec<Self> {
        let frames = unwind::stack(process, thread, FRAMES).frames;
        let running = SigFrame::running(process, &frames);
        let mut all: Vec<Self> =
            running.filter_map(|frame| Self::from(process, thread, &frame, false)).collect();
        // What a thread sent to itself, and not by a call, was blocked before.
        let sent = last.is_some_and(|info| info.sender_pid == Some(process.pid()));
        let returned = if sent && all.is_empty() { SigFrame::returned(process, thread) } else { None };
        all.extend(returned.and_then(|frame| Self::from(process, thread, &frame, true)));
        all
    }

    fn from(process: &Process, thread: &ThreadNotes, frame: &SigFrame, returned: bool) -> Option<Self> {
        let regs = frame.registers(&process.general_regs(thread)?);
        let pc = regs.get(Register::Rip)?;
        let (siginfo, page_fault) = (frame.info(), frame.page_fault());
        let what = match (&siginfo, page_fault) {
            (Some(info), _) => info.describe(),
            (None, Some((address, access))) => {
                format!(
                    "a page fault at {address:#x} ({access}), if that was the thread's last: the handler takes no siginfo"
                )
            }
            (None, None) => "a signal whose handler takes no siginfo".to_owned(),
        };
        let fault = match &siginfo {
            Some(info) => info.address,
            None => page_fault.map(|(address, _)| address),
        };
        Some(Self {
            what,
            address: fault.map(|at| format!("{at:#x}")),
            refused: siginfo.as_ref().and_then(|info| fault::explain(process, &regs, info)),
            siginfo,
            returned,
            place: Place::of(process, pc, pc),
            code: match super::sys::code_at(process, pc) {
                (Some(code), _) | (None, Some(code)) => Some(code),
                (None, None) => None,
            },
            fault,
        })
    }

    pub(super) fn lines(&self, mut line: impl FnMut(&str, &str) -> io::Result<()>) -> io::Result<()> {
        let again = if self.returned { "; its handler sent it again and returned" } else { "" };
        line("HANDLING", &format!("{}{again}", self.what))?;
        if let Some(refused) = &self.refused {
            line("REFUSED", refused)?;
        }
        line("AT", &format!("{}  {}", self.place.pc, self.place.text()))?;
        self.code.iter().try_for_each(|code| line("CODE THERE", code))
    }
}
