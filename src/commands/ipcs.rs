//! `ipcs`: System V shared memory, semaphores and message queues, in crash's columns.

use clap::Args;
use serde::Serialize;

use super::select::by_words;
use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::{PAGE_SIZE, VirtAddr};
use crate::linux::Kernel;
use crate::linux::ipc::{self, Common, Memory, Messages, Semaphores, Table};
use crate::number;
use crate::text::{Screen, or_unknown, row};

/// What the tables are called.
const MEMORY: &str = "shared memory";
const SEMAPHORES: &str = "semaphores";
const QUEUES: &str = "message queues";

pub(super) fn command() -> Command {
    Command::of_kernel(
        "ipcs",
        "System V shared memory, semaphores and message queues",
        "All three without -m, -M, -s or -q; those of the machine's first namespace, with -n those that a task \
         sees. An ID or an address, as the rows have them, leaves the others out.\n\n\
         Examples:\n  (gdb) monitor ipcs -M\n  $ corestub ipcs vmcore\n  $ corestub ipcs vmcore -n 1234 -q",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// Only what has this ID, or lies at this address
    #[arg(value_name = "ID|ADDRESS")]
    only: Option<String>,
    /// Shared memory
    #[arg(short = 'm')]
    memory: bool,
    /// Shared memory, with the pages that it has and its inode
    #[arg(short = 'M')]
    details: bool,
    /// Semaphores
    #[arg(short = 's')]
    semaphores: bool,
    /// Message queues
    #[arg(short = 'q')]
    queues: bool,
    /// What this task sees: a pid, an address of a task_struct, or a name
    #[arg(short = 'n', value_name = "PID|TASK|COMMAND")]
    namespace: Option<String>,
}

/// What was asked for; the others are left out.
#[derive(Serialize)]
struct Ipcs {
    ipc_namespace: VirtAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Vec<Memory>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    semaphores: Option<Vec<Semaphores>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<Vec<Messages>>,
    /// Tables that are not whole, and why.
    lost: Vec<(&'static str, &'static str)>,
    #[serde(skip)]
    details: bool,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, _: Context<'d>) -> Result<Answer<'d>> {
    let ns = match &args.namespace {
        None => kernel
            .symbol("init_ipc_ns")
            .ok_or_else(|| CommandError::failed("the kernel has no init_ipc_ns"))?,
        Some(word) => {
            let tasks = by_words(kernel, std::slice::from_ref(word))?;
            let task = tasks.first().ok_or_else(|| CommandError::failed("no such task"))?;
            let lost = || CommandError::Failed(format!("pid {} has no namespaces any more", task.pid_text()));
            ipc::namespace(kernel, task).ok_or_else(lost)?
        }
    };
    let only = args.only.as_deref().map(Only::of).transpose()?;
    let all = !(args.memory || args.details || args.semaphores || args.queues);
    let mut answer = Ipcs {
        ipc_namespace: ns,
        memory: None,
        semaphores: None,
        queues: None,
        lost: Vec::new(),
        details: args.details,
    };
    let unknown =
        || CommandError::Failed(format!("{} does not describe System V IPC", kernel.types().origin()));
    if all || args.memory || args.details {
        let table = ipc::memory(kernel, ns).ok_or_else(unknown)?;
        answer.memory = Some(answer.keep(MEMORY, table, only, |o| &o.common));
    }
    if all || args.semaphores {
        let table = ipc::semaphores(kernel, ns).ok_or_else(unknown)?;
        answer.semaphores = Some(answer.keep(SEMAPHORES, table, only, |o| &o.common));
    }
    if all || args.queues {
        let table = ipc::messages(kernel, ns).ok_or_else(unknown)?;
        answer.queues = Some(answer.keep(QUEUES, table, only, |o| &o.common));
    }
    let empty = |n: Option<usize>| n.is_none_or(|n| n == 0);
    if only.is_some()
        && answer.lost.is_empty()
        && empty(answer.memory.as_ref().map(Vec::len))
        && empty(answer.semaphores.as_ref().map(Vec::len))
        && empty(answer.queues.as_ref().map(Vec::len))
    {
        return Err(CommandError::Failed(format!(
            "nothing has the ID or address {}",
            args.only.unwrap_or_default()
        )));
    }
    Ok(answer.into())
}

/// What the rows are to have.
#[derive(Clone, Copy)]
struct Only {
    /// A number in decimal is an ID.
    id: Option<u64>,
    at: Option<u64>,
}

impl Only {
    fn of(word: &str) -> Result<Self> {
        let only = Self { id: word.parse().ok(), at: number::address(word) };
        if only.id.is_none() && only.at.is_none() {
            return Err(CommandError::Usage(format!("{word} is neither an ID nor an address")));
        }
        Ok(only)
    }

    fn has(self, common: &Common) -> bool {
        (self.id.is_some() && self.id == common.id) || self.at == Some(common.at.0)
    }
}

impl Ipcs {
    fn keep<T>(
        &mut self,
        what: &'static str,
        table: Table<T>,
        only: Option<Only>,
        common: impl Fn(&T) -> &Common,
    ) -> Vec<T> {
        self.lost.extend(table.lost.map(|why| (what, why)));
        let kept = table.objects.into_iter();
        kept.filter(|object| only.is_none_or(|only| only.has(common(object)))).collect()
    }
}

/// The columns that all have, the ID as wide as crash has it.
fn front(common: &Common) -> String {
    let key = or_unknown(common.key.map(|key| format!("{key:08x}")));
    let perms = or_unknown(common.perms.map(|perms| format!("{perms:o}")));
    let (id, uid) = (or_unknown(common.id), or_unknown(common.uid));
    format!("{:016x} {key:<8} {id:<10} {uid:<5} {perms:<5}", common.at.0)
}

fn header(structure: &str, id: &str, rest: &str, screen: &mut Screen<'_>) -> Result<()> {
    Ok(row!(screen, "{structure:<16} {:<8} {id:<10} {:<5} {:<5} {rest}", "KEY", "UID", "PERMS")?)
}

impl Ipcs {
    /// The rows of one table, or that there is none.
    fn rows<T>(
        &self,
        what: &str,
        all: &[T],
        screen: &mut Screen<'_>,
        mut one: impl FnMut(&T, &mut Screen<'_>) -> Result<()>,
    ) -> Result<()> {
        if all.is_empty() {
            let lost = self.lost.iter().any(|(lost, _)| *lost == what);
            row!(screen, "({})", if lost { "cannot be read" } else { "none allocated" })?;
        }
        all.iter().try_for_each(|object| one(object, screen))
    }

    fn segments(&self, all: &[Memory], screen: &mut Screen<'_>) -> Result<()> {
        let head =
            |screen: &mut Screen<'_>| header("SHMID_KERNEL", "SHMID", "BYTES      NATTCH STATUS", screen);
        head(screen)?;
        let mut first = true;
        self.rows(MEMORY, all, screen, |m, screen| {
            if self.details && !std::mem::take(&mut first) {
                row!(screen)?;
                head(screen)?;
            }
            let (bytes, attached) = (or_unknown(m.bytes), or_unknown(m.attached));
            let status = [(m.destroyed, "dest"), (m.locked, "locked")];
            let status: Vec<_> = status.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
            row!(screen, "{} {bytes:<10} {attached:<6} {}", front(&m.common), status.join(" "))?;
            if self.details {
                // crash counts as allocated what the segment may come to have.
                let size = m.bytes.map(|bytes| bytes.div_ceil(PAGE_SIZE));
                let pages = m.pages.zip(size).map(|(p, size)| format!("{size}/{}/{}", p.resident, p.swapped));
                row!(screen, "PAGES ALLOCATED/RESIDENT/SWAPPED: {}", or_unknown(pages))?;
                row!(screen, "INODE: {}", or_unknown(m.inode.map(|at| format!("{:x}", at.0))))?;
            }
            Ok(())
        })
    }
}

impl Text for Ipcs {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        if let Some(memory) = &self.memory {
            self.segments(memory, screen)?;
        }
        if let Some(semaphores) = &self.semaphores {
            if self.memory.is_some() {
                row!(screen)?;
            }
            header("SEM_ARRAY", "SEMID", "NSEMS", screen)?;
            self.rows(SEMAPHORES, semaphores, screen, |s, screen| {
                Ok(row!(screen, "{} {}", front(&s.common), or_unknown(s.semaphores))?)
            })?;
        }
        if let Some(queues) = &self.queues {
            if self.memory.is_some() || self.semaphores.is_some() {
                row!(screen)?;
            }
            header("MSG_QUEUE", "MSQID", "USED-BYTES   MESSAGES", screen)?;
            self.rows(QUEUES, queues, screen, |q, screen| {
                let (bytes, messages) = (or_unknown(q.bytes), or_unknown(q.messages));
                Ok(row!(screen, "{} {bytes:<12} {messages}", front(&q.common))?)
            })?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        let lost: Vec<String> = self.lost.iter().map(|(what, why)| format!("{what} ({why})")).collect();
        (!lost.is_empty()).then(|| format!("not whole: {}", lost.join(", ")))
    }
}
