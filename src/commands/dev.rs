//! `dev -d`: disks, and what their drivers have not answered.

use clap::Args;
use serde::Serialize;

use super::{Answer, Command, CommandError, Context, Result, Text};
use crate::addr::VirtAddr;
use crate::linux::{Kernel, clock, disks};
use crate::text::{Screen, or_unknown, row};

pub(super) fn command() -> Command {
    Command::of_kernel(
        "dev",
        "disks, and the requests that their drivers have not answered",
        "TOTAL, READ and WRITE count requests on their way, as /sys/block/NAME/inflight; below a disk is a row \
         for each with its age. Requests that wait in a scheduler are not counted, nor is what a disk does \
         without requests (device mapper, md). Of kernels before 5.11 only disks are there that somebody has open.\n\n\
         Examples:\n  (gdb) monitor dev -d\n  $ corestub dev -d vmcore",
        run,
    )
}

#[derive(Args)]
struct Arguments {
    /// Disks: what crash shows with this option, and all that there is here
    #[arg(short = 'd')]
    disks: bool,
}

#[derive(Serialize)]
struct Disks {
    disks: Vec<Disk>,
    /// Why some are missing.
    lost: Option<String>,
}

#[derive(Serialize)]
struct Disk {
    major: Option<u64>,
    gendisk: VirtAddr,
    name: Option<String>,
    request_queue: Option<VirtAddr>,
    requests: Vec<Request>,
    /// Queues and requests that cannot be read.
    unread: usize,
}

#[derive(Serialize)]
struct Request {
    request: VirtAddr,
    op: Option<&'static str>,
    writes: Option<bool>,
    sector: Option<u64>,
    bytes: Option<u64>,
    /// Seconds since it was made.
    age: Option<f64>,
}

/// `REQ_OP_...` of `include/linux/blk_types.h`.
fn op(number: u64) -> &'static str {
    match number {
        0 => "read",
        1 => "write",
        2 => "flush",
        3 => "discard",
        5 => "secure erase",
        9 => "write zeroes",
        _ => "other",
    }
}

fn run<'d>(kernel: &'d Kernel, args: Arguments, context: Context<'d>) -> Result<Answer<'d>> {
    if !args.disks {
        return Err(CommandError::Usage("only dev -d is here; crash lists devices by number".to_owned()));
    }
    let now = clock::read(kernel).map(|clock| clock.monotonic);
    let (all, lost) = disks::all(kernel).map_err(CommandError::failed)?;
    let mut rows = Vec::new();
    for disk in all {
        context.check()?;
        let request = |r: &disks::Request| Request {
            request: r.at,
            op: r.op.map(op),
            writes: r.writes(),
            sector: r.sector,
            bytes: r.bytes,
            age: r.made.zip(now).map(|(made, now)| now.wrapping_sub(made.cast_signed()) as f64 / 1e9),
        };
        let requests: Vec<Request> = disk.requests.iter().map(request).collect();
        // As in crash: what is always there, and does nothing.
        let dull = ["loop", "ram"].iter().any(|n| disk.name.as_ref().is_some_and(|name| name.starts_with(n)));
        if !(dull && requests.is_empty()) {
            let (major, gendisk, name, unread) = (disk.major, disk.gendisk, disk.name, disk.unread);
            rows.push(Disk { major, gendisk, name, request_queue: disk.queue, requests, unread });
        }
    }
    Ok(Disks { disks: rows, lost }.into())
}

impl Text for Disks {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        row!(screen, "MAJOR GENDISK            NAME       REQUEST_QUEUE      TOTAL  READ WRITE")?;
        for disk in &self.disks {
            disk.text(screen)?;
        }
        Ok(())
    }

    fn failure(&self) -> Option<String> {
        if let Some(why) = &self.lost {
            return Some(format!("the list of disks is not whole: {why}"));
        }
        let unread = self.disks.iter().find(|disk| disk.unread > 0)?;
        let name = unread.name.as_deref().unwrap_or("a disk");
        Some(format!("{} queues or requests of {name} cannot be read", unread.unread))
    }
}

impl Text for Disk {
    fn text(&self, screen: &mut Screen<'_>) -> Result<()> {
        let count = |writes| self.requests.iter().filter(|r| r.writes == Some(writes)).count();
        row!(
            screen,
            "{:>5} {:016x}   {:<10} {:<16} {:>7} {:>5} {:>5}",
            or_unknown(self.major),
            self.gendisk.0,
            self.name.as_deref().unwrap_or("?"),
            or_unknown(self.request_queue.map(|at| format!("{:016x}", at.0))),
            self.requests.len(),
            count(false),
            count(true)
        )?;
        for r in &self.requests {
            let age = r.age.map_or_else(|| "age unknown".to_owned(), |age| format!("{age:.3} s old"));
            let (op, sector, bytes) = (r.op.unwrap_or("?"), or_unknown(r.sector), or_unknown(r.bytes));
            row!(screen, "      {:016x}   {op} of {bytes} bytes at sector {sector}, {age}", r.request.0)?;
        }
        Ok(())
    }
}
