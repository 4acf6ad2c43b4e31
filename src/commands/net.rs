//! `net`: network devices with their addresses, and the sockets of tasks, in crash's columns.

use clap::Args;
use serde::Serialize;

use super::answer::apart;
use super::bt::heading;
use super::files::unreadable;
use super::select::{all_or_current, or_current};
use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::net::{self, Device, End, Socket};
use crate::linux::{Kernel, Task, open_files};
use crate::text::{Screen, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "net",
        "network devices with their addresses; the sockets of tasks",
        "Devices are those of the machine's first namespace, with -n those that a task sees.\n\n\
         Examples:\n  (gdb) monitor net\n  $ corestub net vmcore -n 1234\n  $ corestub net vmcore -s 1234",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// With -n and -s: pids, addresses of task_struct, or names; without, the selected task
    #[arg(value_name = "PID|TASK|COMMAND")]
    words: Vec<String>,
    /// The devices that the task sees
    #[arg(short = 'n', conflicts_with = "sockets")]
    namespace: bool,
    /// The sockets that the task has open
    #[arg(short = 's')]
    sockets: bool,
    /// The sockets of all tasks that have any
    #[arg(short = 'a', requires = "sockets", conflicts_with = "words")]
    all: bool,
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    if args.sockets {
        return sockets(kernel, &args, context);
    }
    if !args.namespace {
        if !args.words.is_empty() {
            return Err(CommandError::Usage("-n or -s says what of these tasks is asked for".to_owned()));
        }
        let net = kernel.symbol("init_net");
        return devices(kernel, net.ok_or_else(|| CommandError::failed("the kernel has no init_net"))?);
    }
    match or_current(kernel, context, &args.words)?.as_slice() {
        [task] => {
            let lost = || CommandError::Failed(format!("pid {} has no namespaces any more", task.pid_text()));
            devices(kernel, net::namespace(kernel, task).ok_or_else(lost)?)
        }
        _ => Err(CommandError::Usage("-n takes one task".to_owned())),
    }
}

#[derive(Serialize)]
#[serde(transparent)]
struct Devices {
    all: Vec<Device>,
    #[serde(skip)]
    broken: Option<String>,
}

fn devices(kernel: &Kernel, net: VirtAddr) -> Result<Answer<'_>> {
    let unknown =
        || CommandError::Failed(format!("{} does not describe network devices", kernel.types().origin()));
    let (all, broken) = net::devices(kernel, net).ok_or_else(unknown)?;
    Ok(Devices { all, broken: broken.map(|why| why.to_string()) }.into())
}

impl Text for Devices {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "   NET_DEVICE     NAME       IP ADDRESS(ES)")?;
        for device in &self.all {
            let mut addresses: Vec<String> = device.addresses.iter().map(ToString::to_string).collect();
            if device.addresses_lost {
                addresses.push("?".to_owned());
            }
            let name = or_unknown(device.name.as_ref());
            row!(screen, "{:016x}  {name:<10} {}", device.device.0, addresses.join(", "))?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        self.broken.as_ref().map(|why| format!("the list of devices is not whole: {why}"))
    }
}

#[derive(Serialize)]
struct Open<'d> {
    #[serde(skip)]
    of: &'d Task,
    pid: Option<u32>,
    task: VirtAddr,
    comm: Option<&'d str>,
    /// `None`: what it has open cannot be read.
    sockets: Option<Vec<Socket>>,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Sockets<'d>(Vec<Open<'d>>);

fn sockets<'d>(kernel: &'d Kernel, args: &Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    let mut all = Vec::new();
    for of in all_or_current(kernel, context, args.all, &args.words)? {
        context.check()?;
        let sockets = open_files::of(kernel, of).map(|open| net::sockets(kernel, &open.files).collect());
        if args.all && sockets.as_ref().is_none_or(Vec::is_empty) {
            continue;
        }
        all.push(Open { of, pid: of.known_pid(), task: of.addr, comm: of.known_comm(), sockets });
    }
    Ok(Sockets(all).into())
}

impl Text for Sockets<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        apart(&self.0, screen)
    }

    fn failure(&self) -> Option<String> {
        unreadable(self.0.iter().filter(|open| open.sockets.is_none()).map(|open| open.of))
    }
}

impl Text for Open<'_> {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        heading(self.of, screen)?;
        let Some(sockets) = &self.sockets else { return Ok(row!(screen, "(cannot be read)")?) };
        if sockets.is_empty() {
            return Ok(row!(screen, "No open sockets.")?);
        }
        row!(screen, "FD      SOCKET            SOCK       FAMILY:TYPE SOURCE-PORT DESTINATION-PORT")?;
        for s in sockets {
            let end = |end: Option<End>| end.map(|end| format!(" {}-{}", end.address, end.port));
            let place = match (end(s.source), end(s.destination), &s.path) {
                (None, None, path) => path.as_ref().map(|path| format!(" {path}")).unwrap_or_default(),
                (source, destination, _) => source.unwrap_or_default() + &destination.unwrap_or_default(),
            };
            let sock = or_unknown(s.sock.map(|sock| format!("{:016x}", sock.0)));
            let (family, kind) = (or_unknown(s.family.as_ref()), or_unknown(s.kind.as_ref()));
            row!(screen, "{:>2} {:016x} {sock:>16} {family}:{kind}{place}", s.fd, s.socket.0)?;
        }
        Ok(())
    }
}
