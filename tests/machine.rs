//! What a machine has beside its tasks: the system registers of its CPUs against what QEMU
//! and the kernel's own messages say, and QEMU's words, which scripts send.

use std::collections::BTreeMap;

use corestub::addr::VirtAddr;
use corestub::arch::Register;
use corestub::linux::system_registers::{DescriptorTables, SystemRegisters};
use corestub::linux::tasks;
use corestub::snapshot::{Options, Snapshot};
use serde_json::Value;

use crate::support::dumps::{self, each, number};
use crate::support::program::{Gdb, Server, corestub, expect, have_gdb, output};

/// `NAME=VALUE VALUE ...` of one CPU in QEMU's `info registers`, numbers in hexadecimal.
type Said = BTreeMap<String, Vec<u64>>;

/// What QEMU said of each CPU when the dump was made.
fn guests_registers(text: &str) -> Vec<Said> {
    let of_cpu = |block: &str| {
        let mut said = Said::new();
        for line in block.lines() {
            // "CR0=80050033 CR2=..." has a name in each word, "GDT=     base limit" one in the first.
            let line = line.split(" DPL=").next().unwrap_or(line);
            let names = line.matches('=').count();
            let words = line.replace("= ", "=").replace(" =", "=");
            let mut last = String::new();
            for word in words.split_whitespace() {
                let value = match word.split_once('=') {
                    Some((name, value)) => {
                        last = name.to_owned();
                        value
                    }
                    None if names == 1 => word,
                    None => continue,
                };
                if let Ok(value) = u64::from_str_radix(value, 16) {
                    said.entry(last.clone()).or_default().push(value);
                }
            }
        }
        said
    };
    text.split("CPU#").skip(1).map(of_cpu).collect()
}

/// The kernel's own copies and tables tell what QEMU says of the very moment; QEMU's notes
/// in the dump are left aside.
#[test]
fn derived_system_registers_are_those_of_the_guest() {
    each("system registers", &dumps::of_stopped_guests(), |dump| {
        let record = dump.path.with_file_name("oracle-registers.txt");
        let Ok(record) = std::fs::read_to_string(record) else { return Ok(false) };
        let Snapshot::Kernel(kernel) = Snapshot::open(std::slice::from_ref(&dump.path), Options::default())
            .map_err(|e| e.to_string())?
        else {
            return Err("no kernel".to_owned());
        };
        let guest = guests_registers(&record);
        assert!(guest.len() >= 2, "{record}");
        for (cpu, said) in (0u32..).zip(&guest) {
            let task = tasks::on(&kernel, cpu).unwrap();
            let ours = SystemRegisters::derived(&kernel, &task);
            let get = |r: Register| ours.get(r).map(|(v, _)| v);
            let word = |name: &str, i: usize| said.get(name).and_then(|v| v.get(i)).copied();
            for (register, name) in [
                (Register::Cr0, "CR0"),
                (Register::Cr3, "CR3"),
                (Register::Cr4, "CR4"),
                (Register::Efer, "EFER"),
            ] {
                assert!(word(name, 0).is_some());
                assert_eq!(get(register), word(name, 0), "CPU {cpu}: {name}");
            }
            // CR2 changes with each fault: nothing in the kernel tells it.
            assert_eq!(get(Register::Cr2), None);
            if word("CS", 0).is_some_and(|cs| cs & 3 == 0) {
                // Between an entry from user mode and its `swapgs`, and where a switch of tasks reads it
                // between two of them, it is still the program's.
                let end = |end: &str| kernel.symbols().address(&format!("__entry_text_{end}"));
                let swaps = |pc: u64| {
                    let name = kernel.symbolise(VirtAddr(pc)).map(|(symbol, ..)| symbol.name);
                    end("start").is_some_and(|start| pc >= start) && end("end").is_some_and(|end| pc < end)
                        || name.is_some_and(|name| name.ends_with("gsbase_inactive"))
                };
                let programs =
                    word("GS", 1).is_some_and(|gs| gs >> 63 == 0) && word("RIP", 0).is_some_and(swaps);
                assert!(programs || get(Register::GsBase) == word("GS", 1), "CPU {cpu}: gs, {said:x?}");
            }
            let tables = DescriptorTables::derived(&kernel, &task);
            for (table, name, at) in
                [(tables.gdt, "GDT", 0), (tables.idt, "IDT", 0), (tables.tr, "TR", 1), (tables.ldt, "LDT", 1)]
            {
                let (table, _) = table.ok_or_else(|| format!("CPU {cpu}: no {name}"))?;
                let ours = [Some(table.base), Some(table.limit.into())];
                assert_eq!(ours, [word(name, at), word(name, at + 1)], "CPU {cpu}: {name}");
            }
        }
        Ok(true)
    });
}

/// A kernel that oopsed printed cr0, cr3 and cr4, and the address of the fault.
#[test]
fn derived_system_registers_are_those_of_the_oops() {
    each("registers of the oops", &dumps::one_of_each(), |dump| {
        let log = output(corestub().arg("log").arg(&dump.path))?;
        let printed = |name: &str, last: bool| {
            let alone = |l: &&str| l.split("] ").nth(1).is_some_and(|l| l.trim().split(' ').count() == 2);
            let words = log.lines().filter(|l| alone(l) == last);
            words
                .filter_map(|l| l.split(&format!("{name}: ")).nth(1)?.split(' ').next()?.parse_hex())
                .next_back()
        };
        let Some(cr4) = printed("CR4", false) else { return Ok(false) };
        let task: Value =
            serde_json::from_str(&output(corestub().args(["task", "--json"]).arg(&dump.path))?).unwrap();
        let system = &task[0]["system"];
        let ours = |name: &str| {
            let row = system.as_array()?.iter().find(|r| r["register"] == name)?;
            assert!(row["from"].as_str().is_some_and(|f| !f.is_empty()));
            Some(number(row["value"].as_str()?))
        };
        assert_eq!(ours("cr4"), Some(cr4));
        assert_eq!(ours("cr0"), printed("CR0", false));
        assert_eq!(ours("cr3"), printed("CR3", false));
        assert_eq!(ours("cr2"), printed("CR2", true));
        let why = output(corestub().args(["why", "--json"]).arg(&dump.path).arg("$cr4"))?;
        let why: Value = serde_json::from_str(&why).unwrap();
        assert_eq!(why["value"].as_str().map(number), Some(cr4));
        assert!(why["from"].as_str().is_some_and(|f| f.contains("cpu_tlbstate.cr4")), "{why}");
        Ok(true)
    });
}

trait Hex {
    fn parse_hex(self) -> Option<u64>;
}

impl Hex for &str {
    fn parse_hex(self) -> Option<u64> {
        u64::from_str_radix(self, 16).ok()
    }
}

/// In QEMU's dialect CPUs are the threads, each with a program counter, and its words tell
/// what memory tells.
#[test]
fn qemus_dialect_shows_a_machine() {
    if !have_gdb() {
        return;
    }
    let dumps: Vec<_> = dumps::one_of_each().into_iter().take(2).collect();
    each("dialect", &dumps, |dump| {
        let oracle = dump.oracle();
        let cpus = oracle.tasks.iter().filter(|t| t.on_cpu == Some(1)).count();
        let threads = |said: &str| said.lines().filter(|l| l.contains(" Thread 5242880.")).count();
        let server = Server::start(&dump.path, &["--qemu-dialect"])?;
        let said = Gdb::new(None)
            .connect(&server)
            .ex("info threads")
            .ex("echo registers\\n")
            .ex("monitor info registers")
            .ex("echo memory\\n")
            .ex("python at = int(gdb.parse_and_eval('(unsigned long)&init_task'))")
            .ex("python phys = gdb.execute('monitor gva2gpa %#x' % at, to_string=True).split()[1]")
            .ex("python word = gdb.execute('monitor xp/1gx ' + phys, to_string=True).split()[1]")
            .ex("python print('same', int(word, 16) == int(gdb.parse_and_eval('*(unsigned long *)%d' % at)))")
            .ex("python print('mem', len([l for l in gdb.execute('monitor info mem', to_string=True).splitlines() if l.split()[-1] in ('-rw', '-r-')]) > 5)")
            .ex("python print('tlb', len(gdb.execute('monitor info tlb', to_string=True).splitlines()) > 5)")
            .ex("monitor info mtree -f")
            .ex("maintenance packet qOffsets")
            .run()?;
        if threads(&said) > cpus || threads(&said) == 0 {
            return Err(format!("{} threads on {cpus} CPUs:\n{said}", threads(&said)));
        }
        let wanted = [
            "GDT=     fffffe",
            "IDT=     fffffe",
            "TR =0040 fffffe",
            "LDT=0000 ",
            "CR0=80050033 ",
            "same True",
            "mem True",
            "tlb True",
            "ram): pc.ram",
            "received: \"\"",
        ];
        expect(&said, &wanted)?;
        let server = Server::start(&dump.path, &["--qemu-dialect=all"])?;
        let said = Gdb::new(None).connect(&server).ex("info threads").run()?;
        if threads(&said) < 50 {
            return Err(format!("{} threads:\n{said}", threads(&said)));
        }
        Ok(true)
    });
}
