//! gdb's `info os` tables for a kernel: processes, threads, modules, cpus, log.
//!
//! The document is gdb's `osdata.dtd`: an `<item>` a row, a `<column>` a cell. The
//! table without a name lists the others.

use std::collections::HashMap;
use std::fmt::Write;

use crate::addr::VirtAddr;
use crate::linux::modules::State;
use crate::linux::{Kernel, Task, taint, tasks};
use crate::xml::push_escaped;

/// Name, title and description of each table.
const TABLES: [(&str, &str, &str); 5] = [
    ("processes", "Processes", "Listing of all processes, by thread group"),
    ("threads", "Threads", "Listing of all tasks"),
    ("modules", "Kernel modules", "Listing of all loaded kernel modules"),
    ("cpus", "CPUs", "What each CPU was running"),
    ("log", "Kernel log", "Messages of the kernel's log"),
];

/// A table under construction.
struct Table {
    xml: String,
}

impl Table {
    fn new(kind: &str) -> Self {
        let mut table =
            Self { xml: "<?xml version=\"1.0\"?>\n<!DOCTYPE target SYSTEM \"osdata.dtd\">\n".to_owned() };
        let _ = write!(table.xml, "<osdata type=\"{kind}\">");
        table
    }

    fn row(&mut self, cells: &[(&str, &str)]) {
        self.xml.push_str("\n<item>");
        for (name, value) in cells {
            // Writing to a String does not fail.
            let _ = write!(self.xml, "<column name=\"{name}\">");
            push_escaped(&mut self.xml, value);
            self.xml.push_str("</column>");
        }
        self.xml.push_str("</item>");
    }

    fn finish(mut self) -> String {
        self.xml.push_str("\n</osdata>\n");
        self.xml
    }
}

/// The table of this name; the empty name lists the tables.
pub(super) fn table(kernel: &Kernel, name: &str) -> Option<String> {
    match name {
        "" => Some(types()),
        "processes" => Some(processes(kernel)),
        "threads" => Some(threads(kernel)),
        "modules" => Some(modules(kernel)),
        "cpus" => Some(cpus(kernel)),
        "log" => Some(messages(kernel)),
        _ => None,
    }
}

fn types() -> String {
    let mut table = Table::new("types");
    for (name, title, description) in TABLES {
        table.row(&[("Type", name), ("Description", description), ("Title", title)]);
    }
    table.finish()
}

fn processes(kernel: &Kernel) -> String {
    let all = kernel.tasks().all();
    let mut threads: HashMap<u32, usize> = HashMap::new();
    for task in all {
        *threads.entry(task.tgid).or_default() += 1;
    }
    let mut table = Table::new("processes");
    for task in all.iter().filter(|t| t.pid == t.tgid && t.idle_of.is_none()) {
        let count = threads.get(&task.tgid).copied().unwrap_or(1);
        table.row(&[
            ("pid", &task.pid.to_string()),
            ("ppid", &task.ppid.map_or_else(String::new, |p| p.to_string())),
            ("command", &task.comm),
            ("state", &task.state.to_string()),
            ("threads", &count.to_string()),
            ("task", &task.addr.to_string()),
        ]);
    }
    table.finish()
}

fn threads(kernel: &Kernel) -> String {
    let mut table = Table::new("threads");
    for task in kernel.tasks().all() {
        table.row(&[
            ("pid", &task.tgid.to_string()),
            ("command", &task.comm),
            ("tid", &task.pid.to_string()),
            ("core", &task.cpu_text()),
            ("state", &task.state.to_string()),
            ("task", &task.addr.to_string()),
        ]);
    }
    table.finish()
}

fn modules(kernel: &Kernel) -> String {
    let mut table = Table::new("modules");
    for module in kernel.modules() {
        let state = match module.state {
            State::Live => "live",
            State::Coming => "coming",
            State::Going => "going",
            State::Unformed => "unformed",
        };
        table.row(&[
            ("name", &module.name),
            ("size", &module.size().to_string()),
            ("state", state),
            ("address", &module.base().to_string()),
            ("taint", &taint::letters(module.taints)),
        ]);
    }
    table.finish()
}

fn cpus(kernel: &Kernel) -> String {
    let mut table = Table::new("cpus");
    for &cpu in kernel.percpu().present() {
        let addr: Option<VirtAddr> = tasks::current(kernel, cpu);
        let task: Option<&Task> = addr.and_then(|a| kernel.tasks().by_address(a)).map(AsRef::as_ref);
        table.row(&[
            ("cpu", &cpu.to_string()),
            ("pid", &task.map_or("?".to_owned(), |t| t.pid.to_string())),
            ("command", task.map_or("?", |t| &t.comm)),
            ("task", &addr.map_or("?".to_owned(), |a| a.to_string())),
        ]);
    }
    table.finish()
}

fn messages(kernel: &Kernel) -> String {
    let mut table = Table::new("log");
    for record in &kernel.log().records {
        let time = record.time.map(|ns| format!("{}.{:06}", ns / 1_000_000_000, ns % 1_000_000_000 / 1000));
        table.row(&[
            ("time", &time.unwrap_or_default()),
            ("level", &record.level.map(|l| l.to_string()).unwrap_or_default()),
            ("text", &record.text),
        ]);
    }
    table.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_tables_names_each() {
        let list = types();
        for (name, ..) in TABLES {
            assert!(list.contains(&format!("<column name=\"Type\">{name}</column>")));
        }
    }
}
